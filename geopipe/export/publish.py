"""Publish a complete run in its output folder, and refuse a folder that holds something else."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from geopipe.durable import nearest_folder, sync_folder, write_error
from geopipe.errors import MachineError, PlanError
from geopipe.export.lock import STAGING
from geopipe.export.state import (
    BESIDE,
    MANIFEST,
    OLD,
    SETTINGS,
    SUCCESS,
    finished,
    is_finished,
    read,
    staged_folders,
    staging_folder,
    success_of,
    unfinished_runs,
)
from geopipe.export.tiles import FORMATS, PARTIAL, is_ours


def free_bytes(output: Path) -> int:
    """Free bytes of the disk that an output folder is, or will be, on."""
    while True:
        with suppress(FileNotFoundError):  # a run that ended has removed the folder meanwhile
            return shutil.disk_usage(nearest_folder(output)).free


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse an output folder that cannot or must not be used. Nothing is written.

    Raises:
        PlanError: it holds a finished run (without `overwrite`), or is not geopipe's.
        MachineError: it cannot be written.
    """
    if output.exists() and not output.is_dir():
        raise PlanError(f"{output} is a file", "give a folder")
    with suppress(FileNotFoundError, NotADirectoryError):
        entries = set(os.listdir(output))
        done = is_finished(output)
        files = {
            Path(folder, name).relative_to(output).as_posix()
            for form in FORMATS
            for folder, _, names in os.walk(output / form)
            for name in names
        }
        refuse(output, done, () if done or STAGING in entries else entries, files, overwrite)
    for tries_left in reversed(range(3)):
        folder = nearest_folder(output)
        try:
            tempfile.TemporaryFile(dir=folder).close()
            break
        except OSError as error:
            if tries_left and isinstance(error, FileNotFoundError):  # removed meanwhile by a run that ended
                continue
            raise MachineError(
                f"{output} cannot be written: {error.strerror} in {folder}",
                "choose another folder, or permit this user to write there",
            ) from None


def refuse(output: Path | str, done: bool, strange: Collection[str], files: Collection[str], overwrite: bool) -> None:
    """Refuse an output, a folder or a prefix in an object store, for its contents.

    Args:
        done: whether they are a finished run.
        strange: names of entries that no run of geopipe writes.
        files: the files in the folders of the formats.

    Raises:
        PlanError: it holds a finished run (without `overwrite`), or is not geopipe's.
    """
    if strange:
        raise PlanError(
            f"{output} holds {len(strange)} entries ({', '.join(sorted(strange)[:3])}, ...) "
            f"and no run of geopipe; it is left as it is",
            "choose an empty or a new place",
        )
    if done and not overwrite:
        raise PlanError(f"{output} holds a finished run", "give --overwrite to replace it, or another run.output")
    foreign = sorted(name for name in files if not is_ours(name.rpartition("/")[2]))
    if foreign:
        raise PlanError(
            f"{output} holds {len(foreign)} files that no run wrote ({', '.join(foreign[:3])})",
            f"move them elsewhere: a run alone fills the folders {' and '.join(FORMATS)}",
        )


def publish(output: Path, staged: Path) -> None:
    """Rename a complete staged output into place, entry by entry. After a crash at any line it can be called again.

    What stood beside an older table goes with it.

    The old `_SUCCESS` is deleted first and the new one renamed last: without it there is no finished run. The entries
    of an older run are moved aside, and deleted at the end. Tiles of unfinished runs of other plans stay.
    """
    aside = output / STAGING / OLD
    if (staged / SUCCESS).exists():
        formats = json.loads((staged / SUCCESS).read_text(encoding="utf-8"))["formats"]
        aside.mkdir(exist_ok=True)
        if (output / SUCCESS).exists():  # else this is called again, and what stands beside it may be new
            for name in filter(lambda name: (output / name).exists(), BESIDE):
                os.replace(output / name, aside / f"{name}-{time.time_ns()}")
            (output / SUCCESS).unlink()
        for name in (*FORMATS, MANIFEST, SETTINGS, *BESIDE):
            arrives, stays = (staged / name).exists(), name in formats or name not in FORMATS
            if (output / name).exists() and (arrives or not stays):
                os.replace(output / name, aside / f"{name}-{time.time_ns()}")
            if arrives:
                os.replace(staged / name, output / name)
        for form in formats:  # not before: a worker that has lost its run may open files where it knows the folder
            for partial in (output / form).rglob(f"*{PARTIAL}"):
                partial.unlink(missing_ok=True)
        os.replace(staged / SUCCESS, output / SUCCESS)
        sync_folder(output)
    for folder in (staged, aside):
        shutil.rmtree(folder, ignore_errors=True)


def recover(output: Path) -> None:
    """Finish a publication that a crash cut short, of a staged run that was complete."""
    for folder in staged_folders(output):
        text = read(folder / SUCCESS)
        if text is None:
            continue
        with suppress(PlanError):
            if success_of(text, str(folder / SUCCESS)) is not None:
                publish(output, folder)
                continue
        (folder / SUCCESS).unlink()  # damaged: its tiles have receipts, and are committed again
    with suppress(PlanError):
        done = finished(output)
        if done is not None:
            for run in unfinished_runs(output, strict=False):
                if run.run_id == done.get("run_id"):
                    drop(output, run.plan_hash)
            shutil.rmtree(output / STAGING / OLD, ignore_errors=True)


def drop(output: Path, plan_hash: str | None = None) -> None:
    """Delete the staging folders of unfinished runs of one plan, or of all plans."""
    for folder in staged_folders(output):
        if plan_hash is None or folder == staging_folder(output, plan_hash):
            shutil.rmtree(folder, ignore_errors=True)


def remove(output: Path) -> None:
    """Delete the finished run in a folder, and nothing else. `_SUCCESS` goes last, so that it can be repeated.

    Raises:
        MachineError: a file cannot be removed.
    """
    try:
        for name in (*FORMATS, *BESIDE, MANIFEST, SETTINGS, SUCCESS):
            if (output / name).is_dir():
                shutil.rmtree(output / name)
            else:
                (output / name).unlink(missing_ok=True)
    except OSError as error:
        raise write_error(error, output) from error
