"""Rasters on disk: headers, windows, and their way to a canonical block. The only module of the core with rasterio.

One mechanism serves every input: the window that a block needs is read into memory, missing values are found and
packed values unpacked there, and GDAL then resamples that array, in which missing is NaN and nothing else is special.
"""

from __future__ import annotations

import glob
import os
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader
from rasterio.transform import RPCTransformer
from rasterio.windows import Window as RioWindow

from geopipe.errors import SourceError
from geopipe.events.emit import context, emit
from geopipe.events.records import Progress
from geopipe.grid.grid import Tile
from geopipe.grid.polygons import covered
from geopipe.layers.access import NOTHING, Access
from geopipe.layers.header import Band, Georeference, Header
from geopipe.layers.layer import Layer, Overlap, Placed, Source, Variable
from geopipe.layers.times import Place
from geopipe.layers.uris import is_remote
from geopipe.load.gdal import (
    GDAL_ERRORS,
    coordinates,
    is_transposed,
    network,
    open_raster,
    open_variable,
    variables,
)
from geopipe.load.messages import REPAIR, Hearing, refusing_damage
from geopipe.load.missing import declared, missing_in
from geopipe.load.opening import Target, is_store, look_at, reading
from geopipe.load.stamps import Stamp, local_file, refuse_change, stamp_of
from geopipe.merge.blocks import BlockRow, Column, Mask, Values, marker
from geopipe.merge.tile import overlay, reduce_columns
from geopipe.plan.estimate import OPEN_FILES, READ_CACHE
from geopipe.plan.layers import LayerPlan
from geopipe.plan.plan import Plan
from geopipe.resample.cells import last_read, place, to_cells
from geopipe.resample.locate import canonical_blocks
from geopipe.resample.methods import Decision, Window, clip, wraps_around

COMPANIONS = (".aux.xml", ".ovr", ".msk", ".tfw", ".jgw", ".wld", ".prj", ".hdr", ".txt", ".md", ".json", ".toml")
"""Endings of files that lie beside rasters in a folder and are none."""

CF_DRIVERS = ("netCDF", "HDF5", "HDF5Image", "Zarr")
"""Drivers whose bands have the attributes of the CF conventions."""

AT_ONCE = 1 << 20
"""Pixels of several bands that are read in one call: each call costs as much as the file has bands."""


def environment() -> AbstractContextManager[object]:
    """GDAL's settings for everything that this module does, and an ear for what it says; enter it once around the work.

    Who works to the end of the process need not leave it.
    """
    return _Environment()


class _Environment:
    def __enter__(self) -> None:
        settings = {"GDAL_CACHEMAX": READ_CACHE, "GDAL_NUM_THREADS": 1, "GDAL_VRT_ENABLE_PYTHON": "NO"} | network()
        self._env, self._hearing = rasterio.Env(**settings), Hearing()
        self._hearing.__enter__()
        self._env.__enter__()

    def __exit__(self, *error: object) -> None:
        try:
            self._env.__exit__(*error)
        finally:
            self._hearing.__exit__(*error)


def versions() -> dict[str, str]:
    """Versions of the raster libraries."""
    return {"rasterio": rasterio.__version__, "gdal": rasterio.__gdal_version__}


def expand(path: str) -> list[str]:
    """The files that a path means: itself, the files of a folder, or what a glob pattern matches, sorted."""
    if is_remote(path) and not os.path.exists(path):
        if any(c in path.partition("?")[0] for c in "*["):
            raise SourceError(f"{path} is a pattern; only local files can be found by one", "list the files in path =")
        return [path]
    if os.path.isdir(path) and not is_store(path):
        files = (p for p in Path(path).iterdir() if (p.is_file() or is_store(str(p))) and not p.name.startswith("."))
        return sorted(str(p) for p in files if not p.name.lower().endswith(COMPANIONS))
    if any(c in path for c in "*?[") and not os.path.exists(path):
        return sorted(glob.glob(path, recursive=True))
    return [path]


def inspect(uri: str, layer: str | None = None, variable: str | None = None, access: Access = NOTHING) -> Header:
    """The header of a raster, or of a variable of a file that holds several, without a pixel read.

    Raises:
        SourceError: the file is missing, unreadable or no raster, or has no such variable.
    """
    with environment():
        where = f"layer {layer}: " if layer else ""
        target = look_at(uri, access, where, layer)  # what may not be opened is not asked for its size, either
        stamp = stamp_of(uri)  # before it is read: a change meanwhile is one, too
        opened, uri = open_variable(uri, variable, where, layer, access)
        with opened as ds, reading(ds), refusing_damage(f"{where}{uri}", uri, layer):
            try:
                return _header(ds, uri, stamp, target, access)
            except GDAL_ERRORS as error:
                raise SourceError(f"{where}the header of {uri} is damaged: {error}", REPAIR, layer) from None


