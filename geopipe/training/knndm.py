"""Folds whose distances meet those of the map: k-fold nearest neighbour distance matching.

Linnenbrink, Mila, Ludwig and Meyer (2024), Geoscientific Model Development 17, 5897, as their R package CAST does it:
training points are put into q clusters, for many q from k up to their number; the clusters are merged to k folds; the
folds whose distances come closest to those of the cells to predict, by Wasserstein's W, are taken. Where training
points are spread like the cells to predict, folds at random are right.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.stats import ks_2samp

from geopipe.errors import SettingsError
from geopipe.grid.crs import Floats
from geopipe.training.clusters import kmeans
from geopipe.training.distances import Ints, Neighbourhood

Clustering = Literal["hierarchical", "kmeans"]

MOST_HIERARCHICAL = 5_000
"""Points of a hierarchical clustering, which holds all pairs: 100 MB."""

TRIALS = 100
"""Numbers of clusters that are tried, small ones more densely."""

ITERATIONS = 10
"""Of k-means for each number of clusters, as in R."""

SIGNIFICANCE = 0.05


class Matching(NamedTuple):
    """Folds by distance matching.

    Attributes:
        folds: (n,) int64, from 1.
        clusters: of the training points that were merged to folds; None for folds at random.
        clustering: how the clusters came to be; None for folds at random.
    """

    folds: Ints
    clusters: int | None
    clustering: Clustering | None


def match(
    places: Neighbourhood, k: int, seed: int, clustering: Clustering | None = None, largest: float = 0.5
) -> Matching:
    """Assign training points to k folds.

    Args:
        clustering: by Ward's linkage, or by k-means; None: Ward's up to 5,000 points.
        largest: share of the points that a fold may have.

    Raises:
        SettingsError: too few points, or no merged clusters have folds small enough.
    """
    n, rng = len(places.training), np.random.default_rng(seed)
    if n < k + 2:
        raise SettingsError(f"{n:,} points are too few for {k} folds by distance matching", "give more points")
    if not 1 / k < largest < 1:
        hint = f"give a share above {1 / k:.2f} and below 1, or more folds"
        raise SettingsError(f"largest = {largest:g} does not fit {k} folds: they have {1 / k:.2f} each", hint)
    clustered = ks_2samp(places.leave_one_out, places.to_predict, alternative="greater")
    if clustered.pvalue >= SIGNIFICANCE:
        return Matching(at_random(n, k, rng), None, None)
    kind = clustering or ("hierarchical" if n <= MOST_HIERARCHICAL else "kmeans")
    if kind == "hierarchical" and n > MOST_HIERARCHICAL:
        raise SettingsError(
            f"{n:,} points are too many for hierarchical clustering: {MOST_HIERARCHICAL:,} at most", "take kmeans"
        )
    along = _along_first_axis(places.training)
    best: tuple[float, int, Ints] | None = None
    for labels in _partitions(places.training, _numbers_of_clusters(k, n), kind, rng):
        folds = _merged(labels, along, k)
        sizes = np.bincount(folds, minlength=k + 1)[1:]
        if sizes.min() == 0 or sizes.max() > largest * n:
            continue
        w = places.mismatch(places.between(folds))
        if best is None or w < best[0]:
            best = w, int(labels.max()) + 1, folds
    if best is None:
        raise SettingsError(
            f"no clusters of the {n:,} points give {k} folds of at most {largest:.0%} of them",
            "give a larger share (--largest), or fewer folds",
        )
    return Matching(best[2], best[1], kind)


def at_random(n: int, k: int, rng: np.random.Generator) -> Ints:
    """Folds of the same size at random: (n,) int64, from 1."""
    return rng.permutation(np.arange(n) % k + 1)


def _numbers_of_clusters(k: int, n: int) -> list[int]:
    steps = np.exp(np.linspace(np.log(k), np.log(n - 2), TRIALS))
    return sorted({int(step) for step in np.rint(steps)})


def _partitions(points: Floats, numbers: list[int], kind: Clustering, rng: np.random.Generator) -> Iterator[Ints]:
    """Labels of clusters, (n,) int64 from 0 without gaps, for each number of clusters."""
    if kind == "hierarchical":
        for labels in cut_tree(linkage(points, "ward"), numbers).T:
            yield np.unique(labels, return_inverse=True)[1]
        return
    for number in numbers:
        yield np.unique(kmeans(points, number, rng, iterations=ITERATIONS).labels, return_inverse=True)[1]


def _along_first_axis(points: Floats) -> Floats:
    """Where points lie on their first principal axis: (n,) float64.

    The largest part of the axis is above zero, so that it has one direction.
    """
    axis: Floats = np.linalg.eigh(np.cov(points.T))[1][:, -1]
    return np.asarray((points * (axis * np.sign(axis[np.argmax(np.abs(axis))]))).sum(axis=1))


def _merged(labels: Ints, along: Floats, k: int) -> Ints:
    """Folds of clusters, (n,) int64: large clusters by themselves, the others in turn along the first axis."""
    counts = np.bincount(labels)
    order = np.argsort(np.bincount(labels, along) / counts, kind="stable")
    large = counts[order] >= len(labels) / k
    folds = np.zeros(len(counts), np.int64)
    folds[order[large]] = np.arange(large.sum()) + 1
    free = np.arange(large.sum(), k) + 1
    small = order[~large]
    folds[small] = free[np.arange(len(small)) % max(len(free), 1)] if len(small) else 0
    return folds[labels]
