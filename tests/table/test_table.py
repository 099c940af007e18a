"""A finished table as it is opened: its rows as Arrow, pandas, Ray and xarray are the pixels of its sources.

The grid lies on the pixels of the sources, so that a table without holes is the arrays themselves.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import object_store
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import rioxarray  # noqa: F401  (gives xarray its .rio)
import xarray as xr
from helpers import north_up, write_raster

import geopipe as gp
from geopipe.errors import MachineError, PlanError, SettingsError
from geopipe.table.files import Files

UTM, HEIGHT, WIDTH, SIZE = "EPSG:32632", 1100, 600, 512
BOUNDS = (500_000.0, 5_000_000.0 - 10 * HEIGHT, 500_000.0 + 10 * WIDTH, 5_000_000.0)
LAYOUTS: dict[str, dict[str, Any]] = {
    "parquet": {},
    "in folders by tile": {"partition_by": "tile"},
    "in folders by class": {"partition_by": "cover"},
    "points": {"geometry": "point", "lonlat": True},
    "csv": {"formats": ["csv"]},
    "csv without compression": {"formats": ["csv"], "compress": False},
    "one csv": {"formats": ["csv"], "csv_files": "one", "compress": "zstd"},
}


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """The pixels of each source, (HEIGHT, WIDTH); 0 is missing in `cover`, NaN in `height`, -1 in `holes`."""
    rng = np.random.default_rng(5)
    height = rng.normal(1000, 200, (HEIGHT, WIDTH)).astype("float32")
    height[500:530, 400:] = np.nan
    cover = rng.integers(0, 4, (HEIGHT, WIDTH)).astype("uint8")
    soil = rng.integers(1, 900, (HEIGHT, WIDTH)).astype("int16")
    big = rng.integers(2**53, 2**60, (HEIGHT, WIDTH))
    holes = np.where(rng.random((HEIGHT, WIDTH)) < 0.1, -1, big)
    return {"height": height, "cover": cover, "soil": soil, "big": big, "holes": holes}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Settings of six tiles, with a value of `soil` and `big` in every cell."""
    folder, nodata = tmp_path_factory.mktemp("sources"), {"cover": 0, "holes": -1}
    layers = []
    for name, array in arrays.items():
        here = north_up(BOUNDS[0], BOUNDS[3], 10)
        path = write_raster(folder / f"{name}.tif", array, UTM, here, nodata=nodata.get(name))
        kind = {"kind": "categorical"} if name in ("cover", "soil") else {}
        layers.append({"name": name, "path": path, "unit": "m" if name == "height" else None} | kind)
    layers = [{key: value for key, value in layer.items() if value is not None} for layer in layers]
    return {
        "run": {"name": "six_tiles", "output": folder / "output"},
        "grid": {"like": folder / "height.tif"},
        "layers": layers,
        "resampling": {"window_size": SIZE},
    }


def table_of(settings: dict[str, Any], output: Path, **export: Any) -> gp.Table:
    """The table of a run into a folder of its own."""
    sections = settings | {"export": export, "run": {"output": output}}
    return gp.open(gp.run(sections, engine="local", progress=False).output)


