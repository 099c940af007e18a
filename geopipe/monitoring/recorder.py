"""What every process of a run does to be watched: it keeps its records on disk, and ships them from a thread.

records of this process -> `Spool` -> `Shipper` -> the run's `Collector`, here or in the monitoring actor -> Postgres
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psycopg2 import DataError, IntegrityError

from geopipe import __version__
from geopipe.errors import MachineError, Paused, Terminated, find
from geopipe.events import logs
from geopipe.events.emit import emit, subscribe
from geopipe.events.records import Event, Log, Progress, State
from geopipe.monitoring import requests
from geopipe.monitoring.collector import Collector, Refused
from geopipe.monitoring.database import connections, embedded, store
from geopipe.monitoring.home import home
from geopipe.monitoring.prometheus import Exporter
from geopipe.monitoring.sampler import Sampler, speedometer
from geopipe.monitoring.shipping import Deliver, Shipper, left_behind
from geopipe.monitoring.spool import PRESENT, Spool, living, present, source_name

log = logging.getLogger(__name__)

OVER = "over"
"""File in a run's folder that tells the processes of this node that the run is over, so that they let go of it."""

STARTED = "postgres_started"
"""The event that the embedded Postgres was started, which runs on."""

KEPT_SECONDS = 14 * 86_400.0
"""How long records of a run that never arrived are kept on this node."""

KEPT_BYTES = 256 * 2**20
"""How many bytes of such records are kept; the newest runs first."""


@dataclass(frozen=True)
class Options:
    """How a run is watched. It goes to every worker, and holds no secret.

    Attributes:
        database: whether records go to Postgres.
        metrics_interval: None where nothing is sampled.
        root: where records wait, in a folder for each run.
        dsn_file: that tells where Postgres is; None where each process knows it from its environment.
        problem: what keeps records from Postgres from the start, and has been told.
        job: whether `geopipe jobs` started it.
    """

    run_id: str
    attempt: int
    output: Path
    database: bool
    batch_size: int
    flush_interval: float
    metrics_interval: float | None
    prometheus_port: int | None
    spool_bytes: int
    root: Path
    dsn_file: Path | None = None
    problem: str = ""
    job: bool = False
    prometheus_host: str = "127.0.0.1"

    @property
    def goes_on_by(self) -> str:
        """The command that goes on with the run where it was cut short."""
        return f"`geopipe jobs resume {self.run_id}`" if self.job else "`geopipe run --resume`"

    @property
    def folder(self) -> Path:
        """Where records of this run wait on this node."""
        return self.root / self.run_id


def spools() -> Path:
    """Where records wait on this node, in a folder for each run; in the temporary folder where there is no home."""
    with suppress(OSError, MachineError):
        folder = home() / "spool"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK):
            return folder
    return _in_tmp() / "spool"


def _in_tmp() -> Path:
    return Path(tempfile.gettempdir()) / f"geopipe-{os.geteuid()}"


def claim(root: Path) -> None:
    """See that `spools` in the temporary folder, where anybody could have made it, is for nobody but us.

    Raises:
        OSError: it is somebody else's, who could read our records and put others among them, or it cannot be made.
    """
    if root.parent != _in_tmp():
        return
    for folder in (root.parent, root):
        folder.mkdir(mode=0o700, exist_ok=True)
        if (owner := folder.lstat().st_uid) != os.geteuid():
            raise PermissionError(f"{folder} belongs to user {owner}; set GEOPIPE_HOME to a folder of your own")
        folder.chmod(0o700)


