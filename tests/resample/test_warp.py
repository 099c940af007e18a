"""From pixels to cells: against numpy, pyproj and scipy, and one way against another."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyproj
import pytest
from affine import Affine
from helpers import north_up, plan_of, raster_of, table_of, write_raster
from scipy.ndimage import map_coordinates

from geopipe.grid.crs import crs_transform
from geopipe.grid.grid import Grid
from geopipe.layers.layer import Kind, Layer, Overlap
from geopipe.resample.methods import METHODS, RADIUS, Route

UTM, NEXT, LONLAT = "EPSG:32632", "EPSG:32633", "EPSG:4326"
T = north_up(500_000, 5_000_000, 30)


def noise(height: int, width: int, seed: int = 0, holes: float = 0.0) -> np.ndarray:
    """Values of 0..100 without any order: the hardest case for a kernel; NaN in a share of the pixels."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0, 100, (height, width)).astype("float32")
    values[rng.random((height, width)) < holes] = np.nan
    return values


def classes(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 6, (height, width)).astype("uint8")


def tilted(size: float, width: int, height: int, dx: float = 0, dy: float = 0) -> Grid:
    """A grid in the next UTM zone, turned by 4 degrees; its corner is (dx, dy) from a point inside the raster at T.

    Of this pair of CRS the two PROJ in this process (GDAL's and pyproj's) say the same to the last digit; of LAEA
    they differ by half a millimetre, which moves a centre over the edge of a pixel once in 100,000 cells.
    """
    x, y = pyproj.Transformer.from_crs(UTM, NEXT, always_xy=True).transform(501_500, 4_998_500)
    return Grid(NEXT, round(x) + dx + 0.3, round(y) + dy + 0.7, size, size, width, height)


def places(grid: Grid, crs: str, transform: Affine) -> tuple[np.ndarray, np.ndarray]:
    """Column and row, in pixels from the raster's corner, of every cell's centre."""
    x, y = np.meshgrid(grid.xs(0, grid.width), grid.ys(0, grid.height))
    col, row = ~transform @ pyproj.Transformer.from_crs(grid.crs, crs, always_xy=True).transform(x, y)
    return np.asarray(col), np.asarray(row)


SOURCES = [  # CRS, transform and shape of rasters that the tilted grid meets, in whole or in part
    (UTM, T, (400, 400)),
    (UTM, north_up(505_000, 4_998_000, 30), (100, 200)),
    (LONLAT, north_up(9.0, 45.2, 0.0003), (700, 700)),
    ("EPSG:3857", north_up(1_001_000, 5_640_000, 47), (400, 400)),
    (UTM, Affine.translation(506_000, 4_994_000) @ Affine.rotation(30) @ north_up(-6000, 6000, 30), (400, 400)),
    (UTM, Affine(30, 0, 500_000, 0, 30, 4_988_000), (400, 400)),  # south-up
]


@pytest.mark.parametrize(("crs", "transform", "shape"), SOURCES)
def test_nearest_is_the_pixel_under_the_centre_in_every_cell(
    tmp_path: Path, crs: str, transform: Affine, shape: tuple[int, int]
) -> None:
    pixels = classes(*shape)
    path = write_raster(tmp_path / "a.tif", pixels, crs, transform)
    grid = tilted(37, 300, 280)
    plan = plan_of(grid, [Layer("a", (str(path),), kind=Kind.CATEGORICAL, resampling="nearest")])
    col, row = (np.floor(v).astype(int) for v in places(grid, crs, transform))
    here = (row >= 0) & (row < shape[0]) & (col >= 0) & (col < shape[1])
    expected = np.where(here, pixels[row.clip(0, shape[0] - 1), col.clip(0, shape[1] - 1)].astype(int), -1)
    assert here.sum() > 3000
    assert (raster_of(plan, "a", -1) == expected).all()


