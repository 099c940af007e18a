"""Bars that show how far a run is: on a terminal, drawn anew all the time, or in an output cell of a notebook."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TaskProgressColumn, TextColumn
from rich.text import Text

from geopipe import machine
from geopipe.events.emit import current, subscribe
from geopipe.events.logs import STAGE_STARTED
from geopipe.events.records import RAY_STARTS, Body, Event
from geopipe.run.options import Snapshot
from geopipe.text import clean, clock, tail

STEPS = {
    "plan": "reading headers, planning",
    "ray": "starting Ray",
    "run": "starting workers",
    "validate": "validating",
    "commit": "committing",
    "analyze": "analysing",
    "report": "writing the report",
    "send": "sending",
}
"""The current step of a run that has no units to count, by stage."""

CELL_WIDTH = 100
"""Characters of a line in a notebook."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        cells, seconds = task.fields["cells"], task.fields["seconds"]
        return Text(f"{cells / seconds / 1e6:8.2f} M cells/s" if seconds else "")


class Bars:
    """The picture of a run: its name, step, time so far and time left, its output, and a bar for each stage."""

    def __init__(self, out: Console, name: str, output: str) -> None:
        columns = (
            TextColumn("{task.description:<6}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            _Rate(),
        )
        self.out, self.name, self.output, self.begin = out, clean(name), clean(output), time.monotonic()
        self.bars, self.tasks = Progress(*columns, console=out, auto_refresh=False), dict[str, TaskID]()
        self.step, self.left = STEPS["plan"], 0.0
        self.live: Live | None = None

    def hear(self, body: Body) -> None:
        """Note the step that has begun."""
        if isinstance(body, Event) and body.name in (STAGE_STARTED, RAY_STARTS):
            stage = "ray" if body.name == RAY_STARTS else str(current().get("stage"))
            self.step, self.left = STEPS.get(stage.partition(" ")[0], self.step), 0.0
            if stage == "run" and not machine.has_kernels():
                self.step = "compiling kernels (once)"

    def __call__(self, snapshot: Snapshot) -> None:
        for stage, total in snapshot.totals.items():
            if stage not in self.tasks:
                self.tasks[stage] = self.bars.add_task(stage, total=total, cells=0, seconds=0.0)
            done = snapshot.stages.get(stage)
            if done:
                self.step = "at work" if done.tiles else self.step
                cells, seconds, bar = done.cells, snapshot.seconds, self.tasks[stage]
                self.bars.update(bar, total=total, completed=done.tiles, cells=cells, seconds=seconds)
        self.left = snapshot.left or 0.0

    def picture(self) -> Group:
        left = f", about {clock(self.left)} left" if self.left else ""
        title = f"{self.name}: {self.step}, {clock(time.monotonic() - self.begin)}{left}"
        output = "  " + tail(self.output, max(self.out.width - 2, 8))
        return Group(Text(title, style="bold", overflow="ellipsis"), Text(output, style="dim", no_wrap=True), self.bars)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bars from the terminal while a person answers a question."""
        if self.live:
            self.live.stop()
        try:
            yield
        finally:
            if self.live:
                self.live.start(refresh=True)


@contextmanager
def screen(out: Console, name: str, output: str) -> Iterator[Bars]:
    """Bars on a terminal, from the first second of a run to its end."""
    bars = Bars(out, name, output)
    with ExitStack() as stack:
        stack.callback(subscribe(bars.hear))
        bars.live = stack.enter_context(Live(get_renderable=bars.picture, console=out, refresh_per_second=4))
        yield bars


class _Cell(Bars):
    """Bars as text in one output cell of a notebook, which needs IPython alone and no widgets."""

    def __init__(self, name: str, output: str) -> None:
        from IPython.display import display

        out = Console(file=io.StringIO(), width=CELL_WIDTH, color_system=None, force_jupyter=False)
        super().__init__(out, name, output)
        self.handle = display(self._text(), raw=True, display_id=True)

    def _text(self) -> dict[str, str]:
        with self.out.capture() as text:
            self.out.print(self.picture())
        return {"text/plain": text.get()}

    def __call__(self, snapshot: Snapshot) -> None:
        super().__call__(snapshot)
        self.handle.update(self._text(), raw=True)


@contextmanager
def cell(name: str, output: str) -> Iterator[Bars]:
    """Bars in a notebook."""
    bars = _Cell(name, output)
    with ExitStack() as stack:
        stack.callback(subscribe(bars.hear))
        yield bars
