"""Longitudes have no edge: 0..360 and -180..180 are one, nothing breaks at the antimeridian, and poles have no hole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import GENEROUS, VERSIONS, north_up, plan_of, raster_of, table_of, write_raster

from geopipe.grid.crs import crs_transform
from geopipe.grid.grid import Grid
from geopipe.layers.layer import Layer, Overlap
from geopipe.load import points, tables
from geopipe.plan.options import Options
from geopipe.plan.plan import Inputs, make_plan

LONLAT = "EPSG:4326"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """cos(lon) cos(lat) in pixels of one degree, from -180, from 0 and from 20 degrees on."""
    folder = tmp_path_factory.mktemp("world")
    lon, lat = np.arange(-180, 180) + 0.5, 90 - np.arange(180) - 0.5
    values = (np.cos(np.radians(lon))[None] * np.cos(np.radians(lat))[:, None]).astype("float32")
    return {
        str(west): write_raster(
            folder / f"from{west}.tif", np.roll(values, -180 - west, axis=1), LONLAT, north_up(west, 90, 1)
        )
        for west in (-180, 0, 20)
    }


GRIDS = {
    "antimeridian": Grid("+proj=laea +lat_0=10 +lon_0=180 +datum=WGS84", -2e6, 2e6, 40_000, 40_000, 100, 100),
    "north pole": Grid("EPSG:3413", -3e6, 3e6, 50_000, 50_000, 120, 120),
    "south pole": Grid("EPSG:3031", -3e6, 3e6, 50_000, 50_000, 120, 120),
    "all longitudes": Grid("EPSG:3857", -2e7, 1e7, 100_000, 100_000, 400, 200),
    "lon 90..290": Grid(LONLAT, 90, 60, 0.5, 0.5, 400, 200),
    "lon -190..-90": Grid(LONLAT, -190.25, 60, 0.5, 0.5, 200, 200),
    "Fiji, datum shift": Grid("EPSG:3460", 1_600_000, 4_300_000, 20_000, 20_000, 60, 50),
}
ERRORS = {"nearest": 0.009, "bilinear": 0.0031, "cubic": 0.0031, "average": 0.0067}
"""Half a pixel times the steepest slope (1 / radian) for nearest; the pole's last half pixel for the others."""


@pytest.mark.parametrize("method", ERRORS)
@pytest.mark.parametrize("where", GRIDS)
def test_every_counting_of_longitudes_gives_the_function(world: dict[str, Path], where: str, method: str) -> None:
    grid = GRIDS[where]
    lon, lat = crs_transform(grid.crs, LONLAT)(*np.meshgrid(grid.xs(0, grid.width), grid.ys(0, grid.height)))
    expected = np.cos(np.radians(lon)) * np.cos(np.radians(lat))
    results = [raster_of(plan_of(grid, [Layer("a", (str(p),), resampling=method)]), "a") for p in world.values()]
    for result in results:
        assert not np.isnan(result).any()
        assert np.abs(result - expected).max() < ERRORS[method]
    for other in results[1:]:
        assert np.abs(other - results[0]).max() < 1e-6


@pytest.mark.parametrize("west", [-180, -60, 0, 100, 170])
@pytest.mark.parametrize("shift", [0, 3])
def test_classes_are_copied_and_looked_up_across_the_edge(tmp_path: Path, west: int, shift: int) -> None:
    pixels = np.repeat(np.arange(36, dtype="int16")[np.newaxis], 18, axis=0)  # the value is the column: lon // 10
    path = write_raster(tmp_path / "a.tif", pixels, LONLAT, north_up(0, 90, 10))
    grid = Grid(LONLAT, west + shift, 90, 10, 10, width=30, height=18)
    plan = plan_of(grid, [Layer("a", (str(path),), resampling="nearest")])
    assert plan.layers[0].decisions[0].route == ("warp" if shift else "copy")
    first = west % 360 // 10
    assert raster_of(plan, "a", -1)[0].tolist() == [(first + i) % 36 for i in range(30)]


def test_a_region_counted_from_0_meets_a_grid_counted_from_minus_180(tmp_path: Path) -> None:
    """Hawaii at 200..205 degrees east, a quarter of a degree off the grid, and of a size that is no part of 360."""
    pixels = np.arange(100, dtype="float32").reshape(10, 10)
    path = write_raster(tmp_path / "a.tif", pixels, LONLAT, north_up(200, 23, 0.53))
    grid = Grid(LONLAT, -160, 23, 0.53, 0.53, width=10, height=10)
    assert raster_of(plan_of(grid, [Layer("a", (str(path),), resampling="nearest")]), "a").tolist() == pixels.tolist()


