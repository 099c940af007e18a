"""Columns derived from a cell's place: longitude and latitude, H3 cells, GeoParquet points.

Each value is a function of its cell alone, so that it cannot depend on the tile. Cells are worked on in slices, so that
memory stays flat.
"""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe.errors import MachineError
from geopipe.grid.crs import Bounds, crs_of, crs_transform
from geopipe.grid.grid import BLOCK, Grid

LON_LAT = "OGC:CRS84"
"""Longitude and latitude on WGS 84 in degrees, as H3 and web maps use them."""

SLICE = BLOCK * BLOCK
"""Cells to work on at a time."""

POINT = np.dtype([("order", "u1"), ("type", "<u4"), ("x", "<f8"), ("y", "<f8")])
"""A point as little-endian WKB: 21 bytes."""

GEOMETRY = pa.field("geometry", pa.binary(), nullable=False)


def fields(lonlat: bool, h3: int | None) -> list[pa.Field]:
    """The derived columns, between y and the variables; null where a cell is not on Earth."""
    metadata = {"unit": "degree", "crs": LON_LAT}
    columns = [pa.field(name, pa.float64(), metadata=metadata) for name in ("lon", "lat")] if lonlat else []
    return columns + ([pa.field("h3", pa.uint64(), metadata={"resolution": str(h3)})] if h3 is not None else [])


def arrays(grid: Grid, lonlat: bool, h3: int | None, x: NDArray[np.float64], y: NDArray[np.float64]) -> list[pa.Array]:
    """The columns of `fields` at cell centres. x, y: (cells,) in the grid's CRS."""
    if not lonlat and h3 is None:
        return []
    lon, lat = degrees(grid, x, y)
    nowhere = np.isnan(lon)
    columns = [pa.array(lon, mask=nowhere), pa.array(lat, mask=nowhere)] if lonlat else []
    return columns + ([pa.array(h3_cells(lon, lat, h3), mask=nowhere)] if h3 is not None else [])


def degrees(
    grid: Grid, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longitudes from -180 to 180 and latitudes on WGS 84, (cells,) in degrees; both NaN where PROJ has no result.

    Raises:
        SettingsError: PROJ has no transformation from the grid's CRS, which is of another planet.
    """
    transform = crs_transform(grid.crs, LON_LAT)
    lon, lat = np.empty(len(x)), np.empty(len(x))
    for at in range(0, len(x), SLICE):
        part = slice(at, at + SLICE)
        lon[part], lat[part] = transform(x[part], y[part])
    nowhere = ~(np.isfinite(lon) & (np.abs(lat) <= 90))
    lon[nowhere], lat[nowhere] = np.nan, np.nan
    around = np.abs(lon) > 180
    lon[around] = np.mod(lon[around] + 180, 360) - 180
    return lon, lat


def h3_package(resolution: int) -> ModuleType:
    """The integer API of the package h3.

    Raises:
        MachineError: it is not installed.
    """
    try:
        import h3.api.basic_int as api
    except ImportError:
        raise MachineError(
            f"export.h3 = {resolution} needs the package h3, and it is not installed",
            "pip install 'geopipe[h3]' (on every node of a cluster), or leave export.h3 out",
        ) from None
    return api  # type: ignore[no-any-return]


def h3_cells(lon: NDArray[np.float64], lat: NDArray[np.float64], resolution: int) -> NDArray[np.uint64]:
    """The H3 cell of each place as its 64-bit number, (cells,) uint64; 0 where the place is NaN."""
    cell = h3_package(resolution).latlng_to_cell
    cells = np.zeros(len(lon), np.uint64)
    for at in range(0, len(lon), SLICE):
        valid = at + np.flatnonzero(~np.isnan(lon[at : at + SLICE]))
        places = zip(lat[valid].tolist(), lon[valid].tolist(), strict=True)
        cells[valid] = np.fromiter((cell(*place, resolution) for place in places), np.uint64, len(valid))
    return cells


def points(x: NDArray[np.float64], y: NDArray[np.float64]) -> pa.Array:
    """Points as WKB (little-endian)."""
    wkb = np.empty(len(x), POINT)
    wkb["order"], wkb["type"], wkb["x"], wkb["y"] = 1, 1, x, y
    ends = np.arange(len(x) + 1, dtype=np.int32) * np.int32(POINT.itemsize)
    return pa.Array.from_buffers(GEOMETRY.type, len(x), [None, pa.py_buffer(ends), pa.py_buffer(wkb)])


def geo(crs: dict[str, Any], bounds: Bounds | None) -> dict[str, Any]:
    """The metadata of GeoParquet 1.1.0 for a file of points.

    A column of bounding boxes would repeat x and y, which are columns with statistics.

    Args:
        crs: as PROJJSON.
        bounds: of the points in this file; None without points.
    """
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": ["Point"], "crs": crs}
    column |= {"bbox": list(bounds)} if bounds else {}
    return {"version": "1.1.0", "primary_column": GEOMETRY.name, "columns": {GEOMETRY.name: column}}


def geo_text(grid: Grid, bounds: Bounds | None) -> str:
    """`geo` of a file of the grid's cells, as JSON text."""
    return json.dumps(geo(json.loads(crs_of(grid.crs).to_json()), bounds))
