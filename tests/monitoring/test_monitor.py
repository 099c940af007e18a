"""A run and its monitor: what it leaves in Postgres, and what happens to it when Postgres or the monitor goes away."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import psycopg2
import pytest
from helpers import call, north_up, write_raster
from ports import free_port
from trials import extend, make_square
from waiting import PATIENCE, until

from geopipe.errors import Paused, SourceError
from geopipe.events.emit import emit, subscribe
from geopipe.events.records import Body, Event, Log, Progress, State, new_run_id
from geopipe.export import state
from geopipe.export.lock import STAGING
from geopipe.monitoring import leftovers, presence, requests
from geopipe.monitoring.actor import Monitor
from geopipe.monitoring.collector import Collector, open_collector
from geopipe.monitoring.database import connections, embedded, schema
from geopipe.monitoring.options import MonitoringOptions
from geopipe.monitoring.recorder import Recorder
from geopipe.monitoring.spool import Spool
from geopipe.run import pipeline
from geopipe.run.reporting import monitoring_options
from geopipe.settings import load as settings

OUTAGE = float(os.environ.get("GEOPIPE_OUTAGE", "4"))
"""Seconds for which Postgres is away; `make chaos` takes the full minute."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Settings of a run of nine tiles and two layers."""
    file = make_square(tmp_path, "watched", 3)
    values = np.add.outer(np.arange(700), np.arange(700)).astype("float32")
    write_raster(tmp_path / "b.tif", values, "EPSG:32632", north_up(500000, 5000000, 25))
    extend(file, '[[layers]]\nname = "b"\npath = "b.tif"\n')
    return file


def run(file: Path, *flags: str, engine: str = "local", **how: Any) -> pipeline.Summary:
    return pipeline.run(settings.load(file, (*flags, f"engine.kind={engine}")), **{"overwrite": True, **how})


def ask(dsn: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(dsn)) as connected, connected.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall()


def progress(dsn: str, run_id: str) -> dict[str, int]:
    sums = "SELECT stage, sum(tiles)::int FROM pipeline_progress WHERE run_id = %s GROUP BY stage"
    return dict(ask(dsn, sums, run_id))


def test_a_run_leaves_its_whole_story(file: Path, dsn: str) -> None:
    entries: list[Body] = []
    unsubscribe = subscribe(entries.append)
    result = slowed(0.3, lambda: run(file, "monitoring.metrics_interval=0.1"))
    unsubscribe()
    ((name, state, attempt, code, plan, output, totals, layers),) = ask(
        dsn,
        "SELECT name, state, attempt, exit_code, plan_hash, output, totals, settings #> '{layers,0,name}' "
        "FROM pipeline_runs WHERE run_id = %s AND started_at <= finished_at AND heartbeat_at >= started_at",
        result.run_id,
    )
    assert (name, state, attempt, code) == ("watched", "completed", 1, 0)
    assert (plan, output, layers) == (result.plan.hash, str(result.output), "a")
    assert totals == progress(dsn, result.run_id) == {"read": 18, "merge": 9, "write": 9}
    cells = ask(dsn, "SELECT layer, cells FROM pipeline_progress WHERE stage = 'read' ORDER BY layer")
    assert cells == [("a", 1536 * 1536), ("b", 1536 * 1536)]
    stages = "SELECT stage FROM pipeline_events WHERE name = 'stage_started' ORDER BY seq"
    assert [s for (s,) in ask(dsn, stages)] == ["plan", "run", "validate", "commit", "report"]
    assert ask(dsn, "SELECT detail ->> 'rows' FROM pipeline_events WHERE name = 'committed'") == [(str(result.rows),)]
    messages = [m for (m,) in ask(dsn, "SELECT message FROM pipeline_logs WHERE level = 'INFO' ORDER BY seq")]
    assert messages[0] == "plan started"
    assert messages[-1].startswith("run took")
    names = {n for (n,) in ask(dsn, "SELECT DISTINCT name FROM pipeline_metrics")}
    assert "cells_per_second" in names
    assert names >= {"cpu_percent", "rss_bytes", "memory_used_bytes", "disk_free_bytes"}
    ((arrived,),) = ask(dsn, "SELECT seq FROM pipeline_sources WHERE run_id = %s", result.run_id)
    completed = max(i for i, body in enumerate(entries, 1) if isinstance(body, State))
    assert completed <= arrived <= len(entries), "every record has arrived; a last sample may be told to nobody"
    assert not left_on_disk()


