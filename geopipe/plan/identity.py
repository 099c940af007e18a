"""The identity of a plan: what decides the bytes of its table, from which the plan's hash is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, fields, replace
from typing import Any

from geopipe.grid.grid import Grid
from geopipe.merge.spec import TableSpec
from geopipe.plan.layers import LayerPlan, MaskPlan, describe_layer
from geopipe.plan.options import Options


def cells_of(spec: TableSpec, mask: MaskPlan | None) -> dict[str, Any]:
    """What decides which cells are rows."""
    told: dict[str, Any] = {"merge": {"how": spec.how, "drop": sorted(spec.required)}}
    if mask is not None:
        headers = [f.header for d in mask.raster.decisions for f in d.source.files] if mask.raster else []
        told["mask"] = {**mask.describe(), "sources": [[h.size, h.mtime_ns, h.tag] for h in headers]}
    return told


def identity_of(
    grid: Grid, plans: Sequence[LayerPlan], options: Options, version: str, cells: Mapping[str, Any]
) -> dict[str, Any]:
    """What decides the bytes, and nothing that does not: no strategy, no worker count, no output folder.

    By names that a person knows from the settings, because a resumed run that differs is told what differs.
    """
    return {
        **cells,
        "geopipe": version,
        "grid": {f.name: getattr(grid, f.name) for f in fields(grid)},
        "resampling": {"window_size": options.window_size},
        "export": {"formats": list(options.formats), "compress": options.compress, **asdict(options.layout)},
        "layers": {
            p.layer.name: {**asdict(replace(p.layer, allow=())), "plan": describe_layer(p), **_details(p)}
            for p in plans
        },
        "order": [p.layer.name for p in plans],
        "sources": {
            f.header.uri: {"size": f.header.size, "mtime_ns": f.header.mtime_ns, "tag": f.header.tag}
            for p in plans
            for d in p.decisions
            for f in d.source.files
        }
        # of Postgres, nothing but its rows and keys tells that a table was changed
        | {
            h.uri: {"size": h.size, "mtime_ns": h.mtime_ns, "parts": [list(astuple(part)) for part in h.parts]}
            for p in plans
            if p.table
            for h in p.table.headers
        },
    }


def _details(plan: LayerPlan) -> dict[str, Any]:
    """What else decides a layer's bytes."""
    return {
        "crs_of_sources": [plan.table.crs] if plan.table else [d.source.crs for d in plan.decisions],
        "bands_of_files": [[asdict(b) for b in f.bands] for d in plan.decisions for f in d.source.files],
        "variables": [asdict(v) for v in plan.variables],
    }
