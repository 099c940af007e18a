"""What the monitor's tables say of runs: each question against a real Postgres, each rate against a made-up past."""

from __future__ import annotations

import os
import re
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from monitored import HOSTILE, Source, fill, new_id, settle
from psycopg2.extensions import connection
from waiting import PATIENCE, until

from geopipe import text
from geopipe.cli import screen
from geopipe.cli.show_metrics import amount, resampled
from geopipe.errors import MachineError, SettingsError
from geopipe.monitoring import presence
from geopipe.monitoring.database import follow, history, queries
from geopipe.monitoring.database.runs import Filter, Look, RunRow, Series, Stage

ALL = Filter()


@pytest.fixture(scope="module")
def runs(monitor_dsn: str) -> dict[str, str]:
    return fill(monitor_dsn)


@pytest.fixture
def connected(monitor_dsn: str, runs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[connection]:
    monkeypatch.setenv("GEOPIPE_MONITORING_DSN", monitor_dsn)
    with follow.reading() as opened:
        yield opened


def run_named(connected: connection, run_id: str) -> RunRow:
    return queries.run_of(connected, run_id)


# ---------------------------------------------------------------- runs


def test_runs_are_the_newest_first_with_their_state_share_and_time(connected: connection, runs: dict[str, str]) -> None:
    listed = queries.runs(connected)
    assert [run.run_id for run in listed] == [runs[k] for k in ("running", "completed", "stale", "failed", "hostile")]
    assert [run.displayed for run in listed] == ["running", "completed", "stale", "failed", "cancelled"]
    assert [run.ended for run in listed] == [False, True, False, True, True]
    working, done, stale, failed, _ = listed
    assert working.share == pytest.approx((1980 + 330 + 300) / (2900 + 580 + 580))
    assert (done.share, stale.share, failed.share) == (1.0, pytest.approx(45 / 150), pytest.approx(0.3))
    assert done.seconds == pytest.approx(15, abs=0.1)
    assert stale.seconds == pytest.approx(3600, abs=600)  # until it was last heard of, not until now
    assert working.totals == {"read": 2900, "merge": 580, "write": 580}  # without what is no number
    assert failed.error is not None
    assert failed.error["hint"] == "give layers.crs"


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"name": "demo"}, ["completed", "failed"]),
        ({"name": "d*"}, ["completed", "failed"]),
        ({"name": "?orl?"}, ["running"]),
        ({"name": "%"}, []),
        ({"name": "_____"}, []),
        ({"name": "x'*[red]*\\x1b*"}, []),
        ({"name": HOSTILE}, ["hostile"]),
        ({"states": ("running",)}, ["running"]),
        ({"states": ("stale",)}, ["stale"]),
        ({"states": ("failed", "cancelled")}, ["failed", "hostile"]),
        ({"since": timedelta(minutes=30)}, ["running", "completed"]),
        ({"limit": 2}, ["running", "completed"]),
        ({"name": "demo", "states": ("failed",), "limit": 1}, ["failed"]),
    ],
)
def test_each_filter_of_runs_keeps_what_it_names(
    connected: connection, runs: dict[str, str], filters: dict[str, Any], expected: list[str]
) -> None:
    assert [run.run_id for run in queries.runs(connected, **filters)] == [runs[what] for what in expected]


def test_a_run_is_meant_by_its_id_the_start_of_one_its_name_or_latest(
    connected: connection, runs: dict[str, str]
) -> None:
    failed = runs["failed"]
    for name in (failed, failed.upper(), failed.replace("-", ""), failed[:13], failed.replace("-", "")[:11]):
        assert queries.find_run(connected, name).run_id == failed
    assert queries.find_run(connected, "demo").run_id == runs["completed"]  # the newest of that name
    assert queries.find_run(connected, "latest").run_id == queries.find_run(connected, None).run_id == runs["running"]
    assert queries.find_run(connected, HOSTILE).run_id == runs["hostile"]


def test_a_start_that_several_ids_have_is_one_error_that_lists_them(
    connected: connection, runs: dict[str, str]
) -> None:
    with pytest.raises(SettingsError, match="01 is the start of several ids") as caught:
        queries.find_run(connected, "01")
    for run_id in runs.values():
        assert run_id in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("name", ["wrold", "'; DROP TABLE pipeline_runs; --", "%", "ffff", "\x1b[2J"])
def test_an_unknown_run_is_one_error_with_names_and_the_last_runs(connected: connection, name: str) -> None:
    with pytest.raises(SettingsError, match="there is no run") as caught:
        queries.find_run(connected, name)
    assert ("world?" in caught.value.hint) == (name == "wrold")
    assert re.search(r"demo, completed, 1\d min ago", caught.value.hint)
    assert "\x1b" not in str(caught.value)
    assert len(queries.runs(connected)) == 5


