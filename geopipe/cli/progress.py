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
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TaskProgressColumn, TextColumn
from rich.text import Text

from geopipe import machine
from geopipe.cli.screen import console, say, tail
from geopipe.events.emit import current, subscribe
from geopipe.events.logs import STAGE_STARTED
from geopipe.events.records import POSTGRES_STARTED, RAY_STARTS, Body, Event
from geopipe.run.pipeline import Snapshot
from geopipe.text import clean, clock

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


STEPS = {
    "plan": "reading headers, planning",
    "ray": "starting Ray",
    "run": "starting workers",
    "validate": "validating",
    "commit": "committing",
    "send": "sending",
}
"""What a run does where it has no units to count, by the stage that has begun."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        cells, seconds = task.fields["cells"], task.fields["seconds"]
        return Text(f"{cells / seconds / 1e6:8.2f} M cells/s" if seconds else "")


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
            with _screen(out, name, output) as show:
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


@dataclass(frozen=True)
class Screen:
    """A screen that is drawn anew all the time, and gives way while a person is asked something."""

    show: Callable[[Snapshot], None]
    live: Live

    def __call__(self, snapshot: Snapshot) -> None:
        self.show(snapshot)

    @contextmanager
    def aside(self) -> Iterator[None]:
        self.live.stop()
        try:
            yield
        finally:
            self.live.start(refresh=True)


@contextmanager
def _screen(out: Console, name: str, output: str) -> Iterator[Screen]:
    """Name, output, what is done now, for how long and how much longer; and a bar for each stage with units."""
    columns = (
        TextColumn("{task.description:<6}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        _Rate(),
    )
    bars, tasks, begin = Progress(*columns, console=out, auto_refresh=False), dict[str, TaskID](), time.monotonic()
    step, left = STEPS["plan"], list[float | None]([None])

    def hear(body: Body) -> None:
        nonlocal step
        if isinstance(body, Event) and body.name in (STAGE_STARTED, RAY_STARTS):
            stage = "ray" if body.name == RAY_STARTS else str(current().get("stage"))
            step, left[0] = STEPS.get(stage, step), None
            if stage == "run" and not machine.has_kernels():
                step = "compiling kernels (once)"

    def show(snapshot: Snapshot) -> None:
        nonlocal step
        for stage, total in snapshot.totals.items():
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, cells=0, seconds=0.0)
            done = snapshot.stages.get(stage)
            if done:
                step = "at work" if done.tiles else step
                cells, seconds = done.cells, snapshot.seconds
                bars.update(tasks[stage], total=total, completed=done.tiles, cells=cells, seconds=seconds)
        left[0] = snapshot.left

    def picture() -> RenderableType:
        about = f", about {clock(left[0])} left" if left[0] else ""
        first = Text(
            f"{clean(name)}: {step}, {clock(time.monotonic() - begin)}{about}", style="bold", overflow="ellipsis"
        )
        second = Text("  " + tail(clean(output), max(out.width - 2, 8)), style="dim", no_wrap=True)
        return Group(first, second, bars)

    unsubscribe = subscribe(hear)
    try:
        with Live(get_renderable=picture, console=out, refresh_per_second=4) as live:
            yield Screen(show, live)
    finally:
        unsubscribe()


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
            left = "" if snapshot.left is None else f", {snapshot.left:.0f} s left"
            parts.append(f"{last.cells / snapshot.seconds / 1e6:.2f} M cells/s{left}")
        out.print(f"{snapshot.seconds:7.1f} s  " + "  ".join(parts))

    return show
