"""The grid: cells, centres, edges, tiles and blocks, and bounds that survive a change of CRS."""

from __future__ import annotations

import math

import numpy as np
import pyproj
import pytest
from affine import Affine
from helpers import north_up, tiles_of
from hypothesis import given, settings
from hypothesis import strategies as st

from geopipe.errors import SettingsError
from geopipe.grid.crs import crs_of, same_crs
from geopipe.grid.grid import BLOCK, Grid, Tile, blocks_of, intersection, make_grid, projected_bounds, union

UTM12 = "EPSG:32612"
SIZES = st.integers(1, 4500)


def test_centres_are_half_a_cell_inside_and_rows_count_down() -> None:
    grid = Grid(UTM12, 100.0, 1000.0, 10.0, 20.0, width=3, height=2)
    assert grid.xs(0, 3).tolist() == [105.0, 115.0, 125.0]
    assert grid.xs(1, 2).tolist() == [115.0, 125.0]
    assert grid.ys(0, 2).tolist() == [990.0, 970.0]
    assert grid.bounds == (100.0, 960.0, 130.0, 1000.0)
    assert grid.cells == 6
    assert grid.transform @ (0.5, 0.5) == (105.0, 990.0)


def test_the_transform_of_a_tile_starts_at_its_corner() -> None:
    grid = Grid(UTM12, 100.0, 1000.0, 10.0, 20.0, width=30, height=20)
    assert grid.transform_of(Tile(7, row=5, col=3, height=2, width=2)) == Affine(10, 0, 130, 0, -20, 900)


def test_gdal_oracle_g5_cells_on_whole_multiples() -> None:
    # byte.tif: 20 x 20 pixels of 60 m from 440720, 3751320; asked for cells of 100 x 50 m on whole multiples
    grid = make_grid("EPSG:26711", (100, 50), (440720, 3750120, 441920, 3751320), snap=True)
    assert (grid.x0, grid.y0) == (440700, 3751350)
    assert (grid.width, grid.height) == (13, 25)


def test_without_snap_the_upper_left_corner_stays_and_the_rest_moves_outward() -> None:
    grid = make_grid(UTM12, (100, 50), (30, 30, 330, 330), snap=False)
    assert (grid.x0, grid.y0, grid.width, grid.height) == (30, 330, 3, 6)
    grid = make_grid(UTM12, (100, 50), (30, 29, 331, 330), snap=False)
    assert (grid.x0, grid.y0, grid.width, grid.height) == (30, 330, 4, 7)


def test_snap_leaves_edges_that_are_multiples_already_and_works_below_zero() -> None:
    grid = make_grid(UTM12, (30, 30), (-60, -90, 90, 120), snap=True)
    assert (grid.bounds, grid.width, grid.height) == ((-60, -90, 90, 120), 5, 7)
    grid = make_grid(UTM12, (30, 30), (-61, -91, 91, 121), snap=True)
    assert grid.bounds == (-90, -120, 120, 150)


def test_rounding_adds_no_row() -> None:
    # 0.3 / 0.1 is 2.9999999999999996 and 1.1 / 0.1 is 11.000000000000002
    grid = make_grid("EPSG:4326", (0.1, 0.1), (0.0, 0.0, 0.3, 1.1), snap=True)
    assert (grid.width, grid.height) == (3, 11)


@given(
    st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0.5, 1e5), st.floats(0.5, 1e5), st.floats(0.1, 2e3),
    st.booleans(),
)  # fmt: skip
def test_a_grid_covers_its_bounds_with_less_than_two_cells_to_spare(
    x: float, y: float, wide: float, high: float, cell: float, snap: bool
) -> None:
    grid = make_grid(UTM12, (cell, cell), (x, y, x + wide, y + high), snap)
    little = 1e-5 * cell + 1e-6
    left, bottom, right, top = grid.bounds
    assert left <= x + little
    assert bottom <= y + little
    assert right >= x + wide - little
    assert top >= y + high - little
    assert right - left < wide + 2 * cell + little
    assert top - bottom < high + 2 * cell + little


@pytest.mark.parametrize("resolution", [(0, 30), (30, 0), (-30, 30), (30, -30), (math.nan, 30), (math.inf, 30)])
@pytest.mark.parametrize("snap", [True, False])
def test_a_resolution_that_is_no_size_is_refused(resolution: tuple[float, float], snap: bool) -> None:
    with pytest.raises(SettingsError, match=r"grid\.resolution") as caught:
        make_grid(UTM12, resolution, (0, 0, 300, 300), snap)
    assert "resolution = 90" in caught.value.hint


