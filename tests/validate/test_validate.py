"""Validation: a clean table has no findings, each kind of damage is found and named, and a bad run is not published."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import HEIGHT, UTM, WIDTH, edit_manifest, edit_success, errors, forge, make_settings, rewrite, run
from helpers import call, north_up, plan_of, write_raster

from geopipe.engine import local
from geopipe.errors import PlanError, RunError
from geopipe.export import ledger
from geopipe.export.staging import Staging
from geopipe.export.tiles import Receipt, write_tile
from geopipe.grid.grid import Grid
from geopipe.layers.layer import Kind, Layer, Overlap
from geopipe.plan.plan import Plan
from geopipe.run import draft
from geopipe.settings import load
from geopipe.validate.facts import CHECKS, Facts, Finding, VariableFacts, check_receipts, facts_of
from geopipe.validate.output import validate
from geopipe.validate.rows import check_rows

CELLS = WIDTH * HEIGHT
FIRST, SECOND = "parquet/tile-r0-c0.parquet", "parquet/tile-r0-c1.parquet"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_settings(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def finished(file: Path) -> Path:
    return run(file, "merge.how=grid").output


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished output, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def put(table: pa.Table, name: str, at: int, value: Any) -> pa.Table:
    """The table with one value replaced."""
    index, field = table.schema.get_field_index(name), table.schema.field(name)
    values = table[name].to_pylist()
    values[at] = value
    return table.set_column(index, field, pa.array(values, field.type, from_pandas=False))


# ---------------------------------------------------------------- clean tables


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("merge.how=inner",),
        ("merge.how=grid", "export.formats=csv"),
        ("export.formats=parquet",),
        ("export.compress=false", "export.chunk_size=7"),
    ],
    ids=str,
)
def test_a_clean_run_has_no_findings(file: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:
    summary = run(file, f"run.output={tmp_path / 'out'}", *flags)
    report = validate(summary.output)
    assert report.findings == ()
    assert summary.warnings == ()
    assert report.exit_code == 0
    assert list(report.numbers) == list(CHECKS)
    assert {report.level(check) for check in CHECKS} == {"ok"}
    assert report.rows == summary.rows > 0
    assert json.loads((summary.output / "_SUCCESS").read_text())["warnings"] == []


def test_the_report_has_the_numbers_of_the_table(finished: Path) -> None:
    report = validate(finished)
    table = pq.read_table(finished / "parquet")
    assert f"{CELLS:,} rows ({CELLS:,} in parquet, {CELLS:,} in csv) of {CELLS:,} cells" in report.numbers["rows"]
    size = sum(p.stat().st_size for p in finished.glob("*/tile*"))
    assert report.numbers["checksum"] == f"{size:,} bytes"
    for column in report.columns:
        values = table[column.name]
        assert column.nulls == values.null_count
        assert (column.low, column.high) == (min(values.drop_null().to_pylist()), max(values.drop_null().to_pylist()))
    assert {c.name: c.nulls > 0 for c in report.columns} == {
        "height": True, "cover": True, "big": False, "coarse": False
    }  # fmt: skip


def test_a_skipped_layer_is_no_finding(file: Path, tmp_path: Path) -> None:
    text = file.read_text().replace('path = "big.tif"', 'path = "absent.tif"\non_error = "skip"')
    for name in ("height.tif", "cover.tif", "coarse.tif"):
        shutil.copy(file.parent / name, tmp_path)
    (tmp_path / "s.toml").write_text(text)
    summary = run(tmp_path / "s.toml", "merge.how=inner")
    assert summary.exit_code == 4
    assert summary.warnings == ()
    assert validate(summary.output).findings == ()


def test_the_facts_survive_their_json(file: Path) -> None:
    facts = facts_of(draft.draft(load.load(file)))
    again = Facts.parse(json.loads(json.dumps(facts.describe())))
    assert replace(again, grid=facts.grid) == facts
    assert replace(again.grid, crs=facts.grid.crs) == facts.grid


# ---------------------------------------------------------------- damaged files


def test_a_flipped_byte_anywhere_is_found(output: Path) -> None:
    """Whatever else it breaks: it is a finding that names the file, and never a traceback."""
    rng = np.random.default_rng(5)
    for name in (FIRST, "csv/tile-r0-c0.csv.gz"):
        sound = (output / name).read_bytes()
        places = [*rng.integers(0, len(sound), 15), len(sound) - 1, len(sound) - 6, 0]
        for at in places:
            data = bytearray(sound)
            data[at] ^= 1 << int(rng.integers(8))
            (output / name).write_bytes(data)
            report = validate(output)
            assert report.exit_code == 1
            (message,) = errors(report)["checksum"]
            assert message.startswith(f"{name} has the sha256 {hashlib.sha256(data).hexdigest()[:16]}...; ")
        (output / name).write_bytes(sound)
    assert validate(output).findings == ()


def test_a_file_that_is_cut_short_is_found(output: Path) -> None:
    data = (output / SECOND).read_bytes()
    (output / SECOND).write_bytes(data[:1000])
    findings = errors(validate(output))
    assert findings["checksum"] == [f"{SECOND} has 1,000 bytes; manifest.jsonl says {len(data):,}"]
    assert findings["files"][0].startswith(f"{SECOND} cannot be read: ")


def test_a_missing_file_is_found(output: Path) -> None:
    size = (output / SECOND).stat().st_size
    (output / SECOND).unlink()
    assert errors(validate(output)) == {"files": [f"{SECOND} is missing ({size:,} bytes in manifest.jsonl)"]}


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("parquet/more.parquet", "error"),
        ("csv/a/b.txt", "error"),
        ("parquet/.part", "warning"),
        ("parquet/_cache/x", "warning"),
        ("notes.txt", "ok"),
    ],
)
def test_a_file_that_no_run_wrote_is_found_where_it_matters(output: Path, name: str, level: str) -> None:
    (output / name).parent.mkdir(parents=True, exist_ok=True)
    (output / name).write_bytes(b"mine")
    report = validate(output)
    assert report.level("files") == level
    assert report.exit_code == (level == "error")
    assert [(f.check, f.message.partition(":")[0]) for f in report.findings] == [
        ("files", f"{name} (4 bytes) is not in manifest.jsonl")
    ] * (level != "ok")


def test_a_folder_of_a_format_that_was_not_written_is_found(file: Path, tmp_path: Path) -> None:
    output = run(file, f"run.output={tmp_path / 'out'}", "export.formats=parquet").output
    (output / "csv").mkdir()
    (output / "csv" / "tile-r0-c0.csv").write_text("old")
    assert "csv/tile-r0-c0.csv (3 bytes) is not in manifest.jsonl" in errors(validate(output))["files"][0]


# ---------------------------------------------------------------- damaged rows, under a manifest that hides it


def swap(table: pa.Table) -> pa.Table:
    return table.take(pa.array([0, 2, 1, *range(3, table.num_rows)]))


def repeat(table: pa.Table) -> pa.Table:
    """Cell 11 twice, in place of cell 12: the number of rows is right."""
    return table.take(pa.array([*range(12), 11, *range(13, table.num_rows)]))


DAMAGE: dict[str, tuple[Callable[[pa.Table], pa.Table], str, str]] = {
    "x off by one bit": (
        lambda t: put(t, "x", 100, float(np.nextafter(501005.0, 0))),
        "coordinates",
        "1 of 10,240 rows are not at the centre of their cell; the first is row 100 of the file, "
        "row 0, col 100: x 501004.99999999994, y 4999995.0, centre 501005.0, 4999995.0",
    ),
    "y of another row": (
        lambda t: put(t, "y", 3, 4999985.0),
        "coordinates",
        "1 of 10,240 rows are not at the centre of their cell; the first is row 3 of the file",
    ),
    "x is NaN": (lambda t: put(t, "x", 5, float("nan")), "coordinates", "1 of 10,240 rows are not at the centre"),
    "a row again": (
        repeat,
        "cells",
        "1 of 10,240 rows are a cell again; the first is row 12 of the file, row 0, col 11",
    ),
    "two rows swapped": (
        swap,
        "cells",
        "1 of 10,240 rows are not in row-major order; the first is row 2 of the file, row 0, col 1",
    ),
    "another tile's column": (
        lambda t: put(t, "col", 511, 512),
        "cells",
        "1 of 10,240 rows are outside tile 0 (rows 0 to 19, cols 0 to 511); the first is row 511 of the file, "
        "row 0, col 512",
    ),
    "a row outside the grid": (lambda t: put(t, "row", 10239, -1), "cells", "row 10,239 of the file, row -1, col 511"),
    "another row index": (
        lambda t: put(t, "row", 700, 2),
        "coordinates",
        "row 700 of the file, row 2, col 188: x 501885.0, y 4999985.0",
    ),
    "a dropped row": (
        lambda t: pa.concat_tables([t.slice(0, 50), t.slice(51)]),
        "rows",
        "has 10,239 rows; manifest.jsonl says 10,240 for tile 0",
    ),
    "no rows": (lambda t: t.slice(0, 0), "rows", "has 0 rows; manifest.jsonl says 10,240 for tile 0"),
    "NaN in place of a null": (
        lambda t: put(t, "height", 0, float("nan")),
        "values",
        "1 of 10,240 rows have NaN in height, where a missing value is a null; the first is row 0 of the file",
    ),
    "a null in place of a value": (
        lambda t: put(t, "big", 0, None),
        "nulls",
        "has 1 nulls in big; manifest.jsonl says 0",
    ),
    "a larger value": (
        lambda t: put(t, "cover", 7, 9),
        "values",
        "has values from 1 to 9 in cover; manifest.jsonl says 1",
    ),
    "another type": (
        lambda t: t.set_column(5, "cover", t["cover"].cast(pa.int16())),
        "schema",
        "has not the 8 columns of _SUCCESS, in their order: too many: cover int16; missing: cover uint8",
    ),
    "another order": (
        lambda t: t.select([*t.column_names[:4], *reversed(t.column_names[4:])]),
        "schema",
        "in their order: too many: none",
    ),
    "a missing column": (lambda t: t.drop_columns(["x"]), "schema", "too many: none; missing: x double"),
    "another plan": (
        lambda t: t.replace_schema_metadata({**t.schema.metadata, b"geopipe:plan_hash": b"f" * 64}),
        "schema",
        "is of the plan ffffffffffffffff; _SUCCESS says ",
    ),
    "another grid": (
        lambda t: t.replace_schema_metadata({**t.schema.metadata, b"geopipe:grid": b'{"crs": 0}'}),
        "schema",
        "has another grid in its metadata",
    ),
    "no metadata": (lambda t: t.replace_schema_metadata(None), "schema", "is of the plan none; _SUCCESS says "),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_rows_are_found_and_named(output: Path, case: str) -> None:
    change, check, message = DAMAGE[case]
    rewrite(output, FIRST, change)
    report = validate(output)
    assert report.exit_code == 1
    assert "checksum" not in errors(report)
    assert any(m.startswith(FIRST) and message in m for m in errors(report)[check]), report.findings


def test_files_of_earlier_versions_have_grid_and_provenance_in_their_metadata(output: Path) -> None:
    success = json.loads((output / "_SUCCESS").read_text())
    more = {b"geopipe:grid": json.dumps(success["table"]["grid"]).encode(), b"geopipe:sources": b"{}"}
    for name in (FIRST, SECOND):
        rewrite(output, name, lambda t: t.replace_schema_metadata({**t.schema.metadata, **more}))
    assert errors(validate(output)) == {}


def test_metadata_must_be_one_in_all_files(output: Path) -> None:
    rewrite(output, SECOND, lambda t: t.replace_schema_metadata({**t.schema.metadata, b"by": b"me"}))
    assert errors(validate(output)) == {"schema": [f"{SECOND} has other metadata than the first file of the table"]}


def test_the_files_of_two_tiles_exchanged_are_found(output: Path) -> None:
    first, second = (output / FIRST).read_bytes(), (output / SECOND).read_bytes()
    (output / FIRST).write_bytes(second)
    (output / SECOND).write_bytes(first)
    forge(output, FIRST)
    forge(output, SECOND)
    findings = errors(validate(output))["cells"]
    assert f"{FIRST}: 1,760 of 1,760 rows are outside tile 0" in findings[0]
    assert f"{SECOND}: 10,240 of 10,240 rows are outside tile 1" in findings[1]


def test_findings_do_not_depend_on_the_batches(finished: Path) -> None:
    success = json.loads((finished / "_SUCCESS").read_text())
    facts = Facts.parse(success["table"])
    receipt = Receipt.parse((finished / "manifest.jsonl").read_text().splitlines()[0])
    table = put(repeat(pq.ParquetFile(finished / FIRST).read()), "height", 0, float("nan"))
    table = put(put(table, "x", 4000, 0.0), "x", 4001, 0.0).combine_chunks()
    findings = [
        check_rows(facts, receipt, "f", [("f", table.to_batches(max_chunksize=n))]) for n in (7, 100, 4001, 10**6)
    ]
    assert {f.check for f in findings[0][0]} == {"cells", "coordinates", "values", "nulls"}
    assert findings[0][1] == table.num_rows
    assert findings[1:] == findings[:1] * 3


CSV_DAMAGE: dict[str, tuple[Callable[[list[str]], Any], str, str]] = {
    "a line less": (lambda lines: lines.pop(60), "rows", "has 10,239 rows; manifest.jsonl says 10,240 for tile 0"),
    "nan": (
        lambda lines: lines.__setitem__(1, lines[1].replace(",,", ",nan,", 1)),
        "values",
        "1 of 10,240 rows have NaN in height",
    ),
    "another x": (
        lambda lines: lines.__setitem__(2, lines[2].replace("500015", "500015.5")),
        "coordinates",
        "x 500015.5",
    ),
    "an empty coordinate": (
        lambda lines: lines.__setitem__(2, lines[2].replace("500015", "")),
        "cells",
        "1 of 10,240 rows have no row, col, x or y",
    ),
    "another name": (
        lambda lines: lines.__setitem__(0, lines[0].replace("cover", "Cover")),
        "schema",
        "missing: cover uint8",
    ),
    "text": (
        lambda lines: lines.__setitem__(5, lines[5].replace("500045", "west")),
        "files",
        "cannot be read: In CSV column",
    ),
    "half a line": (lambda lines: lines.__setitem__(5, lines[5][:9]), "files", "cannot be read: CSV parse error"),
}


@pytest.mark.parametrize("case", CSV_DAMAGE)
def test_damaged_csv_is_found_and_named(output: Path, case: str) -> None:
    change, check, message = CSV_DAMAGE[case]
    name = "csv/tile-r0-c0.csv.gz"
    lines = gzip.decompress((output / name).read_bytes()).decode().splitlines(keepends=True)
    change(lines)
    (output / name).write_bytes(gzip.compress("".join(lines).encode()))
    forge(output, name)
    report = validate(output)
    assert any(m.startswith(name) and message in m for m in errors(report)[check]), report.findings


# ---------------------------------------------------------------- a damaged manifest


def tell(at: int, **values: Any) -> Callable[[list[dict[str, Any]]], Any]:
    return lambda receipts: receipts[at].update(values)


def tell_column(name: str, **values: Any) -> Callable[[list[dict[str, Any]]], Any]:
    return lambda receipts: receipts[0]["columns"][name].update(values)


MANIFEST_DAMAGE: dict[str, tuple[Callable[[list[dict[str, Any]]], Any], str, str]] = {
    "fewer rows": (tell(0, rows=10239), "rows", "tile 0 has 10,239 rows; planned are 10,240 (how = grid)"),
    "more rows": (tell(1, rows=1761), "manifest", "_SUCCESS says 12000 rows, the receipts of manifest.jsonl 12001"),
    "a receipt less": (lambda r: r.pop(0), "manifest", "tiles without a receipt: 0; planned are 2"),
    "a receipt twice": (lambda r: r.append(r[1]), "manifest", "tiles with several receipts: 1; planned are 2"),
    "another tile": (tell(1, tile=7), "manifest", "tiles that are not in the plan: 7; planned are 2"),
    "no number": (tell(1, rows="many"), "manifest", "line 2 of manifest.jsonl is no receipt: a count"),
    "no columns": (lambda r: r[0].pop("columns"), "manifest", "line 1 of manifest.jsonl is no receipt: KeyError"),
    "a variable less": (lambda r: r[0]["columns"].pop("big"), "manifest", "tile 0 lacks the variables big"),
    "a file less": (lambda r: r[0]["files"].pop(0), "files", "1 tiles have no parquet file: 0"),
    "a file outside": (
        lambda r: r[0]["files"][0].update(path="parquet/../_SUCCESS"),
        "files",
        "is in none of the folders parquet, csv",
    ),
    "fewer nulls": (tell_column("height", nulls=0), "nulls", f"{FIRST} has 500 nulls in height; manifest.jsonl says 0"),
    "more nulls than rows": (tell_column("big", nulls=10241), "nulls", "big of tile 0 has 10,241 nulls in 10,240 rows"),
    "another least": (
        tell_column("cover", min=2),
        "values",
        f"{FIRST} has values from 1 to 4 in cover; manifest.jsonl says 2",
    ),
    "beyond the source's range": (
        tell_column("coarse", max=118.0),
        "values",
        "coarse of tile 0 has values from -9.5 to 118.0; its source can have -9.5 to 117.5",
    ),
}


@pytest.mark.parametrize("case", MANIFEST_DAMAGE)
def test_a_damaged_manifest_is_found_and_named(output: Path, case: str) -> None:
    change, check, message = MANIFEST_DAMAGE[case]
    edit_manifest(output, change)
    report = validate(output)
    assert report.exit_code == 1
    assert any(message in m for m in errors(report)[check]), report.findings


def test_a_manifest_that_is_torn_or_gone_is_found(output: Path) -> None:
    path = output / "manifest.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    assert errors(validate(output))["manifest"][0].startswith("line 2 of manifest.jsonl is no receipt: ")
    path.unlink()
    findings = errors(validate(output))
    assert findings["manifest"][0] == "manifest.jsonl cannot be read: No such file or directory"
    assert len(findings["files"]) == 4


# ---------------------------------------------------------------- no finished run


def test_what_is_no_finished_run_is_refused_with_a_cure(output: Path, tmp_path: Path) -> None:
    def refused(path: Path, message: str, hint: str) -> None:
        with pytest.raises(PlanError) as caught:
            validate(path)
        assert message in caught.value.message
        assert str(path) in caught.value.message
        assert hint in caught.value.hint
        assert caught.value.exit_code == 2

    refused(tmp_path / "nowhere", "does not exist", "run.output")
    refused(output / "settings.toml", "is a file", "run.output")
    refused(output / "parquet", "there is no _SUCCESS", f"did you mean {output}?")
    refused(tmp_path, "there is no _SUCCESS", "run.output")
    edit_success(output, table={"grid": 1})
    refused(output, "lacks the facts of the table", "run its settings again")
    (output / "_SUCCESS").write_bytes(b"")  # as Spark and Hadoop end their outputs
    refused(output, "is not geopipe's", "finished run")
    (output / "_SUCCESS").unlink()
    (output / "_staging").mkdir()
    refused(output, "there is no _SUCCESS", "a run is at work here")


# ---------------------------------------------------------------- the command


def test_the_command_prints_checks_and_exits_with_their_code(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "validate", output)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines[: len(CHECKS)]] == [["ok", check] for check in CHECKS]
    assert any(line.startswith("cover ") and " 1 " in line for line in lines)

    for n in range(8):
        (output / "parquet" / f"stray{n}").write_text("")
    code, out, _ = call(capsys, "validate", output)
    assert code == 1
    assert "error    files " in out
    assert "  error: parquet/stray0 (0 bytes) is not in manifest.jsonl" in out
    assert "parquet/stray5" not in out
    assert "and 3 more (--json shows all)" in out
    assert f"run {output}/settings.toml again with --overwrite" in out

    code, out, _ = call(capsys, "validate", output, "--json")
    document = json.loads(out)
    assert code == document["exit_code"] == 1
    assert len(document["findings"]) == 8
    assert document["checks"]["files"]["level"] == "error"
    assert document["checks"]["cells"]["level"] == "ok"
    assert {v["name"]: v["max"] for v in document["variables"]}["height"] == "inf"

    code, out, err = call(capsys, "validate", output / "parquet")
    assert (code, out) == (2, "")
    assert "hint: did you mean" in err


# ---------------------------------------------------------------- a run, before it is published


@pytest.fixture
def wrong_receipts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make every tile's receipt say something else."""

    def patch(**changes: Any) -> None:
        def write(*args: Any) -> Receipt:
            *rest, note = args
            return write_tile(*rest, lambda receipt: note(replace(receipt, **changes)))

        monkeypatch.setattr(ledger, "write_tile", write)

    return patch


