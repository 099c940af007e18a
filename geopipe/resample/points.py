"""Find the cell of the grid of each point of a table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geopipe.grid.crs import Floats, crs_transform, is_lonlat
from geopipe.grid.grid import Grid, rounding
from geopipe.layers.table_plan import TablePlan
from geopipe.resample.places import snap


def offsets(grid: Grid, crs: str, cells: str, x: Floats, y: Floats) -> Floats:
    """The distance of each point from the nearest centre or corner of a cell, in cells: (n,) float64.

    It is 0 for a point without an image in the grid's CRS.
    """
    half = 0.5 if cells == "centres" else 0.0
    u, v = _in_cells(grid, crs, x, y, half - 0.5)
    with np.errstate(invalid="ignore"):
        off = np.maximum(np.abs(u - half - np.rint(u - half)), np.abs(v - half - np.rint(v - half)))
    return np.asarray(np.where(np.isfinite(off), off, 0.0))


def place(
    grid: Grid, table: TablePlan, x: Floats, y: Floats
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Row, column and whether it is in the grid, of each point: (n,) each. Edges belong to the right or lower cell."""
    half = 0.0 if table.cells == "corners" else 0.5
    if table.cells == "index":
        u, v = x, y
    else:
        u, v = _in_cells(grid, table.crs, x + table.shift[0], y + table.shift[1], half - 0.5)
    if table.cells in ("centres", "corners"):
        u, v = np.rint(u - half), np.rint(v - half)
    u, v = np.floor(u), np.floor(v)
    inside = (u >= 0) & (u < grid.width) & (v >= 0) & (v < grid.height)
    return np.where(inside, v, 0).astype(np.int64), np.where(inside, u, 0).astype(np.int64), inside


def _in_cells(grid: Grid, crs: str, x: Floats, y: Floats, left: float) -> tuple[Floats, Floats]:
    """Places in cells from the grid's upper left corner, moved onto edges that they miss by rounding only.

    Columns begin at `left`. In a grid of longitudes a place outside is moved by 360 degrees if that brings it inside.
    """
    gx, gy = crs_transform(crs, grid.crs)(x, y)
    across, down = rounding([grid.bounds], grid.dx), rounding([grid.bounds], grid.dy)
    u, v = (gx - grid.x0) / grid.dx, (grid.y0 - gy) / grid.dy
    snap(u, across)
    snap(v, down)
    if is_lonlat(grid.crs):
        cells_per_360 = 360.0 / grid.dx
        start, end = left - across, left + grid.width
        with np.errstate(invalid="ignore"):
            home = np.mod(u - start, cells_per_360) + start
            snap(home, across)
            u = np.where(((u < left) | (u >= end)) & (home < end), home, u)
    return u, v
