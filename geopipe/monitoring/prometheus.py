"""What Prometheus sees of a run: counters and gauges made from its records, and the address to scrape them at.

Records count once, however often they are delivered, and odd ones change nothing. Labels have few values, all known
beforehand but for the names of nodes, of which there are 16 at most: a run must not fill somebody's Prometheus.
"""

from __future__ import annotations

import re
import threading
import time
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from geopipe.errors import MachineError

OTHER = "other"
STAGES = ("read", "merge", "write", OTHER)
OUTCOMES = ("done", "failed", "skipped")
STATES = ("pending", "running", "paused", "completed", "failed", "cancelled", OTHER)
LEVELS = ("debug", "info", "warning", "error", "critical", OTHER)
DIRECTIONS = {"read": "in", "merge": "through", "write": "out", OTHER: OTHER}
BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
NODES = 16
STALE = 600.0
"""Seconds after which what a node said of itself is no longer shown, and its label is free for another node."""

_MOST = 1e18  # of one record; more is no amount of anything, and two of 1e308 would make a counter infinite for ever
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,252}", re.ASCII)

Labels = tuple[str, ...]


@dataclass(frozen=True)
class _Kind:
    """A metric but for the histogram: its samples are named `name`."""

    name: str
    help: str
    labels: Labels = ()


_COUNTERS = (
    _Kind(
        "geopipe_windows_total",
        "Windows (a tile of a layer read, a tile merged, a tile written) by outcome: done, failed (an error was logged "
        "in a tile) or skipped (with their layer).",
        ("stage", "outcome"),
    ),
    _Kind("geopipe_cells_total", "Grid cells worked on; a cell read in three layers counts three times.", ("stage",)),
    _Kind("geopipe_rows_total", "Rows of the table made (merge) and written (write).", ("stage",)),
    _Kind(
        "geopipe_bytes_total", "Bytes read (in), merged (through) and written to files (out).", ("stage", "direction")
    ),
    _Kind("geopipe_records_total", "Log records of the run by level.", ("level",)),
    _Kind("geopipe_records_dropped_total", "Records of the monitor that were lost because its spool was full."),
)
_GAUGES = (
    _Kind(
        "geopipe_planned_windows", "Windows that the plan of the run has, known once the run is planned.", ("stage",)
    ),
    _Kind("geopipe_run_state", "1 for the present state of the run, 0 for all others.", ("state",)),
    _Kind(
        "geopipe_last_progress_timestamp_seconds",
        "Unix time at which work was last done, or at which the run began or went on.",
    ),
    _Kind("geopipe_last_success_timestamp_seconds", "Unix time at which a run was last completed."),
    _Kind("geopipe_spool_pending_records", "Records that wait in spools until the database takes them."),
    _Kind("geopipe_node_cpu_percent", "Processors of the node at work; 100 is all of them.", ("node",)),
    _Kind("geopipe_rss_bytes", "Resident memory of all processes of the run on the node.", ("node",)),
    _Kind("geopipe_memory_used_bytes", "Memory of the node in use, by whatever.", ("node",)),
    _Kind("geopipe_memory_limit_bytes", "Memory that the node has, or that its container may use.", ("node",)),
    _Kind("geopipe_object_store_bytes", "Bytes in Ray's object store on the node.", ("node",)),
    _Kind("geopipe_spill_bytes", "Bytes that Ray's object store has spilled to the node's disk.", ("node",)),
    _Kind("geopipe_disk_free_bytes", "Bytes free on the disk of the output, as the node sees it.", ("node",)),
)
_OF_NODES = {
    "cpu_percent": "geopipe_node_cpu_percent",
    "rss_bytes": "geopipe_rss_bytes",
    "memory_used_bytes": "geopipe_memory_used_bytes",
    "memory_total_bytes": "geopipe_memory_limit_bytes",
    "object_store_bytes": "geopipe_object_store_bytes",
    "spill_bytes": "geopipe_spill_bytes",
    "disk_free_bytes": "geopipe_disk_free_bytes",
}
"""The metric of each name in a metric record. Rates are not here: Prometheus makes them of the counters."""


