"""Resample a window of pixels to a block of cells: prepare the pixels for the kernels, and finish their results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np

from geopipe.layers.layer import Kind, Variable
from geopipe.merge.blocks import Column, Mask, Values
from geopipe.resample import coverage, kernels, large_cells
from geopipe.resample.locate import BlockRequest
from geopipe.resample.methods import FRACTION, PICKED, RADIUS, VALID, Decision, Route, Window, lattice_window

Read = Callable[[Window], Column]
"""Reads pixels of the variable's band, unpacked, and their mask (None: all are valid)."""

Convert = Callable[[Values, Mask | None], tuple[Values, Mask]]
"""Converts pixels for the kernels: to floats in which NaN is missing, or to integers with a mask."""


def last_read(read: Read) -> Read:
    """The same reader with the last window in memory."""
    return lru_cache(maxsize=1)(read)


def to_cells(
    read: Read, request: BlockRequest, decision: Decision, variable: Variable, kind: Kind, min_valid: float
) -> Column:
    """Values (of the variable's type) and mask of one block, both of the block's shape.

    Args:
        read: reads the source's pixels; called with the window of the request, or with each of its strips.
        request: the block, its window and the places of its cells.
        decision: how the source is resampled.
        variable: the column to compute.
        kind: of the variable's layer.
        min_valid: smallest share of valid area of a cell, if the decision asks for it.
    """
    circular = kind is Kind.CIRCULAR and decision.method != VALID
    if circular and (decision.route is Route.COPY or decision.method in ("nearest", "mode")):
        read = partial(_read_angles, read)
    if decision.route is Route.COPY:
        values, valid = place(*read(request.window), request.window, lattice_window(decision, request.block))
        values = np.abs(values) if decision.method == "rms" else values
    elif decision.method == "nearest":
        values, valid = _nearest(*read(request.window), request)
    else:
        values, valid = _resample(read, request, decision, kind, variable)
    if decision.share:
        valid &= _share(read, request) >= min_valid - 1e-6
    values = values.astype(variable.dtype, copy=False)
    return np.where(values >= 360, 0, values) if circular else values, valid  # float32 rounds up to 360


def _read_angles(read: Read, window: Window) -> Column:
    """Read angles from 0 to 360 degrees. Infinite ones are missing."""
    values, valid = read(window)
    if values.dtype.kind in "iu":
        return values.astype(np.result_type(values, f"{values.dtype.kind}2")) % 360, valid
    finite = np.isfinite(values)
    angles = np.mod(values, 360, out=np.zeros_like(values), where=finite)
    return angles, finite if valid is None else valid & finite


def _nearest(values: Values, valid: Mask | None, request: BlockRequest) -> tuple[Values, Mask]:
    """The pixels that contain the centres of the cells; on an edge between two pixels the right or lower one."""
    assert request.centres is not None
    window = request.window
    with np.errstate(invalid="ignore"):
        col, row = np.floor(request.centres.cols) - window.col, np.floor(request.centres.rows) - window.row
        inside = (col >= 0) & (col < window.width) & (row >= 0) & (row < window.height)
    at = np.where(inside, row, 0).astype(np.intp), np.where(inside, col, 0).astype(np.intp)
    return values[at], inside if valid is None else inside & valid[at]


def _resample(
    read: Read, request: BlockRequest, decision: Decision, kind: Kind, variable: Variable
) -> tuple[Values, Mask]:
    """Resample by a method other than nearest. Values of invalid cells are arbitrary."""
    method = decision.method
    if method == VALID:
        share = _share(read, request)
        return share, share > 1e-6  # less is rounding
    if method == FRACTION:
        return _apply(read, partial(_members, variable.part), request, "average", decision)
    if kind is Kind.CIRCULAR and method != "mode":
        (north, valid), (east, _) = (
            _apply(read, partial(_components, function), request, method, decision) for function in (np.cos, np.sin)
        )
        return np.degrees(np.arctan2(east, north)) % 360.0, valid
    return _apply(read, partial(_numbers, method, variable.dtype), request, method, decision)


