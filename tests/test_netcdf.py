"""What the conventions of NetCDF say of values and axes, beyond what GDAL makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import plan_of, raster_of
from scipy.io import netcdf_file

from geopipe import raster
from geopipe.grid import Grid
from geopipe.layer import Layer

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


def found(path: Path, **layer: Any) -> np.ndarray:
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
    assert np.array_equal(found(path), expected, equal_nan=True)


def test_limits_count_before_numbers_are_unpacked(tmp_path: Path) -> None:
    packed = {"scale_factor": 0.5, "add_offset": 100.0, "valid_max": short(20), "missing_value": short(7)}
    path = write(tmp_path / "a.nc", NUMBERS, "lat", "lon", _FillValue=short(5), **packed)
    assert np.array_equal(found(path), without(5, 7, range(21, 24)) / 2 + 100, equal_nan=True)


def test_the_nodata_of_a_layer_replaces_what_the_file_says_and_not_its_limits(tmp_path: Path) -> None:
    about = {"_FillValue": short(5), "missing_value": short(7), "valid_max": short(20)}
    path = write(tmp_path / "a.nc", NUMBERS, "lat", "lon", **about)
    assert np.array_equal(found(path, nodata=9), without(9, range(21, 24)), equal_nan=True)


def test_bytes_may_be_unsigned(tmp_path: Path) -> None:
    stored = NUMBERS.astype("int8")
    stored[0] = (-1, -2, -56, -128, 0, 1)
    about = {"missing_value": np.int8(-2), "valid_range": np.array([1, -1], "int8"), "_FillValue": np.int8(-56)}
    path = write(tmp_path / "a.nc", stored, "lat", "lon", _Unsigned="true", **about)
    assert raster.inspect(str(path)).bands[0].dtype == "uint8"
    result = found(path)
    assert np.array_equal(result[0], [255, np.nan, np.nan, 128, np.nan, 1], equal_nan=True)
    assert np.array_equal(result[1:], NUMBERS[1:])
