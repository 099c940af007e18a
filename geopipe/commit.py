"""How a run is staged, committed and recovered, and what may be deleted (nothing foreign).

A run works in OUTPUT/_staging/<plan hash>/, where every process notes the receipts of its tiles (`ledger`). When every
tile has one, they become the manifest, the staged folders are renamed into OUTPUT, and `_SUCCESS` is written last. A
reader of OUTPUT sees the old table, or the new one. What a killed run left is there for `--resume`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geopipe import ledger
from geopipe.choice import keys_of, runs_of
from geopipe.errors import MachineError, PlanError
from geopipe.export import CSV_PARTS, FORMATS, Receipt, existing, fault, is_ours, join_csv, sync
from geopipe.ledger import JOURNALS, Ledger, differences, ranges
from geopipe.plan import Plan

STAGING, SUCCESS, MANIFEST, SETTINGS, LOCK = "_staging", "_SUCCESS", "manifest.jsonl", "settings.toml", "_lock"
PLAN, PAUSE = "plan.json", "pause"


def free_bytes(output: Path) -> int:
    """Free space where the output will be."""
    return shutil.disk_usage(existing(output)).free


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse an output folder that cannot or must not be used. Nothing is written.

    Raises:
        PlanError: it holds a finished run (without `overwrite`), or is not geopipe's.
        MachineError: it cannot be written.
    """
    if output.exists() and not output.is_dir():
        raise PlanError(f"{output} is a file", "give a folder")
    if output.is_dir():
        entries = {p.name for p in output.iterdir()}
        done = finished(output) is not None
        inside = (p for form in FORMATS for p in (output / form).rglob("*") if not p.is_dir())
        files = {p.relative_to(output).as_posix() for p in inside}
        refuse(output, done, () if done or STAGING in entries else entries, files, overwrite)
    try:
        with tempfile.TemporaryFile(dir=existing(output)):
            pass
    except OSError as error:
        raise MachineError(
            f"{output} cannot be written: {error.strerror} in {existing(output)}",
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
    """What `_SUCCESS` says, where a finished run of geopipe is here; others write such files, too."""
    try:
        return success_of((output / SUCCESS).read_bytes())
    except OSError:
        return None


def success_of(text: bytes) -> dict[str, Any] | None:
    """What a `_SUCCESS` says; None where it is not geopipe's."""
    try:
        success = json.loads(text)
    except ValueError:
        return None
    return success if isinstance(success, dict) and "plan_hash" in success else None


@contextmanager
def locked(output: Path, run_id: str) -> Iterator[None]:
    """Hold the output folder for one run; the lock dies with the process.

    At the end the folder is as it was before, but for a table or a staged run that stands in it.

    Raises:
        MachineError: another run holds it, or the folder cannot be made.
    """
    made = [p for p in (output, *output.parents) if not p.exists()]
    try:
        (output / STAGING).mkdir(parents=True, exist_ok=True)
        lock = open(output / STAGING / LOCK, "a+")  # noqa: SIM115 - closed below, where errors mean something else
    except OSError as error:
        raise fault(error, output) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise MachineError(
                f"{output} is in use by {lock.read().strip() or 'another run'}",
                "wait for that run to end, or choose another folder",
            ) from None
        lock.truncate(0)
        lock.write(f"run {run_id}, process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        try:
            yield
        finally:
            (output / STAGING / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # not empty: there is something to keep
                for folder in (output / STAGING, *made):
                    folder.rmdir()


class Staging:
    """The unfinished output of a run: OUTPUT/_staging/<plan hash>, where tiles go and their receipts are noted."""

    def __init__(self, output: Path, plan: Plan, settings_toml: str, run_id: str = "", attempt: int = 1) -> None:
        self.output, self.plan, self.settings_toml = output, plan, settings_toml
        self.run_id, self.attempt = run_id, attempt
        self.folder = output / STAGING / plan.hash[:16]

    def begin(self, resume: bool = False) -> NDArray[np.int64]:
        """Make ready, and say which tiles are to be done: all, or (`resume`) those that have no whole files yet.

        Without `resume`, what an earlier attempt left here is gone.
        """
        try:
            if not resume:
                shutil.rmtree(self.folder, ignore_errors=True)
            for name in (*self.plan.options.formats, CSV_PARTS, JOURNALS):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            (self.folder / SETTINGS).write_text(self.settings_toml, encoding="utf-8")
            about = {"plan_hash": self.plan.hash, "name": self.plan.name, "tiles": len(self.plan.keys)}
            about |= {
                "run_id": self.run_id,
                "attempt": self.attempt,
                "runs": runs_of(self.plan.keys),
                "all": self.plan.estimate.tiles,
                "skipped": self.plan.skipped,
                "identity": self.plan.identity,
            }
            self.pause.unlink(missing_ok=True)
            _write_durably(self.folder / PLAN, [json.dumps(about)])
        except OSError as error:
            raise fault(error, self.folder) from error
        return self.plan.keys[~self.ledger().intact(self.folder)[self.plan.keys]]

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
            for left in (self.folder / form).rglob("*.tmp"):  # by a worker that died while it wrote
                left.unlink()
        success = {
            "plan_hash": self.plan.hash,
            **totals,
            "formats": list(self.plan.options.formats),
            "schema": {f.name: str(f.type) for f in self.plan.spec.schema},
            **report,
        }
        _write_durably(self.folder / SUCCESS, [json.dumps(success, indent=2) + "\n"])
        publish(self.output, self.folder)
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
    """A run that was cut short, paused or is at work, as its staging folder tells."""

    run_id: str
    attempt: int
    plan_hash: str
    name: str
    tiles: int
    done: int
    missing: str
    bytes: int
    skipped: dict[str, str]
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
        PlanError: there is no run of geopipe, finished or not.
    """
    done = finished(output)
    unfinished = unfinished_runs(output)
    if done is None and not unfinished:
        raise PlanError(
            f"{output} holds no run of geopipe" if output.exists() else f"{output} does not exist",
            "give the output folder of a run (run.output in its settings)",
        )
    return Status(output, done, unfinished, _holder(output))


def unfinished_runs(output: Path) -> tuple[Unfinished, ...]:
    """The runs that were cut short in a folder, or are at work there; the newest last."""
    plans = sorted((output / STAGING).glob(f"*/{PLAN}"), key=lambda path: path.stat().st_mtime_ns)
    return tuple(_unfinished(path.parent) for path in plans)


def _unfinished(folder: Path) -> Unfinished:
    about = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    noted = Ledger.read(folder, about["all"])
    done = int(noted.done.sum())
    size = sum(f.bytes for receipt in noted.receipts() for f in receipt.files)
    keys = keys_of(about["runs"])
    missing = ranges(keys[~noted.done[keys]].tolist())
    names = ("run_id", "attempt", "plan_hash", "name", "tiles", "skipped", "identity")
    return Unfinished(done=done, missing=missing, bytes=size, **{name: about[name] for name in names})


def _holder(output: Path) -> str:
    """The run that holds the folder now, as its lock says; empty where none does."""
    try:
        with open(output / STAGING / LOCK) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return lock.read().strip()
    except OSError:
        pass
    return ""


def last_unfinished(output: Path) -> Unfinished | None:
    """The run that `--resume` would go on with."""
    found = unfinished_runs(output)
    return found[-1] if found else None


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
        "give it the settings and sources that it had, or start over without --resume",
    )


def recover(output: Path) -> None:
    """Finish a publication that a crash cut short: the staged run was complete already."""
    for success in (output / STAGING).glob(f"*/{SUCCESS}"):
        publish(output, success.parent)


def publish(output: Path, staged: Path) -> None:
    """Move a complete staged output into place, entry by entry; after a crash at any line it can be called again.

    `_SUCCESS` goes first and comes last: without it there is no finished run. What an older run left under our names
    is moved aside, and deleted when the new run stands.
    """
    formats = json.loads((staged / SUCCESS).read_text(encoding="utf-8"))["formats"]
    aside = output / STAGING / "old"
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
    for left in (output / STAGING).iterdir():
        if left.is_dir():
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
    partial = path.with_name(path.name + ".tmp")
    with open(partial, "w", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync(path.parent)
