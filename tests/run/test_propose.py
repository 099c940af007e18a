"""`geopipe init`: settings from files, which a plan accepts as they are."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr
from affine import Affine
from helpers import call, write_raster

from geopipe import demo

UTM = "EPSG:32632"
AREA = Affine(10, 0, 500000, 0, -10, 5000000)


def numbers(dtype: str = "float32") -> np.ndarray[Any, Any]:
    return (np.arange(1200) % 7).astype(dtype).reshape(30, 40)


def layers(folder: Path, capsys: pytest.CaptureFixture[str], *paths: object) -> dict[str, dict[str, Any]]:
    """The layers that init proposes, by name, after a plan of them."""
    file = folder / "mine.toml"
    code, out, err = call(capsys, "init", *paths, "-o", file)
    assert code == 0, err
    assert f"geopipe plan {file}" in out
    code, _, err = call(capsys, "plan", file)
    assert code == 0, err
    return {layer["name"]: layer for layer in tomllib.loads(file.read_text())["layers"]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def test_the_demo_is_understood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.generate(tmp_path)
    proposed = layers(tmp_path, capsys, tmp_path / "data")
    kinds = {name: layer["kind"] for name, layer in proposed.items()}
    assert kinds == {
        "climate": "continuous",
        "elevation": "continuous",
        "landcover": "categorical",
        "population": "count",
        "satellite": "continuous",
        "slope": "continuous",
        "soil": "continuous",
    }
    assert proposed["soil"]["path"] == ["data/soil_east.tif", "data/soil_west.tif"]
    grid = tomllib.loads((tmp_path / "mine.toml").read_text())["grid"]
    assert (grid["crs"], grid["resolution"]) == (UTM, 30)
    assert grid["bounds"] == [600000, 5130000, 650010, 5170020]


@pytest.mark.parametrize(
    ("name", "dtype", "profile", "kind"),
    [
        ("dem", "float32", {}, "continuous"),
        ("land_cover_2020", "uint8", {}, "categorical"),
        ("land_cover_2020", "float32", {}, "continuous"),
        ("codes", "uint8", {"colormap": {1: (255, 0, 0)}}, "categorical"),
        ("aspect", "float32", {}, "circular"),
        ("aspect", "float32", {"units": ["radian"]}, "continuous"),
        ("people", "float32", {}, "count"),
        ("people", "float32", {"units": ["1/km2"]}, "continuous"),
    ],
)
def test_a_kind_is_guessed_and_the_reason_stands_beside_it(
    data: Path, capsys: pytest.CaptureFixture[str], name: str, dtype: str, profile: dict[str, Any], kind: str
) -> None:
    write_raster(data / f"{name}.tif", numbers(dtype), UTM, AREA, **profile)
    assert layers(data.parent, capsys, data)[name]["kind"] == kind
    assert f'kind = "{kind}"  # guess' in (data.parent / "mine.toml").read_text()


def test_files_that_cannot_be_used_are_comments_with_the_reason(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_raster(data / "a.tif", numbers(), UTM, AREA)
    write_raster(data / "nowhere.tif", numbers(), None, AREA)
    write_raster(data / "moon.tif", numbers(), "+proj=eqc +R=1737400 +units=m", AREA)
    (data / "broken.tif").write_text("no raster")
    (data / "area.gpkg").write_bytes(b"no vectors")
    assert list(layers(data.parent, capsys, data)) == ["a"]
    text = (data.parent / "mine.toml").read_text()
    for name, reason in (
        ("nowhere.tif", "it has no CRS"),
        ("moon.tif", "another body"),
        ("broken.tif", "no raster"),
        ("area.gpkg", "as a mask: mask ="),
    ):
        assert any(line.startswith("# not used: ") and name in line and reason in line for line in text.splitlines())


def test_layers_without_a_common_area_are_all_on_the_grid(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_raster(data / "a.tif", numbers(), UTM, AREA)
    write_raster(data / "b.tif", numbers(), UTM, Affine(10, 0, 510000, 0, -10, 5000000))
    write_raster(data / "x.tif", numbers("int16"), "EPSG:4326", Affine(0.001, 0, 9, 0, -0.001, 45.15))
    assert list(layers(data.parent, capsys, data)) == ["a", "b", "x_value"]
    assert "they share no area" in (data.parent / "mine.toml").read_text()


def test_degrees_become_metres_of_a_utm_zone(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_raster(data / "a.tif", numbers(), "EPSG:4326", Affine(0.001, 0, 9, 0, -0.001, 45.15))
    write_raster(data / "b.tif", numbers(), "EPSG:3857", Affine(100, 0, 1002000, 0, -100, 5640000))
    layers(data.parent, capsys, data)
    assert tomllib.loads((data.parent / "mine.toml").read_text())["grid"]["crs"] == UTM


def test_tables_with_coordinates_are_layers(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"lon": [9.0, 9.01, 9.02], "lat": [45.0, 45.01, 45.02], "depth": [1.0, 2.0, 3.0], "name": ["a", "b", "c"]}
    pq.write_table(pa.table(rows), data / "wells.parquet")
    (data / "notes.csv").write_text("a,b\n1,2\n")
    wells = layers(data.parent, capsys, data)["wells"]
    assert (wells["x"], wells["y"], wells["values"], wells["crs"]) == ("lon", "lat", ["depth"], "EPSG:4326")
    assert "# not used: " in (data.parent / "mine.toml").read_text()


@pytest.mark.parametrize("rows", ["11,46,1\n", "11,46,1\n12,46,2\n"], ids=["one place", "one line"])
def test_points_without_an_area_have_no_grid(data: Path, capsys: pytest.CaptureFixture[str], rows: str) -> None:
    (data / "wells.csv").write_text(f"lon,lat,depth\n{rows}")
    code, _, err = call(capsys, "init", data, "-o", data.parent / "mine.toml")
    assert code == 2
    assert "cover no area" in err
    assert "hint: write [grid]" in err


def test_a_settings_file_is_replaced_on_request_only(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_raster(data / "a.tif", numbers(), UTM, AREA)
    file = data / "mine.toml"
    file.write_text("mine")
    code, _, err = call(capsys, "init", data / "a.tif", "-o", file)
    assert (code, file.read_text()) == (2, "mine")
    assert "--force" in err
    assert call(capsys, "init", data / "a.tif", "-o", file, "--force")[0] == 0
    assert "[[layers]]" in file.read_text()


def test_each_variable_of_a_netcdf_is_a_layer_and_many_steps_become_a_mean(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lat, lon = np.linspace(45.2, 45, 21), np.linspace(9, 9.2, 21)
    cube = {
        "tas": (("time", "lat", "lon"), np.ones((30, 21, 21), "float32"), {"units": "K"}),
        "wind_direction": (("lat", "lon"), np.ones((21, 21), "float32"), {"units": "degrees"}),
    }
    axes = {
        "time": ("time", np.arange(30.0), {"units": "days since 2001-01-01"}),
        "lat": ("lat", lat, {"units": "degrees_north"}),
        "lon": ("lon", lon, {"units": "degrees_east"}),
    }
    xr.Dataset(cube, axes).to_netcdf(data / "weather.nc", engine="scipy")
    proposed = layers(data.parent, capsys, data)
    assert {name: layer["variable"] for name, layer in proposed.items()} == {
        "tas": "tas",
        "wind_direction": "wind_direction",
    }
    assert proposed["tas"]["reduce"] == "mean"
    assert proposed["wind_direction"]["kind"] == "circular"
