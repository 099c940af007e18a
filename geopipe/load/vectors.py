"""Read polygons from vector files: GeoJSON, GeoPackage, Shapefile, and other formats of GDAL."""

from __future__ import annotations

import importlib
import json
import mmap
import os
import re
import struct
from collections import Counter
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from geopipe.errors import SourceError
from geopipe.grid.crs import Floats, horizontal
from geopipe.grid.polygons import Shapes
from geopipe.layers.access import HEAD, POINTERS, Access, ending
from geopipe.layers.uris import file_of, in_gdal, is_remote
from geopipe.load.gdal import network
from geopipe.load.opening import refuse_special

NAMES = ("geometry", "point", "line", "polygon", "multipoint", "multiline", "multipolygon", "collection")
POLYGON, MULTIPOLYGON, COLLECTION = 3, 6, 7
"""Codes of well-known binary (WKB)."""

Polygon = list[Floats]
"""The rings of a polygon, each (n, 2)."""


CONTENTS = {
    ("geojson", "json", "topojson", "geojsonl", "geojsons", "ndjson"): (b"{", b"\x1e", b"\xef\xbb\xbf{"),
    ("gpkg", "sqlite"): (b"SQLite format 3\0",),
    ("shp",): (b"\0\0\x27\x0a",),
    ("shz", "kmz"): (b"PK",),
    ("fgb",): (b"fgb",),
    ("kml", "gml", "gpx"): (b"<", b"\xef\xbb\xbf<"),
    ("tab",): (b"!table", b"!Table", b"!TABLE"),
    ("mif",): (b"Version", b"VERSION"),
}
"""First bytes of vector files by the ending of the name."""

SKIPPED = "OGR_VRT,GDALG,HTTP,WFS,OAPIF,CSW,OGCAPI,NGW,Carto,AmigoCloud,Elasticsearch,PLSCENES,EEDA,ADBC,GPSBabel,GTFS"
"""Drivers of pyogrio's GDAL that open other files or servers."""

UNREADABLE = "is neither a raster nor a vector file that GDAL can open"

CRS_KEY = re.compile(rb'"(?:c|\\u00[46]3)(?:r|\\u00[57]2)(?:s|\\u00[57]3)"\s*(:?)\s*', re.I)
"""A member "crs" of a JSON file, with letters escaped or not. GDAL would fetch it from an address in it."""


def read(uri: str, layer: str | None, crs: str | None) -> Shapes:
    """Read all polygons of a vector file, and their CRS: `crs`, else that of the file.

    Args:
        layer: of a file with several.

    Raises:
        SourceError: it cannot be opened, has several layers, no CRS, or other geometries than polygons.
    """
    refuse_special(uri, Access(where="grid.mask = "))
    geometries, own_crs = _geometries(uri, layer)
    crs = crs or own_crs
    if crs is None:
        raise _error(uri, "has no CRS", 'say which it is: grid.mask_crs = "EPSG:..."')
    simple = [part for wkb in geometries if wkb is not None for part in _parts(wkb, 0)[0]]
    polygons = [rings for kind, rings in simple if kind == POLYGON and rings]
    others = Counter(kind for kind, _ in simple if kind != POLYGON)
    if others:
        names = ((count, NAMES[kind] if kind < len(NAMES) else f"geometry {kind}") for kind, count in others.items())
        listed = ", ".join(f"{count:,} x {name}" for count, name in names)
        raise _error(
            uri,
            f"has, beside {len(polygons):,} polygons, {listed}; only polygons have an inside",
            "buffer points and lines first, turn curves into lines, or give the polygons alone",
        )
    if not polygons:
        raise _error(uri, f"has no polygon in {len(geometries):,} features", "give one with polygons")
    return Shapes(uri, horizontal(crs)[0], polygons)


def _error(uri: str, problem: str, hint: str) -> SourceError:
    return SourceError(f"grid.mask = {uri} {problem}", hint)


