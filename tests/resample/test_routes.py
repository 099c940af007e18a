"""Whole pixels, rectangles and polygons weight the same pixels alike; a fast path gives the bits of the careful one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from areas import block_statistic
from helpers import north_up, plan_of, table_of, write_raster
from hypothesis import given, settings
from hypothesis import strategies as st

from geopipe.grid.grid import Grid
from geopipe.layers.layer import Kind, Layer
from geopipe.plan.plan import Plan
from geopipe.plan.text import plan_text
from geopipe.resample import footprints as values
from geopipe.resample import kernels
from geopipe.resample.coverage import EVERYWHERE, PART
from geopipe.resample.footprints import Footprints, Lattice
from geopipe.resample.locate import canonical_blocks
from geopipe.resample.methods import Route, Window
from geopipe.resample.statistics import STATISTICS, Whole, statistic_of

UTM, LAEA = "EPSG:32633", "EPSG:3035"


def noise(seed: int, shape: tuple[int, int], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels with holes, and their mask: floats, classes as floats, or integers of 64 bits."""
    rng = np.random.default_rng(seed)
    valid = rng.random(shape) < 0.85
    if kind == "integers":
        return rng.integers(-(2**62), 2**62, shape), valid
    pixels = rng.integers(0, 300, shape) if kind == "classes" else rng.normal(50, 20, shape)
    return np.where(valid, pixels, np.nan).astype("float32"), EVERYWHERE


@given(
    start=st.tuples(st.floats(-30, 30), st.floats(-30, 30)),
    step=st.tuples(st.floats(0.2, 9), st.floats(0.2, 9)),
    flips=st.tuples(st.booleans(), st.booleans()),
    around=st.booleans(),
    kind=st.sampled_from(["floats", "classes"]),
)
@settings(max_examples=150)
def test_rectangles_have_the_statistics_of_polygons(
    start: tuple[float, float], step: tuple[float, float], flips: tuple[bool, bool], around: bool, kind: str
) -> None:
    """Statistics that are one of the pixels may differ where areas are equal but for rounding."""
    across, down = (s + n * d for s, n, d in zip(start, (np.arange(8.0), np.arange(7.0)), step, strict=True))
    lattice = Lattice(*np.meshgrid(across[:: -1 if flips[0] else 1], down[:: -1 if flips[1] else 1]))
    pixels, valid = noise(3, (40, 60), kind)
    about = {"pixels_per_360": 60.0, "wrap": 60, "poles": (-1000.0, 1000.0)} if around else {}
    for name in ("average", "std", "rms", "sum", "min", "max", "med"):
        (rectangles, share), (polygons, same_share) = (
            block_statistic(name, Footprints(lattice, is_parallel=b, **about), pixels, valid) for b in (True, False)
        )
        assert np.allclose(share, same_share, rtol=0, atol=1e-7), "float32"
        some = (share > 0) & (same_share > 0)
        if name in ("min", "max"):
            some &= np.minimum(share, same_share) > 1e-6
        if name != "med":
            assert np.allclose(rectangles[some], polygons[some], rtol=2e-7, atol=1e-5), name
        else:
            assert np.mean(rectangles[some] == polygons[some]) > 0.9 if some.any() else True


def test_areas_of_rectangles_are_those_of_polygons_to_twelve_digits() -> None:
    lattice = Lattice(*np.meshgrid(0.37 + 3.3 * np.arange(31), 0.11 + 2.7 * np.arange(21)))
    window = Window(2, 1, 40, 80)
    (rectangles,), (polygons,) = (list(Footprints(lattice, is_parallel=b).coverages(window)) for b in (True, False))
    for name in ("starts", "rows", "cols", "offsets"):
        assert np.array_equal(getattr(rectangles, name), getattr(polygons, name)), name
    for name in ("areas", "sizes"):
        assert np.allclose(getattr(rectangles, name), getattr(polygons, name), rtol=0, atol=1e-12), name


