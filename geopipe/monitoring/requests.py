"""What a person asks of a run at work: to pause, or to end. It is a word in the run's row, which its driver reads."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import closing

from geopipe.errors import GeopipeError
from geopipe.monitoring.database import connections

EVERY = 3.0
"""Seconds between two looks."""


def ask(run_id: str, what: str | None) -> None:
    """Ask a run to "pause" or to "cancel"; None takes it back.

    Raises:
        MachineError: the database cannot be asked.
    """
    told = connections.needed_dsn()
    with closing(connections.connect(told)) as connected, connections.working(told, "asking a run"):
        with connected.cursor() as cursor:
            cursor.execute("UPDATE pipeline_runs SET request = %s WHERE run_id = %s", (what, run_id))
        connected.commit()


def asked(run_id: str) -> str | None:
    """What is asked of a run.

    Raises:
        MachineError: the database cannot be asked.
    """
    told = connections.needed_dsn()
    connected = connections.connect(told, statement_timeout=2, connect_timeout=2)
    with closing(connected), connections.working(told, "looking for requests"), connected.cursor() as cursor:
        cursor.execute("SELECT request FROM pipeline_runs WHERE run_id = %s", (run_id,))
        row = cursor.fetchone()
    return row[0] if row else None


def listener(run_id: str, answers: dict[str, Callable[[], None]]) -> Callable[[], None]:
    """A function to be called often, which looks every now and then, and answers each request once.

    Args:
        answers: what to do, by request; those that are not there yet wait until a stage of the run brings them.
    """
    due, answered = 0.0, set[str]()

    def look() -> None:
        nonlocal due
        if time.monotonic() < due:
            return
        due = time.monotonic() + EVERY
        try:
            found = asked(run_id)
        except GeopipeError:
            return  # a database that is away asks nothing
        if found in answers and found not in answered:
            answers[found]()  # it may fail, and is asked for again
            answered.add(found)

    return look


def cancel() -> None:
    """End this process as a person would who stands beside it."""
    graceful = callable(signal.getsignal(signal.SIGTERM))
    os.kill(os.getpid(), signal.SIGTERM if graceful else signal.SIGINT)
