"""A table back as a map: the exact inverse of the export, in files that GDAL, rio-cogeo and QGIS take as they are."""

from __future__ import annotations

import json
import re
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from helpers import call, north_up, write_raster
from rio_cogeo import cog_validate

import geopipe as gp
from geopipe.errors import GeopipeError, MachineError, PlanError, SettingsError
from geopipe.maps.commit import workshop

UTM, HEIGHT, WIDTH, SIZE = "EPSG:32632", 700, 540, 512
CORNER = (500_000.0, 5_000_000.0, 10.0)
COLOURS = {1: (65, 105, 225, 255), 2: (0, 100, 0, 255), 7: (255, 250, 250, 255)}
NAMES = """<PAMDataset><PAMRasterBand band="1"><CategoryNames>
<Category/><Category>water</Category><Category>forest &amp; shrub</Category>
</CategoryNames></PAMRasterBand></PAMDataset>"""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> gp.Table:
    """A finished table of four tiles: heights in metres with a hole, and classes with names and colours."""
    folder, rng = tmp_path_factory.mktemp("table"), np.random.default_rng(3)
    height = rng.normal(1000, 200, (HEIGHT, WIDTH)).astype("float32")
    height[500:530, 400:] = np.nan
    cover = rng.choice([0, 1, 2, 7], (HEIGHT, WIDTH)).astype("uint8")
    place = north_up(*CORNER)
    write_raster(folder / "height.tif", height, UTM, place, nodata=np.nan)
    write_raster(folder / "cover.tif", cover, UTM, place, nodata=0, colormap=COLOURS)
    (folder / "cover.tif.aux.xml").write_text(NAMES)
    layers = [{"name": "height", "path": folder / "height.tif", "unit": "m"}]
    layers += [{"name": "cover", "path": folder / "cover.tif"}]
    return table_of(folder / "output", layers)


def table_of(output: Path, layers: list[dict[str, Any]]) -> gp.Table:
    """The table of layers on the pixels of the first one, with a row for each cell."""
    settings = {
        "run": {"output": output},
        "grid": {"like": layers[0]["path"]},
        "layers": layers,
        "merge": {"how": "grid"},
        "resampling": {"window_size": SIZE},
    }
    return gp.open(gp.run(settings, engine="local", progress=False).output)


def rows_of(**values: np.ndarray) -> pd.DataFrame:
    """Rows for each cell of the grid with the values of arrays, in a random order."""
    row, col = np.divmod(np.random.default_rng(4).permutation(HEIGHT * WIDTH), WIDTH)
    return pd.DataFrame({"row": row, "col": col} | {name: array[row, col] for name, array in values.items()})


def arrays() -> dict[str, Any]:
    """An array of each type, with the numbers at the ends of it and such as floats do not hold."""
    rng, shape = np.random.default_rng(5), (HEIGHT, WIDTH)
    numbers: dict[str, Any] = {}
    for bits in (8, 16, 32, 64):
        for kind in ("int", "uint"):
            limits = np.iinfo(f"{kind}{bits}")
            array = rng.integers(limits.min, limits.max, shape, limits.dtype, endpoint=True)
            array[1, :2] = limits.min, limits.max
            numbers[limits.dtype.name] = array
    numbers["uint8"].flat[:256] = np.arange(256)
    numbers["int64"][:2, :2] = [2**53 + 1, -(2**53) - 1], [-(2**63) + 1, 2**63 - 1]
    numbers["uint64"][:2, :2] = [2**53 + 1, 2**63], [2**64 - 1, 1]
    for name in ("float32", "float64"):
        numbers[name] = rng.normal(0, 1e9, shape).astype(name)
        numbers[name][0, :6] = -0.0, np.inf, -np.inf, np.nan, 0.1, np.finfo(name).tiny / 8
    return numbers


