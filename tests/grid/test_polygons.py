"""Polygons as masks: by hand, against a slow test of single places, in other CRS, and whatever the tile."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pyproj
import pytest
from helpers import tiles_of
from hypothesis import given, settings
from hypothesis import strategies as st

from geopipe.errors import SourceError
from geopipe.grid.grid import Grid
from geopipe.grid.polygons import BEND, Polygons, covered, polygons_of, squares
from geopipe.plan.cells import keys_of, reach_of, runs_of

UTM, LON_LAT = "EPSG:32632", "EPSG:4326"
GRID = Grid(UTM, 0.0, 40.0, 10.0, 10.0, width=6, height=4)  # centres at x 5, 15, ... 55 and y 35, 25, 15, 5


def box(left: float, bottom: float, right: float, top: float) -> np.ndarray:
    return np.array([(left, bottom), (right, bottom), (right, top), (left, top)], float)


def mask_of(grid: Grid, *polygons: list[Any], crs: str | None = None) -> Polygons:
    rings = [[np.asarray(ring, float) for ring in polygon] for polygon in polygons]
    return polygons_of("mask.geojson", crs or grid.crs, rings, grid)


def cells(polygons: Polygons, grid: Grid) -> np.ndarray:
    return covered(polygons, grid.xs(0, grid.width), grid.ys(0, grid.height))


def drawn(mask: np.ndarray) -> list[str]:
    return ["".join(".#"[int(v)] for v in line) for line in mask]


def test_a_polygon_with_a_hole_by_hand() -> None:
    polygons = mask_of(GRID, [box(0, 0, 50, 40), box(12, 12, 38, 28)])
    assert drawn(cells(polygons, GRID)) == ["#####.", "#...#.", "#...#.", "#####."]


def test_several_polygons_are_united_and_a_hole_in_one_is_filled_by_another() -> None:
    polygons = mask_of(GRID, [box(0, 0, 50, 40), box(12, 12, 38, 28)], [box(20, 10, 60, 20)])
    assert drawn(cells(polygons, GRID)) == ["#####.", "#...#.", "#.####", "#####."]


def test_a_centre_on_an_edge_belongs_to_the_polygon_at_its_right_or_below() -> None:
    left, right = mask_of(GRID, [box(5, 5, 25, 35)]), mask_of(GRID, [box(25, 5, 45, 35)])
    assert drawn(cells(left, GRID)) == ["##....", "##....", "##....", "......"]
    assert drawn(cells(right, GRID)) == ["..##..", "..##..", "..##..", "......"]
    slope = mask_of(GRID, [[(5, 35), (35, 35), (35, 5)]])  # its long edge goes through four centres
    other = mask_of(GRID, [[(5, 35), (35, 5), (5, 5)]])
    assert drawn(cells(slope, GRID)) == ["###...", ".##...", "..#...", "......"]
    assert not (cells(slope, GRID) & cells(other, GRID)).any()


def test_a_ring_that_crosses_itself_is_inside_where_it_goes_round_once() -> None:
    bow = mask_of(GRID, [[(0, 0), (60, 40), (60, 0), (0, 40)]])
    assert drawn(cells(bow, GRID)) == ["#....#", "##..##", "##..##", "#....#"]


def slow(polygons: list[list[np.ndarray]], x: float, y: float) -> bool:
    """Even-odd by one ray to the left, edge by edge, in fractions."""

    def odd(rings: list[np.ndarray]) -> bool:
        count = 0
        for ring in rings:
            for (ax, ay), (bx, by) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                if ay == by or not min(ay, by) < y <= max(ay, by):
                    continue
                share = (Fraction(y) - Fraction(ay)) / (Fraction(by) - Fraction(ay))
                count += Fraction(ax) + share * (Fraction(bx) - Fraction(ax)) <= Fraction(x)
        return count % 2 == 1

    return any(odd(rings) for rings in polygons)


# whole numbers: edges through centres and corners on them are common
PLACE = st.tuples(st.integers(-10, 70), st.integers(-10, 50))
RING = st.lists(PLACE, min_size=3, max_size=7).map(lambda points: np.array(points, float))
MASKS = st.lists(st.lists(RING, min_size=1, max_size=3), min_size=1, max_size=3)


@given(MASKS)
@settings(max_examples=150)
def test_every_cell_is_as_a_slow_test_has_it(polygons: list[list[np.ndarray]]) -> None:
    inside = cells(polygons_of("m", UTM, polygons, GRID), GRID)
    xs, ys = GRID.xs(0, GRID.width), GRID.ys(0, GRID.height)
    assert (inside == [[slow(polygons, x, y) for x in xs] for y in ys]).all()


@given(MASKS, st.integers(1, 5))
@settings(max_examples=150)
def test_no_tile_changes_a_cell_and_none_is_missed(polygons: list[list[np.ndarray]], size: int) -> None:
    grid = Grid(UTM, 0.1, 40.7, 3.3, 2.9, width=17, height=13)
    mask = polygons_of("m", UTM, polygons, grid)
    whole, met = cells(mask, grid), squares(mask, grid, size)
    for tile in tiles_of(grid, size):
        part = covered(mask, grid.xs(tile.col, tile.width), grid.ys(tile.row, tile.height))
        rows, cols = slice(tile.row, tile.row + tile.height), slice(tile.col, tile.col + tile.width)
        assert (part == whole[rows, cols]).all()
        assert met.ravel()[tile.key] or not part.any()
    reach = reach_of(mask, grid, size, whole=True)
    assert (reach.cells, reach.exact) == (np.count_nonzero(whole), True)
    assert (keys_of(reach.runs) == np.flatnonzero(met)).all()
    assert reach_of(mask, grid, size, whole=False).cells >= reach.cells


def test_what_is_too_much_at_once_is_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    polygons = mask_of(GRID, [box(0, 0, 50, 40), box(12, 12, 38, 28)])
    expected = cells(polygons, GRID)
    monkeypatch.setattr("geopipe.grid.polygons.MOST_CROSSINGS", 3)
    assert (cells(polygons, GRID) == expected).all()


def test_tiles_far_from_the_outline_are_told_apart_without_their_cells() -> None:
    grid = Grid(UTM, 0, 2_000_000, 1, 1, width=1_500_000, height=2_000_000)  # 716,000 tiles, 3e12 cells
    ring = [(700_000 + 400_000 * np.cos(t), 900_000 + 600_000 * np.sin(t)) for t in np.linspace(0, 2 * np.pi, 5000)]
    polygons = mask_of(grid, [ring])
    reach = reach_of(polygons, grid, 2048, whole=True)
    area = np.pi * 400_000 * 600_000
    assert not reach.exact
    assert area < reach.cells < 1.01 * area
    assert area / 2048**2 < reach.tiles < 1.03 * area / 2048**2
    assert len(reach.runs) < 600


def test_runs_and_keys() -> None:
    assert runs_of(np.array([0, 1, 2, 5, 7, 8])) == ((0, 3), (5, 6), (7, 9))
    assert keys_of(((0, 3), (5, 6), (7, 9))).tolist() == [0, 1, 2, 5, 7, 8]
    assert runs_of(np.zeros(0, int)) == ()
    assert keys_of(()).tolist() == []


# ---------------------------------------------------------------- other CRS


def by_centres(grid: Grid, crs: str, rings: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The truth: centres carried to the mask's own CRS, where its edges are straight; and how far each is from one."""
    x, y = np.meshgrid(grid.xs(0, grid.width), grid.ys(0, grid.height))
    px, py = pyproj.Transformer.from_crs(grid.crs, crs, always_xy=True).transform(x, y)
    inside, near = np.zeros(x.shape, bool), np.full(x.shape, np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        for ring in rings:
            for (ax, ay), (bx, by) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                cross = ax + (py - ay) * (bx - ax) / (by - ay)
                inside ^= (min(ay, by) < py) & (py <= max(ay, by)) & (cross <= px)
                along = np.clip(
                    ((px - ax) * (bx - ax) + (py - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2), 0, 1
                )
                near = np.minimum(near, np.hypot(ax + along * (bx - ax) - px, ay + along * (by - ay) - py))
    return inside, near


@pytest.mark.parametrize(
    ("grid", "crs", "ring", "cell"),
    [
        (Grid(UTM, 200_000, 5_900_000, 1000, 1000, 700, 900), LON_LAT, box(4.5, 46.3, 13.3, 52.2), 0.014),
        (Grid(UTM, 200_000, 5_900_000, 1000, 1000, 700, 900), LON_LAT, box(-170, -80, 11, 80), 0.014),
        (Grid(UTM, 600_000, 5_200_000, 1000, 1000, 100, 80), "EPSG:3035", box(0, 0, 4_440_000, 2_640_000), 1000),
        (Grid(LON_LAT, 4.0, 53.0, 0.01, 0.01, 800, 700), UTM, box(300_000, 5_200_000, 650_000, 5_800_000), 1100),
        (Grid("EPSG:3031", -3e6, 3e6, 10_000, 10_000, 600, 600), LON_LAT, box(-180, -90, 180, -71.3), 0.09),
        (Grid("EPSG:3031", -3.005e6, 3.005e6, 10_000, 10_000, 601, 601), LON_LAT, box(-180, -90, 180, -71.3), 0.09),
        (Grid("EPSG:3857", -2e7, 1.99e7, 40_000, 40_000, 1000, 990), LON_LAT, box(-180, -90, 60, -30), 0.36),
    ],
)
def test_edges_are_followed_to_a_hundredth_of_a_cell(grid: Grid, crs: str, ring: np.ndarray, cell: float) -> None:
    inside = cells(mask_of(grid, [ring], crs=crs), grid)
    truth, near = by_centres(grid, crs, [ring])
    assert truth.any()
    assert not truth.all()
    clear = near > 2 * BEND * cell
    assert clear.mean() > 0.99
    assert (inside == truth)[clear].all()


def test_longitudes_go_round() -> None:
    pacific = Grid(LON_LAT, 0, 80, 1, 1, 360, 160)  # 0..360
    inside = cells(mask_of(pacific, [box(-10, -20, 10, 20)]), pacific)
    assert inside[:, :10].sum() == inside[:, 350:].sum() == 400
    assert inside.sum() == 800
    world = Grid(LON_LAT, -180, 80, 1, 1, 360, 160)
    beyond = cells(mask_of(world, [box(170, 0, 190, 10)]), world)  # drawn across the antimeridian
    assert beyond[:, :10].sum() == beyond[:, 350:].sum() == 100
    fiji = Grid("EPSG:32701", -100_000, 8_200_000, 10_000, 10_000, 60, 60)
    cut = mask_of(fiji, [box(178, -18, 180, -17)], [box(-180, -18, -179, -17)], crs=LON_LAT)  # as GeoJSON wants it
    whole = mask_of(fiji, [box(178, -18, 181, -17)], crs=LON_LAT)
    assert (cells(cut, fiji) == cells(whole, fiji)).all()
    assert 300 < cells(cut, fiji).sum() < 400
    ocean = Grid("EPSG:3832", -1e7, 8e6, 50_000, 50_000, 400, 320)  # Mercator round 150 E; torn at 30 W, far away
    mask = mask_of(ocean, [box(-60, 50, -20, 70)], [box(170, -30, 200, 0)], crs=LON_LAT)
    assert mask.count == 1
    assert (
        cells(mask, ocean)
        == by_centres(ocean, LON_LAT, [box(170, -30, 180, 0)])[0]
        | by_centres(ocean, LON_LAT, [box(-180, -30, -160, 0)])[0]
    ).all()


def test_a_polygon_round_a_pole_takes_it_in() -> None:
    t = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    for turn in (1, -1):
        ring = 2e6 * np.column_stack([np.cos(turn * t), np.sin(turn * t)])
        world = Grid(LON_LAT, -180, 90, 1, 1, 360, 180)
        inside = cells(mask_of(world, [ring], crs="EPSG:3031"), world)
        lat = pyproj.Transformer.from_crs("EPSG:3031", LON_LAT, always_xy=True).transform(2e6, 0)[1]
        assert (inside == (world.ys(0, 180) < lat)[:, None]).all()


def test_a_torn_outline_is_refused_with_its_place() -> None:
    grid = Grid(LON_LAT, -180, 90, 1, 1, 360, 180)
    with pytest.raises(SourceError, match="torn in the grid's CRS, near") as caught:  # an edge through the pole
        mask_of(grid, [box(-1e6, -1e6, 1e6, 0) * (1, 1)], crs="EPSG:3031")
    assert "cut the polygon there" in caught.value.hint


def test_no_seam_is_left_where_longitudes_meet() -> None:
    grid = Grid("EPSG:3031", -1005, 1005, 10, 10, 201, 201)  # centres on the meridian of 180 degrees and on the pole
    assert cells(mask_of(grid, [box(-180, -90, 180, -71)], crs=LON_LAT), grid).all()
    halves = mask_of(grid, [box(-180, -90, 0, -71)], [box(0, -90, 180, -71)], crs=LON_LAT)
    assert cells(halves, grid).all()