@pytest.fixture(scope="module")
def table(settings: dict[str, Any]) -> gp.Table:
    """The table in its default layout."""
    return gp.open(gp.run(settings, engine="local").output)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) if name in ("csv", "one csv") else name for name in LAYOUTS],
)
def any_layout(
    request: pytest.FixtureRequest, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> gp.Table:
    return table_of(settings, tmp_path_factory.mktemp("layout") / "output", **LAYOUTS[request.param])


def image(rows: pa.Table, name: str, missing: Any) -> np.ndarray:
    """A column as an array of the grid's shape."""
    values = rows[name].fill_null(missing).to_numpy()
    array = np.full((HEIGHT, WIDTH), missing, values.dtype)
    array[rows["row"].to_numpy(), rows["col"].to_numpy()] = values
    return array


# ---------------------------------------------------------------- what it is


def test_a_table_knows_its_grid_bounds_schema_and_how_it_came_to_be(table: gp.Table, settings: dict[str, Any]) -> None:
    plan = gp.plan(settings)
    assert (table.grid.width, table.grid.height, table.bounds) == (WIDTH, HEIGHT, BOUNDS)
    assert table.grid.projjson() == plan.grid.projjson()
    assert table.rows == HEIGHT * WIDTH
    assert table.schema.field("height").metadata[b"unit"] == b"m"
    assert table.columns == ("row", "col", "x", "y", "height", "cover", "soil", "big", "holes")
    assert table.provenance["plan_hash"] == plan.hash
    assert table.provenance["name"] == "six_tiles"


def test_what_is_no_finished_table_is_an_error_that_says_so(tmp_path: Path, table: gp.Table) -> None:
    for output in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(PlanError, match="holds no finished run"):
            gp.open(output)
    broken = shutil.copytree(table.output, tmp_path / "broken")
    (broken / "parquet" / "tile-r1-c1.parquet").unlink()
    with pytest.raises(MachineError, match=r"tile-r1-c1.parquet") as caught:
        gp.open(broken).arrow()
    assert "geopipe validate" in caught.value.hint
    (broken / "_SUCCESS").write_text('{"plan_hash": "x"}')
    with pytest.raises(PlanError, match="damaged"):
        gp.open(broken)


def test_a_table_in_a_notebook_is_small_and_escaped(tmp_path: Path, table: gp.Table) -> None:
    copy = shutil.copytree(table.output, tmp_path / "a<script>b")
    shown = gp.open(copy)._repr_html_()
    assert "<script>" not in shown
    assert all(name in shown for name in (*table.columns, "six_tiles", "660,000 rows", "UTM zone 32N"))
    assert len(shown) < 4000


# ---------------------------------------------------------------- rows


def test_rows_of_every_layout_are_the_pixels(any_layout: gp.Table, arrays: dict[str, np.ndarray]) -> None:
    rows = any_layout.arrow()
    assert rows.num_rows == HEIGHT * WIDTH
    assert [f.name for f in rows.schema][:4] == ["row", "col", "x", "y"]
    assert rows.schema.equals(any_layout.schema)
    for name, missing in (("height", np.nan), ("cover", 0), ("soil", 0), ("big", 0), ("holes", -1)):
        np.testing.assert_array_equal(image(rows, name, missing), arrays[name], err_msg=name)
        assert rows.schema.field(name).type.to_pandas_dtype() == arrays[name].dtype


@pytest.mark.parametrize(
    ("bounds", "rows", "cols"),
    [
        (BOUNDS, (0, HEIGHT), (0, WIDTH)),
        ((505_105, 4_994_875, 505_135, 4_994_895), (510, 513), (510, 514)),  # centres on the edges, over four tiles
        ((505_106, 4_994_876, 505_134, 4_994_894), (511, 512), (511, 513)),
        ((0, 0, 500_005, 4_989_005), (HEIGHT - 1, HEIGHT), (0, 1)),
        ((0, 0, 1, 1), (0, 0), (0, 0)),
    ],
)
def test_bounds_keep_the_cells_whose_centres_are_in_them(
    any_layout: gp.Table, bounds: tuple[float, ...], rows: tuple[int, int], cols: tuple[int, int]
) -> None:
    part = any_layout.arrow(["row", "col", "x", "y"], bounds=bounds)  # type: ignore[arg-type]
    expected = {(row, col) for row in range(*rows) for col in range(*cols)}
    assert part.num_rows == len(expected)
    assert set(zip(part["row"].to_pylist(), part["col"].to_pylist(), strict=True)) == expected
    x, y = part["x"].to_numpy(), part["y"].to_numpy()
    assert ((x >= bounds[0]) & (x <= bounds[2]) & (y >= bounds[1]) & (y <= bounds[3])).all()


def test_where_and_bounds_keep_rows_together(any_layout: gp.Table, arrays: dict[str, np.ndarray]) -> None:
    left = (BOUNDS[0], BOUNDS[1], 501_000, BOUNDS[3])
    part = any_layout.arrow(["cover", "soil"], left, pc.field("cover").is_null() & (pc.field("soil") > 800))
    expected = ((arrays["cover"] == 0) & (arrays["soil"] > 800))[:, :100].sum()
    assert (part.num_rows, part["cover"].null_count) == (expected, expected)
    assert part.column_names == ["cover", "soil"]


def test_bounds_open_the_files_of_their_tiles_alone(tmp_path: Path, table: gp.Table) -> None:
    copy = shutil.copytree(table.output, tmp_path / "output")
    for file in (copy / "parquet").glob("*.parquet"):
        if file.name not in ("tile-r0-c0.parquet", "tile-r1-c0.parquet"):  # the first has the schema
            file.write_bytes(b"not read")
    part = gp.open(copy)
    top, bottom = 5_000_000 - 10 * 600, 5_000_000 - 10 * 610
    assert part.arrow(bounds=(500_000, bottom, 500_100, top)).num_rows == 100
    assert part.xarray().isel(y=slice(600, 610), x=slice(0, 10)).soil.values.shape == (10, 10)
    with pytest.raises(MachineError):
        part.arrow(bounds=(505_200, bottom, 505_300, top))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.arrow(["hight"]), "no column 'hight'"),
        (lambda t: t.arrow(bounds=(3, 2, 1, 0)), "not xmin, ymin, xmax, ymax"),
        (lambda t: t.arrow(bounds=(1, 2, 3)), "not xmin, ymin, xmax, ymax"),
        (lambda t: t.arrow(where=pc.field("hight") > 1), "does not fit the rows"),
        (lambda t: t.arrow(where=pc.field("height") > "x"), "does not fit the rows"),
        (lambda t: t.sample(-1), "below 0"),
        (lambda t: t.xarray(["hight"]), "no column 'hight'"),
    ],
)
def test_a_mistake_in_a_question_is_one_of_ours(
    table: gp.Table, call: Callable[[gp.Table], object], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        call(table)


def test_pandas_changes_no_integer(table: gp.Table, arrays: dict[str, np.ndarray]) -> None:
    frame = table.pandas(["height", "cover", "soil", "holes"])
    assert frame.dtypes.astype(str).to_dict() == {
        "height": "float32", "cover": "UInt8", "soil": "int16", "holes": "Int64",
    }  # fmt: skip
    rows = table.arrow(["row", "col"])
    expected = arrays["holes"][rows["row"].to_numpy(), rows["col"].to_numpy()]
    pd.testing.assert_series_equal(frame.holes.fillna(-1), pd.Series(expected, name="holes", dtype="Int64"))


@pytest.mark.parametrize("layout", ["parquet", "in folders by class", "one csv"])
def test_a_ray_dataset_has_the_same_rows(
    settings: dict[str, Any], tmp_path: Path, layout: str, ray_session: None
) -> None:
    table = table_of(settings, tmp_path / "output", **LAYOUTS[layout])
    window = (500_000.0, 4_994_000.0, 505_500.0, 4_996_000.0)
    where = pc.field("soil") < 100
    dataset = table.ray(["row", "col", "soil", "cover"], window, where)
    rows = pa.concat_tables(list(dataset.iter_batches(batch_size=None, batch_format="pyarrow")))  # type: ignore[arg-type]
    expected = table.arrow(["row", "col", "soil", "cover"], window, where)
    order = [("row", "ascending"), ("col", "ascending")]
    assert rows.sort_by(order).equals(expected.sort_by(order))


def test_a_table_can_be_sent_to_another_process(table: gp.Table) -> None:
    copy = pickle.loads(pickle.dumps(table))
    assert copy.arrow(["soil"], (500_000, 4_999_900, 500_100, 5_000_000)).num_rows == 100


# ---------------------------------------------------------------- xarray


def test_an_xarray_dataset_of_every_layout_is_the_pixels(any_layout: gp.Table, arrays: dict[str, np.ndarray]) -> None:
    dataset = any_layout.xarray()
    part = dataset.isel(y=slice(505, 520), x=slice(500, 520))
    for name in arrays:
        expected = arrays[name][505:520, 500:520]
        if name == "cover":
            expected = np.where(expected == 0, np.nan, expected)
        if name == "holes":
            expected = np.where(expected == -1, part.holes.attrs["_FillValue"], expected)
        np.testing.assert_array_equal(part[name].values, expected, err_msg=name)
    types = {"height": "float32", "cover": "float32", "soil": "int16", "big": "int64", "holes": "int64"}
    assert {name: str(variable.dtype) for name, variable in dataset.data_vars.items()} == types


def test_xarray_agrees_with_the_table_in_every_cell(table: gp.Table) -> None:
    rows, dataset = table.arrow(), table.xarray()
    for name, cells in dataset.data_vars.items():
        missing = cells.attrs.get("_FillValue", np.nan if cells.dtype.kind == "f" else 0)
        column = rows[str(name)].cast(pa.from_numpy_dtype(cells.dtype))
        expected = image(rows.select(["row", "col"]).append_column("cells", column), "cells", missing)
        np.testing.assert_array_equal(cells.values, expected, err_msg=str(name))


@pytest.mark.parametrize(
    "key",
    [
        (slice(None, None, 97), slice(None, None, 53)),
        (slice(1050, 3, -111), slice(590, None, -7)),
        (np.array([1099, 0, 511, 512, 0]), np.array([599, 511, 512, 0])),
        (7, slice(505, 515)),
        (slice(510, 514), -1),
        (1099, 599),
        (slice(5, 5), slice(None)),
        (np.arange(1100) % 300 == 0, slice(3)),
    ],
    ids=str,
)
def test_any_index_of_xarray_gives_the_pixels(table: gp.Table, arrays: dict[str, np.ndarray], key: Any) -> None:
    dataset = table.xarray(["height", "big"])
    for name in dataset.data_vars:
        rows, columns = key
        expected = arrays[str(name)][rows][..., columns]
        np.testing.assert_array_equal(dataset[name].isel(y=rows, x=columns).values, expected)


def test_an_index_reads_the_tiles_that_it_touches_and_no_others(
    table: gp.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles: list[int] = []
    read = Files.read

    def noted(self: Files, keys: np.ndarray, *arguments: Any) -> pa.Table:
        tiles.extend(keys.tolist())
        return read(self, keys, *arguments)

    monkeypatch.setattr(Files, "read", noted)
    dataset = table.xarray()
    assert not tiles, "nothing is read before an index"
    _ = dataset.soil.isel(y=slice(600, 700), x=slice(0, 5)).values
    assert tiles == [2]
    _ = dataset.soil.isel(y=[0, 1099], x=599).values
    assert sorted(tiles) == [1, 2, 5]


def test_places_and_crs_follow_cf_and_rioxarray_finds_them(table: gp.Table) -> None:
    for bounds, origin, shape in (
        (None, (500_000, 5_000_000), (HEIGHT, WIDTH)),
        ((500_100, 4_999_000, 500_300, 4_999_500), (500_100, 4_999_500), (50, 20)),
    ):
        dataset = table.xarray(bounds=bounds)
        assert dataset.height.shape == shape
        assert dataset.rio.crs.to_epsg() == dataset.soil.rio.crs.to_epsg() == 32632
        assert tuple(dataset.rio.transform())[:6] == (10, 0, origin[0], 0, -10, origin[1])
        assert dataset.rio.transform(recalc=True) == dataset.rio.transform()
        assert (float(dataset.x[0]), float(dataset.y[0])) == (origin[0] + 5, origin[1] - 5)
        assert dataset.x.attrs["standard_name"] == "projection_x_coordinate"
        assert dataset.height.attrs["units"] == "m"


def test_rioxarray_reads_a_crs_of_degrees(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.ones((6, 5), "float32"), "EPSG:4326", north_up(8, 47, 0.25))
    settings = {"grid": {"like": path}, "layers": [{"name": "a", "path": path}]}
    dataset = table_of(settings, tmp_path / "output").xarray()
    assert dataset.rio.crs.to_epsg() == 4326
    assert tuple(dataset.rio.transform())[:6] == (0.25, 0, 8, 0, -0.25, 47)


def test_a_dataset_survives_a_netcdf_file(table: gp.Table, tmp_path: Path) -> None:
    dataset = table.xarray(["height", "cover", "soil"], (500_000, 4_999_800, 500_500, 5_000_000))
    dataset.to_netcdf(tmp_path / "a.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "a.nc", engine="scipy", decode_coords="all") as copy:
        for name in dataset.data_vars:
            np.testing.assert_array_equal(copy[name].values, dataset[name].values)
        assert copy.rio.crs.to_epsg() == 32632


def test_cells_that_are_no_rows_are_missing(
    settings: dict[str, Any], arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    sections = settings | {"merge": {"drop": ["cover"]}, "run": {"output": tmp_path / "output"}}
    table = gp.open(gp.run(sections, engine="local").output)
    dataset = table.xarray()
    gone = arrays["cover"] == 0
    assert table.rows == (~gone).sum()
    np.testing.assert_array_equal(np.isnan(dataset.soil.values), gone)
    np.testing.assert_array_equal(dataset.big.values == dataset.big.attrs["_FillValue"], gone)
    np.testing.assert_array_equal(dataset.big.values[~gone], arrays["big"][~gone])


# ---------------------------------------------------------------- a sample


def test_a_sample_is_the_same_whatever_the_files(any_layout: gp.Table, table: gp.Table) -> None:
    columns = ["row", "col", "height", "cover", "big"]
    sample = any_layout.sample(500, seed=4, columns=columns)
    assert sample.num_rows == 500
    assert sample.equals(table.sample(500, seed=4, columns=columns))
    assert not sample.equals(table.sample(500, seed=5, columns=columns))


def test_a_sample_has_each_row_with_the_same_chance_and_none_twice(table: gp.Table) -> None:
    places = set()
    counts = np.zeros(6, int)
    for seed in range(20):
        rows = table.sample(1000, seed, ["row", "col"]).to_pandas()
        assert len(rows.drop_duplicates()) == 1000
        counts += np.bincount((rows.row // SIZE) * 2 + rows.col // SIZE, minlength=6)
        places |= {(row, col) for row, col in rows.itertuples(index=False)}
    cells = np.array([512 * 512, 512 * 88, 512 * 512, 512 * 88, 76 * 512, 76 * 88])
    expected = 20_000 * cells / cells.sum()
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()
    assert len(places) > 19_000


@pytest.mark.parametrize(("n", "rows"), [(0, 0), (660_000, 660_000), (10**9, 660_000), (659_999, 659_999)])
def test_a_sample_of_nothing_and_of_everything(table: gp.Table, n: int, rows: int) -> None:
    sample = table.sample(n, columns=["row", "col"])
    assert sample.num_rows == rows
    assert sample.group_by(["row", "col"]).aggregate([]).num_rows == rows


# ---------------------------------------------------------------- an object store


def test_a_table_in_an_object_store_is_opened_by_its_uri(
    object_store: object_store.ObjectStore,
    settings: dict[str, Any],
    table: gp.Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in STORE_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    uri = object_store.uri("face/six")
    run = {"output": uri, "staging": tmp_path / "work"}
    assert gp.run(settings | {"run": run}, engine="local").output == uri
    stored, window = gp.open(uri), (505_000.0, 4_994_000.0, 505_500.0, 4_995_500.0)
    assert stored.arrow(bounds=window).equals(table.arrow(bounds=window))
    np.testing.assert_array_equal(stored.xarray().soil[::50, ::50].values, table.xarray().soil[::50, ::50].values)
    assert stored.sample(50, 1).equals(table.sample(50, 1))


STORE_ENVIRONMENT = object_store.ENVIRONMENT
