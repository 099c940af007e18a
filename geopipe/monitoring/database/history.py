"""Queries for the history of a run: its logs, events, errors and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
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

_LOG = ", ".join(field.name for field in fields(LogRow))
_CONDITIONS = """
    AND (%(level)s::int IS NULL OR level_no >= %(level)s::int)
    AND (%(stage)s::text IS NULL OR stage = %(stage)s)
    AND (%(layer)s::text IS NULL OR layer = %(layer)s)
    AND (%(since)s::interval IS NULL OR ts >= now() - %(since)s::interval)
    AND (%(grep)s::text IS NULL OR message ~ %(grep)s OR (%(tracebacks)s AND traceback ~ %(grep)s))"""


def _logs(connected: connection, run: RunRow, filters: Filter, query: str, **values: Any) -> list[tuple[Any, ...]]:
    """The rows of a query with the conditions of a filter in place of {}."""
    level = {"level": LEVELS[filters.level] if filters.level else None}
    condition = f"run_day = %(day)s AND run_id = %(id)s::uuid {_CONDITIONS}"
    return fetch(connected, query.format(condition), {**run.key, **asdict(filters), **level, **values})


def last_logs(connected: connection, run: RunRow, filters: Filter, limit: int | None = None) -> list[LogRow]:
    """The last `limit` matching records, in the order of time, source and sequence number."""
    query = f"SELECT {_LOG} FROM pipeline_logs WHERE {{}} ORDER BY ts DESC, source DESC, seq DESC LIMIT %(limit)s"
    return [LogRow(*row) for row in reversed(_logs(connected, run, filters, query, limit=limit))]


def count_logs(connected: connection, run: RunRow, filters: Filter) -> int:
    """The number of matching records."""
    return int(_logs(connected, run, filters, "SELECT count(*) FROM pipeline_logs WHERE {}")[0][0])


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
    query = (
        "SELECT l.* FROM unnest(%(sources)s::text[], %(after)s::bigint[], %(upto)s::bigint[]) AS s(source, after, upto)"
        f" CROSS JOIN LATERAL (SELECT {_LOG} FROM pipeline_logs p WHERE p.source = s.source AND seq > s.after"
        " AND seq <= s.upto AND {}) l ORDER BY l.ts, l.source, l.seq"
    )
    marks = {"after": [after.get(source, 0) for source in moved], "upto": [upto[source] for source in moved]}
    return [LogRow(*row) for row in _logs(connected, run, filters, query, sources=moved, **marks)]


# ---------------------------------------------------------------- events, errors, metrics


def events(
    connected: connection, run: RunRow, since: timedelta | None = None, limit: int | None = None
) -> list[EventRow]:
    """The last `limit` events, in the order of time."""
    rows = fetch(
        connected,
        f"SELECT {', '.join(field.name for field in fields(EventRow))} FROM pipeline_events"
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
        "SELECT cause, count, first_ts, last_ts, example, array_remove(stages, ''), array_remove(layers, ''),"
        " CASE WHEN %(tracebacks)s THEN (SELECT traceback FROM pipeline_logs WHERE run_day = %(day)s"
        " AND run_id = %(id)s::uuid AND level_no >= 30 AND message = e.example AND traceback IS NOT NULL"
        " ORDER BY ts LIMIT 1) END FROM pipeline_error_summary e WHERE run_id = %(id)s::uuid"
        " ORDER BY count DESC, last_ts DESC, cause",
        {**run.key, "tracebacks": tracebacks},
    )
    return [Cause(*(*row[:5], tuple(row[5] or ()), tuple(row[6] or ()), row[7])) for row in rows]


_SERIES = """
WITH m AS (
    SELECT name, coalesce(node, '') AS node, coalesce(stage, '') AS stage, unit, ts, value FROM pipeline_metrics
    WHERE run_day = %(day)s AND run_id = %(id)s::uuid AND (%(names)s::text[] IS NULL OR name = ANY(%(names)s::text[]))
    AND value > '-infinity' AND value < 'infinity' AND name <> %(left)s
    AND (%(since)s::interval IS NULL OR ts >= now() - %(since)s::interval)
), span AS (SELECT min(ts) AS first, max(ts) AS last, extract(epoch FROM max(ts) - min(ts)) AS wide FROM m
), parts AS (
    SELECT name, node, stage, max(unit) AS unit,
        least(coalesce(floor(extract(epoch FROM ts - span.first) / nullif(wide, 0) * %(points)s), 0), %(points)s - 1)
        ::int AS place, count(*) AS count, min(value) AS low, sum(value) AS sum, max(value) AS high,
        (array_agg(value ORDER BY ts DESC))[1] AS last
    FROM m, span GROUP BY name, node, stage, place
)
SELECT name, node, stage, max(unit), sum(count)::int, min(low), sum(sum) / sum(count), max(high),
    (array_agg(parts.last ORDER BY place DESC))[1], array_agg(place ORDER BY place),
    array_agg(sum / count ORDER BY place), span.first, span.last
FROM parts, span GROUP BY name, node, stage, span.first, span.last ORDER BY name, node, stage
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
    series = []
    for *statistics, places, means, _, _ in rows:
        line = dict(zip(places, means, strict=True))
        series.append(Series(*(*statistics, tuple(map(line.get, range(points))))))
    return Metrics(rows[0][-2], rows[0][-1], tuple(series)) if rows else Metrics(None, None, ())
