"""Names of the classes of a band: from CF attributes, and from GDAL's category names and raster attribute tables.

rasterio does not offer the last two. GDAL keeps them in the file FILE.aux.xml beside a raster, or in a VRT.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

Categories = tuple[tuple[int, str], ...]
"""(value, name) of each class, by value."""

MOST = 1024
"""Classes of a band; a longer list is ignored."""

LARGEST = 16 << 20
"""Bytes of the largest XML file that is parsed."""

VALUE_USAGE, NAME_USAGE = "5", "2"
"""GDAL's codes of the columns of an attribute table: GFU_MinMax and GFU_Name."""


def from_attributes(tags: Mapping[str, str]) -> Categories:
    """The classes of CF's attributes `flag_values` and `flag_meanings`."""
    values, names = tags.get("flag_values", "").strip("{}").replace(",", " ").split(), tags.get("flag_meanings", "")
    values = [value.rstrip("bBsSuUlL") for value in values]  # NetCDF's suffixes of types
    return _ordered(zip(values, names.split(), strict=False)) if len(values) == len(names.split()) else ()


def from_sidecar(file: str | None) -> dict[int, Categories]:
    """The classes of each band of a local raster, by the number of the band."""
    path = file if file is None or file.lower().endswith(".vrt") else f"{file}.aux.xml"
    if path is None or not os.path.isfile(path) or os.path.getsize(path) > LARGEST:
        return {}
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    if "<!" in text.replace("<!--", ""):  # entities can grow without end
        return {}
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        return {}  # GDAL ignores such a file, too
    bands = {band.get("band", ""): band for tag in ("PAMRasterBand", "VRTRasterBand") for band in root.iter(tag)}
    return {int(n): own for n, band in bands.items() if n.isdecimal() and (own := _names(band) or _attributes(band))}


def _names(band: Element) -> Categories:
    """The classes of a list of category names: the first one is 0."""
    names = [node.text or "" for node in band.findall("CategoryNames/Category")]
    return _ordered((str(value), name) for value, name in enumerate(names))


def _attributes(band: Element) -> Categories:
    """The classes of a raster attribute table."""
    table = band.find("GDALRasterAttributeTable")
    if table is None:
        return ()
    fields = [(node.findtext("Usage", ""), node.findtext("Name", "").lower()) for node in table.findall("FieldDefn")]

    def column(usage: str, names: tuple[str, ...]) -> int | None:
        by_usage = (n for n, (own, _) in enumerate(fields) if own == usage)
        return next(by_usage, next((n for n, (_, name) in enumerate(fields) if name in names), None))

    value = column(VALUE_USAGE, ("value",))
    name = column(NAME_USAGE, ("class_name", "classname", "class_names", "class", "category", "name"))
    if value is None or name is None:
        return ()
    rows = [[cell.text or "" for cell in row.findall("F")] for row in table.findall("Row")]
    return _ordered((row[value], row[name]) for row in rows if len(row) > max(value, name))


def _ordered(pairs: Iterable[tuple[str, str]]) -> Categories:
    """Pairs of texts with whole numbers and names, by number."""
    classes: dict[int, str] = {}
    for value, name in pairs:
        try:
            number = float(value)
        except ValueError:
            return ()
        if name.strip() and number.is_integer():
            classes[int(number)] = name.strip()
    return tuple(sorted(classes.items())) if len(classes) <= MOST else ()