# ---------------------------------------------------------------- the inverse of the export


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "with nulls"])
def test_a_round_trip_over_maps_is_exact_for_every_type(table: gp.Table, tmp_path: Path, missing: bool) -> None:
    values, hole = arrays(), np.random.default_rng(6).random((HEIGHT, WIDTH)) < 0.05
    frame, layers = rows_of(hole=hole, **values), []
    rows = pa.Table.from_pandas(frame, preserve_index=False)
    if missing:
        for name in values:
            column = pa.array(frame[name].to_numpy(), mask=frame["hole"].to_numpy())
            rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    for name in values:
        raster = gp.rasterize(rows, [name], like=table, to=tmp_path / f"{name}.tif")
        assert (raster.dtype, raster.rows) == (name, HEIGHT * WIDTH)
        ends_are_values = values[name].dtype.kind in "iu" and values[name].itemsize < 8
        assert raster.masked is (missing and ends_are_values)
        layers.append({"name": name, "path": raster.path})
    back = table_of(tmp_path / "back", layers)
    columns = back.arrow()
    row, col = columns["row"].to_numpy(), columns["col"].to_numpy()
    for name, array in values.items():
        column = columns[name]
        assert column.type == pa.from_numpy_dtype(array.dtype)
        gone = hole if missing else np.zeros_like(hole)
        gone = gone | np.isnan(array) if array.dtype.kind == "f" else gone
        np.testing.assert_array_equal(column.is_null().to_numpy(), gone[row, col], err_msg=name)
        present = column.drop_null().to_numpy()
        assert present.tobytes() == array[row, col][~gone[row, col]].tobytes(), f"{name}: not the same bits"
    again = gp.rasterize(back, ["int64"], to=tmp_path / "again.tif")
    assert again.path.read_bytes() == (tmp_path / "int64.tif").read_bytes(), "a table and loose rows make one map"


def test_values_of_several_columns_come_back_from_one_file(table: gp.Table, tmp_path: Path) -> None:
    raster = gp.rasterize(table, ["height", "cover"], to=tmp_path / "both.tif")
    assert (raster.dtype, raster.bands, raster.overviews) == ("float32", ("height", "cover"), "nearest")
    layers = [{"name": name, "path": raster.path, "bands": [name]} for name in raster.bands]
    back = table_of(tmp_path / "back", layers).arrow(["height", "cover"])
    for name in raster.bands:
        assert back[name].cast(pa.float32()).equals(table.arrow([name])[name].cast(pa.float32()))


@pytest.mark.parametrize(
    ("columns", "dtype"),
    [
        (("uint8", "int8"), "int16"),
        (("uint8", "float32"), "float32"),
        (("int32", "float32"), "float64"),
        (("small", "float32"), "float64"),
        (("int32", "uint32"), "int64"),
        (("uint8", "uint8b"), "uint16"),  # all 256 numbers are values: none is left for no-data
        (("int64", "float64"), None),
        (("uint64", "int8"), None),
        (("uint64", "uint64b"), None),
    ],
    ids=str,
)
def test_columns_of_several_types_share_a_type_that_holds_them_or_are_refused(
    table: gp.Table, tmp_path: Path, columns: tuple[str, str], dtype: str | None
) -> None:
    numbers = arrays()
    numbers |= {"small": np.full((HEIGHT, WIDTH), 2**53), "uint8b": numbers["uint8"], "uint64b": numbers["uint64"]}
    numbers["uint64"][0, 0], numbers["uint64"][0, 1] = 0, 2**64 - 1
    frame = rows_of(**{name: numbers[name] for name in columns})
    row, col = frame.row.iloc[-1], frame.col.iloc[-1]
    frame = frame.iloc[:-1]
    if dtype is None:
        with pytest.raises(SettingsError, match="one file cannot hold these columns") as caught:
            gp.rasterize(frame, columns, like=table, to=tmp_path / "a.tif")
        assert "a file for each" in caught.value.hint
        return
    raster = gp.rasterize(frame, columns, like=table, to=tmp_path / "a.tif")
    assert raster.dtype == dtype
    with rasterio.open(raster.path) as ds:
        for band, name in enumerate(columns, 1):
            pixels, valid = ds.read(band)[frame.row, frame.col], ds.read_masks(band)[frame.row, frame.col] > 0
            assert valid.all() or numbers[name].dtype.kind == "f"
            np.testing.assert_array_equal(pixels[valid], numbers[name][frame.row, frame.col][valid].astype(dtype))
            assert ds.read_masks(band)[row, col] == 0, "the cell without a row"


