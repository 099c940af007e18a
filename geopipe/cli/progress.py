"""How far a run is, on a terminal and elsewhere, while it is at work."""

from __future__ import annotations

import io
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console

from geopipe.cli.screen import console, say
from geopipe.events.emit import subscribe
from geopipe.events.records import POSTGRES_STARTED, Body, Event
from geopipe.run.pipeline import Snapshot
from geopipe.run.progress import screen

NOISE = re.compile(
    rb"has constructor arguments in the object store and max_restarts"
    rb"|^\[[^]]* [DIWE] \d+ \d+\] (gcs_client|gcs_rpc_client|rpc_client)\b"
)
"""Lines that Ray's core prints: advice to the authors of Ray Data for every actor pool that may restart, and each
attempt to reach a cluster that does not answer, which is one error of ours in the end."""


class _Aside(io.FileIO):
    """Standard error of a run: that nobody reads it any more, as of a terminal that was closed, ends nothing."""

    def write(self, data: Any) -> int:
        with suppress(OSError):
            return super().write(data)
        return len(data)


@contextmanager
def without_noise() -> Iterator[None]:
    """Keep NOISE from the terminal; everything else that is written to standard error gets there."""
    ours = sys.__stderr__
    if ours is None or sys.stderr is not ours:
        yield  # somebody has replaced standard error already
        return
    ours.flush()
    terminal = os.dup(2)
    source, sink = os.pipe()
    os.dup2(sink, 2)
    os.close(sink)
    out = io.BufferedWriter(_Aside(os.dup(terminal), "w"))
    sys.stderr = io.TextIOWrapper(out, encoding="utf-8", errors="backslashreplace", line_buffering=True)

    def pass_on() -> None:
        with os.fdopen(source, "rb") as lines:
            for line in lines:
                if not NOISE.search(line):
                    with suppress(OSError):
                        os.write(terminal, line)

    thread = threading.Thread(target=pass_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        sys.stderr.close()
        sys.stderr = ours
        os.dup2(terminal, 2)
        thread.join(timeout=1)


@contextmanager
def progress(interval: float, quiet: bool, name: str, output: str) -> Iterator[Callable[[Snapshot], None] | None]:
    """Show how far a run is: a screen from its first second, elsewhere a plain line every `interval` seconds.

    Args:
        name: of the run.
        output: where its table goes.
    """
    out = console(stderr=True)
    with notes(out):
        if quiet:
            yield None
        elif out.is_terminal:
            with screen(out, name, output) as show:
                yield show
        else:
            yield _plain_progress(out, interval)


@contextmanager
def notes(out: Console) -> Iterator[None]:
    """Say what a run starts that runs on after it."""

    def hear(body: Body) -> None:
        if isinstance(body, Event) and body.name == POSTGRES_STARTED:
            say(out, f"started a Postgres for the history of runs, in {body.detail['folder']}; end it: geopipe db stop")

    unsubscribe = subscribe(hear)
    try:
        yield
    finally:
        unsubscribe()


def _plain_progress(out: Console, interval: float) -> Callable[[Snapshot], None]:
    due, complete = time.monotonic() + interval, False

    def show(snapshot: Snapshot) -> None:
        nonlocal due, complete
        ended = all(
            snapshot.stages[s].tiles >= t if s in snapshot.stages else False for s, t in snapshot.totals.items()
        )
        if time.monotonic() < due and (complete or not ended):
            return
        complete = ended
        due = time.monotonic() + interval
        parts = []
        for stage, total in snapshot.totals.items():
            done = snapshot.stages.get(stage)
            parts.append(f"{stage} {done.tiles if done else 0:,}/{total:,}")
        last = snapshot.stages.get("write")
        if last and last.tiles:
            left = "" if snapshot.left is None else f", {snapshot.left:.0f} s left"
            parts.append(f"{last.cells / snapshot.seconds / 1e6:.2f} M cells/s{left}")
        out.print(f"{snapshot.seconds:7.1f} s  " + "  ".join(parts))

    return show
