"""Log records: on standard error as text or JSON, and as records of the run."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from geopipe.errors import GeopipeError, find_signal
from geopipe.events.emit import context, current, emit
from geopipe.events.records import Event, Log, plain
from geopipe.text import message

SHOWN = ("run_id", "stage", "layer", "tile")
STAGE_STARTED = "stage_started"
"""The event that a stage of the run has started; its context names the stage."""

_FORMATTER = logging.Formatter()


@contextmanager
def log_stage(logger: logging.Logger, stage: str) -> Iterator[None]:
    """Record start and end of a stage of the run, with its seconds and its outcome."""
    start, outcome = time.perf_counter(), "done"
    with context(stage=stage):
        logger.info("%s started", stage)
        emit(Event(STAGE_STARTED))
        try:
            yield
        except BaseException as error:
            outcome = "cancelled" if find_signal(error) else "failed"
            raise
        finally:
            seconds = time.perf_counter() - start
            if outcome == "done":
                log_performance(logger, stage, seconds)
            else:
                level = logging.WARNING if outcome == "cancelled" else logging.ERROR
                logger.log(level, "%s %s after %.2f s", stage, outcome, seconds)
            emit(Event("stage_ended", {"seconds": round(seconds, 3), "outcome": outcome}))


def log_performance(logger: logging.Logger, operation: str, seconds: float, rows: int = 0, size: int = 0) -> None:
    """Log the seconds of an operation, with rows, bytes and rows per second if it wrote rows."""
    rate = rows / seconds if seconds > 0 else 0.0
    text = f"{operation} took {seconds:.2f} s"
    if rows:
        text += f" for {rows:,} rows, {size:,} bytes ({rate:,.0f} rows/s)"
    numbers = {"operation": operation, "seconds": round(seconds, 4), "rows": rows, "bytes": size, "rate": round(rate)}
    logger.info(text, extra={"performance": numbers})


def _traceback(record: logging.LogRecord) -> str | None:
    return _FORMATTER.formatException(record.exc_info) if record.exc_info else None


def traceback_of(error: BaseException) -> str:
    """The traceback of an error as text."""
    return _FORMATTER.formatException((type(error), error, error.__traceback__))


@contextmanager
def failures() -> Iterator[None]:
    """Record an error of geopipe with the tile or layer of the context, and raise it on."""
    try:
        yield
    except GeopipeError as error:
        emit(Log("ERROR", __name__, error.message))
        raise


def _place(record: logging.LogRecord) -> dict[str, Any]:
    """Run, stage, layer and tile: of the record, else of the context."""
    values = {name: getattr(record, name, current().get(name)) for name in SHOWN}
    return {name: value for name, value in values.items() if value is not None}


class _Json(logging.Formatter):
    """Formats a record as one line of JSON. Values of other types become text."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _place(record) | getattr(record, "performance", {}) | {"traceback": _traceback(record)}
        return json.dumps(plain({k: v for k, v in line.items() if v is not None}))


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        where = " ".join(f"{name}={value}" for name, value in _place(record).items() if name != "run_id")
        text = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {record.levelname.lower():7} "
        text += message(record.getMessage()) + (f"  [{where}]" if where else "")
        traceback = _traceback(record)
        return text + (f"\n{message(traceback)}" if traceback else "")


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to the present sys.stderr, which may change."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _Emitter(logging.Handler):
    """Emits log records as records of the run."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            extra = getattr(record, "performance", None)
            body = Log(record.levelname, record.name, record.getMessage(), _traceback(record), extra)
        except Exception:  # such as arguments that do not fit: logging prints it, and the run goes on
            self.handleError(record)
        else:
            emit(body)


def configure_logging(level: str, style: str) -> None:
    """Print log records of geopipe of `level` and above on stderr, in the style "text" or "json"."""
    handler = _Stderr()
    handler.setFormatter(_Json() if style == "json" else _Text())
    handler.setLevel(level)
    logger = logging.getLogger("geopipe")
    logger.handlers[:] = [h for h in logger.handlers if isinstance(h, _Emitter)] + [handler]
    logger.setLevel(min(logging.INFO, handler.level))
    logger.propagate = False


def record_from_now_on() -> Callable[[], None]:
    """Emit log records of INFO and above as records of the run, whatever the terminal shows.

    Returns:
        a function that ends this.
    """
    logger = logging.getLogger("geopipe")
    emitter, before = _Emitter(), logger.level
    logger.setLevel(min(logging.INFO, logger.getEffectiveLevel()))
    logger.addHandler(emitter)

    def end() -> None:
        logger.removeHandler(emitter)
        logger.setLevel(before)

    return end
