"""What `geopipe inspect` prints: the headers of rasters and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from geopipe.cli.options import picked
from geopipe.cli.screen import facts, headline, table
from geopipe.grid.crs import crs_label
from geopipe.layers.header import Band, Header
from geopipe.layers.tables import TableHeader
from geopipe.load.inspect import FileInfo, lonlat_bounds
from geopipe.text import count, numbers, size

MOST = 6
"""Times or levels that are listed; of more only the first and the last."""

MOST_COLOURS = 32
"""Colours of a palette that are listed."""


def header_json(header: Header, info: FileInfo | None = None) -> dict[str, Any]:
    """A header as JSON values, with details if there are any."""
    bands = [{k: v for k, v in vars(b).items() if k not in ("more", "reduce", "bits")} for b in header.bands]
    return (
        picked(header, "uri driver crs width height")
        | {"transform": header.transform.to_gdal()}
        | picked(header, "resolution bounds")
        | {"lonlat_bounds": lonlat_bounds(header), "bands": bands}
        | picked(header, "block overviews compression interleave subdatasets variables")
        | {"gcps": header.has_gcps, "rpcs": header.has_rpcs, "bytes": header.stamp.size}
        | (_details_json(info) if info else {})
    )


def _details_json(info: FileInfo) -> dict[str, Any]:
    details = [picked(v, "name problem") | (header_json(v.header) if v.header else {}) for v in info.variables]
    return {"details": details} | picked(info, "times levels palettes") | {"ranges": [vars(one) for one in info.ranges]}


def headers(out: Console, rasters: Sequence[Header]) -> None:
    """Write a table of rasters."""
    rows = []
    for h in rasters:
        pixels = (crs_label(h.crs), f"{h.width} x {h.height}", numbers(h.resolution, 6)) if h.bands else ("", "", "")
        rows.append((h.uri, h.driver, *pixels, _types(h), _nodata(h)))
    table(out, ("file", "driver", "CRS", "columns x rows", "pixel", "bands", "nodata"), rows, fold=True)


def _types(header: Header) -> str:
    types = list(dict.fromkeys(b.dtype for b in header.bands))
    if not header.bands:
        return count(len(header.variables), "variable") if header.variables else "none"
    return f"{len(header.bands)} x {', '.join(types)}"


def _nodata(header: Header) -> str:
    return ", ".join(dict.fromkeys("none" if b.nodata is None else f"{b.nodata:g}" for b in header.bands))


def details(out: Console, header: Header, info: FileInfo | None = None) -> None:
    """Write everything about a raster; times, levels, palettes and value ranges if they were read."""
    lonlat = lonlat_bounds(header)
    lines = {
        "bounds": numbers(header.bounds),
        "lon, lat": numbers(lonlat, 6) if lonlat else "unknown",
        "stored as": f"blocks of {header.block[1]} x {header.block[0]}, {header.compression or 'no compression'}, "
        f"{size(header.stamp.size)}",
        "overviews": ", ".join(f"1/{o}" for o in header.overviews) or "none",
    }
    if not header.bands:
        lines = {"stored as": size(header.stamp.size)}
    if header.has_gcps or header.has_rpcs:
        lines["placed by"] = "ground control points" if header.has_gcps else "RPCs"
    if info:
        lines |= _span("times", info.times) | _span("levels", info.levels)
    if info is None and header.subdatasets:
        pairs = zip(header.variables, header.subdatasets, strict=True)
        lines["variables"] = "\n".join(f"{name}  (path = '{uri}')" for name, uri in pairs)
    facts(out, lines)
    for variable in info.variables if info else ():
        headline(out, f"  variable {variable.name}", f"  {variable.problem}")
        if variable.header:
            facts(out, _variable(variable.header))
    for index, band in enumerate(header.bands):
        out.print(f"  band {band.index}: {_band(band)}")
        if info:
            facts(out, _pixels(header, info, index))


def _span(name: str, texts: Sequence[str]) -> dict[str, str]:
    """Times or levels under their name: all of a few, else their number with the first and the last."""
    if not texts:
        return {}
    return {name: f"{len(texts):,}: {texts[0]} to {texts[-1]}" if len(texts) > MOST else ", ".join(texts)}


def _pixels(header: Header, info: FileInfo, index: int) -> dict[str, str]:
    """Palette and value range of a band. Colours that are black, as GDAL fills a palette, are left out."""
    lines = {}
    colours = [f"{value} #{r:02x}{g:02x}{b:02x}" for value, (r, g, b, _) in info.palettes[index] if r or g or b]
    if colours:
        more = f" and {len(colours) - MOST_COLOURS} more" if len(colours) > MOST_COLOURS else ""
        lines["palette"] = ", ".join(colours[:MOST_COLOURS]) + more
    if info.ranges:
        one, pixels = info.ranges[index], header.width * header.height
        ends = "no valid pixel" if one.low is None else f"{one.low:.9g} to {one.high:.9g}"
        lines["values"] = f"{ends}, {one.valid / max(pixels, 1):.1%} of the pixels are valid"
    return lines


def _variable(header: Header) -> dict[str, str]:
    """Size, place, times and levels of a variable."""
    lines = {
        "grid": f"{header.width} x {header.height}, {crs_label(header.crs)}, pixel {numbers(header.resolution, 6)}",
        "bands": f"{_types(header)}, nodata {_nodata(header)}" + _unit(header),
    }
    for name, key in (("times", "step"), ("levels", "level")):
        lines |= _span(name, list(dict.fromkeys(getattr(b, key) for b in header.bands if getattr(b, key))))
    return lines


def _unit(header: Header) -> str:
    units = dict.fromkeys(b.unit for b in header.bands if b.unit)
    return f", {' '.join(units)}" if units else ""


def _band(band: Band) -> str:
    parts = [band.dtype, "nodata " + ("none" if band.nodata is None else f"{band.nodata:g}")]
    others = [f"{number:g}" for number in band.missing if number != band.nodata]
    parts += [f"missing {' '.join(others)}"] if others else []
    ends = ["" if end is None else f"{end:g}" for end in band.limits]
    parts += [f"valid {'..'.join(ends)}"] if any(ends) else []
    if band.scale != 1 or band.offset != 0:
        parts.append(f"scale {band.scale:g}, offset {band.offset:g}")
    parts += [f"unit {band.unit}"] if band.unit else []
    parts += [repr(band.description)] if band.description else []
    parts += [f"{key} {text}" for key, text in band.place.items()]
    parts += ["colour table"] if band.paletted else []
    parts += [f"classes {', '.join(f'{v} {n}' for v, n in band.categories)}"] if band.categories else []
    parts += [f"mask {band.mask}"] if "per_dataset" in band.mask or band.alpha else []
    parts += [f"alpha in band {band.alpha_band}"] if band.alpha_band else []
    return ", ".join(parts)


def table_json(header: TableHeader) -> dict[str, Any]:
    """The header of a table of points as JSON values."""
    columns = [{"name": c.name, "type": c.type_name} for c in header.columns]
    return picked(header, "uri driver crs rows") | {"columns": columns, "bytes": header.stamp.size}


def tables(out: Console, headers: Sequence[TableHeader]) -> None:
    """Write a table of coordinate tables; with a single one also the types of its columns."""
    rows = [(h.uri, h.driver, crs_label(h.crs), f"{h.rows:,}", ", ".join(c.name for c in h.columns)) for h in headers]
    table(out, ("file", "driver", "CRS", "rows", "columns"), rows, fold=True)
    if len(headers) == 1:
        facts(out, {c.name: c.type_name for c in headers[0].columns})
