"""Writes records into the monitor's tables: a batch is one transaction, and a record that arrives twice counts once.

Logs, events and metrics are rows under (run, source, seq), so a second one has no effect. Of progress, which comes in
increments, and of states, which replace each other, only records above the highest number of their source are taken.
So a source sends its records in their order, as often as it likes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

from psycopg2 import DataError, IntegrityError
from psycopg2.extensions import connection, cursor
from psycopg2.extras import execute_values

from geopipe.events.records import plain as as_json
from geopipe.monitoring.database import connections
from geopipe.monitoring.states import ENDED, LEVELS

Record = Mapping[str, Any]

CHANNEL = "geopipe"
"""Channel of notifications: the id of the run, once for a batch."""

LEVEL_NUMBERS = {**LEVELS, "TRACE": 5, "WARN": 30, "FATAL": 50}

KEY = ("run_day", "run_id", "source", "seq", "ts")
WHERE = ("stage", "layer", "tile", "worker", "node", "attempt")
COLUMNS = {
    "log": ("pipeline_logs", (*KEY, "level", "level_no", "logger", "message", *WHERE, "traceback", "extra")),
    "event": ("pipeline_events", (*KEY, "name", *WHERE, "detail")),
    "metric": ("pipeline_metrics", (*KEY, "name", "value", "unit", "stage", "node", "worker")),
}
"""The table and the columns of each kind of record that becomes a row."""

INCREMENTS = ("tiles", "cells", "rows", "bytes", "seconds")
LARGEST = 2**63 - 1


class Refused(Exception):
    """Postgres can never hold this record."""


class PostgresStore:
    """Writes batches through a connection that is opened for the first batch, and again after it broke."""

    def __init__(self, dsn_file: Path | None) -> None:
        self._dsn_file = dsn_file
        self._connection: Any = None

    def write(self, batch: Sequence[Record]) -> None:
        """Write a batch.

        Raises:
            Refused: Postgres cannot hold a record of it.
        """
        if self._connection is None:
            dsn = connections.needed_dsn(self._dsn_file)
            self._connection = connections.connect(dsn, statement_timeout=5, connect_timeout=3)
        try:
            write(self._connection, batch)
        except (ValueError, DataError, IntegrityError) as error:  # of a record, not of the connection
            raise Refused(str(error).strip()) from error
        except Exception:  # the connection itself may have broken
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        with suppress(Exception):  # a broken connection cannot even be closed
            self._connection.close()
        self._connection = None


def write(connection: connection, records: Sequence[Record]) -> int:
    """Write a batch in one transaction, and notify the listeners.

    Args:
        connection: outside a transaction; it is committed, or rolled back after an error.
        records: those of one source in their order.

    Returns:
        number of new rows of logs, events and metrics.

    Raises:
        ValueError: a record is not valid; nothing is written.
        psycopg2.Error: of the server; the batch can be written again.
    """
    with connection, connection.cursor() as cursor:
        return insert(cursor, records)


def insert(cursor: cursor, records: Sequence[Record], days: Mapping[str, date] = MappingProxyType({})) -> int:
    """Write a batch in the transaction of the caller.

    Args:
        days: partition of a run whose id is no UUIDv7.
    """
    if not records:
        return 0
    batch = [_checked(record) for record in records]
    rows = {kind: [_row(r, days.get(r["run_id"]), kind) for r in batch if r["kind"] == kind] for kind in COLUMNS}
    # All writers take locks in one order: partitions, sources, runs, progress, latest values. Partitions come first,
    # because a writer that creates one may wait for another that does.
    for day in sorted({row[0] for one in rows.values() for row in one}):
        cursor.execute("SELECT geopipe_partitions(%s)", (day,))
    fresh = _fresh(cursor, batch)
    _runs(cursor, batch, [r for r in fresh if r["kind"] == "state"])
    _progress(cursor, [r for r in fresh if r["kind"] == "progress"])
    _latest(cursor, [r for r in batch if r["kind"] == "metric"])
    new = sum(_insert(cursor, *COLUMNS[kind], rows[kind]) for kind in COLUMNS)
    for run in sorted({record["run_id"] for record in batch}):
        cursor.execute("SELECT pg_notify(%s, %s)", (CHANNEL, run))
    return new


def run_day(run_id: str, ts: float) -> date:
    """The UTC day in a UUIDv7; for another id the day of the record."""
    run = UUID(run_id)
    seconds = (run.int >> 80) / 1000 if run.version == 7 else ts
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).date()


def moment(ts: float) -> datetime:
    """Unix seconds as a datetime in UTC, to the microsecond."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=round(ts * 1e6))


