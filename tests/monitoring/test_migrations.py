"""The schema of the monitor's database: from every earlier state, by many at once, killed midway, from old tables."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from postgres_server import Server
from records import TABLES, a_run, query, record
from waiting import PATIENCE, until

from geopipe.errors import MachineError
from geopipe.events.records import new_run_id
from geopipe.monitoring.database import connections, migrations, schema, store
from geopipe.monitoring.database.migrations import revisions
from geopipe.monitoring.legacy import columns, takeover

UPGRADE = "import sys; from geopipe.monitoring.database import schema; print(schema.upgrade(sys.argv[1]).after)"


def definitions(dsn: str) -> list[tuple[Any, ...]]:
    """All columns, constraints, indexes, views and functions of a database, as Postgres describes them."""
    return query(
        dsn,
        """
        SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod) || a.attnotnull
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v')
        UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT 'view', viewname, '', definition FROM pg_views WHERE schemaname = 'public'
        UNION ALL SELECT 'function', proname, '', pg_get_functiondef(oid)
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        ORDER BY 1, 2, 3, 4
        """,
    )


def relations(dsn: str) -> set[str]:
    result = query(dsn, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind != 'i'")
    return {name for (name,) in result}


@pytest.fixture(scope="module")
def fresh_schema(postgres_server: Server) -> list[tuple[Any, ...]]:
    dsn = postgres_server.database()
    schema.upgrade(dsn)
    return definitions(dsn)


def test_the_list_of_revisions_is_that_of_alembic() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    script = ScriptDirectory.from_config(config)
    assert script.get_heads() == [revisions.HEAD]
    assert tuple(r.revision for r in reversed(list(script.walk_revisions()))) == revisions.REVISIONS


@pytest.mark.parametrize("state", ["empty", *revisions.REVISIONS])
def test_the_schema_comes_up_from_every_earlier_state(
    empty_database: str, fresh_schema: list[tuple[Any, ...]], state: str
) -> None:
    run = new_run_id()
    if state != "empty":
        assert schema.upgrade(empty_database, state).after == state
        with closing(psycopg2.connect(empty_database)) as connected:
            store.write(connected, [record(run, 1), record(run, 2, "progress")])
    done = schema.upgrade(empty_database)
    assert (done.before, done.after) == (None if state == "empty" else state, revisions.HEAD)
    assert [row for row in definitions(empty_database) if "_20" not in row[1]] == fresh_schema
    assert set(revisions.RELATIONS) <= relations(empty_database)
    if state != "empty":
        assert query(empty_database, "SELECT message FROM pipeline_logs") == [("message 1",)]
    with closing(connections.connect(empty_database)) as connected:
        store.write(connected, a_run())


def test_eight_upgrades_at_once_end_in_one_schema(empty_database: str, fresh_schema: list[tuple[Any, ...]]) -> None:
    command = [sys.executable, "-c", UPGRADE, empty_database]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    ended = [(*one.communicate(timeout=PATIENCE), one.returncode) for one in running]
    assert ended == [(f"{revisions.HEAD}\n", "", 0)] * 8
    assert definitions(empty_database) == fresh_schema
    assert query(empty_database, "SELECT version_num FROM geopipe_version") == [(revisions.HEAD,)]


def others(dsn: str, condition: str = "true") -> list[tuple[Any, ...]]:
    """The other connections to a database."""
    same = "datname = current_database() AND pid != pg_backend_pid() AND backend_type = 'client backend'"
    return query(dsn, f"SELECT pid, query FROM pg_stat_activity WHERE {same} AND {condition}")


def waiting(dsn: str, text: str) -> list[tuple[Any, ...]]:
    """The connections in which a statement with `text` waits for a lock."""
    return others(dsn, f"wait_event_type = 'Lock' AND strpos(query, '{text}') > 0")


@pytest.mark.parametrize("before", [None, "0001"])
def test_an_upgrade_that_is_killed_midway_leaves_the_schema_as_it_was(
    empty_database: str, fresh_schema: list[tuple[Any, ...]], before: str | None
) -> None:
    if before:
        schema.upgrade(empty_database, before)
    query(
        empty_database,
        "CREATE FUNCTION wait() RETURNS event_trigger LANGUAGE plpgsql "
        "AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(1); END';"
        "CREATE EVENT TRIGGER wait ON ddl_command_end WHEN TAG IN ('CREATE VIEW') EXECUTE FUNCTION wait()",
    )
    was = definitions(empty_database)
    with closing(psycopg2.connect(empty_database)) as blocking:
        blocking.cursor().execute("SELECT pg_advisory_xact_lock(1)")
        with subprocess.Popen([sys.executable, "-c", UPGRADE, empty_database]) as upgrade:
            until(lambda: waiting(empty_database, "CREATE"))  # all tables are there, for that transaction
            upgrade.send_signal(signal.SIGKILL)
    until(lambda: not others(empty_database))
    query(empty_database, "DROP EVENT TRIGGER wait")
    assert definitions(empty_database) == was
    assert schema.current(empty_database).revision == before
    query(empty_database, "DROP FUNCTION wait")
    assert schema.upgrade(empty_database).before == before
    assert definitions(empty_database) == fresh_schema


def test_another_program_with_alembic_in_the_database_is_left_alone(empty_database: str) -> None:
    query(
        empty_database,
        "CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('451aebb31d03');"
        "CREATE TABLE experiments (experiment_id int PRIMARY KEY, name text); INSERT INTO experiments VALUES (1, 'x')",
    )
    done = schema.upgrade(empty_database)
    assert (done.before, done.after, done.taken_over) == (None, revisions.HEAD, {})
    assert query(empty_database, "SELECT version_num FROM alembic_version") == [("451aebb31d03",)]
    assert query(empty_database, "SELECT count(*) FROM pipeline_runs") == [(0,)]


def test_the_search_path_of_the_address_decides_where_the_tables_are(empty_database: str) -> None:
    query(empty_database, 'CREATE SCHEMA "Mon itor"')
    address = f"{empty_database}?options=-csearch_path%3D%22Mon%5C%20itor%22,public"
    schema.upgrade(address)
    assert not relations(empty_database)
    with closing(connections.connect(address)) as connected:
        store.write(connected, a_run())
    assert query(empty_database, 'SELECT count(*) > 0 FROM "Mon itor".pipeline_logs') == [(True,)]
    with pytest.raises(MachineError, match="has no tables of geopipe"):
        connections.connect(empty_database)
    schema.upgrade(empty_database)
    assert set(TABLES) <= relations(empty_database)


def test_the_owner_of_a_schema_needs_no_other_rights_to_upgrade(postgres_server: Server, empty_database: str) -> None:
    query(empty_database, "CREATE ROLE owner LOGIN PASSWORD 'p'; CREATE SCHEMA mine AUTHORIZATION owner")
    parts = psycopg2.extensions.parse_dsn(empty_database)
    parameters = {**parts, "user": "owner", "password": "p", "options": "-csearch_path=mine"}
    owner = psycopg2.extensions.make_dsn(**parameters)
    assert schema.upgrade(owner).after == revisions.HEAD
    with closing(connections.connect(owner)) as connected:
        store.write(connected, a_run())
    assert schema.validate(owner).removed
    stranger = psycopg2.extensions.make_dsn(**{**parameters, "options": "-csearch_path=public"})
    query(empty_database, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    with pytest.raises(MachineError, match=r"is not permitted: .*\n  hint: use the role that owns"):
        schema.upgrade(stranger)
    query(empty_database, "DROP OWNED BY owner CASCADE; DROP ROLE owner")


def test_tables_without_their_revision_are_not_touched(database: str) -> None:
    query(database, "DROP TABLE geopipe_version")
    with pytest.raises(MachineError, match="without the table that has their revision"):
        schema.upgrade(database)


# ---------------------------------------------------------------- what the old system left

OLD = """
CREATE TABLE experiments (id {id} PRIMARY KEY, name varchar(255) NOT NULL, status varchar(20), config jsonb,
    created_at timestamp DEFAULT now(), started_at timestamp, completed_at timestamp, error_message text,
    created_by text);