def test_an_empty_database_says_that_no_run_was_recorded(connected: connection, monitor_dsn: str) -> None:
    with closing(psycopg2.connect(monitor_dsn)) as empty, empty.cursor() as cursor:
        cursor.execute("TRUNCATE pipeline_runs")  # and never commit
        for name in (None, "demo", "01"):
            with pytest.raises(SettingsError, match="been recorded yet"):
                queries.find_run(empty, name)
        empty.rollback()


def test_questions_cannot_write(connected: connection) -> None:
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction), connected.cursor() as cursor:
        cursor.execute("DELETE FROM pipeline_runs")


# ---------------------------------------------------------------- logs


def messages(connected: connection, run_id: str, **filters: Any) -> list[str]:
    return [log.message for log in history.last_logs(connected, run_named(connected, run_id), Filter(**filters))]


def test_each_filter_of_logs_keeps_what_it_names(connected: connection, runs: dict[str, str]) -> None:
    run = runs["running"]
    assert len(messages(connected, run)) == 46
    assert len(messages(connected, run, level="INFO")) == 45
    assert len(messages(connected, run, level="WARNING")) == 15
    assert messages(connected, run, level="CRITICAL") == ["worker 4711 died: out of memory"]
    assert messages(connected, run, stage="write") == ["tile 17 was written twice"]
    assert messages(connected, run, layer="nlcd") == ["connection to s3://bucket/nlcd.tif was reset after 30 s"]
    assert messages(connected, run, grep="block 1[01]:") == [
        f"srtm.tif: band 1, block {n}: not readable (TIFFReadEncodedTile failed)" for n in (10, 11)
    ]
    assert messages(connected, run, grep="(?i)TILE 17") == ["tile 17 was written twice"]
    assert messages(connected, run, grep="no such block") == []
    assert len(messages(connected, run, grep="no such block", tracebacks=True)) == 12
    (warned,) = history.last_logs(connected, run_named(connected, run), Filter(stage="write"))
    recent = datetime.now(UTC) - warned.ts + timedelta(seconds=1)
    assert messages(connected, run, since=recent)[0] == "tile 17 was written twice"
    assert messages(connected, run, stage="write", level="ERROR") == []
    counted = history.count_logs(connected, run_named(connected, run), Filter(level="ERROR"))
    assert counted == 14


def test_the_last_logs_of_thousands_come_in_order_of_time_source_and_sequence(
    connected: connection, runs: dict[str, str]
) -> None:
    rows = history.last_logs(connected, run_named(connected, runs["completed"]), ALL, 500)
    assert [log.message for log in rows] == [f"line {n}" for n in range(2500, 3000)]
    assert history.count_logs(connected, run_named(connected, runs["completed"]), ALL) == 3000


def test_equal_times_are_ordered_by_source_and_sequence(connected: connection, monitor_dsn: str) -> None:
    at = time.time() - 40 * 86400
    sources = [Source(new_id(at, 77), name) for name in ("b", "a")]
    sources[0].state(at, "completed", name="ties")
    for source in sources:
        for n in range(11):
            source.log(at, f"{source.name}{n}")
        source.write(monitor_dsn)
    expected = [f"{name}{n}" for name in "ab" for n in range(11)]
    assert messages(connected, sources[0].run_id) == expected
    run = run_named(connected, sources[0].run_id)
    new = history.new_logs(connected, run, ALL, {}, history.log_marks(connected, run))
    assert [log.message for log in new] == expected
    settle(monitor_dsn, f"DELETE FROM pipeline_runs WHERE run_id = '{run.run_id}'")


def test_what_came_late_is_new_though_it_is_old(connected: connection, monitor_dsn: str) -> None:
    """A worker's batch may arrive minutes after younger ones of others: a mark of time would hide it."""
    at = time.time() - 30 * 86400
    early, late = Source(new_id(at, 78), "driver"), Source(new_id(at, 78), "worker")
    early.state(at, "running", name="late").log(at + 10, "young").write(monitor_dsn)
    run = run_named(connected, early.run_id)
    marks = history.log_marks(connected, run)
    late.log(at + 5, "old, and late").log(at + 6, "noise", "DEBUG").write(monitor_dsn)
    upto = history.log_marks(connected, run)
    rows = history.new_logs(connected, run, Filter(level="INFO"), marks, upto)
    assert [log.message for log in rows] == ["old, and late"]
    assert history.new_logs(connected, run, ALL, upto, upto) == []
    settle(monitor_dsn, f"DELETE FROM pipeline_runs WHERE run_id = '{run.run_id}'")


