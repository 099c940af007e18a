"""Inputs: variables, times and levels of files, reductions, remote files, and the choice of bands by name."""

from __future__ import annotations

import json
import os
import shutil
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest
import rasterio
import rasterio.shutil
import xarray as xr
from click.testing import CliRunner
from helpers import GENEROUS, VERSIONS, header, north_up, plan_of, raster_of, write_raster
from waiting import PATIENCE

from geopipe.cli.main import cli
from geopipe.errors import SettingsError, SourceError
from geopipe.grid.grid import Grid
from geopipe.layers import uris
from geopipe.layers.access import Access
from geopipe.layers.header import Band
from geopipe.layers.layer import Kind, Layer, Overlap
from geopipe.load import raster
from geopipe.merge.tile import overlay, reduce_columns
from geopipe.plan.options import Options
from geopipe.plan.plan import Inputs, make_plan
from geopipe.run import pipeline
from geopipe.settings import load

UTM = "EPSG:32612"
T = north_up(500_000, 4_000_000, 10)
GRID = Grid(UTM, 500_000, 4_000_000, 10, 10, width=6, height=5)
TIMES = pd.DatetimeIndex(["1999-01-31", "1999-02-28", "1999-03-31", "1999-04-30"])
LEVELS = [1000.0, 850.0]


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """Values between 0 and 100 with holes: a tenth of all, and the first pixel in every step."""
    rng = np.random.default_rng(seed)
    array = rng.uniform(0, 100, shape).astype("float32")
    array[rng.random(shape) < 0.1] = np.nan
    array[..., 0, 0] = np.nan
    return array


def dataset(crs: bool = True) -> xr.Dataset:
    """Temperature by time and level, rain by time, elevation: on the cells of GRID."""
    place = {"grid_mapping": "utm"} if crs else {}
    x, y = GRID.xs(0, GRID.width), GRID.ys(0, GRID.height)
    return xr.Dataset(
        {
            "tas": (("time", "level", "y", "x"), pixels(4, 2, 5, 6), {"units": "K", **place}),
            "pr": (("time", "y", "x"), pixels(4, 5, 6, seed=1), {"units": "mm", **place}),
            "elev": (("y", "x"), np.arange(30, dtype="int16").reshape(5, 6), place),
            **({"utm": ((), 0, {"crs_wkt": rasterio.CRS.from_string(UTM).to_wkt()})} if crs else {}),
        },
        {
            "time": TIMES,
            "level": ("level", LEVELS, {"units": "hPa"}),
            "y": ("y", y, {"standard_name": "projection_y_coordinate", "units": "m"}),
            "x": ("x", x, {"standard_name": "projection_x_coordinate", "units": "m"}),
        },
    )


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    return dataset()