def test_a_run_that_is_wrong_is_not_published(file: Path, tmp_path: Path, wrong_receipts: Callable[..., None]) -> None:
    flags = (f"run.output={tmp_path / 'out'}", "merge.how=grid")
    before = run(file, *flags)
    old = (before.output / "_SUCCESS").read_bytes()
    wrong_receipts(rows=10_240)
    with pytest.raises(RunError, match=r"rows: tile 1 has 10,240 rows; planned are 1,760 \(how = grid\)") as caught:
        run(file, *flags)
    assert caught.value.exit_code == 1
    assert "enable_validation" in caught.value.hint
    assert (before.output / "_SUCCESS").read_bytes() == old, "the run before it stands"
    assert validate(before.output).findings == ()
    assert not (before.output / "_staging").exists()

    published = run(file, *flags, "merge.enable_validation=false")
    assert published.rows == 20_480
    assert "warnings" not in json.loads((published.output / "_SUCCESS").read_text())
    assert validate(published.output).exit_code == 1


@pytest.fixture
def void(tmp_path: Path) -> Path:
    """Settings of two layers, one of which has no value anywhere."""
    here = north_up(500_000, 5_000_000, 10)
    write_raster(tmp_path / "a.tif", np.arange(1200, dtype="float32").reshape(30, 40), UTM, here)
    write_raster(tmp_path / "b.tif", np.full((30, 40), -9999, "int16"), UTM, here, nodata=-9999)
    file = tmp_path / "s.toml"
    file.write_text(
        '[grid]\nlike = "a.tif"\n[[layers]]\nname = "a"\npath = "a.tif"\n[[layers]]\nname = "b"\npath = "b.tif"\n'
    )
    return file


