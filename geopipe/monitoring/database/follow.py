"""Follow a run: read it each second, sooner after a notification of Postgres, and through restarts of the server."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psycopg2
import psycopg2.errors
from psycopg2.extensions import connection

from geopipe.errors import GeopipeError, MachineError, SettingsError, first_line
from geopipe.monitoring import dead_runs
from geopipe.monitoring.database import connections
from geopipe.monitoring.database.history import log_marks, new_logs
from geopipe.monitoring.database.queries import find_run, run_of, runs
from geopipe.monitoring.database.runs import Filter, LogRow, Look, RunRow
from geopipe.monitoring.home import spool_root
from geopipe.monitoring.presence import living

T = TypeVar("T")

EVERY = 1.0
"""Seconds between two reads. Polling suffices: a notification only makes the next read come sooner."""

SOONEST = 0.25
"""Seconds between two reads at least, however many notifications come."""

WINDOW = 30.0
"""Seconds over which a rate is computed."""

ENOUGH = 10.0
"""Seconds of history that a rate needs: work arrives in batches, every few seconds."""

GRACE = 2.0
"""Seconds after the end of a run in which its workers may still send records."""


@dataclass(frozen=True)
class Away:
    """The database does not answer, and why."""

    reason: str


def connect_to_read() -> connection:
    """A read-only connection, each statement of which sees the latest rows; it listens to notifications.

    Raises:
        MachineError: there is no database, or its schema is not that of this geopipe.
    """
    connected = connections.connect(connections.needed_dsn())
    connected.rollback()
    connected.set_session(readonly=True, autocommit=True)
    # a standby or a connection pool may refuse LISTEN; polling suffices
    with suppress(psycopg2.NotSupportedError, psycopg2.InternalError), connected.cursor() as cursor:
        cursor.execute("LISTEN geopipe")
    return connected


@contextmanager
def reading() -> Iterator[connection]:
    """A connection for some queries.

    Raises:
        SettingsError: a regular expression is not valid.
        MachineError: the server cannot answer.
    """
    with closing(connect_to_read()) as connected:
        try:
            yield connected
        except psycopg2.errors.InvalidRegularExpression as error:
            hint = "write a regular expression of Postgres, such as 'tile [0-9]+'"
            raise SettingsError(f"--grep: {first_line(error)}", hint) from None
        except psycopg2.Error as error:
            hint = "see the server's log, and try again"
            raise MachineError(f"the monitor's database says: {first_line(error)}", hint) from None


def newest(connected: connection, seconds: float = 0.0, announce: Callable[[str], None] = lambda _: None) -> str:
    """The id of the newest run; if that is over, wait for a run that is starting.

    A run whose process on this machine has recorded nothing yet is waited for as long as the process lives.

    Args:
        seconds: to wait for a run of which nothing is known.
        announce: called once with a message if such a process lives.

    Raises:
        SettingsError: there is no run.
    """
    before, end, announced = runs(connected, limit=1), time.monotonic() + seconds, False
    while not before or before[0].over:
        now = runs(connected, limit=1)
        if now and (not before or now[0].run_id != before[0].run_id):
            return now[0].run_id
        starting = [folder.name for folder in _starting(before[0].run_id if before else "")]
        if starting and not announced:
            announced = True
            announce(f"waiting for run {starting[0]}, which has recorded nothing yet")
        if not starting and time.monotonic() >= end:
            break
        time.sleep(0.2)
    return find_run(connected, None).run_id


def _starting(after: str) -> list[Path]:
    """Spool folders of living processes on this machine, of runs that are younger than the run `after`."""
    with suppress(OSError):
        return [f for f in spool_root().iterdir() if f.name > after and f.is_dir() and living(f)]
    return []


def looks(
    connect: Callable[[], connection], run_id: str, read: Callable[[connection], T], every: float = EVERY
) -> Iterator[T | Away]:
    """Results of `read`, each time that something may have changed, without an end. A dead run is settled first.

    If the server goes away, an `Away` is yielded once for each reason, and the server is tried every second.
    """
    connected: connection | None = None
    away = ""
    with ExitStack() as opened:
        while True:
            start = time.monotonic()
            try:
                if connected is None:
                    connected = opened.enter_context(closing(connect()))
                dead_runs.settle(connected, run_id)
                result = read(connected)
            except (psycopg2.OperationalError, psycopg2.InterfaceError, GeopipeError) as error:
                ours = isinstance(error, GeopipeError)
                if ours and connected is not None:
                    raise  # the run is gone
                opened.close()
                connected = None
                reason = error.message if ours else f"the monitor's database is away: {first_line(error)}"
                if reason != away:
                    away = reason
                    yield Away(reason)
                time.sleep(every)
            else:
                away = ""
                yield result
                _wait(connected, run_id, start, every)


def _wait(connected: connection, run_id: str, start: float, every: float) -> None:
    """Wait until `every` seconds after `start`, or until a notification of the run."""
    end = start + every
    try:
        while (left := end - time.monotonic()) > 0:
            if select.select([connected], [], [], left)[0]:
                connected.poll()
            if any(notice.payload == run_id for notice in connected.notifies):
                end = min(end, start + SOONEST)
            connected.notifies.clear()
    except (psycopg2.Error, OSError, ValueError):  # a lost connection, which the next read reports
        time.sleep(max(min(start + SOONEST, end) - time.monotonic(), 0))


def until_done(looks: Iterator[Look | Away]) -> Iterator[Look | Away]:
    """Looks until the run has ended or paused, and one more, which has its last counts."""
    first = closing = True
    for look in looks:
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

    run: RunRow
    logs: tuple[LogRow, ...]


def tail(run_id: str, filters: Filter, marks: dict[str, int]) -> Callable[[connection], Batch]:
    """A `read` for `looks` that returns the records behind `marks`, and moves the marks."""

    def read(connected: connection) -> Batch:
        run = run_of(connected, run_id)  # before its records: those of a run that has ended are then complete
        upto = log_marks(connected, run)
        logs = new_logs(connected, run, filters, marks, upto)
        marks.update(upto)
        return Batch(run, tuple(logs))

    return read


def until_end(batches: Iterator[Batch | Away], grace: float = GRACE) -> Iterator[Batch | Away]:
    """Batches until the run has ended or paused, and no record came for `grace` seconds."""
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


def paces(history: Sequence[tuple[float, Look]]) -> dict[str, float | None]:
    """Cells per second of each stage; None if unknown.

    The rate of the last half minute; with less history, the rate that the run measured, else the mean since its start.

    Args:
        history: times (monotonic seconds) and looks, the newest last.
    """
    now, last = history[-1]
    then, first = next(item for item in history if now - item[0] <= WINDOW)
    old = {stage.stage: stage for stage in first.stages}
    elapsed = last.run.seconds or 0.0
    rates = {}
    for stage in last.stages:
        cells = stage.cells / elapsed if elapsed else None
        if not last.run.over and (before := old.get(stage.stage)) and now - then >= ENOUGH:
            cells = max(stage.cells - before.cells, 0) / (now - then)
        elif not last.run.over:
            cells = last.speeds.get(stage.stage, cells)
        done = bool(stage.of) and stage.tiles >= (stage.of or 0)
        rates[stage.stage] = None if done and not last.run.over else cells  # a rate of nothing would only sink
    return rates


def paced(results: Iterable[Look | Away]) -> Iterator[tuple[Look, dict[str, float | None], str]]:
    """The last look with its paces, and why the database does not answer at this moment."""
    history: list[tuple[float, Look]] = []
    for result in results:
        if isinstance(result, Look):
            now = time.monotonic()
            history = [*(item for item in history if now - item[0] <= WINDOW), (now, result)]
        if history:
            yield history[-1][1], paces(history), result.reason if isinstance(result, Away) else ""
