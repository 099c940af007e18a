"""The plain loop: the whole run in one process, without Ray.

It executes the same plan by the same functions as the Ray engine, so the two agree to the bit. It is the oracle of the
Ray engine, and the place to start a debugger.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pyarrow as pa

from geopipe.engine.contract import Engine, Finish, Keys, Stop, never
from geopipe.engine.session import WorkerSession
from geopipe.engine.strips import Read, ahead, merge_strips
from geopipe.errors import Terminated
from geopipe.events import logs
from geopipe.events.emit import context
from geopipe.export.ledger import Journal
from geopipe.grid.grid import Tile
from geopipe.load import points, raster, tiles
from geopipe.merge.points import SparseRow
from geopipe.merge.tile import Part
from geopipe.monitoring.collector import Collector, open_collector
from geopipe.monitoring.options import MonitoringOptions
from geopipe.monitoring.prometheus import LAST_SCRAPE
from geopipe.plan.plan import Plan

Loop = Callable[[Plan, Keys, Finish, Stop], Generator[int, None, None]]
"""Merges and finishes tiles in this process, and yields their keys."""


def reads(plan: Plan, reader: raster.Reader) -> Read:
    """The reads of the plan: the windows that a tile needs."""
    return lambda tile: tiles.read_rows(plan, plan.rasters, tile, reader)


def finish_tiles(
    plan: Plan,
    keys: Keys,
    finish: Finish,
    stop: Stop = never,
    reads: Callable[[Plan, raster.Reader], Read] = reads,
    reader: Callable[[], raster.Reader] = raster.Readers,
) -> Generator[int, None, None]:
    """Read, merge and finish one tile after the other, and yield their keys. A thread reads while this one writes.

    Args:
        plan: to execute.
        keys: of the tiles.
        finish: called with each merged tile.
        stop: called after each tile; ends the loop if true.
        reads: makes the function that reads a tile.
        reader: makes the reader of windows.
    """
    with (
        closing(WorkerSession(reader=reader, cache=plan.estimate.cache_bytes)) as session,
        closing(ahead(_merged(plan, keys, session, reads))) as parts,
    ):
        for tile in map(plan.spec.tile, keys.tolist()):
            with context(tile=tile.key), logs.failures():
                finish(tile, _parts_of_one(parts), session.journal)
            yield tile.key
            if stop():
                return


def _merged(
    plan: Plan, keys: Keys, session: WorkerSession, reads: Callable[[Plan, raster.Reader], Read]
) -> Generator[Part, None, None]:
    """The merged parts of tiles, one after the other."""
    with session.working():
        read, sparse = reads(plan, session.reader), sparse_rows(plan)
        for tile in map(plan.spec.tile, keys.tolist()):
            with context(tile=tile.key):
                yield from merge_strips(plan, tile, read, sparse.pop(tile.key, ()))


def _parts_of_one(parts: Iterator[Part]) -> Iterator[Part]:
    """The parts of the next tile."""
    for strip, table in parts:
        yield strip, table
        del table  # before the next one is waited for
        if strip.completes:
            return


def merge(plan: Plan, keys: Keys | None = None) -> Iterator[pa.Table]:
    """The merged table of each tile (of those in `keys`), in their order, written nowhere: as `engine.ray.dataset`."""
    tables: list[pa.Table] = []

    def keep(_tile: Tile, parts: Iterable[Part], _journal: Journal) -> None:
        tables.append(pa.concat_tables([table for _, table in parts]))

    for _ in finish_tiles(plan, plan.keys if keys is None else keys, keep):
        yield tables.pop()


def sparse_rows(plan: Plan) -> dict[int, list[SparseRow]]:
    """The sparse block rows of all coordinate tables, by tile. Each table is read once: it has points for any tile."""
    rows: dict[int, list[SparseRow]] = {}
    for layer, partition in plan.partitions:
        with context(layer=layer.layer.name):
            for row in points.read_points(plan, layer, partition):
                rows.setdefault(row.tile, []).append(row)
    return rows


class _InProcess:
    def __init__(self, loop: Loop, collector: Collector) -> None:
        self._loop, self.receive, self.stages = loop, collector.receive, collector.stages

    def run(
        self, plan: Plan, keys: Keys, finish: Finish, stop: Stop, tries: Path | None = None
    ) -> Generator[int, None, None]:
        """Run the loop; nobody could count how often its process ends."""
        return self._loop(plan, keys, finish, stop)


@contextmanager
def in_process(loop: Loop, options: MonitoringOptions) -> Iterator[Engine]:
    """An engine that works in this process."""
    collector, wait = open_collector(options), LAST_SCRAPE
    try:
        yield _InProcess(loop, collector)
    except (KeyboardInterrupt, Terminated):
        wait = 0.0
        raise
    finally:
        collector.close(wait)


def plain_loop(options: MonitoringOptions) -> AbstractContextManager[Engine]:
    """The plain loop as an engine."""
    return in_process(finish_tiles, options)
