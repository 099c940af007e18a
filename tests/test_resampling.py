"""The rules of resampling: which method, which way to the grid, which scale and halo, which part of the source."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyproj
import pytest
from affine import Affine
from helpers import north_up
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from geopipe.errors import SettingsError
from geopipe.grid import Grid, Tile
from geopipe.layer import Band, Header, Kind, Layer, Placed, Source
from geopipe.resampling import (
    METHODS,
    RADIUS,
    Decision,
    Way,
    Window,
    aligned,
    canonical_blocks,
    choose_method,
    decide,
    pixel_steps,
    read_amplification,
    source_window,
    whole_turn,
)

UTM = "EPSG:32632"
GRID = Grid(UTM, 500_000, 5_000_000, 30, 30, width=400, height=200)


def source_of(crs: str, transform: Affine, width: int, height: int, block: tuple[int, int] = (256, 256)) -> Source:
    header = Header("a.tif", "GTiff", crs, transform, width, height, (Band(1, "float32"),), block)
    return Source((Placed(header),), crs, transform, width, height)


def on_grid(pixel: float, dx: float = 0.0, dy: float = 0.0, crs: str = UTM) -> Source:
    """A source that covers GRID with `pixel` metres, moved by dx and dy metres."""
    count = math.ceil(12_000 / pixel), math.ceil(6000 / pixel)
    return source_of(crs, north_up(500_000 + dx, 5_000_000 + dy, pixel), *count)


def decision(source: Source, grid: Grid = GRID, kind: Kind = Kind.CONTINUOUS, **given: Any) -> Decision:
    asked = {"tolerance": "auto", "alignment": 0.01, "passthrough": True} | given
    layer = Layer("a", ("a.tif",), resampling=asked.pop("resampling", "auto"))
    found = decide(grid, source, layer, kind, **asked)
    return found[0]


@pytest.mark.parametrize(
    ("kind", "shrink", "method"),
    [
        (Kind.CONTINUOUS, 0.2, "bilinear"),
        (Kind.CONTINUOUS, 1.0, "bilinear"),
        (Kind.CONTINUOUS, 1.4999, "bilinear"),
        (Kind.CONTINUOUS, 1.5, "average"),
        (Kind.CONTINUOUS, 10, "average"),
        (Kind.CATEGORICAL, 0.2, "nearest"),
        (Kind.CATEGORICAL, 1.4999, "nearest"),
        (Kind.CATEGORICAL, 1.5, "mode"),
        (Kind.COUNT, 0.2, "sum"),
        (Kind.COUNT, 10, "sum"),
    ],
)
def test_auto_follows_kind_and_shrink(kind: Kind, shrink: float, method: str) -> None:
    found, why = choose_method("a", "auto", kind, shrink)
    assert found == method
    assert why.startswith("auto")


def test_a_method_is_taken_by_its_gdal_name_where_it_makes_sense_for_the_kind() -> None:
    allowed = {Kind.CONTINUOUS: set(METHODS) - {"sum"}, Kind.CATEGORICAL: {"nearest", "mode"}, Kind.COUNT: {"sum"}}
    for kind, methods in allowed.items():
        for method in METHODS:
            if method in methods:
                assert choose_method("a", method, kind, 2) == (method, "as the settings ask")
            else:
                with pytest.raises(SettingsError, match=f"{method}.* makes no sense for kind = '{kind.value}'"):
                    choose_method("a", method, kind, 2)


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="layer dem: resampling = 'bicubic' is no method") as caught:
        choose_method("dem", "bicubic", Kind.CONTINUOUS, 1)
    assert "cubic_spline" in caught.value.cure


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (on_grid(30), ((1, 1), (0, 0))),
        (on_grid(30, dx=-90, dy=60), ((1, 1), (2, 3))),  # the grid's corner is pixel row 2, column 3
        (on_grid(15), ((2, 2), (0, 0))),
        (on_grid(10, dx=-10), ((3, 3), (0, 1))),
        (source_of(UTM, Affine(10, 0, 500_000, 0, -15, 5_000_000), 1200, 400), ((2, 3), (0, 0))),
        (on_grid(30, dx=0.2), ((1, 1), (0, 0))),  # off by 0.0067 pixels
        (on_grid(30, dx=0.4), None),  # off by 0.0133 pixels
        (on_grid(30, dx=15), None),  # the silent half-pixel shift
        (on_grid(30, dy=15), None),
        (on_grid(20), None),  # 1.5 pixels to a cell
        (on_grid(60), None),  # coarser than the grid
        (on_grid(30, crs="EPSG:32633"), None),
        (source_of(UTM, Affine(30, 0, 500_000, 0, 30, 4_994_000), 400, 200), None),  # south-up
        (source_of(UTM, Affine.rotation(1) @ north_up(500_000, 5_000_000, 30), 400, 200), None),
    ],
)
def test_aligned_means_a_whole_number_of_pixels_in_each_cell(source: Source, expected: Any) -> None:
    assert aligned(GRID, source, 0.01) == expected


@pytest.mark.parametrize(("relative", "expected"), [(1e-5, None), (1e-6, ((1, 1), (0, 0)))])
def test_aligned_looks_at_the_far_corner_too(relative: float, expected: Any) -> None:
    # the same corner; after 4000 cells a pixel that is 1e-5 too large is off by 0.04 of a pixel, 1e-6 by 0.004
    grid = Grid(UTM, 500_000, 5_000_000, 30, 30, width=4000, height=10)
    source = source_of(UTM, north_up(500_000, 5_000_000, 30 * (1 + relative)), 4000, 10)
    assert aligned(grid, source, 0.01) == expected


@pytest.mark.parametrize(
    ("source", "resampling", "way"),
    [
        (on_grid(30), "auto", Way.COPY),
        *((on_grid(30), m, Way.COPY) for m in METHODS if m not in ("cubic_spline", "sum", "std")),
        (on_grid(30), "std", Way.DECIMATE),  # of one pixel it is 0
        (on_grid(30), "cubic_spline", Way.WARP),  # a spline smooths, also where nothing moves
        *((on_grid(15), m, Way.DECIMATE) for m in ("nearest", "average", "mode", "std")),
        *((on_grid(15), m, Way.WARP) for m in METHODS if m not in ("nearest", "average", "mode", "std", "sum")),
        (on_grid(30, dx=15), "nearest", Way.WARP),
        (on_grid(30, crs="EPSG:32633"), "nearest", None),  # a zone farther east: does not meet
    ],
)
def test_the_cheapest_way_that_is_right(source: Source, resampling: str, way: Way | None) -> None:
    layer = Layer("a", (), resampling=resampling)
    found = decide(GRID, source, layer, Kind.CONTINUOUS, tolerance="auto", alignment=0.01, passthrough=True)
    assert [d.way for d in found] == ([] if way is None else [way])
    if found and way is not Way.WARP:
        assert decision(source, resampling=resampling, passthrough=False).way is Way.WARP


def test_counts_are_copied_on_the_grid_and_warped_off_it() -> None:
    assert decision(on_grid(30), kind=Kind.COUNT).way is Way.COPY
    found = decision(on_grid(15), kind=Kind.COUNT)
    assert (found.way, found.method, found.scale) == (Way.WARP, "sum", None)


@pytest.mark.parametrize("method", METHODS)
def test_scale_and_halo_belong_to_method_and_layer(method: str) -> None:
    kind = Kind.COUNT if method == "sum" else Kind.CONTINUOUS
    plain = decision(on_grid(30 / 1.4), kind=kind, resampling=method, passthrough=False)
    shrunk = decision(on_grid(12), kind=kind, resampling=method, passthrough=False)  # 2.5 pixels to a cell
    if method not in RADIUS:
        assert (plain.scale, plain.halo, shrunk.scale, shrunk.halo) == (None, 2, None, 2)
        return
    radius = {"bilinear": 1, "cubic": 2, "cubic_spline": 2, "lanczos": 3}[method]
    assert (plain.scale, plain.halo) == ((1.0, 1.0), radius + 2)
    assert (shrunk.scale, shrunk.halo) == ((2.5, 2.5), math.ceil(2.5 * radius) + 2)


@pytest.mark.parametrize(
    ("tolerance", "method", "pixels"),
    [
        ("auto", "nearest", 1e-12),
        ("auto", "mode", 1e-12),
        ("auto", "bilinear", 0.01),
        ("auto", "average", 0.01),
        ("exact", "bilinear", 1e-12),
        ("exact", "nearest", 1e-12),
        (0.125, "bilinear", 0.125),
        (0.125, "nearest", 0.125),
    ],
)
def test_tolerance_is_exact_for_classes_unless_the_settings_say_otherwise(
    tolerance: str | float, method: str, pixels: float
) -> None:
    assert decision(on_grid(20), resampling=method, tolerance=tolerance).tolerance == pixels


@pytest.mark.parametrize(
    ("pixel", "edges"), [(30, {512}), (30 / 7.5, {512}), (30 / 8.5, {256}), (1.5, {128}), (0.05, {4})]
)
def test_blocks_are_quartered_until_the_window_fits(pixel: float, edges: set[int]) -> None:
    # 512 cells x 7.5 pixels are 3840; 128 x 20 are 2560 where 256 x 20 would be 5120; 4 x 600 are 2400, 8 x 600 4800
    grid = Grid(UTM, 500_000, 5_000_000, 30, 30, width=512, height=512)
    pixels = int(512 * 30 / pixel)
    found = decision(source_of(UTM, north_up(500_000, 5_000_000, pixel), pixels, pixels), grid, resampling="max")
    blocks = list(canonical_blocks(grid, found, Tile(0, 0, 0, 512, 512)))
    assert {b.width for b, _ in blocks} == {b.height for b, _ in blocks} == edges
    assert sum(b.cells for b, _ in blocks) == grid.cells
    assert max(w.pixels for _, w in blocks) <= 4096**2


def test_a_scale_that_varies_over_the_grid_is_said_and_average_named() -> None:
    # Mercator from the equator to 70 N: a cell spans 1 / cos(70) = 2.9 times as many pixels here as there
    grid = Grid("EPSG:3857", 0, 11_000_000, 20_000, 20_000, width=50, height=550)
    source = source_of("EPSG:4326", north_up(0, 75, 0.01), 1000, 7500)
    assert "average" in decision(source, grid, resampling="bilinear").note
    assert decision(on_grid(12), resampling="bilinear").note == ""


def test_steps_are_the_pixels_that_a_cell_spans() -> None:
    found = pixel_steps(GRID, on_grid(10))
    assert found is not None
    assert found[0] == pytest.approx(np.full(441, 3.0))
    assert found[1] == pytest.approx(np.full(441, 3.0))
    wide = pixel_steps(GRID, source_of(UTM, Affine(60, 0, 500_000, 0, -15, 5_000_000), 200, 400))
    assert wide is not None
    assert (wide[0][0], wide[1][0]) == (pytest.approx(0.5), pytest.approx(2.0))
    turned = Affine.translation(506_000, 4_997_000) @ Affine.rotation(45) @ north_up(-9000, 9000, 10)
    rotated = pixel_steps(GRID, source_of(UTM, turned, 1800, 1800))
    assert rotated is not None
    assert rotated[0] == pytest.approx(np.full(441, 3.0))


def test_a_source_smaller_than_the_sampling_still_has_steps_and_one_outside_has_none() -> None:
    little = pixel_steps(GRID, source_of(UTM, north_up(500_100, 4_999_800, 10), 2, 2))
    assert little is not None
    assert np.median(little[0]) == pytest.approx(3.0)
    assert pixel_steps(GRID, source_of(UTM, north_up(600_000, 5_000_000, 10), 100, 100)) is None
    assert pixel_steps(GRID, source_of(UTM, north_up(512_000, 5_000_000, 10), 9, 9)) is None, "a common edge"


def test_the_window_is_none_apart_and_cut_to_the_source() -> None:
    block = Tile(0, 0, 0, 100, 100)
    assert source_window(GRID, block, source_of(UTM, north_up(600_000, 5_000_000, 30), 50, 50), 2) is None
    assert source_window(GRID, block, on_grid(30), 2) == Window(0, 0, 102, 102)
    assert source_window(GRID, Tile(0, 50, 60, 10, 20), on_grid(30), 3) == Window(47, 57, 16, 26)


PLACES = {  # CRS: where its use is fair (west, south, east, north)
    UTM: (3, 0, 15, 80),
    "EPSG:3035": (-10, 35, 40, 70),
    "EPSG:4326": (-170, -85, 170, 85),
    "EPSG:3857": (-170, -80, 170, 80),
    "EPSG:3031": (-170, -84, 170, -55),
    "EPSG:3413": (-170, 55, 170, 84),
}


def outside(grid: Grid, block: Tile, source: Source) -> float:
    """Pixels by which the corners of the block's cells that lie in the source miss its window (0: none does)."""
    col, row = np.meshgrid(np.arange(block.width + 1) + block.col, np.arange(block.height + 1) + block.row)
    to_source = pyproj.Transformer.from_crs(grid.crs, source.crs, always_xy=True)
    x, y = to_source.transform(grid.x0 + col * grid.dx, grid.y0 - row * grid.dy)
    px, py = ~source.transform @ (x, y)
    here = (px >= 0) & (px <= source.width) & (py >= 0) & (py <= source.height)
    if not here.any():
        return 0.0
    w = source_window(grid, block, source, 0)
    if w is None:
        return math.inf
    px, py = px[here], py[here]
    around = whole_turn(source)
    if around is not None:  # a column may be met in another turn
        px = px + around * np.ceil((w.col - px) / around)
    misses = (w.col - px).max(), (px - w.col - w.width).max(), (w.row - py).max(), (py - w.row - w.height).max()
    return max(0.0, *misses)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_window_holds_every_corner_of_every_cell(data: st.DataObject) -> None:
    crs, other = data.draw(st.permutations(sorted(PLACES)).map(lambda p: p[:2]))
    box = [f(a, b) for f, a, b in zip((max, max, min, min), PLACES[crs], PLACES[other], strict=True)]
    assume(box[0] < box[2] and box[1] < box[3])
    lon, lat = data.draw(st.floats(box[0], box[2])), data.draw(st.floats(box[1], box[3]))
    height, width = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 150))
    metres = data.draw(st.floats(5, 3000))
    ratio, size = data.draw(st.floats(0.2, 20)), data.draw(st.integers(10, 4000))
    grid_unit, source_unit = (metres / (111_000 if c == "EPSG:4326" else 1) for c in (crs, other))
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
    grid = Grid(crs, x - width / 2 * grid_unit, y + height / 2 * grid_unit, grid_unit, grid_unit, width, height)
    x, y = pyproj.Transformer.from_crs("EPSG:4326", other, always_xy=True).transform(lon, lat)
    pixel = source_unit / ratio
    source = source_of(other, north_up(x - size / 2 * pixel, y + size / 2 * pixel, pixel), size, size)
    assert outside(grid, Tile(0, 0, 0, height, width), source) == 0


