"""Rows counted by a number and a class: small tables that merge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe.errors import SettingsError

MOST_CLASSES = 1_000


def counted(numbers: NDArray[Any], classes: Any) -> pa.Table:
    """Rows of each number and class: columns number (int64), class, rows (int64).

    Args:
        numbers: (rows,) int64.
        classes: the column of the class, or None: all rows are of one class, which has no name.
    """
    column = pa.nulls(len(numbers)) if classes is None else classes
    return _summed(pa.table({"number": numbers.astype(np.int64), "class": column, "rows": np.ones(len(numbers), "i8")}))


def merged(left: pa.Table, right: pa.Table) -> pa.Table:
    """The counts of both."""
    return _summed(pa.concat_tables([left, right]))


def _summed(rows: pa.Table) -> pa.Table:
    sums = rows.group_by(["number", "class"], use_threads=False).aggregate([("rows", "sum")])
    return sums.rename_columns(["number", "class", "rows"])


def classes_of(counts: pa.Table, name: str) -> list[Any]:
    """The classes of counts in their order, a missing one last.

    Raises:
        SettingsError: they are too many for classes.
    """
    values = counts["class"].unique().to_pylist()
    if len(values) > MOST_CLASSES:
        raise SettingsError(
            f"column {name!r} has {len(values):,} values, too many for classes", "give a column of classes"
        )
    return sorted(value for value in values if value is not None) + ([None] if None in values else [])


def crossed(counts: pa.Table, numbers: NDArray[np.int64], classes: list[Any]) -> NDArray[np.float64]:
    """Counts as a matrix, (numbers, classes) float64."""
    places = {value: i for i, value in enumerate(classes)}
    matrix = np.zeros((len(numbers), len(classes)))
    columns = np.array([places[value] for value in counts["class"].to_pylist()], np.int64)
    matrix[np.searchsorted(numbers, counts["number"].to_numpy()), columns] = counts["rows"].to_numpy()
    return matrix
