"""The grid that the settings ask for: around the layers, like another raster, or refused."""

from __future__ import annotations

from typing import Any

import pytest
from affine import Affine
from helpers import header, north_up

from geopipe.errors import SettingsError
from geopipe.grid.grid import Grid, projected_bounds
from geopipe.layers.header import Header
from geopipe.plan.target import GridRequest, resolve_grid

UTM = "EPSG:32612"


def grid_of(layers: dict[str, Header], **overrides: Any) -> Grid:
    keys = {"crs": UTM, "resolution": (30, 30), "bounds": "union", "like": None, "snap": None, "crs_of": {}} | overrides
    crs_of = {name: keys["crs_of"].get(name) for name in layers}
    sources = {name: [h] for name, h in layers.items()}
    request = GridRequest(**{key: keys[key] for key in ("crs", "resolution", "bounds", "like", "snap")})
    return resolve_grid(request, sources, crs_of)


def test_union_and_intersection_of_layers_snap_outward() -> None:
    one = header(transform=north_up(500_010, 4_000_000, 10), width=30, height=30)  # x 500010..500310
    two = header(transform=north_up(500_110, 4_000_100, 10), width=30, height=30)  # y 3999800..4000100
    # whole multiples of 30: 500010 = 16667 * 30, 500430 = 16681 * 30; 3999690 = 133323 * 30, 4000110 = 133337 * 30
    assert grid_of({"a": one, "b": two}).bounds == (500_010, 3_999_690, 500_430, 4_000_110)
    # shared: x 500110..500310, y 3999800..4000000
    assert grid_of({"a": one, "b": two}, bounds="intersection").bounds == (500_100, 3_999_780, 500_310, 4_000_020)
    assert grid_of({"a": one, "b": two}, bounds="intersection", snap=False).bounds[0] == 500_110


def test_a_union_reaches_around_layers_of_other_crs() -> None:
    lonlat = header(crs="EPSG:4326", transform=north_up(-111, 36, 0.01), width=10, height=10)
    expected = projected_bounds(lonlat.transform, 10, 10, "EPSG:4326", UTM)
    assert expected is not None
    left, bottom, right, top = grid_of({"a": header(), "b": lonlat}).bounds
    assert left <= min(expected[0], 500_000)
    assert right >= max(expected[2], 503_000)
    assert top >= max(expected[3], 4_000_000)
    assert bottom <= min(expected[1], 3_997_600)


def test_like_gives_its_own_grid_or_what_is_left_out() -> None:
    like = header(transform=north_up(10, 20, 7), width=5, height=4)
    assert grid_of({}, crs=None, resolution=None, like=like, bounds=None) == Grid(UTM, 10, 20, 7, 7, 5, 4)
    assert grid_of({}, crs=None, resolution=(3.5, 2), like=like, bounds=None) == Grid(UTM, 10, 20, 3.5, 2, 10, 14)
    bounds = grid_of({}, crs=None, resolution=None, like=like, bounds=(10, 6, 24, 20))
    assert bounds == Grid(UTM, 10, 20, 7, 7, 2, 2)


@pytest.mark.parametrize(
    ("overrides", "message", "hint"),
    [
        ({"crs": None}, "grid.crs is missing", "grid.like"),
        ({"resolution": None}, "grid.resolution is missing", "grid.like"),
        ({"like": header(transform=Affine(30, 1, 0, 0, -30, 0))}, "a.tif is rotated or not north-up", "resolution"),
        ({"like": header(transform=Affine(30, 0, 0, 0, 30, 0))}, "a.tif is rotated or not north-up", "resolution"),
        ({"like": header(crs=None), "crs": None}, "grid.like = /data/a.tif has no CRS", "grid.crs"),
    ],
)  # fmt: skip
def test_a_grid_that_is_not_said_is_refused(overrides: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        grid_of({"a": header()}, **overrides)
    assert hint in caught.value.hint


def test_an_intersection_of_layers_apart_is_refused_with_their_bounds() -> None:
    away = header(transform=north_up(700_000, 4_000_000, 30))
    with pytest.raises(SettingsError, match=r"is empty.*near \[500000, .*far \[700000, "):
        grid_of({"near": header(), "far": away}, bounds="intersection")