LAST_SCRAPE = 20.0
"""Seconds that a run waits at its end for a Prometheus that has looked before, which it does every 15 s by default."""


class Exporter:
    """The metrics of a run. Several can live in one process; all methods may be called from any thread.

    Args:
        build: what made the table (`version`, `ray`, `python` ...): the labels of geopipe_build_info.
        clock: tells the Unix time.
    """

    def __init__(self, build: Mapping[str, str], clock: Callable[[], float] = time.time) -> None:
        self._build = {re.sub(r"\W|^(?=\d)", "_", k, flags=re.ASCII): _printable(v) for k, v in build.items()}
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = _Seen()
        self._values: dict[str, dict[Labels, float]] = {kind.name: {} for kind in (*_COUNTERS, *_GAUGES)}
        self._durations = {stage: _Durations() for stage in STAGES}
        self._nodes: dict[str, dict[str, tuple[float, float]]] = {}  # node: metric: (when, value)
        self._state_at = 0.0
        self._scraped, self._current = False, threading.Event()
        self._server: tuple[WSGIServer, threading.Thread] | None = None
        # counters that begin at 0 show their first increase; one that appears with its first failure hides it
        for stage in STAGES:
            self._count("geopipe_bytes_total", 0, stage, DIRECTIONS[stage])
            for name in ("geopipe_cells_total", "geopipe_rows_total"):
                self._count(name, 0, stage)
            for outcome in OUTCOMES:
                self._count("geopipe_windows_total", 0, stage, outcome)
        for level in LEVELS:
            self._count("geopipe_records_total", 0, level)
        self._count("geopipe_records_dropped_total", 0)
        self._set("geopipe_spool_pending_records", 0)
        for state in STATES:
            self._set("geopipe_run_state", 0, state)
        self.registry = CollectorRegistry(support_collectors_without_names=True)
        self.registry.register(_Scrapes(self))

    def record(self, record: Mapping[str, Any]) -> None:
        """Count a record of the run. One that came before, or that makes no sense, changes nothing."""
        if not isinstance(record, Mapping):
            return
        with self._lock:
            if self._seen.before(record.get("source"), record.get("seq")):
                return
            self._current.clear()
            match record.get("kind"):
                case "progress":
                    self._progress(record)
                case "log":
                    self._log(record)
                case "metric":
                    self._metric(record)
                case "event":
                    self._event(record)
                case "state":
                    self._state(record)

    def pending(self, count: int) -> None:
        """So many records wait in spools."""
        with self._lock:
            self._set("geopipe_spool_pending_records", _amount(count))

    def _progress(self, record: Mapping[str, Any]) -> None:
        stage = _one_of(STAGES, record.get("stage"))
        tiles, cells, rows, size = (_amount(record.get(name)) for name in ("tiles", "cells", "rows", "bytes"))
        self._count("geopipe_windows_total", tiles, stage, "done")
        self._count("geopipe_cells_total", cells, stage)
        self._count("geopipe_rows_total", rows, stage)
        self._count("geopipe_bytes_total", size, stage, DIRECTIONS[stage])
        self._durations[stage].add(record.get("source"), tiles, _amount(record.get("seconds")))
        if tiles or cells or rows or size:
            self._latest("geopipe_last_progress_timestamp_seconds", self._when(record))

    def _log(self, record: Mapping[str, Any]) -> None:
        level = record.get("level")
        level = _one_of(LEVELS, level.lower() if isinstance(level, str) else None)
        self._count("geopipe_records_total", 1, level)
        if level in ("error", "critical") and record.get("tile") is not None:
            self._count("geopipe_windows_total", 1, _one_of(STAGES, record.get("stage")), "failed")

    def _metric(self, record: Mapping[str, Any]) -> None:
        name, value, when = record.get("name"), record.get("value"), self._when(record)
        metric = _OF_NODES.get(name) if isinstance(name, str) else None
        self._forget()
        # what a spool kept for an hour is history, and no gauge
        if metric is None or not _is_amount(value) or when <= self._clock() - STALE:
            return
        node = record.get("node")
        if not isinstance(node, str) or not _NODE.fullmatch(node):
            node = OTHER
        if node not in self._nodes and len(self._nodes) - (OTHER in self._nodes) >= NODES:
            node = OTHER
        values = self._nodes.setdefault(node, {})
        if when >= values.get(metric, (0.0, 0.0))[0]:
            values[metric] = (when, float(value))

    def _event(self, record: Mapping[str, Any]) -> None:
        detail = record.get("detail")
        detail = detail if isinstance(detail, Mapping) else {}
        match record.get("name"):
            case "records_dropped":
                self._count("geopipe_records_dropped_total", _amount(detail.get("count")) or 1)
            case "layer_skipped":
                self._count("geopipe_windows_total", _amount(detail.get("tiles")) or 1, "read", "skipped")

    def _state(self, record: Mapping[str, Any]) -> None:
        state, when, detail = _one_of(STATES, record.get("state")), self._when(record), record.get("detail")
        if when >= self._state_at:  # records that waited in a spool may come late
            self._state_at = when
            for other in STATES:
                self._set("geopipe_run_state", float(other == state), other)
        if state == "running":
            self._latest("geopipe_last_progress_timestamp_seconds", when)
        if state == "completed":
            self._latest("geopipe_last_success_timestamp_seconds", when)
        totals = detail.get("totals") if isinstance(detail, Mapping) else None
        if isinstance(totals, Mapping):
            for stage in STAGES:
                if _is_amount(totals.get(stage)):
                    self._set("geopipe_planned_windows", totals[stage], stage)

    def _count(self, name: str, amount: float, *labels: str) -> None:
        self._values[name][labels] = self._values[name].get(labels, 0.0) + amount

    def _set(self, name: str, value: float, *labels: str) -> None:
        self._values[name][labels] = float(value)

    def _latest(self, name: str, when: float) -> None:
        self._set(name, max(when, self._values[name].get((), 0.0)))

    def _when(self, record: Mapping[str, Any]) -> float:
        """The time of a record; now for one without, or from the future: nothing could be later than that."""
        when, now = record.get("ts"), self._clock()
        return min(float(when), now) if _is_amount(when) else now

    def _forget(self) -> None:
        """Drop what nodes said too long ago: one that has left must not look alive, nor keep its label."""
        oldest = self._clock() - STALE
        for node, values in list(self._nodes.items()):
            self._nodes[node] = {metric: said for metric, said in values.items() if said[0] > oldest}
            if not self._nodes[node]:
                del self._nodes[node]

    def collect(self, *, scrape: bool = False) -> list[Metric]:
        """All metrics as they are now; a `scrape` is what `close` waits for."""
        with self._lock:
            self._forget()
            if scrape:
                self._scraped = True
                self._current.set()
            return list(self._families())

    def _families(self) -> Iterator[Metric]:
        for kind in _COUNTERS:
            counter = CounterMetricFamily(kind.name, kind.help, labels=kind.labels)
            for labels, value in self._values[kind.name].items():
                counter.add_metric(labels, value)
            yield counter
        histogram = HistogramMetricFamily(
            "geopipe_window_duration_seconds", "Time that a worker took for a window.", labels=("stage",)
        )
        for stage, durations in self._durations.items():
            histogram.add_metric((stage,), durations.buckets(), durations.seconds)
        yield histogram
        for kind in _GAUGES:
            gauge = GaugeMetricFamily(kind.name, kind.help, labels=kind.labels)
            for labels, value in self._values[kind.name].items():
                gauge.add_metric(labels, value)
            for node, values in self._nodes.items():
                if kind.name in values:
                    gauge.add_metric((node,), values[kind.name][1])
            yield gauge
        yield InfoMetricFamily("geopipe_build", "Versions that make the table; always 1.", value=self._build)

    def text(self) -> str:
        """The metrics in Prometheus' text format."""
        return generate_latest(self).decode()

    def serve(self, port: int, host: str = "127.0.0.1") -> int:
        """Answer scrapes at http://host:port/metrics until `close`; the port, which the system chooses for 0.

        Raises:
            MachineError: the port is in use, or may not be used.
        """
        try:
            self._server = start_http_server(port, host, self.registry)
        except (OSError, OverflowError) as error:
            raise MachineError(
                f"no metrics at {host}:{port}: {error}",
                "set monitoring.prometheus_port to a port that is free and prometheus_host to an address of this "
                "machine, or leave the port out for no metrics",
            ) from error
        return int(self._server[0].server_port)

    def close(self, wait: float = 0.0) -> None:
        """Stop answering. The metrics stay readable by `text`.

        Args:
            wait: seconds to wait at most for a last scrape, if there have been scrapes, but none since the last
                record. Without it a Prometheus may never learn that the run ended well.
        """
        if self._server is None:
            return
        if wait and self._scraped and not self._current.is_set() and self._current.wait(wait):
            time.sleep(0.1)  # the answer is on its way
        server, thread = self._server
        self._server = None
        server.shutdown()
        server.server_close()
        thread.join()


