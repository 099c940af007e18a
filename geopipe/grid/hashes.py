"""A hash of each cell: a seeded choice of cells that depends on nothing else."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def hash_of(rows: NDArray[np.int32], cols: NDArray[np.int32], seed: int) -> NDArray[np.uint64]:
    """A hash of each cell, (n,) uint64, uniform, no two alike: splitmix64 by Steele, Lea and Flood (2014)."""
    cells = (rows.astype(np.uint64) << np.uint64(32)) | cols.astype(np.uint64)
    with np.errstate(over="ignore"):
        value = cells ^ (np.uint64(seed % 2**64) * np.uint64(0x9E3779B97F4A7C15))
        for _ in range(2):  # once more: neighbours differ in few bits
            value = value + np.uint64(0x9E3779B97F4A7C15)
            value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            value = value ^ (value >> np.uint64(31))
    return value
