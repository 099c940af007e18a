"""Writes records into the monitor's tables: a batch is one transaction, and a record that arrives twice counts once.

Logs, events and metrics are rows under (run, source, seq), so a second one has no effect. Of progress, which comes in
increments, and of states, which replace each other, only records above the highest number of their source are taken.
So a source sends its records in their order, as often as it likes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg2 import DataError, IntegrityError
from psycopg2.extensions import connection, cursor

from geopipe.events.records import plain
from geopipe.monitoring.database import connections
from geopipe.monitoring.states import ENDED, LEVELS

Record = Mapping[str, Any]

CHANNEL = "geopipe"
"""Channel of notifications: the id of the run, once for a batch."""

LEVEL_NUMBERS = {**LEVELS, "TRACE": 5, "WARN": 30, "FATAL": 50}

NEEDED = {
    "log": ("message",),
    "event": ("name",),
    "metric": ("name", "value"),
    "progress": ("stage",),
    "state": ("state",),
}
"""The kinds of records, and the values that each must have."""

INCREMENTS = ("tiles", "cells", "rows", "bytes", "seconds")
TABLES = {"log": "pipeline_logs", "event": "pipeline_events", "metric": "pipeline_metrics"}
"""The tables of the kinds that become rows; each value goes into the column of its name, if there is one."""

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


def insert(cursor: cursor, records: Sequence[Record]) -> int:
    """Write a batch in the transaction of the caller. A record may have its partition as `run_day`."""
    if not records:
        return 0
    batch: list[Record] = [_checked(record) for record in records]
    kinds = {kind: [record for record in batch if record["kind"] == kind] for kind in NEEDED}
    # All writers take locks in one order: partitions, sources, runs, progress, latest values. Partitions come first,
    # because a writer that creates one may wait for another that does.
    for day in sorted({record["run_day"] for kind in TABLES for record in kinds[kind]}):
        cursor.execute("SELECT geopipe_partitions(%s)", (day,))
    newest: dict[tuple[str, str], tuple[int, datetime]] = {}
    for record in batch:
        key = record["run_id"], record["source"]
        seq, ts = newest.get(key, (0, record["ts"]))
        newest[key] = max(seq, record["seq"]), max(ts, record["ts"])
    places = [{"run_id": run, "source": source, "seq": seq, "ts": ts} for (run, source), (seq, ts) in newest.items()]
    _execute(cursor, _LOCK_SOURCES, places)
    fresh = _fresh(batch, {(run, source): seq for run, source, seq in cursor.fetchall()})
    _execute(cursor, _RAISE_NUMBERS, places)
    _execute(cursor, _LOCK_RUNS, places)
    for record in sorted(fresh, key=lambda r: r["run_id"]):
        if record["kind"] == "state":
            _state(cursor, record)
    _execute(cursor, _HEARTBEATS, places)
    add_progress(cursor, [record for record in fresh if record["kind"] == "progress"])
    _execute(cursor, _LATEST, kinds["metric"])
    new = sum(add_rows(cursor, table, kinds[kind]) for kind, table in TABLES.items())
    for run in sorted({run for run, _ in newest}):
        cursor.execute("SELECT pg_notify(%s, %s)", (CHANNEL, run))
    return new


def _execute(cursor: cursor, statement: str, batch: Sequence[Record]) -> int:
    """Execute a statement on the records of `batch`, if there are any. Returns the number of rows that it changed."""
    if not batch:
        return 0
    cursor.execute(statement, {"batch": dumped(batch)})
    return int(cursor.rowcount)


def add_rows(cursor: cursor, table: str, rows: Sequence[Record]) -> int:
    """Insert the rows that a table does not have, by the names of its columns. Returns their number."""
    return _execute(cursor, _ROWS.format(table), rows)


def add_progress(cursor: cursor, rows: Sequence[Record]) -> None:
    """Add work to that of its stage and layer."""
    _execute(cursor, _PROGRESS, rows)


def run_day(run_id: str, ts: float) -> date:
    """The UTC day in a UUIDv7; for another id the day of the record."""
    return moment(_birth(run_id, ts)).date()


def _birth(run_id: str, ts: float) -> float:
    """The time in a UUIDv7; for another id the time of the record."""
    run = UUID(run_id)
    return (run.int >> 80) / 1000 if run.version == 7 else ts


def moment(ts: float) -> datetime:
    """Unix seconds as a datetime in UTC, to the microsecond."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=round(ts * 1e6))


