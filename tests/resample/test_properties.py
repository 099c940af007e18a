"""Laws that hold for any raster and any grid: hypothesis looks for a case that breaks one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from affine import Affine
from helpers import plan_of, table_of, write_raster
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from scipy.ndimage import binary_erosion

from geopipe.errors import SourceError
from geopipe.grid.grid import BLOCK, Grid
from geopipe.layers.layer import Kind, Layer
from geopipe.resample.methods import METHODS, RADIUS
from geopipe.run import pipeline
from geopipe.settings.load import load

pytestmark = pytest.mark.slow

CRS = {  # with the size of a pixel of about 64 m; sizes and corners are powers of two, so that no sum is rounded
    "EPSG:32632": 64.0,
    "EPSG:32633": 64.0,
    "EPSG:3035": 64.0,
    "EPSG:3857": 96.0,
    "EPSG:4326": 2.0**-11,
    "ESRI:54008": 64.0,
}
SINGLE = 1e-5  # kernel weights in float32, of values up to 100
OVERSHOOT = {"cubic": 1.25**2, "lanczos": 1.5437**2}  # largest sum of |weights| over sum of weights, squared: two axes
PICTURING = [m for m in METHODS if m not in ("sum", "std")]  # whose results are of the kind of the pixels
NUMBERS = itertools.count()


@dataclass(frozen=True)
class Case:
    """A raster file, its pixels (NaN where missing), and a grid near it."""

    path: str
    pixels: np.ndarray
    grid: Grid

    def meets(self, grid: Grid) -> bool:
        try:
            plan_of(grid, [Layer("a", (self.path,))])
        except SourceError:
            return False
        return True

    def run(self, method: str, grid: Grid | None = None, **options: Any) -> np.ndarray:
        """The table of one layer, as a raster."""
        kind = Kind.COUNT if method == "sum" else Kind.CONTINUOUS
        grid = grid or self.grid
        plan = plan_of(grid, [Layer("a", (self.path,), kind=kind, resampling=method)], how="grid", **options)
        return table_of(plan)["a"].to_numpy(zero_copy_only=False).reshape(grid.height, grid.width)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rasters")


def small(examples: int) -> Any:
    return settings(
        max_examples=examples,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        phases=(Phase.generate,),  # shrinking takes minutes, and cases are small as they are
    )


def snapped(value: float, size: float) -> float:
    return round(value / size) * size


@st.composite
def cases(draw: st.DrawFn, covered: bool = False, constant: bool = False, holes: bool = True) -> Any:
    """A function that writes the raster and gives the case; `covered`: the grid covers all of the raster."""
    crs, target = draw(st.sampled_from(sorted(CRS))), draw(st.sampled_from(sorted(CRS)))
    ratio = draw(st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.5, 4.0]))
    width, height = draw(st.integers(5, 50)), draw(st.integers(5, 50))
    seed, share = draw(st.integers(0, 9999)), draw(st.sampled_from([0.0, 0.05, 0.5])) if holes else 0.0
    missing = draw(st.sampled_from(["nan", "nodata", "huge", "mask"]))
    shift = draw(st.tuples(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6)))

    def make(folder: Path) -> Case:
        rng, pixel = np.random.default_rng(seed), CRS[crs]
        x, y = (snapped(v, pixel) for v in Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(10, 50))
        transform = Affine(pixel, 0, x + pixel / 4, 0, -pixel, y - pixel / 8)
        pixels = np.full((height, width), 37.3) if constant else rng.uniform(1, 100, (height, width))
        pixels = pixels.astype("float32")
        valid = rng.random(pixels.shape) >= share
        valid[rng.integers(height), rng.integers(width)] = True
        fill = {"nan": np.nan, "nodata": -9999.0, "huge": 3.4028234663852886e38, "mask": 1e6}[missing]
        stored = np.where(valid, pixels, np.float32(fill))
        about = {"mask": valid} if missing == "mask" else {"nodata": fill}
        path = write_raster(folder / f"{next(NUMBERS)}.tif", stored, crs, transform, **about)
        # the grid: around the raster's middle, moved by a part of its size; or all around it
        cols, rows = np.meshgrid(np.linspace(0, width, 21), np.linspace(0, height, 21))
        u, v = Transformer.from_crs(crs, target, always_xy=True).transform(*(transform @ (cols, rows)))
        cell = CRS[target] * ratio
        if covered:
            left, top = (np.floor(u.min() / cell) - 2) * cell, (np.ceil(v.max() / cell) + 2) * cell
            shape = int((u.max() - left) / cell) + 3, int((top - v.min()) / cell) + 3
        else:
            left = snapped(u.min() + shift[0] * np.ptp(u), cell)
            top = snapped(v.max() + shift[1] * np.ptp(v), cell)
            shape = min(60, int(np.ptp(u) / cell) + 1), min(60, int(np.ptp(v) / cell) + 1)
        grid = Grid(target, float(left), float(top), cell, cell, *shape)
        return Case(str(path), np.where(valid, pixels, np.nan), grid)

    return make


@small(60)
@given(make=cases(constant=True), method=st.sampled_from(PICTURING))
def test_a_constant_stays_what_it_is(folder: Path, make: Any, method: str) -> None:
    case = make(folder)
    assume(case.meets(case.grid))
    values = case.run(method)
    values = values[~np.isnan(values)]
    assert np.abs(values - np.float32(37.3)).max(initial=0) <= (0 if method in ("nearest", "mode") else SINGLE)


@small(40)
@given(make=cases(covered=True), tolerance=st.sampled_from(["auto", "exact"]))
def test_a_sum_keeps_the_mass(folder: Path, make: Any, tolerance: str) -> None:
    case = make(folder)
    mass = np.nansum(case.pixels.astype("float64"))
    assert np.nansum(case.run("sum", tolerance=tolerance).astype("float64")) == pytest.approx(mass, rel=1e-6)


def test_a_sum_keeps_the_mass_over_borders_of_blocks(folder: Path) -> None:
    pixels = np.random.default_rng(1).uniform(0, 100, (200, 330)).astype("float32")
    transform = Affine(64, 0, 499_968, 0, -64, 5_500_032)
    path = write_raster(folder / "mass.tif", pixels, "EPSG:32632", transform)
    outline = transform @ tuple(np.meshgrid([0, 165, 330], [0, 100, 200]))
    x, y = Transformer.from_crs("EPSG:32632", "EPSG:32633", always_xy=True).transform(*outline)
    grid = Grid("EPSG:32633", x.min() - 99, y.max() + 99, 24, 24, int(np.ptp(x) / 24) + 9, int(np.ptp(y) / 24) + 9)
    assert min(grid.width, grid.height) > BLOCK
    case = Case(str(path), pixels, grid)
    assert np.nansum(case.run("sum").astype("float64")) == pytest.approx(pixels.sum(dtype="float64"), rel=1e-6)


@small(60)
@given(make=cases(), method=st.sampled_from(PICTURING))
def test_missing_pixels_never_leak(folder: Path, make: Any, method: str) -> None:
    """What is missing is stored as a number far off, so that the least weight of it would show."""
    case = make(folder)
    values = case.run(method)
    values = values[~np.isnan(values)]
    low, high = np.nanmin(case.pixels), np.nanmax(case.pixels)
    beyond = (high - low) * (OVERSHOOT.get(method, 1) - 1) / 2
    assert values.min(initial=high) >= low - beyond - SINGLE
    assert values.max(initial=low) <= high + beyond + SINGLE


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("method", ["bilinear", "cubic", "cubic_spline", "lanczos"])
def test_kernels_overshoot_by_no_more_than_their_weights(folder: Path, method: str, share: float) -> None:
    """The hardest case, pixels of 0 and 100 and holes: weights that are left must not be blown up to a sum of 1."""
    rng = np.random.default_rng(0)
    pixels = rng.choice([0.0, 100.0], (300, 300)).astype("float32")
    pixels[rng.random(pixels.shape) < share] = np.nan
    path = write_raster(
        folder / f"{next(NUMBERS)}.tif", pixels, "EPSG:32632", Affine(64, 0, 499_968, 0, -64, 5_500_032)
    )
    x, y = Transformer.from_crs("EPSG:32632", "EPSG:32633", always_xy=True).transform(502_000, 5_498_000)
    beyond = 50 * (OVERSHOOT.get(method, 1) - 1) + 1e-3
    for size, count in ((48, 300), (160, 90)):
        values = Case(str(path), pixels, Grid("EPSG:32633", x, y, size, size, count, count)).run(method)
        outside = (values < -beyond) | (values > 100 + beyond)
        assert not outside.any(), (
            f"{outside.sum()} of {np.isfinite(values).sum()}: {values[outside].min()}..{values[outside].max()}"
        )


MOVES = st.tuples(st.integers(-9, 9), st.integers(-9, 9))


def both(case: Case, move: tuple[int, int], method: str, tolerance: str) -> tuple[np.ndarray, np.ndarray]:
    """The cells that a grid and the same grid moved down and right by whole cells share, by the one and the other."""
    grid, (down, right) = case.grid, move
    moved = replace(grid, x0=grid.x0 + right * grid.dx, y0=grid.y0 - down * grid.dy)
    assume(case.meets(moved) and abs(down) < grid.height and abs(right) < grid.width)
    one, two = case.run(method, tolerance=tolerance), case.run(method, moved, tolerance=tolerance)
    shape = one.shape[0] - abs(down), one.shape[1] - abs(right)
    one, two = one[max(0, down) :, max(0, right) :], two[max(0, -down) :, max(0, -right) :]
    return one[: shape[0], : shape[1]], two[: shape[0], : shape[1]]


@small(60)
@given(make=cases(), method=st.sampled_from(METHODS), move=MOVES)
def test_moving_the_grid_by_whole_cells_moves_the_table(
    folder: Path, make: Any, method: str, move: tuple[int, int]
) -> None:
    """To the bit where the transform is exact, which it always is for nearest and mode.

    A kernel that is antialiased has the median scale over its grid, which differs a little on another grid.
    """
    case = make(folder)
    one, two = both(case, move, method, "auto" if method in ("nearest", "mode") else "exact")
    if method in RADIUS and case.grid.dx / CRS[case.grid.crs] > 1:
        assert np.array_equal(np.isnan(one), np.isnan(two))
        assert np.nanmax(np.abs(one - two), initial=0) <= 99 * 2 * 0.0005
    else:
        assert np.array_equal(one, two, equal_nan=True)


@small(60)
@given(
    make=cases(holes=False),
    method=st.sampled_from(["bilinear", "cubic", "cubic_spline", "lanczos", "average", "sum"]),
    move=MOVES,
)
def test_moving_the_grid_changes_no_more_than_the_tolerance(
    folder: Path, make: Any, method: str, move: tuple[int, int]
) -> None:
    """Each of the two may be 0.01 pixels off; pixels are up to 99 apart, kernels are up to `steeper` than a line.

    An edge of a footprint that is off adds or takes a strip of pixels: in an average over the area of the cell.
    """
    case = make(folder)
    pixels = case.grid.dx / CRS[case.grid.crs]
    steeper = {"cubic": 1.5, "lanczos": 2.0, "average": 4 / pixels, "sum": 4 * pixels}.get(method, 1.0)
    one, two = both(case, move, method, "auto")
    inside = binary_erosion(~np.isnan(one) & ~np.isnan(two))
    assert np.abs(one - two).max(initial=0, where=inside) <= 2 * 0.01 * 99 * max(steeper, 1.0)


LAYERS = [  # of four files, one kind of reading each
    Layer("a", ("",), resampling="bilinear"),
    Layer("b", ("",), resampling="average"),
    Layer("c", ("",), kind=Kind.CATEGORICAL, resampling="mode"),
    Layer("d", ("",), kind=Kind.COUNT),
]


@small(15)
@given(makes=st.lists(cases(), min_size=4, max_size=4), order=st.permutations(range(4)))
def test_layers_do_not_change_each_other(folder: Path, makes: list[Any], order: list[int]) -> None:
    """Their order only orders the columns, and a layer alone has the same column."""
    cases = [make(folder) for make in makes]
    grid = cases[0].grid
    layers = [replace(layer, paths=(case.path,)) for layer, case in zip(LAYERS, cases, strict=True)]
    there = [i for i in range(4) if cases[i].meets(grid)]
    assume(there)
    table = table_of(plan_of(grid, [layers[i] for i in there], how="grid"))
    other = table_of(plan_of(grid, [layers[i] for i in order if i in there], how="grid"))
    assert other.column_names[4:] == [layers[i].name for i in order if i in there]
    assert other.select(table.column_names).replace_schema_metadata() == table.replace_schema_metadata()
    for i in there:
        alone = table_of(plan_of(grid, [layers[i]], how="grid"))
        assert alone[layers[i].name].equals(table[layers[i].name])


@small(4)
@given(makes=st.lists(cases(), min_size=4, max_size=4), height=st.integers(500, 1100), width=st.integers(500, 1100))
def test_windows_and_the_way_of_a_run_do_not_change_the_table(
    folder: Path, makes: list[Any], height: int, width: int
) -> None:
    """Tiles of any size give one table; so does a whole run by the plain loop, read back from its Parquet files."""
    cases = [make(folder) for make in makes]
    near = cases[0].grid
    grid = replace(near, dx=near.dx / 16, dy=near.dy / 16, height=height, width=width)
    layers = [replace(layer, paths=(case.path,)) for layer, case in zip(LAYERS, cases, strict=True) if case.meets(grid)]
    assume(layers)
    order = [("row", "ascending"), ("col", "ascending")]
    first, *others = (table_of(plan_of(grid, layers, window_size=w)).sort_by(order) for w in (512, 1024, 1536))
    assert all(first.equals(other) for other in others)
    number = next(NUMBERS)
    left, bottom, right, top = grid.bounds
    lines = [f"[run]\noutput = '{folder}/{number}'\n[grid]\ncrs = '{grid.crs}'\nresolution = {grid.dx!r}"]
    lines += [f"bounds = [{left!r}, {bottom!r}, {right!r}, {top!r}]\n[resampling]\nwindow_size = 1024"]
    for layer in layers:
        kind = f"kind = '{layer.kind}'" if layer.kind else ""
        lines += [
            f"[[layers]]\nname = '{layer.name}'\npath = '{layer.paths[0]}'\nresampling = '{layer.resampling}'\n{kind}"
        ]
    (folder / f"{number}.toml").write_text("\n".join(lines))
    output = pipeline.run(load(folder / f"{number}.toml", ("engine.kind=local",))).output
    read = ds.dataset(output / "parquet").to_table().sort_by(order)
    assert read.cast(first.schema).equals(first)
