"""What arrives of a run is counted once and kept once, whatever the store, the network and the processes do."""

from __future__ import annotations

import json
import logging
import os
import random
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from psycopg2.errors import NumericValueOutOfRange
from records import query, record
from waiting import PATIENCE

from geopipe.events import records
from geopipe.events.records import Event, Log, Progress, State
from geopipe.monitoring import collector, spool
from geopipe.monitoring.collector import Collector, add_progress
from geopipe.monitoring.database import store
from geopipe.monitoring.database.store import PostgresStore, Refused
from geopipe.monitoring.shipping import Shipper
from geopipe.monitoring.spool import Line, Spool

RUN = {"run_id": "r", "attempt": 1}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "RETRY", (0.0, 0.0))


def lines(source: str, *bodies: records.Body, first: int = 1) -> list[str]:
    envelope = {"ts": 1.0, "worker": 1, "node": "n", "source": source}
    return [records.line(body, {"seq": first + i, **envelope}, RUN) for i, body in enumerate(bodies)]


def reads(count: int) -> list[Progress]:
    return [Progress("read", 1, 10, 0.5, 3, 7) for _ in range(count)]


class Table:
    """A store that keeps a record once, by source and number. `fail` is asked before and after each write."""

    def __init__(self, fail: Callable[[str], None] = lambda when: None) -> None:
        self.rows: dict[tuple[str, int], Mapping[str, Any]] = {}
        self.order: dict[str, list[int]] = {}
        self.writes: list[int] = []
        self.fail = fail

    def write(self, batch: Sequence[Mapping[str, Any]]) -> None:
        self.fail("before")
        self.writes.append(len(batch))
        for entry in batch:
            key = entry["source"], entry["seq"]
            if key not in self.rows:
                self.rows[key] = entry
                self.order.setdefault(entry["source"], []).append(entry["seq"])
        self.fail("after")

    def close(self) -> None: ...


class Heard:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.records: list[Mapping[str, Any]] = []
        self.waiting: list[int] = []
        self.closed = 0

    @property
    def numbers(self) -> list[tuple[str, int]]:
        return [(entry["source"], entry["seq"]) for entry in self.records]

    def record(self, record: Mapping[str, Any]) -> None:
        self.records.append(record)

    def pending(self, count: int) -> None:
        self.waiting.append(count)

    def close(self, wait: float = 0.0) -> None:
        self.closed += 1


def test_what_is_only_counted_is_kept_when_it_comes_again(tmp_path: Path) -> None:
    heard, table = Heard(), Table()
    counter = Collector(tmp_path / "note.json", table, heard)
    batch = lines("a-1-1", *reads(4))
    assert counter.receive("a-1-1", batch[2:], keep=False) == 0
    assert (counter.stages()["read"].tiles, table.order, heard.waiting) == (2, {}, [2])
    assert counter.receive("a-1-1", batch[:2]) == 2, "late, and not counted any more"
    assert counter.receive("a-1-1", batch) == 4
    assert table.order == {"a-1-1": [1, 2, 3, 4]}


def test_the_observer_of_a_successor_hears_the_state_of_the_run(tmp_path: Path) -> None:
    first = Collector(tmp_path / "note.json")
    totals = {"read": 10}
    states = [State("running", {"name": "a"}), State("running", {"totals": totals}), *[State("running")] * 9]
    first.receive("a-1-1", lines("a-1-1", *states))
    heard = Heard()
    Collector(tmp_path / "note.json", None, heard)
    assert [entry["state"] for entry in heard.records] == ["running"] * len(heard.records)
    assert 0 < len(heard.records) < 11
    second = Heard()
    first.receive("a-1-1", lines("a-1-1", State("running", {"totals": totals}), State("paused"), first=12))
    Collector(tmp_path / "note.json", None, second)
    assert (second.records[-2]["detail"]["totals"], second.records[-1]["state"]) == (totals, "paused")


