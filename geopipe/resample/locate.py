"""Where the cells of a block lie in a source's pixels, and which window of them they need.

Every block finds its own places, whatever tile asks for it, and its window is what they reach: never too little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from geopipe.grid.crs import Transform, same_crs
from geopipe.grid.grid import BLOCK, Grid, Tile, blocks_of, rounding
from geopipe.layers.layer import Source
from geopipe.resample import kernels
from geopipe.resample.methods import (
    RADIUS,
    WINDOW_PIXELS,
    Decision,
    Floats,
    Route,
    Window,
    clip,
    lattice_window,
    pixels_of,
    pixels_per_360,
    unrolled,
    wraps_around,
)

DEGREES = (8, 16)
"""Degrees of the polynomials that are tried for the places of a block."""

NEAR = 1e-4
"""Pixels by which a place may be off at first when it must be exact; near an edge of its pixel it is made so."""


@dataclass(frozen=True)
class Lattice:
    """Places in a source's pixels, `cols` and `rows` of one shape; not finite where there is none."""

    cols: Floats
    rows: Floats


@dataclass(frozen=True)
class Footprints:
    """Cells as polygons in a source's pixels: their corners, one more each way than cells.

    `turn` is 360 degrees in pixels (0: no longitudes), `around` the same where the window has them all and columns go
    round; `poles` are the rows of the poles, and no edge is longer than `longest` pixels.
    """

    corners: Lattice
    turn: float = 0.0
    around: int = 0
    poles: tuple[float, float] = (0.0, 0.0)
    longest: float = np.inf


