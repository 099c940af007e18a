"""Formats: what GDAL's drivers in the wheel can write is read back to the last bit, and a run makes a table of it.

docs/inputs.md has the table of formats. A driver that a wheel lacks is skipped here, and a note there says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
import rasterio
import rasterio.shutil
from helpers import north_up, write_raster

from geopipe.load import raster
from geopipe.run import pipeline
from geopipe.settings import load

pytestmark = pytest.mark.slow

UTM = "EPSG:32612"
T = north_up(500_000, 4_000_000, 10)
HEIGHT, WIDTH = 150, 200


def has(driver: str) -> bool:
    with rasterio.Env() as env:
        return driver in env.drivers()


def pixels(dtype: str, bands: int = 1) -> np.ndarray:
    """A smooth picture with all the digits of its type: (bands, HEIGHT, WIDTH)."""
    row, col = np.mgrid[:HEIGHT, :WIDTH]
    wave = np.array([np.sin(row / (9 + n)) * np.cos(col / 13) for n in range(bands)])
    if np.dtype(dtype).kind == "f":
        return (wave * 1234.5678).astype(dtype)
    limits = np.iinfo(dtype)
    return np.round((wave + 1) / 2 * min(limits.max, 2**53 - 1)).astype(dtype)


def table(folder: Path, path: Path | str, *more: str) -> dict[str, np.ndarray]:
    """The columns of a run on the raster's own grid: (HEIGHT, WIDTH) each."""
    file = folder / "s.toml"
    grid = f'crs = "{UTM}"\nresolution = 10\nbounds = [500000, 3998500, 502000, 4000000]'
    keys = "\n".join(['name = "a"', f"path = '{path}'", *more])
    file.write_text(f"[grid]\n{grid}\n[[layers]]\n{keys}\n")
    summary = pipeline.run(load.load(file, ("engine.kind=local",)), overwrite=True)
    assert {d.route for p in summary.plan.layers for d in p.decisions} == {"copy"}
    result = ds.dataset(summary.output / "parquet").to_table().sort_by([("row", "ascending"), ("col", "ascending")])
    return {name: result[name].to_numpy().reshape(HEIGHT, WIDTH) for name in result.column_names[4:]}


def check(folder: Path, path: Path | str, array: np.ndarray, *more: str) -> None:
    result = table(folder, path, *more)
    assert len(result) == len(array)
    for column, band in zip(result.values(), array, strict=True):
        assert column.dtype == band.dtype
        assert np.array_equal(column, band)


LOSSLESS = ("none", "lzw", "deflate", "packbits", "zstd", "lzma", "lerc", "lerc_deflate", "lerc_zstd")


@pytest.mark.parametrize("layout", [{"tiled": True, "blockxsize": 64, "blockysize": 64}, {"blockysize": 7}])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize("compress", LOSSLESS)
def test_geotiff(tmp_path: Path, compress: str, dtype: str, layout: dict[str, Any]) -> None:
    array = pixels(dtype, 2)
    path = write_raster(tmp_path / "a.tif", array, UTM, T, compress=compress, **layout)
    assert raster.inspect(str(path)).compression.lower() in (compress, compress.partition("_")[0], "")
    check(tmp_path, path, array)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "uint32", "int32", "uint64", "int64"])
@pytest.mark.parametrize("more", [{"predictor": 2}, {"interleave": "band"}, {"interleave": "pixel"}, {"bigtiff": "yes"},
                                  {"endianness": "big"}])  # fmt: skip
def test_geotiff_types_and_layouts(tmp_path: Path, dtype: str, more: dict[str, str]) -> None:
    array = pixels(dtype, 3)
    path = write_raster(tmp_path / "a.tif", array, UTM, T, compress="deflate", **more)
    if "bigtiff" in more:
        assert path.read_bytes()[2:4] == b"+\0"
    check(tmp_path, path, array)


@pytest.mark.parametrize("compress", ["jpeg", "webp"])
@pytest.mark.parametrize("more", [{}, {"tiled": True, "blockxsize": 64, "blockysize": 64}])
def test_lossy_geotiff_is_read_as_gdal_decodes_it(tmp_path: Path, compress: str, more: dict[str, Any]) -> None:
    path = write_raster(tmp_path / "a.tif", pixels("uint8", 3), UTM, T, compress=compress, **more)
    with rasterio.open(path) as source:
        decoded = source.read()
    assert np.abs(decoded.astype(int) - pixels("uint8", 3)).mean() < 5
    check(tmp_path, path, decoded)


def test_one_bit_geotiff(tmp_path: Path) -> None:
    array = pixels("uint8") // 128
    for compress in ("ccittfax4", "none"):
        check(tmp_path, write_raster(tmp_path / "a.tif", array, UTM, T, compress=compress, nbits=1), array)


def test_cog_with_overviews(tmp_path: Path) -> None:
    """Overviews are pixels of another resolution: none of them may come into the table."""
    array = pixels("int16", 2)
    source = write_raster(tmp_path / "s.tif", array, UTM, T)
    rasterio.shutil.copy(source, tmp_path / "a.tif", driver="COG", blocksize=128, compress="deflate", overviews="AUTO")
    assert raster.inspect(str(tmp_path / "a.tif")).overviews
    check(tmp_path, tmp_path / "a.tif", array)


