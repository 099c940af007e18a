"""What every process of a run does to be watched: it keeps its records on disk, and ships them from a thread.

records of this process -> `Spool` -> `Shipper` -> the run's `Collector`, here or in the monitoring actor -> Postgres
"""

from __future__ import annotations

import atexit
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geopipe import __version__, events, logs
from geopipe.collector import Collector, Refused
from geopipe.errors import MachineError, Paused, Terminated, find
from geopipe.home import home
from geopipe.records import State
from geopipe.sampler import sampler
from geopipe.spool import Deliver, Shipper, Spool, left_behind, source_name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How a run is watched. It goes to every worker, and holds no secret.

    `metrics_interval` is None where nothing is sampled; `database` says whether records go to Postgres.
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

    @property
    def folder(self) -> Path:
        """Where records of this run wait on this node."""
        return spools() / self.run_id


def spools() -> Path:
    """Where records wait on this node, in a folder for each run; in the temporary folder where there is no home."""
    with suppress(OSError, MachineError):
        folder = home() / "spool"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.gettempdir()) / f"geopipe-{os.getuid()}" / "spool"


class Recorder:
    """The records of this process on their way; ended by `close`."""

    def __init__(self, options: Options, deliver: Deliver | None = None) -> None:
        self.options = options
        run = {"run_id": options.run_id, "attempt": options.attempt}
        self.spool = Spool(options.folder, source_name(), options.spool_bytes, run)
        self._present = options.folder / f"{self.spool.source}.pid"
        self._present.touch()
        every = []
        if options.metrics_interval is not None:
            every.append(sampler(options.folder, options.output, options.metrics_interval))
        self.shipper = Shipper(self.spool, options.batch_size, options.flush_interval, every)
        self.shipper.deliver = deliver
        self._unsubscribe = events.subscribe(self.spool.append)

    def close(self, seconds: float) -> bool:
        """Take no more records, and try for so long to send what waits; returns whether all of it has arrived."""
        self._unsubscribe()
        done = self.shipper.close(seconds)
        with suppress(OSError):
            self._present.unlink(missing_ok=True)
        return done


@contextmanager
def stated(detail: Mapping[str, Any]) -> Iterator[None]:
    """Tell that the run goes on, and what it came to if it fails, pauses or is cancelled."""
    events.emit(State("running", detail))
    try:
        yield
    except (KeyboardInterrupt, Terminated) as error:
        events.emit(State("cancelled", {"exit_code": 130 if isinstance(error, KeyboardInterrupt) else 143}))
        raise
    except Paused as error:
        events.emit(State("paused", {"exit_code": error.exit_code}))
        raise
    except BaseException as error:
        found = find(error)
        told = {"type": type(found or error).__name__, "message": found.message if found else str(error)}
        code = found.exit_code if found else 1
        log.error("%s", told["message"], exc_info=None if found else error)
        events.emit(State("failed", {"exit_code": code, "error": told | {"cure": found.cure if found else ""}}))
        raise


_leave: Callable[[], None] | None = None


def join(options: Options, deliver: Deliver) -> None:
    """Record what this worker process says, for the rest of its life, or until it joins another run."""
    global _leave
    if _leave is not None:
        atexit.unregister(_leave)
        _leave()
        _leave = None
    with suppress(OSError):  # a disk that holds no records does not stop a run
        recorder = Recorder(options, deliver)
        end_logs = logs.record_from_now_on()

        def leave() -> None:
            end_logs()
            recorder.close(1.0)

        _leave = leave
        atexit.register(leave)


@contextmanager
def recording(options: Options) -> Iterator[Recorder | None]:
    """Record what this process, which drives a run, says of it; None where the disk does not let it.

    At the end everything that waits on this node is sent, also what other processes and runs have left, for two
    seconds at most.
    """
    try:
        recorder = Recorder(options)
    except OSError as error:
        log.warning("the run is not recorded: %s", error)
        yield None
        return
    end_logs = logs.record_from_now_on()
    try:
        yield recorder
    finally:
        end_logs()
        collector = open_collector(options, serve=False)
        recorder.shipper.deliver = collector.receive
        if recorder.close(1.0):
            left_behind([options.folder], collector.receive, options.batch_size, 1.0)
        else:  # then what others have left would not arrive, either
            log.warning("records of the run wait in %s: %s", options.folder, collector.problem or "it was cut short")


class _Postgres:
    """The store of a collector: a connection that is made when it is wanted, and anew when it broke."""

    def __init__(self) -> None:
        self._connection: Any = None

    def write(self, batch: Sequence[Mapping[str, Any]]) -> None:
        from geopipe import database, store

        if self._connection is None:
            self._connection = database.connect(database.dsn())
        try:
            store.write(self._connection, batch)
        except ValueError as error:  # said of a record, and not of the connection
            raise Refused(str(error)) from error
        except Exception:
            with suppress(Exception):
                self._connection.close()
            self._connection = None
            raise


def open_collector(options: Options, serve: bool = True) -> Collector:
    """The collector of a run in this process, with what it writes to.

    Args:
        serve: whether it answers Prometheus, where the options say a port.
    """
    record = None
    if serve and options.prometheus_port is not None:
        from geopipe.exporter import Exporter

        exporter = Exporter({"version": __version__})
        try:
            exporter.serve(options.prometheus_port)
            record = exporter.record
        except MachineError as error:
            log.warning("Prometheus will not see this run: %s", error)
    with suppress(OSError):  # it is needed for the collector's note only, and no run fails for that
        options.folder.mkdir(parents=True, exist_ok=True)
    return Collector(options.folder / "counted.json", _Postgres() if options.database else None, record)
