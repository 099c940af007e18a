"""What the workers of Ray do, as plain functions: read block rows, merge and finish tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from ray.actor import ActorHandle

from geopipe import machine
from geopipe.engine.contract import Finish, Stop, never
from geopipe.engine.session import WorkerSession, task_session
from geopipe.engine.strips import merge_strips, parts_of
from geopipe.engine.tries import Tries
from geopipe.events import logs
from geopipe.events.emit import context
from geopipe.grid.grid import Tile
from geopipe.load import points, raster, tiles
from geopipe.load.sweep import sweep
from geopipe.merge.blocks import MARKER, BlockRow, marker, pack, unpack
from geopipe.merge.points import SparseRow
from geopipe.merge.tile import Part
from geopipe.monitoring import actor as monitor
from geopipe.monitoring.options import MonitoringOptions
from geopipe.plan.layers import LayerPlan
from geopipe.plan.plan import Plan
from geopipe.text import count, listed

Batch = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Monitoring:
    """The monitoring of a run, for its workers: its options, and the actor that takes their records."""

    options: MonitoringOptions
    actor: ActorHandle

    def deliver(self, source: str, lines: Sequence[str], keep: bool = True) -> int:
        """Hand records to the actor."""
        return monitor.deliver(self.actor)(source, lines, keep)


@dataclass(frozen=True)
class Work:
    """What every worker of a Dataset needs.

    Attributes:
        monitoring: the monitoring of the run; None without.
        finish: called with each merged tile; None to return the tile's table.
        stop: called before each tile of the aligned strategy, which leaves the tile out if true.
        reader: makes the reader of a worker.
        tries: counts the processes that work on a tile has ended.
    """

    plan: Plan
    monitoring: Monitoring | None = None
    finish: Finish | None = None
    stop: Stop = never
    reader: Callable[[], raster.Reader] = raster.Readers
    tries: Tries = field(default_factory=Tries)

    def session(self) -> WorkerSession:
        """Open a session."""
        cache = self.plan.estimate.cache_bytes
        if self.monitoring is None:
            return WorkerSession(reader=self.reader, cache=cache)
        return WorkerSession(self.monitoring.options, self.monitoring.deliver, self.reader, cache)

    def task_session(self) -> AbstractContextManager[WorkerSession]:
        """The session for a task: shared with other tasks of the run, or the task's own without a run."""
        return task_session(self.monitoring.options if self.monitoring else None, self.session)


class _Noted(Sequence[LayerPlan]):
    """Layers that are noted as they are read, one after the other."""

    def __init__(self, layers: Sequence[LayerPlan], note: Callable[[str], None]) -> None:
        self._layers, self._note = layers, note

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, index: Any) -> Any:
        self._note(self._layers[index].layer.name)
        return self._layers[index]


class Aligned:
    """A resampling actor: reads all layers of a tile, and merges them."""

    def __init__(self, work: Work) -> None:
        self.work, self.session = work, work.session()

    def __call__(self, batch: Batch) -> Iterator[pa.Table]:
        plan = self.work.plan
        with self.session.working() as session:
            for tile in map(plan.spec.tile, batch["keys"][0].tolist()):
                if self.work.stop():
                    return
                at_work = self.work.tries.at_work(f"{tile.key}", f"tile {tile.key}")
                with context(tile=tile.key), logs.failures(), at_work as note:
                    layers = _Noted(plan.layers, note) if note else plan.layers
                    read = partial(tiles.read_rows, plan, layers, reader=session.reader)
                    yield _finished(self.work, tile, merge_strips(plan, tile, read), session)

    def __del__(self) -> None:
        """Ray is about to end this process: stop the recorder's thread before Ray's core goes."""
        self.session.close()


def read_layer(batch: Batch, work: Work) -> Iterator[pa.Table]:
    """Read one layer in some tiles, or a partition of a table, into block rows for the shuffle.

    A task, not an actor: an actor pool would end with each wave, and start anew for the next. Tasks come back to the
    same warm workers, which also merge.
    """
    index, part, keys = int(batch["layer"][0]), int(batch["part"][0]), batch["keys"][0].tolist()
    layer = work.plan.layers[index]
    name, place = layer.layer.name, f"{count(len(keys), 'tile')} from {keys[0]}"
    at_work = work.tries.at_work(f"{index}-{part}-{keys[0]}", place, name)
    with context(layer=name), work.task_session() as session, at_work:
        for row in _rows(work.plan, layer, part, keys, session.reader):
            yield pack(row)
    machine.release_memory()


def _rows(
    plan: Plan, layer: LayerPlan, part: int, keys: list[int], reader: raster.Reader
) -> Iterator[BlockRow | SparseRow]:
    """The block rows of a layer, after a marker of each tile, which has a marker even if nothing follows.

    The mask of a tile travels once: with the marker of the first layer and its first partition.
    """
    carries_mask = layer is plan.layers[0] and part == 0
    if layer.table is None and not layer.sweeps:
        for tile in map(plan.spec.tile, keys):
            with context(tile=tile.key), logs.failures():
                inside = tiles.inside_of(plan, tile, reader)
                yield marker(tile.key, inside if carries_mask else None)
                for strip in parts_of(plan, tile):
                    top = strip.row - tile.row
                    cells = None if inside is None else inside[top : top + strip.height]
                    for row in tiles.read_tile(plan, layer, strip, reader, cells):
                        yield replace(row, top=top)
        return
    for key in keys:
        yield marker(key, tiles.inside_of(plan, plan.spec.tile(key), reader) if carries_mask else None)
    if layer.table is not None:
        yield from points.read_points(plan, layer, layer.table.partitions[part], keys)
    else:
        yield from sweep(plan, layer, keys, reader)


def merge_groups(groups: pa.Table, work: Work) -> Iterator[pa.Table]:
    """Merge the tiles of one partition of the shuffle. Their block rows are views of the object store."""
    plan = work.plan
    layers = _layers_by_tile(plan, groups)
    with work.task_session() as session:
        for tile in map(plan.spec.tile, sorted(layers)):
            names = f" (layers: {listed(sorted(layers[tile.key]))})" if layers[tile.key] else ""
            at_work = work.tries.at_work(f"{tile.key}", f"merging tile {tile.key}{names}")
            with context(tile=tile.key), logs.failures(), at_work:
                yield _finished(work, tile, merge_strips(plan, tile, partial(unpack, plan.spec, groups)), session)


def _layers_by_tile(plan: Plan, groups: pa.Table) -> dict[int, set[str]]:
    """The names of the layers that have block rows of a tile, by its key; empty if it has a marker alone."""
    layers: dict[int, set[str]] = {}
    for key, index in zip(groups["tile"].to_pylist(), groups["variable"].to_pylist(), strict=True):
        layers.setdefault(key, set()).update({plan.spec.variables[index].layer} if index != MARKER else ())
    return layers


def _finished(work: Work, tile: Tile, parts: Iterable[Part], session: WorkerSession) -> pa.Table:
    """Finish a tile, and return its key as a table; without `finish` return the tile's table."""
    if work.finish is None:
        return pa.concat_tables([table for _, table in parts])
    work.finish(tile, parts, session.journal)
    del parts
    machine.release_memory()
    return pa.table({"done": [tile.key]})