def test_a_variable_that_is_null_everywhere_warns(void: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "run", void, "--engine=local")
    message = "b (layer b) is null in all of 1,200 rows (100 %)"
    assert code == 0
    assert f"note         {message}" in out
    output = void.parent / "output"
    assert json.loads((output / "_SUCCESS").read_text())["warnings"] == [{"check": "nulls", "message": message}]
    report = validate(output)
    assert report.findings == (Finding("warning", "nulls", message),)
    assert (report.exit_code, report.level("nulls")) == (0, "warning")

    code, out, _ = call(capsys, "run", void, "--engine=local", "--overwrite", "--json")
    assert json.loads(out)["warnings"] == [{"check": "nulls", "message": message}]
    code, out, _ = call(capsys, "run", void, "--engine=local", "--overwrite", "--set", "merge.enable_validation=false")
    assert message not in out
    assert "warnings" not in json.loads((output / "_SUCCESS").read_text())


def test_a_table_without_rows_warns(void: Path) -> None:
    summary = run(void, "merge.how=inner")
    message = "the table has no rows: of 1,200 cells none is kept"
    assert summary.warnings == (Finding("warning", "rows", message),)
    assert [f.message for f in validate(summary.output).findings] == [message]


# ---------------------------------------------------------------- what receipts must be


