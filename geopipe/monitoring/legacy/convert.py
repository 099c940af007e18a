"""Rows of the old system's tables as records. Columns that are not recognised stay in a record as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from geopipe.monitoring.legacy.columns import CONTEXT, EVENT, LOG, METRIC, Row, rest_of, take

Records = list[dict[str, Any]]


def convert_log(row: Row) -> Records:
    """A log record."""
    log = take(row, LOG)
    log |= {"kind": "log", "level": log["level"] or "UNKNOWN", "message": log["message"] or ""}
    return [log | {"extra": rest_of(row, "extra", "context", "extra_data", "metadata", "performance")}]


def convert_event(row: Row) -> Records:
    """An event."""
    event = take(row, EVENT)
    detail = rest_of(row, "detail", "details", "event_data", "data", "payload", "metadata", "context", "extra")
    return [event | {"kind": "event", "name": event["name"] or "event", "detail": detail}]


def convert_metric(row: Row) -> Records:
    """A metric, and an event for columns that a metric has no place for; only an event without name or value."""
    whole_row = dict(row)
    metric = take(row, METRIC)
    if metric["name"] is None or metric["value"] is None:
        return _event("legacy_metric", whole_row)
    rest = rest_of(row) or {}
    if not rest.keys() - {"id"} and all(metric[name] is None for name in ("layer", "tile", "attempt")):
        return [metric | {"kind": "metric"}]
    context = {name: metric[name] for name in CONTEXT}
    event = {"kind": "event", "name": "legacy_metric", "detail": {"metric": metric["name"], **rest}, **context}
    return [metric | {"kind": "metric"}, event]


def convert_progress(row: Row) -> Records:
    """An event: the old table may have many rows of a stage, ours has the last one."""
    return _event("legacy_progress", row)


def _event(name: str, row: Row) -> Records:
    context = take(row, CONTEXT)
    return [{"kind": "event", "name": name, "detail": rest_of(row), **context}]


CONVERTERS: dict[str, Callable[[Row], Records]] = {
    "pipeline_logs": convert_log,
    "pipeline_events": convert_event,
    "pipeline_metrics": convert_metric,
    "pipeline_progress": convert_progress,
}
"""The conversion of each old table."""