def level_number(level: str) -> int:
    """The number of a level; that of INFO for an unknown one."""
    word = level.strip().upper()
    if word.removeprefix("LEVEL ").isdecimal():  # Python's name for a level without a name
        return min(int(word.removeprefix("LEVEL ")), 32_767)
    return LEVEL_NUMBERS.get(word, LEVELS["INFO"])


def plain(value: Any) -> Any:
    """A value that jsonb can hold: no NUL, no lone surrogate, no NaN; other types as text."""
    return as_json(value, text)


def text(value: object) -> str:
    """A text that Postgres can hold: no NUL, no lone surrogate."""
    return str(value).replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def _checked(record: Record) -> dict[str, Any]:
    """A record whose required values are valid, with its id, source and time in their types."""
    try:
        kind, seq, ts = record["kind"], record["seq"], float(record["ts"])
        known = kind in COLUMNS or kind in ("progress", "state")
        if not known or not isinstance(seq, int) or not 0 < seq <= LARGEST or not record["source"]:
            raise ValueError(f"kind {kind!r}, seq {seq!r}, source {record['source']!r}")
        moment(ts)
        needed = {"log": ("message",), "event": ("name",), "metric": ("name", "value"), "progress": ("stage",)}
        for name in needed.get(kind, ("state",)):
            if record.get(name) is None:
                raise ValueError(f"a {kind} without {name}")
        checked = {"run_id": str(UUID(str(record["run_id"]))), "source": text(record["source"]), "ts": ts}
        if kind == "metric":
            checked["value"] = float(record["value"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"no record of a run: {type(error).__name__} {error} in {dict(record)!r:.300}") from None
    return {**record, **checked}


def _row(record: Record, day: date | None, kind: str) -> tuple[Any, ...]:
    """The columns of a record; the first is the day."""
    values: dict[str, Any] = {"run_day": day or run_day(record["run_id"], record["ts"]), "ts": moment(record["ts"])}
    if kind == "log":
        values["level"] = str(record.get("level") or "INFO")
        values["level_no"] = level_number(values["level"])
    values |= {name: dumped(record[name]) for name in ("extra", "detail") if record.get(name) is not None}
    return tuple(values.get(column, record.get(column)) for column in COLUMNS[kind][1])


def _fresh(cursor: cursor, batch: Sequence[Record]) -> list[Record]:
    """The progress and states above the highest number of their source; locks the sources, and raises their numbers."""
    newest: dict[tuple[str, str], tuple[int, float]] = {}
    for record in batch:
        seq, ts = newest.get(key := (record["run_id"], record["source"]), (0, 0.0))
        newest[key] = max(seq, record["seq"]), max(ts, record["ts"])
    keys = sorted(newest)
    execute_values(
        cursor,
        "INSERT INTO pipeline_sources (run_id, source, seq, updated_at) VALUES %s ON CONFLICT DO NOTHING",
        [(*key, 0, moment(newest[key][1])) for key in keys],
        "(%s::uuid, %s, %s, %s)",
        page_size=len(keys),
    )
    cursor.execute(
        "SELECT run_id::text, source, seq FROM pipeline_sources WHERE (run_id, source) IN "
        "(SELECT * FROM unnest(%s::uuid[], %s::text[])) ORDER BY run_id, source FOR UPDATE",
        ([run for run, _ in keys], [source for _, source in keys]),
    )
    arrived = {(run, source): seq for run, source, seq in cursor.fetchall()}
    execute_values(
        cursor,
        "UPDATE pipeline_sources s SET seq = greatest(s.seq, v.seq), updated_at = greatest(s.updated_at, v.ts) "
        "FROM (VALUES %s) v (run_id, source, seq, ts) WHERE s.run_id = v.run_id AND s.source = v.source",
        [(*key, newest[key][0], moment(newest[key][1])) for key in keys],
        "(%s::uuid, %s, %s, %s)",
        page_size=len(keys),
    )
    fresh = []
    for record in batch:
        key = record["run_id"], record["source"]
        if record["kind"] in COLUMNS or record["seq"] <= arrived[key]:
            continue
        arrived[key] = record["seq"]  # a batch may hold a record twice
        fresh.append(record)
    return fresh


def _runs(cursor: cursor, batch: Sequence[Record], states: Sequence[Record]) -> None:
    """Merge the states into the runs, and set the heartbeats: every record is a sign of life."""
    seen: dict[str, float] = {}
    for record in batch:
        seen[record["run_id"]] = max(seen.get(record["run_id"], 0.0), record["ts"])
    ids = sorted(seen)
    cursor.execute(
        "SELECT run_id::text FROM pipeline_runs WHERE run_id = ANY(%s::uuid[]) ORDER BY run_id FOR NO KEY UPDATE",
        (ids,),
    )
    for record in sorted(states, key=lambda r: r["run_id"]):
        _state(cursor, record)
    execute_values(
        cursor,
        "UPDATE pipeline_runs r SET heartbeat_at = least(v.ts, now()) FROM (VALUES %s) v (run_id, ts) "
        "WHERE r.run_id = v.run_id AND r.heartbeat_at IS DISTINCT FROM greatest(r.heartbeat_at, least(v.ts, now()))",
        [(run, moment(seen[run])) for run in ids],
        "(%s::uuid, %s::timestamptz)",
        page_size=len(ids),
    )


DETAILS = ("plan_hash", "output", "settings", "versions", "totals", "ray_job_id", "parent_run_id", "exit_code", "error")

_STATE = """
INSERT INTO pipeline_runs AS r (run_id, name, state, attempt, created_at, started_at, finished_at,
    plan_hash, output, settings, versions, totals, ray_job_id, parent_run_id, exit_code, error)
VALUES (%(run_id)s, coalesce(%(name)s, 'run'), %(state)s, %(attempt)s, %(created)s,
    CASE WHEN %(state)s = 'running' THEN %(ts)s END, CASE WHEN %(ended)s THEN %(ts)s END,
    %(plan_hash)s, %(output)s, %(settings)s, %(versions)s, %(totals)s, %(ray_job_id)s, %(parent_run_id)s,
    %(exit_code)s, %(error)s)
ON CONFLICT (run_id) DO UPDATE SET
    name = coalesce(%(name)s, r.name), plan_hash = coalesce(excluded.plan_hash, r.plan_hash),
    output = coalesce(excluded.output, r.output), settings = coalesce(excluded.settings, r.settings),
    versions = coalesce(excluded.versions, r.versions), totals = coalesce(excluded.totals, r.totals),
    ray_job_id = coalesce(excluded.ray_job_id, r.ray_job_id),
    parent_run_id = coalesce(excluded.parent_run_id, r.parent_run_id), attempt = excluded.attempt,
    exit_code = CASE WHEN excluded.attempt > r.attempt OR NOT r.state = ANY(%(terminal)s)
        THEN excluded.exit_code ELSE coalesce(r.exit_code, excluded.exit_code) END,
    error = CASE WHEN excluded.attempt > r.attempt OR NOT r.state = ANY(%(terminal)s)
        THEN excluded.error ELSE coalesce(r.error, excluded.error) END,
    request = CASE WHEN excluded.attempt = r.attempt THEN r.request END,
    started_at = CASE WHEN excluded.attempt > r.attempt THEN excluded.started_at
        ELSE coalesce(r.started_at, excluded.started_at) END,
    finished_at = CASE WHEN excluded.attempt > r.attempt OR NOT r.state = ANY(%(terminal)s)
        THEN excluded.finished_at ELSE coalesce(r.finished_at, excluded.finished_at) END,
    state = CASE WHEN excluded.attempt = r.attempt
            AND (r.state = ANY(%(terminal)s) OR excluded.state = 'pending') THEN r.state
        ELSE excluded.state END
WHERE excluded.attempt >= r.attempt
"""
"""A new attempt starts anew. In one attempt the first end stays, and no state makes a run pending again."""


_ANCESTORS = """
WITH RECURSIVE before AS (
    SELECT parent_run_id AS run_id FROM pipeline_runs WHERE run_id = %(run_id)s
    UNION SELECT r.parent_run_id FROM pipeline_runs r JOIN before b USING (run_id)
)
UPDATE pipeline_runs r SET state = 'failed', finished_at = coalesce(r.heartbeat_at, r.started_at, %(ts)s),
    error = jsonb_build_object('type', 'RunError', 'message',
        'its process ended without a word; run ' || %(run_id)s::text || ' went on with it and is completed')
FROM before b WHERE r.run_id = b.run_id AND r.state IN ('pending', 'running') AND r.run_id <> %(run_id)s
"""
"""A run that was resumed by another one is not running: both would hold the same output."""


def _state(cursor: cursor, record: Record) -> None:
    detail = record.get("detail") or {}
    run = UUID(record["run_id"])
    born = (run.int >> 80) / 1000 if run.version == 7 else record["ts"]
    values: dict[str, Any] = {name: _parameter(detail.get(name)) for name in (*DETAILS, "name")}
    values |= {
        "run_id": record["run_id"],
        "state": record["state"],
        "attempt": record.get("attempt") or 1,
        "ts": moment(record["ts"]),
        "created": moment(born),
        "ended": record["state"] in ENDED,
        "terminal": list(ENDED),
    }
    cursor.execute(_STATE, values)
    if record["state"] == "completed":
        cursor.execute(_ANCESTORS, {"run_id": record["run_id"], "ts": moment(record["ts"])})
    if key := detail.get("idempotency_key"):  # a key of another run must not stop the batch
        cursor.execute(
            "UPDATE pipeline_runs SET idempotency_key = %(key)s WHERE run_id = %(run)s AND idempotency_key IS NULL "
            "AND NOT EXISTS (SELECT FROM pipeline_runs WHERE idempotency_key = %(key)s)",
            {"key": text(key), "run": record["run_id"]},
        )


def _parameter(value: Any) -> Any:
    """A value as a parameter of a statement: objects as JSON."""
    return dumped(value) if isinstance(value, Mapping | list | tuple) else plain(value)


def dumped(value: Any) -> str:
    """JSON that a jsonb column takes."""
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False)