@pytest.mark.parametrize("kept", [False, True])
def test_a_batch_that_comes_three_times_counts_once(kept: bool, tmp_path: Path) -> None:
    heard, table = Heard(), Table()
    counter = Collector(tmp_path / "note.json", table if kept else None, heard)
    batch = lines("a-1-1", *reads(4))
    assert [counter.receive("a-1-1", batch) for _ in range(3)] == [4, 4, 4]
    assert counter.receive("a-1-1", [*batch[2:], *lines("a-1-1", *reads(2), first=5)]) == 6
    assert counter.receive("a-1-1", batch[:2]) == 6  # a delivery that comes late
    assert counter.stages() == {"read": Progress("read", 6, 60, 3.0, 18, 42)}
    assert heard.numbers == [("a-1-1", seq) for seq in range(1, 7)]
    assert set(heard.waiting) == ({0} if kept else set())
    assert sum(table.writes) == (6 if kept else 0)


def test_a_record_twice_in_one_batch_counts_once(tmp_path: Path) -> None:
    counter = Collector(tmp_path / "note.json")
    one, two = lines("a-1-1", *reads(2))
    assert counter.receive("a-1-1", [one, one, two, one, two]) == 2
    assert counter.stages()["read"].tiles == 2


def test_sources_are_counted_each_by_its_own_numbers(tmp_path: Path) -> None:
    counter = Collector(tmp_path / "note.json", Table())
    assert counter.receive("a-1-1", lines("a-1-1", *reads(3))) == 3
    assert counter.receive("b-1-1", lines("b-1-1", *reads(2))) == 2
    assert counter.receive("b-1-1", []) == 2
    assert counter.stages()["read"].tiles == 5


def test_stages_add_up_each_for_itself() -> None:
    one, two = Progress("read", 1, 2, 0.25, 4, 5), Progress("read", 10, 20, 0.5, 40, 50)
    assert add_progress(one, two) == Progress("read", 11, 22, 0.75, 44, 55)


def test_numbers_of_a_source_may_have_gaps(tmp_path: Path) -> None:
    """What a full disk has cost never comes."""
    table = Table()
    counter = Collector(tmp_path / "note.json", table)
    assert counter.receive("a-1-1", lines("a-1-1", *reads(1), first=5)) == 5
    assert counter.receive("a-1-1", lines("a-1-1", *reads(2), first=90)) == 91
    assert table.order == {"a-1-1": [5, 90, 91]}


@pytest.mark.parametrize("kept", [False, True])
def test_a_line_that_is_no_record_stops_no_other(kept: bool, tmp_path: Path) -> None:
    counter = Collector(tmp_path / "note.json", Table() if kept else None)
    good = lines("a-1-1", *reads(4))
    odd = [
        good[1].replace('"tiles": 1', '"tiles": "x"'),
        good[1].replace('"seconds": 0.5', '"seconds": "nan"'),
        "{",
        "",
    ]
    assert counter.receive("a-1-1", [odd[0], good[0], *odd, *good[2:], "\x00"]) == 4
    assert counter.stages()["read"].tiles == 3


def test_a_listener_that_fails_does_not_stop_the_count(tmp_path: Path) -> None:
    class Fails(Heard):
        def record(self, record: Mapping[str, Any]) -> None:
            raise KeyError("no such metric")

    table = Table()
    counter = Collector(tmp_path / "note.json", table, Fails())
    for _ in range(2):
        assert counter.receive("a-1-1", lines("a-1-1", *reads(3))) == 3
    assert counter.stages()["read"].tiles == 3
    assert len(table.rows) == 3


def test_who_observes_hears_how_many_wait_and_both_are_let_go_of(tmp_path: Path) -> None:
    away = True

    def fail(when: str) -> None:
        if away:
            raise ConnectionError

    class Closes(Table):
        closed = 0

        def close(self, wait: float = 0.0) -> None:
            self.closed += 1

    heard, table = Heard(), Closes(fail)
    counter = Collector(tmp_path / "note.json", table, heard)
    counter.receive("a-1-1", lines("a-1-1", *reads(3)))
    counter.receive("b-1-1", lines("b-1-1", *reads(2)))
    away = False
    counter.receive("a-1-1", lines("a-1-1", *reads(3)))
    counter.receive("b-1-1", lines("b-1-1", *reads(4)))
    assert heard.waiting == [3, 5, 2, 0]
    counter.close()
    assert (table.closed, heard.closed) == (1, 1)


