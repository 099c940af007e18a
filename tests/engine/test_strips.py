"""Tiles that are read, merged and written in strips."""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commits import finish
from helpers import north_up, plan_of, write_raster

from geopipe.engine import local
from geopipe.engine.strips import ahead
from geopipe.errors import SourceError
from geopipe.grid.grid import Grid, Tile, strips_of
from geopipe.layers.layer import Layer
from geopipe.plan.estimate import READ_CACHE
from geopipe.plan.plan import Plan

UTM = "EPSG:32632"


def plan_with_holes(folder: Path, formats: tuple[str, ...] = ("parquet",)) -> Plan:
    """One tile of 1300 x 700 cells, of which some are dropped, so that no row group ends where a strip does."""
    rng = np.random.default_rng(4)
    layers = []
    for name in ("a", "b"):
        values = rng.normal(size=(1300, 700)).astype("float32")
        values[rng.random(values.shape) < 0.6] = np.nan
        path = write_raster(folder / f"{name}.tif", values, UTM, north_up(0, 1300, 1))
        layers.append(Layer(name, (str(path),), resampling=("bilinear",)))
    return plan_of(Grid(UTM, 0.25, 1299.75, 1, 1, 700, 1300), layers, formats=formats)


def test_the_strips_of_a_tile_are_rows_of_canonical_blocks_and_the_last_completes_it() -> None:
    tile = Tile(7, 1024, 512, 1300, 700)
    strips = strips_of(tile)
    assert [(s.row, s.height, s.completes) for s in strips] == [(1024, 512, 0), (1536, 512, 0), (2048, 276, 1)]
    assert {(s.key, s.col, s.width) for s in strips} == {(7, 512, 700)}
    assert strips_of(Tile(0, 0, 0, 512, 9)) == [Tile(0, 0, 0, 512, 9)]


@pytest.mark.parametrize("formats", [("parquet",), ("parquet", "csv")])
def test_strips_write_the_bytes_of_a_whole_tile(tmp_path: Path, formats: tuple[str, ...]) -> None:
    plan = plan_with_holes(tmp_path, formats)
    assert plan.estimate.in_strips
    totals = finish(tmp_path / "strips", plan)
    assert 500_000 < totals["rows"] < plan.grid.cells
    finish(tmp_path / "whole", replace(plan, estimate=replace(plan.estimate, in_strips=False)))
    strips, whole = ((tmp_path / name / "manifest.jsonl").read_text() for name in ("strips", "whole"))
    assert strips == whole, "with a sha256 of each file"


def test_a_broken_source_ends_the_loop_with_its_error(tmp_path: Path) -> None:
    plan = plan_with_holes(tmp_path)
    path = tmp_path / "b.tif"
    path.write_bytes(path.read_bytes()[:-900_000])
    with pytest.raises(SourceError, match=r"layer b: .*b\.tif"):
        list(local.merge(plan))


def test_items_are_made_ahead_by_one_in_one_thread_that_also_ends_them() -> None:
    events: list[tuple[object, int]] = []

    def items() -> Generator[int, None, None]:
        try:
            for n in range(9):
                events.append((n, threading.get_ident()))
                yield n
        finally:
            events.append(("end", threading.get_ident()))

    iterator = ahead(items())
    assert [next(iterator), next(iterator)] == [0, 1]
    iterator.close()
    assert [event for event, _ in events] == [0, 1, 2, "end"]
    assert len({thread for _, thread in events} | {threading.get_ident()}) == 2


def test_blocks_that_are_higher_than_strips_are_decoded_once_for_a_tile(tmp_path: Path) -> None:
    """Of files with one block each, every strip would decode all again, because the cache does not hold them."""
    values, transform = np.zeros((2048, 2048), "float64"), north_up(0, 2048, 1)
    block = {"blockysize": 2048, "blockxsize": 2048, "tiled": True, "compress": "zstd"}
    paths = [str(write_raster(tmp_path / f"{n}.tif", values, UTM, transform, **block)) for n in range(5)]
    layers = [Layer(f"v{n}", (path,)) for n, path in enumerate(paths)]
    grid = Grid(UTM, 0, 2048, 1, 1, 2048, 2048)
    few, many = (plan_of(grid, some).estimate for some in (layers[:3], layers))
    assert few.in_strips
    assert 3 * values.nbytes < few.cache_bytes < READ_CACHE, "three blocks of 32 MB"
    assert (many.in_strips, many.cache_bytes) == (False, READ_CACHE)
    wide = plan_of(Grid(UTM, 0, 2048, 1, 1, 2048 * 8, 2048), layers[:1]).estimate
    assert wide.cache_bytes == READ_CACHE, "the raster is not in the middle of the grid"
