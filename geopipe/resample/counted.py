"""Compiled statistics of cells that are made of whole pixels, which are counted: the bits are those of a coverage."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geopipe.resample.compiled import compiled
from geopipe.resample.coverage import Floats, Mask
from geopipe.resample.weighted import Moments


@compiled
def whole_moments(pixels: Floats, valid: Mask, down: int, across: int) -> Moments:
    """The moments of cells of `down` x `across` pixels (see `moments_of`).

    The loop over the cells of a row is the inner one, so that the compiler makes vector instructions of it.
    """
    height, width, masked = pixels.shape[0] // down, pixels.shape[1] // across, valid.size > 0
    areas, sums, squares = np.zeros((height, width)), np.zeros((height, width)), np.zeros((height, width))
    lows, highs = np.zeros((height, width), pixels.dtype), np.zeros((height, width), pixels.dtype)
    for i in range(height):
        area, total, square, low, high = areas[i], sums[i], squares[i], lows[i], highs[i]
        for row in range(i * down, (i + 1) * down):
            line = pixels[row]
            for k in range(across):
                if masked:
                    _add_masked(line, valid[row], k, across, area, total, square, low, high)
                else:
                    _add_floats(line, k, across, area, total, square, low, high)
    return Moments(areas.ravel(), sums.ravel(), squares.ravel(), lows.ravel(), highs.ravel())


@compiled
def _add_floats(
    line: Floats, k: int, across: int, area: Floats, total: Floats, square: Floats, low: Floats, high: Floats
) -> None:
    """Add pixel k of each cell in a row of pixels to the moments of the cells."""
    for j in range(area.size):
        value = line[j * across + k]
        number = np.float64(value) if value == value else 0.0
        total[j] += number
        square[j] += number * number
        first = area[j] == 0.0
        area[j] += 1.0 if value == value else 0.0
        low[j] = value if value < low[j] or (first and value == value) else low[j]
        high[j] = value if value > high[j] or (first and value == value) else high[j]


@compiled
def _add_masked(
    line: Floats,
    valid: Mask,
    k: int,
    across: int,
    area: Floats,
    total: Floats,
    square: Floats,
    low: Floats,
    high: Floats,
) -> None:
    """The same for integers with a mask."""
    for j in range(area.size):
        value = line[j * across + k]
        if valid[j * across + k]:
            number = np.float64(value)
            total[j] += number
            square[j] += number * number
            low[j] = value if area[j] == 0.0 or value < low[j] else low[j]
            high[j] = value if area[j] == 0.0 or value > high[j] else high[j]
            area[j] += 1.0


@compiled
def whole_deviations(pixels: Floats, valid: Mask, down: int, across: int, known: Moments) -> NDArray[np.float64]:
    """The standard deviation of such cells, by a second pass; 0 if all pixels of a cell are equal."""
    result, width, masked = np.zeros(known.areas.size), pixels.shape[1] // across, valid.size > 0
    for cell in range(result.size):
        if known.lows[cell] == known.highs[cell]:
            continue
        top, left = cell // width * down, cell % width * across
        mean, squares = known.sums[cell] / known.areas[cell], 0.0
        for row in range(top, top + down):
            for col in range(left, left + across):
                value = pixels[row, col]
                if value == value and (not masked or valid[row, col]):
                    squares += (value - mean) ** 2
        result[cell] = math.sqrt(squares / known.areas[cell])
    return result


@compiled
def whole_ranks(
    pixels: Floats, valid: Mask, down: int, across: int, known: Moments, share: float, sliver: float
) -> NDArray[Any]:
    """The mode (`share` is 0) or the quantile of a share of such cells."""
    width, result, values = pixels.shape[1] // across, known.lows.copy(), np.zeros(down * across, pixels.dtype)
    for cell in range(result.size):
        if known.lows[cell] == known.highs[cell]:
            continue
        count = _gather(pixels, valid, cell // width * down, cell % width * across, down, across, values)
        if share == 0.0 and count <= 16:
            result[cell] = _most_frequent_of_few(values[:count])
            continue
        _sort(values[:count])
        if share > 0.0:
            result[cell] = values[max(math.ceil(share * count * (1.0 - sliver)), 1) - 1]
        else:
            result[cell] = _most_frequent(values[:count])
    return result


@compiled
def _gather(pixels: Floats, valid: Mask, top: int, left: int, down: int, across: int, values: Floats) -> int:
    """Write the valid pixels of a cell to `values`: their count."""
    count, masked = 0, valid.size > 0
    for row in range(top, top + down):
        for col in range(left, left + across):
            value = pixels[row, col]
            if value == value and (not masked or valid[row, col]):
                values[count] = value
                count += 1
    return count


@compiled
def _sort(values: Floats) -> None:
    """Sort, by insertion if there are few."""
    if values.size > 64:
        values.sort()
        return
    for k in range(1, values.size):
        value, at = values[k], k
        while at > 0 and values[at - 1] > value:
            values[at] = values[at - 1]
            at -= 1
        values[at] = value


@compiled
def _most_frequent(values: Floats) -> Any:
    """The most frequent of sorted values; of equally frequent ones the smallest."""
    best, most, length = values[0], 0, 0
    for k in range(values.size):
        length += 1
        if k + 1 == values.size or values[k] != values[k + 1]:
            if length > most:
                best, most = values[k], length
            length = 0
    return best


@compiled
def _most_frequent_of_few(values: Floats) -> Any:
    """The same of some values in any order, which takes less time than to sort them."""
    best, most = values[0], 0
    for a in range(values.size):
        value, count = values[a], 0
        for b in range(values.size):
            count += values[b] == value
        if count > most or (count == most and value < best):
            best, most = value, count
    return best
