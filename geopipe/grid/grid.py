"""The target grid: a frozen value that knows its cells, tiles and canonical blocks.

A cell is named by integers (row, col) from the upper left corner. x and y of its centre are computed from these
integers and never stored, so that rounding cannot move a cell.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from affine import Affine

from geopipe.errors import SettingsError
from geopipe.grid.crs import Bounds, Floats, crs_of, crs_transform

BLOCK = 512
"""Edge of a canonical block in cells. Resampling works block by block, so that the tile size changes no value."""

MAX_CELLS = 2**31 - 1
"""Rows and columns are int32 in the table."""

ROUNDING = 2.0**-48
"""Rounding error of a coordinate, as a share of the largest one: 16 steps of float64."""


def apply(transform: Affine, first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Apply an affine transform to arrays: (col, row) to (x, y), or back with its inverse."""
    t = transform
    return t.a * first + t.b * second + t.c, t.d * first + t.e * second + t.f


def rounding(bounds: Iterable[Bounds], step: float) -> float:
    """Share of a pixel or cell of size `step` by which rounding may move points within `bounds`.

    One number holds for a whole axis, so that neighbours agree on their common edge.
    """
    largest = max(abs(value) for numbers in bounds for value in numbers)
    return float(min(ROUNDING * largest / step, 0.01))


@dataclass(frozen=True)
class Tile:
    """A rectangle of grid cells under an integer key. A canonical block is one, too, and a strip of a tile.

    `completes` are the tiles that are done with it: 0 for a strip that others follow.
    """

    key: int
    row: int
    col: int
    height: int
    width: int
    completes: int = 1

    @property
    def cells(self) -> int:
        return self.height * self.width


