"""Records on their way: on this process's disk until they have arrived, and shipped in batches by a thread of its own.

`append` is a write to the page cache, so that a record outlives a kill -9 of its process; the thread brings it to the
disk itself, ships it, and forgets it when it has arrived. Delivery is at least once: who receives tells records apart
by source and sequence number. What a dead process left is shipped by another one of its node (`left_behind`).
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import math
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
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

DROPPED = "records_dropped"
"""The event that tells how many records are missing that no earlier one has told of."""

SEGMENTS = 8
"""Files that a full spool consists of: what has arrived is forgotten by files, and what must go is taken from one."""

PRESENT = ".pid"
"""Ending of the file that says that a process is there to send its records by itself."""

SOON = 1.0
"""Seconds after which is sent what people watch for."""

GIVEN_UP_FIRST = ("DEBUG", "INFO", "metric", "WARNING", "")
"""What a full disk costs, in this order: levels of logs and kinds of records, in the end everything."""


def source_name() -> str:
    """The name of this process among all that report."""
    return f"{_host()}-{os.getpid()}-{time.time_ns()}"


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())


@dataclass
class _Segment:
    """A file of a spool: the numbers of its records, its bytes, and how many of its records have not arrived."""

    path: Path
    first: int
    last: int
    size: int
    waiting: int


class Spool:
    """The records of this process that have not arrived; safe to use from several threads.

    On disk are `limit` bytes at most, but for one record and the event that tells of a loss.

    Args:
        folder: of the run; files in it are named source.first-sequence-number.jsonl.
        limit: bytes; beyond it GIVEN_UP_FIRST is given up, counted, and told of as an event.
        run: run_id and attempt, which threads do not find in their context.
    """

    def __init__(self, folder: Path, source: str, limit: int, run: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.source, self.limit, self.run = folder, source, limit, run
        self.urgent = False  # there is something that people watch for
        self.dropped = 0
        self._untold = 0  # of the dropped, those of which no event tells
        self._seq = self._arrived = 0
        self._given: list[Line] = []  # by `unsent`, and not arrived
        self._next: tuple[Path, int] | None = None  # where the first line lies that has not arrived
        self._segments: list[_Segment] = []
        self._file = -1
        self._full: list[int] = []  # files that are complete, and not yet on the disk itself
        self._lock = threading.RLock()

    @property
    def waiting(self) -> int:
        """How many records have not arrived."""
        with self._lock:
            return sum(s.waiting for s in self._segments)

    def append(self, body: Body) -> None:
        """Keep a record; a sink for `events.subscribe`.

        Raises:
            OSError: the disk does not take it; it is counted as dropped.
        """
        with self._lock:
            self._put(body)
            if self._size() > self.limit:
                self._give_up()
            if count := self._untold:
                self._put(Event(DROPPED, {"count": count, "total": self.dropped}))
                self._untold -= count

    def _put(self, body: Body) -> None:
        envelope = {"ts": time.time(), "worker": os.getpid(), "node": socket.gethostname(), "source": self.source}
        self._seq += 1
        try:
            where = {**events.current(), **self.run}
            data = records.line(body, {"seq": self._seq, **envelope}, where).encode()
            segment = self._segments[-1] if self._segments else None
            if segment is None or segment.size >= self.limit // SEGMENTS:
                segment = self._begin()
            if os.write(self._file, data) < len(data):
                os.ftruncate(self._file, segment.size)  # half a line would spoil the next one
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(segment.path))
        except BaseException:
            self.dropped, self._untold = self.dropped + 1, self._untold + 1
            raise
        segment.last, segment.size, segment.waiting = self._seq, segment.size + len(data), segment.waiting + 1
        self.urgent |= not isinstance(body, Log | Metric)

    def _begin(self) -> _Segment:
        path = self.folder / f"{self.source}.{self._seq:012d}.jsonl"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        if self._file >= 0:
            self._full.append(self._file)
        self._file = file
        self._segments.append(_Segment(path, self._seq, self._seq, 0, 0))
        return self._segments[-1]

    def _size(self) -> int:
        return sum(s.size for s in self._segments)

    def _give_up(self) -> None:
        """Make room for a segment: of what is worth least, the oldest first. What has arrived costs nothing."""
        enough = self.limit - self.limit // SEGMENTS
        if len(self._segments) > 1 and self._segments[0].first <= self._arrived:
            self._thin(self._segments[0], None)
        for kind in GIVEN_UP_FIRST:
            for segment in self._segments[:-1]:
                if self._size() <= enough:
                    return
                self._thin(segment, kind)

    def _thin(self, segment: _Segment, kind: str | None) -> None:
        """Take the records of one of GIVEN_UP_FIRST out of a file, and those that have arrived."""
        data = segment.path.read_bytes()
        if kind and b'"%s"' % kind.encode() not in data:
            return
        kept, gone, told = [], 0, 0
        for text in data.splitlines(keepends=True):
            seq = SEQ.match(text)
            if seq and int(seq[1]) <= self._arrived:
                continue
            if kind is not None and _is(text, kind):
                gone, told = gone + 1, told + _told_of(text)
            else:
                kept.append(text)
        if kept:
            _replace(segment.path, b"".join(kept))
        else:
            segment.path.unlink(missing_ok=True)
            self._segments.remove(segment)
        segment.size, segment.waiting = sum(map(len, kept)), len(kept)
        self.dropped, self._untold = self.dropped + gone, self._untold + gone + told
        self._next, self._given = None, [x for x in self._given if x.path != segment.path]

    def sync(self) -> None:
        """Bring what was appended to the disk itself."""
        with self._lock:
            files, self._full = self._full, []
            if self._file >= 0:
                files.append(os.dup(self._file))
        with ExitStack() as closing:
            for file in files:
                closing.callback(os.close, file)
            for file in files:  # without the lock: a slow disk must not hold up those who append
                os.fsync(file)

    def unsent(self, most: int) -> list[Line]:
        """The first lines that have not arrived."""
        with self._lock:
            paths = [s.path for s in self._segments if s.last > self._arrived]
            offset = self._next[1] if self._next and paths and self._next[0] == paths[0] else 0
            self._given = list(islice((x for x in _lines(paths, offset) if x.seq > self._arrived), most))
            return list(self._given)

    def arrived(self, seq: int) -> None:
        """Forget what has arrived, up to a sequence number."""
        with self._lock:
            self._arrived = max(self._arrived, min(seq, self._seq))
            waiting = {s.path: s for s in self._segments}
            for line in self._given:
                if line.seq <= self._arrived:
                    waiting[line.path].waiting -= 1
                    self._next = line.path, line.end
            self._given = [line for line in self._given if line.seq > self._arrived]
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
    """The whole records in the files of one source, of the first from an offset in bytes on.

    What is no record is left out, because it could never arrive; a file that is gone was delivered by another process.
    """
    for path in paths:
        end, offset = offset, 0
        with suppress(FileNotFoundError), open(path, "rb") as file:
            file.seek(end)
            for data in file:
                end += len(data)
                text = data.decode(errors="replace")
                with suppress(ValueError):
                    if data.endswith(b"\n"):
                        yield Line(records.parse(text)["seq"], text, path, end)


def _is(text: bytes, kind: str) -> bool:
    """Whether a line is what one of GIVEN_UP_FIRST means."""
    if not kind:
        return True
    if b'"%s"' % kind.encode() not in text:
        return False
    try:
        told = json.loads(text)
    except ValueError:
        return True
    return bool(kind == told.get("level" if told.get("kind") == Log.kind else "kind"))


def _told_of(text: bytes) -> int:
    """How many records a line tells the loss of."""
    if b'"%s"' % DROPPED.encode() not in text:
        return 0
    try:
        told = json.loads(text)
    except ValueError:
        return 0
    return int(told["detail"]["count"]) if told.get("kind") == Event.kind and told.get("name") == DROPPED else 0


def _replace(path: Path, data: bytes) -> None:
    """Write a file anew, so that a kill in between leaves the old one."""
    beside = path.with_suffix(".tmp")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    os.replace(beside, path)


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
        self.spool, self.batch_size, self.interval, self.every = spool, batch_size, interval, list(every)
        self.deliver: Deliver | None = None
        self._ended, self._until, self._failed, self._sent = threading.Event(), math.inf, False, False
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="geopipe-shipper", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(min(0.2, self.interval)):
            waited = time.monotonic() - last
            soon = self.spool.waiting >= self.batch_size or (self.spool.urgent and waited >= SOON)
            if waited >= self.interval or (soon and not self._failed):
                last = time.monotonic()
                self.ship()
            self._call()
        while not (sent := self.ship()) and self.deliver is not None and time.monotonic() < self._until:
            time.sleep(0.05)
        self._sent = sent

    def _call(self) -> None:
        for call in self.every:
            with self._turn, suppress(Exception):
                # while one of them waited for its database, the run may have ended
                if call in self.every and not self._ended.is_set():
                    call()

    def disconnect(self, seconds: float) -> bool:
        """Deliver no more; waits for so long for what is under way to end, and returns whether nothing is."""
        self.deliver = None
        ended = self._turn.acquire(timeout=seconds)
        if ended:
            self._turn.release()
        return ended

    def ship(self, seconds: float | None = None) -> bool:
        """Send what waits; returns whether all of it has arrived.

        Args:
            seconds: to wait for that at most; what takes longer goes on in a thread.
        """
        if seconds is not None:
            sent: list[bool] = []
            thread = threading.Thread(target=lambda: sent.append(self.ship()), name="geopipe-shipper", daemon=True)
            thread.start()
            thread.join(timeout=seconds)
            return sent == [True]
        with self._turn:
            try:
                self._failed = not self._ship()
            except Exception as error:  # a disk that does not read, or an answer that is no number
                log.debug("records wait: %s", error)
                self._failed = True
            return not self._failed

    def _ship(self) -> bool:
        self.spool.sync()
        if self.deliver is None:
            return False
        self.spool.urgent = False
        while lines := self.spool.unsent(self.batch_size):
            deliver = self.deliver
            if deliver is None or time.monotonic() >= self._until:
                return False
            seq = _deliver(deliver, self.spool.source, lines)
            self.spool.arrived(seq)
            if seq < lines[-1].seq:
                return False
        return True

    def close(self, seconds: float) -> bool:
        """End the thread, which tries for so long to send what waits; returns whether all of it has arrived."""
        self._until = time.monotonic() + seconds
        self._ended.set()
        self._thread.join(timeout=seconds)
        return self._sent


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
        for path in _files(folder, "*.jsonl"):
            if source := source_of(path):
                sources.setdefault(source, []).append(path)
        for source, paths in sources.items():
            lives = _lives(folder, source)
            if lives and not living:
                continue
            if not _deliver_all(source, paths, deliver, batch_size, end, keep=lives):
                return done
            done += 1
        known = filter(None, map(source_of, _files(folder, f"*{PRESENT}")))
        if not any(_lives(folder, source) for source in known) and not _files(folder, "*.jsonl"):
            shutil.rmtree(folder, ignore_errors=True)
    return done


def _files(folder: Path, pattern: str) -> list[Path]:
    """The files in a folder by name; none where another process has cleared it away."""
    try:
        return sorted(folder.glob(pattern))
    except FileNotFoundError:
        return []


def _deliver_all(source: str, paths: Sequence[Path], deliver: Deliver, most: int, end: float, keep: bool) -> bool:
    """Deliver files of a source until `end`, each of which is deleted when it has arrived unless it is to be kept."""
    lines, left = _lines(paths), [] if keep else list(paths)
    while batch := list(islice(lines, most)):
        if time.monotonic() > end or _deliver(deliver, source, batch) < batch[-1].seq:
            return False
        while left and left[0] != batch[-1].path:
            left.pop(0).unlink(missing_ok=True)
    for path in left:
        path.unlink(missing_ok=True)
    return True


def source_of(path: Path) -> str | None:
    """The source that a file belongs to by its name; None of a file that is none of ours."""
    name = path.name.split(".")[0]
    return name if re.fullmatch(r"\w+-\d+-\d+", name) else None


def process(source: str) -> int | None:
    """The process id of a source of this node."""
    host, pid, _ = source.rsplit("-", 2)
    return int(pid) if host == _host() else None


def present(folder: Path, source: str) -> int:
    """Say that a process is there to send its records by itself, as long as the descriptor that is returned is open."""
    held = os.open(folder / f"{source}{PRESENT}", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    return held


def _lives(folder: Path, source: str) -> bool:
    """Whether a process still reports under this name; one of another node, whose disk this is too, may do so."""
    if process(source) is None:
        return True
    try:
        file = os.open(folder / f"{source}{PRESENT}", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False
