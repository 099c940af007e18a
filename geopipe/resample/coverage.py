"""Compiled kernels for footprints: the pixels under each cell and their exact areas, computed once for all bands.

Pixel i spans i to i + 1. A cell is the polygon through the images of its corners.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geopipe.resample.compiled import compiled

Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Poles = tuple[float, float]
Box = tuple[int, int, int, int]

SLIVER = 1e-9
"""A pixel with a smaller share of a footprint is not under it: rounding reaches that far."""

MOTE = 1e-3
"""Under a footprint of more than a million pixels, a pixel with a smaller share of itself is not under it."""

PART = 1 << 18
"""Pixels of a footprint's box that are worked on at a time, so that scratch memory does not grow with the cells."""

EVERYWHERE: Mask = np.zeros((0, 0), bool)
"""The mask of float pixels: NaN marks the missing ones."""


class Coverage(NamedTuple):
    """The pixels under n cells, row-major, as runs of pixels that are neighbours in a row of the window.

    Cell c has the runs from `starts[c]` to `starts[c + 1]`. Run r begins at (`rows[r]`, `cols[r]`) of the window; the
    areas of its pixels, as shares of a pixel, are `areas[offsets[r] : offsets[r + 1]]`.
    """

    starts: NDArray[np.int64]
    """(n + 1,)"""
    rows: NDArray[np.int32]
    """(runs,)"""
    cols: NDArray[np.int32]
    """(runs,)"""
    offsets: NDArray[np.int64]
    """(runs + 1,)"""
    areas: NDArray[np.float64]
    """(pixels,)"""
    sizes: NDArray[np.float64]
    """(n,) area of each cell in pixels, also beyond the window; 0 without a footprint, NaN if `large_cells` has it."""


@compiled
def _is_pole(row: float, pixels_per_360: float, poles: Poles) -> bool:
    return pixels_per_360 > 0 and min(abs(row - poles[0]), abs(row - poles[1])) < 1e-6


@compiled
def _ring(
    cols: Floats,
    rows: Floats,
    i: int,
    j: int,
    pixels_per_360: float,
    poles: Poles,
    xs: Floats,
    ys: Floats,
) -> int:
    """Write the closed outline of a cell into xs and ys: number of points, 0 if a corner has no image.

    With longitudes (`pixels_per_360` above 0) corners follow each other without a jump. A corner at a pole (`poles` are
    their rows) has the longitudes of both its neighbours. An outline that ends 360 degrees from its start contains a
    pole and is closed along it.
    """
    xs[0], xs[1], xs[2], xs[3] = cols[i, j], cols[i, j + 1], cols[i + 1, j + 1], cols[i + 1, j]
    ys[0], ys[1], ys[2], ys[3] = rows[i, j], rows[i, j + 1], rows[i + 1, j + 1], rows[i + 1, j]
    for k in range(4):
        if not (math.isfinite(xs[k]) and math.isfinite(ys[k])):
            return 0
    if pixels_per_360 == 0:
        xs[4], ys[4] = xs[0], ys[0]
        return 5
    first = 0  # the first corner that is not at a pole
    while first < 4 and _is_pole(ys[first], pixels_per_360, poles):
        first += 1
    if first == 4:
        return 0
    x, y = xs[:4].copy(), ys[:4].copy()
    count, last, at_pole = 0, x[first], False
    for k in range(first, first + 5):
        col, row = x[k % 4], y[k % 4]
        if _is_pole(row, pixels_per_360, poles):
            xs[count], ys[count], at_pole = last, row, True
        else:
            col -= pixels_per_360 * round((col - last) / pixels_per_360)
            if at_pole:
                xs[count], ys[count], at_pole = col, ys[count - 1], False
                count += 1
            xs[count], ys[count], last = col, row, col
        count += 1
    if abs(last - x[first]) > pixels_per_360 / 2:
        middle = y.mean()
        pole = poles[0] if abs(poles[0] - middle) < abs(poles[1] - middle) else poles[1]
        xs[count], ys[count], xs[count + 1], ys[count + 1] = last, pole, x[first], pole
        xs[count + 2], ys[count + 2] = x[first], y[first]
        count += 3
    return count