def _header(ds: DatasetReader, uri: str, stamp: Stamp, target: Target, access: Access) -> Header:
    bands = tuple(_bands(ds, coordinates(ds, uri)))
    gcps, _ = ds.gcps
    beside: tuple[str, ...] = ()
    if (file := local_file(uri)) is not None and not os.path.isdir(file):
        names = {*target.files, *(ds.files if _has_own_overviews(ds) else ())}  # GDAL's list has overviews, too
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
        size=stamp.size,
        mtime_ns=stamp.mtime_ns,
        tag=stamp.tag,
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
    """Whether GDAL looks for overviews in the file and beside it, and not where a tag of the file leads it."""
    return ds.driver != "VRT" and "OVERVIEW_FILE" not in ds.tags(ns="OVERVIEWS")


def georeferenced(header: Header, by: str, layer: str, access: Access = NOTHING) -> Header:
    """The header of a file that its ground control points ("gcps") or its RPC model ("rpcs") are to place.

    Its transform is the affine one that comes closest: it says where about the file lies, and no more.

    Raises:
        SourceError: the file has none.
    """
    with environment(), open_raster(header.uri, f"layer {layer}: ", layer, access) as ds:
        gcps, crs = ds.gcps
        if (by == "gcps" and not gcps) or (by == "rpcs" and ds.rpcs is None):
            have = "GCPs" if gcps else "RPCs" if ds.rpcs is not None else "neither GCPs nor RPCs"
            raise SourceError(
                f"layer {layer}: {header.uri} has no {by.upper()[:-1]}s to place it by; it has {have}",
                f"correct georeference = of the layer {layer}",
                layer,
            )
        if by == "gcps":
            points = np.array([(p.row, p.col, p.x, p.y) for p in gcps])
            found = Georeference(points=tuple(map(tuple, points.tolist())))
            text = _crs_text(crs)
        else:
            rows, cols = np.meshgrid(np.linspace(0, ds.height, 9), np.linspace(0, ds.width, 9))
            with RPCTransformer(ds.rpcs) as model:
                x, y = model.xy(rows.ravel(), cols.ravel(), offset="ul")
            points = np.column_stack([rows.ravel(), cols.ravel(), x, y])
            found = Georeference(rpcs=tuple(ds.rpcs.to_gdal().items()))
            text = "EPSG:4326"
    plane = np.column_stack([points[:, 1], points[:, 0], np.ones(len(points))])
    (a, b, c), (d, e, f) = np.linalg.lstsq(plane, points[:, 2:], rcond=None)[0].T
    transform = Affine(a, b, c, d, e, f)
    return replace(header, crs=text, transform=transform, georeference=found)


def _bands(ds: DatasetReader, places: Sequence[Place]) -> Iterator[Band]:
    """The bands as the header declares them. rasterio makes each list anew when it is asked for it: ask once."""
    masks = ds.mask_flag_enums
    alpha = ds.colorinterp.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in ds.colorinterp else 0
    common = ds.tags()  # of a Zarr array they are its own
    lists = (ds.dtypes, ds.nodatavals, ds.scales, ds.offsets, ds.units, ds.descriptions, ds.colorinterp)
    for index, (here, flags, values) in enumerate(zip(places, masks, zip(*lists, strict=True), strict=True), 1):
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
            variable=here.variable,
            step=here.step,
            level=here.level,
            alpha_band=alpha if index != alpha and "nodata" in mask else 0,
            missing=missing,
            limits=limits,
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

    def get(self, header: Header, layer: str, access: Access = NOTHING) -> DatasetReader:
        """The open dataset of a header.

        Raises:
            SourceError: the file cannot be opened, or is not what it was when the header was read.
        """
        uri = header.uri
        if uri in self._open:
            self._open.move_to_end(uri)
        else:
            refuse_change(header, layer)
            self._open[uri] = open_raster(uri, f"layer {layer}: ", layer, access)
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        return self._open[uri]

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


def read_rows(plan: Plan, layers: Sequence[LayerPlan], tile: Tile, readers: Readers) -> Iterator[BlockRow]:
    """All that is merged of these layers in one tile: a marker, which tells of the mask, and their block rows.

    Raises:
        SourceError: pixels cannot be read; names layer, file, band, window and GDAL's cause.
    """
    inside = inside_of(plan, tile, readers)
    yield marker(tile.key, inside)
    for layer in layers:
        yield from read_tile(plan, layer, tile, readers, inside)


