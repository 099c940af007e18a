"""The plain loop: the whole run in one process, without Ray.

It walks the same plan with the same functions as the Ray engine, so that the two must agree to the bit. It is the
oracle of the engine and the debugger's entrance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe.errors import Terminated
from geopipe.events import logs
from geopipe.events.emit import context
from geopipe.events.records import Progress
from geopipe.grid.grid import Tile
from geopipe.load import raster, tables
from geopipe.merge.points import SparseRow
from geopipe.merge.tile import merge_tile
from geopipe.monitoring.collector import Collector
from geopipe.monitoring.prometheus import LAST_SCRAPE
from geopipe.monitoring.recorder import Options, open_collector
from geopipe.plan.plan import Plan

Result = TypeVar("Result")
Keys = NDArray[np.int64]
"""Keys of tiles that are to be done."""

Finish = Callable[[Tile, pa.Table], None]
"""What becomes of a merged tile inside the task that merged it: its files are written, and their receipt noted."""


Stop = Callable[[], bool]
"""Says whether the run is to pause: what is at work is finished, and nothing more begun. Workers ask it, too."""


class Engine(Protocol):
    """Something that executes a plan: the plain loop, or Ray."""

    def run(self, plan: Plan, keys: Keys, finish: Finish, stop: Stop) -> Iterator[int]:
        """Merge and finish these tiles; yields their keys as they are done, and begins none once `stop` says so."""

    def receive(self, source: str, lines: Sequence[str], keep: bool = True) -> int:
        """Take records of a process of the run, as `Collector.receive`."""

    def stages(self) -> Mapping[str, Progress]:
        """Progress by stage so far."""


def run_local(plan: Plan, finish: Callable[[Tile, pa.Table], Result], keys: Keys | None = None) -> Iterator[Result]:
    """What `finish` makes of each tile of the table (or of those in `keys`), in their order."""
    with raster.environment():
        todo = plan.keys if keys is None else keys
        readers, sparse = raster.Readers(), points_of(plan)
        for tile in map(plan.spec.tile, todo.tolist()):
            with context(tile=tile.key), logs.failures():
                rows = raster.read_rows(plan, plan.rasters, tile, readers)
                yield finish(tile, merge_tile(plan.spec, tile, chain(rows, sparse.pop(tile.key, ()))))
        readers.close()


def points_of(plan: Plan) -> dict[int, list[SparseRow]]:
    """The sparse block rows of all coordinate tables by tile: each table is read once, and has points for any tile."""
    found: dict[int, list[SparseRow]] = {}
    for layer, partition in plan.partitions:
        with context(layer=layer.layer.name):
            for row in tables.read(plan, layer, partition):
                found.setdefault(row.tile, []).append(row)
    return found


Work = Callable[[Plan, Keys, Finish, Stop], Iterator[int]]
"""Merges and finishes tiles in this process; yields their keys."""


class _InProcess:
    def __init__(self, work: Work, collector: Collector) -> None:
        self.work, self.receive, self.stages = work, collector.receive, collector.stages

    def run(self, plan: Plan, keys: Keys, finish: Finish, stop: Stop) -> Iterator[int]:
        return self.work(plan, keys, finish, stop)


@contextmanager
def in_process(work: Work, options: Options) -> Iterator[Engine]:
    """A function of this process as an engine."""
    collector, wait = open_collector(options), LAST_SCRAPE
    try:
        yield _InProcess(work, collector)
    except (KeyboardInterrupt, Terminated):
        wait = 0.0
        raise
    finally:
        collector.close(wait)


def plain_loop(options: Options) -> AbstractContextManager[Engine]:
    """The plain loop as an engine."""

    def work(plan: Plan, keys: Keys, finish: Finish, stop: Stop) -> Iterator[int]:
        def done(tile: Tile, table: pa.Table) -> int:
            finish(tile, table)
            return tile.key

        for key in run_local(plan, done, keys):
            yield key
            if stop():
                return

    return in_process(work, options)
