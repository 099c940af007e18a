"""The rows of the old system's tables, copied into ours. Columns that are not recognised stay in a record as JSON."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from geopipe.errors import MachineError
from geopipe.monitoring.database import store
from geopipe.monitoring.legacy import columns
from geopipe.monitoring.legacy.columns import Row, rest_of, take, words

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
    row: Row = field(default_factory=dict)
    created: float | None = None
    last: float | None = None
    totals: dict[str, int] = field(default_factory=dict)
    progress: dict[tuple[str, str], tuple[int, float]] = field(default_factory=dict)

    def see(self, ts: float | None, now: float) -> float:
        """Note the time of a record; returns it, or the start of the run for a record without a time."""
        if self.created is None:
            self.created = now if ts is None else ts
        if ts is not None:
            self.last = ts if self.last is None else max(self.last, ts)
        return self.created if ts is None else ts

    def advance(self, row: Row, now: float) -> None:
        """Note the progress in a row: of each stage and layer the largest is kept, and the largest total of a stage."""
        progress = take(row, columns.PROGRESS)
        at, stage, layer = self.see(progress["updated_at"], now), progress["stage"] or "", progress["layer"] or ""
        if progress["total"] is not None and not layer:
            self.totals[stage] = max(self.totals.get(stage, 0), progress["total"])
        tiles, before = self.progress.get((stage, layer), (0, at))
        self.progress[stage, layer] = max(tiles, progress["tiles"] or 0), max(before, at)


@dataclass
class _Old:
    """All runs of the old system, by id (those of the old pipeline_runs after OLD_RUNS) and by name."""

    runs: dict[str, _Run]
    now: float

    def run_of(self, row: Row) -> _Run:
        """The run of a row; created if no table has it, because its experiment was deleted."""
        for column in columns.RUN_ID:
            text = words(row.get(column)) or ""
            keys = ([OLD_RUNS + text] if "run" in column else []) + [text]
            if text and (run := next((self.runs[key] for key in keys if key in self.runs), None)):
                del row[column]
                return run
        text = take(row, {"run": (words, columns.RUN_ID)})["run"] or ""
        self.runs[text] = _Run(identity(text), f"experiment {text}" if text else "no experiment")
        return self.runs[text]


def identity(key: str, kind: str = "") -> str:
    """The UUID of an old run: its id, or a UUID derived from it."""
    try:
        return str(uuid.UUID(key))
    except ValueError:
        return str(uuid.uuid5(NAMESPACE, kind + key))


# ---------------------------------------------------------------- rows as records


def convert_log(row: Row) -> list[Row]:
    """A log record."""
    log = take(row, columns.LOG)
    log |= {"kind": "log", "level": log["level"] or "UNKNOWN", "message": log["message"] or ""}
    return [log | {"extra": rest_of(row, "extra", "context", "extra_data", "metadata", "performance")}]


def convert_event(row: Row) -> list[Row]:
    """An event."""
    event = take(row, columns.EVENT)
    detail = rest_of(row, "detail", "details", "event_data", "data", "payload", "metadata", "context", "extra")
    return [event | {"kind": "event", "name": event["name"] or "event", "detail": detail}]


def convert_metric(row: Row) -> list[Row]:
    """A metric, and an event for columns that a metric has no place for; only an event without name or value."""
    whole_row = dict(row)
    metric = take(row, columns.METRIC)
    if metric["name"] is None or metric["value"] is None:
        return _event("legacy_metric", whole_row)
    rest = rest_of(row) or {}
    if not rest.keys() - {"id"} and all(metric[name] is None for name in ("layer", "tile", "attempt")):
        return [metric | {"kind": "metric"}]
    context = {name: metric[name] for name in columns.CONTEXT}
    event = {"kind": "event", "name": "legacy_metric", "detail": {"metric": metric["name"], **rest}, **context}
    return [metric | {"kind": "metric"}, event]


def convert_progress(row: Row) -> list[Row]:
    """An event: the old table may have many rows of a stage, ours has the last one."""
    return _event("legacy_progress", row)


def _event(name: str, row: Row) -> list[Row]:
    context = take(row, columns.CONTEXT)
    return [{"kind": "event", "name": name, "detail": rest_of(row), **context}]


CONVERTERS: dict[str, Callable[[Row], list[Row]]] = {
    "pipeline_logs": convert_log,
    "pipeline_events": convert_event,
    "pipeline_metrics": convert_metric,
    "pipeline_progress": convert_progress,
}
"""The conversion of each old table."""


# ---------------------------------------------------------------- from table to table


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
    old = _Old({}, cursor.fetchone()[1])
    counts: dict[str, int] = {}
    for name, table, kind in (
        ("experiments", "experiments", ""),
        ("pipeline_runs", renamed.get("pipeline_runs", ""), OLD_RUNS),
    ):
        if names := columns.relations(cursor).get(table):
            key = columns.primary_key(cursor, table) or next((n for n in columns.PRIMARY if n in names), names[0])
            rows = list(columns.rows_of(cursor, table))
            counts[name] = len(rows)
            old.runs |= {kind + str(row.get(key)): _run(row, str(row.get(key)), kind) for row in rows}
    for run in list(old.runs.values()):
        old.runs.setdefault(run.name, run)
    for name in CONVERTERS:
        if name in renamed:
            counts[name] = _copy(cursor, renamed[name], old, name)
    _write_runs(cursor, old)
    return counts


def _run(row: Row, key: str, kind: str) -> _Run:
    name = words(row.get("name")) or words(row.get("experiment_name")) or f"experiment {key}"
    return _Run(identity(key, kind), name, row, take(dict(row), columns.CREATED)["ts"])


def _copy(cursor: Any, table: str, old: _Old, name: str) -> int:
    """Copy the rows of a table as records. Returns their number."""
    count = sent = new = 0
    records = _records(cursor, table, old, name)
    while batch := list(islice(records, columns.BATCH)):
        count, sent = batch[-1]["seq"], sent + len(batch)
        new += store.insert(cursor, batch)
    if new != sent:
        raise MachineError(
            f"of {sent:,} rows of the old {name} {new:,} arrived; nothing was changed",
            "this is a defect of geopipe: please report it",
        )
    return count


def _records(cursor: Any, table: str, old: _Old, name: str) -> Iterator[Row]:
    """The rows of a table as records."""
    for seq, row in enumerate(columns.rows_of(cursor, table), 1):
        whole_row, ts = dict(row), take(row, columns.TIME)["ts"]
        run = old.run_of(row)
        about: Row = {"run_id": run.run_id, "seq": seq, "ts": run.see(ts, old.now)}
        about["run_day"] = store.run_day(run.run_id, run.created or 0.0)
        if name == "pipeline_progress":
            run.advance(whole_row, old.now)
        if ts is None:
            row["ts_unknown"] = True
        for number, record in enumerate(CONVERTERS[name](row)):
            yield {**about, "source": f"legacy:{name}" + (":rest" if number else ""), **record}


def _write_runs(cursor: Any, old: _Old) -> None:
    """Write the runs, and the progress of their stages."""
    runs = {run.run_id: run for run in old.runs.values()}.values()
    progress = [
        {"run_id": run.run_id, "stage": stage, "layer": layer, "tiles": tiles, "ts": store.moment(at)}
        for run in runs
        for (stage, layer), (tiles, at) in run.progress.items()
    ]
    store.add_progress(cursor, progress)
    store.add_rows(cursor, "pipeline_runs", [_row(run, old.now) for run in runs])


def _row(run: _Run, now: float) -> Row:
    """A run as a row of our pipeline_runs."""
    row = dict(run.row)
    status = words(row.get("status")) or words(row.get("state")) or ""
    state = next((state for state, synonyms in STATES.items() if status.strip().lower() in synonyms), None)
    values = take(row, columns.RUN)
    if state is None and run.row:
        # the old system cannot be running any more: its tables have other names now
        state, values["error"] = "failed", values["error"] or f"was {status or 'without a state'} at the end"
    times = {
        "created_at": now if run.created is None else run.created,
        "started_at": values["started_at"],
        "heartbeat_at": run.last,
        "finished_at": values["finished_at"],
    }
    return {
        "run_id": run.run_id,
        "name": run.name,
        "attempt": 1,
        "state": state or "completed",
        "output": values["output"],
        "settings": {"config": values["settings"], "legacy": rest_of(row)},
        "totals": run.totals or None,
        "error": {"type": "legacy", "message": values["error"]} if values["error"] else None,
        **{name: None if at is None else store.moment(at) for name, at in times.items()},
    }
