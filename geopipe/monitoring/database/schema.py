"""The schema of the monitor's database: upgrades, a test that records are stored, and the removal of old ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection

from geopipe.errors import MachineError
from geopipe.events.records import new_run_id
from geopipe.monitoring.database import connections, store
from geopipe.monitoring.database.connections import LOCK_TIMEOUT, connect, masked, working
from geopipe.monitoring.database.migrations.revisions import HEAD, PARTITIONED, REVISIONS
from geopipe.monitoring.legacy import old_system

UPGRADE_LOCK = 7166461129431216131
"""Advisory lock of an upgrade, so that one runs at a time."""


# ---------------------------------------------------------------- schema


@dataclass(frozen=True)
class Upgraded:
    """Result of an upgrade: revisions before and after, copied rows and new names of the old system's tables."""

    before: str | None
    after: str
    taken_over: dict[str, int]
    renamed: dict[str, str]


def upgrade(dsn: str, revision: str = HEAD) -> Upgraded:
    """Upgrade the schema in one transaction. Tables of the old system are kept, and their rows copied.

    An upgrade that fails or is killed changes nothing. Of several upgrades at once, the first does the work.

    Raises:
        MachineError: the database cannot be reached, is of a newer geopipe, or the role may not create tables.
    """
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    create = partial(connect, dsn, statement_timeout=0, schema=False)
    engine = create_engine("postgresql+psycopg2://", creator=create, poolclass=NullPool)
    with working(dsn, "the upgrade of the schema"), engine.begin() as connected:
        raw: Any = connected.connection.driver_connection
        with raw.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (UPGRADE_LOCK,))
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", (LOCK_TIMEOUT,))
            schema = _own_schema(dsn, cursor)
            before = connections.version(cursor)
            if before is not None and before not in REVISIONS:
                connections.check_schema(dsn, before)
            renamed = old_system.set_aside(cursor) if before is None else {}
            config.attributes.update(connection=connected, schema=schema)
            command.upgrade(config, revision)
            taken = old_system.take_over(cursor, renamed) if before is None and revision == HEAD else {}
            after = connections.version(cursor)
    return Upgraded(before, str(after), taken, renamed)


def _own_schema(dsn: str, cursor: Any) -> str:
    """The schema of the tables; for the rest of the transaction, names refer to this schema only."""
    cursor.execute("SELECT current_schema()")
    schema = cursor.fetchone()[0]
    if schema is None:
        raise MachineError(
            f"the search path at {masked(dsn)} leads to no schema", "create the schema, or correct search_path"
        )
    path = sql.SQL("SET LOCAL search_path TO {}, pg_temp").format(sql.Identifier(schema))
    cursor.execute(path)
    return str(schema)


@dataclass(frozen=True)
class Current:
    """The revision of a database and that of this geopipe (`head`), and the tables of an old system."""

    revision: str | None
    head: str
    server: str
    url: str
    old_system: tuple[str, ...] = ()

    @property
    def is_current(self) -> bool:
        return self.revision == self.head


def current(dsn: str) -> Current:
    """The schema of a database.

    Raises:
        MachineError: the database cannot be reached.
    """
    with closing(connect(dsn, schema=False)) as connected, working(dsn, "reading the schema"):
        with connected.cursor() as cursor:
            revision = connections.version(cursor)
            old = () if revision else tuple(sorted(connections.old_tables(cursor)))
        return Current(revision, HEAD, _server(connected), masked(dsn), old)


def _server(connected: connection) -> str:
    number = connected.server_version
    return f"PostgreSQL {number // 10_000}.{number % 10_000}"


# ---------------------------------------------------------------- validate


@dataclass(frozen=True)
class Validated:
    """Result of a validation: the checks that passed, and whether the records could be deleted."""

    server: str
    url: str
    revision: str
    seconds: float
    checks: tuple[str, ...]
    removed: bool


