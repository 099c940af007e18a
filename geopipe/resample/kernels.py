"""The arithmetic of resampling, compiled: what becomes of the pixels around a place, or under a cell.

Pixels are floats in which NaN is missing; pixel i spans i to i + 1. All sums are made in float64, in one order, without
reassociation: the same pixels and places give the same bits on every worker.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., Any])
Floats = NDArray[np.floating[Any]]

INTERPOLATIONS = ("bilinear", "cubic", "cubic_spline", "lanczos")
STATISTICS = ("average", "std", "rms", "sum", "min", "max", "med", "q1", "q3", "mode")

BILINEAR, CUBIC, CUBIC_SPLINE, LANCZOS = range(4)
AVERAGE, STD, RMS, SUM, MIN, MAX, MED, Q1, Q3, MODE = range(10)  # from MIN on it is one of the pixels

SLIVER = 1e-9
"""A pixel with less than this share of a footprint is not under it: that is how far rounding reaches."""

MOTE = 1e-3
"""Under a footprint of more than a million pixels it is one with less than this share of itself."""

PART = 1 << 18
"""Pixels of a footprint's box that are worked on at a time, so that scratch memory does not grow with the cells."""

Mask = NDArray[np.bool_]
EVERYWHERE: Mask = np.zeros((0, 0), bool)
"""The mask of pixels that are floats: where these are missing they are NaN."""


def _compiled(function: Function) -> Function:
    """Machine code, made at the first call and kept beside this file (or in the user's cache) for the next process."""
    try:
        return cast(Function, njit(cache=True, nogil=True)(function))
    except RuntimeError:  # no folder that can be written to
        return cast(Function, njit(nogil=True)(function))


@_compiled
def polynomial(coefficients: Floats, down: Floats, across: Floats) -> Floats:
    """A polynomial of two variables on a lattice: down (rows, n) times coefficients (n, n) times across (n, cols)."""
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