def _apply(read: Read, convert: Convert, request: BlockRequest, method: str, decision: Decision) -> tuple[Values, Mask]:
    """Apply an interpolation kernel or a footprint statistic to converted pixels."""
    if method not in RADIUS:
        result, share = _footprints(read, convert, request, method)
        valid = share > 0
        return result, valid if result.dtype.kind in "iu" else valid & ~np.isnan(result)
    assert request.centres is not None
    assert decision.scale is not None
    pixels, _ = convert(*read(request.window))
    centres, corner = request.centres, (request.window.row, request.window.col)
    kernel = kernels.INTERPOLATIONS.index(method)
    values: Values = kernels.interpolate(pixels, centres.cols, centres.rows, corner, kernel, decision.scale)
    valid = ~np.isnan(values)
    return np.where(valid, values, 0), valid


def _footprints(read: Read, convert: Convert, request: BlockRequest, statistic: str) -> tuple[Values, Values]:
    """A statistic of each cell, and the share of its area that is valid. Values without a share are arbitrary."""
    footprints, windows = request.footprints, request.strips
    assert footprints is not None

    def strips() -> Iterator[tuple[tuple[int, int], Values, Mask]]:
        for window in windows:
            yield (window.row, window.col), *convert(*read(window))

    if len(windows) > 1:  # a block of one cell
        value, part = large_cells.statistic_of(statistic, *footprints.outline(0, 0), strips, footprints.wrap)
        return np.array([[value]]), np.array([[part]], np.float32)
    (strip,) = strips()
    corner, pixels, valid = strip
    result, share = footprints.statistic(statistic, pixels, valid, corner)
    for i, j in np.argwhere(np.isnan(share)):
        result[i, j], share[i, j] = large_cells.statistic_of(
            statistic, *footprints.outline(i, j), partial(iter, (strip,)), footprints.wrap
        )
    return result, share


def _share(read: Read, request: BlockRequest) -> Values:
    """The share of each cell that valid pixels cover."""
    return _footprints(read, _ones, request, "average")[1]


def _numbers(method: str, column: str, values: Values, valid: Mask | None) -> tuple[Values, Mask]:
    """The pixels themselves. 64-bit integers stay integers if the result is one of them: no float holds them."""
    if method in PICKED and values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        return np.ascontiguousarray(values), coverage.EVERYWHERE if valid is None else np.ascontiguousarray(valid)
    return _floats(values, valid, _working_type(values.dtype, column))


def _members(part: float | None, values: Values, valid: Mask | None) -> tuple[Values, Mask]:
    """1 where a pixel is of the class `part`, else 0."""
    return _floats(values == part, valid, "float32")


def _components(function: np.ufunc, values: Values, valid: Mask | None) -> tuple[Values, Mask]:
    """The cosine or sine of angles in degrees."""
    pixels, everywhere = _floats(values, valid, "float64")
    with np.errstate(invalid="ignore"):  # infinite ones are missing
        function(np.radians(pixels, out=pixels), out=pixels)
    return pixels, everywhere


def _ones(values: Values, valid: Mask | None) -> tuple[Values, Mask]:
    """1 where a pixel is valid."""
    return _floats(np.ones(values.shape, np.float32), valid, "float32")


def _floats(values: Values, valid: Mask | None, dtype: str) -> tuple[Values, Mask]:
    """A copy of the pixels as floats, NaN where not valid."""
    pixels = values.astype(dtype, order="C")
    if valid is not None:
        pixels[~valid] = np.nan
    return pixels, coverage.EVERYWHERE


def _working_type(own: np.dtype[Any], column: str) -> str:
    """The float type for the kernels: it holds both the source's values and the column's."""
    wide = column == "float64" or own.itemsize == 8 or (own.kind in "iu" and own.itemsize == 4)
    return "float64" if wide else "float32"


def place(values: Values, valid: Mask | None, window: Window, target: Window) -> tuple[Values, Mask]:
    """Cut or pad the pixels of `window` to `target`. Pixels outside of `window` are not valid."""
    if window == target:
        return values, np.ones(values.shape, bool) if valid is None else valid
    full = np.zeros((target.height, target.width), values.dtype)
    mask = np.zeros(full.shape, bool)
    rows = slice(window.row - target.row, window.row - target.row + window.height)
    cols = slice(window.col - target.col, window.col - target.col + window.width)
    full[rows, cols], mask[rows, cols] = values, True if valid is None else valid
    return full, mask
