"""Records on their way: on disk until they have arrived, also after kill -9; a full disk costs what is worth least."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import north_up, write_raster
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import PATIENCE, until

from geopipe.engine.session import WorkerSession
from geopipe.errors import MachineError, Paused, RunError, Terminated
from geopipe.events import emit, logs
from geopipe.events.records import Body, Event, Log, Metric, Progress, State
from geopipe.monitoring import leftovers, presence, recorder, shipping, spool
from geopipe.monitoring.collector import Collector, open_collector
from geopipe.monitoring.home import spool_root
from geopipe.monitoring.leftovers import deliver_folders
from geopipe.monitoring.options import MonitoringOptions
from geopipe.monitoring.presence import Presence
from geopipe.monitoring.shipping import Shipper
from geopipe.monitoring.spool import SEGMENTS, Spool, source_name
from geopipe.run import attempts, pipeline
from geopipe.settings import load as config

RUN = {"run_id": "r", "attempt": 3}
BIG = 1 << 20

BODIES = {
    "DEBUG": Log("DEBUG", "geopipe", "d"),
    "INFO": Log("INFO", "geopipe", 'i "level": "DEBUG"'),
    "metric": Metric("cpu_percent", 1.0, "%"),
    "WARNING": Log("WARNING", "geopipe", "w", extra={"level": "DEBUG", "kind": "metric"}),
    "ERROR": Log("ERROR", "geopipe", "e"),
    "event": Event("wave_done", {"level": "DEBUG", "kind": "metric"}),
    "state": State("running", {"level": "INFO"}),
    "progress": Progress("read", 1, 2, 0.1),
}


def new(folder: Path, limit: int = BIG) -> Spool:
    return Spool(folder, source_name(), limit, RUN)


@contextmanager
def spool_of(limit: int = BIG) -> Iterator[Spool]:
    """A spool in a folder of its own, for hypothesis. Its time stands: the digits decide what fits into a file."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        patch.setattr(spool, "time", SimpleNamespace(time=lambda: 1_780_000_000.25, time_ns=lambda: 10**18))
        yield new(Path(folder), limit)


def on_disk(folder: Path) -> list[dict[str, Any]]:
    """Every whole line on disk."""
    lines = [x for path in sorted(folder.glob("*.jsonl")) for x in path.read_bytes().splitlines(keepends=True)]
    return [json.loads(x) for x in lines if x.endswith(b"\n")]


def numbers(folder: Path) -> list[int]:
    return [entry["seq"] for entry in on_disk(folder)]


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def script(code: str, *args: object, **overrides: Any) -> subprocess.Popen[str]:
    """Another process that runs `code`."""
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, **overrides)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


class Sink:
    """Keeps what is delivered, by source and number, as an idempotent store would."""

    def __init__(self) -> None:
        self.kept: dict[str, list[int]] = {}
        self.batches: list[int] = []

    def __call__(self, source: str, lines: Sequence[str]) -> int:
        kept = self.kept.setdefault(source, [])
        self.batches.append(len(lines))
        for entry in map(json.loads, lines):
            if not kept or entry["seq"] > kept[-1]:
                kept.append(entry["seq"])
        return kept[-1]


@contextmanager
def shipper(*args: Any, **overrides: Any) -> Iterator[Shipper]:
    result = Shipper(*args, **overrides)
    try:
        yield result
    finally:
        result.close(0.0)


# ---- what a spool keeps


def test_numbers_begin_at_one_without_a_gap_and_say_who_when_and_where(tmp_path: Path) -> None:
    own_spool, before = new(tmp_path), time.time()
    with emit.context(run_id="not this", stage="read", layer="dem", tile=9):
        for body in BODIES.values():
            own_spool.append(body)
    result = on_disk(tmp_path)
    assert [entry["seq"] for entry in result] == list(range(1, len(BODIES) + 1))
    for entry in result:
        assert before <= entry["ts"] <= time.time()
        assert (entry["source"], entry["worker"], entry["node"]) == (
            own_spool.source,
            os.getpid(),
            socket.gethostname(),
        )
        assert (entry["run_id"], entry["attempt"], entry["layer"], entry["tile"]) == ("r", 3, "dem", 9)
    assert own_spool.waiting == len(BODIES)


def test_a_thread_knows_run_and_attempt_which_it_has_no_context_for(tmp_path: Path) -> None:
    own_spool = new(tmp_path)
    thread = threading.Thread(target=own_spool.append, args=[Event("a")])
    thread.start()
    thread.join()
    assert [(entry["run_id"], entry["attempt"]) for entry in on_disk(tmp_path)] == [("r", 3)]


def test_two_sources_of_one_process_have_two_names() -> None:
    assert len({source_name() for _ in range(100)}) > 1


