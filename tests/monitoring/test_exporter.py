from __future__ import annotations

import random
import threading
import time
import urllib.request
from json import dumps, loads
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families as parse
from waiting import PATIENCE

from geopipe.errors import MachineError
from geopipe.monitoring.collector import Collector, open_collector
from geopipe.monitoring.options import TARGETS, MonitoringOptions
from geopipe.monitoring.prometheus import NODES, Exporter

NOW = 1_790_000_000.0
BUILD = {"version": "0.1.0", "ray": "2.60.0"}


def new_exporter(now: float = NOW) -> Exporter:
    return Exporter(BUILD, clock=lambda: now)


def samples(exporter: Exporter) -> dict[str, float]:
    """Every sample as the text has it: name and labels, value."""
    lines = (line for line in exporter.text().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def changes(*records: Any, exporter: Exporter | None = None) -> dict[str, float]:
    """The samples that records change or add, without the buckets of the histogram."""
    exporter = exporter or new_exporter()
    before = samples(exporter)
    for record in records:
        exporter.record(record)
    after = samples(exporter)
    return {name: value for name, value in after.items() if before.get(name) != value and "_bucket" not in name}


def progress(stage: str = "read", tiles: int = 1, seconds: float = 1.0, **overrides: Any) -> dict[str, Any]:
    return {"kind": "progress", "stage": stage, "tiles": tiles, "seconds": seconds, "ts": NOW - 5} | overrides


def metric(name: str = "rss_bytes", value: float = 5.0, node: str = "node-1", ts: float = NOW) -> dict[str, Any]:
    return {"kind": "metric", "name": name, "value": value, "node": node, "ts": ts}


def state(name: str, ts: float = NOW, **detail: Any) -> dict[str, Any]:
    return {"kind": "state", "state": name, "ts": ts, "detail": detail}


def test_progress_is_counted() -> None:
    first = progress("read", 3, 6.0, cells=1000, rows=0, bytes=50, layer="dem", tile=7, run_id="r", worker=12)
    assert changes(first, progress("read", 1, 0.5, cells=24), progress("write", 1, 2.5, rows=9, bytes=100)) == {
        'geopipe_windows_total{outcome="done",stage="read"}': 4,
        'geopipe_windows_total{outcome="done",stage="write"}': 1,
        'geopipe_cells_total{stage="read"}': 1024,
        'geopipe_rows_total{stage="write"}': 9,
        'geopipe_bytes_total{direction="in",stage="read"}': 50,
        'geopipe_bytes_total{direction="out",stage="write"}': 100,
        'geopipe_window_duration_seconds_count{stage="read"}': 4,
        'geopipe_window_duration_seconds_sum{stage="read"}': 6.5,
        'geopipe_window_duration_seconds_count{stage="write"}': 1,
        'geopipe_window_duration_seconds_sum{stage="write"}': 2.5,
        "geopipe_last_progress_timestamp_seconds": NOW - 5,
    }


def test_the_histogram_puts_each_window_where_it_belongs() -> None:
    exporter = new_exporter()
    for tiles, seconds in ((2, 0.02), (1, 0.011), (3, 9.0), (1, 600.0), (1, 601.0)):
        exporter.record(progress("merge", tiles, seconds))
    text = exporter.text()
    lines = [line for line in text.splitlines() if "duration_seconds_bucket{" in line and 'stage="merge"' in line]
    assert [line.split('le="')[1].replace('",stage="merge"} ', " ") for line in lines] == [
        "0.01 2.0",  # two of 10 ms
        "0.03 3.0",
        "0.1 3.0",
        "0.3 3.0",
        "1.0 3.0",
        "3.0 6.0",  # three of 3 s
        "10.0 6.0",
        "30.0 6.0",
        "60.0 6.0",
        "120.0 6.0",
        "300.0 6.0",
        "600.0 7.0",
        "+Inf 8.0",
    ]
    assert samples(exporter)['geopipe_window_duration_seconds_sum{stage="merge"}'] == pytest.approx(1210.031)


def test_a_window_told_in_parts_is_one_window() -> None:
    parts = [progress("write", 0, 5.0, rows=10, source="a"), progress("write", 0, 1.0, rows=10, source="b")]
    exporter = new_exporter()
    assert 'geopipe_window_duration_seconds_count{stage="write"}' not in changes(*parts, exporter=exporter)
    changed = changes(progress("write", 1, 2.0, source="a"), progress("write", 1, 1.0, source="b"), exporter=exporter)
    assert changed['geopipe_window_duration_seconds_sum{stage="write"}'] == 9
    result = samples(exporter)
    assert result['geopipe_window_duration_seconds_bucket{le="3.0",stage="write"}'] == 1  # 2 s of b, and 7 s of a
    assert result['geopipe_window_duration_seconds_bucket{le="10.0",stage="write"}'] == 2


def test_logs_events_and_spools_are_counted() -> None:
    exporter = new_exporter()
    exporter.pending(12)
    assert changes(
        {"kind": "log", "level": "INFO", "message": "a"},
        {"kind": "log", "level": "ERROR", "message": "b"},  # of the run, not of a window
        {"kind": "log", "level": "ERROR", "message": "c", "stage": "read", "tile": 0},
        {"kind": "log", "level": "WARNING", "message": "d", "stage": "read", "tile": 1},
        {"kind": "log", "level": "NOTICE", "message": "e"},
        {"kind": "event", "name": "records_dropped", "detail": {"count": 30}},
        {"kind": "event", "name": "records_dropped"},
        {"kind": "event", "name": "layer_skipped", "layer": "dem", "detail": {"tiles": 4}},
        {"kind": "event", "name": "wave_done", "detail": {}},
        exporter=exporter,
    ) == {
        'geopipe_records_total{level="info"}': 1,
        'geopipe_records_total{level="warning"}': 1,
        'geopipe_records_total{level="error"}': 2,
        'geopipe_records_total{level="other"}': 1,
        "geopipe_records_dropped_total": 31,
        'geopipe_windows_total{outcome="failed",stage="read"}': 1,
        'geopipe_windows_total{outcome="skipped",stage="read"}': 4,
    }
    assert samples(exporter)["geopipe_spool_pending_records"] == 12


def test_the_state_is_the_last_one_told() -> None:
    exporter = new_exporter()

    def present() -> list[str]:
        return [name for name, value in samples(exporter).items() if name.startswith("geopipe_run_state") and value]

    assert present() == []
    exporter.record(state("running", NOW - 100, totals={"read": 6, "merge": 3, "write": 3, "sweep": 9}))
    assert present() == ['geopipe_run_state{state="running"}']
    assert samples(exporter)["geopipe_last_progress_timestamp_seconds"] == NOW - 100
    assert samples(exporter)['geopipe_planned_windows{stage="read"}'] == 6
    assert "sweep" not in exporter.text()
    exporter.record(state("completed", NOW - 10))
    exporter.record(state("paused", NOW - 50))  # it waited in a spool
    assert present() == ['geopipe_run_state{state="completed"}']
    assert samples(exporter)["geopipe_last_success_timestamp_seconds"] == NOW - 10
    exporter.record(state("exploded"))
    assert present() == ['geopipe_run_state{state="other"}']


def test_times_that_are_not_known_yet_are_not_there() -> None:
    assert "timestamp_seconds " not in "".join(name + " " for name in samples(new_exporter()))


def test_nodes() -> None:
    names = {
        "cpu_percent": "geopipe_node_cpu_percent",
        "memory_used_bytes": "geopipe_memory_used_bytes",
        "memory_total_bytes": "geopipe_memory_limit_bytes",
    }
    names |= {name: f"geopipe_{name}" for name in ("rss_bytes", "object_store_bytes", "spill_bytes", "disk_free_bytes")}
    for number, (name, exporter) in enumerate(names.items()):
        assert changes(metric(name, number)) == {f'{exporter}{{node="node-1"}}': number}
    for odd in (metric("cells_per_second"), metric("x"), metric(value=float("nan")), metric(value=-1)):
        assert changes(odd) == {}
    for node in ("", "a b", 'x"} 1', "\ud800", "é", "-", "n" * 300, None, 3, ["a"]):
        assert changes(metric() | {"node": node}) == {'geopipe_rss_bytes{node="other"}': 5}


def test_a_node_shows_what_it_said_last_and_not_for_ever() -> None:
    now = NOW
    exporter = Exporter(BUILD, clock=lambda: now)
    exporter.record(metric(value=1, ts=NOW - 60))
    exporter.record(metric(value=2, ts=NOW - 90))  # it waited in a spool
    assert samples(exporter)['geopipe_rss_bytes{node="node-1"}'] == 1
    assert changes(metric(node="node-2", ts=NOW - 601), exporter=exporter) == {}
    now += 541
    assert 'geopipe_rss_bytes{node="node-1"}' not in samples(exporter)


def test_sixteen_nodes_have_labels_and_one_that_left_makes_room() -> None:
    now = NOW
    exporter = Exporter(BUILD, clock=lambda: now)
    for number in range(NODES):
        exporter.record(metric(node=f"n{number}", ts=now))
    exporter.record(metric(node="late", value=7))
    assert samples(exporter)['geopipe_rss_bytes{node="other"}'] == 7
    assert len([name for name in samples(exporter) if "rss" in name]) == NODES + 1
    now += 600
    exporter.record(metric(node="late", ts=now))
    assert [name for name in samples(exporter) if "rss" in name] == ['geopipe_rss_bytes{node="late"}']


def test_a_record_counts_once_however_often_it_is_delivered() -> None:
    """The collector recognises a record by its source and number; a source sends its records in their order."""
    lines = {source: [line(source, seq) for seq in range(1, 301)] for source in ("a", "b")}
    once, often = new_exporter(), new_exporter()
    for source, batch in lines.items():
        Collector(None, None, once).receive(source, batch)
    repeated, chance = Collector(None, None, often), random.Random(5)
    for end in range(20, 301, 20):
        for source, batch in lines.items():
            for start in (end - 30, 0, chance.randrange(end)):
                repeated.receive(source, batch[max(start, 0) : end])
    assert samples(often)['geopipe_windows_total{outcome="done",stage="read"}'] == 600
    assert samples(often) == samples(once)


def line(source: str, seq: int) -> str:
    return dumps(progress(source=source, seq=seq, cells=1, rows=0, bytes=0, run_id="r"))


def test_ten_thousand_odd_records_make_no_new_series() -> None:
    exporter, chance = new_exporter(), random.Random(5)
    for node in range(NODES + 1):
        for name in ("cpu_percent", "rss_bytes", "memory_used_bytes", "memory_total_bytes", "spill_bytes"):
            exporter.record(metric(name, node=f"n{node}"))
    exporter.record(state("running", totals=dict.fromkeys(("read", "merge", "write", "other"), 1)))
    exporter.record(state("completed"))
    series = set(samples(exporter))
    assert len(series) < 250
    words = ["read", "failed", "INFO", "rss_bytes", "records_dropped", "layer_skipped", "x" * 1000, "\ud800", "a\nb"]
    odd = [*words, None, -1, 3.5, True, float("nan"), float("inf"), 10**400, [], {}, {"count": "x", "tiles": -2}, b"x"]
    fields = ("stage", "outcome", "level", "name", "value", "node", "state", "ts", "source", "seq", "tile", "tiles")
    fields += ("cells", "rows", "bytes", "seconds", "detail", "run_id", "layer", "worker")
    for number in range(10_000):
        record: dict[str, Any] = {name: chance.choice([*odd, f"{name}-{number}", number]) for name in fields}
        record["kind"] = chance.choice(["log", "progress", "metric", "event", "state", "odd", None, []])
        exporter.record(record)
        exporter.pending(record["value"])
    assert set(samples(exporter)) == series
    assert max(samples(exporter).values()) < float("inf")


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
known = st.sampled_from(["ts", "source", "seq", "stage", "name", "value", "node", "level", "tile", "tiles", "detail"])
kinds = st.sampled_from(["log", "progress", "metric", "event", "state"])


@settings(max_examples=50)
@given(
    st.lists(
        json | st.builds(lambda kind, rest: rest | {"kind": kind}, kinds, st.dictionaries(known, json)), max_size=5
    )
)
def test_no_record_is_too_odd(records: list[Any]) -> None:
    exporter = new_exporter()
    for record in records:
        exporter.record(record)
    assert all(family.samples is not None for family in parse(exporter.text()))


def test_several_live_in_one_process_and_odd_builds_are_readable() -> None:
    first, second = new_exporter(), Exporter({"version": "2\n\ud800", "9-x": "a"}, clock=lambda: NOW)
    first.record(progress())
    assert samples(first)['geopipe_build_info{ray="2.60.0",version="0.1.0"}'] == 1
    assert changes(exporter=second) == {}
    assert samples(second)['geopipe_build_info{_9_x="a",version="2\\n?"}'] == 1
    assert samples(second)['geopipe_windows_total{outcome="done",stage="read"}'] == 0


def test_names_and_helps() -> None:
    exporter = new_exporter()
    exporter.record(state("completed", totals={"read": 1}))
    for family in parse(exporter.text()):
        assert family.name.startswith("geopipe_")
        assert len(family.documentation) > 25
        assert family.documentation.endswith("."), family.documentation
        for sample in family.samples:
            assert not {"run_id", "tile", "file", "layer"} & sample.labels.keys()


def get(port: int, accept: str = "text/plain") -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return str(answer.read().decode())


def test_it_serves_and_closes() -> None:
    exporter = new_exporter()
    port = exporter.serve(0, "127.0.0.1")
    try:
        assert get(port) == exporter.text()
        assert get(port, "application/openmetrics-text; version=1.0.0").endswith("# EOF\n")
    finally:
        exporter.close()
    exporter.close()
    with pytest.raises(OSError, match="refused"):
        get(port)
    assert exporter.serve(port, "127.0.0.1") == port  # it may serve again
    exporter.close()


def test_where_a_prometheus_looks_for_runs_each_is_a_target_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = MonitoringOptions("the-run", database=False, root=tmp_path / "spool")
    assert open_collector(run).observer is None, "nobody asks for metrics"
    monkeypatch.setenv(TARGETS, str(tmp_path))
    assert open_collector(run, serve=False).observer is None
    collector = open_collector(run)
    ((target,),) = (group["targets"] for group in loads((tmp_path / "the-run.json").read_text()))
    assert "geopipe_build_info" in get(int(target.removeprefix("127.0.0.1:")))
    collector.close()
    assert not (tmp_path / "the-run.json").exists()


def test_a_port_in_use_is_one_error_with_a_cure() -> None:
    first = new_exporter()
    port = first.serve(0, "127.0.0.1")
    try:
        with pytest.raises(MachineError, match=rf"127\.0\.0\.1:{port}.* in use") as caught:
            new_exporter().serve(port, "127.0.0.1")
        assert "monitoring.prometheus_port" in caught.value.hint
        assert caught.value.exit_code == 3
    finally:
        first.close()
    with pytest.raises(MachineError, match="70000"):
        new_exporter().serve(70_000)


def test_close_waits_for_a_last_scrape_only_where_there_were_scrapes() -> None:
    exporter = new_exporter()
    port = exporter.serve(0, "127.0.0.1")
    exporter.record(progress())
    start = time.monotonic()
    exporter.close(wait=2 * PATIENCE)
    assert time.monotonic() - start < PATIENCE  # nobody ever came
    port = exporter.serve(port, "127.0.0.1")
    get(port)
    exporter.record(state("completed"))
    late: list[str] = []
    scrape = threading.Timer(0.5, lambda: late.append(get(port)))
    scrape.start()
    exporter.close(wait=2 * PATIENCE)
    assert 0.4 < time.monotonic() - start < PATIENCE
    scrape.join()
    assert 'geopipe_run_state{state="completed"} 1.0' in late[0]