@pytest.mark.parametrize(("crs", "top"), [("EPSG:3031", -85), ("EPSG:3413", 90)])
@pytest.mark.parametrize("pole", [(256, 256), (16, 16), (100.3, 200.7), (272, 240), (1.9, 108.7)])
def test_the_window_reaches_a_pole_and_both_sides_of_the_antimeridian(
    crs: str, top: int, pole: tuple[float, float]
) -> None:
    # 512 x 512 cells of 1 km with the pole at a column and row among them; pixels of 0.01 degree, 5 degrees of latitude
    grid = Grid(crs, -pole[0] * 1000, pole[1] * 1000, 1000, 1000, 512, 512)
    source = source_of("EPSG:4326", north_up(-180, top, 0.01), 36_000, 500)
    assert outside(grid, Tile(0, 0, 0, 512, 512), source) == 0


@pytest.mark.parametrize(
    ("block", "factor"),
    [((512, 512), 1.0), ((256, 256), 1.0), ((1, 2048), 4.0), ((1024, 1024), 4.0), ((2048, 2048), 16.0)],
)
def test_read_amplification_counts_how_often_a_stored_block_is_decoded(block: tuple[int, int], factor: float) -> None:
    # 4 x 4 tiles of 512 cells on 2048 x 2048 pixels: a strip of one row is decoded for each of the 4 tile columns
    grid = Grid(UTM, 500_000, 5_000_000, 30, 30, width=2048, height=2048)
    found = decision(source_of(UTM, north_up(500_000, 5_000_000, 30), 2048, 2048, block), grid)
    assert found.way is Way.COPY
    assert read_amplification(grid, found, 512) == factor
