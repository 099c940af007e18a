"""Windows of the grid: the cells inside bounds."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import pyarrow.compute as pc

from geopipe.errors import SettingsError
from geopipe.grid.crs import Bounds
from geopipe.grid.grid import Grid


@dataclass(frozen=True)
class CellWindow:
    """Rows and columns of the grid: from the first on, and before the second of each pair."""

    rows: tuple[int, int]
    cols: tuple[int, int]

    def expression(self) -> pc.Expression:
        """The cells of the window as a filter of rows."""
        row, col = pc.field("row"), pc.field("col")
        (top, bottom), (left, right) = self.rows, self.cols
        return (row >= top) & (row < bottom) & (col >= left) & (col < right)


def window_of(grid: Grid, bounds: Bounds | None) -> CellWindow:
    """The cells whose centres lie in bounds; without bounds, all of them.

    Raises:
        SettingsError: the bounds are not four rising numbers.
    """
    if bounds is None:
        return CellWindow((0, grid.height), (0, grid.width))
    if len(bounds) != 4 or not all(map(math.isfinite, bounds)) or bounds[0] > bounds[2] or bounds[1] > bounds[3]:
        raise SettingsError(f"bounds = {tuple(bounds)} are not xmin, ymin, xmax, ymax", "give four rising numbers")
    xmin, ymin, xmax, ymax = bounds
    rows, cols = range(grid.height), range(grid.width)

    def x(col: int) -> float:
        return float(grid.xs(col, 1)[0])

    def minus_y(row: int) -> float:
        return -float(grid.ys(row, 1)[0])

    return CellWindow(
        (bisect_left(rows, -ymax, key=minus_y), bisect_right(rows, -ymin, key=minus_y)),
        (bisect_left(cols, xmin, key=x), bisect_right(cols, xmax, key=x)),
    )
