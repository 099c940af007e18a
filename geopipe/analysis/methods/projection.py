"""Rows projected onto axes: a compiled loop in a fixed order of additions, and its columns of scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe.analysis.rows import matrix
from geopipe.resample.compiled import compiled

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Projection:
    """Axes in the space of some variables.

    Attributes:
        columns: names of the variables.
        fill: shape (d,), float64: what stands for a missing value; None where such rows have no scores.
        means: shape (d,), float64: where the axes cross.
        axes: shape (d, m), float64: weights of the variables in each score.
    """

    columns: tuple[str, ...]
    fill: Floats | None
    means: Floats
    axes: Floats

    def scores(self, chunk: pa.Table, schema: pa.Schema) -> pa.Table:
        """Row, col and a column for each axis; null where a row lacks a value."""
        rows = matrix(chunk, self.columns, self.fill)
        scores = projected(rows.values, self.means, self.axes)
        columns = []
        for one in scores:
            whole = one if rows.kept.all() else np.zeros(len(chunk), np.float32)
            if whole is not one:
                whole[rows.kept] = one
            columns.append(pa.array(whole, mask=None if whole is one else ~rows.kept))
        return pa.table([chunk["row"], chunk["col"], *columns], schema)


@compiled
def projected(values: Floats, means: Floats, axes: Floats) -> NDArray[np.float32]:
    """Scores of rows, shape (m, n), float32: sums of the deviations from the means, each by its weight.

    Args:
        values: shape (n, d), float64.
        axes: shape (d, m), float64.
    """
    count, width = values.shape
    scores = np.empty((axes.shape[1], count), np.float32)
    sums = np.empty(axes.shape[1])
    for i in range(count):
        sums[:] = 0.0
        for j in range(width):
            deviation = values[i, j] - means[j]
            for k in range(sums.size):
                sums[k] += deviation * axes[j, k]
        for k in range(sums.size):
            scores[k, i] = sums[k]
    return scores
