"""Small factories that several test modules share: a raster from an array, a plan from layers, a table from a plan."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import rasterio
from affine import Affine
from surroundings import signals_as_they_were

from geopipe.cli import main
from geopipe.engine import local
from geopipe.grid.grid import Grid, Tile
from geopipe.layers.header import Band, Header, Stamp
from geopipe.layers.layer import Layer
from geopipe.load import raster, tiles
from geopipe.load.raster import Reader
from geopipe.merge.tile import merge_tile
from geopipe.plan.estimate import Machine
from geopipe.plan.options import Options
from geopipe.plan.plan import Inputs, Plan, make_plan

GENEROUS = Machine(cpus=8, workers=2, memory=1 << 40, object_store=1 << 40, free_disk=1 << 50)
VERSIONS = {"geopipe": "test"}


def write_raster(path: Path, array: np.ndarray, crs: str | None, transform: Affine, **profile: Any) -> Path:
    """A GeoTIFF (or `driver=`) of a 2-D array, or of a 3-D array with the bands first.

    Beside what rasterio.open takes: `mask` (bool, True is valid) is written as the dataset's mask; `descriptions`,
    `scales`, `offsets` and `units` are set on the dataset, `colormap` on band 1.
    """
    bands = array if array.ndim == 3 else array[np.newaxis]
    mask, colormap = profile.pop("mask", None), profile.pop("colormap", None)
    later = {k: profile.pop(k) for k in ("descriptions", "scales", "offsets", "units") if k in profile}
    shape = {"count": bands.shape[0], "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", **{"driver": "GTiff", **shape, "crs": crs, "transform": transform, **profile}) as ds,
    ):
        ds.write(bands)
        if mask is not None:
            ds.write_mask(mask)
        if colormap is not None:
            ds.write_colormap(1, colormap)
        for key, value in later.items():
            setattr(ds, key, value)
    return path


def north_up(x0: float, y0: float, size: float) -> Affine:
    """The transform of square pixels with the upper left corner at (x0, y0)."""
    return Affine(size, 0, x0, 0, -size, y0)


def tiles_of(grid: Grid, size: int) -> Iterator[Tile]:
    """All tiles of a grid in the order of their keys."""
    return (grid.tile(key, size) for key in range(math.prod(grid.tiling(size))))


def header(*bands: Band, **overrides: Any) -> Header:
    """A header without a file: 100 x 80 pixels of 30 m in UTM zone 12, one float32 band, unless told otherwise."""
    transform = north_up(500_000, 4_000_000, 30)
    base = Header("/data/a.tif", "GTiff", "EPSG:32612", transform, 100, 80, bands or (Band(1, "float32"),))
    return replace(base, **{"stamp": Stamp(1000, 1)} | overrides)


def plan_of(grid: Grid, layers: Sequence[Layer], machine: Machine = GENEROUS, **options: Any) -> Plan:
    """The plan of layers whose paths are read here, but for `headers`; `options` are those of geopipe.plan.Options."""
    known = options.pop("headers", {})
    headers = [(y, known.get(y.name) or [raster.inspect(path, y.access) for path in y.paths]) for y in layers]
    return make_plan(Inputs("test", grid, headers, VERSIONS), Options(**options), machine)


def table_of(plan: Plan) -> pa.Table:
    """The whole table, tiles in the order of their keys."""
    return pa.concat_tables(local.merge(plan))


def read_table(plan: Plan, reader: Reader) -> pa.Table:
    """The whole table of a plan of rasters, read by another reader than that of files."""
    tiles_of_plan = map(plan.spec.tile, plan.keys.tolist())
    with raster.environment():
        return pa.concat_tables(
            merge_tile(plan.spec, tile, tiles.read_rows(plan, plan.rasters, tile, reader)) for tile in tiles_of_plan
        )


def raster_of(plan: Plan, column: str, missing: Any = np.nan) -> np.ndarray:
    """One column of the table as an array of the grid's shape, `missing` where the table has a null or no row."""
    table = table_of(plan)
    data = table[column].to_numpy(zero_copy_only=False) if not table[column].null_count else None
    if data is None:
        data = np.array([missing if v is None else v for v in table[column].to_pylist()])
    full = np.full((plan.grid.height, plan.grid.width), missing, dtype=np.result_type(data, type(missing)))
    full[table["row"].to_numpy(), table["col"].to_numpy()] = data
    return full


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """The command line in this process: exit code, standard output, standard error."""
    with pytest.MonkeyPatch.context() as patch, signals_as_they_were():
        patch.setattr(sys, "argv", ["geopipe", *map(str, args)])
        code = main.execute()
    out = capsys.readouterr()
    return code, out.out, out.err
