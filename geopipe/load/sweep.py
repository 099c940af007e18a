"""Reading along a source: each of its stored blocks is decoded once, for all tiles at a time, and cut into block rows.

Strips of one row, chunks of a whole time step and their like make reads tile by tile wasteful: every tile in a row of
tiles decodes the same strips. A sweep goes down the grid by rows of canonical blocks, holds the rows of the source that
these need, and keeps those that the next ones need, too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby

import numpy as np

from geopipe.events.emit import emit
from geopipe.events.records import Progress
from geopipe.grid.grid import BLOCK, Tile
from geopipe.layers.layer import Source
from geopipe.load.raster import Readers, inside_of, read_window
from geopipe.merge.blocks import BlockRow, Column
from geopipe.plan.layers import LayerPlan
from geopipe.plan.plan import Plan
from geopipe.resample.cells import last_read, to_cells
from geopipe.resample.locate import BlockRequest, canonical_blocks, rough_window, union_of
from geopipe.resample.methods import WINDOW_PIXELS, Decision, Window

AHEAD = 4 * WINDOW_PIXELS
"""Pixels of one band that a sweep may hold; where a row of blocks needs more, each block reads its own."""


def sweep(plan: Plan, layer: LayerPlan, keys: Sequence[int], readers: Readers) -> Iterator[BlockRow]:
    """The block rows of a layer in these tiles, a row of canonical blocks at a time.

    Args:
        keys: of the tiles, rising.

    Raises:
        SourceError: pixels cannot be read.
    """
    start = time.perf_counter()
    tiles = [plan.spec.tile(key) for key in keys]
    for decision in layer.decisions:
        held: dict[int, BandBuffer] = {}
        windows = [w for tile in tiles if (w := rough_window(plan.grid, decision, tile)) is not None]
        about = union_of(windows) if windows else None
        for _, row in groupby(tiles, key=lambda tile: tile.row):
            abreast = list(row)
            for down in range(0, abreast[0].height, BLOCK):
                strips = [replace(t, row=t.row + down, height=min(BLOCK, t.height - down)) for t in abreast]
                yield from _strip(plan, layer, decision, strips, down, about, held, readers)
    cells = sum(tile.cells for tile in tiles) * len(layer.variables)
    emit(Progress("read", len(tiles), cells, time.perf_counter() - start))


def _strip(
    plan: Plan,
    layer: LayerPlan,
    decision: Decision,
    strips: Sequence[Tile],
    down: int,
    about: Window | None,
    held: dict[int, BandBuffer],
    readers: Readers,
) -> Iterator[BlockRow]:
    """The block rows of tiles abreast, `down` rows from their top.

    `about` is the part of the source that the whole sweep needs, and `held` the pixels of each band in memory.
    """
    needed = [
        (strip, needs)
        for strip in strips
        for needs in canonical_blocks(plan.grid, decision, strip, inside_of(plan, strip, readers))
    ]
    if not needed:
        return
    whole = union_of([needs.window for _, needs in needed])
    wide = whole if about is None else union_of([whole, replace(about, row=whole.row, height=whole.height)])
    if wide.pixels <= AHEAD:  # rows in full width are of use to the next strips, too, where these lie more to one side
        whole = wide
    first = plan.first_variable[layer.layer.name]
    mine = {first + n: v for n, v in enumerate(layer.variables) if v.requested_method == decision.requested_method}
    for index in dict.fromkeys(v.index for v in mine.values()):
        pixels = held.setdefault(index, BandBuffer(decision.source, index))
        if whole.pixels <= AHEAD:
            pixels.move(whole, layer, readers)
        for strip, needs in _by_strip(needed):
            shape = (strip.height, strip.width)
            for n, variable in mine.items():
                if variable.index != index:
                    continue
                values, valid = np.zeros(shape, variable.dtype), np.zeros(shape, bool)
                for part in needs:
                    read = last_read(partial(pixels.cut, layer=layer, readers=readers))
                    made, have = to_cells(read, part, decision, variable, layer.kind, layer.layer.min_valid)
                    top, left = part.block.row - strip.row, part.block.col - strip.col
                    area = slice(top, top + part.block.height), slice(left, left + part.block.width)
                    values[area], valid[area] = made, True if have is None else have
                mask = None if valid.all() else valid
                yield BlockRow(strip.key, n, decision.rank, values, mask, top=down)


def _by_strip(needed: Sequence[tuple[Tile, BlockRequest]]) -> Iterator[tuple[Tile, list[BlockRequest]]]:
    for strip, group in groupby(needed, key=lambda pair: pair[0]):
        yield strip, [needs for _, needs in group]


@dataclass
class BandBuffer:
    """The pixels of one band that are in memory, for the variable `index` of a source."""

    source: Source
    index: int
    window: Window = field(default_factory=lambda: Window(0, 0, 0, 0))
    column: Column = field(default_factory=lambda: (np.zeros((0, 0)), None))

    def move(self, wanted: Window, layer: LayerPlan, readers: Readers) -> None:
        """Hold `wanted`: rows that are here are kept, and those below are read."""
        here = self.window
        left, right = min(here.col, wanted.col), max(here.col + here.width, wanted.col + wanted.width)
        if here.pixels and (left, right) == (here.col, here.col + here.width):
            wanted = replace(wanted, col=left, width=right - left)  # no wider: so all of its rows are of use
        kept = here.row + here.height - wanted.row
        below = wanted.row + wanted.height - here.row - here.height
        same = here.pixels and (here.col, here.width) == (wanted.col, wanted.width) and here.row <= wanted.row
        if not same or kept <= 0:
            self.column = read_window(self.source, self.index, wanted, layer, readers)
        elif below > 0:
            fresh = Window(wanted.row + kept, wanted.col, below, wanted.width)
            added = read_window(self.source, self.index, fresh, layer, readers)
            self.column = _stacked([_last(self.column, kept), added])
        else:
            wanted = replace(wanted, height=kept)
            self.column = _last(self.column, kept)
        self.window = wanted

    def cut(self, window: Window, layer: LayerPlan, readers: Readers) -> Column:
        """A part of what is held; read by itself where it is not."""
        here = self.window
        top, left = window.row - here.row, window.col - here.col
        if min(top, left) < 0 or top + window.height > here.height or left + window.width > here.width:
            return read_window(self.source, self.index, window, layer, readers)
        area = slice(top, top + window.height), slice(left, left + window.width)
        values, valid = self.column
        return values[area], None if valid is None else valid[area]


def _last(column: Column, rows: int) -> Column:
    values, valid = column
    return values[-rows:], None if valid is None else valid[-rows:]


def _stacked(columns: Sequence[Column]) -> Column:
    """One above the other."""
    masks = [np.ones(v.shape, bool) if m is None else m for v, m in columns]
    values = np.concatenate([v for v, _ in columns])
    return values, None if all(m is None for _, m in columns) else np.concatenate(masks)
