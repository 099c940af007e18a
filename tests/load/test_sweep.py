"""Reading along a source: the same values as tile by tile, and each stored block decoded once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from affine import Affine
from fake_reader import NotingReader
from helpers import north_up, plan_of, write_raster

from geopipe.grid.grid import Grid
from geopipe.layers.layer import Kind, Layer
from geopipe.load import raster
from geopipe.load.sweep import sweep
from geopipe.load.tiles import read_tile
from geopipe.merge.blocks import pack, unpack
from geopipe.merge.tile import merge_tile
from geopipe.plan.plan import Plan

UTM, NEXT, LONLAT = "EPSG:32632", "EPSG:32633", "EPSG:4326"
STRIPS = {"tiled": False, "blockysize": 1}


def noise(path: Path, shape: tuple[int, int], crs: str, transform: Affine, **profile: Any) -> str:
    pixels = np.random.default_rng(3).uniform(0, 100, shape).astype("float32")
    pixels[np.random.default_rng(4).random(shape) < 0.1] = -1
    return str(write_raster(path, pixels, crs, transform, nodata=-1, **profile))


def tables(plan: Plan, how: str, reader: raster.Reader | None = None) -> list[Any]:
    """Each tile of the table, read by a sweep over all tiles or tile by tile."""
    keys = plan.keys.tolist()
    with raster.environment():
        readers = reader or raster.Readers()
        if how == "sweep":
            swept = [row for layer in plan.layers for row in sweep(plan, layer, keys, readers)]
            packed = pa.concat_tables(map(pack, swept))  # as through a shuffle
            rows = [row for k in keys for row in unpack(plan.spec, packed, plan.spec.tile(k))]
        else:
            rows = [
                row for layer in plan.layers for k in keys for row in read_tile(plan, layer, plan.spec.tile(k), readers)
            ]
        readers.close()
    return [merge_tile(plan.spec, plan.spec.tile(k), [r for r in rows if r.tile == k]) for k in keys]


GRIDS = {
    "copy": Grid(UTM, 500_000, 5_000_000, 30, 30, width=1300, height=1100),
    "decimate": Grid(UTM, 500_000, 5_000_000, 60, 60, width=650, height=560),
    "warp": Grid(UTM, 500_311, 4_999_731, 41, 41, width=900, height=700),
    "tilted": Grid(NEXT, 27_000, 5_016_000, 33, 33, width=1100, height=1200),
    "geographic": Grid(LONLAT, 9.02, 45.16, 0.0004, 0.0004, width=1100, height=1050),
}


@pytest.mark.parametrize("method", ["nearest", "bilinear", "average", ("mean", "max")])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_sweep_gives_what_tiles_give(tmp_path: Path, grid: Grid, method: Any) -> None:
    path = noise(tmp_path / "a.tif", (1200, 1250), UTM, north_up(500_000, 5_000_000, 30), **STRIPS)
    plan = plan_of(grid, [Layer("a", (path,), resampling=method)], window_size=512)
    assert tables(plan, "sweep") == tables(plan, "tiles")


@pytest.mark.slow
def test_around_the_world_and_over_a_pole(tmp_path: Path) -> None:
    path = noise(tmp_path / "a.tif", (360, 720), LONLAT, north_up(0, 90, 0.5), **STRIPS)
    for crs in ("EPSG:3995", "+proj=laea +lat_0=10 +lon_0=180 +datum=WGS84"):
        grid = Grid(crs, -6e6, 6e6, 11_000, 11_000, width=1100, height=1090)
        plan = plan_of(grid, [Layer("a", (path,), resampling="average")], window_size=512, how="grid")
        assert tables(plan, "sweep") == tables(plan, "tiles")


def test_a_mosaic_of_rows_and_another_lattice(tmp_path: Path) -> None:
    paths = [
        noise(tmp_path / f"{i}.tif", (400, 1200), UTM, north_up(500_000 + off, 5_000_000 - 12_000 * i, 30), **STRIPS)
        for i, off in enumerate((0, 0, 7))
    ]
    layer = Layer("a", tuple(paths), kind=Kind.CATEGORICAL, resampling="nearest")
    plan = plan_of(GRIDS["warp"], [layer], window_size=512)
    assert len(plan.layers[0].decisions) == 2
    assert tables(plan, "sweep") == tables(plan, "tiles")


def rows_read(plan: Plan, how: str) -> Counter[int]:
    """How often each row of the one source is read."""
    reader = NotingReader(raster.Readers())
    tables(plan, how, reader)
    height = plan.layers[0].decisions[0].source.height
    counts: Counter[int] = Counter()
    for _, window in reader.reads:
        counts.update(range(max(0, window.row), min(height, window.row + window.height)))
    return counts


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_each_strip_is_read_once(tmp_path: Path, grid: Grid) -> None:
    path = noise(tmp_path / "a.tif", (1200, 1250), UTM, north_up(500_000, 5_000_000, 30), **STRIPS)
    plan = plan_of(grid, [Layer("a", (path,))], window_size=512)
    assert max(rows_read(plan, "tiles").values()) >= 2, "three tiles abreast"
    counts = rows_read(plan, "sweep")
    again = sum(count - 1 for count in counts.values())
    assert again <= (0 if grid in (GRIDS["copy"], GRIDS["decimate"], GRIDS["warp"]) else 0.1 * len(counts))


def test_auto_exchanges_where_that_is_cheaper_than_decoding_again(tmp_path: Path) -> None:
    path = noise(tmp_path / "a.tif", (64, 65_536), UTM, north_up(500_000, 5_000_000, 10), tiled=False, blockysize=64)
    wide = Grid(UTM, 500_000, 5_000_000, 10, 10, width=65_536, height=64)
    plan = plan_of(wide, [Layer("a", (path,))], window_size=512)
    assert plan.layers[0].decode_factor == 16  # as far as it is looked at
    assert plan.strategy == "groupby"
    assert plan.layers[0].sweeps
    aligned = plan_of(wide, [Layer("a", (path,))], window_size=512, strategy="aligned")
    assert not aligned.layers[0].sweeps
    assert aligned.hash == plan.hash
    tiled = noise(tmp_path / "b.tif", (600, 600), UTM, north_up(500_000, 5_000_000, 10), tiled=True)
    assert plan_of(replace(wide, width=600, height=600), [Layer("a", (tiled,))], window_size=512).strategy == "aligned"
