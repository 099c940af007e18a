"""Columns that follow from a cell's place: held against pyproj and h3, cell by cell, and free of the tile."""

from __future__ import annotations

import builtins
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyproj
import pytest
from helpers import header, north_up, plan_of, table_of, write_raster
from hypothesis import given
from hypothesis import strategies as st

from geopipe.errors import MachineError, SettingsError
from geopipe.grid.grid import Grid
from geopipe.layers.layer import Layer
from geopipe.merge import derived
from geopipe.plan.options import Layout

UTM = "EPSG:32632"
GRID = Grid(UTM, 600_000, 5_170_000, 100, 100, 600, 520)


def centres(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(grid.xs(0, grid.width), grid.ys(0, grid.height))
    return x.ravel(), y.ravel()


def test_degrees_are_those_of_pyproj() -> None:
    x, y = centres(GRID)
    lon, lat = derived.degrees(GRID, x, y)
    for i in (0, 1, 600, 51_234, len(x) - 1):
        place = pyproj.Transformer.from_crs(UTM, "EPSG:4326", always_xy=True).transform(x[i], y[i])
        assert (lon[i], lat[i]) == place
    assert 10.2 < lon.min() < lon.max() < 11.2


def test_longitudes_from_0_to_360_come_back_as_those_from_180_west() -> None:
    grid = Grid("EPSG:4326", 0, 91, 45, 1, 8, 2)
    lon, lat = derived.degrees(grid, np.array([45.0, 135, 225, 315, 180, 45]), np.array([1.0, 2, 3, 4, 5, 90.5]))
    assert lon[:5].tolist() == [45, 135, -135, -45, 180]
    assert lat[:5].tolist() == [1, 2, 3, 4, 5]
    assert np.isnan([lon[5], lat[5]]).all(), "there is no latitude of 90.5"


def test_a_cell_beyond_the_limb_has_nulls() -> None:
    pytest.importorskip("h3")
    grid = Grid("+proj=geos +h=35785831 +lon_0=0", -6e6, 6e6, 3e6, 3e6, 4, 4)
    lon, lat, cells = derived.arrays(grid, True, 3, *centres(grid))
    assert lon.null_count == lat.null_count == cells.null_count == 4
    assert lon[0].as_py() is None
    assert all(np.isfinite(v) for v in lon.to_pylist() if v is not None)


def test_a_grid_on_mars_has_no_longitudes_on_earth() -> None:
    mars = Grid("+proj=longlat +R=3396190 +no_defs", 0, 1, 1, 1, 1, 1)
    source = header(crs=mars.crs, transform=north_up(0, 1, 1), width=1, height=1)
    with pytest.raises(SettingsError, match="no way") as caught:
        plan_of(mars, [Layer("a", ())], headers={"a": [source]}, layout=Layout(lonlat=True))
    assert caught.value.hint


def test_h3_cells_are_those_of_the_package() -> None:
    h3 = pytest.importorskip("h3")
    x, y = centres(GRID)
    lon, lat, cells = derived.arrays(GRID, True, 9, x[::997], y[::997])
    assert cells.type == pa.uint64()
    for place, cell in zip(zip(lat.to_pylist(), lon.to_pylist(), strict=True), cells.to_pylist(), strict=True):
        assert h3.int_to_str(cell) == h3.latlng_to_cell(*place, 9)
    assert h3.latlng_to_cell(37.3615593, -122.0553238, 5) == "85283473fffffff", "the example of H3's own documents"
    one = derived.h3_cells(np.array([-122.0553238]), np.array([37.3615593]), 5)
    assert one.tolist() == [0x85283473FFFFFFF]


def test_without_the_package_the_plan_is_refused_with_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any) -> Any:
        if name.startswith("h3"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MachineError, match=r"export.h3 = 9 needs the package h3") as caught:
        plan_of(Grid("EPSG:32612", 500_000, 4_000_000, 30, 30, 9, 9), [Layer("a", ())], headers={"a": [header()]},
                layout=Layout(h3=9))  # fmt: skip
    assert "pip install 'geopipe[h3]'" in caught.value.hint
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("crs", [UTM, "EPSG:3035", "EPSG:4258", "EPSG:4267"])
def test_no_value_depends_on_the_slice(crs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid(crs, *((10, 48) if pyproj.CRS(crs).is_geographic else (600_000, 5_170_000)), 0.5, 0.5, 40, 40)
    x, y = centres(grid)
    whole = derived.degrees(grid, x, y)
    monkeypatch.setattr(derived, "SLICE", 7)
    for one, other in zip(whole, derived.degrees(grid, x, y), strict=True):
        assert one.tobytes() == other.tobytes()


def test_the_table_has_the_columns_between_y_and_the_variables_at_any_tile(tmp_path: Path) -> None:
    pytest.importorskip("h3")
    values = np.arange(600 * 520, dtype="float32").reshape(520, 600)
    values[::3, ::2] = np.nan
    path = str(write_raster(tmp_path / "a.tif", values, UTM, north_up(600_000, 5_170_000, 100)))
    tables = [
        table_of(plan_of(GRID, [Layer("a", (path,))], window_size=size, layout=Layout(lonlat=True, h3=7)))
        for size in (512, 1024)
    ]
    assert tables[0].column_names == ["row", "col", "x", "y", "lon", "lat", "h3", "a"]
    assert tables[0].schema.field("lon").metadata == {b"unit": b"degree", b"crs": b"OGC:CRS84"}
    assert tables[0].schema.field("h3").metadata == {b"resolution": b"7"}
    ordered = [t.sort_by([("row", "ascending"), ("col", "ascending")]).combine_chunks() for t in tables]
    assert ordered[0].select(range(8)).equals(ordered[1].select(range(8)))
    lon, lat = derived.degrees(GRID, tables[0]["x"].to_numpy(), tables[0]["y"].to_numpy())
    assert tables[0]["lon"].to_numpy().tobytes() == lon.tobytes()
    assert tables[0]["lat"].to_numpy().tobytes() == lat.tobytes()


numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(numbers, numbers)))
def test_points_are_wkb(places: list[tuple[float, float]]) -> None:
    x, y = (np.array([p[i] for p in places], float) for i in range(2))
    result = derived.points(x, y)
    result.validate(full=True)
    assert result.to_pylist() == [struct.pack("<BIdd", 1, 1, *place) for place in places]


def test_metadata_of_points_is_that_of_geoparquet() -> None:
    document = json.loads(derived.geo_text(GRID, (1.0, 2.0, 3.0, 4.0)))
    column = document["columns"].pop("geometry")
    assert document == {"version": "1.1.0", "primary_column": "geometry", "columns": {}}
    assert column.pop("crs")["id"] == {"authority": "EPSG", "code": 32632}
    assert column == {"encoding": "WKB", "geometry_types": ["Point"], "bbox": [1, 2, 3, 4]}
    assert "bbox" not in json.loads(derived.geo_text(GRID, None))["columns"]["geometry"]
