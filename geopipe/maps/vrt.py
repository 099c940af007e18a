"""The text of a VRT: bands with names, units, no-data, palettes and classes, over the files that hold their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np

from geopipe.grid.crs import crs_of
from geopipe.grid.grid import BLOCK, Grid, Tile
from geopipe.maps.columns import MapColumn, Pixels

GDAL_TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32",
    "uint64": "UInt64", "int64": "Int64", "float32": "Float32", "float64": "Float64",
}  # fmt: skip

MOST_VALUES = 1 << 16
"""Classes from 0 on that a list of category names, or a palette in a TIFF, may have."""


BLOCKS: dict[str, str] = {"blockXSize": str(BLOCK), "blockYSize": str(BLOCK)}


@dataclass(frozen=True)
class Content:
    """What the bands of a map are, and how its cells are stored. `finite`: no value is infinite."""

    columns: tuple[MapColumn, ...]
    pixels: Pixels
    finite: bool = True


@dataclass(frozen=True)
class MapPart:
    """A file with the cells of an area. `mask` is the file of its mask and the band there, as a VRT names it."""

    path: Path
    area: Tile
    mask: tuple[Path, str] | None = None


def vrt_text(grid: Grid, area: Tile, content: Content, parts: Sequence[MapPart], folder: Path | None = None) -> str:
    """The text of a VRT of an area, whose pixels are in `parts`. With `folder` paths are relative to it."""
    root = Element("VRTDataset", rasterXSize=str(area.width), rasterYSize=str(area.height))
    SubElement(root, "SRS").text = crs_of(grid.crs).to_wkt()
    SubElement(root, "GeoTransform").text = ", ".join(map(repr, grid.transform_of(area).to_gdal()))
    kind, nodata = GDAL_TYPES[content.pixels.dtype.name], content.pixels.nodata
    for index, column in enumerate(content.columns, 1):
        band = SubElement(root, "VRTRasterBand", BLOCKS, dataType=kind, band=str(index))
        SubElement(band, "Description").text = column.name
        if column.unit:
            SubElement(band, "UnitType").text = column.unit
        if nodata is not None:
            SubElement(band, "NoDataValue").text = str(nodata)
        _classes(band, column, content)
        for part in parts:
            _source(band, part.path, str(index), part.area, area, folder)
    if content.pixels.masked:
        band = SubElement(SubElement(root, "MaskBand"), "VRTRasterBand", BLOCKS, dataType="Byte")
        for part in parts:
            if part.mask is not None:
                _source(band, *part.mask, part.area, area, folder)
    indent(root)
    return tostring(root, encoding="unicode") + "\n"


def _source(band: Element, path: Path, number: str, part: Tile, area: Tile, folder: Path | None) -> None:
    """Add the file of a part to a band."""
    source = SubElement(band, "SimpleSource")
    name = SubElement(source, "SourceFilename", relativeToVRT=str(int(folder is not None)))
    name.text = str(path if folder is None else path.relative_to(folder))
    SubElement(source, "SourceBand").text = number
    size = {"xSize": str(part.width), "ySize": str(part.height)}
    SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0", **size})
    SubElement(source, "DstRect", {"xOff": str(part.col - area.col), "yOff": str(part.row - area.row), **size})


def _classes(band: Element, column: MapColumn, content: Content) -> None:
    """Add the palette and the names of classes to a band, as far as a TIFF can hold them."""
    classes = {int(value): one for value, one in column.classes.items()}
    if not classes or min(classes) < 0 or max(classes) >= MOST_VALUES:
        return
    colours = {value: one["colour"] for value, one in classes.items() if one["colour"]}
    small = content.pixels.dtype in (np.uint8, np.uint16) and len(content.columns) == 1
    if colours and small and max(colours) <= np.iinfo(content.pixels.dtype).max:
        SubElement(band, "ColorInterp").text = "Palette"
        table = SubElement(band, "ColorTable")
        for value in range(max(colours) + 1):
            red, green, blue = bytes.fromhex(colours.get(value, "#000000")[1:])
            SubElement(table, "Entry", c1=str(red), c2=str(green), c3=str(blue), c4="255")
    names = {value: one["name"] for value, one in classes.items() if one["name"]}
    if names:
        texts = SubElement(band, "CategoryNames")
        for value in range(max(names) + 1):
            SubElement(texts, "Category").text = names.get(value, "")
