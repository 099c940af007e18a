"""What goes in and what comes out: headers of rasters, sources, layers and variables, as frozen values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from affine import Affine

from geopipe.errors import SourceError
from geopipe.grid.crs import Bounds, horizontal
from geopipe.layers.access import Access
from geopipe.layers.uris import subdataset

MOST_BLOCK_BYTES = 2**30
"""A file with larger blocks is refused: a few bytes may declare them."""


class Kind(StrEnum):
    """What the numbers of a layer mean; it decides which resampling makes sense."""

    CONTINUOUS = "continuous"
    CATEGORICAL = "categorical"
    COUNT = "count"
    CIRCULAR = "circular"


class Overlap(StrEnum):
    """Which value a cell gets where several files of one layer cover it."""

    FIRST = "first"
    LAST = "last"
    MEAN = "mean"
    MIN = "min"
    MAX = "max"
    SUM = "sum"


@dataclass(frozen=True)
class Band:
    """One band as its header declares it. `index` counts from 1, as GDAL does.

    `variable` is its name in a NetCDF, Zarr or GRIB file, `step` its time (an ISO date or datetime), `level` its place
    on any other axis: empty where the file says none. Where a layer reduces several steps to one column, `more` has the
    other bands and `reduce` the rule: mean, min, max or sum. `bits` are the first and last bit of the field that is
    taken out of it. `alpha_band` is the number of an alpha band that hides pixels beside `nodata`; 0 where GDAL's mask
    has it, or there is none. `missing` are numbers that stand for no value beside `nodata`, and `limits` the least and
    the greatest stored number that is a value, as NetCDF files say them.
    """

    index: int
    dtype: str
    nodata: float | int | None = None
    scale: float = 1.0
    offset: float = 0.0
    unit: str = ""
    description: str = ""
    paletted: bool = False
    alpha: bool = False
    mask: str = "all_valid"
    variable: str = ""
    step: str = ""
    level: str = ""
    more: tuple[Band, ...] = ()
    reduce: str = ""
    bits: tuple[int, int] | None = None
    alpha_band: int = 0
    missing: tuple[float | int, ...] = ()
    limits: tuple[float | int | None, float | int | None] = (None, None)

    @property
    def place(self) -> dict[str, str]:
        """What the file says of where the band belongs, and what became of its steps; nothing that it does not say."""
        steps = f"{self.reduce} of {1 + len(self.more)}" if self.reduce else ""
        told = {"variable": self.variable, "level": self.level, "time": self.step, "steps": steps}
        return {key: text for key, text in told.items() if text}


@dataclass(frozen=True)
class Georeference:
    """What places a raster without a geotransform: ground control points, or an RPC model (on request only).

    `points` are (row, column, x, y); `rpcs` are GDAL's RPC tags.
    """

    points: tuple[tuple[float, float, float, float], ...] = ()
    rpcs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Header:
    """A raster file as its header tells it, without a pixel read. `crs` is an authority code or WKT.

    Where it is `transposed`, its columns are GDAL's rows: width, height, block and transform are those of its columns.
    `size`, `mtime_ns` and `tag` are its stamp (`stamps.Stamp`), with that of the local files `beside` it.
    `reaches` has the folders and hosts of the files that it refers to.
    """

    uri: str
    driver: str
    crs: str | None
    transform: Affine
    width: int
    height: int
    bands: tuple[Band, ...]
    block: tuple[int, int] = (1, 1)
    overviews: tuple[int, ...] = ()
    compression: str = ""
    interleave: str = ""
    subdatasets: tuple[str, ...] = ()
    has_gcps: bool = False
    has_rpcs: bool = False
    georeference: Georeference | None = None
    transposed: bool = False
    size: int = 0
    mtime_ns: int = 0
    tag: str = ""
    beside: tuple[str, ...] = ()
    reaches: tuple[str, ...] = ()

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the variables that the file holds beside or instead of its bands."""
        parts = [(uri, subdataset(uri)) for uri in self.subdatasets]
        return tuple(part.name if part and part.name else uri for uri, part in parts)

    @property
    def block_bytes(self) -> int:
        """Bytes that are in memory while one stored block is decoded: with all bands where they are stored together."""
        sizes = [np.dtype(b.dtype).itemsize for b in self.bands]
        together = sum(sizes) if self.interleave == "PIXEL" else max(sizes, default=0)
        return self.block[0] * self.block[1] * together

    @property
    def resolution(self) -> tuple[float, float]:
        """Pixel width and height in CRS units, also of a rotated raster."""
        t = self.transform
        return math.hypot(t.a, t.d), math.hypot(t.b, t.e)

    @property
    def bounds(self) -> Bounds:
        """Bounds in the raster's own CRS."""
        corners = [self.transform @ (c, r) for c in (0, self.width) for r in (0, self.height)]
        xs, ys = zip(*corners, strict=True)
        return (min(xs), min(ys), max(xs), max(ys))


