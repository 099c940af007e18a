"""The contents of an output folder: a finished run, and runs that are at work or were cut short."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

from geopipe.errors import MachineError, PlanError
from geopipe.export.ledger import Ledger, differences, ranges
from geopipe.export.lock import LOCK, STAGING, holder
from geopipe.export.tiles import FORMATS
from geopipe.plan.cells import Runs, keys_of
from geopipe.plan.plan import Plan

SUCCESS, MANIFEST, SETTINGS = "_SUCCESS", "manifest.jsonl", "settings.toml"
PLAN, PAUSE, OLD, TRIES = "plan.json", "pause", "old", "tries"
REPORT, PAGE = "report", "report.html"
"""The folder with the sample and the facts of a report, and its page; a table is whole without them."""

BESIDE = ("analysis", REPORT, PAGE)
"""Folders and files that are made of a finished table. They stand beside it, and go when another takes its place."""


def finished(output: Path) -> dict[str, Any] | None:
    """The `_SUCCESS` of the finished run in a folder; None if there is none, or only another program's.

    Raises:
        PlanError: it is geopipe's, and damaged.
        MachineError: it cannot be read.
    """
    text = read(output / SUCCESS)
    return None if text is None else success_of(text, str(output / SUCCESS))


def is_finished(output: Path) -> bool:
    """Whether a finished run is in a folder, though its `_SUCCESS` may be damaged."""
    try:
        return finished(output) is not None
    except PlanError:
        return True


def success_of(text: bytes, where: str) -> dict[str, Any] | None:
    """Parse the text of a `_SUCCESS`; None if it is another program's.

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
    """Read a state file; None if there is none.

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
    return MachineError(f"{path} cannot be read: {error.strerror}", "permit this user to read it, or repair the disk")


@dataclass(frozen=True)
class Unfinished:
    """A run that was cut short, paused or is at work, by the `plan.json` of its staging folder.

    `runs` are the ranges of its tiles; `overwrite` says whether it may replace a finished run; `identity` is what its
    plan's hash covers.
    """

    folder: Path
    run_id: str
    attempt: int
    plan_hash: str
    name: str
    tiles: int
    runs: Runs
    skipped: dict[str, str]
    overwrite: bool
    identity: dict[str, Any] = field(repr=False)

    @cached_property
    def ledger(self) -> Ledger:
        """The receipts so far, read when they are first needed.

        Raises:
            FileNotFoundError: the run was published or dropped meanwhile.
            PlanError, MachineError: they are damaged, or cannot be read.
        """
        with _state_errors(self.folder):
            return Ledger.read(self.folder, self.runs[-1][1] if self.runs else 0)

    @property
    def done(self) -> int:
        """Tiles with a receipt."""
        return int(self.ledger.done.sum())

    @property
    def missing(self) -> str:
        """The other tiles, as ranges."""
        keys = keys_of(self.runs)
        return ranges(keys[~self.ledger.done[keys]].tolist())

    @property
    def bytes(self) -> int:
        """Bytes of the files that receipts name."""
        return int(self.ledger.size.sum())

    def describe(self) -> dict[str, Any]:
        """The run as JSON values."""
        names = ["run_id", "attempt", "plan_hash", "name", "tiles", "done", "missing", "bytes", "skipped", "overwrite"]
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Status:
    """The contents of an output folder: `_SUCCESS` of a finished run, unfinished runs, and the run that locks it."""

    output: Path
    finished: dict[str, Any] | None
    unfinished: tuple[Unfinished, ...]
    holder: str = ""


def status(output: Path) -> Status:
    """The contents of an output folder.

    Raises:
        PlanError: there is no run of geopipe, finished or not; or a state file is damaged.
        MachineError: a state file cannot be read.
    """
    unfinished = []
    for run in unfinished_runs(output):  # first: a run that is published meanwhile is then a finished one
        with suppress(FileNotFoundError):
            _ = run.ledger
            unfinished.append(run)
    done = finished(output)
    if done is not None:
        unfinished = [run for run in unfinished if run.run_id != done.get("run_id")]
    if done is None and not unfinished:
        raise PlanError(
            f"{output} holds no run of geopipe" if output.exists() else f"{output} does not exist",
            "give the output folder of a run (run.output in its settings)",
        )
    return Status(output, done, tuple(unfinished), holder(output))


def unfinished_runs(output: Path, strict: bool = True) -> list[Unfinished]:
    """The runs that were cut short in a folder, or are at work there; the newest last.

    Args:
        strict: raise an error for state files that are damaged or cannot be read, and do not leave their runs out.

    Raises:
        PlanError, MachineError: a state file is damaged, or cannot be read.
    """
    runs = []
    for folder in staged_folders(output):
        # not found: published or dropped meanwhile
        with suppress(FileNotFoundError, *(() if strict else (PlanError, MachineError))):
            if (run := _unfinished(folder)) is not None:
                runs.append(((folder / PLAN).stat().st_mtime_ns, run))
    return [run for _, run in sorted(runs, key=lambda pair: pair[0])]


def readable_runs(output: Path) -> list[Unfinished]:
    """The unfinished runs whose state files, receipts too, can be read."""
    readable = []
    for run in unfinished_runs(output, strict=False):
        with suppress(FileNotFoundError, PlanError, MachineError):
            _ = run.ledger
            readable.append(run)
    return readable


def last_unfinished(output: Path) -> Unfinished | None:
    """The run that `--resume` continues: the newest."""
    runs = unfinished_runs(output)
    return runs[-1] if runs else None


def unfinished_run(output: Path, plan_hash: str) -> Unfinished | None:
    """The unfinished run of a plan, if its state files can be read."""
    with suppress(FileNotFoundError, PlanError, MachineError):
        run = _unfinished(staging_folder(output, plan_hash))
        return run if run is not None and run.plan_hash == plan_hash else None
    return None


def written_bytes(output: Path, plan_hash: str) -> int:
    """Bytes that an unfinished run of a plan has written already."""
    with suppress(FileNotFoundError, PlanError, MachineError):
        run = unfinished_run(output, plan_hash)
        return run.bytes if run is not None else 0
    return 0


def _unfinished(folder: Path) -> Unfinished | None:
    text = read(folder / PLAN)
    if text is None:
        return None
    with _state_errors(folder):
        state = json.loads(text)
        runs = tuple((start, end) for start, end in state["runs"])
        bounds = [-1, *(bound for run in runs for bound in run)]  # rising, so that no array is larger than the tiles
        tiles, attempt = state["tiles"], state["attempt"]
        if not all(isinstance(n, int) for n in (tiles, attempt, *bounds)) or not 0 < attempt < 1 << 31:
            raise ValueError("a count is not a whole number")
        if sum(end - start for start, end in runs) != tiles or any(a > b for a, b in pairwise(bounds)):
            raise ValueError("its tiles do not add up")
        run_id, plan_hash, name = (state[key] for key in ("run_id", "plan_hash", "name"))
        if not all(isinstance(value, str) for value in (run_id, plan_hash, name)):
            raise ValueError("a name is not a text")
        if run_id:
            UUID(run_id)
        skipped, identity = dict(state["skipped"]), dict(state["identity"])
        overwrite = state.get("overwrite") is True
        return Unfinished(folder, run_id, attempt, plan_hash, name, tiles, runs, skipped, overwrite, identity)


@contextmanager
def _state_errors(folder: Path) -> Iterator[None]:
    """Errors of reading the state of an unfinished run as errors of geopipe; FileNotFoundError stays."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(error, Path(error.filename or folder)) from None
    except (AttributeError, KeyError, MemoryError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise PlanError(
            f"{folder / PLAN} is damaged ({type(error).__name__}: {str(error)[:100]})",
            f"run without --resume, which keeps the complete tiles of the same plan; or delete {folder}",
        ) from None


def refuse_resume(output: Path, plan: Plan) -> None:
    """Refuse to resume a run of another plan, and name the differences.

    Raises:
        PlanError: all unfinished runs in the folder are of other plans.
    """
    runs = unfinished_runs(output)
    if not runs or plan.hash in {run.plan_hash for run in runs}:
        return
    changes = list(differences(runs[-1].identity, plan.identity))
    raise PlanError(
        f"the run in {output} was planned otherwise and cannot go on: {'; '.join(changes[:6])}"
        + (f" and {len(changes) - 6:,} more" if len(changes) > 6 else ""),
        "give it the settings and sources that it had, or start anew without --resume",
    )


def staging_folder(output: Path, plan_hash: str) -> Path:
    """The folder where a run of a plan is staged."""
    return output / STAGING / plan_hash[:16]


def staged_folders(output: Path) -> list[Path]:
    """The folders of all staged runs in an output folder."""
    try:
        names = sorted(os.listdir(output / STAGING))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [output / STAGING / name for name in names if name not in (LOCK, OLD)]
