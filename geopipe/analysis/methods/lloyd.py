"""Compiled loops of k-means: rows to their nearest centre, distances, and silhouettes. All sums in a fixed order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geopipe.resample.compiled import compiled

Floats = NDArray[np.float64]

BLOCK = 256
"""Rows that are worked on together: their distances lie side by side, and stay in the first cache."""


@compiled
def assign(values: Floats, means: Floats, scales: Floats, centres: Floats, labels: NDArray[np.uint16]) -> Floats:
    """Find the nearest centre of each row, of equal ones the first, and sum the rows of each centre.

    Args:
        values: shape (n, d), float64.
        means: shape (d,), float64.
        scales: shape (d,), float64. Rows are standardised: (values - means) * scales.
        centres: shape (k, d), float64, in these units.
        labels: shape (n,), uint16: the centre of each row, from 0 on, is written into it.

    Returns:
        shape (k, d + 2), float64: by centre its rows, the sum of their squared distances, and the sum of the rows.
    """
    count, width = values.shape
    k = centres.shape[0]
    result = np.zeros((k, width + 2))
    block, norms = np.zeros((width, BLOCK)), np.empty(BLOCK)
    score, best, nearest = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK, np.int64)
    for first in range(0, count, BLOCK):
        rows = min(BLOCK, count - first)
        _standardise(values[first : first + rows], means, scales, block, norms)
        _nearest(block, centres, score, best, nearest)
        for r in range(rows):
            c = nearest[r]
            labels[first + r] = c
            result[c, 0] += 1.0
            result[c, 1] += max(norms[r] + 2.0 * best[r], 0.0)
            for j in range(width):
                result[c, j + 2] += block[j, r]
    return result


@compiled
def _standardise(values: Floats, means: Floats, scales: Floats, block: Floats, norms: Floats) -> None:
    """Fill a block, shape (d, BLOCK), with standardised rows, and their squared lengths."""
    norms[:] = 0.0
    for j in range(values.shape[1]):
        for r in range(values.shape[0]):
            block[j, r] = (values[r, j] - means[j]) * scales[j]
        for r in range(BLOCK):
            norms[r] += block[j, r] * block[j, r]


@compiled
def _nearest(block: Floats, centres: Floats, score: Floats, best: Floats, nearest: NDArray[np.int64]) -> None:
    """Fill `nearest` with the centre of each row of a block.

    `best` is half of the squared distance, less half of the squared length of the row, which no centre changes.
    """
    best[:] = np.inf
    nearest[:] = 0
    for c in range(centres.shape[0]):
        half = 0.0
        for j in range(centres.shape[1]):
            half += 0.5 * centres[c, j] * centres[c, j]
        score[:] = half
        for j in range(centres.shape[1]):
            x = centres[c, j]
            for r in range(BLOCK):
                score[r] -= x * block[j, r]
        for r in range(BLOCK):
            is_nearer = score[r] < best[r]
            best[r] = score[r] if is_nearer else best[r]
            nearest[r] = c if is_nearer else nearest[r]


@compiled
def squares(rows: Floats, centre: Floats) -> Floats:
    """Squared distances of rows, shape (n, d), from a centre, shape (d,): shape (n,), float64."""
    result = np.zeros(rows.shape[0])
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            difference = rows[i, j] - centre[j]
            result[i] += difference * difference
    return result


@compiled
def silhouettes(rows: Floats, labels: NDArray[np.uint16], clusters: NDArray[np.int64]) -> Floats:
    """The mean silhouettes of several partitions of the same rows (Rousseeuw 1987), shape (m,), float64.

    A row alone in its cluster counts 0.

    Args:
        rows: shape (n, d), float64.
        labels: shape (m, n), uint16.
        clusters: shape (m,), int64: their number in each partition.
    """
    count, partitions = rows.shape[0], labels.shape[0]
    result = np.zeros(partitions)
    sizes, sums = np.zeros((2, partitions, clusters.max()))
    for m in range(partitions):
        for i in range(count):
            sizes[m, labels[m, i]] += 1.0
    for i in range(count):
        sums[:] = 0.0
        distances = np.sqrt(squares(rows, rows[i]))
        for m in range(partitions):
            for other in range(count):
                sums[m, labels[m, other]] += distances[other]
            result[m] += _silhouette(sums[m], sizes[m], labels[m, i]) / count
    return result


@compiled
def _silhouette(sums: Floats, sizes: Floats, own: int) -> float:
    """The silhouette of a row, of the sums of its distances to the rows of each cluster."""
    if sizes[own] < 2.0:
        return 0.0
    inside, outside = sums[own] / (sizes[own] - 1.0), np.inf
    for c in range(sizes.size):
        if c != own and sizes[c] > 0.0:
            outside = min(outside, sums[c] / sizes[c])
    larger = max(inside, outside)
    return (outside - inside) / larger if larger > 0.0 else 0.0