def inside_of(plan: Plan, tile: Tile, readers: Readers) -> Mask | None:
    """Which cells of a tile are in the plan's mask, (tile.height, tile.width); None for all of them.

    A raster mask is read here, window by window: a cell is inside where the nearest pixel is valid and not 0.

    Raises:
        SourceError: the mask cannot be read.
    """
    if plan.mask is None:
        return None
    if plan.mask.polygons is not None:
        xs, ys = plan.grid.xs(tile.col, tile.width), plan.grid.ys(tile.row, tile.height)
        found = covered(plan.mask.polygons, xs, ys)
    else:
        found, layer = np.zeros((tile.height, tile.width), bool), plan.mask.raster
        assert layer is not None
        for part in _parts(plan, layer, layer.decisions[0], {0: layer.variables[0]}, tile, readers, None).values():
            found = part.valid & (part.values != 0)
    return None if found.all() else found


def read_tile(
    plan: Plan, layer: LayerPlan, tile: Tile, readers: Readers, inside: Mask | None = None
) -> Iterator[BlockRow]:
    """The block rows of one layer in one tile: one for each variable and each source that meets the tile.

    Args:
        inside: the cells that are wanted, None for all: canonical blocks without any are not read.

    Raises:
        SourceError: pixels cannot be read; names layer, file, band, window and GDAL's cause.
    """
    start = time.perf_counter()
    first = plan.first_variable[layer.layer.name]
    for decision in layer.decisions:
        mine = {first + n: v for n, v in enumerate(layer.variables) if v.requested_method == decision.requested_method}
        for n, part in _parts(plan, layer, decision, mine, tile, readers, inside).items():
            yield BlockRow(tile.key, n, decision.rank, part.values, None if part.valid.all() else part.valid)
    with context(layer=layer.layer.name):
        emit(Progress("read", 1, tile.cells * len(layer.variables), time.perf_counter() - start))


def _parts(
    plan: Plan,
    layer: LayerPlan,
    decision: Decision,
    variables: Mapping[int, Variable],
    tile: Tile,
    readers: Readers,
    inside: Mask | None,
) -> dict[int, _Part]:
    """What one source gives of each of the variables in a tile; nothing where it gives nothing."""
    made: dict[int, _Part] = {}
    for needs in canonical_blocks(plan.grid, decision, tile, inside):
        for index in dict.fromkeys(v.index for v in variables.values()):
            read = last_read(partial(read_window, decision.source, index, layer=layer, readers=readers))
            for n, variable in variables.items():
                if variable.index == index:
                    part = made.setdefault(n, _Part.empty(tile, variable))
                    part.put(needs.block, to_cells(read, needs, decision, variable, layer.kind, layer.layer.min_valid))
    return made


@dataclass(frozen=True)
class _Part:
    """The arrays of one variable in a tile, filled block by block."""

    tile: Tile
    variable: Variable
    values: Values
    valid: Mask

    @classmethod
    def empty(cls, tile: Tile, variable: Variable) -> _Part:
        shape = (tile.height, tile.width)
        return cls(tile, variable, np.zeros(shape, variable.dtype), np.zeros(shape, bool))

    def put(self, block: Tile, cells: Column) -> None:
        top, left = block.row - self.tile.row, block.col - self.tile.col
        rows, cols = slice(top, top + block.height), slice(left, left + block.width)
        self.values[rows, cols], self.valid[rows, cols] = cells[0], True if cells[1] is None else cells[1]


MOST_CLASSES = 256


def classes(plan: Plan, layer: LayerPlan) -> tuple[float, ...]:
    """The classes that occur in the pixels of a categorical layer that the grid needs. Reads each of them once.

    Raises:
        SourceError: there are more than MOST_CLASSES: it can be no layer of classes.
    """
    found: set[float] = set()
    readers = Readers()
    with environment():
        for decision in layer.decisions:
            for tile in map(plan.spec.tile, plan.keys.tolist()):
                for needs in canonical_blocks(plan.grid, decision, tile, inside_of(plan, tile, readers)):
                    for window in needs.strips:
                        values, valid = read_window(decision.source, 0, window, layer, readers)
                        found |= set(np.unique(values if valid is None else values[valid]).tolist())
                    if len(found) > MOST_CLASSES:
                        raise SourceError(
                            f"layer {layer.layer.name}: {decision.source.name} has more than {MOST_CLASSES} classes",
                            "name those that you want: fractions = [1, 2, 3]",
                            layer.layer.name,
                        )
        readers.close()
    return tuple(sorted(found))


