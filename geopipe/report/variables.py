"""What the report says of each variable: range, mean, quantiles, histogram, classes, and how its map is coloured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe.layers.layer import Kind
from geopipe.report.sample import Sample
from geopipe.table.table import Table
from geopipe.validate.facts import Ends

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 40
MOST_CLASSES = 24
"""Classes that a variable of classes shows by themselves; the others are counted together."""

SIMILAR = 4.0
"""Ends of two signs make a diverging scale if neither is so many times as far from 0 as the other one."""

Json = dict[str, Any]


def variables_of(table: Table, sample: Sample) -> list[Json]:
    """The facts of each variable, in the order of the columns."""
    kinds, classes = table.kinds, table.provenance.get("classes", {})
    manifest, rows, facts = table.files.manifest, table.rows, table.files.facts.variables
    result = []
    for name, fact in facts.items():
        ends, field = manifest.columns[name], table.schema.field(name)
        about = {key.decode(): text.decode() for key, text in (field.metadata or {}).items()}
        values, valid = sample.column(name)
        present = values[valid]
        kind = str(kinds.get(name, Kind.CONTINUOUS))
        if kind == Kind.CATEGORICAL and not pa.types.is_integer(field.type):
            kind = str(Kind.CONTINUOUS)  # a share of a class
        entry: Json = {
            "name": name,
            "type": fact.type,
            "unit": about.get("unit", ""),
            "description": about.get("description", ""),
            "layer": fact.layer,
            "kind": kind,
            "skipped": fact.skipped,
            **_range(ends, rows, sample.sums.get(name)),
            "sample": len(present),
        }
        if kind == Kind.CATEGORICAL:
            entry["classes"] = _classes(present, classes.get(name, {}))
        elif len(present):
            numbers = present[np.isfinite(present)].astype(np.float64)
            entry |= _distribution(numbers) if len(numbers) else {}
            entry["scale"] = scale_of(entry, kind)
        result.append(entry)
    return result


def _range(ends: Ends, rows: int, total: float | None) -> Json:
    count = rows - ends.nulls
    mean = total / count if total is not None and count and math.isfinite(total) else None
    return {
        "nulls": ends.nulls,
        "null_share": ends.nulls / rows if rows else None,
        "min": _plain(ends.low),
        "max": _plain(ends.high),
        "mean": mean,
        "constant": bool(count) and ends.low == ends.high,
    }


def _plain(value: float | None) -> float | str | None:
    """A number of JSON; an infinity as text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _distribution(values: NDArray[np.float64]) -> Json:
    """Quantiles and a histogram of finite values. values: (n,) float64, n > 0."""
    quantiles = np.quantile(values, QUANTILES)
    low, high = float(values.min()), float(values.max())
    inner = quantiles[0], quantiles[-1]
    # one far value would leave all others in one bar
    if inner[1] > inner[0] and high - low > 8 * (inner[1] - inner[0]):
        low, high = float(inner[0]), float(inner[1])
    counts, edges = np.histogram(values, BINS, (low, high if high > low else low + 1))
    return {
        "quantiles": {f"{q:g}": float(v) for q, v in zip(QUANTILES, quantiles, strict=True)},
        "sd": float(values.std()),
        "histogram": {
            "low": float(edges[0]),
            "high": float(edges[-1]),
            "counts": counts.tolist(),
            "outside": int(len(values) - counts.sum()),
        },
    }


def scale_of(entry: Json, kind: str) -> Json | None:
    """Ends and colours of the map's scale: between the quantiles of 1 and 99 %, so that a few values do not fade it."""
    if "quantiles" not in entry:
        return None
    low, high = entry["quantiles"]["0.01"], entry["quantiles"]["0.99"]
    if low == high:
        low, high = (float(entry[end]) for end in ("min", "max"))
    if kind == Kind.CIRCULAR:
        return {"low": 0.0, "high": 360.0, "colours": "cyclic"}
    if low < 0 < high and max(-low, high) <= SIMILAR * min(-low, high):
        end = max(-low, high)
        return {"low": -end, "high": end, "colours": "diverging"}
    return {"low": low, "high": high, "colours": "sequential"}


def _classes(values: NDArray[Any], known: Mapping[str, Mapping[str, str]]) -> list[Json]:
    """The classes in the sample: value, name, colour, share; the most frequent ones, by their value."""
    present, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST_CLASSES]
    return [
        {
            "value": int(present[i]),
            "name": known.get(str(present[i]), {}).get("name", ""),
            "colour": known.get(str(present[i]), {}).get("colour", ""),
            "share": int(counts[i]) / len(values),
        }
        for i in sorted(order)
    ]
