"""From a window of pixels to a block of cells: which numbers the kernels are given, and what is made of theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np

from geopipe.layers.layer import Kind, Variable
from geopipe.merge.tile import Column, Mask, Values
from geopipe.resample import kernels, large_cells
from geopipe.resample.locate import BlockRequest
from geopipe.resample.methods import FRACTION, PICKED, RADIUS, VALID, Decision, Route, Window, lattice_window

Read = Callable[[Window], Column]
"""Reads pixels of the variable's band, unpacked, and where they are valid (None: everywhere)."""

Convert = Callable[[Values, Mask | None], tuple[Values, Mask]]
"""Makes of them what the kernels are given: floats in which NaN is missing, or whole numbers with a mask."""


def last_read(read: Read) -> Read:
    """The same reader; the window that it has read last is in memory."""
    return lru_cache(maxsize=1)(read)


def to_cells(
    read: Read, needs: BlockRequest, decision: Decision, variable: Variable, kind: Kind, min_valid: float
) -> Column:
    """Values (of the variable's type) and validity of one block, both of the block's shape.

    Args:
        read: the source's pixels; it is called with the window of `needs`, or with each of its strips.
        needs: the block, its window and the places of its cells.
        decision: how the source gets to the grid.
        variable: what is made of the pixels.
        kind: of the variable's layer.
        min_valid: the least share of a cell that valid pixels must cover, where the decision asks for it.
    """
    circular = kind is Kind.CIRCULAR and decision.method != VALID
    if circular and (decision.route is Route.COPY or decision.method in ("nearest", "mode")):
        read = partial(_read_angles, read)
    if decision.route is Route.COPY:
        made, have = place(*read(needs.window), needs.window, lattice_window(decision, needs.block))
        made = np.abs(made) if decision.method == "rms" else made
    elif decision.method == "nearest":
        made, have = _nearest(*read(needs.window), needs)
    else:
        made, have = _make(read, needs, decision.method, decision, kind, variable)
    if decision.share:
        have &= _share(read, needs) >= min_valid - 1e-6
    made = made.astype(variable.dtype, copy=False)
    return np.where(made >= 360, 0, made) if circular else made, have  # float32 rounds up to 360


def _read_angles(read: Read, window: Window) -> Column:
    """Angles from 0 to 360 degrees; infinite ones are missing."""
    values, valid = read(window)
    if values.dtype.kind in "iu":
        return values.astype(np.result_type(values, f"{values.dtype.kind}2")) % 360, valid
    finite = np.isfinite(values)
    angles = np.mod(values, 360, out=np.zeros_like(values), where=finite)
    return angles, finite if valid is None else valid & finite


def _nearest(values: Values, valid: Mask | None, needs: BlockRequest) -> tuple[Values, Mask]:
    """The pixels in which the centres of the cells lie; on an edge between two, the right or lower one."""
    assert needs.centres is not None
    window = needs.window
    with np.errstate(invalid="ignore"):
        col, row = np.floor(needs.centres.cols) - window.col, np.floor(needs.centres.rows) - window.row
        have = (col >= 0) & (col < window.width) & (row >= 0) & (row < window.height)
    at = np.where(have, row, 0).astype(np.intp), np.where(have, col, 0).astype(np.intp)
    return values[at], have if valid is None else have & valid[at]


def _make(
    read: Read, needs: BlockRequest, method: str, decision: Decision, kind: Kind, variable: Variable
) -> tuple[Values, Mask]:
    """What a method other than nearest makes of the pixels; values where there are none are arbitrary."""
    if method == VALID:
        share = _share(read, needs)
        return share, share > 1e-6  # less is rounding
    if method == FRACTION:
        return _resample(read, partial(_members, variable.part), needs, "average", decision)
    if kind is Kind.CIRCULAR and method != "mode":
        (north, have), (east, _) = (
            _resample(read, partial(_components, of), needs, method, decision) for of in (np.cos, np.sin)
        )
        return np.degrees(np.arctan2(east, north)) % 360.0, have
    return _resample(read, partial(_numbers, method, variable.dtype), needs, method, decision)


