"""Inspect a raster file beyond its header: variables, times, levels, palettes, value ranges, and extent in lon/lat."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from geopipe.errors import SettingsError, SourceError
from geopipe.grid.crs import Bounds
from geopipe.grid.grid import projected_bounds
from geopipe.layers.access import NOTHING, Access
from geopipe.layers.header import Header, Palette
from geopipe.layers.layer import Layer, Placed, Source
from geopipe.load import raster
from geopipe.load.gdal import open_raster
from geopipe.resample.methods import Window

PIXELS = 1 << 22
"""Pixels of a window in which value ranges are read."""


class FileVariable(NamedTuple):
    """A variable of a file with several: its name, and its header or the reason why it cannot be read."""

    name: str
    header: Header | None
    problem: str = ""


@dataclass(frozen=True)
class ValueRange:
    """Smallest and largest valid value of a band, unpacked (None if no pixel is valid), and its valid pixels."""

    low: float | None
    high: float | None
    valid: int


class FileInfo(NamedTuple):
    """What a file contains beyond its header.

    Attributes:
        variables: of a file with several.
        times: ISO dates or datetimes of the bands, each once, in their order; `levels` likewise.
        palettes: of each band, empty without one.
        ranges: of each band, empty unless requested.
    """

    variables: tuple[FileVariable, ...]
    times: tuple[str, ...]
    levels: tuple[str, ...]
    palettes: tuple[Palette, ...]
    ranges: tuple[ValueRange, ...] = ()


def describe(header: Header, access: Access = NOTHING, *, ranges: bool = False) -> FileInfo:
    """Describe a file by its header, and by those of its variables.

    Args:
        header: from `raster.inspect`.
        access: what the file may refer to.
        ranges: read all pixels for the value range of each band.

    Raises:
        SourceError: pixels cannot be read.
    """
    return FileInfo(
        file_variables(header, access),
        tuple(dict.fromkeys(band.step for band in header.bands if band.step)),
        tuple(dict.fromkeys(band.level for band in header.bands if band.level)),
        palettes(header, access),
        value_ranges(header, access) if ranges else (),
    )


def lonlat_bounds(header: Header) -> Bounds | None:
    """Bounds in longitude and latitude. None without a CRS, on another planet, or without an image."""
    with suppress(SettingsError):
        if header.crs is not None:
            return projected_bounds(header.transform, header.width, header.height, header.crs, "OGC:CRS84")
    return None


def file_variables(header: Header, access: Access = NOTHING) -> tuple[FileVariable, ...]:
    """The variables of a file with several, each with its own header."""
    variables = []
    for name, uri in zip(header.variables, header.subdatasets, strict=True):
        try:
            variables.append(FileVariable(name, raster.inspect(uri, access)))
        except SourceError as error:
            variables.append(FileVariable(name, None, error.message))
    return tuple(variables)


def palettes(header: Header, access: Access = NOTHING) -> tuple[Palette, ...]:
    """The palette of each band, empty without one."""
    if not any(band.paletted for band in header.bands):
        return ((),) * len(header.bands)
    with raster.environment(), open_raster(header.uri, access) as ds:
        return tuple(tuple(sorted(ds.colormap(band.index).items())) if band.paletted else () for band in header.bands)


def value_ranges(header: Header, access: Access = NOTHING) -> tuple[ValueRange, ...]:
    """The value range of each band. Reads every pixel once, in windows of whole stored blocks.

    Raises:
        SourceError: pixels cannot be read.
    """
    layer = Layer("inspect", (header.uri,), allow=access.allow, driver=access.driver)
    size = (header.width, header.height)
    source = Source((Placed(header, header.bands),), header.crs or "EPSG:3857", header.transform, *size)
    rows = max(1, PIXELS // max(1, header.width) // header.block[0]) * header.block[0]
    reader, ranges = raster.Readers(), []
    with raster.environment():
        for index, band in enumerate(header.bands):
            low, high, valid = np.inf, -np.inf, 0
            for row in range(0, header.height, rows) if not band.dtype.startswith("complex") else ():
                window = Window(row, 0, min(rows, header.height - row), header.width)
                values, mask = reader.read_window(layer, source, index, window)
                values = values if mask is None else values[mask]
                if values.size:
                    low, high, valid = min(low, values.min()), max(high, values.max()), valid + values.size
            whole = np.dtype(band.dtype).kind in "iu" and band.scale == 1.0 and band.offset == 0.0
            limits = [(int(v) if whole else float(v)) if valid else None for v in (low, high)]
            ranges.append(ValueRange(limits[0], limits[1], valid))
        reader.close()
    return tuple(ranges)
