"""What an output folder holds: a finished run, and runs that are at work or were cut short."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

from geopipe.errors import MachineError, PlanError
from geopipe.export.ledger import Ledger, differences, ranges
from geopipe.export.lock import LOCK, STAGING, holder
from geopipe.export.tiles import FORMATS
from geopipe.plan.cells import keys_of
from geopipe.plan.plan import Plan

SUCCESS, MANIFEST, SETTINGS = "_SUCCESS", "manifest.jsonl", "settings.toml"
PLAN, PAUSE, OLD = "plan.json", "pause", "old"


def finished(output: Path) -> dict[str, Any] | None:
    """What `_SUCCESS` says, where a finished run of geopipe is here; others write such files, too.

    Raises:
        PlanError: it is geopipe's, and damaged.
        MachineError: it cannot be read.
    """
    text = read(output / SUCCESS)
    return None if text is None else success_of(text, str(output / SUCCESS))


def is_finished(output: Path) -> bool:
    """Whether a finished run of geopipe is here, though its `_SUCCESS` may be damaged."""
    try:
        return finished(output) is not None
    except PlanError:
        return True


def success_of(text: bytes, where: str) -> dict[str, Any] | None:
    """What a `_SUCCESS` says; None where it is not geopipe's.

    Raises:
        PlanError: it is geopipe's, and damaged.
    """
    try:
        success = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(success, dict) or "plan_hash" not in success:
        return None
    types = {"plan_hash": str, "rows": int, "files": int, "bytes": int, "formats": list, "schema": dict}
    types |= {key: kind for key, kind in (("run_id", str), ("name", str), ("skipped", dict)) if key in success}
    for key, kind in types.items():
        if not isinstance(success.get(key), kind) or (key == "formats" and not _are_formats(success[key])):
            raise PlanError(
                f"{where} is damaged: {key} is {json.dumps(success.get(key))[:60]}",
                "run its settings again with --overwrite",
            )
    return success


def _are_formats(names: list[Any]) -> bool:
    return all(name in FORMATS for name in names)


def read(path: Path) -> bytes | None:
    """The bytes of a state file; None where there is none.

    Raises:
        MachineError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(error, path) from None


def _unreadable(error: OSError, path: Path) -> MachineError:
    return MachineError(f"{path} cannot be read: {error.strerror}", "permit this user to read it, or mend it")


@dataclass(frozen=True)
class Unfinished:
    """A run that was cut short, paused or is at work, as its staging folder tells.

    `overwrite` says whether it may replace a finished run.
    """

    run_id: str
    attempt: int
    plan_hash: str
    name: str
    tiles: int
    done: int
    missing: str
    bytes: int
    skipped: dict[str, str]
    overwrite: bool
    identity: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Status:
    """What is in an output folder: the `_SUCCESS` of a finished run, unfinished ones, and who holds it."""

    output: Path
    finished: dict[str, Any] | None
    unfinished: tuple[Unfinished, ...]
    holder: str = ""


def status(output: Path) -> Status:
    """What is in an output folder.

    Raises:
        PlanError: there is no run of geopipe, finished or not; or a state file is damaged.
        MachineError: a state file cannot be read.
    """
    unfinished = unfinished_runs(output)  # first: a run that is published meanwhile is met as a finished one
    done = finished(output)
    if done is not None:
        unfinished = tuple(run for run in unfinished if run.run_id != done.get("run_id"))
    if done is None and not unfinished:
        raise PlanError(
            f"{output} holds no run of geopipe" if output.exists() else f"{output} does not exist",
            "give the output folder of a run (run.output in its settings)",
        )
    return Status(output, done, unfinished, holder(output))