def level_number(level: str) -> int:
    """The number of a level; that of INFO for an unknown one."""
    word = level.strip().upper()
    if word.removeprefix("LEVEL ").isdecimal():  # Python's name for a level without a name
        return min(int(word.removeprefix("LEVEL ")), 32_767)
    return LEVEL_NUMBERS.get(word, LEVELS["INFO"])


def dumped(value: Any) -> str:
    """A value as JSON that jsonb can hold: no NUL, no lone surrogate, no NaN; other types as text."""
    return json.dumps(plain(value, text), ensure_ascii=False, allow_nan=False)


def text(value: object) -> str:
    """A text that Postgres can hold: no NUL, no lone surrogate."""
    return str(value).replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def _checked(record: Record) -> dict[str, Any]:
    """A record whose required values are valid, with its values in the types and under the names of the columns."""
    try:
        kind, seq, ts = record["kind"], record["seq"], float(record["ts"])
        if kind not in NEEDED or not isinstance(seq, int) or not 0 < seq <= LARGEST or not record["source"]:
            raise ValueError(f"kind {kind!r}, seq {seq!r}, source {record['source']!r}")
        for name in NEEDED[kind]:
            if record.get(name) is None:
                raise ValueError(f"a {kind} without {name}")
        run = str(UUID(str(record["run_id"])))
        born = moment(_birth(run, ts))
        checked: dict[str, Any] = {"run_id": run, "source": text(record["source"]), "ts": moment(ts), "born": born}
        day = record.get("run_day")
        checked["run_day"] = day if isinstance(day, date) else born.date()
        if kind == "metric":
            checked["value"] = float(record["value"])
        if kind == "log":
            checked["level"] = str(record.get("level") or "INFO")
            checked["level_no"] = level_number(checked["level"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"no record of a run: {type(error).__name__} {error} in {dict(record)!r:.300}") from None
    return {**record, **checked}


def _fresh(batch: Sequence[Record], arrived: dict[tuple[str, str], int]) -> list[Record]:
    """The progress and states above the highest number that has arrived from their source."""
    fresh = []
    for record in batch:
        key = record["run_id"], record["source"]
        if record["kind"] not in TABLES and record["seq"] > arrived[key]:
            arrived[key] = record["seq"]  # a batch may hold a record twice
            fresh.append(record)
    return fresh


# ---------------------------------------------------------------- statements

_BATCH = """jsonb_to_recordset(%(batch)s) AS b (run_id uuid, source text, seq bigint, ts timestamptz, stage text,
    layer text, node text, name text, value float8, unit text, tiles numeric, cells numeric, rows numeric,
    bytes numeric, seconds float8)"""

_ROWS = "INSERT INTO {0} SELECT * FROM jsonb_populate_recordset(NULL::{0}, %(batch)s) ON CONFLICT DO NOTHING"

_LOCK_SOURCES = f"""
INSERT INTO pipeline_sources AS s (run_id, source, seq, updated_at)
SELECT run_id, source, 0, ts FROM {_BATCH} ORDER BY 1, 2
ON CONFLICT (run_id, source) DO UPDATE SET updated_at = greatest(s.updated_at, excluded.updated_at)
RETURNING run_id::text, source, seq
"""

_RAISE_NUMBERS = f"""
UPDATE pipeline_sources s SET seq = greatest(s.seq, b.seq) FROM {_BATCH}
WHERE (s.run_id, s.source) = (b.run_id, b.source)
"""


_LOCK_RUNS = f"""
SELECT FROM pipeline_runs WHERE run_id IN (SELECT run_id FROM {_BATCH}) ORDER BY run_id FOR NO KEY UPDATE
"""

_HEARTBEATS = f"""
UPDATE pipeline_runs r SET heartbeat_at = least(v.ts, now())
FROM (SELECT run_id, max(ts) AS ts FROM {_BATCH} GROUP BY 1) v
WHERE r.run_id = v.run_id AND r.heartbeat_at IS DISTINCT FROM greatest(r.heartbeat_at, least(v.ts, now()))
"""
"""Every record is a sign of life; one with a clock that is ahead counts as of now."""

_PROGRESS = f"""
INSERT INTO pipeline_progress AS p (run_id, stage, layer, updated_at, tiles, cells, rows, bytes, seconds)
SELECT run_id, stage, coalesce(layer, ''), max(ts), {", ".join(f"sum(greatest({n}, 0))" for n in INCREMENTS)}
FROM {_BATCH} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
ON CONFLICT (run_id, stage, layer) DO UPDATE SET updated_at = greatest(p.updated_at, excluded.updated_at),
    {", ".join(f"{n} = p.{n} + excluded.{n}" for n in INCREMENTS)}
"""

_LATEST = f"""
INSERT INTO pipeline_metrics_latest AS m (run_id, node, name, stage, ts, value, unit)
SELECT DISTINCT ON (1, 2, 3, 4) run_id, coalesce(node, ''), name, coalesce(stage, ''), ts, value, unit
FROM {_BATCH} ORDER BY 1, 2, 3, 4, ts DESC, value DESC
ON CONFLICT (run_id, node, name, stage) DO UPDATE SET ts = excluded.ts, value = excluded.value, unit = excluded.unit
WHERE (m.ts, m.value) < (excluded.ts, excluded.value)
"""

# ---------------------------------------------------------------- states

_KEPT = ("plan_hash", "output", "settings", "versions", "totals", "ray_job_id", "parent_run_id")
_OF_ATTEMPT = ("exit_code", "error", "finished_at")

_STATE = f"""
INSERT INTO pipeline_runs AS r SELECT * FROM jsonb_populate_record(NULL::pipeline_runs, %(run)s)
ON CONFLICT (run_id) DO UPDATE SET name = coalesce(%(name)s, r.name), attempt = excluded.attempt,
    {", ".join(f"{name} = coalesce(excluded.{name}, r.{name})" for name in _KEPT)},
    {
    ", ".join(
        f"{name} = CASE WHEN excluded.attempt > r.attempt OR NOT r.state = ANY(%(ended)s) THEN excluded.{name} "
        f"ELSE coalesce(r.{name}, excluded.{name}) END"
        for name in _OF_ATTEMPT
    )
},
    request = CASE WHEN excluded.attempt = r.attempt THEN r.request END,
    started_at = CASE WHEN excluded.attempt > r.attempt THEN excluded.started_at
        ELSE coalesce(r.started_at, excluded.started_at) END,
    state = CASE WHEN excluded.attempt = r.attempt
            AND (r.state = ANY(%(ended)s) OR excluded.state = 'pending') THEN r.state
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
    detail, state, ts = record.get("detail") or {}, record["state"], record["ts"]
    name = detail.get("name")
    run = {column: detail.get(column) for column in (*_KEPT, "exit_code", "error")} | {
        "run_id": record["run_id"],
        "name": "run" if name is None else name,
        "state": state,
        "attempt": record.get("attempt") or 1,
        "created_at": record["born"],
        "started_at": ts if state == "running" else None,
        "finished_at": ts if state in ENDED else None,
    }
    cursor.execute(_STATE, {"run": dumped(run), "name": name and text(name), "ended": list(ENDED)})
    if state == "completed":
        cursor.execute(_ANCESTORS, {"run_id": record["run_id"], "ts": ts})
    if key := detail.get("idempotency_key"):  # a key of another run must not stop the batch
        cursor.execute(
            "UPDATE pipeline_runs SET idempotency_key = %(key)s WHERE run_id = %(run)s AND idempotency_key IS NULL "
            "AND NOT EXISTS (SELECT FROM pipeline_runs WHERE idempotency_key = %(key)s)",
            {"key": text(key), "run": record["run_id"]},
        )
