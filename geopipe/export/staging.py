"""How a run is staged and committed, so that it may die at any moment and go on.

A run works in OUTPUT/_staging/<plan hash>/, where every process notes the receipts of its tiles (`ledger`). When every
tile has one, they become the manifest, the staged folders are renamed into OUTPUT, and `_SUCCESS` is written last. A
reader of OUTPUT sees the old table, or the new one. What a killed run left is there for `--resume`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geopipe.durable import replacing, write_error
from geopipe.errors import PlanError, Terminated
from geopipe.export.ledger import JOURNALS, Ledger, ranges
from geopipe.export.publish import publish
from geopipe.export.state import MANIFEST, PAUSE, PLAN, SETTINGS, SUCCESS, staging_folder
from geopipe.export.tiles import CSV_PARTS, PARTIAL, Receipt, join_csv
from geopipe.plan.cells import runs_of
from geopipe.plan.plan import Plan
from geopipe.redaction import redacted


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
        self.folder = staging_folder(output, plan.hash)

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
            _write_state(self.folder / PLAN, [json.dumps(redacted(about))])
            return self.plan.keys[~self.ledger().intact(self.folder)[self.plan.keys]]
        except OSError as error:
            raise write_error(error, Path(error.filename or self.folder)) from error

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

        _write_state(self.folder / MANIFEST, lines())
        for form in self.plan.options.formats:
            for left in (self.folder / form).rglob(f"*{PARTIAL}"):  # by a worker that died while it wrote
                left.unlink()
        success = {
            "plan_hash": self.plan.hash,
            **totals,
            "formats": list(self.plan.options.formats),
            "schema": {f.name: str(f.type) for f in self.plan.spec.schema},
            **report,
            "provenance": self.plan.provenance,
        }
        _write_state(self.folder / SUCCESS, [json.dumps(redacted(success), indent=2) + "\n"])
        try:
            publish(self.output, self.folder)
        except (KeyboardInterrupt, Terminated):  # it takes no time, and can be repeated
            publish(self.output, self.folder)
            raise
        except OSError as error:
            raise write_error(error, Path(error.filename or self.output)) from error
        return totals

    def discard(self) -> None:
        """Take back everything that this run wrote; an earlier finished run stays.

        A run that is complete is kept: `recover` publishes it.
        """
        if not (self.folder / SUCCESS).exists():
            shutil.rmtree(self.folder, ignore_errors=True)

    def leave(self) -> int:
        """Leave what is done for `--resume`, or nothing where nothing is; returns how many tiles are done."""
        done = int(self.ledger().done.sum())
        if not done:
            self.discard()
        return done


def _write_state(path: Path, lines: Iterable[str]) -> None:
    """Write a state file; MachineError where that is impossible."""
    try:
        with replacing(path) as file:
            file.writelines(line.encode() for line in lines)
    except OSError as error:
        raise write_error(error, path) from error
