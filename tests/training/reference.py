"""Distances, dissimilarity and Wasserstein's W by plain loops, written apart from geopipe, as references."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)))


def nearest(place: Sequence[float], others: Sequence[Sequence[float]]) -> float:
    """The distance to the nearest of some places."""
    return min(distance(place, other) for other in others)


def to_other_folds(places: np.ndarray, folds: np.ndarray) -> list[float]:
    """From each place to the nearest one of another fold (Gj* of kNNDM)."""
    return [
        nearest(place, [other for other, n in zip(places, folds, strict=True) if n != fold])
        for place, fold in zip(places, folds, strict=True)
    ]


def to_others(places: np.ndarray) -> list[float]:
    """From each place to the nearest other one (Gj)."""
    return [nearest(place, [o for j, o in enumerate(places) if j != i]) for i, place in enumerate(places)]


def wasserstein(one: Sequence[float], other: Sequence[float]) -> float:
    """The area between the two empirical distribution functions."""
    ends = sorted([*one, *other])
    area = 0.0
    for low, high in itertools.pairwise(ends):
        shares = [sum(value <= low for value in values) / len(values) for values in (one, other)]
        area += abs(shares[0] - shares[1]) * (high - low)
    return area


class Dissimilarity:
    """Meyer and Pebesma (2021): `train` (n, variables) float64 is standardised, weighted, and its threshold found."""

    def __init__(self, train: np.ndarray, weights: Sequence[float], folds: Sequence[int] | None) -> None:
        columns = [list(map(float, column)) for column in train.T]
        self.means = [sum(column) / len(column) for column in columns]
        self.deviations = [
            math.sqrt(sum((v - m) ** 2 for v in column) / (len(column) - 1))
            for column, m in zip(columns, self.means, strict=True)
        ]
        self.weights = weights
        self.train = [self.scaled(row) for row in train]
        pairs = [
            distance(one, other) for i, one in enumerate(self.train) for j, other in enumerate(self.train) if i != j
        ]
        self.mean = sum(pairs) / len(pairs)
        labels = list(range(len(train))) if folds is None else list(folds)
        index = [
            nearest(row, [o for o, label in zip(self.train, labels, strict=True) if label != own]) / self.mean
            for row, own in zip(self.train, labels, strict=True)
        ]
        lower, upper = (self.quantile(sorted(index), q) for q in (0.25, 0.75))
        self.threshold = min(upper + 1.5 * (upper - lower), max(index))

    @staticmethod
    def quantile(values: list[float], q: float) -> float:
        """R's type 7."""
        place = q * (len(values) - 1)
        low = math.floor(place)
        high = min(low + 1, len(values) - 1)
        return values[low] + (place - low) * (values[high] - values[low])

    def scaled(self, row: Sequence[float]) -> list[float]:
        return [(v - m) / s * w for v, m, s, w in zip(row, self.means, self.deviations, self.weights, strict=True)]

    def index(self, row: Sequence[float]) -> float:
        return nearest(self.scaled(row), self.train) / self.mean
