"""A worker that outlives its run, on another host, and writes on into a folder that a new run has taken over."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import north_up, plan_of, write_raster

from geopipe.engine import local
from geopipe.export import staging as stages
from geopipe.export.ledger import JOURNALS, finisher
from geopipe.export.publish import publish
from geopipe.export.staging import Staging
from geopipe.grid.grid import Grid
from geopipe.layers.layer import Layer
from geopipe.plan.plan import Plan

UTM = "EPSG:32612"

ORPHAN = """
import pickle, sys
from pathlib import Path
from geopipe.engine import local
from geopipe.errors import MachineError
from geopipe.export.ledger import finisher

plan = pickle.loads(Path(sys.argv[1]).read_bytes())
write = finisher(plan, Path(sys.argv[2]), 100)

def halting(parts):
    for part in parts:
        print("its files are open", flush=True)
        sys.stdin.readline()
        yield part

def finish(tile, parts, journal):
    write(tile, halting(parts), journal)

try:
    list(local.finish_tiles(plan, plan.keys, finish))
    print("finished")
except MachineError as error:
    print(error.message)
"""


class Orphan:
    """A worker that has opened the files of the only tile, and waits."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        assert process.stdout.readline() == "its files are open\n"

    def go_on(self) -> str:
        """Let it write to its end. Returns what came of it."""
        out, _ = self._process.communicate("\n")
        return out.strip()


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = write_raster(tmp_path / "a.tif", np.arange(12, dtype="int16").reshape(3, 4), UTM, north_up(0, 100, 10))
    return plan_of(Grid(UTM, 0, 100, 10, 10, width=4, height=3), [Layer("a", (str(path),))], window_size=512)


@contextmanager
def orphan(plan: Plan, staging: Staging) -> Iterator[Orphan]:
    pickled = staging.output.with_name("plan")
    pickled.write_bytes(pickle.dumps(plan))
    command = [sys.executable, "-c", ORPHAN, str(pickled), str(staging.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Orphan(process)
        finally:
            process.kill()


def write(plan: Plan, staging: Staging) -> None:
    list(local.finish_tiles(plan, staging.left(), finisher(plan, staging.folder, 100)))


def files(output: Path) -> dict[str, bytes]:
    """All files of a table but `_SUCCESS`, which names the time."""
    paths = (path for path in sorted(output.rglob("*")) if path.is_file() and path.name != "_SUCCESS")
    return {str(path.relative_to(output)): path.read_bytes() for path in paths}


@pytest.fixture
def undisturbed(plan: Plan, tmp_path: Path) -> dict[str, bytes]:
    staging = Staging(tmp_path / "undisturbed", plan, "")
    staging.begin()
    write(plan, staging)
    staging.commit({})
    return files(staging.output)


def test_one_whose_file_was_removed_fails_alone(plan: Plan, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    staging = Staging(tmp_path / "out", plan, "")
    staging.begin()
    with orphan(plan, staging) as worker:
        assert staging.begin().tolist() == [0]
        assert "cannot be written" in worker.go_on()
    assert staging.left().tolist() == [0], "it has no receipt"
    write(plan, staging)
    staging.commit({})
    assert files(staging.output) == undisturbed


@pytest.mark.parametrize("is_first", [True, False])
def test_one_that_finishes_the_tile_of_the_new_run_changes_nothing(
    is_first: bool, plan: Plan, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    staging = Staging(tmp_path / "out", plan, "")
    keys = staging.begin()
    with orphan(plan, staging) as worker:
        if is_first:
            assert worker.go_on() == "finished"
        list(local.finish_tiles(plan, keys, finisher(plan, staging.folder, 100)))
        if not is_first:
            assert worker.go_on() == "finished"
    assert len(list((staging.folder / JOURNALS).iterdir())) == 2, "both have a receipt"
    assert staging.commit({})["rows"] == 12
    assert files(staging.output) == undisturbed


def test_one_that_is_at_work_while_the_table_is_published_leaves_nothing_in_it(
    plan: Plan, tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = Staging(tmp_path / "out", plan, "")
    staging.begin()
    write(plan, staging)
    came_of_it = []

    def disturbed(*args: Any) -> None:
        with orphan(plan, staging) as worker:
            publish(*args)
            came_of_it.append(worker.go_on())

    monkeypatch.setattr(stages, "publish", disturbed)
    staging.commit({})
    assert "cannot be written" in came_of_it[0]
    assert files(staging.output) == undisturbed
    assert not staging.folder.exists()