def _progress(cursor: cursor, records: Iterable[Record]) -> None:
    added: dict[tuple[str, str, str], list[Any]] = {}
    for record in records:
        key = record["run_id"], text(record["stage"]), text(record.get("layer") or "")
        sums = added.setdefault(key, [0, 0, 0, 0, 0.0, 0.0])
        for at, name in enumerate(INCREMENTS):
            sums[at] += max(record.get(name) or 0, 0)
        sums[-1] = max(sums[-1], record["ts"])
    if added:
        execute_values(
            cursor,
            "INSERT INTO pipeline_progress AS p (run_id, stage, layer, tiles, cells, rows, bytes, seconds, updated_at) "
            "VALUES %s ON CONFLICT (run_id, stage, layer) DO UPDATE SET "
            + ", ".join(f"{name} = p.{name} + excluded.{name}" for name in INCREMENTS)
            + ", updated_at = greatest(p.updated_at, excluded.updated_at)",
            [(*key, *added[key][:-1], moment(added[key][-1])) for key in sorted(added)],
            "(%s::uuid, %s, %s, %s, %s, %s, %s, %s, %s)",
            page_size=len(added),
        )


def _latest(cursor: cursor, records: Iterable[Record]) -> None:
    latest: dict[tuple[str, ...], Record] = {}
    for r in records:
        key = (r["run_id"], *(text(r.get(name) or "") for name in ("node", "name", "stage")))
        if key not in latest or (r["ts"], r["value"]) >= (latest[key]["ts"], latest[key]["value"]):
            latest[key] = r
    if latest:
        execute_values(
            cursor,
            "INSERT INTO pipeline_metrics_latest AS m (run_id, node, name, stage, ts, value, unit) VALUES %s "
            "ON CONFLICT (run_id, node, name, stage) DO UPDATE SET "
            "ts = excluded.ts, value = excluded.value, unit = excluded.unit "
            "WHERE (m.ts, m.value) < (excluded.ts, excluded.value)",
            [
                (*key, moment(latest[key]["ts"]), latest[key]["value"], plain(latest[key].get("unit")))
                for key in sorted(latest)
            ],
            "(%s::uuid, %s, %s, %s, %s, %s::float8, %s)",
            page_size=len(latest),
        )


def _insert(cursor: cursor, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> int:
    """Insert the rows that the table does not have. Returns their number."""
    if not rows:
        return 0
    # as texts: Postgres converts them to the columns' types, and a value that does not fit is a DataError
    values = [[None if value is None else text(value) for value in row] for row in rows]
    statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES %s ON CONFLICT DO NOTHING"
    execute_values(cursor, statement, values, page_size=len(values))
    return int(cursor.rowcount)
