"""The result of a run, and its wall time by step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from geopipe.analysis.results import Analysis
from geopipe.events.records import Progress
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

    @property
    def skipped(self) -> dict[str, str]:
        """Reason by name of each skipped layer."""
        return self.plan.skipped

    @property
    def exit_code(self) -> int:
        return 4 if self.skipped else 0


class Clock:
    """Wall seconds by step."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Add the time since the last lap to a step."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now
