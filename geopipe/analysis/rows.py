"""Rows of a tile in chunks that do not depend on files, and the states of chunks merged in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe.table.files import Files

CHUNK = 2**18
"""Rows of a chunk: some megabytes of a few variables."""

State = TypeVar("State")


def chunks(files: Files, key: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of a tile in chunks of `CHUNK` rows, the last one shorter: row, col, then `columns`."""
    names = list(dict.fromkeys(("row", "col", *columns)))
    held, count = list[pa.Table](), 0
    for part in files.stream(key, names, CHUNK):
        while count + len(part) >= CHUNK:
            held.append(part.slice(0, CHUNK - count))
            part = part.slice(CHUNK - count)
            yield pa.concat_tables(held).combine_chunks()
            held, count = [], 0
        held.append(part)
        count += len(part)
    if count:
        yield pa.concat_tables(held).combine_chunks()


def fold(states: Iterable[State], merge: Callable[[State, State], State]) -> State | None:
    """Merge states pairwise, neighbours first, in an order that only their number decides; None without a state.

    No more states are held than the logarithm of their number.
    """
    stack = list[tuple[int, State]]()
    for state in states:
        size = 1
        while stack and stack[-1][0] == size:
            _, left = stack.pop()
            state, size = merge(left, state), 2 * size
        stack.append((size, state))
    while len(stack) > 1:
        (_, right), (size, left) = stack.pop(), stack.pop()
        stack.append((size, merge(left, right)))
    return stack[0][1] if stack else None


class Matrix(NamedTuple):
    """Variables of some rows as numbers.

    Attributes:
        values: shape (kept rows, variables), float64, C order, without NaN.
        kept: shape (rows,), bool: the rows of the chunk that `values` has.
        nulls: shape (variables,), int64: missing values in all rows of the chunk.
    """

    values: NDArray[np.float64]
    kept: NDArray[np.bool_]
    nulls: NDArray[np.int64]


def matrix(chunk: pa.Table, columns: Sequence[str], means: NDArray[np.float64] | None = None) -> Matrix:
    """Columns of a chunk as a matrix, without the rows that lack a value.

    Args:
        means: shape (variables,), float64: taken where a value is missing, so that no row is left out.
    """
    values = np.empty((len(chunk), len(columns)))
    kept, nulls = np.ones(len(chunk), np.bool_), np.zeros(len(columns), np.int64)
    for i, name in enumerate(columns):
        column, present = numbers(chunk, name)
        values[:, i] = column
        if present is None:
            continue
        nulls[i] = len(chunk) - np.count_nonzero(present)
        if means is None:
            kept &= present
        else:
            values[~present, i] = means[i]
    return Matrix(values if kept.all() else values[kept], kept, nulls)


def numbers(chunk: pa.Table, name: str) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    """A column as float64, and where it has a value; None: everywhere. Infinities count as missing.

    Returns:
        values (rows,) float64, of which those that are missing mean nothing, and (rows,) bool.
    """
    column = chunk[name].combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    present = None
    if column.null_count:
        present = column.is_valid().to_numpy(zero_copy_only=False)
        column = column.fill_null(0)
    values = column.to_numpy(zero_copy_only=False).astype(np.float64)
    if column.type in (pa.float32(), pa.float64()) and not np.isfinite(values.sum()):
        finite = np.isfinite(values)
        if not finite.all():
            present = finite if present is None else present & finite
            values = np.where(finite, values, 0.0)
    return values, present
