"""Where cells lie in a source's pixels, and that no window is too small for them."""

from __future__ import annotations

import math

import numpy as np
import pyproj
import pytest
from affine import Affine
from helpers import north_up
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sources import GRID, UTM, decision, on_grid, source_of

from geopipe.grid.grid import Grid, Tile
from geopipe.layers.layer import Kind, Source
from geopipe.resample.locate import BlockRequest, canonical_blocks
from geopipe.resample.methods import Route, Window
from geopipe.resample.pixels import wraps_around
from geopipe.resample.predictions import decode_factor


def needs_of(
    grid: Grid, block: Tile, source: Source, method: str, tolerance: str | float = "auto"
) -> list[BlockRequest]:
    kind = Kind.COUNT if method == "sum" else Kind.CONTINUOUS
    choice = decision(source, grid, kind, resampling=method, passthrough=False, tolerance=tolerance)
    return list(canonical_blocks(grid, choice, block))


@pytest.mark.parametrize(
    ("pixel", "edges"), [(30, {512}), (30 / 7.5, {512}), (30 / 8.5, {256}), (1.5, {128}), (0.05, {4})]
)
def test_blocks_are_quartered_until_the_window_fits(pixel: float, edges: set[int]) -> None:
    # 512 cells x 7.5 pixels are 3840; 128 x 20 are 2560 where 256 x 20 would be 5120; 4 x 600 are 2400, 8 x 600 4800
    grid = Grid(UTM, 500_000, 5_000_000, 30, 30, width=512, height=512)
    pixels = int(512 * 30 / pixel)
    source = source_of(UTM, north_up(500_000, 5_000_000, pixel), pixels, pixels)
    requests = needs_of(grid, Tile(0, 0, 0, 512, 512), source, "max")
    assert {n.block.width for n in requests} == {n.block.height for n in requests} == edges
    assert sum(n.block.cells for n in requests) == grid.cells
    assert max(n.window.pixels for n in requests) <= 4096**2


@pytest.mark.parametrize(
    ("method", "window"),
    [
        ("nearest", Window(50, 60, 10, 20)),
        ("max", Window(50, 60, 10, 20)),
        ("bilinear", Window(48, 58, 14, 24)),
        ("lanczos", Window(46, 56, 18, 28)),
    ],
)
def test_a_window_is_what_the_method_reaches(method: str, window: Window) -> None:
    """Ten by twenty cells on pixels of their size; a kernel reaches its radius and one pixel more on each side."""
    (requests,) = needs_of(GRID, Tile(0, 50, 60, 10, 20), on_grid(30), method)
    assert requests.window == window


@pytest.mark.parametrize("method", ["nearest", "bilinear", "average"])
def test_a_window_is_none_apart_and_cut_to_the_source(method: str) -> None:
    whole = Tile(0, 0, 0, 200, 400)
    apart = source_of(UTM, north_up(511_000, 4_999_000, 30), 50, 50)
    assert needs_of(GRID, Tile(0, 0, 0, 10, 10), apart, method) == []
    (requests,) = needs_of(GRID, whole, source_of(UTM, north_up(500_300, 4_999_800, 30), 50, 50), method)
    assert requests.window == Window(0, 0, 50, 50)


PLACES = {  # CRS: where its use is fair (west, south, east, north)
    UTM: (3, 0, 15, 80),
    "EPSG:3035": (-10, 35, 40, 70),
    "EPSG:4326": (-170, -85, 170, 85),
    "EPSG:3857": (-170, -80, 170, 80),
    "EPSG:3031": (-170, -84, 170, -55),
    "EPSG:3413": (-170, 55, 170, 84),
}


def in_pixels(grid: Grid, block: Tile, source: Source, first: float, more: int) -> tuple[np.ndarray, np.ndarray]:
    """The centres (0.5, 0) or corners (0, 1) of a block's cells in the source's pixels, by pyproj itself."""
    col = np.arange(block.width + more) + block.col + first
    row = np.arange(block.height + more) + block.row + first
    to_source = pyproj.Transformer.from_crs(grid.crs, source.crs, always_xy=True)
    x, y = to_source.transform(*np.meshgrid(grid.x0 + col * grid.dx, grid.y0 - row * grid.dy))
    return ~source.transform @ (x, y)