def test_a_run_whose_id_has_no_time_keeps_its_records_under_the_day_of_its_start() -> None:
    start = datetime(2020, 2, 29, 23, 59, tzinfo=UTC)
    run = replace(a_run(), run_id=str(uuid.uuid4()), created_at=start)
    assert run.day == start.date()
    assert replace(run, run_id=new_id(start.timestamp() + 120)).day == datetime(2020, 3, 1, tzinfo=UTC).date()


# ---------------------------------------------------------------- looks, causes, metrics


def test_a_look_has_stages_nodes_speeds_and_the_last_errors(connected: connection, runs: dict[str, str]) -> None:
    look = queries.look(connected, runs["running"], errors=2)
    assert [(s.stage, s.tiles, s.of) for s in look.stages] == [
        ("read", 1980, 2900),
        ("merge", 330, 580),
        ("write", 300, 580),
    ]
    assert look.stages[2].cells == 300 * 2**20
    assert [node.node for node in look.nodes] == ["worker-1", "worker-2"]
    assert look.nodes[0].values["memory_total_bytes"] == 16.5e9
    assert (look.error_count, look.warning_count) == (14, 1)
    assert [log.level for log in look.errors] == ["ERROR", "CRITICAL"]
    assert queries.look(connected, runs["stale"]).stages[-1] == Stage("write", 5, 50, 500, seconds=1.0)


def test_speeds_are_those_of_all_nodes_in_the_last_half_minute(connected: connection, monitor_dsn: str) -> None:
    now = time.time()
    run = Source(new_id(now - 86400 * 9, 82)).state(now - 200, "running", name="speedy")
    for node, ago, speed in (("a", 1, 10.0), ("a", 2, 20.0), ("b", 1, 100.0), ("b", 90, 1e9)):
        run.metric(now - ago, "cells_per_second", speed, "cells/s", node=node, stage="read")
    run.write(monitor_dsn)
    assert queries.look(connected, run.run_id).speeds == {"read": 115.0}
    settle(monitor_dsn, f"DELETE FROM pipeline_runs WHERE run_id = '{run.run_id}'")


def test_errors_are_grouped_by_cause_with_place_and_one_traceback(connected: connection, runs: dict[str, str]) -> None:
    causes = history.causes(connected, run_named(connected, runs["running"]), tracebacks=True)
    assert [cause.count for cause in causes] == [12, 1, 1]
    first = causes[0]
    assert (first.stages, first.layers) == (("read",), ("srtm",))
    assert (first.last_ts - first.first_ts).total_seconds() == pytest.approx(11)
    assert first.example.startswith("srtm.tif: band 1, block 0")
    assert first.traceback is not None
    assert first.traceback.startswith("Traceback")
    assert causes[1].traceback is None


def test_metrics_have_their_numbers_and_no_kind_has_another_ones(connected: connection, runs: dict[str, str]) -> None:
    run = run_named(connected, runs["running"])
    memory = history.metrics(connected, run, "memory", 30)
    assert {s.name for s in memory.series} == {
        "rss_bytes",
        "memory_used_bytes",
        "memory_total_bytes",
        "object_store_bytes",
        "spill_bytes",
    }
    cpu = history.metrics(connected, run, "cpu", 30).series
    assert {(s.name, s.node, s.unit) for s in cpu} == {
        ("cpu_percent", "worker-1", "percent"),
        ("cpu_percent", "worker-2", "percent"),
    }
    for series in cpu:
        assert series.count == 30
        assert series.low <= series.mean <= series.high
        values = [p for p in series.points if p is not None]
        assert len(series.points) == 30
        assert (min(values), max(values), values[-1]) == pytest.approx((series.low, series.high, series.last))
        assert sum(values) / len(values) == pytest.approx(series.mean)
    speeds = history.metrics(connected, run, "throughput", 10).series
    assert {(s.name, s.stage) for s in speeds} == {("cells_per_second", s) for s in ("read", "merge", "write")}
    assert len(history.metrics(connected, run, None, 10).series) == 2 * 7 + 3
    short = history.metrics(connected, run, "cpu", 10, timedelta(minutes=2))
    assert all(0 < s.count <= 12 for s in short.series)
    assert history.metrics(connected, run_named(connected, runs["failed"]), None, 10).series == ()


