"""From a window of pixels to a block of cells: which numbers the kernels are given, and what is made of theirs."""

from __future__ import annotations

from typing import Any

import numpy as np

from geopipe import kernels
from geopipe.layer import Kind, Variable
from geopipe.layerplan import LayerPlan
from geopipe.places import Needs
from geopipe.resampling import FRACTION, RADIUS, VALID, Decision, Way, Window, lattice_window
from geopipe.table import Column, Mask, Values

RANKED = ("mode", "min", "max", "med", "q1", "q3")
"""Methods whose result is one of the pixels: whole numbers that no float holds go through them as their rank."""


def to_cells(
    values: Values, valid: Mask | None, needs: Needs, decision: Decision, variable: Variable, layer: LayerPlan
) -> Column:
    """Values (of the variable's type) and validity of one block, both of the block's shape.

    Args:
        values: pixels of the window, unpacked.
        valid: where they are; None for everywhere.
        needs: the block, its window and the places of its cells.
        decision: how the source gets to the grid.
        variable: what is made of the pixels.
        layer: of the variable.
    """
    if decision.way is Way.COPY:
        made, have = place(values, valid, needs.window, lattice_window(decision, needs.block))
        made = np.abs(made) if decision.method == "rms" else made
    elif decision.method == "nearest":
        made, have = _nearest(values, valid, needs)
    else:
        made, have = _make(values, valid, needs, decision.method, decision, layer.kind, variable)
    if decision.share:
        have &= _share(valid, needs) >= layer.layer.min_valid - 1e-6
    return made.astype(variable.dtype, copy=False), have


def _nearest(values: Values, valid: Mask | None, needs: Needs) -> tuple[Values, Mask]:
    """The pixels in which the centres of the cells lie; on an edge between two, the right or lower one."""
    assert needs.centres is not None
    window = needs.window
    with np.errstate(invalid="ignore"):
        col, row = np.floor(needs.centres.cols) - window.col, np.floor(needs.centres.rows) - window.row
        have = (col >= 0) & (col < window.width) & (row >= 0) & (row < window.height)
    at = np.where(have, row, 0).astype(np.intp), np.where(have, col, 0).astype(np.intp)
    return values[at], have if valid is None else have & valid[at]


def _make(
    values: Values, valid: Mask | None, needs: Needs, method: str, decision: Decision, kind: Kind, variable: Variable
) -> tuple[Values, Mask]:
    """What a method other than nearest makes of the pixels; values where there are none are arbitrary."""
    if method == VALID:
        share = _share(valid, needs)
        return share, share > 1e-6  # less is rounding
    if method == FRACTION:
        share = _resample(_float(values == variable.part, valid, "float32"), needs, "average", decision)
        return share, ~np.isnan(share)
    if kind is Kind.CIRCULAR and method != "mode":
        angle = np.radians(_float(values, valid, "float64"))
        north, east = (_resample(part, needs, method, decision) for part in (np.cos(angle), np.sin(angle)))
        turned = (np.degrees(np.arctan2(east, north)) % 360.0).astype(variable.dtype)
        return np.where(turned >= 360.0, 0.0, turned), ~np.isnan(north)
    ranks = None
    if method in RANKED and values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        ranks, index = np.unique(values, return_inverse=True)
        values = index.reshape(values.shape)
    pixels = _float(values, valid, _working_type(values.dtype, variable.dtype))
    result = _resample(pixels, needs, method, decision)
    have = ~np.isnan(result)
    if ranks is not None:
        result = ranks[np.where(have, result, 0).astype(np.intp)]
    return np.where(have, result, 0), have


def _resample(pixels: Values, needs: Needs, method: str, decision: Decision) -> Values:
    """From floats in which NaN is missing, to such floats."""
    if method not in RADIUS:
        return _footprints(pixels, needs, method)[0]
    assert needs.centres is not None
    assert decision.scale is not None
    corner, kernel = (needs.window.row, needs.window.col), kernels.INTERPOLATIONS.index(method)
    found: Values = kernels.interpolate(pixels, needs.centres.cols, needs.centres.rows, corner, kernel, decision.scale)
    return found


def _footprints(pixels: Values, needs: Needs, statistic: str) -> tuple[Values, Values]:
    """A statistic of each cell, and the share of its area that is valid."""
    feet, window = needs.footprints, needs.window
    assert feet is not None
    found: tuple[Values, Values] = kernels.footprints(
        np.ascontiguousarray(pixels),
        feet.corners.cols,
        feet.corners.rows,
        (window.row, window.col),
        kernels.STATISTICS.index(statistic),
        feet.turn,
        feet.around,
        feet.poles,
        feet.longest,
    )
    return found


def _share(valid: Mask | None, needs: Needs) -> Values:
    """The share of each cell that valid pixels cover."""
    ones = np.ones((needs.window.height, needs.window.width), np.float32)
    return _footprints(_float(ones, valid, "float32"), needs, "average")[1]


def _float(values: Values, valid: Mask | None, dtype: str) -> Values:
    """Pixels as floats of their own, NaN where not valid."""
    pixels = values.astype(dtype)
    if valid is not None:
        pixels[~valid] = np.nan
    return pixels


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