def test_truth_dates_and_times_become_numbers_with_a_unit(table: gp.Table, tmp_path: Path) -> None:
    rows = pa.table(
        {
            "row": [0, 0, 699],
            "col": [0, 539, 1],
            "burnt": [True, False, None],
            "day": pa.array([0, 20_000, None], pa.date32()),
            "time": pa.array([1_700_000_000_000_001, -1, None], pa.timestamp("us", "UTC")),
            "half": pa.array(np.array([1.5, -2, np.nan], np.float16)),
            "code": pa.array([7, 300, None], pa.int16()).dictionary_encode(),
        }
    )
    expected = {
        "burnt": ("uint8", "", [1, 0]),
        "day": ("int32", "days since 1970-01-01", [0, 20_000]),
        "time": ("int64", "microseconds since 1970-01-01", [1_700_000_000_000_001, -1]),
        "half": ("float32", "", [1.5, -2]),
        "code": ("int16", "", [7, 300]),
    }
    for name, (dtype, unit, values) in expected.items():
        raster = gp.rasterize(rows, [name], like=table, to=tmp_path / f"{name}.tif")
        with rasterio.open(raster.path) as ds:
            assert (ds.dtypes[0], ds.units[0] or "", [ds.read(1)[0, 0], ds.read(1)[0, 539]]) == (dtype, unit, values)
            assert (ds.read_masks(1) > 0).sum() == 2


# ---------------------------------------------------------------- what other programs read


