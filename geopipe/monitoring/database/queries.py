"""Queries for runs: lists of runs, one run by id or name, and its state at this moment.

Every function takes a connection and only reads. Text of the user is always a parameter of a statement.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from difflib import get_close_matches
from typing import Any

from psycopg2.extensions import connection

from geopipe.errors import SettingsError
from geopipe.events.records import DRIVER
from geopipe.monitoring import forecast
from geopipe.monitoring.database.history import fetch, last_logs
from geopipe.monitoring.database.runs import Filter, Look, Node, RunRow, Stage
from geopipe.monitoring.states import STAGES
from geopipe.text import age, clean

LISTED = 5
"""Runs that a message about a wrong name lists."""

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


def _runs(connected: connection, where: str, limit: int | None, **values: Any) -> list[RunRow]:
    rows = fetch(connected, _RUNS.format(where), {**values, "limit": limit})
    return [RunRow(*(*columns, _units(totals), _units(done), now)) for *columns, totals, done, now in rows]


def _units(column: object) -> dict[str, int]:
    """Units by stage; a value that is no number is left out."""
    pairs = column.items() if isinstance(column, Mapping) else ()
    return {str(stage): int(count) for stage, count in pairs if isinstance(count, int | float)}


def runs(
    connected: connection,
    name: str | None = None,
    states: Sequence[str] = (),
    since: timedelta | None = None,
    limit: int | None = None,
) -> list[RunRow]:
    """Runs, the newest first.

    Args:
        name: glob with * and ?.
        states: of states.DISPLAYED; empty for all.
        since: age of the oldest run.
    """
    where = """(%(name)s::text IS NULL OR r.name LIKE %(name)s)
    AND (%(states)s::text[] IS NULL OR CASE WHEN a.stale THEN 'stale' ELSE r.state END = ANY(%(states)s::text[]))
    AND (%(since)s::interval IS NULL OR r.created_at >= now() - %(since)s::interval)"""
    # all characters but * and ? stand for themselves
    like = None if name is None else re.sub(r"[\\%_]", r"\\\g<0>", name).replace("*", "%").replace("?", "_")
    return _runs(connected, where, limit, name=like, states=list(states) or None, since=since)


def run_of(connected: connection, run_id: str) -> RunRow:
    """The run with this id.

    Raises:
        SettingsError: the database has no such run (any more).
    """
    rows = _runs(connected, "r.run_id = %(id)s::uuid", 1, id=run_id)
    if not rows:
        raise SettingsError(
            f"run {run_id} is not in the database any more", "geopipe monitor runs lists those that are"
        )
    return rows[0]


def drivers(connected: connection, run_id: str | None = None) -> list[tuple[str, int, Mapping[str, Any]]]:
    """Id, attempt and driving process (`processes.identity`) of the runs that should be running, or of one run."""
    return [
        (run, attempt, driver)
        for run, attempt, driver in fetch(
            connected,
            "SELECT r.run_id::text, r.attempt, e.detail FROM pipeline_active_runs r CROSS JOIN LATERAL ("
            " SELECT detail FROM pipeline_events WHERE run_day = geopipe_run_day(r.run_id, r.created_at)"
            " AND run_id = r.run_id AND name = %(name)s AND attempt = r.attempt ORDER BY ts DESC LIMIT 1) e"
            " WHERE r.state = 'running' AND (%(id)s::uuid IS NULL OR r.run_id = %(id)s::uuid)",
            {"name": DRIVER, "id": run_id},
        )
        if isinstance(driver, Mapping)
    ]


def find_run(connected: connection, reference: str | None) -> RunRow:
    """The run that a person refers to: an id, the start of one, a name (its newest run), or `latest` (also None).

    Raises:
        SettingsError: there is no such run, or several ids start like this.
    """
    if reference is None or reference == "latest":
        newest = runs(connected, limit=1)
        if not newest:
            raise SettingsError("no run has been recorded yet", "start one: geopipe run SETTINGS")
        return newest[0]
    if prefix := _prefix(reference):
        matches = _runs(connected, "r.run_id::text LIKE %(id)s || '%%'", LISTED + 1, id=prefix)
        if len(matches) > 1:
            more = ", and more" if len(matches) > LISTED else ""
            raise SettingsError(
                f"{reference} is the start of several ids: {_listed(matches[:LISTED], whole=True)}{more}",
                "give more of the id",
            )
        if matches:
            return matches[0]
    if named := _runs(connected, "r.name = %(name)s", 1, name=reference):
        return named[0]
    message, last = f"there is no run {clean(reference)!r}", runs(connected, limit=200)
    if not last:
        raise SettingsError(f"{message}: none has been recorded yet", "geopipe run SETTINGS")
    near = get_close_matches(reference, dict.fromkeys(run.name for run in last), n=3)
    names = f"{' or '.join(map(clean, near))}?  " if near else ""
    raise SettingsError(message, f"{names}The last runs are {_listed(last[:LISTED])}")


def _prefix(reference: str) -> str:
    """A reference as the start of an id as Postgres writes it; empty if it cannot be one."""
    digits = reference.lower().replace("-", "")
    if not re.fullmatch(r"[0-9a-f]{1,32}", digits):
        return ""
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return "-".join(part for part in parts if part)


def _listed(runs: Sequence[RunRow], whole: bool = False) -> str:
    return ", ".join(
        f"{run.run_id if whole else run.run_id[:13]} ({clean(run.name)}, {run.displayed}, {age(run.age)} ago)"
        for run in runs
    )


# ---------------------------------------------------------------- one moment of a run


def look(connected: connection, run_id: str, errors: int = 6) -> Look:
    """The state of a run as `watch` displays it, with the last `errors` errors."""
    run = run_of(connected, run_id)
    query = (
        "SELECT level_no >= 40, count(*) FROM pipeline_logs"
        " WHERE run_day = %(day)s AND run_id = %(id)s::uuid AND level_no >= 30 GROUP BY 1"
    )
    counts = dict(fetch(connected, query, run.key))
    last = last_logs(connected, run, Filter(level="ERROR"), errors) if True in counts else []
    work, samples = tuple(stages(connected, run)), tuple(nodes(connected, run))
    numbers = counts.get(True, 0), counts.get(False, 0)
    return Look(run, work, samples, tuple(last), *numbers, _speeds(connected, run), _left(connected, run))


def stages(connected: connection, run: RunRow) -> list[Stage]:
    """Work of every planned stage, in the order of the work."""
    rows = fetch(
        connected,
        'SELECT stage, tiles, "of", cells, rows, bytes, seconds FROM pipeline_progress_tree'
        " WHERE run_id = %(id)s::uuid AND layer = '' ORDER BY array_position(%(stages)s::text[], stage), stage",
        {"id": run.run_id, "stages": list(STAGES)},
    )
    return [Stage(*row) for row in rows]


def nodes(connected: connection, run: RunRow) -> list[Node]:
    """The latest samples of each node."""
    rows = fetch(
        connected,
        "SELECT node, jsonb_object_agg(name, value), max(ts) FROM pipeline_metrics_latest"
        " WHERE run_id = %(id)s::uuid AND stage = '' AND node <> ''"
        " AND value > '-infinity' AND value < 'infinity' GROUP BY node ORDER BY node",  # NaN is more than infinity
        {"id": run.run_id},
    )
    return [Node(node, {k: float(v) for k, v in values.items()}, ts) for node, values, ts in rows]


def _speeds(connected: connection, run: RunRow) -> dict[str, float]:
    """Cells per second by stage, summed over nodes, as means of the last 30 s."""
    rows = fetch(
        connected,
        "SELECT stage, sum(mean)::float8 FROM (SELECT stage, node, avg(value) AS mean FROM pipeline_metrics"
        " WHERE run_day = %(day)s AND run_id = %(id)s::uuid AND name = 'cells_per_second' AND stage IS NOT NULL"
        " AND ts > now() - interval '30 s' AND value >= 0 AND value < 'infinity' GROUP BY stage, node) n"
        " GROUP BY stage",
        run.key,
    )
    return dict(rows)


def _left(connected: connection, run: RunRow) -> float | None:
    """Seconds that a run still needs: its own estimate, less the time since."""
    if run.over or run.stale:
        return None
    rows = fetch(
        connected,
        "SELECT greatest(value - extract(epoch FROM now() - ts), value / 4)::float8 FROM pipeline_metrics_latest"
        " WHERE run_id = %(id)s::uuid AND name = %(name)s AND stage = %(stage)s AND value >= 0 AND value < 'infinity'"
        " ORDER BY ts DESC LIMIT 1",
        {"id": run.run_id, "name": forecast.NAME, "stage": forecast.STAGE},
    )
    return float(rows[0][0]) if rows else None
