"""Nearest-neighbour distances between folds, and those that a map needs: what a cross-validation is measured by.

Three distributions are compared (Mila et al. 2022, MEE 13, 1304): from each training point to its nearest other one
(G_j, which random folds come close to), from each to its nearest one of other folds (G_j*), and from cells to predict
to their nearest training point (G_ij). A cross-validation is as hard as the map where G_j* meets G_ij.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import wasserstein_distance

from geopipe.grid.crs import Floats
from geopipe.grid.distances import arcs, positions

Ints = NDArray[np.int64]

NEIGHBOURS = 64
"""Neighbours of a point that are found once for all folds that are tried."""

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Neighbourhood:
    """Training points and cells to predict.

    Attributes:
        crs: of the grid, which decides what a distance is.
        training: (n, 2 or 3) float64, as `geopipe.grid.distances.positions` gives them.
        prediction: (m, 2 or 3) float64.
    """

    crs: str
    training: Floats
    prediction: Floats

    @classmethod
    def of(cls, crs: str, training: tuple[Floats, Floats], prediction: tuple[Floats, Floats]) -> Neighbourhood:
        """From x and y in the unit of the CRS."""
        return cls(crs, positions(crs, *training), positions(crs, *prediction))

    @cached_property
    def _nearest(self) -> tuple[Floats, Ints]:
        """Distances and numbers of the nearest other points, nearest first: (n, neighbours) each."""
        count = min(NEIGHBOURS + 1, len(self.training))
        chords, numbers = cKDTree(self.training).query(self.training, k=count)
        chords, numbers = chords.reshape(-1, count), numbers.reshape(-1, count)
        others = numbers != np.arange(len(numbers))[:, None]
        others[others.all(axis=1), -1] = False  # points in one place: the point itself need not be among them
        shape = (len(numbers), count - 1)
        return arcs(self.crs, chords[others]).reshape(shape), numbers[others].reshape(shape)

    @cached_property
    def leave_one_out(self) -> Floats:
        """From each training point to the nearest other one: (n,) float64."""
        return self._nearest[0][:, 0]

    @cached_property
    def to_predict(self) -> Floats:
        """From each cell to predict to the nearest training point: (m,) float64."""
        return arcs(self.crs, cKDTree(self.training).query(self.prediction)[0])

    def between(self, folds: Ints) -> Floats:
        """From each training point to the nearest one of another fold: (n,) float64; infinite with one fold alone."""
        distances, numbers = self._nearest
        other = folds[numbers] != folds[:, None]
        result = np.take_along_axis(distances, other.argmax(axis=1)[:, None], 1)[:, 0]
        for fold in np.unique(folds[~other.any(axis=1)]):
            inside, left = folds == fold, (folds == fold) & ~other.any(axis=1)
            if inside.all():
                return np.full(len(folds), np.inf)
            result[left] = arcs(self.crs, cKDTree(self.training[~inside]).query(self.training[left])[0])
        return result

    def mismatch(self, distances: Floats) -> float:
        """Wasserstein's W between distances and those of the cells to predict, in the unit of distances."""
        if np.isinf(distances).any():
            return np.inf
        return float(wasserstein_distance(distances, self.to_predict))


def quantiles(distances: Floats) -> dict[str, float | None]:
    """Quantiles of distances under their names of JSON, None for infinite ones."""
    values = np.full(len(QUANTILES), np.inf) if np.isinf(distances).any() else np.quantile(distances, QUANTILES)
    return {f"{q:g}": finite(v) for q, v in zip(QUANTILES, values, strict=True)}


def finite(value: float) -> float | None:
    """A number of JSON; None for infinity."""
    return float(value) if np.isfinite(value) else None
