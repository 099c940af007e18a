"""The contract between a run and what executes its plan."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from geopipe.events.records import Progress
from geopipe.export.ledger import Journal
from geopipe.grid.grid import Tile
from geopipe.merge.tile import Part
from geopipe.plan.plan import Plan

Keys = NDArray[np.int64]
"""Keys of the tiles to do: (n,) int64."""

Finish = Callable[[Tile, Iterable[Part], Journal], None]
"""Writes the parts of a merged tile, and its receipt to the journal of the process that merged it."""

Stop = Callable[[], bool]
"""Tells whether the run shall pause: tiles in progress are finished, no other tile begins. Workers call it, too."""


def never() -> bool:
    """Never pause: the `Stop` of a run that nobody can pause."""
    return False


class Engine(Protocol):
    """Executes a plan: the plain loop, or Ray."""

    def run(
        self, plan: Plan, keys: Keys, finish: Finish, stop: Stop, tries: Path | None = None
    ) -> Generator[int, None, None]:
        """Merge and finish these tiles, and yield their keys as they are done. No tile begins once `stop` is true.

        Args:
            plan: of the run.
            keys: of the tiles.
            finish: called with each merged tile.
            stop: whether to pause.
            tries: folder that all nodes share, for files that count the processes which work has ended; None for none.

        Raises:
            WorkersLost: processes of the run are gone; tiles without a receipt can be done again.
        """

    def receive(self, source: str, lines: Sequence[str], keep: bool = True) -> int:
        """Take records of a process of the run, as `Collector.receive` does."""

    def stages(self) -> Mapping[str, Progress]:
        """Return the progress so far, by stage."""