def test_only_the_owner_reads_what_waits(tmp_path: Path) -> None:
    own_spool = new(tmp_path, 2000)
    old = os.umask(0)
    try:
        for _ in range(40):
            own_spool.append(BODIES["INFO"])
            own_spool.append(BODIES["event"])
    finally:
        os.umask(old)
    assert own_spool.dropped
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_eight_threads_at_once_leave_every_record_once_and_whole(tmp_path: Path) -> None:
    own_spool = new(tmp_path, 100_000)

    def work(thread: int) -> None:
        for i in range(50):
            own_spool.append(Event("x", {"thread": thread, "i": i}))

    threads = [threading.Thread(target=work, args=[n]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = on_disk(tmp_path)
    assert [entry["seq"] for entry in result] == list(range(1, 401)) == [x.seq for x in own_spool.unsent(1000)]
    each = [[entry["detail"]["i"] for entry in result if entry["detail"]["thread"] == n] for n in range(8)]
    assert each == [list(range(50))] * 8
    assert len(list(tmp_path.iterdir())) > 1


APPENDS = """
import os, sys
from pathlib import Path
from geopipe.events.records import Event
from geopipe.monitoring.spool import Spool, source_name
made = Spool(Path(sys.argv[1]), source_name(), int(sys.argv[2]), {"run_id": "r", "attempt": 1})
for i in range(1, 2000):
    made.append(Event("x", {"text": "y" * (i % 3000)}))
    os.write(1, b"%d\\n" % i)
sys.stdin.read()
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_what_was_appended_outlives_a_kill(seed: int, tmp_path: Path) -> None:
    process = script(APPENDS, tmp_path, 6_000_000)
    count = random.Random(seed).randrange(5, 600)
    assert process.stdout is not None
    read = 0
    while read < count:
        read = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read()  # `communicate` would miss what has been read ahead
    process.communicate()
    appended = int(([str(read), *rest.split("\n")[:-1]])[-1])
    result = numbers(tmp_path)
    assert result == list(range(1, len(result) + 1))
    assert len(result) - appended in (0, 1)  # one may have been written, and not told of

    sink = Sink()
    last = max(tmp_path.glob("*.jsonl"))
    last.write_bytes(last.read_bytes() + b'{"seq": 100000, "ts": 17')
    assert deliver_folders([tmp_path], sink, 7, 30.0) == 1
    assert list(sink.kept.values()) == [result]
    assert not tmp_path.exists()


def test_a_kill_while_room_is_made_leaves_whole_files(tmp_path: Path) -> None:
    process = script(APPENDS, tmp_path, 60_000)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 400:
        pass
    kill(process)
    explained(on_disk(tmp_path), within_one=True)


def test_who_appends_does_not_wait_for_the_disk_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    own_spool, before = new(tmp_path, 20_000), len(os.listdir("/proc/self/fd"))
    for _ in range(60):
        own_spool.append(BODIES["event"])
    assert synced == []
    own_spool.sync()
    assert len(synced) == len(list(tmp_path.iterdir())) > 4
    assert len(os.listdir("/proc/self/fd")) == before + 1


# ---- a full disk


def explained(records: list[dict[str, Any]], within_one: bool = False) -> None:
    """Each number that is missing is counted by one event."""
    seqs = [lost["seq"] for lost in records]
    assert seqs == sorted(set(seqs))
    drops = [lost["detail"] for lost in records if lost.get("name") == "records_dropped"]
    missing = seqs[-1] - len(seqs) if seqs else 0
    lost = sum(d["count"] for d in drops)
    if within_one:  # killed between giving up and telling: what is missing was given up, at most what a file holds
        assert lost <= missing
    else:
        assert lost == missing
        assert not drops or drops[-1]["total"] == missing


@settings(max_examples=40)
@given(
    limit=st.integers(0, 6000),
    kinds=st.lists(st.sampled_from([*BODIES]), min_size=1, max_size=120),
    lengths=st.lists(st.integers(0, 3000), min_size=1, max_size=4),
)
def test_bytes_on_disk_are_bounded_and_every_gap_is_explained(limit: int, kinds: list[str], lengths: list[int]) -> None:
    # The bound: the limit, the record that came last, and the event that tells of a loss.
    with spool_of(limit) as own_spool:
        for i, kind in enumerate(kinds):
            body: Body = BODIES[kind]
            if isinstance(body, Log):
                body = Log(body.level, body.logger, body.message + "x" * lengths[i % len(lengths)], extra=body.extra)
            own_spool.append(body)
            assert size(own_spool.folder) <= limit + 3500 + 500
        result = on_disk(own_spool.folder)
        explained(result)
        assert own_spool.waiting == len(result)
        assert result[-1]["seq"] - len(result) == own_spool.dropped
        assert [x.seq for x in own_spool.unsent(1000)] == [entry["seq"] for entry in result]
        assert len(list(own_spool.folder.iterdir())) <= len(result)


def kind_of(entry: dict[str, Any]) -> str:
    return str(entry["level"] if entry["kind"] == "log" else entry["kind"])


@pytest.mark.parametrize("worth", range(1, len(spool.GIVEN_UP_FIRST)))
def test_what_is_worth_least_is_given_up_first(worth: int, tmp_path: Path) -> None:
    """With room for some of the mixture, nothing goes of one kind before all of the kinds below it are gone."""
    order = list(spool.GIVEN_UP_FIRST[:-1])
    own_spool = new(tmp_path, 12_000)
    lower, higher = order[:worth], [k for k in BODIES if k not in order[:worth]]
    for i in range(40):  # 40 of the less worthy, and 20 of the others, which fit
        own_spool.append(BODIES[lower[i % len(lower)]])
        if i % 2:
            own_spool.append(BODIES[higher[i // 2 % len(higher)]])
    result = on_disk(tmp_path)
    assert own_spool.dropped > 0
    kept = [kind_of(entry) for entry in result if entry.get("name") != "records_dropped"]
    assert [k for k in kept if k in higher] == [higher[i % len(higher)] for i in range(20)]
    explained(result)


def test_debug_goes_before_info_before_metrics_before_warnings_before_all_else(tmp_path: Path) -> None:
    own_spool = new(tmp_path, 30_000)
    gone: list[str] = []
    order = ["DEBUG", "INFO", "metric", "WARNING"]
    for kind in reversed(order):
        for _ in range(10):
            own_spool.append(BODIES[kind])
    for _ in range(500):
        own_spool.append(BODIES["ERROR"])
        left = {kind_of(entry) for entry in on_disk(tmp_path)}
        gone += [kind for kind in order if kind not in left and kind not in gone]
    assert gone == order


def test_text_that_looks_like_a_level_costs_no_record_its_place(tmp_path: Path) -> None:
    own_spool = new(tmp_path, 9000)
    for _ in range(8):
        own_spool.append(BODIES["event"])
        own_spool.append(BODIES["WARNING"])
    for _ in range(30):
        own_spool.append(BODIES["DEBUG"])
    kinds = [kind_of(entry) for entry in on_disk(tmp_path) if entry.get("name") != "records_dropped"]
    assert own_spool.dropped
    assert (kinds.count("event"), kinds.count("WARNING")) == (8, 8)


def test_what_has_arrived_is_not_counted_as_lost(tmp_path: Path) -> None:
    own_spool, sink = new(tmp_path, 10_000), Sink()
    for _ in range(5):
        own_spool.append(BODIES["INFO"])
    own_spool.arrived(sink(own_spool.source, [x.text for x in own_spool.unsent(3)]))
    for _ in range(100):
        own_spool.append(BODIES["event"])
    while lines := own_spool.unsent(10):
        own_spool.arrived(sink(own_spool.source, [x.text for x in lines]))
    result = sink.kept[own_spool.source]
    assert result[:3] == [1, 2, 3]
    assert own_spool.dropped == result[-1] - len(result) > 0


@settings(max_examples=25)
@given(st.data())
def test_records_that_go_while_others_arrive_leave_no_gap_unexplained(data: st.DataObject) -> None:
    """Batches are handed out, room is made in the files that they came from, and then they arrive, or some do."""
    arrived: dict[int, dict[str, Any]] = {}
    with spool_of(data.draw(st.integers(500, 6000))) as own_spool:
        for _ in range(data.draw(st.integers(1, 12))):
            lines = own_spool.unsent(data.draw(st.integers(1, 12)))
            for kind in data.draw(st.lists(st.sampled_from([*BODIES]), max_size=15)):
                own_spool.append(BODIES[kind])
            upto = data.draw(st.integers(0, len(lines)))
            for line in lines[:upto]:
                arrived[line.seq] = json.loads(line.text)
            if upto:
                own_spool.arrived(lines[upto - 1].seq)
        while lines := own_spool.unsent(10):
            arrived |= {line.seq: json.loads(line.text) for line in lines}
            own_spool.arrived(lines[-1].seq)
        assert own_spool.waiting == 0
        assert list(own_spool.folder.iterdir()) == []
    seqs = list(arrived)
    assert seqs == sorted(seqs)
    lost = sum(r["detail"]["count"] for r in arrived.values() if r.get("name") == "records_dropped")
    # What was given up between its delivery and the answer has arrived, and was counted all the same.
    missing = (seqs[-1] - len(seqs)) if seqs else 0
    assert lost >= missing


def test_a_disk_that_takes_half_a_line_spoils_no_other_and_the_loss_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_spool, write = new(tmp_path), os.write
    own_spool.append(BODIES["ERROR"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: write(file, data[: len(data) // 2]))
        with pytest.raises(OSError, match="No space left"):
            own_spool.append(BODIES["state"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: write(-1, data))
        with pytest.raises(OSError, match="Bad file"):
            own_spool.append(BODIES["state"])
    own_spool.append(BODIES["event"])
    result = on_disk(tmp_path)
    assert [entry["seq"] for entry in result] == [1, 4, 5]
    explained(result)
    assert result[-1]["detail"]["count"] == 2


def test_a_body_that_makes_no_line_is_counted(tmp_path: Path) -> None:
    own_spool, endless = new(tmp_path), {}
    endless["self"] = endless
    with pytest.raises(RecursionError):
        own_spool.append(Event("x", endless))
    own_spool.append(Event("y"))
    assert [(entry["seq"], entry["name"]) for entry in on_disk(tmp_path)] == [(2, "y"), (3, "records_dropped")]


def test_a_folder_that_vanished_closes_no_file_of_another(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    own_spool = new(folder, 0)  # a file for each record
    own_spool.append(BODIES["ERROR"])
    held = os.open(os.devnull, os.O_RDONLY)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            own_spool.append(BODIES["ERROR"])
    assert set(os.listdir("/proc/self/fd")) == before
    os.close(held)


# ---- what arrives


@settings(max_examples=40)
@given(st.data())
def test_batches_of_any_size_come_in_order_and_are_forgotten_as_they_arrive(data: st.DataObject) -> None:
    delivered: list[int] = []
    with spool_of(8 * data.draw(st.integers(100, 1500))) as own_spool:
        own_spool.limit, files = BIG, own_spool.limit  # files as small as that, and nothing given up
        own_spool.limit = max(files, 40_000)
        total = arrived = 0
        for _ in range(data.draw(st.integers(1, 12))):
            for _ in range(data.draw(st.integers(0, 8))):
                own_spool.append(BODIES["event"])
                total += 1
            lines = own_spool.unsent(data.draw(st.integers(1, 10)))
            assert [x.seq for x in lines] == list(range(arrived + 1, arrived + 1 + len(lines)))
            assert own_spool.unsent(len(lines) or 1) == lines  # and again the same
            if lines and data.draw(st.booleans()):
                arrived = lines[data.draw(st.integers(0, len(lines) - 1))].seq
                own_spool.arrived(arrived)
                own_spool.arrived(data.draw(st.integers(0, arrived)))  # an answer that comes late
            assert own_spool.waiting == total - arrived
            assert [n for n in numbers(own_spool.folder) if n > arrived] == list(range(arrived + 1, total + 1))
            delivered += [x.seq for x in lines]
        own_spool.arrived(total + 100)  # more than there is
        assert own_spool.waiting == 0
        assert list(own_spool.folder.iterdir()) == []
        own_spool.append(Event("next"))
        assert [x.seq for x in own_spool.unsent(9)] == [total + 1]


def test_files_go_when_all_of_their_records_have_arrived(tmp_path: Path) -> None:
    own_spool = new(tmp_path, 200 * SEGMENTS)  # each file holds one record or two
    for _ in range(6):
        own_spool.append(Event("x"))
    files = sorted(tmp_path.glob("*.jsonl"))
    firsts = [int(path.name.split(".")[1]) for path in files]
    assert firsts[0] == 1
    assert len(firsts) >= 3
    for number, left in zip(firsts[1:], range(len(files) - 1, 0, -1), strict=True):
        own_spool.arrived(number - 1)
        assert len(list(tmp_path.glob("*.jsonl"))) == left
    own_spool.arrived(6)
    assert list(tmp_path.glob("*.jsonl")) == []


def test_a_corrupt_line_and_a_file_that_is_gone_do_not_hold_up_the_others(tmp_path: Path) -> None:
    own_spool = new(tmp_path, 200 * SEGMENTS)
    for _ in range(8):
        own_spool.append(Event("x"))
    files = sorted(tmp_path.glob("*.jsonl"))
    data = files[0].read_bytes()
    files[0].write_bytes(b"{" + data[1:].replace(b'"source"', b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8"))
    gone = len(files[1].read_bytes().splitlines())
    files[1].unlink()
    sink = Sink()
    with shipper(own_spool, 1, 60.0) as ships:
        ships.connect(sink)
        assert ships.ship()
    assert sink.kept[own_spool.source] == list(range(len(data.splitlines()) + gone + 1, 9))
    assert own_spool.waiting == 0


# ---- the shipper


def test_records_go_as_soon_as_a_batch_waits(tmp_path: Path) -> None:
    own_spool, sink = new(tmp_path), Sink()
    with shipper(own_spool, 5, 3600.0) as ships:
        ships.connect(sink)
        for _ in range(4):
            own_spool.append(BODIES["INFO"])
        time.sleep(0.3)
        assert sink.kept == {}
        own_spool.append(BODIES["INFO"])
        until(lambda: own_spool.waiting == 0)
    assert sink.kept == {own_spool.source: [1, 2, 3, 4, 5]}


def test_a_lone_log_goes_after_the_interval(tmp_path: Path) -> None:
    own_spool, sink = new(tmp_path), Sink()
    with shipper(own_spool, 1000, 0.1) as ships:
        ships.connect(sink)
        own_spool.append(BODIES["INFO"])
        until(lambda: own_spool.waiting == 0)
    assert sink.batches == [1]


def test_what_people_watch_for_goes_soon_and_takes_the_rest_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "SOON", 0.1)
    own_spool, sink = new(tmp_path), Sink()
    with shipper(own_spool, 1000, 3600.0) as ships:
        ships.connect(sink)
        own_spool.append(BODIES["INFO"])
        own_spool.append(BODIES["metric"])
        time.sleep(0.3)
        assert sink.kept == {}
        own_spool.append(BODIES["progress"])
        until(lambda: own_spool.waiting == 0)
    assert sink.batches == [3]


def test_batches_are_as_large_as_was_asked(tmp_path: Path) -> None:
    own_spool, sink = new(tmp_path), Sink()
    for _ in range(10):
        own_spool.append(BODIES["INFO"])
    with shipper(own_spool, 4, 3600.0) as ships:
        ships.connect(sink)
        ships.ship()
    assert sink.batches == [4, 4, 2]


def test_the_thread_survives_everything_and_delivers_in_the_end(tmp_path: Path) -> None:
    own_spool, sink, calls = new(tmp_path), Sink(), 0

    def odd(source: str, lines: Sequence[str]) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise MemoryError
        if calls == 2:
            return None
        if calls == 3:
            return "far"
        if calls == 4:
            raise OSError
        return sink(source, lines)

    def broken() -> None:
        raise RuntimeError

    with shipper(own_spool, 2, 0.01, tasks=[broken]) as ships:
        ships.connect(odd)
        for _ in range(7):
            own_spool.append(BODIES["event"])
        until(lambda: own_spool.waiting == 0)
    assert sink.kept == {own_spool.source: list(range(1, 8))}


def test_an_unreadable_disk_does_not_end_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_spool, sink, unsent, failed = new(tmp_path), Sink(), Spool.unsent, []

    def fails_twice(self: Spool, most: int) -> list[spool.Line]:
        if len(failed) < 2:
            failed.append(1)
            raise OSError(5, "Input/output error")
        return unsent(self, most)

    monkeypatch.setattr(Spool, "unsent", fails_twice)
    with shipper(own_spool, 1, 0.01) as ships:
        ships.connect(sink)
        own_spool.append(BODIES["event"])
        until(lambda: own_spool.waiting == 0)


def test_every_turn_calls_what_is_to_be_called(tmp_path: Path) -> None:
    calls: list[int] = []
    with shipper(new(tmp_path), 1, 0.01, tasks=[lambda: calls.append(1)]):
        until(lambda: len(calls) > 2)


def test_what_is_called_no_more_is_not_called_after_one_before_it_that_hung(tmp_path: Path) -> None:
    go, inside, after, calls = threading.Event(), threading.Event(), threading.Event(), []
    with shipper(new(tmp_path), 1, 0.01, tasks=[after.set]) as ships:
        ships.connect(Sink(), lambda: (inside.set(), go.wait(PATIENCE)), lambda: calls.append(1))
        assert inside.wait(PATIENCE)
        assert not ships.disconnect(0.1), "one of them is under way"
        after.clear()
        go.set()
        assert ships.disconnect(PATIENCE)
        assert after.wait(PATIENCE)
    assert not calls


def test_who_appends_does_not_wait_for_a_delivery_that_hangs(tmp_path: Path) -> None:
    own_spool, go, inside = new(tmp_path), threading.Event(), threading.Event()

    def hangs(source: str, lines: Sequence[str]) -> int:
        inside.set()
        go.wait(PATIENCE)
        return 0

    with shipper(own_spool, 1, 0.01) as ships:
        ships.connect(hangs)
        end = emit.subscribe(own_spool.append)
        emit.emit(Event("a"))
        assert inside.wait(PATIENCE)
        for _ in range(100):
            emit.emit(Event("b"))
        end()
        assert own_spool.waiting == 101  # and still nobody has answered
        go.set()


@pytest.mark.parametrize("who", ["it", "the thread"])
@pytest.mark.parametrize("how", ["hangs", "slow"])
def test_who_ships_waits_no_longer_than_it_says_and_the_rest_arrives_later(who: str, how: str, tmp_path: Path) -> None:
    """Whoever has the turn at a monitor that is slow."""
    own_spool, sink, go, inside = new(tmp_path), Sink(), threading.Event(), threading.Event()

    def deliver(source: str, lines: Sequence[str]) -> int:
        inside.set()
        go.wait(2 * PATIENCE if how == "hangs" else 0.2)
        return sink(source, lines)

    for _ in range(100):
        own_spool.append(BODIES["event"])
    with shipper(own_spool, 1, 0.01 if who == "the thread" else 3600.0) as ships:
        ships.connect(deliver)
        if who == "the thread":
            assert inside.wait(PATIENCE)
        start = time.monotonic()
        assert not ships.ship(0.3)
        assert 0.3 <= time.monotonic() - start < PATIENCE  # the hanging one would take longer
        assert own_spool.waiting, "the slow ones take 20 s"
        go.set()
        until(lambda: own_spool.waiting == 0)
        assert ships.ship(PATIENCE)
    assert sink.kept == {own_spool.source: list(range(1, 101))}


def test_who_ships_in_time_does_not_wait_for_its_seconds(tmp_path: Path) -> None:
    own_spool, sink, start = new(tmp_path), Sink(), time.monotonic()
    with shipper(own_spool, 2, 3600.0) as ships:
        own_spool.append(BODIES["INFO"])
        assert not ships.ship(3600.0)  # to nobody
        ships.connect(sink)
        assert ships.ship(3600.0)
    assert time.monotonic() - start < PATIENCE
    assert sink.kept == {own_spool.source: [1]}


def test_who_disconnects_waits_for_a_delivery_but_not_for_ever(tmp_path: Path) -> None:
    own_spool, go, calls = new(tmp_path), threading.Event(), []

    def hangs(source: str, lines: Sequence[str]) -> int:
        calls.append(1)
        go.wait(2 * PATIENCE)
        return int(json.loads(lines[-1])["seq"])

    for _ in range(3):
        own_spool.append(BODIES["INFO"])
    with shipper(own_spool, 1, 3600.0) as ships:
        ships.connect(hangs)
        until(lambda: bool(calls))
        start = time.monotonic()
        assert not ships.disconnect(0.2)
        assert time.monotonic() - start < PATIENCE
        go.set()
        assert ships.disconnect(PATIENCE)
        assert not ships.ship()
    assert (calls, own_spool.waiting) == ([1], 2)  # the one that was under way has arrived, and no other went


def test_close_sends_what_waits(tmp_path: Path) -> None:
    own_spool, sink = new(tmp_path), Sink()
    ships = Shipper(own_spool, 3, 3600.0)
    ships.connect(sink)
    for _ in range(8):
        own_spool.append(BODIES["INFO"])
    assert ships.close(PATIENCE)
    assert sink.batches == [3, 3, 2]
    assert list(tmp_path.iterdir()) == []


def test_close_tries_again_within_its_seconds(tmp_path: Path) -> None:
    own_spool, sink, calls = new(tmp_path), Sink(), []

    def at_last(source: str, lines: Sequence[str]) -> int:
        calls.append(1)
        if len(calls) < 3:
            raise OSError
        return sink(source, lines)

    ships = Shipper(own_spool, 3, 3600.0)
    ships.connect(at_last)
    own_spool.append(BODIES["INFO"])
    assert ships.close(PATIENCE)


def test_close_has_longer_unless_it_is_hopeless(tmp_path: Path) -> None:
    hopeless, go = list[int](), threading.Event()

    def far(source: str, lines: Sequence[str]) -> int:
        go.wait(2 * PATIENCE if hopeless else 0.1)
        return int(json.loads(lines[-1])["seq"])

    for expected in (True, False):
        own_spool = new(tmp_path / str(expected))
        ships = Shipper(own_spool, 1, 3600.0)
        for _ in range(8):
            own_spool.append(BODIES["INFO"])
        ships.connect(far)
        start = time.monotonic()
        assert ships.close(0.2, PATIENCE, unless=lambda: hopeless) == expected
        assert time.monotonic() - start < PATIENCE
        hopeless.append(1)
    go.set()


def test_behind_what_is_received_and_not_kept_all_is_counted_once(tmp_path: Path) -> None:
    own_spool, calls, away = new(tmp_path), list[tuple[list[int], bool]](), True

    def collect(source: str, lines: Sequence[str], keep: bool = True) -> int:
        calls.append(([json.loads(x)["seq"] for x in lines], keep))
        return calls[-1][0][-1] if keep and not away else 0

    with shipper(own_spool, 100, 3600.0) as ships:
        ships.batch_size = 2
        ships.connect(collect)
        for _ in range(5):
            own_spool.append(BODIES["INFO"])
        assert not ships.ship()
        assert calls == [([1, 2], True), ([3, 4], False), ([5], False)]
        calls.clear()
        own_spool.append(BODIES["INFO"])
        assert not ships.ship()
        assert calls == [([1, 2], True), ([6], False)]
        calls.clear()
        away = False
        assert ships.ship()
        assert calls == [([1, 2], True), ([3, 4], True), ([5, 6], True)]


def test_a_recorder_that_is_closed_leaves_no_file_open(options: MonitoringOptions) -> None:
    def once() -> int:
        session = recorder.Recorder(replace(options, metrics_interval=0.01))
        emit.emit(Event("x"))
        until(lambda: session._sampler is not None and session._sampler._lock >= 0)
        session.close(0.1)
        return len(os.listdir("/proc/self/fd"))

    assert once() == once()


@pytest.mark.parametrize("how", ["hangs", "raises", "slow", "nobody"])
def test_close_ends_in_time_and_says_that_records_wait(how: str, tmp_path: Path) -> None:
    own_spool, go = new(tmp_path), threading.Event()

    def deliver(source: str, lines: Sequence[str]) -> int:
        if how == "raises":
            raise OSError
        go.wait(2 * PATIENCE if how == "hangs" else 0.05)
        return int(json.loads(lines[-1])["seq"])

    ships = Shipper(own_spool, 1, 0.01)
    if how != "nobody":
        ships.connect(deliver)
    for _ in range(2000):
        own_spool.append(BODIES["INFO"])
    start = time.monotonic()
    assert not ships.close(0.2)
    assert time.monotonic() - start < PATIENCE  # the hanging one would take longer
    assert own_spool.waiting, "the 2000 slow ones take 100 s"
    go.set()


def test_a_debug_log_of_the_shipper_itself_does_not_keep_it_at_work(tmp_path: Path) -> None:
    """Where debug logs are records, one comes of each failed delivery, and not of each record that waits."""
    logs.configure_logging("DEBUG", "text")
    logger, own_spool, calls = logging.getLogger("geopipe"), new(tmp_path), []

    def fails(source: str, lines: Sequence[str]) -> int:
        calls.append(1)
        raise OSError("away")

    end_logs, end = logs.record_from_now_on(), emit.subscribe(own_spool.append)
    try:
        with shipper(own_spool, 1, 3600.0) as ships:
            ships.connect(fails)
            emit.emit(Event("a"))
            assert not ships.ship()
            assert not ships.ship()
        assert own_spool.waiting == 1 + len(calls)
    finally:
        end_logs()
        end()
        logger.handlers[:] = []
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


# ---- what dead processes left

LEAVES = """
import sys
from pathlib import Path
from geopipe.events.emit import emit
from geopipe.events.records import Event
from geopipe.monitoring import recorder
from geopipe.monitoring.options import MonitoringOptions
options = MonitoringOptions("r", database=False, batch_size=10, flush_interval=3600.0, spool_bytes=int(sys.argv[2]))
made = recorder.Recorder(options)
for i in range(int(sys.argv[1])):
    emit(Event("x", {"i": i}))
print(made.spool.source, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the processes of run "r" keep their records."""
    monkeypatch.setenv("GEOPIPE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "spool" / "r"


def process_of_the_run(count: int, limit: int = BIG) -> tuple[subprocess.Popen[str], str]:
    process = script(LEAVES, count, limit)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_what_the_dead_left_is_delivered_and_what_the_living_have_is_theirs(run_folder: Path) -> None:
    dead, living = process_of_the_run(25), process_of_the_run(5)
    kill(dead[0])
    sink = Sink()
    assert deliver_folders([run_folder], sink, 10, 30.0) == 1
    assert sink.kept == {dead[1]: list(range(1, 26))}
    assert {path.name.split(".")[0] for path in run_folder.glob("*.jsonl")} == {living[1]}

    assert deliver_folders([run_folder], sink, 10, 30.0, living=True) == 1
    assert sink.kept[living[1]] == [1, 2, 3, 4, 5]
    assert len(numbers(run_folder)) == 5  # the files stay: their process has not heard of it

    kill(living[0])
    sink = Sink()
    assert deliver_folders([run_folder], sink, 10, 30.0) == 1
    assert sink.kept == {living[1]: [1, 2, 3, 4, 5]}
    assert not run_folder.exists()


def test_a_folder_of_a_living_process_without_records_stays(run_folder: Path) -> None:
    process, _ = process_of_the_run(0)
    assert deliver_folders([run_folder], Sink(), 10, 30.0) == 0
    assert run_folder.is_dir()
    kill(process)
    deliver_folders([run_folder], Sink(), 10, 30.0)
    assert not run_folder.exists()


def written(folder: Path, source: str, count: int, limit: int = BIG) -> None:
    """Files of a source as a process would leave them."""
    own_spool = Spool(folder, source, limit, RUN)
    for i in range(count):
        own_spool.append(Event("x", {"i": i}))
    own_spool.sync()
    own_spool.close()


def dead_source(number: int = 1) -> str:
    with subprocess.Popen(["true"]) as process:
        pass
    return f"here-{process.pid}-{number}"


def test_what_is_not_kept_is_counted_and_stays(tmp_path: Path) -> None:
    for n in (1, 2):
        written(tmp_path, dead_source(n), 5)
    counted = []

    def full(source: str, lines: Sequence[str], keep: bool = True) -> int:
        counted.append((source, len(lines), keep))
        return 0

    assert deliver_folders([tmp_path], full, 2, 30.0) == 0
    batches = [(2, True), (2, False), (1, False)]
    assert [(n, keep) for _, n, keep in counted] == batches * 2
    assert len(numbers(tmp_path)) == 10


@pytest.mark.parametrize("database", [False, True])
@pytest.mark.parametrize("passed_on", [False, True])
def test_what_earlier_runs_left_goes_to_a_database_or_nowhere(
    database: bool, passed_on: bool, options: MonitoringOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Sink()
    monkeypatch.setattr(leftovers, "open_archive", lambda o: SimpleNamespace(receive=sink, close=lambda wait=0.0: None))
    earlier = [options.root / f"earlier-{n}" for n in range(2)]
    for n, folder in enumerate(earlier):
        written(folder, dead_source(n), 3)
    written(options.folder, dead_source(2), 2)
    passed = Sink()
    leftovers.deliver_others(replace(options, database=database), 30.0, passed if passed_on else None)
    kept = (passed if passed_on else sink).kept
    assert list(kept.values()) == ([[1, 2, 3]] * 2 if database else [])
    assert [folder.exists() for folder in earlier] == [not database] * 2
    assert numbers(options.folder) == [1, 2], "the records of this run go another way"


def test_who_has_the_id_of_a_dead_process_is_another(tmp_path: Path) -> None:
    """This process lives, and its host and id are in these names; only who holds the lock sends by itself."""
    sources = [f"{source_name()}{n}" for n in range(2)]
    for source in sources:
        written(tmp_path, source, 3)
    (tmp_path / f"{sources[0]}.pid").write_text(json.dumps(presence._identity(tmp_path)))
    sink = Sink()
    assert deliver_folders([tmp_path], sink, 10, 30.0) == 2
    assert sink.kept == {source: [1, 2, 3] for source in sources}
    assert not tmp_path.exists()


def test_who_holds_its_lock_lives_until_it_lets_go(tmp_path: Path) -> None:
    source = dead_source()
    written(tmp_path, source, 3)
    held = Presence(tmp_path, source)
    before, sink = len(os.listdir("/proc/self/fd")), Sink()
    for _ in range(3):
        assert deliver_folders([tmp_path], sink, 10, 30.0) == 0
    assert sink.kept == {}
    assert len(os.listdir("/proc/self/fd")) == before
    assert (tmp_path / f"{source}.pid").stat().st_mode & 0o777 == 0o600
    held.close()
    assert deliver_folders([tmp_path], sink, 10, 30.0) == 1
    assert sink.kept == {source: [1, 2, 3]}
    assert not tmp_path.exists()


HOLDS = """
import sys
from pathlib import Path
from geopipe.monitoring.presence import Presence
mark = Presence(Path(sys.argv[1]), sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_dies_with_its_process_and_not_with_the_name_of_one(tmp_path: Path) -> None:
    source = dead_source()  # as in another container, which has process ids of its own
    written(tmp_path, source, 2)
    process = script(HOLDS, tmp_path, source)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    sink = Sink()
    assert deliver_folders([tmp_path], sink, 10, 30.0) == 0
    assert deliver_folders([tmp_path], sink, 10, 30.0, living=True) == 1
    assert numbers(tmp_path) == [1, 2]
    kill(process)
    assert deliver_folders([tmp_path], sink, 10, 30.0) == 1
    assert sink.kept == {source: [1, 2]}
    assert not tmp_path.exists()


def test_foreign_files_are_no_ones_and_harm_nothing(tmp_path: Path) -> None:
    source = dead_source()
    written(tmp_path, source, 3)
    for name in ("notes.jsonl", "a-b-c.jsonl", "x-1.jsonl", "x.pid", ".jsonl"):
        (tmp_path / name).write_text("{}\n")
    sink = Sink()
    assert deliver_folders([tmp_path], sink, 10, 30.0) == 1
    assert sink.kept == {source: [1, 2, 3]}
    assert (tmp_path / "notes.jsonl").exists()


def test_several_runs_and_folders_that_are_not_there(tmp_path: Path) -> None:
    sources = [dead_source(n) for n in range(3)]
    for n, source in enumerate(sources):
        written(tmp_path / str(n), source, 2 + n)
    sink = Sink()
    assert deliver_folders([tmp_path / "none", *(tmp_path / str(n) for n in range(3))], sink, 2, 30.0) == 3
    assert sink.kept == {source: list(range(1, 3 + n)) for n, source in enumerate(sources)}
    assert list(tmp_path.iterdir()) == []


def test_a_monitor_that_is_away_leaves_all_as_it_was(tmp_path: Path) -> None:
    def away(source: str, lines: Sequence[str]) -> int:
        raise ConnectionError

    written(tmp_path, dead_source(), 20)
    assert deliver_folders([tmp_path], away, 10, 30.0) == 0
    assert numbers(tmp_path) == list(range(1, 21))


def test_it_stops_in_time_and_goes_on_with_the_rest_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has arrived is deleted file by file, so that many short tries come to an end."""
    written(tmp_path, dead_source(), 100, 24_000)
    assert len(list(tmp_path.iterdir())) > 4
    clock, kept, tries = [0.0], set[int](), 0
    monkeypatch.setattr(leftovers, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    while tmp_path.exists():
        tries += 1
        assert tries < 20
        sink = Sink()  # each time a collector that knows nothing of the last

        def slow(source: str, lines: Sequence[str], sink: Sink = sink) -> int:
            clock[0] += 0.06
            return sink(source, lines)

        deliver_folders([tmp_path], slow, 20, 0.1)
        kept |= {seq for seqs in sink.kept.values() for seq in seqs}
    assert tries > 1
    assert kept == set(range(1, 101))


def test_a_file_that_takes_longer_than_each_try_is_delivered_part_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, dead_source(), 100)
    assert len(list(tmp_path.iterdir())) == 1
    clock, sink = [0.0], Sink()
    monkeypatch.setattr(leftovers, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def slow(source: str, lines: Sequence[str]) -> int:
        clock[0] += 1.0
        return sink(source, lines)

    for left in (80, 60, 40, 20):
        deliver_folders([tmp_path], slow, 10, 1.5)
        assert len(numbers(tmp_path)) == left
    deliver_folders([tmp_path], slow, 10, 1.5)
    assert not tmp_path.exists()
    assert list(sink.kept.values()) == [list(range(1, 101))]


def test_who_removes_an_empty_folder_leaves_what_comes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of a run that lives begins to record while another run clears up."""
    folder = tmp_path / "r"
    written(folder, dead_source(), 3)
    looked, come = leftovers.files, list[Presence]()

    def looks(folder: Path, pattern: str) -> list[Path]:
        paths = looked(folder, pattern)
        if pattern == "*":
            come.append(Presence(folder, source_name()))
        return paths

    monkeypatch.setattr(leftovers, "files", looks)
    deliver_folders([folder], Sink(), 10, 30.0)
    (mark,) = folder.iterdir()
    assert presence.is_alive(folder, mark.stem)
    monkeypatch.undo()
    come[0].close()
    deliver_folders([folder], Sink(), 10, 30.0)
    assert not folder.exists()
    Presence(folder, source_name()).close()  # it makes the folder again


def test_corrupt_lines_in_a_file_of_the_dead_do_not_stop_the_others(tmp_path: Path) -> None:
    for n in (1, 2):
        written(tmp_path, dead_source(n), 4)
    for path in tmp_path.iterdir():
        lines = path.read_bytes().splitlines(keepends=True)
        junk = [b'{"seq": 9, "ts": broken}\n', b"\x00\xff\n", b'{"seq": "2"}\n', b"\n", b"[" * 100_000 + b"\n"]
        path.write_bytes(b"".join([junk[0], lines[0], *junk, *lines[1:], *junk, lines[3][:9]]))
    sink = Sink()
    assert deliver_folders([tmp_path], sink, 1, 30.0) == 2
    assert list(sink.kept.values()) == [[1, 2, 3, 4]] * 2


def test_two_who_clear_up_at_once_do_not_trip_over_each_other(tmp_path: Path) -> None:
    for n in range(6):
        written(tmp_path, dead_source(n), 30, 4000)
    kept: set[tuple[str, int]] = set()

    def deliver(source: str, lines: Sequence[str]) -> int:
        document = [json.loads(x)["seq"] for x in lines]
        kept.update((source, seq) for seq in document)
        return int(document[-1])

    expected = {(entry["source"], entry["seq"]) for entry in on_disk(tmp_path)}
    failed: list[BaseException] = []

    def clear() -> None:
        try:
            deliver_folders([tmp_path], deliver, 3, 30.0)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=clear) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert kept == expected


# ---- recording


SETTINGS = """
[run]
name = "small"
output = "out"
[grid]
crs = "EPSG:32632"
resolution = 10
bounds = [500000, 4999800, 500200, 5000000]
[[layers]]
name = "a"
path = "a.tif"
"""


@pytest.fixture
def options(run_folder: Path, tmp_path: Path) -> MonitoringOptions:
    root = run_folder.parent
    return MonitoringOptions("r", 2, tmp_path / "out", database=False, flush_interval=0.05, spool_bytes=BIG, root=root)


def test_a_recorder_is_there_until_it_is_closed(options: MonitoringOptions, run_folder: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    session = recorder.Recorder(options)
    source = session.spool.source
    assert [path.name for path in run_folder.iterdir()] == [f"{source}.pid"]
    assert presence.is_alive(run_folder, source)
    for _ in range(2):
        session.close(0.0)
        assert not presence.is_alive(run_folder, source)
        assert list(run_folder.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before


def states(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    return [(entry["state"], entry["detail"]) for entry in on_disk(folder) if entry["kind"] == "state"]


@pytest.mark.parametrize(
    ("error", "state", "expected"),
    [
        (
            RunError("it broke", "mend it"),
            "failed",
            {"exit_code": 1, "error": {"type": "RunError", "message": "it broke", "hint": "mend it"}},
        ),
        (
            MachineError("no disk"),
            "failed",
            {"exit_code": 3, "error": {"type": "MachineError", "message": "no disk", "hint": ""}},
        ),
        (
            ZeroDivisionError("by 0"),
            "failed",
            {"exit_code": 1, "error": {"type": "ZeroDivisionError", "message": "by 0", "hint": ""}},
        ),
        (KeyboardInterrupt(), "cancelled", {"exit_code": 130}),
        (Terminated(), "cancelled", {"exit_code": 143}),
        (Paused("2 of 3"), "paused", {"exit_code": 75}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_how_a_run_ends_is_its_last_state(error: BaseException, state: str, expected: Any, tmp_path: Path) -> None:
    own_spool = new(tmp_path)
    end = emit.subscribe(own_spool.append)
    with pytest.raises(type(error)) as raised, recorder.stated({"name": "n"}):
        raise error
    end()
    assert raised.value is error
    assert states(tmp_path) == [("running", {"name": "n"}), (state, expected)]


def test_the_error_told_is_ours_behind_those_that_wrap_it(tmp_path: Path) -> None:
    own_spool = new(tmp_path)
    end = emit.subscribe(own_spool.append)
    with pytest.raises(RuntimeError), recorder.stated({}):
        raise RuntimeError("task failed") from MachineError("no disk", "free some")
    end()
    assert states(tmp_path)[-1][1] == {
        "exit_code": 3,
        "error": {"type": "MachineError", "message": "no disk", "hint": "free some"},
    }


def test_a_run_that_is_done_says_so_itself(tmp_path: Path) -> None:
    """`stated` cannot know the exit code: who runs it tells that it is completed."""
    own_spool = new(tmp_path)
    end = emit.subscribe(own_spool.append)
    with recorder.stated({}):
        emit.emit(State("completed", {"exit_code": 4}))
    end()
    assert states(tmp_path) == [("running", {}), ("completed", {"exit_code": 4})]


def test_recording_delivers_everything_at_its_end(
    options: MonitoringOptions, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[dict[str, Any]] = []

    class Observer:
        def record(self, record: Any) -> None:
            got.append(record)

        def pending(self, count: int) -> None: ...

        def close(self, wait: float = 0.0) -> None: ...

    def observed(options: MonitoringOptions, **how: bool) -> Collector:
        counter = open_collector(options, **how)
        counter.observer = Observer()
        return counter

    for module in (recorder, leftovers):
        monkeypatch.setattr(module, "open_collector", observed)
    dead, source = process_of_the_run(3)
    kill(dead)

    def run() -> None:
        with recorder.recording(options), recorder.stated({"name": "n"}):
            logging.getLogger("geopipe.tested").info("at work")
            raise ZeroDivisionError("by 0")

    with pytest.raises(ZeroDivisionError):
        run()
    own = [entry for entry in got if entry["source"] != source]
    assert [entry["seq"] for entry in own] == list(range(1, len(own) + 1))
    assert [entry.get("state") or entry["message"] for entry in own] == ["running", "at work", "by 0", "failed"]
    assert "ZeroDivisionError: by 0" in own[2]["traceback"]
    assert [entry["seq"] for entry in got if entry["source"] == source] == [1, 2, 3]
    assert not run_folder.exists()
    assert emit._sinks == []
    assert not any(isinstance(h, logs._Emitter) for h in logging.getLogger("geopipe").handlers)


def test_a_run_whose_records_have_nowhere_to_lie_runs_all_the_same(
    options: MonitoringOptions, run_folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("geopipe"), "propagate", True)
    run_folder.parent.mkdir(parents=True)
    run_folder.write_text("a file in its place")
    with recorder.recording(options) as session, recorder.stated({}):
        assert session is None
        emit.emit(Event("x"))
    assert [r.message for r in caplog.records if "not recorded" in r.message] == [caplog.records[-1].message]
    assert len(caplog.records) == 1


@pytest.mark.slow
def test_a_folder_that_vanishes_does_not_hide_how_the_run_ended(options: MonitoringOptions, run_folder: Path) -> None:
    def run() -> None:
        with recorder.recording(options):
            emit.emit(Event("x"))
            shutil.rmtree(run_folder)
            run_folder.write_text("a file in its place")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert emit._sinks == []


def test_records_that_wait_are_told_of_with_their_folder(
    options: MonitoringOptions,
    run_folder: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Away:
        def write(self, batch: Sequence[Any]) -> None:
            raise TimeoutError

        def close(self) -> None: ...

    monkeypatch.setattr(logging.getLogger("geopipe"), "propagate", True)
    monkeypatch.setattr(recorder, "open_collector", lambda o, **_: Collector(o.folder / "counted.json", Away()))
    with recorder.recording(replace(options, database=True)):
        emit.emit(Event("x"))
    assert f"records of the run wait in {run_folder}: TimeoutError" in caplog.messages
    assert numbers(run_folder) == [1]


@pytest.mark.slow
def test_a_run_does_not_wait_for_a_monitor_that_hangs(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def hangs(self: Collector, source: str, lines: Sequence[str]) -> int:
        go.wait(2 * PATIENCE)
        return 0

    monkeypatch.setattr(Collector, "receive", hangs)
    small = np.ones((20, 20), np.float32)
    write_raster(tmp_path / "a.tif", small, "EPSG:32632", north_up(500_000, 5_000_000, 10))
    (tmp_path / "s.toml").write_text(SETTINGS)
    start = time.monotonic()
    try:
        summary = pipeline.run(config.load(tmp_path / "s.toml", ("engine.kind=local",)))
        assert time.monotonic() - start < PATIENCE
    finally:
        go.set()
        until(lambda: not any(thread.name == "geopipe-shipper" for thread in threading.enumerate()))
    assert summary.rows == 400
    assert not (run_folder.parent / summary.run_id).exists(), "no database would ever have it"


# ---- where there is no home


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder among temporary files that is used where there is no home."""
    (tmp_path / "home").write_text("a file in its place")
    monkeypatch.setenv("GEOPIPE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"geopipe-{os.geteuid()}"


def without_home(in_tmp: Path) -> MonitoringOptions:
    assert spool_root() == in_tmp / "spool"
    return MonitoringOptions("r", 1, in_tmp / "out", database=False, flush_interval=0.05, spool_bytes=BIG)


@pytest.mark.parametrize("before", [None, 0o755, 0o777])
def test_without_a_home_records_lie_where_only_their_user_goes(before: int | None, in_tmp: Path) -> None:
    if before is not None:  # of an older version
        (in_tmp / "spool").mkdir(parents=True)
        for folder in (in_tmp, in_tmp / "spool"):
            folder.chmod(before)
    old = os.umask(0)
    try:
        with recorder.recording(without_home(in_tmp)) as session:
            assert session is not None
            assert [stat.S_IMODE(path.stat().st_mode) for path in (in_tmp, in_tmp / "spool")] == [0o700, 0o700]
            emit.emit(Event("x"))
            assert [entry["name"] for entry in on_disk(in_tmp / "spool" / "r") if entry["kind"] == "event"] == ["x"]
    finally:
        os.umask(old)


@pytest.mark.parametrize("what", ["folder", "folder in it", "link", "link to nothing"])
def test_a_folder_of_somebody_else_gets_no_records_and_the_run_goes_on(
    what: str, in_tmp: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("geopipe"), "propagate", True)
    options, theirs = without_home(in_tmp), in_tmp / "spool" if what == "folder in it" else in_tmp
    aim, lstat = tmp_path / "elsewhere", Path.lstat
    if what == "link":
        aim.mkdir()
        (aim / "spool").mkdir()
    if what.startswith("link"):
        theirs.symlink_to(aim)
    else:
        (in_tmp / "spool").mkdir(parents=True)

    def of_somebody(self: Path) -> Any:
        result = list(lstat(self))
        if self == theirs:
            result[stat.ST_UID] += 1
        return os.stat_result(result)

    monkeypatch.setattr(Path, "lstat", of_somebody)
    write_raster(tmp_path / "a.tif", np.ones((20, 20), np.float32), "EPSG:32632", north_up(500_000, 5_000_000, 10))
    (tmp_path / "s.toml").write_text(SETTINGS)
    before = sorted(tmp_path.rglob("geopipe-*/**/*")) + sorted(aim.rglob("*"))
    with recorder.recording(options) as session:
        assert session is None
    WorkerSession(options, Sink()).close()
    assert emit._sinks == []
    assert len(caplog.messages) == 1
    caplog.clear()
    summary = pipeline.run(config.load(tmp_path / "s.toml", ("engine.kind=local",)))
    assert summary.rows == 400
    warned = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert [text.startswith("the run is not recorded: ") for text in warned] == [True]
    if what != "link to nothing":
        assert f"{theirs} belongs to user {os.geteuid() + 1}; set GEOPIPE_HOME" in warned[0]
    assert sorted(tmp_path.rglob("geopipe-*/**/*")) + sorted(aim.rglob("*")) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_cancelled_run_and_flushed_records(number: signal.Signals, run_folder: Path) -> None:
    code = """
import signal, sys, time
from pathlib import Path
from geopipe.monitoring import recorder
from geopipe.monitoring.options import MonitoringOptions
from geopipe.errors import Terminated
from geopipe.monitoring.collector import Collector, open_collector
def stop(*_):
    raise Terminated
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, signal.default_int_handler)
class Store:
    def write(self, batch):
        for told in batch:
            print(told["kind"], told.get("state"), told.get("detail", {}).get("exit_code"), flush=True)
    def close(self):
        pass
recorder.open_collector = lambda o, **_: Collector(o.folder / "counted.json", Store())
options = MonitoringOptions("r", database=False, flush_interval=3600.0)
with recorder.recording(options):
    with recorder.stated({}):
        print("ready", flush=True)
        time.sleep(1000)
"""
    process = script(code, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=PATIENCE)
    code_of = {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert out.splitlines() == ["state running None", f"state cancelled {code_of}"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Terminated])
def test_a_signal_inside_compiled_code_is_still_one(kind: type[BaseException]) -> None:
    """Numba and other C code make a SystemError of what a signal handler raises inside of them."""
    error = SystemError("returned a result with an exception set")
    error.__cause__ = arrived = kind()
    assert attempts.own_error(error) is arrived
    assert isinstance(attempts.own_error(SystemError("without one")), RunError)
