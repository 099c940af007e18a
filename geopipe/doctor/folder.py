"""The folder that a run works in: written, renamed and locked as a run does it."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
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
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