@dataclass(frozen=True)
class BlockRequest:
    """What one block needs of a source: a window, and the places in it that the decision asks for."""

    block: Tile
    window: Window
    centres: Lattice | None = None
    footprints: Footprints | None = None

    @property
    def strips(self) -> list[Window]:
        """The window as it is read: at once, or rows of it one after the other where a footprint is too large for that.

        A strip holds half of WINDOW_PIXELS, because the one before it may still be there.
        """
        w = self.window
        if w.pixels <= WINDOW_PIXELS or self.centres is not None or self.footprints is None:
            return [w]
        rows = max(1, WINDOW_PIXELS // 2 // w.width)
        bottom = w.row + w.height
        return [replace(w, row=row, height=min(rows, bottom - row)) for row in range(w.row, bottom, rows)]


def canonical_blocks(
    grid: Grid, decision: Decision, tile: Tile, inside: NDArray[np.bool_] | None = None
) -> Iterator[BlockRequest]:
    """The blocks in which a tile is computed, each with what it needs; those that need nothing are left out.

    A copy is the same in any blocks, so its block is the tile. Else blocks are anchored to the grid, whatever the tile
    is that asks. One is quartered if its window would hold more than WINDOW_PIXELS, down to single cells, whose windows
    are read in strips.

    Args:
        inside: the cells of the tile that are wanted, None for all: blocks without any are left out.
    """
    if decision.route is Route.COPY:
        for block in (tile,) if inside is None else blocks_of(tile, BLOCK):
            window = _cut(lattice_window(decision, block), decision.source)
            if window is not None and _wanted(inside, tile, block):
                yield BlockRequest(block, window)
        return
    blocks = list(blocks_of(tile, BLOCK))
    while blocks:
        block = blocks.pop(0)
        if not _wanted(inside, tile, block):
            continue
        needs = _needs(grid, decision, block)
        if needs is None:
            continue
        if needs.window.pixels > WINDOW_PIXELS and block.cells > 1:
            blocks[:0] = blocks_of(block, -(-max(block.height, block.width) // 2))
        else:
            yield needs


def _wanted(inside: NDArray[np.bool_] | None, tile: Tile, block: Tile) -> bool:
    """Whether any cell of the block is."""
    top, left = block.row - tile.row, block.col - tile.col
    return inside is None or bool(inside[top : top + block.height, left : left + block.width].any())


def _needs(grid: Grid, decision: Decision, block: Tile) -> BlockRequest | None:
    source, windows, centres, footprints = decision.source, [], None, None
    if decision.centred:
        centres = _lattice(grid, decision, block, corners=False)
        reach = 0 if decision.scale is None else int(np.ceil(RADIUS[decision.method] * max(decision.scale))) + 1
        windows.append(_around(centres, source, reach))
    if decision.covering and (not windows or windows[0]):
        footprints = _footprints(_lattice(grid, decision, block, corners=True), source)
        window, footprints = _under(footprints, source)
        windows.append(window)
    found = [w for w in windows if w is not None]
    return BlockRequest(block, union_of(found), centres, footprints) if found else None


def union_of(windows: Sequence[Window]) -> Window:
    """The smallest window that holds all of them."""
    top, left = min(w.row for w in windows), min(w.col for w in windows)
    bottom, right = max(w.row + w.height for w in windows), max(w.col + w.width for w in windows)
    return Window(top, left, bottom - top, right - left)


def _cut(window: Window, source: Source) -> Window | None:
    """The part of a window that the source has. Where its columns go round, it has all of them."""
    if wraps_around(source) is None:
        return clip(window, source.height, source.width)
    rows = clip(replace(window, col=0, width=1), source.height, 1)
    return replace(window, row=rows.row, height=rows.height) if rows else None


def _around(centres: Lattice, source: Source, reach: int) -> Window | None:
    """The pixels of the centres that lie in the source, with `reach` more on each side."""
    width = np.inf if wraps_around(source) else float(source.width)
    left, top, right, bottom = kernels.span(centres.cols, centres.rows, width, float(source.height))
    if left > right:
        return None
    row, col = int(top) - reach, int(np.floor(left)) - reach
    return _cut(Window(row, col, int(bottom) + 1 + reach - row, int(np.floor(right)) + 1 + reach - col), source)


def _footprints(corners: Lattice, source: Source) -> Footprints:
    degrees = pixels_per_360(source)
    if degrees is not None:
        t = source.transform
        return Footprints(corners, degrees, poles=((90 - t.f) / t.e, (-90 - t.f) / t.e))
    edges = np.abs(np.diff(corners.cols[::16], axis=1)) + np.abs(np.diff(corners.rows[::16], axis=1))
    edges = edges[np.isfinite(edges)]
    usual = float(np.median(edges)) if edges.size else 0.0
    return Footprints(corners, longest=max(20 * usual, max(source.width, source.height) / 2))


def _under(feet: Footprints, source: Source) -> tuple[Window | None, Footprints]:
    """The pixels of the source that the footprints touch, and the footprints, told whether columns go round there."""
    left, top, right, bottom = kernels.extent(feet.corners.cols, feet.corners.rows, feet.turn, feet.poles)
    if left > right:
        return None, feet
    far = 2.0**40  # a place near where a projection ends can lie anywhere
    ends = np.clip([np.floor(left), np.floor(top), np.ceil(right), np.ceil(bottom)], -far, far)
    col, row, end, last = (int(v) for v in ends)
    around = wraps_around(source)
    if around is not None and end - col >= around:
        end, feet = col + around, replace(feet, around=around)
    return _cut(Window(row, col, last - row, end - col), source), feet


# ---------------------------------------------------------------- places


def _lattice(grid: Grid, decision: Decision, block: Tile, *, corners: bool) -> Lattice:
    """The corners or the centres of a block's cells in the source's pixels."""
    first, more = (0.0, 1) if corners else (0.5, 0)
    col = np.arange(block.width + more, dtype=np.float64) + first
    row = np.arange(block.height + more, dtype=np.float64) + first
    if decision.route is Route.DECIMATE:
        (ry, rx), (top, left) = decision.ratio, decision.origin
        return Lattice(*np.meshgrid(left + (block.col + col) * rx, top + (block.row + row) * ry))
    source = decision.source
    to_pixels = pixels_of(grid.transform_of(block), grid.crs, source)
    exact = decision.tolerance == 0.0 and decision.method == "nearest" and not corners
    off = NEAR if exact else decision.tolerance  # those near an edge of their pixel are seen to below
    found = None
    if off > 0 and not same_crs(grid.crs, source.crs):
        found = _polynomial(to_pixels, source, col, row, off)
    if found is None:
        return _snapped(_home(Lattice(*to_pixels(*np.meshgrid(col, row))), source), grid, source)
    if exact:
        near = [np.argwhere(np.abs(v - np.rint(v)) < 10 * NEAR) for v in (found.cols, found.rows)]
        i, j = np.concatenate(near).T
        cols, rows = to_pixels(col[j], row[i])
        degrees = pixels_per_360(source)
        if degrees is not None:
            cols += degrees * np.round((found.cols[i, j] - cols) / degrees)
        found.cols[i, j], found.rows[i, j] = cols, rows
    return _snapped(_home(found, source), grid, source)


def _snapped(lattice: Lattice, grid: Grid, source: Source) -> Lattice:
    """The same places, on edges and middles of pixels where only rounding keeps them off."""
    t = source.transform
    corners = [t @ (col, row) for col in (0, source.width) for row in (0, source.height)]
    bounds = [(*corners[0], *corners[3]), (*corners[1], *corners[2])]
    if same_crs(grid.crs, source.crs):
        bounds.append(grid.bounds)
    steps = float(np.hypot(t.a, t.d)), float(np.hypot(t.b, t.e))
    shape, places = lattice.cols.shape, (lattice.cols, lattice.rows)
    cols, rows = (kernels.snapped(v.ravel(), rounding(bounds, step)) for v, step in zip(places, steps, strict=True))
    return Lattice(cols.reshape(shape), rows.reshape(shape))


def _home(lattice: Lattice, source: Source) -> Lattice:
    """The same places in the turn of longitudes in which the source has them."""
    degrees = pixels_per_360(source)
    if degrees is None:
        return lattice
    if wraps_around(source):  # it has every turn: stay together
        return Lattice(unrolled(lattice.cols, source), lattice.rows)
    with np.errstate(invalid="ignore"):
        cols = lattice.cols - degrees * np.round((lattice.cols - source.width / 2) / degrees)
    return Lattice(cols, lattice.rows)


def _polynomial(to_pixels: Transform, source: Source, col: Floats, row: Floats, tolerance: float) -> Lattice | None:
    """Places by a polynomial through few of them, where it is right to `tolerance` in those between; else None.

    Projections are smooth, so that 64 or 256 places of a block tell the others (Chebyshev's are the best to ask).
    """
    if col.size * row.size < 4 * DEGREES[-1] ** 2:
        return None
    asked = np.linspace(col[0], col[-1], 17), np.linspace(row[0], row[-1], 17)
    truth = to_pixels(*np.meshgrid(*asked))
    truth = unrolled(truth[0], source), truth[1]
    if not np.isfinite(truth).all():
        return None
    for degree in DEGREES:
        nodes = chebyshev.chebpts1(degree)
        at = np.meshgrid(*((nodes + 1) / 2 * (v[-1] - v[0]) + v[0] for v in (col, row)))
        cols, rows = to_pixels(*at)
        cols = unrolled(cols, source)
        if not np.isfinite(cols + rows).all():
            return None
        if (degrees := pixels_per_360(source)) is not None:  # in the same turn as those that were asked
            cols += degrees * np.round((truth[0][8, 8] - cols[degree // 2, degree // 2]) / degrees)
        terms = [_coefficients(v, nodes) for v in (cols, rows)]
        found = [_evaluated(c, *asked, col, row) for c in terms]
        if all(np.abs(f - t).max() <= tolerance / 2 for f, t in zip(found, truth, strict=True)):
            return Lattice(*(_evaluated(c, col, row, col, row) for c in terms))
    return None


def _coefficients(values: Floats, nodes: Floats) -> Floats:
    """Of the Chebyshev polynomial through values (rows, cols) at the nodes of both axes."""
    terms = chebyshev.chebvander(nodes, len(nodes) - 1).T * (2.0 / len(nodes))
    terms[0] /= 2
    return np.asarray(kernels.polynomial(values, terms, np.ascontiguousarray(terms.T)), np.float64)


def _evaluated(coefficients: Floats, at_col: Floats, at_row: Floats, col: Floats, row: Floats) -> Floats:
    """A polynomial over the range of col and row at a lattice of places."""
    across, down = (
        np.ascontiguousarray(chebyshev.chebvander((at - v[0]) / (v[-1] - v[0]) * 2 - 1, len(coefficients) - 1))
        for at, v in ((at_col, col), (at_row, row))
    )
    return np.asarray(kernels.polynomial(coefficients, down, np.ascontiguousarray(across.T)), np.float64)


# ---------------------------------------------------------------- what the plan asks


def read_amplification(grid: Grid, decision: Decision, window_size: int) -> float:
    """How often each stored block of a source is decoded when it is read tile by tile (1: once).

    Strips that cross many tiles, or large blocks under small tiles, make it grow. It is the product of what a run of
    neighbouring tiles costs along a row and along a column, in the middle of the grid.
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
    """Pixels decoded for tiles one by one, per pixel decoded for all of them at once."""
    windows = [rough_window(grid, decision, grid.tile(key, window_size)) for key in keys]
    spans = [_stored(decision.source, w) for w in windows if w is not None]
    if not spans:
        return 1.0
    tops, lefts, bottoms, rights = zip(*spans, strict=True)
    joint = (max(bottoms) - min(tops)) * (max(rights) - min(lefts))
    apart = sum((bottom - top) * (right - left) for top, left, bottom, right in spans)
    return float(max(1.0, apart / joint))


def rough_window(grid: Grid, decision: Decision, tile: Tile) -> Window | None:
    """About the pixels that a tile needs, by the places of 17 x 17 of its corners; None where there are none."""
    if decision.route is not Route.WARP:
        return _cut(lattice_window(decision, tile), decision.source)
    col, row = np.meshgrid(np.linspace(0, tile.width, 17), np.linspace(0, tile.height, 17))
    lattice = _home(Lattice(*pixels_of(grid.transform_of(tile), grid.crs, decision.source)(col, row)), decision.source)
    reach = 0 if decision.scale is None else int(np.ceil(RADIUS[decision.method] * max(decision.scale))) + 1
    return _around(lattice, decision.source, reach)


def _stored(source: Source, window: Window) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of a window, moved outward to whole stored blocks."""
    if clip(window, source.height, source.width) is None:
        window = replace(window, col=0, width=source.width)  # beyond the edge of the longitudes
    rows, cols = source.block
    bottom = min(-(-(window.row + window.height) // rows) * rows, source.height)
    right = min(-(-(window.col + window.width) // cols) * cols, source.width)
    return max(window.row, 0) // rows * rows, max(window.col, 0) // cols * cols, bottom, right


def stored_pixels(grid: Grid, decision: Decision) -> int:
    """About the pixels of the stored blocks of a source that lie under the grid, each once."""
    window = rough_window(grid, decision, Tile(0, 0, 0, grid.height, grid.width))
    if window is None:
        return 0
    top, left, bottom, right = _stored(decision.source, window)
    return max(0, bottom - top) * max(0, right - left)
