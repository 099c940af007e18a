"""The session of a worker: one for each process and run, closed with the run or the process."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import north_up, write_raster
from waiting import until

from geopipe.engine.session import WorkerSession, session_of
from geopipe.events import emit
from geopipe.events.records import Event
from geopipe.export.ledger import JOURNALS
from geopipe.export.tiles import Receipt
from geopipe.layers.access import Access
from geopipe.load import raster
from geopipe.monitoring.leftovers import OVER
from geopipe.monitoring.options import MonitoringOptions


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MonitoringOptions:
    monkeypatch.setenv("GEOPIPE_HOME", str(tmp_path / "home"))
    return MonitoringOptions("r", 2, tmp_path / "out", database=False, flush_interval=0.05)


def test_a_worker_that_joins_another_run_leaves_the_first(options: MonitoringOptions) -> None:
    """Warm workers outlive a run. What they record later belongs to the run that they work for, once."""
    records: dict[str, list[Any]] = {"r": [], "s": []}

    def deliver(run: str) -> Callable[[str, Sequence[str]], int]:
        def send(source: str, lines: Sequence[str]) -> int:
            records[run] += map(json.loads, lines)
            return int(records[run][-1]["seq"])

        return send

    tested = logging.getLogger("geopipe.tested")
    first = session_of(options, lambda: WorkerSession(options, deliver("r")))
    assert session_of(options, lambda: WorkerSession(options, deliver("r"))) is first
    tested.warning("one")
    other = replace(options, run_id="s", attempt=1)
    second = session_of(other, lambda: WorkerSession(other, deliver("s")))
    try:
        tested.warning("two")
    finally:
        second.close()
    messages = {run: [(x["run_id"], x["attempt"], x["message"]) for x in result] for run, result in records.items()}
    assert messages == {"r": [("r", 2, "one")], "s": [("s", 1, "two")]}
    assert emit._sinks == []


def test_a_worker_sends_what_waits_when_it_ends(options: MonitoringOptions, tmp_path: Path) -> None:
    code = """
import json, sys, logging
from geopipe.engine.session import WorkerSession
from geopipe.monitoring.options import MonitoringOptions
def deliver(source, lines):
    with open(sys.argv[1], "a") as file:
        file.writelines(lines)
    return json.loads(lines[-1])["seq"]
session = WorkerSession(MonitoringOptions("r", database=False, flush_interval=3600.0), deliver)
logging.getLogger("geopipe.x").info("last words")
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "records")], check=True)
    records = [json.loads(line) for line in (tmp_path / "records").read_text().splitlines()]
    assert [record["message"] for record in records] == ["last words"]
    with suppress(FileNotFoundError):
        assert list(options.folder.iterdir()) == []


def open_files(folder: Path) -> list[str]:
    """Files below a folder that this process holds open."""
    names = []
    for link in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            names.append(os.readlink(f"/proc/self/fd/{link}"))
    return sorted(name for name in names if name.startswith(str(folder)))


def test_an_idle_worker_holds_no_file_of_a_run_that_is_over(options: MonitoringOptions, tmp_path: Path) -> None:
    file = write_raster(tmp_path / "a.tif", np.ones((20, 20)), "EPSG:32632", north_up(500_000, 5_000_000, 10))
    (tmp_path / "staging" / JOURNALS).mkdir(parents=True)
    session = WorkerSession(options, lambda source, lines, keep=True: int(json.loads(lines[-1])["seq"]))
    with session.working():
        session.reader.get(raster.inspect(str(file)), Access.of_layer("a"))
        session.journal.append(tmp_path / "staging", Receipt(0, 1, (), {}))
        emit.emit(Event("x"))
    assert len(open_files(tmp_path)) >= 3
    (options.folder / OVER).touch()
    until(lambda: not open_files(tmp_path))
    assert emit._sinks == []


@pytest.mark.parametrize(
    ("leaves", "is_printed"), [("os._exit(1)", True), ("farewell(); os._exit(1)", False), ("pass", False)]
)
def test_a_process_that_rays_core_ends_has_a_last_word(leaves: str, is_printed: bool) -> None:
    """Its object store is gone: Ray's core calls `_Exit`, and no Python code can say why."""
    code = f"import os; from geopipe.engine.guard import last_word\nwith last_word() as farewell: {leaves}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.startswith("error: the process of the run was ended") == is_printed
    assert "--resume" in done.stderr or not is_printed
