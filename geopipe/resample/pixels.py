"""How the pixels of a source lie to the cells of a grid: on one lattice, along them, how many to a cell, as a ring."""

from __future__ import annotations

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from geopipe.grid.crs import Transform, crs_transform, is_lonlat, same_crs
from geopipe.grid.grid import Grid, apply, outline
from geopipe.layers.layer import Source
from geopipe.resample.gcps import model_of

Floats = NDArray[np.float64]

SEPARABLE = 1e-9
"""Largest distance in pixels by which an edge of a cell may lean for the cell to be a rectangle: that of rounding."""


def aligned(grid: Grid, source: Source, tolerance: float) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Source pixels per cell (rows, columns) and the source pixel (row, column) at the grid's corner.

    None unless a whole number of pixels makes each cell, nowhere off by more than `tolerance` pixels. Equal resolutions
    are not enough and would shift data: phase and drift over the whole extent count, too.
    """
    t = source.transform
    if t.b or t.d or t.a <= 0 or t.e >= 0 or source.first.georeference or not same_crs(source.crs, grid.crs):
        return None
    rows = _phase(grid.dy / -t.e, (grid.y0 - t.f) / t.e, grid.height, tolerance)
    cols = _phase(grid.dx / t.a, (grid.x0 - t.c) / t.a, grid.width, tolerance)
    if rows is None or cols is None:
        return None
    (ry, row), (rx, col) = rows, cols
    pixels = pixels_per_360(source)
    if pixels is not None and abs(pixels - round(pixels)) < 1e-3:  # the same longitudes, 360 degrees apart
        middle = col + grid.width * rx / 2
        col -= round(pixels) * round((middle - source.width / 2) / pixels)
    return (ry, rx), (row, col)


def _phase(step: float, start: float, count: int, tolerance: float) -> tuple[int, int] | None:
    ratio, origin = round(step), round(start)
    if ratio < 1:
        return None
    off = max(abs(start - origin), abs(start + count * step - origin - count * ratio))
    return (ratio, origin) if off <= tolerance else None


def parallel(grid: Grid, source: Source, places: int = 17) -> bool:
    """Whether a column of cells has the same columns of pixels at each row, and a row the same rows: to rounding.

    It is so in one CRS without rotation, and between cylindrical projections (longitudes and Web Mercator, say).
    """
    t = source.transform
    if t.b or t.d or source.first.georeference:
        return False
    if same_crs(source.crs, grid.crs):
        return True
    col, row = np.meshgrid(np.linspace(0, grid.width, places), np.linspace(0, grid.height, places))
    px, py = pixels_of(grid.transform, grid.crs, source)(col, row)
    with np.errstate(invalid="ignore"):
        off = np.abs(px - px[:1]), np.abs(py - py[:, :1])
        pixels = pixels_per_360(source)
        across = off[0] if pixels is None else np.abs(off[0] - pixels * np.round(off[0] / pixels))
        return bool(across.max() <= SEPARABLE and off[1].max() <= SEPARABLE)  # False for NaN


def has_rows_of(grid: Grid, source: Source) -> bool:
    """Whether rows and columns of cells are parallel to those of pixels, exactly: both are in one CRS."""
    t = source.transform
    return same_crs(grid.crs, source.crs) and not (t.b or t.d) and source.first.georeference is None


def pixel_steps(grid: Grid, source: Source, places: int = 21) -> tuple[Floats, Floats] | None:
    """Source pixels per cell edge in x and in y, sampled at `places` x `places` cells.

    Returns:
        Two (n,) float64 above zero, for the cells that meet the source; None if no cell does.
    """
    col, row = np.meshgrid(
        np.linspace(0.5, grid.width - 0.5, places), np.linspace(0.5, grid.height - 0.5, places), indexing="xy"
    )
    to_pixels = pixels_of(grid.transform, grid.crs, source)
    px, py = to_pixels(col, row)
    pixels = pixels_per_360(source)
    if pixels is not None:
        px = px - pixels * np.round((px - source.width / 2) / pixels)
    right, left = to_pixels(col + 0.5, row), to_pixels(col - 0.5, row)
    below, above = to_pixels(col, row + 0.5), to_pixels(col, row - 0.5)
    with np.errstate(invalid="ignore"):
        steps = [np.hypot(right[i] - left[i], below[i] - above[i]) for i in (0, 1)]
        ok = np.isfinite(steps[0]) & np.isfinite(steps[1]) & (steps[0] > 0) & (steps[1] > 0)
        if pixels is not None:
            ok &= steps[0] < pixels / 2  # more is the jump at the edge of the longitudes
        inside = ok & (px >= 0) & (px <= source.width) & (py >= 0) & (py <= source.height)
    if not inside.any():
        if not ok.any() or not _meet(grid, source):
            return None
        inside = ok  # the source lies between the sampled cells: use all of them
    return steps[0][inside], steps[1][inside]


def pixels_per_360(source: Source) -> float | None:
    """Pixels in 360 degrees of a geographic source whose columns run along longitude; None for others."""
    t = source.transform
    if t.b or t.d or not is_lonlat(source.crs):
        return None
    return 360.0 / abs(t.a)


def wraps_around(source: Source) -> int | None:
    """Pixels in 360 degrees if the columns wrap around: the source has all longitudes in whole pixels. Else None."""
    pixels = pixels_per_360(source)
    if pixels is None or abs(pixels - round(pixels)) > 1e-3 or source.width < round(pixels):
        return None
    return round(pixels)


def unrolled(col: Floats, source: Source) -> Floats:
    """Source columns without a jump of 360 degrees, as near to the source as multiples of 360 degrees allow."""
    pixels = pixels_per_360(source)
    finite = col[np.isfinite(col)]
    if pixels is None or not finite.size:
        return col
    middle = col.flat[col.size // 2] if np.isfinite(col.flat[col.size // 2]) else finite[finite.size // 2]
    home = middle - pixels * np.round((middle - source.width / 2) / pixels)
    with np.errstate(invalid="ignore"):
        return np.asarray(col - pixels * np.round((col - home) / pixels), np.float64)


def _meet(grid: Grid, source: Source, places: int = 257) -> bool:
    """Whether a cell lies in the source or a pixel in the grid, sampled at `places` x `places` of each."""
    col, row = np.meshgrid(np.linspace(0, grid.width, places), np.linspace(0, grid.height, places))
    px, py = pixels_of(grid.transform, grid.crs, source)(col, row)
    pixels = pixels_per_360(source)
    if pixels is not None:
        px = px - pixels * np.round((px - source.width / 2) / pixels)
    x, y = crs_transform(source.crs, grid.crs)(*outline(source.transform, source.width, source.height, places))
    left, bottom, right, top = grid.bounds
    if is_lonlat(grid.crs):
        x = x - 360.0 * np.round((x - (left + right) / 2) / 360.0)
    with np.errstate(invalid="ignore"):
        in_source = (px > 0) & (px < source.width) & (py > 0) & (py < source.height)
        in_grid = (x > left) & (x < right) & (y > bottom) & (y < top)
    return bool(in_source.any() or in_grid.any())


def pixels_of(transform: Affine, crs: str, source: Source) -> Transform:
    """The function from cells (col, row) of `transform` to pixels (col, row) of `source`."""
    to_source, inverse = crs_transform(crs, source.crs), ~source.transform
    model = model_of(source.first.georeference) if source.first.georeference is not None else None

    def to_pixels(col: Floats, row: Floats) -> tuple[Floats, Floats]:
        x, y = to_source(*apply(transform, col, row))
        with np.errstate(invalid="ignore"):
            return apply(inverse, x, y) if model is None else model(x, y)

    return to_pixels
