"""Stage a run and commit it, so that it may die at any moment and be resumed.

A run works in OUTPUT/_staging/<plan hash>/, where every process writes the receipts of its tiles (`ledger`). When every
tile has a receipt, these become the manifest, the staged folders are renamed into OUTPUT, and `_SUCCESS` is written
last. A reader of OUTPUT sees the old table or the new one. `--resume` continues with the tiles of a killed run.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe.durable import replacing, write_error
from geopipe.errors import PlanError, Terminated
from geopipe.export.ledger import JOURNALS, Ledger, ranges
from geopipe.export.lock import STAGING
from geopipe.export.publish import publish
from geopipe.export.state import MANIFEST, OLD, PAUSE, PLAN, REPORT, SETTINGS, SUCCESS, TRIES, staging_folder
from geopipe.export.tiles import CSV_PARTS, PARTIAL, Receipt, join_csv
from geopipe.export.views import VIEWS, join
from geopipe.plan.cells import runs_of
from geopipe.plan.plan import Plan
from geopipe.redaction import redacted

log = logging.getLogger(__name__)


class Staging:
    """The unfinished output of a run, OUTPUT/_staging/<plan hash>: its tiles and their receipts."""

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

    def begin(self, views: bool = False) -> NDArray[np.int64]:
        """Prepare the folder. Returns the keys of the tiles to do: those without complete files.

        Args:
            views: whether a view of each tile is taken for the report.
        """
        try:
            for partial in self.folder.rglob(f"*{PARTIAL}"):  # of a process that died while it wrote
                partial.unlink(missing_ok=True)
            for name in (*self.plan.options.formats, CSV_PARTS, JOURNALS):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            if views:
                (self.folder / VIEWS).mkdir(exist_ok=True)
            else:
                shutil.rmtree(self.folder / VIEWS, ignore_errors=True)
            (self.folder / SETTINGS).write_text(self.settings_toml, encoding="utf-8")
            state = {
                "plan_hash": self.plan.hash,
                "name": self.plan.name,
                "tiles": len(self.plan.keys),
                "run_id": self.run_id,
                "attempt": self.attempt,
                "overwrite": self.overwrite,
                "runs": runs_of(self.plan.keys),
                "skipped": self.plan.skipped,
            }
            self.pause.unlink(missing_ok=True)
            # the identity is redacted already: once more would take the hashes that keep two secrets apart
            _write_state(self.folder / PLAN, [json.dumps(redacted(state) | {"identity": self.plan.identity})])
            return self.left()
        except OSError as error:
            raise write_error(error, Path(error.filename or self.folder)) from error

    def left(self) -> NDArray[np.int64]:
        """The keys of the tiles without complete files."""
        return self.plan.keys[~self.ledger().intact(self.folder)[self.plan.keys]]

    @property
    def tries(self) -> Path:
        """The folder of the files that count the processes which work on a tile has ended."""
        return self.folder / TRIES

    @property
    def pause(self) -> Path:
        """The file whose presence pauses the run on every node."""
        return self.folder / PAUSE

    def ledger(self) -> Ledger:
        """The receipts so far."""
        return Ledger.read(self.folder, self.plan.estimate.tiles)

    def commit(self, report: dict[str, Any]) -> dict[str, int]:
        """Publish the complete output, with `report` in its `_SUCCESS`. Returns its totals: rows, files, bytes.

        Raises:
            PlanError: a tile has no receipt, which is a defect of geopipe.
        """
        ledger = self.ledger()
        missing = self.plan.keys[~ledger.done[self.plan.keys]]
        if missing.size:
            raise PlanError(
                f"{missing.size:,} of {len(self.plan.keys):,} tiles have no receipt ({ranges(missing.tolist())}); "
                f"nothing is published",
                "this is a defect of geopipe: please report it with the log",
            )
        totals = {"rows": 0, "files": 0, "bytes": 0}

        def lines() -> Iterator[str]:
            receipts: Iterable[Receipt] = ledger.receipts()
            if self.plan.options.layout.csv_files == "one":
                receipts = join_csv(self.folder, self.plan, receipts)
            for receipt in receipts:
                totals["rows"] += receipt.rows
                totals["files"] += sum(f.offset == 0 for f in receipt.files)  # a shared file counts once
                totals["bytes"] += sum(f.bytes for f in receipt.files)
                yield receipt.line()

        _write_state(self.folder / MANIFEST, lines())
        self._join_views()
        success = {
            "plan_hash": self.plan.hash,
            **totals,
            "formats": list(self.plan.options.formats),
            "schema": {f.name: str(f.type) for f in self.plan.spec.schema},
            **report,
        }
        text = json.dumps(redacted(success) | {"provenance": self.plan.provenance}, indent=2)
        _write_state(self.folder / SUCCESS, [text + "\n"])
        try:
            publish(self.output, self.folder)
        except (KeyboardInterrupt, Terminated):  # publishing is quick, and can be repeated
            publish(self.output, self.folder)
            raise
        except OSError as error:
            raise write_error(error, Path(error.filename or self.output)) from error
        return totals

    def _join_views(self) -> None:
        """Join the views of the tiles to the sample of the report; a table is published without it, too."""
        try:
            join(self.folder, self.plan.keys.tolist(), REPORT)
        except (OSError, pa.ArrowException, ValueError, LookupError, TypeError) as error:
            shutil.rmtree(self.folder / REPORT, ignore_errors=True)
            log.warning("the report will read its sample from the table: %s", error)

    def discard(self) -> None:
        """Delete everything that this run wrote; an earlier finished run stays.

        A complete run is kept: `recover` publishes it. The folder is moved aside first: a worker that has not heard yet
        that the run failed finds none to open a file in.
        """
        if not (self.folder / SUCCESS).exists():
            aside = self.output / STAGING / OLD
            with suppress(OSError):
                aside.mkdir(exist_ok=True)
                os.replace(self.folder, aside / f"{self.folder.name}-{time.time_ns()}")
            for folder in (self.folder, aside):
                shutil.rmtree(folder, ignore_errors=True)

    def leave(self) -> int:
        """Keep the tiles that are done for `--resume`; without any delete the folder. Returns their number."""
        done = int(self.ledger().done.sum())
        if not done:
            self.discard()
        return done


def _write_state(path: Path, lines: Iterable[str]) -> None:
    """Write a state file atomically.

    Raises:
        MachineError: it cannot be written.
    """
    try:
        with replacing(path) as file:
            file.writelines(line.encode() for line in lines)
    except OSError as error:
        raise write_error(error, path) from error