def _resample(
    read: Read, convert: Convert, needs: BlockRequest, method: str, decision: Decision
) -> tuple[Values, Mask]:
    """Pixels by kernels or footprints, and where there are any."""
    if method not in RADIUS:
        result, share = _footprints(read, convert, needs, method)
        have = share > 0
        return result, have if result.dtype.kind in "iu" else have & ~np.isnan(result)
    assert needs.centres is not None
    assert decision.scale is not None
    pixels, _ = convert(*read(needs.window))
    corner, kernel = (needs.window.row, needs.window.col), kernels.INTERPOLATIONS.index(method)
    found: Values = kernels.interpolate(pixels, needs.centres.cols, needs.centres.rows, corner, kernel, decision.scale)
    have = ~np.isnan(found)
    return np.where(have, found, 0), have


def _footprints(read: Read, convert: Convert, needs: BlockRequest, statistic: str) -> tuple[Values, Values]:
    """A statistic of each cell, and the share of its area that is valid; values where there is none are arbitrary."""
    feet, windows = needs.footprints, needs.strips
    assert feet is not None

    def strips() -> Iterator[tuple[tuple[int, int], Values, Mask]]:
        for window in windows:
            yield (window.row, window.col), *convert(*read(window))

    cols, rows, about = feet.corners.cols, feet.corners.rows, (feet.turn, feet.poles, feet.longest)
    if len(windows) > 1:  # a block of one cell
        value, part = large_cells.statistic_of(
            statistic, *kernels.outline(cols, rows, 0, 0, *about), strips, feet.around
        )
        return np.array([[value]]), np.array([[part]], np.float32)
    (only,) = strips()
    corner, pixels, valid = only
    code = kernels.STATISTICS.index(statistic)
    result, share = kernels.footprints(
        pixels, valid, cols, rows, corner, code, feet.turn, feet.around, feet.poles, feet.longest
    )
    for i, j in np.argwhere(np.isnan(share)):
        result[i, j], share[i, j] = large_cells.statistic_of(
            statistic, *kernels.outline(cols, rows, i, j, *about), partial(iter, (only,)), feet.around
        )
    return result, share


def _share(read: Read, needs: BlockRequest) -> Values:
    """The share of each cell that valid pixels cover."""
    return _footprints(read, _ones, needs, "average")[1]


def _numbers(method: str, column: str, values: Values, valid: Mask | None) -> tuple[Values, Mask]:
    """The pixels themselves; whole numbers that no float holds stay what they are where one of them is the result."""
    if method in PICKED and values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        return np.ascontiguousarray(values), kernels.EVERYWHERE if valid is None else np.ascontiguousarray(valid)
    return _floats(values, valid, _working_type(values.dtype, column))


def _members(part: float | None, values: Values, valid: Mask | None) -> tuple[Values, Mask]:
    """1 where a pixel is of the class `part`, else 0."""
    return _floats(values == part, valid, "float32")


def _components(of: np.ufunc, values: Values, valid: Mask | None) -> tuple[Values, Mask]:
    """The cosine or sine of angles in degrees."""
    pixels, everywhere = _floats(values, valid, "float64")
    with np.errstate(invalid="ignore"):  # infinite ones are missing
        of(np.radians(pixels, out=pixels), out=pixels)
    return pixels, everywhere


def _ones(values: Values, valid: Mask | None) -> tuple[Values, Mask]:
    """1 where a pixel is valid."""
    return _floats(np.ones(values.shape, np.float32), valid, "float32")


def _floats(values: Values, valid: Mask | None, dtype: str) -> tuple[Values, Mask]:
    """Pixels as floats of their own, NaN where not valid."""
    pixels = values.astype(dtype, order="C")
    if valid is not None:
        pixels[~valid] = np.nan
    return pixels, kernels.EVERYWHERE


def _working_type(own: np.dtype[Any], column: str) -> str:
    """The float type that the kernels get: one that holds both the source's values and the column's."""
    wide = column == "float64" or own.itemsize == 8 or (own.kind in "iu" and own.itemsize == 4)
    return "float64" if wide else "float32"


def place(values: Values, valid: Mask | None, window: Window, wanted: Window) -> tuple[Values, Mask]:
    """Cut or pad what was read from `window` to `wanted`; pixels outside are not valid."""
    if window == wanted:
        return values, np.ones(values.shape, bool) if valid is None else valid
    full = np.zeros((wanted.height, wanted.width), values.dtype)
    mask = np.zeros(full.shape, bool)
    rows = slice(window.row - wanted.row, window.row - wanted.row + window.height)
    cols = slice(window.col - wanted.col, window.col - wanted.col + window.width)
    full[rows, cols], mask[rows, cols] = values, True if valid is None else valid
    return full, mask
