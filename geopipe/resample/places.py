"""Compiled loops over the places of cells in source pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geopipe.resample.compiled import compiled

Floats = NDArray[np.floating[Any]]


@compiled
def polynomial(coefficients: Floats, down: Floats, across: Floats) -> Floats:
    """Evaluate a polynomial of two variables on a lattice: down @ coefficients @ across, in a fixed order of sums.

    Args:
        coefficients: (n, n) float64.
        down: (rows, n) float64, terms at each row.
        across: (n, cols) float64, terms at each column.
    """
    n, width = coefficients.shape[0], across.shape[1]
    inner = np.zeros((n, width))
    for a in range(n):
        for b in range(n):
            for j in range(width):
                inner[a, j] += coefficients[a, b] * across[b, j]
    result = np.zeros((down.shape[0], width))
    for i in range(down.shape[0]):
        for a in range(n):
            factor = down[i, a]
            for j in range(width):
                result[i, j] += factor * inner[a, j]
    return result


@compiled
def snap(places: NDArray[np.float64], tolerance: float) -> None:
    """Move places that are within `tolerance` of an edge or a middle of a pixel or cell onto it.

    The floor of a place is then its pixel or cell: on an edge the right or lower one.

    Args:
        places: (n,) float64 in pixels or cells, to be changed; not finite for a missing place.
        tolerance: rounding error as a share of a pixel or cell (`grid.rounding`).
    """
    for i in range(places.size):
        half = np.rint(places[i] * 2.0) / 2.0
        places[i] = half if abs(places[i] - half) <= tolerance else places[i]


@compiled
def span(cols: Floats, rows: Floats, width: float, height: float) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the places that lie in a raster; left > right if there are none.

    An infinite width or height means that the raster has no edge there.
    """
    lefts, rights = np.full(cols.shape[1], np.inf), np.full(cols.shape[1], -np.inf)
    tops, bottoms = lefts.copy(), rights.copy()
    for i in range(cols.shape[0]):
        for j in range(cols.shape[1]):
            x, y = cols[i, j], rows[i, j]
            across = ((x >= 0) & (x < width)) | ((width == np.inf) & (abs(x) < np.inf))
            down = ((y >= 0) & (y < height)) | ((height == np.inf) & (abs(y) < np.inf))
            inside = across & down
            lefts[j] = x if inside & (x < lefts[j]) else lefts[j]
            tops[j] = y if inside & (y < tops[j]) else tops[j]
            rights[j] = x if inside & (x > rights[j]) else rights[j]
            bottoms[j] = y if inside & (y > bottoms[j]) else bottoms[j]
    return lefts.min(), tops.min(), rights.max(), bottoms.max()


@compiled
def near_edges(cols: Floats, rows: Floats, distance: float) -> NDArray[np.bool_]:
    """The places that are nearer than `distance`, in pixels, to an edge of a pixel: (rows, cols) bool."""
    result = np.empty(cols.shape, np.bool_)
    for i in range(cols.shape[0]):
        for j in range(cols.shape[1]):
            x, y = cols[i, j], rows[i, j]
            result[i, j] = (abs(x - np.rint(x)) < distance) | (abs(y - np.rint(y)) < distance)
    return result
