"""Damaged files of a run: a tile that nobody can vouch for is done again, and what cannot be read is one error."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import call, north_up, write_raster

from geopipe.errors import GeopipeError, PlanError
from geopipe.export import ledger, state
from geopipe.export.tiles import Receipt
from geopipe.run import pipeline
from geopipe.settings import load

pytestmark = pytest.mark.slow

SETTINGS = """
[run]
name = "trial"
output = "out"
[grid]
like = "a.tif"
[resampling]
window_size = 512
[export]
formats = ["parquet"]
[[layers]]
name = "a"
path = "a.tif"
"""

DAMAGES = min(9, max(1, int(os.environ.get("GEOPIPE_TRIALS", "2")) // 2))
"""Wrong values for each place in a file."""

VALUES: tuple[Any, ...] = (None, "x", -1, 10**30, 1e400, [], {}, [[0, 10**12]], {"x": 1})
"""What stands in place of a value of JSON, one after the other."""


def mutants(name: str, data: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """Damaged copies of a file of JSON values, one a line or one in all, with what was done to each."""
    rng = random.Random(seed)
    yield from {
        "empty": b"",
        "zeros": bytes(len(data)),
        "a list": b"[]",
        "null": b"null",
        "deep": b"[" * 100_000,
    }.items()
    for share in (0.1, 0.5, 0.99):
        yield f"cut at {share}", data[: int(len(data) * share)]
    for _ in range(6):
        at, value = rng.randrange(len(data)), rng.randrange(256)
        yield f"byte {at} is {value}", data[:at] + bytes([value]) + data[at + 1 :]
    lines = data.splitlines(keepends=True) if name.endswith(".jsonl") else [data]
    start = lines[0].index(b"{")  # behind its checksum in a journal
    for place in places(json.loads(lines[0][start:])):
        for value in rng.sample(VALUES, DAMAGES):
            changed = json.loads(lines[0][start:])
            parent = changed
            for key in place[:-1]:
                parent = parent[key]
            parent[place[-1]] = value
            yield f"{place} is {value}", lines[0][:start] + json.dumps(changed).encode() + b"\n" + b"".join(lines[1:])
        del parent[place[-1]]
        yield f"without {place}", lines[0][:start] + json.dumps(changed).encode() + b"\n" + b"".join(lines[1:])


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Keys on the way to every value within a JSON value, three of them at most."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inside in items if len(at) < 3 else ():
        yield (*at, key)
        yield from places(inside, (*at, key))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of two tiles; a run was cut short in `cut` after the first, and finished in `whole`."""
    folder = tmp_path_factory.mktemp("state")
    pixels = np.arange(600 * 100, dtype="float32").reshape(100, 600)
    write_raster(folder / "a.tif", pixels, "EPSG:32632", north_up(500_000, 5_000_000, 30))
    (folder / "s.toml").write_text(SETTINGS)
    run(folder, "whole")
    write, done = ledger.write_tile, []

    def stopping(*args: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(args)
        return write(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "write_tile", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(folder, "cut")
    return folder


def run(folder: Path, output: str, **how: Any) -> pipeline.Summary:
    return pipeline.run(load.load(folder / "s.toml", [f"run.output={folder / output}", "engine.kind=local"]), **how)


def each_mutant(folder: Path, kept: str, pattern: str, seed: int) -> Iterator[tuple[str, Path]]:
    """An output with a damaged file, again and again, as it was before each time."""
    (file,) = (folder / kept).glob(pattern)
    for what, damaged in mutants(file.name, file.read_bytes(), seed):
        output = folder / "trial"
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(folder / kept, output)
        (output / file.relative_to(folder / kept)).write_bytes(damaged)
        yield f"{file.name}: {what}", output


def tables(output: Path) -> list[str]:
    return [line.split('"columns"')[0] for line in (output / "manifest.jsonl").read_text().splitlines()]


def error_of(work: Callable[[], object]) -> GeopipeError | None:
    """The error of ours that this comes to; any other is the test's."""
    try:
        work()
    except GeopipeError as error:
        return error
    return None


@pytest.mark.parametrize("pattern", ["_staging/*/plan.json", "_staging/*/receipts/*.jsonl"])
def test_a_damaged_unfinished_run_goes_on_or_is_one_error(
    folder: Path, pattern: str, capsys: pytest.CaptureFixture[str]
) -> None:
    went_on, refused = 0, 0
    for what, output in each_mutant(folder, "cut", pattern, 1):
        code, _, err = call(capsys, "status", output, "--json")
        assert code in (0, 2), (what, err)
        assert ("hint: " in err) == bool(code), what
        error = error_of(lambda: run(folder, "trial", resume=True))
        assert error is None or error.hint, what
        assert error is not None or tables(output) == tables(folder / "whole"), what
        went_on, refused = went_on + (error is None), refused + (error is not None)
    assert went_on > 20
    assert (refused > 20) == pattern.endswith("plan.json"), "a bad receipt is a tile to do again"


@pytest.mark.parametrize("name", ["_SUCCESS", "manifest.jsonl"])
def test_a_damaged_finished_run_is_told_and_never_a_traceback(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for what, output in each_mutant(folder, "whole", name, 2):
        for words in (("status", output), ("validate", output)):
            code, _, err = call(capsys, *words)
            assert code in (0, 1, 2), (what, err)
            assert ("hint: " in err) == (code == 2), what
        error = error_of(lambda: run(folder, "trial", resume=True))
        assert error is None or error.hint, what


def test_a_damaged_success_of_ours_can_be_replaced(folder: Path) -> None:
    output = folder / "replaced"
    shutil.copytree(folder / "whole", output)
    document = json.loads((output / "_SUCCESS").read_text())
    del document["rows"]
    (output / "_SUCCESS").write_text(json.dumps(document))
    with pytest.raises(PlanError, match="_SUCCESS is damaged") as caught:
        state.status(output)
    assert "--overwrite" in caught.value.hint
    with pytest.raises(PlanError, match="holds a finished run"):
        run(folder, "replaced")
    assert run(folder, "replaced", overwrite=True).rows == 60_000


@pytest.mark.parametrize("content", ["folder", "link"])
def test_other_things_in_place_of_state_files(folder: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    for pattern in ("_staging/*/plan.json", "_staging/*/receipts/*.jsonl"):
        output = folder / f"odd-{content}"
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(folder / "cut", output)
        (file,) = output.glob(pattern)
        file.unlink()
        make: dict[str, Callable[[], None]] = {"folder": file.mkdir, "link": lambda f=file: f.symlink_to(f)}
        make[content]()
        code, _, err = call(capsys, "status", output)
        assert (code in (2, 3), "hint: " in err) == (True, True), (pattern, err)


def test_status_during_a_publication(folder: Path) -> None:
    """A folder that vanishes between two looks is no error: the run was published, or taken back."""
    output = folder / "vanishing"
    shutil.copytree(folder / "cut", output)
    read = Path.read_bytes
    with pytest.MonkeyPatch.context() as patch:

        def vanish(self: Path) -> bytes:
            if self.name == state.PLAN:
                shutil.rmtree(output / "_staging")
                shutil.copytree(folder / "whole", output, dirs_exist_ok=True)
            return read(self)

        patch.setattr(Path, "read_bytes", vanish)
        status = state.status(output)
    assert status.unfinished == ()
    assert status.finished is not None
    assert not os.path.exists(output / "_staging")


def test_a_receipt_that_finds_no_room_is_one_error_and_its_journal_closes(tmp_path: Path) -> None:
    (tmp_path / ledger.JOURNALS).mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    journal = ledger.Journal()
    try:
        with pytest.raises(GeopipeError, match="cannot be written: File too large"):
            journal.append(tmp_path, Receipt(0, 1, (), {}))
        journal.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
