"""Groups of points that lie together: k-means by Lloyd."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from geopipe.grid.crs import Floats


class Clusters(NamedTuple):
    """Clusters of points.

    Attributes:
        centres: (clusters, dimensions) float64.
        labels: (n,) int64, the nearest centre of each point.
        inertia: sum of squared distances to it.
    """

    centres: Floats
    labels: NDArray[np.int64]
    inertia: float


def kmeans(points: Floats, k: int, rng: np.random.Generator, starts: int = 1, iterations: int = 50) -> Clusters:
    """The best of some runs of Lloyd's algorithm, each from k points drawn at random.

    There are fewer than k clusters where points coincide. The sums have a fixed order, so that the bits depend on the
    points and the seed alone.

    Args:
        points: (n, dimensions) float64.
        iterations: at most, of a run.
    """
    return min(
        (_lloyd(points, k, rng, iterations) for _ in range(starts)), key=lambda run: (-len(run.centres), run.inertia)
    )


def _lloyd(points: Floats, k: int, rng: np.random.Generator, iterations: int) -> Clusters:
    centres = np.unique(points[rng.choice(len(points), min(k, len(points)), replace=False)], axis=0)
    labels = None
    for _ in range(iterations):
        _, nearest = cKDTree(centres).query(points)
        _, nearest = np.unique(nearest, return_inverse=True)  # a centre without points is left out
        if labels is not None and np.array_equal(nearest, labels):
            break
        labels, counts = nearest, np.bincount(nearest)
        centres = np.column_stack([np.bincount(labels, column) / counts for column in points.T])
    distances, labels = cKDTree(centres).query(points)
    return Clusters(centres, labels.astype(np.int64), float(np.sum(distances**2)))
