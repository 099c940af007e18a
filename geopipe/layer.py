"""What goes in and what comes out: headers of rasters, sources, layers and variables, as frozen values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from affine import Affine

from geopipe.errors import SourceError
from geopipe.grid import Bounds


class Kind(StrEnum):
    """What the numbers of a layer mean; it decides which resampling makes sense."""

    CONTINUOUS = "continuous"
    CATEGORICAL = "categorical"
    COUNT = "count"


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

    `step` is its place in time (ISO date or datetime) or level, where the file says one. Where a layer reduces several
    steps to one variable, `more` has the other bands and `reduce` the rule: mean, min, max or sum.
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
    step: str = ""
    more: tuple[Band, ...] = ()
    reduce: str = ""


@dataclass(frozen=True)
class Header:
    """A raster file as its header tells it, without a pixel read. `crs` is an authority code or WKT."""

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
    size: int = 0
    mtime_ns: int = 0

    @property
    def resolution(self) -> tuple[float, float]:
        """Pixel width and height in CRS units, also of a rotated raster."""
        t = self.transform
        return (t.a**2 + t.d**2) ** 0.5, (t.b**2 + t.e**2) ** 0.5

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
    def block(self) -> tuple[int, int]:
        """Height and width of the blocks in which its first file is stored."""
        return self.files[0].header.block

    @property
    def name(self) -> str:
        first = self.files[0].header.uri
        return first if len(self.files) == 1 else f"{first} and {len(self.files) - 1} more"


@dataclass(frozen=True)
class Layer:
    """A named source as the settings give it. None means: as the file declares it."""

    name: str
    paths: tuple[str, ...]
    bands: tuple[int | str, ...] = ()
    kind: Kind | None = None
    resampling: str = "auto"
    nodata: float | int | None = None
    crs: str | None = None
    scale: float | None = None
    offset: float | None = None
    unit: str | None = None
    overlap: Overlap = Overlap.FIRST
    on_error: str = "fail"


@dataclass(frozen=True)
class Variable:
    """One output column. `dtype` is numpy's name of its type; `band` is the header's, as the layer mends it."""

    name: str
    dtype: str
    layer: str
    band: Band
    unit: str = ""


def check_files(layer: Layer, headers: Sequence[Header]) -> None:
    """Refuse files that cannot be a layer.

    Raises:
        SourceError: a file has no CRS, no bands of its own, or other bands than the first file.
    """
    first = headers[0]
    for header in headers:
        if not header.bands:
            listed = ", ".join(header.subdatasets[:6]) or "none"
            raise SourceError(
                f"layer {layer.name}: {header.uri} has no bands of its own; its subdatasets: {listed}",
                "give one of them as the path",
                layer.name,
            )
        if header.crs is None and layer.crs is None:
            raise SourceError(
                f"layer {layer.name}: {header.uri} has no CRS",
                f'say which it is in the layer {layer.name}: crs = "EPSG:..."',
                layer.name,
            )
        if [b.dtype for b in header.bands] != [b.dtype for b in first.bands]:
            raise SourceError(
                f"layer {layer.name}: {header.uri} has bands of type {_types(header)}, {first.uri} of {_types(first)}",
                "files of one layer must have the same bands; make two layers of them",
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
    return tuple(_mosaic(run, layer.crs or run[0].header.crs or "") for run in runs)


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
