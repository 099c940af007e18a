"""Read the points of coordinate tables as sparse block rows, and measure how far a table of cells is off the grid."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geopipe.events.emit import emit
from geopipe.events.records import Progress
from geopipe.grid.crs import Floats
from geopipe.grid.grid import Grid, Tile
from geopipe.layers.layer import Layer
from geopipe.layers.table_plan import Partition, crs_of_tables
from geopipe.layers.tables import ORDER_BITS, Columns, Offset, TableHeader, choose_columns
from geopipe.load.missing import find_missing
from geopipe.load.tables import Batch, read_batches
from geopipe.merge.blocks import Mask
from geopipe.merge.points import Integers, SparseRow
from geopipe.plan.layers import LayerPlan
from geopipe.plan.plan import Plan
from geopipe.resample.points import offsets, place

log = logging.getLogger(__name__)

MOST_STEPS = 1 << 20
"""Different x (or y) of a table of cells, if their size is to be measured."""


def measure_offsets(layer: Layer, headers: Sequence[TableHeader], grid: Grid) -> list[TableHeader]:
    """The headers of a layer, with their offset from the grid if their rows are cells. Reads x and y once for that.

    Raises:
        SourceError: a table cannot be read, or has rows without finite x and y.
    """
    if layer.cells not in ("centres", "corners"):
        return list(headers)
    crs = crs_of_tables(layer, headers)
    return [replace(header, offset=_offset(layer, header, grid, crs)) for header in headers]


@lru_cache(maxsize=256)
def _offset(layer: Layer, header: TableHeader, grid: Grid, crs: str) -> Offset:
    columns = choose_columns(layer, header)
    columns = Columns(columns.x, columns.y, ())
    worst, start = Offset(0.0, 0, 0.0, 0.0), 0
    steps = layer.cells == "corners" and layer.on_misaligned == "aggregate"
    seen = [np.zeros(0), np.zeros(0)]
    for part in header.parts:
        for batch in read_batches(layer, header, part, dict.fromkeys(columns.names, "float64")):
            x, y = _coordinates(layer, header, columns, batch, start)
            off = offsets(grid, crs, str(layer.cells), x, y)
            at = int(np.argmax(off)) if len(off) else 0
            if len(off) and off[at] > worst.cells:
                worst = Offset(float(off[at]), start + at, float(x[at]), float(y[at]))
            start += len(x)
            if steps:
                seen = [np.unique(np.concatenate([old, new])) for old, new in zip(seen, (x, y), strict=True)]
                if max(map(len, seen)) > MOST_STEPS:
                    hint = "leave cells out, and its rows are points; a table of cells has few of them"
                    raise layer.error(f"{header.uri} has more than {MOST_STEPS:,} different x or y", hint)
    return worst._replace(step=(_step(seen[0]), _step(seen[1])))


def _step(values: NDArray[Any]) -> float:
    """The distance of which all distances between neighbours are multiples, 0 if there is none."""
    gaps = np.diff(values)
    step = float(gaps.min()) if len(gaps) else 0.0
    return step if step and np.abs(gaps / step - np.rint(gaps / step)).max() < 0.05 else 0.0


def read_points(
    plan: Plan, layer: LayerPlan, partition: Partition, tiles: Sequence[int] | None = None
) -> Iterator[SparseRow]:
    """Read the points of a partition of a table layer as sparse block rows.

    One batch of rows is in memory at a time. Points outside the grid are dropped, and counted in the log.

    Args:
        plan: of the run.
        layer: one with a table.
        partition: one of `layer.table.partitions`.
        tiles: keys of the tiles to read, in any order; None for all.

    Raises:
        SourceError: the table cannot be read, has rows without finite x or y, or with weights below 0.
    """
    table = layer.table
    assert table is not None
    start, rows, outside = time.perf_counter(), 0, 0
    header, columns, own = table.headers[partition.file], table.columns, layer.layer
    types = dict.fromkeys(columns.names, "float64")
    types |= {name: dtype for name, dtype in zip(columns.values, table.dtypes, strict=True) if name}
    first = plan.first_variable[own.name]
    leads = {v.index: first + n for n, v in reversed(list(enumerate(layer.variables)))}
    for batch in read_batches(own, header, partition.part, types):
        row, col, inside = place(plan.grid, table, *_coordinates(own, header, columns, batch, rows))
        outside += int(np.count_nonzero(~inside))
        weights = None if columns.weight is None else batch[columns.weight]
        if weights is not None:
            negative = np.ma.filled(weights < 0, False)
            what = f"have a weight below 0 in {columns.weight}"
            _refuse(negative, rows, own, header, what, "correct the weights: none may be below 0")
            inside &= ~np.ma.getmaskarray(weights)
        for tile, cells, group in _by_tile(plan, row, col, inside, tiles):
            order = (partition.index << ORDER_BITS) + rows + group
            for index, name in enumerate(columns.values):
                values = batch[name][group] if name else np.ones(len(group), np.uint8)  # the rows themselves count
                valid, plain = ~np.ma.getmaskarray(values), np.asarray(values)
                missing = find_missing(plain, own.nodata if name else None)
                valid &= True if missing is None else ~missing
                if valid.any():
                    weight = None if weights is None else np.asarray(weights, np.float64)[group][valid]
                    yield SparseRow(tile.key, leads[index], cells[valid], order[valid], plain[valid], weight)
        rows += len(row)
    if outside:
        log.info("layer %s: %d of %d rows of %s lie outside the grid", own.name, outside, rows, header.uri)
    emit(Progress("read", 1, rows, time.perf_counter() - start))


def _coordinates(
    layer: Layer, header: TableHeader, columns: Columns, batch: Batch, before: int
) -> tuple[Floats, Floats]:
    """X and y of the rows of a batch, (n,) float64 each; refuses rows without them."""
    places = [batch[columns.x], batch[columns.y]]
    missing = np.any([np.ma.getmaskarray(v) | ~np.isfinite(np.asarray(v)) for v in places], axis=0)
    hint = "take these rows out: nothing says which cell they belong to"
    _refuse(missing, before, layer, header, "have no finite x or y", hint)
    return np.asarray(places[0], np.float64), np.asarray(places[1], np.float64)


def _refuse(faulty: Mask, before: int, layer: Layer, header: TableHeader, what: str, hint: str) -> None:
    """Raise an error if rows of a batch are faulty; `before` rows of the part precede the batch."""
    if faulty.any():
        text = f"{np.count_nonzero(faulty):,} of {before + len(faulty):,} rows of {header.uri} {what}; the first is"
        raise layer.error(f"{text} row {before + int(np.argmax(faulty)):,} (from 0) of the part that was read", hint)


def _by_tile(
    plan: Plan, row: Integers, col: Integers, inside: Mask, tiles: Sequence[int] | None
) -> Iterator[tuple[Tile, Integers, Integers]]:
    """The points of each tile: the tile, the row-major index of each point's cell in it, and the points' indices."""
    size = plan.options.window_size
    key = row // size * plan.grid.tiling(size)[1] + col // size
    chosen = np.flatnonzero(inside if tiles is None else inside & np.isin(key, np.asarray(tiles)))
    chosen = chosen[np.argsort(key[chosen], kind="stable")]
    starts = np.flatnonzero(np.diff(key[chosen], prepend=-1))
    for group in np.split(chosen, starts[1:]) if len(chosen) else []:
        tile = plan.spec.tile(int(key[group[0]]))
        yield tile, (row[group] - tile.row) * tile.width + (col[group] - tile.col), group
