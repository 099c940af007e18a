"""Processor time and peak memory of the processes that write tiles, each in a small file beside the views."""

from __future__ import annotations

import json
import resource
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from geopipe.export.views import VIEWS
from geopipe.processes import unique_name

SUFFIX = ".usage"


@dataclass(frozen=True)
class Usage:
    """What the processes that wrote tiles have used.

    Attributes:
        processes: their number.
        cpu_seconds: of all of them, since each began to work for the run.
        peak_bytes: the sum of the most resident memory of each: at no time was it more together.
        largest_bytes: of the largest of them.
    """

    processes: int = 0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    largest_bytes: int = 0


def peak_memory() -> int:
    """Most resident bytes of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Meter:
    """The processor time of this process from now on."""

    def __init__(self) -> None:
        self._start = time.process_time()

    def note(self, staging: Path) -> None:
        """Write what this process has used so far, where views are taken. A run is whole without it."""
        name = f"{unique_name()}{SUFFIX}"
        values = {"cpu_seconds": time.process_time() - self._start, "peak_bytes": peak_memory()}
        with suppress(OSError):  # no such folder: no views are taken
            (staging / VIEWS / name).write_text(json.dumps(values), encoding="ascii")


def usage_of(staging: Path) -> Usage:
    """The sum of what the processes of a run have written; a file that is damaged does not count."""
    seconds, peaks = list[float](), list[int]()
    for path in sorted((staging / VIEWS).glob(f"*{SUFFIX}")):
        with suppress(OSError, ValueError, TypeError, LookupError):
            values = json.loads(path.read_text(encoding="ascii"))
            cpu, peak = float(values["cpu_seconds"]), int(values["peak_bytes"])
            seconds.append(cpu)
            peaks.append(peak)
    return Usage(len(peaks), round(sum(seconds), 3), sum(peaks), max(peaks, default=0))
