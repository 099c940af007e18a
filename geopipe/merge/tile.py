"""Merge the block rows of one tile, dense and sparse, into its rows of the table.

This is the meaning of the merge, for every physical plan: group block rows by tile, then align inside the tile by
integer (row, col). Nothing here knows Ray or rasters.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe.events.emit import emit
from geopipe.events.records import Progress
from geopipe.grid.grid import Grid, Tile
from geopipe.layers.layer import Overlap
from geopipe.merge import derived
from geopipe.merge.blocks import MARKER, BlockRow, Column, Mask, Values
from geopipe.merge.points import SparseRow, gather, statistic
from geopipe.merge.spec import TableSpec

Indices = NDArray[np.intp]

Part = tuple[Tile, pa.Table]
"""A strip of a tile, or all of it, and its rows."""


def merge_tile(spec: TableSpec, tile: Tile, rows: Iterable[BlockRow | SparseRow]) -> pa.Table:
    """Merge block rows, in any order, to the rows of one tile (or strip) of the table. Cells are in row-major order.

    A variable without block rows is null in every cell. Cells outside the mask, which is in a marker, are dropped.
    """
    columns, inside = _combine(spec, tile, rows)
    start = time.perf_counter()  # rows may be read while they are combined, and that time is the reader's
    keep = _kept(spec, tile, [valid for _, valid in columns], inside)
    places = _places(spec.grid, tile, keep)
    arrays = [_arrow(place, None) for place in places]
    arrays += derived.arrays(spec.grid, spec.lonlat, spec.h3, *places[2:])
    arrays += [
        _arrow(_cells(values, keep), None if valid is None else _cells(valid, keep)) for values, valid in columns
    ]
    table = pa.Table.from_arrays(arrays, schema=spec.schema)
    emit(Progress("merge", tile.completes, tile.cells, time.perf_counter() - start, table.num_rows))
    return table


def _combine(spec: TableSpec, tile: Tile, rows: Iterable[BlockRow | SparseRow]) -> tuple[list[Column], Mask | None]:
    """The column of each variable, in their order, and the cells inside the mask."""
    dense: list[list[BlockRow]] = [[] for _ in spec.variables]
    sparse: dict[int, list[SparseRow]] = {}
    inside: Mask | None = None
    for row in rows:
        if isinstance(row, SparseRow):
            sparse.setdefault(row.variable, []).append(row)
        elif row.variable == MARKER:
            inside = inside if row.valid is None else row.valid
        else:
            dense[row.variable].append(row)
    shape = (tile.height, tile.width)
    aggregated = {n: column for first, parts in sparse.items() for n, column in _aggregate(spec, tile, first, parts)}
    columns: list[Column] = []
    for n, (variable, overlap, parts) in enumerate(zip(spec.variables, spec.overlaps, dense, strict=True)):
        if n in aggregated:
            columns.append(aggregated[n])
        elif parts:
            ranks = sorted({r.rank for r in parts})
            values, valid = overlay([_whole(shape, [r for r in parts if r.rank == rank]) for rank in ranks], overlap)
            columns.append((values.astype(variable.dtype, copy=False), valid))
        else:
            columns.append((np.zeros(shape, variable.dtype), np.zeros(shape, bool)))
    return columns, inside


def _whole(shape: tuple[int, int], parts: Sequence[BlockRow]) -> Column:
    """Put the block rows of one source in one tile together."""
    if len(parts) == 1 and parts[0].values.shape == shape:
        return parts[0].values, parts[0].valid
    values, valid = np.zeros(shape, parts[0].values.dtype), np.zeros(shape, bool)
    for part in parts:
        rows = slice(part.top, part.top + part.values.shape[0])
        values[rows], valid[rows] = part.values, True if part.valid is None else part.valid
    return values, valid


def _aggregate(spec: TableSpec, tile: Tile, first: int, rows: Sequence[SparseRow]) -> Iterator[tuple[int, Column]]:
    """Index and column of each variable that is a statistic of these points; `first` is the first of them."""
    points, source = gather(rows), spec.variables[first]
    for n, variable in enumerate(spec.variables):
        if (variable.layer, variable.index) == (source.layer, source.index):
            values, valid = np.zeros(tile.cells, variable.dtype), np.zeros(tile.cells, bool)
            values[points.cells], valid[points.cells] = statistic(
                points, variable.requested_method, variable.layer, f"column {variable.name}, tile {tile.key}"
            )
            shape = (tile.height, tile.width)
            yield n, (values.reshape(shape), valid.reshape(shape))


def overlay(parts: Sequence[Column], overlap: Overlap) -> Column:
    """Combine arrays of one shape and type by an overlap rule, in their order.

    A mean is float64, and a sum has the widest type of its kind, because neither fits in the type of the parts.
    """
    if len(parts) == 1:
        return parts[0]
    if overlap is Overlap.LAST:
        parts = parts[::-1]
    if overlap in (Overlap.MEAN, Overlap.SUM):
        return _total(parts, overlap)
    better = np.less if overlap is Overlap.MIN else np.greater
    masks = [np.ones(values.shape, bool) if valid is None else valid for values, valid in parts]
    values, valid = parts[0][0].copy(), masks[0].copy()
    for (other, _), mask in zip(parts[1:], masks[1:], strict=True):
        replaced = ~valid if overlap in (Overlap.FIRST, Overlap.LAST) else ~valid | better(other, values)
        np.copyto(values, other, where=mask & replaced)
        valid |= mask
    return values, valid


def _total(parts: Iterable[Column], rule: Overlap) -> Column:
    """Sum or mean of the valid values. Parts are read one at a time."""
    total, count = np.zeros(0), np.zeros(0, np.int32)
    for index, (values, valid) in enumerate(parts):
        if index == 0:
            whole = {"i": np.int64, "u": np.uint64} if rule is Overlap.SUM else {}
            total = np.zeros(values.shape, whole.get(values.dtype.kind, np.float64))
            count = np.zeros(values.shape, np.int32)
        np.add(total, values, out=total, where=True if valid is None else valid, casting="unsafe")
        count += 1 if valid is None else valid
    if rule is Overlap.MEAN:
        np.divide(total, count, out=total, where=count > 0)
    return total, count > 0


def reduce_columns(parts: Iterable[Column], rule: Overlap) -> Column:
    """Reduce steps of one shape and type to one array by mean, min, max or sum, with the rules of `overlay`.

    Steps are read one at a time, so that memory does not grow with their number. Missing values are left out; a cell
    that is missing in all steps stays missing.
    """
    if rule in (Overlap.MEAN, Overlap.SUM):
        return _total(parts, rule)
    return functools.reduce(lambda one, other: overlay([one, other], rule), parts)


def _kept(spec: TableSpec, tile: Tile, masks: Sequence[Mask | None], inside: Mask | None) -> Indices | None:
    """(kept,) flat indices of the cells that become rows, rising; None for all."""
    needed = [mask for variable, mask in zip(spec.variables, masks, strict=True) if variable.name in spec.required]
    keep = _all([inside, *_layer_masks(spec, tile, masks), *needed])
    return None if keep is None or keep.all() else np.flatnonzero(keep)


def _places(grid: Grid, tile: Tile, keep: Indices | None) -> list[Values]:
    """Row, column, x and y of the cells in `keep` (None: all), each (kept,)."""
    rows = np.arange(tile.row, tile.row + tile.height, dtype=np.int32), grid.ys(tile.row, tile.height)
    cols = np.arange(tile.col, tile.col + tile.width, dtype=np.int32), grid.xs(tile.col, tile.width)
    if keep is None:
        row, y = (np.repeat(values, tile.width) for values in rows)
        col, x = (np.tile(values, tile.height) for values in cols)
    else:
        down, across = np.divmod(keep, tile.width)
        row, y = (values.take(down) for values in rows)
        col, x = (values.take(across) for values in cols)
    return [row, col, x, y]


def _cells(values: Values, keep: Indices | None) -> Values:
    """The values of the cells in `keep` (None: all), in row-major order: (kept,)."""
    return values.ravel() if keep is None else values.ravel().take(keep)


def _layer_masks(spec: TableSpec, tile: Tile, masks: Sequence[Mask | None]) -> list[Mask | None]:
    """The masks that `how` requires a cell to be in."""
    if spec.how == "grid":
        return []
    layers: dict[str, list[Mask | None]] = {}
    for variable, mask in zip(spec.variables, masks, strict=True):
        if variable.layer not in spec.null_layers:
            layers.setdefault(variable.layer, []).append(mask)
    covered = [_any(layer, tile) for layer in layers.values()]
    return [_any(covered, tile)] if spec.how == "outer" else covered


def _all(masks: Sequence[Mask | None]) -> Mask | None:
    """The cells where all masks are true; None for all cells."""
    return functools.reduce(lambda one, other: other if one is None else one if other is None else one & other, masks)


def _any(masks: Sequence[Mask | None], tile: Tile) -> Mask | None:
    """The cells where any mask is true; None for all cells."""
    result = np.zeros((tile.height, tile.width), bool)
    for mask in masks:
        if mask is None:
            return None
        result |= mask
    return result


def _arrow(values: Values, valid: Mask | None) -> pa.Array:
    """An Arrow array over the memory of `values`, null where not `valid`. `pa.array` would load pandas."""
    bitmap = None
    if valid is not None and not valid.all():
        bitmap = pa.py_buffer(np.packbits(valid, bitorder="little"))
    data = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(data.dtype), len(data), [bitmap, pa.py_buffer(data)])
