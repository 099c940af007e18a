"""Rasters on disk: headers, windows, and their way to a canonical block. The only module of the core with rasterio.

One mechanism serves every input: the window that a block needs is read into memory, missing values are found and
packed values unpacked there, and GDAL then resamples that array, in which missing is NaN and nothing else is special.
"""

from __future__ import annotations

import glob
import math
import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RioWindow

from geopipe import events
from geopipe.errors import SourceError
from geopipe.estimate import READ_CACHE
from geopipe.grid import Grid, Tile, unrolled_crs
from geopipe.layer import Band, Header, Overlap, Placed, Source
from geopipe.plan import LayerPlan, Plan
from geopipe.resampling import Decision, Way, Window, canonical_blocks, clip, lattice_window, whole_turn
from geopipe.table import BlockRow, Column, Mask, Values, overlay, reduce_columns

GDAL_TYPE = {"float32": "Float32", "float64": "Float64"}
COMPANIONS = (".aux.xml", ".ovr", ".msk", ".tfw", ".jgw", ".wld", ".prj", ".hdr", ".txt", ".md", ".json", ".toml")
"""Endings of files that lie beside rasters in a folder and are none."""

OPEN_FILES = 128
"""Datasets that a worker keeps open."""


def environment() -> AbstractContextManager[object]:
    """GDAL's settings for everything that this module does; enter it once around the work."""
    settings = {"GDAL_CACHEMAX": READ_CACHE, "GDAL_NUM_THREADS": 1, "GDAL_MEM_ENABLE_OPEN": True}
    env: AbstractContextManager[object] = rasterio.Env(**settings)
    return env


def versions() -> dict[str, str]:
    """Versions of the raster libraries."""
    return {"rasterio": rasterio.__version__, "gdal": rasterio.__gdal_version__}


def expand(path: str) -> list[str]:
    """The files that a path means: itself, the files of a folder, or what a glob pattern matches, sorted."""
    if "://" in path or path.startswith("/vsi"):
        return [path]
    if os.path.isdir(path) and not path.endswith(".zarr"):
        files = (p for p in Path(path).iterdir() if p.is_file() and not p.name.startswith("."))
        return sorted(str(p) for p in files if not p.name.lower().endswith(COMPANIONS))
    if any(c in path for c in "*?[") and not os.path.exists(path):
        return sorted(glob.glob(path, recursive=True))
    return [path]


def _open(uri: str, where: str, layer: str | None) -> DatasetReader:
    if uri.upper().startswith("MEM:"):
        raise SourceError(f"{where}{uri} names memory, not a file", "give a file or a URI", layer)
    try:
        return rasterio.open(uri)
    except RasterioError as error:
        local = "://" not in uri and not uri.startswith("/vsi") and ":" not in uri[2:]
        if local and not os.path.exists(uri):
            raise SourceError(
                f"{where}there is no file {uri}", "correct path = (it is relative to the settings file)", layer
            ) from None
        if local and not os.access(uri, os.R_OK):
            raise SourceError(
                f"{where}{uri} may not be read", "give this user the permission to read it", layer
            ) from None
        raise SourceError(f"{where}{uri} is no raster that GDAL can open: {error}", "correct path =", layer) from None


def inspect(uri: str, layer: str | None = None) -> Header:
    """The header of a raster, without a pixel read.

    Raises:
        SourceError: the file is missing, unreadable or no raster.
    """
    where = f"layer {layer}: " if layer else ""
    with environment(), _open(uri, where, layer) as ds:
        bands = tuple(_band(ds, i) for i in ds.indexes)
        gcps, _ = ds.gcps
        stat = os.stat(uri) if os.path.exists(uri) else None
        structure = ds.tags(ns="IMAGE_STRUCTURE")
        return Header(
            uri=uri,
            driver=ds.driver,
            crs=_crs_text(ds.crs),
            transform=Affine(*ds.transform[:6]),
            width=ds.width,
            height=ds.height,
            bands=bands,
            block=ds.block_shapes[0] if bands else (1, 1),
            overviews=tuple(ds.overviews(1)) if bands else (),
            compression=structure.get("COMPRESSION", ""),
            interleave=structure.get("INTERLEAVE", ""),
            subdatasets=tuple(ds.subdatasets),
            has_gcps=bool(gcps),
            has_rpcs=ds.rpcs is not None,
            size=stat.st_size if stat else 0,
            mtime_ns=stat.st_mtime_ns if stat else 0,
        )


def _band(ds: DatasetReader, index: int) -> Band:
    color = ds.colorinterp[index - 1]
    return Band(
        index=index,
        dtype=ds.dtypes[index - 1],
        nodata=ds.nodatavals[index - 1],
        scale=ds.scales[index - 1],
        offset=ds.offsets[index - 1],
        unit=ds.units[index - 1] or "",
        description=ds.descriptions[index - 1] or "",
        paletted=color is ColorInterp.palette,
        alpha=color is ColorInterp.alpha,
        mask="+".join(flag.name for flag in ds.mask_flag_enums[index - 1]),
    )


