"""Layers, the sources that their files make, and their output columns, as frozen values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from affine import Affine

from geopipe.errors import SourceError
from geopipe.grid.crs import horizontal
from geopipe.layers.access import Access
from geopipe.layers.header import Band, Header

MOST_BLOCK_BYTES = 2**30
"""Files with larger blocks are refused: a header of a few bytes could ask for any amount of memory."""


class Kind(StrEnum):
    """The kind of a layer's numbers. It decides which resampling methods make sense."""

    CONTINUOUS = "continuous"
    CATEGORICAL = "categorical"
    COUNT = "count"
    CIRCULAR = "circular"


class Overlap(StrEnum):
    """The value of a cell that several files of one layer cover."""

    FIRST = "first"
    LAST = "last"
    MEAN = "mean"
    MIN = "min"
    MAX = "max"
    SUM = "sum"


@dataclass(frozen=True)
class Placed:
    """A file of a source; `row` and `col` are the source pixel of its upper left corner.

    `bands` has the band of each variable, with the layer's settings applied. Nodata, scale and offset may differ from
    file to file.
    """

    header: Header
    bands: tuple[Band, ...] = ()
    row: int = 0
    col: int = 0


@dataclass(frozen=True)
class Source:
    """One raster, or a mosaic: several files on one pixel lattice that are read as one, without seams."""

    files: tuple[Placed, ...]
    crs: str
    transform: Affine
    width: int
    height: int

    @property
    def first(self) -> Header:
        """The header of the first file. A file with GCPs or RPCs is a source of its own."""
        return self.files[0].header

    @property
    def name(self) -> str:
        return self.first.uri if len(self.files) == 1 else f"{self.first.uri} and {len(self.files) - 1} more"


@dataclass(frozen=True)
class Layer:
    """A named layer of the settings. None means: as the file declares it.

    Attributes:
        driver: of GDAL, if the file's ending does not tell it.
        allow: folders and beginnings of addresses that the files may refer to (see `access`).
        asset: of STAC items; `sort_by` orders the items.
        variable: of a file with several.
        time: of the bands to read, as `level` (see `times.matches`); `reduce` makes one column of several times.
        bits: first and last bit (from 0) of a bit field in whole numbers.
        fractions: classes with a column of their share each; True for all classes that occur.
        min_valid: smallest share of valid source area; a cell with less is null.
        table: to read from Postgres (or a `query`), in ranges of `key`.
        cells: each row of the table is a cell; how to place it (see `table_plan.TablePlan`).
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
        """What its files may refer to."""
        return Access.of_layer(self.name, self.allow, self.driver)

    def error(self, message: str, hint: str) -> SourceError:
        """The error for a source of the layer, which a run may skip for it."""
        return self.access.error(message, hint)


@dataclass(frozen=True)
class Variable:
    """One output column.

    Attributes:
        dtype: numpy's name of its type.
        band: of the header, with the layer's settings applied.
        index: of the band among the layer's bands.
        requested_method: as the settings have it; "auto" may become other methods for other sources.
        part: the class, if the column is the share of a class.
    """

    name: str
    dtype: str
    layer: str
    band: Band
    unit: str = ""
    index: int = 0
    requested_method: str = ""
    part: float | None = None


def check_files(layer: Layer, headers: Sequence[Header]) -> None:
    """Check that files can be read as one layer.

    Raises:
        SourceError: a file has no CRS, no geotransform, no bands of its own, or other bands than the first file.
    """
    first = headers[0]
    for header in headers:
        if not header.bands:
            inside = header.variables
            raise layer.error(
                f"{header.uri} has no bands of its own"
                + (f"; its variables: {', '.join(inside)}" if inside else " and no variables that GDAL can read"),
                f'choose one in the layer {layer.name}: variable = "{inside[0] if inside else "..."}"',
            )
        if header.block_bytes > MOST_BLOCK_BYTES:
            size, most = header.block_bytes / 2**20, MOST_BLOCK_BYTES / 2**20
            raise layer.error(
                f"{header.uri} is stored in blocks of {header.block[1]:,} x {header.block[0]:,} "
                f"pixels; to decode one takes {size:,.0f} MB, more than {most:,.0f} MB",
                "write it anew in smaller blocks: gdal_translate -co TILED=YES -co COMPRESS=DEFLATE",
            )
        if header.transform == Affine.identity():
            raise _unplaced(layer, header)
        if header.transform.is_degenerate or not all(map(math.isfinite, header.transform)):
            raise layer.error(
                f"{header.uri} has a geotransform that gives its pixels no size: "
                f"{', '.join(f'{v:g}' for v in header.transform.to_gdal())}",
                "write a right one into the file (gdal_edit.py -a_ullr), or leave the layer out",
            )
        if header.crs is None and layer.crs is None:
            hint = f'say which it is in the layer {layer.name}: crs = "EPSG:..."'
            raise layer.error(f"{header.uri} has no CRS", hint)
        own, others = ([b.dtype for b in h.bands] for h in (header, first))
        steps = layer.time or layer.level or layer.reduce  # files may have other numbers of them
        if set(own) != set(others) if steps else own != others:
            hint = "files of one layer must have the same bands; make two layers of them"
            raise layer.error(f"{header.uri} has bands of type {_types(header)}, {first.uri} of {_types(first)}", hint)


def _unplaced(layer: Layer, header: Header) -> SourceError:
    """The error for a file without a geotransform."""
    if header.has_gcps or header.has_rpcs:
        model, by = ("ground control points", "gcps") if header.has_gcps else ("an RPC model", "rpcs")
        hint = f'let them place it, in the layer {layer.name}: georeference = "{by}"'
        return layer.error(f"{header.uri} has no geotransform, but {model}", hint)
    return layer.error(
        f"{header.uri} has no geotransform: nothing says where its pixels lie",
        "write one into the file (gdal_edit.py -a_ullr), or leave the layer out; grids of 2-D coordinates are not read",
    )


def sources_of(layer: Layer, files: Sequence[tuple[Header, tuple[Band, ...]]]) -> tuple[Source, ...]:
    """Group the files of a layer into sources: neighbours on one pixel lattice become a mosaic without seams.

    Files keep their order. A file on another lattice starts a new source, whose rank settles overlaps.

    Args:
        layer: its CRS, if it has one, replaces that of the files.
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
    """Column and row of the upper left corner of `other` in pixels of `first`."""
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
    width, height = max(f.col + f.header.width for f in files), max(f.row + f.header.height for f in files)
    return Source(files, crs, first.transform @ Affine.translation(left, top), width, height)
