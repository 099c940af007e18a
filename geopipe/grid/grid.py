"""The target grid: a frozen value that knows its cells, tiles and canonical blocks.

Cells are named by integers (row, col) from the upper left corner; x and y are pixel centres, computed from those
integers and never stored, so that no rounding can move a cell.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.aoi import AreaOfInterest
from pyproj.exceptions import CRSError, ProjError
from pyproj.transformer import TransformerGroup

from geopipe import proposals
from geopipe.errors import SettingsError

BLOCK = 512
"""Edge of a canonical block in cells: warps are computed block by block, whatever the tile (see ARCHITECTURE.md)."""

MAX_CELLS = 2**31 - 1
"""Rows and columns are int32 in the table."""

ROUNDING = 2.0**-48
"""Share of the largest coordinate by which a coordinate may be off for rounding: 16 steps of float64."""

Bounds = tuple[float, float, float, float]
"""xmin, ymin, xmax, ymax."""

Transform = Callable[[NDArray[np.float64], NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Maps arrays of x and y to another CRS; places that have no image come back infinite."""


@lru_cache(maxsize=256)
def crs_of(text: str) -> CRS:
    """The CRS that `text` (authority code, WKT, PROJ string, PROJJSON) names.

    Raises:
        SettingsError: PROJ cannot read it.
    """
    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        alike = proposals.crs(text) if len(text) < 80 else ()
        reason = "" if alike or len(text) < 30 else f" ({str(error).splitlines()[0][:120]})"
        raise SettingsError(
            f"{text[:80]!r} is no CRS that PROJ knows{reason}",
            f"did you mean {' or '.join(alike)}?" if alike else "give an authority code such as EPSG:32612, or WKT",
        ) from None


@lru_cache(maxsize=256)
def crs_transform(source: str, target: str) -> Transform:
    """The transformation of x, y from one CRS to another, in x, y (lon, lat) order."""
    if same_crs(source, target):
        return lambda x, y: (x, y)
    if through_wgs84(source, target):
        there, back = crs_transform(source, WGS84), crs_transform(WGS84, target)
        return lambda x, y: back(*there(x, y))
    try:
        transformer = Transformer.from_crs(crs_of(source), crs_of(target), always_xy=True)
    except ProjError as error:
        raise SettingsError(
            f"PROJ knows no way from {crs_of(source).name} to {crs_of(target).name}: {error}", "choose another CRS"
        ) from None
    return lambda x, y: transformer.transform(x, y, errcheck=False)


@lru_cache(maxsize=256)
def same_crs(one: str, other: str) -> bool:
    """Whether two CRS are the same beyond doubt; a doubtful pair is warped, which is right and only slower."""
    return one == other or crs_of(one).equals(crs_of(other), ignore_axis_order=True)


