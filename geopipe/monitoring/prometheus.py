"""The metrics of a run for Prometheus, and the address at which it scrapes them.

The collector passes each record once. Labels have few values, all known beforehand but for the names of nodes, of which
there are 16 at most: a run must not fill somebody's Prometheus. A record that makes no sense changes nothing.
"""

from __future__ import annotations

import json
import re
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeGuard, cast
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from geopipe.errors import MachineError
from geopipe.monitoring.home import write_private
from geopipe.monitoring.states import LEVELS, STAGES, STATES

OTHER = "other"
_STAGES, _STATES, _LEVELS = (*STAGES, OTHER), (*STATES, OTHER), (*map(str.lower, LEVELS), OTHER)
OUTCOMES = ("done", "failed", "skipped")
DIRECTIONS = {"read": "in", "merge": "through", "write": "out", OTHER: OTHER}
BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
NODES = 16
STALE = 600.0
"""Seconds after which the samples of a node are dropped, and its label is free for another node."""

LAST_SCRAPE = 20.0
"""Seconds that a run waits at its end for a Prometheus that has scraped before; by default it scrapes every 15 s."""

_LARGEST = 1e18  # of one record; a sum of values near 1e308 would be infinite for ever
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,252}", re.ASCII)

_COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "geopipe_windows_total": (
        "Windows (a tile of a layer read, a tile merged, a tile written) by outcome: done, failed (an error was logged "
        "in a tile) or skipped (with their layer).",
        ("stage", "outcome"),
    ),
    "geopipe_cells_total": ("Grid cells worked on; a cell read in three layers counts three times.", ("stage",)),
    "geopipe_rows_total": ("Rows of the table made (merge) and written (write).", ("stage",)),
    "geopipe_bytes_total": ("Bytes read (in), merged (through) and written to files (out).", ("stage", "direction")),
    "geopipe_records_total": ("Log records of the run by level.", ("level",)),
    "geopipe_records_dropped_total": ("Records of the monitor that were lost because its spool was full.", ()),
}
_GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "geopipe_planned_windows": ("Windows that the plan of the run has, known once the run is planned.", ("stage",)),
    "geopipe_run_state": ("1 for the present state of the run, 0 for all others.", ("state",)),
    "geopipe_last_progress_timestamp_seconds": (
        "Unix time at which work was last done, or at which the run began or went on.",
        (),
    ),
    "geopipe_last_success_timestamp_seconds": ("Unix time at which a run was last completed.", ()),
    "geopipe_spool_pending_records": ("Records that wait in spools until the database takes them.", ()),
}
_NODE_GAUGES = {
    "cpu_percent": ("geopipe_node_cpu_percent", "Processors of the node at work; 100 is all of them."),
    "rss_bytes": ("geopipe_rss_bytes", "Resident memory of all processes of the run on the node."),
    "memory_used_bytes": ("geopipe_memory_used_bytes", "Memory of the node in use, by whatever."),
    "memory_total_bytes": ("geopipe_memory_limit_bytes", "Memory that the node has, or that its container may use."),
    "object_store_bytes": ("geopipe_object_store_bytes", "Bytes in Ray's object store on the node."),
    "spill_bytes": ("geopipe_spill_bytes", "Bytes that Ray's object store has spilled to the node's disk."),
    "disk_free_bytes": ("geopipe_disk_free_bytes", "Bytes free on the disk of the output, as the node sees it."),
}
"""The gauge of each metric record. Rates have none: Prometheus computes them from the counters."""