def validate(dsn: str) -> Validated:
    """Write records of every kind as a run does, read them back, and delete them.

    If the role may not delete, they stay under a run named `validate`.

    Raises:
        MachineError: the database cannot be used, or returns other records.
    """
    start = time.perf_counter()
    run = new_run_id()
    now = round(time.time(), 3)
    about = {"run_id": run, "source": f"validate-{run}", "ts": now, "stage": "read", "node": "validate"}
    written: list[dict[str, Any]] = [
        {"kind": "state", "state": "running", "detail": {"name": "validate"}},
        {"kind": "log", "level": "ERROR", "logger": "geopipe", "message": "a log\0 record", "extra": {"answer": 42}},
        {"kind": "metric", "name": "cpu_percent", "value": 12.5, "unit": "%"},
        {"kind": "event", "name": "validate", "detail": {"layers": ["a", "b"]}},
        {"kind": "progress", "tiles": 3, "cells": 5, "rows": 7, "bytes": 11, "seconds": 0.25},
        {"kind": "state", "state": "completed", "detail": {"exit_code": 0}},
    ]
    written = [{**about, **record, "seq": number} for number, record in enumerate(written, 1)]
    with closing(connect(dsn)) as connected, working(dsn, "validating the database"):
        with connected, connected.cursor() as cursor:
            cursor.execute(f"LISTEN {store.CHANNEL}")
        for _ in range(2):  # the second time must change nothing
            store.write(connected, written)
        with connected, connected.cursor() as cursor:
            checks = tuple(_read_back(dsn, cursor, run))
        connected.poll()
        if run not in {notice.payload for notice in connected.notifies}:
            raise _differs(dsn, "the notification", "none", run)
        removed = _removed(connected, run)
        server = _server(connected)
    return Validated(server, masked(dsn), HEAD, time.perf_counter() - start, (*checks, "notification"), removed)


_EXPECTED: dict[str, tuple[str, dict[str, Any]]] = {
    "log": ("pipeline_logs", {"level": "ERROR", "level_no": 40, "message": "a log record", "extra": {"answer": 42}}),
    "metric": ("pipeline_metrics", {"name": "cpu_percent", "value": 12.5, "unit": "%", "node": "validate"}),
    "latest value": ("pipeline_metrics_latest", {"name": "cpu_percent", "value": 12.5, "stage": "read"}),
    "event": ("pipeline_events", {"name": "validate", "detail": {"layers": ["a", "b"]}}),
    "progress": (
        "pipeline_progress",
        {"stage": "read", "tiles": 3, "cells": 5, "rows": 7, "bytes": 11, "seconds": 0.25},
    ),
    "state": ("pipeline_runs", {"name": "validate", "state": "completed", "exit_code": 0}),
    "sequence": ("pipeline_sources", {"seq": 6}),
    "errors": ("pipeline_error_summary", {"cause": "a log record", "count": 1}),
}
"""The table and the values of the row that each check reads back."""


def _read_back(dsn: str, cursor: Any, run: str) -> Iterator[str]:
    for name, (table, expected) in _EXPECTED.items():
        cursor.execute(f"SELECT to_jsonb(t) FROM {table} t WHERE run_id = %s", (run,))
        rows = [{column: row[column] for column in expected} for (row,) in cursor.fetchall()]
        if rows != [expected]:
            raise _differs(dsn, f"the {name}", rows, expected)
        yield name


def _differs(dsn: str, what: str, actual: object, expected: object) -> MachineError:
    return MachineError(
        f"{what} at {masked(dsn)} is read as {actual}, but {expected} was written",
        "see whether triggers, rules or another program change these tables",
    )


def _removed(connected: connection, run: str) -> bool:
    try:
        with connected, connected.cursor() as cursor:
            for table in _RUN_TABLES:
                cursor.execute(f"DELETE FROM {table} WHERE run_id = %s", (run,))
    except psycopg2.errors.InsufficientPrivilege:
        return False
    return True


