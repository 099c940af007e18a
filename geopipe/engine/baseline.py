"""The old way: every raster is read whole, and all layers are brought to the whole grid in one process.

It is deprecated, gives the same files, and is kept for one thing: `make bench-memory` measures what it costs. Its
memory grows with the rasters and with the grid.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing
from functools import partial

from geopipe.engine.contract import Engine, Finish, Keys, Stop
from geopipe.engine.local import in_process, sparse_rows
from geopipe.engine.session import WorkerSession
from geopipe.events.emit import context, emit
from geopipe.events.records import Progress
from geopipe.grid.grid import Tile
from geopipe.load import raster
from geopipe.load.sweep import BandBuffer
from geopipe.load.tiles import Reading, TileColumns, inside_of
from geopipe.merge.blocks import BlockRow, marker
from geopipe.merge.tile import merge_tile
from geopipe.monitoring.options import MonitoringOptions
from geopipe.plan.layers import LayerPlan
from geopipe.plan.plan import Plan
from geopipe.resample.locate import canonical_blocks
from geopipe.resample.methods import Window


def old_way(options: MonitoringOptions) -> AbstractContextManager[Engine]:
    """The old way as an engine."""
    return in_process(_work, options)


def _work(plan: Plan, keys: Keys, finish: Finish, stop: Stop) -> Generator[int, None, None]:
    with closing(WorkerSession()) as session, session.working():
        readers, sparse = session.readers, sparse_rows(plan)
        rows = [row for layer in plan.rasters for row in _whole(plan, layer, readers)]
        for tile in map(plan.spec.tile, keys.tolist()):
            with context(tile=tile.key):
                inside = inside_of(plan, tile, readers)
                parts = [marker(tile.key, inside), *(_cut(row, tile) for row in rows), *sparse.pop(tile.key, ())]
                finish(tile, merge_tile(plan.spec, tile, parts), session.journal)
            yield tile.key
            if stop():
                break


def _whole(plan: Plan, layer: LayerPlan, reader: raster.Reader) -> Iterator[BlockRow]:
    """The block rows of a layer for the whole grid, as if it were one tile."""
    grid = plan.grid
    whole = Tile(0, 0, 0, grid.height, grid.width)
    for decision in layer.decisions:
        reading, source = Reading(plan, layer, decision, reader), decision.source
        for index in reading.bands:
            buffer = BandBuffer(partial(reading.read, index))
            buffer.move(Window(0, 0, source.height, source.width))
            columns = TileColumns(reading, whole)
            for request in canonical_blocks(grid, decision, whole):
                columns.resample(request, index, buffer.cut)
            yield from columns.block_rows()
        with context(layer=layer.layer.name):
            emit(Progress("read", len(plan.keys), grid.cells, 0.0))


def _cut(row: BlockRow, tile: Tile) -> BlockRow:
    rows, cols = slice(tile.row, tile.row + tile.height), slice(tile.col, tile.col + tile.width)
    valid = None if row.valid is None else row.valid[rows, cols]
    return BlockRow(tile.key, row.variable, row.rank, row.values[rows, cols], valid)