@pytest.mark.parametrize(("crs", "transform", "shape"), SOURCES)
@pytest.mark.parametrize(("tolerance", "most"), [("exact", 1e-3), ("auto", 2.0)])
def test_bilinear_is_scipys_at_the_centres(
    tmp_path: Path, crs: str, transform: Affine, shape: tuple[int, int], tolerance: str, most: float
) -> None:
    # "exact" differs by float32 alone: 100 * 2**-24 * a few, and by GDAL's weights in float32. "auto" may miss a place
    # by 0.01 pixels along each axis; noise of 0..100 changes by at most 100 from pixel to pixel: 0.01 * 100 * 2
    path = write_raster(tmp_path / "a.tif", noise(*shape), crs, transform)
    grid = tilted(37, 300, 280)
    plan = plan_of(grid, [Layer("a", (str(path),), resampling="bilinear")], tolerance=tolerance)
    assert plan.layers[0].decisions[0].scale == (1, 1)
    col, row = places(grid, crs, transform)
    inside = (row > 0.5) & (row < shape[0] - 0.5) & (col > 0.5) & (col < shape[1] - 0.5)  # four pixels around
    expected = map_coordinates(noise(*shape).astype(float), [row - 0.5, col - 0.5], order=1, mode="nearest")
    values = raster_of(plan, "a")
    assert inside.sum() > 3000
    assert not np.isnan(values[inside]).any()
    assert np.abs(values - expected)[inside].max() < most
    assert np.isnan(values[(row < -0.01) | (row > shape[0] + 0.01) | (col < -0.01) | (col > shape[1] + 0.01)]).all()


