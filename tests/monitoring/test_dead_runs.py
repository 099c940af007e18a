"""Runs whose process died without a word: whoever looks next tells how they ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import call
from monitored import Source, new_id
from records import query
from trials import make_trial
from waiting import until

from geopipe import processes
from geopipe.events.records import DRIVER
from geopipe.monitoring import dead_runs
from geopipe.monitoring.database import follow, queries

pytestmark = pytest.mark.usefixtures("dsn")


def dead_process() -> dict[str, Any]:
    """The identity of a process that has ended."""
    script = "import json; from geopipe import processes; print(json.dumps(processes.identity()))"
    return dict(json.loads(subprocess.check_output([sys.executable, "-c", script], text=True)))


def driven(dsn: str, process: dict[str, Any], **state: Any) -> Source:
    now = time.time()
    run = Source(new_id(now, int(now * 1e6) % 2**60), f"{os.uname().nodename}-1-{time.time_ns()}", attempt=1)
    run.add("event", now, name=DRIVER, detail=process).state(now, "running", name="soils", **state)
    run.write(dsn)
    return run


def states(dsn: str) -> dict[str, str]:
    return dict(query(dsn, "SELECT run_id::text, state FROM pipeline_runs"))


STANDS = """
import signal
from geopipe.cli.main import main
from geopipe.events.emit import subscribe
from geopipe.events.records import Progress
subscribe(lambda body: signal.pause() if isinstance(body, Progress) and body.stage == "write" else None)
"""
"""For the code of a process: a run in it stands still when it has written a tile."""


def kill_when(code: str, file: Path, reached: Callable[[], object]) -> int:
    """Run settings by `code` until something is reached, and kill it. Returns the process id."""
    command = [sys.executable, "-c", code, "run", str(file), "--engine=local"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        until(lambda: reached() or run.poll() is not None)
        run.kill()
    assert run.returncode == -signal.SIGKILL
    return run.pid


def test_a_killed_run_has_failed_for_the_next_one_who_looks(
    tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = make_trial(tmp_path)
    run = kill_when(f"{STANDS}main()", file, lambda: "running" in states(database).values())
    code, out, _ = call(capsys, "monitor", "runs", "--json")
    (shown,) = json.loads(out)
    assert (code, shown["state"], shown["stale"]) == (0, "failed", False)
    assert f"its process {run} on {os.uname().nodename} ended without a word" in shown["error"]["message"]
    assert "--resume" in shown["error"]["hint"]
    assert "ended without a word" in call(capsys, "monitor", "errors")[1]

    assert call(capsys, "run", file, "--engine=local", "--resume")[0] == 0
    assert sorted(states(database).values()) == ["completed", "failed"]


def test_a_run_that_died_before_it_was_heard_of_is_told_by_who_looks(
    tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What collects its records died first, so that all that it said waits on disk."""
    silent = "from geopipe.monitoring import shipping; shipping.Shipper.ship = lambda *_: None"
    written = "out/_staging/*/parquet/*.parquet"
    kill_when(f"{STANDS}{silent}; main()", make_trial(tmp_path), lambda: list(tmp_path.glob(written)))
    assert states(database) == {}
    code, out, _ = call(capsys, "monitor", "runs", "--json")
    (shown,) = json.loads(out)
    assert (code, shown["state"], shown["name"]) == (0, "failed", "trial")


def test_a_run_that_lives_is_left_alone(database: str) -> None:
    run = driven(database, processes.identity())
    with follow.reading() as connected:
        assert not dead_runs.settle(connected)
    assert states(database) == {run.run_id: "running"}


def test_the_end_that_waits_on_disk_is_told_and_no_other(database: str, home: Path) -> None:
    """The database was away when the run ended: its last word has not arrived yet."""
    process = dead_process()
    run = driven(database, process)
    folder = home / "spool" / run.run_id
    folder.mkdir(parents=True)
    driver = {**process, "spool": str(folder)}
    run.add("event", time.time(), name=DRIVER, detail=driver).write(database)
    run.state(time.time(), "completed", exit_code=0)
    (folder / f"{run.name}.000000000004.jsonl").write_text("".join(json.dumps(r) + "\n" for r in run.records))
    with follow.reading() as connected:
        assert dead_runs.settle(connected)
        assert queries.run_of(connected, run.run_id).state == "completed"
    assert not folder.exists()


def test_stop_ends_a_dead_local_run_at_once(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = driven(database, dead_process())
    code, out, err = call(capsys, "jobs", "stop", run.run_id, "--timeout", "100000", "--json")
    assert (code, err, json.loads(out)["state"]) == (0, "", "cancelled")
    assert states(database) == {run.run_id: "cancelled"}


@pytest.mark.parametrize(
    ("other", "dead"),
    [
        ({}, False),
        ({"started": 1}, True),
        ({"boot": "another"}, bool(Path("/etc/machine-id").exists() and Path("/etc/machine-id").read_text().strip())),
        ({"host": "another"}, False),
        ({"machine": "another"}, False),
        ({"namespace": "pid:[1]", "started": 1}, False),
        ({"pid": None}, False),
        ({"pid": "1; rm"}, False),
        ({"started": 0}, False),
    ],
)
def test_a_process_is_dead_only_where_this_machine_knows_it(other: dict[str, Any], dead: bool) -> None:
    assert processes.is_dead(processes.identity() | other) == dead


def test_a_process_that_nobody_has_reaped_is_dead() -> None:
    process = subprocess.Popen(["true"])
    try:
        known = processes.identity() | {"pid": process.pid, "started": 1}
        until(lambda: "Z" in Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0])
        assert processes._started(process.pid) == 0
        assert processes.is_dead(known)
    finally:
        process.wait()
    assert not processes.is_dead({})


def test_what_a_completed_run_went_on_from_is_not_at_work(database: str) -> None:
    """On another machine nobody can look for its process."""
    first = driven(database, {"host": "elsewhere"})
    second = driven(database, {"host": "elsewhere"}, parent_run_id=first.run_id)
    third = driven(database, {"host": "elsewhere"}, parent_run_id=second.run_id)
    other = driven(database, {"host": "elsewhere"})
    third.state(time.time(), "failed", exit_code=1).write(database)
    assert states(database)[first.run_id] == "running", "it may be the one that holds the output"
    fourth = driven(database, {"host": "elsewhere"}, parent_run_id=third.run_id)
    fourth.state(time.time(), "completed", exit_code=0).write(database)
    named = {first.run_id: "failed", second.run_id: "failed", third.run_id: "failed", fourth.run_id: "completed"}
    assert states(database) == named | {other.run_id: "running"}
