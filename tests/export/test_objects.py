"""A table in an object store: the same objects as files, never a part of one, and nothing lost when the store fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest
import rasterio
from helpers import call, north_up, write_raster
from object_store import BUCKET, ENVIRONMENT, KEY, SECRET, ObjectStore
from pyarrow.fs import FileSystem

from geopipe.errors import GeopipeError, MachineError, PlanError, SettingsError
from geopipe.export import ledger, objects, state
from geopipe.export.state import BESIDE
from geopipe.load import raster
from geopipe.run import pipeline
from geopipe.settings import load

UTM = "EPSG:32632"

SETTINGS = """
[run]
name = "trial"
output = "{output}"
staging = "work"
[grid]
like = "a.tif"
[resampling]
window_size = 512
[export]
formats = ["parquet", "csv"]
[[layers]]
name = "a"
path = "a.tif"
[[layers]]
name = "b"
path = "b.tif"
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    """A prefix of this test's own."""
    return f"{tmp_path.name}/table"


@pytest.fixture
def file(object_store: ObjectStore, tmp_path: Path, prefix: str) -> Path:
    """Settings of 2 x 2 tiles in both formats, into the object store."""
    return make_trial(tmp_path, object_store.uri(prefix))


def make_trial(folder: Path, output: str, rows: int = 600, cols: int = 700) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        pixels = rng.uniform(0, 100, (rows, cols)).astype("float32")
        write_raster(folder / f"{name}.tif", pixels, UTM, north_up(500_000, 5_000_000, 30))
    (folder / "s.toml").write_text(SETTINGS.format(output=output))
    return folder / "s.toml"


def run(file: Path, *flags: str, engine: str = "local", **how: Any) -> pipeline.Summary:
    return pipeline.run(load.load(file, (*flags, f"engine.kind={engine}")), **how)


def into_a_folder(file: Path) -> Path:
    """The same run into a folder beside the settings."""
    other = file.with_name("folder.toml")
    lines = [line for line in file.read_text().splitlines() if not line.startswith(("output", "staging"))]
    other.write_text("\n".join(lines))
    return Path(run(other).output)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Puts:
    """Counts what is sent, and fails at the n-th object."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.fails_at, self.error = -1, OSError("the network is down")
        put = objects._put

        def counting(store: Any, folder: Path, name: str) -> None:
            if len(self.names) == self.fails_at:
                raise self.error
            self.names.append(name)
            put(store, folder, name)

        monkeypatch.setattr(objects, "_put", counting)
        monkeypatch.setattr(objects, "THREADS", 1)


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> Puts:
    return Puts(monkeypatch)


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tiles that are made from here on."""
    result: list[int] = []
    write = ledger.write_tile

    def counting(plan: Any, staging: str, chunk: int, tile: Any, *rest: Any) -> Any:
        result.append(tile.key)
        return write(plan, staging, chunk, tile, *rest)

    monkeypatch.setattr(ledger, "write_tile", counting)
    return result


# ---------------------------------------------------------------- what arrives


def test_the_objects_are_the_files_of_a_folder_and_success_is_the_last(
    object_store: ObjectStore, file: Path, prefix: str
) -> None:
    summary = run(file)
    assert summary.output == object_store.uri(prefix)
    sent, result = object_store.objects(prefix), contents(into_a_folder(file))
    assert sent.keys() == result.keys()
    report = {"report.html", "report/facts.json", "report/run.json"}
    for name in result.keys() - report - {"_SUCCESS", "settings.toml"}:  # these tell the run and its output
        assert sent[name] == result[name], name
    assert {name.partition("/")[0] for name in sent} == {
        "parquet",
        "csv",
        "report",
        "report.html",
        "manifest.jsonl",
        "settings.toml",
        "_SUCCESS",
    }
    root = object_store.folder / BUCKET / prefix
    in_order = sorted(sent, key=lambda name: (root / name).stat().st_mtime_ns)
    assert in_order[-3:] == ["manifest.jsonl", "settings.toml", "_SUCCESS"]
    assert not (file.parent / "work").exists(), "the local copy and the folder that was made for it are gone"


