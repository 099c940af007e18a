"""Records on the disk of the process that made them, until they have arrived (`shipping`).

`append` is a write to the page cache, so that a record outlives a kill -9 of its process; a thread brings it to the
disk itself, ships it, and forgets it when it has arrived. Files are named after their source, which is a process.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Any, cast

from geopipe.events import records
from geopipe.events.emit import current
from geopipe.events.records import Body, Event, Log, Metric
from geopipe.monitoring.home import write_private

log = logging.getLogger(__name__)

SEQ = re.compile(rb'\{"seq": (\d+), ')

DROPPED = "records_dropped"
"""The event that tells how many records are missing that no earlier one has told of."""

SEGMENTS = 8
"""Files that a full spool consists of: what has arrived is forgotten by files, and what must go is taken from one."""

PRESENT = ".pid"
"""Ending of the file that says that a process is there to send its records by itself."""

QUIET = 600.0
"""Seconds after which a process of another host that wrote nothing may be taken for dead."""

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
        self._told = 0  # so far all is counted at least
        self._behind: tuple[Path, int] | None = None  # where that ends
        self._segments: list[_Segment] = []
        self._file: FileIO | None = None
        self._full: list[FileIO] = []  # files that are complete, and not yet on the disk itself
        self._lock = threading.RLock()

    @property
    def waiting(self) -> int:
        """How many records have not arrived."""
        with self._lock:
            return sum(s.waiting for s in self._segments)

    @property
    def reached(self) -> bool:
        """Whether any record has arrived."""
        return self._arrived > 0

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
            where = {**current(), **self.run}
            data = records.line(body, {"seq": self._seq, **envelope}, where).encode()
            segment = self._segments[-1] if self._segments else None
            if segment is None or segment.size >= self.limit // SEGMENTS:
                segment = self._begin()
            file = cast(FileIO, self._file).fileno()
            if os.write(file, data) < len(data):
                os.ftruncate(file, segment.size)  # half a line would spoil the next one
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(segment.path))
        except BaseException:
            self.dropped, self._untold = self.dropped + 1, self._untold + 1
            raise
        segment.last, segment.size, segment.waiting = self._seq, segment.size + len(data), segment.waiting + 1
        self.urgent |= not isinstance(body, Log | Metric)

    def _begin(self) -> _Segment:
        path = self.folder / f"{self.source}.{self._seq:012d}.jsonl"
        file = FileIO(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")
        if self._file is not None:
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
            write_private(segment.path, b"".join(kept), sync=False)
        else:
            segment.path.unlink(missing_ok=True)
            self._segments.remove(segment)
        segment.size, segment.waiting = sum(map(len, kept)), len(kept)
        self.dropped, self._untold = self.dropped + gone, self._untold + gone + told
        self._next, self._behind, self._given = None, None, [x for x in self._given if x.path != segment.path]

    def sync(self) -> None:
        """Bring what was appended to the disk itself."""
        with self._lock:
            full, self._full = self._full, []
            if self._file is not None:
                full.append(FileIO(os.dup(self._file.fileno()), "ab"))
        with ExitStack() as closing:
            for file in full:
                closing.enter_context(file)
            for file in full:  # without the lock: a slow disk must not hold up those who append
                os.fsync(file)

    def close(self) -> None:
        """Let go of the files; what waits in them is there for others."""
        with self._lock:
            for file in (*self._full, self._file):
                if file is not None:
                    file.close()
            self._file, self._full = None, []

    def unsent(self, most: int) -> list[Line]:
        """The first lines that have not arrived."""
        with self._lock:
            self._given = self._after(self._arrived, self._next, most)
            return list(self._given)

    def uncounted(self, most: int) -> list[Line]:
        """The first lines behind all that have arrived or were `counted`."""
        with self._lock:
            return self._after(max(self._told, self._arrived), self._behind, most)

    def counted(self, last: Line) -> None:
        """All lines up to this one have been counted, if not kept."""
        with self._lock:
            if last.seq > self._told:
                self._told, self._behind = last.seq, (last.path, last.end)

    def _after(self, seq: int, place: tuple[Path, int] | None, most: int) -> list[Line]:
        """The first lines behind a number; `place` is a file, and an offset in it that lies before them."""
        paths = [s.path for s in self._segments if s.last > seq]
        offset = place[1] if place and paths and place[0] == paths[0] else 0
        return list(islice((x for x in lines_of(paths, offset) if x.seq > seq), most))

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
                    cast(FileIO, self._file).close()
                    self._file = None
                self._segments.pop(0).path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Line:
    """A record in a file: its text, and where the next one begins."""

    seq: int
    text: str
    path: Path
    end: int


def lines_of(paths: Iterable[Path], offset: int = 0) -> Iterator[Line]:
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


def is_alive(folder: Path, source: str) -> bool:
    """Whether a process still reports under this name: it holds a lock.

    One of another host, whose disk this is too, may hold it where this one does not see it; so it must have been quiet,
    too. Where each container has a name of its own, the dead are of other hosts.
    """
    if process(source) is None:
        try:
            last = max((p.stat().st_mtime for p in files(folder, f"{source}.*")), default=0.0)
        except FileNotFoundError:
            return True  # somebody is at work on it just now
        if time.time() - last < QUIET:
            return True
    try:
        file = os.open(folder / f"{source}{PRESENT}", os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


def living(folder: Path) -> list[str]:
    """The sources in a folder whose processes report there; this process is not one of them."""
    known = [source for path in files(folder, f"*{PRESENT}") if (source := source_of(path))]
    return [source for source in known if process(source) != os.getpid() and is_alive(folder, source)]


def files(folder: Path, pattern: str) -> list[Path]:
    """The files in a folder by name; none where another process has cleared it away."""
    try:
        return sorted(folder.glob(pattern))
    except FileNotFoundError:
        return []
