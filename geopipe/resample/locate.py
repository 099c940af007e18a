"""Locate the cells of a block in a source's pixels, and the window of pixels that the block needs.

Each block locates its own cells, whatever tile asks for it. Its window is what these places reach, so that it is never
too small, whatever the projection does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from geopipe.grid.crs import Transform, same_crs
from geopipe.grid.grid import BLOCK, Grid, Tile, blocks_of, rounding
from geopipe.layers.layer import Source
from geopipe.resample.coverage import Coverage
from geopipe.resample.footprints import Footprints, Lattice
from geopipe.resample.methods import RADIUS, WINDOW_PIXELS, Decision, Floats, Route, Window, clip, lattice_window
from geopipe.resample.pixels import has_rows_of, pixels_of, pixels_per_360, unrolled, wraps_around
from geopipe.resample.places import near_edges, polynomial, snap, span

DEGREES = (8, 16)
"""Degrees of the polynomials that are tried for the places in a block."""

NEAR = 1e-4
"""Error in pixels of a first approximation of exact places. Those near an edge of their pixel are then recomputed."""


@dataclass(frozen=True)
class BlockRequest:
    """What one block needs of a source: a window of pixels, and the places in it.

    Attributes:
        whole: the window of all cells, also beyond the source, if whole pixels make each cell.
    """

    block: Tile
    window: Window
    centres: Lattice | None = None
    footprints: Footprints | None = None
    whole: Window | None = None

    @property
    def coverages(self) -> Iterable[Coverage]:
        """The coverage of the footprints, by rows of cells. If it is small enough it is computed once."""
        assert self.footprints is not None
        if self._coverages:
            return self._coverages
        coverages = self.footprints.coverages(self.window)
        first = next(coverages)
        if len(first.sizes) == self.block.cells:
            self._coverages.append(first)
            return self._coverages
        return chain([first], coverages)

    @cached_property
    def _coverages(self) -> list[Coverage]:
        return []

    @property
    def strips(self) -> list[Window]:
        """The window as it is read: at once, or in strips of rows if the footprint of a cell is too large for that.

        A strip has at most half of WINDOW_PIXELS, because the strip before it may still be in memory.
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
    """Iterate over the blocks in which a tile is computed. Blocks that need no pixels are left out.

    Blocks are anchored to the grid, whatever the tile (a copy is the same in any blocks: its block is the tile). A
    block whose window would hold more than WINDOW_PIXELS is quartered, down to single cells, which are read in strips.

    Args:
        inside: (height, width) bool, the cells of the tile to compute, None for all. Blocks without any are left out.
    """
    if decision.route is Route.COPY:
        for block in (tile,) if inside is None else blocks_of(tile, BLOCK):
            window = cut(lattice_window(decision, block), decision.source)
            if window is not None and _has_cells(inside, tile, block):
                yield BlockRequest(block, window)
        return
    blocks = list(blocks_of(tile, BLOCK))
    while blocks:
        block = blocks.pop(0)
        if not _has_cells(inside, tile, block):
            continue
        request = _request(grid, decision, block)
        if request is None:
            continue
        if (request.whole or request.window).pixels > WINDOW_PIXELS and block.cells > 1:
            blocks[:0] = blocks_of(block, -(-max(block.height, block.width) // 2))
        else:
            yield request


def _has_cells(inside: NDArray[np.bool_] | None, tile: Tile, block: Tile) -> bool:
    """Whether any cell of the block is inside."""
    top, left = block.row - tile.row, block.col - tile.col
    return inside is None or bool(inside[top : top + block.height, left : left + block.width].any())


def _request(grid: Grid, decision: Decision, block: Tile) -> BlockRequest | None:
    source, windows, centres, footprints = decision.source, [], None, None
    if decision.route is Route.DECIMATE and not decision.centred:
        whole = lattice_window(decision, block)
        if whole.pixels <= WINDOW_PIXELS or block.cells > 1:
            window = cut(whole, source)
            return BlockRequest(block, window, whole=whole) if window else None
    if decision.centred:
        centres = _lattice(grid, decision, block, corners=False)
        windows.append(around(span(centres.cols, centres.rows, *edges_of(source)), decision))
    if decision.covering and (not windows or windows[0]):
        footprints = _footprints(_lattice(grid, decision, block, corners=True), decision)
        window, footprints = _under(footprints, source)
        windows.append(window)
    meeting = [w for w in windows if w is not None]
    return BlockRequest(block, union_of(meeting), centres, footprints) if meeting else None


def union_of(windows: Sequence[Window]) -> Window:
    """The smallest window that contains all of them."""
    top, left = min(w.row for w in windows), min(w.col for w in windows)
    bottom, right = max(w.row + w.height for w in windows), max(w.col + w.width for w in windows)
    return Window(top, left, bottom - top, right - left)


def cut(window: Window, source: Source) -> Window | None:
    """The part of a window within the source. All columns are, if they wrap around."""
    if wraps_around(source) is None:
        return clip(window, source.height, source.width)
    rows = clip(replace(window, col=0, width=1), source.height, 1)
    return replace(window, row=rows.row, height=rows.height) if rows else None


def edges_of(source: Source) -> tuple[float, float]:
    """Width and height of a source in pixels; its width is infinite if its columns wrap around."""
    return np.inf if wraps_around(source) else float(source.width), float(source.height)


def around(extent: tuple[float, float, float, float], decision: Decision) -> Window | None:
    """The window that the kernel of a method reaches around places; None if none of them lie in the source.

    Args:
        extent: left, top, right and bottom of the places in the source; left > right if there are none.
    """
    left, top, right, bottom = extent
    if left > right:
        return None
    reach = 0 if decision.scale is None else int(np.ceil(RADIUS[decision.method] * max(decision.scale))) + 1
    row, col = int(top) - reach, int(np.floor(left)) - reach
    window = Window(row, col, int(bottom) + 1 + reach - row, int(np.floor(right)) + 1 + reach - col)
    return cut(window, decision.source)


def _footprints(corners: Lattice, decision: Decision) -> Footprints:
    source, is_parallel = decision.source, decision.is_parallel
    pixels = pixels_per_360(source)
    if pixels is not None:
        t = source.transform
        return Footprints(corners, pixels, poles=((90 - t.f) / t.e, (-90 - t.f) / t.e), is_parallel=is_parallel)
    edges = np.abs(np.diff(corners.cols[::16], axis=1)) + np.abs(np.diff(corners.rows[::16], axis=1))
    edges = edges[np.isfinite(edges)]
    usual = float(np.median(edges)) if edges.size else 0.0
    longest = max(20 * usual, max(source.width, source.height) / 2)
    return Footprints(corners, longest=longest, is_parallel=is_parallel)


def _under(footprints: Footprints, source: Source) -> tuple[Window | None, Footprints]:
    """The window of pixels that the footprints touch, and the footprints with their `wrap`."""
    left, top, right, bottom = footprints.extent
    if left > right:
        return None, footprints
    far = 2.0**40  # near the end of a projection a place can lie anywhere
    ends = np.clip([np.floor(left), np.floor(top), np.ceil(right), np.ceil(bottom)], -far, far)
    col, row, end, last = (int(v) for v in ends)
    wrap = wraps_around(source)
    if wrap is not None and end - col >= wrap:
        end, footprints = col + wrap, replace(footprints, wrap=wrap)
    return cut(Window(row, col, last - row, end - col), source), footprints


# ---------------------------------------------------------------- places


def _lattice(grid: Grid, decision: Decision, block: Tile, *, corners: bool) -> Lattice:
    """The corners or the centres of a block's cells in source pixels."""
    first, more = (0.0, 1) if corners else (0.5, 0)
    col = np.arange(block.width + more, dtype=np.float64) + first
    row = np.arange(block.height + more, dtype=np.float64) + first
    if decision.route is Route.DECIMATE:
        (ry, rx), (top, left) = decision.ratio, decision.origin
        return Lattice(*np.meshgrid(left + (block.col + col) * rx, top + (block.row + row) * ry))
    source = decision.source
    to_pixels = pixels_of(grid.transform_of(block), grid.crs, source)
    if (decision.is_parallel and corners) or has_rows_of(grid, source):
        cols, _ = to_pixels(col, np.full(col.size, row[0]))
        _, rows = to_pixels(np.full(row.size, col[0]), row)
        return _snapped(home(Lattice(*np.meshgrid(cols, rows)), source), grid, source)
    exact = decision.tolerance == 0.0 and decision.method == "nearest" and not corners
    tolerance = NEAR if exact else decision.tolerance
    places = None
    if tolerance > 0 and not same_crs(grid.crs, source.crs):
        places = _polynomial(to_pixels, source, col, row, tolerance)
    if places is None:
        places = Lattice(*to_pixels(*np.meshgrid(col, row)))
    elif exact:
        i, j = np.nonzero(near_edges(places.cols, places.rows, 10 * NEAR))
        cols, rows = to_pixels(col[j], row[i])
        pixels = pixels_per_360(source)
        if pixels is not None:
            cols += pixels * np.round((places.cols[i, j] - cols) / pixels)
        places.cols[i, j], places.rows[i, j] = cols, rows
    return _snapped(home(places, source), grid, source)


def _snapped(lattice: Lattice, grid: Grid, source: Source) -> Lattice:
    """Move places onto edges and middles of pixels if they are off by rounding; returns the lattice."""
    t = source.transform
    corners = [t @ (col, row) for col in (0, source.width) for row in (0, source.height)]
    bounds = [(*corners[0], *corners[3]), (*corners[1], *corners[2])]
    if same_crs(grid.crs, source.crs):
        bounds.append(grid.bounds)
    steps = float(np.hypot(t.a, t.d)), float(np.hypot(t.b, t.e))
    for places, step in zip((lattice.cols, lattice.rows), steps, strict=True):
        snap(places.reshape(-1), rounding(bounds, step))
    return lattice


def home(lattice: Lattice, source: Source) -> Lattice:
    """Move places by multiples of 360 degrees to where the source has its columns."""
    pixels = pixels_per_360(source)
    if pixels is None:
        return lattice
    if wraps_around(source):  # the source has any longitude: keep the places together
        return Lattice(unrolled(lattice.cols, source), lattice.rows)
    with np.errstate(invalid="ignore"):
        cols = lattice.cols - pixels * np.round((lattice.cols - source.width / 2) / pixels)
    return Lattice(cols, lattice.rows)


def _polynomial(to_pixels: Transform, source: Source, col: Floats, row: Floats, tolerance: float) -> Lattice | None:
    """Approximate places by a Chebyshev polynomial. None if 17 x 17 places between are off by half of `tolerance`.

    Projections are smooth: a polynomial through 8 x 8 or 16 x 16 Chebyshev nodes of a block gives the other places.
    """
    if col.size * row.size < 4 * DEGREES[-1] ** 2:
        return None
    checks = np.linspace(col[0], col[-1], 17), np.linspace(row[0], row[-1], 17)
    truth = to_pixels(*np.meshgrid(*checks))
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
        if (pixels := pixels_per_360(source)) is not None:  # not 360 degrees away from `truth`
            cols += pixels * np.round((truth[0][8, 8] - cols[degree // 2, degree // 2]) / pixels)
        terms = [_coefficients(v, nodes) for v in (cols, rows)]
        values = _evaluated(terms, *checks, col, row)
        if all(np.abs(v - t).max() <= tolerance / 2 for v, t in zip(values, truth, strict=True)):
            return Lattice(*_evaluated(terms, col, row, col, row))
    return None


def _coefficients(values: Floats, nodes: Floats) -> Floats:
    """Coefficients (n, n) of the Chebyshev polynomial through values (n, n) at the nodes of both axes."""
    terms = chebyshev.chebvander(nodes, len(nodes) - 1).T * (2.0 / len(nodes))
    terms[0] /= 2
    return np.asarray(polynomial(values, terms, np.ascontiguousarray(terms.T)), np.float64)


def _evaluated(terms: Sequence[Floats], at_col: Floats, at_row: Floats, col: Floats, row: Floats) -> list[Floats]:
    """Evaluate polynomials (`_coefficients`) over the range of col and row at a lattice of places."""
    degree = len(terms[0]) - 1
    across, down = (
        np.ascontiguousarray(chebyshev.chebvander((at - v[0]) / (v[-1] - v[0]) * 2 - 1, degree))
        for at, v in ((at_col, col), (at_row, row))
    )
    across = np.ascontiguousarray(across.T)
    return [np.asarray(polynomial(coefficients, down, across), np.float64) for coefficients in terms]