CREATE TABLE pipeline_logs (id serial PRIMARY KEY, experiment_id {id} REFERENCES experiments (id), job_id text,
    timestamp timestamptz, level varchar(20), logger_name text, message text, stage varchar(50), context jsonb,
    traceback text, performance jsonb, hostname text);
CREATE INDEX pipeline_logs_run_id_ts_idx ON pipeline_logs (experiment_id, timestamp);
CREATE TABLE pipeline_events (id serial PRIMARY KEY, experiment_id {id} REFERENCES experiments (id), event_type text,
    timestamp timestamp, severity text, title text, details jsonb);
CREATE TABLE pipeline_metrics (id serial PRIMARY KEY, experiment_id {id} REFERENCES experiments (id), metric_name text,
    value numeric, unit text, node_id text, timestamp timestamptz, tags jsonb);
CREATE TABLE pipeline_progress (id serial PRIMARY KEY, experiment_id {id} REFERENCES experiments (id), stage_name text,
    progress_percent real, completed_units int, total_units int, status text, updated_at timestamptz, metadata jsonb);
CREATE TABLE pipeline_alerts (id serial PRIMARY KEY, log_id int REFERENCES pipeline_logs (id), text text);
CREATE VIEW pipeline_active_runs AS SELECT id, name FROM experiments WHERE status = 'running';
"""


ROWS = """
INSERT INTO experiments (id, name, status, config, created_at, started_at, error_message, created_by)
    SELECT {of}, 'e' || n, (ARRAY['completed', 'FAILED', 'running', 'canceled', NULL])[1 + n % 5], '{{"cells": 1}}',
    CASE WHEN n % 4 > 0 THEN timestamp '2024-03-01 23:30' + n * interval '1 day' END, '2024-03-02', 'broke ' || n, 'me'
    FROM generate_series(0, 11) n;