def test_a_problem_that_was_told_is_not_told_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("geopipe"), "propagate", True)
    caplog.set_level("INFO", logger="geopipe")
    away = True

    def fail(when: str) -> None:
        if away:
            raise ConnectionError("refused")

    counter, batch = (
        Collector(tmp_path / "note.json", Table(fail), problem="no database"),
        lines("a-1-1", *reads(1)),
    )
    assert counter.receive("a-1-1", batch) == 0
    assert (caplog.messages, counter.problem) == ([], "refused")
    away = False
    assert counter.receive("a-1-1", batch) == 1
    assert (caplog.messages, counter.problem) == ([], ""), "who was told of no problem is not told that it has ended"


# ---- successors


@pytest.mark.parametrize("kept", [False, True])
def test_a_successor_counts_nothing_twice(kept: bool, tmp_path: Path) -> None:
    def away(when: str) -> None:
        raise ConnectionError

    first = Collector(tmp_path / "note.json", Table(away) if kept else None)
    assert first.receive("a-1-1", lines("a-1-1", *reads(3))) == (0 if kept else 3)
    table = Table()
    second = Collector(tmp_path / "note.json", table if kept else None)
    assert second.stages() == first.stages()
    assert second.receive("a-1-1", lines("a-1-1", *reads(5))) == 5  # the first three once more
    assert second.stages()["read"].tiles == 5
    assert len(table.rows) == (5 if kept else 0)


def test_what_arrived_at_a_predecessor_does_not_wait(tmp_path: Path) -> None:
    away = False

    def fail(when: str) -> None:
        if away:
            raise ConnectionError

    table, heard = Table(fail), Heard()
    first = Collector(tmp_path / "note.json", table)
    for source in ("a-1-1", "b-1-1"):
        assert first.receive(source, lines(source, *reads(9))) == 9
    second = Collector(tmp_path / "note.json", table, heard)
    away = True
    assert second.receive("a-1-1", lines("a-1-1", *reads(2), first=10)) < 10
    away = False
    assert second.receive("a-1-1", lines("a-1-1", *reads(3), first=10)) == 12
    assert heard.waiting == [2, 0]


@pytest.mark.parametrize(
    "note",
    [
        "",
        "null",
        "[]",
        '{"counted": {"a-1-1": 2}}',
        '{"stages": {"read": {"stage": "read", "tiles": 9, "cells": 0, "seconds": 0}}}',
        '{"stages": [], "counted": {}}',
        '{"stages": {}, "counted": null}',
        '{"stages": {"read": 3}, "counted": {"a-1-1": 2}}',
        '{"stages": {}, "counted": {"a-1-1": "many"}}',
        "\x00\xff",
    ],
)
def test_a_note_that_nobody_can_read_is_none(note: str, tmp_path: Path) -> None:
    (tmp_path / "note.json").write_text(note, encoding="latin-1")
    counter = Collector(tmp_path / "note.json")
    assert counter.stages() == {}
    assert counter.receive("a-1-1", lines("a-1-1", *reads(2))) == 2
    assert counter.stages()["read"].tiles == 2


def test_a_note_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    counter = Collector(tmp_path / "not there" / "note.json", Table())
    assert counter.receive("a-1-1", lines("a-1-1", *reads(2))) == 2


# ---- a store that is away


def test_a_store_that_is_away_is_asked_less_and_less_and_at_once_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, attempts, away = 1000.0, [], True

    def fail(when: str) -> None:
        if when == "before":
            attempts.append(now)
        if away:
            raise ConnectionError("refused")

    monkeypatch.setattr(collector, "RETRY", (1.0, 5.0))
    monkeypatch.setattr(collector.time, "monotonic", lambda: now)
    counter, batch = Collector(tmp_path / "note.json", Table(fail)), lines("a-1-1", *reads(2))
    for _ in range(40):
        assert counter.receive("a-1-1", batch) == 0
        now += 0.5
    assert attempts == [1000.0, 1001.0, 1003.0, 1007.0, 1012.0, 1017.0]
    away, now = False, 1022.0
    assert counter.receive("a-1-1", batch) == 2
    away = True
    attempts.clear()
    later = lines("a-1-1", *reads(1), first=3)
    assert counter.receive("a-1-1", later) == 2
    now += 1.0
    assert counter.receive("a-1-1", later) == 2
    assert attempts == [1022.0, 1023.0]  # from the beginning again


