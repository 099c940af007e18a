"""The old way, deprecated: read every raster whole, and resample all layers to the whole grid in one process.

Its files are the same, and its memory grows with the rasters and the grid: `make bench-memory` measures it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial

from geopipe.engine.contract import Engine
from geopipe.engine.local import finish_tiles, in_process
from geopipe.engine.strips import Read
from geopipe.events.emit import context, emit
from geopipe.events.records import Progress
from geopipe.grid.grid import Tile
from geopipe.load import raster
from geopipe.load.sweep import BandBuffer
from geopipe.load.tiles import TileColumns, inside_of, readings
from geopipe.merge.blocks import BlockRow, marker
from geopipe.monitoring.options import MonitoringOptions
from geopipe.plan.layers import LayerPlan
from geopipe.plan.plan import Plan
from geopipe.resample.locate import canonical_blocks
from geopipe.resample.methods import Window


def old_way(options: MonitoringOptions) -> AbstractContextManager[Engine]:
    """The old way as an engine."""
    return in_process(partial(finish_tiles, reads=whole_reads), options)


def whole_reads(plan: Plan, reader: raster.Reader) -> Read:
    """Read everything at once, and cut a tile's block rows out of it."""
    rows = [row for layer in plan.rasters for row in _read_whole(plan, layer, reader)]
    return lambda tile: [marker(tile.key, inside_of(plan, tile, reader)), *(_cut(row, tile) for row in rows)]


def _read_whole(plan: Plan, layer: LayerPlan, reader: raster.Reader) -> Iterator[BlockRow]:
    """The block rows of a layer for the whole grid, as if it were one tile."""
    grid = plan.grid
    whole = Tile(0, 0, 0, grid.height, grid.width)
    for reading in readings(plan, layer, reader):
        source = reading.decision.source
        for index in reading.bands:
            buffer = BandBuffer(partial(reading.read, index))
            buffer.move(Window(0, 0, source.height, source.width))
            columns = TileColumns(reading, whole)
            for request in canonical_blocks(grid, reading.decision, whole):
                columns.resample(request, index, buffer.cut)
            yield from columns.block_rows()
        with context(layer=layer.layer.name):
            emit(Progress("read", len(plan.keys), grid.cells, 0.0))


def _cut(row: BlockRow, tile: Tile) -> BlockRow:
    rows, cols = slice(tile.row, tile.row + tile.height), slice(tile.col, tile.col + tile.width)
    valid = None if row.valid is None else row.valid[rows, cols]
    return BlockRow(tile.key, row.variable, row.rank, row.values[rows, cols], valid)
