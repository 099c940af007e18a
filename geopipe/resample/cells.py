"""Resample a window of pixels to a block of cells: prepare the pixels for the kernels, and finish their results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from geopipe.layers.layer import Kind, Variable
from geopipe.merge.blocks import Column, Mask, Values
from geopipe.resample import kernels, large_cells
from geopipe.resample.coverage import EVERYWHERE
from geopipe.resample.locate import BlockRequest
from geopipe.resample.methods import FRACTION, PICKED, RADIUS, VALID, Decision, Route, Window, lattice_window
from geopipe.resample.statistics import Whole, statistic_of
from geopipe.resample.weighted import Moments

Read = Callable[[Window], Column]
"""Reads pixels of the variable's band, unpacked, and their mask (None: all are valid)."""

Conversion = tuple[Any, ...]
"""A function of this module that converts pixels for the kernels, and its first arguments: what makes columns alike."""


class BandBlock:
    """The pixels of one band for one block, and what was computed of them for the column before.

    Args:
        read: reads the band's pixels; called with the window of the request, or with each of its strips.
        request: the block, its window and the places of its cells.
    """

    def __init__(self, read: Read, request: BlockRequest) -> None:
        self.read, self.request = lru_cache(maxsize=1)(read), request
        self._pixels: dict[Conversion, tuple[Values, Mask]] = {}
        self._moments: dict[Conversion, list[Moments]] = {}
        self._share: Values | None = None

    @property
    def window(self) -> Column:
        """The pixels of the request's window."""
        return self.read(self.request.window)

    @property
    def share(self) -> Values:
        """The share of each cell that valid pixels cover: of the block's shape, float32."""
        if self._share is None:
            _, areas, sizes = self._statistic("average", (_ones,))
            self._share = np.minimum(areas / np.where(areas > 0, sizes, 1.0), 1.0).astype(np.float32)
        return self._share

    def pixels(self, conversion: Conversion) -> tuple[Values, Mask]:
        """The pixels for the kernels; of whole cells, where there are any."""
        if conversion not in self._pixels:
            values, valid = self.window
            if (whole := self.request.whole) and whole != self.request.window:
                values, valid = place(values, valid, self.request.window, whole)
            self._pixels = {conversion: _converted(conversion, values, valid)}
        return self._pixels[conversion]

    def statistic(self, name: str, conversion: Conversion) -> tuple[Values, Mask]:
        """A statistic of each cell, and the cells with a valid pixel. Values of others are arbitrary."""
        result, areas, _ = self._statistic(name, conversion)
        return result, areas > 0

    def _statistic(self, name: str, conversion: Conversion) -> tuple[Values, Values, Values | float]:
        """A statistic of each cell, the area of its valid pixels, and its size in the same unit."""
        request, block = self.request, self.request.block
        if len(request.strips) > 1:  # a block of one cell
            value, part = self._large(name, conversion, 0, 0)
            return np.array([[value]]), np.array([[part]]), 1.0
        pixels, valid = self.pixels(conversion)
        shape = block.height, block.width
        known, self._moments = self._moments.get(conversion), {}  # those of another conversion are free memory now
        if request.whole:
            ratio = Whole(request.whole.height // block.height, request.whole.width // block.width)
            result, moments = statistic_of(name, pixels, valid, ratio, known[0] if known else None)
            self._moments = {conversion: [moments]}
            return result.reshape(shape), moments.areas.reshape(shape), float(ratio.rows * ratio.cols)
        results, all_moments, all_sizes = [], [], []
        for n, some in enumerate(request.coverages):
            result, moments = statistic_of(name, pixels, valid, some, known[n] if known else None)
            results.append(result)
            all_moments.append(moments)
            all_sizes.append(some.sizes)
        self._moments = {conversion: all_moments}
        result, sizes = (np.concatenate(parts).reshape(shape) for parts in (results, all_sizes))
        areas = np.concatenate([moments.areas for moments in all_moments]).reshape(shape)
        for i, j in np.argwhere(np.isnan(sizes)):
            result[i, j], areas[i, j] = self._large(name, conversion, i, j)
            sizes[i, j] = 1.0
        return result, areas, sizes

    def _large(self, name: str, conversion: Conversion, i: int, j: int) -> tuple[Any, float]:
        """The statistic and the share of one cell with many pixels."""
        footprints, strips = self.request.footprints, self.request.strips
        assert footprints is not None

        def parts() -> Iterator[tuple[tuple[int, int], Values, Mask]]:
            for window in strips:
                yield (window.row, window.col), *_converted(conversion, *self.read(window))

        return large_cells.statistic_of(name, *footprints.outline(i, j), parts, footprints.wrap)


def to_cells(band: BandBlock, decision: Decision, variable: Variable, kind: Kind, min_valid: float) -> Column:
    """Values (of the variable's type) and mask of one block, both of the block's shape.

    Args:
        band: the pixels.
        decision: how the source is resampled.
        variable: the column to compute.
        kind: of the variable's layer.
        min_valid: smallest share of valid area of a cell, if the decision asks for it.
    """
    request = band.request
    circular = kind is Kind.CIRCULAR and decision.method != VALID
    if decision.route is Route.COPY:
        values, valid = place(*_own(band, circular), request.window, lattice_window(decision, request.block))
        values = np.abs(values) if decision.method == "rms" else values
    elif decision.method == "nearest":
        values, valid = _nearest(*_own(band, circular), request)
    else:
        values, valid = _resample(band, decision, kind, variable)
    if decision.share:
        valid = valid & (band.share >= min_valid - 1e-6)
    values = values.astype(variable.dtype, copy=False)
    return np.where(values >= 360, 0, values) if circular else values, valid  # float32 rounds up to 360


def _own(band: BandBlock, circular: bool) -> Column:
    """The pixels of the window, of which some become cells as they are."""
    return _angles(*band.window) if circular else band.window


def _nearest(values: Values, mask: Mask | None, request: BlockRequest) -> tuple[Values, Mask]:
    """The pixels that contain the centres of the cells. They are moved as bits: one kernel for each size of a type."""
    assert request.centres is not None
    bits = np.ascontiguousarray(values).view(f"u{values.itemsize}")
    valid = EVERYWHERE if mask is None else np.ascontiguousarray(mask)
    corner = request.window.row, request.window.col
    result, inside = kernels.nearest(bits, valid, request.centres.cols, request.centres.rows, corner)
    return result.view(values.dtype), inside


def _angles(values: Values, valid: Mask | None) -> Column:
    """Angles from 0 to 360 degrees. Infinite ones are missing."""
    if values.dtype.kind in "iu":
        return values.astype(np.result_type(values, f"{values.dtype.kind}2")) % 360, valid
    finite = np.isfinite(values)
    angles = np.mod(values, 360, out=np.zeros_like(values), where=finite)
    return angles, finite if valid is None else valid & finite


def _resample(band: BandBlock, decision: Decision, kind: Kind, variable: Variable) -> tuple[Values, Mask]:
    """Resample by a method other than nearest. Values of invalid cells are arbitrary."""
    method = decision.method
    if method == VALID:
        return band.share, band.share > 1e-6  # less is rounding
    if method == FRACTION:
        return _apply(band, (_members, variable.part), "average", decision)
    if kind is Kind.CIRCULAR and method != "mode":
        (north, valid), (east, _) = (
            _apply(band, (_components, function), method, decision) for function in (np.cos, np.sin)
        )
        return np.degrees(np.arctan2(east, north)) % 360.0, valid
    dtype = band.read(band.request.strips[0])[0].dtype
    if method in PICKED and dtype.kind in "iu" and dtype.itemsize == 8:
        conversion: Conversion = (_integers, kind is Kind.CIRCULAR)
    else:
        conversion = (_numbers, _working_type(dtype, variable.dtype), kind is Kind.CIRCULAR)
    return _apply(band, conversion, method, decision)


def _apply(band: BandBlock, conversion: Conversion, method: str, decision: Decision) -> tuple[Values, Mask]:
    """Apply an interpolation kernel or a footprint statistic to converted pixels."""
    if method not in RADIUS:
        result, valid = band.statistic(method, conversion)
        return result, valid if result.dtype.kind in "iu" else valid & ~np.isnan(result)
    request = band.request
    assert request.centres is not None
    assert decision.scale is not None
    pixels, _ = band.pixels(conversion)
    centres, corner = request.centres, (request.window.row, request.window.col)
    kernel = kernels.INTERPOLATIONS.index(method)
    return kernels.interpolate(pixels, centres.cols, centres.rows, corner, kernel, decision.scale)


def _converted(conversion: Conversion, values: Values, valid: Mask | None) -> tuple[Values, Mask]:
    """Pixels for the kernels: floats in which NaN is missing, or integers with a mask."""
    function, *arguments = conversion
    return function(*arguments, values, valid)  # type: ignore[no-any-return]


def _numbers(dtype: str, circular: bool, values: Values, valid: Mask | None) -> tuple[Values, Mask]:
    """The pixels themselves as floats."""
    values, valid = _angles(values, valid) if circular else (values, valid)
    return _floats(values, valid, dtype)


def _integers(circular: bool, values: Values, valid: Mask | None) -> tuple[Values, Mask]:
    """64-bit integers, which no float holds, as they are."""
    values, valid = _angles(values, valid) if circular else (values, valid)
    everywhere = np.ones(values.shape, bool) if valid is None else np.ascontiguousarray(valid)
    return np.ascontiguousarray(values), everywhere


def _members(part: float | None, values: Values, valid: Mask | None) -> tuple[Values, Mask]:
    """1 where a pixel is of the class `part`, else 0."""
    return _floats(values == part, valid, "float32")


def _components(function: np.ufunc, values: Values, valid: Mask | None) -> tuple[Values, Mask]:
    """The cosine or sine of angles in degrees."""
    with np.errstate(invalid="ignore"):  # infinite ones are missing
        return _floats(function(np.radians(values.astype(np.float64))), valid, "float64")


def _ones(values: Values, valid: Mask | None) -> tuple[Values, Mask]:
    """1 where a pixel is valid."""
    return _floats(np.ones(values.shape, np.float32), valid, "float32")


def _floats(values: Values, valid: Mask | None, dtype: str) -> tuple[Values, Mask]:
    """The pixels as floats, NaN where not valid; not to be written to."""
    pixels = values.astype(dtype, order="C", copy=valid is not None)
    if valid is not None:
        pixels[~valid] = np.nan
    return pixels, EVERYWHERE


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