class Exporter(Collector):
    """The metrics of a run. A process can hold several; all methods may be called from any thread.

    Args:
        build: versions (`version`, `ray`, `python` ...): the labels of geopipe_build_info.
        clock: returns the Unix time.
    """

    def __init__(self, build: Mapping[str, str], clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._metrics = registry = CollectorRegistry(support_collectors_without_names=True)
        self._counters = {n: Counter(n, *texts, registry=registry) for n, texts in _COUNTERS.items()}
        self._gauges = {n: Gauge(n, *texts, registry=registry) for n, texts in _GAUGES.items()}
        self._durations = _Durations()
        registry.register(self._durations)
        versions = {re.sub(r"\W|^(?=\d)", "_", k, flags=re.ASCII): _printable(v) for k, v in build.items()}
        Info("geopipe_build", "Versions that make the table; always 1.", registry=registry).info(versions)
        self._samples: dict[tuple[str, str], tuple[float, float]] = {}  # time and value by node and metric
        self._times: dict[str, float] = {}
        self._state_at = 0.0
        self._scraped, self._current = False, threading.Event()
        self._server: tuple[WSGIServer, threading.Thread] | None = None
        self._target: Path | None = None
        # a counter that starts at 0 shows its first increase; one that appears with its first failure hides it
        for stage in _STAGES:
            self._count("geopipe_bytes_total", 0, stage, DIRECTIONS[stage])
            for name in ("geopipe_cells_total", "geopipe_rows_total"):
                self._count(name, 0, stage)
            for outcome in OUTCOMES:
                self._count("geopipe_windows_total", 0, stage, outcome)
        for level in _LEVELS:
            self._count("geopipe_records_total", 0, level)
        for state in _STATES:
            self._gauges["geopipe_run_state"].labels(state).set(0)

    def record(self, record: Mapping[str, Any]) -> None:
        """Count a record of the run."""
        kind = record.get("kind") if isinstance(record, Mapping) else None
        count = getattr(self, f"_{kind}") if kind in ("progress", "log", "metric", "event", "state") else None
        if count is not None:
            with self._lock:
                self._current.clear()
                count(record)

    def pending(self, count: int) -> None:
        """Set the number of records that wait in spools."""
        self._gauges["geopipe_spool_pending_records"].set(_amount(count))

    def _progress(self, record: Mapping[str, Any]) -> None:
        stage = _one_of(_STAGES, record.get("stage"))
        tiles, cells, rows, size = (_amount(record.get(name)) for name in ("tiles", "cells", "rows", "bytes"))
        self._count("geopipe_windows_total", tiles, stage, "done")
        self._count("geopipe_cells_total", cells, stage)
        self._count("geopipe_rows_total", rows, stage)
        self._count("geopipe_bytes_total", size, stage, DIRECTIONS[stage])
        self._durations.add(stage, record.get("source"), tiles, _amount(record.get("seconds")))
        if tiles or cells or rows or size:
            self._latest("geopipe_last_progress_timestamp_seconds", self._when(record))

    def _log(self, record: Mapping[str, Any]) -> None:
        level = record.get("level")
        level = _one_of(_LEVELS, level.lower() if isinstance(level, str) else None)
        self._count("geopipe_records_total", 1, level)
        if level in ("error", "critical") and record.get("tile") is not None:
            self._count("geopipe_windows_total", 1, _one_of(_STAGES, record.get("stage")), "failed")

    def _metric(self, record: Mapping[str, Any]) -> None:
        name, value, when = record.get("name"), record.get("value"), self._when(record)
        self._forget()
        if not isinstance(name, str) or name not in _NODE_GAUGES or not _is_amount(value):
            return
        if when <= self._clock() - STALE:  # a sample that waited in a spool for an hour is history, and no gauge
            return
        node, nodes = record.get("node"), {node for node, _ in self._samples} - {OTHER}
        if not isinstance(node, str) or not _NODE.fullmatch(node) or (node not in nodes and len(nodes) >= NODES):
            node = OTHER
        if when >= self._samples.get((node, name), (0.0, 0.0))[0]:
            self._samples[node, name] = when, value

    def _event(self, record: Mapping[str, Any]) -> None:
        detail = record.get("detail")
        detail = detail if isinstance(detail, Mapping) else {}
        match record.get("name"):
            case "records_dropped":
                self._count("geopipe_records_dropped_total", _amount(detail.get("count")) or 1)
            case "layer_skipped":
                self._count("geopipe_windows_total", _amount(detail.get("tiles")) or 1, "read", "skipped")

    def _state(self, record: Mapping[str, Any]) -> None:
        state, when, detail = _one_of(_STATES, record.get("state")), self._when(record), record.get("detail")
        if when >= self._state_at:  # records that waited in a spool may come late
            self._state_at = when
            for other in _STATES:
                self._gauges["geopipe_run_state"].labels(other).set(other == state)
        if state == "running":
            self._latest("geopipe_last_progress_timestamp_seconds", when)
        if state == "completed":
            self._latest("geopipe_last_success_timestamp_seconds", when)
        totals = detail.get("totals") if isinstance(detail, Mapping) else None
        if isinstance(totals, Mapping):
            for stage in _STAGES:
                if _is_amount(count := totals.get(stage)):
                    self._gauges["geopipe_planned_windows"].labels(stage).set(count)

    def _count(self, name: str, amount: float, *labels: str) -> None:
        counter = self._counters[name]
        (counter.labels(*labels) if labels else counter).inc(amount)

    def _latest(self, name: str, when: float) -> None:
        self._times[name] = max(when, self._times.get(name, 0.0))
        self._gauges[name].set(self._times[name])

    def _when(self, record: Mapping[str, Any]) -> float:
        """The time of a record; now if it has none, or one in the future, which no later record could replace."""
        when, now = record.get("ts"), self._clock()
        return min(float(when), now) if _is_amount(when) else now

    def _forget(self) -> None:
        """Drop old samples of nodes: a node that has left must not look alive, nor keep its label."""
        oldest = self._clock() - STALE
        self._samples = {key: sample for key, sample in self._samples.items() if sample[0] > oldest}

    def collect(self, scrape: bool = True) -> list[Metric]:
        """All metrics at this moment; `close` waits for a `scrape`."""
        with self._lock:
            self._forget()
            if scrape:
                self._scraped = True
                self._current.set()
            families = list(self._metrics.collect())
            for family in families:
                family.samples = list(filter(_is_shown, family.samples))
            for name, texts in _NODE_GAUGES.items():
                families.append(gauge := GaugeMetricFamily(*texts, labels=("node",)))
                for (node, metric), (_, value) in self._samples.items():
                    if metric == name:
                        gauge.add_metric((node,), value)
            return families

    def text(self) -> str:
        """The metrics in Prometheus' text format."""
        present = SimpleNamespace(collect=lambda: self.collect(scrape=False))
        return generate_latest(cast(CollectorRegistry, present)).decode()

    def serve(self, port: int, host: str = "127.0.0.1") -> int:
        """Answer scrapes at http://host:port/metrics until `close`. Returns the port, which the system chooses for 0.

        Raises:
            MachineError: the port is in use, or may not be used.
        """
        scrapes = CollectorRegistry(support_collectors_without_names=True)
        scrapes.register(self)
        try:
            self._server = start_http_server(port, host, scrapes)
        except (OSError, OverflowError) as error:
            raise MachineError(
                f"no metrics at {host}:{port}: {error}",
                "set monitoring.prometheus_port to a port that is free and prometheus_host to an address of this "
                "machine, or leave the port out for no metrics",
            ) from error
        return int(self._server[0].server_port)

    def announce(self, target: Path, host: str) -> None:
        """Write the address of the metrics to a file of Prometheus' service discovery, which `close` removes.

        The file of a process that is killed stays: Prometheus sees that the run does not answer.

        Args:
            target: the file.
            host: as Prometheus reaches this machine.
        """
        if self._server is not None:
            self._target = target
            write_private(target, json.dumps([{"targets": [f"{host}:{self._server[0].server_port}"]}]), sync=False)

    def close(self, wait: float = 0.0) -> None:
        """Stop answering. The metrics stay readable by `text`.

        Args:
            wait: seconds to wait at most for a last scrape, if there was a scrape, but none since the last record:
                else Prometheus may never see that the run ended well.
        """
        if self._server is None:
            return
        if wait and self._scraped and not self._current.is_set() and self._current.wait(wait):
            time.sleep(0.1)  # the answer is on its way
        if self._target is not None:
            self._target.unlink(missing_ok=True)
        server, thread = self._server
        self._server = None
        server.shutdown()
        server.server_close()
        thread.join()


class _Durations(Collector):
    """A histogram that counts many windows at once, which the library's observes one by one."""

    def __init__(self) -> None:
        self.counts = {stage: [0.0] * (len(BUCKETS) + 1) for stage in _STAGES}
        self.seconds = dict.fromkeys(_STAGES, 0.0)
        self.unfinished: dict[tuple[str, str], float] = {}

    def add(self, stage: str, source: Any, tiles: float, seconds: float) -> None:
        """Count `tiles` windows that took `seconds` together; without tiles, seconds of a window that goes on."""
        # a process works on one window of a stage at a time; sources beyond 4096 share a key
        known = isinstance(source, str) and ((stage, source) in self.unfinished or len(self.unfinished) < 4096)
        key = stage, source if known else ""
        seconds += self.unfinished.pop(key, 0.0)
        if tiles:
            self.counts[stage][bisect_left(BUCKETS, seconds / tiles)] += tiles
            self.seconds[stage] += seconds
        elif seconds:
            self.unfinished[key] = seconds

    def collect(self) -> Iterable[Metric]:
        text = "Time that a worker took for a window."
        family = HistogramMetricFamily("geopipe_window_duration_seconds", text, labels=("stage",))
        for stage, counts in self.counts.items():
            buckets = zip((*map(str, BUCKETS), "+Inf"), accumulate(counts), strict=True)
            family.add_metric((stage,), list(buckets), self.seconds[stage])
        yield family


def _is_shown(sample: Sample) -> bool:
    """Whether a sample is exported: neither the time at which a counter was made, nor an event that has not been."""
    return not sample.name.endswith("_created") and bool(sample.value or not sample.name.endswith("_timestamp_seconds"))


def _is_amount(value: Any) -> TypeGuard[float]:
    """Whether a value is a number to count: not negative, not NaN, not too large."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _amount(value: Any) -> float:
    return float(value) if _is_amount(value) else 0.0


def _one_of(known: tuple[str, ...], value: Any) -> str:
    return value if isinstance(value, str) and value in known else OTHER


def _printable(value: Any) -> str:
    """Text that UTF-8 can encode: one bad label would make the whole page unreadable."""
    return str(value).encode("utf-8", "replace").decode()