def test_a_file_of_several_parts_arrives_whole(object_store: ObjectStore, tmp_path: Path, prefix: str) -> None:
    file = make_trial(tmp_path, object_store.uri(prefix), 1800, 2000)
    flags = ("resampling.window_size=2048", "export.formats=['parquet']", "merge.how=grid")
    run(file, *flags)
    sent = object_store.objects(prefix)
    assert len(sent["parquet/tile-r0-c0.parquet"]) > 2 * objects.CHUNK
    success = json.loads(sent["_SUCCESS"])
    assert success["bytes"] == len(sent["parquet/tile-r0-c0.parquet"])
    fs, root = FileSystem.from_uri(object_store.uri(prefix))
    assert ds.dataset(f"{root}/parquet", filesystem=fs).count_rows() == success["rows"]


def test_readers_take_the_table_from_the_store(object_store: ObjectStore, file: Path, prefix: str) -> None:
    summary = run(file)
    fs, root = FileSystem.from_uri(object_store.uri(prefix))
    table = ds.dataset(f"{root}/parquet", filesystem=fs).to_table()
    assert table.num_rows == summary.rows == 600 * 700
    assert table.column_names == ["row", "col", "x", "y", "a", "b"]
    frame = pd.read_parquet(f"{root}/parquet", filesystem=fs)
    with rasterio.open(file.with_name("a.tif")) as source:
        expected = source.read(1)
    assert (frame["a"].to_numpy() == expected[frame["row"], frame["col"]]).all()
    # pyarrow goes by the name, and would compress it once more
    csv = pd.read_csv(object_store.folder / BUCKET / prefix / "csv/tile-r0-c0.csv.gz")
    assert len(csv) == 512 * 512


def test_the_ray_engine_sends_the_same_table(
    object_store: ObjectStore, file: Path, prefix: str, ray_session: None
) -> None:
    run(file, engine="ray")
    sent, result = object_store.objects(prefix), contents(into_a_folder(file))
    tables = [name for name in result if name.startswith(("parquet/", "csv/"))]
    assert {name: sent[name] for name in tables} == {name: result[name] for name in tables}


# ---------------------------------------------------------------- what is refused


def refused_before_reading(file: Path, monkeypatch: pytest.MonkeyPatch, **how: Any) -> GeopipeError:
    """The error of a run that looks at no raster."""
    monkeypatch.setattr(raster, "inspect", lambda *_: pytest.fail("a raster is looked at"))
    with pytest.raises(GeopipeError) as caught:
        run(file, **how)
    assert not (file.parent / "work").exists()
    return caught.value


def test_a_finished_table_is_refused_unless_it_may_be_replaced(
    object_store: ObjectStore, file: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(file)
    before = object_store.objects(prefix)
    error = refused_before_reading(file, monkeypatch)
    assert isinstance(error, PlanError)
    assert error.message == f"{object_store.uri(prefix)} holds a finished run"
    assert "--overwrite" in error.hint
    assert object_store.objects(prefix) == before


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("thesis.doc", b"mine", r"holds 1 entries (thesis.doc, ...) and no run of geopipe"),
        ("settings.toml", b"mine", r"holds 1 entries (settings.toml, ...) and no run of geopipe"),
        ("_SUCCESS", b"", r"holds 1 entries (_SUCCESS, ...) and no run of geopipe"),  # Spark's
        ("parquet/part-0.parquet", b"PAR1", r"holds 1 files that no run wrote (parquet/part-0.parquet)"),
    ],
)
def test_a_prefix_of_someone_else_is_refused_and_left_alone(
    object_store: ObjectStore,
    file: Path,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    text: bytes,
    message: str,
    overwrite: bool,
) -> None:
    object_store.put(prefix, name, text)
    assert message in refused_before_reading(file, monkeypatch, overwrite=overwrite).message
    assert object_store.objects(prefix) == {name: text}


def test_a_neighbour_whose_name_begins_alike_is_not_looked_at(
    object_store: ObjectStore, file: Path, prefix: str
) -> None:
    object_store.put(prefix + "-old", "thesis.doc", b"mine")
    run(file)
    run(file, overwrite=True)
    assert object_store.objects(prefix + "-old") == {"thesis.doc": b"mine"}


