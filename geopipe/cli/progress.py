"""Progress of a run on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from rich.console import Console

from geopipe import machine
from geopipe.cli.screen import console, say
from geopipe.events.emit import current, subscribe
from geopipe.events.logs import STAGE_STARTED
from geopipe.events.records import POSTGRES_STARTED, Body, Event
from geopipe.run.pipeline import Snapshot
from geopipe.run.progress import screen

NOISE = re.compile(
    rb"has constructor arguments in the object store and max_restarts"
    rb"|^\[[^]]* [DIWE] \d+ \d+\] (gcs_client|gcs_rpc_client|rpc_client)\b"
)
"""Lines of Ray's core that no user can act on: advice to authors of Ray Data, and each attempt to reach a cluster
that does not answer (geopipe reports that once)."""


class _Aside(io.FileIO):
    """Standard error of a run. A closed terminal or pipe silences it instead of raising."""

    def write(self, data: Any) -> int:
        with suppress(OSError):
            return super().write(data)
        return len(data)


@contextmanager
def without_noise() -> Iterator[None]:
    """Filter NOISE out of standard error, also of what compiled code writes to it."""
    ours = sys.__stderr__
    if ours is None or sys.stderr is not ours:
        yield  # standard error is replaced already, by a test for example
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
    """Show the progress of a run: bars on a terminal, elsewhere a line every `interval` seconds.

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
    """Print a line when a run starts a server that outlives it, or is about to compile kernels."""

    def hear(body: Body) -> None:
        starts = isinstance(body, Event) and body.name == STAGE_STARTED and current().get("stage") == "run"
        if starts and not machine.has_kernels():
            say(out, "compiling kernels, once on this machine (`geopipe doctor --warm` does it beforehand)")
        if isinstance(body, Event) and body.name == POSTGRES_STARTED:
            say(out, f"started a Postgres for the history of runs, in {body.detail['folder']}; end it: geopipe db stop")

    with ExitStack() as stack:
        stack.callback(subscribe(hear))
        yield


def _plain_progress(out: Console, interval: float) -> Callable[[Snapshot], None]:
    due, complete = time.monotonic() + interval, False

    def show(snapshot: Snapshot) -> None:
        nonlocal due, complete
        done = {stage: progress.tiles for stage, progress in snapshot.stages.items()}
        ended = all(stage in done and done[stage] >= total for stage, total in snapshot.totals.items())
        if time.monotonic() < due and (complete or not ended):
            return
        due, complete = time.monotonic() + interval, ended
        parts = [f"{stage} {done.get(stage, 0):,}/{total:,}" for stage, total in snapshot.totals.items()]
        if done.get("write"):
            left = "" if snapshot.left is None else f", {snapshot.left:.0f} s left"
            parts.append(f"{snapshot.stages['write'].cells / snapshot.seconds / 1e6:.2f} M cells/s{left}")
        out.print(f"{snapshot.seconds:7.1f} s  " + "  ".join(parts))

    return show