def test_a_single_value_and_one_that_is_no_number_make_a_plot(connected: connection, monitor_dsn: str) -> None:
    at = time.time() - 20 * 86400
    run = Source(new_id(at, 79)).state(at, "completed", name="few")
    run.metric(at, "cpu_percent", 5.0, "percent", node="n").metric(at, "rss_bytes", float("nan"), "bytes", node="n")
    run.metric(at + 1, "cpu_percent", float("inf"), "percent", node="n").write(monitor_dsn)
    rows = history.metrics(connected, run_named(connected, run.run_id), None, 10)
    assert [(s.name, s.count, s.last) for s in rows.series] == [("cpu_percent", 1, 5.0)]
    assert rows.series[0].points[0] == 5.0
    settle(monitor_dsn, f"DELETE FROM pipeline_runs WHERE run_id = '{run.run_id}'")


# ---------------------------------------------------------------- rates


def a_run(seconds: float = 100.0, state: str = "running", stale: bool = False) -> RunRow:
    now = datetime.now(UTC)
    start = now - timedelta(seconds=seconds)
    end = now if state in ("completed", "failed") else None
    return RunRow(
        new_id(start.timestamp()),
        "a",
        state,
        stale,
        None,
        1,
        None,
        None,
        None,
        start,
        start,
        now,
        end,
        None,
        None,
        {},
        {},
        now,
    )


def a_look(tiles: int, of: int = 1000, speeds: dict[str, float] | None = None, **run: Any) -> Look:
    stage = Stage("write", tiles, of, tiles * 100)
    return Look(a_run(**run), (stage,), (), (), 0, 0, speeds or {})


def test_a_rate_is_that_of_the_last_half_minute() -> None:
    pace = follow.paces([(0.0, a_look(100)), (20.0, a_look(300)), (45.0, a_look(800))])["write"]
    assert pace == pytest.approx(500 * 100 / 25)


def test_a_short_history_takes_the_runs_own_rate_and_else_the_mean_since_its_start() -> None:
    pace = follow.paces([(0.0, a_look(500)), (2.0, a_look(500))])["write"]
    assert pace == pytest.approx(500, rel=0.01)
    assert follow.paces([(0.0, a_look(500, speeds={"write": 7.0}))])["write"] == 7.0


