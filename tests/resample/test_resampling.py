"""The rules of resampling: which method, which way to the grid, which scale, how exact the places."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from affine import Affine
from helpers import north_up
from sources import GRID, UTM, decision, on_grid, source_of

from geopipe.errors import SettingsError
from geopipe.grid.grid import Grid
from geopipe.layers.layer import Kind, Layer, Source
from geopipe.resample.methods import METHODS, RADIUS, Route, RouteRules, choose_method, decide
from geopipe.resample.pixels import aligned, pixel_steps


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
    chosen, why = choose_method("a", "auto", kind, shrink)
    assert chosen == method
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
    assert "cubic_spline" in caught.value.hint


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
        (on_grid(30), "auto", Route.COPY),
        *((on_grid(30), m, Route.COPY) for m in METHODS if m not in ("cubic_spline", "sum", "std")),
        (on_grid(30), "std", Route.DECIMATE),  # of one pixel it is 0
        (on_grid(30), "cubic_spline", Route.WARP),  # a spline smooths, also where nothing moves
        *((on_grid(15), m, Route.DECIMATE) for m in METHODS if m not in (*RADIUS, "sum")),
        *((on_grid(15), m, Route.WARP) for m in RADIUS),
        (on_grid(30, dx=15), "nearest", Route.WARP),
        (on_grid(30, crs="EPSG:32633"), "nearest", None),  # a zone farther east: does not meet
    ],
)
def test_the_cheapest_way_that_is_right(source: Source, resampling: str, way: Route | None) -> None:
    layer = Layer("a", (), resampling=resampling)
    decisions = decide(GRID, source, layer, Kind.CONTINUOUS, RouteRules())
    assert [d.route for d in decisions] == ([] if way is None else [way])
    if decisions and way is not Route.WARP:
        assert decision(source, resampling=resampling, passthrough=False).route is Route.WARP


def test_counts_are_copied_on_the_grid_and_summed_off_it() -> None:
    choices = [decision(on_grid(pixel), kind=Kind.COUNT) for pixel in (30, 15, 20)]
    assert [d.route for d in choices] == [Route.COPY, Route.DECIMATE, Route.WARP]
    assert {(d.method, d.scale) for d in choices} == {("sum", None)}


@pytest.mark.parametrize("method", METHODS)
def test_kernels_have_a_scale_that_belongs_to_the_layer(method: str) -> None:
    kind = Kind.COUNT if method == "sum" else Kind.CONTINUOUS
    plain = decision(on_grid(30 / 1.4), kind=kind, resampling=method, passthrough=False)
    shrunk = decision(on_grid(12), kind=kind, resampling=method, passthrough=False)  # 2.5 pixels to a cell
    assert (plain.scale, shrunk.scale) == (((1.0, 1.0), (2.5, 2.5)) if method in RADIUS else (None, None))


@pytest.mark.parametrize(
    ("tolerance", "method", "pixels"),
    [
        ("auto", "nearest", 0),
        ("auto", "mode", 1e-4),
        ("auto", "bilinear", 0.01),
        ("auto", "average", 0.01),
        ("exact", "bilinear", 0),
        ("exact", "nearest", 0),
        (0.125, "bilinear", 0.125),
        (0.125, "nearest", 0.125),
    ],
)
def test_tolerance_is_closer_for_classes_unless_the_settings_say_otherwise(
    tolerance: str | float, method: str, pixels: float
) -> None:
    assert decision(on_grid(20), resampling=method, tolerance=tolerance).tolerance == pixels


def test_a_scale_that_varies_over_the_grid_is_said_and_average_named() -> None:
    # Mercator from the equator to 70 N: a cell spans 1 / cos(70) = 2.9 times as many pixels here as there
    grid = Grid("EPSG:3857", 0, 11_000_000, 20_000, 20_000, width=50, height=550)
    source = source_of("EPSG:4326", north_up(0, 75, 0.01), 1000, 7500)
    assert "average" in decision(source, grid, resampling="bilinear").note
    assert decision(on_grid(12), resampling="bilinear").note == ""


def test_steps_are_the_pixels_that_a_cell_spans() -> None:
    result = pixel_steps(GRID, on_grid(10))
    assert result is not None
    assert result[0] == pytest.approx(np.full(441, 3.0))
    assert result[1] == pytest.approx(np.full(441, 3.0))
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
