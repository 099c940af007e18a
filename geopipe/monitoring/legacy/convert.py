"""Rows of the old system's tables as records. Columns that are not recognised stay in a record as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from geopipe.monitoring.legacy.columns import Row, number, rest_of, take, take_context, text_or_json, words

Records = list[dict[str, Any]]
Convert = Callable[[Row], Records]


def convert_log(row: Row) -> Records:
    """A log record."""
    record = {
        "kind": "log",
        "level": take(row, ("level", "levelname", "log_level", "severity"), words) or "UNKNOWN",
        "message": take(row, ("message", "msg", "log_message", "text"), words) or "",
        "logger": take(row, ("logger", "logger_name", "name", "module", "component"), words),
        "traceback": take(row, ("traceback", "stack_trace", "exc_info", "exc_text", "exception"), text_or_json),
        **take_context(row),
    }
    return [record | {"extra": rest_of(row, "extra", "context", "extra_data", "metadata", "performance")}]


def convert_event(row: Row) -> Records:
    """An event."""
    name = take(row, ("event_type", "event_name", "name", "event", "type"), words) or "event"
    context = take_context(row)
    detail = rest_of(row, "detail", "details", "event_data", "data", "payload", "metadata", "context", "extra")
    return [{"kind": "event", "name": name, "detail": detail, **context}]


def convert_metric(row: Row) -> Records:
    """A metric, and an event for columns that a metric has no place for; only an event without name or value."""
    whole_row = dict(row)
    name = take(row, ("metric_name", "name", "metric", "key"), words)
    value = take(row, ("value", "metric_value", "numeric_value"), number)
    if name is None or value is None:
        context = take_context(whole_row)
        return [{"kind": "event", "name": "legacy_metric", "detail": rest_of(whole_row), **context}]
    record = {"kind": "metric", "name": name, "value": value}
    record["unit"] = take(row, ("unit", "units", "metric_unit"), words)
    context = {key: kept for key, kept in take_context(row).items() if kept is not None}
    rest = rest_of(row)
    record |= {key: context[key] for key in ("stage", "node", "worker") if key in context}
    if not (rest and rest.keys() - {"id"}) and not context.keys() - {"stage", "node", "worker"}:
        return [record]
    return [record, {"kind": "event", "name": "legacy_metric", "detail": {"metric": name, **(rest or {})}, **context}]


def convert_progress(row: Row) -> Records:
    """An event: the old table may have many rows of a stage, ours has the last one."""
    context = take_context(row)
    return [{"kind": "event", "name": "legacy_progress", "detail": rest_of(row), **context}]


CONVERTERS: dict[str, Convert] = {
    "pipeline_logs": convert_log,
    "pipeline_events": convert_event,
    "pipeline_metrics": convert_metric,
    "pipeline_progress": convert_progress,
}
"""The conversion of each old table."""
