"""Points of coordinate tables: sparse block rows, and statistics of the points in a cell.

A sum of floats depends on the order of its parts. So each point has its position in the source, and sums are made when
all points of a tile are together and sorted. The bytes cannot depend on how a table was partitioned or read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geopipe.errors import SourceError

Values = NDArray[Any]
Integers = NDArray[np.int64]


POINT_BYTES = 24
"""Bytes of a point in a block row beside its value: cell, order and weight."""


@dataclass(frozen=True)
class SparseRow:
    """Some points of one column of a coordinate table in one tile, before the merge. No value is missing.

    variable: index of the first variable that is a statistic of the column.
    cells: (points,) int64, row-major index of each point's cell in the tile.
    order: (points,) int64, position in the source, unique in the layer.
    values: (points,); weights: (points,) float64, None for 1 each.
    """

    tile: int
    variable: int
    cells: Integers
    order: Integers
    values: Values
    weights: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Points:
    """All points of a column in one tile, sorted by cell and then by position in the source.

    cells: (n,) int64, the cells with points; starts: (n,) int64, index of the first point of each.
    group: (points,) int64, index in `cells` of each point; values, weights: (points,).
    """

    cells: Integers
    starts: Integers
    group: Integers
    values: Values
    weights: NDArray[np.float64] | None


def gather(rows: Sequence[SparseRow]) -> Points:
    """Join the sparse block rows of one variable and tile; their number, sizes and order do not matter."""
    cells, order, values = (
        np.concatenate([getattr(row, name) for row in rows]) for name in ("cells", "order", "values")
    )
    parts = [row.weights for row in rows if row.weights is not None]
    weights = np.concatenate(parts) if parts else None
    by = np.lexsort((order, cells))
    cells = cells[by]
    starts = np.flatnonzero(np.diff(cells, prepend=-1))
    group = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(cells)))
    return Points(cells[starts], starts, group, values[by], None if weights is None else weights[by])


def statistic(points: Points, name: str, layer: str, where: str) -> tuple[Values, NDArray[np.bool_]]:
    """A statistic of the points of each cell, and the cells that have one: both (n,), as `points.cells`.

    Sums are sequential in float64, in the order of the source. Of equally frequent values the least is the mode. Cells
    whose weights are all 0 have no mean.

    Args:
        points: of one column in one tile.
        name: one of STATISTICS.
        layer: its name, for the error.
        where: column and tile, for the message.

    Raises:
        SourceError: a sum of whole numbers does not fit in 64 bits.
    """
    count = len(points.cells)
    always = np.ones(count, bool)
    if name == "count":
        return np.bincount(points.group, minlength=count).astype(np.int64), always
    if name == "first":
        return points.values[points.starts], always
    if name in ("min", "max"):
        return (np.minimum if name == "min" else np.maximum).reduceat(points.values, points.starts), always
    if name == "mode":
        return _mode(points), always
    if name == "sum" and points.weights is None and points.values.dtype.kind in "iu":
        return _whole_sum(points, layer, where), always
    values = points.values.astype(np.float64)
    weights = points.weights
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # infinities are values, too
        total = np.bincount(points.group, values if weights is None else values * weights, count).astype(np.float64)
        if name == "mean":
            total = total / np.bincount(points.group, weights, count)
    return total, ~np.isnan(total)


def _whole_sum(points: Points, layer: str, where: str) -> Values:
    """Exact sums of whole numbers; in Python's integers if 64 bits might overflow on the way."""
    magnitude = np.bincount(points.group, np.abs(points.values.astype(np.float64)))
    if magnitude.max() < 2.0**62:
        return np.asarray(np.add.reduceat(points.values.astype(np.int64), points.starts))
    sums = np.add.reduceat(points.values.astype(object), points.starts)
    if max(sums) > np.iinfo(np.int64).max or min(sums) < np.iinfo(np.int64).min:
        raise SourceError(
            f"layer {layer}, {where}: a sum of whole numbers is {max(sums, key=abs):,}, which does not fit in 64 bits",
            'use aggregate = "mean" and "count", or store the column as floating point numbers',
            layer,
        )
    return sums.astype(np.int64)


def _mode(points: Points) -> Values:
    by = np.lexsort((points.values, points.group))
    group, values = points.group[by], points.values[by]
    new = (np.diff(group, prepend=-1) != 0) | np.concatenate([[True], values[1:] != values[:-1]])
    starts = np.flatnonzero(new)
    lengths = np.diff(starts, append=len(values))
    best = np.lexsort((-lengths, group[starts]))  # stable: of equals the least value comes first
    firsts = np.flatnonzero(np.diff(group[starts], prepend=-1))
    return np.asarray(values[starts][best][firsts])
