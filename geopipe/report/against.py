"""What differs between two finished tables: runs are deterministic, so a difference means something."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe import __version__
from geopipe.export.ledger import differences
from geopipe.grid.crs import crs_of
from geopipe.redaction import redacted
from geopipe.report.facts import settings_of
from geopipe.report.sample import Sample
from geopipe.report.variables import variables_of
from geopipe.table.table import Table

MOST_TILES = 1000
"""Tiles of a variable that are listed."""

Json = dict[str, Any]


def comparison_of(tables: tuple[Table, Table], samples: tuple[Sample, Sample]) -> Json:
    """The differences of two tables as JSON values.

    On one grid each cell is compared; of other grids the distributions are compared alone.
    """
    one, other = tables
    same_grid = one.grid == other.grid
    summaries = [
        {v["name"]: v for v in variables_of(table, sample)} for table, sample in zip(tables, samples, strict=True)
    ]
    common = [name for name in summaries[0] if name in summaries[1]]
    cells = _cells(tables, common) if same_grid else None
    variables = []
    for name in common:
        own, others = summaries[0][name], summaries[1][name]
        entry: Json = {
            "name": name,
            "unit": own["unit"],
            "kind": own["kind"],
            "types": [own["type"], others["type"]],
            "distribution": _distribution(own, others),
            "cells": cells.of[name] if cells else None,
        }
        changed = any(row["one"] != row["other"] for row in entry["distribution"])
        entry["same"] = own["type"] == others["type"] and not (entry["cells"]["count"] if cells else changed)
        variables.append(entry)
    missing = [[n for n in summaries[0] if n not in common], [n for n in summaries[1] if n not in common]]
    result: Json = {
        "geopipe": __version__,
        "outputs": [one.output, other.output],
        "runs": [_about(table) for table in tables],
        "grids": [_grid(table) for table in tables],
        "same_grid": same_grid,
        "rows": [one.rows, other.rows],
        "rows_alone": cells.alone if cells else None,
        "missing": missing,
        "variables": variables,
        "causes": list(_causes(one, other)),
    }
    result["same"] = (
        same_grid
        and not any(missing)
        and not any(result["rows_alone"] or ())
        and all(entry["same"] for entry in variables)
    )
    return dict(redacted(json.loads(json.dumps(result, default=str))))


def _about(table: Table) -> Json:
    return {key: table.success.get(key) for key in ("name", "run_id", "plan_hash")}


def _grid(table: Table) -> Json:
    grid = table.grid
    shape = {"width": grid.width, "height": grid.height, "dx": grid.dx, "dy": grid.dy, "bounds": list(grid.bounds)}
    crs = crs_of(grid.crs)
    return shape | {"crs": crs.name, "geographic": crs.is_geographic}


def _distribution(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Json]:
    """Null share, range, mean and quantiles of both."""
    rows = [(name, one[name], other[name]) for name in ("null_share", "min", "max", "mean")]
    pairs = (one.get("quantiles", {}), other.get("quantiles", {}))
    rows[2:2] = [(f"{float(q):.0%}", pairs[0][q], pairs[1].get(q)) for q in pairs[0]]
    return [{"what": what.replace("_", " "), "one": a, "other": b} for what, a, b in rows]


class _Differences:
    """The cells that differ, by variable, and the rows that one table has alone."""

    def __init__(self, names: list[str]) -> None:
        self.of: dict[str, Json] = {
            name: {"count": 0, "of": 0, "nulls": 0, "largest": 0.0, "tiles": []} for name in names
        }
        self.alone = [0, 0]

    def add(self, name: str, tile: int, pair: tuple[pa.Array, pa.Array]) -> None:
        """Compare the values of a variable in cells that both tables have. pair: two arrays of (n,)."""
        entry = self.of[name]
        valid = [np.asarray(values.is_valid()) for values in pair]
        numbers = [np.asarray(values.fill_null(0)) for values in pair]
        both = valid[0] & valid[1]
        changed, nulls = both & (numbers[0] != numbers[1]), valid[0] != valid[1]
        count = int(changed.sum() + nulls.sum())
        entry["of"] += len(both)
        if not count:
            return
        if len(entry["tiles"]) < MOST_TILES:
            entry["tiles"].append(tile)
        gaps = numbers[1][changed].astype(np.float64) - numbers[0][changed].astype(np.float64)
        entry["count"] += count
        entry["nulls"] += int(nulls.sum())
        entry["largest"] = max(entry["largest"], float(np.abs(gaps).max(initial=0.0)))


def _cells(tables: tuple[Table, Table], names: list[str]) -> _Differences:
    """Compare each cell of two tables on one grid, a tile of the first and a column at a time."""
    one = tables[0]
    result, facts = _Differences(names), one.files.facts
    width = one.grid.width
    for key in range(facts.tiles):
        tile = one.grid.tile(key, facts.window_size)
        left, top = one.grid.x0 + tile.col * one.grid.dx, one.grid.y0 - tile.row * one.grid.dy
        bounds = (left, top - tile.height * one.grid.dy, left + tile.width * one.grid.dx, top)
        places = [_places(table.arrow(["row", "col"], bounds), width) for table in tables]

        common, *at = np.intersect1d(places[0], places[1], assume_unique=True, return_indices=True)

        for index in (0, 1):
            result.alone[index] += len(places[index]) - len(common)
        for name in names if len(common) else ():
            columns = [table.arrow([name], bounds)[name].combine_chunks() for table in tables]
            pair = tuple(column.take(pa.array(where)) for column, where in zip(columns, at, strict=True))
            result.add(name, key, pair)
    return result


def _places(table: pa.Table, width: int) -> NDArray[np.int64]:
    """(rows,) int64, number of each cell in the grid."""
    rows, cols = (table[name].to_numpy().astype(np.int64) for name in ("row", "col"))
    return np.asarray(rows * width + cols)


def _causes(one: Table, other: Table) -> Iterator[Json]:
    """What the runs had otherwise: settings, versions, sources. Names of outputs and engines decide no value."""
    texts = [tomllib.loads(settings_of(table) or "") for table in (one, other)]
    decisive = [{k: v for k, v in text.items() if k in ("grid", "layers", "resampling", "merge")} for text in texts]
    for difference in differences(decisive[0], decisive[1]):
        yield {"kind": "settings", "text": difference}
    for kind in ("versions", "sources"):
        for difference in differences(one.provenance.get(kind, {}), other.provenance.get(kind, {})):
            yield {"kind": kind, "text": difference}
