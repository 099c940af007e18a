"""Square blocks of cells, and their assignment to folds, as R's blockCV does it (Valavi et al. 2019, MEE 10, 225)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe.errors import SettingsError
from geopipe.grid.grid import Grid

Ints = NDArray[np.int64]

Assignment = Literal["random", "systematic", "checkerboard"]

ATTEMPTS = 100
"""Random assignments, of which the most balanced one is taken."""

MOST_BLOCKS = 1_000_000


@dataclass(frozen=True)
class Blocks:
    """Squares of `size`, in the unit of the grid's CRS, from the upper left corner of the grid on."""

    grid: Grid
    size: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.size) and self.size >= max(self.grid.dx, self.grid.dy)):
            raise SettingsError(
                f"size = {self.size:g} is below the cell size, {self.grid.dx:g} x {self.grid.dy:g}",
                "give the edge of a block in the unit of the grid's CRS, many cells long",
            )
        if self.across * self.down > MOST_BLOCKS:
            raise SettingsError(
                f"size = {self.size:g} gives {self.across * self.down:,} blocks; {MOST_BLOCKS:,} are the most",
                "give larger blocks",
            )

    @property
    def across(self) -> int:
        """Blocks from left to right."""
        return math.ceil(self.grid.width * self.grid.dx / self.size)

    @property
    def down(self) -> int:
        """Blocks from top to bottom."""
        return math.ceil(self.grid.height * self.grid.dy / self.size)

    def of(self, rows: pa.Table) -> Ints:
        """The block that holds the centre of each row's cell: (rows,) int64, counted in row-major order."""
        down = np.floor((rows["row"].to_numpy() + 0.5) * self.grid.dy / self.size)
        across = np.floor((rows["col"].to_numpy() + 0.5) * self.grid.dx / self.size)
        return np.asarray(down * self.across + across).astype(np.int64)

    def assign(self, numbers: Ints, counts: NDArray[np.float64], k: int, how: Assignment, seed: int) -> Ints:
        """The fold of each block that has rows: (blocks,) int64, from 1.

        Args:
            numbers: of these blocks, rising: (blocks,) int64.
            counts: their rows of each class, (blocks, classes) float64.

        Raises:
            SettingsError: there are fewer blocks than folds.
        """
        if len(numbers) < k:
            raise SettingsError(
                f"blocks of {self.size:g} are too large: {len(numbers)} of them have rows, for {k} folds",
                "give smaller blocks (--size) or fewer folds (--k)",
            )
        if how == "systematic":
            return np.arange(len(numbers)) % k + 1
        if how == "checkerboard":
            return (numbers // self.across + numbers % self.across) % 2 + 1
        return balanced(counts, k, np.random.default_rng(seed))


def balanced(counts: NDArray[np.float64], k: int, rng: np.random.Generator) -> Ints:
    """The best of some random assignments, all with the same number of blocks by fold but for one.

    The best one has the fewest folds without a class of k rows or more; then the least chi-square of the rows against
    equal parts, summed over classes, as in blockCV 4.

    Args:
        counts: rows of each class by block, (blocks, classes) float64.
    """
    expected = counts.sum(axis=0) / k
    common = counts.sum(axis=0) >= k
    best, least = np.zeros(len(counts), np.int64), (math.inf, math.inf)
    for _ in range(ATTEMPTS):
        folds = rng.permutation((np.arange(len(counts)) + rng.integers(k)) % k)
        rows = np.column_stack([np.bincount(folds, column, k) for column in counts.T])
        score = float(np.count_nonzero(rows[:, common] == 0)), float(np.sum((rows - expected) ** 2 / expected))
        if score < least:
            best, least = folds + 1, score
    return best
