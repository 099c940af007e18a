"""Batches of records into the monitor's tables: delivered once or often, alone or by many at once."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection
from records import TS, a_run, query, record, tables

from geopipe.events.records import new_run_id
from geopipe.monitoring.database import connections, schema, store


@pytest.fixture
def connected(database: str) -> Iterator[connection]:
    with closing(connections.connect(database)) as conn:
        yield conn


def in_order(records: list[dict[str, Any]], size: int, overlap: int = 0) -> list[list[dict[str, Any]]]:
    """Batches of one source each, in the order of the source; neighbours share `overlap` records."""
    batches = []
    for source in sorted({r["source"] for r in records}):
        own = [r for r in records if r["source"] == source]
        batches += [own[max(at - overlap, 0) : at + size] for at in range(0, len(own), size)]
    return batches


def test_a_batch_becomes_rows_with_all_that_its_records_say(database: str, connected: connection) -> None:
    run = new_run_id()
    where = {"stage": "read", "layer": "a", "tile": 7, "worker": 8, "node": "n", "attempt": 2}
    new = store.write(
        connected,
        [
            record(run, 1, level="ERROR", traceback="Traceback\n\tline \\N", extra={"k": [1, None, "é"]}, **where),
            record(run, 2, "event", **where),
            record(run, 3, "metric", value=0.1, stage="read", worker=8),
            record(run, 4, "progress"),
        ],
    )
    assert new == 3
    (log,) = query(
        database,
        "SELECT extract(epoch FROM ts)::float8, level, level_no, logger, message, stage, layer, tile, worker, node, "
        "attempt, traceback, extra, run_day = geopipe_run_day(run_id, now()) FROM pipeline_logs",
    )
    text = "Traceback\n\tline \\N"
    columns = ("geopipe", "message 1", "read", "a", 7, 8, "n", 2, text, {"k": [1, None, "é"]}, True)
    assert log == (TS + 1, "ERROR", 40, *columns)
    assert query(database, "SELECT name, tile, attempt, detail FROM pipeline_events") == [
        ("wave_done", 7, 2, {"wave": 2})
    ]
    assert query(database, "SELECT name, value, unit, stage, node, worker FROM pipeline_metrics") == [
        ("cpu_percent", 0.1, "%", "read", "n", 8)
    ]
    assert query(database, "SELECT stage, layer, tiles, cells, rows, bytes, seconds FROM pipeline_progress") == [
        ("read", "a", 1, 2, 3, 4, 0.25)
    ]
    assert query(database, "SELECT source, seq FROM pipeline_sources") == [("host-1-1", 4)]


@pytest.mark.parametrize("seed", range(3))
def test_batches_that_arrive_three_times_and_overlap_leave_the_tables_as_if_once(
    postgres_server: Any, seed: int
) -> None:
    records, result = a_run(), []
    for times, overlap in ((1, 0), (3, 7)):
        dsn = postgres_server.database()
        schema.upgrade(dsn)
        batches = in_order(records, 13, overlap)
        chance = random.Random(seed)
        sent = [batch for batch in batches for _ in range(times)]
        with closing(connections.connect(dsn)) as connected:
            for at, batch in enumerate(sent):
                store.write(connected, batch)
                if times > 1 and chance.random() < 0.5:  # something old comes again, late
                    store.write(connected, chance.choice(sent[: at + 1]))
        result.append(tables(dsn))
    once, often = result
    assert often == once
    assert [len(once[name]) for name in once] == [1, 45, 45, 45, 1, 1, 4]
    assert once["pipeline_progress"][0]["tiles"] == 45
    numbers = query(dsn, "SELECT source, seq FROM pipeline_logs UNION ALL SELECT source, seq FROM pipeline_events")
    numbers += query(dsn, "SELECT source, seq FROM pipeline_metrics")
    assert len(numbers) == len(set(numbers)) == 135


def test_the_same_record_twice_in_one_batch_counts_once(database: str, connected: connection) -> None:
    run = new_run_id()
    assert store.write(connected, [r for kind in ("log", "progress") for r in [record(run, 1, kind)] * 3]) == 1
    store.write(connected, [record(run, 2, "progress")] * 2)
    assert query(database, "SELECT tiles FROM pipeline_progress") == [(2,)]


def test_a_batch_that_two_connections_deliver_at_once_counts_once(database: str) -> None:
    records = a_run(sources=1, count=200)
    barrier, errors = threading.Barrier(6), []

    def deliver() -> None:
        with closing(connections.connect(database)) as connected:
            barrier.wait()
            try:
                for batch in in_order(records, 50):
                    store.write(connected, batch)
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=deliver) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert query(database, "SELECT tiles FROM pipeline_progress") == [(50,)]
    assert query(database, "SELECT count(*) FROM pipeline_logs") == [(50,)]


def test_many_sources_that_share_progress_and_metrics_do_not_deadlock(database: str) -> None:
    run, errors = new_run_id(), []

    def deliver(source: int) -> None:
        chance = random.Random(source)
        layers = ["a", "b", "c", "d"]
        with closing(connections.connect(database)) as connected:
            for at in range(15):
                chance.shuffle(layers)
                batch = [record(run, at * 8 + n + 1, "progress", f"s{source}", layer=y) for n, y in enumerate(layers)]
                batch += [record(run, at * 8 + n + 5, "metric", f"s{source}", node=y) for n, y in enumerate(layers)]
                try:
                    store.write(connected, batch)
                except Exception as error:
                    errors.append(error)

    threads = [threading.Thread(target=deliver, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert query(database, "SELECT layer, tiles FROM pipeline_progress ORDER BY 1") == [(y, 120) for y in "abcd"]


def test_a_batch_that_fails_leaves_nothing_and_can_come_again(database: str, connected: connection) -> None:
    run = new_run_id()
    batch = [record(run, 1, "progress"), record(run, 2, tile=2**63)]
    with pytest.raises(psycopg2.Error):
        store.write(connected, batch)
    assert not any(tables(database).values())
    store.write(connected, [batch[0], {**batch[1], "tile": 1}])
    assert query(database, "SELECT tiles FROM pipeline_progress") == [(1,)]


@pytest.mark.parametrize(
    "broken",
    [
        {"kind": "joke"},
        {"seq": 0},
        {"seq": "1"},
        {"seq": 2**63},
        {"run_id": "no uuid"},
        {"source": ""},
        {"ts": float("nan")},
        {"ts": 1e300},
        {"message": None},
    ],
    ids=str,
)
def test_what_is_no_record_is_refused_before_anything_is_written(
    database: str, connected: connection, broken: dict[str, Any]
) -> None:
    run = new_run_id()
    with pytest.raises(ValueError, match="no record of a run"):
        store.write(connected, [record(run, 1), record(run, 2) | broken])
    assert not any(tables(database).values())


def test_text_that_postgres_cannot_hold_arrives_without_that_part(database: str, connected: connection) -> None:
    run = new_run_id()
    odd = {"a\0": ["\ud800", float("nan"), {"b": object}, 2**70], "t": ("x",)}
    store.write(
        connected,
        [
            record(run, 1, message="nul\0 half \udcff tab\t back\\slash \\. \\N new\nline\r", logger="\0", extra=odd),
            record(run, 2, "state", detail={"name": "n\0", "settings": {"k\0": "v\0"}, "error": {"message": "\ud800"}}),
            record(run, 3, "metric", name="m\0", value=float("inf"), node="\0n"),
        ],
    )
    text = "nul half ? tab\t back\\slash \\. \\N new\nline\r"
    assert query(database, "SELECT message, logger, extra FROM pipeline_logs") == [
        (text, "", {"a": ["?", "nan", {"b": "<class 'object'>"}, 2**70], "t": ["x"]})
    ]
    assert query(database, "SELECT name, settings, error FROM pipeline_runs") == [("n", {"k": "v"}, {"message": "?"})]
    assert query(database, "SELECT name, value, node FROM pipeline_metrics_latest") == [("m", float("inf"), "n")]


def test_names_with_sql_in_them_are_only_names(database: str, connected: connection) -> None:
    run, name = new_run_id(), "x'); DROP TABLE pipeline_logs; --"
    store.write(connected, [record(run, 1, "state", detail={"name": name}), record(run, 2, layer=name, logger=name)])
    assert query(database, "SELECT name FROM pipeline_runs") == query(database, "SELECT layer FROM pipeline_logs")


def test_levels_have_their_numbers_and_unknown_ones_count_as_info(database: str, connected: connection) -> None:
    run = new_run_id()
    levels = {"DEBUG": 10, "warn": 30, "CRITICAL": 50, "Level 35": 35, "odd": 20}
    store.write(connected, [record(run, n, level=level) for n, level in enumerate(levels, 1)])
    assert dict(query(database, "SELECT level, level_no FROM pipeline_logs")) == levels


# ---------------------------------------------------------------- runs


def state(run: str, seq: int, state: str, attempt: int = 1, **detail: Any) -> dict[str, Any]:
    return record(run, seq, "state", state=state, attempt=attempt, detail=detail)


def the_run(dsn: str) -> tuple[Any, ...]:
    (row,) = query(
        dsn,
        "SELECT state, attempt, exit_code, extract(epoch FROM started_at)::float8 - %s, "
        "extract(epoch FROM finished_at)::float8 - %s, error FROM pipeline_runs",
        TS,
        TS,
    )
    return row


def test_the_end_of_a_run_is_not_undone_but_by_a_new_attempt(database: str, connected: connection) -> None:
    run, error = new_run_id(), {"type": "RunError", "message": "m", "hint": "c"}
    store.write(connected, [state(run, 1, "pending", name="n"), state(run, 2, "running"), state(run, 3, "paused")])
    assert the_run(database) == ("paused", 1, None, 2, None, None)
    store.write(connected, [state(run, 4, "pending")])
    assert the_run(database)[0] == "paused"
    store.write(connected, [state(run, 5, "failed", exit_code=1, error=error)])
    ended = ("failed", 1, 1, 2, 5, error)
    assert the_run(database) == ended
    late = [{**state(run, n, what), "source": "other"} for n, what in enumerate(("running", "cancelled", "pending"), 1)]
    store.write(connected, late)
    assert the_run(database) == ended
    query(database, "UPDATE pipeline_runs SET request = 'cancel'")
    store.write(connected, [state(run, 6, "running", attempt=2)])
    assert the_run(database) == ("running", 2, None, 6, None, None)
    assert query(database, "SELECT name, request FROM pipeline_runs") == [("n", None)]
    store.write(connected, [{**state(run, 9, "failed", exit_code=9), "source": "other"}])  # of the first attempt
    assert the_run(database)[:2] == ("running", 2)
    store.write(connected, [state(run, 7, "completed", attempt=2, exit_code=0)])
    assert the_run(database) == ("completed", 2, 0, 6, 7, None)


def test_what_a_state_does_not_say_stays_and_a_request_of_a_person_too(database: str, connected: connection) -> None:
    run, parent = new_run_id(), new_run_id()
    detail = {"plan_hash": "h", "settings": {"a": 1}, "versions": {"geopipe": "1"}, "ray_job_id": "j", "output": "/o"}
    detail |= {"totals": {"read": 4}, "parent_run_id": parent, "idempotency_key": "k"}
    store.write(connected, [state(run, 1, "pending", name="n", **detail)])
    query(database, "UPDATE pipeline_runs SET request = 'pause'")
    store.write(connected, [state(run, 2, "running")])
    names = ", ".join(detail)
    (row,) = query(database, f"SELECT request, {names} FROM pipeline_runs")
    assert row == ("pause", *detail.values())


def test_an_idempotency_key_that_another_run_has_does_not_stop_a_batch(database: str, connected: connection) -> None:
    first, second = new_run_id(), new_run_id()
    for run in (first, second):
        store.write(connected, [state(run, 1, "pending", idempotency_key="k"), record(run, 2)])
    assert sorted(query(database, "SELECT run_id::text, idempotency_key FROM pipeline_runs")) == sorted(
        [(first, "k"), (second, None)]
    )


def test_every_record_is_a_sign_of_life_and_silence_makes_a_run_stale(database: str, connected: connection) -> None:
    run = new_run_id()
    (now,) = query(database, "SELECT extract(epoch FROM now())::float8")[0]
    store.write(connected, [{**state(run, 1, "running"), "ts": now - 500}])
    assert query(database, "SELECT stale FROM pipeline_active_runs") == [(True,)]
    store.write(connected, [record(run, 1, "progress", "worker", ts=now - 2)])
    assert query(database, "SELECT stale FROM pipeline_active_runs") == [(False,)]
    store.write(connected, [record(run, 2, "progress", "worker", ts=now - 90), record(run, 3, "log", "worker", ts=4e9)])
    ((silent,),) = query(database, "SELECT seconds_since_heartbeat FROM pipeline_active_runs")
    assert 0 <= silent < 60, "neither older records nor a clock that is ahead may set it"


def test_the_latest_value_of_a_metric_is_the_latest_whatever_comes_last(database: str, connected: connection) -> None:
    run = new_run_id()
    store.write(connected, [record(run, 5, "metric", stage="read")])
    store.write(connected, [record(run, 3, "metric", "other", stage="read"), record(run, 4, "metric", "other")])
    assert sorted(query(database, "SELECT node, name, stage, value FROM pipeline_metrics_latest")) == [
        ("n", "cpu_percent", "", 4.0),
        ("n", "cpu_percent", "read", 5.0),
    ]


def test_a_batch_wakes_listeners_once(database: str, connected: connection) -> None:
    run = new_run_id()
    with closing(psycopg2.connect(database)) as listening:
        listening.autocommit = True
        with listening.cursor() as cursor:
            cursor.execute(f"LISTEN {store.CHANNEL}")
            store.write(connected, [record(run, n) for n in range(1, 50)])
            cursor.execute("SELECT 1")
        assert [(notice.channel, notice.payload) for notice in listening.notifies] == [("geopipe", run)]


def test_progress_and_errors_are_summed_up_by_the_views(database: str, connected: connection) -> None:
    run = new_run_id()
    messages = [
        ("cannot read /data/a/b_1.tif: block 12 at 'band 3' is broken", "a"),
        ("cannot read https://h/x.tif?y=2: block 9 at 'band 14' is broken", "b"),
        ("cannot read s.tif: block -1.5e3 at 'x' is broken", "b"),
        ("no space left", None),
    ]
    store.write(
        connected,
        [
            record(run, 1, "state", detail={"name": "n", "totals": {"read": 8, "merge": 4, "layers": {"a": 2}}}),
            record(run, 2, "progress", tiles=2),
            record(run, 3, "progress", tiles=4, layer="b"),
            record(run, 4, "progress", tiles=5, stage="merge", layer=None),
            *(record(run, 5 + n, level="ERROR", message=m, layer=y, stage="read") for n, (m, y) in enumerate(messages)),
            record(run, 20, level="WARNING", message="only a warning"),
        ],
    )
    assert query(database, 'SELECT stage, layer, tiles, "of", share FROM pipeline_progress_tree') == [
        ("read", "", 6, 8, 0.75),
        ("read", "a", 2, 2, 1.0),
        ("read", "b", 4, None, None),
        ("merge", "", 5, 4, 1.0),
    ]
    summary = query(
        database, "SELECT cause, count, example, stages, layers FROM pipeline_error_summary ORDER BY count DESC"
    )
    assert summary == [
        ("cannot read #: block # at # is broken", 3, messages[0][0], ["read"], ["a", "b"]),
        ("no space left", 1, "no space left", ["read"], None),
    ]