def unfinished_runs(output: Path, strict: bool = True) -> tuple[Unfinished, ...]:
    """The runs that were cut short in a folder, or are at work there; the newest last.

    Args:
        strict: else those whose state files are damaged, or cannot be read, are left out.

    Raises:
        PlanError, MachineError: there are such.
    """
    found = []
    for folder in staged_folders(output):
        # not found: published, or taken back, between two looks
        with suppress(FileNotFoundError, *(() if strict else (PlanError, MachineError))):
            text = read(folder / PLAN)
            if text is not None:
                found.append(((folder / PLAN).stat().st_mtime_ns, _unfinished(folder, text)))
    return tuple(run for _, run in sorted(found, key=lambda pair: pair[0]))


def _unfinished(folder: Path, text: bytes) -> Unfinished:
    try:
        about = json.loads(text)
        runs, tiles, attempt = about["runs"], about["tiles"], about["attempt"]
        ends = [-1, *(end for run in runs for end in run)]  # they rise, so that no array is larger than the tiles
        if not all(isinstance(n, int) for n in (tiles, attempt, *ends)) or not 0 < attempt < 1 << 31:
            raise ValueError("a count is no whole number")
        if sum(end - start for start, end in runs) != tiles or any(a > b for a, b in pairwise(ends)):
            raise ValueError("its tiles are not what they were")
        run_id, plan_hash, name = (about[key] for key in ("run_id", "plan_hash", "name"))
        if not all(isinstance(text, str) for text in (run_id, plan_hash, name)):
            raise ValueError("a name is no text")
        if run_id:
            UUID(run_id)
        skipped, identity = dict(about["skipped"]), dict(about["identity"])
        noted = Ledger.read(folder, ends[-1])
        size = sum(f.bytes for receipt in noted.receipts() for f in receipt.files)
        keys = keys_of(runs)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(error, Path(error.filename or folder)) from None
    except (AttributeError, KeyError, MemoryError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise PlanError(
            f"{folder / PLAN} is damaged ({type(error).__name__}: {str(error)[:100]})",
            f"run without --resume, which keeps the whole tiles of the same plan; or delete {folder}",
        ) from None
    return Unfinished(
        run_id,
        attempt,
        plan_hash,
        name,
        tiles,
        done=int(noted.done.sum()),
        missing=ranges(keys[~noted.done[keys]].tolist()),
        bytes=size,
        skipped=skipped,
        overwrite=about.get("overwrite") is True,
        identity=identity,
    )


def last_unfinished(output: Path) -> Unfinished | None:
    """The run that `--resume` would go on with."""
    found = unfinished_runs(output)
    return found[-1] if found else None


def unfinished_run(output: Path, plan: Plan) -> Unfinished | None:
    """The run of this very plan that was cut short in a folder."""
    return next((run for run in unfinished_runs(output, strict=False) if run.plan_hash == plan.hash), None)


def bytes_done(output: Path) -> dict[str, int]:
    """What unfinished runs have written already, by the hash of their plans."""
    return {run.plan_hash: run.bytes for run in unfinished_runs(output, strict=False)}


def refuse_resume(output: Path, plan: Plan) -> None:
    """Refuse to go on with a run that was planned otherwise than `plan`, and name what differs.

    Raises:
        PlanError: only runs of other plans were cut short here.
    """
    found = unfinished_runs(output)
    if not found or plan.hash in {run.plan_hash for run in found}:
        return
    last = found[-1]
    told = list(differences(last.identity, plan.identity))
    raise PlanError(
        f"the run in {output} was planned otherwise and cannot go on: {'; '.join(told[:6])}"
        + (f" and {len(told) - 6:,} more" if len(told) > 6 else ""),
        "give it the settings and sources that it had, or start anew without --resume",
    )


def staging_folder(output: Path, plan_hash: str) -> Path:
    """Where a run of a plan is staged."""
    return output / STAGING / plan_hash[:16]


def staged_folders(output: Path) -> list[Path]:
    """The folders of staged runs."""
    try:
        names = sorted(os.listdir(output / STAGING))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [output / STAGING / name for name in names if name not in (LOCK, OLD)]
