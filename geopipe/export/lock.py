"""The lock of an output folder: one run at a time works in it. Readers of the lock keep no run out."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from geopipe.durable import write_error
from geopipe.errors import MachineError

STAGING, LOCK = "_staging", "_lock"

TRIES = 200
"""Tries to take a lock whose file or folder another run removes meanwhile; about 5 ms each."""


@contextmanager
def locked(output: Path, run_id: str) -> Iterator[None]:
    """Lock the output folder for one run; the lock ends with the process.

    At the end the lock file and new folders are removed, unless a table or a staged run is in them.

    Raises:
        MachineError: another run holds it, or the folder cannot be made or locked.
    """
    lock, new_folders = None, set[Path]()
    try:
        lock = _acquire(output, new_folders)
        lock.truncate(0)
        lock.write(f"run {run_id}, process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield
    finally:
        if lock is not None:
            (output / STAGING / LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            for folder in (output / STAGING, *sorted(new_folders, reverse=True)):
                folder.rmdir()
        if lock is not None:
            lock.close()


def holder(output: Path) -> str:
    """The run that locks the folder now, for a message; empty if none does."""
    with suppress(OSError), open(output / STAGING / LOCK, encoding="utf-8", errors="replace") as lock:
        if not _try(lock, fcntl.LOCK_SH):
            return lock.read().strip() or "a run that starts"
    return ""


def _acquire(output: Path, new_folders: set[Path]) -> TextIO:
    """Open and lock the lock file, and add the folders created for it to `new_folders`.

    A run that ends removes the lock file and its new folders. So an open file may no longer be the one at its path. A
    lock on it excludes nobody, and is taken anew.
    """
    path = output / STAGING / LOCK
    for tries_left in reversed(range(TRIES)):
        new_folders |= {p for p in (output, *output.parents) if not p.exists()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = open(path, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115 - the caller closes it
        except OSError as error:
            if not tries_left or not isinstance(error, FileNotFoundError | FileExistsError):
                raise write_error(error, output) from error
        else:
            try:
                if _hold(lock, path, output, patient=tries_left > 0):
                    return lock
            except BaseException:
                lock.close()
                raise
            lock.close()
        time.sleep(random.uniform(0, 0.01))
    raise MachineError(f"{output} cannot be locked: its folder changes all the time", "check who else works there")


def _hold(lock: TextIO, path: Path, output: Path, patient: bool) -> bool:
    """Lock the file; False if it must be opened anew.

    Args:
        patient: try again after a reader of the lock, which is gone at once.
    """
    try:
        if _try(lock, fcntl.LOCK_EX):
            return _stands(lock, path)
        if not _stands(lock, path) or (patient and _try(lock, fcntl.LOCK_SH)):
            return False
    except OSError as error:
        raise MachineError(
            f"{output} cannot be locked: {error.strerror}", "choose a folder on a file system with flock"
        ) from error
    lock.seek(0)
    raise MachineError(
        f"{output} is in use by {lock.read().strip() or 'another run'}",
        "wait for that run to end, or choose another folder",
    )


def _try(lock: TextIO, how: int) -> bool:
    """Take a lock if it is free."""
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stands(lock: TextIO, path: Path) -> bool:
    """Whether an open file is the one at this path now."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def check_free(output: Path) -> None:
    """Refuse a folder in which a run is at work.

    Raises:
        MachineError: names the run.
    """
    if run := holder(output):
        raise MachineError(
            f"{output} is in use by {run}", "wait for that run to end, stop it, or choose another run.output"
        )
