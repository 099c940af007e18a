"""The output folder: what may be used, who holds it, and what a run that failed leaves behind."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import north_up, plan_of, write_raster

from geopipe.engine import local
from geopipe.errors import MachineError, PlanError
from geopipe.export import tiles
from geopipe.export.ledger import finisher
from geopipe.export.lock import locked
from geopipe.export.publish import check_output
from geopipe.export.staging import Staging
from geopipe.grid.grid import Grid
from geopipe.layers.layer import Layer
from geopipe.plan.plan import Plan

UTM = "EPSG:32612"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = write_raster(tmp_path / "a.tif", np.arange(12, dtype="int16").reshape(3, 4), UTM, north_up(0, 100, 10))
    return plan_of(Grid(UTM, 0, 100, 10, 10, width=4, height=3), [Layer("a", (str(path),))], window_size=512)


def stage(output: Path, plan: Plan) -> Staging:
    staging = Staging(output, plan, "")
    keys = staging.begin()
    list(local.finish_tiles(plan, keys, finisher(plan, staging.folder, 100)))
    return staging


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_new_or_an_empty_folder_will_do_and_nothing_is_written(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b", overwrite=False)
    check_output(tmp_path, overwrite=False)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_of_someone_else_is_refused(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.doc").write_text("mine")
    with pytest.raises(PlanError, match=r"holds 1 entries \(thesis.doc, ...\) and no run of geopipe") as caught:
        check_output(tmp_path, overwrite)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_success_file_of_someone_else_makes_no_run_of_geopipe(tmp_path: Path, overwrite: bool) -> None:
    # Spark and Hadoop end their outputs with an empty _SUCCESS
    (tmp_path / "_SUCCESS").write_bytes(b"")
    (tmp_path / "part-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(PlanError, match="no run of geopipe"):
        check_output(tmp_path, overwrite)


def test_a_finished_run_is_refused_unless_it_may_be_replaced(plan: Plan, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with locked(output, "one"):
        stage(output, plan).commit({})
    with pytest.raises(PlanError, match="holds a finished run") as caught:
        check_output(output, overwrite=False)
    assert "--overwrite" in caught.value.hint
    check_output(output, overwrite=True)


def test_an_unfinished_run_may_be_taken_over(plan: Plan, tmp_path: Path) -> None:
    with locked(tmp_path / "out", "one"):
        stage(tmp_path / "out", plan)
    check_output(tmp_path / "out", overwrite=False)


def test_a_file_in_place_of_the_folder_or_above_it_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(PlanError, match="is a file"):
        check_output(file, overwrite=True)
    with pytest.raises(MachineError, match="cannot be written") as caught:
        check_output(file / "out", overwrite=False)
    assert caught.value.exit_code == 3
    with pytest.raises(MachineError, match="cannot be written"), locked(file / "out", "one"):
        pass


def test_a_folder_that_cannot_be_made_is_an_error_of_the_machine() -> None:
    with pytest.raises(MachineError, match=r"/proc/geopipe.* cannot be written") as caught:
        locked(Path("/proc/geopipe"), "one").__enter__()
    assert caught.value.exit_code == 3


def test_a_second_run_is_refused_and_told_who_holds_the_output(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with locked(output, "run-1"):
        with pytest.raises(MachineError) as caught, locked(output, "run-2"):
            pass
        assert f"{output} is in use by run run-1, process {os.getpid()} on " in caught.value.message
        with pytest.raises(MachineError, match="run-1"), locked(output, "run-3"):
            pass
    with locked(output, "run-2"):
        pass


def test_the_lock_outlives_an_attempt_that_starts_over(plan: Plan, tmp_path: Path) -> None:
    # a run that skips a bad source discards its first attempt and goes on under the same lock
    output = tmp_path / "out"
    with locked(output, "run-1"):
        stage(output, plan).discard()
        stage(output, plan)
        with pytest.raises(MachineError, match="in use by run run-1"), locked(output, "run-2"):
            pass


def test_of_many_runs_at_once_one_holds_the_output(tmp_path: Path) -> None:
    held, refused, start = [], [], threading.Barrier(8)
    done = threading.Barrier(8)

    def attempt(name: str) -> None:
        start.wait()
        try:
            with locked(tmp_path / "out", name):
                held.append(name)
                done.wait()
        except MachineError:
            refused.append(name)
            done.wait()

    threads = [threading.Thread(target=attempt, args=(f"run-{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 7)


def test_discard_leaves_nothing_new_behind(plan: Plan, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with locked(output, "one"):
        stage(output, plan).discard()
    assert not output.exists()


def test_discard_leaves_an_older_run_and_foreign_files_as_they_were(plan: Plan, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with locked(output, "one"):
        stage(output, plan).commit({})
    (output / "notes.txt").write_text("mine")
    before = contents(output)
    with locked(output, "two"):
        stage(output, plan).discard()
    assert contents(output) == before
    assert not (output / "_staging").exists()


def test_an_empty_folder_of_the_user_is_still_there_after_a_discard(plan: Plan, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    with locked(output, "one"):
        stage(output, plan).discard()
    assert output.is_dir()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), r"the disk is full: .*tile-r0-c0.parquet .* bytes are free"),
        (OSError(errno.EIO, "Input/output error"), r"tile-r0-c0.parquet cannot be written: Input/output error"),
    ],
)
def test_a_tile_that_cannot_be_written_names_path_and_cause(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, message: str
) -> None:
    def fail(self: Any, data: bytes) -> int:
        raise error

    monkeypatch.setattr(tiles._Hashing, "write", fail)
    with locked(tmp_path / "out", "one"), pytest.raises(MachineError, match=message) as caught:
        stage(tmp_path / "out", plan)
    assert caught.value.exit_code == 3