def test_without_database_logging_nothing_goes_there(file: Path, dsn: str) -> None:
    result = run(file, "monitoring.enable_database_logging=false")
    assert ask(dsn, "SELECT count(*) FROM pipeline_runs") == [(0,)]
    assert result.stages["write"].tiles == 9, "progress is counted all the same"


def test_metrics_can_be_left_out_and_come_at_their_interval(file: Path, dsn: str) -> None:
    def samples(*flags: str) -> int:
        result = slowed(0.2, lambda: run(file, *flags))
        name = "SELECT count(*) FROM pipeline_metrics WHERE run_id = %s AND name = 'cpu_percent'"
        return int(ask(dsn, name, result.run_id)[0][0])

    assert samples("monitoring.enable_metrics=false") == 0
    assert samples("monitoring.metrics_interval=1000") == 1, "the first comes at once"
    assert samples("monitoring.metrics_interval=0.01") > 2


def test_without_a_database_a_run_is_counted_all_the_same(
    file: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the batch that is sent again and again, because it is not kept."""
    monkeypatch.setenv("GEOPIPE_MONITORING_DSN", dsn.replace("canary-7f3a91", "canary-wrong"))
    result = run(file, "monitoring.log_batch_size=10")
    assert {stage: one.tiles for stage, one in result.stages.items()} == {"read": 18, "merge": 9, "write": 9}


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize("works", [True, False])
def test_prometheus_hears_how_a_run_ended(file: Path, dsn: str, works: bool) -> None:
    port, seen, ended = free_port(), list[str](), threading.Event()
    if not works:
        whole = (file.parent / "b.tif").read_bytes()
        (file.parent / "b.tif").write_bytes(whole[: len(whole) * 3 // 4])

    def scrape() -> None:
        while not ended.wait(0.2):
            with suppress(OSError, HTTPException):
                seen.append(metrics(port))

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        with nullcontext() if works else pytest.raises(SourceError):
            slowed(0.3, lambda: run(file, f"monitoring.prometheus_port={port}"))
    finally:
        ended.set()
        thread.join()
    assert any('geopipe_run_state{state="running"} 1.0' in text for text in seen)
    assert 'geopipe_run_state{state="running"} 0.0' in seen[-1]
    assert f'geopipe_run_state{{state="{"completed" if works else "failed"}"}} 1.0' in seen[-1]
    assert ("geopipe_last_success_timestamp_seconds 1." in seen[-1]) == works


def test_prometheus_can_look_at_a_run_at_work(file: Path, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geopipe.engine.local.LAST_SCRAPE", 0.1)  # nobody looks once more
    port, seen = free_port(), []

    def look(_: pipeline.Snapshot) -> None:
        seen.append(metrics(port))

    slowed(0.1, lambda: run(file, f"monitoring.prometheus_port={port}", watch=look))
    assert 'geopipe_run_state{state="running"} 1.0' in seen[-1]
    assert "geopipe_cells_total" in seen[-1]
    with pytest.raises(OSError, match="refused"):
        look(pipeline.Snapshot({}, {}, 0))


def test_a_port_that_is_taken_does_not_stop_the_run(file: Path, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        with caplog.at_level("WARNING"):
            assert run(file, f"monitoring.prometheus_port={taken.getsockname()[1]}").exit_code == 0
    (warning,) = [r.getMessage() for r in caplog.records if "Prometheus" in r.getMessage()]
    assert "monitoring.prometheus_port" in warning


@pytest.mark.parametrize(
    ("address", "flags", "host"),
    [
        (None, (), "127.0.0.1"),
        ("127.0.0.1:6379", (), "127.0.0.1"),
        ("10.0.0.7:6379", (), "0.0.0.0"),
        (None, ("monitoring.prometheus_host=0.0.0.0",), "0.0.0.0"),
        ("10.0.0.7:6379", ("monitoring.prometheus_host=127.0.0.1",), "127.0.0.1"),
    ],
)
def test_only_a_cluster_answers_prometheus_of_another_machine_unasked(
    file: Path, address: str | None, flags: tuple[str, ...], host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert monitoring_options(settings.load(file, flags), "r", 1).prometheus_host == host


def test_on_one_machine_only_the_loopback_answers_prometheus(
    file: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geopipe.engine.local.LAST_SCRAPE", 0.1)
    port, listening = free_port(), set[str]()

    def look(_: pipeline.Snapshot) -> None:
        result = [c.laddr for c in psutil.Process().net_connections("inet") if c.status == "LISTEN"]
        listening.update(place.ip for place in result if place.port == port)

    run(file, f"monitoring.prometheus_port={port}", watch=look)
    assert listening == {"127.0.0.1"}


@contextmanager
def at_write(act: Callable[[], object]) -> Iterator[None]:
    """Do something whenever a tile is written by this process; the run waits for it."""
    unsubscribe = subscribe(lambda body: act() if isinstance(body, Progress) and body.stage == "write" else None)
    try:
        yield
    finally:
        unsubscribe()


def slowed(seconds: float, work: Callable[[], Any]) -> Any:
    """Do something while each tile that is written takes longer."""
    with at_write(lambda: time.sleep(seconds)):
        return work()


def test_who_watches_is_called_by_one_thread_at_a_time(file: Path) -> None:
    spans, begun = list[tuple[float, float]](), threading.Event()

    def watch(_: pipeline.Snapshot) -> None:
        start = time.monotonic()
        begun.set()
        time.sleep(0.2)
        spans.append((start, time.monotonic()))

    with at_write(lambda: begun.wait(PATIENCE)):
        run(file, watch=watch)
    assert len(spans) > 1, "one at work, and one at the end"
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_a_failed_run_says_why(file: Path, dsn: str) -> None:
    whole = (file.parent / "b.tif").read_bytes()
    (file.parent / "b.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError) as caught:
        run(file)
    ((state, code, error),) = ask(dsn, "SELECT state, exit_code, error FROM pipeline_runs")
    assert (state, code) == ("failed", 1)
    assert error == {"type": "SourceError", "message": caught.value.message, "hint": caught.value.hint}
    ((level, message),) = ask(dsn, "SELECT level, message FROM pipeline_logs WHERE level_no >= 40 AND stage IS NULL")
    assert (level, message) == ("ERROR", caught.value.message)


def pause(file: Path, dsn: str) -> None:
    """Ask a run that is at work to pause, and wait until it has heard of it."""
    running = "SELECT run_id::text FROM pipeline_runs WHERE state = 'running'"
    ((run_id,),) = until(lambda: ask(dsn, running))
    requests.send_request(run_id, "pause")
    (plan,) = (file.parent / "out" / STAGING).glob(f"*/{state.PLAN}")
    until(plan.with_name(state.PAUSE).exists)


def test_a_run_pauses_when_it_is_asked_and_goes_on_as_its_next_attempt(
    file: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "EVERY", 0.05)
    whole = run(file, "run.output=whole")
    with at_write(lambda: pause(file, dsn)), pytest.raises(Paused, match=r"[1-8] of 9 tiles") as caught:
        run(file, overwrite=False)
    assert caught.value.exit_code == 75
    ((first, state, request),) = ask(
        dsn, "SELECT run_id::text, state, request FROM pipeline_runs WHERE run_id::text <> %s", whole.run_id
    )
    assert (state, request) == ("paused", "pause")
    result = run(file, resume=True, overwrite=False)
    assert result.stages["write"].tiles < 9, "what was done is not done again"
    again = ask(dsn, "SELECT state, attempt, parent_run_id::text FROM pipeline_runs WHERE run_id = %s", result.run_id)
    assert again == [("completed", 2, first)]
    assert (result.output / "manifest.jsonl").read_bytes() == (whole.output / "manifest.jsonl").read_bytes()


def test_a_pause_outlives_the_skipping_of_a_layer(file: Path, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "EVERY", 0.05)
    whole = (file.parent / "b.tif").read_bytes()
    (file.parent / "b.tif").write_bytes(whole[: len(whole) // 2])
    extend(file, 'on_error = "skip"\n')

    def ask_for_it(body: Body) -> None:
        if isinstance(body, Event) and body.name == "stage_ended" and body.detail["outcome"] == "failed":
            pause(file, dsn)  # the attempt has failed, and still hears of it

    unsubscribe = subscribe(ask_for_it)
    try:
        with pytest.raises(Paused, match=r"\b1 of 9 tiles"):
            run(file, overwrite=False)
    finally:
        unsubscribe()
    result = run(file, resume=True, overwrite=False)
    assert (result.exit_code, list(result.skipped)) == (4, ["b"])


def test_what_is_to_do_counts_on_where_a_layer_is_skipped(file: Path, dsn: str) -> None:
    whole = (file.parent / "b.tif").read_bytes()
    (file.parent / "b.tif").write_bytes(whole[: len(whole) * 3 // 4])
    extend(file, 'on_error = "skip"\n')
    seen: list[pipeline.Snapshot] = []
    result = run(file, watch=seen.append)
    done = {stage: one.tiles for stage, one in result.stages.items()}
    assert done["write"] > 9, "an attempt has been given up, which worked, too"
    assert done == progress(dsn, result.run_id) == seen[-1].totals
    assert ask(dsn, "SELECT totals FROM pipeline_runs") == [(done,)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_as_cancelled_with_its_records_in_place(
    file: Path, dsn: str, number: signal.Signals, code: int
) -> None:
    """P9: soon, also from compiled code; a run that goes on would be completed."""
    command = [sys.executable, "-m", "geopipe", "run", str(file), "--engine=local", "--set", "grid.resolution=2"]
    command += ["--set", "monitoring.progress_interval=0.2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "write" in line and "write 0/" not in line:
            break
    process.send_signal(number)
    stderr = process.stderr.read()
    assert process.wait(timeout=PATIENCE) == code, stderr
    assert "error" not in stderr
    assert ask(dsn, "SELECT state, exit_code FROM pipeline_runs") == [("cancelled", code)]
    ended = "SELECT detail ->> 'outcome' FROM pipeline_events WHERE name = 'stage_ended' AND stage = 'run'"
    assert ask(dsn, ended) == [("cancelled",)]
    ((last,),) = ask(dsn, "SELECT max(seq) FROM pipeline_sources")
    assert last > 10


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda dsn: dsn.replace("canary-7f3a91", "canary-wrong"), "refuses this user or password"),
        (lambda dsn: dsn.replace("127.0.0.1:", "127.0.0.1:1"), "cannot be reached|not valid"),
        (lambda dsn: dsn.rpartition("/")[0] + "/nothing", "no database of this name"),
        (lambda dsn: dsn.rpartition("/")[0] + "/postgres", "geopipe db upgrade"),
    ],
    ids=["password", "port", "database", "schema"],
)
def test_a_database_that_cannot_be_used_is_told_once_and_leaves_nothing(
    file: Path,
    dsn: str,
    broken: Callable[[str], str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("GEOPIPE_MONITORING_DSN", broken(dsn))
    with caplog.at_level("WARNING"):
        first = run(file)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert re.search(message, warning)
    assert "canary" not in caplog.text
    assert first.stages["write"].tiles == 9
    assert not left_on_disk()


def test_a_database_that_answers_before_the_end_has_all_of_the_run(
    file: Path, dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GEOPIPE_MONITORING_DSN", dsn.rpartition("/")[0] + "/nothing")

    def mend(snapshot: pipeline.Snapshot) -> None:
        monkeypatch.setenv("GEOPIPE_MONITORING_DSN", dsn)

    with caplog.at_level("WARNING"):
        result = slowed(0.2, lambda: run(file, watch=mend))
    assert [r.getMessage()[:16] for r in caplog.records if r.levelname == "WARNING"] == ["the run goes on,"]
    assert progress(dsn, result.run_id) == {"read": 18, "merge": 9, "write": 9}
    assert ask(dsn, "SELECT state FROM pipeline_runs WHERE run_id = %s", result.run_id) == [("completed",)]
    assert not left_on_disk()


def test_where_no_database_can_be_started_there_is_none_and_no_warning(
    file: Path, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a plain `pip install geopipe`."""
    result = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "pgserver" in name else result(name))
    with caplog.at_level("INFO"):
        summary = run(file)
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == []
    (message,) = [r.getMessage() for r in caplog.records if "no database" in r.getMessage()]
    assert "pip install 'geopipe[postgres]'" in message
    assert summary.stages["write"].tiles == 9
    assert not left_on_disk()


