"""Empirical variograms of pairs of cells, and the model that fits them: how far values of a variable hang together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar, nnls

from geopipe.grid.distances import arcs, distance_unit, positions
from geopipe.grid.grid import Grid

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CLASSES = 16
"""Classes of distance, each longer than the one before by the same factor."""

LEAST_SHARE = 0.5
"""A model fits if it leaves less than half of the weighted squares that a constant leaves."""


@dataclass(frozen=True)
class Scale:
    """Distances on a grid, as `grid.distances` has them."""

    grid: Grid

    @property
    def unit(self) -> str:
        return distance_unit(self.grid.crs)

    def distances(self, first: Ints, second: Ints) -> Floats:
        """Distances between centres of cells, (n,) float64; first and second: (n, 2) int64, row and col."""
        ends = [self._positions(cells.astype(np.float64)) for cells in (first, second)]
        return np.asarray(arcs(self.grid.crs, np.sqrt(((ends[0] - ends[1]) ** 2).sum(axis=1))))

    def _positions(self, cells: Floats) -> Floats:
        grid = self.grid
        return positions(grid.crs, grid.x0 + (cells[:, 1] + 0.5) * grid.dx, grid.y0 - (cells[:, 0] + 0.5) * grid.dy)

    @property
    def cell(self) -> tuple[float, float]:
        """Height and width of a cell in the middle of the grid."""
        middle = np.array([[self.grid.height // 2, self.grid.width // 2]])
        down, right = (self.distances(middle, middle + np.array(step)) for step in ((1, 0), (0, 1)))
        return float(down[0]), float(right[0])

    @property
    def edges(self) -> Floats:
        """Edges of the classes of distance: from a cell to a third of the extent. (n,) float64; empty if too small."""
        height, width = self.cell
        least, most = min(height, width), np.hypot(height * self.grid.height, width * self.grid.width) / 3
        return np.geomspace(least * (1 - 1e-9), most, CLASSES + 1) if most > 2 * least else np.zeros(0)

    def block(self, distance: float) -> float:
        """A distance in the unit of the grid's CRS, in the direction in which it is more."""
        height, width = self.cell
        return max(distance / height * self.grid.dy, distance / width * self.grid.dx)


def partners(scale: Scale, cells: Ints, rng: np.random.Generator) -> Ints:
    """A partner of each cell in each class of distance, in a random direction.

    Args:
        cells: shape (n, 2), int64, row and col.

    Returns:
        (pairs, 4) int64: row and col of the cell, and of its partner, which lies on the grid.
    """
    edges, (height, width) = scale.edges, scale.cell
    shares, angles = rng.random((2, len(cells), len(edges) - 1))
    distances = edges[:-1] * (edges[1:] / edges[:-1]) ** shares
    steps = np.stack(
        [distances * np.sin(angles * 2 * np.pi) / height, distances * np.cos(angles * 2 * np.pi) / width], 2
    )
    others = cells[:, np.newaxis] + np.rint(steps).astype(np.int64)
    pairs = np.concatenate([np.broadcast_to(cells[:, np.newaxis], others.shape), others], axis=2).reshape(-1, 4)
    inside = (pairs[:, 2:] >= 0).all(axis=1) & (pairs[:, 2] < scale.grid.height) & (pairs[:, 3] < scale.grid.width)
    kept: Ints = pairs[inside & (pairs[:, :2] != pairs[:, 2:]).any(axis=1)]
    return kept


def empirical(distances: Floats, squares: Floats, edges: Floats) -> tuple[Floats, Floats, Ints]:
    """Half the mean squared difference by class of distance (Matheron 1963), of classes that have pairs.

    Args:
        distances: shape (pairs,), float64.
        squares: shape (pairs,), float64, squared differences; NaN where one of both is missing.
        edges: shape (classes + 1,), float64.

    Returns:
        Mean distance, semivariance and number of pairs of each class.
    """
    place = np.searchsorted(edges, distances, "right") - 1
    kept = np.isfinite(squares) & (place >= 0) & (place < len(edges) - 1)
    place, distances, squares = place[kept], distances[kept], squares[kept]
    counts = np.bincount(place, minlength=len(edges) - 1)
    full = counts > 0
    means = (np.bincount(place, values, len(edges) - 1)[full] / counts[full] for values in (distances, squares / 2))
    return (*means, counts[full])  # type: ignore[return-value]


def _shape(model: str, distances: Floats, range_: float) -> Floats:
    """The share of its sill that a model reaches: 95 % of it at the (practical) range, or all of it."""
    if model == "exponential":
        return 1 - np.exp(-3 * distances / range_)
    part = np.minimum(distances / range_, 1)
    return 1.5 * part - 0.5 * part**3


def fitted(distances: Floats, semivariances: Floats, counts: Ints) -> dict[str, Any]:
    """The model that fits best by least squares, weighted with the numbers of pairs.

    Returns:
        model ("exponential" or "spherical"), nugget, sill, range, explained (share of the weighted squares); range is
        None if no model fits, or if the range is longer than the distances that were seen: `reason` says which.
    """
    empty: dict[str, Any] = dict.fromkeys(("model", "nugget", "sill", "range", "explained"))
    if len(distances) < 4 or not (semivariances > 0).any():
        return empty | {"reason": "fewer than four classes of distance have pairs that differ"}
    roots = np.sqrt(counts)

    def fit(model: str, logarithm: float) -> tuple[Floats, float]:
        terms = np.stack([np.ones(len(distances)), _shape(model, distances, np.exp(logarithm))], axis=1)
        return nnls(terms * roots[:, np.newaxis], semivariances * roots)  # type: ignore[no-any-return]

    starts = np.linspace(np.log(distances[0]), np.log(2 * distances[-1]), 60)
    best = (np.inf, "", 0.0)
    for model in ("exponential", "spherical"):
        at = int(np.argmin([fit(model, start)[1] for start in starts]))
        bounds = (starts[max(at - 1, 0)], starts[min(at + 1, len(starts) - 1)])
        place = minimize_scalar(lambda x, model=model: fit(model, x)[1], bounds=bounds, method="bounded").x
        best = min(best, (fit(model, place)[1], model, float(place)))
    rest, model, place = best
    (nugget, part), length = fit(model, place)[0].tolist(), float(np.exp(place))
    centre = np.average(semivariances, weights=counts)
    flat = float(((semivariances - centre) ** 2 * counts).sum())
    explained = 1 - rest**2 / flat if flat > 0 else 0.0
    result = {"model": model, "nugget": nugget, "sill": nugget + part, "range": length, "explained": explained}
    if explained < LEAST_SHARE or part <= 0:
        return result | {"range": None, "reason": "no model fits: the semivariance does not rise with distance"}
    if length > distances[-1]:
        return result | {"range": None, "reason": "the range is longer than a third of the extent"}
    return result | {"reason": None}
