"""Read along a source: decode each of its stored blocks once, for several tiles, and cut it into block rows.

Tile by tile, every tile in a row of tiles would decode the same strips of one row, or the same chunk of a time step. A
sweep goes down the grid by rows of canonical blocks. It holds the source rows that these need, and keeps those that the
next blocks need, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby

import numpy as np

from geopipe.events.emit import emit
from geopipe.events.records import Progress
from geopipe.grid.grid import BLOCK, Tile
from geopipe.load.raster import Reader
from geopipe.load.tiles import Reading, TileColumns, inside_of, readings
from geopipe.merge.blocks import BlockRow, Column
from geopipe.plan.layers import LayerPlan
from geopipe.plan.plan import Plan
from geopipe.resample.locate import BlockRequest, canonical_blocks, union_of
from geopipe.resample.methods import WINDOW_PIXELS, Window
from geopipe.resample.predictions import rough_window

AHEAD = 4 * WINDOW_PIXELS
"""Pixels of one band that a sweep may hold. If a row of blocks needs more, each block reads its own window."""


def sweep(plan: Plan, layer: LayerPlan, keys: Sequence[int], reader: Reader) -> Iterator[BlockRow]:
    """Read the block rows of a layer in these tiles, a row of canonical blocks at a time.

    Args:
        keys: of the tiles, rising.

    Raises:
        SourceError: pixels cannot be read.
    """
    start = time.perf_counter()
    tiles = [plan.spec.tile(key) for key in keys]
    for reading in readings(plan, layer, reader):
        windows = [w for tile in tiles if (w := rough_window(plan.grid, reading.decision, tile)) is not None]
        extent = union_of(windows) if windows else None
        buffers = {index: BandBuffer(partial(reading.read, index)) for index in reading.bands}
        for _, row in groupby(tiles, key=lambda tile: tile.row):
            abreast = list(row)
            for top in range(0, abreast[0].height, BLOCK):
                strips = [replace(t, row=t.row + top, height=min(BLOCK, t.height - top)) for t in abreast]
                yield from _read_strips(reading, strips, top, extent, buffers)
    cells = sum(tile.cells for tile in tiles) * len(layer.variables)
    emit(Progress("read", len(tiles), cells, time.perf_counter() - start))


def _read_strips(
    reading: Reading, strips: Sequence[Tile], top: int, extent: Window | None, buffers: dict[int, BandBuffer]
) -> Iterator[BlockRow]:
    """Read the block rows of strips of tiles that lie abreast, `top` rows below the top of their tiles.

    Args:
        extent: the part of the source that the whole sweep needs.
        buffers: the pixels of each band in memory.
    """
    plan, decision = reading.plan, reading.decision
    requests: list[tuple[Tile, list[BlockRequest]]] = []
    for strip in strips:
        blocks = list(canonical_blocks(plan.grid, decision, strip, inside_of(plan, strip, reading.reader)))
        requests += [(strip, blocks)] if blocks else []
    if not requests:
        return
    window = union_of([request.window for _, blocks in requests for request in blocks])
    wide = window if extent is None else union_of([window, replace(extent, row=window.row, height=window.height)])
    if wide.pixels <= AHEAD:  # full width: the next strips may lie more to one side and need it
        window = wide
    if window.pixels <= AHEAD:
        for buffer in buffers.values():
            buffer.move(window)
    while requests:
        strip, blocks = requests.pop(0)
        columns = TileColumns(reading, strip)
        while blocks:  # a request is dropped with its coverage before the next one
            request = blocks.pop(0)
            for index, buffer in buffers.items():
                columns.resample(request, index, buffer.cut)
        yield from columns.block_rows(top)


class BandBuffer:
    """A window of one band in memory; `read` reads its pixels."""

    def __init__(self, read: Callable[[Window], Column]) -> None:
        self._read = read
        self._window = Window(0, 0, 0, 0)
        self._column: Column = (np.zeros((0, 0)), None)

    def move(self, window: Window) -> None:
        """Move to `window`: keep the rows that are in memory, and read those below them."""
        old = self._window
        left, right = min(old.col, window.col), max(old.col + old.width, window.col + window.width)
        if old.pixels and (left, right) == (old.col, old.col + old.width):
            window = replace(window, col=left, width=right - left)  # as wide as before: all old rows are of use
        kept = old.row + old.height - window.row
        below = window.row + window.height - old.row - old.height
        same = old.pixels and (old.col, old.width) == (window.col, window.width) and old.row <= window.row
        if not same or kept <= 0:
            self._column = self._read(window)
        elif below > 0:
            added = self._read(Window(window.row + kept, window.col, below, window.width))
            self._column = _stacked([_last(self._column, kept), added])
        else:
            window = replace(window, height=kept)
            self._column = _last(self._column, kept)
        self._window = window

    def cut(self, window: Window) -> Column:
        """The pixels of a window: from memory, or read if they are not all there."""
        old = self._window
        top, left = window.row - old.row, window.col - old.col
        if min(top, left) < 0 or top + window.height > old.height or left + window.width > old.width:
            return self._read(window)
        area = slice(top, top + window.height), slice(left, left + window.width)
        values, valid = self._column
        return values[area], None if valid is None else valid[area]


def _last(column: Column, rows: int) -> Column:
    values, valid = column
    return values[-rows:], None if valid is None else valid[-rows:]


def _stacked(columns: Sequence[Column]) -> Column:
    """One above the other."""
    masks = [np.ones(v.shape, bool) if m is None else m for v, m in columns]
    values = np.concatenate([v for v, _ in columns])
    return values, None if all(m is None for _, m in columns) else np.concatenate(masks)