@given(st.data())
@settings(max_examples=60)
def test_places_are_pyprojs_and_lie_in_the_window(data: st.DataObject) -> None:
    crs, other = data.draw(st.permutations(sorted(PLACES)).map(lambda p: p[:2]))
    box = [f(a, b) for f, a, b in zip((max, max, min, min), PLACES[crs], PLACES[other], strict=True)]
    assume(box[0] < box[2] and box[1] < box[3])
    lon, lat = data.draw(st.floats(box[0], box[2])), data.draw(st.floats(box[1], box[3]))
    height, width = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 300))
    metres = data.draw(st.floats(5, 3000))
    ratio, size = data.draw(st.floats(0.2, 20)), data.draw(st.integers(10, 4000))
    grid_unit, source_unit = (metres / (111_000 if c == "EPSG:4326" else 1) for c in (crs, other))
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
    grid = Grid(crs, x - width / 2 * grid_unit, y + height / 2 * grid_unit, grid_unit, grid_unit, width, height)
    x, y = pyproj.Transformer.from_crs("EPSG:4326", other, always_xy=True).transform(lon, lat)
    pixel = source_unit / ratio
    source = source_of(other, north_up(x - size / 2 * pixel, y + size / 2 * pixel, pixel), size, size)
    block = Tile(0, 0, 0, height, width)
    for method, first, more in (("bilinear", 0.5, 0), ("max", 0.0, 1)):
        px, py = in_pixels(grid, block, source, first, more)
        requests = needs_of(grid, block, source, method)
        if len(requests) == 1:
            lattice = requests[0].centres if more == 0 else requests[0].footprints.corners  # type: ignore[union-attr]
            near = np.hypot(px - size / 2, py - size / 2) < 2 * size
            assert np.abs(lattice.cols - px).max(initial=0, where=near) <= 0.01
            assert np.abs(lattice.rows - py).max(initial=0, where=near) <= 0.01
        inside = (px >= 0) & (px < size) & (py >= 0) & (py < size)
        held = np.zeros(px.shape, bool)
        for needs in requests:
            w = needs.window
            held |= (px >= w.col) & (px <= w.col + w.width) & (py >= w.row) & (py <= w.row + w.height)
        assert held[inside].all()


def test_a_nearest_place_is_exact_where_it_matters() -> None:
    """Off by NEAR in the middle of a pixel, but never on the other side of an edge."""
    grid = Grid("EPSG:4326", 8, 45, 0.001, 0.001, width=512, height=512)
    source = source_of(UTM, north_up(400_000, 5_000_000, 30), 4000, 4000)
    px, py = in_pixels(grid, Tile(0, 0, 0, 512, 512), source, 0.5, 0)
    (requests,) = needs_of(grid, Tile(0, 0, 0, 512, 512), source, "nearest")
    assert requests.centres is not None
    assert np.array_equal(np.floor(requests.centres.cols), np.floor(px))
    assert np.array_equal(np.floor(requests.centres.rows), np.floor(py))
    assert 0 < np.abs(requests.centres.cols - px).max() < 1e-4


@pytest.mark.parametrize(("crs", "top"), [("EPSG:3031", -85), ("EPSG:3413", 90)])
@pytest.mark.parametrize("pole", [(256, 256), (16, 16), (100.3, 200.7), (272, 240), (1.9, 108.7)])
def test_the_window_reaches_a_pole_and_both_sides_of_the_antimeridian(
    crs: str, top: int, pole: tuple[float, float]
) -> None:
    # 512 x 512 cells of 1 km with the pole at a column and row among them; pixels of 0.01 degree, 5 degrees of latitude
    grid = Grid(crs, -pole[0] * 1000, pole[1] * 1000, 1000, 1000, 512, 512)
    source = source_of("EPSG:4326", north_up(-180, top, 0.01), 36_000, 500)
    around = wraps_around(source)
    assert around == 36_000
    _, py = in_pixels(grid, Tile(0, 0, 0, 512, 512), source, 0.0, 1)
    requests = needs_of(grid, Tile(0, 0, 0, 512, 512), source, "max")
    tops, bottoms = [n.window.row for n in requests], [n.window.row + n.window.height for n in requests]
    pole_row = 0 if top == 90 else 500
    assert min(tops) <= max(0, math.floor(py.min()))
    assert max(bottoms) >= min(500, py.max())
    assert pole_row in (min(tops), max(bottoms))
    assert max(n.window.width for n in requests) == around  # the block with the pole; no window has a column twice


@pytest.mark.parametrize(
    ("block", "factor"),
    [((512, 512), 1.0), ((256, 256), 1.0), ((1, 2048), 4.0), ((1024, 1024), 4.0), ((2048, 2048), 16.0)],
)
def test_the_decode_factor_counts_how_often_a_stored_block_is_decoded(block: tuple[int, int], factor: float) -> None:
    # 4 x 4 tiles of 512 cells on 2048 x 2048 pixels: a strip of one row is decoded for each of the 4 tile columns
    grid = Grid(UTM, 500_000, 5_000_000, 30, 30, width=2048, height=2048)
    choice = decision(source_of(UTM, north_up(500_000, 5_000_000, 30), 2048, 2048, block), grid)
    assert choice.route is Route.COPY
    assert decode_factor(grid, choice, 512) == factor


def test_a_rotated_source_is_placed_by_its_own_transform() -> None:
    turned = Affine.translation(506_000, 4_997_000) @ Affine.rotation(30) @ north_up(-9000, 9000, 10)
    source = source_of(UTM, turned, 1800, 1800)
    (requests,) = needs_of(GRID, Tile(0, 0, 0, 200, 400), source, "bilinear")
    px, py = in_pixels(GRID, Tile(0, 0, 0, 200, 400), source, 0.5, 0)
    assert requests.centres is not None
    assert np.abs(requests.centres.cols - px).max() < 1e-6
    assert np.abs(requests.centres.rows - py).max() < 1e-6