@pytest.mark.parametrize("bounds", [(0, 0, 0, 10), (0, 10, 10, 10), (10, 0, 0, 10), (0, 10, 9, 0), (0, 0, math.nan, 9)])
def test_empty_bounds_are_refused(bounds: tuple[float, float, float, float]) -> None:
    with pytest.raises(SettingsError, match=r"grid\.bounds .* are empty") as caught:
        make_grid(UTM12, (1, 1), bounds, snap=True)
    assert "xmin < xmax" in caught.value.hint


@pytest.mark.parametrize("snap", [True, False])
@pytest.mark.parametrize("place", range(4))
def test_infinite_bounds_are_refused_as_a_users_mistake(place: int, snap: bool) -> None:
    bounds = [0.0, 0.0, 300.0, 300.0]
    bounds[place] = -math.inf if place < 2 else math.inf
    with pytest.raises(SettingsError, match=r"grid\.bounds"):
        make_grid(UTM12, (30, 30), (bounds[0], bounds[1], bounds[2], bounds[3]), snap)


def test_metres_in_a_grid_of_degrees_are_refused_with_the_degrees_to_give() -> None:
    with pytest.raises(SettingsError, match="counts in degrees; it looks like metres") as caught:
        make_grid("EPSG:4326", (90, 90), (-180, -90, 180, 90), snap=True)
    assert "grid.resolution is 90 x 90" in caught.value.message
    assert "about 0.000808" in caught.value.hint  # 90 / 111320


@pytest.mark.parametrize(("resolution", "extent"), [(0.001, 1000), (0.00027778, 100), (0.0083, 50_000)])
def test_degrees_in_a_grid_of_metres_are_refused_with_the_metres_to_give(resolution: float, extent: float) -> None:
    with pytest.raises(SettingsError, match="counts in metres; it looks like degrees") as caught:
        make_grid(UTM12, (resolution, resolution), (0, 0, extent, extent), snap=True)
    assert f"about {resolution * 111_320:.3g}" in caught.value.hint
    assert "EPSG:4326" in caught.value.hint


def test_cells_of_millimetres_are_a_grid_where_they_are_few() -> None:
    assert make_grid(UTM12, (0.001, 0.001), (0, 0, 5, 5), snap=False).width == 5000
    assert make_grid(UTM12, (0.02, 0.02), (0, 0, 10_000, 10_000), snap=False).width == 500_000


def test_more_columns_than_an_int32_holds_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"2,147,483,648 columns .* stay below 2,147,483,648") as caught:
        make_grid(UTM12, (1, 1e6), (0, 0, 2.0**31, 1e6), snap=False)
    assert "coarser grid.resolution" in caught.value.hint
    assert make_grid(UTM12, (1, 1e6), (0, 0, 2.0**31 - 1, 1e6), snap=False).width == 2**31 - 1


def test_an_unknown_crs_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="'EPSG:99999999' is no CRS") as caught:
        make_grid("EPSG:99999999", (1, 1), (0, 0, 1, 1), snap=False)
    assert "EPSG:32612" in caught.value.hint


@given(SIZES, SIZES, st.sampled_from([512, 1024, 2048]))
@settings(max_examples=60)
def test_every_cell_is_in_one_tile_and_in_one_block(width: int, height: int, size: int) -> None:
    # exact cover by rectangles: each edge list is a partition, and all pairs of them are there once
    grid = Grid(UTM12, 0.0, 0.0, 1.0, 1.0, width, height)
    tiles = list(tiles_of(grid, size))
    for parts in (tiles, [b for t in tiles for b in blocks_of(t, BLOCK)]):
        rows = sorted({(p.row, p.height) for p in parts})
        cols = sorted({(p.col, p.width) for p in parts})
        for spans, length in ((rows, height), (cols, width)):
            assert [start for start, _ in spans] == np.cumsum([0] + [n for _, n in spans])[:-1].tolist()
            assert sum(n for _, n in spans) == length
            assert all(n > 0 for _, n in spans)
        assert len(parts) == len(rows) * len(cols) == len({(p.row, p.col) for p in parts})
        assert sum(p.cells for p in parts) == grid.cells


@given(SIZES, SIZES)
@settings(max_examples=60)
def test_blocks_are_the_same_whatever_the_tile_size(width: int, height: int) -> None:
    grid = Grid(UTM12, 0.0, 0.0, 1.0, 1.0, width, height)
    for edge in (BLOCK, 64):

        def blocks(size: int, edge: int = edge) -> set[tuple[int, int, int, int]]:
            return {(b.row, b.col, b.height, b.width) for t in tiles_of(grid, size) for b in blocks_of(t, edge)}

        assert blocks(512) == blocks(1024) == blocks(2048)