@pytest.mark.parametrize("error", [ConnectionError("refused"), TimeoutError(), RuntimeError("  \n")])
def test_it_is_said_once_that_records_wait_and_once_that_they_arrive(
    error: Exception, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("geopipe"), "propagate", True)
    caplog.set_level("INFO", logger="geopipe")
    away = True

    def fail(when: str) -> None:
        if away:
            raise error

    counter, batch = Collector(tmp_path / "note.json", Table(fail)), lines("a-1-1", *reads(1))
    for turn in range(2):
        batch = lines("a-1-1", *reads(1), first=turn + 1)
        away = True
        for _ in range(3):
            counter.receive("a-1-1", batch)
        assert counter.problem == (str(error).strip() or type(error).__name__)
        away = False
        for _ in range(3):
            counter.receive("a-1-1", batch)
        assert counter.problem == ""
    entries = [(record.levelname, "records wait" in record.getMessage()) for record in caplog.records]
    assert entries == [("WARNING", True), ("INFO", False)] * 2, "what heals by itself is no warning"


def test_a_record_that_the_store_refuses_stops_no_other(tmp_path: Path) -> None:
    class Strict(Table):
        def write(self, batch: Sequence[Mapping[str, Any]]) -> None:
            for entry in batch:
                if entry["kind"] == "event":
                    raise Refused(f"no event, please: {entry['name']}")
            super().write(batch)

    table = Strict()
    counter = Collector(tmp_path / "note.json", table)
    batch = lines("a-1-1", *reads(3), Event("x"), *reads(2), Event("y"))
    assert counter.receive("a-1-1", batch) == 7
    assert table.order == {"a-1-1": [1, 2, 3, 5, 6]}
    assert counter.problem == ""


def test_a_store_that_goes_away_amid_a_refused_batch_loses_nothing(tmp_path: Path) -> None:
    calls = 0

    class Strict(Table):
        def write(self, batch: Sequence[Mapping[str, Any]]) -> None:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise ConnectionError
            if any(entry["kind"] == "event" for entry in batch):
                raise Refused
            super().write(batch)

    table = Strict()
    counter = Collector(tmp_path / "note.json", table)
    batch = lines("a-1-1", *reads(2), Event("x"), *reads(2))
    assert counter.receive("a-1-1", batch) == 0
    assert counter.receive("a-1-1", batch) == 5
    assert table.order == {"a-1-1": [1, 2, 4, 5]}


def test_what_postgres_calls_no_record_is_refused_and_what_it_calls_away_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write(connection: object, batch: Sequence[object]) -> None:
        raise batch[0]  # type: ignore[misc]

    monkeypatch.setattr(store, "write", write)
    result = PostgresStore(None)
    result._connection = object()
    with pytest.raises(Refused, match="kind"):
        result.write([ValueError("kind")])  # type: ignore[list-item]
    for kind in (psycopg2.DataError, NumericValueOutOfRange, psycopg2.IntegrityError):
        with pytest.raises(Refused, match=r"out of range\Z"):
            result.write([kind("out of range\n")])  # type: ignore[list-item]
    assert result._connection is not None  # it has not broken
    with pytest.raises(psycopg2.OperationalError):
        result.write([psycopg2.OperationalError("away")])  # type: ignore[list-item]
    assert result._connection is None
    result._connection = object()
    with pytest.raises(ConnectionError):
        result.write([ConnectionError("away")])  # type: ignore[list-item]


