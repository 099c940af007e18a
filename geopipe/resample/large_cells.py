"""Statistics of cells with more pixels than are worked on at a time, computed from parts in bounded memory.

A part is some rows of a cell's pixels with their areas in the cell. Sums continue from part to part, pixel by pixel, so
that the cut does not change the result. Other statistics go through the parts again: `std` twice, a quantile once for
every 16 bits of a number (radix selection), `mode` once for each MOST_CLASSES of its classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geopipe.resample import coverage, weighted
from geopipe.resample.compiled import compiled
from geopipe.resample.statistics import QUANTILES

Values = NDArray[Any]
Floats = NDArray[np.floating[Any]]
Part = tuple[Values, Floats]

Parts = Callable[[], Iterator[Part]]
"""Iterates over the valid pixels of a cell, row by row: values and areas. A part is overwritten by the next one."""

Strips = Callable[[], Iterator[tuple[tuple[int, int], Values, coverage.Mask]]]
"""Iterates over a cell's window from top to bottom: row and column of the first pixel, pixels, and their mask."""

PART = coverage.PART
"""Pixels of a part, about."""

MOST_CLASSES = 1 << 18
"""Classes of one cell whose areas are in memory at a time."""


def statistic_of(name: str, xs: Floats, ys: Floats, strips: Strips, wrap: int) -> tuple[Any, float]:
    """A statistic of the pixels under a cell, weighted by their areas, and the share of the cell that is valid.

    Args:
        name: one of statistics.STATISTICS.
        xs: (points,) columns of the cell's closed outline, without points if there is no cell; `ys` has its rows.
        strips: the pixels; each call starts again.
        wrap: pixels in 360 degrees if columns wrap around, else 0.
    """
    cell = _Cell(xs, ys, strips, wrap)
    sums, least, most = np.zeros(4), None, None
    for values, areas in cell.parts():
        weighted.add(values, areas, values.size, sums)
        low, high = values.min(), values.max()
        least, most = (low, high) if least is None else (min(least, low), max(most, high))
    total = float(sums[0])
    if least is None:
        return 0, 0.0
    share = min(1.0, total / cell.area)
    if name == "min" or (least == most and name in ("mode", *QUANTILES)):
        return least, share
    if name == "max":
        return most, share
    if name == "mode":
        return _mode(cell.parts, total), share
    if name in QUANTILES:
        return _quantile(cell.parts, QUANTILES[name] * total * (1.0 - coverage.SLIVER), least.dtype), share
    if name == "std" and least != most:
        for values, areas in cell.parts():
            sums[3] = weighted.deviate(values, areas, values.size, sums[1] / total, sums[3])
    area, summed, squares, deviations = sums.tolist()
    if name in ("average", "sum"):
        return summed / area if name == "average" else summed, share
    return math.sqrt((squares if name == "rms" else deviations) / area), share


class _Cell:
    """The pixels of a cell in parts. `area`, in pixels, is known after the first iteration."""

    def __init__(self, xs: Floats, ys: Floats, strips: Strips, wrap: int) -> None:
        self._outline, self._strips, self._wrap = (xs, ys, xs.size), strips, wrap
        self.area = 0.0

    def parts(self) -> Iterator[Part]:
        cover, values, areas = np.zeros(0), np.zeros(0), np.zeros(0)
        for corner, pixels, valid in self._strips() if self._outline[2] else ():
            pixels = np.ascontiguousarray(pixels)
            box, top, bottom = coverage.box_of(*self._outline, corner, pixels.shape, self._wrap)
            width = box[2] - box[0] + 2
            rows = max(1, PART // width)
            size = rows * width
            if cover.size < size:
                cover, values, areas = np.zeros(size), np.zeros(size, pixels.dtype), np.zeros(size)
            for first in range(top, bottom, rows):
                last = min(first + rows, bottom)
                self.area = coverage.cover_pixels(*self._outline, box, first, last, cover)
                sliver = min(coverage.SLIVER * self.area, coverage.MOTE)
                count = _take_pixels(pixels, valid, corner, box, first, last, self._wrap, cover, sliver, values, areas)
                if count:
                    yield values[:count], areas[:count]


def _quantile(parts: Parts, target: float, dtype: np.dtype[Any]) -> Any:
    """The value at which the areas of the smaller values add up to `target`.

    Radix selection: numbers become unsigned keys of the same order, and areas are summed by 16 bits of the keys at a
    time, the highest bits first.
    """
    below, prefix, bits = 0.0, 0, 8 * dtype.itemsize
    for shift in range(bits - 16, -1, -16):
        counts = np.zeros(1 << 16)
        for values, areas in parts():
            keys = _keys(values)
            if shift + 16 < bits:
                inside = keys >> keys.dtype.type(shift + 16) == prefix
                keys, areas = keys[inside], areas[inside]
            np.add.at(counts, (keys >> keys.dtype.type(shift)) & keys.dtype.type(0xFFFF), areas)
        sums = below + np.cumsum(counts)
        at = min(int(np.searchsorted(sums, target)), int(np.flatnonzero(counts)[-1]))
        below = float(sums[at - 1]) if at else below
        prefix = prefix << 16 | at
    return _value(prefix, dtype)


def _keys(values: Values) -> Values:
    """Unsigned integers in the order of the values."""
    bits: Values = (values + values.dtype.type(0)).view(f"u{values.dtype.itemsize}")  # -0.0 becomes 0.0
    highest = bits.dtype.type(1 << 8 * bits.dtype.itemsize - 1)
    if values.dtype.kind == "u":
        return bits
    return bits ^ highest if values.dtype.kind == "i" else np.where(bits & highest, ~bits, bits | highest)


def _value(key: int, dtype: np.dtype[Any]) -> Any:
    """The value of a key: the inverse of `_keys`."""
    bits, highest = 8 * dtype.itemsize, 1 << 8 * dtype.itemsize - 1
    if dtype.kind == "i":
        key ^= highest
    elif dtype.kind == "f":
        key = key ^ highest if key & highest else ~key & (1 << bits) - 1
    return np.array([key], f"u{dtype.itemsize}").view(dtype)[0]


def _mode(parts: Parts, total: float) -> Any:
    """The value with the largest area; of equal areas the smallest value."""
    best, most, above = None, 0.0, None
    while True:
        classes, sums, limit = np.zeros(0), np.zeros(0), None
        for values, areas in parts():
            if above is not None or limit is not None:
                chosen = np.ones(values.size, bool) if above is None else values > above
                chosen = chosen if limit is None else chosen & (values <= limit)
                values, areas = values[chosen], areas[chosen]
            classes, index = np.unique(np.concatenate([classes.astype(values.dtype), values]), return_inverse=True)
            sums, before = np.zeros(classes.size), sums
            np.add.at(sums, index, np.concatenate([before, areas]))
            if classes.size > MOST_CLASSES:  # the smallest ones now, the others in the next round
                classes, sums = classes[:MOST_CLASSES].copy(), sums[:MOST_CLASSES].copy()
                limit = classes[-1]
        for value, area in zip(classes, sums.tolist(), strict=True):
            if area > most + coverage.SLIVER * total:
                best, most = value, area
        if limit is None:
            return best
        above = limit


@compiled
def _take_pixels(
    pixels: Floats,
    valid: coverage.Mask,
    corner: tuple[int, int],
    box: coverage.Box,
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