class Recorder:
    """The records of this process on their way; ended by `close`."""

    def __init__(
        self, options: Options, deliver: Deliver | None = None, every: Sequence[Callable[[], None]] = ()
    ) -> None:
        claim(options.root)
        self.options = options
        run = {"run_id": options.run_id, "attempt": options.attempt}
        self.spool = Spool(options.folder, source_name(), options.spool_bytes, run)
        self._present = present(options.folder, self.spool.source)
        every, self._sampler = [*every], None
        if options.metrics_interval is not None:
            self._sampler = Sampler(options.folder, options.output, options.metrics_interval)
            every.append(self._sampler)
        self.shipper = Shipper(self.spool, options.batch_size, options.flush_interval, every)
        self.shipper.deliver = deliver
        self._unsubscribe = subscribe(self.spool.append)

    @contextmanager
    def connected(self, deliver: Deliver, stages: Callable[[], Mapping[str, Progress]]) -> Iterator[None]:
        """Send to the run's collector while it is there, to the last word; and tell how fast the run is."""
        every = self.shipper.every
        if self.options.metrics_interval is not None:
            self.shipper.every = [*every, speedometer(stages, self.options.metrics_interval)]
        self.shipper.deliver = deliver
        try:
            yield
        finally:
            self.shipper.every = every
            self.shipper.ship(1.0)
            # A thread that asked an engine that is gone would start a Ray of its own; one that waits has asked already.
            self.shipper.disconnect(1.0)

    def close(self, seconds: float, longer: float = 0.0, unless: Callable[[], object] = lambda: False) -> bool:
        """Take no more records, and send what waits (times: `Shipper.close`); returns whether all arrived."""
        self._unsubscribe()
        done = self.shipper.close(seconds, longer, unless)
        self.spool.close()
        if self._sampler is not None:
            self._sampler.close()
        if self._present >= 0:
            os.close(self._present)
            self._present = -1
        with suppress(OSError):
            (self.options.folder / f"{self.spool.source}{PRESENT}").unlink(missing_ok=True)
        return done


