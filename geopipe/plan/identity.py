"""The identity of a plan, which decides the bytes of its table, and the provenance that stands beside the table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from geopipe.layers.header import Palette
from geopipe.layers.layer import Placed, Variable
from geopipe.merge.spec import TableSpec
from geopipe.plan.layers import LayerPlan, MaskPlan, describe_layer
from geopipe.plan.options import Options
from geopipe.redaction import redacted

MOST_SOURCES = 10_000
"""Source files that a provenance lists; of more it gives the number."""

MOST_CLASSES = 1024
"""Colours of the classes of a variable that a provenance lists."""

SHOWN_FILES = 3
"""Files of a mosaic that a provenance names beside its layer; all of them stand in its list of sources."""


def identity_of(
    spec: TableSpec, mask: MaskPlan | None, plans: Sequence[LayerPlan], options: Options, version: str
) -> dict[str, Any]:
    """Everything that decides the bytes, as JSON values: no strategy, no worker count, no output folder.

    The keys are the names of settings, because a refused resume lists the differences to the user.

    Args:
        version: of geopipe.
    """
    cells: dict[str, Any] = {"merge": {"how": spec.how, "drop": sorted(spec.required)}}
    if mask is not None:
        headers = [placed.header for placed in _files(mask.raster)] if mask.raster else []
        cells["mask"] = {**mask.describe(), "sources": [list(h.stamp) for h in headers]}
    return {
        **cells,
        "geopipe": version,
        "grid": asdict(spec.grid),
        "resampling": {"window_size": options.window_size},
        "export": {"formats": list(options.formats), "compress": options.compress, **asdict(options.layout)},
        "layers": {
            p.layer.name: {**asdict(replace(p.layer, allow=())), "plan": describe_layer(p), **_details(p)}
            for p in plans
        },
        "order": [p.layer.name for p in plans],
        "sources": _sources(plans),
    }


def hash_of(identity: Mapping[str, Any]) -> str:
    """The plan's hash: SHA-256 of its identity as JSON."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def provenance_of(plans: Sequence[LayerPlan], mask: MaskPlan | None, versions: Mapping[str, str]) -> dict[str, Any]:
    """What made a table and from what, as JSON values without secrets: versions, layers, source files, mask.

    It stands once beside the table, so each file is listed once: `sources` has all of them, or the first MOST_SOURCES.
    """
    layers = []
    for plan in plans:
        about = describe_layer(plan)
        mosaics = [
            {**source, "files": source["files"][:SHOWN_FILES], "file_count": len(source["files"])}
            for source in about["sources"][:MOST_SOURCES]
        ]
        layers.append({**about, "sources": mosaics, "source_count": len(about["sources"])})
    sources = _sources(plans)
    shown = dict(list(sources.items())[:MOST_SOURCES])
    return {
        "versions": dict(versions),
        "layers": redacted(layers),
        "sources": redacted(shown, mark=True),
        "source_count": len(sources),
        "mask": redacted(mask.describe()) if mask else None,
    }


def classes_of(variables: Iterable[Variable], palettes: Mapping[str, Palette]) -> dict[str, dict[int, dict[str, str]]]:
    """Name and colour (#rrggbb) of each class, by variable and value; an empty text where a file has none.

    Black is no colour: GDAL fills every palette with it. More than MOST_CLASSES colours are those of an image.
    """
    classes: dict[str, dict[int, dict[str, str]]] = {}
    for variable in variables:
        names = dict(variable.band.categories)
        palette = palettes.get(variable.name, ())
        colours = {value: f"#{bytes(colour[:3]).hex()}" for value, colour in palette if any(colour[:3])}
        colours = colours if len(colours) <= MOST_CLASSES else {}
        if values := sorted({*names, *colours}):
            classes[variable.name] = {v: {"name": names.get(v, ""), "colour": colours.get(v, "")} for v in values}
    return classes


def _sources(plans: Sequence[LayerPlan]) -> dict[str, Any]:
    """Size, time and tag of each source file by its URI; rows and keys of a table in Postgres, which has no more."""
    files = {f.header.uri: f.header.stamp._asdict() for p in plans for f in _files(p)}
    headers = [header for p in plans if p.table for header in p.table.headers]
    tables = {
        h.uri: {"size": h.stamp.size, "mtime_ns": h.stamp.mtime_ns, "parts": [list(part) for part in h.parts]}
        for h in headers
    }
    return files | tables


def _files(plan: LayerPlan) -> list[Placed]:
    return [placed for decision in plan.decisions for placed in decision.source.files]


def _details(plan: LayerPlan) -> dict[str, Any]:
    """Details of a layer that decide its bytes and stand in no setting."""
    return {
        "crs_of_sources": [plan.table.crs] if plan.table else [d.source.crs for d in plan.decisions],
        "bands_of_files": [[asdict(band) for band in placed.bands] for placed in _files(plan)],
        "variables": [asdict(v) for v in plan.variables],
    }