def test_a_number_that_postgres_cannot_hold_costs_its_record_only(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GEOPIPE_MONITORING_DSN", database)
    monkeypatch.setattr(logging.getLogger("geopipe"), "propagate", True)
    run = records.new_run_id()
    messages = [record(run, seq, kind) for seq, kind in enumerate(("state", *["log", "event"] * 4), 1)]
    messages += [record(run, seq, "progress") for seq in range(10, 13)]
    messages[3]["tile"] = messages[10]["cells"] = 2**70
    counter = Collector(tmp_path / "note.json", PostgresStore(None))
    assert counter.receive("host-1-1", [json.dumps(one) for one in messages]) == 12
    counter.close()
    assert counter.problem == ""
    assert [text.startswith("a record is lost") for text in caplog.messages] == [True, True]
    kept = query(database, "SELECT seq FROM pipeline_logs UNION SELECT seq FROM pipeline_events ORDER BY seq")
    assert [seq for (seq,) in kept] == [2, 3, 5, 6, 7, 8, 9]
    assert query(database, "SELECT tiles, cells FROM pipeline_progress") == [(2, 4)]


# ---- many at once


@pytest.mark.parametrize("kept", [False, True])
def test_many_threads_at_once_count_and_keep_each_record_once(kept: bool, tmp_path: Path) -> None:
    """Each source is delivered by two at once, as a process and one that clears up after it do."""
    rng = random.Random(5)
    fails = [rng.random() < 0.2 for _ in range(10_000)]

    def fail(when: str) -> None:
        if fails.pop():
            raise OSError("odd")

    table = Table(fail)
    observer = Heard()
    counter = Collector(tmp_path / "note.json", table if kept else None, observer)

    def send(source: str, size: int) -> None:
        every, arrived = lines(source, *reads(60)), 0
        while arrived < len(every):
            arrived = counter.receive(source, every[arrived : arrived + size])

    threads = [threading.Thread(target=send, args=[f"h-{n % 4}-1", 3 + n]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected, heard = {(f"h-{n}-1", seq) for n in range(4) for seq in range(1, 61)}, observer.numbers
    assert counter.stages()["read"].tiles == len(heard) == len(expected) == len(set(heard))
    if kept:
        assert table.order == {f"h-{n}-1": list(range(1, 61)) for n in range(4)}
    assert Collector(tmp_path / "note.json").stages()["read"].tiles == len(expected)


# ---- the whole way, with everything that can happen on it


HAPPENS = ("", "is lost", "comes late", "comes in part", "is late and a part", "is not answered")
HAPPENS += ("store fails before", "store fails after")


class Way(RuleBasedStateMachine):
    """Processes, their spools, a collector that dies, a store that is away; at the end all has arrived once."""

    @initialize(batch=st.integers(1, 7), files=st.integers(150, 3000))
    def begin(self, batch: int, files: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(collector, "RETRY", (0.0, 0.0))
        self.patch.setattr(os, "fsync", lambda file: None)
        self.patch.setattr(threading.Thread, "start", lambda thread: None)  # its turns are rules here
        self.place = tempfile.TemporaryDirectory()
        self.folder, self.batch = Path(self.place.name), batch
        self.patch.setattr(spool, "SEGMENTS", (1 << 30) // files)  # small files, and no limit
        self.table = Table(self.fail)
        self.spools: list[Spool] = []
        self.shippers: list[Shipper] = []
        self.appended: dict[str, int] = {}
        self.answers = 0
        self.heard = Heard()
        self.plan: list[str] = []
        self.late: list[tuple[str, list[str]]] = []
        self.dies()
        for n in range(2):
            own_spool = Spool(self.folder, f"elsewhere-{n}-1", 1 << 30, RUN)
            self.spools.append(own_spool)
            self.shippers.append(Shipper(own_spool, batch, 1.0))
            self.shippers[-1].connect(self.deliver)
            self.appended[own_spool.source] = 0

    def fail(self, when: str) -> None:
        if self.plan and self.plan[0] == f"store fails {when}":
            self.plan.pop(0)
            raise random.Random(len(self.plan)).choice([OSError("x"), TimeoutError(), KeyError("k"), Exception()])

    def deliver(self, source: str, batch: Sequence[str]) -> int:
        happens = self.plan.pop(0) if self.plan and not self.plan[0].startswith("store") else ""
        if happens == "is lost":
            raise ConnectionError
        if happens == "comes late":
            self.late.append((source, list(batch)))
            raise TimeoutError
        if happens == "comes in part":
            batch = batch[: len(batch) // 2]
        if happens == "is late and a part":
            self.late.append((source, list(batch)))
            batch = batch[:1]
        seq = self.collector.receive(source, batch)
        if happens == "is not answered":
            raise TimeoutError
        return seq

    @rule(which=st.integers(0, 1), count=st.integers(1, 9))
    def say(self, which: int, count: int) -> None:
        result = self.spools[which]
        for _ in range(count):
            self.appended[result.source] += 1
            result.append(Progress("read", 1, 1, 0.0) if count % 3 else Log("INFO", "geopipe", "x"))

    @rule(
        which=st.integers(0, 1),
        plan=st.lists(
            st.sampled_from(HAPPENS),
            max_size=3,
        ),
    )
    def ship(self, which: int, plan: list[str]) -> None:
        self.plan = plan
        self.shippers[which].ship()
        self.plan = []

    @rule()
    def arrives_late(self) -> None:
        if self.late:
            self.collector.receive(*self.late.pop(0))

    @rule(which=st.integers(0, 1), size=st.integers(1, 20))
    def another_sends_it_too(self, which: int, size: int) -> None:
        """As `left_behind` does with what the living have not sent."""
        source = self.spools[which].source
        result: list[Line] = list(spool.lines_of(sorted(self.folder.glob(f"{source}.*.jsonl"))))
        for at in range(0, len(result), size):
            self.collector.receive(source, [x.text for x in result[at : at + size]])

    @rule(which=st.integers(0, 1), times=st.integers(2, 3))
    def comes_again(self, which: int, times: int) -> None:
        batch = [x.text for x in self.spools[which].unsent(self.batch)]
        for _ in range(times):
            self.collector.receive(self.spools[which].source, batch)

    @rule()
    def dies(self) -> None:
        self.collector = Collector(self.folder / "counted.json", self.table, self.heard)

    @invariant()
    def what_has_arrived_is_kept_in_order_and_nothing_else_is_forgotten(self) -> None:
        for result in getattr(self, "spools", []):
            order = self.table.order.get(result.source, [])
            assert order == list(range(1, len(order) + 1))
            assert result._arrived <= len(order)
            left = {x.seq for x in spool.lines_of(sorted(self.folder.glob(f"{result.source}.*.jsonl")))}
            assert left >= set(range(result._arrived + 1, self.appended[result.source] + 1))
            assert result.waiting >= self.appended[result.source] - result._arrived

    def teardown(self) -> None:
        if not hasattr(self, "spools"):
            return
        try:
            self.plan = []
            for ships in self.shippers:
                assert ships.ship()
                assert ships.spool.waiting == 0
            while self.late:
                self.arrives_late()
            expected = {(source, seq) for source, count in self.appended.items() for seq in range(1, count + 1)}
            assert set(self.table.rows) == expected
            assert all(order == sorted(order) for order in self.table.order.values())
            assert sorted(self.heard.numbers) == sorted(expected)
            tiles = sum(1 for entry in self.table.rows.values() if entry["kind"] == "progress")
            stages = self.collector.stages()
            assert (stages["read"].tiles if stages else 0) == tiles
            assert list(self.folder.glob("*.jsonl")) == []
        finally:
            self.patch.undo()
            self.place.cleanup()


TestWay = Way.TestCase
TestWay.settings = settings(max_examples=40, stateful_step_count=25)


class Chance:
    """A network and a store that fail at random, the same from any thread."""

    def __init__(self, seed: int) -> None:
        self.rng, self.lock = random.Random(seed), threading.Lock()

    def fails(self, share: float) -> None:
        with self.lock:
            if self.rng.random() < share:
                raise self.rng.choice([OSError("x"), TimeoutError(), ValueError("v"), KeyError("k")])

    def between(self, result: Collector) -> spool.Deliver:
        def deliver(source: str, batch: Sequence[str]) -> int:
            self.fails(0.1)
            seq = result.receive(source, batch)
            self.fails(0.1)
            return seq

        return deliver


@pytest.mark.parametrize("seed", range(3))
def test_threads_and_a_store_at_random_lose_nothing(seed: int, tmp_path: Path) -> None:
    """The same with real threads: appending, shipping and closing at once."""
    chance = Chance(seed)
    table = Table(lambda when: chance.fails(0.15))
    counter = Collector(tmp_path / "counted.json", table)
    spools = [Spool(tmp_path, f"elsewhere-{n}-1", 1 << 20, RUN) for n in range(3)]
    shippers = [Shipper(one, 1 + 3 * n, 0.01) for n, one in enumerate(spools)]
    for ships in shippers:
        ships.connect(chance.between(counter))

    def say(one: Spool) -> None:
        for _ in range(60):
            one.append(Progress("read", 1, 1, 0.0))

    threads = [threading.Thread(target=say, args=[one]) for one in spools]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all([ships.close(PATIENCE) for ships in shippers])  # noqa: C419 - all of them
    assert table.order == {one.source: list(range(1, 61)) for one in spools}
    assert counter.stages()["read"].tiles == 180
    assert list(tmp_path.glob("*.jsonl")) == []
    assert json.loads((tmp_path / "counted.json").read_text())["counted"] == {one.source: 60 for one in spools}
