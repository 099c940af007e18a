"""A thread that delivers records from a spool to the collector, in order, until they have arrived.

Delivery is at least once: the receiver recognises a record by its source and sequence number.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from geopipe.monitoring.spool import Line, Spool

log = logging.getLogger(__name__)

SOON = 1.0
"""Seconds after which progress, events and states are sent: people watch for them."""

Task = Callable[[], None]


class Deliver(Protocol):
    """Passes records on."""

    def __call__(self, source: str, lines: Sequence[str], keep: bool = True) -> int:
        """Take lines of a source in their order; returns the sequence number up to which all have arrived.

        Args:
            keep: False to count the lines only, because earlier ones have not arrived.
        """


class Shipper:
    """Delivers the records of a spool in batches, from a thread of its own; what does not arrive is sent again.

    Args:
        batch_size: records in a batch; a full batch is sent at once.
        interval: seconds after which any record is sent; progress, events and states after SOON.
        deliver: receives the records; None until `connect`.
        tasks: called in the thread at each turn.
    """

    def __init__(
        self, spool: Spool, batch_size: int, interval: float, deliver: Deliver | None = None, tasks: Sequence[Task] = ()
    ) -> None:
        self.spool, self.batch_size, self.interval = spool, batch_size, interval
        self._deliver, self._own_tasks = deliver, tuple(tasks)
        self._tasks = self._own_tasks
        self._ended, self._until, self._failed, self._sent = threading.Event(), math.inf, False, False
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="geopipe-shipper", daemon=True)
        self._thread.start()

    def connect(self, deliver: Deliver, *tasks: Task) -> None:
        """Deliver to this receiver, and call these tasks, too, until `disconnect`."""
        self._deliver, self._tasks = deliver, (*self._own_tasks, *tasks)

    def disconnect(self, seconds: float, flush: float = 0.0) -> bool:
        """Stop delivering, and drop the tasks of `connect`. Returns whether no delivery is under way.

        Args:
            seconds: to wait for a delivery or a task that is under way.
            flush: seconds to send first what waits.
        """
        self._tasks = self._own_tasks
        if flush:
            self.ship(flush)
        self._deliver = None
        is_idle = self._turn.acquire(timeout=seconds)
        if is_idle:
            self._turn.release()
        return is_idle

    def _work(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(min(0.2, self.interval)):
            waited = time.monotonic() - last
            soon = self.spool.waiting >= self.batch_size or (self.spool.urgent and waited >= SOON)
            if waited >= self.interval or (soon and not self._failed):
                last = time.monotonic()
                self.ship()
            self._call_tasks()
        while not (sent := self.ship()) and self._deliver is not None and time.monotonic() < self._until:
            time.sleep(0.05)
        self._sent = sent

    def _call_tasks(self) -> None:
        for task in self._tasks:
            with self._turn, suppress(Exception):
                # an earlier task may have waited for the database while the run ended
                if task in self._tasks and not self._ended.is_set():
                    task()

    def ship(self, seconds: float | None = None) -> bool:
        """Send what waits. Returns whether all of it has arrived.

        Args:
            seconds: to wait at most; the delivery then goes on in a thread.
        """
        if seconds is not None:
            sent: list[bool] = []
            thread = threading.Thread(target=lambda: sent.append(self.ship()), name="geopipe-shipper", daemon=True)
            thread.start()
            thread.join(timeout=seconds)
            return sent == [True]
        with self._turn:
            try:
                self._failed = not self._ship()
            except Exception as error:  # an unreadable disk, or an answer that is no number
                log.debug("records wait: %s", error)
                self._failed = True
            return not self._failed

    def _ship(self) -> bool:
        self.spool.sync()
        if self._deliver is None:
            return False
        self.spool.urgent = False
        while lines := self.spool.unsent(self.batch_size):
            deliver = self._deliver
            if deliver is None or time.monotonic() >= self._until:
                return False
            seq = deliver_lines(deliver, self.spool.source, lines)
            if seq is None:
                return False
            self.spool.arrived(seq)
            self.spool.counted(lines[-1])
            if seq < lines[-1].seq:
                self._count(deliver)
                return False
        return True

    def _count(self, deliver: Deliver) -> None:
        """Have the collector count the records behind those that are not kept yet, so that progress goes on."""
        while lines := self.spool.uncounted(self.batch_size):
            ended = self._deliver is not deliver or time.monotonic() >= self._until
            if ended or deliver_lines(deliver, self.spool.source, lines, keep=False) is None:
                return
            self.spool.counted(lines[-1])

    def close(self, seconds: float, longer: float = 0.0, unless: Callable[[], object] = lambda: False) -> bool:
        """End the thread after a last delivery. Returns whether all records have arrived.

        Args:
            seconds: for the last delivery.
            longer: seconds more, as long as `unless` returns nothing.
            unless: whether further attempts are hopeless.
        """
        start = time.monotonic()
        self._until = start + seconds + longer
        self._ended.set()
        self._thread.join(timeout=seconds)
        while self._thread.is_alive() and time.monotonic() < self._until and not unless():
            self._thread.join(timeout=0.05)
        self._until = min(self._until, time.monotonic())
        return self._sent


def deliver_lines(deliver: Deliver, source: str, lines: Sequence[Line], keep: bool = True) -> int | None:
    """Deliver a batch; None if the receiver is away, whatever it raises."""
    texts = [line.text for line in lines]
    try:
        return deliver(source, texts) if keep else deliver(source, texts, keep=False)
    except Exception as error:  # Ray, the network and Postgres share no error class
        log.debug("records wait: %s", error)
        return None
