"""The result of a run, and its wall time, processor time and memory by step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from geopipe.analysis.results import Analysis
from geopipe.events.records import Progress
from geopipe.export.usage import Usage, peak_memory
from geopipe.plan.plan import Plan
from geopipe.validate.facts import Finding


@dataclass(frozen=True)
class Summary:
    """A finished run.

    Attributes:
        output: folder of the table, or URI of the object store that has it.
        seconds: wall time by step.
        stages: work and seconds of the workers, by stage.
        analyses: results of the methods in [analysis].
        usage: processor time and memory of the processes that wrote tiles, if a report is enabled.
        kept: tiles of an earlier attempt.
        report: the page of the report; None without one.
    """

    run_id: str
    plan: Plan
    output: Path | str
    rows: int
    files: int
    bytes: int
    seconds: Mapping[str, float]
    stages: Mapping[str, Progress] = field(default_factory=dict)
    warnings: tuple[Finding, ...] = ()
    analyses: tuple[Analysis, ...] = ()
    usage: Usage = field(default_factory=Usage)
    kept: int = 0
    report: Path | str | None = None

    @property
    def skipped(self) -> dict[str, str]:
        """Reason by name of each skipped layer."""
        return self.plan.skipped

    @property
    def exit_code(self) -> int:
        return 4 if self.skipped else 0


class Clock:
    """Wall seconds by step; processor seconds and peak memory of this process by step."""

    def __init__(self) -> None:
        self.laps, self.cpu, self.peaks = dict[str, float](), dict[str, float](), dict[str, int]()
        self._last, self._cpu = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> None:
        """Add the time since the last lap to a step."""
        now, cpu = time.perf_counter(), time.process_time()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self.cpu[name] = self.cpu.get(name, 0.0) + cpu - self._cpu
        self.peaks[name] = peak_memory()
        self._last, self._cpu = now, cpu
