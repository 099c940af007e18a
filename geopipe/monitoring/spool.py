"""The spool of a process: its records on disk, until they have arrived at the collector (`shipping`).

`append` is one write to the page cache, so that a record outlives a kill -9 of its process. A thread syncs the files,
ships the records and deletes what has arrived. Files are named after their source, which is a process.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
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
"""The event with the number of records that were lost since the last such event."""

SEGMENTS = 8
"""Files of a full spool: arrived records are deleted file by file, and records are given up within one."""

GIVEN_UP_FIRST = ("DEBUG", "INFO", "metric", "WARNING", "")
"""Levels of logs and kinds of records that a full spool gives up, in this order; in the end any record."""


def source_name() -> str:
    """The name of this process among all processes of a run."""
    host = re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())
    return f"{host}-{os.getpid()}-{time.time_ns()}"


@dataclass
class _Segment:
    """A file of a spool: its first and last sequence number, its bytes, and its records that have not arrived."""

    path: Path
    first: int
    last: int
    size: int
    waiting: int


class Spool:
    """The records of this process that have not arrived; safe to use from several threads.

    Args:
        folder: of the run; files are named source.first-sequence-number.jsonl.
        limit: bytes on disk, exceeded by one record and an event at most; a full spool gives up records in the order of
            GIVEN_UP_FIRST, and reports their number as an event.
        run: run_id and attempt, which threads do not have in their context.
    """

    def __init__(self, folder: Path, source: str, limit: int, run: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.source, self.limit, self.run = folder, source, limit, run
        self.urgent = False  # whether a record waits that people watch for
        self.dropped = 0
        self._unreported = 0  # dropped records that no event reports yet
        self.reached = False  # whether any record has arrived
        self._seq = self._arrived = 0
        self._sent: list[Line] = []  # returned by `unsent`, and not arrived
        self._last = self._counted = START  # the last lines that have arrived, and that are at least counted
        self._segments: list[_Segment] = []
        self._file: FileIO | None = None
        self._full: list[FileIO] = []  # complete files that are not synced yet
        self._lock = threading.RLock()

    @property
    def waiting(self) -> int:
        """Number of records that have not arrived."""
        with self._lock:
            return sum(s.waiting for s in self._segments)

    def append(self, body: Body) -> None:
        """Write a record; a sink for `emit.subscribe`.

        Raises:
            OSError: the disk does not take the record, which is counted as dropped.
        """
        with self._lock:
            self._put(body)
            if self._size() > self.limit:
                self._give_up()
            if count := self._unreported:
                self._put(Event(DROPPED, {"count": count, "total": self.dropped}))
                self._unreported -= count

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
                os.ftruncate(file, segment.size)  # half a line would damage the next one
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(segment.path))
        except BaseException:
            self.dropped, self._unreported = self.dropped + 1, self._unreported + 1
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
        """Make room for a segment: delete what has arrived, then the least important records, the oldest first."""
        enough = self.limit - self.limit // SEGMENTS
        if len(self._segments) > 1 and self._segments[0].first <= self._arrived:
            self._thin(self._segments[0], None)
        for kind in GIVEN_UP_FIRST:
            for segment in self._segments[:-1]:
                if self._size() <= enough:
                    return
                self._thin(segment, kind)

    def _thin(self, segment: _Segment, kind: str | None) -> None:
        """Remove records from a file: those of one of GIVEN_UP_FIRST, and those that have arrived."""
        data = segment.path.read_bytes()
        if kind and b'"%s"' % kind.encode() not in data:
            return
        kept, gone, reported = [], 0, 0
        for text in data.splitlines(keepends=True):
            seq = SEQ.match(text)
            if seq and int(seq[1]) <= self._arrived:
                continue
            if kind is not None and _is(text, kind):
                gone, reported = gone + 1, reported + _losses(text)
            else:
                kept.append(text)
        if kept:
            write_private(segment.path, b"".join(kept), sync=False)
        else:
            segment.path.unlink(missing_ok=True)
            self._segments.remove(segment)
        segment.size, segment.waiting = sum(map(len, kept)), len(kept)
        self.dropped, self._unreported = self.dropped + gone, self._unreported + gone + reported
        self._last = replace(self._last, end=0)
        self._counted = replace(self._counted, end=0)
        self._sent = [line for line in self._sent if line.path != segment.path]

    def sync(self) -> None:
        """Flush the files to the disk."""
        with self._lock:
            full, self._full = self._full, []
            if self._file is not None:
                full.append(FileIO(os.dup(self._file.fileno()), "ab"))
        with ExitStack() as closing:
            for file in full:
                closing.enter_context(file)
            for file in full:  # without the lock: a slow disk must not delay `append`
                os.fsync(file)

    def close(self) -> None:
        """Close the files; their records wait for another process."""
        with self._lock:
            for file in (*self._full, self._file):
                if file is not None:
                    file.close()
            self._file, self._full = None, []

    def unsent(self, most: int) -> list[Line]:
        """The first lines that have not arrived."""
        with self._lock:
            self._sent = self._after(self._arrived, self._last, most)
            return list(self._sent)

    def uncounted(self, most: int) -> list[Line]:
        """The first lines behind those that have arrived or are `counted`."""
        with self._lock:
            return self._after(max(self._counted.seq, self._arrived), self._counted, most)

    def counted(self, last: Line) -> None:
        """Note that the collector has counted all lines up to this one."""
        with self._lock:
            self._counted = max(self._counted, last, key=lambda line: line.seq)

    def _after(self, seq: int, before: Line, most: int) -> list[Line]:
        """The first lines behind a sequence number; `before` is a line before them."""
        paths = [s.path for s in self._segments if s.last > seq]
        offset = before.end if paths and before.path == paths[0] else 0
        return list(islice((x for x in lines_of(paths, offset) if x.seq > seq), most))

    def arrived(self, seq: int) -> None:
        """Delete the records up to a sequence number, which have arrived."""
        with self._lock:
            self._arrived = max(self._arrived, min(seq, self._seq))
            self.reached = self._arrived > 0
            waiting = {s.path: s for s in self._segments}
            for line in self._sent:
                if line.seq <= self._arrived:
                    waiting[line.path].waiting -= 1
                    self._last = line
            self._sent = [line for line in self._sent if line.seq > self._arrived]
            while self._segments and self._segments[0].last <= self._arrived:
                if len(self._segments) == 1:
                    cast(FileIO, self._file).close()
                    self._file = None
                self._segments.pop(0).path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Line:
    """A record in a file, and the offset of the next one."""

    seq: int
    text: str
    path: Path
    end: int


START = Line(0, "", Path(), 0)
"""The place before the first record."""


def lines_of(paths: Iterable[Path], offset: int = 0) -> Iterator[Line]:
    """The complete records in the files of one source; the first file is read from an offset in bytes.

    Damaged lines are left out, because they could never arrive. A missing file was delivered by another process.
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


def _parsed(text: bytes, word: str) -> dict[str, Any]:
    """The record of a line that contains a word; empty for any other line."""
    with suppress(ValueError):
        if b'"%s"' % word.encode() in text:
            return dict(json.loads(text))
    return {}


def _is(text: bytes, kind: str) -> bool:
    """Whether a line is of one of GIVEN_UP_FIRST."""
    record = _parsed(text, kind) if kind else {"kind": kind}
    return bool(kind == record.get("level" if record.get("kind") == Log.kind else "kind"))


def _losses(text: bytes) -> int:
    """The number of lost records that a line reports."""
    record = _parsed(text, DROPPED)
    return int(record["detail"]["count"]) if record.get("kind") == Event.kind and record.get("name") == DROPPED else 0


def source_of(path: Path) -> str | None:
    """The source in the name of a file; None if the file is not of a spool."""
    name = path.name.split(".")[0]
    return name if re.fullmatch(r"\w+-\d+-\d+", name) else None


def files(folder: Path, pattern: str) -> list[Path]:
    """The files in a folder by name; none if another process has deleted the folder."""
    try:
        return sorted(folder.glob(pattern))
    except FileNotFoundError:
        return []
