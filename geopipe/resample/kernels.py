"""Compiled kernels for interpolation: bilinear, cubic, cubic spline and Lanczos, and nearest.

Pixels are floats in which NaN is missing; pixel i spans i to i + 1. All sums are float64, in one order, without
reassociation: the same pixels and places give the same bits on every worker.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geopipe.resample.compiled import compiled

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]

INTERPOLATIONS = ("bilinear", "cubic", "cubic_spline", "lanczos")
BILINEAR, CUBIC, CUBIC_SPLINE, LANCZOS = range(4)

MIDDLE = 1e-9
"""A place that is nearer to the middle of a pixel, in pixels, has its value."""


@compiled
def _radius(method: int) -> int:
    if method == BILINEAR:
        return 1
    return 3 if method == LANCZOS else 2


@compiled
def _height(method: int, x: float) -> float:
    """Height of a kernel at x pixels from its centre, as in GDAL.

    Triangle; Keys (1981), a = -0.5; cubic B-spline (Unser 1999).
    """
    x = abs(x)
    if x >= _radius(method):
        return 0.0
    if method == BILINEAR:
        return 1.0 - x
    if method == CUBIC:
        return (1.5 * x - 2.5) * x * x + 1.0 if x < 1 else ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return (0.5 * x - 1.0) * x * x + 2.0 / 3.0 if x < 1 else (2.0 - x) ** 3 / 6.0


@compiled
def _weights(method: int, at: float, scale: float, weights: Floats) -> tuple[int, int]:
    """Fill `weights` for a kernel around `at` that is `scale` times as wide as pixels: first pixel and count."""
    reach = _radius(method) * scale
    first = math.floor(at - 0.5 - reach) + 1
    count = math.ceil(at - 0.5 + reach) - first
    if method == LANCZOS:
        _lanczos((first + 0.5 - at) / scale, 1.0 / scale, weights[:count])
        return first, count
    for k in range(count):
        weights[k] = _height(method, (first + k + 0.5 - at) / scale)
    return first, count


@compiled
def _lanczos(x: float, step: float, weights: Floats) -> None:
    """Fill `weights` with Lanczos of radius 3 at x, x + step, ...: 3 sin(pi x) sin(pi x / 3) / (pi x)^2.

    Each sine follows from the one before by rotation, which is cheaper than a call of sin.
    """
    third = math.pi / 3.0
    sine, cosine = math.sin(third * x), math.cos(third * x)
    step_sine, step_cosine = math.sin(third * step), math.cos(third * step)
    for k in range(weights.size):
        at = third * (x + k * step)
        whole = sine * (3.0 - 4.0 * sine * sine)  # the sine of three times the angle
        weights[k] = 1.0 if abs(at) < 1e-9 else whole * sine / (3.0 * at * at)
        sine, cosine = sine * step_cosine + cosine * step_sine, cosine * step_cosine - sine * step_sine


@compiled
def _weighted(
    pixels: Floats, method: int, x: float, y: float, scale_x: float, scale_y: float, wx: Floats, wy: Floats
) -> tuple[float, bool]:
    """The weighted mean of the pixels around a place, and whether none of them is missing."""
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
        part, part_weight = 0.0, 0.0
        for j in range(across):
            col = left + j
            if wx[j] == 0.0:
                continue
            value = pixels[row, col] if 0 <= col < pixels.shape[1] else np.nan
            if np.isnan(value):
                whole = False
            else:
                part += wx[j] * value
                part_weight += wx[j]
        total += wy[i] * part
        weight += wy[i] * part_weight
    return (total / weight if weight != 0.0 else np.nan), whole


@compiled
def _bilinear(pixels: Floats, x: float, y: float) -> float:
    """The same for bilinear at scale 1, the most frequent case. The place must lie in a valid pixel."""
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


@compiled
def _is_middle(x: float, y: float) -> bool:
    """Whether a place is in the exact middle of a pixel."""
    return bool((abs(x - np.floor(x) - 0.5) < MIDDLE) & (abs(y - np.floor(y) - 0.5) < MIDDLE))


@compiled
def _firsts(
    shape: tuple[int, int], radius: int, cols: Floats, rows: Floats, corner: tuple[float, float], firsts: Indices
) -> None:
    """Fill `firsts` with the flat index of the first pixel of a kernel at scale 1 for each place.

    -1 where the kernel reaches beyond the window, or the place is in the middle of a pixel.
    """
    before, width = float(radius - 1), float(shape[1])
    for j in range(cols.size):
        x, y = cols[j] - corner[1], rows[j] - corner[0]
        left, top = np.floor(x - 0.5) - before, np.floor(y - 0.5) - before
        inside = (left >= 0) & (top >= 0) & (left <= width - 2 * radius) & (top <= float(shape[0] - 2 * radius))
        firsts[j] = np.int64(top * width + left) if inside & (not _is_middle(x, y)) else np.int64(-1)


@compiled
def _bilinear_row(
    pixels: Floats,
    cols: Floats,
    rows: Floats,
    corner: tuple[float, float],
    firsts: Indices,
    weights: Floats,
    means: Floats,
) -> None:
    """The same for a row of places without a look at each pixel: `means` are not finite where one is not.

    There are several short loops, so that the compiler makes vector instructions of all but the last one. Unsigned
    indices spare numba's test for negative ones.

    Args:
        firsts: (n,) is filled by `_firsts`; where it is -1, `means` are arbitrary.
        weights: (8, n) scratch.
    """
    _firsts(pixels.shape, 1, cols, rows, corner, firsts)
    if min(pixels.shape) < 2:
        return
    for j in range(cols.size):
        x, y = cols[j] - corner[1], rows[j] - corner[0]
        left, top = np.floor(x - 0.5), np.floor(y - 0.5)
        west, north = 1.0 - abs(left + 0.5 - x), 1.0 - abs(top + 0.5 - y)
        east, south = 1.0 - abs(left + 1.5 - x), 1.0 - abs(top + 1.5 - y)
        weights[0, j], weights[1, j] = north * west, north * east
        weights[2, j], weights[3, j] = south * west, south * east
    flat, right, below = pixels.ravel(), np.uint64(1), np.uint64(pixels.shape[1])
    for j in range(cols.size):
        at = np.uint64(max(firsts[j], 0))
        a, b, c, d = weights[0, j], weights[1, j], weights[2, j], weights[3, j]
        total = 0.0 + a * flat[at] + b * flat[at + right]
        total = total + c * flat[at + below] + d * flat[at + below + right]
        means[j] = total / (a + b + c + d)


@compiled
def _cubic_row(
    pixels: Floats,
    cols: Floats,
    rows: Floats,
    corner: tuple[float, float],
    firsts: Indices,
    weights: Floats,
    means: Floats,
) -> None:
    """The same for cubic at scale 1, by its sixteen pixels."""
    _firsts(pixels.shape, 2, cols, rows, corner, firsts)
    if min(pixels.shape) < 4:
        return
    for j in range(cols.size):
        x = cols[j] - corner[1]
        means[j] = x - 1.5 - (np.floor(x - 0.5) - 1.0)
    _cubic_weights(means, weights[:4])
    for j in range(cols.size):
        y = rows[j] - corner[0]
        means[j] = y - 1.5 - (np.floor(y - 0.5) - 1.0)
    _cubic_weights(means, weights[4:])
    flat, below, one, two, three = pixels.ravel(), np.uint64(pixels.shape[1]), np.uint64(1), np.uint64(2), np.uint64(3)
    for j in range(cols.size):
        at = np.uint64(max(firsts[j], 0))
        a, b, c, d = weights[0, j], weights[1, j], weights[2, j], weights[3, j]
        total, weight, across = 0.0, 0.0, a + b + c + d
        for i in range(4, 8):
            down = weights[i, j]
            total += down * (0.0 + a * flat[at] + b * flat[at + one] + c * flat[at + two] + d * flat[at + three])
            weight += down * across
            at += below
        means[j] = total / weight


@compiled
def _cubic_weights(places: Floats, weights: Floats) -> None:
    """Fill (4, n) with the heights of the cubic kernel at 1 + x, x, 1 - x and 2 - x, for x from 0 to 1 in `places`."""
    for j in range(places.size):
        x = places[j]
        before, after, last = 1.0 + x, 1.0 - x, 2.0 - x
        weights[0, j] = ((-0.5 * before + 2.5) * before - 4.0) * before + 2.0
        weights[1, j] = (1.5 * x - 2.5) * x * x + 1.0
        weights[2, j] = (1.5 * after - 2.5) * after * after + 1.0
        weights[3, j] = ((-0.5 * last + 2.5) * last - 4.0) * last + 2.0


@compiled
def _weighted_inside(
    pixels: Floats, method: int, x: float, y: float, scale_x: float, scale_y: float, wx: Floats, wy: Floats
) -> float:
    """The weighted mean of `_weighted`: NaN unless all pixels are in the window and finite."""
    left, across = _weights(method, x, scale_x, wx)
    top, down = _weights(method, y, scale_y, wy)
    if left < 0 or top < 0 or left + across > pixels.shape[1] or top + down > pixels.shape[0]:
        return np.nan
    total, weight, part_weight = 0.0, 0.0, 0.0
    for j in range(across):
        part_weight += wx[j]
    for i in range(down):
        part, line = 0.0, pixels[top + i]
        for j in range(across):
            part += wx[j] * line[left + j]
        total += wy[i] * part
        weight += wy[i] * part_weight
    return total / weight


@compiled
def interpolate(
    pixels: Floats, cols: Floats, rows: Floats, corner: tuple[int, int], method: int, scale: tuple[float, float]
) -> tuple[Floats, NDArray[np.bool_]]:
    """Interpolate at each place with a kernel that is `scale` times as wide as pixels.

    As in GDAL, a place whose own pixel is missing is missing, and a place in the exact middle of a pixel gets its value
    (which matters for the spline only). The mean leaves out other missing pixels. There cubic and lanczos fall back to
    bilinear: their negative weights could make the remaining sum of weights almost zero.

    Places are tried without a look at single pixels first: NaN and infinities reach the sum, and then they are looked
    at. Both ways give the same bits.

    Args:
        pixels: (height, width) of the window.
        cols: (rows, cols) float64, places in source pixels; not finite for a missing place.
        rows: as cols.
        corner: row and column of the window's first pixel.
        method: index in INTERPOLATIONS.
        scale: in x and in y.

    Returns:
        (rows, cols) of the pixels' type, 0 where missing; and (rows, cols) bool, where it is not missing.
    """
    n, is_fast = cols.shape[1], _is_fast(method, scale)
    most = int(2 * 3 * max(scale[0], scale[1])) + 3
    wx, wy, start = np.zeros(most), np.zeros(most), (float(corner[0]), float(corner[1]))
    firsts, weights, means = np.full(n, -1), np.empty((8, n)), np.empty(n)
    result, valid = np.empty(cols.shape, pixels.dtype), np.empty(cols.shape, np.bool_)
    for i in range(cols.shape[0]):
        if is_fast and method == BILINEAR:
            _bilinear_row(pixels, cols[i], rows[i], start, firsts, weights, means)
        elif is_fast:
            _cubic_row(pixels, cols[i], rows[i], start, firsts, weights, means)
        _look_at_places(pixels, cols[i], rows[i], start, method, scale, firsts, means, wx, wy)
        some, present = result[i], valid[i]
        for j in range(n):
            mean = means[j]
            present[j] = mean == mean
            some[j] = mean if mean == mean else 0.0
    return result, valid


@compiled
def _is_fast(method: int, scale: tuple[float, float]) -> bool:
    """Whether rows are tried by `_bilinear_row` or `_cubic_row`."""
    return scale[0] == 1.0 and scale[1] == 1.0 and method in (BILINEAR, CUBIC)


@compiled
def _look_at_places(
    pixels: Floats,
    cols: Floats,
    rows: Floats,
    corner: tuple[float, float],
    method: int,
    scale: tuple[float, float],
    firsts: Indices,
    means: Floats,
    wx: Floats,
    wy: Floats,
) -> None:
    """Set the mean of each place of a row that has no first pixel or no finite mean; NaN where it is missing."""
    scale_x, scale_y = scale
    plain, is_fast = scale_x == 1.0 and scale_y == 1.0, _is_fast(method, scale)
    for j in range(cols.size):
        if firsts[j] >= 0 and math.isfinite(means[j]):
            continue
        x, y, mean = cols[j] - corner[1], rows[j] - corner[0], np.nan
        if _has_pixel(pixels, x, y):
            if plain and _is_middle(x, y):
                mean = np.float64(pixels[int(y), int(x)])
            elif not is_fast:
                mean = _weighted_inside(pixels, method, x, y, scale_x, scale_y, wx, wy)
            if not math.isfinite(mean):
                mean = _around_missing(pixels, method, x, y, scale_x, scale_y, wx, wy)
        means[j] = mean


@compiled
def _has_pixel(pixels: Floats, x: float, y: float) -> bool:
    """Whether a place lies in a valid pixel of the window."""
    return bool(0 <= x < pixels.shape[1] and 0 <= y < pixels.shape[0] and not np.isnan(pixels[int(y), int(x)]))


@compiled
def _around_missing(
    pixels: Floats, method: int, x: float, y: float, scale_x: float, scale_y: float, wx: Floats, wy: Floats
) -> float:
    """The weighted mean at a place whose own pixel is valid, by a look at each pixel."""
    if scale_x == 1.0 and scale_y == 1.0:
        if _is_middle(x, y):
            return float(pixels[int(y), int(x)])
        if method == BILINEAR:
            return _bilinear(pixels, x, y)
    value, whole = _weighted(pixels, method, x, y, scale_x, scale_y, wx, wy)
    if not whole and method in (CUBIC, LANCZOS):
        value, whole = _weighted(pixels, BILINEAR, x, y, scale_x, scale_y, wx, wy)
    return value


@compiled
def nearest(
    pixels: NDArray[Any], valid: NDArray[np.bool_], cols: Floats, rows: Floats, corner: tuple[int, int]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The pixels that contain the places; on an edge between two pixels the right or lower one.

    Args:
        pixels: (height, width) of the window, of any type.
        valid: (height, width) bool, or (0, 0) if all pixels are valid.
        cols: (rows, cols) float64, places in source pixels; not finite for a missing place. `rows` likewise.
        corner: row and column of the window's first pixel.

    Returns:
        (rows, cols) of the pixels' type, and (rows, cols) bool, where they are valid. Others are arbitrary.
    """
    result, inside = np.empty(cols.shape, pixels.dtype), np.empty(cols.shape, np.bool_)
    for i in range(cols.shape[0]):
        for j in range(cols.shape[1]):
            x, y = np.floor(cols[i, j]) - corner[1], np.floor(rows[i, j]) - corner[0]
            hit = 0 <= x < pixels.shape[1] and 0 <= y < pixels.shape[0]
            col, row = (int(x), int(y)) if hit else (0, 0)
            result[i, j], inside[i, j] = pixels[row, col], hit and (valid.size == 0 or valid[row, col])
    return result, inside
