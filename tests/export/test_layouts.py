"""The table in other files: one CSV, folders of hive, GeoParquet, further columns; read by others, and validated."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from commits import finish
from damage import SETTINGS, edit_manifest, errors, forge, make_settings, rewrite, run
from helpers import north_up, plan_of, table_of, write_raster
from hypothesis import given
from hypothesis import strategies as st

from geopipe.engine import local
from geopipe.errors import MachineError, PlanError, RunError, SettingsError
from geopipe.events.emit import subscribe
from geopipe.export import tiles
from geopipe.export.ledger import finisher
from geopipe.export.publish import check_output
from geopipe.export.staging import Staging
from geopipe.export.tiles import Receipt
from geopipe.export.writers import csv_writer
from geopipe.grid.grid import Grid
from geopipe.layers.layer import Kind, Layer
from geopipe.plan.options import Layout
from geopipe.plan.plan import Plan
from geopipe.run import draft, pipeline
from geopipe.settings import load
from geopipe.validate.output import validate

UTM = "EPSG:32632"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of two tiles, of `height`, `cover` (classes with nulls), `big` (64 bits) and `coarse`."""
    return make_settings(tmp_path_factory.mktemp("sources"))


def clean(file: Path, output: Path, *flags: str) -> pipeline.Summary:
    """A finished run that validation has nothing to say of."""
    summary = run(file, f"run.output={output}", *flags)
    assert validate(summary.output).findings == ()
    return summary


def rows_of(output: Path) -> pd.DataFrame:
    """The table as the plain Parquet files have it."""
    return pq.read_table(sorted((output / "parquet").glob("*.parquet"))).to_pandas().convert_dtypes()


def same_rows(values: pd.DataFrame, expected: pd.DataFrame) -> None:
    """The same rows in any order, to the last bit of a float32."""
    values = values[list(expected.columns)].convert_dtypes()
    values, expected = (t.sort_values(["row", "col"]).reset_index(drop=True) for t in (values, expected))
    pd.testing.assert_frame_equal(values, expected, check_dtype=False, check_exact=False, rtol=1e-7, atol=0)
    assert (values["big"] == expected["big"]).all()


# ---------------------------------------------------------------- CSV


@pytest.mark.parametrize("files", ["tiles", "one"])
@pytest.mark.parametrize(("compress", "suffix"), [('"gzip"', ".gz"), ('"zstd"', ".zst"), ("false", "")])
def test_csv_comes_back_as_the_rows_of_parquet(
    file: Path, tmp_path: Path, compress: str, suffix: str, files: str
) -> None:
    output = tmp_path / "out"
    summary = clean(file, output, f"export.compress={compress}", f"export.csv_files={files}", "export.chunk_size=999")
    names = {"tiles": ["tile-r0-c0.csv", "tile-r0-c1.csv"], "one": ["table.csv"]}[files]
    assert sorted(os.listdir(output / "csv")) == [name + suffix for name in names]
    assert summary.files == 2 + len(names)
    expected = rows_of(output)
    same_rows(duckdb.sql(f"from read_csv('{output}/csv/*')").df(), expected)
    codec = {".gz": "gzip", ".zst": "zstd", "": None}[suffix]
    parts = [pd.read_csv(pa.input_stream(output / "csv" / (n + suffix), compression=codec)) for n in names]
    same_rows(pd.concat(parts), expected)
    if suffix == ".gz":
        same_rows(pd.concat([pd.read_csv(p) for p in sorted((output / "csv").iterdir())]), expected)


def test_one_csv_is_the_files_of_the_tiles_one_after_the_other(file: Path, tmp_path: Path) -> None:
    for files in ("tiles", "one"):
        clean(file, tmp_path / files, "export.formats=csv", f"export.csv_files={files}")
    texts = [gzip.decompress(p.read_bytes()) for p in sorted((tmp_path / "tiles/csv").iterdir())]
    header, rest = texts[1].split(b"\n", 1)
    assert texts[0].startswith(header + b"\n")
    data = (tmp_path / "one/csv/table.csv.gz").read_bytes()
    assert gzip.decompress(data) == texts[0] + rest
    receipts = [Receipt.parse(line) for line in (tmp_path / "one/manifest.jsonl").read_text().splitlines()]
    parts = [f for r in receipts for f in r.files]
    assert [p.path for p in parts] == ["csv/table.csv.gz"] * 2
    assert [(p.offset, p.offset + p.bytes) for p in parts] == [(0, parts[1].offset), (parts[1].offset, len(data))]
    assert gzip.decompress(data[parts[1].offset :]) == rest, "a part can be read by itself"