@compiled
def _torn(xs: Floats, ys: Floats, points: int, longest: float) -> bool:
    """Whether an edge is longer than an edge can be: its ends lie on both sides of an antimeridian."""
    most = 0.0
    for k in range(points - 1):
        most = max(most, abs(xs[k + 1] - xs[k]) + abs(ys[k + 1] - ys[k]))
    return most > longest


@compiled
def outline(
    cols: Floats, rows: Floats, i: int, j: int, pixels_per_360: float, poles: Poles, longest: float
) -> tuple[Floats, Floats]:
    """The closed outline of a cell as columns and rows; without points if the cell has none."""
    xs, ys = np.zeros(16), np.zeros(16)
    points = _ring(cols, rows, i, j, pixels_per_360, poles, xs, ys)
    points = 0 if _torn(xs, ys, points, longest) else points
    return xs[:points], ys[:points]


@compiled
def extent(cols: Floats, rows: Floats, pixels_per_360: float, poles: Poles) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of all footprints in pixels; left > right if there are none."""
    left, top, right, bottom = np.inf, np.inf, -np.inf, -np.inf
    for i in range(cols.shape[0]):
        for j in range(cols.shape[1]):
            if math.isfinite(cols[i, j]) and math.isfinite(rows[i, j]):
                left, right = min(left, cols[i, j]), max(right, cols[i, j])
                top, bottom = min(top, rows[i, j]), max(bottom, rows[i, j])
    if pixels_per_360 == 0 or right - left < pixels_per_360 / 2:
        return left, top, right, bottom
    xs, ys = np.zeros(16), np.zeros(16)
    for i in range(cols.shape[0] - 1):  # longitudes may jump within a cell
        for j in range(cols.shape[1] - 1):
            for k in range(_ring(cols, rows, i, j, pixels_per_360, poles, xs, ys)):
                left, right = min(left, xs[k]), max(right, xs[k])
                top, bottom = min(top, ys[k]), max(bottom, ys[k])
    return left, top, right, bottom


@compiled
def box_of(
    xs: Floats, ys: Floats, points: int, corner: tuple[int, int], shape: tuple[int, int], wrap: int
) -> tuple[Box, int, int]:
    """Left, top, right, bottom of the pixels that an outline touches, and its first and last row in a window.

    The box ends at the right edge of the window. It starts at the left edge only if a row would be longer than PART:
    the column at which the sum of areas along a row starts decides the last bit of the sum.
    """
    left, top, right, bottom = xs[0], ys[0], xs[0], ys[0]
    for k in range(1, points - 1):
        left, right = min(left, xs[k]), max(right, xs[k])
        top, bottom = min(top, ys[k]), max(bottom, ys[k])
    west, north, east, south = math.floor(left), math.floor(top), math.floor(right) + 1, math.floor(bottom) + 1
    first, last = max(north, corner[0]), min(south, corner[0] + shape[0])
    if wrap == 0:
        if west >= corner[1] + shape[1] or east <= corner[1]:
            last = first
        east = min(east, corner[1] + shape[1])
        if east - west > PART:
            west = max(west, corner[1])
    return (west, north, east, south), first, max(first, last)


@compiled
def cover_pixels(xs: Floats, ys: Floats, points: int, box: Box, first: int, last: int, cover: Floats) -> float:
    """Add the area of each pixel in a polygon to `cover`, as differences along rows `first` to `last`: whole area.

    Signed-area accumulation, as in font-rs: each edge adds the area to its right, pixel by pixel, so that the sum along
    a row is the exact area of the pixel in the polygon. An edge to the left of the box counts in the first column, one
    to the right of it nowhere. Rows of `cover` are two entries wider than the box; all entries must be zero.
    """
    left, top, width = box[0], box[1], box[2] - box[0]
    upmost, lowest, stride = first - top, last - top, width + 2
    area = 0.0
    for k in range(points - 1):
        x0, y0, x1, y1 = xs[k] - left, ys[k] - top, xs[k + 1] - left, ys[k + 1] - top
        area += x0 * y1 - x1 * y0
        if y0 == y1:
            continue
        sign = 1.0
        if y0 > y1:
            x0, y0, x1, y1, sign = x1, y1, x0, y0, -1.0
        slope = (x1 - x0) / (y1 - y0)
        for row in range(max(int(y0), upmost), min(math.ceil(y1), lowest)):
            upper, lower = max(y0, float(row)), min(y1, row + 1.0)
            a, b = x0 + (upper - y0) * slope, x0 + (lower - y0) * slope
            height = sign * (lower - upper)
            if a > b:
                a, b = b, a
            start, end, beyond = int(a), int(b), 0.0
            line = (row - upmost) * stride
            if a < -SLIVER or end >= width:
                if a >= width or b <= 0.0:
                    cover[line] += height if b <= 0.0 else 0.0
                    continue
                start, end, beyond = max(start, 0), min(end, width), max(-a, 0.0)
            elif start == end:
                inner = height * (0.5 * (a + b) - start)
                cover[line + start] += height - inner
                cover[line + start + 1] += inner
                continue
            step = height / (b - a)  # height per column
            before = step * beyond  # the area to the right of the edge so far
            for col in range(start, min(end + 1, width)):
                west, east = max(a, float(col)), min(b, col + 1.0)
                inside = step * (east - west)
                right = inside * (col + 1.0 - 0.5 * (west + east))
                cover[line + col] += right + before
                before = inside - right
            cover[line + end + 1] += before
    return abs(0.5 * area)


@compiled
def cover(
    cols: Floats,
    rows: Floats,
    corner: tuple[int, int],
    shape: tuple[int, int],
    pixels_per_360: float,
    wrap: int,
    poles: Poles,
    longest: float,
    start: int,
    coverage: Coverage,
) -> tuple[int, int, int]:
    """Fill a coverage with cells from `start` on, until it is full: cut each cell's polygon with the pixels.

    Args:
        cols: (height + 1, width + 1) float64, corners of the cells in source pixels; `rows` likewise.
        corner: row and column of the window's first pixel.
        shape: of the window.
        start: number of the first cell, row-major. The other arguments are those of `locate.Footprints`.
        coverage: room for at least PART pixels and runs.

    Returns:
        The number of the next cell, and the numbers of runs and of pixels.
    """
    starts, sizes = coverage.starts, coverage.sizes
    xs, ys, scratch = np.zeros(16), np.zeros(16), np.zeros(1024)
    runs, used, cell, width = 0, 0, start, cols.shape[1] - 1
    starts[0], coverage.offsets[0] = 0, 0
    while cell < width * (cols.shape[0] - 1):
        n = cell - start
        sizes[n] = 0.0
        points = _ring(cols, rows, cell // width, cell % width, pixels_per_360, poles, xs, ys)
        if points > 0 and not _torn(xs, ys, points, longest):
            box, first, last = box_of(xs, ys, points, corner, shape, wrap)
            size = (box[2] - box[0] + 2) * (last - first)
            if size > PART:
                sizes[n] = np.nan
            elif used + size > coverage.areas.size or runs + size > coverage.rows.size:
                break
            else:
                if size > scratch.size:
                    scratch = np.zeros(2 * size)
                sizes[n] = cover_pixels(xs, ys, points, box, first, last, scratch)
                sliver = min(SLIVER * sizes[n], MOTE)
                runs, used = _add_runs(scratch, box, first, last, corner, shape[1], wrap, sliver, coverage, runs, used)
        cell += 1
        starts[n + 1] = runs
    return cell, runs, used


@compiled
def _add_runs(
    cover: Floats,
    box: Box,
    first: int,
    last: int,
    corner: tuple[int, int],
    window_width: int,
    wrap: int,
    sliver: float,
    coverage: Coverage,
    runs: int,
    used: int,
) -> tuple[int, int]:
    """Add the pixels of a cell to a coverage of `runs` runs and `used` pixels: its new runs and pixels.

    Args:
        cover: from `cover_pixels`; zeros afterwards.
        sliver: areas up to this are none.
    """
    width, line = box[2] - box[0], 0
    for row in range(first, last):
        part, in_run = 0.0, False
        for k in range(width):
            part += cover[line + k]
            cover[line + k] = 0.0
            col = box[0] + k - corner[1]
            if wrap > 0:
                col %= wrap
            area = abs(part)
            if area <= sliver or not 0 <= col < window_width:
                in_run = False
                continue
            if not in_run or col == 0:
                coverage.rows[runs], coverage.cols[runs] = row - corner[0], col
                runs += 1
                in_run = True
            coverage.areas[used] = area
            used += 1
            coverage.offsets[runs] = used
        cover[line + width] = 0.0
        cover[line + width + 1] = 0.0
        line += width + 2
    return runs, used


@compiled
def cover_rectangles(
    cols: Floats,
    rows: Floats,
    corner: tuple[int, int],
    shape: tuple[int, int],
    pixels_per_360: float,
    wrap: int,
    longest: float,
    start: int,
    coverage: Coverage,
) -> tuple[int, int, int]:
    """The same as `cover` for cells that are rectangles along the pixels: areas are products of two lengths.

    Args:
        cols: (width + 1,) float64, edges of the columns of cells in source pixels.
        rows: (height + 1,) float64, edges of their rows.
    """
    starts, sizes = coverage.starts, coverage.sizes
    lefts, rights = _sides(cols, pixels_per_360, longest)
    tops, bottoms = _sides(rows, 0.0, longest)
    runs, used, cell, width = 0, 0, start, cols.size - 1
    starts[0], coverage.offsets[0] = 0, 0
    while cell < width * (rows.size - 1):
        n, i, j = cell - start, cell // width, cell % width
        sizes[n] = (rights[j] - lefts[j]) * (bottoms[i] - tops[i])
        if sizes[n] > 0.0:
            west, east = math.floor(lefts[j]), math.ceil(rights[j])
            if wrap == 0:
                west, east = max(west, corner[1]), min(east, corner[1] + shape[1])
            first, last = max(math.floor(tops[i]), corner[0]), min(math.ceil(bottoms[i]), corner[0] + shape[0])
            size = max(0, east - west + 2) * max(0, last - first)
            if size > PART:
                sizes[n] = np.nan
            elif used + size > coverage.areas.size or runs + size > coverage.rows.size:
                break
            else:
                sliver = min(SLIVER * sizes[n], MOTE)
                for row in range(first, last):  # `_add_runs` would take half as much time again: a call for each cell
                    height = min(bottoms[i], row + 1.0) - max(tops[i], float(row))
                    in_run = False
                    for k in range(west, east):
                        area = height * (min(rights[j], k + 1.0) - max(lefts[j], float(k)))
                        col = (k - corner[1]) % wrap if wrap > 0 else k - corner[1]
                        if area <= sliver or col >= shape[1]:
                            in_run = False
                            continue
                        if not in_run or col == 0:
                            coverage.rows[runs], coverage.cols[runs] = row - corner[0], col
                            runs += 1
                            in_run = True
                        coverage.areas[used] = area
                        used += 1
                        coverage.offsets[runs] = used
        cell += 1
        starts[n + 1] = runs
    return cell, runs, used


@compiled
def _sides(edges: Floats, pixels_per_360: float, longest: float) -> tuple[Floats, Floats]:
    """The lower and the upper side of each interval between two edges; equal for an interval without an image."""
    lows, highs = np.zeros(edges.size - 1), np.zeros(edges.size - 1)
    for j in range(edges.size - 1):
        low, high = edges[j], edges[j + 1]
        if pixels_per_360 > 0:
            high -= pixels_per_360 * round((high - low) / pixels_per_360)
        if math.isfinite(high - low) and abs(high - low) <= longest:
            lows[j], highs[j] = min(low, high), max(low, high)
    return lows, highs
