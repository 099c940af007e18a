"""What is said of a file beyond its header: palettes, class names, value ranges, variables, extent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import header, north_up, write_raster

from geopipe.load import inspect, raster
from geopipe.load.categories import from_attributes, from_sidecar

PAM = """<PAMDataset><PAMRasterBand band="1">{}</PAMRasterBand></PAMDataset>"""
NAMES = PAM.format("<CategoryNames><Category>none</Category><Category>water</Category><Category/></CategoryNames>")
TABLE = PAM.format(
    """<GDALRasterAttributeTable>
    <FieldDefn index="0"><Name>Value</Name><Type>0</Type><Usage>5</Usage></FieldDefn>
    <FieldDefn index="1"><Name>Count</Name><Type>0</Type><Usage>1</Usage></FieldDefn>
    <FieldDefn index="2"><Name>Class</Name><Type>2</Type><Usage>2</Usage></FieldDefn>
    <Row index="0"><F>11</F><F>5</F><F>Open Water</F></Row><Row index="1"><F>21</F><F>9</F><F>Developed</F></Row>
    </GDALRasterAttributeTable>"""
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (NAMES, ((0, "none"), (1, "water"))),
        (TABLE, ((11, "Open Water"), (21, "Developed"))),
        ("", ()),
        ("<PAMDataset", ()),
        ('<!DOCTYPE x [<!ENTITY a "b">]>' + NAMES, ()),
    ],
)
def test_class_names_beside_a_raster_reach_its_band(tmp_path: Path, text: str, expected: object) -> None:
    path = write_raster(tmp_path / "a.tif", np.zeros((4, 5), "uint8"), "EPSG:32632", north_up(500_000, 5_000_000, 30))
    Path(f"{path}.aux.xml").write_text(text)
    assert from_sidecar(str(path)).get(1, ()) == expected
    if text in (NAMES, TABLE):  # GDAL says of the others that they are damaged
        assert raster.inspect(str(path)).bands[0].categories == expected


@pytest.mark.parametrize(
    ("values", "meanings", "expected"),
    [
        ("{1,2,4}", "clear cloudy missing", ((1, "clear"), (2, "cloudy"), (4, "missing"))),
        ("0b, 1b", "land sea", ((0, "land"), (1, "sea"))),
        ("{1,2}", "one", ()),
        ("", "", ()),
    ],
)
def test_flags_of_cf_are_class_names(values: str, meanings: str, expected: object) -> None:
    assert from_attributes({"flag_values": values, "flag_meanings": meanings}) == expected


def test_a_file_is_described_with_palette_ranges_and_extent(tmp_path: Path) -> None:
    pixels = np.arange(20, dtype="uint8").reshape(4, 5)
    colours = {0: (0, 0, 0, 255), 1: (255, 0, 0, 255)}
    place = north_up(500_000, 5_000_000, 30)
    path = write_raster(tmp_path / "a.tif", pixels, "EPSG:32632", place, nodata=0, colormap=colours)
    file_header = raster.inspect(str(path))
    info = inspect.describe(file_header, ranges=True)
    assert dict(info.palettes[0])[1] == (255, 0, 0, 255)
    assert info.ranges == (inspect.ValueRange(1, 19, 19),)
    assert inspect.lonlat_bounds(file_header) == pytest.approx((9.0, 45.1524, 9.0019, 45.1535), abs=0.0005)
    assert (info.times, info.levels, info.variables) == ((), (), ())


def test_ranges_are_those_of_unpacked_values_over_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect, "PIXELS", 100)
    pixels = np.random.default_rng(3).integers(-500, 500, (2, 90, 70)).astype("int16")
    path = write_raster(
        tmp_path / "a.tif", pixels, None, north_up(0, 0, 1), nodata=-1, scales=(0.5, 1.0), offsets=(3.0, 0.0)
    )
    first, second = inspect.value_ranges(raster.inspect(str(path)))
    valid = pixels[0][pixels[0] != -1] * 0.5 + 3
    assert (first.low, first.high, first.valid) == (valid.min(), valid.max(), valid.size)
    assert isinstance(second.low, int)


def test_a_file_without_a_valid_pixel_has_no_range(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, 3), np.nan, "float32"), None, north_up(0, 0, 1))
    assert inspect.value_ranges(raster.inspect(str(path))) == (inspect.ValueRange(None, None, 0),)


def test_variables_of_a_file_come_with_their_headers(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.nc", "w") as file:
        for name, size, first in (("y", 4, 50.0), ("x", 5, 10.0)):
            axis = file.create_dataset(name, data=first + np.arange(size) * 0.5)
            axis.make_scale(name)
            axis.attrs["standard_name"] = {"y": "latitude", "x": "longitude"}[name]
            axis.attrs["units"] = {"y": "degrees_north", "x": "degrees_east"}[name]
        for name in ("t", "q"):
            data = file.create_dataset(name, data=np.zeros((4, 5), "float32"))
            for n, axis_name in enumerate(("y", "x")):
                data.dims[n].attach_scale(file[axis_name])
    info = inspect.describe(raster.inspect(str(tmp_path / "a.nc")))
    assert {variable.name for variable in info.variables} == {"t", "q"}
    assert all(variable.header is not None and variable.header.width == 5 for variable in info.variables)


def test_an_extent_that_is_unknown_is_none() -> None:
    assert inspect.lonlat_bounds(header(crs=None)) is None
