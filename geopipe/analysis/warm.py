"""Compile the kernels of analyses into numba's cache, by a few invented rows."""

from __future__ import annotations

import time

import numpy as np

from geopipe.analysis.methods import lloyd, moments, neighbours, projection, som_kernels


def warm() -> float:
    """Compile all kernels, or load them where they are cached; returns the seconds that it took."""
    start = time.perf_counter()
    rows, axes = np.arange(12.0).reshape(4, 3), np.eye(3)
    labels = np.zeros(4, np.uint16)
    moments.comoments(rows)
    projection.projected(rows, rows[0], axes)
    lloyd.assign(rows, rows[0], rows[1], axes, labels)
    lloyd.squares(rows, rows[0])
    lloyd.silhouettes(rows, labels.reshape(1, 4), np.array([2]))
    nodes = np.ones((4, 2), np.float32)
    som_kernels.sums_of_nodes(rows, rows[:2], nodes)
    som_kernels.nearest_two(rows, rows[:2], nodes)
    neighbours.sums_of_pairs(np.zeros((5, 5)), 2, 1, np.array(neighbours.STEPS["queen"]), True)
    return time.perf_counter() - start
