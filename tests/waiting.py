"""Waiting for what a test needs, however slow or fast the machine is."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TypeVar

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds after which an event that a test waits for counts as missing. On every machine it comes much sooner."""


def until(look: Callable[[], T], seconds: float = PATIENCE) -> T:
    """Look again and again, and return the first result that is true."""
    end = time.monotonic() + seconds
    while not (result := look()):
        assert time.monotonic() < end, f"after {seconds:.0f} s still {result!r}"
        time.sleep(0.02)
    return result


class Piped:
    """A process whose lines a test reads as they come. `process.communicate` would lose what is in the buffers."""

    def __init__(self, process: subprocess.Popen[str], out: IO[str], err: IO[str]) -> None:
        self.process, self.out, self.err = process, out, err

    def line(self) -> str:
        """The next line of standard output."""
        return self.out.readline().rstrip("\n")

    def rest(self) -> tuple[int, str, str]:
        """Exit code, and what else is written to standard output and to standard error up to the end."""
        out, err = self.out.read(), self.err.read()
        return self.process.wait(), out, err


@contextmanager
def piped(command: Sequence[str]) -> Iterator[Piped]:
    """Start a process, and kill it after a while, so that nobody reads from it for ever."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            yield Piped(process, process.stdout, process.stderr)
        finally:
            watchdog.cancel()
            process.kill()
