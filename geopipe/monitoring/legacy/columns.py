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

RUN = ("experiment_id", "run_id", "pipeline_run_id", "pipeline_id", "experiment", "job_id", "experiment_name")
IDS = ("id", "experiment_id", "run_id", "uuid", "experiment_uuid")
TIME = ("timestamp", "ts", "created_at", "time", "logged_at", "recorded_at", "event_time", "updated_at", "created")
STAGE = ("stage", "stage_name", "pipeline_stage", "step", "step_name")
LAYER = ("layer", "layer_name", "dataset", "dataset_name", "variable")
CREATED = ("created_at", "created", "started_at", "start_time", "start_date", "timestamp")
DONE = ("completed_units", "units_completed", "completed", "current", "processed", "done", "items_completed")
TOTAL = ("total_units", "units_total", "total", "total_items", "items_total")

Row = dict[str, Any]


def columns_of(cursor: Any, table: str) -> list[str]:
    """The columns of a table, in their order; empty if there is no such table."""
    cursor.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(quote_ident(%s)) AND attnum > 0 "
        "AND NOT attisdropped ORDER BY attnum",
        (table,),
    )
    return [str(name) for (name,) in cursor.fetchall()]


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


def text_or_json(value: Any) -> str | None:
    """A text, or JSON as text."""
    return words(value) or (json.dumps(value) if json_object(value) else None)


def take(row: Row, names: Sequence[str], accept: Callable[[Any], Any]) -> Any:
    """Remove from the row and return the first of these columns that `accept` takes; None if it takes none."""
    for name in names:
        if (value := accept(row.get(name))) is not None:
            del row[name]
            return value
    return None


def take_context(row: Row) -> Row:
    """Remove from the row and return stage, layer, tile, worker, node and attempt."""
    return {
        "stage": take(row, STAGE, words),
        "layer": take(row, LAYER, words),
        "tile": take(row, ("tile", "tile_id"), whole),
        "worker": take(row, ("worker", "worker_id", "pid", "process_id"), whole),
        "node": take(row, ("node", "node_id", "hostname", "host"), words),
        "attempt": take(row, ("attempt",), small),
    }


def rest_of(row: Mapping[str, Any], *objects: str) -> Row | None:
    """The columns that are left; the keys of `objects` become columns, unless their names are taken."""
    rest = {name: value for name, value in row.items() if value is not None}
    for name in objects:
        inner = rest.get(name)
        if isinstance(inner, dict) and not inner.keys() & (rest.keys() - {name}):
            del rest[name]
            rest |= inner
    return rest or None
