"""Runs whose process died without a last record (kill -9, out of memory). Whoever looks next records how they ended.

A run records at its start which process drives it. If that process is gone, its leftovers on this machine are
delivered; if these do not hold the end of the run, the run has failed.
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
from geopipe.monitoring.options import MonitoringOptions
from geopipe.monitoring.spool import files, source_name
from geopipe.redaction import redacted

log = logging.getLogger(__name__)


def settle(connected: connection, run_id: str | None = None, state: str = "failed") -> bool:
    """Record the end of runs whose process on this machine is dead. Returns whether there were any.

    Never raises: a user who may only read sees the run as it was recorded.

    Args:
        connected: to read with; the end is written through another connection.
        run_id: only this run; for all runs, those that the database does not know yet are delivered, too.
        state: the state of such a run.
    """
    settled = False
    with suppress(GeopipeError, psycopg2.Error, OSError):
        settled = _settle(connected, run_id, state)
        if run_id is None:
            from geopipe.monitoring.leftovers import deliver_others  # loads prometheus_client

            deliver_others(MonitoringOptions(""), 5.0)
            settled |= _settle(connected, run_id, state)
    return settled


def _settle(connected: connection, run_id: str | None, state: str) -> bool:
    settled = False
    for run, attempt, driver in drivers(connected, run_id):
        if processes.is_dead(driver) and _delivered(run, attempt, driver):
            if run_of(connected, run).state == "running":
                _record_death(run, attempt, driver, state)
            settled = True
    return settled


def _delivered(run_id: str, attempt: int, driver: Mapping[str, Any]) -> bool:
    """Deliver the leftovers of a run on this machine. Returns whether none is left that could hold its end."""
    folder = Path(str(driver.get("spool", "")))
    if folder.name != run_id or not folder.is_dir():
        return True
    from geopipe.monitoring.leftovers import deliver_own  # loads prometheus_client

    deliver_own(MonitoringOptions(run_id, attempt, root=folder.parent), 5.0)
    return not files(folder, "*.jsonl")


def _record_death(run_id: str, attempt: int, driver: Mapping[str, Any], state: str) -> None:
    message = f"its process {driver.get('pid')} on {driver.get('host')} ended without a word: killed, or out of memory"
    hint = "`geopipe run --resume` goes on with the tiles that are done"
    error = {"type": "RunError", "message": message, "hint": hint}
    detail: dict[str, Any] = {"exit_code": 137} if state == "cancelled" else {"error": error}
    record_state(run_id, state, detail, attempt, message)


def record_state(run_id: str, state: str, detail: Mapping[str, Any], attempt: int = 1, message: str = "") -> None:
    """Record the state of a run whose process does not live: not yet, or no more.

    Args:
        message: logged as an error of the run.

    Raises:
        MachineError: the database cannot be written.
    """
    envelope = {"source": source_name(), "ts": time.time(), "run_id": run_id, "attempt": attempt}
    batch = [envelope | {"seq": 1, "kind": "state", "state": state, "detail": detail}]
    if message:
        batch.append(envelope | {"seq": 2, "kind": "log", "level": "ERROR", "logger": __name__, "message": message})
    with closing(connections.connect(connections.needed_dsn())) as connected:
        store.write(connected, [redacted(record) for record in batch])
