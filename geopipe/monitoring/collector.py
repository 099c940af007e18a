"""The collector of a run: counts each record once for progress and Prometheus, and writes it to Postgres.

Records come in batches of one source in their order, maybe more than once. The collector counts by sequence number what
is new, and returns up to which record all is safe: in Postgres, if the run has one. The rest is sent again. So a crash
loses nothing but the counts, which are noted in a small file for a successor.
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
from typing import Any

from geopipe import __version__
from geopipe.errors import MachineError
from geopipe.events import records
from geopipe.events.records import Progress, State
from geopipe.monitoring.database.store import PostgresStore, Refused
from geopipe.monitoring.home import claim, write_private
from geopipe.monitoring.options import TARGETS, MonitoringOptions
from geopipe.monitoring.prometheus import Exporter

log = logging.getLogger(__name__)

KEPT_STATES = 4
"""States of a run that are noted for a successor: the present one, and the last with the planned work."""

RETRY = (1.0, 30.0)
"""Seconds between attempts to reach a store that is away: at first, and at most."""


class Collector:
    """Counts and keeps the records of one run.

    Args:
        note: file with the counts, for a successor; None if no folder can hold it.
        store: keeps a batch as a whole; None if no database does: a record has arrived when it is counted.
        observer: gets each new record once; None without Prometheus.
        problem: of the store; the user has been warned.
        warns: whether to warn when records cannot be stored.
    """

    def __init__(
        self,
        note: Path | None,
        store: PostgresStore | None = None,
        observer: Exporter | None = None,
        problem: str = "",
        warns: bool = True,
    ) -> None:
        self.note, self.store, self.observer = note, store, observer
        self._counted: dict[str, int] = {}
        self._kept: dict[str, int] = {}
        self._first: dict[str, int] = {}  # the first record of each source here; earlier ones arrived elsewhere
        self._stages: dict[str, Progress] = {}
        self._states: list[Mapping[str, Any]] = []  # the last ones, for a successor's observer
        self._counting, self._keeping = threading.Lock(), threading.Lock()
        self._due, self._delay = 0.0, RETRY[0]
        self.problem, self._warns, self._warned = problem, warns, False
        self._recall()

    def receive(self, source: str, lines: Sequence[str], keep: bool = True) -> int:
        """Take a batch of one source. Returns the sequence number up to which all its records are safe.

        Args:
            keep: False to count the batch only; it comes again, after earlier records that are not kept yet.
        """
        batch = list(filter(None, map(_parsed, lines)))
        with self._counting:
            before = self._counted.get(source, 0)
            if batch:
                self._first.setdefault(source, batch[0]["seq"])
            for record in batch:
                if record["seq"] > self._counted.get(source, 0):
                    self._counted[source] = record["seq"]
                    self._count(record)
            counted = self._counted.get(source, 0)
            if counted > before:
                self._write_note()
        if self.store is None:
            return counted
        arrived = self._keep(self.store, source, batch if keep else ())
        if self.observer is not None:
            first = self._first.copy().items()
            self.observer.pending(sum(max(0, self._counted.get(s, 0) - self._kept.get(s, n - 1)) for s, n in first))
        return arrived

    def close(self, wait: float = 0.0) -> None:
        """Close the connection to Postgres and Prometheus' port; a later batch opens a new connection.

        Args:
            wait: seconds at most for a last scrape.
        """
        if self.store is not None:
            self.store.close()
        if self.observer is not None:
            self.observer.close(wait)

    def _count(self, record: Mapping[str, Any]) -> None:
        if record["kind"] == Progress.kind:
            new = Progress(**{f.name: record[f.name] for f in fields(Progress)})
            old = self._stages.get(new.stage)
            self._stages[new.stage] = new if old is None else add_progress(old, new)
        if record["kind"] == State.kind:
            state = {name: record.get(name) for name in ("kind", "ts", "source", "seq", "state")}
            totals = (record.get("detail") or {}).get("totals")
            self._states = [*self._states[1 - KEPT_STATES :], state | {"detail": {"totals": totals}}]
        if self.observer is not None:
            try:
                self.observer.record(record)
            except Exception as error:  # the record is counted, and later ones must be, too
                log.debug("%s: %s", error, record)

    def _keep(self, store: PostgresStore, source: str, batch: Sequence[Mapping[str, Any]]) -> int:
        if not batch:
            return self._kept.get(source, 0)
        with self._keeping:
            kept = self._kept.get(source, 0)
            new = [record for record in batch if record["seq"] > kept]
            if not new or time.monotonic() < self._due:
                return kept
            try:
                _write(store, new)
            except Exception as error:  # whatever it is, the records wait in their spools
                self._due, self._delay = time.monotonic() + self._delay, min(2 * self._delay, RETRY[1])
                self._set_problem(str(error).strip() or type(error).__name__)
                return kept
            self._due, self._delay = 0.0, RETRY[0]
            self._set_problem("")
            self._kept[source] = int(new[-1]["seq"])
            return self._kept[source]

    def _set_problem(self, problem: str) -> None:
        if problem and not self.problem and self._warns:
            log.warning("the monitor's records wait, the run goes on: %s", problem)
            self._warned = True
        elif self._warned and not problem:
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
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # no predecessor
            note = json.loads(self.note.read_text(encoding="utf-8"))
            stages = {name: Progress(**values) for name, values in note["stages"].items()}
            counted = {source: int(seq) for source, seq in note["counted"].items()}
            self._stages, self._counted, self._states = stages, counted, note["states"]
            if self.observer is not None:
                for state in self._states:
                    self.observer.record(state)

    def _write_note(self) -> None:
        if self.note is None:
            return
        stages = {name: asdict(progress) for name, progress in self._stages.items()}
        note = {"counted": self._counted, "states": self._states, "stages": stages}
        try:
            write_private(self.note, json.dumps(note), sync=False)
        except OSError as error:
            log.debug("the counts could not be noted: %s", error)


def open_collector(options: MonitoringOptions, serve: bool = True, warns: bool = True) -> Collector:
    """Open the collector of a run in this process, with its store and its exporter.

    Args:
        serve: whether to answer Prometheus, if the options have a port or the cluster has a Prometheus.
        warns: whether to warn when records cannot be stored.
    """
    exporter = _exporter(options) if serve else None
    note = None
    with suppress(OSError):  # no run fails for the note
        claim(options.root)
        options.folder.mkdir(parents=True, exist_ok=True)
        note = options.folder / "counted.json"
    store = PostgresStore(options.dsn_file) if options.database else None
    return Collector(note, store, exporter, options.problem, warns)


def open_archive(options: MonitoringOptions) -> Collector:
    """Open a collector of records of other runs, which died: it writes them to Postgres, and nobody sees its counts."""
    return Collector(None, PostgresStore(options.dsn_file), warns=False)


def _exporter(options: MonitoringOptions) -> Exporter | None:
    """The exporter of a run, which answers on the port of its options, or where the Prometheus of its cluster looks."""
    folder = os.environ.get(TARGETS)
    if options.prometheus_port is None and not folder:
        return None
    exporter = Exporter({"version": __version__})
    host = options.prometheus_host if options.prometheus_port is not None else "127.0.0.1"
    try:
        exporter.serve(options.prometheus_port or 0, host)
        if folder:
            exporter.announce(Path(folder) / f"{options.run_id}.json", "127.0.0.1" if host == "0.0.0.0" else host)
    except (MachineError, OSError) as error:
        log.warning("Prometheus will not see this run: %s", error)
    return exporter


def _write(store: PostgresStore, batch: Sequence[Mapping[str, Any]]) -> None:
    """Write a batch without the records that the store refuses, so that the others do not wait for them."""
    try:
        store.write(batch)
    except Refused as error:
        if len(batch) == 1:
            log.warning("a record is lost, the database cannot hold it: %s", error)
            return
        middle = len(batch) // 2
        _write(store, batch[:middle])
        _write(store, batch[middle:])


def _parsed(text: str) -> dict[str, Any] | None:
    """The record of a line; None for a damaged line, which nothing could ever deliver."""
    try:
        return records.parse(text)
    except ValueError as error:
        log.debug("%s", error)
        return None


def add_progress(one: Progress, two: Progress) -> Progress:
    """The sum of two progress records of one stage."""
    sums = {f.name: getattr(one, f.name) + getattr(two, f.name) for f in fields(Progress) if f.name != "stage"}
    return Progress(one.stage, **sums)
