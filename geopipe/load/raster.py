"""Read raster files: their headers, and windows of their pixels.

GDAL only decodes pixels. A window is read into memory; there missing values are masked, bit fields taken out and packed
values unpacked. `geopipe.resample` resamples the arrays, so that odd inputs need only another way to read a window.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader
from rasterio.transform import RPCTransformer
from rasterio.windows import Window as RioWindow

from geopipe.errors import SourceError
from geopipe.layers.access import NOTHING, Access
from geopipe.layers.header import Band, Georeference, Header, Stamp
from geopipe.layers.layer import Layer, Overlap, Placed, Source
from geopipe.layers.times import Place
from geopipe.layers.uris import is_remote
from geopipe.load.categories import Categories, from_attributes, from_sidecar
from geopipe.load.gdal import GDAL_ERRORS, coordinates, is_transposed, network, open_raster, open_variable, variables
from geopipe.load.messages import REPAIR, hearing, refusing_damage
from geopipe.load.missing import declared, missing_in
from geopipe.load.opening import Target, is_store, listing, look_at, reading
from geopipe.load.stamps import local_file, refuse_change, stamp_of
from geopipe.merge.blocks import Column, Mask, Values
from geopipe.merge.tile import overlay, reduce_columns
from geopipe.plan.estimate import OPEN_FILES, READ_CACHE
from geopipe.resample.cells import place
from geopipe.resample.methods import Window, clip
from geopipe.resample.pixels import wraps_around

COMPANIONS = (".aux.xml", ".ovr", ".msk", ".tfw", ".jgw", ".wld", ".prj", ".hdr", ".txt", ".md", ".json", ".toml")
"""Endings of files beside rasters in a folder that are no rasters themselves."""

CF_DRIVERS = ("netCDF", "HDF5", "HDF5Image", "Zarr")
"""Drivers whose bands have attributes by the CF conventions."""

AT_ONCE = 1 << 20
"""Pixels of several bands to read in one call: the cost of a call grows with the bands of the file."""


@contextmanager
def environment(cache: int | None = None) -> Iterator[None]:
    """GDAL's settings for all reads, with its messages collected (see `messages`). Enter it once, around all work.

    Args:
        cache: bytes of GDAL's block cache; None for READ_CACHE.
    """
    settings = {"GDAL_CACHEMAX": cache or READ_CACHE, "GDAL_NUM_THREADS": 1, "GDAL_VRT_ENABLE_PYTHON": "NO"} | network()
    with hearing(), rasterio.Env(**settings):
        yield


def versions() -> dict[str, str]:
    """Versions of rasterio and GDAL."""
    return {"rasterio": rasterio.__version__, "gdal": rasterio.__gdal_version__}


def expand(path: str) -> list[str]:
    """The files of a path, sorted: itself, the files of a folder, or the matches of a glob pattern."""
    if is_remote(path) and not os.path.exists(path):
        if any(c in path.partition("?")[0] for c in "*["):
            raise SourceError(f"{path} is a pattern; only local files can be found by one", "list the files in path =")
        return [path]
    skipped = COMPANIONS if os.path.isdir(path) and not is_store(path) else ()
    return [file for file in listing(path) if not file.lower().endswith(skipped)]


def inspect(uri: str, access: Access = NOTHING, variable: str | None = None) -> Header:
    """Read the header of a raster, or of a variable of a file with several. Reads no pixels.

    Raises:
        SourceError: the file is missing, unreadable or no raster, or has no such variable.
    """
    with environment():
        target = look_at(uri, access)  # before the size of a file is read that may not be opened
        stamp = stamp_of(uri)  # before it is read, so that a change meanwhile counts, too
        opened, uri = open_variable(uri, variable, access)
        with opened as ds, reading(ds), refusing_damage(uri, uri, access):
            try:
                return _header(ds, uri, stamp, target, access)
            except GDAL_ERRORS as error:
                raise access.error(f"the header of {uri} is damaged: {error}", REPAIR) from None


def _header(ds: DatasetReader, uri: str, stamp: Stamp, target: Target, access: Access) -> Header:
    bands = tuple(_bands(ds, coordinates(ds, uri), from_sidecar(local_file(uri))))
    gcps, _ = ds.gcps
    beside: tuple[str, ...] = ()
    if (file := local_file(uri)) is not None and not os.path.isdir(file):
        names = {*target.files, *(ds.files if _has_own_overviews(ds) else ())}  # GDAL's list includes overviews
        beside = tuple(sorted({p for p in names if os.path.isfile(p) and not os.path.samefile(p, file)}))
        stamp = stamp_of(uri, beside) if beside else stamp
    structure = ds.tags(ns="IMAGE_STRUCTURE")
    header = Header(
        uri=uri,
        driver=ds.driver,
        crs=_crs_text(ds.crs),
        transform=Affine(*ds.transform[:6]),
        width=ds.width,
        height=ds.height,
        bands=bands,
        block=ds.block_shapes[0] if bands else (1, 1),
        overviews=tuple(ds.overviews(1)) if bands and _has_own_overviews(ds) else (),
        compression=structure.get("COMPRESSION", ""),
        interleave=structure.get("INTERLEAVE", ""),
        subdatasets=tuple(variables(ds, uri).values()),
        has_gcps=bool(gcps),
        has_rpcs=ds.rpcs is not None,
        stamp=stamp,
        beside=beside,
        reaches=target.reaches,
    )
    if not is_transposed(ds, uri, access):
        return header
    t, block = header.transform, header.block
    transform = Affine(t.e, t.d, t.f, t.b, t.a, t.c)
    width, height = header.height, header.width
    return replace(header, transform=transform, width=width, height=height, block=(block[1], block[0]), transposed=True)


def _has_own_overviews(ds: DatasetReader) -> bool:
    """Whether GDAL looks for overviews only in the file and beside it, and not at an address in a tag."""
    return ds.driver != "VRT" and "OVERVIEW_FILE" not in ds.tags(ns="OVERVIEWS")


def georeferenced(header: Header, by: str, access: Access = NOTHING) -> Header:
    """The header of a file that is placed by its ground control points ("gcps") or its RPC model ("rpcs").

    Its transform is the affine one with the least squares: it gives the approximate extent only.

    Raises:
        SourceError: the file has none.
    """
    with environment(), open_raster(header.uri, access) as ds:
        gcps, crs = ds.gcps
        if (by == "gcps" and not gcps) or (by == "rpcs" and ds.rpcs is None):
            models = "GCPs" if gcps else "RPCs" if ds.rpcs is not None else "neither GCPs nor RPCs"
            hint = f"correct georeference = of the layer {access.layer}"
            raise access.error(f"{header.uri} has no {by.upper()[:-1]}s to place it by; it has {models}", hint)
        if by == "gcps":
            points = np.array([(p.row, p.col, p.x, p.y) for p in gcps])
            georeference = Georeference(points=tuple(map(tuple, points.tolist())))
            text = _crs_text(crs)
        else:
            rows, cols = np.meshgrid(np.linspace(0, ds.height, 9), np.linspace(0, ds.width, 9))
            with RPCTransformer(ds.rpcs) as model:
                x, y = model.xy(rows.ravel(), cols.ravel(), offset="ul")
            points = np.column_stack([rows.ravel(), cols.ravel(), x, y])
            georeference = Georeference(rpcs=tuple(ds.rpcs.to_gdal().items()))
            text = "EPSG:4326"
    plane = np.column_stack([points[:, 1], points[:, 0], np.ones(len(points))])
    (a, b, c), (d, e, f) = np.linalg.lstsq(plane, points[:, 2:], rcond=None)[0].T
    transform = Affine(a, b, c, d, e, f)
    return replace(header, crs=text, transform=transform, georeference=georeference)


def _bands(ds: DatasetReader, places: Sequence[Place], classes: Mapping[int, Categories]) -> Iterator[Band]:
    """The bands as the header declares them. rasterio computes each list at each access: access it once."""
    masks = ds.mask_flag_enums
    alpha = ds.colorinterp.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in ds.colorinterp else 0
    common = ds.tags()  # those of a Zarr array are here
    lists = (ds.dtypes, ds.nodatavals, ds.scales, ds.offsets, ds.units, ds.descriptions, ds.colorinterp)
    for index, (position, flags, values) in enumerate(zip(places, masks, zip(*lists, strict=True), strict=True), 1):
        dtype, nodata, scale, offset, unit, description, color = values
        tags, mask = ds.tags(index), "+".join(flag.name for flag in flags)
        missing, limits = declared(common | tags, dtype, nodata) if ds.driver in CF_DRIVERS else ((), (None, None))
        yield Band(
            index=index,
            dtype=dtype,
            nodata=nodata,
            scale=scale,
            offset=offset,
            unit=unit or tags.get("GRIB_UNIT", "").strip("[]"),
            description=description or "",
            paletted=color is ColorInterp.palette,
            alpha=color is ColorInterp.alpha,
            mask=mask,
            variable=position.variable,
            step=position.step,
            level=position.level,
            alpha_band=alpha if index != alpha and "nodata" in mask else 0,
            missing=missing,
            limits=limits,
            categories=from_attributes(common | tags if ds.count == 1 else tags) or classes.get(index, ()),
        )


def _crs_text(crs: CRS | None) -> str | None:
    """The authority code of a CRS if it is certain, else its WKT."""
    if not crs:
        return None
    authority = crs.to_authority(confidence_threshold=100)
    return ":".join(authority) if authority else crs.to_wkt()


class Reader(Protocol):
    """Reads windows of sources. `Readers` reads raster files; a test may bring its own of a few lines."""

    def read_window(self, layer: Layer, source: Source, index: int, window: Window) -> Column:
        """Read pixels of a source for the variable `index`: values, unpacked, and their mask (None: all are valid).

        The window may reach beyond the source. Pixels there are not valid.
        """
        ...

    def close(self) -> None: ...


class Readers:
    """Open raster files of one worker; the least recently used is closed first."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, DatasetReader] = OrderedDict()

    def read_window(self, layer: Layer, source: Source, index: int, window: Window) -> Column:
        """Read pixels of a source; overlaps in a mosaic are settled by the layer's rule, before any resampling.

        Raises:
            SourceError: pixels cannot be read; names layer, file, band, window and GDAL's cause.
        """
        wrap = wraps_around(source)
        shifts = (0,) if wrap is None else (0, -wrap, wrap)
        files = [(placed, areas) for placed in source.files if (areas := _areas(placed, window, shifts))]
        if not files:
            shape = (window.height, window.width)
            return np.zeros(shape, source.files[0].bands[index].dtype), np.zeros(shape, bool)
        dtype = np.result_type(*(_type_of(placed.bands[index]) for placed, _ in files))  # some files may be packed

        def columns() -> Iterator[Column]:
            for placed, areas in files:
                own = []
                for local, area in areas:
                    values, valid = self._read_file(layer, placed, index, local)
                    own.append((values, valid) if area == window else place(values, valid, area, window))
                values, valid = overlay(own, Overlap.FIRST)  # a file may have columns twice, 360 degrees apart
                yield values.astype(dtype, copy=False), valid

        # one by one: a window may have many files
        return next(columns()) if len(files) == 1 else reduce_columns(columns(), layer.overlap)

    def get(self, header: Header, access: Access) -> DatasetReader:
        """The open dataset of a header.

        Raises:
            SourceError: the file cannot be opened, or was changed after the header was read.
        """
        uri = header.uri
        if uri in self._open:
            self._open.move_to_end(uri)
        else:
            refuse_change(header, access)
            self._open[uri] = open_raster(uri, access)
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        return self._open[uri]

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def _read_file(self, layer: Layer, placed: Placed, index: int, window: Window) -> Column:
        """Read pixels of one file for the variable `index`; several bands are reduced to one before any resampling."""
        band = placed.bands[index]
        columns = self._read_bands(layer, placed.header, (band, *band.more), window)
        return reduce_columns(columns, Overlap(band.reduce)) if band.reduce else next(columns)

    def _read_bands(
        self, layer: Layer, header: Header, bands: Sequence[Band], window: Window, most: int = AT_ONCE
    ) -> Iterator[Column]:
        """Read pixels of each band, unpacked, and their mask; about `most` pixels at a time."""
        uri, access = header.uri, layer.access
        ds = self.get(header, access)
        area = RioWindow(window.col, window.row, window.width, window.height)
        if header.transposed:
            area = RioWindow(window.row, window.col, window.height, window.width)
        count = max(1, most // window.pixels)
        for batch in (bands[start : start + count] for start in range(0, len(bands), count)):
            indexes = [band.index for band in batch]
            place = f"row {window.row}, column {window.col}, {window.height} x {window.width} pixels"
            what = ", ".join(map(str, indexes))
            try:
                with reading(ds), refusing_damage(f"band {what} of {uri}, read at {place},", uri, access):
                    stack = ds.read(indexes, window=area)
                    masked = any("per_dataset" in band.mask for band in batch)
                    masks = ds.read_masks(indexes, window=area) != 0 if masked else [None] * len(batch)
                    hiding = max(band.alpha_band for band in batch)
                    alpha = ds.read(hiding, window=area) != 0 if hiding else None
            except GDAL_ERRORS as error:
                if len(batch) > 1:  # one by one, to find the band that is broken
                    yield from self._read_bands(layer, header, batch, window, most=1)
                    continue
                cause = error.__cause__ or error
                hint = f'repair the file, or leave it out with on_error = "skip" in the layer {layer.name}'
                raise access.error(f"band {indexes[0]} of {uri} cannot be read at {place}: {cause}", hint) from None
            for band, values, mask in zip(batch, stack, masks, strict=True):
                valid = mask if "per_dataset" in band.mask else alpha if band.alpha_band else None
                if header.transposed:
                    values, valid = np.ascontiguousarray(values.T), None if valid is None else valid.T
                yield _cleaned(band, values, valid)


def _areas(placed: Placed, window: Window, shifts: Sequence[int]) -> list[tuple[Window, Window]]:
    """The parts of a window that a file covers: in its own pixels, and in the source's."""
    areas = []
    for shift in shifts:
        row, col = placed.row, placed.col + shift
        own = Window(window.row - row, window.col - col, window.height, window.width)
        local = clip(own, placed.header.height, placed.header.width)
        if local is not None:
            areas.append((local, Window(local.row + row, local.col + col, local.height, local.width)))
    return areas


def _type_of(band: Band) -> np.dtype[Any]:
    """The type of a band's pixels after reading."""
    columns = (_cleaned(b, np.zeros((0, 0), b.dtype), None) for b in (band, *band.more))
    values, _ = reduce_columns(columns, Overlap(band.reduce)) if band.reduce else next(columns)
    return values.dtype


def _cleaned(band: Band, values: Values, valid: Mask | None) -> Column:
    """Apply nodata, bit field, scale and offset of a band to its stored numbers."""
    missing = missing_in(values, band)
    if missing is not None and missing.any():
        present = np.logical_not(missing, out=missing)
        valid = present if valid is None else valid & present
    if band.bits is not None:
        first, last = band.bits
        unsigned = values.view(f"u{values.dtype.itemsize}")
        values = (unsigned >> first) & unsigned.dtype.type(2 ** (last - first + 1) - 1)
    if band.scale != 1.0 or band.offset != 0.0:
        values = values.astype(np.float64)
        values *= band.scale
        values += band.offset
    return values, valid