@dataclass(frozen=True)
class Placed:
    """A file in a source, with the place of its upper left pixel in the source's pixels.

    `bands` has the band of each variable as this file declares it and the layer mends it: nodata, scale and offset may
    differ from file to file.
    """

    header: Header
    bands: tuple[Band, ...] = ()
    row: int = 0
    col: int = 0


@dataclass(frozen=True)
class Source:
    """One raster, or several files on one pixel lattice that are read as one (a mosaic without seams)."""

    files: tuple[Placed, ...]
    crs: str
    transform: Affine
    width: int
    height: int

    @property
    def georeference(self) -> Georeference | None:
        """GCPs or RPCs, where they place it; such a file is a source of its own."""
        return self.files[0].header.georeference

    @property
    def block(self) -> tuple[int, int]:
        """Height and width of the blocks in which its first file is stored."""
        return self.files[0].header.block

    @property
    def compression(self) -> str:
        """How its first file is compressed, by GDAL's name; "" where it is not."""
        return self.files[0].header.compression

    @property
    def name(self) -> str:
        first = self.files[0].header.uri
        return first if len(self.files) == 1 else f"{first} and {len(self.files) - 1} more"


@dataclass(frozen=True)
class Layer:
    """A named source as the settings give it. None means: as the file declares it.

    The keys from `table` to `on_misaligned` are those of coordinate tables: `table` or `query` is what is read of
    Postgres, by ranges of `key`; `cells` says that each row is a cell, and how it is placed (see `relation.TablePlan`).

    `driver` is GDAL's, where names do not tell it; `allow` has the folders and beginnings of addresses that its files
    may lead to (see `access`).

    `asset` and `sort_by` choose and order the files of STAC items, `variable` what is read of a file with several,
    `time` and `level` its bands (see `steps.matches`), and `reduce` makes one column of their times.

    `bits` are the first and last bit (from 0) of a field that is taken out of whole numbers. `fractions` asks for a
    column per class: of these classes, or (True) of all that are found. `min_valid` is the share of valid source area
    below which a cell is null.
    """

    name: str
    paths: tuple[str, ...]
    bands: tuple[int | str, ...] = ()
    kind: Kind | None = None
    driver: str | None = None
    allow: tuple[str, ...] = ()
    resampling: tuple[str, ...] | str = "auto"
    nodata: float | int | None = None
    crs: str | None = None
    scale: float | None = None
    offset: float | None = None
    unit: str | None = None
    unpack: bool = True
    georeference: str | None = None
    bits: tuple[int, int] | None = None
    fractions: tuple[float, ...] | bool = False
    valid_fraction: bool = False
    min_valid: float = 0.0
    asset: str | None = None
    sort_by: str | None = None
    variable: str | None = None
    time: tuple[str, ...] = ()
    level: tuple[str, ...] = ()
    reduce: str | None = None
    overlap: Overlap = Overlap.FIRST
    on_error: str = "fail"
    table: str | None = None
    query: str | None = None
    key: str | None = None
    x: str | None = None
    y: str | None = None
    values: tuple[str, ...] = ()
    weight: str | None = None
    aggregate: tuple[str, ...] | str = "auto"
    cells: str | None = None
    on_misaligned: str = "fail"

    @property
    def access(self) -> Access:
        """What its files may lead to."""
        return Access.of_layer(self.name, self.allow, self.driver)


@dataclass(frozen=True)
class Variable:
    """One output column. `dtype` is numpy's name of its type; `band` is the header's, as the layer mends it.

    `index` is the place of the band among the layer's bands, `word` what the settings ask to be made of its pixels (the
    method that it means may differ from source to source), `part` the class of which it is the share, for a fraction.
    """

    name: str
    dtype: str
    layer: str
    band: Band
    unit: str = ""
    index: int = 0
    word: str = ""
    part: float | None = None


