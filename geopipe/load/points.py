"""Read the points of coordinate tables as sparse block rows, and measure how far a table of cells is off the grid."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from geopipe.events.emit import emit
from geopipe.events.records import Progress
from geopipe.grid.grid import Grid
from geopipe.layers.layer import Layer
from geopipe.layers.table_plan import Partition, TablePlan, crs_of_tables
from geopipe.layers.tables import ORDER_BITS, Columns, Offset, TableHeader, choose_columns
from geopipe.load.missing import find_missing
from geopipe.load.tables import Batch, read_batches, unplaced
from geopipe.merge.points import SparseRow
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
    place_only = Columns(columns.x, columns.y, ())
    worst, start = Offset(0.0, 0, 0.0, 0.0), 0
    steps = layer.cells == "corners" and layer.on_misaligned == "aggregate"
    seen = [np.zeros(0), np.zeros(0)]
    for part in header.parts:
        for batch in read_batches(layer, header, part, place_only, dict.fromkeys(place_only.names, "float64")):
            x, y = batch[columns.x], batch[columns.y]
            gone = unplaced(x) | unplaced(y)
            if gone.any():
                _refuse_missing(layer, header.uri, int(gone.sum()), start + int(np.argmax(gone)), start + len(x))
            off = offsets(grid, crs, str(layer.cells), np.asarray(x), np.asarray(y))
            at = int(np.argmax(off)) if len(off) else 0
            if len(off) and off[at] > worst.cells:
                worst = Offset(float(off[at]), start + at, float(x[at]), float(y[at]))
            start += len(x)
            if steps:
                seen = [np.unique(np.concatenate([old, new])) for old, new in zip(seen, (x, y), strict=True)]
                if max(map(len, seen)) > MOST_STEPS:
                    raise layer.error(
                        f"{header.uri} has more than {MOST_STEPS:,} different x or y",
                        "leave cells out, and its rows are points; a table of cells has few of them",
                    )
    return replace(worst, step=(_step(seen[0]), _step(seen[1])))


def _step(values: NDArray[Any]) -> float:
    """The distance of which all distances between neighbours are multiples, 0 if there is none."""
    gaps = np.diff(values)
    step = float(gaps.min()) if len(gaps) else 0.0
    return step if step and np.abs(gaps / step - np.rint(gaps / step)).max() < 0.05 else 0.0


@dataclass
class _Tally:
    """Counts of rows of a partition: all, outside the grid, without x or y, and with a negative weight."""

    rows: int = 0
    outside: int = 0
    missing: int = 0
    negative: int = 0
    first: dict[str, int] = field(default_factory=dict)

    def count(self, what: str, mask: NDArray[np.bool_]) -> None:
        if count := int(np.count_nonzero(mask)):
            self.first.setdefault(what, self.rows + int(np.argmax(mask)))
            setattr(self, what, getattr(self, what) + count)


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
    start, tally = time.perf_counter(), _Tally()
    header, name = table.headers[partition.file], layer.layer.name
    for batch in read_batches(layer.layer, header, partition.part, table.columns, _read_types(table)):
        yield from _sparse_rows(plan, layer, batch, (partition.index << ORDER_BITS) + tally.rows, tiles, tally)
        tally.rows += len(batch[table.columns.x])
    if tally.missing:
        _refuse_missing(layer.layer, header.uri, tally.missing, tally.first["missing"], tally.rows)
    if tally.negative:
        raise layer.layer.error(
            f"{tally.negative:,} of {tally.rows:,} rows of {header.uri} have a weight below 0 in "
            f"{table.columns.weight}; the first is row {tally.first['negative']:,} of the part {partition.part}",
            "correct the weights: none may be below 0",
        )
    if tally.outside:
        log.info("layer %s: %d of %d rows of %s lie outside the grid", name, tally.outside, tally.rows, header.uri)
    emit(Progress("read", 1, tally.rows, time.perf_counter() - start))


def _refuse_missing(layer: Layer, uri: str, count: int, first: int, rows: int) -> NoReturn:
    raise layer.error(
        f"{count:,} of {rows:,} rows of {uri} have no finite x or y; the first is row {first:,} "
        "(from 0) of the part that was read",
        "take these rows out: nothing says which cell they belong to",
    )


def _read_types(table: TablePlan) -> dict[str, str]:
    """The type in which each column is read."""
    columns = table.columns
    types = {name: dtype for name, dtype in zip(columns.values, table.dtypes, strict=True) if name}
    return {name: "float64" for name in (columns.x, columns.y, columns.weight) if name} | types


def _sparse_rows(
    plan: Plan, layer: LayerPlan, batch: Batch, first: int, tiles: Sequence[int] | None, tally: _Tally
) -> Iterator[SparseRow]:
    """The sparse block rows of a batch. `first` is the order of its first row (see `ORDER_BITS`)."""
    table = layer.table
    assert table is not None
    columns = table.columns
    missing = unplaced(batch[columns.x]) | unplaced(batch[columns.y])
    tally.count("missing", missing)
    x, y = (np.asarray(batch[name], np.float64) for name in (columns.x, columns.y))
    row, col, keep = place(plan.grid, table, x, y)
    tally.count("outside", ~keep & ~missing)
    keep &= ~missing
    weights = None
    if columns.weight is not None:
        column = batch[columns.weight]
        weights = np.asarray(column, np.float64)
        tally.count("negative", (weights < 0) & ~np.ma.getmaskarray(column))
        keep &= ~np.ma.getmaskarray(column)
    size = plan.options.window_size
    key = row // size * plan.grid.tiling(size)[1] + col // size
    if tiles is not None:
        keep &= np.isin(key, np.asarray(tiles))
    chosen = np.flatnonzero(keep)
    chosen = chosen[np.argsort(key[chosen], kind="stable")]
    starts = np.flatnonzero(np.diff(key[chosen], prepend=-1))
    variable = plan.first_variable[layer.layer.name]
    leads = {v.index: variable + n for n, v in reversed(list(enumerate(layer.variables)))}
    for group in np.split(chosen, starts[1:]) if len(chosen) else []:
        tile = plan.spec.tile(int(key[group[0]]))
        cells = (row[group] - tile.row) * tile.width + (col[group] - tile.col)
        for index, name in enumerate(columns.values):
            values, valid = _valued(batch, name, layer.layer.nodata, group)
            if valid.any():
                yield SparseRow(
                    tile.key,
                    leads[index],
                    cells[valid],
                    first + group[valid],
                    values[valid],
                    None if weights is None else weights[group][valid],
                )


def _valued(
    batch: Batch, name: str, nodata: float | int | None, group: NDArray[np.intp]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The values of some rows, and which of them are valid. Without a name the rows themselves count."""
    if not name:
        return np.ones(len(group), np.uint8), np.ones(len(group), bool)
    values = batch[name][group]
    plain = np.asarray(values)
    missing = find_missing(plain, nodata)
    return plain, ~np.ma.getmaskarray(values) if missing is None else ~(np.ma.getmaskarray(values) | missing)
