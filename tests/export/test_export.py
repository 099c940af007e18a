"""Files and the commit: what is in them, and that a reader sees a finished table or none, whatever happens when."""

from __future__ import annotations

import csv
import errno
import gzip
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commits import finish, stage
from helpers import north_up, plan_of, table_of, tiles_of, write_raster

from geopipe.engine import local
from geopipe.errors import GeopipeError, MachineError, PlanError
from geopipe.export import tiles as export
from geopipe.export.lock import locked
from geopipe.export.publish import check_output, recover
from geopipe.export.tiles import Receipt
from geopipe.export.writers import parquet_writer
from geopipe.grid.grid import Grid
from geopipe.layers.layer import Kind, Layer
from geopipe.plan.options import Layout
from geopipe.plan.plan import Plan

UTM = "EPSG:32612"


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Plan]:
    """Plans of 2 x 1 tiles of three layers: floats with holes, classes, 64-bit integers."""
    rng = np.random.default_rng(0)
    floats = rng.normal(size=(20, 600)).astype("float32")
    floats[rng.random(floats.shape) < 0.3] = np.nan
    arrays = {
        "temp": floats,
        "cover": rng.integers(0, 5, floats.shape).astype("uint8"),
        "big": rng.integers(2**53, 2**60, floats.shape),
    }
    sources = tmp_path / "sources"
    sources.mkdir()
    paths = {
        n: str(write_raster(sources / f"{n}.tif", a, UTM, north_up(0.1, 1000.1, 1 / 3))) for n, a in arrays.items()
    }
    grid = Grid(UTM, 0.1, 1000.1, 1 / 3, 1 / 3, width=600, height=20)

    def plan(names: str = "temp cover big", **options: Any) -> Plan:
        kinds = {"cover": Kind.CATEGORICAL}
        layers = [Layer(n, (paths[n],), kind=kinds.get(n)) for n in names.split()]
        return plan_of(grid, layers, **{"window_size": 512, "formats": ("parquet", "csv")} | options)

    return plan


