"""How a run is staged, committed and recovered, and what may be deleted (nothing foreign).

A run works in OUTPUT/_staging/<plan hash>/, where every process notes the receipts of its tiles (`ledger`). When every
tile has one, they become the manifest, the staged folders are renamed into OUTPUT, and `_SUCCESS` is written last. A
reader of OUTPUT sees the old table, or the new one. What a killed run left is there for `--resume`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from geopipe.errors import MachineError, PlanError, Terminated
from geopipe.export import ledger
from geopipe.export.ledger import JOURNALS, Ledger, differences, ranges
from geopipe.export.lock import LOCK, STAGING, holder
from geopipe.export.tiles import CSV_PARTS, FORMATS, PARTIAL, Receipt, existing, fault, is_ours, join_csv, sync
from geopipe.plan.cells import keys_of, runs_of
from geopipe.plan.plan import Plan
from geopipe.redaction import redacted

SUCCESS, MANIFEST, SETTINGS = "_SUCCESS", "manifest.jsonl", "settings.toml"
PLAN, PAUSE, OLD = "plan.json", "pause", "old"


def free_bytes(output: Path) -> int:
    """Free space where the output will be."""
    while True:
        with suppress(FileNotFoundError):  # a run that ended has removed the folder between two looks
            return shutil.disk_usage(existing(output)).free


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
    for left in reversed(range(3)):
        folder = existing(output)
        try:
            tempfile.TemporaryFile(dir=folder).close()
            break
        except OSError as error:
            if left and isinstance(error, FileNotFoundError):  # removed meanwhile by a run that ended
                continue
            raise MachineError(
                f"{output} cannot be written: {error.strerror} in {folder}",
                "choose another folder, or permit this user to write there",
            ) from None


def refuse(output: Path | str, done: bool, strange: Collection[str], files: Collection[str], overwrite: bool) -> None:
    """Refuse an output, a folder or an object store, for what is in it.

    Args:
        done: whether that is a finished run.
        strange: what makes it an output of somebody else.
        files: what lies in the folders of the formats.

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


def finished(output: Path) -> dict[str, Any] | None:
    """What `_SUCCESS` says, where a finished run of geopipe is here; others write such files, too.

    Raises:
        PlanError: it is geopipe's, and damaged.
        MachineError: it cannot be read.
    """
    text = _read(output / SUCCESS)
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


def _read(path: Path) -> bytes | None:
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


class Staging:
    """The unfinished output of a run: OUTPUT/_staging/<plan hash>, where tiles go and their receipts are noted."""

    def __init__(
        self,
        output: Path,
        plan: Plan,
        settings_toml: str,
        run_id: str = "",
        attempt: int = 1,
        overwrite: bool = False,
    ) -> None:
        self.output, self.plan, self.settings_toml = output, plan, settings_toml
        self.run_id, self.attempt, self.overwrite = run_id, attempt, overwrite
        self.folder = _folder(output, plan.hash)

    def begin(self) -> NDArray[np.int64]:
        """Make ready, and say which tiles are to be done: those that have no whole files from an earlier attempt."""
        try:
            for left in self.folder.rglob(f"*{PARTIAL}"):  # by a process that died while it wrote
                left.unlink(missing_ok=True)
            for name in (*self.plan.options.formats, CSV_PARTS, JOURNALS):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            (self.folder / SETTINGS).write_text(self.settings_toml, encoding="utf-8")
            about = {"plan_hash": self.plan.hash, "name": self.plan.name, "tiles": len(self.plan.keys)}
            about |= {
                "run_id": self.run_id,
                "attempt": self.attempt,
                "overwrite": self.overwrite,
                "runs": runs_of(self.plan.keys),
                "skipped": self.plan.skipped,
                "identity": self.plan.identity,
            }
            self.pause.unlink(missing_ok=True)
            _write_durably(self.folder / PLAN, [json.dumps(redacted(about))])
            return self.plan.keys[~self.ledger().intact(self.folder)[self.plan.keys]]
        except OSError as error:
            raise fault(error, Path(error.filename or self.folder)) from error

    @property
    def pause(self) -> Path:
        """The file that asks the run to pause, wherever it is at work."""
        return self.folder / PAUSE

    def ledger(self) -> Ledger:
        """The receipts so far."""
        return Ledger.read(self.folder, self.plan.estimate.tiles)

    def commit(self, report: dict[str, Any]) -> dict[str, int]:
        """Publish the whole output; `report` is added to `_SUCCESS`. Returns its totals: rows, files, bytes.

        Raises:
            PlanError: a tile is missing: a bug, never a state to publish.
        """
        ledger.close()
        noted = self.ledger()
        missing = self.plan.keys[~noted.done[self.plan.keys]]
        if missing.size:
            raise PlanError(
                f"{missing.size:,} of {len(self.plan.keys):,} tiles have no receipt ({ranges(missing.tolist())}); "
                f"nothing is published",
                "this is a defect of geopipe: please report it with the log",
            )
        totals = {"rows": 0, "files": 0, "bytes": 0}

        def lines() -> Iterator[str]:
            receipts: Iterable[Receipt] = noted.receipts()
            if self.plan.options.layout.csv_files == "one":
                receipts = join_csv(self.folder, self.plan, receipts)
            for receipt in receipts:
                totals["rows"] += receipt.rows
                totals["files"] += sum(f.offset == 0 for f in receipt.files)  # a shared file is met at its beginning
                totals["bytes"] += sum(f.bytes for f in receipt.files)
                yield receipt.line()

        _write_durably(self.folder / MANIFEST, lines())
        for form in self.plan.options.formats:
            for left in (self.folder / form).rglob(f"*{PARTIAL}"):  # by a worker that died while it wrote
                left.unlink()
        success = {
            "plan_hash": self.plan.hash,
            **totals,
            "formats": list(self.plan.options.formats),
            "schema": {f.name: str(f.type) for f in self.plan.spec.schema},
            **report,
        }
        _write_durably(self.folder / SUCCESS, [json.dumps(redacted(success), indent=2) + "\n"])
        try:
            publish(self.output, self.folder)
        except (KeyboardInterrupt, Terminated):  # it takes no time, and can be repeated
            publish(self.output, self.folder)
            raise
        except OSError as error:
            raise fault(error, Path(error.filename or self.output)) from error
        return totals

    def discard(self) -> None:
        """Take back everything that this run wrote; an earlier finished run stays.

        A run that is complete is kept: `recover` publishes it.
        """
        ledger.close()
        if not (self.folder / SUCCESS).exists():
            shutil.rmtree(self.folder, ignore_errors=True)

    def leave(self) -> int:
        """Leave what is done for `--resume`, or nothing where nothing is; returns how many tiles are done."""
        ledger.close()
        done = int(self.ledger().done.sum())
        if not done:
            self.discard()
        return done


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
    for folder in _staged(output):
        # not found: published, or taken back, between two looks
        with suppress(FileNotFoundError, *(() if strict else (PlanError, MachineError))):
            text = _read(folder / PLAN)
            if text is not None:
                found.append(((folder / PLAN).stat().st_mtime_ns, _unfinished(folder, text)))
    return tuple(run for _, run in sorted(found, key=lambda pair: pair[0]))