def receipt(rows: int = 4, tile: int = 0, **columns: tuple[Any, Any, int]) -> Receipt:
    ranges = {name: {"min": low, "max": high, "nulls": nulls} for name, (low, high, nulls) in columns.items()}
    return Receipt(tile, rows, (), ranges)


def facts(how: str = "outer", grid: Grid | None = None, **variables: VariableFacts) -> Facts:
    return Facts(grid or Grid(UTM, 0, 20, 10, 10, 2, 2), 512, how, variables)


FLOAT, BYTE = VariableFacts("f", "float32", (0, 255)), VariableFacts("b", "uint8", (1, 255))


@pytest.mark.parametrize(
    ("facts", "receipt", "result"),
    [
        (facts(f=FLOAT), receipt(f=(0.0, 255.0, 0)), []),
        (facts(f=FLOAT), receipt(f=(-0.0001, 255.001, 0)), []),  # rounding
        (facts(f=FLOAT), receipt(f=(0.0, 255.1, 0)), ["values"]),
        (facts(f=FLOAT), receipt(f=("-inf", 1.0, 0)), ["values"]),
        (facts(f=replace(FLOAT, range=None)), receipt(f=("-inf", "inf", 0)), []),
        (facts(b=BYTE), receipt(b=(0, 255, 0)), ["values"]),  # the nodata number, in whole numbers without rounding
        (facts(b=BYTE), receipt(rows=5, b=(1, 2, 0)), ["rows", "rows"]),
        (facts(b=BYTE), receipt(rows=3, b=(1, 2, 0)), []),
        (facts(b=BYTE), receipt(rows=3, b=(1, 2, 1)), ["rows"]),  # outer keeps no cell without a value
        (facts("grid", b=BYTE), receipt(rows=3, b=(1, 2, 1)), ["rows", "rows"]),
        (facts("grid", b=BYTE), receipt(rows=4, b=(1, 2, 1)), []),
        (facts(b=BYTE, f=FLOAT), receipt(b=(1, 2, 2), f=(1.0, 2.0, 2)), []),
        (facts("inner", b=BYTE, f=FLOAT), receipt(b=(1, 2, 0), f=(1.0, 2.0, 1)), ["rows"]),
        (facts("inner", b=BYTE, f=replace(FLOAT, skipped=True)), receipt(b=(1, 2, 0), f=(None, None, 4)), []),
        (facts("inner", b=BYTE, c=BYTE), receipt(b=(1, 2, 2), c=(1, 2, 2)), []),  # two bands of one layer
        (facts(b=BYTE), receipt(b=(1, 2, 5)), ["nulls", "rows"]),
        (facts(b=BYTE), receipt(b=(1, 2, 0), f=(1, 2, 0)), ["manifest"]),
        (facts(b=BYTE), receipt(tile=1, b=(1, 2, 0)), ["manifest", "manifest"]),
        (facts(b=BYTE, f=FLOAT), receipt(b=(1, 2, 0), f=(None, None, 4)), ["nulls"]),
        (facts(grid=Grid(UTM, 1e18, 20, 10, 10, 2, 2), b=BYTE), receipt(b=(1, 2, 0)), ["coordinates"]),
    ],
)
def test_receipts_are_held_to_the_facts(facts: Facts, receipt: Receipt, result: list[str]) -> None:
    assert sorted(f.check for f in check_receipts(facts, [receipt])) == result