def _crs_text(crs: CRS | None) -> str | None:
    """An authority code where the file's CRS is that one without doubt, else its WKT."""
    if not crs:
        return None
    authority = crs.to_authority(confidence_threshold=100)
    return ":".join(authority) if authority else crs.to_wkt()


class Readers:
    """Open datasets of one worker, the least recently used closed first."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, DatasetReader] = OrderedDict()

    def get(self, uri: str, layer: str) -> DatasetReader:
        if uri in self._open:
            self._open.move_to_end(uri)
        else:
            self._open[uri] = _open(uri, f"layer {layer}: ", layer)
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        return self._open[uri]

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


def read_tile(plan: Plan, layer: LayerPlan, tile: Tile, readers: Readers) -> Iterator[BlockRow]:
    """The block rows of one layer in one tile: one for each variable and each source that meets the tile.

    Raises:
        SourceError: pixels cannot be read; names layer, file, band, window and GDAL's cause.
    """
    start = time.perf_counter()
    first = plan.first_variable[layer.layer.name]
    for rank, decision in enumerate(layer.decisions):
        blocks = list(canonical_blocks(plan.grid, decision, tile))
        if not blocks:
            continue
        for index, variable in enumerate(layer.variables):
            values = np.zeros((tile.height, tile.width), variable.dtype)
            valid = np.zeros((tile.height, tile.width), bool)
            for block, window in blocks:
                part = _read_block(plan, layer, decision, index, variable.dtype, block, window, readers)
                rows = slice(block.row - tile.row, block.row - tile.row + block.height)
                cols = slice(block.col - tile.col, block.col - tile.col + block.width)
                values[rows, cols], valid[rows, cols] = part[0], True if part[1] is None else part[1]
            yield BlockRow(tile.key, first + index, rank, values, None if valid.all() else valid)
    events.emit(events.Progress("read", 1, tile.cells * len(layer.variables), time.perf_counter() - start))


def _read_block(
    plan: Plan,
    layer: LayerPlan,
    decision: Decision,
    index: int,
    dtype: str,
    block: Tile,
    window: Window,
    readers: Readers,
) -> Column:
    """Values (of type `dtype`) and validity of one block of the variable `index`, both of the block's shape."""
    values, valid = read_window(decision.source, index, window, layer, readers)
    if decision.way is Way.COPY or (decision.way is Way.DECIMATE and decision.method == "nearest"):
        values, mask = _place(values, valid, window, lattice_window(decision, block))
        ry, rx = decision.ratio  # 1, 1 for a copy; else the pixel at the cell's centre, lower right where there is none
        values, mask = values[ry // 2 :: ry, rx // 2 :: rx], mask[ry // 2 :: ry, rx // 2 :: rx]
        values = np.abs(values) if decision.method == "rms" else values
        return values.astype(dtype, copy=False), mask
    codes = None
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8 and decision.method in ("nearest", "mode"):
        codes, values = np.unique(values, return_inverse=True)  # 64-bit classes survive float64 as their index
        values = values.reshape(window.height, window.width)
    working = values.astype(_working_type(values.dtype, dtype))
    if valid is not None:
        working[~valid] = np.nan
    if decision.way is Way.DECIMATE:
        result = _shrink(working, window, lattice_window(decision, block), block, decision.method)
    else:
        result = _warp(working, window, decision, plan.grid, block)
    have = ~np.isnan(result)
    result = np.where(have, result, 0)
    if decision.method == "rms":
        np.abs(result, out=result)  # of a single pixel GDAL returns the pixel
    if codes is not None:
        result = codes[result.astype(np.int64)]
    return result.astype(dtype), have


def _working_type(own: np.dtype[Any], column: str) -> str:
    """The float type in which GDAL computes: one that holds both the source's values and the column's."""
    wide = column == "float64" or own.itemsize == 8 or (own.kind in "iu" and own.itemsize == 4)
    return "float64" if wide else "float32"


def _place(values: Values, valid: Mask | None, window: Window, wanted: Window) -> tuple[Values, Mask]:
    """Cut or pad what was read from `window` to `wanted`; pixels outside are not valid."""
    if window == wanted:
        return values, np.ones(values.shape, bool) if valid is None else valid
    full = np.zeros((wanted.height, wanted.width), values.dtype)
    mask = np.zeros(full.shape, bool)
    rows = slice(window.row - wanted.row, window.row - wanted.row + window.height)
    cols = slice(window.col - wanted.col, window.col - wanted.col + window.width)
    full[rows, cols], mask[rows, cols] = values, True if valid is None else valid
    return full, mask


def read_window(source: Source, index: int, window: Window, layer: LayerPlan, readers: Readers) -> Column:
    """Pixels of a source for the variable `index`, unpacked, and where they are valid (None: everywhere).

    A window may reach beyond the source; no pixel is valid there. A mosaic settles its overlaps by the layer's rule,
    before any resampling.
    """
    parts = []
    around = whole_turn(source)
    turns = (0,) if around is None else (0, -around, around)  # where longitudes go round, so do the columns
    for placed, shift in product(source.files, turns):
        row, col = placed.row, placed.col + shift
        local = clip(
            Window(window.row - row, window.col - col, window.height, window.width),
            placed.header.height,
            placed.header.width,
        )
        if local is not None:
            values, valid = _read_file(placed, index, local, layer, readers)
            here = Window(local.row + row, local.col + col, local.height, local.width, window.meridian)
            parts.append((values, valid) if here == window else _place(values, valid, here, window))
    if not parts:
        shape = (window.height, window.width)
        return np.zeros(shape, source.files[0].bands[index].dtype), np.zeros(shape, bool)
    kind = np.result_type(*(values for values, _ in parts))  # a packed file beside one that is not
    return overlay([(values.astype(kind, copy=False), valid) for values, valid in parts], layer.layer.overlap)


def _read_file(placed: Placed, index: int, window: Window, layer: LayerPlan, readers: Readers) -> Column:
    """Pixels of one file for the variable `index`; where it has several bands, reduced before any resampling."""
    uri, name, band = placed.header.uri, layer.layer.name, placed.bands[index]
    if not band.reduce:
        return _read_band(uri, band, window, name, readers)
    bands = (band, *band.more)
    return reduce_columns((_read_band(uri, b, window, name, readers) for b in bands), Overlap(band.reduce))


def _read_band(uri: str, band: Band, window: Window, name: str, readers: Readers) -> Column:
    ds = readers.get(uri, name)
    place = RioWindow(window.col, window.row, window.width, window.height)
    try:
        values = ds.read(band.index, window=place)
        masked = MaskFlags.per_dataset in ds.mask_flag_enums[band.index - 1]
        valid = ds.read_masks(band.index, window=place) != 0 if masked else None
    except RasterioError as error:
        cause = error.__cause__ or error
        raise SourceError(
            f"layer {name}: band {band.index} of {uri} cannot be read at row {window.row}, column {window.col}, "
            f"{window.height} x {window.width} pixels: {cause}",
            f'repair the file, or leave it out with on_error = "skip" in the layer {name}',
            name,
        ) from None
    missing = find_missing(values, band.nodata)
    if missing is not None:
        valid = ~missing if valid is None else valid & ~missing
    if band.scale != 1.0 or band.offset != 0.0:
        values = values.astype(np.float64) * band.scale + band.offset
    return values, valid


def find_missing(values: Values, nodata: float | int | None) -> Mask | None:
    """Where `values` are missing: equal to nodata, or NaN. None where no value can be.

    A float nodata beyond 1e30 counts with its first five digits: writers differ in the last digits of 3.4e38.
    """
    if values.dtype.kind == "f":
        missing: Mask = np.isnan(values)
        if nodata is not None and abs(nodata) > 1e30:
            missing |= np.isclose(values, nodata, rtol=1e-5, atol=0.0)
        elif nodata is not None:
            missing |= values == values.dtype.type(nodata)
        return missing
    if nodata is None or not math.isfinite(nodata) or int(nodata) != nodata:
        return None
    limits = np.iinfo(values.dtype)
    return values == values.dtype.type(int(nodata)) if limits.min <= nodata <= limits.max else None


def _memory_raster(pixels: Values, transform: Affine, mode: str = "r") -> DatasetReader:
    """A raster over the memory of a float array, without a copy. The array must outlive it."""
    height, width = pixels.shape
    return rasterio.open(
        f"MEM:::DATAPOINTER={pixels.__array_interface__['data'][0]},PIXELS={width},LINES={height},BANDS=1,"
        f"DATATYPE={GDAL_TYPE[pixels.dtype.name]},GEOTRANSFORM={'/'.join(repr(float(v)) for v in transform.to_gdal())}",
        mode,
    )


def _shrink(pixels: Values, window: Window, wanted: Window, block: Tile, method: str) -> Values:
    """Whole pixels to cells, by average or mode, missing ones left out."""
    if window != wanted:
        padded, mask = _place(pixels, None, window, wanted)
        padded[~mask] = np.nan
        pixels = padded
    pixels = np.ascontiguousarray(pixels)
    with _memory_raster(pixels, Affine.identity(), "r+") as ds:
        ds.nodata = math.nan
        shrunk: Values = ds.read(1, out_shape=(block.height, block.width), resampling=Resampling[method])
    cells = pixels.reshape(block.height, wanted.height // block.height, block.width, wanted.width // block.width)
    shrunk[np.isnan(cells).all(axis=(1, 3))] = np.nan  # where GDAL's mode of nothing is 0
    return shrunk


@lru_cache(maxsize=256)
def _crs(text: str) -> CRS:
    return CRS.from_user_input(text)


def _warp(pixels: Values, window: Window, decision: Decision, grid: Grid, block: Tile) -> Values:
    """One canonical block of the warp; NaN is missing, before and after."""
    source = decision.source
    options = {}
    if decision.scale is not None:
        options = {"XSCALE": 1 / decision.scale[0], "YSCALE": 1 / decision.scale[1]}
    pixels = np.ascontiguousarray(pixels)
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
            resampling=Resampling[decision.method],
            tolerance=decision.tolerance,
            **options,
        ) as vrt,
    ):
        warped: Values = vrt.read(1)
        return warped
