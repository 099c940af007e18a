"""The tables that the old system left: set aside under another name, and their rows taken over.

The old tables have no version and their columns were never written down, so they are known by their names and their
columns by what such columns are called. What is not recognised goes along as JSON, and the old tables stay as they
were under the name NAME_legacy: nothing that they hold can be lost.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from psycopg2 import sql
from psycopg2.extras import execute_values

from geopipe.errors import MachineError
from geopipe.monitoring.database import store
from geopipe.monitoring.database.migrations import RELATIONS

EXPERIMENTS = "experiments"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "experiments.geopipe")
"""Under which an experiment's id, where it is no UUID, becomes one: always the same."""

OURS = {"run_id", "state", "attempt", "heartbeat_at", "request"}
OLD_RUNS = "pipeline_runs/"
BATCH = 2000

RUN = ("experiment_id", "run_id", "pipeline_run_id", "pipeline_id", "experiment", "job_id", "experiment_name")
IDS = ("id", "experiment_id", "run_id", "uuid", "experiment_uuid")
TIME = ("timestamp", "ts", "created_at", "time", "logged_at", "recorded_at", "event_time", "updated_at", "created")
STAGE = ("stage", "stage_name", "pipeline_stage", "step", "step_name")
LAYER = ("layer", "layer_name", "dataset", "dataset_name", "variable")
CREATED = ("created_at", "created", "started_at", "start_time", "start_date", "timestamp")
STATES = {
    "completed": ("completed", "complete", "success", "succeeded", "successful", "done", "finished"),
    "failed": ("failed", "failure", "error", "errored", "crashed"),
    "cancelled": ("cancelled", "canceled", "stopped", "aborted", "killed", "terminated"),
}


# ---------------------------------------------------------------- set aside


def set_aside(cursor: Any) -> dict[str, str]:
    """Rename what has the names of our tables and views; in the transaction of the caller.

    Returns:
        the new name of each; nothing where no old system was.

    Raises:
        MachineError: the tables are ours, and only the table with their revision is gone.
    """
    cursor.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = quote_ident(current_schema())::regnamespace "
        "AND relname = ANY(%s) AND relkind = ANY('{r,p,v,m,f}') ORDER BY relname",
        (list(RELATIONS),),
    )
    found = [str(name) for (name,) in cursor.fetchall()]
    if "pipeline_runs" in found and set(_columns(cursor, "pipeline_runs")) >= OURS:
        raise MachineError(
            "the tables of geopipe are there without the table that has their revision",
            "restore geopipe_version together with the tables, or move these to another schema",
        )
    renamed = {}
    for name in found:
        renamed[name] = _free(cursor, f"{name}_legacy")
        cursor.execute(
            sql.SQL("ALTER TABLE {} RENAME TO {}").format(sql.Identifier(name), sql.Identifier(renamed[name]))
        )
    return renamed


def _free(cursor: Any, wanted: str) -> str:
    name, number = wanted, 1
    while True:
        cursor.execute("SELECT to_regclass(quote_ident(%s)) IS NULL", (name,))
        if cursor.fetchone()[0]:
            return name
        number += 1
        name = f"{wanted}_{number}"


def _columns(cursor: Any, table: str) -> list[str]:
    cursor.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(quote_ident(%s)) AND attnum > 0 "
        "AND NOT attisdropped ORDER BY attnum",
        (table,),
    )
    return [str(name) for (name,) in cursor.fetchall()]


def _key(cursor: Any, table: str) -> str | None:
    """The one column of a table's primary key."""
    cursor.execute(
        "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey) "
        "WHERE i.indisprimary AND i.indrelid = to_regclass(quote_ident(%s))",
        (table,),
    )
    names = [str(name) for (name,) in cursor.fetchall()]
    return names[0] if len(names) == 1 else None


