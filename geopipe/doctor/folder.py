"""The folder that a run works in: written, renamed and locked as a run does it, and the same on all nodes."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from geopipe.doctor.findings import MachineFinding, State
from geopipe.text import size

LITTLE, TOO_LITTLE = 2 << 30, 100 << 20
"""Bytes of free space below which a run may not finish, and does not begin."""


def check(folder: Path, is_named: bool) -> MachineFinding:
    """Try a folder, or the one in which it would be made.

    Args:
        is_named: by the user; else a folder that cannot be written is a note.
    """
    place = existing(folder)
    probe = place / f".geopipe-doctor-{uuid4().hex}"
    failure: State = "problem" if is_named else "note"
    try:
        probe.mkdir()
        try:
            _write_and_rename(probe)
            is_locked = _locks(probe / "lock")
        finally:
            shutil.rmtree(probe, ignore_errors=True)
        free = shutil.disk_usage(place).free
    except OSError as error:
        hint = "choose another run.output (with an object store: run.staging), or change the owner of the folder"
        return MachineFinding("output", failure, f"{folder}: {place} cannot be written: {error.strerror}", hint)
    if not is_locked:
        hint = "choose a file system with flock: else two runs could work in one folder"
        return MachineFinding("output", failure, f"{folder}: files cannot be locked in {place}", hint)
    value = f"{folder} can be written and locked, {size(free)} are free"
    if free < LITTLE:
        state = failure if free < TOO_LITTLE else "note"
        return MachineFinding("output", state, value, "free space: `geopipe plan` shows the size of a table")
    return MachineFinding("output", "ok", value)


def existing(folder: Path) -> Path:
    """The folder, or the nearest folder above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.isdir(path))


@contextmanager
def locked(marker: Path) -> Iterator[str]:
    """Lock a new file inside, and remove it at the end; yields its path, or "" where it cannot be written."""
    try:
        file = open(marker, "w")  # noqa: SIM115 - closed below
    except OSError:  # the finding of this machine says so
        yield ""
        return
    with file:
        try:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield str(marker)
        finally:
            marker.unlink(missing_ok=True)


def check_shared(folder: Path, marker: Path) -> MachineFinding:
    """Try a folder on a node, and whether it is that of the machine on which the marker is `locked`."""
    try:
        with open(marker, "rb") as file:
            is_free = not _is_locked(file)
    except OSError:
        hint = "choose a run.output (with an object store: run.staging) that every node mounts at the same path"
        return MachineFinding("output", "problem", f"{folder} is another folder on this node, or none", hint)
    if is_free:
        text = f"{folder}: this node does not see the locks of other machines"
        hint = "mount it on all nodes with locks that they share (NFS: without nolock and local_lock; Lustre: flock)"
        return MachineFinding("output", "problem", text, f"{hint}: else two runs could work in one folder")
    return check(folder, True)


def _write_and_rename(folder: Path) -> None:
    for name in ("first", "second"):
        (folder / name).write_bytes(b"geopipe")
    (folder / "first").replace(folder / "second")  # a finished tile takes its name like this


def _locks(path: Path) -> bool:
    """Whether a lock on a file keeps out others: some network file systems only say so."""
    with open(path, "w") as own, open(path, "w") as other:
        try:
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return _is_locked(other)


def _is_locked(file: IO[Any]) -> bool:
    """Whether another one holds the lock of a file. To share a lock suffices: for more NFS needs a writable file."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