@dataclass(frozen=True)
class Grid:
    """North-up cells of `dx` by `dy` CRS units; (`x0`, `y0`) is the outer corner of the upper left cell."""

    crs: str
    x0: float
    y0: float
    dx: float
    dy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        if not (self.dx > 0 and self.dy > 0 and math.isfinite(self.dx) and math.isfinite(self.dy)):
            hint = "give the cell size in units of the grid's CRS, for example resolution = 90"
            raise SettingsError(f"grid.resolution is {self.dx:g} x {self.dy:g}; it must be above zero", hint)
        if not (math.isfinite(self.x0) and math.isfinite(self.y0)):
            raise SettingsError(f"grid.bounds start at {self.x0}, {self.y0}", "give finite numbers")
        if self.width < 1 or self.height < 1:
            hint = "grid.bounds are xmin, ymin, xmax, ymax, in units of the grid's CRS"
            raise SettingsError(f"the grid is empty: {self.width} columns x {self.height} rows", hint)
        crs = crs_of(self.crs)
        if crs.is_geographic and max(self.dx, self.dy) > 60:
            raise SettingsError(
                f"grid.resolution is {self.dx:g} x {self.dy:g}, but {crs.name} counts in degrees; it looks like metres",
                f"give degrees (about {self.dx / 111_320:.6f}), or a projected CRS in grid.crs",
            )
        size, most = max(self.dx, self.dy), max(self.width, self.height)
        metres = not crs.is_geographic and all(axis.unit_name == "metre" for axis in crs.axis_info[:2])
        if metres and ((size < 0.005 and most > 10_000) or (size < 0.05 and most > 1_000_000)):
            raise SettingsError(
                f"grid.resolution is {self.dx:g} x {self.dy:g}, but {crs.name} counts in metres; it looks like degrees "
                f"(the grid would have {self.width:,} columns x {self.height:,} rows)",
                f"give metres (about {self.dx * 111_320:.3g}), or a CRS of degrees in grid.crs, such as EPSG:4326",
            )
        if max(self.width, self.height) > MAX_CELLS:
            raise SettingsError(
                f"the grid has {self.width:,} columns x {self.height:,} rows; each must stay below {MAX_CELLS + 1:,}",
                "choose a coarser grid.resolution or smaller grid.bounds",
            )

    @property
    def transform(self) -> Affine:
        return Affine(self.dx, 0.0, self.x0, 0.0, -self.dy, self.y0)

    @property
    def bounds(self) -> Bounds:
        return (self.x0, self.y0 - self.height * self.dy, self.x0 + self.width * self.dx, self.y0)

    @property
    def cells(self) -> int:
        return self.width * self.height

    def xs(self, col: int, width: int) -> Floats:
        """X of the centres of `width` columns from `col` on: (width,) float64."""
        return np.asarray(self.x0 + (np.arange(col, col + width) + 0.5) * self.dx, np.float64)

    def ys(self, row: int, height: int) -> Floats:
        """Y of the centres of `height` rows from `row` on: (height,) float64."""
        return np.asarray(self.y0 - (np.arange(row, row + height) + 0.5) * self.dy, np.float64)

    def transform_of(self, tile: Tile) -> Affine:
        """The affine transform of a tile or block."""
        return self.transform @ Affine.translation(tile.col, tile.row)

    def tiling(self, size: int) -> tuple[int, int]:
        """Rows and columns of tiles of `size` cells."""
        return -(-self.height // size), -(-self.width // size)

    def tile(self, key: int, size: int) -> Tile:
        """The tile with this key. Keys count tiles in row-major order."""
        row, col = divmod(key, self.tiling(size)[1])
        row, col = row * size, col * size
        return Tile(key, row, col, min(size, self.height - row), min(size, self.width - col))

    def projjson(self) -> dict[str, Any]:
        """The grid as JSON: its CRS as PROJJSON, its transform in GDAL's order, its shape."""
        return {
            "crs": json.loads(crs_of(self.crs).to_json()),
            "transform": list(self.transform.to_gdal()),
            "shape": [self.height, self.width],
        }

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Grid:
        """The grid from the JSON values of `projjson`.

        Raises:
            KeyError, TypeError, ValueError, SettingsError: the values are others.
        """
        x0, dx, _, y0, _, dy = data["transform"]
        height, width = data["shape"]
        return cls(json.dumps(data["crs"]), x0, y0, dx, -dy, width, height)


def blocks_of(tile: Tile, size: int) -> Iterator[Tile]:
    """Iterate over the canonical blocks of `size` cells in a tile, clipped to it.

    Blocks are anchored to the grid's corner. A tile is a multiple of a block (or ends at the grid's edge), so that
    any tiling has the same blocks.
    """
    for row in range(tile.row, tile.row + tile.height, size):
        for col in range(tile.col, tile.col + tile.width, size):
            height = min(size, tile.row + tile.height - row)
            width = min(size, tile.col + tile.width - col)
            yield Tile(tile.key, row, col, height, width)


def strips_of(tile: Tile) -> list[Tile]:
    """The strips of a tile from top to bottom: a row of canonical blocks each."""
    rows = range(tile.row, tile.row + tile.height, BLOCK)
    strips = [replace(tile, row=row, height=BLOCK, completes=0) for row in rows]
    return [*strips[:-1], replace(tile, row=rows[-1], height=tile.row + tile.height - rows[-1])]


def make_grid(crs: str, resolution: tuple[float, float], bounds: Bounds, snap: bool) -> Grid:
    """Make the grid of `resolution` that covers `bounds`.

    With `snap`, edges move outward to whole multiples of the resolution. Without it, the upper left corner stays
    and the other edges move outward to whole cells.
    """
    dx, dy = resolution
    xmin, ymin, xmax, ymax = bounds
    if not (xmin < xmax and ymin < ymax):
        raise SettingsError(
            f"grid.bounds {list(bounds)} are empty", "give xmin, ymin, xmax, ymax with xmin < xmax and ymin < ymax"
        )
    if not all(map(math.isfinite, bounds)):
        raise SettingsError(f"grid.bounds {list(bounds)} are not finite", "give finite numbers")
    if not (0 < dx < math.inf and 0 < dy < math.inf):
        return Grid(crs, xmin, ymax, dx, dy, 1, 1)  # refused there, in one place
    if snap:
        xmin, xmax = _floor(xmin / dx) * dx, _ceil(xmax / dx) * dx
        ymin, ymax = _floor(ymin / dy) * dy, _ceil(ymax / dy) * dy
    return Grid(crs, xmin, ymax, dx, dy, _ceil((xmax - xmin) / dx), _ceil((ymax - ymin) / dy))


def _ceil(value: float) -> int:
    """Round up, but ignore rounding errors: 377.0000000001 cells are 377."""
    return math.ceil(value - 1e-6)


def _floor(value: float) -> int:
    return math.floor(value + 1e-6)


def outline(transform: Affine, width: int, height: int, points: int = 65) -> tuple[Floats, Floats]:
    """X and y of a lattice of `points` x `points` points on a raster, edges included: (points * points,) float64 each.

    In another CRS an edge is a curve, and a pole may lie inside the raster: the four corners would miss both.
    """
    col, row = np.meshgrid(np.linspace(0, width, points), np.linspace(0, height, points))
    return apply(transform, col.ravel(), row.ravel())


def projected_bounds(transform: Affine, width: int, height: int, crs: str, target: str) -> Bounds | None:
    """Bounds in the CRS `target` of a raster in `crs`. None if no part of it has an image there."""
    x, y = crs_transform(crs, target)(*outline(transform, width, height))
    ok = np.isfinite(x) & np.isfinite(y)
    if not ok.any():
        return None
    xmin, ymin, xmax, ymax = float(x[ok].min()), float(y[ok].min()), float(x[ok].max()), float(y[ok].max())
    if crs_of(target).is_geographic and not crs_of(crs).is_geographic:
        for pole in (-90.0, 90.0):
            if _inside(transform, width, height, *crs_transform(target, crs)(np.zeros(1), np.full(1, pole))):
                xmin, xmax, ymin, ymax = -180.0, 180.0, min(ymin, pole), max(ymax, pole)
    return xmin, ymin, xmax, ymax


def _inside(transform: Affine, width: int, height: int, x: Floats, y: Floats) -> bool:
    """Whether the point x[0], y[0] lies in a raster."""
    if not (np.isfinite(x[0]) and np.isfinite(y[0])) or transform.is_degenerate:
        return False
    col, row = apply(~transform, x, y)
    return bool(0 <= col[0] <= width and 0 <= row[0] <= height)


def union(bounds: Iterable[Bounds]) -> Bounds:
    """The smallest bounds that contain all of them."""
    xmin, ymin, xmax, ymax = zip(*bounds, strict=True)
    return (min(xmin), min(ymin), max(xmax), max(ymax))


def intersection(bounds: Iterable[Bounds]) -> Bounds | None:
    """The bounds that all of them share, None if they share none."""
    xmin, ymin, xmax, ymax = zip(*bounds, strict=True)
    shared = (max(xmin), max(ymin), min(xmax), min(ymax))
    return shared if shared[0] < shared[2] and shared[1] < shared[3] else None
