"""How a run is monitored, and its progress reported."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from geopipe.engine import address as addresses
from geopipe.engine.contract import Engine
from geopipe.errors import MachineError
from geopipe.events.records import Progress
from geopipe.monitoring.database import connections
from geopipe.monitoring.forecast import Forecast
from geopipe.monitoring.options import MonitoringOptions
from geopipe.monitoring.recorder import Recorder
from geopipe.run.options import Snapshot, Watch
from geopipe.settings.model import Settings


def monitoring_options(settings: Settings, run_id: str, attempt: int, job: bool = False) -> MonitoringOptions:
    """The monitoring options of a run; starts an embedded database if the settings ask for one."""
    monitoring, dsn_file, problem = settings.monitoring, None, ""
    database = monitoring.enable_database_logging
    if database:
        try:
            dsn_file = connections.prepare_database()
        except MachineError as error:
            problem, database = str(error), connections.named()  # a named one may answer before the run ends
    alone = settings.engine.kind == "local" or addresses.runs_on_one_machine(settings.engine.address)
    return MonitoringOptions(
        run_id=run_id,
        attempt=attempt,
        output=settings.run.folder,
        database=database,
        batch_size=monitoring.log_batch_size,
        flush_interval=monitoring.log_flush_interval,
        metrics_interval=monitoring.metrics_interval if monitoring.enable_metrics else None,
        prometheus_port=monitoring.prometheus_port,
        spool_bytes=monitoring.spool_bytes,
        dsn_file=dsn_file,
        problem=problem,
        job=job,
        prometheus_host=monitoring.prometheus_host or ("127.0.0.1" if alone else "0.0.0.0"),
    )


class Reports:
    """The progress of a run over all its attempts.

    Args:
        engine: counts the work.
        recorder: of this process; None if it records nothing.
        watch: called with the progress.
    """

    def __init__(self, engine: Engine, recorder: Recorder | None, watch: Watch | None) -> None:
        self._engine, self._recorder, self._watch = engine, recorder, watch
        self._start = time.perf_counter()

    def stages(self) -> Mapping[str, Progress]:
        """Progress by stage, after the records on their way have arrived."""
        if self._recorder is not None:
            self._recorder.shipper.ship(2.0)
        return self._engine.stages()

    @contextmanager
    def during(self, totals: Mapping[str, int]) -> Iterator[None]:
        """Record how long the run still needs, and call `watch`: in a thread, and once after the block.

        Args:
            totals: units of work in all, by stage.
        """
        ended, forecast = threading.Event(), Forecast()

        def report() -> None:
            stages = self._engine.stages()
            left = forecast(stages, totals)
            forecast.record(left)
            if self._watch:
                self._watch(Snapshot(stages, totals, time.perf_counter() - self._start, left))

        def work() -> None:
            while not ended.wait(0.25 if self._watch else 1.0):
                report()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        if self._watch:
            report()