@_compiled
def snapped(places: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Places in pixels or cells, those within `tolerance` of an edge or a middle moved onto it.

    The floor of a place is then the pixel or cell that it belongs to: on an edge that is the right or lower one.

    Args:
        places: one-dimensional; not finite where there is none.
        tolerance: share of a pixel or cell by which rounding may move places (`grid.rounding`).
    """
    result = np.empty(places.size)
    for i in range(places.size):
        half = np.rint(places[i] * 2.0) / 2.0
        result[i] = half if abs(places[i] - half) <= tolerance else places[i]
    return result


# ---------------------------------------------------------------- interpolation


@_compiled
def _radius(method: int) -> int:
    if method == BILINEAR:
        return 1
    return 3 if method == LANCZOS else 2


@_compiled
def _height(method: int, x: float) -> float:
    """The kernels as GDAL has them: triangle, Keys with a = -1/2, B-spline."""
    x = abs(x)
    if x >= _radius(method):
        return 0.0
    if method == BILINEAR:
        return 1.0 - x
    if method == CUBIC:
        return (1.5 * x - 2.5) * x * x + 1.0 if x < 1 else ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return (0.5 * x - 1.0) * x * x + 2.0 / 3.0 if x < 1 else (2.0 - x) ** 3 / 6.0


@_compiled
def _weights(method: int, at: float, scale: float, weights: Floats) -> tuple[int, int]:
    """The first pixel under a kernel around `at` that is `scale` times as wide as pixels, and how many there are."""
    reach = _radius(method) * scale
    first = math.floor(at - 0.5 - reach) + 1
    count = math.ceil(at - 0.5 + reach) - first
    if method == LANCZOS:
        _lanczos((first + 0.5 - at) / scale, 1.0 / scale, weights[:count])
        return first, count
    for k in range(count):
        weights[k] = _height(method, (first + k + 0.5 - at) / scale)
    return first, count


@_compiled
def _lanczos(x: float, step: float, weights: Floats) -> None:
    """sin(pi x) sin(pi x / 3) / (pi x)^2 * 3 at x, x + step, ...; each sine comes from the one before by rotation."""
    third = math.pi / 3.0
    sine, cosine = math.sin(third * x), math.cos(third * x)
    turn_sine, turn_cosine = math.sin(third * step), math.cos(third * step)
    for k in range(weights.size):
        at = third * (x + k * step)
        whole = sine * (3.0 - 4.0 * sine * sine)  # of three times the angle
        weights[k] = 1.0 if abs(at) < 1e-9 else whole * sine / (3.0 * at * at)
        sine, cosine = sine * turn_cosine + cosine * turn_sine, cosine * turn_cosine - sine * turn_sine


@_compiled
def _weighted(
    pixels: Floats, method: int, x: float, y: float, scale_x: float, scale_y: float, wx: Floats, wy: Floats
) -> tuple[float, bool]:
    """The weighted mean of the pixels around a place, and whether all of them are there."""
    left, across = _weights(method, x, scale_x, wx)
    top, down = _weights(method, y, scale_y, wy)
    total, weight, whole = 0.0, 0.0, True
    for i in range(down):
        row = top + i
        if wy[i] == 0.0:
            continue
        if row < 0 or row >= pixels.shape[0]:
            whole = False
            continue
        part, have = 0.0, 0.0
        for j in range(across):
            col = left + j
            if wx[j] == 0.0:
                continue
            value = pixels[row, col] if 0 <= col < pixels.shape[1] else np.nan
            if np.isnan(value):
                whole = False
            else:
                part += wx[j] * value
                have += wx[j]
        total += wy[i] * part
        weight += wy[i] * have
    return (total / weight if weight != 0.0 else np.nan), whole


@_compiled
def _bilinear(pixels: Floats, x: float, y: float) -> float:
    """The same for bilinear of plain pixels, which is what most layers ask for; the place lies in a valid pixel."""
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    total, weight = 0.0, 0.0
    for row in range(max(top, 0), min(top + 2, pixels.shape[0])):
        down = 1.0 - abs(row + 0.5 - y)
        for col in range(max(left, 0), min(left + 2, pixels.shape[1])):
            value, part = pixels[row, col], down * (1.0 - abs(col + 0.5 - x))
            if part > 0.0 and not np.isnan(value):  # 0 times infinity is no number
                total += part * value
                weight += part
    return total / weight


@_compiled
def interpolate(
    pixels: Floats, cols: Floats, rows: Floats, corner: tuple[int, int], method: int, scale: tuple[float, float]
) -> Floats:
    """The value at each place, by a kernel that is `scale` (x, y) times as wide as pixels.

    A place whose own pixel is missing is missing, and one in the very middle of a pixel has its value, as in GDAL (only
    a spline, which smooths, could tell the difference). Other missing pixels are left out of the mean; cubic and
    lanczos, whose negative weights would then blow up what is left, give way to bilinear there.

    Args:
        pixels: of the window.
        cols: places, in the source's pixels; not finite where there is none.
        rows: as cols.
        corner: row and column of the window's first pixel.
        method: the number of one of INTERPOLATIONS.
        scale: in x and in y.
    """
    top, left = corner
    scale_x, scale_y = scale
    plain = scale_x == 1.0 and scale_y == 1.0
    most = int(2 * 3 * max(scale_x, scale_y)) + 3
    wx, wy = np.zeros(most), np.zeros(most)
    result = np.full(cols.shape, np.nan, pixels.dtype)
    for i in range(cols.shape[0]):
        for j in range(cols.shape[1]):
            x, y = cols[i, j] - left, rows[i, j] - top
            if not (0 <= x < pixels.shape[1] and 0 <= y < pixels.shape[0]) or np.isnan(pixels[int(y), int(x)]):
                continue
            if plain and abs(x - int(x) - 0.5) < 1e-9 and abs(y - int(y) - 0.5) < 1e-9:
                result[i, j] = pixels[int(y), int(x)]
                continue
            if plain and method == BILINEAR:
                result[i, j] = _bilinear(pixels, x, y)
                continue
            value, whole = _weighted(pixels, method, x, y, scale_x, scale_y, wx, wy)
            if not whole and method in (CUBIC, LANCZOS):
                value, whole = _weighted(pixels, BILINEAR, x, y, scale_x, scale_y, wx, wy)
            result[i, j] = value
    return result


@_compiled
def span(cols: Floats, rows: Floats, width: float, height: float) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the places in a raster; left > right where there are none.

    An infinite width or height stands for a raster that has no edge there.
    """
    left, top, right, bottom = np.inf, np.inf, -np.inf, -np.inf
    for i in range(cols.shape[0]):
        for j in range(cols.shape[1]):
            x, y = cols[i, j], rows[i, j]
            if (0 <= x < width or (width == np.inf and abs(x) < np.inf)) and (
                0 <= y < height or (height == np.inf and abs(y) < np.inf)
            ):
                left, right = min(left, x), max(right, x)
                top, bottom = min(top, y), max(bottom, y)
    return left, top, right, bottom


# ---------------------------------------------------------------- footprints


@_compiled
def _ring(
    cols: Floats, rows: Floats, i: int, j: int, turn: float, poles: tuple[float, float], xs: Floats, ys: Floats
) -> int:
    """The outline of a cell in pixels, closed, into xs and ys: how many points, 0 where a corner has no image.

    `turn` is 360 degrees in pixels, 0 where longitudes do not matter: corners then follow each other without a jump. A
    corner at a pole (`poles` are their rows) has the longitudes of both its neighbours; an outline that ends a turn
    from where it began has a pole in it, which closes it.
    """
    first = -1  # corner that is not at a pole
    for k in range(4):
        xs[k], ys[k] = cols[i + (k >= 2), j + (k == 1 or k == 2)], rows[i + (k >= 2), j + (k == 1 or k == 2)]
        if not (math.isfinite(xs[k]) and math.isfinite(ys[k])):
            return 0
        if first < 0 and not _polar(ys[k], turn, poles):
            first = k
    if turn == 0:
        xs[4], ys[4] = xs[0], ys[0]
        return 5
    if first < 0:
        return 0
    x, y = xs[:4].copy(), ys[:4].copy()
    count, last, at_pole = 0, x[first], False
    for k in range(first, first + 5):
        here, row = x[k % 4], y[k % 4]
        if _polar(row, turn, poles):
            xs[count], ys[count], at_pole = last, row, True
        else:
            here -= turn * round((here - last) / turn)
            if at_pole:
                xs[count], ys[count], at_pole = here, ys[count - 1], False
                count += 1
            xs[count], ys[count], last = here, row, here
        count += 1
    if abs(last - x[first]) > turn / 2:
        middle = y.mean()
        pole = poles[0] if abs(poles[0] - middle) < abs(poles[1] - middle) else poles[1]
        xs[count], ys[count], xs[count + 1], ys[count + 1] = last, pole, x[first], pole
        xs[count + 2], ys[count + 2] = x[first], y[first]
        count += 3
    return count


@_compiled
def _polar(row: float, turn: float, poles: tuple[float, float]) -> bool:
    return turn > 0 and min(abs(row - poles[0]), abs(row - poles[1])) < 1e-6


@_compiled
def extent(cols: Floats, rows: Floats, turn: float, poles: tuple[float, float]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of all footprints, in pixels; left > right where there are none."""
    left, top, right, bottom = span(cols, rows, np.inf, np.inf)
    if turn == 0 or right - left < turn / 2:
        return left, top, right, bottom
    xs, ys = np.zeros(16), np.zeros(16)
    for i in range(cols.shape[0] - 1):  # longitudes may jump within a cell
        for j in range(cols.shape[1] - 1):
            for k in range(_ring(cols, rows, i, j, turn, poles, xs, ys)):
                left, right = min(left, xs[k]), max(right, xs[k])
                top, bottom = min(top, ys[k]), max(bottom, ys[k])
    return left, top, right, bottom


@_compiled
def _torn(xs: Floats, ys: Floats, points: int, longest: float) -> bool:
    """Whether an edge is longer than an edge can be: its ends lie on both sides of an antimeridian."""
    most = 0.0
    for k in range(points - 1):
        most = max(most, abs(xs[k + 1] - xs[k]) + abs(ys[k + 1] - ys[k]))
    return most > longest


@_compiled
def _cover(
    xs: Floats, ys: Floats, points: int, box: tuple[int, int, int, int], first: int, last: int, cover: Floats
) -> float:
    """The area of each pixel in a polygon, as differences along rows `first` to `last`; returns the whole area.

    The signed area to the right of every edge, pixel by pixel, as rasterizers of fonts have it: summed along a row it
    is the pixel's area in the polygon, exactly. An edge to the left of the box counts in its first column, one to the
    right of it nowhere. `cover` has rows as wide as the box + 2, all zero.
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
            before = step * beyond  # what lies to the right of the edge up to here
            for col in range(start, min(end + 1, width)):
                west, east = max(a, float(col)), min(b, col + 1.0)
                inside = step * (east - west)
                right = inside * (col + 1.0 - 0.5 * (west + east))
                cover[line + col] += right + before
                before = inside - right
            cover[line + end + 1] += before
    return abs(0.5 * area)


@_compiled
def box_of(
    xs: Floats, ys: Floats, points: int, corner: tuple[int, int], shape: tuple[int, int], around: int
) -> tuple[tuple[int, int, int, int], int, int]:
    """Left, top, right, bottom of the pixels that an outline touches, and its first and last row in a window.

    Columns to the right of the window are cut off, and those to the left where a row would be longer than PART: where
    the sum of areas along a row begins decides its last bit.
    """
    left, top, right, bottom = xs[0], ys[0], xs[0], ys[0]
    for k in range(1, points - 1):
        left, right = min(left, xs[k]), max(right, xs[k])
        top, bottom = min(top, ys[k]), max(bottom, ys[k])
    west, north, east, south = math.floor(left), math.floor(top), math.floor(right) + 1, math.floor(bottom) + 1
    first, last = max(north, corner[0]), min(south, corner[0] + shape[0])
    if around == 0:
        if west >= corner[1] + shape[1] or east <= corner[1]:
            last = first
        east = min(east, corner[1] + shape[1])
        if east - west > PART:
            west = max(west, corner[1])
    return (west, north, east, south), first, max(first, last)


@_compiled
def _take(
    pixels: Floats,
    valid: Mask,
    corner: tuple[int, int],
    box: tuple[int, int, int, int],
    first: int,
    last: int,
    around: int,
    cover: Floats,
    sliver: float,
    values: Floats,
    areas: Floats,
) -> int:
    """The valid pixels of a covered box with their areas, row by row, into `values` and `areas`: how many.

    It leaves `cover` all zero.
    """
    left, right = box[0], box[2]
    count, stride, masked = 0, right - left + 2, valid.size > 0
    for row in range(first, last):
        part, line, at_row = 0.0, (row - first) * stride - left, row - corner[0]
        for col in range(left, right):
            part += cover[line + col]
            at = (col - corner[1]) % around if around > 0 else col - corner[1]
            if abs(part) <= sliver or not 0 <= at < pixels.shape[1]:
                continue
            value = pixels[at_row, at]
            if value == value and (not masked or valid[at_row, at]):
                values[count], areas[count] = value, abs(part)
                count += 1
    for k in range(stride * (last - first)):
        cover[k] = 0.0
    return count


@_compiled
def collect(
    pixels: Floats,
    valid: Mask,
    xs: Floats,
    ys: Floats,
    corner: tuple[int, int],
    box: tuple[int, int, int, int],
    first: int,
    last: int,
    around: int,
    cover: Floats,
    values: Floats,
    areas: Floats,
) -> tuple[int, float]:
    """The valid pixels of an outline's rows from `first` to `last` with their areas in it: how many; and its own area.

    Args:
        pixels: of the window; NaN is missing.
        valid: where whole numbers are there; EVERYWHERE of floats.
        xs: the outline's columns, closed.
        ys: its rows.
        corner: row and column of the window's first pixel.
        box: as `box_of` has it.
        first: row of the source.
        last: the row after the last one.
        around: pixels in 360 degrees, where columns go round; else 0.
        cover: scratch of (last - first) * (width of the box + 2) entries, all zero, and left so.
        values: row by row, of the pixels' type, these go here,
        areas: and these here.
    """
    area = _cover(xs, ys, xs.size, box, first, last, cover)
    sliver = min(SLIVER * area, MOTE)
    return _take(pixels, valid, corner, box, first, last, around, cover, sliver, values, areas), area


@_compiled
def outline(
    cols: Floats, rows: Floats, i: int, j: int, turn: float, poles: tuple[float, float], longest: float
) -> tuple[Floats, Floats]:
    """The outline of a cell, closed, as columns and rows; of no points where there is none."""
    xs, ys = np.zeros(16), np.zeros(16)
    points = _ring(cols, rows, i, j, turn, poles, xs, ys)
    if points == 0 or _torn(xs, ys, points, longest):
        points = 0
    return xs[:points], ys[:points]


@_compiled
def footprints(
    pixels: Floats,
    valid: Mask,
    cols: Floats,
    rows: Floats,
    corner: tuple[int, int],
    statistic: int,
    turn: float,
    around: int,
    poles: tuple[float, float],
    longest: float,
) -> tuple[Floats, Floats]:
    """A statistic of the pixels under each cell, weighted by the area that they have in it, and the valid area's share.

    A cell is the polygon through the images of its corners. Where a corner has no image the cell is missing.

    Args:
        pixels: of the window.
        valid: where they are, of whole numbers; EVERYWHERE of floats.
        cols: corners of the cells, in the source's pixels: one more each way than cells.
        rows: as cols.
        corner: row and column of the window's first pixel.
        statistic: the number of one of STATISTICS.
        turn: 360 degrees in pixels, of a source in longitude and latitude; else 0.
        around: the same where the window has all of them, so that columns go round; else 0.
        poles: the rows of the two poles, where there is a turn.
        longest: pixels that an edge of a cell can have at most.

    Returns:
        The statistic, of the pixels' type, arbitrary where there is none; and the share as float32: 0 where there is
        none, NaN of a cell that has more than PART pixels in the window, and is left to be done in parts.
    """
    height, width = cols.shape[0] - 1, cols.shape[1] - 1
    result, share = np.zeros((height, width), pixels.dtype), np.zeros((height, width), np.float32)
    xs, ys = np.zeros(16), np.zeros(16)
    cover, values, areas, sums = np.zeros(64), np.zeros(64, pixels.dtype), np.zeros(64), np.zeros(4)
    for i in range(height):
        for j in range(width):
            points = _ring(cols, rows, i, j, turn, poles, xs, ys)
            if points == 0 or _torn(xs, ys, points, longest):
                continue
            box, first, last = box_of(xs, ys, points, corner, pixels.shape, around)
            size = (box[2] - box[0] + 2) * (last - first)
            if size > PART:
                share[i, j] = np.nan
                continue
            if size > cover.size:
                cover, values, areas = np.zeros(2 * size), np.zeros(2 * size, pixels.dtype), np.zeros(2 * size)
            area = _cover(xs, ys, points, box, first, last, cover)
            sliver = min(SLIVER * area, MOTE)
            count = _take(pixels, valid, corner, box, first, last, around, cover, sliver, values, areas)
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


@_compiled
def add(values: Floats, areas: Floats, count: int, sums: Floats) -> None:
    """Go on with sums over `count` values: of areas, of values times areas, and of their squares times areas."""
    total, summed, squares = sums[0], sums[1], sums[2]
    for k in range(count):
        value = float(values[k])
        total += areas[k]
        summed += value * areas[k]
        squares += value * value * areas[k]
    sums[0], sums[1], sums[2] = total, summed, squares


@_compiled
def deviate(values: Floats, areas: Floats, count: int, mean: float, so_far: float) -> float:
    """Go on with the sum of squared deviations from the mean, times areas."""
    for k in range(count):
        so_far += (values[k] - mean) ** 2 * areas[k]
    return so_far


@_compiled
def _differ(values: Floats, count: int) -> bool:
    """Whether the first `count` values are not all the same."""
    k = 1
    while k < count and values[k] == values[0]:
        k += 1
    return k < count


@_compiled
def of_sums(statistic: int, sums: Floats) -> float:
    """A statistic that is made of the sums of `add`, followed by that of `deviate`."""
    if statistic == SUM:
        return float(sums[1])
    if statistic == RMS:
        return math.sqrt(sums[2] / sums[0])
    return float(sums[1] / sums[0]) if statistic == AVERAGE else math.sqrt(sums[3] / sums[0])


@_compiled
def _ranked(statistic: int, values: Floats, areas: Floats, total: float) -> Any:
    """A statistic that is one of the values: of classes with equal areas the smallest is the mode."""
    if statistic == MIN:
        return values.min()
    if statistic == MAX:
        return values.max()
    if values.min() == values.max():
        return values[0]
    order = _order(values)
    wanted = (0.25 if statistic == Q1 else 0.5 if statistic == MED else 0.75) * total * (1.0 - SLIVER)
    best, most, own = values[order[0]], 0.0, 0.0
    for n in range(order.size):
        own += areas[order[n]]
        if statistic != MODE:
            if own >= wanted:
                return values[order[n]]
        elif n + 1 == order.size or values[order[n]] != values[order[n + 1]]:
            if own > most + SLIVER * total:
                best, most = values[order[n]], own
            own = 0.0
    return best if statistic == MODE else values[order[-1]]


@_compiled
def _order(values: Floats) -> NDArray[np.intp]:
    """Their order; of equal values the first stays the first."""
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
