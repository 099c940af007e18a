"""Which processes of a run live: each holds the lock of a file in the run's spool folder, and touches the file.

A lock is seen by all who have the folder from one mount of one kernel. Other machines, and containers that mounted the
folder themselves, may not see it, and may have the same host name and process ids. For them the touches count.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from geopipe import processes
from geopipe.monitoring.home import try_lock
from geopipe.monitoring.spool import files, source_of

PRESENT = ".pid"
"""Suffix of the file whose lock a process holds while it sends its own records."""

TOUCH = 60.0
"""Seconds between two touches of the file."""

QUIET = 600.0
"""Seconds without a touch after which a process whose lock would not be seen here counts as dead."""


class Presence:
    """The mark that this process lives; to be called often, and ended by `close`.

    Raises:
        OSError: the folder cannot hold a locked file.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self._path = folder / f"{source}{PRESENT}"
        self._file = _create(self._path)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError:
            os.close(self._file)
            raise
        self._due = time.monotonic() + TOUCH
        with suppress(OSError):  # a full disk: then the touches count everywhere
            os.write(self._file, json.dumps(_identity(folder)).encode())

    def __call__(self) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + TOUCH
            os.utime(self._file)

    def close(self) -> None:
        """Remove the mark: whatever the process has not sent, others may send."""
        os.close(self._file)
        with suppress(OSError):
            self._path.unlink()


def _create(path: Path) -> int:
    """Open a new file. Its folder is made anew if another process has just removed it because it was empty."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def is_alive(folder: Path, source: str) -> bool:
    """Whether the process of a source lives: it holds its lock, or touches the file of a lock that is not seen here."""
    try:
        file = os.open(folder / f"{source}{PRESENT}", os.O_RDWR)
    except FileNotFoundError:  # it has closed its spool
        return False
    except OSError:
        return True
    try:
        if not try_lock(file):
            return True
        own, other = _identity(folder), _read(file)
        is_seen = bool(own["boot"]) and all(other.get(name) == own[name] for name in ("boot", "device"))
        return not is_seen and time.time() - os.fstat(file).st_mtime < QUIET
    finally:
        os.close(file)


def living(folder: Path) -> list[str]:
    """The sources in a folder whose processes live, but for this process."""
    own = _identity(folder)
    return [s for s in _sources(folder) if _read_mark(folder, s) != own and is_alive(folder, s)]


def pids(folder: Path) -> set[int]:
    """Process ids of the sources in a folder, of those that have them in this container."""
    own = _identity(folder)
    marks = [_read_mark(folder, source) for source in _sources(folder)]
    return {mark["pid"] for mark in marks if all(mark.get(name) == own[name] for name in ("boot", "namespace"))}


def _sources(folder: Path) -> list[str]:
    return [source for path in files(folder, f"*{PRESENT}") if (source := source_of(path))]


def _identity(folder: Path) -> dict[str, Any]:
    """The identity of this process, with the device that the folder is on here: each mount of a share has its own."""
    with suppress(OSError):
        return processes.identity() | {"device": os.stat(folder).st_dev}
    return processes.identity() | {"device": None}


def _read_mark(folder: Path, source: str) -> dict[str, Any]:
    with suppress(OSError):
        file = os.open(folder / f"{source}{PRESENT}", os.O_RDONLY)
        try:
            return _read(file)
        finally:
            os.close(file)
    return {}


def _read(file: int) -> dict[str, Any]:
    """The identity in a file; empty while it is being written, and of an older version of geopipe."""
    with suppress(OSError, ValueError):
        value = json.loads(os.pread(file, 4096, 0))
        return value if isinstance(value, dict) else {}
    return {}