def _geometries(uri: str, layer: str | None) -> tuple[Sequence[bytes | None], str | None]:
    """The geometry of each feature as WKB, and the CRS of the file."""
    _check_contents(uri)
    pyogrio = _pyogrio()
    pyogrio.set_gdal_config_options({key: str(value) for key, value in network().items()})
    name, layers = in_gdal(uri), []
    try:
        layers = [str(known) for known, _ in pyogrio.list_layers(name)]
        if layer is None and len(layers) > 1:
            hint = f'choose one: grid.mask_layer = "{layers[0]}"'
            raise _error(uri, f"has {len(layers)} layers: {', '.join(layers[:20])}", hint)
        meta, _, geometries, _ = pyogrio.raw.read(name, layer=layer, columns=[], force_2d=True)
    except (RuntimeError, ValueError, LookupError) as error:  # pyogrio raises any of them
        problem, hint = f"{UNREADABLE}: {error}", "give a GeoJSON, GeoPackage, Shapefile or raster"
        if layer is not None and layers and layer not in layers:
            problem, hint = f"has no layer {layer!r}; it has {', '.join(layers[:20])}", "correct grid.mask_layer"
        raise _error(uri, problem, hint) from None
    return (() if geometries is None else geometries), meta["crs"]


def _pyogrio() -> ModuleType:
    """Import pyogrio. It has a GDAL of its own, which a run without a vector mask must not load."""
    before = os.environ.get("GDAL_SKIP")
    os.environ["GDAL_SKIP"] = SKIPPED  # GDAL reads it once, at import
    try:
        return importlib.import_module("pyogrio")
    finally:
        del os.environ["GDAL_SKIP"]
        os.environ.update({} if before is None else {"GDAL_SKIP": before})


def _check_contents(uri: str) -> None:
    """Refuse a local vector file whose contents do not fit its name, or that refers to other files.

    Raises:
        SourceError: it is such a file.
    """
    file = file_of(uri)
    if file is None or is_remote(uri) or os.path.isdir(file):
        return
    marks = next((marks for endings, marks in CONTENTS.items() if ending(file) in endings), ())
    with open(file, "rb") as opened:
        head = opened.read(HEAD)
        refers = POINTERS.search(head) is not None
        if refers or not head.lstrip(b" \t\r\n").startswith(marks):
            more = ", or leads to other files" if refers else ""
            hint = "give a GeoJSON, GeoPackage, Shapefile, FlatGeobuf or raster, under the ending of what it is"
            raise _error(uri, f"{UNREADABLE}: it does not begin like a file with its ending{more}", hint)
        size, declared = os.path.getsize(file), 2 * int.from_bytes(head[24:28], "big")
        if ending(file) == "shp" and declared > size:  # GDAL reads the rest without an error
            raise _error(uri, f"is cut short: it has {size:,} of {declared:,} bytes", "get the file again")
        if head.lstrip(b" \t\r\n\x1e\xef\xbb\xbf").startswith(b"{"):
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text:
                _check_crs(uri, text)


def _check_crs(uri: str, text: mmap.mmap) -> None:
    """Refuse GeoJSON whose CRS is an address."""
    for match in CRS_KEY.finditer(text):
        after = text[match.end() : match.end() + HEAD].decode("utf-8", "replace")
        try:
            value = json.JSONDecoder().raw_decode(after)[0] if match[1] else None
        except ValueError:
            value = {}
        if isinstance(value, dict) and str(value.get("type")).lower() not in ("name", "epsg"):
            hint = 'write the file anew with a name for it ("crs": {"type": "name", ...}), or without any: WGS 84'
            raise _error(uri, "has a CRS that is not in the file but at an address", hint)


def missing(uri: str) -> bool:
    """Whether a name is a local file that does not exist."""
    file = file_of(uri)
    return file is not None and not os.path.exists(file)


def _parts(wkb: bytes, at: int) -> tuple[list[tuple[int, Polygon]], int]:
    """The simple geometries in WKB from the byte `at` on, with their codes, and the byte after them.

    Only polygons have rings (an empty one has none).
    """
    order = "<" if wkb[at] else ">"
    code, at = struct.unpack_from(f"{order}I", wkb, at + 1)[0], at + 5
    if code not in (POLYGON, MULTIPOLYGON, COLLECTION):
        return [(code, [])], len(wkb)  # `read` raises an error for it
    count, at = struct.unpack_from(f"{order}I", wkb, at)[0], at + 4
    geometries: list[tuple[int, Polygon]] = []
    if code == POLYGON:
        rings: Polygon = []
        for _ in range(count):
            points, at = struct.unpack_from(f"{order}I", wkb, at)[0], at + 4
            ring = np.frombuffer(wkb, f"{order}f8", 2 * points, at).reshape(-1, 2).astype(np.float64)
            rings, at = [*rings, ring] if points else rings, at + 16 * points
        return [(POLYGON, rings)], at
    for _ in range(count):
        parts, at = _parts(wkb, at)
        geometries += parts
        if at >= len(wkb):
            break
    return geometries, at