INSERT INTO pipeline_logs (experiment_id, job_id, timestamp, level, logger_name, message, stage, context, performance)
    SELECT {of}, 'j' || i, CASE WHEN i % 7 > 0 THEN timestamptz '2024-03-05 12:00+02' + i * interval '1 minute' END,
    (ARRAY['INFO', 'warning', 'ERROR', 'NOTICE', NULL, ''])[1 + i % 6], 'l' || i, 'message ' || i || E' \\\\ \\t%s :x',
    (ARRAY['load', 'resample', NULL])[1 + i % 3], CASE i % 3 WHEN 0 THEN jsonb_build_object('i', i)
    WHEN 1 THEN '[1, 2]' END, CASE WHEN i % 5 = 0 THEN '{{"seconds": 1.5}}'::jsonb END
    FROM generate_series(1, 3000) i, LATERAL (SELECT i % 12 AS n) e;
INSERT INTO pipeline_logs (message) VALUES (NULL), (''), ('no experiment');
INSERT INTO pipeline_events (experiment_id, event_type, timestamp, severity, title, details)
    SELECT {of}, CASE WHEN i % 9 > 0 THEN 'stage_started' END, '2024-03-05 12:00', 'low', 't' || i,
    jsonb_build_object('stage_no', i) FROM generate_series(1, 700) i, LATERAL (SELECT i % 12 AS n) e;
INSERT INTO pipeline_metrics (experiment_id, metric_name, value, unit, node_id, timestamp, tags)
    SELECT {of}, CASE WHEN i % 10 > 0 THEN 'memory_mb' END, CASE WHEN i % 11 > 0 THEN i + 0.5 END, 'MB', 'n1',
    timestamptz '2024-03-05 12:00+00' + i * interval '1 second', CASE WHEN i % 4 = 0 THEN '{{"gpu": 0}}'::jsonb END
    FROM generate_series(1, 1500) i, LATERAL (SELECT i % 12 AS n) e;
INSERT INTO pipeline_metrics (experiment_id, metric_name, value) SELECT id, 'odd', 'NaN' FROM experiments LIMIT 1;
INSERT INTO pipeline_progress (experiment_id, stage_name, progress_percent, completed_units, total_units, updated_at)
    SELECT {of}, (ARRAY['load', 'merge'])[1 + i % 2], i / 5, i, 500,
    timestamptz '2024-03-05 12:00+00' + i * interval '1 s'
    FROM generate_series(1, 500) i, LATERAL (SELECT i % 12 AS n) e;