def test_one_csv_of_tiles_without_rows(tmp_path: Path) -> None:
    values = np.full((10, 1600), np.nan, "float32")
    values[3, 700] = 1.5
    path = str(write_raster(tmp_path / "a.tif", values, UTM, north_up(0, 100, 1)))
    for codec in ("gzip", "zstd", "none"):
        plan = plan_of(
            Grid(UTM, 0, 100, 1, 1, 1600, 10), [Layer("a", (path,))], window_size=512, formats=("csv",),
            compress=codec, layout=Layout(csv_files="one"),
        )  # fmt: skip
        output = tmp_path / codec
        assert finish_whole(output, plan)["rows"] == 1
        assert validate(output).findings == ()
        result = duckdb.sql(f"from read_csv('{output}/csv/*')").fetchall()
        assert result == [(3, 700, 700.5, 96.5, 1.5)]


def finish_whole(output: Path, plan: Plan) -> dict[str, int]:
    """A run with what validation needs, without its own checks."""
    from geopipe.validate.facts import facts_of

    staging = stage(output, plan)
    return staging.commit({"run_id": "run", "table": facts_of(plan).describe()})


def stage(output: Path, plan: Plan) -> Staging:
    staging = Staging(output, plan, "[run]\n")
    list(local.finish_tiles(plan, staging.begin(), finisher(plan, staging.folder, 1000)))
    return staging


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Plan]:
    """Plans of 2 tiles: classes -1, 0, 7 and null, and a value."""
    cover = np.array([-1, 0, 7, 99], "int16")[np.arange(600 * 20).reshape(20, 600) % 4]
    cover[:, :512][cover[:, :512] == 7] = 0
    profile = {"crs": UTM, "transform": north_up(0, 100, 1)}
    paths = [
        str(write_raster(tmp_path / "cover.tif", cover, nodata=99, **profile)),
        str(write_raster(tmp_path / "v.tif", np.arange(cover.size, dtype="float32").reshape(cover.shape), **profile)),
    ]
    layers = [Layer("cover", (paths[0],), kind=Kind.CATEGORICAL), Layer("v", (paths[1],))]

    def plan(**options: Any) -> Plan:
        return plan_of(Grid(UTM, 0, 100, 1, 1, 600, 20), layers, **{"window_size": 512} | options)

    return plan