@pytest.mark.parametrize("kind", ["floats", "classes", "integers"])
@pytest.mark.parametrize("ratio", [(1, 2), (2, 2), (3, 5), (9, 8)])
def test_whole_pixels_have_the_statistics_of_polygons_to_the_bit(ratio: tuple[int, int], kind: str) -> None:
    down, across = ratio
    pixels, valid = noise(5, (11 * down, 7 * across), kind)
    pixels[:down, :across] = pixels[0, 0]
    lattice = Lattice(*np.meshgrid(np.arange(8.0) * across, np.arange(12.0) * down))
    moments = None
    for name in STATISTICS if kind != "integers" else ("min", "max", "med", "q1", "q3", "mode"):
        polygons, share = block_statistic(name, Footprints(lattice), pixels, valid)
        for known in (None, moments):
            counted, moments = statistic_of(name, pixels, valid, Whole(*ratio), known)
            areas, counted = moments.areas.reshape(share.shape), counted.reshape(share.shape)
            assert np.array_equal((areas / (down * across)).astype("float32"), share)
            assert np.array_equal(counted[share > 0], polygons[share > 0]), name


@pytest.mark.parametrize(
    ("crs", "grid", "expected"),
    [
        ("EPSG:4326", Grid("EPSG:4326", 10, 50, 0.02, 0.02, width=40, height=30), "whole pixels"),
        ("EPSG:4326", Grid("EPSG:4326", 10.003, 49.996, 0.02, 0.02, width=40, height=30), "rectangles"),
        ("EPSG:4326", Grid("EPSG:3857", 1_120_000, 6_400_000, 3000, 3000, width=40, height=30), "rectangles"),
        ("EPSG:4326", Grid("EPSG:6933", 970_000, 5_540_000, 3000, 3000, width=30, height=20), "rectangles"),
        ("EPSG:4326", Grid(UTM, 200_000, 5_500_000, 3000, 3000, width=40, height=30), "polygons"),
        ("EPSG:4326", Grid(LAEA, 4_330_000, 2_980_000, 3000, 3000, width=40, height=30), "polygons"),
    ],
)
def test_the_plan_says_how_pixels_under_a_cell_are_weighted(
    tmp_path: Path, crs: str, grid: Grid, expected: str
) -> None:
    pixels = np.random.default_rng(1).normal(0, 1, (300, 400)).astype("float32")
    path = write_raster(tmp_path / "a.tif", pixels, crs, north_up(9.5, 51, 0.01))
    plan = plan_of(grid, [Layer("a", (str(path),), resampling=("average", "bilinear"))])
    average, bilinear = plan.layers[0].decisions
    assert average.cells == expected
    assert bilinear.cells == "", "it weights no pixels under a cell"
    assert plan.describe()["layers"][0]["sources"][0]["cells"] == expected
    assert f"cells        {expected}" in plan_text(plan, False)


def one_route(plan: Plan, **changes: object) -> Plan:
    """The plan with other decisions."""
    layers = tuple(replace(p, decisions=tuple(replace(d, **changes) for d in p.decisions)) for p in plan.layers)
    return replace(plan, layers=layers)


def test_a_table_by_rectangles_is_that_by_polygons(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).normal(50, 9, (300, 400)).astype("float64")
    path = write_raster(tmp_path / "a.tif", pixels, "EPSG:4326", north_up(9.5, 51, 0.01), nodata=50)
    grid = Grid("EPSG:3857", 1_120_000, 6_400_000, 3000, 3000, width=40, height=30)
    layer = Layer("a", (str(path),), resampling=("average", "std", "min", "max"), min_valid=0.3)
    plan = plan_of(grid, [layer], tolerance="exact")
    rectangles, polygons = table_of(plan), table_of(one_route(plan, is_parallel=False))
    for name in ("a_average", "a_std", "a_min", "a_max"):
        assert np.allclose(rectangles[name], polygons[name], rtol=1e-12), name


