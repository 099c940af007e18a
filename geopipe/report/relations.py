"""How variables relate: the correlations of the sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geopipe.layers.layer import Kind
from geopipe.report.sample import Sample

MOST_VARIABLES = 40
"""Variables of the matrix: more are no picture."""

MOST_NUMBERS = 1_000_000
"""Numbers in memory at a time; of a larger sample every m-th cell is taken."""

HIGH = 0.95
"""A correlation from which two variables say nearly the same."""


def relations_of(variables: Sequence[dict[str, Any]], sample: Sample) -> dict[str, Any] | None:
    """Pearson's correlation of each two variables that are no classes and not constant; None for fewer than two.

    Each pair is computed from the cells where both have values.
    """
    names = [v["name"] for v in variables if v["kind"] != Kind.CATEGORICAL and v["sample"] > 2 and not v["constant"]]
    left_out, names = names[MOST_VARIABLES:], names[:MOST_VARIABLES]
    if len(names) < 2:
        return None
    step = max(1, -(-sample.cells * len(names) // MOST_NUMBERS))
    columns = np.empty((len(range(0, sample.cells, step)), len(names)))
    for index, name in enumerate(names):
        values, valid = sample.column(name)
        columns[:, index] = np.where(valid, values, np.nan)[::step]
    columns[~np.isfinite(columns)] = np.nan
    matrix = correlations(columns)
    pairs = [
        {"one": names[i], "other": names[j], "r": float(matrix[i, j])}
        for i in range(len(names))
        for j in range(i)
        if abs(matrix[i, j]) > HIGH
    ]
    return {
        "names": names,
        "left_out": left_out,
        "cells": len(columns),
        "matrix": [[None if np.isnan(r) else round(float(r), 4) for r in row] for row in matrix],
        "high": sorted(pairs, key=lambda pair: -abs(pair["r"])),
    }


def correlations(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's r of each two columns, over the rows where neither is NaN; NaN where it is not defined.

    Args:
        columns: (n, variables) float64, changed in place.
    """
    with np.errstate(all="ignore"):
        columns -= np.nanmean(columns, axis=0)  # against cancellation
        columns /= np.nanstd(columns, axis=0)
        valid = np.isfinite(columns).astype(np.float64)
        columns[valid == 0] = 0
        count, sums, products = valid.T @ valid, columns.T @ valid, columns.T @ columns
        squares = (columns * columns).T @ valid
        covariance = products - sums * sums.T / count
        variance = squares - sums * sums / count
        matrix = covariance / np.sqrt(variance * variance.T)
    return np.asarray(np.clip(matrix, -1, 1))
