"""What the monitor's tables say of runs: questions to Postgres, answered as frozen values.

Each function takes a connection and only reads. What a user types is always a parameter of a statement, never a part of
it. Who holds the connection and what is printed is decided elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from psycopg2.extensions import connection

from geopipe.errors import SettingsError
from geopipe.events.records import DRIVER
from geopipe.monitoring import forecast
from geopipe.monitoring.database.runs import (
    KINDS,
    LEVELS,
    STAGES,
    Cause,
    Event,
    Filter,
    Log,
    Look,
    Metrics,
    Node,
    Run,
    Series,
    Stage,
)
from geopipe.text import age, clean

NAMED = 5
"""Runs that a message about a wrong name lists."""


def _rows(connected: connection, statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with connected.cursor() as cursor:
        cursor.execute(statement, values)
        return list(cursor.fetchall())


# ---------------------------------------------------------------- runs

_RUNS = """
SELECT r.run_id::text, r.name, r.state, r.stale, r.request, r.attempt, r.output, r.plan_hash, r.ray_job_id,
    r.created_at, r.started_at, r.heartbeat_at, r.finished_at, r.exit_code, r.error, r.totals, p.done, now()
FROM (
    SELECT r.*, coalesce(a.stale, false) AS stale
    FROM pipeline_runs r LEFT JOIN pipeline_active_runs a USING (run_id)
    WHERE {} ORDER BY r.created_at DESC, r.run_id DESC LIMIT %(limit)s
) r
LEFT JOIN LATERAL (
    SELECT jsonb_object_agg(stage, tiles) AS done
    FROM (SELECT stage, sum(tiles) AS tiles FROM pipeline_progress WHERE run_id = r.run_id GROUP BY stage) s
) p ON true
ORDER BY r.created_at DESC, r.run_id DESC
"""


def _runs(connected: connection, where: str, values: Mapping[str, Any], limit: int | None) -> list[Run]:
    return [_run(row) for row in _rows(connected, _RUNS.format(where), {**values, "limit": limit})]


def _run(row: tuple[Any, ...]) -> Run:
    *values, totals, done, now = row
    return Run(*(*values, _units(totals), _units(done), now))


def _units(found: object) -> dict[str, int]:
    """Units by stage; what is no number counts for nothing."""
    pairs = found.items() if isinstance(found, Mapping) else ()
    return {str(stage): int(count) for stage, count in pairs if isinstance(count, int | float)}


def runs(
    connected: connection,
    name: str | None = None,
    states: Sequence[str] = (),
    since: timedelta | None = None,
    limit: int | None = None,
) -> list[Run]:
    """The newest runs first. `name` may have * and ?; `states` are those that are shown, stale among them."""
    where = """(%(name)s::text IS NULL OR r.name LIKE %(name)s)
    AND (%(states)s::text[] IS NULL OR CASE WHEN a.stale THEN 'stale' ELSE r.state END = ANY(%(states)s::text[]))
    AND (%(since)s::interval IS NULL OR r.created_at >= now() - %(since)s::interval)"""
    values = {"name": None if name is None else _like(name), "states": list(states) or None, "since": since}
    return _runs(connected, where, values, limit)


def _like(glob: str) -> str:
    """A glob as a pattern of LIKE: all but * and ? means itself."""
    return re.sub(r"[\\%_]", r"\\\g<0>", glob).replace("*", "%").replace("?", "_")


def run_of(connected: connection, run_id: str) -> Run:
    """The run with this id.

    Raises:
        SettingsError: it is not there (any more).
    """
    found = _runs(connected, "r.run_id = %(id)s::uuid", {"id": run_id}, 1)
    if not found:
        raise SettingsError(
            f"run {run_id} is not in the database any more", "geopipe monitor runs lists those that are"
        )
    return found[0]


def drivers(connected: connection, run_id: str | None = None) -> list[tuple[str, int, Mapping[str, Any]]]:
    """Id, attempt, and what is known of the driving process (`machine.identity`), of runs that should be at work.

    Args:
        run_id: only of this run.
    """
    return [
        (run, attempt, driver)
        for run, attempt, driver in _rows(
            connected,
            "SELECT r.run_id::text, r.attempt, e.detail FROM pipeline_active_runs r CROSS JOIN LATERAL ("
            " SELECT detail FROM pipeline_events WHERE run_day = geopipe_run_day(r.run_id, r.created_at)"
            " AND run_id = r.run_id AND name = %(name)s AND attempt = r.attempt ORDER BY ts DESC LIMIT 1) e"
            " WHERE r.state = 'running' AND (%(id)s::uuid IS NULL OR r.run_id = %(id)s::uuid)",
            {"name": DRIVER, "id": run_id},
        )
        if isinstance(driver, Mapping)
    ]


def find_run(connected: connection, asked: str | None) -> Run:
    """The run that a person means: an id, the start of one, a name (its newest run), or `latest` (also None).

    Raises:
        SettingsError: there is no such run, or an id that several have begins like this.
    """
    if asked is None or asked == "latest":
        newest = runs(connected, limit=1)
        if not newest:
            raise SettingsError("no run has been recorded yet", "start one: geopipe run SETTINGS")
        return newest[0]
    if prefix := _prefix(asked):
        found = _runs(connected, "r.run_id::text LIKE %(id)s || '%%'", {"id": prefix}, NAMED + 1)
        if len(found) > 1:
            more = ", and more" if len(found) > NAMED else ""
            raise SettingsError(
                f"{asked} is the start of several ids: {_listed(found[:NAMED], whole=True)}{more}",
                "give more of the id",
            )
        if found:
            return found[0]
    named = _runs(connected, "r.name = %(name)s", {"name": asked}, 1)
    if not named:
        raise _unknown(connected, asked)
    return named[0]


def _prefix(asked: str) -> str:
    """`asked` as the start of an id as Postgres writes it, "" where it cannot be one."""
    digits = asked.lower().replace("-", "")
    if not re.fullmatch(r"[0-9a-f]{1,32}", digits):
        return ""
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return "-".join(part for part in parts if part)


def _listed(found: Sequence[Run], whole: bool = False) -> str:
    return ", ".join(
        f"{run.run_id if whole else run.run_id[:13]} ({clean(run.name)}, {run.shown}, "
        f"{age((run.now - run.created_at).total_seconds())} ago)"
        for run in found
    )


def _unknown(connected: connection, asked: str) -> SettingsError:
    from difflib import get_close_matches

    last = runs(connected, limit=200)
    if not last:
        return SettingsError(f"there is no run {clean(asked)!r}: none has been recorded yet", "geopipe run SETTINGS")
    near = get_close_matches(asked, dict.fromkeys(run.name for run in last), n=3)
    names = f"{' or '.join(map(clean, near))}?  " if near else ""
    return SettingsError(f"there is no run {clean(asked)!r}", f"{names}The last runs are {_listed(last[:NAMED])}")


def _key(run: Run) -> dict[str, Any]:
    return {"day": run.day, "id": run.run_id}


# ---------------------------------------------------------------- at work


def look(connected: connection, run_id: str, errors: int = 6) -> Look:
    """Everything that `watch` shows, with the last `errors` errors."""
    run = run_of(connected, run_id)
    counts = dict(
        _rows(
            connected,
            "SELECT level_no >= 40, count(*) FROM pipeline_logs"
            " WHERE run_day = %(day)s AND run_id = %(id)s::uuid AND level_no >= 30 GROUP BY 1",
            _key(run),
        )
    )
    last = last_logs(connected, run, Filter(level="ERROR"), errors) if counts.get(True) else []
    return Look(
        run,
        tuple(stages(connected, run)),
        tuple(nodes(connected, run)),
        tuple(last),
        counts.get(True, 0),
        counts.get(False, 0),
        _speeds(connected, run),
        _left(connected, run),
    )


def stages(connected: connection, run: Run) -> list[Stage]:
    """Work by stage, in the order of work; a stage that has not begun is there, too."""
    found = _rows(
        connected,
        "SELECT stage, sum(tiles)::bigint, sum(cells)::bigint, sum(rows)::bigint, sum(bytes)::bigint, sum(seconds)"
        " FROM pipeline_progress WHERE run_id = %(id)s::uuid GROUP BY stage",
        {"id": run.run_id},
    )
    made = {stage: Stage(stage, 0, of) for stage, of in run.totals.items()}
    for stage, tiles, *work in found:
        made[stage] = Stage(stage, tiles or 0, run.totals.get(stage), *(number or 0 for number in work))
    return sorted(made.values(), key=lambda s: (STAGES.index(s.stage) if s.stage in STAGES else 9, s.stage))


def nodes(connected: connection, run: Run) -> list[Node]:
    """The last numbers of each node."""
    found = _rows(
        connected,
        "SELECT node, jsonb_object_agg(name, value), max(ts) FROM pipeline_metrics_latest"
        " WHERE run_id = %(id)s::uuid AND stage = '' AND node <> ''"
        " AND value > '-infinity' AND value < 'infinity' GROUP BY node ORDER BY node",  # NaN is more than infinity
        {"id": run.run_id},
    )
    return [Node(node, {k: float(v) for k, v in values.items()}, ts) for node, values, ts in found]


def _speeds(connected: connection, run: Run) -> dict[str, float]:
    """Cells per second by stage, of all nodes, in the mean of the last half minute."""
    found = _rows(
        connected,
        "SELECT stage, sum(mean)::float8 FROM (SELECT stage, node, avg(value) AS mean FROM pipeline_metrics"
        " WHERE run_day = %(day)s AND run_id = %(id)s::uuid AND name = 'cells_per_second' AND stage IS NOT NULL"
        " AND ts > now() - interval '30 s' AND value >= 0 AND value < 'infinity' GROUP BY stage, node) n"
        " GROUP BY stage",
        _key(run),
    )
    return dict(found)


def _left(connected: connection, run: Run) -> float | None:
    """Seconds that a run still needs, by its own estimate, less those that have passed since."""
    if run.over or run.stale:
        return None
    found = _rows(
        connected,
        "SELECT greatest(value - extract(epoch FROM now() - ts), value / 4)::float8 FROM pipeline_metrics_latest"
        " WHERE run_id = %(id)s::uuid AND name = %(name)s AND stage = %(stage)s AND value >= 0 AND value < 'infinity'"
        " ORDER BY ts DESC LIMIT 1",
        {"id": run.run_id, "name": forecast.NAME, "stage": forecast.STAGE},
    )
    return float(found[0][0]) if found else None


# ---------------------------------------------------------------- logs

_LOG = "ts, source, seq, level, logger, message, stage, layer, tile, worker, node, attempt, traceback, extra"
_CHOSEN = """
    AND (%(level)s::int IS NULL OR level_no >= %(level)s::int)
    AND (%(stage)s::text IS NULL OR stage = %(stage)s)
    AND (%(layer)s::text IS NULL OR layer = %(layer)s)
    AND (%(since)s::interval IS NULL OR ts >= now() - %(since)s::interval)
    AND (%(grep)s::text IS NULL OR message ~ %(grep)s OR (%(tracebacks)s AND traceback ~ %(grep)s))"""


def _chosen(asked: Filter) -> dict[str, Any]:
    return {
        "level": LEVELS[asked.level] if asked.level else None,
        "stage": asked.stage,
        "layer": asked.layer,
        "since": asked.since,
        "grep": asked.grep,
        "tracebacks": asked.tracebacks,
    }


def last_logs(connected: connection, run: Run, asked: Filter, limit: int | None = None) -> list[Log]:
    """The last `limit` records that are asked for, in order of time, then source and its sequence."""
    found = _rows(
        connected,
        f"SELECT {_LOG} FROM pipeline_logs WHERE run_day = %(day)s AND run_id = %(id)s::uuid {_CHOSEN}"
        " ORDER BY ts DESC, source DESC, seq DESC LIMIT %(limit)s",
        {**_key(run), **_chosen(asked), "limit": limit},
    )
    return [Log(*row) for row in reversed(found)]


def count_logs(connected: connection, run: Run, asked: Filter) -> int:
    """How many records are asked for."""
    found = _rows(
        connected,
        f"SELECT count(*) FROM pipeline_logs WHERE run_day = %(day)s AND run_id = %(id)s::uuid {_CHOSEN}",
        {**_key(run), **_chosen(asked)},
    )
    return int(found[0][0])


def log_marks(connected: connection, run: Run) -> dict[str, int]:
    """The last sequence number of a log record by source."""
    found = _rows(
        connected,
        "SELECT s.source, l.seq FROM pipeline_sources s CROSS JOIN LATERAL (SELECT max(seq) AS seq FROM pipeline_logs"
        " WHERE run_day = %(day)s AND run_id = %(id)s::uuid AND source = s.source) l"
        " WHERE s.run_id = %(id)s::uuid AND l.seq IS NOT NULL",
        _key(run),
    )
    return dict(found)


def new_logs(
    connected: connection, run: Run, asked: Filter, after: Mapping[str, int], upto: Mapping[str, int]
) -> list[Log]:
    """Records behind the marks `after` of their sources, up to the marks `upto`.

    Batches of different sources come late and out of order, so a time is no mark: what came late would never be seen.
    """
    moved = [source for source, seq in upto.items() if seq > after.get(source, 0)]
    if not moved:
        return []
    found = _rows(
        connected,
        "SELECT l.* FROM unnest(%(sources)s::text[], %(after)s::bigint[], %(upto)s::bigint[]) AS s(source, after, upto)"
        f" CROSS JOIN LATERAL (SELECT {_LOG} FROM pipeline_logs p WHERE run_day = %(day)s AND run_id = %(id)s::uuid"
        f" AND p.source = s.source AND seq > s.after AND seq <= s.upto {_CHOSEN}) l ORDER BY l.ts, l.source, l.seq",
        {
            **_key(run),
            **_chosen(asked),
            "sources": moved,
            "after": [after.get(source, 0) for source in moved],
            "upto": [upto[source] for source in moved],
        },
    )
    return [Log(*row) for row in found]


# ---------------------------------------------------------------- events, errors, metrics


def events(connected: connection, run: Run, since: timedelta | None = None, limit: int | None = None) -> list[Event]:
    """The last `limit` events, in order of time."""
    found = _rows(
        connected,
        "SELECT ts, source, seq, name, stage, layer, tile, worker, node, attempt, detail FROM pipeline_events"
        " WHERE run_day = %(day)s AND run_id = %(id)s::uuid"
        " AND (%(since)s::interval IS NULL OR ts >= now() - %(since)s::interval)"
        " ORDER BY ts DESC, source DESC, seq DESC LIMIT %(limit)s",
        {**_key(run), "since": since, "limit": limit},
    )
    return [Event(*row) for row in reversed(found)]


def causes(connected: connection, run: Run, tracebacks: bool = False) -> list[Cause]:
    """Errors by cause, the most frequent first; with one traceback of each where `tracebacks`."""
    found = _rows(
        connected,
        "SELECT cause, count, first_ts, last_ts, example, stages, layers FROM pipeline_error_summary"
        " WHERE run_id = %(id)s::uuid ORDER BY count DESC, last_ts DESC, cause",
        {"id": run.run_id},
    )
    made = []
    for *told, stages, layers in found:
        traceback = _traceback(connected, run, told[4]) if tracebacks else None
        made.append(Cause(*(*told, _names(stages), _names(layers), traceback)))
    return made


def _names(found: Sequence[str | None] | None) -> tuple[str, ...]:
    return tuple(sorted({name for name in found or () if name}))


def _traceback(connected: connection, run: Run, message: str) -> str | None:
    found = _rows(
        connected,
        "SELECT traceback FROM pipeline_logs WHERE run_day = %(day)s AND run_id = %(id)s::uuid AND level_no >= 30"
        " AND message = %(message)s AND traceback IS NOT NULL ORDER BY ts LIMIT 1",
        {**_key(run), "message": message},
    )
    return str(found[0][0]) if found else None


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


def metrics(connected: connection, run: Run, kind: str | None, points: int, since: timedelta | None = None) -> Metrics:
    """The series of a kind (all without one), each in `points` equal times from the first value of all to the last."""
    names = list(KINDS[kind]) if kind else None
    found = _rows(
        connected, _SERIES, {**_key(run), "names": names, "points": points, "since": since, "left": forecast.NAME}
    )
    groups: dict[tuple[str, str, str], list[tuple[Any, ...]]] = {}
    for name, node, stage, *rest in found:
        groups.setdefault((name, node, stage), []).append(tuple(rest))
    series = tuple(_series(*key, parts, points) for key, parts in groups.items())
    return Metrics(found[0][-2], found[0][-1], series) if found else Metrics(None, None, ())


def _series(name: str, node: str, stage: str, parts: list[tuple[Any, ...]], points: int) -> Series:
    line: list[float | None] = [None] * points
    for _, place, count, _, total, *_ in parts:
        line[place] = total / count
    count, last = sum(part[2] for part in parts), max(parts, key=lambda part: part[1])[6]
    low, mean = min(part[3] for part in parts), sum(part[4] for part in parts) / count
    units = (part[0] for part in parts if part[0])
    return Series(name, node, stage, next(units, None), count, low, mean, max(p[5] for p in parts), last, tuple(line))
