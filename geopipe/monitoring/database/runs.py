"""The values that queries return: runs, their work, logs, events, errors and metrics, as the tables hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from geopipe.monitoring.states import ENDED, STALE

KINDS = {
    "cpu": ("cpu_percent",),
    "memory": ("rss_bytes", "memory_used_bytes", "memory_total_bytes", "object_store_bytes", "spill_bytes"),
    "throughput": ("cells_per_second", "rows_per_second"),
    "disk": ("disk_free_bytes",),
}
"""Metrics by kind; `monitor metrics` without a kind shows all metrics."""


@dataclass(frozen=True)
class RunRow:
    """A run.

    Attributes:
        totals: planned units of work by stage.
        done: finished units by stage.
        now: time of the database, from which ages count.
    """

    run_id: str
    name: str
    state: str
    stale: bool
    request: str | None
    attempt: int
    output: str | None
    plan_hash: str | None
    ray_job_id: str | None
    created_at: datetime
    started_at: datetime | None
    heartbeat_at: datetime | None
    finished_at: datetime | None
    exit_code: int | None
    error: Mapping[str, Any] | None
    totals: Mapping[str, int]
    done: Mapping[str, int]
    now: datetime

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def over(self) -> bool:
        """Whether no more records will come: it has ended, or is paused and goes on under another id."""
        return self.ended or self.state == "paused"

    @property
    def day(self) -> date:
        """The partition of its records: the UTC day in its UUIDv7, or of its start for another id."""
        if self.run_id[14] != "7":
            return self.created_at.astimezone(UTC).date()
        stamp = int(self.run_id.replace("-", "")[:12], 16)
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=stamp)).date()

    @property
    def key(self) -> dict[str, Any]:
        """The parameters `day` and `id` of a query for its records."""
        return {"day": self.day, "id": self.run_id}

    @property
    def displayed(self) -> str:
        """The state as people see it."""
        return STALE if self.stale else self.state

    @property
    def seconds(self) -> float | None:
        """Seconds of work; of a stale or paused run until its last record."""
        if self.started_at is None:
            return None
        end = self.finished_at or ((self.heartbeat_at if self.stale or self.state == "paused" else None) or self.now)
        return max((end - self.started_at).total_seconds(), 0.0)

    @property
    def age(self) -> float:
        """Seconds since its first record."""
        return (self.now - self.created_at).total_seconds()

    @property
    def silent(self) -> float | None:
        """Seconds since its last record."""
        return None if self.heartbeat_at is None else (self.now - self.heartbeat_at).total_seconds()

    @property
    def share(self) -> float | None:
        """Share of the work of all stages that is done, from 0 to 1."""
        if self.state == "completed":
            return 1.0
        whole = sum(self.totals.values())
        return min(sum(self.done.get(s, 0) for s in self.totals) / whole, 1.0) if whole else None


@dataclass(frozen=True)
class Stage:
    """Work of a stage: `tiles` of `of` units are done."""

    stage: str
    tiles: int
    of: int | None
    cells: int = 0
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Node:
    """The latest samples of a node, and the time of the last one."""

    node: str
    values: Mapping[str, float]
    ts: datetime


@dataclass(frozen=True)
class _Row:
    """The context of a log record or an event."""

    ts: datetime
    source: str
    seq: int
    stage: str | None
    layer: str | None
    tile: int | None
    worker: int | None
    node: str | None
    attempt: int | None


@dataclass(frozen=True)
class LogRow(_Row):
    """A log record with its context."""

    level: str
    logger: str | None
    message: str
    traceback: str | None
    extra: Mapping[str, Any] | None


@dataclass(frozen=True)
class EventRow(_Row):
    """An event with its context."""

    name: str
    detail: Mapping[str, Any] | None


@dataclass(frozen=True)
class Cause:
    """Errors of one cause: their message without numbers, paths and quoted text."""

    cause: str
    count: int
    first_ts: datetime
    last_ts: datetime
    example: str
    stages: tuple[str, ...]
    layers: tuple[str, ...]
    traceback: str | None = None


@dataclass(frozen=True)
class Series:
    """A metric of a node or a stage: statistics of all values, and the mean in each of equal intervals.

    Attributes:
        points: means; None for an interval without values.
    """

    name: str
    node: str
    stage: str
    unit: str | None
    count: int
    low: float
    mean: float
    high: float
    last: float
    points: tuple[float | None, ...]


@dataclass(frozen=True)
class Metrics:
    """The series of a run, all over the same span of time."""

    first_ts: datetime | None
    last_ts: datetime | None
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Filter:
    """Conditions on log records."""

    level: str | None = None
    stage: str | None = None
    layer: str | None = None
    since: timedelta | None = None
    grep: str | None = None
    tracebacks: bool = False


@dataclass(frozen=True)
class Look:
    """The state of a run at one moment, as `watch` displays it.

    Attributes:
        errors: the last ones.
        speeds: cells per second by stage, in the last 30 s.
        left: seconds that the run still needs, by its own estimate.
    """

    run: RunRow
    stages: tuple[Stage, ...]
    nodes: tuple[Node, ...]
    errors: tuple[LogRow, ...]
    error_count: int
    warning_count: int
    speeds: Mapping[str, float] = field(default_factory=dict)
    left: float | None = None
