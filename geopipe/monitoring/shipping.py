"""Records on their way from spools to whoever keeps them: shipped by a thread, in order, until they have arrived.

Delivery is at least once: who receives tells records apart by source and sequence number. What a dead process left is
shipped by another one of its node (`left_behind`).
"""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Protocol

from geopipe.monitoring.spool import PRESENT, Line, Spool, files, lines_of, lives, source_of

log = logging.getLogger(__name__)

SOON = 1.0
"""Seconds after which is sent what people watch for."""


class Deliver(Protocol):
    """Takes records on."""

    def __call__(self, source: str, lines: Sequence[str], keep: bool = True) -> int:
        """Take lines of a source in their order; returns the sequence number up to which all have arrived.

        Args:
            keep: else they are only counted, because what lies before them has not arrived.
        """


class Shipper:
    """Delivers what is in a spool, from a thread of its own, in batches; what does not arrive is sent again later.

    Args:
        batch_size: records in a batch; as soon as so many wait they are sent.
        interval: seconds after which they are sent in any case; progress, events and states after SOON.
        every: called in the thread at each turn.
    """

    def __init__(
        self, spool: Spool, batch_size: int, interval: float, every: Sequence[Callable[[], None]] = ()
    ) -> None:
        self.spool, self.batch_size, self.interval, self.every = spool, batch_size, interval, list(every)
        self.deliver: Deliver | None = None
        self._ended, self._until, self._failed, self._sent = threading.Event(), math.inf, False, False
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="geopipe-shipper", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(min(0.2, self.interval)):
            waited = time.monotonic() - last
            soon = self.spool.waiting >= self.batch_size or (self.spool.urgent and waited >= SOON)
            if waited >= self.interval or (soon and not self._failed):
                last = time.monotonic()
                self.ship()
            self._call()
        while not (sent := self.ship()) and self.deliver is not None and time.monotonic() < self._until:
            time.sleep(0.05)
        self._sent = sent

    def _call(self) -> None:
        for call in self.every:
            with self._turn, suppress(Exception):
                # while one of them waited for its database, the run may have ended
                if call in self.every and not self._ended.is_set():
                    call()

    def disconnect(self, seconds: float) -> bool:
        """Deliver no more; waits for so long for what is under way to end, and returns whether nothing is."""
        self.deliver = None
        ended = self._turn.acquire(timeout=seconds)
        if ended:
            self._turn.release()
        return ended

    def ship(self, seconds: float | None = None) -> bool:
        """Send what waits; returns whether all of it has arrived.

        Args:
            seconds: to wait for that at most; what takes longer goes on in a thread.
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
            except Exception as error:  # a disk that does not read, or an answer that is no number
                log.debug("records wait: %s", error)
                self._failed = True
            return not self._failed

    def _ship(self) -> bool:
        self.spool.sync()
        if self.deliver is None:
            return False
        self.spool.urgent = False
        while lines := self.spool.unsent(self.batch_size):
            deliver = self.deliver
            if deliver is None or time.monotonic() >= self._until:
                return False
            seq = _deliver(deliver, self.spool.source, lines)
            if seq is None:
                return False
            self.spool.arrived(seq)
            self.spool.counted(lines[-1])
            if seq < lines[-1].seq:
                self._count(deliver)
                return False
        return True

    def _count(self, deliver: Deliver) -> None:
        """Have counted what waits behind records that were received and not kept: the run goes on, and is watched."""
        while lines := self.spool.uncounted(self.batch_size):
            ended = self.deliver is not deliver or time.monotonic() >= self._until
            if ended or _deliver(deliver, self.spool.source, lines, keep=False) is None:
                return
            self.spool.counted(lines[-1])

    def close(self, seconds: float, longer: float = 0.0, unless: Callable[[], object] = lambda: False) -> bool:
        """End the thread, which tries for so long to send what waits; returns whether all of it has arrived.

        Args:
            longer: seconds that it may take beyond those, as long as it is not hopeless.
            unless: it is.
        """
        start = time.monotonic()
        self._until = start + seconds + longer
        self._ended.set()
        self._thread.join(timeout=seconds)
        while self._thread.is_alive() and time.monotonic() < self._until and not unless():
            self._thread.join(timeout=0.05)
        self._until = min(self._until, time.monotonic())
        return self._sent


def _deliver(deliver: Deliver, source: str, lines: Sequence[Line], keep: bool = True) -> int | None:
    """Deliver; None where nobody answers: whatever a monitor that is dead raises, the records stay where they are."""
    texts = [x.text for x in lines]
    try:
        return deliver(source, texts) if keep else deliver(source, texts, keep=False)
    except Exception as error:  # Ray, the network and Postgres have no error in common
        log.debug("records wait: %s", error)
        return None


def left_behind(
    folders: Iterable[Path], deliver: Deliver, batch_size: int, seconds: float, living: bool = False
) -> int:
    """Deliver what processes of this node have left that are no more; returns how many of them have nothing left.

    Args:
        folders: one of each run.
        seconds: to spend on it at most.
        living: deliver also what living processes have not sent yet; they will send it again.
    """
    end, done = time.monotonic() + seconds, 0
    for folder in folders:
        sources: dict[str, list[Path]] = {}
        for path in files(folder, "*.jsonl"):
            if source := source_of(path):
                sources.setdefault(source, []).append(path)
        for source, paths in sources.items():
            alive = lives(folder, source)
            if alive and not living:
                continue
            arrived = _deliver_all(source, paths, deliver, batch_size, end, keep=alive)
            if arrived is None:
                return done
            done += arrived
        known = filter(None, map(source_of, files(folder, f"*{PRESENT}")))
        if not any(lives(folder, source) for source in known) and not files(folder, "*.jsonl"):
            shutil.rmtree(folder, ignore_errors=True)
    return done


def _deliver_all(
    source: str, paths: Sequence[Path], deliver: Deliver, most: int, end: float, keep: bool
) -> bool | None:
    """Deliver files of a source until `end`, each of which is deleted when it has arrived unless it is to be kept.

    Returns:
        whether all has arrived, or is at least counted; None where nobody answers, or in time.
    """
    lines, left, arrives = lines_of(paths), [] if keep else list(paths), True
    while batch := list(islice(lines, most)):
        seq = None if time.monotonic() > end else _deliver(deliver, source, batch, keep=arrives)
        if seq is None:
            return None
        arrives = arrives and seq >= batch[-1].seq
        while arrives and left and left[0] != batch[-1].path:
            left.pop(0).unlink(missing_ok=True)
    for path in left if arrives else ():
        path.unlink(missing_ok=True)
    return arrives
