"""A method driven over rows in memory, cut into parts as a test likes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pyarrow as pa

from geopipe.analysis.contract import Method, Nulls, Reduce, Result, Subject
from geopipe.analysis.rows import fold
from geopipe.layers.layer import Kind
from geopipe.table.table import Table


@dataclass(frozen=True)
class Rows:
    """What methods ask of a table beside its rows."""

    kinds: Mapping[str, Kind]


@dataclass(frozen=True)
class Outcome:
    """A result, and the values by cell that were written."""

    result: Result
    cells: pa.Table | None

    @property
    def values(self) -> Mapping[str, Any]:
        """The values as JSON has them, which knows no NaN."""
        return cast(Mapping[str, Any], json.loads(json.dumps(self.result.values, allow_nan=False)))

    def column(self, table: str, name: str) -> list[Any]:
        return cast(list[Any], self.result.tables[table][name].to_pylist())


def rows_of(columns: Mapping[str, Sequence[Any] | np.ndarray], width: int = 7) -> pa.Table:
    """Columns with row and col of a grid of `width`; NaN and None are nulls."""
    arrays = {name: pa.array(np.asarray(values), from_pandas=True) for name, values in columns.items()}
    places = np.arange(len(next(iter(arrays.values()))), dtype=np.int32)
    return pa.table({"row": places // width, "col": places % width} | arrays)


def outcome(
    method: Method, rows: pa.Table, classes: Sequence[str] = (), nulls: Nulls = "drop", cuts: Sequence[int] = ()
) -> Outcome:
    """Drive a method over rows, whose parts end at `cuts` and are merged as those of tiles."""
    columns = tuple(name for name in rows.column_names if name not in ("row", "col"))
    kinds = {name: Kind.CATEGORICAL if name in classes else Kind.CONTINUOUS for name in columns}
    step = method.prepare(Subject(cast(Table, Rows(kinds)), columns, nulls))
    ends = [0, *sorted(cuts), len(rows)]
    parts = [rows.slice(a, b - a) for a, b in pairwise(ends) if b > a]
    cells: pa.Table | None = None
    while not isinstance(step, Result):
        chunks = [part.select(list(dict.fromkeys(["row", "col", *step.columns]))) for part in parts]
        if isinstance(step, Reduce):
            step = step.finish(fold(map(step.map, chunks), step.merge))
        else:
            cells = pa.concat_tables([step.schema.empty_table(), *map(step.map, chunks)])
            step = step.finish(None)
    return Outcome(step, cells)