@pytest.mark.parametrize("method", [m for m in METHODS if m not in RADIUS])
@pytest.mark.parametrize("ratio", [2, 3, 7])
def test_a_decimated_read_equals_the_warp(tmp_path: Path, method: str, ratio: int) -> None:
    # holes, and a source that begins and ends inside cells of the grid and covers only part of it
    pixels = np.where(np.isnan(noise(401, 397, 1, 0.3)), np.nan, classes(401, 397)).astype("float32")
    path = write_raster(tmp_path / "a.tif", pixels, UTM, T)
    grid = Grid(UTM, 500_000 - 30 * (ratio + 1), 5_000_000 + 30, 30 * ratio, 30 * ratio, 400 // ratio, 500 // ratio)
    kind = Kind.COUNT if method == "sum" else Kind.CONTINUOUS
    layers = [Layer("a", (str(path),), kind=kind, resampling=method)]
    plans = [plan_of(grid, layers, passthrough=p, how="grid") for p in (True, False)]
    assert [p.layers[0].decisions[0].route for p in plans] == [Route.DECIMATE, Route.WARP]
    short, long = (raster_of(p, "a") for p in plans)
    assert (np.isnan(short) == np.isnan(long)).all()
    assert np.nanmax(np.abs(short - long)) < 1e-5 * (ratio**2 if method == "sum" else 1)  # of 1..5, in float32
    assert 0 < np.isnan(short).sum() < short.size / 2


@pytest.mark.parametrize("passthrough", [True, False])
@pytest.mark.parametrize(("method", "expected"), [("average", [13 / 3, 5.5, 11.5, 13.5]), ("mode", [2, 3, 9, 11])])
def test_holes_are_left_out_of_whole_cells(
    tmp_path: Path, method: str, expected: list[float], passthrough: bool
) -> None:
    # oracle T2 of terra: null, 2..16 row by row, 2 x 2 pixels to a cell; a tie of mode goes to the smaller value
    pixels = np.arange(1, 17, dtype="float32").reshape(4, 4)
    pixels[0, 0] = np.nan
    path = write_raster(tmp_path / "a.tif", pixels, UTM, T)
    grid = Grid(UTM, 500_000, 5_000_000, 60, 60, width=2, height=2)
    plan = plan_of(grid, [Layer("a", (str(path),), resampling=method)], passthrough=passthrough)
    assert raster_of(plan, "a").ravel().tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("passthrough", [True, False])
@pytest.mark.parametrize(
    ("method", "expected"), [("average", 15), ("rms", 250**0.5), ("min", 10), ("max", 20), ("q1", 10), ("sum", 60)]
)
def test_a_cell_across_the_edge_of_a_source_has_all_pixels_that_are_there(
    tmp_path: Path, method: str, expected: float, passthrough: bool
) -> None:
    # 2 x 2 pixels in the middle and lower right of one cell of 3 x 3
    path = write_raster(tmp_path / "a.tif", np.array([[10, 10], [20, 20]], "float32"), UTM, T)
    grid = Grid(UTM, 500_000 - 30, 5_000_000 + 30, 90, 90, width=1, height=1)
    layer = Layer("a", (str(path),), kind=Kind.COUNT if method == "sum" else Kind.CONTINUOUS, resampling=method)
    assert raster_of(plan_of(grid, [layer], passthrough=passthrough), "a").item() == pytest.approx(expected)


@pytest.mark.parametrize("method", ["average", "rms", "mode", "max", "min", "med", "q1", "q3", "sum"])
def test_every_pixel_reaches_the_cell_that_it_lies_in(tmp_path: Path, method: str) -> None:
    # a raster of 24 x 24 pixels of 5 m in the middle of a tilted grid of 30 m: its rim lies in half-covered cells
    grid, at = tilted(30, 60, 60), north_up(502_000, 4_997_900, 5)
    path = write_raster(tmp_path / "a.tif", np.ones((24, 24), "float32"), UTM, at)
    layer = Layer("a", (str(path),), kind=Kind.COUNT if method == "sum" else Kind.CONTINUOUS, resampling=method)
    if method == "mode":
        layer = Layer("a", (str(path),), kind=Kind.CATEGORICAL, resampling=method)
    x, y = at @ tuple(np.meshgrid(np.arange(24) + 0.5, np.arange(24) + 0.5))
    col, row = ~grid.transform @ pyproj.Transformer.from_crs(UTM, NEXT, always_xy=True).transform(x, y)
    reached = raster_of(plan_of(grid, [layer]), "a")[np.floor(row).astype(int), np.floor(col).astype(int)]
    assert not np.isnan(reached).any()


@pytest.mark.parametrize("passthrough", [True, False])
def test_a_root_mean_square_is_never_negative(tmp_path: Path, passthrough: bool) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((2, 2), -3, "float32"), UTM, T)
    grid = Grid(UTM, 500_000, 5_000_000, 30, 30, width=2, height=2)
    plan = plan_of(grid, [Layer("a", (str(path),), resampling="rms")], passthrough=passthrough)
    assert raster_of(plan, "a").tolist() == [[3, 3], [3, 3]]


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_a_decimated_average_by_numpy(tmp_path: Path) -> None:
    pixels = noise(60, 90, 2, 0.4)
    path = write_raster(tmp_path / "a.tif", pixels, UTM, T)
    grid = Grid(UTM, 500_000, 5_000_000, 90, 90, width=30, height=20)
    expected = np.nanmean(pixels.astype(float).reshape(20, 3, 30, 3).transpose(0, 2, 1, 3).reshape(20, 30, 9), axis=2)
    assert raster_of(plan_of(grid, [Layer("a", (str(path),))]), "a") == pytest.approx(expected, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [20, 37, 100])