# ---------------------------------------------------------------- overwrite


def test_an_overwrite_deletes_what_only_the_old_run_wrote_and_nothing_foreign(
    object_store: ObjectStore, file: Path, prefix: str
) -> None:
    run(file)
    object_store.put(prefix, "notes.txt", b"mine")
    object_store.put(prefix, "maps/tile-1.png", b"mine")
    old = object_store.objects(prefix)
    run(file, "resampling.window_size=1024", "export.formats=['parquet']", overwrite=True)
    new = object_store.objects(prefix)
    tables = {name for name in new if name.startswith(("parquet/", "csv/"))}
    assert tables == {"parquet/tile-r0-c0.parquet"}
    assert new["parquet/tile-r0-c0.parquet"] != old["parquet/tile-r0-c0.parquet"]
    foreign = {"notes.txt", "maps/tile-1.png"}
    beside = {name for name in new if name.partition("/")[0] in BESIDE}
    assert new.keys() - tables - beside == foreign | {"manifest.jsonl", "settings.toml", "_SUCCESS"}
    assert {"report.html", "report/facts.json", "report/run.json"} <= beside
    assert new["_SUCCESS"] != old["_SUCCESS"]


def test_during_an_overwrite_there_is_no_success_and_the_old_objects_go_last(
    object_store: ObjectStore, file: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(file)
    seen: list[tuple[str, bool, bool]] = []
    put = objects._put

    def watching(store: Any, folder: Path, name: str) -> None:
        there = object_store.objects(prefix)
        seen.append((name, "_SUCCESS" in there, "csv/tile-r1-c1.csv.gz" in there))
        put(store, folder, name)

    monkeypatch.setattr(objects, "_put", watching)
    run(file, "export.formats=['parquet']", overwrite=True)
    assert [name for name, _, _ in seen][-1] == "_SUCCESS"
    assert not any(success for _, success, _ in seen)
    assert all(old for _, _, old in seen)
    assert "csv/tile-r1-c1.csv.gz" not in object_store.objects(prefix)


def test_a_table_that_another_run_finished_meanwhile_is_not_replaced(
    object_store: ObjectStore, file: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = objects.publish

    def late(*args: Any) -> None:
        monkeypatch.setattr(objects, "publish", publish)
        run(file, "run.staging=other")
        publish(*args)

    monkeypatch.setattr(objects, "publish", late)
    with pytest.raises(PlanError, match="holds a finished run"):
        run(file)
    assert b"other" in object_store.objects(prefix)["settings.toml"]
    assert state.finished(file.parent / "work") is not None, "what was made is still there"


# ---------------------------------------------------------------- what breaks on the way


@pytest.mark.parametrize("count", [0, 3, 10], ids=["first", "tile", "success"])
def test_after_an_upload_that_failed_resume_only_sends(
    object_store: ObjectStore, file: Path, prefix: str, puts: Puts, tiles: list[int], count: int
) -> None:
    puts.fails_at = count
    with pytest.raises(MachineError, match="the network is down") as caught:
        run(file)
    assert caught.value.exit_code == 3
    assert "_SUCCESS" not in object_store.objects(prefix)
    assert state.status(file.parent / "work").finished is not None
    assert len(tiles) == 4
    with pytest.raises(PlanError, match="holds a finished run that was not sent to the end") as refused:
        run(file)
    assert "--resume" in refused.value.hint
    puts.fails_at = -1
    tiles.clear()
    summary = run(file, resume=True)
    assert tiles == []
    assert summary.rows == 600 * 700
    result = contents(into_a_folder(file))
    sent = object_store.objects(prefix)
    assert sent.keys() == result.keys()
    own, others = ({n: t for n, t in files.items() if "tile-" in n} for files in (sent, result))
    assert own == others
    assert "_SUCCESS" in sent
    assert os.listdir(file.parent / "work") == []


def test_a_run_that_is_killed_while_it_sends_is_only_sent_again(
    object_store: ObjectStore, file: Path, prefix: str, tiles: list[int]
) -> None:
    code = f"""
import os, signal
from geopipe.export import objects; from geopipe.run import pipeline; from geopipe.settings import load as settings
put, sent = objects._put, []
def dying(*args):
    sent.append(args)
    if len(sent) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    put(*args)
objects._put = dying
pipeline.run(settings.load(__import__("pathlib").Path({str(file)!r}), ("engine.kind=local",)))
"""
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert "_SUCCESS" not in object_store.objects(prefix)
    run(file, resume=True)
    assert tiles == []
    assert {n for n in object_store.objects(prefix) if "/" in n} == {
        n for n in contents(into_a_folder(file)) if "/" in n
    }
    assert not (file.parent / "work/_SUCCESS").exists()


def test_a_crash_between_success_and_the_end_is_mended_without_a_time_without_a_table(
    object_store: ObjectStore, file: Path, prefix: str, puts: Puts, tiles: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(file)
    delete = objects._delete

    def dying(store: Any, name: str) -> None:
        if name != "_SUCCESS":
            raise KeyboardInterrupt
        delete(store, name)

    with monkeypatch.context() as patch:
        patch.setattr(objects, "_delete", dying)
        with pytest.raises(KeyboardInterrupt):
            run(file, "export.formats=['parquet']", overwrite=True)
    before = object_store.objects(prefix)["_SUCCESS"]
    assert any(name.startswith("csv/") for name in object_store.objects(prefix))
    puts.names.clear()
    tiles.clear()
    run(file, "export.formats=['parquet']", resume=True)
    assert (puts.names, tiles) == ([], [])
    after = object_store.objects(prefix)
    assert after["_SUCCESS"] == before
    assert not any(name.startswith("csv/") for name in after)
    assert os.listdir(file.parent / "work") == []


def test_resume_leaves_a_table_that_was_sent(object_store: ObjectStore, file: Path, prefix: str, puts: Puts) -> None:
    first = run(file, resume=True)
    puts.names.clear()
    again = run(file, resume=True)
    assert (again.run_id, again.rows, again.output) == (first.run_id, first.rows, first.output)
    assert puts.names == []
    assert not (file.parent / "work").exists()


def test_a_layer_that_was_skipped_does_not_keep_a_table_from_being_sent(
    object_store: ObjectStore, file: Path, prefix: str, puts: Puts, tiles: list[int]
) -> None:
    file.write_text(file.read_text() + 'on_error = "skip"\n')
    path = file.with_name("b.tif")
    path.write_bytes(path.read_bytes()[:-900_000])
    puts.fails_at = 2
    with pytest.raises(MachineError, match="the network is down"):
        run(file)
    puts.fails_at = -1
    tiles.clear()
    assert run(file, resume=True).exit_code == 4
    assert tiles == []
    assert json.loads(object_store.objects(prefix)["_SUCCESS"])["skipped"].keys() == {"b"}
    assert run(file, resume=True).exit_code == 4, "it is known as finished"


def test_an_object_that_did_not_arrive_is_found_before_success(
    object_store: ObjectStore, file: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = objects._put
    monkeypatch.setattr(
        objects, "_put", lambda s, f, name: None if name == "csv/tile-r0-c1.csv.gz" else put(s, f, name)
    )
    with pytest.raises(MachineError, match=r"lacks 1 objects that were sent \(csv/tile-r0-c1.csv.gz\)"):
        run(file)
    assert "_SUCCESS" not in object_store.objects(prefix)


# ---------------------------------------------------------------- a store that does not answer


def test_a_bucket_that_is_not_there_is_told_before_the_work(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = object_store.uri("table", "nowhere")
    error = refused_before_reading(make_trial(tmp_path, uri), monkeypatch)
    assert isinstance(error, MachineError)
    assert error.message == f"{uri} cannot be used: there is no bucket or container nowhere"
    assert "check that the bucket exists" in error.hint


def test_wrong_credentials_are_told_before_the_work(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-wrong")
    error = refused_before_reading(file, monkeypatch)
    assert isinstance(error, MachineError)
    assert "SIGNATURE_DOES_NOT_MATCH" in error.message
    assert "credentials" in error.hint
    assert "canary" not in str(error)


def test_an_endpoint_that_is_not_there_is_told_before_the_work(
    object_store: ObjectStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(file.read_text().replace(f":{object_store.port}", ":9"))
    error = refused_before_reading(file, monkeypatch)
    assert isinstance(error, MachineError)
    assert "127.0.0.1:9" in error.message
    assert "Could not connect" in error.message
    assert error.exit_code == 3


def test_an_option_that_does_not_exist_is_an_error_of_the_settings(file: Path) -> None:
    file.write_text(file.read_text().replace("region=", "rgion="))
    with pytest.raises(SettingsError, match="Unexpected query parameter in S3 URI: 'rgion'"):
        run(file)


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("output", "staging", "message", "hint"),
    [
        ("s3://b/p", None, "run.staging: run.output is an object store", 'add staging = "<a folder>"'),
        ("folder", "work", 'run.staging = "work": run.output is a folder', "leave staging out"),
        ("s3://b/p", "s3://b/q", 'run.staging = "s3://b/q": it must be a folder', "for example staging ="),
        ("ftp://b/p", "work", 'run.output = "ftp://b/p": the output is a folder, s3://', "correct run.output"),
        ("s3:///p", "work", 'run.output = "s3:///p": the output is a folder, s3://', "correct run.output"),
    ],
)
def test_a_mistake_about_output_and_staging_gets_one_error_with_its_cure(
    tmp_path: Path, output: str, staging: str | None, message: str, hint: str
) -> None:
    text = f'[run]\noutput = "{output}"\n' + (f'staging = "{staging}"\n' if staging else "")
    (tmp_path / "s.toml").write_text(text + '[[layers]]\nname = "a"\npath = "a.tif"\n')
    with pytest.raises(SettingsError) as caught:
        load.load(tmp_path / "s.toml")
    assert message in caught.value.message
    assert caught.value.hint.startswith(hint)
    line = 3 if staging and "staging" in message else 1 if "staging" in message else 2
    assert f"s.toml:{line}:" in caught.value.message


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://{KEY}:{SECRET}@bucket/prefix",
        f"s3://{KEY}:can/{SECRET}@bucket/prefix",
        f"s3://{KEY}:12?{SECRET}@bucket/prefix",
        f"s3://{SECRET}@bucket/prefix",
        f"s3://bucket/prefix?region=x&access_key={KEY}&secret_key={SECRET}",
        f"s3://bucket/prefix?Secret_Key={SECRET}",
        f"s3://bucket/prefix?session_token={SECRET}",
        f"gs://user:{SECRET}@bucket/prefix",
        f"abfs://container:{SECRET}@account.dfs.core.windows.net/prefix",
        f"abfs://container@account.dfs.core.windows.net/prefix?client_secret={SECRET}",
        f"abfs://container@account.dfs.core.windows.net/prefix?sv=1&sig={SECRET}",
    ],
)
def test_a_secret_in_the_uri_is_refused_and_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], uri: str
) -> None:
    file = make_trial(tmp_path, uri, 4, 4)
    for words in (("run", file), ("plan", file), ("config", "show", file), ("status", uri)):
        code, out, err = call(capsys, *words)
        assert code == 2
        assert "there is a password or a secret key in it" in err
        assert "AWS_ACCESS_KEY_ID" in err
        assert SECRET not in out + err
    code, out, err = call(capsys, "run", file, "--set", f"run.output={uri}")
    assert (code, SECRET in out + err) == (2, False)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/a@b/prefix?endpoint_override=127.0.0.1:9000&scheme=http",
        "gs://anonymous@bucket/prefix",
        "abfs://container@account.dfs.core.windows.net/prefix",
        "abfss://account@127.0.0.1:10000/container/prefix",
    ],
)
def test_uris_without_a_secret_pass(tmp_path: Path, uri: str) -> None:
    loaded = load.load(make_trial(tmp_path, uri, 4, 4))
    assert loaded.run.store == uri
    assert loaded.run.folder == tmp_path / "work"


