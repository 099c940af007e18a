"""Compiled kernels for footprints: the exact area of each pixel in each cell's polygon, and statistics weighted by it.

Pixels are floats in which NaN is missing, or integers with a mask; pixel i spans i to i + 1. All sums are float64, in
one order, without reassociation: the same pixels and corners give the same bits on every worker.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geopipe.resample.compiled import compiled

Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Poles = tuple[float, float]
Box = tuple[int, int, int, int]

STATISTICS = ("average", "std", "rms", "sum", "min", "max", "med", "q1", "q3", "mode")
AVERAGE, STD, RMS, SUM, MIN, MAX, MED, Q1, Q3, MODE = range(10)  # from MIN on the result is one of the pixels

SLIVER = 1e-9
"""A pixel with a smaller share of a footprint is not under it: rounding reaches that far."""

MOTE = 1e-3
"""Under a footprint of more than a million pixels, a pixel with a smaller share of itself is not under it."""

PART = 1 << 18
"""Pixels of a footprint's box that are worked on at a time, so that scratch memory does not grow with the cells."""

EVERYWHERE: Mask = np.zeros((0, 0), bool)
"""The mask of float pixels: NaN marks the missing ones."""


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
    first = -1  # the first corner that is not at a pole
    for k in range(4):
        xs[k], ys[k] = cols[i + (k >= 2), j + (k == 1 or k == 2)], rows[i + (k >= 2), j + (k == 1 or k == 2)]
        if not (math.isfinite(xs[k]) and math.isfinite(ys[k])):
            return 0
        if first < 0 and not _is_pole(ys[k], pixels_per_360, poles):
            first = k
    if pixels_per_360 == 0:
        xs[4], ys[4] = xs[0], ys[0]
        return 5
    if first < 0:
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
def take_pixels(
    pixels: Floats,
    valid: Mask,
    corner: tuple[int, int],
    box: Box,
    first: int,
    last: int,
    wrap: int,
    cover: Floats,
    sliver: float,
    values: Floats,
    areas: Floats,
) -> int:
    """Write the valid pixels of a box and their areas to `values` and `areas`, row by row: their count.

    Args:
        cover: from `cover_pixels`; all zeros afterwards.
        sliver: areas up to this are none.
    """
    left, right = box[0], box[2]
    count, stride, masked = 0, right - left + 2, valid.size > 0
    for row in range(first, last):
        part, line, window_row = 0.0, (row - first) * stride - left, row - corner[0]
        for col in range(left, right):
            part += cover[line + col]
            window_col = (col - corner[1]) % wrap if wrap > 0 else col - corner[1]
            if abs(part) <= sliver or not 0 <= window_col < pixels.shape[1]:
                continue
            value = pixels[window_row, window_col]
            if value == value and (not masked or valid[window_row, window_col]):
                values[count], areas[count] = value, abs(part)
                count += 1
    for k in range(stride * (last - first)):
        cover[k] = 0.0
    return count


