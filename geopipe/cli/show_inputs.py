"""What `geopipe inspect` prints: the headers of rasters and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from geopipe.cli.screen import facts
from geopipe.errors import SettingsError
from geopipe.grid.crs import crs_label
from geopipe.grid.grid import projected_bounds
from geopipe.layers.header import Band, Header
from geopipe.layers.tables import TableHeader
from geopipe.text import numbers, size


def header_json(header: Header) -> dict[str, Any]:
    """A header as JSON values."""
    return {
        "uri": header.uri,
        "driver": header.driver,
        "crs": header.crs,
        "width": header.width,
        "height": header.height,
        "transform": list(header.transform.to_gdal()),
        "resolution": list(header.resolution),
        "bounds": list(header.bounds),
        "lonlat_bounds": _lonlat(header),
        "bands": [{k: v for k, v in vars(b).items() if k not in ("more", "reduce", "bits")} for b in header.bands],
        "block": list(header.block),
        "overviews": list(header.overviews),
        "compression": header.compression,
        "interleave": header.interleave,
        "subdatasets": list(header.subdatasets),
        "variables": list(header.variables),
        "gcps": header.has_gcps,
        "rpcs": header.has_rpcs,
        "bytes": header.size,
    }


def _lonlat(header: Header) -> list[float] | None:
    if header.crs is None:
        return None
    try:
        bounds = projected_bounds(header.transform, header.width, header.height, header.crs, "OGC:CRS84")
    except SettingsError:  # of another planet
        return None
    return list(bounds) if bounds else None


def headers(out: Console, rasters: Sequence[Header]) -> None:
    """A table of rasters; all that is known of one where there is only one."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("file", "driver", "CRS", "columns x rows", "pixel", "bands", "nodata"):
        table.add_column(name, overflow="fold")
    for h in rasters:
        table.add_row(
            h.uri,
            h.driver,
            crs_label(h.crs),
            f"{h.width} x {h.height}",
            numbers(h.resolution, 6),
            _types(h),
            _nodata(h),
        )
    out.print(table)
    if len(rasters) == 1:
        _header(out, rasters[0])


def _types(header: Header) -> str:
    types = list(dict.fromkeys(b.dtype for b in header.bands))
    return f"{len(header.bands)} x {', '.join(types)}" if header.bands else "none"


def _nodata(header: Header) -> str:
    return ", ".join(dict.fromkeys("none" if b.nodata is None else f"{b.nodata:g}" for b in header.bands))


def _header(out: Console, h: Header) -> None:
    lonlat = _lonlat(h)
    lines = {
        "bounds": numbers(h.bounds),
        "lon, lat": numbers(lonlat, 6) if lonlat else "unknown",
        "stored as": f"blocks of {h.block[1]} x {h.block[0]}, {h.compression or 'no compression'}, {size(h.size)}",
        "overviews": ", ".join(f"1/{o}" for o in h.overviews) or "none",
    }
    if h.has_gcps or h.has_rpcs:
        lines["placed by"] = "ground control points" if h.has_gcps else "RPCs"
    if h.subdatasets:
        lines["variables"] = "\n".join(f"{n}  (path = '{u}')" for n, u in zip(h.variables, h.subdatasets, strict=True))
    facts(out, lines)
    for band in h.bands:
        out.print(f"  band {band.index}: {_band(band)}")


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
    parts += [f"mask {band.mask}"] if "per_dataset" in band.mask or band.alpha else []
    parts += [f"alpha in band {band.alpha_band}"] if band.alpha_band else []
    return ", ".join(parts)


def table_json(header: TableHeader) -> dict[str, Any]:
    """The header of a coordinate table as JSON values."""
    return {
        "uri": header.uri,
        "driver": header.driver,
        "crs": header.crs,
        "rows": header.rows,
        "columns": [{"name": c.name, "type": c.type_name} for c in header.columns],
        "bytes": header.size,
    }


def tables(out: Console, headers: Sequence[TableHeader]) -> None:
    """A table of coordinate tables; the types of the columns of one where there is only one."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("file", "driver", "CRS", "rows", "columns"):
        table.add_column(name, overflow="fold")
    for h in headers:
        table.add_row(h.uri, h.driver, crs_label(h.crs), f"{h.rows:,}", ", ".join(c.name for c in h.columns))
    out.print(table)
    if len(headers) == 1:
        facts(out, {c.name: c.type_name for c in headers[0].columns})
