"""Areas of the cells of a grid."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from geopipe.grid.crs import crs_of, is_lonlat
from geopipe.grid.grid import Grid


def cell_areas(grid: Grid) -> NDArray[np.float64]:
    """The area of a cell in each row of the grid, shape (height,), in square metres.

    On a grid in degrees it is the true one, on the ellipsoid: zones between parallels by Snyder, Map Projections
    (1987), equations 3-12 and 3-13. On other grids it is the one in the plane of the projection.
    """
    crs = crs_of(grid.crs)
    if not is_lonlat(grid.crs):
        metres = float(crs.axis_info[0].unit_conversion_factor or 1.0)
        return np.full(grid.height, grid.dx * grid.dy * metres**2)
    ellipsoid = crs.ellipsoid or crs_of("EPSG:4326").ellipsoid
    assert ellipsoid is not None
    major, minor = ellipsoid.semi_major_metre, ellipsoid.semi_minor_metre
    edges = np.clip(grid.y0 - np.arange(grid.height + 1) * grid.dy, -90.0, 90.0)
    sines = np.sin(np.radians(edges))
    squared = 1.0 - (minor / major) ** 2
    e = math.sqrt(squared)
    parts = 2 * sines if e == 0 else sines / (1 - squared * sines**2) + np.arctanh(e * sines) / e
    zones = math.pi * minor**2 * -np.diff(parts)
    return np.asarray(zones * grid.dx / 360.0)
