"""How code records something: it calls `emit` and the standard `logging`, and knows no sink.

A context (run, attempt, stage, layer, tile) is set once with `context`, and goes with every record made inside it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from geopipe.events.records import Body

_context: ContextVar[Mapping[str, Any]] = ContextVar("geopipe_context", default=MappingProxyType({}))
_sinks: list[Callable[[Body], None]] = []
_passing = threading.local()


def subscribe(sink: Callable[[Body], None]) -> Callable[[], None]:
    """Send every record of this process to `sink`. Returns a function that ends this."""
    _sinks.append(sink)
    return lambda: _sinks.remove(sink) if sink in _sinks else None


def emit(body: Body) -> None:
    """Hand a record to the sinks of this process. It never raises: monitoring must not fail a run.

    Records that a sink makes, by a log for instance, are dropped: they would come back to it for ever.
    """
    if getattr(_passing, "now", False):
        return
    _passing.now = True
    try:
        for sink in tuple(_sinks):
            with suppress(Exception):
                sink(body)
    finally:
        _passing.now = False


def current() -> Mapping[str, Any]:
    """The context: any of run_id, attempt, stage, layer and tile."""
    return _context.get()


@contextmanager
def context(**values: Any) -> Iterator[None]:
    """Set run_id, attempt, stage, layer or tile for the records inside."""
    token = _context.set({**_context.get(), **values})
    try:
        yield
    finally:
        _context.reset(token)