def test_bands_and_statistics_of_a_block_share_one_coverage(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.ones((50, 50), "float32"), UTM, north_up(500_000, 5_000_000, 30))
    grid = Grid(UTM, 500_010, 4_999_990, 100, 100, width=12, height=12)
    plan = plan_of(grid, [Layer("a", (str(path),), resampling=("average", "min", "max", "rms"), valid_fraction=True)])
    decisions = plan.layers[0].decisions
    assert len({d.geometry for d in decisions}) == 1, "they are read together"
    (request,) = canonical_blocks(grid, decisions[0], plan.spec.tile(0))
    assert next(iter(request.coverages)) is next(iter(request.coverages))


def test_a_block_in_parts_has_the_same_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(4).normal(50, 9, (1200, 1200)).astype("float32")
    path = write_raster(tmp_path / "a.tif", pixels, UTM, north_up(500_000, 5_000_000, 10), nodata=50)
    grid = Grid(LAEA, 4_715_000, 2_462_500, 390, 390, width=24, height=24)
    words = ("average", "std", "mode", "med", "max")
    plan = plan_of(grid, [Layer("a", (str(path),), resampling=words, min_valid=0.1)])
    once = table_of(plan)
    monkeypatch.setattr(values, "COVERAGE_PIXELS", PART)
    (request, *_) = canonical_blocks(grid, plan.layers[0].decisions[0], plan.spec.tile(0))
    assert len(list(request.coverages)) > 1
    assert table_of(plan).equals(once)


def test_whole_pixels_of_a_source_that_ends_within_a_cell(tmp_path: Path) -> None:
    """Cells at its edges have a part of their pixels, those beyond none."""
    path = write_raster(tmp_path / "a.tif", np.full((5, 5), 7, "float32"), UTM, north_up(500_000, 5_000_000, 10))
    grid = Grid(UTM, 499_980, 5_000_020, 20, 20, width=6, height=6)
    plan = plan_of(grid, [Layer("a", (str(path),), kind=Kind.COUNT, valid_fraction=True)])
    assert plan.layers[0].decisions[0].route is Route.DECIMATE
    table = table_of(plan).to_pandas().pivot(index="row", columns="col", values="a")
    assert (list(table.index), list(table.columns)) == ([1, 2, 3], [1, 2, 3]), "rows of cells with a value"
    assert table.to_numpy().tolist() == [[28, 28, 14], [28, 28, 14], [14, 14, 7]]


@given(
    method=st.sampled_from(kernels.INTERPOLATIONS),
    scale=st.sampled_from([1.0, 1.0, 1.7, 3.0]),
    holes=st.sampled_from([0.0, 0.0, 0.02, 0.3]),
    infinite=st.booleans(),
    tilt=st.floats(-0.5, 0.5),
    step=st.sampled_from([0.25, 0.5, 0.9, 1.0]),
)
@settings(max_examples=100)
def test_an_interpolation_has_the_bits_of_a_look_at_each_pixel(
    method: str, scale: float, holes: float, infinite: bool, tilt: float, step: float
) -> None:
    rng = np.random.default_rng(8)
    pixels = rng.normal(0, 100, (24, 30)).astype("float32")
    pixels[rng.random(pixels.shape) < holes] = np.nan
    if infinite:
        pixels[5, 5] = np.inf
    j, i = np.meshgrid(np.arange(36), np.arange(34))
    cols, rows = step * j + tilt * i - 1.5, step * i - tilt * j + 2.5
    code = kernels.INTERPOLATIONS.index(method)
    result, valid = kernels.interpolate(pixels, cols, rows, (0, 0), code, (scale, scale))
    scratch = np.zeros(40), np.zeros(40)
    for at in np.ndindex(cols.shape):
        x, y = cols[at], rows[at]
        expected = np.nan
        if 0 <= x < 30 and 0 <= y < 24 and not np.isnan(pixels[int(y), int(x)]):
            expected = np.float32(kernels._around_missing(pixels, code, x, y, scale, scale, *scratch))
        assert valid[at] == ~np.isnan(expected)
        assert result[at] == (expected if valid[at] else 0), (at, x, y)
