"""What the conventions of NetCDF say of values and axes, beyond what GDAL makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import call, plan_of, raster_of
from scipy.io import netcdf_file

from geopipe.grid.grid import Grid
from geopipe.layers.layer import Layer
from geopipe.load import raster

GRID = Grid("EPSG:4326", 10, 50, 1, 1, 6, 4)
AXES = {"lat": np.linspace(49.5, 46.5, 4), "lon": np.linspace(10.5, 15.5, 6), "time": np.arange(2.0)}
UNITS = {"lat": "degrees_north", "lon": "degrees_east", "time": "days since 2000-01-01"}
NUMBERS = np.arange(24, dtype="int16").reshape(4, 6)


def write(path: Path, values: Any, *dims: str, **attributes: Any) -> Path:
    """A classic file with one variable `v` on these dimensions."""
    with netcdf_file(path, "w") as file:
        for name in dims:
            file.createDimension(name, len(AXES[name]))
            axis = file.createVariable(name, "d", (name,))
            axis[:], axis.units = AXES[name], UNITS[name]
        variable = file.createVariable("v", np.asarray(values).dtype, dims)
        variable[:] = values
        for key, value in attributes.items():
            setattr(variable, key, value)
    return path


def values_of(path: Path, **layer: Any) -> np.ndarray:
    """The values on the grid, NaN where they are missing."""
    return raster_of(plan_of(GRID, [Layer("a", (str(path),), crs="EPSG:4326", **layer)], how="grid"), "a")


def short(*numbers: int) -> Any:
    return np.array(numbers if len(numbers) > 1 else numbers[0], "int16")


def without(*gone: range | int) -> np.ndarray:
    """The numbers without some of them."""
    values = NUMBERS.astype(float)
    for one in gone:
        values[np.isin(NUMBERS, one)] = np.nan
    return values


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"_FillValue": short(5), "missing_value": short(7)}, without(5, 7)),
        ({"missing_value": short(7, 8)}, without(7, 8)),
        ({"_FillValue": short(5), "valid_min": short(3)}, without(5, range(3))),
        ({"valid_max": short(20)}, without(range(21, 24))),
        ({"valid_min": short(3), "valid_max": short(20)}, without(range(3), range(21, 24))),
        ({"valid_range": short(3, 20)}, without(range(3), range(21, 24))),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_what_is_no_value_is_missing(tmp_path: Path, attributes: dict[str, Any], expected: np.ndarray) -> None:
    path = write(tmp_path / "a.nc", NUMBERS, "lat", "lon", **attributes)
    assert np.array_equal(values_of(path), expected, equal_nan=True)


def test_a_fill_value_is_nodata_once_whatever_its_digits(tmp_path: Path) -> None:
    for fill in (1e20, 9.96921e36, -9999.9, np.nan):
        path = write(tmp_path / "a.nc", NUMBERS.astype("float32"), "lat", "lon", _FillValue=np.float32(fill))
        band = raster.inspect(str(path)).bands[0]
        assert (band.nodata, band.missing) == (pytest.approx(np.float32(fill), nan_ok=True), ())


@pytest.mark.parametrize("text", ["none", "", "1e999", "9" * 400, "nan"])
def test_a_text_that_is_no_number_says_nothing(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.nc", NUMBERS, "lat", "lon", missing_value=text, valid_max=text)
    assert np.array_equal(values_of(path), NUMBERS)


def test_inspect_shows_what_is_no_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = {"_FillValue": short(5), "missing_value": short(7, 8), "valid_max": short(20)}
    code, out, _ = call(capsys, "inspect", write(tmp_path / "a.nc", NUMBERS, "lat", "lon", **about))
    assert (code, "int16, nodata 5, missing 7 8, valid ..20, variable v" in out) == (0, True)


def test_limits_count_before_numbers_are_unpacked(tmp_path: Path) -> None:
    packed = {"scale_factor": 0.5, "add_offset": 100.0, "valid_max": short(20), "missing_value": short(7)}
    path = write(tmp_path / "a.nc", NUMBERS, "lat", "lon", _FillValue=short(5), **packed)
    assert np.array_equal(values_of(path), without(5, 7, range(21, 24)) / 2 + 100, equal_nan=True)


def test_the_nodata_of_a_layer_replaces_what_the_file_says_and_not_its_limits(tmp_path: Path) -> None:
    about = {"_FillValue": short(5), "missing_value": short(7), "valid_max": short(20)}
    path = write(tmp_path / "a.nc", NUMBERS, "lat", "lon", **about)
    assert np.array_equal(values_of(path, nodata=9), without(9, range(21, 24)), equal_nan=True)


def test_bytes_may_be_unsigned(tmp_path: Path) -> None:
    stored = NUMBERS.astype("int8")
    stored[0] = (-1, -2, -56, -128, 0, 1)
    about = {"missing_value": np.int8(-2), "valid_range": np.array([1, -1], "int8"), "_FillValue": np.int8(-56)}
    path = write(tmp_path / "a.nc", stored, "lat", "lon", _Unsigned="true", **about)
    assert raster.inspect(str(path)).bands[0].dtype == "uint8"
    result = values_of(path)
    assert np.array_equal(result[0], [255, np.nan, np.nan, 128, np.nan, 1], equal_nan=True)
    assert np.array_equal(result[1:], NUMBERS[1:])


@pytest.mark.parametrize(
    ("about", "missing"),
    [
        ({"valid_range": short(1, 254)}, (0, 255)),
        ({"valid_range": np.array([1.0, 254.0], "float32")}, (0, 255)),
        ({"valid_min": short(1), "valid_max": short(254)}, (0, 255)),
        ({"valid_range": np.array([1, -2], "int8")}, (0, 255)),
        ({"valid_range": short(0, 255)}, ()),
        ({"valid_range": short(0, 255), "_Unsigned": None}, ()),  # which says by itself that they are unsigned
        ({"valid_range": short(9, 3)}, ()),
    ],
    ids=str,
)
def test_a_range_of_unsigned_bytes_may_have_any_type(
    tmp_path: Path, about: dict[str, Any], missing: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    numbers = np.array([[0, 1, 127, 128, 254, 255]] * 4)
    attributes = {k: v for k, v in ({"_Unsigned": "true"} | about).items() if v is not None}
    path = write(tmp_path / "a.nc", numbers.astype("uint8").view("int8"), "lat", "lon", **attributes)
    expected = [np.nan if n in missing else n for n in numbers[0]]
    assert np.array_equal(values_of(path)[0], expected, equal_nan=True)
    assert not caplog.records


@pytest.mark.parametrize("dims", [("lon", "lat"), ("time", "lon", "lat"), ("lat", "lon"), ("time", "lat", "lon")])
def test_axes_may_be_stored_in_any_order(tmp_path: Path, dims: tuple[str, ...]) -> None:
    values = NUMBERS if dims[-1] == "lon" else NUMBERS.T
    stored = np.stack([values, values + 100]) if len(dims) == 3 else values
    path = write(tmp_path / "a.nc", stored, *dims, missing_value=short(7))
    header = raster.inspect(str(path))
    assert (header.width, header.height) == (6, 4)
    assert header.bounds == (10, 46, 16, 50)
    assert header.transposed == (dims[-1] == "lat")
    assert np.array_equal(values_of(path, bands=(1,)), without(7), equal_nan=True)


def test_a_transposed_file_is_a_ring_of_longitudes_like_any_other(tmp_path: Path) -> None:
    """Degrees 0..360 by 10, stored (lon, lat), come to a grid from -180."""
    values = np.arange(36 * 18, dtype="int16").reshape(18, 36)
    with netcdf_file(tmp_path / "a.nc", "w") as file:
        for name, places in (("lon", np.arange(36) * 10 + 5.0), ("lat", 85 - np.arange(18) * 10.0)):
            file.createDimension(name, len(places))
            axis = file.createVariable(name, "d", (name,))
            axis[:], axis.units = places, UNITS[name]
        file.createVariable("v", "h", ("lon", "lat"))[:] = values.T
    grid = Grid("EPSG:4326", -180, 90, 10, 10, 36, 18)
    layer = Layer("a", (str(tmp_path / "a.nc"),), crs="EPSG:4326", resampling="nearest")
    assert raster_of(plan_of(grid, [layer]), "a", -1).tolist() == np.roll(values, 18, axis=1).tolist()
