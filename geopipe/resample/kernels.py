"""Compiled kernels for interpolation: bilinear, cubic, cubic spline and Lanczos, and polynomials for pixel places.

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

INTERPOLATIONS = ("bilinear", "cubic", "cubic_spline", "lanczos")
BILINEAR, CUBIC, CUBIC_SPLINE, LANCZOS = range(4)


@compiled
def polynomial(coefficients: Floats, down: Floats, across: Floats) -> Floats:
    """Evaluate a polynomial of two variables on a lattice: down @ coefficients @ across, in a fixed order of sums.

    Args:
        coefficients: (n, n) float64.
        down: (rows, n) float64, terms at each row.
        across: (n, cols) float64, terms at each column.
    """
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


@compiled
def snapped(places: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Move places that are within `tolerance` of an edge or a middle of a pixel or cell onto it.

    The floor of a place is then its pixel or cell: on an edge the right or lower one.

    Args:
        places: (n,) float64 in pixels or cells; not finite for a missing place.
        tolerance: rounding error as a share of a pixel or cell (`grid.rounding`).
    """
    result = np.empty(places.size)
    for i in range(places.size):
        half = np.rint(places[i] * 2.0) / 2.0
        result[i] = half if abs(places[i] - half) <= tolerance else places[i]
    return result


# ---------------------------------------------------------------- interpolation


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
def _bilinear_inside(pixels: Floats, x: float, y: float) -> float:
    """The same without a look at each pixel: NaN unless all four pixels are in the window and finite."""
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    if left < 0 or top < 0 or left + 1 >= pixels.shape[1] or top + 1 >= pixels.shape[0]:
        return np.nan
    west, north = 1.0 - abs(left + 0.5 - x), 1.0 - abs(top + 0.5 - y)
    east, south = 1.0 - abs(left + 1.5 - x), 1.0 - abs(top + 1.5 - y)
    a, b, c, d = north * west, north * east, south * west, south * east
    total = 0.0 + a * pixels[top, left] + b * pixels[top, left + 1]
    total = total + c * pixels[top + 1, left] + d * pixels[top + 1, left + 1]
    return float(total / (a + b + c + d))


@compiled
def _cubic_inside(pixels: Floats, x: float, y: float) -> float:
    """The weighted mean for cubic at scale 1: NaN unless all sixteen pixels are in the window and finite."""
    left, top = math.floor(x - 0.5) - 1, math.floor(y - 0.5) - 1
    if left < 0 or top < 0 or left + 3 >= pixels.shape[1] or top + 3 >= pixels.shape[0]:
        return np.nan
    a, b, c, d = _cubic_weights(x - 1.5 - left)
    total, weight, across = 0.0, 0.0, a + b + c + d
    for i, down in enumerate(_cubic_weights(y - 1.5 - top)):
        line = pixels[top + i]
        total += down * (0.0 + a * line[left] + b * line[left + 1] + c * line[left + 2] + d * line[left + 3])
        weight += down * across
    return total / weight


@compiled
def _cubic_weights(x: float) -> tuple[float, float, float, float]:
    """The heights of the cubic kernel at 1 + x, x, 1 - x and 2 - x, for x from 0 to 1."""
    before, after, last = 1.0 + x, 1.0 - x, 2.0 - x
    return (
        ((-0.5 * before + 2.5) * before - 4.0) * before + 2.0,
        (1.5 * x - 2.5) * x * x + 1.0,
        (1.5 * after - 2.5) * after * after + 1.0,
        ((-0.5 * last + 2.5) * last - 4.0) * last + 2.0,
    )


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

    Each place is tried without a look at single pixels first: NaN and infinities reach the sum, and then they are
    looked at. Both ways give the same bits.

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
    top, left = corner
    scale_x, scale_y = scale
    plain = scale_x == 1.0 and scale_y == 1.0
    most = int(2 * 3 * max(scale_x, scale_y)) + 3
    wx, wy = np.zeros(most), np.zeros(most)
    result, valid = np.empty(cols.shape, pixels.dtype), np.empty(cols.shape, np.bool_)
    for i in range(cols.shape[0]):
        for j in range(cols.shape[1]):
            x, y = cols[i, j] - left, rows[i, j] - top
            value = np.nan
            if 0 <= x < pixels.shape[1] and 0 <= y < pixels.shape[0]:
                if plain and abs(x - int(x) - 0.5) < 1e-9 and abs(y - int(y) - 0.5) < 1e-9:
                    value = np.float64(pixels[int(y), int(x)])
                elif plain and method == BILINEAR:
                    value = _bilinear_inside(pixels, x, y)
                elif plain and method == CUBIC:
                    value = _cubic_inside(pixels, x, y)
                else:
                    value = _weighted_inside(pixels, method, x, y, scale_x, scale_y, wx, wy)
                if not math.isfinite(value) and not np.isnan(pixels[int(y), int(x)]):
                    value = _around_missing(pixels, method, x, y, scale_x, scale_y, wx, wy)
            valid[i, j] = value == value
            result[i, j] = value if value == value else 0.0
    return result, valid


@compiled
def _around_missing(
    pixels: Floats, method: int, x: float, y: float, scale_x: float, scale_y: float, wx: Floats, wy: Floats
) -> float:
    """The weighted mean at a place whose own pixel is valid, by a look at each pixel."""
    if scale_x == 1.0 and scale_y == 1.0:
        if abs(x - int(x) - 0.5) < 1e-9 and abs(y - int(y) - 0.5) < 1e-9:
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


@compiled
def span(cols: Floats, rows: Floats, width: float, height: float) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the places that lie in a raster; left > right if there are none.

    An infinite width or height means that the raster has no edge there.
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
