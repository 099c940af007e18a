"""Requests of people to a running run, to pause or to cancel: a word in the run's row, which its driver reads."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import closing

from geopipe.errors import GeopipeError
from geopipe.monitoring.database import connections

EVERY = 3.0
"""Seconds between two reads of the row."""


def send_request(run_id: str, request: str | None) -> None:
    """Request a run to "pause" or to "cancel"; None withdraws the request.

    Raises:
        MachineError: the database cannot be used.
    """
    dsn = connections.needed_dsn()
    with closing(connections.connect(dsn)) as connected, connections.working(dsn, "asking a run"):
        with connected.cursor() as cursor:
            cursor.execute("UPDATE pipeline_runs SET request = %s WHERE run_id = %s", (request, run_id))
        connected.commit()


def read_request(run_id: str) -> str | None:
    """The request in the row of a run.

    Raises:
        MachineError: the database cannot be used.
    """
    dsn = connections.needed_dsn()
    connected = connections.connect(dsn, statement_timeout=2, connect_timeout=2)
    with closing(connected), connections.working(dsn, "looking for requests"), connected.cursor() as cursor:
        cursor.execute("SELECT request FROM pipeline_runs WHERE run_id = %s", (run_id,))
        row = cursor.fetchone()
    return row[0] if row else None


class Requests:
    """The requests to a run, each answered once by an action; `answer` is to be called often."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._actions: dict[str, Callable[[], None]] = {}
        self._answered: set[str] = set()
        self._due = 0.0

    def on(self, request: str, action: Callable[[], None]) -> None:
        """Answer a request by this action, from now on. A request without an action waits for one."""
        self._actions[request] = action

    def answer(self) -> None:
        """Read the run's row, every few seconds, and answer a new request; an action that fails is called again."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + EVERY
        try:
            request = read_request(self._run_id)
        except GeopipeError:
            return  # a database that is away has no requests
        action = self._actions.get(request or "")
        if request and action and request not in self._answered:
            action()
            self._answered.add(request)


def interrupt() -> None:
    """End this process as a signal from its terminal would."""
    graceful = callable(signal.getsignal(signal.SIGTERM))
    os.kill(os.getpid(), signal.SIGTERM if graceful else signal.SIGINT)