@pytest.mark.parametrize("reversible", [{"QUALITY": "100", "REVERSIBLE": "YES"}])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_jpeg2000(tmp_path: Path, dtype: str, reversible: dict[str, str]) -> None:
    if not has("JP2OpenJPEG"):
        pytest.skip("this wheel has no JPEG2000")
    array = pixels(dtype, 3)
    check(tmp_path, write_raster(tmp_path / "a.jp2", array, UTM, T, driver="JP2OpenJPEG", **reversible), array)


@pytest.mark.parametrize(
    ("driver", "name", "dtypes"),
    [
        ("ENVI", "a.img", ("uint8", "int16", "uint32", "float32", "float64")),
        ("RRASTER", "a.grd", ("uint8", "int16", "int32", "float32", "float64")),
        ("HFA", "a.img", ("uint8", "int16", "uint32", "float32", "float64")),
        ("EHdr", "a.bil", ("uint8", "int16", "float32")),
        ("ERS", "a.ers", ("uint8", "int16", "float32")),
        ("NITF", "a.ntf", ("uint8", "int16", "float32")),
        ("Zarr", "a.zarr", ("uint8", "int16", "float64")),
        ("VRT", "a.vrt", ("float32",)),
    ],
)
def test_formats_with_several_bands(tmp_path: Path, driver: str, name: str, dtypes: tuple[str, ...]) -> None:
    if not has(driver):
        pytest.skip(f"this wheel has no {driver}")
    for dtype in dtypes:
        array = pixels(dtype, 2)
        if driver in ("VRT", "NITF"):
            write_raster(tmp_path / "s.tif", array, UTM, T)
            rasterio.shutil.copy(tmp_path / "s.tif", tmp_path / name, driver=driver)
        else:
            write_raster(tmp_path / name, array, UTM, T, driver=driver)
        crs = () if raster.inspect(str(tmp_path / name)).crs == UTM else (f'crs = "{UTM}"',)
        check(tmp_path, tmp_path / name, array, *crs)
        rasterio.shutil.delete(tmp_path / name, driver=driver)


@pytest.mark.parametrize(
    ("version", "compress"),
    [("ZARR_V2", c) for c in ("NONE", "BLOSC", "ZLIB", "GZIP", "ZSTD")] + [("ZARR_V3", c) for c in ("BLOSC", "GZIP")],
)
def test_zarr(tmp_path: Path, version: str, compress: str) -> None:
    array = pixels("int16")
    write_raster(
        tmp_path / "a.zarr", array, UTM, T, driver="Zarr", FORMAT=version, COMPRESS=compress, BLOCKSIZE="64,64"
    )
    check(tmp_path, tmp_path / "a.zarr", array)


def test_ascii_grid(tmp_path: Path) -> None:
    array = pixels("int32") % 1000
    write_raster(tmp_path / "a.asc", array, UTM, T, driver="AAIGrid", nodata=-9999)
    check(tmp_path, tmp_path / "a.asc", array)
    (tmp_path / "a.prj").unlink()
    check(tmp_path, tmp_path / "a.asc", array, f'crs = "{UTM}"')
    header = f"ncols {WIDTH}\nnrows {HEIGHT}\nxllcorner 500000\nyllcorner 3998500\ncellsize 10\nNODATA_value -1.5\n"
    values = pixels("float32")[0]
    text = "\n".join(" ".join(repr(float(v)) for v in row) for row in values)
    (tmp_path / "b.asc").write_text(header + text + "\n")
    check(tmp_path, tmp_path / "b.asc", values[None], f'crs = "{UTM}"')


@pytest.mark.parametrize("form", ["NC", "NC2", "NC4", "NC4C"])
def test_netcdf(tmp_path: Path, form: str) -> None:
    array = pixels("float32")
    write_raster(tmp_path / "s.tif", array, UTM, T)
    rasterio.shutil.copy(tmp_path / "s.tif", tmp_path / "a.nc", driver="netCDF", FORMAT=form)
    check(tmp_path, tmp_path / "a.nc", array)


def test_hdf5(tmp_path: Path) -> None:
    array = pixels("float32")
    write_raster(tmp_path / "s.tif", array, UTM, T)
    rasterio.shutil.copy(tmp_path / "s.tif", tmp_path / "a.nc", driver="netCDF", FORMAT="NC4")
    (tmp_path / "a.nc").rename(tmp_path / "a.h5")
    check(tmp_path, tmp_path / "a.h5", array)


def test_grib2(tmp_path: Path) -> None:
    array = np.round(pixels("float64", 2), 2)
    path = write_raster(tmp_path / "a.grib2", array, UTM, T, driver="GRIB", DATA_ENCODING="IEEE_FLOATING_POINT")
    with rasterio.open(path) as source:
        decoded, own = source.read(), source.crs.to_wkt()
    assert np.allclose(decoded, array, atol=1e-3)
    assert own
    result = table(tmp_path, path, f'crs = "{UTM}"')
    assert [np.array_equal(a, b) for a, b in zip(result.values(), decoded, strict=True)] == [True, True]
