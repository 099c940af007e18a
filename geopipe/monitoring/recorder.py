"""The recorder of a process: it keeps the process's records on disk, and ships them from a thread.

records of this process -> `Spool` -> `Shipper` -> the run's `Collector`, here or in the monitoring actor -> Postgres
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

from geopipe.errors import Paused, Terminated, find
from geopipe.events import logs
from geopipe.events.emit import emit, subscribe
from geopipe.events.records import Log, Progress, State
from geopipe.monitoring.collector import open_collector
from geopipe.monitoring.database import programs
from geopipe.monitoring.home import claim, job_dsn_file
from geopipe.monitoring.leftovers import delete_spool, deliver_others, deliver_own, prune_spools
from geopipe.monitoring.options import MonitoringOptions
from geopipe.monitoring.presence import Presence
from geopipe.monitoring.requests import Requests
from geopipe.monitoring.sampler import Sampler, speedometer
from geopipe.monitoring.shipping import Deliver, Shipper, Task
from geopipe.monitoring.spool import Spool, source_name

log = logging.getLogger(__name__)


class Recorder:
    """The records of this process on their way to the collector; ended by `close`.

    Args:
        deliver: receives the records; None until `connected`.
        tasks: called in the shipper's thread at each turn.
    """

    def __init__(self, options: MonitoringOptions, deliver: Deliver | None = None, tasks: Sequence[Task] = ()) -> None:
        claim(options.root)
        self.options = options
        run = {"run_id": options.run_id, "attempt": options.attempt}
        self.spool = Spool(options.folder, source_name(), options.spool_bytes, run)
        self._closing = ExitStack()
        self._closing.enter_context(suppress(OSError))
        presence = Presence(options.folder, self.spool.source)
        self._closing.callback(presence.close)
        self._sampler, tasks = None, (*tasks, presence)
        if options.metrics_interval is not None:
            self._sampler = Sampler(options.folder, options.output, options.metrics_interval)
            self._closing.callback(self._sampler.close)
            tasks = (*tasks, self._sampler)
        self._closing.callback(self.spool.close)
        self.shipper = Shipper(self.spool, options.batch_size, options.flush_interval, deliver, tasks)
        self._unsubscribe = subscribe(self.spool.append)

    @contextmanager
    def connected(self, deliver: Deliver, stages: Callable[[], Mapping[str, Progress]]) -> Iterator[None]:
        """Deliver to the run's collector inside, to the last record, and sample the speed of each stage.

        Args:
            stages: progress of the run by stage.
        """
        interval = self.options.metrics_interval
        self.shipper.connect(deliver, *([] if interval is None else [speedometer(stages, interval)]))
        try:
            yield
        finally:
            # A thread that asked an engine that is gone would start a Ray of its own; one that waits has asked already.
            self.shipper.disconnect(1.0, flush=1.0)

    def close(self, seconds: float, longer: float = 0.0, unless: Callable[[], object] = lambda: False) -> bool:
        """Take no more records, and send what waits (times as in `Shipper.close`). Returns whether all arrived."""
        self._unsubscribe()
        done = self.shipper.close(seconds, longer, unless)
        self._closing.close()
        return done


@contextmanager
def stated(detail: Mapping[str, Any]) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Record that the run is running, and its state if it fails, pauses or is cancelled inside.

    Yields:
        a context that records the failure at once, for a part of the run whose end is too late for the watchers.
    """
    recorded: list[BaseException] = []

    @contextmanager
    def ending() -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if not recorded:
                recorded.append(error)
                _record_end(error)
            raise

    emit(State("running", detail))
    with ending():
        yield ending


def _record_end(error: BaseException) -> None:
    if isinstance(error, KeyboardInterrupt | Terminated):
        emit(State("cancelled", {"exit_code": error.exit_code if isinstance(error, Terminated) else 130}))
    elif isinstance(error, Paused):
        emit(State("paused", {"exit_code": error.exit_code}))
    else:
        ours = find(error)
        cause = {"type": type(ours or error).__name__, "message": ours.message if ours else str(error)}
        # recorded, not logged: the command line prints the error
        emit(Log("ERROR", __name__, cause["message"], None if ours else logs.traceback_of(error)))
        detail = {"exit_code": ours.exit_code if ours else 1, "error": cause | {"hint": ours.hint if ours else ""}}
        emit(State("failed", detail))


@contextmanager
def recording(options: MonitoringOptions, requests: Requests | None = None) -> Iterator[Recorder | None]:
    """Record the run in the process that drives it; None if the disk holds no records.

    At the end, all records that wait on this node are sent, those of workers too. That takes two seconds, or ten more
    while a distant database takes them one by one; a signal does not wait for these.

    Args:
        requests: answered in the shipper's thread.
    """
    if options.problem and options.database:
        log.warning("the run goes on, and is recorded only if its database answers before its end: %s", options.problem)
    elif options.problem:  # a plain installation has no embedded server, which is no reason for a warning
        level = logging.WARNING if programs.installed() else logging.INFO
        log.log(level, "the run is in no database: %s", options.problem)
    try:
        recorder = Recorder(options, tasks=[requests.answer] if requests and options.database else [])
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
        recorder.shipper.connect(collector.receive)
        if recorder.close(1.0, longer, unless=lambda: collector.problem):
            collector.close()
            deliver_own(options, 1.0)
            deliver_others(options, 1.0)
        elif not options.problem or recorder.spool.reached:  # else leftovers of others would not arrive, either
            log.warning("records of the run wait in %s: %s", options.folder, collector.problem or "it was cut short")
        else:  # no database knows the run: delete its records
            log.info("the run was not recorded: %s", collector.problem)
            options = replace(options, database=False)
        delete_spool(options)
        prune_spools(options)
        if options.job and options.dsn_file == job_dsn_file(options.run_id):
            options.dsn_file.unlink(missing_ok=True)