def apply(
    transform: Affine, first: NDArray[np.float64], second: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """An affine transform of arrays: of (col, row) to (x, y), or back by its inverse."""
    t = transform
    return t.a * first + t.b * second + t.c, t.d * first + t.e * second + t.f


def rounding(bounds: Iterable[Bounds], step: float) -> float:
    """Share of a pixel or cell of size `step` by which rounding may move places within `bounds`.

    It is one number for a whole axis, so that neighbours on edges cannot differ.
    """
    largest = max(abs(value) for numbers in bounds for value in numbers)
    return float(min(ROUNDING * largest / step, 0.01))


@lru_cache(maxsize=256)
def horizontal(text: str) -> tuple[str, str]:
    """The horizontal part of a CRS, and the name of the vertical part that is left out ("" where there is none)."""
    crs = crs_of(text)
    if crs.is_compound:
        plane, *rest = crs.sub_crs_list
        return _text_of(plane), ", ".join(part.name for part in rest)
    if len(crs.axis_info) == 3:
        return _text_of(crs.to_2d()), "ellipsoidal height"
    return text, ""


def _text_of(crs: CRS) -> str:
    authority = crs.to_authority(min_confidence=100)
    return ":".join(authority) if authority else crs.to_wkt()


@dataclass(frozen=True)
class Operation:
    """How PROJ gets from one CRS to another: the name of the operation, and its accuracy in metres where known.

    `ballpark` means that PROJ knows no datum shift between the two and leaves it out; `unnamed` that there is none to
    be known, because one of them does not say which datum it has. `better` names an operation that would be better, but
    for grid files that are not installed.
    """

    name: str
    accuracy: float | None
    ballpark: bool
    unnamed: bool
    better: str = ""


NO_DATUM = ("unknown", "unnamed", "not specified", "not_specified")
"""What writers call a datum that they do not know."""


WGS84 = "EPSG:4326"
"""The datum by which two others may be known."""


@lru_cache(maxsize=256)
def operation(source: str, target: str, area: Bounds | None) -> Operation:
    """The best operation between two CRS, in an area given in longitude and latitude; what `crs_transform` does."""
    if not through_wgs84(source, target):
        return _operation(source, target, area)
    there, back = _operation(source, WGS84, area), _operation(WGS84, target, area)
    known = [way.accuracy for way in (there, back) if way.accuracy is not None]
    return Operation(
        name=f"{there.name} + {back.name}",
        accuracy=sum(known) if len(known) == 2 else None,
        ballpark=there.ballpark or back.ballpark,
        unnamed=False,
        better=_operation(source, target, area).better,
    )


@lru_cache(maxsize=256)
def through_wgs84(source: str, target: str) -> bool:
    """Whether PROJ leaves the datum shift between two CRS out, and knows it by way of WGS 84.

    PROJ does not try that way where it knows a better one whose grid files are not installed.
    """
    if same_crs(source, target) or ellipsoids_apart(source, target) is not None:
        return False
    if same_crs(source, WGS84) or same_crs(target, WGS84):
        return False
    direct = _operation(source, target, None)
    if not direct.ballpark or direct.unnamed:
        return False
    return not (_operation(source, WGS84, None).ballpark or _operation(WGS84, target, None).ballpark)


@lru_cache(maxsize=256)
def ellipsoids_apart(one: str, other: str) -> float | None:
    """Metres by which the ellipsoids of two CRS differ; None where the two have not one datum, by its code or name."""
    here, there = crs_of(one), crs_of(other)
    if here.datum is None or there.datum is None or here.ellipsoid is None or there.ellipsoid is None:
        return None
    codes = [datum.to_json_dict().get("id") for datum in (here.datum, there.datum)]
    names = [re.sub("[ _]", "", d.name.lower()).removesuffix("ensemble") for d in (here.datum, there.datum)]
    unnamed = any(word in d.name.lower() for d in (here.datum, there.datum) for word in NO_DATUM)
    if unnamed or not (names[0] == names[1] or (codes[0] is not None and codes[0] == codes[1])):
        return None
    axes = [(e.semi_major_metre, e.semi_minor_metre) for e in (here.ellipsoid, there.ellipsoid)]
    return float(max(abs(p - q) for p, q in zip(*axes, strict=True)))


def _operation(source: str, target: str, area: Bounds | None) -> Operation:
    if same_crs(source, target):
        return Operation("the same CRS", 0.0, False, False)
    aoi = None
    if area is not None and all(map(math.isfinite, area)):
        west, south, east, north = area
        aoi = AreaOfInterest(max(west, -180), max(south, -90), min(east, 180), min(north, 90))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of is in `better`
        group = TransformerGroup(crs_of(source), crs_of(target), always_xy=True, area_of_interest=aoi)  # type: ignore[arg-type]
    found = group.transformers
    if not found:
        return Operation("none", None, True, False)
    best = found[0]
    steps = [step for step in best.description.split(" + ") if not step.startswith("axis order change")]
    datums = [datum.name.lower() if (datum := crs_of(text).datum) else "unknown" for text in (source, target)]
    return Operation(
        name=" + ".join(steps) or "a change of axis order",
        accuracy=best.accuracy if best.accuracy is not None and best.accuracy >= 0 else None,
        ballpark="ballpark" in best.description.lower(),
        unnamed=any(word in name for name in datums for word in NO_DATUM),
        better="" if group.best_available or not group.unavailable_operations else group.unavailable_operations[0].name,
    )


def radius(text: str) -> float | None:
    """The equatorial radius in metres of the body that a CRS belongs to."""
    ellipsoid = crs_of(text).ellipsoid
    return float(ellipsoid.semi_major_metre) if ellipsoid else None


@lru_cache(maxsize=256)
def is_lonlat(text: str) -> bool:
    """Whether a CRS counts longitude and latitude in degrees."""
    crs = crs_of(text)
    return crs.is_geographic and all(axis.unit_name == "degree" for axis in crs.axis_info[:2])


@dataclass(frozen=True)
class Tile:
    """A rectangle of grid cells under an integer key. Canonical blocks have the same shape of name."""

    key: int
    row: int
    col: int
    height: int
    width: int

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
            raise SettingsError(
                f"grid.resolution is {self.dx:g} x {self.dy:g}; it must be above zero",
                "give the cell size in units of the grid's CRS, for example resolution = 90",
            )
        if not (math.isfinite(self.x0) and math.isfinite(self.y0)):
            raise SettingsError(f"grid.bounds start at {self.x0}, {self.y0}", "give finite numbers")
        if self.width < 1 or self.height < 1:
            raise SettingsError(
                f"the grid is empty: {self.width} columns x {self.height} rows",
                "grid.bounds are xmin, ymin, xmax, ymax, in units of the grid's CRS",
            )
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

    def xs(self, col: int, width: int) -> NDArray[np.float64]:
        """X of the centres of `width` columns from `col` on."""
        return np.asarray(self.x0 + (np.arange(col, col + width) + 0.5) * self.dx, np.float64)

    def ys(self, row: int, height: int) -> NDArray[np.float64]:
        """Y of the centres of `height` rows from `row` on."""
        return np.asarray(self.y0 - (np.arange(row, row + height) + 0.5) * self.dy, np.float64)

    def transform_of(self, tile: Tile) -> Affine:
        """The affine transform of a tile or block."""
        return self.transform @ Affine.translation(tile.col, tile.row)

    def tiling(self, size: int) -> tuple[int, int]:
        """Rows and columns of tiles of `size` cells."""
        return -(-self.height // size), -(-self.width // size)

    def tile(self, key: int, size: int) -> Tile:
        """The tile under `key`: keys count in row-major order."""
        row, col = divmod(key, self.tiling(size)[1])
        row, col = row * size, col * size
        return Tile(key, row, col, min(size, self.height - row), min(size, self.width - col))

    def tiles(self, size: int) -> Iterator[Tile]:
        """All tiles in the order of their keys."""
        rows, cols = self.tiling(size)
        return (self.tile(key, size) for key in range(rows * cols))

    def projjson(self) -> dict[str, Any]:
        """The grid as JSON: its CRS as PROJJSON, its transform in GDAL's order, its shape."""
        return {
            "crs": json.loads(crs_of(self.crs).to_json()),
            "transform": list(self.transform.to_gdal()),
            "shape": [self.height, self.width],
        }


def blocks_of(tile: Tile, size: int) -> Iterator[Tile]:
    """The canonical blocks of `size` cells in a tile, clipped to it.

    Blocks are anchored to the grid's corner. A tile is a multiple of a block (or ends at the grid's edge), so that
    the same blocks come out of any tiling.
    """
    for row in range(tile.row, tile.row + tile.height, size):
        for col in range(tile.col, tile.col + tile.width, size):
            height = min(size, tile.row + tile.height - row)
            width = min(size, tile.col + tile.width - col)
            yield Tile(tile.key, row, col, height, width)


def make_grid(crs: str, resolution: tuple[float, float], bounds: Bounds, snap: bool) -> Grid:
    """The grid of `resolution` that covers `bounds`.

    With `snap`, edges are moved outward to whole multiples of the resolution; without, the upper left corner stays
    and the other edges are moved outward to whole cells.
    """
    dx, dy = resolution
    xmin, ymin, xmax, ymax = bounds
    if not (xmin < xmax and ymin < ymax):
        raise SettingsError(
            f"grid.bounds {list(bounds)} are empty",
            "give xmin, ymin, xmax, ymax with xmin < xmax and ymin < ymax",
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
    """Ceiling that forgives rounding: 377.0000000001 cells are 377."""
    return math.ceil(value - 1e-6)


def _floor(value: float) -> int:
    return math.floor(value + 1e-6)


def outline(
    transform: Affine, width: int, height: int, points: int = 65
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """X and y along the edge of a raster and on a lattice inside it, `points` to a side.

    The edge of a raster is a curve in another CRS, and a pole may lie inside it: corners alone would miss both.
    """
    col, row = np.meshgrid(np.linspace(0, width, points), np.linspace(0, height, points))
    return apply(transform, col.ravel(), row.ravel())


def projected_bounds(transform: Affine, width: int, height: int, crs: str, target: str) -> Bounds | None:
    """Bounds in the CRS `target` of a raster in `crs`; None where no part of it has an image there."""
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


def _inside(transform: Affine, width: int, height: int, x: NDArray[np.float64], y: NDArray[np.float64]) -> bool:
    """Whether the first place lies in a raster."""
    if not (np.isfinite(x[0]) and np.isfinite(y[0])) or transform.is_degenerate:
        return False
    col, row = apply(~transform, x, y)
    return bool(0 <= col[0] <= width and 0 <= row[0] <= height)


def union(bounds: Iterable[Bounds]) -> Bounds:
    """The smallest bounds that hold all of them."""
    xmin, ymin, xmax, ymax = zip(*bounds, strict=True)
    return (min(xmin), min(ymin), max(xmax), max(ymax))


def intersection(bounds: Iterable[Bounds]) -> Bounds | None:
    """The bounds that all of them share, or None."""
    xmin, ymin, xmax, ymax = zip(*bounds, strict=True)
    shared = (max(xmin), max(ymin), min(xmax), min(ymax))
    return shared if shared[0] < shared[2] and shared[1] < shared[3] else None
