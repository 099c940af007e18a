"""Looking at a run again and again: woken by Postgres, once a second anyway, and on through its restarts."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psycopg2
import psycopg2.errors
from psycopg2.extensions import connection

from geopipe.errors import GeopipeError, MachineError, SettingsError, first_line
from geopipe.monitoring.database import connections
from geopipe.monitoring.database.queries import find_run, log_marks, new_logs, run_of, runs
from geopipe.monitoring.database.runs import Filter, Log, Look, Run
from geopipe.monitoring.home import spool_root
from geopipe.monitoring.spool import living

T = TypeVar("T")

EVERY = 1.0
"""Seconds between two looks. Polling is the truth: a notification only makes the next look come sooner."""

SOONEST = 0.25
"""Seconds from a look to the next, however many notifications come."""

WINDOW = 30.0
"""Seconds that a rate is taken over."""

ENOUGH = 10.0
"""Seconds of history from which a rate is one: work arrives in batches, every few seconds."""

GRACE = 2.0
"""Seconds after the end of a run in which records of its workers may still come."""


@dataclass(frozen=True)
class Away:
    """The database cannot be asked, and why."""

    reason: str


@dataclass(frozen=True)
class Pace:
    """Cells per second of a stage; None: not known."""

    cells: float | None


def connect_to_read() -> connection:
    """A connection on which nothing can be written, and each statement sees what is there by then.

    Raises:
        MachineError: there is no database, or not one of this geopipe.
    """
    connected = connections.connect(connections.needed_dsn())
    connected.rollback()
    connected.set_session(readonly=True, autocommit=True)
    return connected


@contextmanager
def reading(connect: Callable[[], connection] = connect_to_read) -> Iterator[connection]:
    """A connection for some questions.

    Raises:
        SettingsError: the server cannot read a regular expression.
        MachineError: it cannot answer.
    """
    connected = connect()
    try:
        yield connected
    except psycopg2.Error as error:
        raise told(error) from None
    finally:
        _close(connected)


def told(error: psycopg2.Error) -> GeopipeError:
    """An error of the server as one message."""
    if isinstance(error, psycopg2.errors.InvalidRegularExpression):
        return SettingsError(
            f"--grep: {first_line(error)}", "write a regular expression of Postgres, such as 'tile [0-9]+'"
        )
    return MachineError(f"the monitor's database says: {first_line(error)}", "see the server's log, and try again")


def newest(connected: connection, seconds: float = 0.0, tell: Callable[[str], None] = lambda _: None) -> str:
    """The id of the newest run; where that is over, of one that begins within so many seconds.

    One whose process is on this machine, and has not been heard of yet, is waited for as long as that lives.

    Args:
        tell: is told once that there is such a process.

    Raises:
        SettingsError: there is no run.
    """
    before, end, told = runs(connected, limit=1), time.monotonic() + seconds, False
    while not before or before[0].over:
        found = runs(connected, limit=1)
        if found and (not before or found[0].run_id != before[0].run_id):
            return found[0].run_id
        starting = [folder.name for folder in _starting(before[0].run_id if before else "")]
        if starting and not told:
            told = True
            tell(f"waiting for run {starting[0]}, which has told nothing yet")
        if not starting and time.monotonic() >= end:
            break
        time.sleep(0.2)
    return find_run(connected, None).run_id


def _starting(after: str) -> list[Path]:
    """Where processes of this machine keep the records of runs that are younger than one."""
    with suppress(OSError):
        return [f for f in spool_root().iterdir() if f.name > after and f.is_dir() and living(f)]
    return []


def looks(
    connect: Callable[[], connection], run_id: str, read: Callable[[connection], T], every: float = EVERY
) -> Iterator[T | Away]:
    """What `read` finds, each time that something may have changed, without an end.

    A server that goes away is asked again every second; an `Away` says so, once for each reason.
    """
    connected: connection | None = None
    away = ""
    try:
        while True:
            start = time.monotonic()
            try:
                if connected is None:
                    connected = _listening(connect)
                found = read(connected)
            except (psycopg2.OperationalError, psycopg2.InterfaceError, GeopipeError) as error:
                if isinstance(error, GeopipeError) and connected is not None:
                    raise  # the run is gone, which no waiting changes
                _close(connected)
                connected = None
                reason = (
                    error.message
                    if isinstance(error, GeopipeError)
                    else f"the monitor's database is away: {first_line(error)}"
                )
                if reason != away:
                    away = reason
                    yield Away(reason)
                time.sleep(every)
                continue
            away = ""
            yield found
            _wait(connected, run_id, start, every)
    finally:
        _close(connected)


def _listening(connect: Callable[[], connection]) -> connection:
    connected = connect()
    try:
        # a standby, or a pool of connections, may not let anybody listen: then there is polling
        with suppress(psycopg2.NotSupportedError, psycopg2.InternalError), connected.cursor() as cursor:
            cursor.execute("LISTEN geopipe")
    except psycopg2.Error:
        _close(connected)
        raise
    return connected


def _close(connected: connection | None) -> None:
    if connected is not None:
        connected.close()


def _wait(connected: connection, run_id: str, start: float, every: float) -> None:
    """Until `every` seconds after `start`, or until the run is heard of."""
    end = start + every
    try:
        while (left := end - time.monotonic()) > 0:
            if select.select([connected], [], [], left)[0]:
                connected.poll()
            if any(notice.payload == run_id for notice in connected.notifies):
                end = min(end, start + SOONEST)
            connected.notifies.clear()
    except (psycopg2.Error, OSError, ValueError):  # the connection is lost, as the next look will find
        time.sleep(max(min(start + SOONEST, end) - time.monotonic(), 0))


def until_done(found: Iterator[Look | Away]) -> Iterator[Look | Away]:
    """Looks until the run has ended or paused; the last is one look later, when what it counted last is there, too."""
    first = closing = True
    for look in found:
        if isinstance(look, Look) and look.run.over and not first and closing:
            closing = False
            continue
        yield look
        if isinstance(look, Look):
            if look.run.over:
                return
            first = False


# ---------------------------------------------------------------- logs


@dataclass(frozen=True)
class Batch:
    """New records of a run, and the run."""

    run: Run
    logs: tuple[Log, ...]


def tail(run_id: str, asked: Filter, marks: dict[str, int]) -> Callable[[connection], Batch]:
    """A `read` for `looks` that finds what came behind `marks`, and moves them."""

    def read(connected: connection) -> Batch:
        run = run_of(connected, run_id)  # before its records: what a run that has ended wrote is then there
        upto = log_marks(connected, run)
        found = new_logs(connected, run, asked, marks, upto)
        marks.update(upto)
        return Batch(run, tuple(found))

    return read


def until_end(batches: Iterator[Batch | Away], grace: float = GRACE) -> Iterator[Batch | Away]:
    """Batches until the run has ended or paused, and nothing more came for `grace` seconds."""
    quiet: float | None = None
    for batch in batches:
        yield batch
        if isinstance(batch, Away):
            continue
        now = time.monotonic()
        if not batch.run.over or batch.logs or quiet is None:
            quiet = now
        if batch.run.over and now - quiet >= grace:
            return


# ---------------------------------------------------------------- rates


def paces(history: Sequence[tuple[float, Look]]) -> dict[str, Pace]:
    """How fast each stage is, by looks at different times (the newest last).

    The rate is that of the last half minute. Before there is enough history it is what the run measured itself, and
    else the mean since its start.
    """
    now, last = history[-1]
    kept = [at for at in history if now - at[0] <= WINDOW]
    then, first = kept[0]
    old = {stage.stage: stage for stage in first.stages}
    elapsed = last.run.seconds or 0.0
    made = {}
    for stage in last.stages:
        cells = stage.cells / elapsed if elapsed else None
        if not last.run.over and (before := old.get(stage.stage)) and now - then >= ENOUGH:
            cells = max(stage.cells - before.cells, 0) / (now - then)
        elif not last.run.over:
            cells = last.speeds.get(stage.stage, cells)
        done = bool(stage.of) and stage.tiles >= (stage.of or 0)
        cells = None if done and not last.run.over else cells  # its last rate would go on falling
        made[stage.stage] = Pace(cells)
    return made


def remembered(history: list[tuple[float, Look]], look: Look) -> None:
    """Add a look to `history`, and forget those that no rate needs."""
    now = time.monotonic()
    history.append((now, look))
    while now - history[0][0] > WINDOW:
        history.pop(0)
