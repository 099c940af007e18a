"""Means, deviations and co-moments of variables: one pass, in a fixed order of additions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe.analysis.contract import Nulls, Pass, Reduce, Result
from geopipe.analysis.rows import matrix, numbers
from geopipe.resample.compiled import compiled

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comoments:
    """Comoments of d variables over the rows that count.

    Attributes:
        rows: that were read.
        count: of those that count: all, or those that lack no value.
        nulls: shape (d,), int64: missing values of each variable in all rows.
        means: shape (d,), float64.
        products: shape (d, d), float64: sums of the products of deviations from the means.
        fill: shape (d,), float64: what stands for a missing value; None where such rows are left out.
    """

    rows: int
    count: int
    nulls: NDArray[np.int64]
    means: Floats
    products: Floats
    fill: Floats | None = None

    def variances(self, ddof: int = 0) -> Floats:
        """Variances, shape (d,); 0 for fewer than ddof + 1 rows."""
        return np.diagonal(self.products) / max(self.count - ddof, 1)

    @property
    def deviations(self) -> Floats:
        """Standard deviations of the population, shape (d,)."""
        return np.sqrt(self.variances())

    @property
    def is_constant(self) -> NDArray[np.bool_]:
        """Which variables have one value alone, but for rounding, shape (d,)."""
        return self.deviations <= 1e-12 * np.maximum(np.abs(self.means), 1e-300)

    def correlations(self) -> Floats:
        """Pearson's correlations, shape (d, d); NaN for a constant variable."""
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = np.where(self.is_constant, np.nan, np.sqrt(np.diagonal(self.products)))
            result: Floats = np.clip(self.products / np.outer(scale, scale), -1.0, 1.0)
        np.fill_diagonal(result, np.where(self.is_constant, np.nan, 1.0))
        return result

    def counts(self) -> dict[str, Any]:
        """Rows and missing values, for the values of a result."""
        return {"rows": self.rows, "rows_used": self.count, "rows_left_out": self.rows - self.count}


def merge(left: Comoments, right: Comoments) -> Comoments:
    """The moments of both parts, by Chan, Golub and LeVeque (1979)."""
    count = left.count + right.count
    share, delta = right.count / max(count, 1), right.means - left.means
    products = left.products + right.products + np.outer(delta, delta) * (left.count * share)
    nulls = left.nulls + right.nulls
    return Comoments(left.rows + right.rows, count, nulls, left.means + delta * share, products, left.fill)


def moments(columns: Sequence[str], nulls: Nulls, then: Callable[[Comoments], Pass | Result]) -> Pass:
    """The pass that finds moments of columns; for nulls = "mean" it is two, the first of which finds the means.

    Args:
        then: makes the next pass of the moments; those of a table without rows are of count 0.
    """
    names = tuple(columns)

    def finish(state: Comoments | None) -> Pass | Result:
        return then(state or _empty(len(names)))

    if nulls == "drop":
        return Reduce("means and deviations", names, partial(_map, names, None), merge, finish)

    def fill(state: NDArray[np.float64] | None) -> Pass:
        counts, sums = np.zeros((2, len(names))) if state is None else state
        means = np.divide(sums, counts, out=np.zeros(len(names)), where=counts > 0)
        return Reduce("deviations", names, partial(_map, names, means), merge, finish)

    return Reduce("means", names, partial(value_sums, names), np.add, fill)


def _empty(width: int) -> Comoments:
    return Comoments(0, 0, np.zeros(width, np.int64), np.zeros(width), np.zeros((width, width)))


def value_sums(columns: tuple[str, ...], chunk: pa.Table) -> Floats:
    """Counts and sums of the values that are there, shape (2, d)."""
    result = np.zeros((2, len(columns)))
    for i, name in enumerate(columns):
        values, present = numbers(chunk, name)
        result[:, i] = (len(values), values.sum()) if present is None else (present.sum(), values[present].sum())
    return result


def _map(columns: tuple[str, ...], fill: Floats | None, chunk: pa.Table) -> Comoments:
    """The moments of a chunk."""
    values, _, nulls = matrix(chunk, columns, fill)
    means, products = comoments(values)
    return Comoments(len(chunk), len(values), nulls, means, products, fill)


@compiled
def comoments(values: Floats) -> tuple[Floats, Floats]:
    """Means, shape (d,), and sums of products of deviations, shape (d, d), of values of shape (n, d), row by row."""
    count, width = values.shape
    means = np.zeros(width)
    for i in range(count):
        for j in range(width):
            means[j] += values[i, j]
    means /= max(count, 1)
    products, deviations = np.zeros((width, width)), np.empty(width)
    for i in range(count):
        for j in range(width):
            deviations[j] = values[i, j] - means[j]
        for j in range(width):
            for k in range(width):
                products[j, k] += deviations[j] * deviations[k]
    return means, products