def read_window(source: Source, index: int, window: Window, layer: LayerPlan, readers: Readers) -> Column:
    """Pixels of a source for the variable `index`, unpacked, and where they are valid (None: everywhere).

    A window may reach beyond the source; no pixel is valid there. A mosaic settles its overlaps by the layer's rule,
    before any resampling.
    """
    around = wraps_around(source)
    turns = (0,) if around is None else (0, -around, around)  # where longitudes go round, so do the columns
    found = [(placed, areas) for placed in source.files if (areas := _areas(placed, window, turns))]
    if not found:
        shape = (window.height, window.width)
        return np.zeros(shape, source.files[0].bands[index].dtype), np.zeros(shape, bool)
    kind = np.result_type(*(_type_of(placed.bands[index]) for placed, _ in found))  # packed files beside others

    def parts() -> Iterator[Column]:
        for placed, areas in found:
            own = []
            for local, here in areas:
                values, valid = _read_file(placed, index, local, layer, readers)
                own.append((values, valid) if here == window else place(values, valid, here, window))
            values, valid = overlay(own, Overlap.FIRST)  # what a file has twice, beyond 360 degrees, counts once
            yield values.astype(kind, copy=False), valid

    # one by one: a window may have many files
    return next(parts()) if len(found) == 1 else reduce_columns(parts(), layer.layer.overlap)


def _areas(placed: Placed, window: Window, turns: Sequence[int]) -> list[tuple[Window, Window]]:
    """The parts of a window that a file has: in its own pixels, and in the source's."""
    areas = []
    for shift in turns:
        row, col = placed.row, placed.col + shift
        wanted = Window(window.row - row, window.col - col, window.height, window.width)
        local = clip(wanted, placed.header.height, placed.header.width)
        if local is not None:
            areas.append((local, Window(local.row + row, local.col + col, local.height, local.width)))
    return areas


def _type_of(band: Band) -> np.dtype[Any]:
    """The type of a band's pixels as they are read."""
    columns = (_cleaned(b, np.zeros((0, 0), b.dtype), None) for b in (band, *band.more))
    values, _ = reduce_columns(columns, Overlap(band.reduce)) if band.reduce else next(columns)
    return values.dtype


def _read_file(placed: Placed, index: int, window: Window, layer: LayerPlan, readers: Readers) -> Column:
    """Pixels of one file for the variable `index`; where it has several bands, reduced before any resampling."""
    band = placed.bands[index]
    columns = _read_bands(placed.header, (band, *band.more), window, layer.layer, readers)
    return reduce_columns(columns, Overlap(band.reduce)) if band.reduce else next(columns)


def _read_bands(
    header: Header, bands: Sequence[Band], window: Window, layer: Layer, readers: Readers, most: int = AT_ONCE
) -> Iterator[Column]:
    """Pixels of each band, unpacked, and where they are valid; at most about `most` pixels are read at once."""
    name, uri = layer.name, header.uri
    ds = readers.get(header, name, layer.access)
    area = RioWindow(window.col, window.row, window.width, window.height)
    if header.transposed:
        area = RioWindow(window.row, window.col, window.height, window.width)
    count = max(1, most // window.pixels)
    for batch in (bands[start : start + count] for start in range(0, len(bands), count)):
        indexes = [band.index for band in batch]
        place = f"row {window.row}, column {window.col}, {window.height} x {window.width} pixels"
        what = ", ".join(map(str, indexes))
        try:
            with reading(ds), refusing_damage(f"layer {name}: band {what} of {uri}, read at {place},", uri, name):
                stack = ds.read(indexes, window=area)
                masked = any("per_dataset" in band.mask for band in batch)
                masks = ds.read_masks(indexes, window=area) != 0 if masked else [None] * len(batch)
                hiding = max(band.alpha_band for band in batch)
                alpha = ds.read(hiding, window=area) != 0 if hiding else None
        except GDAL_ERRORS as error:
            if len(batch) > 1:  # one by one, to find the band that is broken
                yield from _read_bands(header, batch, window, layer, readers, most=1)
                continue
            cause = error.__cause__ or error
            raise SourceError(
                f"layer {name}: band {indexes[0]} of {uri} cannot be read at {place}: {cause}",
                f'repair the file, or leave it out with on_error = "skip" in the layer {name}',
                name,
            ) from None
        for band, values, mask in zip(batch, stack, masks, strict=True):
            valid = mask if "per_dataset" in band.mask else alpha if band.alpha_band else None
            if header.transposed:
                values, valid = np.ascontiguousarray(values.T), None if valid is None else valid.T
            yield _cleaned(band, values, valid)


def _cleaned(band: Band, values: Values, valid: Mask | None) -> Column:
    """What a band's stored numbers mean: missing ones found, its bits taken out, unpacked."""
    missing = missing_in(values, band)
    if missing is not None:
        valid = ~missing if valid is None else valid & ~missing
    if band.bits is not None:
        first, last = band.bits
        unsigned = values.view(f"u{values.dtype.itemsize}")
        values = (unsigned >> first) & unsigned.dtype.type(2 ** (last - first + 1) - 1)
    if band.scale != 1.0 or band.offset != 0.0:
        values = values.astype(np.float64) * band.scale + band.offset
    return values, valid