def test_a_healthy_run_warns_of_nothing_though_a_dead_worker_left_records(
    file: Path, dsn: str, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead = f"{os.uname().nodename}-1-1"
    folder = home / "spool" / "01890000-0000-7000-8000-000000000000"
    folder.mkdir(parents=True)
    left = {"seq": 1, "source": dead, "run_id": folder.name, "ts": 1.7e9, "kind": "event", "name": "x", "detail": {}}
    (folder / f"{dead}.000000000001.jsonl").write_text(json.dumps(left) + "\n")
    with caplog.at_level("INFO"):
        run(file)
    assert ask(dsn, "SELECT count(*) FROM pipeline_events WHERE run_id = %s", folder.name) == [(1,)]
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING" or "again" in r.getMessage()] == []


def test_the_monitor_of_a_run_keeps_what_another_run_left_and_counts_none_of_it(dsn: str, home: Path) -> None:
    """As a node sends it that knows no database."""
    own, other = new_run_id(), new_run_id()
    monitor = Monitor(MonitoringOptions(own))
    folder = home / "spool" / other
    left = Spool(folder, "elsewhere-1-1", 1 << 20, {"run_id": other, "attempt": 1})
    for body in (Event("x", {}), Progress("write", 3, 30, 0.1), State("failed", {})):
        left.append(body)
    left.close()
    twice = [path.read_text().splitlines() for path in folder.glob("*.jsonl")] * 2
    assert [monitor.receive_other(left.source, lines) for lines in twice] == [3, 3]
    leftovers.deliver_others(MonitoringOptions(own), 30.0, monitor.receive_other)
    assert not folder.exists()
    assert monitor.stages() == {}
    monitor.close(0.0)
    assert ask(dsn, "SELECT run_id::text, state FROM pipeline_runs") == [(other, "failed")]
    assert progress(dsn, other) == {"write": 3}
    assert ask(dsn, "SELECT name FROM pipeline_events WHERE run_id = %s", other) == [("x",)]


def test_what_earlier_runs_left_is_pruned_by_age_and_size(
    file: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "KEPT_BYTES", 2500)
    days = {"old": 15.0, "middle": 3.0, "young": 2.0, "newest": 1.0, "held": 30.0}
    for name, age in days.items():
        folder = home / "spool" / name
        folder.mkdir(parents=True)
        path = folder / "elsewhere-1-1.000000000001.jsonl"
        path.write_bytes(b"x" * 999 + b"\n")
        for one in (path, folder):
            os.utime(one, (time.time() - age * 86_400,) * 2)
    lock = subprocess.Popen(["flock", home / "spool" / "held" / f"{os.uname().nodename}-1-1.pid", "sleep", "600"])
    try:
        until(lambda: presence.living(home / "spool" / "held"))
        run(file, "monitoring.enable_database_logging=false")
    finally:
        lock.kill()
        lock.wait()
    assert {path.name for path in (home / "spool").iterdir()} == {"young", "newest", "held"}


@pytest.mark.parametrize("strategy", ["aligned", "groupby"])
def test_no_process_of_a_cluster_that_lives_on_holds_a_file_of_a_run_that_is_over(
    file: Path, home: Path, ray_session: None, strategy: str
) -> None:
    for number in range(2):
        flags = ("monitoring.enable_database_logging=false", f"merge.strategy={strategy}", f"run.output=out{number}")
        run(file, *flags, engine="ray")
        until(lambda: not open_below(file.parent, home))  # a worker of the ended Dataset may be on its way out
        assert not left_on_disk()


def left_on_disk() -> list[Path]:
    """What waits on this node, of any run."""
    return list((Path(os.environ["GEOPIPE_HOME"]) / "spool").glob("*/*"))


def open_below(*folders: Path) -> list[str]:
    """The files in these folders that any process has open."""
    links = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            links.append(os.readlink(link))
    return [link for link in links if link.startswith(tuple(f"{folder}/" for folder in folders))]


@pytest.mark.slow
def test_nobody_needs_to_start_a_database_and_it_is_said_how_it_ends(
    file: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        document = []
        for _ in range(2):
            code, _, err = call(capsys, "run", file, "--engine=local", "--overwrite")
            assert code == 0
            document.append("geopipe db stop" in err)
        assert document == [True, False], "by the run that has started it"
        ((run_id, *_), *_) = ask(embedded.url(), "SELECT run_id::text FROM pipeline_runs")
        assert progress(embedded.url(), run_id) == {"read": 18, "merge": 9, "write": 9}
    finally:
        embedded.stop()
    code, _, err = call(capsys, "monitor", "runs")
    assert code == 3
    assert f"{home}/postgres, which does not run" in err
    assert "geopipe db start" in err


def test_a_tile_is_told_to_be_written_when_its_receipt_is_durable(file: Path) -> None:
    """Else a kill between the two leaves 1/9 in the monitor and 0 of 9 in the folder."""
    seen: list[tuple[int, int]] = []

    def hear(body: Body) -> None:
        if isinstance(body, Progress) and body.stage == "write" and body.tiles:
            (left,) = state.status(file.parent / "out").unfinished
            seen.append((left.done, len(seen) + 1))

    unsubscribe = subscribe(hear)
    try:
        run(file)
    finally:
        unsubscribe()
    assert [done for done, _ in seen] == [entry for _, entry in seen] == list(range(1, 10))


@pytest.mark.slow
def test_an_outage_loses_and_doubles_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P4: Postgres is away for OUTAGE seconds under full load, and is restarted five times."""
    monkeypatch.setattr("geopipe.monitoring.collector.RETRY", (0.1, 0.5))
    dsn = embedded.start()
    schema.upgrade(dsn)
    run_id = "01a20da6-9a60-74ae-a0f4-93a5bf6fa04d"
    options = MonitoringOptions(
        run_id, output=home, batch_size=500, flush_interval=0.2, spool_bytes=2**30, root=home / "spool"
    )
    watcher = Recorder(options, open_collector(options).receive)
    ended, emitted = threading.Event(), 0

    def load() -> None:
        nonlocal emitted
        while not ended.is_set():
            emitted += 1
            emit(Log("INFO", "geopipe.test", f"message {emitted}"))
            if emitted % 50 == 0:
                time.sleep(0.01)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        time.sleep(0.5)
        embedded.stop()
        before = emitted
        time.sleep(OUTAGE)
        until(lambda: emitted - before > 100 * OUTAGE)  # those who speak do not wait
        for _ in range(5):
            embedded.start()
            time.sleep(0.3)
            embedded.stop()
        embedded.start()
    finally:
        ended.set()
        thread.join()
        arrived = watcher.close(2 * PATIENCE)
    try:
        assert arrived
        rows = ask(dsn, "SELECT count(*), count(DISTINCT seq), min(seq), max(seq) FROM pipeline_logs")
        assert rows == [(emitted, emitted, 1, emitted)]
        texts = "SELECT bool_and(message = 'message ' || seq) FROM pipeline_logs"
        assert ask(dsn, texts) == [(True,)]
    finally:
        embedded.stop()


@pytest.mark.parametrize("strategy", ["aligned", "groupby"])
def test_the_death_of_the_monitor_changes_nothing(
    file: Path, home: Path, dsn_file: str, ray_session: None, strategy: str
) -> None:
    """P3: kill -9 of the monitoring actor in the middle of a run."""
    import ray

    whole = run(file, "run.output=whole")
    killed: list[int] = []

    def kill(snapshot: pipeline.Snapshot) -> None:
        if killed or not snapshot.stages:
            return
        run_id = max(folder.name for folder in (home / "spool").iterdir())
        actor: Any = ray.get_actor(f"monitor-{run_id}", namespace="geopipe")
        killed.append(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())))
        os.kill(killed[0], signal.SIGKILL)

    flags = (f"merge.strategy={strategy}", "merge.wave_tiles=3")
    result = run(file, *flags, engine="ray", watch=kill)
    assert killed
    assert progress(dsn_file, result.run_id) == {"read": 18, "merge": 9, "write": 9}
    assert (result.output / "manifest.jsonl").read_bytes() == (whole.output / "manifest.jsonl").read_bytes()
    assert ask(dsn_file, "SELECT state FROM pipeline_runs WHERE run_id = %s", result.run_id) == [("completed",)]


def test_records_of_every_process_carry_their_place(file: Path, dsn_file: str, ray_session: None) -> None:
    result = run(file, engine="ray")
    sources = ask(dsn_file, "SELECT source FROM pipeline_sources WHERE run_id = %s", result.run_id)
    assert len(sources) >= 2, "the driver and at least one worker"
    places = ask(dsn_file, "SELECT DISTINCT attempt, node FROM pipeline_events WHERE run_id = %s", result.run_id)
    assert places == [(1, os.uname().nodename)]
    assert isinstance(open_collector(monitoring_options(settings.load(file), result.run_id, 1)), Collector)
    assert connections.dsn() == dsn_file
