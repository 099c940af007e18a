"""The space of a model's variables: training data in it, and distances to them.

Dissimilarity index and area of applicability: Meyer and Pebesma (2021), Methods in Ecology and Evolution 12, 1620, as
the R package CAST computes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from geopipe.analysis.rows import numbers
from geopipe.errors import SettingsError
from geopipe.grid.crs import Floats

MOST_EXACT = 20_000
"""Training rows up to which the mean distance is that of all pairs; beyond, of all pairs of a sample of as many."""

PAIRS = 1_000
"""Rows whose distances to all others are held at a time."""


class Vectors(NamedTuple):
    """Rows in the space of the variables.

    Attributes:
        values: (complete rows, dimensions) float64.
        complete: (rows,) bool: has a value in each variable.
    """

    values: Floats
    complete: NDArray[np.bool_]


@dataclass(frozen=True)
class Space:
    """Variables standardised by the training data, and weighted.

    A column of classes is a dimension for each class of the training data, 1 in rows of the class and 0 in others, with
    the weight of the column. A class that the training data lack is 0 in all of them.

    Attributes:
        columns: names of the variables.
        classes: of a column of classes those of the training data.
        means: (dimensions,) float64; `scales` as well: weight by standard deviation.
    """

    columns: tuple[str, ...]
    classes: Mapping[str, tuple[float, ...]]
    means: Floats
    scales: Floats

    @classmethod
    def of(
        cls, train: pa.Table, columns: Sequence[str], categorical: Sequence[str], weights: Mapping[str, float]
    ) -> Space:
        """The space of training data.

        Args:
            categorical: those of the columns that hold classes.
            weights: of the columns.

        Raises:
            SettingsError: fewer than two rows are complete, or a variable has one value only.
        """
        classes = {name: _classes(train, name) for name in categorical}
        raw = cls(tuple(columns), classes, np.zeros(0), np.ones(0))
        values = raw.of_rows(train).values
        if len(values) < 2:
            raise SettingsError(
                f"the training data have {len(values)} rows with a value in each of {', '.join(columns)}; 2 are needed",
                "leave out columns that are mostly null (--columns)",
            )
        deviations = values.std(axis=0, ddof=1)
        names = raw.dimensions
        constant = sorted({name for name, sd in zip(names, deviations, strict=True) if sd == 0})
        if constant:
            raise SettingsError(
                f"the training data have one value only of {', '.join(constant)}", "leave it out (--columns)"
            )
        scales = np.array([weights[name] for name in names]) / deviations
        return cls(raw.columns, classes, values.mean(axis=0), scales)

    @property
    def dimensions(self) -> list[str]:
        """The column of each dimension."""
        return [name for name in self.columns for _ in self.classes.get(name, (0.0,))]

    def of_rows(self, rows: pa.Table) -> Vectors:
        """Rows that have all variables, in the space."""
        dimensions, complete = list[Floats](), np.ones(len(rows), np.bool_)
        for name in self.columns:
            column, present = numbers(rows, name)
            if present is not None:
                complete &= present
            classes = self.classes.get(name)
            dimensions += [column] if classes is None else [(column == value).astype(np.float64) for value in classes]
        values = np.column_stack(dimensions)
        values = values if complete.all() else values[complete]
        return Vectors((values - self.means) * self.scales if len(self.means) else values, complete)


def _classes(train: pa.Table, name: str) -> tuple[float, ...]:
    column, present = numbers(train, name)
    return tuple(np.unique(column if present is None else column[present]).tolist())


def mean_distance(values: Floats, seed: int) -> float:
    """The mean distance of all pairs of rows; of a seeded sample beyond `MOST_EXACT` rows."""
    if len(values) > MOST_EXACT:
        values = values[np.sort(np.random.default_rng(seed).choice(len(values), MOST_EXACT, replace=False))]
    parts = (cdist(values[first : first + PAIRS], values).sum() for first in range(0, len(values), PAIRS))
    return float(sum(parts) / (len(values) * (len(values) - 1)))


def held_back(values: Floats, folds: NDArray[Any] | None) -> Floats:
    """The distance of each row to the nearest one that a cross-validation trains on when it tests this row.

    Args:
        values: (n, dimensions) float64.
        folds: (n,) of each row, NaN for one that is never tested; None leaves out the row alone.

    Returns:
        (tested rows,) float64.
    """
    if folds is None:
        return np.asarray(cKDTree(values).query(values, k=2)[0][:, 1])
    tested = np.unique(folds[~np.isnan(folds)])
    parts = (cKDTree(values[folds != fold]).query(values[folds == fold])[0] for fold in tested)
    return np.concatenate(list(parts))


def threshold_of(distances: Floats) -> float:
    """The largest distance that is no outlier: the upper quartile and 1.5 interquartile ranges, or the largest one."""
    lower, upper = np.quantile(distances, [0.25, 0.75])
    return float(min(upper + 1.5 * (upper - lower), distances.max()))
