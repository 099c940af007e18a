"""Runs whose process died without a word (kill -9, out of memory): whoever looks next tells how they ended.

A run says at its start which process drives it, as this machine tells processes apart. Where that one is no more, what
it left on this machine is delivered, and if its end is not in that, it has failed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import connection

from geopipe import processes
from geopipe.errors import GeopipeError
from geopipe.monitoring.database import connections, store
from geopipe.monitoring.database.queries import drivers, run_of
from geopipe.monitoring.spool import files, source_name
from geopipe.redaction import redacted

log = logging.getLogger(__name__)


def settle(connected: connection, run_id: str | None = None, state: str = "failed") -> bool:
    """Tell the end of runs whose process was one of this machine, and is dead; whether there were any.

    It never raises: who looks may not be permitted to write, and sees the run as it was told.

    Args:
        connected: to ask by; what is told goes by another connection.
        run_id: only of this run; of all, those count, too, that died before the database had heard of them.
        state: what such a run becomes.
    """
    settled = False
    with suppress(GeopipeError, psycopg2.Error, OSError):
        settled = _settle(connected, run_id, state)
        if run_id is None:
            _deliver()
            settled |= _settle(connected, run_id, state)
    return settled


def _settle(connected: connection, run_id: str | None, state: str) -> bool:
    settled = False
    for run, attempt, driver in drivers(connected, run_id):
        if processes.is_dead(driver) and _delivered(run, attempt, driver):
            if run_of(connected, run).state == "running":
                _tell(run, attempt, driver, state)
            settled = True
    return settled


def _delivered(run_id: str, attempt: int, driver: Mapping[str, Any]) -> bool:
    """Deliver what the run left on this machine; whether nothing waits there that could tell how it ended."""
    folder = Path(str(driver.get("spool", "")))
    if folder.name != run_id or not folder.is_dir():
        return True
    _deliver(run_id, attempt, folder.parent)
    return not files(folder, "*.jsonl")


def _deliver(run_id: str = "", attempt: int = 1, root: Path | None = None) -> None:
    """Deliver what a run has left in the folder of all runs; what every dead process has, where no run is given."""
    from geopipe.monitoring.recorder import (  # loads what collects records, which who looks needs not
        Options,
        deliver_rest,
        spools,
    )

    options = Options(run_id, attempt, Path(), True, 100, 1.0, None, None, 2**20, root or spools())
    deliver_rest(options, 5.0, others=not run_id)


def _tell(run_id: str, attempt: int, driver: Mapping[str, Any], state: str) -> None:
    said = f"its process {driver.get('pid')} on {driver.get('host')} ended without a word: killed, or out of memory"
    error = {"type": "RunError", "message": said, "hint": "`geopipe run --resume` goes on with the tiles that are done"}
    detail: dict[str, Any] = {"exit_code": 137} if state == "cancelled" else {"error": error}
    note(run_id, state, detail, attempt, said)


def note(run_id: str, state: str, detail: Mapping[str, Any], attempt: int = 1, message: str = "") -> None:
    """Write a state of a run that cannot tell it: its process does not live yet, or any more.

    Args:
        message: for its log, as an error.

    Raises:
        MachineError: the database cannot be written.
    """
    record = {"source": source_name(), "ts": time.time(), "run_id": run_id, "attempt": attempt}
    told = [record | {"seq": 1, "kind": "state", "state": state, "detail": detail}]
    if message:
        told.append(record | {"seq": 2, "kind": "log", "level": "ERROR", "logger": __name__, "message": message})
    with closing(connections.connect(connections.needed_dsn())) as connected:
        store.write(connected, [redacted(one) for one in told])
