"""Read what is merged in one tile: the cells of the mask, and the block rows of raster layers.

From top to bottom: a tile has a marker and the block rows of its layers (`read_rows`), a layer those of its sources
(`read_tile`), a source one for each column. It is read block by block, each band once for all columns (`read_source`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from geopipe.events.emit import context, emit
from geopipe.events.records import Progress
from geopipe.grid.grid import Tile
from geopipe.grid.polygons import covered
from geopipe.layers.layer import Variable
from geopipe.load.raster import Reader, Readers, environment
from geopipe.merge.blocks import BlockRow, Column, Mask, Values, marker
from geopipe.plan.layers import LayerPlan
from geopipe.plan.plan import Plan
from geopipe.resample.cells import BandBlock, Read, to_cells
from geopipe.resample.locate import BlockRequest, canonical_blocks
from geopipe.resample.methods import Decision, Window, by_geometry

MOST_CLASSES = 256
"""Classes of a layer with `fractions = true`; a layer with more is refused."""


@dataclass(frozen=True)
class Reading:
    """One source of a layer, resampled for a plan by methods with one geometry, and the reader of its pixels."""

    plan: Plan
    layer: LayerPlan
    decisions: tuple[Decision, ...]
    reader: Reader

    @property
    def decision(self) -> Decision:
        """The decision about the places and windows of the source."""
        return self.decisions[0]

    @cached_property
    def columns(self) -> dict[int, tuple[Variable, Decision]]:
        """The columns that the methods make, by their index in the table (of a mask: 0)."""
        first = self.plan.first_variable.get(self.layer.layer.name, 0)
        methods = {d.requested_method: d for d in self.decisions}
        columns = [(first + n, v) for n, v in enumerate(self.layer.variables) if v.requested_method in methods]
        return {n: (v, methods[v.requested_method]) for n, v in columns}

    @property
    def bands(self) -> list[int]:
        """The bands to read, by their index among the layer's bands."""
        return list(dict.fromkeys(variable.index for variable, _ in self.columns.values()))

    def read(self, index: int, window: Window) -> Column:
        """Read pixels of a band, unpacked, and their mask."""
        return self.reader.read_window(self.layer.layer, self.decision.source, index, window)


def readings(plan: Plan, layer: LayerPlan, reader: Reader) -> list[Reading]:
    """The readings of a layer: one for each source and geometry."""
    return [Reading(plan, layer, decisions, reader) for decisions in by_geometry(layer.decisions)]


class TileColumns:
    """The columns of one reading in one tile, filled block by block."""

    def __init__(self, reading: Reading, tile: Tile) -> None:
        self._reading, self._tile = reading, tile
        self._arrays: dict[int, tuple[Values, Mask]] = {}

    def resample(self, request: BlockRequest, index: int, read: Read) -> None:
        """Resample one band in one block for all columns that it makes.

        Args:
            index: of the band among the layer's bands; `read` reads its pixels.
        """
        tile, block, layer = self._tile, request.block, self._reading.layer
        top, left, shape = block.row - tile.row, block.col - tile.col, (tile.height, tile.width)
        area = slice(top, top + block.height), slice(left, left + block.width)
        band = BandBlock(read, request)
        for n, (variable, decision) in self._reading.columns.items():
            if variable.index == index:
                cells = to_cells(band, decision, variable, layer.kind, layer.layer.min_valid)
                if n not in self._arrays:
                    self._arrays[n] = np.zeros(shape, variable.dtype), np.zeros(shape, bool)
                self._arrays[n][0][area], self._arrays[n][1][area] = cells[0], True if cells[1] is None else cells[1]

    def block_rows(self, top: int = 0) -> Iterator[BlockRow]:
        """The columns as block rows that begin `top` rows below the top of the tile."""
        for n, (values, valid) in self._arrays.items():
            mask = None if valid.all() else valid
            yield BlockRow(self._tile.key, n, self._reading.decision.rank, values, mask, top)


def read_rows(plan: Plan, layers: Sequence[LayerPlan], tile: Tile, reader: Reader) -> Iterator[BlockRow]:
    """Read what is merged of these layers in one tile: a marker with the cells of the mask, then their block rows.

    Raises:
        SourceError: pixels cannot be read; names layer, file, band, window and GDAL's cause.
    """
    inside = inside_of(plan, tile, reader)
    yield marker(tile.key, inside)
    for layer in layers:
        yield from read_tile(plan, layer, tile, reader, inside)


def inside_of(plan: Plan, tile: Tile, reader: Reader) -> Mask | None:
    """The cells of a tile inside the plan's mask, (tile.height, tile.width) bool; None for all of them.

    A raster mask is read window by window: a cell is inside where the nearest pixel is valid and not 0.

    Raises:
        SourceError: the mask cannot be read.
    """
    if plan.mask is None:
        return None
    if plan.mask.polygons is not None:
        xs, ys = plan.grid.xs(tile.col, tile.width), plan.grid.ys(tile.row, tile.height)
        inside = covered(plan.mask.polygons, xs, ys)
    else:
        inside, layer = np.zeros((tile.height, tile.width), bool), plan.mask.raster
        assert layer is not None
        for row in read_source(Reading(plan, layer, layer.decisions[:1], reader), tile, None):
            inside = row.values != 0 if row.valid is None else row.valid & (row.values != 0)
    return None if inside.all() else inside


def read_tile(
    plan: Plan, layer: LayerPlan, tile: Tile, reader: Reader, inside: Mask | None = None
) -> Iterator[BlockRow]:
    """Read the block rows of one layer in one tile: one for each variable and each source that meets the tile.

    Args:
        inside: the cells to compute, None for all. Canonical blocks without any are not read.

    Raises:
        SourceError: pixels cannot be read; names layer, file, band, window and GDAL's cause.
    """
    start = time.perf_counter()
    for reading in readings(plan, layer, reader):
        yield from read_source(reading, tile, inside)
    with context(layer=layer.layer.name):
        emit(Progress("read", tile.completes, tile.cells * len(layer.variables), time.perf_counter() - start))


def read_source(reading: Reading, tile: Tile, inside: Mask | None) -> Iterator[BlockRow]:
    """Read the block rows of one source in one tile, block by block: each band once for all columns that it makes."""
    columns = TileColumns(reading, tile)
    for request in canonical_blocks(reading.plan.grid, reading.decision, tile, inside):
        for index in reading.bands:
            columns.resample(request, index, partial(reading.read, index))
    yield from columns.block_rows()


def classes(plan: Plan, layer: LayerPlan) -> tuple[float, ...]:
    """The classes of a categorical layer on the grid. Reads every pixel that the grid needs, once.

    Raises:
        SourceError: there are more than MOST_CLASSES, too many for a layer of classes.
    """
    values_seen: set[float] = set()
    reader = Readers()
    with environment():
        for decision in layer.decisions:
            for tile in map(plan.spec.tile, plan.keys.tolist()):
                for request in canonical_blocks(plan.grid, decision, tile, inside_of(plan, tile, reader)):
                    for window in request.strips:
                        values, valid = reader.read_window(layer.layer, decision.source, 0, window)
                        values_seen |= set(np.unique(values if valid is None else values[valid]).tolist())
                    if len(values_seen) > MOST_CLASSES:
                        hint = "name those that you want: fractions = [1, 2, 3]"
                        raise layer.layer.error(f"{decision.source.name} has more than {MOST_CLASSES} classes", hint)
        reader.close()
    return tuple(sorted(values_seen))
