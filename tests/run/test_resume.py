"""A run that was cut short goes on: what was done is not done again, and the files are those of an undisturbed run."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers import call
from trials import SETTINGS, hashes, make_trial, run

from geopipe.errors import MachineError, PlanError
from geopipe.export import ledger, publish, state
from geopipe.export.ledger import differences, ranges
from geopipe.export.lock import locked
from geopipe.run import pipeline
from geopipe.run.draft import draft
from geopipe.settings import load

pytestmark = pytest.mark.slow


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return make_trial(tmp_path)


class StopError(Exception):
    """Something outside geopipe ends the run here."""


@pytest.fixture
def stops_after(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ends a run before the n-th tile is written; returns the list of the tiles that were written."""
    done: list[int] = []
    write = ledger.write_tile

    def patch(count: int, error: BaseException) -> list[int]:
        def stopping(plan: Any, staging: str, chunk: int, tile: Any, *rest: Any) -> Any:
            if len(done) == count:
                raise error
            done.append(tile.key)
            return write(plan, staging, chunk, tile, *rest)

        monkeypatch.setattr(ledger, "write_tile", stopping)
        return done

    return patch


@pytest.mark.parametrize("error", [MachineError("the disk is full", ""), KeyboardInterrupt(), StopError()], ids=repr)
def test_a_run_goes_on_where_it_stopped(file: Path, stops_after: Any, error: BaseException) -> None:
    reference = hashes(run(file, "run.output=reference").output)
    done = stops_after(5, error)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else Exception
    with pytest.raises(expected):
        run(file)
    status = state.status(file.parent / "out")
    assert status.finished is None
    assert [(u.done, u.tiles, u.missing) for u in status.unfinished] == [(5, 12, "5-11")]
    stops_after(99, error)
    done.clear()
    summary = run(file, resume=True)
    assert done == list(range(5, 12))
    assert hashes(summary.output) == reference
    assert not (summary.output / "_staging").exists()


@pytest.fixture
def cut(file: Path, stops_after: Any) -> list[int]:
    """A run that was cut short after five tiles; the list has those that are done from here on."""
    done: list[int] = stops_after(5, StopError())
    with pytest.raises(Exception, match="StopError"):
        run(file)
    stops_after(99, StopError())
    done.clear()
    return done


