"""All that a report says of a table, as JSON values. Nothing here draws or writes a word of HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from geopipe import __version__
from geopipe.analysis import results
from geopipe.export.state import REPORT, SETTINGS
from geopipe.grid.crs import crs_of
from geopipe.layers import uris
from geopipe.redaction import redacted
from geopipe.report.alerts import alerts_of
from geopipe.report.relations import relations_of
from geopipe.report.sample import Sample
from geopipe.report.variables import variables_of
from geopipe.report.went import went_of
from geopipe.table.table import Table

VERSION = 1
"""Of the form of the facts."""

RUN = "run.json"
"""The account of the run, in the folder of the report."""

FIRST_ROWS = 8

Json = dict[str, Any]


def facts_of(table: Table, sample: Sample, output: str) -> Json:
    """The facts of a finished table.

    Args:
        output: its name, for people.
    """
    run, provenance = run_of(table), table.provenance
    variables = variables_of(table, sample)
    relations = relations_of(variables, sample)
    facts = {
        "version": VERSION,
        "geopipe": __version__,
        "table": _table(table, output),
        "sample": {"cells": sample.cells, "stride": sample.stride},
        "alerts": alerts_of(table, variables, relations, run),
        "variables": variables,
        "first_rows": _first_rows(table),
        "relations": relations,
        "analyses": analyses_of(table),
        "went": went_of(run) if run else None,
        "run": run,
        "provenance": provenance,
        "settings": settings_of(table),
    }
    return dict(redacted(json.loads(json.dumps(facts, default=str))))


def run_of(table: Table) -> Json | None:
    """The account of the run of this table, if it has written one."""
    text = _read(table, f"{REPORT}/{RUN}")
    try:
        run = json.loads(text) if text else None
    except ValueError:
        return None
    return run if isinstance(run, dict) and run.get("run_id") == table.success.get("run_id") else None


def _table(table: Table, output: str) -> Json:
    grid, facts = table.grid, table.files.facts
    crs = crs_of(grid.crs)
    return {
        "output": output,
        **{key: table.success.get(key) for key in ("name", "run_id", "plan_hash", "rows", "files", "bytes", "formats")},
        "columns": len(table.columns),
        "how": facts.how,
        "grid": {
            "crs": ":".join(crs.to_authority() or ("", crs.name)).strip(":"),
            "crs_name": crs.name,
            "geographic": crs.is_geographic,
            "unit": crs.axis_info[0].unit_name if crs.axis_info else "",
            "width": grid.width,
            "height": grid.height,
            "cells": grid.cells,
            "dx": grid.dx,
            "dy": grid.dy,
            "bounds": list(grid.bounds),
            "window_size": facts.window_size,
            "tiles": facts.tiles,
            "metres_across": metres_across(table),
        },
    }


def metres_across(table: Table) -> float | None:
    """Metres from the left to the right edge along the middle row: true on the ellipsoid for degrees; None unknown."""
    grid = table.grid
    left, bottom, right, top = grid.bounds
    crs = crs_of(grid.crs)
    if crs.is_geographic:
        middle, width = (bottom + top) / 2, right - left
        geod = crs.get_geod()
        if geod is None or abs(middle) > 90:
            return None
        degree = geod.inv(0.0, middle, min(width, 90.0) / 90, middle)[2] / (min(width, 90.0) / 90)
        return float(degree * width)
    factor = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 0
    return float((right - left) * factor) if factor else None


def _first_rows(table: Table) -> Json:
    names, manifest = [name for name in table.columns if name != "geometry"], table.files.manifest
    rows = list[Json]()
    for key in manifest.tiles[manifest.rows > 0][:1].tolist():
        rows = next(table.files.stream(key, names, FIRST_ROWS)).slice(0, FIRST_ROWS).to_pylist()
    return {"columns": names, "rows": [[row[name] for name in names] for row in rows]}


def analyses_of(table: Table) -> list[Json]:
    """The results that stand beside the table: values, findings, what they are of, and their folder."""
    if uris.is_store(table.output):
        return []
    folder = Path(table.files.root) / results.FOLDER
    run_id = table.success.get("run_id")
    return [
        {
            "method": analysis.method,
            "values": analysis.values,
            "findings": analysis.findings,
            "about": analysis.about,
            "folder": str(analysis.folder.relative_to(folder.parent)),
        }
        for analysis in results.listed(folder, run_id)
    ]


def settings_of(table: Table) -> str:
    """The settings that made the table; secrets are hidden in the file already."""
    return (_read(table, SETTINGS) or b"").decode("utf-8", "replace")


def _read(table: Table, name: str) -> bytes | None:
    """A small file beside the table; None if there is none."""
    with table.files.reading():
        try:
            with table.files.fs.open_input_stream(f"{table.files.root}/{name}", compression=None) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None


def as_json(values: Mapping[str, Any]) -> bytes:
    """JSON values as text of a file, without secrets; a number that JSON lacks is null."""
    return json.dumps(redacted(_finite(values)), indent=1, default=str, allow_nan=False).encode() + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
