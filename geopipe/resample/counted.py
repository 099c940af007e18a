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
def whole_sums(pixels: Floats, down: int, across: int) -> Moments:
    """The areas and sums of cells of `down` x `across` pixels, without the other moments (see `Moments`)."""
    height, width = pixels.shape[0] // down, pixels.shape[1] // across
    areas, sums = np.zeros((height, width)), np.zeros((height, width))
    lines, nothing = np.empty((across, width), pixels.dtype), np.empty(0, pixels.dtype)
    for i in range(height):
        for row in range(i * down, (i + 1) * down):
            _split(pixels[row], lines)
            for k in range(across):
                _add(lines[k], areas[i], sums[i])
    return Moments(areas.ravel(), sums.ravel(), np.empty(0), nothing, nothing)


@compiled
def _add(line: Floats, area: Floats, total: Floats) -> None:
    """Add a pixel of each cell in a row to the areas and sums of the cells."""
    for j in range(area.size):
        value = line[j]
        area[j] += 1.0 if value == value else 0.0
        total[j] += np.float64(value) if value == value else 0.0


@compiled
def _split(line: NDArray[Any], lines: NDArray[Any]) -> None:
    """Write a row of pixels to (across, n) `lines`: the first pixel of each cell to the first line, and so on.

    The compiler makes vector instructions of loops along a line, and of a split in two.
    """
    across, width = lines.shape
    if across == 2:
        for j in range(width):
            lines[0, j], lines[1, j] = line[2 * j], line[2 * j + 1]
        return
    for k in range(across):
        for j in range(width):
            lines[k, j] = line[j * across + k]


@compiled
def whole_modes(pixels: Floats, valid: Mask, down: int, across: int) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The mode of such cells, and their areas: each pixel is compared with all others of its cell.

    It takes less time than sorting them where they are few. Of equally frequent values the smallest is the mode.
    """
    height, width, count = pixels.shape[0] // down, pixels.shape[1] // across, down * across
    result, areas = np.zeros((height, width), pixels.dtype), np.zeros((height, width))
    lines, present = np.empty((count, width), pixels.dtype), np.empty((count, width), np.bool_)
    most, equal = np.empty(width, np.int32), np.empty(width, np.int32)
    for i in range(height):
        for row in range(down):
            some = slice(row * across, (row + 1) * across)
            _split(pixels[i * down + row], lines[some])
            if valid.size > 0:
                _split(valid[i * down + row], present[some])
        for k in range(count if valid.size == 0 else 0):
            _find_numbers(lines[k], present[k])
        most[:] = 0
        for a in range(count):
            equal[:] = 0
            for b in range(count):
                _add_equal(lines[a], lines[b], present[b], equal)
            _choose(lines[a], present[a], equal, result[i], most, areas[i])
    return result.ravel(), areas.ravel()


@compiled
def _find_numbers(values: Floats, present: Mask) -> None:
    """Find the values that are not NaN."""
    for j in range(values.size):
        present[j] = values[j] == values[j]


@compiled
def _add_equal(own: Floats, other: Floats, present: Mask, equal: NDArray[np.int32]) -> None:
    """Add 1 to `equal` where a valid pixel of the cell has the same value."""
    for j in range(equal.size):
        equal[j] += (own[j] == other[j]) & present[j]


@compiled
def _choose(
    own: Floats, present: Mask, equal: NDArray[np.int32], best: Floats, most: NDArray[np.int32], area: Floats
) -> None:
    """Take a pixel's value where it is more frequent than the best so far, or as frequent and smaller."""
    for j in range(equal.size):
        better = present[j] & ((equal[j] > most[j]) | ((equal[j] == most[j]) & (own[j] < best[j])))
        best[j] = own[j] if better else best[j]
        most[j] = equal[j] if better else most[j]
        area[j] += 1.0 if present[j] else 0.0


@compiled
def whole_moments(pixels: Floats, valid: Mask, down: int, across: int) -> Moments:
    """The moments of such cells.

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
