"""Queries for the history of a run: its logs, events, errors and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from psycopg2.extensions import connection

from geopipe.monitoring import forecast
from geopipe.monitoring.database.runs import KINDS, Cause, EventRow, Filter, LogRow, Metrics, RunRow, Series
from geopipe.monitoring.states import LEVELS


def fetch(connected: connection, statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    with connected.cursor() as cursor:
        cursor.execute(statement, values)
        return list(cursor.fetchall())


# ---------------------------------------------------------------- logs

_LOG = "ts, source, seq, level, logger, message, stage, layer, tile, worker, node, attempt, traceback, extra"
_CONDITIONS = """
    AND (%(level)s::int IS NULL OR level_no >= %(level)s::int)
    AND (%(stage)s::text IS NULL OR stage = %(stage)s)
    AND (%(layer)s::text IS NULL OR layer = %(layer)s)
    AND (%(since)s::interval IS NULL OR ts >= now() - %(since)s::interval)
    AND (%(grep)s::text IS NULL OR message ~ %(grep)s OR (%(tracebacks)s AND traceback ~ %(grep)s))"""


def _parameters(filters: Filter) -> dict[str, Any]:
    return asdict(filters) | {"level": LEVELS[filters.level] if filters.level else None}


def last_logs(connected: connection, run: RunRow, filters: Filter, limit: int | None = None) -> list[LogRow]:
    """The last `limit` matching records, in the order of time, source and sequence number."""
    rows = fetch(
        connected,
        f"SELECT {_LOG} FROM pipeline_logs WHERE run_day = %(day)s AND run_id = %(id)s::uuid {_CONDITIONS}"
        " ORDER BY ts DESC, source DESC, seq DESC LIMIT %(limit)s",
        {**run.key, **_parameters(filters), "limit": limit},
    )
    return [LogRow(*row) for row in reversed(rows)]


def count_logs(connected: connection, run: RunRow, filters: Filter) -> int:
    """The number of matching records."""
    rows = fetch(
        connected,
        f"SELECT count(*) FROM pipeline_logs WHERE run_day = %(day)s AND run_id = %(id)s::uuid {_CONDITIONS}",
        {**run.key, **_parameters(filters)},
    )
    return int(rows[0][0])


def log_marks(connected: connection, run: RunRow) -> dict[str, int]:
    """The sequence number of the last log record of each source."""
    rows = fetch(
        connected,
        "SELECT s.source, l.seq FROM pipeline_sources s CROSS JOIN LATERAL (SELECT max(seq) AS seq FROM pipeline_logs"
        " WHERE run_day = %(day)s AND run_id = %(id)s::uuid AND source = s.source) l"
        " WHERE s.run_id = %(id)s::uuid AND l.seq IS NOT NULL",
        run.key,
    )
    return dict(rows)


def new_logs(
    connected: connection, run: RunRow, filters: Filter, after: Mapping[str, int], upto: Mapping[str, int]
) -> list[LogRow]:
    """Matching records between two sets of marks: sequence numbers by source, `after` exclusive, `upto` inclusive.

    A time cannot be a mark: batches of different sources come late and out of order.
    """
    moved = [source for source, seq in upto.items() if seq > after.get(source, 0)]
    if not moved:
        return []
    rows = fetch(
        connected,
        "SELECT l.* FROM unnest(%(sources)s::text[], %(after)s::bigint[], %(upto)s::bigint[]) AS s(source, after, upto)"
        f" CROSS JOIN LATERAL (SELECT {_LOG} FROM pipeline_logs p WHERE run_day = %(day)s AND run_id = %(id)s::uuid"
        f" AND p.source = s.source AND seq > s.after AND seq <= s.upto {_CONDITIONS}) l ORDER BY l.ts, l.source, l.seq",
        {
            **run.key,
            **_parameters(filters),
            "sources": moved,
            "after": [after.get(source, 0) for source in moved],
            "upto": [upto[source] for source in moved],
        },
    )
    return [LogRow(*row) for row in rows]


# ---------------------------------------------------------------- events, errors, metrics


def events(
    connected: connection, run: RunRow, since: timedelta | None = None, limit: int | None = None
) -> list[EventRow]:
    """The last `limit` events, in the order of time."""
    rows = fetch(
        connected,
        "SELECT ts, source, seq, name, stage, layer, tile, worker, node, attempt, detail FROM pipeline_events"
        " WHERE run_day = %(day)s AND run_id = %(id)s::uuid"
        " AND (%(since)s::interval IS NULL OR ts >= now() - %(since)s::interval)"
        " ORDER BY ts DESC, source DESC, seq DESC LIMIT %(limit)s",
        {**run.key, "since": since, "limit": limit},
    )
    return [EventRow(*row) for row in reversed(rows)]


def causes(connected: connection, run: RunRow, tracebacks: bool = False) -> list[Cause]:
    """Errors by cause, the most frequent first; on request with one traceback each."""
    rows = fetch(
        connected,
        "SELECT cause, count, first_ts, last_ts, example, stages, layers FROM pipeline_error_summary"
        " WHERE run_id = %(id)s::uuid ORDER BY count DESC, last_ts DESC, cause",
        {"id": run.run_id},
    )
    causes = []
    for *values, stages, layers in rows:
        traceback = _traceback(connected, run, values[4]) if tracebacks else None
        causes.append(Cause(*(*values, _names(stages), _names(layers), traceback)))
    return causes


def _names(column: Sequence[str | None] | None) -> tuple[str, ...]:
    return tuple(sorted({name for name in column or () if name}))


def _traceback(connected: connection, run: RunRow, message: str) -> str | None:
    rows = fetch(
        connected,
        "SELECT traceback FROM pipeline_logs WHERE run_day = %(day)s AND run_id = %(id)s::uuid AND level_no >= 30"
        " AND message = %(message)s AND traceback IS NOT NULL ORDER BY ts LIMIT 1",
        {**run.key, "message": message},
    )
    return str(rows[0][0]) if rows else None


_SERIES = """
WITH m AS (
    SELECT name, coalesce(node, '') AS node, coalesce(stage, '') AS stage, unit, ts, value FROM pipeline_metrics
    WHERE run_day = %(day)s AND run_id = %(id)s::uuid AND (%(names)s::text[] IS NULL OR name = ANY(%(names)s::text[]))
    AND value > '-infinity' AND value < 'infinity' AND name <> %(left)s
    AND (%(since)s::interval IS NULL OR ts >= now() - %(since)s::interval)
), span AS (SELECT min(ts) AS first, max(ts) AS last, extract(epoch FROM max(ts) - min(ts)) AS wide FROM m)
SELECT name, node, stage, max(unit),
    least(coalesce(floor(extract(epoch FROM ts - span.first) / nullif(wide, 0) * %(points)s), 0), %(points)s - 1)::int
    AS place, count(*), min(value), sum(value), max(value),
    (array_agg(value ORDER BY ts DESC))[1], span.first, span.last
