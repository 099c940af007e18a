"""Compiled loops of the self-organising map: the nearest nodes of rows.

Nodes lie with one variable after the other, so that the loop over nodes takes several at a time. Scores are float32,
half the squared distance less a term of the row alone; what is reported is float64, in the order of the rows.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from geopipe.resample.compiled import compiled

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]


@compiled
def _score(values: Floats, scaling: Floats, nodes: Singles, row: Floats, scores: Singles) -> None:
    """Standardise one row into `row`, and score all nodes for it: the nearest one has the least score."""
    width, count = nodes.shape[0] - 1, nodes.shape[1]
    for k in range(count):
        scores[k] = nodes[width, k]
    for j in range(width):
        row[j] = (values[j] - scaling[0, j]) / scaling[1, j]
        value = np.float32(row[j])
        for k in range(count):
            scores[k] -= value * nodes[j, k]


@compiled
def _nearest(scores: Singles) -> int:
    """The first node with the least score."""
    least, nearest = scores[0], 0
    for k in range(1, scores.size):
        if scores[k] < least:
            least, nearest = scores[k], k
    return nearest


@compiled
def _distance(row: Floats, nodes: Singles, node: int) -> float:
    """The distance of a standardised row from a node."""
    total = 0.0
    for j in range(row.size):
        gap = row[j] - nodes[j, node]
        total += gap * gap
    return math.sqrt(total)


@compiled
def sums_of_nodes(values: Floats, scaling: Floats, nodes: Singles) -> tuple[Floats, Floats]:
    """Give each row to its nearest node.

    Args:
        values: shape (n, d), float64.
        scaling: shape (2, d), float64: mean and standard deviation of each variable.
        nodes: shape (d + 1, m), float32: standardised values of the nodes, then half of their squared lengths.

    Returns:
        (m, d + 1) float64: sums of the standardised rows of each node, then their number; and (1,) float64, the sum of
        distances from rows to their nodes.
    """
    width, count = nodes.shape[0] - 1, nodes.shape[1]
    sums, distance = np.zeros((count, width + 1)), np.zeros(1)
    row, scores = np.empty(width), np.empty(count, np.float32)
    for i in range(values.shape[0]):
        _score(values[i], scaling, nodes, row, scores)
        node = _nearest(scores)
        for j in range(width):
            sums[node, j] += row[j]
        sums[node, width] += 1.0
        distance[0] += _distance(row, nodes, node)
    return sums, distance


@compiled
def nearest_two(
    values: Floats, scaling: Floats, nodes: Singles
) -> tuple[NDArray[np.int16], NDArray[np.int16], Singles]:
    """The nearest node of each row, the second nearest, and the distance from the nearest one; arguments as above."""
    rows, count = values.shape[0], nodes.shape[1]
    first, second = np.empty(rows, np.int16), np.empty(rows, np.int16)
    distances = np.empty(rows, np.float32)
    row, scores = np.empty(nodes.shape[0] - 1), np.empty(count, np.float32)
    for i in range(rows):
        _score(values[i], scaling, nodes, row, scores)
        node = _nearest(scores)
        first[i], distances[i] = node, _distance(row, nodes, node)
        scores[node] = np.inf
        second[i] = _nearest(scores)
    return first, second, distances