def check_files(layer: Layer, headers: Sequence[Header]) -> None:
    """Refuse files that cannot be a layer.

    Raises:
        SourceError: a file has no CRS, no bands of its own, or other bands than the first file.
    """
    first = headers[0]
    for header in headers:
        if not header.bands:
            inside = header.variables
            raise SourceError(
                f"layer {layer.name}: {header.uri} has no bands of its own"
                + (f"; its variables: {', '.join(inside)}" if inside else " and no variables that GDAL can read"),
                f'choose one in the layer {layer.name}: variable = "{inside[0] if inside else "..."}"',
                layer.name,
            )
        if header.block_bytes > MOST_BLOCK_BYTES:
            size, most = header.block_bytes / 2**20, MOST_BLOCK_BYTES / 2**20
            raise SourceError(
                f"layer {layer.name}: {header.uri} is stored in blocks of {header.block[1]:,} x {header.block[0]:,} "
                f"pixels; to decode one takes {size:,.0f} MB, more than {most:,.0f} MB",
                "write it anew in smaller blocks: gdal_translate -co TILED=YES -co COMPRESS=DEFLATE",
                layer.name,
            )
        if header.transform == Affine.identity():
            raise _unplaced(layer, header)
        if header.transform.is_degenerate or not all(map(math.isfinite, header.transform)):
            raise SourceError(
                f"layer {layer.name}: {header.uri} has a geotransform that gives its pixels no size: "
                f"{', '.join(f'{v:g}' for v in header.transform.to_gdal())}",
                "write a right one into the file (gdal_edit.py -a_ullr), or leave the layer out",
                layer.name,
            )
        if header.crs is None and layer.crs is None:
            raise SourceError(
                f"layer {layer.name}: {header.uri} has no CRS",
                f'say which it is in the layer {layer.name}: crs = "EPSG:..."',
                layer.name,
            )
        own, others = ([b.dtype for b in h.bands] for h in (header, first))
        steps = layer.time or layer.level or layer.reduce  # files may have other numbers of them
        if set(own) != set(others) if steps else own != others:
            raise SourceError(
                f"layer {layer.name}: {header.uri} has bands of type {_types(header)}, {first.uri} of {_types(first)}",
                "files of one layer must have the same bands; make two layers of them",
                layer.name,
            )


def _unplaced(layer: Layer, header: Header) -> SourceError:
    """The error for a file whose pixels would be taken for coordinates."""
    if header.has_gcps or header.has_rpcs:
        have = "ground control points" if header.has_gcps else "an RPC model"
        by = "gcps" if header.has_gcps else "rpcs"
        return SourceError(
            f"layer {layer.name}: {header.uri} has no geotransform, but {have}",
            f'let them place it, in the layer {layer.name}: georeference = "{by}"',
            layer.name,
        )
    return SourceError(
        f"layer {layer.name}: {header.uri} has no geotransform: nothing says where its pixels lie",
        "write one into the file (gdal_edit.py -a_ullr), or leave the layer out; grids of 2-D coordinates are not read",
        layer.name,
    )


def sources_of(layer: Layer, files: Sequence[tuple[Header, tuple[Band, ...]]]) -> tuple[Source, ...]:
    """The files of a layer as sources: neighbours on one pixel lattice are read as one, so that no seam can show.

    Files keep their order; a file on another lattice starts a new source, whose rank settles overlaps.

    Args:
        layer: whose CRS, if it gives one, counts.
        files: each file with the band of each variable.
    """
    runs: list[list[Placed]] = []
    for header, bands in files:
        placed = Placed(header, bands)
        if runs and _on_lattice(runs[-1][0].header, header):
            runs[-1].append(placed)
        else:
            runs.append([placed])
    return tuple(_mosaic(run, horizontal(layer.crs or run[0].header.crs or "")[0]) for run in runs)


def _types(header: Header) -> str:
    return ", ".join(b.dtype for b in header.bands)


def _offset(first: Header, other: Header) -> tuple[float, float]:
    """Column and row of `other`'s corner in the pixels of `first`."""
    col, row = ~first.transform @ (other.transform.c, other.transform.f)
    return col, row


def _on_lattice(first: Header, other: Header) -> bool:
    """Whether two files share CRS, pixel size and phase, to a thousandth of a pixel over the whole of `other`."""
    one, two = first.transform, other.transform
    size = max(abs(one.a), abs(one.b), abs(one.d), abs(one.e))
    drift = max(abs(p - q) for p, q in ((one.a, two.a), (one.b, two.b), (one.d, two.d), (one.e, two.e))) / size
    off = max(abs(v - round(v)) for v in _offset(first, other))
    if first.georeference or other.georeference:
        return False
    return first.crs == other.crs and drift * max(other.width, other.height) + off < 1e-3


def _mosaic(run: Sequence[Placed], crs: str) -> Source:
    first = run[0].header
    offsets = [tuple(round(v) for v in _offset(first, placed.header)) for placed in run]
    left, top = min(o[0] for o in offsets), min(o[1] for o in offsets)
    files = tuple(replace(p, row=row - top, col=col - left) for p, (col, row) in zip(run, offsets, strict=True))
    return Source(
        files=files,
        crs=crs,
        transform=first.transform @ Affine.translation(left, top),
        width=max(f.col + f.header.width for f in files),
        height=max(f.row + f.header.height for f in files),
    )
