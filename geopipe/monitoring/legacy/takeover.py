"""The rows of the old system's tables, copied into ours."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from psycopg2.extras import execute_values

from geopipe.errors import MachineError
from geopipe.monitoring.database import store
from geopipe.monitoring.legacy import columns
from geopipe.monitoring.legacy.columns import moment, take, words
from geopipe.monitoring.legacy.convert import CONVERTERS, Convert, Records

EXPERIMENTS = "experiments"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "experiments.geopipe")
"""Namespace of the UUIDs of experiments whose ids are no UUIDs."""

OLD_RUNS = "pipeline_runs/"
STATES = {
    "completed": ("completed", "complete", "success", "succeeded", "successful", "done", "finished"),
    "failed": ("failed", "failure", "error", "errored", "crashed"),
    "cancelled": ("cancelled", "canceled", "stopped", "aborted", "killed", "terminated"),
}
"""The words of the old system for each of our states."""


@dataclass
class _Run:
    """A run of the old system, from its own row and from its records."""

    run_id: str
    name: str
    row: dict[str, Any] = field(default_factory=dict)
    created: float | None = None
    last: float | None = None
    totals: dict[str, int] = field(default_factory=dict)


@dataclass
class _Old:
    """All runs of the old system, by id (those of the old pipeline_runs after OLD_RUNS) and by name."""

    runs: dict[str, _Run]
    names: dict[str, _Run]
    now: float

    def of(self, row: dict[str, Any], ts: float | None) -> _Run:
        """The run of a row; created if no table has it, because its experiment was deleted."""
        run = None
        for column in columns.RUN:
            text = words(row.get(column))
            if text and (run := self.runs.get(OLD_RUNS + text) if "run" in column else None) is None:
                run = self.runs.get(text) or self.names.get(text)
            if run is not None:
                del row[column]
                break
        if run is None:
            text = take(row, columns.RUN, words) or ""
            run = self.runs[text] = _Run(identity(text), f"experiment {text}" if text else "no experiment")
        if run.created is None:
            run.created = self.now if ts is None else ts
        if ts is not None:
            run.last = ts if run.last is None else max(run.last, ts)
        return run


def identity(key: str, kind: str = "") -> str:
    """The UUID of an old run: its id, or a UUID derived from it."""
    try:
        return str(uuid.UUID(key))
    except ValueError:
        return str(uuid.uuid5(NAMESPACE, kind + key))


def take_over(cursor: Any, renamed: Mapping[str, str]) -> dict[str, int]:
    """Copy the rows of the old tables into ours, in the transaction of the caller.

    Args:
        renamed: new name of each old table, from `set_aside`.

    Returns:
        rows by old table; all of them were copied.

    Raises:
        MachineError: a row did not arrive.
    """
    if not renamed:
        return {}
    cursor.execute("SELECT set_config('TimeZone', 'UTC', true), extract(epoch FROM now())::float8")
    old = _Old({}, {}, cursor.fetchone()[1])
    counts: dict[str, int] = {}
    for name, table in ((EXPERIMENTS, EXPERIMENTS), ("pipeline_runs", renamed.get("pipeline_runs"))):
        if table and columns.columns_of(cursor, table):
            counts[name] = _read_runs(cursor, table, old, "" if name == EXPERIMENTS else OLD_RUNS)
    for name, convert in CONVERTERS.items():
        if name in renamed:
            counts[name] = _copy(cursor, renamed[name], old, name, convert)
    if "pipeline_progress" in renamed:
        _progress_so_far(cursor, old, renamed["pipeline_progress"])
    _write_runs(cursor, old)
    return counts


def _read_runs(cursor: Any, table: str, old: _Old, kind: str) -> int:
    names = columns.columns_of(cursor, table)
    key = columns.primary_key(cursor, table) or next((name for name in columns.IDS if name in names), names[0])
    count = 0
    for row in columns.rows_of(cursor, table):
        count += 1
        text = str(row.get(key))
        name = words(row.get("name")) or words(row.get("experiment_name")) or f"experiment {text}"
        run = _Run(identity(text, kind), name, row)
        run.created = next((t for n in columns.CREATED if (t := moment(row.get(n))) is not None), None)
        old.runs[kind + text] = run
        old.names.setdefault(name, run)
    return count


def _copy(cursor: Any, table: str, old: _Old, name: str, convert: Convert) -> int:
    count = sent = new = 0
    batch: Records = []
    days: dict[str, date] = {}

    def flush() -> None:
        nonlocal sent, new
        sent += len(batch)
        new += store.insert(cursor, batch, days)
        batch.clear()

    for row in columns.rows_of(cursor, table):
        count += 1
        ts = take(row, columns.TIME, moment)
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
        if len(batch) >= columns.BATCH:
            flush()
    flush()
    if new != sent:
        raise MachineError(
            f"of {sent:,} rows of the old {name} {new:,} arrived; nothing was changed",
            "this is a defect of geopipe: please report it",
        )
    return count


def _progress_so_far(cursor: Any, old: _Old, table: str) -> None:
    """Write the largest progress of each stage, and the largest total into the run."""
    most: dict[tuple[str, str, str], tuple[int, float]] = {}
    for row in columns.rows_of(cursor, table):
        ts = take(row, ("updated_at", *columns.TIME), moment)
        run, context = old.of(row, ts), columns.take_context(row)
        stage, done, total = (
            context["stage"] or "",
            take(row, columns.DONE, columns.whole),
            take(row, columns.TOTAL, columns.whole),
        )
        if total is not None and not context["layer"]:
            run.totals[stage] = max(run.totals.get(stage, 0), total)
        key = run.run_id, store.text(stage), store.text(context["layer"] or "")
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
        status = words(row.get("status")) or words(row.get("state")) or ""
        state = next((state for state, synonyms in STATES.items() if status.strip().lower() in synonyms), None)
        error: Any = take(
            row, ("error_message", "error", "error_details"), lambda v: words(v) or columns.json_object(v)
        )
        error = {"type": "legacy", "message": error} if error else None
        if state is None and run.row:
            # the old system cannot be running any more: its tables have other names now
            state, error = (
                "failed",
                error or {"type": "legacy", "message": f"was {status or 'without a state'} at the end"},
            )
        started = take(row, ("started_at", "start_time", "start_date"), moment)
        finished = take(row, ("completed_at", "finished_at", "ended_at", "end_time", "end_date"), moment)
        settings = take(row, ("config", "settings", "parameters", "params", "configuration"), columns.json_object)
        output = take(row, ("output", "output_path", "output_dir"), words)
        times = (store.moment(t) if t is not None else None for t in (created, started, run.last, finished))
        values.append(
            (
                run.run_id,
                store.text(run.name),
                state or "completed",
                output and store.text(output),
                store.dumped({"config": settings, "legacy": columns.rest_of(row)}),
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
