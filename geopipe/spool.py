"""Records on their way: on this process's disk until they have arrived, and shipped in batches by a thread of its own.

`append` is a write to the page cache, so that a record outlives a kill -9 of its process; the thread brings it to the
disk itself, ships it, and forgets it when it has arrived. Delivery is at least once: who receives tells records apart
by source and sequence number. What a dead process left is shipped by another one of its node (`left_behind`).
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from geopipe import events, records
from geopipe.records import Body, Event, Log, Metric

log = logging.getLogger(__name__)

Deliver = Callable[[str, Sequence[str]], int]
"""Takes a source and lines of its records in their order; returns the sequence number up to which all have arrived."""

SEQ = re.compile(rb'\{"seq": (\d+), ')

SEGMENTS = 8
"""Files that a full spool consists of: what has arrived is forgotten by files, and what must go is taken from one."""

PRESENT = ".pid"
"""Ending of the file that says that a process is there to send its records by itself."""

SOON = 1.0
"""Seconds after which is sent what people watch for."""

GIVEN_UP_FIRST = ('"level": "DEBUG"', '"level": "INFO"', '"kind": "metric"', '"level": "WARNING"', "")
"""What a full disk costs, in this order. Quotes inside of texts are escaped, so that no message looks like these."""


def source_name() -> str:
    """The name of this process among all that report."""
    return f"{_host()}-{os.getpid()}-{time.time_ns()}"


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())


@dataclass
class _Segment:
    path: Path
    first: int
    last: int
    size: int


class Spool:
    """The records of this process that have not arrived; safe to use from several threads.

    Args:
        folder: of the run; files in it are named source.first-sequence-number.jsonl.
        limit: bytes on disk at most; beyond it GIVEN_UP_FIRST is given up, counted, and told of as an event.
        run: run_id and attempt, which threads do not find in their context.
    """

    def __init__(self, folder: Path, source: str, limit: int, run: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.source, self.limit, self.run = folder, source, limit, run
        self.urgent = False  # there is something that people watch for
        self.dropped = 0
        self.waiting = 0
        self._seq = self._arrived = 0
        self._read: Line | None = None  # the last one that `unsent` gave
        self._next: tuple[Path, int] | None = None  # where the first line lies that has not arrived
        self._segments: list[_Segment] = []
        self._file = -1
        self._lock = threading.RLock()

    def append(self, body: Body) -> None:
        """Keep a record; a sink for `events.subscribe`."""
        envelope = {"ts": time.time(), "worker": os.getpid(), "node": socket.gethostname(), "source": self.source}
        where = {**events.current(), **self.run}
        with self._lock:
            self._seq += 1
            data = records.line(body, {"seq": self._seq, **envelope}, where).encode()
            segment = self._segments[-1] if self._segments else None
            if segment is None or segment.size >= self.limit // SEGMENTS:
                segment = self._begin()
            os.write(self._file, data)
            segment.last, segment.size = self._seq, segment.size + len(data)
            self.waiting += 1
            self.urgent |= not isinstance(body, Log | Metric)
            full = sum(s.size for s in self._segments) > self.limit
        if full:
            self._give_up()

    def _begin(self) -> _Segment:
        self.sync()
        if self._file >= 0:
            os.close(self._file)
        path = self.folder / f"{self.source}.{self._seq:012d}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._segments.append(_Segment(path, self._seq, self._seq, 0))
        return self._segments[-1]

    def _give_up(self) -> None:
        """Make room in the oldest file that has something of the least worth."""
        with self._lock:
            for mark in GIVEN_UP_FIRST:
                for segment in self._segments[:-1]:
                    lines = segment.path.read_text(encoding="utf-8").splitlines(keepends=True)
                    kept = [text for text in lines if mark not in text]
                    if len(kept) < len(lines):
                        segment.path.write_text("".join(kept), encoding="utf-8")
                        segment.size, self._next = segment.path.stat().st_size, None
                        gone = len(lines) - len(kept)
                        self.dropped, self.waiting = self.dropped + gone, self.waiting - gone
                        self.append(Event("records_dropped", {"count": gone, "total": self.dropped, "like": mark}))
                        return

    def sync(self) -> None:
        """Bring what was appended to the disk itself."""
        with self._lock:
            copy = os.dup(self._file) if self._file >= 0 else -1
        if copy >= 0:  # without the lock: a slow disk must not hold up those who append
            try:
                os.fsync(copy)
            finally:
                os.close(copy)

    def unsent(self, most: int) -> list[Line]:
        """The first lines that have not arrived."""
        with self._lock:
            paths = [s.path for s in self._segments if s.last > self._arrived]
            offset = self._next[1] if self._next and paths and self._next[0] == paths[0] else 0
            found = list(islice((x for x in _lines(paths, offset) if x.seq > self._arrived), most))
            self._read = found[-1] if found else None
            return found

    def arrived(self, seq: int) -> None:
        """Forget what has arrived, up to a sequence number."""
        with self._lock:
            self._arrived = max(self._arrived, min(seq, self._seq))
            self.waiting = max(0, self._seq - self._arrived)
            if self._read and self._read.seq == seq:
                self._next = self._read.path, self._read.end
            while self._segments and self._segments[0].last <= self._arrived:
                if len(self._segments) == 1:
                    os.close(self._file)
                    self._file = -1
                self._segments.pop(0).path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Line:
    """A record in a file: its text, and where the next one begins."""

    seq: int
    text: str
    path: Path
    end: int


def _lines(paths: Iterable[Path], offset: int = 0) -> Iterator[Line]:
    """The whole lines in the files of one source, of the first from an offset in bytes on."""
    for path in paths:
        with open(path, "rb") as file:
            file.seek(offset)
            end, offset = offset, 0
            for data in file:
                end += len(data)
                seq = SEQ.match(data)
                if seq and data.endswith(b"}\n"):
                    yield Line(int(seq[1]), data.decode(errors="replace"), path, end)


class Shipper:
    """Delivers what is in a spool, from a thread of its own, in batches; what does not arrive is sent again later.

    Args:
        batch_size: records in a batch; as soon as so many wait they are sent.
        interval: seconds after which they are sent in any case; progress, events and states after SOON.
        every: called in the thread at each turn.
    """

    def __init__(
        self, spool: Spool, batch_size: int, interval: float, every: Sequence[Callable[[], None]] = ()
    ) -> None:
        self.spool, self.batch_size, self.interval, self.every = spool, batch_size, interval, every
        self.deliver: Deliver | None = None
        self._ended, self._failures = threading.Event(), 0
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="geopipe-shipper", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(min(0.2, self.interval)):
            waited = time.monotonic() - last
            soon = self.spool.waiting >= self.batch_size or (self.spool.urgent and waited >= SOON)
            if waited >= self.interval or (soon and not self._failures):
                last = time.monotonic()
                self.ship()
            for call in self.every:
                with suppress(Exception):
                    call()

    def ship(self) -> bool:
        """Send what waits; returns whether all of it has arrived."""
        with self._turn:
            self.spool.sync()
            if self.deliver is None:
                return False
            self.spool.urgent = False
            while lines := self.spool.unsent(self.batch_size):
                seq = _deliver(self.deliver, self.spool.source, lines)
                self.spool.arrived(seq)
                if seq < lines[-1].seq:
                    self._failures += 1
                    return False
            self._failures = 0
            return True

    def close(self, seconds: float) -> bool:
        """End the thread, and try for so long to send what waits; returns whether all of it has arrived."""
        end = time.monotonic() + seconds
        self._ended.set()
        self._thread.join(timeout=seconds)
        while not self.ship():
            if self.deliver is None or time.monotonic() >= end:
                return False
            time.sleep(0.1)
        return True


def _deliver(deliver: Deliver, source: str, lines: Sequence[Line]) -> int:
    """Deliver, or arrive nowhere: whatever a monitor that is dead or away raises, the records stay where they are."""
    try:
        return deliver(source, [x.text for x in lines])
    except Exception as error:  # Ray, the network and Postgres have no error in common
        log.debug("records wait: %s", error)
        return 0


def left_behind(
    folders: Iterable[Path], deliver: Deliver, batch_size: int, seconds: float, living: bool = False
) -> int:
    """Deliver what processes of this node have left that are no more; returns how many of them have nothing left.

    Args:
        folders: one of each run.
        seconds: to spend on it at most.
        living: deliver also what living processes have not sent yet; they will send it again.
    """
    end, done = time.monotonic() + seconds, 0
    for folder in folders:
        sources: dict[str, list[Path]] = {}
        for path in sorted(folder.glob("*.jsonl")):
            sources.setdefault(path.name.split(".")[0], []).append(path)
        for source, paths in sources.items():
            lives = _lives(folder, source)
            if lives and not living:
                continue
            lines = _lines(paths)
            while batch := list(islice(lines, batch_size)):
                if time.monotonic() > end or _deliver(deliver, source, batch) < batch[-1].seq:
                    return done
            if not lives:
                for path in paths:
                    path.unlink(missing_ok=True)
            done += 1
        present = [p.name.split(".")[0] for p in folder.glob(f"*{PRESENT}")]
        if not any(_lives(folder, source) for source in present) and not any(folder.glob("*.jsonl")):
            shutil.rmtree(folder, ignore_errors=True)
    return done


def _lives(folder: Path, source: str) -> bool:
    """Whether a process still reports under this name; one of another node, whose disk this is too, may do so."""
    host, pid, _ = source.rsplit("-", 2)
    present = (folder / f"{source}{PRESENT}").exists()
    return host != _host() or (present and (os.path.exists(f"/proc/{pid}") or _signalled(int(pid))))


def _signalled(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True