def test_without_resume_the_tiles_of_the_same_plan_are_kept_and_named(
    file: Path, cut: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    run(file)
    assert cut == list(range(5, 12))
    assert "5 of 12 tiles of an unfinished run of this plan are there, and are kept; --fresh drops them" in caplog.text


def test_a_resumed_run_parses_each_receipt_once_to_plan_and_begin(
    file: Path, cut: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    parse, lines, before = ledger.Receipt.parse, list[bytes](), list[int]()
    write = ledger.write_tile
    monkeypatch.setattr(ledger.Receipt, "parse", lambda line: lines.append(line) or parse(line))
    monkeypatch.setattr(ledger, "write_tile", lambda *args: before.append(len(lines)) or write(*args))
    assert state.status(file.parent / "out").unfinished[0].bytes > 0
    assert run(file, resume=True).rows
    assert before[0] == len(set(lines[:5])) == 5


@pytest.mark.parametrize("kept", [True, False])
def test_on_a_terminal_a_person_is_asked_whether_to_keep_them(file: Path, cut: list[int], kept: bool) -> None:
    request: list[str] = []
    run(file, confirm=lambda question: request.append(question) or kept)
    assert request == ["5 of 12 tiles of an unfinished run of this plan are there. Keep them?"]
    assert cut == list(range(5 if kept else 0, 12))


def test_fresh_drops_what_runs_of_any_plan_have_left(file: Path, cut: list[int]) -> None:
    output = run(file, "grid.resolution=60", fresh=True).output
    assert not (Path(output) / "_staging").exists()
    run(file, fresh=True, overwrite=True)
    assert cut[-12:] == list(range(12))


@pytest.mark.parametrize("name", ["plan.json", "manifest.jsonl", "_SUCCESS"])
def test_a_file_of_state_that_finds_the_disk_full_is_one_error_and_loses_no_tile(
    file: Path, cut: list[int], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(MachineError, match=f"the disk is full: .*{name} could not be written"):
            run(file, resume=True)
    assert run(file, resume=True).rows
    assert cut == list(range(5, 12)), "each of them once"


def test_publishing_leaves_the_tiles_of_other_plans(
    file: Path, cut: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    output = Path(run(file, "grid.resolution=60").output)
    assert "5 tiles of an unfinished run of another plan (trial) stay in" in caplog.text
    status = state.status(output)
    assert status.finished is not None
    assert [run.done for run in status.unfinished] == [5]
    cut.clear()
    run(file, resume=True, overwrite=True)
    assert cut == list(range(5, 12))
    assert not (output / "_staging").exists()


@pytest.mark.parametrize("resolution", [30, 60])
def test_a_cancelled_overwrite_can_be_resumed(file: Path, stops_after: Any, resolution: int) -> None:
    first = run(file)
    flag = f"grid.resolution={resolution}"
    done = stops_after(3, StopError())
    with pytest.raises(Exception, match="StopError"):
        run(file, flag, overwrite=True)
    status = state.status(Path(first.output))
    assert status.finished is not None
    assert status.finished["run_id"] == first.run_id, "what was there is there"
    assert [run.done for run in status.unfinished] == [3]
    stops_after(99, StopError())
    done.clear()
    second = run(file, flag, resume=True)
    assert min(done) == 3
    status = state.status(Path(first.output))
    assert status.finished is not None
    assert (status.finished["run_id"], status.unfinished) == (second.run_id, ())
    done.clear()
    assert run(file, flag, resume=True).run_id == second.run_id, "it is finished already"
    assert done == []


def test_a_crash_after_success_leaves_a_finished_run_and_is_cleaned_up(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = file.parent / "out"
    with monkeypatch.context() as patch:
        patch.setattr(publish.shutil, "rmtree", lambda *_, **__: None)
        first = run(file)
    assert list((output / "_staging").glob("*/plan.json"))
    assert state.status(output).unfinished == ()
    assert run(file, resume=True).run_id == first.run_id
    assert not (output / "_staging").exists()


def test_what_is_written_already_needs_no_room_again(
    file: Path, cut: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = state.status(file.parent / "out").unfinished[0].bytes
    needed = draft(load.load(file)).estimate.output_bytes
    monkeypatch.setattr(publish, "free_bytes", lambda _: needed - there - 1)
    with pytest.raises(MachineError, match=r"the output would take up to .* \(\d+ MB are there already\)"):
        run(file, resume=True)
    monkeypatch.setattr(publish, "free_bytes", lambda _: needed - there)
    run(file, resume=True)
    assert cut == list(range(5, 12))


def test_what_a_dead_process_was_writing_takes_no_room(file: Path, cut: list[int], stops_after: Any) -> None:
    (staged,) = (file.parent / "out/_staging").glob("*/parquet")
    left = staged / "tile-r9-c9.parquet.host-1-1.tmp"
    left.write_bytes(b"PAR1")
    stops_after(0, StopError())
    with pytest.raises(Exception, match="StopError"):
        run(file, resume=True)
    assert not left.exists()


def test_a_plan_is_made_once_and_for_the_cluster_that_runs_it(
    file: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    plans: list[Any] = []
    monkeypatch.setattr(pipeline, "draft", lambda *args: plans.append(draft(*args)) or plans[-1])
    run(file, engine="ray")
    (plan,) = plans
    assert plan.machine.object_store == ray.cluster_resources()["object_store_memory"]


def test_resume_starts_a_run_where_there_is_none_and_leaves_a_finished_one(file: Path) -> None:
    summary = run(file, resume=True)
    before = (summary.output / "_SUCCESS").read_bytes()
    assert run(file, resume=True).rows == summary.rows
    assert (summary.output / "_SUCCESS").read_bytes() == before


def test_files_that_were_lost_or_cut_are_made_again(file: Path, stops_after: Any) -> None:
    done = stops_after(6, StopError())
    with pytest.raises(Exception, match="StopError"):
        run(file)
    staged = next((file.parent / "out/_staging").glob("*/parquet"))
    (staged / "tile-r0-c1.parquet").unlink()
    os.truncate(staged / "tile-r0-c2.parquet", 100)
    journal = next((staged.parent / "receipts").iterdir())
    journal.write_bytes(journal.read_bytes()[:-40])  # torn in the last line
    stops_after(99, StopError())
    done.clear()
    output = run(file, resume=True).output
    assert done == [1, 2, *range(5, 12)]
    assert {pq.read_table(p).num_columns for p in (output / "parquet").iterdir()} == {6}


def test_other_settings_or_sources_cannot_go_on_and_are_named(file: Path, stops_after: Any) -> None:
    stops_after(5, StopError())
    with pytest.raises(Exception, match="StopError"):
        run(file)
    with pytest.raises(PlanError, match=r"cannot go on: .*grid.dx: 30.0 -> 60.0") as caught:
        run(file, "grid.resolution=60", resume=True)
    assert caught.value.exit_code != 0
    assert "without --resume" in caught.value.hint
    with pytest.raises(PlanError, match=r'merge.how: "outer" -> "grid"'):
        run(file, "merge.how=grid", resume=True)
    source = file.parent / "b.tif"
    os.utime(source, (1, 1))
    with pytest.raises(PlanError, match=r"sources.*b.tif.mtime_ns: \d+ -> 1000000000"):
        run(file, resume=True)
    assert state.status(file.parent / "out").unfinished[0].done == 5, "what was done is still there"


def test_a_layer_that_was_skipped_stays_skipped(file: Path, stops_after: Any) -> None:
    file.write_text(SETTINGS + 'on_error = "skip"\n')
    path = file.parent / "b.tif"
    path.write_bytes(path.read_bytes()[:-3_000_000])
    done = stops_after(99, StopError())
    assert run(file, "run.output=reference").exit_code == 4
    before = len(done) - 12  # tiles that were done with b, until it broke
    assert before > 0
    done.clear()
    stops_after(before + 5, StopError())
    with pytest.raises(Exception, match="StopError"):
        run(file)
    assert done[before:] == list(range(5))
    done.clear()
    stops_after(99, StopError())
    summary = run(file, resume=True)
    assert done == list(range(5, 12)), "b is not tried again"
    assert summary.exit_code == 4
    assert hashes(summary.output) == hashes(file.parent / "reference")


# ---------------------------------------------------------------- status


def test_status_tells_what_is_there(file: Path, stops_after: Any, capsys: pytest.CaptureFixture[str]) -> None:
    output = file.parent / "out"
    assert call(capsys, "status", output)[0] == 2
    stops_after(5, StopError())
    with pytest.raises(Exception, match="StopError"):
        run(file)
    code, out, _ = call(capsys, "status", output)
    assert code == 0
    assert "trial is unfinished" in out
    assert "5 of 12 are done" in out
    assert "tiles 5-11" in out
    assert "--resume" in out
    document = json.loads(call(capsys, "status", output, "--json")[1])
    assert document["unfinished"][0]["done"] == 5
    assert document["finished"] is None
    with locked(output, "run-7"):
        assert "run run-7" in call(capsys, "status", output)[1]
    stops_after(99, StopError())
    run(file, resume=True)
    code, out, _ = call(capsys, "status", output)
    assert "trial is finished" in out
    assert "unfinished" not in out


def test_ranges_and_differences_are_told_short() -> None:
    assert ranges([]) == ""
    assert ranges([3, 5, 6, 7, 9]) == "3, 5-7, 9"
    assert ranges(range(0, 20, 2)) == "0, 2, 4, 6, 8 and 5 more ranges"
    one = {"a": {"x": [1, 2]}, "b": "t" * 99}
    assert list(differences(one, one)) == []
    assert list(differences(one, {"a": {"x": [1, 3]}, "c": None})) == ["a.x[1]: 2 -> 3", f'b: "{"t" * 56}... -> null']
