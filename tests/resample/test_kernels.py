"""The arithmetic of resampling, by tables computed by hand and by exactextract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from areas import block_statistic
from exactextract import exact_extract
from exactextract.feature import JSONFeatureSource
from exactextract.raster import NumPyRasterSource
from hypothesis import given, settings
from hypothesis import strategies as st

from geopipe.resample import kernels
from geopipe.resample.footprints import Footprints, Lattice
from geopipe.resample.places import polynomial

NAN = np.nan
PIXELS = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, NAN]], "float64")


def footprint(statistic: str, outline: list[tuple[float, float]], pixels: np.ndarray = PIXELS, **about: Any) -> float:
    """A statistic of one cell: its corners as (col, row), from the upper left clockwise."""
    return cell(statistic, outline, pixels, **about)[0]


def cell(statistic: str, outline: list[tuple[float, float]], pixels: np.ndarray, **about: Any) -> tuple[float, float]:
    (a, b, c, d) = outline
    cols, rows = (np.array([[a[k], b[k]], [d[k], c[k]]], "float64") for k in (0, 1))
    footprints = Footprints(Lattice(cols, rows), **about)
    result, share = block_statistic(statistic, footprints, pixels)
    return float(result[0, 0]) if share[0, 0] else NAN, float(share[0, 0])


def box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [  # under the box: half of 1, 2; a quarter of 5, 6 -> areas 0.5, 1, 0.25, 0.5
        ("average", (0.5 * 1 + 2 + 0.25 * 5 + 0.5 * 6) / 2.25),
        ("sum", 0.5 * 1 + 2 + 0.25 * 5 + 0.5 * 6),
        ("rms", ((0.5 * 1 + 4 + 0.25 * 25 + 0.5 * 36) / 2.25) ** 0.5),
        ("std", ((0.5 * 1 + 4 + 0.25 * 25 + 0.5 * 36) / 2.25 - 3.0**2) ** 0.5),
        ("min", 1),
        ("max", 6),
        ("mode", 2),
        ("q1", 2),  # 0.5 of the 0.5625 that are wanted lie below 2
        ("med", 2),
        ("q3", 5),
    ],
)
def test_pixels_count_by_the_area_that_they_have_in_the_cell(statistic: str, expected: float) -> None:
    assert footprint(statistic, box(0.5, 0, 2, 1.5)) == pytest.approx(expected, rel=1e-12)


def test_a_quarter_of_a_pixel_more_turns_a_quantile() -> None:
    values = np.array([[1, 2, 3, 4]], "float64")
    assert [footprint(s, box(0, 0, 4, 1), values) for s in ("q1", "med", "q3")] == [1, 2, 3]
    assert [footprint(s, box(0.5, 0, 4, 1), values) for s in ("q1", "med", "q3")] == [2, 3, 4]


def test_of_equal_areas_the_smaller_class_wins() -> None:
    values = np.array([[9, 4, 4, 9, 7]], "float64")
    assert footprint("mode", box(0, 0, 4, 1), values) == 4
    assert footprint("mode", box(2.5, 0, 5, 1), values) == 7
    assert footprint("mode", box(0, 0, 5, 1), values) == 4
    assert footprint("mode", box(3, 0, 5, 1), values) == 7
    assert footprint("mode", box(0, 0, 1, 1), values) == 9


def test_missing_pixels_are_left_out_and_make_the_share() -> None:
    assert cell("average", box(2, 1, 4, 3), PIXELS) == (pytest.approx((7 + 8 + 11) / 3), pytest.approx(0.75))
    assert cell("average", box(3, 2, 4, 3), PIXELS)[1] == 0
    assert np.isnan(cell("average", box(3, 2, 4, 3), PIXELS)[0])
    value, share = cell("sum", box(3.5, 0, 5.5, 1), PIXELS)  # a quarter of the cell lies in the source
    assert (value, share) == (pytest.approx(2), pytest.approx(0.25))


def test_a_diamond_has_half_of_four_pixels() -> None:
    diamond = [(2.0, 0.0), (3.0, 1.0), (2.0, 2.0), (1.0, 1.0)]
    assert footprint("sum", diamond) == pytest.approx((2 + 3 + 6 + 7) / 2)
    assert footprint("sum", diamond[::-1]) == pytest.approx((2 + 3 + 6 + 7) / 2), "whichever way it runs"
    assert footprint("min", diamond) == 2


def test_a_cell_without_an_image_or_longer_than_a_cell_can_be_is_missing() -> None:
    assert np.isnan(footprint("sum", [(0, 0), (NAN, 0), (2, 2), (0, 2)]))
    assert np.isnan(footprint("sum", [(0, 0), (np.inf, 0), (2, 2), (0, 2)]))
    assert footprint("sum", box(0, 0, 4, 1)) == 10
    assert np.isnan(footprint("sum", box(0, 0, 4, 1), longest=3.5))


def test_longitudes_go_round_and_a_pole_closes_its_cell() -> None:
    """Twelve columns are a turn; the pole is the upper edge of the first row."""
    world = np.arange(24, dtype="float64").reshape(2, 12)
    about = {"pixels_per_360": 12.0, "poles": (0.0, 6.0)}
    assert footprint("sum", [(11, 0), (1, 0), (1, 1), (11, 1)], world, wrap=12, **about) == 11 + 0
    # corners at four longitudes around the pole, half a row down: half of every pixel of the first row
    ring = [(1.5, 0.5), (4.5, 0.5), (7.5, 0.5), (10.5, 0.5)]
    assert footprint("sum", ring, world, wrap=12, **about) == pytest.approx(world[0].sum() / 2)
    assert footprint("sum", ring[::-1], world, wrap=12, **about) == pytest.approx(world[0].sum() / 2)
    # a corner at the pole has all longitudes: the cell is a quarter of the cap, whatever longitude PROJ gives it
    for any_longitude in (0.0, 5.0, 11.9):
        corner = [(any_longitude, 0.0), (3.0, 1.0), (1.5, 1.0), (0.0, 1.0)]
        assert footprint("sum", corner, world, wrap=12, **about) == pytest.approx(0 + 1 + 2)


@given(
    centre=st.tuples(st.floats(-2, 14), st.floats(-2, 11)),
    size=st.floats(0.05, 9),
    angles=st.lists(st.floats(0.1, 1), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
@settings(max_examples=200)
def test_areas_are_exactextracts(centre: tuple[float, float], size: float, angles: list[float], seed: int) -> None:
    """Any convex cell on noise with holes; coordinates of exactextract run upward."""
    height, width = 9, 12
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(1, 100, (height, width))
    pixels[rng.random(pixels.shape) < 0.2] = NAN
    at = np.cumsum(angles) / (sum(angles) + 0.1) * 2 * np.pi
    outline = [(centre[0] + size * float(np.cos(a)), centre[1] + size * float(np.sin(a))) for a in at]
    ring = [[x, height - y] for x, y in [*outline, outline[0]]]
    shape = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    values = exact_extract(
        NumPyRasterSource(pixels, 0, 0, width, height), JSONFeatureSource([shape]), ["count", "mean", "sum"]
    )[0]["properties"]
    if values["count"] < 1e-6:
        return
    mean, share = cell("average", outline, pixels)
    x, y = np.array(outline).T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert mean == pytest.approx(values["mean"], rel=1e-5)  # exactextract counts areas in float32
    assert footprint("sum", outline, pixels) == pytest.approx(values["sum"], rel=1e-5)
    assert share == pytest.approx(values["count"] / area, rel=1e-4)


@given(box_edges=st.tuples(st.floats(-2, 6), st.floats(-2, 4), st.floats(0.05, 9), st.floats(0.05, 9)))
@settings(max_examples=100, deadline=None)
def test_areas_of_rectangles_are_exactextracts(box_edges: tuple[float, float, float, float]) -> None:
    left, top, across, down = box_edges
    outline = box(left, top, left + across, top + down)
    ring = [[x, 3 - y] for x, y in [*outline, outline[0]]]
    shape = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    values = exact_extract(NumPyRasterSource(PIXELS, 0, 0, 4, 3), JSONFeatureSource([shape]), ["count", "mean", "sum"])
    expected = values[0]["properties"]
    if expected["count"] < 1e-6:
        return
    mean, share = cell("average", outline, PIXELS, is_parallel=True)
    assert mean == pytest.approx(expected["mean"], rel=1e-5)  # exactextract counts areas in float32
    assert footprint("sum", outline, PIXELS, is_parallel=True) == pytest.approx(expected["sum"], rel=1e-5)
    assert share == pytest.approx(expected["count"] / (across * down), rel=1e-4)


@pytest.mark.parametrize(
    ("method", "at", "expected"),
    [
        ("bilinear", 1.5, 2.0),  # a pixel's own centre
        ("bilinear", 2.0, 2.5),
        ("bilinear", 1.75, 2.25),
        ("cubic", 1.5, 2.0),
        ("cubic", 2.0, (-1 + 9 * 2 + 9 * 3 - 4) / 16),
        ("cubic_spline", 1.5, 2.0),
        ("cubic_spline", 1.5 + 1e-6, (1 + 4 * 2 + 3) / 6 + 1e-6),
        ("cubic_spline", 2.0, (1 + 23 * 2 + 23 * 3 + 4) / 48),
        ("lanczos", 2.5, 3.0),
    ],
)
def test_kernels_have_the_weights_of_the_textbooks(method: str, at: float, expected: float) -> None:
    row = np.array([[1, 2, 3, 4, 8, 16]], "float64")
    code = kernels.INTERPOLATIONS.index(method)
    values, _ = kernels.interpolate(row, np.array([[at]]), np.array([[0.5]]), (0, 0), code, (1.0, 1.0))
    assert values.item() == pytest.approx(expected, rel=1e-12)


def interpolated(method: str, pixels: np.ndarray, x: float, y: float, scale: float = 1.0) -> float:
    code = kernels.INTERPOLATIONS.index(method)
    values, valid = kernels.interpolate(pixels, np.array([[x]]), np.array([[y]]), (0, 0), code, (scale, scale))
    return float(values.item()) if valid.item() else NAN


def test_an_infinite_pixel_without_weight_makes_no_hole() -> None:
    pixels = np.array([[1, 2, 3], [4, np.inf, 6], [7, 8, 9]], "float64")
    assert interpolated("bilinear", pixels, 1.75, 0.5) == 2.25, "the row below has no weight"
    assert interpolated("bilinear", pixels, 0.5, 1.25) == 3.25, "nor has the column to the right"
    assert interpolated("bilinear", pixels, 1.0, 0.75) == np.inf


def test_a_place_outside_or_in_a_missing_pixel_is_missing() -> None:
    assert np.isnan(interpolated("bilinear", PIXELS, 3.5, 2.5))
    assert np.isnan(interpolated("bilinear", PIXELS, -0.01, 1))
    assert np.isnan(interpolated("bilinear", PIXELS, 4.0, 1))
    assert np.isnan(interpolated("bilinear", PIXELS, NAN, 1))
    assert interpolated("bilinear", PIXELS, 0.2, 0.5) == 1, "beyond the middle of the first pixel there is only it"


@pytest.mark.parametrize("method", ["cubic", "lanczos"])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_beside_a_hole_negative_weights_give_way_to_bilinear(method: str, scale: float) -> None:
    assert interpolated(method, PIXELS, 2.2, 1.7, scale) == interpolated("bilinear", PIXELS, 2.2, 1.7, scale)
    whole = np.arange(900, dtype="float64").reshape(30, 30) ** 2
    assert interpolated(method, whole, 15.2, 14.7, scale) != interpolated("bilinear", whole, 15.2, 14.7, scale)


def test_a_wider_kernel_is_an_average_of_more_pixels() -> None:
    row = np.array([[0, 0, 0, 12, 0, 0, 0]], "float64")
    assert interpolated("bilinear", row, 3.5, 0.5) == 12
    # a triangle 2 pixels to a side: weights 1/2, 1, 1/2
    assert interpolated("bilinear", row, 3.5, 0.5, scale=2.0) == 6


def test_a_polynomial_on_a_lattice() -> None:
    coefficients = np.array([[1.0, 2.0], [3.0, 4.0]])  # 1 + 2x + 3y + 4xy
    x, y = np.array([0.0, 1.0, 2.0]), np.array([0.0, 10.0])
    values = polynomial(coefficients, np.stack([y**0, y], axis=1), np.stack([x**0, x]))
    assert values.tolist() == [[1, 3, 5], [31, 73, 115]]