def test_joining_again_after_a_crash_gives_the_same_file(make: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make(formats=("csv",), layout=Layout(csv_files="one"))
    staging = stage(tmp_path / "out", plan)
    once = list(tiles.join_csv(staging.folder, plan, staging.ledger().receipts()))
    data = (staging.folder / "csv/table.csv.gz").read_bytes()
    assert list(tiles.join_csv(staging.folder, plan, staging.ledger().receipts())) == once
    assert (staging.folder / "csv/table.csv.gz").read_bytes() == data
    assert [f.offset for receipt in once for f in receipt.files] == [0, once[0].files[0].bytes]


def test_joining_refuses_a_tile_that_is_not_what_was_written(make: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make(formats=("csv",), layout=Layout(csv_files="one"))
    staging = stage(tmp_path / "out", plan)
    path = staging.folder / "csv_parts/tile-r0-c1.csv.gz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MachineError, match=r"tile-r0-c1.csv.gz has changed since it was written"):
        list(tiles.join_csv(staging.folder, plan, staging.ledger().receipts()))


def test_progress_is_told_inside_a_tile_and_adds_up_to_it(
    make: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "PROGRESS_INTERVAL", 0)
    plan = make(formats=("parquet", "csv"))
    messages: list[Any] = []
    unsubscribe = subscribe(messages.append)
    stage(tmp_path / "out", plan)
    unsubscribe()
    messages = [p for p in messages if getattr(p, "stage", "") == "write"]
    assert [p.rows for p in messages if not p.tiles] == [*[1000] * 10, 240, 1000, 760], "a record for each chunk"
    assert sum(p.tiles for p in messages) == 2
    assert sum(p.rows for p in messages) == sum(p.cells for p in messages) == 600 * 20
    assert sum(p.bytes for p in messages) == sum(p.stat().st_size for p in (tmp_path / "out").rglob("tile-*"))
    assert all(p.seconds >= 0 for p in messages)


def test_without_streaming_a_tile_is_one_chunk_and_that_is_deprecated(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "PROGRESS_INTERVAL", 0)
    counts = []
    for streaming in ("true", "false"):
        messages: list[Any] = []
        unsubscribe = subscribe(messages.append)
        flags = ("export.formats=csv", "export.chunk_size=1000", f"export.enable_streaming={streaming}")
        if streaming == "false":
            with pytest.warns(DeprecationWarning, match="set export.chunk_size"):
                run(file, f"run.output={tmp_path / streaming}", *flags)
        else:
            run(file, f"run.output={tmp_path / streaming}", *flags)
        unsubscribe()
        counts.append(len([p for p in messages if getattr(p, "stage", "") == "write" and not p.tiles]))
    assert counts == [13, 2]
    csv = [
        [gzip.decompress(p.read_bytes()) for p in sorted((tmp_path / s / "csv").iterdir())] for s in ("true", "false")
    ]
    assert csv[0] == csv[1]


FORMULA = re.compile(rb"^[=@\t\r|+-]")
NUMBER = re.compile(rb"^(-?[0-9][0-9.]*(e[+-]?[0-9]+)?|-?inf|)$")


@given(
    st.lists(
        st.tuples(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, width=32), st.integers(0, 2**64 - 1))
    )
)
def test_no_cell_of_csv_is_a_formula(rows: list[tuple[int, float, int]]) -> None:
    names = ("big", "_value", "h3")
    kinds = (pa.int64(), pa.float32(), pa.uint64())
    table = pa.table({n: pa.array([r[i] for r in rows], k) for i, (n, k) in enumerate(zip(names, kinds, strict=True))})
    sink = pa.BufferOutputStream()
    with csv_writer(table.schema, sink, "none", 3, True, lambda rows: None) as write:
        write(table)
    header, *lines = sink.getvalue().to_pybytes().splitlines()
    assert header == b'"big","_value","h3"'
    assert not any(FORMULA.match(name) for name in header.replace(b'"', b"").split(b","))
    assert all(NUMBER.match(cell) for line in lines for cell in line.split(b","))
    assert [int(line.split(b",")[2]) for line in lines] == [r[2] for r in rows], "to the last digit"


@pytest.mark.parametrize("name", ["=cmd()", "+a", "-a", "@a", "a\tb", "a,b", 'a"b', "a\nb", ""])
def test_no_layer_has_a_name_that_a_spreadsheet_would_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "s.toml").write_text(SETTINGS.replace('"height"', json.dumps(name)))
    with pytest.raises(SettingsError, match=r"layers\.1\.name"):
        load.load(tmp_path / "s.toml")


def test_a_description_that_is_a_formula_makes_no_column_of_its_name(tmp_path: Path) -> None:
    bands = np.ones((2, 4, 4), "float32")
    path = write_raster(tmp_path / "a.tif", bands, UTM, north_up(0, 4, 1), descriptions=('=HYPERLINK("x")', "@SUM(A1)"))
    plan = plan_of(Grid(UTM, 0, 4, 1, 1, 4, 4), [Layer("a", (str(path),))], window_size=512)
    assert [v.name for v in plan.spec.variables] == ["a_1", "a_2"]


# ---------------------------------------------------------------- Parquet


def scanned(query: str) -> tuple[int, int]:
    """Row groups that DuckDB read, and those that there are, of a query's only table."""
    plan = json.loads(duckdb.sql(f"explain (analyze, format json) {query}").fetchall()[0][1])
    result: list[tuple[int, int]] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("type") == "TABLE_SCAN":
                total = node["total_row_groups_to_scan"]
                result.append((node.get("row_groups_scanned", total), total))  # it is left out where nothing is skipped
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(plan)
    assert len(result) == 1
    return result[0]