def test_a_map_is_a_cog_with_all_that_qgis_shows(table: gp.Table, tmp_path: Path) -> None:
    for name, overviews, nodata in (("height", "average", "nan"), ("cover", "mode", "255.0")):
        raster = gp.rasterize(table, [name], to=tmp_path / f"{name}.tif")
        assert cog_validate(raster.path, strict=True) == (True, [], [])
        with rasterio.open(raster.path) as ds:
            assert (ds.crs.to_epsg(), tuple(ds.transform)[:6]) == (32632, (10, 0, CORNER[0], 0, -10, CORNER[1]))
            assert (ds.shape, ds.descriptions, str(ds.nodata)) == ((HEIGHT, WIDTH), (name,), nodata)
            assert ds.block_shapes == [(512, 512)]
            assert ds.overviews(1) == [2]
            assert "STATISTICS_MEAN" in ds.tags(1)
            assert ds.tags(ns="IMAGE_STRUCTURE")["COMPRESSION"] in ("ZSTD", "DEFLATE")
            assert raster.overviews == overviews
            half = ds.read(1, out_shape=(HEIGHT // 2, WIDTH // 2))
            own = ds.read(1)[:2, :2]
            if name == "height":
                assert ds.units == ("m",)
                assert half[0, 0] == pytest.approx(own.mean())
            else:
                assert {value: ds.colormap(1)[value] for value in COLOURS} == COLOURS
                assert half[0, 0] in own, "no class between two others"
    (header,) = gp.inspect(tmp_path / "cover.tif")
    assert header.bands[0].categories == ((1, "water"), (2, "forest & shrub"))


def test_a_map_in_degrees_has_its_crs(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.ones((6, 5), "uint8"), "EPSG:4326", north_up(8, 47, 0.25))
    table = table_of(tmp_path / "output", [{"name": "a", "path": path}])
    raster = gp.rasterize(table, ["a", "x"], to=tmp_path / "map.tif")
    with rasterio.open(raster.path) as ds:
        assert ds.crs.to_epsg() == 4326
        np.testing.assert_array_equal(ds.read(2)[0], table.grid.xs(0, 5))


def test_a_table_stays_on_its_own_grid(table: gp.Table, tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.ones((6, 5), "uint8"), "EPSG:4326", north_up(8, 47, 0.25))
    other = table_of(tmp_path / "output", [{"name": "a", "path": path}])
    with pytest.raises(SettingsError, match=r"540 x 700 cells .*UTM zone 32N.* has a grid of 5 x 6 cells") as caught:
        gp.rasterize(table, ["height"], like=other, to=tmp_path / "map.tif")
    assert "leave --like out" in caught.value.hint


@pytest.mark.parametrize("mask", [False, True], ids=["nodata", "mask band"])
def test_a_large_map_is_a_folder_of_cogs_that_reads_as_one(table: gp.Table, tmp_path: Path, mask: bool) -> None:
    rows = table.arrow(["row", "col", "cover"])
    if mask:
        every = np.where(rows["cover"].is_null(), None, np.arange(rows.num_rows) % 256)
        rows = rows.set_column(2, "cover", pa.array(every, pa.uint8()))
    whole = gp.rasterize(rows, ["cover"], like=table, to=tmp_path / "whole.tif")
    parts = gp.rasterize(rows if mask else table, ["cover"], like=table, to=tmp_path / "parts.tif", part_size=SIZE)
    assert parts.path == tmp_path / "parts" / "parts.vrt"
    assert (parts.masked, whole.masked, parts.files) == (mask, mask, 1 if mask else 4)
    for file in (tmp_path / "parts").glob("*.tif"):
        assert cog_validate(file, strict=True)[0]
    with rasterio.open(whole.path) as one, rasterio.open(parts.path) as many:
        np.testing.assert_array_equal(one.read(), many.read())
        np.testing.assert_array_equal(one.read_masks(), many.read_masks())
        assert (one.profile["crs"], one.transform, one.nodata) == (many.profile["crs"], many.transform, many.nodata)
        assert COLOURS.items() <= many.colormap(1).items() <= one.colormap(1).items()
    back = table_of(tmp_path / "back", [{"name": "cover", "path": parts.path}])
    place = [("row", "ascending"), ("col", "ascending")]
    assert (
        back.arrow(["row", "col", "cover"])
        .sort_by(place)
        .equals(rows.sort_by(place).cast(back.schema_of(["row", "col", "cover"])))
    )


# ---------------------------------------------------------------- any rows


def test_rows_of_any_order_files_and_places_make_one_map(table: gp.Table, tmp_path: Path) -> None:
    rows = table.pandas(["row", "col", "x", "y", "height"]).sample(frac=1, random_state=1)
    rows["half"] = np.arange(len(rows)) % 2
    expected = gp.rasterize(table, ["height"], to=tmp_path / "expected.tif").path.read_bytes()
    frames = {
        "one.parquet": rows,
        "index": rows[["row", "col", "height"]],
        "centres": rows[["x", "y", "height"]].assign(x=rows.x + 0.05),  # a hundredth of a cell is 0.1
    }
    frames["one.parquet"].to_parquet(tmp_path / "one.parquet", index=False)
    for name in ("index", "centres"):
        (tmp_path / name).mkdir()
        for part in range(3):
            frames[name][part::3].to_parquet(tmp_path / name / f"{part}.parquet", row_group_size=10_000)
    pq.write_to_dataset(pa.Table.from_pandas(rows, preserve_index=False), tmp_path / "hive", partition_cols=["half"])
    for number, source in enumerate(["one.parquet", "index", "centres", "hive", "index/*.parquet"]):
        raster = gp.rasterize(tmp_path / source, ["height"], like=table, to=tmp_path / f"{number}.tif")
        assert raster.path.read_bytes() == expected, source
    hive = gp.rasterize(tmp_path / "hive", ["half"], like=table, to=tmp_path / "hive.tif")
    with rasterio.open(hive.path) as ds:
        np.testing.assert_array_equal(ds.read(1)[rows.row, rows.col], rows.half)


def test_rows_inside_an_output_are_on_its_grid(table: gp.Table, tmp_path: Path) -> None:
    folder = Path(table.output) / "analysis" / "kmeans" / "labels"
    folder.mkdir(parents=True)
    table.pandas(["row", "col"])[:1000].assign(cluster=3).to_parquet(folder / "tile-0.parquet")
    raster = gp.rasterize(folder, ["cluster"], to=tmp_path / "clusters.tif")
    with rasterio.open(raster.path) as ds:
        assert (ds.shape, (ds.read_masks(1) > 0).sum()) == ((HEIGHT, WIDTH), 1000)


MISTAKES: dict[str, tuple[dict[str, Any], str, str]] = {
    "a cell twice": ({"row": [3, 3], "col": [4, 4]}, "row 3, column 4", "groupby"),
    "below the grid": ({"row": [3, 700], "col": [4, 4]}, r"row 1 .* outside the grid: row = 700", "--like"),
    "left of it": ({"row": [3, 3], "col": [-1, 4]}, r"row 0 .* outside the grid: col = -1", "--like"),
    "far away": ({"x": [0.0, 500_005], "y": [4_999_995.0, 4_999_995]}, r"row 0 .* outside the grid: x = 0.0", "--like"),
    "beside a centre": (
        {"x": [500_005.0, 500_007], "y": [4_999_995.0, 4_999_995]},
        r"row 1 .*x = 500007.0 is 0.2 cells off",
        "another grid",
    ),
    "of another grid": (
        {"row": [0, 1], "col": [0, 0], "x": [500_005.0, 500_005], "y": [4_999_995.0, 4_999_975]},
        r"row 1 .*y = 4999975.0 is 1 cells off its row",
        "another grid",
    ),
    "no place": ({"row": [0, None], "col": [0, 1]}, r"row 1 .* has no row", "without a place"),
    "half a row": ({"row": [0, 0.5], "col": [0, 1]}, "row of .* is double", "whole numbers"),
    "no columns of places": ({"lon": [0, 1], "lat": [0, 1]}, "neither row and col nor x and y", "keep row and col"),
    "words": ({"row": [0, 1], "col": [0, 1], "v": ["a", "b"]}, "'v' is of type", "factorize"),
    "another name": ({"row": [0, 1], "col": [0, 1], "V": [0, 1]}, "no column 'v'", "'V'"),
    "no rows": (
        {"row": pa.array([], pa.int32()), "col": pa.array([], pa.int32()), "v": pa.array([], pa.int8())},
        "no rows",
        "at least one",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_rows_is_named_and_leaves_nothing(table: gp.Table, tmp_path: Path, mistake: str) -> None:
    columns, message, hint = MISTAKES[mistake]
    values = {} if {"v", "V"} & set(columns) else {"v": [1.0, 2.0]}
    pq.write_table(pa.table(columns | values), tmp_path / "rows.parquet")
    with pytest.raises(GeopipeError, match=message) as caught:
        gp.rasterize(tmp_path / "rows.parquet", ["v"], like=table, to=tmp_path / "map.tif")
    assert hint in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing", "--column", "v"), "there is no nothing"),
        (("*.nothing", "--column", "v"), "no file matches"),
        (("text.csv", "--column", "v"), "no Parquet that can be read"),
        (("empty", "--column", "v"), "neither a finished run nor Parquet"),
        (("rows.parquet", "--column", "v"), "nothing says which grid"),
        (("rows.parquet", "--column", "v", "--like", "empty"), "holds no finished run"),
        (("TABLE",), "no column is named.*height, cover"),
        (("TABLE", "--column", "hight"), "no column 'hight'.*'height'"),
        (("TABLE", "--column", "height", "-o", "map.png"), "a map is a GeoTIFF.*map.tif"),
        (("TABLE", "--column", "height", "-o", "taken.tif"), "taken.tif exists.*--overwrite"),
        (("TABLE", "--column", "height", "-o", "work"), "folder with other contents"),
        (("TABLE", "--column", "height", "-o", "s3://bucket/map.tif"), "folder of this machine"),
    ],
    ids=str,
)
def test_a_mistake_in_the_command_is_one_of_ours(
    table: gp.Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"row": [0], "col": [0], "v": [1]}), "rows.parquet")
    Path("text.csv").write_text("row,col\n")
    Path("taken.tif").write_text("somebody's")
    Path("empty").mkdir()
    Path("work").mkdir()
    Path("work/thesis.txt").write_text("somebody's")
    before = sorted(tmp_path.rglob("*"))
    arguments = tuple(table.output if argument == "TABLE" else argument for argument in arguments)
    target = () if "-o" in arguments else ("-o", "map.tif")
    code, _, error = call(capsys, "rasterize", *arguments, *target)
    assert code in (2, 3)
    assert re.search(message, error.replace("\n", " ")), error
    assert sorted(tmp_path.rglob("*")) == before
    assert Path("taken.tif").read_text() == "somebody's"


