"""Headers of raster files: their bands, georeference and layout as frozen values, known before a pixel is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from affine import Affine

from geopipe.grid.crs import Bounds
from geopipe.layers.uris import subdataset

Palette = tuple[tuple[int, tuple[int, int, int, int]], ...]
"""(value, (red, green, blue, alpha)) of each colour, 0 to 255."""


@dataclass(frozen=True)
class Band:
    """One band as the header declares it.

    Attributes:
        index: counts from 1, as in GDAL.
        mask: names of GDAL's mask flags, joined by +.
        variable: its name in a NetCDF, Zarr or GRIB file, "" if the file has no names.
        step: its time as an ISO date or datetime, "" without a time.
        level: its coordinate on any other axis, "" without one.
        more: the other bands, if the layer reduces several steps to one column.
        reduce: how it does so: mean, min, max or sum.
        bits: first and last bit of the bit field that the layer reads.
        alpha_band: number of an alpha band that hides pixels beside `nodata`; 0 if GDAL's mask has it or there is none.
        missing: numbers that mean no-data, beside `nodata`.
        limits: smallest and largest stored number that is valid (NetCDF's valid_range).
        categories: (value, name) of each class, if the file names its classes.
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
    categories: tuple[tuple[int, str], ...] = ()

    @property
    def place(self) -> dict[str, str]:
        """Variable, level, time and reduced steps of the band, as far as the file has them."""
        steps = f"{self.reduce} of {1 + len(self.more)}" if self.reduce else ""
        texts = {"variable": self.variable, "level": self.level, "time": self.step, "steps": steps}
        return {key: text for key, text in texts.items() if text}


class Georeference(NamedTuple):
    """Ground control points or an RPC model, for a raster without a geotransform (used on request only).

    `points` are (row, column, x, y); `rpcs` are GDAL's RPC tags.
    """

    points: tuple[tuple[float, float, float, float], ...] = ()
    rpcs: tuple[tuple[str, str], ...] = ()


class Stamp(NamedTuple):
    """Size in bytes, time of the last change (ns), and on a server the etag, else its time.

    A folder has the sum of sizes and the latest time. If several files are read, `tag` is a hash of the sizes and times
    of all. Unknown values are 0 or empty.
    """

    size: int = 0
    mtime_ns: int = 0
    tag: str = ""


UNKNOWN = Stamp()


@dataclass(frozen=True)
class Header:
    """The header of a raster file.

    Attributes:
        crs: an authority code or WKT.
        block: height and width of the stored blocks, in pixels.
        transposed: the columns are GDAL's rows; width, height, block and transform are those of the columns.
        stamp: of the file when the header was read.
        beside: local files that are read with it, as a sidecar or the tiles of a VRT; part of the stamp.
        reaches: folders and hosts of the files that it refers to.
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
    stamp: Stamp = UNKNOWN
    beside: tuple[str, ...] = ()
    reaches: tuple[str, ...] = ()

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the variables in the file, beside or instead of its own bands."""
        parts = [(uri, subdataset(uri)) for uri in self.subdatasets]
        return tuple(part.name if part and part.name else uri for uri, part in parts)

    @property
    def block_bytes(self) -> int:
        """Bytes of memory to decode one stored block: of all bands if the file interleaves them by pixel."""
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