@pytest.fixture(scope="module")
def netcdf(cube: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three variables in one file."""
    path = tmp_path_factory.mktemp("nc") / "all.nc"
    cube.to_netcdf(path, engine="scipy")
    return path


def run(folder: Path, *layers: str, **options: str) -> dict[str, np.ndarray]:
    """Every column of a run, as arrays of the grid's shape with NaN for null, by way of a settings file."""
    file = folder / "s.toml"
    grid = f'crs = "{UTM}"\nresolution = 10\nbounds = [500000, 3999950, 500060, 4000000]'
    text = "".join(f"[[layers]]\n{layer}\n" for layer in layers)
    file.write_text(f'[grid]\n{grid}\n[merge]\nhow = "grid"\n{text}')
    summary = pipeline.run(load.load(file, ("engine.kind=local",)), overwrite=True)
    table = ds.dataset(summary.output / "parquet").to_table().sort_by([("row", "ascending"), ("col", "ascending")])
    shape = (summary.plan.grid.height, summary.plan.grid.width)
    return {name: table[name].to_numpy().astype(float).reshape(shape) for name in table.column_names[4:]}


def layer(path: Path | str, *more: str, name: str = "a") -> str:
    return "\n".join([f'name = "{name}"', f"path = '{path}'", *more])


def same(result: np.ndarray, expected: np.ndarray) -> bool:
    return np.array_equal(result, np.asarray(expected, "float32").astype(float), equal_nan=True)


# ---------------------------------------------------------------- variables of a file


def test_a_variable_is_chosen_by_name(tmp_path: Path, netcdf: Path, cube: xr.Dataset) -> None:
    result = run(
        tmp_path, layer(netcdf, 'variable = "elev"'), layer(netcdf, 'variable = "pr"', "bands = [3]", name="b")
    )
    assert same(result["a"], cube.elev.values)
    assert same(result["b"], cube.pr.values[2])


@pytest.mark.parametrize("form", ["NETCDF:{}:elev", 'NETCDF:"{}":elev', "netcdf:{}:elev"])
def test_a_subdataset_is_a_path_relative_to_the_settings(
    tmp_path: Path, netcdf: Path, cube: xr.Dataset, form: str
) -> None:
    (tmp_path / "my data").mkdir()
    shutil.copy(netcdf, tmp_path / "my data/a b.nc")
    assert same(run(tmp_path, layer(form.format("my data/a b.nc")))["a"], cube.elev.values)


def test_a_file_of_several_variables_needs_a_choice(tmp_path: Path, netcdf: Path) -> None:
    with pytest.raises(SourceError, match=r"layer a: .*all\.nc has no bands of its own; its variables: ") as caught:
        run(tmp_path, layer(netcdf))
    assert "elev, pr, tas" in caught.value.message
    assert "variable = " in caught.value.hint
    with pytest.raises(SourceError, match=r"layer a: .*all\.nc has no variable 'tos'; it has elev, pr, tas"):
        run(tmp_path, layer(netcdf, 'variable = "tos"'))
    with pytest.raises(SourceError, match=r"layer a: there is no file .*no\.nc"):
        run(tmp_path, layer("NETCDF:no.nc:tos"))
    with pytest.raises(SourceError, match=r"layer a: .*tos is no raster") as caught:
        run(tmp_path, layer(f"NETCDF:{netcdf}:tos"))
    assert "geopipe inspect" in caught.value.hint


def test_a_file_of_one_variable_opens_as_it_is(tmp_path: Path, cube: xr.Dataset) -> None:
    cube[["elev", "utm"]].to_netcdf(tmp_path / "one.nc", engine="scipy")
    for more in ([], ['variable = "elev"'], ['variable = "ELEV"']):
        assert same(run(tmp_path, layer("one.nc", *more))["a"], cube.elev.values)
    with pytest.raises(SourceError, match=r"no variable 'tas'; it has elev"):
        run(tmp_path, layer("one.nc", 'variable = "tas"'))


def test_a_plain_raster_has_no_variables(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", np.ones((5, 6), "uint8"), UTM, T)
    with pytest.raises(SourceError, match=r"a\.tif has no variable 'tas'; it has none") as caught:
        run(tmp_path, layer("a.tif", 'variable = "tas"'))
    assert "bands = chooses bands" in caught.value.hint


def test_the_plan_knows_when_a_file_behind_a_variable_changes(netcdf: Path) -> None:
    uri = f'NETCDF:"{netcdf}":elev'
    before = plan_of(GRID, [Layer("a", (uri,))])
    assert before.layers[0].decisions[0].source.files[0].header.stamp.size == netcdf.stat().st_size
    os.utime(netcdf, ns=(1, before.layers[0].decisions[0].source.files[0].header.stamp.mtime_ns + 1))
    assert plan_of(GRID, [Layer("a", (uri,))]).hash != before.hash


def as_hdf5(source: Path | str, target: Path) -> None:
    """NetCDF4, which is HDF5, under a name by which GDAL takes it for HDF5."""
    rasterio.shutil.copy(str(source), target.with_suffix(".nc"), driver="netCDF", FORMAT="NC4")
    target.with_suffix(".nc").rename(target)


def test_hdf5_is_placed_by_the_conventions_of_netcdf(tmp_path: Path, netcdf: Path, cube: xr.Dataset) -> None:
    """GDAL's HDF5 driver finds pixels and no place; its netCDF driver reads the same file, with times."""
    as_hdf5(f'NETCDF:"{netcdf}":pr', tmp_path / "pr.h5")
    result = run(tmp_path, layer("pr.h5", 'variable = "pr"', 'time = "1999-02"'))
    assert same(result["a"], cube.pr.values[1])
    write_raster(tmp_path / "ab.tif", pixels(2, 5, 6), UTM, T)  # its bands become two variables
    as_hdf5(tmp_path / "ab.tif", tmp_path / "ab.h5")
    assert {"Band1", "Band2"} <= set(raster.inspect(str(tmp_path / "ab.h5")).variables)
    result = run(tmp_path, layer("ab.h5", 'variable = "Band2"', f'crs = "{UTM}"'))
    assert same(result["a"], pixels(2, 5, 6)[1])


def write_zarr(folder: Path, arrays: dict[str, tuple[list[str], np.ndarray, dict[str, Any]]]) -> Path:
    """A Zarr store (version 2, not compressed, a chunk for each array), with xarray's names of dimensions."""
    folder.mkdir()
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    for name, (dims, array, attributes) in arrays.items():
        (folder / name).mkdir()
        shape = {"shape": array.shape, "chunks": array.shape, "dtype": array.dtype.str}
        how = {"compressor": None, "fill_value": None, "order": "C", "filters": None, "zarr_format": 2}
        (folder / name / ".zarray").write_text(json.dumps(shape | how))
        (folder / name / ".zattrs").write_text(json.dumps({"_ARRAY_DIMENSIONS": dims} | attributes))
        (folder / name / ".".join("0" * array.ndim)).write_bytes(array.tobytes())
    return folder


def zarr_arrays(calendar: str = "noleap") -> dict[str, tuple[list[str], np.ndarray, dict[str, Any]]]:
    crs = {"_CRS": {"wkt": rasterio.CRS.from_string(UTM).to_wkt()}}
    return {
        "time": (["time"], np.array([58.0, 59.0]), {"units": "days since 2000-01-01", "calendar": calendar}),
        "x": (["x"], GRID.xs(0, 6), {"standard_name": "projection_x_coordinate"}),
        "y": (["y"], GRID.ys(0, 5), {"standard_name": "projection_y_coordinate"}),
        "pr": (["time", "y", "x"], pixels(2, 5, 6), {"units": "mm", **crs}),
    }


def test_zarr(tmp_path: Path) -> None:
    write_zarr(tmp_path / "one.zarr", zarr_arrays())
    result = run(tmp_path, layer("one.zarr"))
    assert list(result) == ["a_20000228", "a_20000301"], "2000 has no 29th of February in this calendar"
    assert same(result["a_20000301"], pixels(2, 5, 6)[1])
    more = {"el": (["y", "x"], np.arange(30, dtype="<i2").reshape(5, 6), zarr_arrays()["pr"][2])}
    write_zarr(tmp_path / "store", zarr_arrays("standard") | more)
    result = run(tmp_path, layer("store", 'variable = "pr"'), layer("ZARR:store:/el", name="b"))
    assert list(result) == ["a_20000228", "a_20000229", "b"], "a store is known by what it holds, not by its name"
    assert same(result["b"], np.arange(30).reshape(5, 6))
    with pytest.raises(SourceError, match="no variable 'tas'; it has el, "):
        run(tmp_path, layer("store", 'variable = "tas"'))
    before = plan_of(GRID, [Layer("a", (str(tmp_path / "one.zarr"),))]).hash
    os.utime(tmp_path / "one.zarr/pr/0.0.0", ns=(1, time.time_ns() + 10**9))
    assert plan_of(GRID, [Layer("a", (str(tmp_path / "one.zarr"),))]).hash != before, "a chunk has changed"


def test_a_fill_value_of_zarr_is_nodata_unless_the_layer_says_otherwise(tmp_path: Path) -> None:
    """zarr-python fills with 0 unless it is told otherwise, so that a true zero looks missing."""
    arrays = zarr_arrays()
    arrays["pr"] = (["y", "x"], np.arange(30, dtype="<i2").reshape(5, 6), arrays["pr"][2])
    file = write_zarr(tmp_path / "a.zarr", arrays) / "pr/.zarray"
    file.write_text(file.read_text().replace('"fill_value": null', '"fill_value": 0'))
    assert np.isnan(run(tmp_path, layer("a.zarr"))["a"][0, 0])
    assert same(run(tmp_path, layer("a.zarr", "nodata = nan"))["a"], np.arange(30).reshape(5, 6))


def test_what_a_zarr_array_says_of_values_that_are_none(tmp_path: Path) -> None:
    arrays = zarr_arrays()
    about = {**arrays["pr"][2], "missing_value": 7, "valid_min": 3}
    write_zarr(tmp_path / "a.zarr", {**arrays, "pr": (["y", "x"], np.arange(30, dtype="<i2").reshape(5, 6), about)})
    result = run(tmp_path, layer("a.zarr"))["a"]
    assert np.isnan(result).ravel().nonzero()[0].tolist() == [0, 1, 2, 7]


def test_a_folder_means_its_zarr_stores_too(tmp_path: Path) -> None:
    write_zarr(tmp_path / "one.zarr", zarr_arrays())
    (tmp_path / "other").mkdir()
    assert raster.expand(str(tmp_path)) == [str(tmp_path / "one.zarr")]
    assert raster.expand(str(tmp_path / "one.zarr")) == [str(tmp_path / "one.zarr")]


# ---------------------------------------------------------------- times and levels


def test_every_step_is_a_column(tmp_path: Path, netcdf: Path, cube: xr.Dataset) -> None:
    result = run(tmp_path, layer(netcdf, 'variable = "pr"'), layer(netcdf, 'variable = "tas"', name="t"))
    assert list(result)[:4] == ["a_19990131", "a_19990228", "a_19990331", "a_19990430"]
    assert list(result)[4:7] == ["t_1000_19990131", "t_850_19990131", "t_1000_19990228"]
    for n, name in enumerate(list(result)[:4]):
        assert same(result[name], cube.pr.values[n])
    for n, name in enumerate(list(result)[4:]):
        assert same(result[name], cube.tas.values[n // 2, n % 2])


@pytest.mark.parametrize(
    ("time_", "steps"),
    [
        ('"1999-03"', [2]),
        ("1999-03-31", [2]),  # a date of TOML
        ("1999", [0, 1, 2, 3]),
        ('"1999-02/1999-03"', [1, 2]),
        ('"1999-03-31/.."', [2, 3]),
        ('["1999-04", "1999-01"]', [0, 3]),  # in the order of the file
        ('["../1999-01", 1999-04-30T00:00:00]', [0, 3]),
    ],
)
def test_times_are_chosen(tmp_path: Path, netcdf: Path, cube: xr.Dataset, time_: str, steps: list[int]) -> None:
    result = run(tmp_path, layer(netcdf, 'variable = "pr"', f"time = {time_}"))
    names = [f"a_{TIMES[n]:%Y%m%d}" for n in steps] if len(steps) > 1 else ["a"]
    assert list(result) == names
    assert all(same(result[name], cube.pr.values[n]) for name, n in zip(names, steps, strict=True))


@pytest.mark.parametrize(
    ("level", "names"),
    [
        ("850", ["a_19990131", "a_19990228", "a_19990331", "a_19990430"]),
        ('"900/1000"', ["a_19990131", "a_19990228", "a_19990331", "a_19990430"]),
        ('["850", 1000.0]\ntime = "1999-02"', ["a_1000", "a_850"]),
        ('850\ntime = "1999-02"', ["a"]),
        ('850\nbands = [3, 4]', ["a"]),  # bands choose first
    ],
)  # fmt: skip
def test_levels_are_chosen(tmp_path: Path, netcdf: Path, cube: xr.Dataset, level: str, names: list[str]) -> None:
    result = run(tmp_path, layer(netcdf, 'variable = "tas"', f"level = {level}"))
    assert list(result) == names
    which = 1 if "900" not in level and names != ["a_1000", "a_850"] else 0
    step = 0 if len(names) == 4 else 1
    assert same(result[names[0]], cube.tas.values[step, which])


@pytest.mark.parametrize(
    ("keys", "message", "hint"),
    [
        ('variable = "pr"\ntime = "2000"', "has no time '2000'; it has 1999-01-31, 1999-02-28, 1999-03-31", "time ="),
        ('variable = "pr"\ntime = ["1999-01", "1999-9"]', "has no time '1999-9'", "geopipe inspect"),
        ('variable = "tas"\nlevel = 500', "has no level '500'; it has 1000, 850", "level ="),
        ('variable = "elev"\ntime = "1999"', "the bands of .* have no time", "bands ="),
        ('variable = "pr"\nlevel = 850', "the bands of .* have no level", "bands ="),
    ],
)
def test_a_step_that_is_not_there_is_named(tmp_path: Path, netcdf: Path, keys: str, message: str, hint: str) -> None:
    with pytest.raises(SourceError, match=f"layer a: .*{message}") as caught:
        run(tmp_path, layer(netcdf, keys))
    assert hint in caught.value.hint
    assert caught.value.layer == "a"


def test_a_layer_without_the_step_may_be_skipped(tmp_path: Path, netcdf: Path) -> None:
    keys = ('variable = "pr"', 'time = "2000"', 'on_error = "skip"')
    result = run(tmp_path, layer(netcdf, *keys), layer(netcdf, 'variable = "elev"', name="b"))
    assert np.isnan(result["a"]).all()
    assert not np.isnan(result["b"]).any()


# ---------------------------------------------------------------- reductions

RULES = {"mean": np.nanmean, "min": np.nanmin, "max": np.nanmax, "sum": np.nansum}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning", "ignore:All-NaN:RuntimeWarning")
def test_a_reduction_over_time(tmp_path: Path, netcdf: Path, cube: xr.Dataset, rule: str) -> None:
    rain = layer(netcdf, 'variable = "pr"', f'reduce = "{rule}"')
    warmth = layer(netcdf, 'variable = "tas"', f'reduce = "{rule}"', 'time = "1999-02/.."', name="t")
    result = run(tmp_path, rain, warmth)
    assert list(result) == ["a", "t_1000", "t_850"]
    for name, steps in {"a": cube.pr, "t_1000": cube.tas[1:, 0], "t_850": cube.tas[1:, 1]}.items():
        values = steps.values.astype(float)
        expected = np.where(np.isnan(values).all(0), np.nan, RULES[rule](values, axis=0))
        assert np.isnan(expected[0, 0]), "missing in every step"
        assert same(result[name], expected)


def test_levels_are_reduced_where_time_stands_still(tmp_path: Path, netcdf: Path, cube: xr.Dataset) -> None:
    result = run(tmp_path, layer(netcdf, 'variable = "tas"', 'time = "1999-03"', 'reduce = "max"'))
    assert list(result) == ["a"]
    assert same(result["a"], np.fmax(*cube.tas.values[2]))


def test_bands_without_steps_are_reduced_all(tmp_path: Path) -> None:
    array = np.arange(90, dtype="uint8").reshape(3, 5, 6)
    write_raster(tmp_path / "a.tif", array, UTM, T, nodata=7)
    result = run(
        tmp_path, layer("a.tif", 'reduce = "sum"'), layer("a.tif", 'reduce = "min"', "bands = [2, 3]", name="b")
    )
    assert same(result["a"], np.where(array == 7, 0, array).astype(int).sum(0))
    assert same(result["b"], array[1])


@pytest.mark.parametrize("method", ["nearest", "bilinear", "average"])
def test_a_reduction_comes_before_resampling(tmp_path: Path, method: str) -> None:
    """It is the same as resampling a raster that was reduced before."""
    array = pixels(3, 40, 50)
    write_raster(tmp_path / "many.tif", array, UTM, T)
    with np.errstate(invalid="ignore"):
        count = (~np.isnan(array)).sum(0)
        mean = np.nansum(array.astype("float64"), axis=0) / np.where(count, count, np.nan)
    write_raster(tmp_path / "one.tif", mean, UTM, T)
    grid = Grid("EPSG:32611", 1_040_150, 4_016_700, 13, 17, width=30, height=20)
    reduced = Layer("a", (str(tmp_path / "many.tif"),), resampling=method, reduce="mean")
    expected = Layer("a", (str(tmp_path / "one.tif"),), resampling=method)
    values, expected = (raster_of(plan_of(grid, [y], how="grid"), "a") for y in (reduced, expected))
    assert np.isfinite(values).any()
    assert np.array_equal(values, expected.astype("float32"), equal_nan=True)


@pytest.mark.parametrize("rule", [Overlap.MEAN, Overlap.MIN, Overlap.MAX, Overlap.SUM])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int64"])
def test_steps_are_reduced_as_overlaps_are_settled(rule: Overlap, dtype: str) -> None:
    rng = np.random.default_rng(3)
    masks = (rng.random((4, 5)) < 0.6, None, rng.random((4, 5)) < 0.6)
    parts = [(rng.integers(0, 200, (4, 5)).astype(dtype), mask) for mask in masks]
    for some in (parts, [parts[0], parts[2]], parts[1:]):
        result, expected = reduce_columns(iter(some), rule), overlay(some, rule)
        assert np.array_equal(result[1], expected[1])
        assert np.array_equal(result[0][result[1]], expected[0][expected[1]])
        assert result[0].dtype == expected[0].dtype


def test_a_reduction_holds_a_few_steps_at_a_time() -> None:
    result: list[weakref.ref[np.ndarray]] = []
    alive = []

    def steps() -> Iterator[tuple[np.ndarray, None]]:
        for n in range(20):
            array = np.full((3, 3), n, "float32")
            result.append(weakref.ref(array))
            alive.append(sum(r() is not None for r in result))
            yield array, None

    for rule, expected in ((Overlap.MEAN, 9.5), (Overlap.MAX, 19)):
        assert (reduce_columns(steps(), rule)[0] == expected).all()
    assert max(alive) <= 3


def test_days_on_which_a_flag_is_set_are_counted(tmp_path: Path) -> None:
    """A sum of bits is more than a bit can hold; the checks of a run know."""
    array = np.random.default_rng(2).integers(0, 255, (9, 5, 6)).astype("uint8")
    write_raster(tmp_path / "a.tif", array, UTM, T)
    result = run(tmp_path, layer("a.tif", "bits = [3, 3]", 'kind = "continuous"', 'reduce = "sum"'))
    assert same(result["a"], (array >> 3 & 1).astype(int).sum(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "rule", "steps", "column"),
    [
        ("uint8", "max", 9, "uint8"),  # copied: its own type
        ("uint8", "mean", 9, "float32"),
        ("uint8", "sum", 9, "float32"),
        ("uint8", "sum", 100_000, "float64"),  # beyond the 24 bits of float32
        ("uint16", "sum", 300, "float64"),
        ("int32", "mean", 9, "float64"),
        ("float32", "sum", 300, "float32"),
        ("float64", "mean", 9, "float64"),
    ],
)
def test_the_type_holds_what_is_reduced(dtype: str, rule: str, steps: int, column: str) -> None:
    source = header(*(Band(n + 1, dtype) for n in range(steps)))
    grid = Grid(UTM, 500_000, 4_000_000, 30, 30, width=100, height=80)
    plan = make_plan(Inputs("p", grid, [(Layer("a", (), reduce=rule), [source])], VERSIONS), Options(), GENEROUS)
    assert [v.dtype for v in plan.spec.variables] == [column]


@pytest.mark.parametrize(("kind", "rule"), [("categorical", "mean"), ("categorical", "sum"), ("circular", "max")])
def test_a_reduction_must_fit_the_kind(tmp_path: Path, netcdf: Path, kind: str, rule: str) -> None:
    with pytest.raises(SettingsError, match=f"layer a: reduce = '{rule}' makes no sense for kind = '{kind}'"):
        run(tmp_path, layer(netcdf, 'variable = "pr"', f'reduce = "{rule}"', f'kind = "{kind}"'))


def test_files_of_other_steps_are_no_mosaic(tmp_path: Path, cube: xr.Dataset) -> None:
    """Their columns would be named after the first; reduced, each file has its own."""
    cube[["pr", "utm"]].isel(time=[0, 1]).to_netcdf(tmp_path / "1.nc", engine="scipy")
    cube[["pr", "utm"]].isel(time=[2, 3]).to_netcdf(tmp_path / "2.nc", engine="scipy")
    cube[["pr", "utm"]].isel(time=[1, 2, 3]).to_netcdf(tmp_path / "3.nc", engine="scipy")
    both = 'name = "a"\npath = ["1.nc", "2.nc"]\n'
    with pytest.raises(SourceError, match=r"2\.nc has 2 bands \(pr 1999-03-31 to pr 1999-04-30\); .*1\.nc has 2 bands"):
        run(tmp_path, both)
    result = run(tmp_path, both + 'reduce = "max"\noverlap = "max"')
    assert same(result["a"], np.fmax.reduce(cube.pr.values))
    result = run(tmp_path, 'name = "a"\npath = ["1.nc", "3.nc"]\nreduce = "sum"\noverlap = "last"')
    own = np.isnan(cube.pr.values[1:]).all(0)
    assert same(result["a"][~own], np.nansum(cube.pr.values[1:].astype(float), 0)[~own])
    result = run(tmp_path, 'name = "a"\npath = ["1.nc", "3.nc"]\ntime = "1999-02"')
    assert same(result["a"], cube.pr.values[1])


def test_the_schema_says_what_was_read(netcdf: Path) -> None:
    source = Layer("a", (str(netcdf),), variable="tas", level=("850",), reduce="mean")
    headers = [raster.inspect(str(netcdf), Access.of_layer("a"), "tas")]
    plan = make_plan(Inputs("p", GRID, [(source, headers)], VERSIONS), Options(), GENEROUS)
    metadata = {k.decode(): v.decode() for k, v in plan.spec.schema.field("a").metadata.items()}
    assert metadata.items() >= {
        "variable": "tas", "level": "850", "time": "1999-01-31/1999-04-30", "steps": "mean of 4", "unit": "K",
    }.items()  # fmt: skip
    assert plan.describe()["layers"][0]["variables"][0]["steps"] == "mean of 4"


def test_a_broken_band_in_a_reduction_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (6, 50, 60)).astype("uint8")
    path = write_raster(tmp_path / "cut.tif", noise, UTM, T, interleave="band", compress="deflate")
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size * 3 // 4)  # the last bands are gone
    with pytest.raises(SourceError, match=r"layer a: band 5 of .*cut\.tif cannot be read at row 0") as caught:
        run(tmp_path, layer(path, 'reduce = "max"'))
    assert caught.value.layer == "a"
    assert np.isfinite(run(tmp_path, layer(path, 'reduce = "max"', "bands = [1, 2, 3]"))["a"]).all()


def test_masks_and_nodata_are_those_of_each_step(tmp_path: Path) -> None:
    array = np.arange(60, dtype="uint8").reshape(2, 5, 6)
    mask = np.ones((5, 6), bool)
    mask[1] = False
    write_raster(tmp_path / "a.tif", array, UTM, T, mask=mask, scales=(2.0, 1.0), offsets=(0.0, 5.0))
    result = run(tmp_path, layer("a.tif", 'reduce = "mean"'))["a"]
    assert same(result, np.where(mask, (array[0] * 2.0 + array[1] + 5.0) / 2, np.nan))


def test_thousands_of_steps_take_a_moment(tmp_path: Path) -> None:
    """rasterio makes lists of all bands anew whenever it is asked for one: 4000 steps took a minute and a half."""
    count = 3000
    place = {"lat": ("lat", [3.0, 2.0, 1.0], {"units": "degrees_north"}),
             "lon": ("lon", [1.0, 2.0, 3.0], {"units": "degrees_east"})}  # fmt: skip
    values = np.arange(count * 9, dtype="float32").reshape(count, 3, 3)
    time_ = pd.date_range("1990", periods=count)
    xr.Dataset({"v": (("time", "lat", "lon"), values)}, {"time": time_} | place).to_netcdf(
        tmp_path / "a.nc", engine="scipy"
    )
    start = time.process_time()
    _, result = real(tmp_path / "a.nc", crs="EPSG:4326", reduce="mean")
    assert time.process_time() - start < 20
    assert same(result["a"], values.astype(float).mean(0))


def test_effective_settings_choose_the_same(tmp_path: Path, netcdf: Path) -> None:
    keys = ('variable = "tas"', "time = [1999-02-28, 1999]", 'level = [850, "900/.."]', 'reduce = "min"')
    file = tmp_path / "s.toml"
    file.write_text("[[layers]]\n" + layer(netcdf, *keys))
    loaded = load.load(file)
    file.write_text(loaded.to_toml())
    again = load.load(file).layer_values()[0]
    assert again == loaded.layer_values()[0]
    assert (again.time, again.level) == (("1999-02-28", "1999"), ("850", "900/.."))


@pytest.mark.parametrize(
    ("path", "full"),
    [
        ("NETCDF:a.nc:v", 'NETCDF:"/s/a.nc":v'),
        ('NETCDF:"../a:b.nc":g/v', 'NETCDF:"/a:b.nc":g/v'),
        ("hdf5:x/a.h5://g/v", 'HDF5:"/s/x/a.h5"://g/v'),
        ('ZARR:"a.zarr":/v:0', 'ZARR:"/s/a.zarr":/v:0'),
        ('ZARR:"/vsis3/b/a.zarr":/v', 'ZARR:"/vsis3/b/a.zarr":/v'),
        ("NETCDF:https://h/a.nc:v", 'NETCDF:"https://h/a.nc":v'),
        ("GTIFF_DIR:2:a.tif", "GTIFF_DIR:2:/s/a.tif"),
        ("zip://a.zip!/b.tif", "zip:///s/a.zip!/b.tif"),
        ("zip:///a.zip!/b.tif", "zip:///a.zip!/b.tif"),
        ("s3://b/a.tif", "s3://b/a.tif"),
        ("x/../a.tif", "/s/a.tif"),
    ],
)
def test_what_is_relative_in_a_path_starts_at_the_settings(path: str, full: str) -> None:
    assert uris.absolute(path, Path("/s")) == full
    assert uris.absolute(full, Path("/other")) == full


# ---------------------------------------------------------------- bands by name


def test_bands_of_an_envi_file_by_wavelength(tmp_path: Path) -> None:
    array = np.arange(60, dtype="uint16").reshape(2, 5, 6)
    write_raster(tmp_path / "a.img", array, UTM, T, driver="ENVI")
    with open(tmp_path / "a.hdr", "a") as file:
        file.write("wavelength units = Nanometers\nwavelength = {664.6, 842}\n")
    result = run(tmp_path, layer("a.img", 'bands = ["842"]'))
    assert same(result["a"], array[1])


# ---------------------------------------------------------------- remote files


@pytest.mark.parametrize("scheme", ["http", "s3", "gs", "az", "/vsicurl/http"])
def test_remote_files(tmp_path: Path, www: tuple[Path, int], monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    folder, port = www
    (folder / "bucket").mkdir(exist_ok=True)
    array = np.random.default_rng(0).integers(0, 255, (500, 600)).astype("uint8")
    write_raster(folder / "bucket/a.tif", array, UTM, T, tiled=True, compress="deflate")
    account = f"DefaultEndpointsProtocol=http;AccountName=account;AccountKey=YQ==;BlobEndpoint=http://127.0.0.1:{port}/"
    for name, value in {
        "AWS_S3_ENDPOINT": f"127.0.0.1:{port}", "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_NO_SIGN_REQUEST": "YES", "CPL_GS_ENDPOINT": f"http://127.0.0.1:{port}/", "GS_NO_SIGN_REQUEST": "YES",
        "AZURE_STORAGE_CONNECTION_STRING": account + "account",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    host = f"127.0.0.1:{port}/" if "http" in scheme else ""
    result = run(tmp_path, layer(f"{scheme}://{host}bucket/a.tif"))
    assert same(result["a"], array[:5, :6])


@pytest.mark.parametrize("name", ["all.nc", "pr.h5"])
def test_a_variable_of_a_remote_file(tmp_path: Path, www: tuple[Path, int], netcdf: Path, name: str) -> None:
    folder, port = www
    if name == "all.nc":
        shutil.copy(netcdf, folder / name)
    else:
        as_hdf5(f'NETCDF:"{netcdf}":pr', folder / name)
    address = f"http://127.0.0.1:{port}/{name}"
    try:
        rasterio.open(f'NETCDF:"/vsicurl/{address}":pr').close()
    except rasterio.errors.RasterioIOError:
        pytest.skip("netCDF reads remote files by userfaultfd, which this kernel does not allow")
    expected = dataset().pr.values[1]
    assert same(run(tmp_path, layer(address, 'variable = "pr"', 'time = "1999-02"'))["a"], expected)
    if name == "all.nc":
        assert same(run(tmp_path, layer(f"NETCDF:{address}:pr", 'time = "1999-02"'))["a"], expected)


def test_an_unreachable_file_is_an_error_within_seconds(tmp_path: Path, www: tuple[Path, int]) -> None:
    start = time.monotonic()
    with pytest.raises(SourceError, match=r"layer a: http://127\.0\.0\.1:1/a\.tif is no raster .* connect") as caught:
        run(tmp_path, layer("http://127.0.0.1:1/a.tif"))
    assert "network" in caught.value.hint
    with pytest.raises(SourceError, match=r"absent\.tif is no raster that GDAL can open: HTTP response code: 404"):
        run(tmp_path, layer(f"http://127.0.0.1:{www[1]}/absent.tif"))
    assert time.monotonic() - start < PATIENCE


def test_gdal_waits_for_no_server_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with raster.environment():
        assert 0 < rasterio.env.getenv()["GDAL_HTTP_CONNECTTIMEOUT"] <= 10
        assert 0 < rasterio.env.getenv()["GDAL_HTTP_LOW_SPEED_TIME"] <= 10
    monkeypatch.setenv("GDAL_HTTP_CONNECTTIMEOUT", "99")
    with raster.environment():
        assert "GDAL_HTTP_CONNECTTIMEOUT" not in rasterio.env.getenv(), "the user's own environment wins"


@pytest.mark.parametrize("path", ["s3://bucket/*.tif", "https://host/[ab].tif", "/vsis3/bucket/*.tif"])
def test_a_pattern_of_remote_files_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(SourceError, match="only local files can be found by one"):
        run(tmp_path, layer(path))


def test_a_query_is_no_pattern() -> None:
    assert raster.expand("https://host/a.tif?sig=a*b[c]") == ["https://host/a.tif?sig=a*b[c]"]


def test_a_file_in_an_archive_beside_the_settings(tmp_path: Path) -> None:
    array = np.arange(30, dtype="uint8").reshape(5, 6)
    (tmp_path / "in").mkdir()
    write_raster(tmp_path / "in/a.tif", array, UTM, T)
    shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path / "in")
    assert same(run(tmp_path, layer("zip://all.zip!/a.tif"))["a"], array)
    assert same(run(tmp_path, layer(f"/vsizip/{tmp_path}/all.zip/a.tif"))["a"], array)


# ---------------------------------------------------------------- inspect


def test_inspect_shows_variables_and_steps(netcdf: Path) -> None:
    shown = CliRunner().invoke(cli, ["inspect", str(netcdf)]).output
    assert "variables    elev" in shown
    assert f'NETCDF:"{netcdf}":tas' in shown
    shown = CliRunner().invoke(cli, ["inspect", f"NETCDF:{netcdf}:tas"]).output
    assert "band 2: float32, nodata nan, unit K, variable tas, level 850, time 1999-01-31" in shown
    document = json.loads(CliRunner().invoke(cli, ["inspect", "--json", str(netcdf)]).output)
    assert document[0]["variables"] == ["elev", "pr", "tas"]
    document = json.loads(CliRunner().invoke(cli, ["inspect", "--json", f"NETCDF:{netcdf}:pr"]).output)
    assert [b["step"] for b in document[0]["bands"]] == [f"{t:%Y-%m-%d}" for t in TIMES]


# ---------------------------------------------------------------- real files


def real(path: Path, variable: str | None = None, **keys: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """The plan of one layer of a real file on its own grid, and its columns."""
    result = raster.inspect(str(path), Access.of_layer("a"), variable)
    t = result.transform
    grid = Grid(keys.get("crs") or result.crs, t.c, t.f, t.a, -t.e, result.width, result.height)
    source = Layer("a", (str(path),), variable=variable, **keys)
    plan = make_plan(Inputs("p", grid, [(source, [result])], VERSIONS), Options(how="grid"), GENEROUS)
    return plan, {v.name: raster_of(plan, v.name) for v in plan.spec.variables}


def test_a_year_of_months(shared_data: Path) -> None:
    path = shared_data / "odd/bcsd_obs_1999.nc"
    with rasterio.open(f"NETCDF:{path}:tas") as source:
        months = source.read(masked=True)
    _, values = real(path, "tas", crs="EPSG:4326", reduce="mean")
    assert np.allclose(values["a"], months.astype(float).mean(0).filled(np.nan), rtol=1e-6, equal_nan=True)
    _, values = real(path, "tas", crs="EPSG:4326", time=("1999-03/1999-04",))
    assert list(values) == ["a_19990331", "a_19990430"]
    assert np.array_equal(values["a_19990430"], months[3].filled(np.nan), equal_nan=True)


def test_a_variable_without_the_crs_of_its_neighbour(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "bahamas/RGB.nc"
    assert raster.inspect(str(path), Access.of_layer("a"), "Band1").crs == "EPSG:32618"
    with pytest.raises(SourceError, match=r"RGB\.nc.*has no CRS") as caught:
        run(tmp_path, layer(path, 'variable = "Band2"'))
    assert 'crs = "EPSG:..."' in caught.value.hint
    _, values = real(path, "Band2", crs="EPSG:32618", kind=Kind.CATEGORICAL)
    with rasterio.open(shared_data / "bahamas/RGB.byte.tif") as source:
        assert np.array_equal(np.nan_to_num(values["a"]), source.read(2))


def test_a_forecast_in_grib(shared_data: Path) -> None:
    path = shared_data / "global/gfs.t06z.pgrb2.10p0.f010.grib2"
    with rasterio.open(path) as source:
        values = source.read()
    _, result = real(path)
    assert list(result) == [
        "a_refd_1_hybl", "a_refd_2_hybl", "a_refc_0_eatm", "a_vis_0_sfc",
        "a_ugrd_0_reserved_220", "a_vgrd_0_reserved_220",
    ]  # fmt: skip
    plan, result = real(path, "ugrd")
    assert np.array_equal(result["a"], values[4])
    assert plan.spec.variables[0].unit == "m/s"
    _, result = real(path, "REFD", level=("2-HYBL",))
    assert np.array_equal(result["a"], values[1])
    _, result = real(path, "REFD", reduce="max")
    assert np.array_equal(result["a"], values[:2].max(0)), "over the levels: there is one time"
    with pytest.raises(SourceError, match="no variable 'TMP'; it has REFC, REFD, UGRD, VGRD, VIS"):
        real(path, "TMP")


def test_hourly_steps_of_a_curvilinear_grid(shared_data: Path) -> None:
    """Its grid of 2-D coordinates cannot be placed; its hours are read all the same."""
    result = raster.inspect(str(shared_data / "odd/test_stageiv_xyt.nc"))
    assert [b.step for b in result.bands][::22] == ["2018-09-13T19:00", "2018-09-14T17:00"]


def test_a_packed_day(shared_data: Path) -> None:
    _, result = real(shared_data / "zion/tmmx_20190121.nc", "air_temperature")
    with rasterio.open(shared_data / "zion/tmmx_20190121.nc") as source:
        values = source.read(1, masked=True).astype(float) * 0.1 + 220
    assert np.allclose(result["a"], values.filled(np.nan), atol=1e-4, equal_nan=True)
