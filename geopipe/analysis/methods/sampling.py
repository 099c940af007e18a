"""A seeded sample of rows: those whose cells have the least hashes. It does not depend on tiles, files or workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe.analysis.contract import Pass, Reduce, Result
from geopipe.analysis.rows import numbers
from geopipe.grid.hashes import hash_of


class _Lowest(NamedTuple):
    """Rows with their hashes: (n,) uint64."""

    hashes: NDArray[np.uint64]
    rows: pa.Table


def sample(
    columns: Sequence[str], n: int, seed: int, then: Callable[[pa.Table], Pass | Result], complete: bool = True
) -> Reduce:
    """The pass that takes a sample of n rows, each with the same chance; all rows where there are no more.

    Args:
        columns: of the sample, beside row and col.
        then: makes the next pass of the sample, in which rows are in the order of row and col.
        complete: leave out rows in which one of the columns is missing.
    """
    names = tuple(columns)

    def finish(state: _Lowest | None) -> Pass | Result:
        rows = pa.table({}) if state is None else state.rows
        return then(rows.sort_by([("row", "ascending"), ("col", "ascending")]) if len(rows) else rows)

    return Reduce("a sample of rows", names, partial(_lowest, names, n, seed, complete), partial(_merge, n), finish)


def _lowest(columns: tuple[str, ...], n: int, seed: int, complete: bool, chunk: pa.Table) -> _Lowest:
    hashes = hash_of(chunk["row"].to_numpy(), chunk["col"].to_numpy(), seed)
    gaps = [present for name in columns if (present := numbers(chunk, name)[1]) is not None] if complete else []
    if gaps:
        kept = np.logical_and.reduce(gaps)
        chunk, hashes = chunk.filter(pa.array(kept)), hashes[kept]
    return _first(n, hashes, chunk.select(["row", "col", *columns]))


def _merge(n: int, left: _Lowest, right: _Lowest) -> _Lowest:
    rows = pa.concat_tables([left.rows, right.rows])
    return _first(n, np.concatenate([left.hashes, right.hashes]), rows)


def _first(n: int, hashes: NDArray[np.uint64], rows: pa.Table) -> _Lowest:
    if len(hashes) > n:
        kept = np.flatnonzero(hashes <= np.partition(hashes, n - 1)[n - 1])  # no two cells have one hash
        hashes, rows = hashes[kept], rows.take(kept)
    return _Lowest(hashes, rows)