def test_a_constant_stays_what_it_is(tmp_path: Path, method: str, size: int) -> None:
    kind = Kind.COUNT if method == "sum" else Kind.CONTINUOUS
    path = write_raster(tmp_path / "a.tif", np.full((400, 400), -7.25, "float32"), UTM, T)
    grid = tilted(size, 8000 // size, 8000 // size)
    values = raster_of(plan_of(grid, [Layer("a", (str(path),), kind=kind, resampling=method)]), "a")
    if method == "sum":  # of counts it is the density that stays; the two projections differ by less than 1 % in area
        assert values == pytest.approx(np.full(values.shape, -7.25 * (size / 30) ** 2), rel=0.02)
    else:  # weights are float32
        assert np.abs(values - {"rms": 7.25, "std": 0.0}.get(method, -7.25)).max() < 1e-4


def test_counts_keep_their_total(tmp_path: Path) -> None:
    people = np.random.default_rng(3).integers(0, 1000, (100, 100)).astype("int32")
    path = write_raster(tmp_path / "a.tif", people, UTM, T)
    values = raster_of(
        plan_of(tilted(90, 140, 140, dx=-5000, dy=5000), [Layer("a", (str(path),), kind=Kind.COUNT)]), "a"
    )
    assert np.nansum(values) == pytest.approx(people.sum(), rel=1e-3)


@pytest.mark.parametrize("method", ["bilinear", "cubic", "lanczos", "average", "nearest"])
@pytest.mark.parametrize("size", [17, 100])
def test_a_mosaic_of_halves_is_the_whole_to_the_bit(tmp_path: Path, method: str, size: int) -> None:
    pixels = noise(400, 400, 4, 0.02)
    whole = write_raster(tmp_path / "whole.tif", pixels, UTM, T)
    east = write_raster(tmp_path / "1.tif", pixels[:, 150:], UTM, T @ Affine.translation(150, 0))  # it comes first
    west = write_raster(tmp_path / "2.tif", pixels[:, :150], UTM, T)
    grid = tilted(size, 9000 // size, 9000 // size)
    one, two = (
        table_of(plan_of(grid, [Layer("a", paths, resampling=method)]))
        for paths in ((str(whole),), (str(east), str(west)))
    )
    assert one.equals(two)


@pytest.mark.slow
def test_the_table_does_not_depend_on_the_window_size(tmp_path: Path) -> None:
    grid = tilted(30, 1300, 1100)
    fine = write_raster(tmp_path / "fine.tif", noise(900, 1000, 5, 0.01), UTM, north_up(500_000, 5_000_000, 45))
    coarse = write_raster(tmp_path / "coarse.tif", noise(500, 500, 6, 0.01), LONLAT, north_up(9.0, 45.2, 0.002))
    kinds = write_raster(tmp_path / "kinds.tif", classes(1200, 1500), UTM, north_up(503_000, 4_998_000, 13))
    same = write_raster(tmp_path / "same.tif", classes(500, 2000), NEXT, north_up(grid.x0 - 300, grid.y0 - 9000, 15))
    layers = [
        Layer("fine", (str(fine),)),
        Layer("cubic", (str(fine),), resampling="cubic"),
        Layer("coarse", (str(coarse),), resampling="lanczos"),
        Layer("kinds", (str(kinds),), kind=Kind.CATEGORICAL),
        Layer("smooth", (str(kinds),), resampling="cubic_spline"),
        Layer("mean", (str(kinds),), resampling="average"),
        Layer("same", (str(same),), kind=Kind.CATEGORICAL),
    ]
    order = [("row", "ascending"), ("col", "ascending")]
    tables = [table_of(plan_of(grid, layers, window_size=size)).sort_by(order) for size in (512, 1024, 2048)]
    assert tables[0].num_rows > 500_000
    assert all(tables[0][name].null_count < tables[0].num_rows for name in tables[0].column_names)
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


@pytest.mark.parametrize(
    ("crs", "corner", "pixel", "ratio"),
    [
        (UTM, (500_000, 5_000_000), 0.3, 1 / 3),
        (UTM, (500_000, 5_000_000), 0.02, 1 / 2),
        (UTM, (312_345.6, 5_123_456.7), 0.1, 3 / 2),
        (LONLAT, (9.1, 47.3), 1 / 3600, 2 / 3),
        (LONLAT, (9.1, 47.3), 0.00083333, 1 / 3),
    ],
)
def test_a_pixel_that_a_cell_only_touches_is_not_under_it(
    tmp_path: Path, crs: str, corner: tuple[float, float], pixel: float, ratio: float
) -> None:
    pixels = noise(240, 240, 8).astype("float64")
    path = write_raster(tmp_path / "a.tif", pixels, crs, north_up(*corner, pixel))
    count = int(220 / ratio)
    grid = Grid(crs, *corner, pixel * ratio, pixel * ratio, count, count)
    exact = Fraction(ratio).limit_denominator(10)
    spans = [(math.floor(k * exact), math.ceil((k + 1) * exact)) for k in range(count)]  # pixels that a cell overlaps
    for method, best in (("min", np.min), ("max", np.max)):
        layer = Layer("a", (str(path),), resampling=method)
        values = raster_of(plan_of(grid, [layer]), "a")
        assert (values == [[best(pixels[a:b, c:d]) for c, d in spans] for a, b in spans]).all()
    values = raster_of(plan_of(grid, [Layer("a", (str(path),), resampling="std")]), "a")
    single = [end - start == 1 for start, end in spans]
    assert (values[np.ix_(single, single)] == 0).all(), "of one pixel there is no deviation"


def test_two_sources_meet_in_the_overlap_rule_after_the_warp(tmp_path: Path) -> None:
    one = write_raster(tmp_path / "1.tif", np.full((200, 400), 1, "float32"), UTM, T)
    two = write_raster(tmp_path / "2.tif", np.full((500, 500), 4, "float32"), LONLAT, north_up(9.0, 45.2, 0.0003))
    grid = tilted(37, 200, 200)
    result = {
        rule: raster_of(plan_of(grid, [Layer("a", (str(one), str(two)), overlap=Overlap(rule))]), "a")
        for rule in ("first", "last", "mean", "sum")
    }
    both = result["first"] != result["last"]
    assert 0 < both.sum() < both.size
    assert set(result["mean"][both]) == {2.5}
    assert set(result["sum"][both]) == {5.0}


@pytest.mark.parametrize(("crs", "top"), [("EPSG:3031", -85), ("EPSG:3413", 90)])
def test_no_hole_at_a_pole(tmp_path: Path, crs: str, top: int) -> None:
    # the pole is the corner shared by cells (19..20, 27..28); lon, lat pixels of a hundredth of a degree around it
    around = north_up(-180, top, 0.01)
    path = write_raster(tmp_path / "a.tif", np.ones((500, 36_000), "uint8"), LONLAT, around, compress="deflate")
    grid = Grid(crs, -28_000, 20_000, 1000, 1000, width=256, height=256)
    layer = Layer("a", (str(path),), kind=Kind.CATEGORICAL, resampling="nearest")
    assert np.argwhere(raster_of(plan_of(grid, [layer]), "a", 0) != 1).tolist() == []


def test_cells_across_the_antimeridian_of_a_projected_source_are_not_as_wide_as_the_world(tmp_path: Path) -> None:
    """A sinusoidal source ends at 180 degrees: a cell with corners on both sides is null, its neighbours are right."""
    crs, pixel = "ESRI:54008", 40_000
    x, y = np.meshgrid(-20_040_000 + pixel * (np.arange(1002) + 0.5), 10_020_000 - pixel * (np.arange(501) + 0.5))
    lon, _ = crs_transform(crs, "EPSG:4326")(x, y)
    path = write_raster(
        tmp_path / "a.tif", np.cos(np.radians(lon)).astype("float32"), crs, north_up(-20_040_000, 10_020_000, pixel)
    )
    grid = Grid("+proj=laea +lat_0=10 +lon_0=180 +datum=WGS84", -2e6, 2e6, pixel, pixel, 100, 100)
    values = raster_of(plan_of(grid, [Layer("a", (str(path),), resampling="average")]), "a")
    lon, _ = crs_transform(grid.crs, "EPSG:4326")(*np.meshgrid(grid.xs(0, 100), grid.ys(0, 100)))
    assert np.nanmax(np.abs(values - np.cos(np.radians(lon)))) < 0.01
    assert 0 < np.isnan(values).sum() <= 2 * 100