_RUN_TABLES = ("pipeline_sources", "pipeline_runs", "pipeline_progress", "pipeline_metrics_latest", *PARTITIONED)
"""In the order in which a batch locks them, which prevents a deadlock."""


# ---------------------------------------------------------------- prune


@dataclass(frozen=True)
class Pruned:
    """What was dropped (or would be): partitions, and rows of tables without partitions."""

    before: date
    days: tuple[date, ...]
    partitions: tuple[str, ...]
    rows: dict[str, int]
    kept: tuple[date, ...]
    dry_run: bool


def prune(dsn: str, older_than_days: int, *, dry_run: bool = False) -> Pruned:
    """Drop records older than so many days: whole partitions, and the runs of these days. Each day is a transaction.

    A day with an active run (with a record within an hour) is kept.

    Raises:
        MachineError: the database cannot be reached, or the role does not own the tables.
    """
    before = datetime.now(UTC).date() - timedelta(days=older_than_days)
    with closing(connect(dsn, statement_timeout=600)) as connected, working(dsn, "pruning"):
        with connected, connected.cursor() as cursor:
            cursor.execute(_DAYS, {"before": before, "parents": list(PARTITIONED)})
            days = {day: (list(partitions), active) for day, partitions, active in cursor.fetchall()}
        gone = {day: partitions for day, (partitions, active) in days.items() if not active}
        rows = dict.fromkeys(_RUN_TABLES[:4], 0)
        for day, partitions in gone.items():
            with connected, connected.cursor() as cursor:
                cursor.execute("SELECT set_config('lock_timeout', %s, true)", (LOCK_TIMEOUT,))
                for table, query in _OF_DAY.items():
                    action = "SELECT count(*)" if dry_run else "DELETE"
                    cursor.execute(f"{action} FROM {table} t WHERE {query}", {"day": day})
                    rows[table] += cursor.fetchone()[0] if dry_run else cursor.rowcount
                for partition in () if dry_run else partitions:
                    cursor.execute(sql.SQL("DROP TABLE {}").format(sql.SQL(partition)))
    names = tuple(sorted(name for partitions in gone.values() for name in partitions))
    return Pruned(before, tuple(gone), names, rows, tuple(sorted(days.keys() - gone.keys())), dry_run)


_DAYS = """
WITH parts AS (
    SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day, c.oid::regclass::text AS name
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = ANY(%(parents)s::regclass[]) AND c.relname ~ '_[0-9]{8}$'
), runs AS (
    SELECT geopipe_run_day(run_id, created_at) AS day,
           bool_or(state IN ('pending', 'running', 'paused') AND coalesce(heartbeat_at, created_at)
                   > now() - interval '1 hour') AS active
    FROM pipeline_runs GROUP BY 1
), others AS (
    SELECT DISTINCT geopipe_run_day(run_id, updated_at) AS day FROM pipeline_sources
)
SELECT day, array_remove(array_agg(parts.name ORDER BY parts.name), NULL), coalesce(bool_or(runs.active), false)
FROM parts FULL JOIN runs USING (day) FULL JOIN others USING (day)
WHERE day < %(before)s GROUP BY day ORDER BY day
"""

_OF_RUNS = (
    "geopipe_run_day(t.run_id, coalesce((SELECT r.created_at FROM pipeline_runs r WHERE r.run_id = t.run_id), t.{})) "
    "= %(day)s"
)
_OF_DAY = {
    "pipeline_sources": _OF_RUNS.format("updated_at"),
    "pipeline_progress": _OF_RUNS.format("updated_at"),
    "pipeline_metrics_latest": _OF_RUNS.format("ts"),
    "pipeline_runs": "geopipe_run_day(t.run_id, t.created_at) = %(day)s",
}
"""The rows of a day's runs; the runs come last, because the other tables take their day from them."""
