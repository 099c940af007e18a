"""A file or folder that appears as a whole: made in a hidden folder beside its place, then renamed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from geopipe.durable import sync_folder, write_error
from geopipe.errors import MachineError, PlanError

SIDECARS = (".aux.xml", ".ovr", ".msk")
"""Ends of the names of files beside a raster that belong to it."""


@contextmanager
def workshop(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, on its disk, for one process at a time; it is removed at the end.

    What a killed process left in it is removed by the next one.

    Raises:
        MachineError: it cannot be made, or another process works in it.
    """
    folder = target.with_name(f".{target.name}.tmp")
    try:
        handle = _lock(folder, target)
    except OSError as error:
        raise write_error(error, folder) from error
    try:
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        yield folder
    except OSError as error:
        raise write_error(error, Path(error.filename or target)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _lock(folder: Path, target: Path) -> int:
    """Lock a folder; returns its handle."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.stat(folder)):
                return handle
        except BlockingIOError:
            os.close(handle)
            text = f"{target} is being written by another process"
            raise MachineError(text, "wait for it, or give another name") from None
        except FileNotFoundError:  # the process before has just removed it
            pass
        os.close(handle)


def check_free(target: Path, overwrite: bool, is_ours: Callable[[Path], bool]) -> None:
    """Refuse a target that must not be replaced.

    Args:
        is_ours: whether a folder with something in it is of the kind that may be replaced.

    Raises:
        PlanError: it exists and `overwrite` is false, or it is not ours.
    """
    if not target.exists():
        return
    if target.is_dir() and any(target.iterdir()) and not is_ours(target):
        raise PlanError(f"{target} is a folder with other contents; it is left as it is", "give a new name")
    if target.is_file() and not target.suffix:
        raise PlanError(f"{target} is a file, and would become a folder", "give a new name")
    if not overwrite:
        raise PlanError(f"{target} exists", "give --overwrite to replace it, or another name")


def publish(staged: Path, target: Path) -> None:
    """Rename a finished file or folder into its place, with the files that belong to it."""
    for path in [staged] if staged.is_file() else sorted(staged.iterdir()):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    if staged.is_dir() and target.exists():
        os.replace(target, staged.with_name(f"{staged.name}.old"))  # the workshop is removed with it
    for end in SIDECARS if staged.is_file() else ():
        beside = staged.with_name(staged.name + end)
        with suppress(FileNotFoundError):
            os.replace(beside, target.with_name(target.name + end)) if beside.exists() else os.unlink(f"{target}{end}")
    os.replace(staged, target)
    sync_folder(target.parent)
