"""The plain loop: the whole run in one process, without Ray.

It walks the same plan with the same functions as the Ray engine, so that the two must agree to the bit. It is the
oracle of the engine and the debugger's entrance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import TypeVar

import pyarrow as pa

from geopipe.engine.contract import Engine, Finish, Keys, Stop
from geopipe.errors import Terminated
from geopipe.events import logs
from geopipe.events.emit import context
from geopipe.grid.grid import Tile
from geopipe.load import raster, tables
from geopipe.merge.points import SparseRow
from geopipe.merge.tile import merge_tile
from geopipe.monitoring.collector import Collector, open_collector
from geopipe.monitoring.options import MonitoringOptions
from geopipe.monitoring.prometheus import LAST_SCRAPE
from geopipe.plan.plan import Plan

Result = TypeVar("Result")


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
def in_process(work: Work, options: MonitoringOptions) -> Iterator[Engine]:
    """A function of this process as an engine."""
    collector, wait = open_collector(options), LAST_SCRAPE
    try:
        yield _InProcess(work, collector)
    except (KeyboardInterrupt, Terminated):
        wait = 0.0
        raise
    finally:
        collector.close(wait)


def plain_loop(options: MonitoringOptions) -> AbstractContextManager[Engine]:
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
