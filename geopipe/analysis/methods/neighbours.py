"""Sums over pairs of neighbours on the grid, as Moran's I and its variance take them: one compiled pass over cells."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geopipe.resample.compiled import compiled

Floats = NDArray[np.float64]

STEPS = {
    "rook": ((0, 1), (0, -1), (1, 0), (-1, 0)),
    "queen": ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)),
}
"""Directions to neighbours, rows and columns."""


@compiled
def _weights(
    deviations: Floats, margin: int, lag: int, steps: NDArray[np.int64], is_standardised: bool
) -> tuple[Floats, Floats]:
    """The weight of each of a cell's neighbours, and how many it has; arguments as below, arrays as `deviations`."""
    height, width = deviations.shape
    weights, counts = np.zeros(deviations.shape), np.zeros(deviations.shape)
    for i in range(margin - lag, height - margin + lag):
        for j in range(margin - lag, width - margin + lag):
            if not np.isnan(deviations[i, j]):
                count = 0
                for s in range(steps.shape[0]):
                    count += not np.isnan(deviations[i + steps[s, 0] * lag, j + steps[s, 1] * lag])
                counts[i, j] = count
                if count:
                    weights[i, j] = 1.0 / count if is_standardised else 1.0
    return weights, counts


@compiled
def sums_of_pairs(deviations: Floats, margin: int, lag: int, steps: NDArray[np.int64], is_standardised: bool) -> Floats:
    """Sums over the neighbours of cells, each `lag` cells away in one of some directions.

    Args:
        deviations: shape (height + 2 * margin, width + 2 * margin), float64, from the mean; NaN is no cell.
        margin: cells around those whose sums are taken; at least 2 * lag, for the neighbours of neighbours.
        steps: shape (directions, 2), int64.
        is_standardised: whether the weights of a cell's neighbours add up to 1; else each is 1.

    Returns:
        (4,) float64, over the cells i inside the margin: sum w_ij z_i z_j; S0 = sum w_ij;
        S1 = sum (w_ij + w_ji)**2 / 2; S2 = sum_i (w_i. + w_.i)**2 (Cliff and Ord 1981).
    """
    height, width = deviations.shape
    weights, counts = _weights(deviations, margin, lag, steps, is_standardised)
    sums = np.zeros(4)
    for i in range(margin, height - margin):
        cross, squares, ends, total = 0.0, 0.0, 0.0, 0.0
        for j in range(margin, width - margin):
            if counts[i, j] > 0.0:
                weight = weights[i, j]
                lagged, incoming = 0.0, 0.0
                for s in range(steps.shape[0]):
                    y, x = i + steps[s, 0] * lag, j + steps[s, 1] * lag
                    if not np.isnan(deviations[y, x]):
                        lagged += deviations[y, x]
                        incoming += weights[y, x]
                        squares += (weight + weights[y, x]) ** 2
                cross += deviations[i, j] * weight * lagged
                outgoing = weight * counts[i, j]
                total += outgoing
                ends += (outgoing + incoming) ** 2
        sums[0] += cross
        sums[1] += total
        sums[2] += squares / 2.0
        sums[3] += ends
    return sums


def morans_i(count: float, second: float, fourth: float, sums: Floats) -> dict[str, Any]:
    """Moran's I with its expectation and its z-scores (Cliff and Ord 1981, as esda has them).

    Args:
        count: cells.
        second: sum of squared deviations; `fourth` of their fourth powers.
        sums: shape (4,), float64, of all cells, as `sums_of_pairs` returns them.

    Returns:
        i, expected, z_normal, z_random; None where there are too few cells or pairs, or no deviations.
    """
    n, (cross, s0, s1, s2) = count, sums.tolist()
    result: dict[str, Any] = dict.fromkeys(("i", "expected", "z_normal", "z_random"))
    if n < 2 or s0 <= 0 or second <= 0:
        return result
    i, expected = n / s0 * cross / second, -1 / (n - 1)
    result |= {"i": i, "expected": expected}
    if n < 4:
        return result
    normal = (n * n * s1 - n * s2 + 3 * s0**2) / ((n - 1) * (n + 1) * s0**2) - expected**2
    kurtosis = (fourth / n) / (second / n) ** 2
    plain = n * ((n * n - 3 * n + 3) * s1 - n * s2 + 3 * s0**2)
    peaked = kurtosis * ((n * n - n) * s1 - 2 * n * s2 + 6 * s0**2)
    random = (plain - peaked) / ((n - 1) * (n - 2) * (n - 3) * s0**2) - expected**2
    for name, variance in (("z_normal", normal), ("z_random", random)):
        if variance > 0:
            result[name] = (i - expected) / variance**0.5
    return result
