"""What a run says of itself: log records with context, and progress.

Core code calls `emit` and the standard `logging`; it knows no sink. A context (run, stage, layer, tile) is set once
with `context` and rides on every record made inside it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TextIO

_context: ContextVar[Mapping[str, Any]] = ContextVar("geopipe_context", default=MappingProxyType({}))
_sinks: list[Callable[[Progress], None]] = []

FIELDS = ("run_id", "stage", "layer", "tile")


def new_run_id() -> str:
    """A UUIDv7: sorts by time, and two starts in one millisecond differ."""
    stamp = time.time_ns() // 1_000_000
    value = stamp << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    digits = f"{value:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


@dataclass(frozen=True)
class Progress:
    """`stage` did `tiles` units of work on `cells` cells in `seconds` of its worker's time."""

    stage: str
    tiles: int
    cells: int
    seconds: float
    rows: int = 0
    bytes: int = 0


@dataclass
class Tally:
    """Progress added up by stage."""

    stages: dict[str, Progress] = field(default_factory=dict)

    def add(self, item: Progress) -> None:
        old = self.stages.get(item.stage, Progress(item.stage, 0, 0, 0.0))
        self.stages[item.stage] = Progress(
            item.stage,
            old.tiles + item.tiles,
            old.cells + item.cells,
            old.seconds + item.seconds,
            old.rows + item.rows,
            old.bytes + item.bytes,
        )


def subscribe(sink: Callable[[Progress], None]) -> Callable[[], None]:
    """Send every progress record of this process to `sink`, until the function returned is called."""
    _sinks.append(sink)
    return lambda: _sinks.remove(sink)


def emit(item: Progress) -> None:
    """Hand a record to the sinks of this process."""
    for sink in _sinks:
        sink(item)


@contextmanager
def context(**values: Any) -> Iterator[None]:
    """Set run_id, stage, layer or tile for the records made inside."""
    token = _context.set({**_context.get(), **values})
    try:
        yield
    finally:
        _context.reset(token)


def set_context(**values: Any) -> None:
    """Set the context for the rest of this process (a worker is born into its run)."""
    _context.set({**_context.get(), **values})


@contextmanager
def log_stage(logger: logging.Logger, stage: str) -> Iterator[None]:
    """Log begin and end of a stage of the run, with its seconds, or how it failed."""
    start = time.perf_counter()
    with context(stage=stage):
        logger.info("%s started", stage)
        try:
            yield
        except BaseException:
            logger.error("%s failed after %.2f s", stage, time.perf_counter() - start)
            raise
        log_performance(logger, stage, time.perf_counter() - start)


def log_performance(logger: logging.Logger, operation: str, seconds: float, rows: int = 0, size: int = 0) -> None:
    """Log what an operation took: seconds, and rows, bytes and rows per second where it made any."""
    rate = rows / seconds if seconds > 0 else 0.0
    text = f"{operation} took {seconds:.2f} s"
    if rows:
        text += f" for {rows:,} rows, {size:,} bytes ({rate:,.0f} rows/s)"
    numbers = {"operation": operation, "seconds": round(seconds, 4), "rows": rows, "bytes": size, "rate": round(rate)}
    logger.info(text, extra={"performance": numbers})


class _AddContext(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        values = _context.get()
        for name in FIELDS:
            if not hasattr(record, name):
                setattr(record, name, values.get(name))
        return True


class _Json(logging.Formatter):
    """One JSON object a line. Values that JSON does not know are written as text, never lost."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name, None) for name in FIELDS}
        line |= getattr(record, "performance", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps({k: _plain(v) for k, v in line.items() if v is not None})


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        where = " ".join(
            f"{name}={getattr(record, name)}" for name in FIELDS[1:] if getattr(record, name, None) is not None
        )
        text = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {record.levelname.lower():7} "
        text += record.getMessage() + (f"  [{where}]" if where else "")
        return text + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool) else str(value)


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to standard error, whatever that is at the time."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def configure_logging(level: str, style: str) -> None:
    """Send the records of geopipe's loggers to standard error, as `style` "text" or "json"."""
    handler = _Stderr()
    handler.setFormatter(_Json() if style == "json" else _Text())
    handler.addFilter(_AddContext())
    logger = logging.getLogger("geopipe")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
