"""Predict which pixels of a source will be read. A plan predicts: nothing here waits for compiled code to load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from geopipe.grid.grid import Grid, Tile, strips_of
from geopipe.layers.layer import Source
from geopipe.resample.footprints import Lattice
from geopipe.resample.locate import around, cut, edges_of, home
from geopipe.resample.methods import Decision, Route, Window, clip, lattice_window
from geopipe.resample.pixels import pixels_of


def decode_factor(grid: Grid, decision: Decision, window_size: int) -> float:
    """How often each stored block of a source is decoded if it is read tile by tile (1: once).

    Strips that cross many tiles, or large blocks under small tiles, make it grow. It is measured for neighbouring tiles
    along a row and along a column in the middle of the grid; the two factors are multiplied.
    """
    rows, cols = grid.tiling(window_size)
    row, col = rows // 2, cols // 2
    across = [row * cols + c for c in _middle(cols)]
    down = [r * cols + col for r in _middle(rows)]
    return _repeats(grid, decision, across, window_size) * _repeats(grid, decision, down, window_size)


def _middle(count: int, most: int = 16) -> range:
    start = max(0, (count - most) // 2)
    return range(start, min(count, start + most))


def _repeats(grid: Grid, decision: Decision, keys: Sequence[int], window_size: int) -> float:
    """Pixels decoded for these tiles one by one, per pixel decoded for all of them at once."""
    windows = [rough_window(grid, decision, grid.tile(key, window_size)) for key in keys]
    spans = [_stored(decision.source, w) for w in windows if w is not None]
    if not spans:
        return 1.0
    tops, lefts, bottoms, rights = zip(*spans, strict=True)
    joint = (max(bottoms) - min(tops)) * (max(rights) - min(lefts))
    apart = sum((bottom - top) * (right - left) for top, left, bottom, right in spans)
    return float(max(1.0, apart / joint))


def rough_window(grid: Grid, decision: Decision, tile: Tile) -> Window | None:
    """Estimate the window of a tile from 17 x 17 places in it. None if it needs no pixels."""
    source = decision.source
    if decision.route is not Route.WARP:
        return cut(lattice_window(decision, tile), source)
    col, row = np.meshgrid(np.linspace(0, tile.width, 17), np.linspace(0, tile.height, 17))
    places = home(Lattice(*pixels_of(grid.transform_of(tile), grid.crs, source)(col, row)), source)
    width, height = edges_of(source)
    cols, rows = places.cols, places.rows
    with np.errstate(invalid="ignore"):
        across = np.isfinite(cols) if width == np.inf else (cols >= 0) & (cols < width)
        inside = across & (rows >= 0) & (rows < height)
    if not inside.any():
        return None
    cols, rows = cols[inside], rows[inside]
    return around((cols.min(), rows.min(), cols.max(), rows.max()), decision)


def _stored(source: Source, window: Window) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of a window, moved outward to whole stored blocks."""
    if clip(window, source.height, source.width) is None:
        window = replace(window, col=0, width=source.width)  # beyond the edge of the longitudes: any column
    rows, cols = source.first.block
    bottom = min(-(-(window.row + window.height) // rows) * rows, source.height)
    right = min(-(-(window.col + window.width) // cols) * cols, source.width)
    return max(window.row, 0) // rows * rows, max(window.col, 0) // cols * cols, bottom, right


def stored_pixels(grid: Grid, decision: Decision, tile: Tile | None = None) -> int:
    """Estimate the pixels of a source's stored blocks under a tile (None: the grid), each counted once."""
    window = rough_window(grid, decision, tile or Tile(0, 0, 0, grid.height, grid.width))
    if window is None:
        return 0
    top, left, bottom, right = _stored(decision.source, window)
    return max(0, bottom - top) * max(0, right - left)


def strip_pixels(grid: Grid, decision: Decision, window_size: int) -> NDArray[np.int64]:
    """Stored pixels to decode for a tile in the middle of the grid: at once, in strips, and for its largest strip."""
    rows, cols = grid.tiling(window_size)
    tile = grid.tile(rows // 2 * cols + cols // 2, window_size)
    strips = [stored_pixels(grid, decision, strip) for strip in strips_of(tile)]
    return np.array([stored_pixels(grid, decision, tile), sum(strips), max(strips)])