def test_duckdb_skips_the_row_groups_that_a_place_is_not_in(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.ones((1024, 2048), "uint8"), UTM, north_up(0, 1024, 1))
    plan = plan_of(Grid(UTM, 0, 1024, 1, 1, 2048, 1024), [Layer("a", (str(path),))], window_size=1024)
    finish(tmp_path / "out", plan)
    files = f"read_parquet('{tmp_path}/out/parquet/*')"
    meta = duckdb.sql(
        f"select stats_min_value, stats_max_value from parquet_metadata('{tmp_path}/out/parquet/tile-r0-c1.parquet') "
        "where path_in_schema = 'y' order by row_group_id"
    ).fetchall()
    column = pq.ParquetFile(tmp_path / "out/parquet/tile-r0-c1.parquet").metadata.row_group(0).column(3)
    assert (column.path_in_schema, column.has_column_index, column.has_offset_index) == ("y", True, True)
    assert meta == [("768.5", "1023.5"), ("512.5", "767.5"), ("256.5", "511.5"), ("0.5", "255.5")]
    assert scanned(f"select sum(a) from {files}") == (8, 8)
    assert scanned(f"select sum(a) from {files} where y between 300 and 400 and x < 100") == (1, 8)
    assert scanned(f"select sum(a) from {files} where row between 250 and 260 and col >= 1024") == (2, 8)


def hive(output: Path, **types: pa.DataType) -> pa.Table:
    return ds.dataset(output / "parquet", partitioning=ds.partitioning(pa.schema(types), flavor="hive")).to_table()