def _rows(cursor: Any, table: str) -> Iterator[dict[str, Any]]:
    """All rows of a table as JSON has them, in the order of its key."""
    key = _key(cursor, table)
    order = sql.SQL("ORDER BY t.{}").format(sql.Identifier(key)) if key else sql.SQL("")
    with cursor.connection.cursor(f"geopipe_{table}") as server:
        server.itersize = BATCH
        server.execute(sql.SQL("SELECT to_jsonb(t)::text FROM {} t {}").format(sql.Identifier(table), order))
        for (row,) in server:
            yield json.loads(row)


# ---------------------------------------------------------------- recognise


def moment(value: Any) -> float | None:
    """Unix seconds of an old column: a time (without zone: UTC), seconds or milliseconds; None of anything else."""
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


def _words(value: Any) -> str | None:
    return value if isinstance(value, str) and value else str(value) if isinstance(value, int | float) else None


def _whole(value: Any) -> int | None:
    fits = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= store.LARGEST
    return value if fits else None


def _small(value: Any) -> int | None:
    return value if _whole(value) is not None and 0 <= value < 2**31 else None


def _number(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _object(value: Any) -> Any:
    return value if isinstance(value, dict | list) and value else None


def _text_or_json(value: Any) -> str | None:
    return _words(value) or (json.dumps(value) if _object(value) else None)


def _take(row: dict[str, Any], names: Sequence[str], accept: Callable[[Any], Any]) -> Any:
    """The first of these columns that holds something of the kind; it is taken out of the row, others stay."""
    for name in names:
        if (value := accept(row.get(name))) is not None:
            del row[name]
            return value
    return None


def _rest(row: Mapping[str, Any], *objects: str) -> dict[str, Any] | None:
    """What was not recognised, under the names of its columns; columns of objects are opened where names permit."""
    rest = {name: value for name, value in row.items() if value is not None}
    for name in objects:
        inner = rest.get(name)
        if isinstance(inner, dict) and not inner.keys() & (rest.keys() - {name}):
            del rest[name]
            rest |= inner
    return rest or None


# ---------------------------------------------------------------- take over


@dataclass
class _Run:
    """A run of the old system; what its own row does not say, its records tell."""

    run_id: str
    name: str
    row: dict[str, Any] = field(default_factory=dict)
    created: float | None = None
    last: float | None = None
    totals: dict[str, int] = field(default_factory=dict)


@dataclass
class _Old:
    """All runs of the old system, by the text of their ids (of old runs after "pipeline_runs/") and by their names."""

    runs: dict[str, _Run]
    names: dict[str, _Run]
    now: float

    def of(self, row: dict[str, Any], ts: float | None) -> _Run:
        """The run of a row; one that no table has (the experiment was deleted) is made here."""
        run = None
        for column in RUN:
            text = _words(row.get(column))
            if text and (run := self.runs.get(OLD_RUNS + text) if "run" in column else None) is None:
                run = self.runs.get(text) or self.names.get(text)
            if run is not None:
                del row[column]
                break
        if run is None:
            text = _take(row, RUN, _words) or ""
            run = self.runs[text] = _Run(identity(text), f"experiment {text}" if text else "no experiment")
        if run.created is None:
            run.created = self.now if ts is None else ts
        if ts is not None:
            run.last = ts if run.last is None else max(run.last, ts)
        return run


def identity(key: str, kind: str = "") -> str:
    """The UUID of an old run: its id, if that is one."""
    try:
        return str(uuid.UUID(key))
    except ValueError:
        return str(uuid.uuid5(NAMESPACE, kind + key))


def take_over(cursor: Any, renamed: Mapping[str, str]) -> dict[str, int]:
    """Copy the rows of the old tables into ours, in the transaction of the caller.

    Args:
        renamed: what `set_aside` gave.

    Returns:
        how many rows each old table had; all of them were taken over.

    Raises:
        MachineError: a row did not arrive.
    """
    if not renamed:
        return {}
    cursor.execute("SELECT set_config('TimeZone', 'UTC', true), extract(epoch FROM now())::float8")
    old = _Old({}, {}, cursor.fetchone()[1])
    counts: dict[str, int] = {}
    for name, table in ((EXPERIMENTS, EXPERIMENTS), ("pipeline_runs", renamed.get("pipeline_runs"))):
        if table and _columns(cursor, table):
            counts[name] = _read_runs(cursor, table, old, "" if name == EXPERIMENTS else OLD_RUNS)
    for name, convert in (
        ("pipeline_logs", _log),
        ("pipeline_events", _event),
        ("pipeline_metrics", _metric),
        ("pipeline_progress", _progress),
    ):
        if name in renamed:
            counts[name] = _copy(cursor, renamed[name], old, name, convert)
    if "pipeline_progress" in renamed:
        _progress_so_far(cursor, old, renamed["pipeline_progress"])
    _write_runs(cursor, old)
    return counts


def _read_runs(cursor: Any, table: str, old: _Old, kind: str) -> int:
    columns = _columns(cursor, table)
    key = _key(cursor, table) or next((name for name in IDS if name in columns), columns[0])
    count = 0
    for row in _rows(cursor, table):
        count += 1
        text = str(row.get(key))
        name = _words(row.get("name")) or _words(row.get("experiment_name")) or f"experiment {text}"
        run = _Run(identity(text, kind), name, row)
        run.created = next((t for n in CREATED if (t := moment(row.get(n))) is not None), None)
        old.runs[kind + text] = run
        old.names.setdefault(name, run)
    return count


Converted = list[dict[str, Any]]


def _copy(cursor: Any, table: str, old: _Old, name: str, convert: Callable[[dict[str, Any]], Converted]) -> int:
    count = wanted = new = 0
    batch: Converted = []
    days: dict[str, date] = {}

    def flush() -> None:
        nonlocal wanted, new
        wanted += len(batch)
        new += store.insert(cursor, batch, days)
        batch.clear()

    for row in _rows(cursor, table):
        count += 1
        ts = _take(row, TIME, moment)
        run = old.of(row, ts)
        at = run.created if ts is None else ts
        assert run.created is not None  # `of` saw to it
        assert at is not None
        days[run.run_id] = store.run_day(run.run_id, run.created)
        if ts is None:
            row["ts_unknown"] = True
        for number, record in enumerate(convert(row)):
            source = f"legacy:{name}" + (":rest" if number else "")
            batch.append({"run_id": run.run_id, "source": source, "seq": count, "ts": at, **record})
        if len(batch) >= BATCH:
            flush()
    flush()
    if new != wanted:
        raise MachineError(
            f"of {wanted:,} rows of the old {name} {new:,} arrived; nothing was changed",
            "this is a defect of geopipe: please report it",
        )
    return count


def _where(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "stage": _take(row, STAGE, _words),
        "layer": _take(row, LAYER, _words),
        "tile": _take(row, ("tile", "tile_id"), _whole),
        "worker": _take(row, ("worker", "worker_id", "pid", "process_id"), _whole),
        "node": _take(row, ("node", "node_id", "hostname", "host"), _words),
        "attempt": _take(row, ("attempt",), _small),
    }


def _log(row: dict[str, Any]) -> Converted:
    record = {
        "kind": "log",
        "level": _take(row, ("level", "levelname", "log_level", "severity"), _words) or "UNKNOWN",
        "message": _take(row, ("message", "msg", "log_message", "text"), _words) or "",
        "logger": _take(row, ("logger", "logger_name", "name", "module", "component"), _words),
        "traceback": _take(row, ("traceback", "stack_trace", "exc_info", "exc_text", "exception"), _text_or_json),
        **_where(row),
    }
    return [record | {"extra": _rest(row, "extra", "context", "extra_data", "metadata", "performance")}]


def _event(row: dict[str, Any]) -> Converted:
    name = _take(row, ("event_type", "event_name", "name", "event", "type"), _words) or "event"
    where = _where(row)
    detail = _rest(row, "detail", "details", "event_data", "data", "payload", "metadata", "context", "extra")
    return [{"kind": "event", "name": name, "detail": detail, **where}]


def _metric(row: dict[str, Any]) -> Converted:
    """A metric, and an event for what a metric has no place for: all of a row that is no name with a value."""
    whole = dict(row)
    name = _take(row, ("metric_name", "name", "metric", "key"), _words)
    value = _take(row, ("value", "metric_value", "numeric_value"), _number)
    if name is None or value is None:
        where = _where(whole)
        return [{"kind": "event", "name": "legacy_metric", "detail": _rest(whole), **where}]
    record = {"kind": "metric", "name": name, "value": value}
    record["unit"] = _take(row, ("unit", "units", "metric_unit"), _words)
    where = {key: kept for key, kept in _where(row).items() if kept is not None}
    rest = _rest(row)
    record |= {key: where[key] for key in ("stage", "node", "worker") if key in where}
    if not (rest and rest.keys() - {"id"}) and not where.keys() - {"stage", "node", "worker"}:
        return [record]
    return [record, {"kind": "event", "name": "legacy_metric", "detail": {"metric": name, **(rest or {})}, **where}]


def _progress(row: dict[str, Any]) -> Converted:
    """Every row as an event: the old table may have many of a stage, ours has its last."""
    where = _where(row)
    return [{"kind": "event", "name": "legacy_progress", "detail": _rest(row), **where}]


DONE = ("completed_units", "units_completed", "completed", "current", "processed", "done", "items_completed")
TOTAL = ("total_units", "units_total", "total", "total_items", "items_total")


def _progress_so_far(cursor: Any, old: _Old, table: str) -> None:
    """The most that each stage had done, as our table has it; what there was to be done goes to the run."""
    most: dict[tuple[str, str, str], tuple[int, float]] = {}
    for row in _rows(cursor, table):
        ts = _take(row, ("updated_at", *TIME), moment)
        run, where = old.of(row, ts), _where(row)
        stage, done, total = where["stage"] or "", _take(row, DONE, _whole), _take(row, TOTAL, _whole)
        if total is not None and not where["layer"]:
            run.totals[stage] = max(run.totals.get(stage, 0), total)
        key = run.run_id, store.text(stage), store.text(where["layer"] or "")
        at = run.created if ts is None else ts
        before = most.get(key, (0, at or 0.0))
        most[key] = max(before[0], done or 0), max(before[1], at or 0.0)
    execute_values(
        cursor,
        "INSERT INTO pipeline_progress (run_id, stage, layer, tiles, updated_at) VALUES %s",
        [(*key, tiles, store.moment(at)) for key, (tiles, at) in sorted(most.items())],
        "(%s::uuid, %s, %s, %s, %s)",
    )


def _write_runs(cursor: Any, old: _Old) -> None:
    values = []
    for run in {run.run_id: run for run in old.runs.values()}.values():
        row = dict(run.row)
        created = old.now if run.created is None else run.created
        status = _words(row.get("status")) or _words(row.get("state")) or ""
        state = next((state for state, words in STATES.items() if status.strip().lower() in words), None)
        error: Any = _take(row, ("error_message", "error", "error_details"), lambda v: _words(v) or _object(v))
        error = {"type": "legacy", "message": error} if error else None
        if state is None and run.row:
            # nothing of the old system can be at work any more: the tables that it writes to have other names now
            state, error = (
                "failed",
                error or {"type": "legacy", "message": f"was {status or 'without a state'} at the end"},
            )
        started = _take(row, ("started_at", "start_time", "start_date"), moment)
        finished = _take(row, ("completed_at", "finished_at", "ended_at", "end_time", "end_date"), moment)
        settings = _take(row, ("config", "settings", "parameters", "params", "configuration"), _object)
        output = _take(row, ("output", "output_path", "output_dir"), _words)
        times = (store.moment(t) if t is not None else None for t in (created, started, run.last, finished))
        values.append(
            (
                run.run_id,
                store.text(run.name),
                state or "completed",
                output and store.text(output),
                store.dumped({"config": settings, "legacy": _rest(row)}),
                store.dumped(run.totals) if run.totals else None,
                *times,
                store.dumped(error) if error else None,
            )
        )
    execute_values(
        cursor,
        "INSERT INTO pipeline_runs (run_id, name, state, output, settings, totals, created_at, started_at, "
        "heartbeat_at, finished_at, error) VALUES %s",
        values,
    )
