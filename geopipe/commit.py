"""How a run is staged, committed and recovered, and what may be deleted (nothing foreign).

A run works in OUTPUT/_staging/<plan hash>/. When every tile has its receipt in the manifest, the staged folders are
renamed into OUTPUT and `_SUCCESS` is written last. A reader of OUTPUT sees the old table, or the new one.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from geopipe.errors import MachineError, PlanError
from geopipe.export import FORMATS, Receipt, existing, fault, is_ours, join_csv, sync, totals
from geopipe.plan import Plan

STAGING, SUCCESS, MANIFEST, SETTINGS, LOCK = "_staging", "_SUCCESS", "manifest.jsonl", "settings.toml", "_lock"


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
        raise PlanError(f"run.output = {output} is a file", "give a folder")
    if output.is_dir():
        entries = {p.name for p in output.iterdir()}
        finished = _finished(output)
        if entries and not finished and STAGING not in entries:
            raise PlanError(
                f"run.output = {output} holds {len(entries)} entries ({', '.join(sorted(entries)[:3])}, ...) "
                f"and no run of geopipe; it is left as it is",
                "choose an empty or a new folder",
            )
        if finished and not overwrite:
            raise PlanError(
                f"run.output = {output} holds a finished run", "give --overwrite to replace it, or another run.output"
            )
        for form in FORMATS:
            foreign = [p.name for p in (output / form).rglob("*") if not (p.is_dir() or is_ours(p.name))]
            if foreign:
                raise PlanError(
                    f"{output / form} holds {len(foreign)} files that no run wrote ({', '.join(sorted(foreign)[:3])})",
                    "move them elsewhere: an overwrite replaces the folder",
                )
    try:
        with tempfile.TemporaryFile(dir=existing(output)):
            pass
    except OSError as error:
        raise MachineError(
            f"run.output = {output} cannot be written: {error.strerror} in {existing(output)}",
            "choose another run.output, or permit this user to write there",
        ) from None


def _finished(output: Path) -> bool:
    """Whether a finished run of geopipe is here; others write `_SUCCESS` files, too."""
    try:
        return "plan_hash" in json.loads((output / SUCCESS).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


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
                f"run.output = {output} is in use by {lock.read().strip() or 'another run'}",
                "wait for that run to end, or choose another run.output",
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
    """The unfinished output of a run: where tiles go, and the manifest of those that are done."""

    def __init__(self, output: Path, plan: Plan, settings_toml: str) -> None:
        self.output, self.plan, self.settings_toml = output, plan, settings_toml
        self.folder = output / STAGING / plan.hash[:16]
        self.receipts: list[Receipt] = []

    def begin(self) -> None:
        """Start empty: what an earlier attempt left here is gone."""
        try:
            shutil.rmtree(self.folder, ignore_errors=True)
            for form in self.plan.options.formats:
                (self.folder / form).mkdir(parents=True)
            (self.folder / SETTINGS).write_text(self.settings_toml, encoding="utf-8")
            self._manifest = open(self.folder / MANIFEST, "a", encoding="utf-8")  # noqa: SIM115 - open for the run
        except OSError as error:
            raise fault(error, self.folder) from error

    def record(self, receipt: Receipt) -> None:
        """Note that a tile's files are in place."""
        self.receipts.append(receipt)
        self._manifest.write(receipt.line())
        self._manifest.flush()

    def commit(self, report: dict[str, Any]) -> dict[str, int]:
        """Publish the whole output; `report` is added to `_SUCCESS`. Returns its totals: rows, files, bytes.

        Raises:
            PlanError: a tile is missing or there twice: a bug, never a state to publish.
        """
        self._manifest.close()
        done = sorted(self.receipts, key=lambda r: r.tile)
        if [r.tile for r in done] != list(range(self.plan.estimate.tiles)):
            raise PlanError(
                f"{len(done)} receipts for {self.plan.estimate.tiles} tiles; nothing is published",
                "this is a defect of geopipe: please report it with the log",
            )
        if self.plan.options.layout.csv_files == "one":
            done = join_csv(self.folder, self.plan, done)
        _write_durably(self.folder / MANIFEST, (r.line() for r in done))
        named = {self.folder / f.path for r in done for f in r.files}
        for form in self.plan.options.formats:
            files = {p for p in (self.folder / form).rglob("*") if p.is_file()}
            for left in files - named:  # by a worker that died while it wrote, or what became one CSV file
                left.unlink()
        success = {
            "plan_hash": self.plan.hash,
            **(sums := totals(done)),
            "formats": list(self.plan.options.formats),
            "schema": {f.name: str(f.type) for f in self.plan.spec.schema},
            **report,
        }
        _write_durably(self.folder / SUCCESS, [json.dumps(success, indent=2) + "\n"])
        publish(self.output, self.folder)
        return sums

    def discard(self) -> None:
        """Take back everything that this run wrote; an earlier finished run stays.

        A run that is complete is kept: `recover` publishes it.
        """
        self._manifest.close()
        if not (self.folder / SUCCESS).exists():
            shutil.rmtree(self.folder, ignore_errors=True)


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


def _write_durably(path: Path, lines: Iterable[str]) -> None:
    partial = path.with_name(path.name + ".tmp")
    with open(partial, "w", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync(path.parent)
