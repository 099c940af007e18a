"""The session of a process of a run: what it keeps open from tile to tile, and closes at its end."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from geopipe.events import logs
from geopipe.export.ledger import Journal
from geopipe.load import raster
from geopipe.monitoring.leftovers import OVER
from geopipe.monitoring.options import MonitoringOptions
from geopipe.monitoring.recorder import Recorder
from geopipe.monitoring.shipping import Deliver


class WorkerSession:
    """Open rasters, the journal of receipts, and the recorder of one process of a run.

    Args:
        options: of the run's monitoring; None if this process records nothing, or records it elsewhere.
        deliver: takes the records of this process.
        reader: makes the reader of windows.
        cache: bytes of GDAL's block cache; None for the default.
    """

    def __init__(
        self,
        options: MonitoringOptions | None = None,
        deliver: Deliver | None = None,
        reader: Callable[[], raster.Reader] = raster.Readers,
        cache: int | None = None,
    ) -> None:
        self.options, self.reader, self.cache, self.journal = options, reader(), cache, Journal()
        self.is_closed = False
        self._tasks, self._idle = 0, threading.Condition()
        self._closing, self._recording = threading.Lock(), ExitStack()
        if options is not None:
            with suppress(OSError):  # a disk that cannot hold records does not stop a run
                recorder = Recorder(options, deliver, [self._close_after_run])
                self._recording.callback(recorder.close, 1.0)
                self._recording.callback(logs.record_from_now_on())
        atexit.register(self.close)

    @contextmanager
    def working(self) -> Iterator[WorkerSession]:
        """Work on tiles inside, with GDAL's settings, which belong to the thread."""
        with self._idle:
            self._tasks += 1
        try:
            with raster.environment(self.cache):
                yield self
        finally:
            with self._idle:
                self._tasks -= 1
                self._idle.notify_all()

    def close(self) -> None:
        """Send the last records, and close all files. Files of a task that hangs in a read stay open."""
        self.is_closed = True
        with self._closing:
            atexit.unregister(self.close)
            self._recording.close()
        with self._idle:
            if self._idle.wait_for(lambda: not self._tasks, timeout=1.0):
                self.reader.close()
                self.journal.close()

    def _close_after_run(self) -> None:
        """Close the session once the run is over: a process of a cluster may live on, idle, for days."""
        over = self.options is not None and ((self.options.folder / OVER).exists() or not self.options.folder.exists())
        if over and not self.is_closed:
            self.is_closed = True
            # in a thread of its own: the recorder's close waits for the thread that calls this
            threading.Thread(target=self.close, daemon=True).start()


_current: WorkerSession | None = None
_switching = threading.Lock()


def session_of(options: MonitoringOptions, create: Callable[[], WorkerSession]) -> WorkerSession:
    """The one session of this worker process, which the tasks of a run share. That of another run is closed first."""
    global _current
    with _switching:
        if _current is None or _current.is_closed or _current.options != options:
            if _current is not None:
                _current.close()
            _current = create()
        return _current


@contextmanager
def task_session(options: MonitoringOptions | None, create: Callable[[], WorkerSession]) -> Iterator[WorkerSession]:
    """The session for a task: shared with other tasks of the run, or the task's own without a run."""
    session = create() if options is None else session_of(options, create)
    try:
        with session.working():
            yield session
    finally:
        if options is None:
            session.close()