def test_the_time_left_is_what_the_run_has_told_counted_down(monitor_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All who watch are told the same, whenever they began to."""
    monkeypatch.setenv("GEOPIPE_MONITORING_DSN", monitor_dsn)
    now = time.time()
    run = Source(new_id(now, 7_000_001)).state(now - 60, "running", name="told", totals={"write": 10})
    run.progress(now - 20, "write", 3).metric(now - 20, "seconds_left", 100.0, "s", stage="run").write(monitor_dsn)
    with follow.reading() as connected:
        result = queries.look(connected, run.run_id)
        assert result.left is not None
        assert 79 - (time.time() - now) < result.left <= 81
        assert all("seconds_left" not in node.values for node in result.nodes)
        run.state(now, "completed", exit_code=0).write(monitor_dsn)
        assert queries.look(connected, run.run_id).left is None


def test_the_newest_run_is_waited_for_where_it_is_about_to_begin(
    monitor_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOPIPE_HOME", str(tmp_path))
    monkeypatch.setenv("GEOPIPE_MONITORING_DSN", monitor_dsn)
    now = time.time() + 3600  # the newest of all
    Source(new_id(now, 1)).state(now, "completed", name="before", exit_code=0).write(monitor_dsn)
    coming = Source(new_id(now + 1, 2))
    folder = tmp_path / "spool" / coming.run_id
    folder.mkdir(parents=True)
    entries: list[str] = []

    def announce(text: str) -> None:
        entries.append(text)
        coming.state(now + 1, "running", name="after").write(monitor_dsn)

    with follow.reading() as connected:
        assert follow.newest(connected) == new_id(now, 1), "nobody begins"
        lock = subprocess.Popen(["flock", folder / f"{os.uname().nodename}-1-1.pid", "sleep", "600"])
        try:
            until(lambda: presence.living(folder))
            assert follow.newest(connected, 0.0, announce) == coming.run_id
        finally:
            lock.kill()
            lock.wait()
    assert entries == [f"waiting for run {coming.run_id}, which has recorded nothing yet"]
    settle(monitor_dsn, *(f"DELETE FROM pipeline_runs WHERE run_id = '{new_id(now + n, n + 1)}'" for n in range(2)))


def test_a_stage_that_is_done_has_no_rate() -> None:
    assert follow.paces([(0.0, a_look(1000))])["write"] is None


# ---------------------------------------------------------------- looking again and again


def test_a_notification_makes_the_next_look_come_sooner(connected: connection, monitor_dsn: str) -> None:
    at = time.time() - 10 * 86400
    run = Source(new_id(at, 80)).state(at, "running", name="woken")
    run.write(monitor_dsn)
    result = follow.looks(
        follow.connect_to_read, run.run_id, lambda c: run_named(c, run.run_id).state, every=2 * PATIENCE
    )
    assert next(result) == "running"
    run.state(at + 1, "completed").write(monitor_dsn)
    start = time.monotonic()
    assert next(result) == "completed"
    assert time.monotonic() - start < PATIENCE
    settle(monitor_dsn, f"DELETE FROM pipeline_runs WHERE run_id = '{run.run_id}'")


def test_a_run_that_is_deleted_ends_the_looking(connected: connection, monitor_dsn: str) -> None:
    at = time.time() - 10 * 86400
    run = Source(new_id(at, 81)).state(at, "running", name="deleted")
    run.write(monitor_dsn)
    result = follow.looks(follow.connect_to_read, run.run_id, lambda c: run_named(c, run.run_id).state)
    next(result)
    settle(monitor_dsn, f"DELETE FROM pipeline_runs WHERE run_id = '{run.run_id}'")
    with pytest.raises(SettingsError, match="not in the database any more"):
        next(result)


def test_a_server_that_stays_away_is_told_once_for_each_reason(connected: connection) -> None:
    reasons = ["refused", "refused", "starting up", "starting up"]

    def connect() -> connection:
        if reasons:
            raise MachineError(reasons.pop(0))
        return follow.connect_to_read()

    result = follow.looks(connect, "", lambda c: "back", every=0.01)
    assert [next(result) for _ in range(3)] == [follow.Away("refused"), follow.Away("starting up"), "back"]


# ---------------------------------------------------------------- words and numbers


def test_what_a_terminal_would_obey_is_spelled_out() -> None:
    assert text.clean("a\x1b[2J\x07\x9b\x7f\u202eb\ufeff") == "a\\x1b[2J\\x07\\x9b\\x7f\\u202eb\\ufeff"
    assert text.clean("two\nlines\r\n\tand a tab") == "two lines  and a tab"
    assert text.clean("Zürich 東京 [red]") == "Zürich 東京 [red]"
    assert text.clean_lines("a\n\x1bb\r\nc\u2028d") == ["a", "\\x1bb", "c", "d"]
    assert text.clean_lines("") == [""]


def test_times_and_numbers_are_short() -> None:
    assert [text.clock(s) for s in (0, 59.6, 725, 11229, 186000)] == ["0:00", "1:00", "12:05", "3:07:09", "2d 03:40"]
    assert [text.age(s) for s in (-5, 119, 120, 7199, 7200, 172799, 172800)] == [
        "0 s",
        "119 s",
        "2 min",
        "119 min",
        "2 h",
        "47 h",
        "2 d",
    ]
    assert [text.short(n) for n in (0, 950, 999.6, 12345, 4.5e6, 1e9, 2e13)] == [
        "0",
        "950",
        "1.00 k",
        "12.3 k",
        "4.50 M",
        "1.00 G",
        "20.0 T",
    ]
    assert [amount("rss_bytes", n) for n in (0, 999, 1023, 1.5 * 2**30, 700 * 2**20)] == [
        "0",
        "999",
        "1.0K",
        "1.5G",
        "700M",
    ]
    assert (amount("cpu_percent", 57.4), amount("cells_per_second", 1.05e6)) == ("57%", "1.05M")
    assert [text.share(p) for p in (None, 0, 0.996, 1)] == ["", "0%", "99%", "100%"]
    assert text.tail("/a/long/path", 8) == "…ng/path"
    assert text.tail("/a/long/path", 8, unicode=False) == ".../path"
    assert screen.head("東京東京", 5) == "東京…"


def test_a_plot_starts_at_zero_and_shows_gaps() -> None:
    assert screen.spark((0, 4, None, 7), 7, unicode=True) == "▁▅ █"
    assert screen.spark((0, 4, None, 7), 7, unicode=False) == "_= #"
    assert screen.spark((0, 0), 0, unicode=True) == "▁▁"


def test_a_value_holds_until_the_next_but_not_over_a_gap() -> None:
    often = (1.0, None, 2.0, None, 3.0, *[None] * 9, 4.0, None)
    held = resampled(Series("a", "", "", None, 4, 1.0, 2.5, 4.0, 4.0, often), 16)
    assert held == [1.0, 1.0, 2.0, 2.0, *[3.0] * 9, None, 4.0, 4.0]
    wide = resampled(Series("a", "", "", None, 2, 1.0, 2.0, 3.0, 3.0, (1.0, 3.0)), 6)
    assert wide == [1.0, 1.0, 1.0, 3.0, 3.0, 3.0]
