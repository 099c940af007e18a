"""Cells as places and polygons in the pixels of a source, as values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geopipe.resample import coverage
from geopipe.resample.coverage import Coverage, cover, cover_rectangles
from geopipe.resample.methods import Floats, Window

COVERAGE_PIXELS = 1 << 23
"""Pixels of a coverage, and at most as many runs: memory that is not written to is not taken."""


@dataclass(frozen=True)
class Lattice:
    """Places in source pixels: `cols` and `rows`, (height, width) float64 each, not finite for a missing place."""

    cols: Floats
    rows: Floats


@dataclass(frozen=True)
class Footprints:
    """The cells of a block as polygons in source pixels.

    Attributes:
        corners: of the cells, one more each way than cells.
        pixels_per_360: 0 if the source has no longitudes.
        wrap: the same if the window has all longitudes, so that columns wrap around; else 0.
        poles: rows of the two poles.
        longest: largest length of an edge of a cell, in pixels.
        is_parallel: whether the cells are rectangles along the pixels.
    """

    corners: Lattice
    pixels_per_360: float = 0.0
    wrap: int = 0
    poles: tuple[float, float] = (0.0, 0.0)
    longest: float = np.inf
    is_parallel: bool = False

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in pixels; left > right if there are none."""
        return coverage.extent(self.corners.cols, self.corners.rows, self.pixels_per_360, self.poles)

    def outline(self, i: int, j: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """The closed outline of the cell (i, j) as columns and rows; without points if the cell has none."""
        cols, rows = self.corners.cols, self.corners.rows
        return coverage.outline(cols, rows, i, j, self.pixels_per_360, self.poles, self.longest)

    def coverages(self, window: Window) -> Iterator[Coverage]:
        """The pixels of the window under each cell, for as many cells at a time as COVERAGE_PIXELS allows."""
        corner, shape = (window.row, window.col), (window.height, window.width)
        cols, rows = self.corners.cols, self.corners.rows
        start, count = 0, (cols.shape[0] - 1) * (cols.shape[1] - 1)
        while start < count:
            room = Coverage(
                np.empty(count - start + 1, np.int64),
                np.empty(COVERAGE_PIXELS, np.int32),
                np.empty(COVERAGE_PIXELS, np.int32),
                np.empty(COVERAGE_PIXELS + 1, np.int64),
                np.empty(COVERAGE_PIXELS),
                np.empty(count - start),
            )
            about = corner, shape, self.pixels_per_360, self.wrap
            if self.is_parallel:
                end, runs, pixels = cover_rectangles(cols[0], rows[:, 0].copy(), *about, self.longest, start, room)
            else:
                end, runs, pixels = cover(cols, rows, *about, self.poles, self.longest, start, room)
            yield Coverage(
                room.starts[: end - start + 1],
                room.rows[:runs],
                room.cols[:runs],
                room.offsets[: runs + 1],
                room.areas[:pixels],
                room.sizes[: end - start],
            )
            start = end
