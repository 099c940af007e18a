"""Starts of k-means on a sample of rows: seeds, the steps of Lloyd from each, and the number of clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geopipe.analysis.methods.lloyd import assign, silhouettes, squares

Floats = NDArray[np.float64]

STEPS = 100
"""Steps of Lloyd on the sample, at most."""


class Start(NamedTuple):
    """Centres, shape (k, d), float64; their sum of squared distances in the sample; and its labels, (n,) uint16."""

    centres: Floats
    inertia: float
    labels: NDArray[np.uint16]


def start(rows: Floats, k: int, seed: int, starts: int, tolerance: float) -> Start:
    """The best of several starts on a sample of rows, shape (n, d), float64, of which k or more differ."""
    return min(
        (_settle(rows, seeds(rows, k, np.random.default_rng((seed, k, i))), tolerance) for i in range(starts)),
        key=lambda one: one.inertia,
    )


def seeds(rows: Floats, k: int, rng: np.random.Generator) -> Floats:
    """Centres, shape (k, d), chosen among rows by greedy k-means++ (Arthur and Vassilvitskii 2007).

    Each is the best of 2 + ln k candidates, as in scikit-learn. A candidate is drawn with a chance that grows with the
    square of its distance from the centres before it.
    """
    chosen = [int(rng.integers(len(rows)))]
    nearest = squares(rows, rows[chosen[0]])
    for _ in range(k - 1):
        sums = np.cumsum(nearest)
        places = np.searchsorted(sums, rng.random(2 + int(math.log(k))) * sums[-1], "right")
        options = []
        for place in np.minimum(places, len(rows) - 1).tolist():
            squared = np.minimum(nearest, squares(rows, rows[place]))
            options.append((float(np.cumsum(squared)[-1]), place, squared))
        _, place, nearest = min(options, key=lambda option: option[:2])
        chosen.append(place)
    return rows[chosen]


def _settle(rows: Floats, centres: Floats, tolerance: float) -> Start:
    """Steps of Lloyd to the tolerance."""
    labels = np.empty(len(rows), np.uint16)
    for _ in range(STEPS):
        sums = _assign(rows, centres, labels)
        moved = moved_centres(sums, centres, rows)
        if shift(moved, centres) <= tolerance:
            break
        centres = moved
    return Start(centres, float(_assign(rows, centres, labels)[:, 1].sum()), labels)


def moved_centres(sums: Floats, centres: Floats, sample: Floats) -> Floats:
    """The means of the rows of each centre, shape (k, d).

    A centre without rows goes to the row of the sample that is farthest from its centre, as in scikit-learn.

    Args:
        sums: of `assign`, shape (k, d + 2).
        sample: shape (n, d), float64.
    """
    counts = sums[:, :1]
    moved = np.where(counts > 0, sums[:, 2:] / np.maximum(counts, 1), centres)
    for c in np.flatnonzero(counts[:, 0] == 0):
        others = np.delete(moved, c, axis=0)
        distances = np.min([squares(sample, one) for one in others], axis=0)
        moved[c] = sample[int(np.argmax(distances))]
    return moved


def shift(moved: Floats, centres: Floats) -> float:
    """The sum of the squared ways of all centres."""
    return math.fsum(((moved - centres) ** 2).ravel().tolist())


def mean_silhouettes(rows: Floats, trials: Sequence[Start], most: int) -> Floats:
    """The mean silhouette of each start, of `most` of its rows, evenly spaced: shape (trials,), float64."""
    step = math.ceil(len(rows) / most)
    labels = np.stack([trial.labels[::step] for trial in trials])
    return silhouettes(rows[::step], labels, np.array([len(trial.centres) for trial in trials]))


def distinct(rows: Floats) -> int:
    """How many rows differ."""
    return len(np.unique(rows, axis=0))


def _assign(rows: Floats, centres: Floats, labels: NDArray[np.uint16]) -> Floats:
    width = rows.shape[1]
    return assign(rows, np.zeros(width), np.ones(width), centres, labels)