FROM m, span GROUP BY name, node, stage, place, span.first, span.last ORDER BY name, node, stage, place
"""


def metrics(
    connected: connection, run: RunRow, kind: str | None, points: int, since: timedelta | None = None
) -> Metrics:
    """The series of one kind of metrics, or of all, over the same span of time.

    Args:
        kind: of KINDS; None for all.
        points: intervals of the span; each has the mean of its values.
        since: age of the oldest value.
    """
    names = list(KINDS[kind]) if kind else None
    rows = fetch(
        connected, _SERIES, {**run.key, "names": names, "points": points, "since": since, "left": forecast.NAME}
    )
    groups: dict[tuple[str, str, str], list[tuple[Any, ...]]] = {}
    for name, node, stage, *rest in rows:
        groups.setdefault((name, node, stage), []).append(tuple(rest))
    series = tuple(_series(*key, parts, points) for key, parts in groups.items())
    return Metrics(rows[0][-2], rows[0][-1], series) if rows else Metrics(None, None, ())


def _series(name: str, node: str, stage: str, parts: list[tuple[Any, ...]], points: int) -> Series:
    line: list[float | None] = [None] * points
    for _, place, count, _, total, *_ in parts:
        line[place] = total / count
    count, last = sum(part[2] for part in parts), max(parts, key=lambda part: part[1])[6]
    low, mean = min(part[3] for part in parts), sum(part[4] for part in parts) / count
    units = (part[0] for part in parts if part[0])
    return Series(name, node, stage, next(units, None), count, low, mean, max(p[5] for p in parts), last, tuple(line))
