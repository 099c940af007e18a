"""What there is to know of a run that was recorded: frozen values, as the monitor's tables have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

ENDED = ("completed", "failed", "cancelled")
SHOWN = ("pending", "running", "stale", "paused", *ENDED)
"""States as a person sees them: a run that is at work, and has not been heard of for a minute, is stale."""

STAGES = ("read", "merge", "write")
LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
KINDS = {
    "cpu": ("cpu_percent",),
    "memory": ("rss_bytes", "memory_used_bytes", "memory_total_bytes", "object_store_bytes", "spill_bytes"),
    "throughput": ("cells_per_second", "rows_per_second"),
    "disk": ("disk_free_bytes",),
}
"""Metrics by what they are about; what no kind has is shown without a kind."""


@dataclass(frozen=True)
class Run:
    """A run, its work by stage, and `now`, the time of the database, from which ages count."""

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
        """Whether nothing more will be heard of it: it has ended, or waits for an attempt that has another id."""
        return self.ended or self.state == "paused"

    @property
    def day(self) -> date:
        """The partition of its records: the UTC day in its id, or of its start where that is no UUIDv7."""
        if self.run_id[14] != "7":
            return self.created_at.astimezone(UTC).date()
        stamp = int(self.run_id.replace("-", "")[:12], 16)
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=stamp)).date()

    @property
    def shown(self) -> str:
        """The state as a person sees it."""
        return "stale" if self.stale else self.state

    @property
    def seconds(self) -> float | None:
        """How long it has worked; a run that is stale or paused until it was last heard of."""
        if self.started_at is None:
            return None
        end = self.finished_at or ((self.heartbeat_at if self.stale or self.state == "paused" else None) or self.now)
        return max((end - self.started_at).total_seconds(), 0.0)

    @property
    def age(self) -> float:
        """Seconds since it was noted first."""
        return (self.now - self.created_at).total_seconds()

    @property
    def silent(self) -> float | None:
        """Seconds since it was last heard of."""
        return None if self.heartbeat_at is None else (self.now - self.heartbeat_at).total_seconds()

    @property
    def share(self) -> float | None:
        """How much of the work of all stages is done, from 0 to 1."""
        if self.state == "completed":
            return 1.0
        whole = sum(self.totals.values())
        return min(sum(self.done.get(s, 0) for s in self.totals) / whole, 1.0) if whole else None


@dataclass(frozen=True)
class Stage:
    """Work of a stage so far, in units of `of`."""

    stage: str
    tiles: int
    of: int | None
    cells: int = 0
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Node:
    """The last numbers of a node, and the youngest one's time."""

    node: str
    values: Mapping[str, float]
    ts: datetime


@dataclass(frozen=True)
class Log:
    """A log record with its context."""

    ts: datetime
    source: str
    seq: int
    level: str
    logger: str | None
    message: str
    stage: str | None = None
    layer: str | None = None
    tile: int | None = None
    worker: int | None = None
    node: str | None = None
    attempt: int | None = None
    traceback: str | None = None
    extra: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Event:
    """Something that happened once."""

    ts: datetime
    source: str
    seq: int
    name: str
    stage: str | None
    layer: str | None
    tile: int | None
    worker: int | None
    node: str | None
    attempt: int | None
    detail: Mapping[str, Any] | None


@dataclass(frozen=True)
class Cause:
    """Errors with one cause: the message without its numbers, paths and quoted text."""

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
    """A metric of a node or a stage: all values in four numbers, and their means in equal times (None: no value)."""

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
    """The series of a run, all over the same time."""

    first_ts: datetime | None
    last_ts: datetime | None
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Filter:
    """Which records of a log are asked for."""

    level: str | None = None
    stage: str | None = None
    layer: str | None = None
    since: timedelta | None = None
    grep: str | None = None
    tracebacks: bool = False


@dataclass(frozen=True)
class Look:
    """All that `watch` shows of one moment.

    `speeds` are cells per second by stage, of the last half minute; `left` are seconds that the run says it needs.
    """

    run: Run
    stages: tuple[Stage, ...]
    nodes: tuple[Node, ...]
    errors: tuple[Log, ...]
    error_count: int
    warning_count: int
    speeds: Mapping[str, float] = field(default_factory=dict)
    left: float | None = None