@contextmanager
def stated(detail: Mapping[str, Any]) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Tell that the run goes on, and what it came to if it fails, pauses or is cancelled.

    Yields:
        a context that tells of it at once, for a part of the run whose end is too late for those who watch.
    """
    told: list[BaseException] = []

    @contextmanager
    def ending() -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if not told:
                told.append(error)
                _tell_end(error)
            raise

    emit(State("running", detail))
    with ending():
        yield ending


def _tell_end(error: BaseException) -> None:
    if isinstance(error, KeyboardInterrupt | Terminated):
        emit(State("cancelled", {"exit_code": error.exit_code if isinstance(error, Terminated) else 130}))
    elif isinstance(error, Paused):
        emit(State("paused", {"exit_code": error.exit_code}))
    else:
        found = find(error)
        said = {"type": type(found or error).__name__, "message": found.message if found else str(error)}
        code = found.exit_code if found else 1
        # into the record only: whoever runs this prints it, once
        emit(Log("ERROR", __name__, said["message"], None if found else logs.traceback_of(error)))
        emit(State("failed", {"exit_code": code, "error": said | {"hint": found.hint if found else ""}}))


_leave: Callable[[], None] | None = None
_joining = threading.RLock()


def join(options: Options, deliver: Deliver, let_go: Callable[[], None] = lambda: None) -> None:
    """Record what this worker process says, until its run is over, it joins another run, or it ends.

    Args:
        let_go: called when the run is over, for what else the process holds of it.
    """
    global _leave
    with _joining, suppress(OSError):  # a disk that holds no records does not stop a run
        _leave_run(_leave)
        mark = options.folder / OVER

        def leave_and_let_go() -> None:
            if _leave_run(leave):
                let_go()

        def leave_when_over() -> None:
            if mark.exists() or not options.folder.exists():
                # in a thread of its own, because leaving waits for the one that calls this
                threading.Thread(target=leave_and_let_go, daemon=True).start()

        recorder = Recorder(options, deliver, [leave_when_over])
        end_logs = logs.record_from_now_on()

        def leave() -> None:
            end_logs()
            recorder.close(1.0)

        _leave = leave
        atexit.register(leave)


def leave_run() -> None:
    """Send what this worker process has still to say, and say no more: it ends."""
    _leave_run(_leave)


def _leave_run(leave: Callable[[], None] | None) -> bool:
    """Leave the run that this process has joined, if it is still the one that `leave` belongs to."""
    global _leave
    with _joining:
        if leave is None or _leave is not leave:
            return False
        _leave = None
        atexit.unregister(leave)
        leave()
        return True


@contextmanager
def recording(options: Options, answers: dict[str, Callable[[], None]]) -> Iterator[Recorder | None]:
    """Record what this process, which drives a run, says of it; None where the disk does not let it.

    At the end everything that waits on this node is sent, also what workers have left. That takes two seconds at most,
    or ten more where records arrive one by one: at a database that is far away, and not for a signal.

    Args:
        answers: to what people ask of the run (`requests`).
    """
    if options.problem and options.database:
        log.warning("the run goes on, and is recorded only if its database answers before its end: %s", options.problem)
    elif options.problem:  # a plain installation is nothing to warn of
        level = logging.WARNING if embedded.installed() else logging.INFO
        log.log(level, "the run is in no database: %s", options.problem)
    try:
        recorder = Recorder(options, every=[requests.listener(options.run_id, answers)] if options.database else [])
    except OSError as error:
        log.warning("the run is not recorded: %s", error)
        yield None
        return
    end_logs, longer = logs.record_from_now_on(), 10.0
    try:
        yield recorder
    except (KeyboardInterrupt, Terminated):
        longer = 0.0
        raise
    finally:
        end_logs()
        collector = open_collector(options, serve=False)
        recorder.shipper.deliver = collector.receive
        if recorder.close(1.0, longer, unless=lambda: collector.problem):
            collector.close()
            deliver_rest(options, 1.0)
        elif not options.problem or recorder.spool.reached:  # what others have left would not arrive, either
            log.warning("records of the run wait in %s: %s", options.folder, collector.problem or "it was cut short")
        else:  # of a run that no database has heard of nothing stays
            log.info("the run was not recorded: %s", collector.problem)
            options = replace(options, database=False)
        forget(options)
        prune(options)
        if options.job and options.dsn_file == dsn_file_of(options.run_id):
            options.dsn_file.unlink(missing_ok=True)


def dsn_file_of(run_id: str) -> Path:
    """The file with the address of the database for a job on this machine, which the job removes when it ends."""
    return home() / f"job-{run_id}.dsn"


def forget(options: Options) -> None:
    """Delete what is left here of a run that is over, where no database would ever have it."""
    if not options.database:
        shutil.rmtree(options.folder, ignore_errors=True)


def prune(options: Options) -> None:
    """Delete what earlier runs left here long ago, or beyond KEPT_BYTES the oldest of it; not what a process holds."""
    with suppress(OSError):
        claim(options.root)
        left = []
        for folder in options.root.iterdir():
            if folder.is_dir() and folder != options.folder and not living(folder):
                found = [file.stat() for file in folder.iterdir()]
                newest = max(file.st_mtime for file in (folder.stat(), *found))
                left.append((newest, sum(file.st_size for file in found), folder))
        size = 0
        for newest, bytes_, folder in sorted(left, reverse=True):
            size += bytes_
            if size > KEPT_BYTES or time.time() - newest > KEPT_SECONDS:
                log.info("records of run %s never arrived, and are deleted: %s bytes", folder.name, bytes_)
                shutil.rmtree(folder, ignore_errors=True)


def dismiss(options: Options, seconds: float) -> None:
    """Tell the workers of this node that their run is over, and wait so long at most until they have left it."""
    with suppress(OSError):
        claim(options.root)
        (options.folder / OVER).touch(mode=0o600)
        end = time.monotonic() + seconds
        while time.monotonic() < end and living(options.folder):
            time.sleep(0.02)


def deliver_rest(options: Options, seconds: float, deliver: Deliver | None = None, others: bool = True) -> None:
    """Deliver what is left on this node: of this run by anybody, of earlier ones by processes that are no more.

    Args:
        deliver: where records of this run go; None for the database, where those of earlier ones go.
        others: also of earlier runs.
    """
    end = time.monotonic() + seconds
    with suppress(OSError):  # what lies in a folder of somebody else is not ours
        claim(options.root)
        for folder in sorted(options.root.glob("*"), key=lambda p: p != options.folder):
            ours = folder == options.folder
            # without a database what is left of others would be counted, deleted and kept by nobody
            if not ours and (not others or not options.database or time.monotonic() > end or not folder.is_dir()):
                continue
            # what keeps it is told by those who have records to tell
            told = replace(options, run_id=folder.name, problem=options.problem or "told")
            with closing(open_collector(told, serve=False)) as collector:
                send = deliver if ours and deliver is not None else collector.receive
                left_behind([folder], send, options.batch_size, max(end - time.monotonic(), 0.1), living=ours)


class _Postgres:
    """The store of a collector: a connection that is made when it is wanted, and anew when it broke."""

    def __init__(self, dsn_file: Path | None) -> None:
        self.dsn_file = dsn_file
        self._connection: Any = None

    def write(self, batch: Sequence[Mapping[str, Any]]) -> None:
        if self._connection is None:
            dsn = connections.needed_dsn(self.dsn_file)
            self._connection = connections.connect(dsn, statement_timeout=5, connect_timeout=3)
        try:
            store.write(self._connection, batch)
        except (ValueError, DataError, IntegrityError) as error:  # said of a record, and not of the connection
            raise Refused(str(error).strip()) from error
        except Exception:  # what it broke at may be the connection itself
            self.close()
            raise

    def close(self) -> None:
        with suppress(Exception):  # one that broke cannot even be closed
            self._connection.close()
        self._connection = None


def prepare_database() -> Path | None:
    """See that records can be kept: where nothing says where, in a server of our own, with today's schema.

    Returns:
        a file that says where, for those who do not have it in their environment.

    Raises:
        MachineError: it cannot be used.
    """
    if os.environ.get(connections.DSN, "").strip():
        file = None
    elif named := os.environ.get(connections.DSN_FILE, "").strip():
        file = Path(named).expanduser().absolute()
    else:
        return _our_own()
    connections.connect(connections.needed_dsn(file)).close()
    return file


def _our_own() -> Path:
    """The embedded server, started, with today's schema; its address is in a file that only its user may read."""
    before, dsn = embedded.running(), embedded.start()
    if not before:
        emit(Event(STARTED, {"folder": str(embedded.folder())}))
    try:
        connections.connect(dsn).close()
    except MachineError:
        from geopipe.monitoring.database import (
            schema as database,  # loads alembic, which is only wanted where there is something to do
        )

        database.upgrade(dsn)
    file = home() / "monitor.dsn"
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as held:
            held.write(dsn)
        os.replace(partial, file)
    except OSError as error:
        raise MachineError(
            f"where the database is cannot be told to workers: {file}: {error.strerror}",
            "set GEOPIPE_HOME to a folder that can be written",
        ) from None
    return file


def open_collector(options: Options, serve: bool = True) -> Collector:
    """The collector of a run in this process, with what it writes to.

    Args:
        serve: whether it answers Prometheus, where the options say a port.
    """
    exporter = None
    if serve and options.prometheus_port is not None:
        exporter = Exporter({"version": __version__})
        try:
            exporter.serve(options.prometheus_port, options.prometheus_host)
        except MachineError as error:
            log.warning("Prometheus will not see this run: %s", error)
    note = None
    with suppress(OSError):  # it is needed for the collector's note only, and no run fails for that
        claim(options.root)
        options.folder.mkdir(parents=True, exist_ok=True)
        note = options.folder / "counted.json"
    store = _Postgres(options.dsn_file) if options.database else None
    return Collector(note, store, exporter, options.problem)