INSERT INTO pipeline_alerts (log_id, text) VALUES (1, 'a');
"""

IDS = {
    "integers": ("int", "n"),
    "uuids": ("uuid", "('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid"),
    "names": ("text", "'exp-' || n"),
}


Old = dict[str, list[Any]]


def old_system(dsn: str, ids: str) -> Old:
    kind, of = IDS[ids]
    query(dsn, OLD.format(id=kind))
    query(dsn, ROWS.format(of=of))
    names = ("experiments", "pipeline_logs", "pipeline_events", "pipeline_metrics", "pipeline_progress")
    return {name: [row for (row,) in query(dsn, f"SELECT to_jsonb(t) FROM {name} t ORDER BY id")] for name in names}


def logs_are_all_there(dsn: str, old: Old, by_id: dict[Any, str]) -> None:
    logs = {r["seq"]: r for (r,) in query(dsn, "SELECT to_jsonb(t) FROM pipeline_logs t")}
    assert len(logs) == len(old["pipeline_logs"]) == 3003
    for row in old["pipeline_logs"]:
        log = logs[row["id"]]
        assert log["run_id"] == by_id[row["experiment_id"]]
        assert log["message"] == (row["message"] or "")
        assert log["level"] == (row["level"] or "UNKNOWN")
        level = {"warning": 30, "ERROR": 40}.get(row["level"], 20)
        assert (log["level_no"], log["stage"], log["logger"]) == (level, row["stage"], row["logger_name"])
        extra = log["extra"]
        assert (extra["id"], extra.get("job_id")) == (row["id"], row["job_id"])
        if row["timestamp"] is None:
            assert extra["ts_unknown"]
        else:
            assert columns.moment(log["ts"]) == columns.moment(row["timestamp"])
        if isinstance(row["context"], list):
            assert extra["context"] == row["context"]
        for opened in (row["context"], row["performance"]):
            if isinstance(opened, dict):
                assert extra.items() >= opened.items()


def events_are_all_there(dsn: str, old: Old, by_id: dict[Any, str]) -> None:
    events = [r for (r,) in query(dsn, "SELECT to_jsonb(t) FROM pipeline_events t ORDER BY seq")]
    of_events = [e for e in events if e["source"] == "legacy:pipeline_events"]
    assert [(e["name"], e["detail"]["title"], e["detail"]["stage_no"], e["run_id"]) for e in of_events] == [
        (r["event_type"] or "event", r["title"], r["details"]["stage_no"], by_id[r["experiment_id"]])
        for r in old["pipeline_events"]
    ]
    of_progress = [e for e in events if e["name"] == "legacy_progress"]
    assert [(e["stage"], e["detail"]["completed_units"], e["detail"]["progress_percent"]) for e in of_progress] == [
        (r["stage_name"], r["completed_units"], r["progress_percent"]) for r in old["pipeline_progress"]
    ]


def metrics_are_all_there(dsn: str, old: Old) -> None:
    metrics = {r["seq"]: r for (r,) in query(dsn, "SELECT to_jsonb(t) FROM pipeline_metrics t")}
    rests = dict(query(dsn, "SELECT seq, detail FROM pipeline_events WHERE name = 'legacy_metric'"))
    for row in old["pipeline_metrics"]:
        metric, rest = metrics.get(row["id"]), rests.get(row["id"], {})
        if row["metric_name"] is None or row["value"] is None:
            assert metric is None
            assert (rest.get("metric_name"), rest.get("value"), rest.get("unit")) == (
                row["metric_name"],
                row["value"],
                row["unit"],
            )
        else:
            result = tuple(metric[name] for name in ("name", "value", "unit", "node"))
            assert result == (row["metric_name"], row["value"], row["unit"], row["node_id"])
        assert rest.get("tags", None) == row["tags"]


@pytest.mark.parametrize("ids", IDS)
def test_every_row_of_the_old_system_is_kept_and_taken_over(empty_database: str, ids: str) -> None:
    old = old_system(empty_database, ids)
    done = schema.upgrade(empty_database)
    assert done.taken_over == {name: len(rows) for name, rows in old.items()}
    assert done.renamed == {
        name: f"{name}_legacy" for name in [*sorted(old.keys() - {"experiments"}), "pipeline_active_runs"]
    }
    for name, rows in old.items():  # the old tables as they were
        kept = done.renamed.get(name, name)
        assert [row for (row,) in query(empty_database, f"SELECT to_jsonb(t) FROM {kept} t ORDER BY id")] == rows
    assert query(empty_database, "SELECT count(*) FROM pipeline_alerts JOIN pipeline_logs_legacy l ON log_id = l.id")

    runs = dict(query(empty_database, "SELECT name, run_id::text FROM pipeline_runs"))
    by_id = {row["id"]: runs[row["name"]] for row in old["experiments"]} | {None: runs["no experiment"]}
    for row in old["experiments"]:
        text = str(row["id"])
        assert by_id[row["id"]] == (text if ids == "uuids" else str(uuid.uuid5(takeover.NAMESPACE, text)))
    assert len(runs) == 13

    logs_are_all_there(empty_database, old, by_id)
    events_are_all_there(empty_database, old, by_id)
    metrics_are_all_there(empty_database, old)
    whole = dict(query(empty_database, "SELECT name, to_jsonb(r) FROM pipeline_runs r"))
    states = ["completed", "failed", "failed", "cancelled", "failed"]
    for row in old["experiments"]:
        run = whole[row["name"]]
        assert run["state"] == states[int(row["name"][1:]) % 5]
        assert run["settings"]["config"] == {"cells": 1}
        assert run["settings"]["legacy"].items() >= {"created_by": "me", "id": row["id"]}.items()
        assert run["error"]["message"] == row["error_message"]
        assert run["totals"] in ({"load": 500}, {"merge": 500})
    assert query(empty_database, "SELECT max(tiles) FROM pipeline_progress") == [(500,)]
    assert schema.upgrade(empty_database).taken_over == {}, "only once"


def test_rows_of_an_old_run_are_kept_and_pruned_as_one_day(empty_database: str) -> None:
    old_system(empty_database, "integers")
    schema.upgrade(empty_database)
    assert query(
        empty_database,
        "SELECT r.name FROM pipeline_logs l JOIN pipeline_runs r USING (run_id) "
        "WHERE l.run_day IS DISTINCT FROM geopipe_run_day(r.run_id, r.created_at)",
    ) == []  # fmt: skip
    schema.prune(empty_database, 30)
    left = query(empty_database, "SELECT count(*) FROM pipeline_logs")
    assert left == [(3,)], "those of which nothing says when they were made are as old as the upgrade"
    assert query(empty_database, "SELECT count(*) FROM pipeline_logs_legacy") == [(3003,)]


def test_an_old_table_of_runs_and_columns_of_other_names_are_recognised(empty_database: str) -> None:
    query(
        empty_database,
        "CREATE TABLE pipeline_runs (run_id int PRIMARY KEY, title text, state text, start_time double precision);"
        "INSERT INTO pipeline_runs VALUES (1, 'x', 'success', 1700000000);"
        "CREATE TABLE experiments (id int PRIMARY KEY, name text); INSERT INTO experiments VALUES (1, 'another one');"
        "CREATE TABLE pipeline_logs (run_id int, ts bigint, msg text, severity int, pid int, tile_id text);"
        "INSERT INTO pipeline_logs VALUES (1, 1700000001000, 'm', 40, 7, 'r1c2'), (99, NULL, 'lost', NULL, NULL, NULL);"
        "CREATE TABLE pipeline_metrics (experiment_id int, cpu real, memory real, recorded_at text);"
        "INSERT INTO pipeline_metrics VALUES (1, 1.5, 2.5, 'yesterday')",
    )
    done = schema.upgrade(empty_database)
    assert done.taken_over == {"experiments": 1, "pipeline_runs": 1, "pipeline_logs": 2, "pipeline_metrics": 1}
    runs = {k: v for v, k in query(empty_database, "SELECT name, run_id::text FROM pipeline_runs")}
    assert sorted(runs.values()) == ["another one", "experiment 1", "experiment 99"]
    logs = query(
        empty_database,
        "SELECT run_id::text, extract(epoch FROM ts)::int, message, level_no, worker, extra FROM pipeline_logs "
        "ORDER BY seq",
    )
    assert [(runs[run], *rest) for run, *rest in logs[:1]] == [
        ("experiment 1", 1700000001, "m", 40, 7, {"tile_id": "r1c2"})
    ]
    assert (runs[logs[1][0]], logs[1][2]) == ("experiment 99", "lost")
    ((run, detail),) = query(empty_database, "SELECT run_id::text, detail FROM pipeline_events")
    assert runs[run] == "another one"
    assert detail == {"cpu": 1.5, "memory": 2.5, "recorded_at": "yesterday", "ts_unknown": True}


def test_a_killed_upgrade_of_the_old_system_leaves_it_whole(empty_database: str) -> None:
    old = old_system(empty_database, "integers")
    was = definitions(empty_database)
    with closing(psycopg2.connect(empty_database)) as blocking, blocking.cursor() as cursor:
        cursor.execute("LOCK TABLE pipeline_progress IN ACCESS SHARE MODE")
        with subprocess.Popen([sys.executable, "-c", UPGRADE, empty_database]) as upgrade:
            # others have been renamed
            until(lambda: waiting(empty_database, 'RENAME TO "pipeline_progress_legacy"'))
            upgrade.send_signal(signal.SIGKILL)
    until(lambda: not others(empty_database))
    assert definitions(empty_database) == was
    assert schema.upgrade(empty_database).taken_over == {name: len(rows) for name, rows in old.items()}
