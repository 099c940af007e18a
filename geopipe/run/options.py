"""The options of a run, and its progress as others see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from geopipe.events.records import Progress

Watch = Callable[["Snapshot"], None]
"""Called with the progress of a run, in a thread, never twice at a time."""


@dataclass(frozen=True)
class Snapshot:
    """The progress of a run.

    Attributes:
        stages: work done, by stage.
        totals: units of work in all, by stage.
        seconds: since the run began to read.
        left: seconds that the run still needs; None if that is unknown.
    """

    stages: Mapping[str, Progress]
    totals: Mapping[str, int]
    seconds: float
    left: float | None = None


@dataclass(frozen=True)
class RunOptions:
    """How to run settings.

    Attributes:
        overwrite: replace a finished run in the output.
        resume: resume an unfinished run, and refuse if its plan is another. A finished table that was not sent to its
            object store is only sent.
        fresh: drop what unfinished runs have left in the output, and do all tiles.
        watch: called a few times a second with the progress.
        confirm: asked whether to keep the tiles of an unfinished run, unless `resume` is set.
        run_id: id that the submitter of a job chose; None for a new one.
        attempt: the least number of this attempt; attempts in the output count, too.
    """

    overwrite: bool = False
    resume: bool = False
    fresh: bool = False
    watch: Watch | None = None
    confirm: Callable[[str], bool] | None = None
    run_id: str | None = None
    attempt: int = 1