@pytest.mark.parametrize("rule", [Overlap.SUM, Overlap.MEAN])
def test_a_column_that_a_global_file_repeats_counts_once(tmp_path: Path, rule: Overlap) -> None:
    """Centres from -180 to 180 degrees: the first column is the last one again."""
    pixels = np.ones((18, 37), "float32")
    path = write_raster(tmp_path / "a.tif", pixels, LONLAT, north_up(-185, 90, 10))
    grid = Grid(LONLAT, -185, 90, 10, 10, width=36, height=18)
    other = write_raster(tmp_path / "b.tif", pixels[:, :5], LONLAT, north_up(-185, 90, 10))
    for files, expected in (((path,), 1), ((path, other), 2 if rule is Overlap.SUM else 1)):
        layer = Layer("a", tuple(map(str, files)), overlap=rule)
        values = raster_of(plan_of(grid, [layer]), "a")
        assert values[0].tolist() == [expected] * 5 + [1] * 31


@pytest.mark.parametrize("bounds", [(100, -60, 260, 60), (170, -20, 190, 20), (-200, -60, -100, 60)])
def test_a_small_source_beyond_180_degrees_is_in_a_wide_grid(tmp_path: Path, bounds: tuple[int, ...]) -> None:
    """10 x 10 km in Fiji's east, which PROJ calls -177 degrees."""
    path = write_raster(tmp_path / "a.tif", np.ones((100, 100), "uint8"), "EPSG:32701", north_up(5e5, 8e6, 100))
    west, south, east, north = bounds
    grid = Grid(LONLAT, west, north, 0.05, 0.05, (east - west) * 20, (north - south) * 20)
    values = raster_of(plan_of(grid, [Layer("a", (str(path),))]), "a", 0)
    x, y = crs_transform("EPSG:32701", LONLAT)(np.array([505_000.0]), np.array([7_995_000.0]))
    row, col = int((north - y[0]) * 20), int((x[0] - west) % 360 * 20)
    assert values[row, col] == 1
    assert 1 <= values.sum() <= 9


def columns_of(folder: Path, grid: Grid, lon: list[float], cells: str | None = None) -> list[int | None]:
    """The column in which each point of a table lies, None where it is not in the grid."""
    path = folder / "p.parquet"
    pq.write_table(pa.table({"lon": lon, "lat": [grid.y0 - grid.dy / 2] * len(lon), "value": range(len(lon))}), path)
    layer = Layer("p", (str(path),), crs=LONLAT, aggregate="first", cells=cells)
    result = [(layer, points.measure_offsets(layer, tables.headers(layer), grid))]
    rows = table_of(make_plan(Inputs("test", grid, result, VERSIONS), Options(), GENEROUS)).to_pylist()
    columns = {row["p"]: row["col"] for row in rows}
    return [columns.get(value) for value in range(len(lon))]


def test_points_come_to_the_grid_from_any_turn_of_longitudes(tmp_path: Path) -> None:
    fiji = Grid(LONLAT, 178, -10, 0.1, 0.1, 40, 2)
    lon = [178.05, 180, -180 + 0.1, -179.05, -178.05, -181.85, -178, 177.95]  # the last two: its right edge, left of it
    assert columns_of(tmp_path, fiji, lon) == [0, 20, 21, 29, 39, 1, None, None]
    assert columns_of(tmp_path, Grid(LONLAT, -20, 10, 0.1, 0.1, 400, 2), [350.05, 340, 19.95, 20, 380.05]) == [
        *(100, 0, 399, None, None)
    ]
    assert columns_of(tmp_path, Grid(LONLAT, -180, 10, 0.1, 0.1, 3600, 2), [180, 180.25, 179.95]) == [0, 2, 3599]


def test_a_table_of_cells_may_reach_beyond_the_grid_where_cells_are_no_part_of_360(tmp_path: Path) -> None:
    grid = Grid(LONLAT, 10, 10, 0.7, 0.7, 5, 2)
    assert columns_of(tmp_path, grid, [10 + 0.7 * (k + 0.5) for k in range(-3, 7)], "centres") == [
        *(None, None, None, 0, 1, 2, 3, 4, None, None)
    ]
    assert columns_of(tmp_path, grid, [370.35, -348.25], "centres") == [0, 2]