def test_coordinates_too_coarse_for_the_cells_are_told_with_numbers() -> None:
    (finding,) = check_receipts(facts(grid=Grid(UTM, 0, 1e18, 10, 10, 2, 2), b=BYTE), [receipt(b=(1, 2, 0))])
    assert finding.message.startswith(
        "tile 0: 1 of 2 rows do not come back from their coordinate: row 1 comes back as 0; "
    )


# ---------------------------------------------------------------- the source's range


def ranges(tmp_path: Path, array: np.ndarray, size: float = 10, **layer: Any) -> tuple[float, float] | None:
    """The range of one layer on a grid of 10 m, for pixels of `size`."""
    profile = {k: layer.pop(k) for k in ("nodata", "scales", "offsets") if k in layer}
    path = write_raster(tmp_path / "r.tif", array, UTM, north_up(0, 100, size), **profile)
    plan = plan_of(Grid(UTM, 0, 100, 10, 10, 4, 4), [Layer("a", (str(path),), **layer)])
    return facts_of(plan).variables["a"].range


BYTES = np.ones((20, 20), "uint8")


@pytest.mark.parametrize(
    ("array", "layer", "expected"),
    [
        (BYTES, {}, (0, 255)),
        (BYTES, {"nodata": 0}, (1, 255)),
        (BYTES, {"nodata": 255}, (0, 254)),
        (BYTES, {"nodata": 7}, (0, 255)),
        (BYTES, {"kind": Kind.CATEGORICAL}, (0, 255)),
        (BYTES, {"scales": (-0.5,), "offsets": (10.0,), "nodata": 0}, (-117.5, 9.5)),
        (BYTES.astype("int64"), {}, (-(2**63), 2**63 - 1)),
        (BYTES.astype("float32"), {}, None),
        (BYTES, {"size": 5}, (0, 255)),  # average
        (BYTES, {"size": 7, "resampling": "bilinear"}, (0, 255)),
        (BYTES, {"size": 7, "resampling": "med"}, (0, 255)),
        (BYTES, {"size": 7, "resampling": "cubic"}, None),  # overshoots
        (BYTES, {"size": 7, "resampling": "rms"}, None),
        (BYTES, {"size": 7, "kind": Kind.COUNT}, None),
        (BYTES, {"resampling": "lanczos"}, (0, 255)),  # a copy
        (BYTES.astype("int8"), {"resampling": "rms"}, None),  # a copy without its signs
    ],
)
def test_the_range_is_what_the_header_and_the_method_guarantee(
    tmp_path: Path, array: np.ndarray, layer: dict[str, Any], expected: tuple[float, float] | None
) -> None:
    assert ranges(tmp_path, array, **layer) == expected


