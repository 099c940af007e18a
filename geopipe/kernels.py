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
AVERAGE, STD, RMS, SUM, MIN, MAX, MED, Q1, Q3, MODE = range(10)

SLIVER = 1e-9
"""A pixel with less than this share of a footprint is not under it: that is how far rounding reaches."""


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
            value = pixels[row, col]
            if not np.isnan(value):
                part = down * (1.0 - abs(col + 0.5 - x))
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
def _cover(xs: Floats, ys: Floats, points: int, left: int, top: int, width: int, cover: Floats) -> float:
    """The area of each pixel in a polygon, as differences along the row; returns the polygon's signed area.

    The signed area to the right of every edge, pixel by pixel, as rasterizers of fonts have it: summed along a row it
    is the pixel's area in the polygon, exactly. `cover` has rows of `width` + 2 entries, all zero.
    """
    area, stride = 0.0, width + 2
    for k in range(points - 1):
        x0, y0, x1, y1 = xs[k] - left, ys[k] - top, xs[k + 1] - left, ys[k + 1] - top
        area += x0 * y1 - x1 * y0
        if y0 == y1:
            continue
        sign = 1.0
        if y0 > y1:
            x0, y0, x1, y1, sign = x1, y1, x0, y0, -1.0
        slope = (x1 - x0) / (y1 - y0)
        for row in range(int(y0), math.ceil(y1)):
            upper, lower = max(y0, float(row)), min(y1, row + 1.0)
            a, b = x0 + (upper - y0) * slope, x0 + (lower - y0) * slope
            height = sign * (lower - upper)
            if a > b:
                a, b = b, a
            first, last = int(a), int(b)
            line = row * stride
            if first == last:
                inner = height * (0.5 * (a + b) - first)
                cover[line + first] += height - inner
                cover[line + first + 1] += inner
                continue
            before, step = 0.0, height / (b - a)  # what lies to the right of the edge up to here, height per column
            for col in range(first, last + 1):
                start, end = max(a, float(col)), min(b, col + 1.0)
                inside = step * (end - start)
                right = inside * (col + 1.0 - 0.5 * (start + end))
                cover[line + col] += right + before
                before = inside - right
            cover[line + last + 1] += before
    return 0.5 * area


@_compiled
def _box(xs: Floats, ys: Floats, points: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the pixels that an outline touches."""
    left, top, right, bottom = xs[0], ys[0], xs[0], ys[0]
    for k in range(1, points - 1):
        left, right = min(left, xs[k]), max(right, xs[k])
        top, bottom = min(top, ys[k]), max(bottom, ys[k])
    return math.floor(left), math.floor(top), math.floor(right) + 1, math.floor(bottom) + 1


@_compiled
def _collect(
    pixels: Floats,
    corner: tuple[int, int],
    box: tuple[int, int, int, int],
    around: int,
    cover: Floats,
    sliver: float,
    values: Floats,
    areas: Floats,
) -> tuple[int, float]:
    """The valid pixels of a covered box with their areas, into `values` and `areas`: how many, and their area.

    It leaves `cover` all zero.
    """
    left, top, right, bottom = box
    count, valid = 0, 0.0
    stride = right - left + 2
    for row in range(top, bottom):
        if not corner[0] <= row < corner[0] + pixels.shape[0]:
            continue
        part, line = 0.0, (row - top) * stride - left
        for col in range(left, right):
            part += cover[line + col]
            at = (col - corner[1]) % around if around > 0 else col - corner[1]
            if abs(part) <= sliver or not 0 <= at < pixels.shape[1]:
                continue
            value = pixels[row - corner[0], at]
            if not np.isnan(value):
                values[count], areas[count] = value, abs(part)
                count += 1
                valid += abs(part)
    for k in range(stride * (bottom - top)):
        cover[k] = 0.0
    return count, valid


@_compiled
def footprints(
    pixels: Floats,
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
        cols: corners of the cells, in the source's pixels: one more each way than cells.
        rows: as cols.
        corner: row and column of the window's first pixel.
        statistic: the number of one of STATISTICS.
        turn: 360 degrees in pixels, of a source in longitude and latitude; else 0.
        around: the same where the window has all of them, so that columns go round; else 0.
        poles: the rows of the two poles, where there is a turn.
        longest: pixels that an edge of a cell can have at most.
    """
    height, width = cols.shape[0] - 1, cols.shape[1] - 1
    result, share = np.full((height, width), np.nan, pixels.dtype), np.zeros((height, width), np.float32)
    xs, ys = np.zeros(16), np.zeros(16)
    cover, values, areas = np.zeros(64), np.zeros(64), np.zeros(64)
    for i in range(height):
        for j in range(width):
            points = _ring(cols, rows, i, j, turn, poles, xs, ys)
            if points == 0 or _torn(xs, ys, points, longest):
                continue
            left, top, right, bottom = _box(xs, ys, points)
            beside = left >= corner[1] + pixels.shape[1] or right <= corner[1]
            if top >= corner[0] + pixels.shape[0] or bottom <= corner[0] or (beside and around == 0):
                continue
            size = (right - left + 2) * (bottom - top)
            if size > cover.size:
                cover, values, areas = np.zeros(2 * size), np.zeros(2 * size), np.zeros(2 * size)
            area = abs(_cover(xs, ys, points, left, top, right - left, cover))
            box = (left, top, right, bottom)
            count, valid = _collect(pixels, corner, box, around, cover, SLIVER * area, values, areas)
            if count > 0:
                result[i, j] = _statistic(statistic, values, areas, count, valid)
                share[i, j] = min(1.0, valid / area)
    return result, share


@_compiled
def _statistic(statistic: int, values: Floats, areas: Floats, count: int, total: float) -> float:
    """Of the first `count` values, weighted by their areas, which add up to `total`."""
    if statistic in (MED, Q1, Q3, MODE):
        return _by_rank(statistic, values[:count], areas[:count], total)
    least, most, summed, squares = values[0], values[0], 0.0, 0.0
    for k in range(count):
        least, most = min(least, values[k]), max(most, values[k])
        summed += values[k] * areas[k]
        squares += values[k] * values[k] * areas[k]
    if statistic == MIN:
        return float(least)
    if statistic == MAX:
        return float(most)
    if statistic == SUM:
        return summed
    if statistic == RMS:
        return math.sqrt(squares / total)
    mean = summed / total
    if statistic == AVERAGE:
        return mean
    deviations = 0.0
    for k in range(count):
        deviations += (values[k] - mean) ** 2 * areas[k]
    return math.sqrt(deviations / total)


@_compiled
def _by_rank(statistic: int, values: Floats, areas: Floats, total: float) -> float:
    """The value with the largest area (of equals, that whose last pixel comes first), or the one at a quantile."""
    if values.min() == values.max():
        return float(values[0])
    order = _order(values)
    if statistic != MODE:
        wanted = (0.25 if statistic == Q1 else 0.5 if statistic == MED else 0.75) * total * (1.0 - SLIVER)
        below = 0.0
        for k in order:
            below += areas[k]
            if below >= wanted:
                return float(values[k])
        return float(values[order[-1]])
    best, most, own = order[0], 0.0, 0.0
    for n in range(order.size):
        own += areas[order[n]]
        if n + 1 < order.size and values[order[n]] == values[order[n + 1]]:
            continue
        if own > most + SLIVER * total or (own > most - SLIVER * total and order[n] < best):
            best, most = order[n], own
        own = 0.0
    return float(values[best])


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
