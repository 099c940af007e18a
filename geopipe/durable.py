"""Files that are whole or not there at all: written beside their place, synced, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from geopipe.errors import MachineError


@contextmanager
def replacing(path: Path, partial: Path | None = None, mode: int = 0o666, sync: bool = True) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` when the block ends, so that a reader never sees a part of it.

    Args:
        path: final name; after an error or a crash it is what it was before.
        partial: name until then, in the same folder; by default `path` with the suffix `.tmp`.
        mode: permissions from the first byte on, less the umask.
        sync: whether it must also survive a loss of power.

    Raises:
        OSError: the file cannot be written.
    """
    partial = partial or path.with_name(f"{path.name}.tmp")
    partial.unlink(missing_ok=True)  # of a process that died; its permissions may be others
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        yield file
        if sync:
            file.flush()
            os.fsync(file.fileno())
    os.replace(partial, path)
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_error(error: OSError, path: Path) -> MachineError:
    """The error to raise where a file cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(nearest_folder(path)).free
        return MachineError(
            f"the disk is full: {path} could not be written, {free:,} bytes are free",
            "free some space, then start again",
        )
    return MachineError(f"{path} cannot be written: {error.strerror}", "choose another folder, or repair this one")


def nearest_folder(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    while not path.exists():
        path = path.parent
    return path