def finished(output: Path) -> str | None:
    """The plan hash of the run that a reader sees, or None; fails where what it sees is not one whole run."""
    if not (output / "_SUCCESS").exists():
        return None
    document = json.loads((output / "_SUCCESS").read_text())
    receipts = [Receipt.parse(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    listed = {f.path: f for r in receipts for f in r.files}
    there = {str(p.relative_to(output)) for form in ("parquet", "csv") for p in (output / form).glob("*")}
    assert there == set(listed)
    for path, file in listed.items():
        data = (output / path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.bytes, file.sha256)
    assert [r.tile for r in receipts] == [0, 1]
    totals = sum(r.rows for r in receipts), len(listed), sum(f.bytes for f in listed.values())
    assert (document["rows"], document["files"], document["bytes"]) == totals
    assert {path.split("/")[0] for path in listed} == set(document["formats"])
    for path in sorted((output / "parquet").glob("*")):
        metadata = pq.read_schema(path).metadata
        assert metadata[b"geopipe:plan_hash"].decode() == document["plan_hash"]
        assert set(metadata) <= {b"geopipe:plan_hash", b"geo"}, "what all files share stands in _SUCCESS, once"
    assert (output / "settings.toml").read_text() == "[run]\n"
    return str(document["plan_hash"])


def test_a_finished_run_is_its_table_in_files_named_by_tile(make: Callable[..., Plan], tmp_path: Path) -> None:
    plan, output = make(), tmp_path / "out"
    totals = finish(output, plan)
    assert finished(output) == plan.hash
    assert sorted(os.listdir(output)) == ["_SUCCESS", "csv", "manifest.jsonl", "parquet", "settings.toml"]
    assert sorted(os.listdir(output / "parquet")) == ["tile-r0-c0.parquet", "tile-r0-c1.parquet"]
    assert sorted(os.listdir(output / "csv")) == ["tile-r0-c0.csv.gz", "tile-r0-c1.csv.gz"]
    tables = [pq.ParquetFile(p).read() for p in sorted((output / "parquet").iterdir())]
    assert pa.concat_tables(tables).equals(table_of(plan), check_metadata=True)
    document = json.loads((output / "_SUCCESS").read_text())
    assert document["schema"] == {
        "row": "int32", "col": "int32", "x": "double", "y": "double", "temp": "float", "cover": "uint8", "big": "int64",
    }  # fmt: skip
    assert {k: document[k] for k in totals} == totals


def test_names_of_tiles_sort_as_the_tiles_do() -> None:
    grid = Grid(UTM, 0, 0, 1, 1, width=512 * 11, height=512 * 2)
    names = [export.tile_name(grid, 512, t) for t in tiles_of(grid, 512)]
    assert names == sorted(names)
    assert (names[0], names[-1]) == ("tile-r0-c00", "tile-r1-c10")


def test_a_receipt_says_min_max_and_nulls_and_survives_its_line(make: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make()
    receipt = next(stage(tmp_path / "out", plan).ledger().receipts())
    table = next(local.merge(plan))
    temp = table["temp"].drop_null().to_pylist()
    big = table["big"].to_pylist()
    assert receipt.columns["temp"] == {"min": min(temp), "max": max(temp), "nulls": 20 * 512 - len(temp)}
    assert receipt.columns["big"] == {"min": min(big), "max": max(big), "nulls": 0}
    assert Receipt.parse(receipt.line()) == receipt


def test_parquet_encodings(tmp_path: Path) -> None:
    shape = (600, 600)
    rng = np.random.default_rng(1)
    names = {"temp": rng.normal(size=shape).astype("float32"), "cover": rng.integers(0, 9, shape).astype("int16")}
    layers = [
        Layer(n, (str(write_raster(tmp_path / f"{n}.tif", a, UTM, north_up(100, 700, 1))),), kind=kind)
        for (n, a), kind in zip(names.items(), (Kind.CONTINUOUS, Kind.CATEGORICAL), strict=True)
    ]
    plan = plan_of(Grid(UTM, 100, 700, 1, 1, 600, 600), layers, window_size=1024)
    sink = io.BytesIO()
    with parquet_writer(plan, sink) as write:
        write(table_of(plan))
    meta = pq.ParquetFile(sink).metadata
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [512 * 512, 600 * 600 - 512 * 512]
    for group in range(2):
        columns = {meta.schema.column(i).name: meta.row_group(group).column(i) for i in range(meta.num_columns)}
        assert list(columns) == ["row", "col", "x", "y", "temp", "cover"]
        for name, column in columns.items():
            assert column.compression == "ZSTD"
            assert column.is_stats_set
            assert column.statistics.has_min_max
            assert ("BYTE_STREAM_SPLIT" in column.encodings) == (name == "temp")
            assert ("DELTA_BINARY_PACKED" in column.encodings) == (name == "col")
            assert column.has_dictionary_page == (name in ("x", "cover"))


@pytest.mark.parametrize("compress", [True, False])
def test_csv_and_parquet_hold_the_same_rows(make: Callable[..., Plan], tmp_path: Path, compress: bool) -> None:
    plan, output = make(compress="gzip" if compress else "none", how="grid"), tmp_path / "out"
    finish(output, plan)
    suffix = ".csv.gz" if compress else ".csv"
    for tile in ("tile-r0-c0", "tile-r0-c1"):
        data = (output / "csv" / (tile + suffix)).read_bytes()
        lines = list(csv.reader(io.StringIO((gzip.decompress(data) if compress else data).decode())))
        table = pq.ParquetFile(output / "parquet" / f"{tile}.parquet").read()
        assert lines[0] == table.column_names
        assert len(lines) - 1 == table.num_rows
        for name, texts in zip(table.column_names, zip(*lines[1:], strict=True), strict=True):
            kind = table[name].type.to_pandas_dtype()
            values = [None if v is None else kind(v) for v in table[name].to_pylist()]
            assert [None if t == "" else kind(t) for t in texts] == values
        assert 0 < table["temp"].null_count < table.num_rows


def test_chunk_size_changes_no_character(make: Callable[..., Plan], tmp_path: Path) -> None:
    plan, texts = make(formats=("csv",)), []
    for size in (1, 777, 100_000):
        staging = stage(tmp_path / f"{size}", plan, chunk_size=size)
        texts.append([gzip.decompress(p.read_bytes()) for p in sorted((staging.folder / "csv").iterdir())])
    assert texts[0] == texts[1] == texts[2]


def test_the_same_plan_gives_the_same_bytes(make: Callable[..., Plan], tmp_path: Path) -> None:
    files = [[r.files for r in stage(tmp_path / name, make()).ledger().receipts()] for name in ("one", "two")]
    assert files[0] == files[1]


@pytest.mark.parametrize("tiles", [[0], [1], [0, 0], []])
def test_a_run_that_lacks_a_tile_is_not_published(make: Callable[..., Plan], tmp_path: Path, tiles: list[int]) -> None:
    output, lacks = tmp_path / "out", {0, 1} - set(tiles)
    with locked(output, "run"):
        staging = stage(output, make(), tiles=tiles)
        with pytest.raises(PlanError, match=f"{len(lacks)} of 2 tiles have no receipt .*nothing is published"):
            staging.commit({})
    assert os.listdir(output) == ["_staging"]


def test_a_tile_that_was_done_twice_is_there_once(make: Callable[..., Plan], tmp_path: Path) -> None:
    plan, output = make(), tmp_path / "out"
    with locked(output, "run"):
        stage(output, plan, tiles=[0, 1, 0, 1, 1]).commit({"run_id": "run"})
    assert finished(output) == plan.hash


def test_success_is_the_last_file_that_comes(
    make: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, moved, replace = tmp_path / "out", [], os.replace
    with locked(output, "run"):
        staging = stage(output, make())
        monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(str(b)), replace(a, b)))
        staging.commit({})
    assert moved[-1] == str(output / "_SUCCESS")


@pytest.mark.parametrize("formats", [("parquet", "csv"), ("parquet",), ("csv",)])
def test_an_older_run_is_readable_until_it_is_replaced_whole(
    make: Callable[..., Plan], tmp_path: Path, formats: tuple[str, ...]
) -> None:
    old, new, output = make("temp"), make("temp cover", formats=formats), tmp_path / "out"
    finish(output, old)
    (output / "notes.txt").write_text("mine")
    with locked(output, "second"):
        staging = stage(output, new)
        assert finished(output) == old.hash
        staging.commit({})
    assert finished(output) == new.hash
    left = {"_SUCCESS", "manifest.jsonl", "settings.toml", "notes.txt", *formats}
    assert set(os.listdir(output)) == left, "no format of the older run, and nothing foreign lost"


def test_a_foreign_file_among_the_tiles_is_not_lost(make: Callable[..., Plan], tmp_path: Path) -> None:
    output = tmp_path / "out"
    finish(output, make("temp"))
    (output / "parquet" / "notes.txt").write_text("mine")
    try:
        check_output(output, overwrite=True)
        finish(output, make("temp cover"))
    except GeopipeError:
        pass  # to refuse is as good as to keep it
    assert [p.read_text() for p in output.rglob("notes.txt")] == ["mine"]


def test_what_a_killed_worker_left_is_not_published(make: Callable[..., Plan], tmp_path: Path) -> None:
    plan, output = make(), tmp_path / "out"
    with locked(output, "run"):
        staging = stage(output, plan)
        (staging.folder / "parquet" / "tile-r0-c0.parquet.999.tmp").write_bytes(b"PAR1 half a file")
        staging.commit({})
    assert finished(output) == plan.hash


class Crash(BaseException):
    """The process dies here: nobody cleans up."""


def crash_at(monkeypatch: pytest.MonkeyPatch, calls: int, error: BaseException) -> None:
    """Raise `error` in place of the call of os.replace after the first `calls`; 99 lets all through."""
    counter, replace = count(), os.__dict__["replace"]
    original = getattr(replace, "original", replace)

    def fail(source: Any, target: Any) -> None:
        if next(counter) == calls:
            raise error
        original(source, target)

    fail.original = original  # type: ignore[attr-defined]
    monkeypatch.setattr(os, "replace", fail)


STEPS = 12  # more than commit has calls of os.replace; the last ones meet no crash


@pytest.mark.parametrize("again", [99, 1])
@pytest.mark.parametrize("step", range(STEPS))
def test_a_crash_at_any_step_of_the_commit_ends_in_the_old_run_or_the_new(
    make: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, again: int
) -> None:
    old, new, output = make("temp"), make("temp cover", formats=("parquet",)), tmp_path / "out"
    finish(output, old)
    complete = False
    try:
        with locked(output, "second"):
            staging = stage(output, new)
            crash_at(monkeypatch, step, Crash())
            staging.commit({})
        complete = True
    except Crash:
        complete = (staging.folder / "_SUCCESS").exists()
    assert finished(output) in (old.hash, new.hash, None), "never a mix"
    crash_at(monkeypatch, again, Crash())
    try:
        recover(output)
    except Crash:
        assert finished(output) in (old.hash, new.hash, None)
        crash_at(monkeypatch, 99, Crash())
        recover(output)
    assert finished(output) == (new.hash if complete else old.hash)
    assert complete == (step >= 2), "the two of manifest and _SUCCESS in the staging folder come first"
    if complete:
        assert not (output / "csv").exists()


@pytest.mark.parametrize("step", range(STEPS))
def test_an_error_at_any_step_of_the_commit_loses_no_run(
    make: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    # unlike a crash: the process lives, and the run takes back what it did (Ctrl-C does so, too)
    old, new, output = make("temp"), make("temp cover", formats=("parquet",)), tmp_path / "out"
    finish(output, old)
    with locked(output, "second"):
        staging = stage(output, new)
        crash_at(monkeypatch, step, OSError(errno.EIO, "Input/output error"))
        try:
            staging.commit({})
        except MachineError:
            crash_at(monkeypatch, 99, Crash())
            staging.discard()
    recover(output)
    assert finished(output) in (old.hash, new.hash)


def encodings(file: Path) -> set[str]:
    group = pq.ParquetFile(file).metadata.row_group(0)
    return {name for i in range(group.num_columns) for name in group.column(i).encodings}


def test_plain_files_are_for_readers_that_do_not_split_floats_by_byte(
    make: Callable[..., Plan], tmp_path: Path
) -> None:
    """fastparquet knows no BYTE_STREAM_SPLIT (encoding 9); of a plain file it reads every value."""
    fastparquet = pytest.importorskip("fastparquet")
    plain = make(formats=("parquet",), layout=Layout(encoding="plain"))
    finish(tmp_path / "split", make(formats=("parquet",)))
    finish(tmp_path / "plain", plain)
    parts = []
    for tile in (0, 1):
        name = f"parquet/tile-r0-c{tile}.parquet"
        assert "BYTE_STREAM_SPLIT" in encodings(tmp_path / "split" / name)
        assert "BYTE_STREAM_SPLIT" not in encodings(tmp_path / "plain" / name)
        assert pq.read_table(tmp_path / "split" / name).equals(pq.read_table(tmp_path / "plain" / name))
        parts.append(fastparquet.ParquetFile(str(tmp_path / "plain" / name)).to_pandas())
    table = table_of(plain)
    frame = pd.concat(parts)
    for column in table.column_names:
        values = table[column].to_pandas().to_numpy()
        np.testing.assert_array_equal(frame[column].to_numpy(values.dtype), values, column)


def test_a_worker_that_is_late_puts_no_file_into_a_discarded_run(
    make: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is opened while the folder is deleted would keep it."""
    staging, rmtree = stage(tmp_path / "out", make()), shutil.rmtree
    late: list[object] = []

    def deleting(folder: Path, **how: Any) -> None:
        try:
            (staging.folder / "parquet" / "late.tmp").touch()
        except FileNotFoundError as error:
            late.append(error)
        rmtree(folder, **how)

    monkeypatch.setattr(shutil, "rmtree", deleting)
    staging.discard()
    assert late
    assert list((tmp_path / "out" / "_staging").iterdir()) == []