def test_overwriting_replaces_a_map_as_a_whole(table: gp.Table, tmp_path: Path) -> None:
    for target, part_size in (("map.tif", 32768), ("map", SIZE)):
        first = gp.rasterize(table, ["cover"], to=tmp_path / target, part_size=part_size)
        before = sorted(path.name for path in tmp_path.rglob("*"))
        with pytest.raises(PlanError, match="exists"):
            gp.rasterize(table, ["height"], to=tmp_path / target, part_size=part_size)
        second = gp.rasterize(table, ["height"], to=tmp_path / target, part_size=part_size, overwrite=True)
        assert (first.path, second.bands) == (second.path, ("height",))
        with rasterio.open(second.path) as ds:
            assert (ds.descriptions, ds.dtypes) == (("height",), ("float32",))
        gone = {"map.tif.aux.xml"} if target == "map.tif" else set()
        assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(set(before) - gone)


def test_a_full_disk_is_named_and_leaves_nothing(
    table: gp.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files stands for the disk: GDAL learns of both from write(2)."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(MachineError, match="cannot be written"):
            gp.rasterize(table, ["height"], to=tmp_path / "map.tif")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_a_live_one_keeps_others_out(table: gp.Table, tmp_path: Path) -> None:
    left = tmp_path / ".map.tif.tmp"
    (left / "rows").mkdir(parents=True)
    (left / "map.tif").write_text("half")
    with workshop(tmp_path / "map.tif"), pytest.raises(MachineError, match="being written by another process"):
        gp.rasterize(table, ["height"], to=tmp_path / "map.tif")
    gp.rasterize(table, ["height"], to=tmp_path / "map.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["map.tif"]


def test_an_interrupted_map_leaves_nothing(table: gp.Table, tmp_path: Path) -> None:
    def interrupt(title: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gp.rasterize(table, ["height"], to=tmp_path / "map.tif", watch=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_a_map_as_json(table: gp.Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "map.tif"
    code, out, _ = call(capsys, "rasterize", table.output, "--column", "height", "-o", target, "--json")
    written = json.loads(out)
    assert code == 0
    assert (written["path"], written["bands"], written["nodata"]) == (str(target), ["height"], "nan")
    assert written["bytes"] == target.stat().st_size
    code, out, _ = call(capsys, "rasterize", table.output, "--column", "height", "-o", target, "--overwrite")
    assert (code, "float32, no-data: nan" in out) == (0, True)