@compiled
def footprints(
    pixels: Floats,
    valid: Mask,
    cols: Floats,
    rows: Floats,
    corner: tuple[int, int],
    statistic: int,
    pixels_per_360: float,
    wrap: int,
    poles: Poles,
    longest: float,
) -> tuple[Floats, Floats]:
    """A statistic of the pixels under each cell, weighted by their area in it, and the share of valid area.

    A cell is the polygon through the images of its corners. A cell with a corner without an image is missing.

    Args:
        pixels: (height, width) of the window; `valid` is its mask for integers, EVERYWHERE for floats.
        cols: (rows + 1, cols + 1) float64, corners of the cells in source pixels; `rows` likewise.
        corner: row and column of the window's first pixel.
        statistic: index in STATISTICS. The other arguments are explained at `locate.Footprints`.

    Returns:
        The statistic (rows, cols) in the pixels' type, arbitrary where missing; and the share (rows, cols) as float32:
        0 where missing, NaN for a cell with more than PART pixels, which `large_cells` computes in parts.
    """
    height, width = cols.shape[0] - 1, cols.shape[1] - 1
    result, share = np.zeros((height, width), pixels.dtype), np.zeros((height, width), np.float32)
    xs, ys = np.zeros(16), np.zeros(16)
    cover, values, areas, sums = np.zeros(64), np.zeros(64, pixels.dtype), np.zeros(64), np.zeros(4)
    for i in range(height):
        for j in range(width):
            points = _ring(cols, rows, i, j, pixels_per_360, poles, xs, ys)
            if points == 0 or _torn(xs, ys, points, longest):
                continue
            box, first, last = box_of(xs, ys, points, corner, pixels.shape, wrap)
            size = (box[2] - box[0] + 2) * (last - first)
            if size > PART:
                share[i, j] = np.nan
                continue
            if size > cover.size:
                cover, values, areas = np.zeros(2 * size), np.zeros(2 * size, pixels.dtype), np.zeros(2 * size)
            area = cover_pixels(xs, ys, points, box, first, last, cover)
            sliver = min(SLIVER * area, MOTE)
            count = take_pixels(pixels, valid, corner, box, first, last, wrap, cover, sliver, values, areas)
            if count == 0:
                continue
            sums[0], sums[1], sums[2], sums[3] = 0.0, 0.0, 0.0, 0.0
            add(values, areas, count, sums)
            share[i, j] = min(1.0, sums[0] / area)
            if statistic >= MIN:
                result[i, j] = _ranked(statistic, values[:count], areas[:count], sums[0])
                continue
            if statistic == STD and _differ(values, count):
                sums[3] = deviate(values, areas, count, sums[1] / sums[0], 0.0)
            result[i, j] = of_sums(statistic, sums)
    return result, share


@compiled
def add(values: Floats, areas: Floats, count: int, sums: Floats) -> None:
    """Continue the sums of areas, of values times areas, and of squared values times areas over `count` values."""
    total, summed, squares = sums[0], sums[1], sums[2]
    for k in range(count):
        value = float(values[k])
        total += areas[k]
        summed += value * areas[k]
        squares += value * value * areas[k]
    sums[0], sums[1], sums[2] = total, summed, squares


@compiled
def deviate(values: Floats, areas: Floats, count: int, mean: float, so_far: float) -> float:
    """Continue the sum of squared deviations from the mean times areas."""
    for k in range(count):
        so_far += (values[k] - mean) ** 2 * areas[k]
    return so_far


@compiled
def _differ(values: Floats, count: int) -> bool:
    """Whether the first `count` values are not all equal."""
    k = 1
    while k < count and values[k] == values[0]:
        k += 1
    return k < count


@compiled
def of_sums(statistic: int, sums: Floats) -> float:
    """A statistic from the sums of `add`, with that of `deviate` as the last one."""
    if statistic == SUM:
        return float(sums[1])
    if statistic == RMS:
        return math.sqrt(sums[2] / sums[0])
    return float(sums[1] / sums[0]) if statistic == AVERAGE else math.sqrt(sums[3] / sums[0])


@compiled
def _ranked(statistic: int, values: Floats, areas: Floats, total: float) -> Any:
    """A statistic that is one of the values. Of classes with equal areas the smallest is the mode."""
    if statistic == MIN:
        return values.min()
    if statistic == MAX:
        return values.max()
    if values.min() == values.max():
        return values[0]
    order = _order(values)
    target = (0.25 if statistic == Q1 else 0.5 if statistic == MED else 0.75) * total * (1.0 - SLIVER)
    best, most, own = values[order[0]], 0.0, 0.0
    for n in range(order.size):
        own += areas[order[n]]
        if statistic != MODE:
            if own >= target:
                return values[order[n]]
        elif n + 1 == order.size or values[order[n]] != values[order[n + 1]]:
            if own > most + SLIVER * total:
                best, most = values[order[n]], own
            own = 0.0
    return best if statistic == MODE else values[order[-1]]


@compiled
def _order(values: Floats) -> NDArray[np.intp]:
    """The stable sorting order of the values, by insertion if there are few."""
    if values.size > 64:
        return np.argsort(values, kind="mergesort")
    order = np.empty(values.size, np.intp)
    for n in range(values.size):
        k = n
        while k > 0 and values[order[k - 1]] > values[n]:
            order[k] = order[k - 1]
            k -= 1
        order[k] = n
    return order