def _folder(output: Path, plan_hash: str) -> Path:
    """Where a run of a plan is staged."""
    return output / STAGING / plan_hash[:16]


def _staged(output: Path) -> list[Path]:
    """The folders of staged runs."""
    try:
        names = sorted(os.listdir(output / STAGING))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [output / STAGING / name for name in names if name not in (LOCK, OLD)]


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


def drop(output: Path, plan_hash: str | None = None) -> None:
    """Delete what unfinished runs have left in a folder: that of one plan, or of all."""
    for folder in _staged(output):
        if plan_hash is None or folder == _folder(output, plan_hash):
            shutil.rmtree(folder, ignore_errors=True)


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


def recover(output: Path) -> None:
    """Finish a publication that a crash cut short: the staged run was complete already, or even in place."""
    for folder in _staged(output):
        text = _read(folder / SUCCESS)
        if text is None:
            continue
        with suppress(PlanError):
            if success_of(text, str(folder / SUCCESS)) is not None:
                publish(output, folder)
                continue
        (folder / SUCCESS).unlink()  # damaged: its tiles have receipts, and are committed once more
    with suppress(PlanError):
        done = finished(output)
        if done is not None:
            for run in unfinished_runs(output, strict=False):
                if run.run_id == done.get("run_id"):
                    drop(output, run.plan_hash)
            shutil.rmtree(output / STAGING / OLD, ignore_errors=True)


def publish(output: Path, staged: Path) -> None:
    """Move a complete staged output into place, entry by entry; after a crash at any line it can be called again.

    `_SUCCESS` goes first and comes last: without it there is no finished run. What an older run left under our names
    is moved aside, and deleted when the new run stands. What runs of other plans have left stays for them.
    """
    aside = output / STAGING / OLD
    if (staged / SUCCESS).exists():
        formats = json.loads((staged / SUCCESS).read_text(encoding="utf-8"))["formats"]
        aside.mkdir(exist_ok=True)
        (output / SUCCESS).unlink(missing_ok=True)
        for name in (*FORMATS, MANIFEST, SETTINGS):
            arrives, stays = (staged / name).exists(), name in formats or name not in FORMATS
            if (output / name).exists() and (arrives or not stays):
                os.replace(output / name, aside / f"{name}-{time.time_ns()}")
            if arrives:
                os.replace(staged / name, output / name)
        os.replace(staged / SUCCESS, output / SUCCESS)
        sync(output)
    for left in (staged, aside):
        shutil.rmtree(left, ignore_errors=True)


def remove(output: Path) -> None:
    """Remove the finished run from a folder, and nothing else. `_SUCCESS` goes last, so that it can be done again.

    Raises:
        MachineError: a file cannot be removed.
    """
    try:
        for form in FORMATS:
            if (output / form).exists():
                shutil.rmtree(output / form)
        for name in (MANIFEST, SETTINGS, SUCCESS):
            (output / name).unlink(missing_ok=True)
    except OSError as error:
        raise fault(error, output) from error


def _write_durably(path: Path, lines: Iterable[str]) -> None:
    """Write a file of state whole, or not at all.

    Raises:
        MachineError: it cannot be written.
    """
    partial = path.with_name(path.name + ".tmp")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync(path.parent)
    except OSError as error:
        raise fault(error, path) from error