@pytest.mark.parametrize(
    ("overlap", "expected"), [(Overlap.FIRST, (0, 255)), (Overlap.MEAN, (0, 255)), (Overlap.SUM, None)]
)
def test_the_range_of_several_files_holds_all_of_them(
    tmp_path: Path, overlap: Overlap, expected: tuple[float, float] | None
) -> None:
    one = write_raster(tmp_path / "1.tif", BYTES, UTM, north_up(0, 100, 10), nodata=0)
    two = write_raster(tmp_path / "2.tif", BYTES, UTM, north_up(3, 100, 10), nodata=255)
    layer = Layer("a", (str(one), str(two)), overlap=overlap)
    assert facts_of(plan_of(Grid(UTM, 0, 100, 10, 10, 4, 4), [layer])).variables["a"].range == expected


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32"])
@pytest.mark.parametrize("method", ["nearest", "bilinear", "average", "mode", "max", "min", "med", "q1", "q3"])
def test_no_right_value_is_out_of_its_range(tmp_path: Path, dtype: str, method: str) -> None:
    """Extremes of the type, side by side with nodata, through every method that is checked."""
    limits, rng = np.iinfo(dtype), np.random.default_rng(2)
    array = rng.choice([limits.min, limits.min + 1, limits.max], (40, 40)).astype(dtype)
    array[:15, :15], array[20:35, 20:35] = limits.max, limits.min + 1
    path = write_raster(tmp_path / "r.tif", array, UTM, north_up(0, 400, 10), nodata=int(limits.min))
    layer = Layer("a", (str(path),), resampling=method, scale=0.37, offset=11.0)
    plan: Plan = plan_of(Grid(UTM, 3, 390, 17, 17, 22, 22), [layer], how="grid")
    staging = Staging(tmp_path / "out", plan, "")
    staging.begin()
    tiles = zip(map(plan.spec.tile, plan.keys.tolist()), local.merge(plan), strict=True)
    receipts = [write_tile(plan, str(staging.folder), 100, tile, [(tile, table)]) for tile, table in tiles]
    assert facts_of(plan).variables["a"].range is not None
    assert check_receipts(facts_of(plan), receipts) == []
