"""How far a run is, on a terminal and elsewhere, while it is at work."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from geopipe.pipeline import Snapshot
from geopipe.render import console

NOISE = re.compile(
    rb"has constructor arguments in the object store and max_restarts"
    rb"|^\[[^]]* [DIWE] \d+ \d+\] (gcs_client|gcs_rpc_client|rpc_client)\b"
)
"""Lines that Ray's core prints: advice to the authors of Ray Data for every actor pool that may restart, and each
attempt to reach a cluster that does not answer, which is one error of ours in the end."""


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
    sys.stderr = os.fdopen(os.dup(terminal), "w", buffering=1, encoding="utf-8", errors="backslashreplace")

    def pass_on() -> None:
        with os.fdopen(source, "rb") as lines:
            for line in lines:
                if not NOISE.search(line):
                    os.write(terminal, line)

    thread = threading.Thread(target=pass_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with suppress(OSError):  # nobody reads it any more
            sys.stderr.close()
        sys.stderr = ours
        os.dup2(terminal, 2)
        thread.join(timeout=1)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        cells, seconds = task.fields["cells"], task.fields["seconds"]
        return Text(f"{cells / seconds / 1e6:8.2f} M cells/s" if seconds else "")


@contextmanager
def progress(interval: float, quiet: bool) -> Iterator[Callable[[Snapshot], None] | None]:
    """Show how far a run is: bars on a terminal, a plain line every `interval` seconds elsewhere."""
    if quiet:
        yield None
        return
    out = console(stderr=True)
    if not out.is_terminal:
        yield _plain_progress(out, interval)
        return
    columns = (
        TextColumn("{task.description:<6}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=out) as bars:
        tasks: dict[str, Any] = {}

        def show(snapshot: Snapshot) -> None:
            for stage, total in snapshot.totals.items():
                if stage not in tasks:
                    tasks[stage] = bars.add_task(stage, total=total, cells=0, seconds=0.0)
                done = snapshot.stages.get(stage)
                if done:
                    cells, seconds = done.cells, snapshot.seconds
                    bars.update(tasks[stage], total=total, completed=done.tiles, cells=cells, seconds=seconds)

        yield show


def _plain_progress(out: Console, interval: float) -> Callable[[Snapshot], None]:
    due, told = time.monotonic() + interval, False

    def show(snapshot: Snapshot) -> None:
        nonlocal due, told
        ended = all(
            snapshot.stages[s].tiles >= t if s in snapshot.stages else False for s, t in snapshot.totals.items()
        )
        if time.monotonic() < due and (told or not ended):
            return
        told = ended
        due = time.monotonic() + interval
        parts = []
        for stage, total in snapshot.totals.items():
            done = snapshot.stages.get(stage)
            parts.append(f"{stage} {done.tiles if done else 0:,}/{total:,}")
        last = snapshot.stages.get("write")
        if last and last.tiles:
            rate = last.cells / snapshot.seconds
            left = snapshot.seconds * (snapshot.totals["write"] / last.tiles - 1)
            parts.append(f"{rate / 1e6:.2f} M cells/s, {left:.0f} s left")
        out.print(f"{snapshot.seconds:7.1f} s  " + "  ".join(parts))

    return show
