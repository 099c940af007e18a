"""The records of a run: logs, progress, metrics, events and states.

A record is a body in an envelope: its process, its sequence number, its time, and its place in the run. As a line of
JSON it waits in a spool, travels to the collector, and is written into Postgres (`monitoring.database.store`).
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar
from uuid import UUID

from geopipe.redaction import redact

MOST_BITS = 4096
"""Largest integer that is written in decimals; Python converts 4300 digits at most."""

DRIVER = "driver_started"
"""The event with the process that drives a run."""

RAY_STARTS = "ray_starts"
"""The event that Ray is started or joined for a run."""

POSTGRES_STARTED = "postgres_started"
"""The event that the embedded Postgres was started; it runs on after the run."""

WHERE = ("run_id", "attempt", "stage", "layer", "tile")
"""The values of the context that a record has: its run, and its place in it."""

_REQUIRED = {"seq": int, "source": str, "ts": float | int, "kind": str, "run_id": str}


@dataclass(frozen=True)
class Log:
    kind: ClassVar[str] = "log"
    level: str
    logger: str
    message: str
    traceback: str | None = None
    extra: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Progress:
    """Work since the last such record: `tiles` units of `stage` on `cells` cells, in `seconds` of a worker."""

    kind: ClassVar[str] = "progress"
    stage: str
    tiles: int
    cells: int
    seconds: float
    rows: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Metric:
    """A sample of a measured value."""

    kind: ClassVar[str] = "metric"
    name: str
    value: float
    unit: str = ""


@dataclass(frozen=True)
class Event:
    """Something that happened once, with its details."""

    kind: ClassVar[str] = "event"
    name: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """A new state of the run (of `monitoring.states.STATES`), with values for the run's row."""

    kind: ClassVar[str] = "state"
    state: str
    detail: Mapping[str, Any] = field(default_factory=dict)


def new_run_id() -> str:
    """A UUIDv7: ids sort by time, and two runs of one millisecond differ."""
    stamp = time.time_ns() // 1_000_000
    value = stamp << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(UUID(int=value))


_COUNTS = tuple(f.name for f in fields(Progress) if f.name != "stage")

Body = Log | Progress | Metric | Event | State


def line(body: Body, envelope: Mapping[str, Any], where: Mapping[str, Any]) -> str:
    """A record as a line of JSON, without values that are None.

    Args:
        envelope: seq, source, ts, worker and node.
        where: any of WHERE.
    """
    record = {**envelope, "kind": body.kind, **{name: where[name] for name in WHERE if where.get(name) is not None}}
    record |= {f.name: value for f in fields(body) if (value := getattr(body, f.name)) is not None}
    return json.dumps(plain(record)) + "\n"


def parse(text: str) -> dict[str, Any]:
    """The record of a line.

    Raises:
        ValueError: the line is incomplete, as the last line of a process that died may be.
    """
    try:
        record = json.loads(text)
    except RecursionError:
        record = None
    if not isinstance(record, dict) or not all(isinstance(record.get(name), kind) for name, kind in _REQUIRED.items()):
        raise ValueError(f"no record: {text[:80]!r}")
    if record["kind"] == Progress.kind and not all(isinstance(record.get(name), int | float) for name in _COUNTS):
        raise ValueError(f"progress without numbers: {text[:200]!r}")
    return record


def plain(value: Any, as_text: Callable[[Any], str] | None = None) -> Any:
    """A value as JSON: other types, and numbers that JSON cannot hold, become text.

    Args:
        as_text: makes the texts; by default it hides secrets, as for every record that leaves its process.
    """
    text = as_text or _text
    numpy = sys.modules.get("numpy")  # not imported here, so that `geopipe db` starts fast
    if numpy is not None and isinstance(value, numpy.generic):
        value = value.item()  # a NumPy count as a number
    if isinstance(value, Mapping):
        return {text(k): plain(v, as_text) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v, as_text) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        return hex(value)
    return value if value is None or isinstance(value, int | float | bool) else text(value)


def _text(value: Any) -> str:
    try:
        return redact(str(value))
    except Exception:  # a value without a text
        return f"<{type(value).__name__}>"