def test_the_settings_that_are_sent_give_the_same_run(object_store: ObjectStore, file: Path, prefix: str) -> None:
    run(file)
    sent = file.with_name("sent.toml")
    sent.write_bytes(object_store.objects(prefix)["settings.toml"])
    assert load.load(sent).model_dump() == load.load(file, ("engine.kind=local",)).model_dump()


# ---------------------------------------------------------------- what is told


def test_status_tells_what_is_in_the_store(
    object_store: ObjectStore, file: Path, prefix: str, puts: Puts, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = object_store.uri(prefix)
    code, _, err = call(capsys, "status", uri)
    assert code == 2
    assert f"{uri} holds no run of geopipe" in err
    puts.fails_at = 3
    with pytest.raises(MachineError):
        run(file)
    code, out, _ = call(capsys, "status", uri)
    assert code == 0
    assert "3, and no _SUCCESS" in out
    assert "--resume" in out
    assert "trial is finished" in call(capsys, "status", file.parent / "work")[1]
    puts.fails_at = -1
    run(file, resume=True)
    code, out, _ = call(capsys, "status", uri)
    assert code == 0
    assert "trial is finished" in out
    assert "420,000 rows in 8 files" in out
    assert "missing" not in out
    object_store.delete(prefix, "parquet/tile-r0-c1.parquet")
    object_store.put(prefix, "csv/tile-r1-c1.csv.gz", b"cut")
    out = call(capsys, "status", uri)[1]
    assert "parquet/tile-r0-c1.parquet, csv/tile-r1-c1.csv.gz (not there, or of another size)" in out
    document = json.loads(call(capsys, "status", uri, "--json")[1])
    assert document["missing"] == ["parquet/tile-r0-c1.parquet", "csv/tile-r1-c1.csv.gz"]
    assert document["finished"]["name"] == "trial"
    object_store.delete(prefix, "manifest.jsonl")
    assert "missing      manifest.jsonl" in call(capsys, "status", uri)[1]


@pytest.mark.parametrize(
    ("name", "damage", "code", "text"),
    [
        ("_SUCCESS", b'{"plan_hash": 1}', 2, "_SUCCESS is damaged: plan_hash is 1\n  hint: "),
        ("_SUCCESS", b"[" * 100_000, 0, "and no _SUCCESS"),
        ("manifest.jsonl", b'{"tile": 0, "rows": -1}', 2, "manifest.jsonl is damaged: line 1 is no receipt: "),
        ("manifest.jsonl", b"\xff\xfe", 2, "manifest.jsonl is damaged: line 1 is no receipt: "),
        ("manifest.jsonl", b"[" * 100_000, 2, "manifest.jsonl is damaged: line 1 is no receipt: "),
    ],
)
def test_a_damaged_object_is_one_error_and_can_be_replaced(
    object_store: ObjectStore,
    file: Path,
    prefix: str,
    capsys: pytest.CaptureFixture[str],
    name: str,
    damage: bytes,
    code: int,
    text: str,
) -> None:
    run(file)
    object_store.put(prefix, name, damage)
    ended, out, err = call(capsys, "status", object_store.uri(prefix))
    assert (ended, text in out + err) == (code, True), out + err
    if code:
        assert run(file, overwrite=True).rows == 600 * 700
        assert call(capsys, "status", object_store.uri(prefix))[0] == 0


def test_one_csv_file_of_all_tiles_is_sent_and_known_by_its_whole_size(
    object_store: ObjectStore, file: Path, prefix: str
) -> None:
    run(file, "export.formats=['csv']", "export.csv_files=one")
    assert objects.status(object_store.uri(prefix)).missing == ()
    assert len(pd.read_csv(object_store.folder / BUCKET / prefix / "csv/table.csv.gz")) == 600 * 700


def test_the_plan_tells_where_the_table_is_made(
    object_store: ObjectStore, file: Path, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = call(capsys, "plan", file)[1]
    assert f"made in {file.parent / 'work'}, then sent to {object_store.uri(prefix)}" in out
    document = json.loads(call(capsys, "plan", file, "--json")[1])
    assert (document["output"], document["staging"]) == (object_store.uri(prefix), str(file.parent / "work"))
    assert object_store.objects(prefix) == {}


def test_the_command_line_tells_where_the_table_is(
    object_store: ObjectStore, file: Path, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(capsys, "run", file, "--engine=local")
    assert code == 0
    assert f"output       {object_store.uri(prefix)}" in out
    assert ", send " in out
