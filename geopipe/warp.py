"""From a window of pixels to a block of cells, in memory: GDAL resamples a float array in which missing is NaN.

What GDAL has no method for (a standard deviation, the share of a class, an angle) is put together from its averages.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.rpc import RPC
from rasterio.vrt import WarpedVRT
from rasterio.warp import reproject

from geopipe.grid import Grid, Tile, unrolled_crs
from geopipe.layer import Georeference, Kind, Variable
from geopipe.plan import LayerPlan
from geopipe.resampling import AVERAGED, FRACTION, RADIUS, VALID, Decision, Way, Window, lattice_window
from geopipe.table import Column, Mask, Values

MOST_CLASSES = 64
"""More values than these in the window of a block are no classes whose areas are compared."""

GDAL_TYPE = {"float32": "Float32", "float64": "Float64"}

Resample = Callable[[Values], Values]
"""From the pixels of a window (NaN is missing) to the cells of a block, by the decision's method in GDAL's terms."""


def to_cells(
    values: Values,
    valid: Mask | None,
    window: Window,
    decision: Decision,
    grid: Grid,
    block: Tile,
    variable: Variable,
    layer: LayerPlan,
) -> Column:
    """Values (of the variable's type) and validity of one block, both of the block's shape.

    Args:
        values: pixels of the window, unpacked.
        valid: where they are; None for everywhere.
        window: of the decision's source.
        decision: how the source gets to the grid.
        grid: the grid.
        block: of the grid.
        variable: what is made of the pixels.
        layer: of the variable.
    """
    if decision.way is Way.COPY or (decision.way is Way.DECIMATE and decision.method == "nearest"):
        return _pick(values, valid, window, decision, block, variable.dtype)
    if decision.way is Way.DECIMATE:
        resample = partial(_shrink, window=window, decision=decision, block=block)
    else:
        resample = partial(_warp, window=window, decision=decision, grid=grid, block=block)
    made, have = _make(values, valid, decision.method, layer.kind, variable, resample)
    if decision.method == "mode" and decision.way is Way.WARP:
        average = partial(_warp, window=window, decision=decision, grid=grid, block=block, share=True)
        made = _majority(made, values, valid, average)
    if layer.layer.min_valid > 0 and decision.method != VALID:
        share = _share(values, valid, decision, window, grid, block)
        have &= share >= layer.layer.min_valid - 1e-6
    return made.astype(variable.dtype, copy=False), have


def _pick(values: Values, valid: Mask | None, window: Window, decision: Decision, block: Tile, dtype: str) -> Column:
    """The pixels that are the cells; where several make one, the one at its centre, lower right of it if need be."""
    values, mask = place(values, valid, window, lattice_window(decision, block))
    ry, rx = decision.ratio
    values, mask = values[ry // 2 :: ry, rx // 2 :: rx], mask[ry // 2 :: ry, rx // 2 :: rx]
    values = np.abs(values) if decision.method == "rms" else values
    return values.astype(dtype, copy=False), mask


def _make(
    values: Values, valid: Mask | None, method: str, kind: Kind, variable: Variable, resample: Resample
) -> tuple[Values, Mask]:
    """What the method makes of the pixels; values where there are none are arbitrary."""
    if method == VALID:
        share = resample(_valid(values, valid))
        return share, share > 1e-6  # less is the rounding of weights
    if method == FRACTION:
        share = resample(_float(values == variable.part, valid, "float32"))
        return share, ~np.isnan(share)
    if method == "std":
        pixels = _float(values, valid, "float64")
        pixels -= np.nanmean(pixels) if not np.isnan(pixels).all() else 0.0  # near zero, squares lose no digits
        mean, square = resample(pixels), resample(pixels * pixels)
        return np.sqrt(np.maximum(square - mean * mean, 0.0)), ~np.isnan(mean)
    if kind is Kind.CIRCULAR and method not in ("nearest", "mode"):
        angle = np.radians(_float(values, valid, "float64"))
        north, east = resample(np.cos(angle)), resample(np.sin(angle))
        turned = (np.degrees(np.arctan2(east, north)) % 360.0).astype(variable.dtype)
        return np.where(turned >= 360.0, 0.0, turned), ~np.isnan(north)
    codes = None
    if _needs_codes(values.dtype, method):
        shape = values.shape
        codes, values = np.unique(values, return_inverse=True)
        values = values.reshape(shape)
    result = resample(_float(values, valid, _working_type(values.dtype, variable.dtype)))
    have = ~np.isnan(result)
    result = np.where(have, result, 0)
    if method == "rms":
        np.abs(result, out=result)  # of a single pixel GDAL returns the pixel
    if codes is not None:
        result = codes[result.astype(np.int64)]
    return result, have


def _majority(made: Values, values: Values, valid: Mask | None, average: Resample) -> Values:
    """The class with the largest share of each cell's area; `made`, GDAL's mode, decides between equal shares.

    GDAL's own mode counts the pixels that a cell touches, each as one (until 3.10), or rounds their weights to whole
    numbers for float types (since). Where there are too many values to be classes, it is left as it is.
    """
    classes = np.unique(values if valid is None else values[valid])
    if not 1 < len(classes) <= MOST_CLASSES:
        return made
    largest, own = np.full(made.shape, -1.0), np.zeros(made.shape)
    winner = made.copy()
    for one in classes:
        share = np.nan_to_num(average(_float(values == one, valid, "float32")))
        own = np.where(made == one, share, own)
        winner = np.where(share > largest, one, winner)
        largest = np.maximum(largest, share)
    return np.where(largest > own + 1e-5, winner, made)


def _needs_codes(own: np.dtype[Any], method: str) -> bool:
    """Whether classes must travel as their index among the window's classes, so that no bit is lost.

    GDAL resamples in float64 at most, and counts for a mode in float32.
    """
    whole = own.kind in "iu"
    if method == "mode":
        return own.itemsize >= (4 if whole else 8)
    return method == "nearest" and whole and own.itemsize == 8


def _share(values: Values, valid: Mask | None, decision: Decision, window: Window, grid: Grid, block: Tile) -> Values:
    """The share of each cell that valid pixels cover, whatever the method of the decision is."""
    if decision.way is Way.DECIMATE:
        return _shrink(_valid(values, valid), window=window, decision=decision, block=block, share=True)
    return _warp(_valid(values, valid), window=window, decision=decision, grid=grid, block=block, share=True)


def _valid(values: Values, valid: Mask | None) -> Values:
    """1 where a pixel is valid and 0 where not, none missing."""
    return np.ones(values.shape, np.float32) if valid is None else valid.astype(np.float32)


def _float(values: Values, valid: Mask | None, dtype: str) -> Values:
    """Pixels as floats of their own, NaN where not valid."""
    pixels = values.astype(dtype)
    if valid is not None:
        pixels[~valid] = np.nan
    return pixels


def _working_type(own: np.dtype[Any], column: str) -> str:
    """The float type in which GDAL computes: one that holds both the source's values and the column's."""
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


def _memory_raster(pixels: Values, transform: Affine, mode: str = "r") -> DatasetReader:
    """A raster over the memory of a float array, without a copy. The array must outlive it."""
    height, width = pixels.shape
    return rasterio.open(
        f"MEM:::DATAPOINTER={pixels.__array_interface__['data'][0]},PIXELS={width},LINES={height},BANDS=1,"
        f"DATATYPE={GDAL_TYPE[pixels.dtype.name]},GEOTRANSFORM={'/'.join(repr(float(v)) for v in transform.to_gdal())}",
        mode,
    )


def _gdal(method: str) -> Resampling:
    """The method of GDAL that is behind one of ours."""
    return Resampling["average" if method in AVERAGED else method]


def _shrink(pixels: Values, *, window: Window, decision: Decision, block: Tile, share: bool = False) -> Values:
    """Whole pixels to cells, by average or mode, missing ones left out.

    Args:
        pixels: floats; with `share`, the valid area of each pixel, whatever the method of the decision is.
        window: where they are.
        decision: how they get to the grid.
        block: of the grid.
        share: average them, and let nothing be valid beyond the source.
    """
    share = share or decision.method == VALID
    wanted = lattice_window(decision, block)
    if window != wanted:
        pixels, mask = place(pixels, None, window, wanted)
        pixels[~mask] = 0.0 if share else np.nan
    pixels = np.ascontiguousarray(pixels)
    with _memory_raster(pixels, Affine.identity(), "r+") as ds:
        ds.nodata = math.nan
        shape = (block.height, block.width)
        shrunk: Values = ds.read(1, out_shape=shape, resampling=_gdal("average" if share else decision.method))
    cells = pixels.reshape(block.height, wanted.height // block.height, block.width, wanted.width // block.width)
    shrunk[np.isnan(cells).all(axis=(1, 3))] = np.nan  # where GDAL's mode of nothing is 0
    return shrunk


@lru_cache(maxsize=256)
def _crs(text: str) -> CRS:
    return CRS.from_user_input(text)


def _warp(
    pixels: Values, *, window: Window, decision: Decision, grid: Grid, block: Tile, share: bool = False
) -> Values:
    """One canonical block of the warp; NaN is missing, before and after."""
    source, options = decision.source, {}
    if decision.scale is not None and not share:
        options = {"XSCALE": 1 / decision.scale[0], "YSCALE": 1 / decision.scale[1]}
    pixels = np.ascontiguousarray(pixels)
    if source.georeference is not None:
        method = _gdal("average" if share else decision.method)
        return _rectify(pixels, source.georeference, window, decision, grid, block, method)
    crs, transform = source.crs, source.transform @ Affine.translation(window.col, window.row)
    if window.meridian is not None:  # GDAL's longitudes end at 180 degrees; those of a plane about the window do not
        meridian = round(window.meridian, 6)
        crs, factor = unrolled_crs(crs, meridian)
        transform = Affine.scale(factor) @ Affine.translation(-meridian, 0) @ transform
    with (
        _memory_raster(pixels, transform) as ds,
        WarpedVRT(
            ds,
            src_crs=_crs(crs),
            src_nodata=math.nan,
            crs=_crs(grid.crs),
            transform=grid.transform_of(block),
            width=block.width,
            height=block.height,
            nodata=math.nan,
            resampling=_gdal("average" if share else decision.method),
            tolerance=decision.tolerance,
            **options,
        ) as vrt,
    ):
        warped: Values = vrt.read(1)
        return warped


def _rectify(
    pixels: Values,
    georeference: Georeference,
    window: Window,
    decision: Decision,
    grid: Grid,
    block: Tile,
    method: Resampling,
) -> Values:
    """One block of a source that GCPs or an RPC model place, by GDAL's own transformer for them.

    That transformer is met only through `reproject`, whose tolerance is GDAL's eighth of a pixel.
    """
    placed: dict[str, Any] = {}
    if georeference.points:
        points = georeference.points
        placed["gcps"] = [GroundControlPoint(r - window.row, c - window.col, x, y) for r, c, x, y in points]
    else:
        tags = dict(georeference.rpcs)
        tags["LINE_OFF"] = str(float(tags["LINE_OFF"]) - window.row)
        tags["SAMP_OFF"] = str(float(tags["SAMP_OFF"]) - window.col)
        placed["rpcs"] = RPC.from_gdal(tags)
    if decision.scale is not None and method.name in RADIUS:
        placed |= {"XSCALE": 1 / decision.scale[0], "YSCALE": 1 / decision.scale[1]}
    cells = np.full((block.height, block.width), np.nan, pixels.dtype)
    reproject(
        pixels,
        cells,
        src_crs=_crs(decision.source.crs),
        src_nodata=math.nan,
        dst_crs=_crs(grid.crs),
        dst_transform=grid.transform_of(block),
        dst_nodata=math.nan,
        resampling=method,
        **placed,
    )
    return cells
