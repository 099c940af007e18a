"""Distances between places of a grid: in the unit of its CRS, or in metres on a sphere where it is geographic."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geopipe.grid.crs import Floats, crs_of
from geopipe.grid.grid import Grid


@lru_cache(maxsize=256)
def _sphere(crs: str) -> float | None:
    """Mean radius in metres, (2 a + b) / 3, of the body of a geographic CRS; None for any other CRS."""
    ellipsoid = crs_of(crs).ellipsoid
    if not crs_of(crs).is_geographic or ellipsoid is None:
        return None
    return float(2 * ellipsoid.semi_major_metre + ellipsoid.semi_minor_metre) / 3


def distance_unit(crs: str) -> str:
    """The unit of distances: "m", or the name of the CRS's unit."""
    return "m" if _sphere(crs) else axis_unit(crs)


def axis_unit(crs: str) -> str:
    """The unit of x and y of a CRS: "m", or its name, such as "degree"."""
    name = crs_of(crs).axis_info[0].unit_name
    return "m" if name in ("metre", "meter") else name


def positions(crs: str, x: Floats, y: Floats) -> Floats:
    """Points whose straight distances have the order of the distances between places.

    Args:
        x: (n,) float64, in the unit of the CRS; y as well.

    Returns:
        (n, 2) float64 in the unit of the CRS; (n, 3) in metres from the centre of the sphere for a geographic CRS.
    """
    radius = _sphere(crs)
    if radius is None:
        return np.column_stack([x, y])
    factor = crs_of(crs).axis_info[0].unit_conversion_factor
    longitude, latitude = x * factor, y * factor
    flat = np.cos(latitude)
    return radius * np.column_stack([flat * np.cos(longitude), flat * np.sin(longitude), np.sin(latitude)])


def arcs(crs: str, chords: Floats) -> Floats:
    """Distances along the surface for straight distances between `positions`. Infinity stays."""
    radius = _sphere(crs)
    if radius is None:
        return chords
    half = chords / (2 * radius)
    return np.where(np.isinf(chords), chords, 2 * radius * np.arcsin(np.minimum(half, 1.0)))


def chord(crs: str, arc: float) -> float:
    """The straight distance between `positions` for a distance along the surface: the inverse of `arcs`."""
    radius = _sphere(crs)
    return arc if radius is None else float(2 * radius * np.sin(min(arc / (2 * radius), np.pi / 2)))


def centres(grid: Grid, rows: NDArray[Any], cols: NDArray[Any]) -> tuple[Floats, Floats]:
    """X and y of the centres of cells: (n,) float64 each, as the table has them."""
    return grid.x0 + (cols + 0.5) * grid.dx, grid.y0 - (rows + 0.5) * grid.dy


def cells(grid: Grid, x: Floats, y: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the cells that hold points: (n,) int64 each, -1 and -1 for a point off the grid."""
    row, col = np.floor((grid.y0 - y) / grid.dy), np.floor((x - grid.x0) / grid.dx)
    inside = (row >= 0) & (row < grid.height) & (col >= 0) & (col < grid.width)
    return np.where(inside, row, -1).astype(np.int64), np.where(inside, col, -1).astype(np.int64)