def test_classes_as_folders_are_read_as_a_column_by_all(file: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    summary = clean(file, output, "export.partition_by=cover")
    expected = rows_of(run(file, f"run.output={tmp_path / 'plain'}").output)
    folders = sorted(p.name for p in (output / "parquet").iterdir())
    assert folders == ["cover=1", "cover=2", "cover=3", "cover=4", "cover=__HIVE_DEFAULT_PARTITION__"]
    assert {p.name for p in (output / "parquet").rglob("*.parquet")} == {"tile-r0-c0.parquet", "tile-r0-c1.parquet"}
    assert summary.files == len(list((output / "parquet").rglob("*.parquet"))) + 2 == 12
    assert "cover" not in pq.ParquetFile(output / "parquet/cover=1/tile-r0-c0.parquet").schema_arrow.names

    result = hive(output, cover=pa.uint8())
    assert result.schema.field("cover").type == pa.uint8()
    same_rows(result.to_pandas(), expected)
    same_rows(ds.dataset(output / "parquet", partitioning="hive").to_table().to_pandas(), expected)
    same_rows(duckdb.sql(f"from read_parquet('{output}/parquet/**/*.parquet')").df(), expected)
    typed = f"read_parquet('{output}/parquet/**/*.parquet', hive_types = {{'cover': utinyint}})"
    assert (
        dict(duckdb.sql(f"select column_name, column_type from (describe from {typed})").fetchall())["cover"]
        == "UTINYINT"
    )
    counts = expected.groupby("cover", dropna=False)["row"].count()
    for value, count in duckdb.sql(f"select cover, count(*) from {typed} group by 1").fetchall():
        assert counts[pd.NA if value is None else value] == count
    groups, _ = scanned(f"select sum(height) from {typed} where cover = 2")
    assert groups == 2, "the files of one folder"
    same_rows(duckdb.sql(f"from read_csv('{output}/csv/*')").df(), expected)


def test_folders_of_negative_classes_keep_the_order_of_cells(make: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make(layout=Layout(partition_by="cover"))
    finish_whole(tmp_path / "out", plan)
    assert validate(tmp_path / "out").findings == ()
    result = hive(tmp_path / "out", cover=pa.int16()).sort_by([("row", "ascending"), ("col", "ascending")])
    table = table_of(plan).sort_by([("row", "ascending"), ("col", "ascending")])
    assert result.select(table.column_names).cast(table.schema).equals(table)
    part = pq.ParquetFile(tmp_path / "out/parquet/cover=-1/tile-r0-c0.parquet").read()
    places = part["row"].to_numpy() * 600 + part["col"].to_numpy()
    assert (np.diff(places) > 0).all()


def test_tiles_as_folders(file: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    clean(file, output, "export.partition_by=tile")
    assert sorted(str(p.relative_to(output / "parquet")) for p in (output / "parquet").rglob("*.parquet")) == [
        "tile=0/tile-r0-c0.parquet", "tile=1/tile-r0-c1.parquet",
    ]  # fmt: skip
    counts = duckdb.sql(f"select tile, min(col), count(*) from '{output}/parquet/**/*.parquet' group by 1 order by 1")
    assert [row[:2] for row in counts.fetchall()] == [(0, 0), (1, 512)]


def test_a_tile_without_rows_has_a_file_with_the_schema(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.zeros((4, 4), "uint8"), UTM, north_up(0, 4, 1), nodata=0)
    layers = [Layer("a", (str(path),), kind=Kind.CATEGORICAL)]
    plan = plan_of(Grid(UTM, 0, 4, 1, 1, 4, 4), layers, window_size=512, layout=Layout("tiles", "a", "point"))
    finish_whole(tmp_path / "out", plan)
    assert [f.level for f in validate(tmp_path / "out").findings] == ["warning"], "there are no rows"
    assert hive(tmp_path / "out", a=pa.uint8()).schema.names == ["row", "col", "x", "y", "geometry", "a"]


@pytest.mark.parametrize(
    ("flags", "message", "hint"),
    [
        (("export.partition_by=covr",), "'covr' is no variable of the table", "choose one of cover, tile"),
        (("export.partition_by=height",), "is continuous (the default), of type float32", "choose one of cover, tile"),
        (("export.partition_by=big",), "is continuous (the default), of type int64", "kind = 'categorical'"),
        (("export.partition_by=row",), "'row' is no variable", "cover, tile"),
        (("export.partition_by=cover", "export.formats=csv"), "is about parquet", "add 'parquet'"),
        (("export.geometry=point", "export.formats=csv"), "is about parquet", "add 'parquet'"),
        (("export.csv_files=one", "export.formats=parquet"), "is about csv", "add 'csv'"),
        (("export.geometry=polygon",), 'export.geometry = "polygon"', "for example"),
        (("export.h3=16",), "export.h3 = 16", "for example"),
        (("export.compress=lz4",), 'export.compress = "lz4"', "for example"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_what_cannot_be_is_refused_before_anything_is_read(
    file: Path, flags: tuple[str, ...], message: str, hint: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        draft.draft(load.load(file, flags))
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_too_many_folders_are_refused(tmp_path: Path) -> None:
    values = np.arange(40 * 40, dtype="int32").reshape(40, 40)
    path = write_raster(tmp_path / "a.tif", values, UTM, north_up(0, 40, 1))
    layers = [Layer("a", (str(path),), kind=Kind.CATEGORICAL)]
    plan = plan_of(Grid(UTM, 0, 40, 1, 1, 40, 40), layers, window_size=512, layout=Layout(partition_by="a"))
    with pytest.raises(RunError, match=r"tile 0 has 1,600 values of it; .* 1,024 are the most") as caught:
        finish(tmp_path / "out", plan)
    assert "'tile'" in caught.value.hint


def test_points_open_in_geopandas_where_they_are(file: Path, tmp_path: Path) -> None:
    geopandas = pytest.importorskip("geopandas")
    output = tmp_path / "out"
    clean(file, output, "export.geometry=point", "export.partition_by=cover")
    path = output / "parquet/cover=2/tile-r0-c1.parquet"
    frame = geopandas.read_parquet(path)
    assert frame.crs == UTM
    assert (frame.geometry.x == frame["x"]).all()
    assert (frame.geometry.y == frame["y"]).all()
    document = json.loads(pq.read_schema(path).metadata[b"geo"])
    assert document["version"] == "1.1.0"
    assert document["columns"]["geometry"]["bbox"] == list(frame.total_bounds)
    kind = duckdb.sql(f"select typeof(geometry) from '{path}' limit 1").fetchall()[0][0]
    assert kind.startswith("GEOMETRY")
    assert "UTM zone 32N" in kind
    meta = pq.ParquetFile(path).metadata.row_group(0)
    columns = {meta.column(i).path_in_schema: meta.column(i) for i in range(meta.num_columns)}
    assert not columns["geometry"].is_stats_set
    assert columns["x"].is_stats_set
    assert columns["y"].statistics.max == frame["y"].max()


def test_all_at_once(file: Path, tmp_path: Path) -> None:
    h3 = pytest.importorskip("h3")
    output = tmp_path / "out"
    flags = (
        'export.compress="zstd"', "export.csv_files=one", "export.partition_by=cover", "export.geometry=point",
        "export.lonlat=true", "export.h3=11", "merge.how=grid",
    )  # fmt: skip
    clean(file, output, *flags)
    table = hive(output, cover=pa.uint8())
    assert table.column_names[:7] == ["row", "col", "x", "y", "lon", "lat", "h3"]
    assert table.column_names[-2:] == ["geometry", "cover"]
    csv = duckdb.sql(f"from read_csv('{output}/csv/table.csv.zst')").df()
    assert list(csv.columns) == ["row", "col", "x", "y", "lon", "lat", "h3", "height", "cover", "big", "coarse"]
    expected = table.drop_columns("geometry").to_pandas().convert_dtypes()
    same_rows(csv, expected)
    for name in ("lon", "lat", "h3"):
        ordered = [t.sort_values(["row", "col"])[name].tolist() for t in (csv, expected)]
        assert ordered[0] == ordered[1]
    cell, lat, lon = (csv[name].tolist()[1234] for name in ("h3", "lat", "lon"))
    assert h3.int_to_str(cell) == h3.latlng_to_cell(lat, lon, 11)


# ---------------------------------------------------------------- what validation finds


@pytest.fixture(scope="module")
def everything(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("everything") / "out"
    flags = ("export.csv_files=one", "export.partition_by=cover", "export.geometry=point", "export.lonlat=true")
    clean(file, output, *flags)
    return output


@pytest.fixture
def output(everything: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(everything, tmp_path / "copy"))


ONE = "parquet/cover=1/tile-r0-c0.parquet"


def shift(table: pa.Table, name: str, by: float) -> pa.Table:
    values = table[name].to_numpy().copy()
    values[3] += by
    return table.set_column(table.column_names.index(name), table.schema.field(name), pa.array(values))


def other_points(table: pa.Table) -> pa.Table:
    points = table["geometry"].to_pylist()
    points[2] = points[1]
    index = table.column_names.index("geometry")
    return table.set_column(index, table.schema.field(index), pa.array(points, pa.binary()))


DAMAGE: dict[str, tuple[Callable[[pa.Table], pa.Table], str, str]] = {
    "another longitude": (lambda t: shift(t, "lon", 1e-6), "coordinates", "have a lon that does not follow"),
    "a point elsewhere": (other_points, "coordinates", "1 of 2,024 rows have a geometry that does not follow"),
    "no geometry": (lambda t: t.drop_columns("geometry"), "schema", "has no column geometry of WKB"),
    "bounds of more": (lambda t: t.slice(0, 1000), "schema", "has not the GeoParquet 1.1 metadata of its points"),
    "no metadata": (
        lambda t: t.replace_schema_metadata({k: v for k, v in t.schema.metadata.items() if k != b"geo"}),
        "schema",
        "has not the GeoParquet 1.1 metadata",
    ),
    "the folder's column too": (
        lambda t: t.add_column(5, "cover", pa.array(np.ones(len(t), "uint8"))),
        "schema",
        "has not the 10 columns",
    ),
    "a row less": (lambda t: t.slice(1), "rows", "parquet of tile 0 (5 files) has"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_part_is_found(output: Path, case: str) -> None:
    change, check, message = DAMAGE[case]
    rewrite(output, ONE, change)
    assert any(message in m for m in errors(validate(output))[check]), errors(validate(output))


def test_a_cell_in_two_folders_is_found(output: Path) -> None:
    rows = pq.ParquetFile(output / "parquet/cover=2/tile-r0-c0.parquet").read().slice(0, 1)
    rewrite(output, ONE, lambda t: pa.concat_tables([rows.cast(t.schema), t]).sort_by([("row", "ascending")]))
    findings = errors(validate(output))["cells"]
    assert any("cover=2/tile-r0-c0.parquet: 1 of" in m and "are a cell again" in m for m in findings), findings


def test_files_in_each_others_folders_are_found(output: Path) -> None:
    two = ONE.replace("cover=1", "cover=2")
    one, other = (output / ONE).read_bytes(), (output / two).read_bytes()
    (output / ONE).write_bytes(other)
    (output / two).write_bytes(one)
    for name in (ONE, two):
        forge(output, name)
    assert validate(output).exit_code == 0, "each says what the other did: only the sources could tell"
    shutil.move(output / "parquet/cover=3", output / "parquet/cover=33")
    edit_manifest(output, lambda rs: [f.update(path=f["path"].replace("=3/", "=33/")) for r in rs for f in r["files"]])
    findings = errors(validate(output))
    assert any("in cover" in m and "33" in m for m in findings["values"]), findings
    shutil.move(output / "parquet/cover=33", output / "parquet/colour=3")
    edit_manifest(
        output, lambda rs: [f.update(path=f["path"].replace("cover=33", "colour=3")) for r in rs for f in r["files"]]
    )
    findings = errors(validate(output))
    assert any("is in the folder colour=3; planned is cover=..." in m for m in findings["files"]), findings


def test_a_damaged_one_csv_is_found(output: Path) -> None:
    path = output / "csv/table.csv.gz"
    data = bytearray(path.read_bytes())
    path.write_bytes(data + b"more")
    assert "the tiles in manifest.jsonl end at" in errors(validate(output))["checksum"][0]
    path.write_bytes(data[:-9])
    findings = errors(validate(output))
    assert any("from byte" in m for m in findings["checksum"])
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    findings = errors(validate(output))
    assert len(findings["checksum"]) == 1
    assert "has the sha256" in findings["checksum"][0]
    path.unlink()
    assert [m for m in errors(validate(output))["files"] if "is missing" in m] == [
        f"csv/table.csv.gz is missing ({receipt_bytes(output):,} bytes in manifest.jsonl)"
    ]


def receipt_bytes(output: Path) -> int:
    receipts = [Receipt.parse(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    return [f.bytes for r in receipts for f in r.files if f.path.startswith("csv/")][-1]


def test_parts_that_overlap_are_found(output: Path) -> None:
    edit_manifest(output, lambda rs: rs[1]["files"][-1].update(offset=1))
    assert "tile 1 starts at byte 1 of csv/table.csv.gz" in errors(validate(output))["manifest"][0]


def test_without_the_package_h3_cells_are_not_checked_and_that_is_said(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("h3")
    from geopipe.merge import derived

    summary = clean(file, tmp_path / "out", "export.h3=5")

    def absent(resolution: int) -> None:
        raise MachineError(f"export.h3 = {resolution} needs the package h3")

    monkeypatch.setattr(derived, "h3_package", absent)
    report = validate(summary.output)
    assert [f.message for f in report.findings] == ["the column h3 is not checked: export.h3 = 5 needs the package h3"]
    assert report.exit_code == 0


def test_a_run_may_replace_one_in_folders_and_keeps_foreign_files(make: Callable[..., Plan], tmp_path: Path) -> None:
    output = tmp_path / "out"
    one = make(formats=("parquet", "csv"), layout=Layout(csv_files="one", partition_by="cover"))
    finish_whole(output, one)
    check_output(output, overwrite=True)
    finish_whole(output, make())
    assert sorted(os.listdir(output / "parquet")) == ["tile-r0-c0.parquet", "tile-r0-c1.parquet"]
    finish_whole(output, one)
    (output / "parquet/cover=7/notes.txt").write_text("mine")
    with pytest.raises(PlanError, match=r"files that no run wrote \(parquet/cover=7/notes.txt\)"):
        check_output(output, overwrite=True)


def test_what_a_killed_worker_left_in_a_folder_is_not_published(make: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make(layout=Layout(partition_by="cover"))
    staging = stage(tmp_path / "out", plan)
    (staging.folder / "parquet/cover=7/tile-r0-c1.parquet.999.tmp").write_bytes(b"PAR1 half a file")
    staging.commit({})
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_the_same_plan_gives_the_same_bytes_in_every_layout(file: Path, everything: Path, tmp_path: Path) -> None:
    flags = ("export.csv_files=one", "export.partition_by=cover", "export.geometry=point", "export.lonlat=true")
    again = run(file, f"run.output={tmp_path / 'out'}", *flags).output
    assert (again / "manifest.jsonl").read_text() == (everything / "manifest.jsonl").read_text()


def test_the_run_s_disk_is_twice_the_csv_while_it_is_joined(make: Callable[..., Plan]) -> None:
    size = [make(formats=("csv",), layout=Layout(csv_files=f)).estimate.output_bytes for f in ("tiles", "one")]
    assert size[0] * 1.9 < size[1] <= size[0] * 2
