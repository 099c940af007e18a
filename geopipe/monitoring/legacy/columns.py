"""The columns of the old system's tables. They were never written down, so they are recognised by usual names."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from psycopg2 import sql

from geopipe.monitoring.database import store

BATCH = 500
"""Rows that are read at a time."""

Row = dict[str, Any]


def relations(cursor: Any, kinds: str = "rpvmf") -> dict[str, list[str]]:
    """The tables and views of the schema with their columns.

    Args:
        kinds: letters of pg_class.relkind.
    """
    cursor.execute(
        "SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum) FROM pg_class c JOIN pg_attribute a "
        'ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped WHERE relkind = ANY(%s::"char"[]) '
        "AND relnamespace = quote_ident(current_schema())::regnamespace GROUP BY 1 ORDER BY 1",
        (list(kinds),),
    )
    return dict(cursor.fetchall())


def primary_key(cursor: Any, table: str) -> str | None:
    """The column of a table's primary key; None if it has none, or one of several columns."""
    cursor.execute(
        "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey) "
        "WHERE i.indisprimary AND i.indrelid = to_regclass(quote_ident(%s))",
        (table,),
    )
    names = [str(name) for (name,) in cursor.fetchall()]
    return names[0] if len(names) == 1 else None


def rows_of(cursor: Any, table: str) -> Iterator[Row]:
    """All rows of a table as JSON values, in the order of its primary key."""
    key = primary_key(cursor, table)
    order = sql.SQL("ORDER BY t.{}").format(sql.Identifier(key)) if key else sql.SQL("")
    with cursor.connection.cursor(f"geopipe_{table}") as server:
        server.itersize = BATCH
        server.execute(sql.SQL("SELECT to_jsonb(t)::text FROM {} t {}").format(sql.Identifier(table), order))
        for (row,) in server:
            yield json.loads(row)


# ---------------------------------------------------------------- values


def moment(value: Any) -> float | None:
    """Unix seconds of a time (without zone: UTC), of seconds or of milliseconds; None of any other value."""
    try:
        if isinstance(value, str):
            when = datetime.fromisoformat(value)
            value = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        seconds = value / 1000 if abs(value) > 1e11 else float(value)
        store.moment(seconds)
    except (ValueError, OverflowError):
        return None
    return seconds


def words(value: Any) -> str | None:
    """A text that is not empty, or a number as text."""
    return value if isinstance(value, str) and value else str(value) if isinstance(value, int | float) else None


def whole(value: Any) -> int | None:
    """An integer of 64 bits."""
    fits = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= store.LARGEST
    return value if fits else None


def small(value: Any) -> int | None:
    """An integer from 0 to 2**31 - 1."""
    return value if whole(value) is not None and 0 <= value < 2**31 else None


def number(value: Any) -> float | None:
    """A number, or a text of one."""
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def json_object(value: Any) -> Any:
    """An object or a list that is not empty."""
    return value if isinstance(value, dict | list) and value else None


def words_or_object(value: Any) -> Any:
    """A text, an object or a list."""
    return words(value) or json_object(value)


# ---------------------------------------------------------------- columns

Fields = Mapping[str, tuple[Callable[[Any], Any], Sequence[str]]]
"""Which values a field takes, and the usual names of its column, the most usual first."""

_STARTED = ("started_at", "start_time", "start_date")
_TIMES = ("timestamp", "ts", "created_at", "time", "logged_at", "recorded_at", "event_time", "updated_at", "created")
RUN_ID = ("experiment_id", "run_id", "pipeline_run_id", "pipeline_id", "experiment", "job_id", "experiment_name")
PRIMARY = ("id", "experiment_id", "run_id", "uuid", "experiment_uuid")

TIME: Fields = {"ts": (moment, _TIMES)}
CREATED: Fields = {"ts": (moment, ("created_at", "created", *_STARTED, "timestamp"))}
CONTEXT: Fields = {
    "stage": (words, ("stage", "stage_name", "pipeline_stage", "step", "step_name")),
    "layer": (words, ("layer", "layer_name", "dataset", "dataset_name", "variable")),
    "tile": (whole, ("tile", "tile_id")),
    "worker": (whole, ("worker", "worker_id", "pid", "process_id")),
    "node": (words, ("node", "node_id", "hostname", "host")),
    "attempt": (small, ("attempt",)),
}
LOG: Fields = {
    "level": (words, ("level", "levelname", "log_level", "severity")),
    "message": (words, ("message", "msg", "log_message", "text")),
    "logger": (words, ("logger", "logger_name", "name", "module", "component")),
    "traceback": (words_or_object, ("traceback", "stack_trace", "exc_info", "exc_text", "exception")),
    **CONTEXT,
}
EVENT: Fields = {"name": (words, ("event_type", "event_name", "name", "event", "type")), **CONTEXT}
METRIC: Fields = {
    "name": (words, ("metric_name", "name", "metric", "key")),
    "value": (number, ("value", "metric_value", "numeric_value")),
    "unit": (words, ("unit", "units", "metric_unit")),
    **CONTEXT,
}
PROGRESS: Fields = {
    "updated_at": (moment, ("updated_at", *_TIMES)),
    "stage": CONTEXT["stage"],
    "layer": CONTEXT["layer"],
    "tiles": (
        whole,
        ("completed_units", "units_completed", "completed", "current", "processed", "done", "items_completed"),
    ),
    "total": (whole, ("total_units", "units_total", "total", "total_items", "items_total")),
}
RUN: Fields = {
    "error": (words_or_object, ("error_message", "error", "error_details")),
    "started_at": (moment, _STARTED),
    "finished_at": (moment, ("completed_at", "finished_at", "ended_at", "end_time", "end_date")),
    "settings": (json_object, ("config", "settings", "parameters", "params", "configuration")),
    "output": (words, ("output", "output_path", "output_dir")),
}


def take(row: Row, fields: Fields) -> Row:
    """Remove from the row and return the fields: of each the first column that it takes; None if it takes none."""
    values: Row = {}
    for field, (accept, names) in fields.items():
        column = next((name for name in names if accept(row.get(name)) is not None), None)
        values[field] = None if column is None else accept(row.pop(column))
    return values


def rest_of(row: Mapping[str, Any], *objects: str) -> Row | None:
    """The columns that are left; the keys of `objects` become columns, unless their names are taken."""
    rest = {name: value for name, value in row.items() if value is not None}
    for name in objects:
        inner = rest.get(name)
        if isinstance(inner, dict) and not inner.keys() & (rest.keys() - {name}):
            del rest[name]
            rest |= inner
    return rest or None
