"""Compiled statistics of the pixels under the cells of a coverage, weighted by their areas.

Pixels are floats in which NaN is missing, or integers with a mask. All sums are float64, pixel by pixel and row by row,
without reassociation: a statistic has the same bits on every worker.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geopipe.resample.compiled import compiled
from geopipe.resample.coverage import Coverage, Floats, Mask

CODES = 256
"""Classes 0, 1, ... below this one are counted in a table; others are sorted."""


class Moments(NamedTuple):
    """What averages, sums, extremes and deviations of n cells are made of, over their valid pixels.

    An array that nobody needed is empty.
    """

    areas: NDArray[np.float64]
    """(n,) sums of areas; 0 if no pixel is valid"""
    sums: NDArray[np.float64]
    """(n,) sums of values times areas"""
    squares: NDArray[np.float64]
    """(n,) sums of squared values times areas"""
    lows: NDArray[Any]
    """(n,) smallest values, of the pixels' type; 0 if there are none"""
    highs: NDArray[Any]
    """(n,) largest values"""


@compiled
def moments(pixels: Floats, valid: Mask, coverage: Coverage) -> Moments:
    """The moments of each cell of a coverage: pixels and mask as in `statistic_of`."""
    starts, rows, cols, offsets, weights, sizes = coverage
    n, masked = sizes.size, valid.size > 0
    areas, sums, squares = np.zeros(n), np.zeros(n), np.zeros(n)
    lows, highs = np.zeros(n, pixels.dtype), np.zeros(n, pixels.dtype)
    for cell in range(n):
        area, total, square, empty = 0.0, 0.0, 0.0, True
        low = high = lows[cell]
        for run in range(starts[cell], starts[cell + 1]):
            row, col, at = rows[run], cols[run], offsets[run]
            for k in range(offsets[run + 1] - at):
                value = pixels[row, col + k]
                if value == value and (not masked or valid[row, col + k]):
                    weight, number = weights[at + k], np.float64(value)
                    area += weight
                    total += number * weight
                    square += number * number * weight
                    if empty:
                        low = high = value
                        empty = False
                    low, high = min(low, value), max(high, value)
        areas[cell], sums[cell], squares[cell], lows[cell], highs[cell] = area, total, square, low, high
    return Moments(areas, sums, squares, lows, highs)


@compiled
def deviations(pixels: Floats, valid: Mask, coverage: Coverage, known: Moments) -> NDArray[np.float64]:
    """The standard deviation of each cell, by a second pass over its pixels; 0 if all are equal."""
    starts, rows, cols, offsets, weights, _ = coverage
    result, masked = np.zeros(known.areas.size), valid.size > 0
    for cell in range(result.size):
        if known.lows[cell] == known.highs[cell]:
            continue
        mean, squares = known.sums[cell] / known.areas[cell], 0.0
        for run in range(starts[cell], starts[cell + 1]):
            row, col, at = rows[run], cols[run], offsets[run]
            for k in range(offsets[run + 1] - at):
                value = pixels[row, col + k]
                if value == value and (not masked or valid[row, col + k]):
                    squares += (value - mean) ** 2 * weights[at + k]
        result[cell] = math.sqrt(squares / known.areas[cell])
    return result


@compiled
def ranks(pixels: Floats, valid: Mask, coverage: Coverage, known: Moments, share: float, sliver: float) -> NDArray[Any]:
    """The mode (`share` is 0) or the quantile of a share of each cell. Of equal areas the smallest is the mode.

    Areas are equal up to `sliver`, a share of the valid area.
    """
    starts, rows, cols, offsets, weights, _ = coverage
    result, masked = known.lows.copy(), valid.size > 0
    values, areas = np.zeros(64, pixels.dtype), np.zeros(64)
    sums, classes = np.zeros(CODES), np.zeros(CODES, np.int64)
    for cell in range(result.size):
        if known.lows[cell] == known.highs[cell]:
            continue
        most = offsets[starts[cell + 1]] - offsets[starts[cell]]
        if most > values.size:
            values, areas = np.zeros(2 * most, pixels.dtype), np.zeros(2 * most)
        count = 0
        for run in range(starts[cell], starts[cell + 1]):
            row, col, at = rows[run], cols[run], offsets[run]
            for k in range(offsets[run + 1] - at):
                value = pixels[row, col + k]
                if value == value and (not masked or valid[row, col + k]):
                    values[count], areas[count] = value, weights[at + k]
                    count += 1
        total = known.areas[cell]
        if share > 0.0:
            result[cell] = _quantile(values[:count], areas[:count], share * total * (1.0 - sliver))
        else:
            result[cell] = _mode(values[:count], areas, sliver * total, sums, classes)
    return result


@compiled
def _quantile(values: Floats, areas: Floats, target: float) -> Any:
    """The value at which the areas of the smaller values add up to `target`."""
    order, below = _order(values), 0.0
    for n in range(order.size):
        below += areas[order[n]]
        if below >= target:
            return values[order[n]]
    return values[order[-1]]


@compiled
def _mode(values: Floats, areas: Floats, sliver: float, sums: Floats, classes: NDArray[np.int64]) -> Any:
    """The value with the largest area; of areas that differ by less than `sliver` the smallest value.

    Classes 0 to CODES - 1, which most rasters of classes have, are summed in a table.

    Args:
        values: (n,) of the pixels; `areas` are theirs.
        sums: (CODES,) zeros, and zeros afterwards.
        classes: (CODES,) scratch.
    """
    known, count = 0, 0
    for k in range(values.size):
        code = np.int64(values[k]) if 0 <= values[k] < CODES else np.int64(-1)
        if code < 0 or code != values[k]:
            break
        if sums[code] == 0.0:
            at = known
            while at > 0 and classes[at - 1] > code:
                classes[at] = classes[at - 1]
                at -= 1
            classes[at] = code
            known += 1
        sums[code] += areas[k]
        count += 1
    best, most = values[0], 0.0
    for n in range(known):
        if sums[classes[n]] > most + sliver:
            best, most = values.dtype.type(classes[n]), sums[classes[n]]
        sums[classes[n]] = 0.0
    return best if count == values.size else _sorted_mode(values, areas, sliver)


@compiled
def _sorted_mode(values: Floats, areas: Floats, sliver: float) -> Any:
    """The same for any values."""
    order = _order(values)
    best, most, area = values[order[0]], 0.0, 0.0
    for n in range(order.size):
        area += areas[order[n]]
        if n + 1 == order.size or values[order[n]] != values[order[n + 1]]:
            if area > most + sliver:
                best, most = values[order[n]], area
            area = 0.0
    return best


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


# ---------------------------------------------------------------- one cell in parts (see large_cells)


@compiled
def add(values: Floats, areas: Floats, count: int, sums: Floats) -> None:
    """Continue the sums of areas, of values times areas, and of squared values times areas over `count` values."""
    total, summed, squares = sums[0], sums[1], sums[2]
    for k in range(count):
        value = np.float64(values[k])
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
