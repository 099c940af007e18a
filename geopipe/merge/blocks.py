"""Block rows: the arrays of one variable in one tile, and how they travel through a shuffle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe.grid.grid import Tile
from geopipe.merge.points import SparseRow
from geopipe.merge.spec import TableSpec

Values = NDArray[Any]
Mask = NDArray[np.bool_]
Column = tuple[Values, Mask | None]
"""Values, and a mask of the valid ones of the same shape; None if all are valid."""


@dataclass(frozen=True)
class BlockRow:
    """One variable of one tile from one source, before the merge.

    values: (rows, tile.width), whole rows of the tile from `top` on: all of them, or those of one strip of a sweep.
    valid: (rows, tile.width) bool; None if every cell has a value.
    rank: the source's position in its layer, by which overlaps are settled.
    """

    tile: int
    variable: int
    rank: int
    values: Values
    valid: Mask | None
    top: int = 0


SHUFFLE_SCHEMA = pa.schema(
    [
        ("tile", pa.int64()),
        ("variable", pa.int32()),
        ("rank", pa.int32()),
        ("top", pa.int32()),
        ("values", pa.large_binary()),
        ("valid", pa.large_binary()),
        ("cells", pa.large_binary()),
        ("order", pa.large_binary()),
        ("weights", pa.large_binary()),
    ]
)
"""Block rows on their way through a shuffle: arrays as bytes, whose shape and type the plan has.

A sparse row has `cells` and `order`, and no rank.
"""


MARKER = -1
"""The variable of a marker."""


def marker(tile: int, inside: Mask | None = None) -> BlockRow:
    """A block row without values. It makes a tile a group of the shuffle even if no source meets the tile.

    Args:
        inside: (tile.height, tile.width) bool, the cells inside the mask; None for all, or if another marker has it.
    """
    return BlockRow(tile, MARKER, 0, np.zeros(0, np.uint8), inside)


def pack(row: BlockRow | SparseRow) -> pa.Table:
    """A block row as an Arrow table of one row (SHUFFLE_SCHEMA) that shares the memory of its arrays."""
    numbers = (row.tile, row.variable, 0, 0)
    bodies: list[Values | None] = [row.values, None, None, None, None]
    if isinstance(row, SparseRow):
        bodies[2:] = row.cells, row.order, row.weights
    else:
        numbers = (row.tile, row.variable, row.rank, row.top)
        bodies[1] = None if row.valid is None else np.packbits(row.valid)
    columns = [pa.array([n], f.type) for n, f in zip(numbers, SHUFFLE_SCHEMA, strict=False)]
    return pa.Table.from_arrays([*columns, *map(_binary, bodies)], schema=SHUFFLE_SCHEMA)


def _binary(values: Values | None) -> pa.Array:
    """An array as one value of bytes, over its own memory: `pa.array` copies, or leaks a memoryview."""
    if values is None:
        return pa.nulls(1, pa.large_binary())
    values = np.ascontiguousarray(values)
    ends = np.array([0, values.nbytes])
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, pa.py_buffer(ends), pa.py_buffer(values)])


def _views(column: pa.ChunkedArray) -> list[pa.Buffer | None]:
    """The values of a column of bytes as views of its memory. Arrow's scalars would copy them."""
    views: list[pa.Buffer | None] = []
    for chunk in column.chunks:
        _, ends, data = chunk.buffers()
        ends = np.frombuffer(ends, np.int64)[chunk.offset :]
        for index, valid in enumerate(chunk.is_valid().to_pylist()):
            start, length = int(ends[index]), int(ends[index + 1] - ends[index])
            views.append((data.slice(start, length) if length else pa.py_buffer(b"")) if valid else None)
    return views


def _array(buffer: pa.Buffer, dtype: Any = np.int64) -> NDArray[Any]:
    """A buffer as an array, copied only if it is not aligned for its type."""
    return np.require(np.frombuffer(buffer, dtype), requirements="A")


def unpack(spec: TableSpec, table: pa.Table, part: Tile) -> list[BlockRow | SparseRow]:
    """The block rows of `pack` that are in a tile or in a strip of it, and its marker if that has a mask.

    Values are views of the table's memory, so that a tile can be merged in strips without a copy.

    Args:
        part: the tile; or a strip of it, for which points cannot be cut.
    """
    rows: list[BlockRow | SparseRow] = []
    tile = spec.tile(part.key)
    columns = [table.column(name) for name in SHUFFLE_SCHEMA.names]
    numbers, bodies = [c.to_pylist() for c in columns[:4]], [_views(c) for c in columns[4:]]
    for key, index, rank, top, values, valid, cells, order, weights in zip(*numbers, *bodies, strict=True):
        if key != part.key or (index == MARKER and valid is None):
            continue
        if cells is not None:
            data, places, orders = (_array(values, spec.variables[index].band.dtype), _array(cells), _array(order))
            rows.append(
                SparseRow(key, index, places, orders, data, None if weights is None else _array(weights, np.float64))
            )
            continue
        dtype = spec.variables[index].dtype if index != MARKER else "uint8"
        line = tile.width * np.dtype(dtype).itemsize
        above = part.row - tile.row - top
        first, last = max(0, above), min(values.size // line if index != MARKER else tile.height, above + part.height)
        if first >= last:
            continue
        data = np.zeros((last - first, 0), np.uint8)
        if index != MARKER:
            data = _array(values.slice(first * line, (last - first) * line), dtype).reshape(-1, tile.width)
        mask = None
        if valid is not None:
            bits = _array(valid, np.uint8)[first * tile.width // 8 :]  # parts begin at whole blocks, so at whole bytes
            mask = np.unpackbits(bits, count=(last - first) * tile.width).reshape(-1, tile.width).astype(bool)
        rows.append(BlockRow(key, index, rank, data, mask, max(0, -above)))
    return rows
