"""What arrives of a run, in one place: counted once for its progress and Prometheus, and put into Postgres.

Records come in batches of one source in their order, maybe more than once. The collector counts by sequence number what
is new, and says up to which record all is safe: in Postgres, where there is one. What is not is sent again. So it holds
nothing that a crash could lose, but for what it has counted, which it notes in a small file for its successor.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol

from geopipe.events import records
from geopipe.events.records import Progress, State

log = logging.getLogger(__name__)

STATES = 4
"""States of a run that are kept for a successor: the present one, and the last that told how much there is to do."""

RETRY = (1.0, 30.0)
"""Seconds between attempts to reach a store that is away: at first, and at most."""


class Store(Protocol):
    """Where records are kept: Postgres."""

    def write(self, batch: Sequence[Mapping[str, Any]]) -> None:
        """Keep a batch, whole or not at all; one that is there already changes nothing. May raise anything.

        Raises:
            Refused: one of the records can never be kept.
        """

    def close(self) -> None:
        """Let go of what it holds."""


class Refused(Exception):
    """What a store was given is no record to it, and will be none tomorrow."""


class Observer(Protocol):
    """Who is told of each new record once: Prometheus' exporter."""

    def record(self, record: Mapping[str, Any]) -> None:
        """Take a record."""

    def pending(self, count: int) -> None:
        """Hear how many records have been seen that are not kept yet."""

    def close(self, wait: float = 0.0) -> None:
        """Let go of what it holds, after `wait` seconds at most in which others may hear of it."""


class Collector:
    """Counts and keeps the records of one run.

    Args:
        note: the file that a successor goes on from; None where there is no place for it.
        store: None where nothing is kept: what has been counted has arrived.
        observer: None where nobody looks.
        problem: with the store, that has been told already.
    """

    def __init__(
        self, note: Path | None, store: Store | None = None, observer: Observer | None = None, problem: str = ""
    ) -> None:
        self.note, self.store, self.observer = note, store, observer
        self._counted: dict[str, int] = {}
        self._kept: dict[str, int] = {}
        self._first: dict[str, int] = {}  # what a source sent here first; what lies before had arrived elsewhere
        self._stages: dict[str, Progress] = {}
        self._states: list[Mapping[str, Any]] = []  # the last ones, for the observer of a successor
        self._counting, self._keeping = threading.Lock(), threading.Lock()
        self._due, self._delay = 0.0, RETRY[0]
        self.problem, self._warned = problem, False
        self._recall()

    def receive(self, source: str, lines: Sequence[str], keep: bool = True) -> int:
        """Take a batch of one source; returns up to which of its records everything is safe.

        Args:
            keep: else it is counted, and kept when it comes again: records before it are not kept yet.
        """
        batch = list(filter(None, map(_whole, lines)))
        with self._counting:
            before = self._counted.get(source, 0)
            if batch:
                self._first.setdefault(source, batch[0]["seq"])
            for told in batch:
                if told["seq"] > self._counted.get(source, 0):
                    self._counted[source] = told["seq"]
                    self._count(told)
            counted = self._counted.get(source, 0)
            if counted > before:
                self._write_note()
        if self.store is None:
            return counted
        arrived = self._keep(self.store, source, batch if keep else ())
        if self.observer is not None:
            heard = self._first.copy().items()
            self.observer.pending(sum(max(0, self._counted.get(s, 0) - self._kept.get(s, n - 1)) for s, n in heard))
        return arrived

    def close(self, wait: float = 0.0) -> None:
        """Let go of Postgres and of Prometheus' port; who calls again gets a new connection.

        Args:
            wait: seconds at most for the observer, until others have heard the last of it.
        """
        if self.store is not None:
            self.store.close()
        if self.observer is not None:
            self.observer.close(wait)

    def _count(self, told: Mapping[str, Any]) -> None:
        if told["kind"] == Progress.kind:
            new = Progress(**{f.name: told[f.name] for f in fields(Progress)})
            old = self._stages.get(new.stage)
            self._stages[new.stage] = new if old is None else added(old, new)
        if told["kind"] == State.kind:
            known = {name: told.get(name) for name in ("kind", "ts", "source", "seq", "state")}
            totals = (told.get("detail") or {}).get("totals")
            self._states = [*self._states[1 - STATES :], known | {"detail": {"totals": totals}}]
        if self.observer is not None:
            try:
                self.observer.record(told)
            except Exception as error:  # it is counted, and what follows must be, too
                log.debug("%s: %s", error, told)

    def _keep(self, store: Store, source: str, batch: Sequence[Mapping[str, Any]]) -> int:
        if not batch:
            return self._kept.get(source, 0)
        with self._keeping:
            kept = self._kept.get(source, 0)
            wanted = [told for told in batch if told["seq"] > kept]
            if not wanted:
                return kept
            if time.monotonic() < self._due:
                return kept
            try:
                _write(store, wanted)
            except Exception as error:  # whatever it is, the records wait where they are
                self._due, self._delay = time.monotonic() + self._delay, min(2 * self._delay, RETRY[1])
                self._tell(str(error).strip() or type(error).__name__)
                return kept
            self._due, self._delay = 0.0, RETRY[0]
            self._tell("")
            self._kept[source] = int(wanted[-1]["seq"])
            return self._kept[source]

    def _tell(self, problem: str) -> None:
        if problem and not self.problem:
            log.warning("the monitor's records wait, the run goes on: %s", problem)
            self._warned = True
        elif self._warned and not problem:  # who was not told of a problem need not hear of its end
            log.info("the monitor's records arrive again")
            self._warned = False
        self.problem = problem

    def stages(self) -> dict[str, Progress]:
        """Progress so far, by stage."""
        with self._counting:
            return dict(self._stages)

    def _recall(self) -> None:
        if self.note is None:
            return
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # there was no predecessor
            told = json.loads(self.note.read_text(encoding="utf-8"))
            stages = {name: Progress(**values) for name, values in told["stages"].items()}
            counted = {source: int(seq) for source, seq in told["counted"].items()}
            self._stages, self._counted, self._states = stages, counted, told["states"]
            if self.observer is not None:
                for state in self._states:
                    self.observer.record(state)

    def _write_note(self) -> None:
        if self.note is None:
            return
        told = {
            "counted": self._counted,
            "states": self._states,
            "stages": {name: asdict(p) for name, p in self._stages.items()},
        }
        partial = self.note.with_suffix(".tmp")
        try:
            partial.write_text(json.dumps(told), encoding="utf-8")
            os.replace(partial, self.note)
        except OSError as error:
            log.debug("what was counted could not be noted: %s", error)


def _write(store: Store, batch: Sequence[Mapping[str, Any]]) -> None:
    """Write a batch without the records that the store refuses: nothing else may wait for them."""
    try:
        store.write(batch)
    except Refused as error:
        if len(batch) == 1:
            log.warning("a record is lost, the database cannot hold it: %s", error)
            return
        middle = len(batch) // 2
        _write(store, batch[:middle])
        _write(store, batch[middle:])


def _whole(text: str) -> dict[str, Any] | None:
    """The record of a line; None of what is none, which nobody could ever deliver."""
    try:
        return records.parse(text)
    except ValueError as error:
        log.debug("%s", error)
        return None


def added(one: Progress, two: Progress) -> Progress:
    """The progress of one stage, of two records."""
    sums = {f.name: getattr(one, f.name) + getattr(two, f.name) for f in fields(Progress) if f.name != "stage"}
    return Progress(one.stage, **sums)