def test_keys_count_tiles_row_by_row() -> None:
    grid = Grid(UTM12, 0.0, 0.0, 1.0, 1.0, width=1100, height=600)
    assert grid.tiling(512) == (2, 3)
    assert [(t.key, t.row, t.col, t.height, t.width) for t in tiles_of(grid, 512)] == [
        (0, 0, 0, 512, 512),
        (1, 0, 512, 512, 512),
        (2, 0, 1024, 512, 76),
        (3, 512, 0, 88, 512),
        (4, 512, 512, 88, 512),
        (5, 512, 1024, 88, 76),
    ]
    assert all(grid.tile(t.key, 512) == t for t in tiles_of(grid, 512))


def test_projected_bounds_hold_an_edge_that_bulges_beyond_the_corners() -> None:
    # a parallel is an arc in LAEA Europe: its middle, at 10 E, lies south of both of its ends
    south = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:3035", always_xy=True).transform([-10, 10, 30], [50, 50, 50])
    bounds = projected_bounds(north_up(-10, 60, 1), 40, 10, "EPSG:4326", "EPSG:3035")
    assert bounds is not None
    assert bounds[1] == pytest.approx(south[1][1])
    assert bounds[1] < min(south[1][0], south[1][2]) - 100_000


@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (37_000.0, 11_000.0)])
def test_projected_bounds_reach_a_pole_inside_the_raster(dx: float, dy: float) -> None:
    # 6000 x 6000 km around the south pole, also where the pole is at no corner of the sampled lattice
    bounds = projected_bounds(north_up(-3e6 + dx, 3e6 + dy, 1000), 6000, 6000, "EPSG:3031", "EPSG:4326")
    assert bounds is not None
    assert bounds[1] == pytest.approx(-90, abs=0.01)
    assert (bounds[0], bounds[2]) == (pytest.approx(-180, abs=0.01), pytest.approx(180, abs=0.01))


@given(st.floats(0, 1), st.floats(0, 1), st.floats(2e5, 8e5), st.floats(1e6, 8e6), st.sampled_from([10, 100, 1000]))
def test_projected_bounds_hold_every_point_of_a_utm_raster(
    u: float, v: float, x0: float, y0: float, extent: float
) -> None:
    size = extent * 1000 / 3000  # 3000 x 3000 pixels
    bounds = projected_bounds(north_up(x0, y0, size), 3000, 3000, "EPSG:32632", "EPSG:3857")
    x, y = pyproj.Transformer.from_crs("EPSG:32632", "EPSG:3857", always_xy=True).transform(
        x0 + u * 3000 * size, y0 - v * 3000 * size
    )
    assert bounds is not None
    assert bounds[0] - size <= x <= bounds[2] + size
    assert bounds[1] - size <= y <= bounds[3] + size


def test_projected_bounds_are_none_where_nothing_has_an_image() -> None:
    # the far side of the globe in an orthographic view
    assert projected_bounds(north_up(170, 10, 1), 5, 5, "EPSG:4326", "+proj=ortho +lat_0=0 +lon_0=0") is None


def test_union_and_intersection() -> None:
    one, two, apart = (0.0, 0.0, 4.0, 4.0), (2.0, 1.0, 6.0, 3.0), (9.0, 9.0, 10.0, 10.0)
    assert union([one, two]) == (0, 0, 6, 4)
    assert intersection([one, two]) == (2, 1, 4, 3)
    assert intersection([one, two, apart]) is None
    assert intersection([one, (4.0, 0.0, 8.0, 4.0)]) is None, "an edge in common is no area"


def test_same_crs_whatever_its_spelling_and_never_by_likeness() -> None:
    assert same_crs("EPSG:32612", crs_of("EPSG:32612").to_wkt())
    assert same_crs("EPSG:4326", "OGC:CRS84"), "axis order alone makes no difference in x, y"
    assert not same_crs("EPSG:32612", "EPSG:32613")
    assert not same_crs("EPSG:32612", "EPSG:26912"), "WGS 84 and NAD83"


@given(st.sampled_from([UTM12, "EPSG:4326", "EPSG:3035", "EPSG:3413"]), st.floats(-1e6, 1e6), st.floats(0.01, 50))
def test_projjson_says_all_that_makes_the_grid(crs: str, x0: float, cell: float) -> None:
    grid = Grid(crs, x0, -x0, cell, 2 * cell if cell < 30 else cell, width=7, height=5)
    document = grid.projjson()
    t = document["transform"]
    again = Grid(crs, t[0], t[3], t[1], -t[5], document["shape"][1], document["shape"][0])
    assert again == grid
    assert (t[2], t[4]) == (0, 0)
    assert pyproj.CRS.from_json_dict(document["crs"]) == pyproj.CRS(crs)