class _Durations:
    """A histogram of one stage, into which many windows can be put at once."""

    def __init__(self) -> None:
        self.counts = [0.0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.begun: dict[str, float] = {}

    def add(self, source: Any, tiles: float, seconds: float) -> None:
        """`tiles` windows took `seconds` in all; without tiles, a window that is not finished yet did."""
        # a process works at one window of a stage at a time; strangers to 1024 of them share a key
        known = isinstance(source, str) and (source in self.begun or len(self.begun) < 1024)
        key = source if known else ""
        seconds += self.begun.pop(key, 0.0)
        if tiles:
            self.counts[bisect_left(BUCKETS, seconds / tiles)] += tiles
            self.seconds += seconds
        elif seconds:
            self.begun[key] = seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Windows that took at most so long, by bound."""
        total, result = 0.0, []
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            total += count
            result.append((bound, total))
        return result


class _Scrapes:
    """The exporter as the registry that answers scrapes knows it."""

    def __init__(self, exporter: Exporter) -> None:
        self.exporter = exporter

    def collect(self) -> list[Metric]:
        return self.exporter.collect(scrape=True)


class _Seen:
    """Which records came already: the ranges of their numbers, by source. A source in order has one."""

    SOURCES, RANGES = 1024, 512

    def __init__(self) -> None:
        self.sources: OrderedDict[str, list[list[int]]] = OrderedDict()

    def before(self, source: Any, seq: Any) -> bool:
        """Whether record `seq` of `source` came before; a record without them never did."""
        if not isinstance(source, str) or type(seq) is not int:
            return False
        ranges = self.sources.setdefault(source[:256], [])
        self.sources.move_to_end(source[:256])
        if len(self.sources) > self.SOURCES:
            self.sources.popitem(last=False)
        at = bisect_right(ranges, seq, key=lambda bounds: bounds[0])  # the first range that begins after `seq`
        if at and seq <= ranges[at - 1][1]:
            return True
        ranges.insert(at, [seq, seq])
        for left in (at, at - 1):
            if 0 <= left < len(ranges) - 1 and ranges[left][1] + 1 == ranges[left + 1][0]:
                ranges[left : left + 2] = [[ranges[left][0], ranges[left + 1][1]]]
        if len(ranges) > self.RANGES:  # so many gaps are no order at all: the oldest one is given up
            ranges[:2] = [[ranges[0][0], ranges[1][1]]]
        return False


def _is_amount(value: Any) -> TypeGuard[float]:
    """Whether this is a number that can be counted: not negative, not NaN, not out of all bounds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST


def _amount(value: Any) -> float:
    return float(value) if _is_amount(value) else 0.0


def _one_of(known: Labels, value: Any) -> str:
    return value if isinstance(value, str) and value in known else OTHER


def _printable(value: Any) -> str:
    """As text that UTF-8 can hold: one bad label would make the whole page unreadable."""
    return str(value).encode("utf-8", "replace").decode()
