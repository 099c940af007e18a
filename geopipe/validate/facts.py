"""What must hold of a table, as pure functions of the receipts of a run (`rows` has those of the rows of a file).

The facts come from the plan and are kept in `_SUCCESS`, so that a run (`check_receipts`, before it is published) and a
finished output (`geopipe.validate`) are held to the same. An error means: the table is not what was planned; a warning:
it may not be what was meant.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from geopipe.export.tiles import Receipt
from geopipe.grid.grid import Grid
from geopipe.layers.header import Band
from geopipe.layers.layer import Kind, Overlap, Variable
from geopipe.plan.cells import Reach, keys_of
from geopipe.plan.layers import LayerPlan
from geopipe.plan.options import Layout
from geopipe.plan.plan import Plan
from geopipe.resample.methods import FRACTION, VALID, Route

CHECKS = {
    "manifest": "a receipt for every tile, and their totals",
    "files": "every file of the manifest is there and can be read, and there is no other",
    "checksum": "size and sha256 of every file",
    "schema": "one schema in all files",
    "rows": "rows of the files, the manifest and the plan",
    "cells": "each cell in its tile, once, in row-major order",
    "coordinates": "x and y are the centres of the cells, and lead back to them; what follows from them does",
    "values": "no NaN; least and greatest as the manifest says, and inside the source's range",
    "nulls": "nulls of each variable",
}
"""The checks by name, in the order in which they are told."""

CONVEX = frozenset({"nearest", "mode", "min", "max", "med", "q1", "q3", "average", "bilinear"})
"""Methods whose result lies between the least and the greatest of the pixels that it is made of."""

ROUNDING = {"float32": 1e-5, "float64": 1e-10}
"""Share of its largest number by which a value may leave a range: what rounding of weighted sums can do, and more.

Small enough that 65535 and -32768 as float32, and -2147483648 as float64, are not taken for their neighbours.
"""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong ("error") or looks wrong ("warning"); `check` is one of CHECKS."""

    level: str
    check: str
    message: str


@dataclass(frozen=True)
class VariableFacts:
    """What is known of a column before it is computed.

    `dtype` is numpy's name of its type; `range` has the least and greatest value that it can have, None where headers
    do not tell; `skipped` columns are null everywhere.
    """

    layer: str
    dtype: str
    range: tuple[float, float] | None = None
    skipped: bool = False


@dataclass(frozen=True)
class Facts:
    """What a plan promises of its table; `variables` in the order of the columns.

    `required` are those that are null nowhere. `mask` says how far it reaches, where there is one: a tile that it does
    not meet has no rows, and need have no receipt.
    """

    grid: Grid
    window_size: int
    how: str
    variables: Mapping[str, VariableFacts]
    required: frozenset[str] = frozenset()
    mask: Reach | None = None
    layout: Layout = field(default_factory=Layout)

    @property
    def partitioned(self) -> bool:
        """Whether the rows of a tile are in several files."""
        return self.layout.partition_by not in (None, "tile")

    @property
    def tiles(self) -> int:
        rows, cols = self.grid.tiling(self.window_size)
        return rows * cols

    @property
    def cells(self) -> int:
        """The most rows that there can be."""
        return self.grid.cells if self.mask is None else self.mask.cells

    @property
    def complete(self) -> bool:
        """Whether each of `cells` must be a row."""
        return self.how == "grid" and not self.required and (self.mask is None or self.mask.exact)

    def describe(self) -> dict[str, Any]:
        """The facts as JSON values; `parse` reads them."""
        return {
            "grid": self.grid.projjson(),
            "window_size": self.window_size,
            "how": self.how,
            "required": sorted(self.required),
            "mask": self.mask.describe() if self.mask else None,
            "layout": asdict(self.layout),
            "variables": {
                name: {"layer": v.layer, "type": v.dtype, "range": v.range, "skipped": v.skipped}
                for name, v in self.variables.items()
            },
        }

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Facts:
        """The facts that `describe` gave.

        Raises:
            KeyError, TypeError, ValueError, GeopipeError: they are not.
        """
        x0, dx, _, y0, _, dy = data["grid"]["transform"]
        height, width = data["grid"]["shape"]
        layout = Layout(**data.get("layout", {}))  # outputs of before there was one have the default
        folders, zooms = (None, "tile", *data["variables"]), (None, *range(16))
        if layout.csv_files not in ("tiles", "one") or layout.partition_by not in folders or layout.h3 not in zooms:
            raise ValueError(f"there is no such layout: {layout}")
        return cls(
            grid=Grid(json.dumps(data["grid"]["crs"]), x0, y0, dx, -dy, width, height),
            window_size=int(data["window_size"]),
            how=str(data["how"]),
            variables={
                name: VariableFacts(str(v["layer"]), str(v["type"]), _range(v["range"]), bool(v["skipped"]))
                for name, v in data["variables"].items()
            },
            required=frozenset(map(str, data["required"])),
            mask=Reach.parse(data["mask"]) if data["mask"] is not None else None,
            layout=layout,
        )


def _range(value: Sequence[float] | None) -> tuple[float, float] | None:
    if value is None:
        return None
    low, high = map(number, value)
    return None if low is None or high is None else (low, high)


def facts_of(plan: Plan) -> Facts:
    """What a plan promises of its table."""
    variables = {
        v.name: VariableFacts(layer.layer.name, v.dtype, source_range(layer, v), bool(layer.skipped))
        for layer in plan.layers
        for v in layer.variables
    }
    reach = plan.mask.reach if plan.mask else None
    return Facts(
        plan.grid, plan.options.window_size, plan.spec.how, variables, plan.spec.required, reach, plan.options.layout
    )


def source_range(layer: LayerPlan, variable: Variable) -> tuple[float, float] | None:
    """The least and greatest value that a variable of a layer can have; None where headers do not tell.

    No pixel is read: the range is that of the bands' integer types, without a nodata number at an end of it, unpacked.
    Statistics in headers are not trusted: they are often approximate, or older than the pixels.
    """
    if variable.requested_method in (FRACTION, VALID):
        return 0.0, 1.0
    if layer.kind is Kind.CIRCULAR or Overlap.SUM in (layer.layer.overlap, layer.layer.reduce):
        return None
    mine = [d for d in layer.decisions if d.requested_method == variable.requested_method]
    methods, ways = {d.method for d in mine}, {d.route for d in mine}
    if not methods <= set(CONVEX) and ("rms" in methods or ways != {Route.COPY}):
        return None
    bands = [placed.bands[variable.index] for d in layer.decisions for placed in d.source.files]
    ranges = [_band_range(part) for band in bands for part in (band, *band.more)]
    known = [r for r in ranges if r is not None]
    if not known or len(known) < len(ranges) or any(band.reduce == Overlap.SUM for band in bands):
        return None
    return min(low for low, _ in known), max(high for _, high in known)


def _band_range(band: Band) -> tuple[float, float] | None:
    own = np.dtype(band.dtype)
    if own.kind not in "iu":
        return None
    low, high = int(np.iinfo(own).min), int(np.iinfo(own).max)
    low, high = low + (band.nodata == low), high - (band.nodata == high)
    if band.bits is not None:
        low, high = 0, 2 ** (band.bits[1] - band.bits[0] + 1) - 1
    if band.scale == 1.0 and band.offset == 0.0:
        return low, high
    ends = low * band.scale + band.offset, high * band.scale + band.offset
    return min(ends), max(ends)


# ---------------------------------------------------------------- a run, by its receipts


def check_receipts(facts: Facts, receipts: Iterable[Receipt]) -> list[Finding]:
    """What receipts alone show, without a file read: tiles, rows, nulls and ranges.

    Also whether the cells of the grid come back from their x and y. Receipts are met once, and not kept.
    """
    seen: Counter[int] = Counter()
    nulls: Counter[str] = Counter()
    told, findings, rows = set[str](), list[Finding](), 0
    wanted, outside = _wanted(facts), list[int]()
    for receipt in receipts:
        seen[receipt.tile] += 1
        rows += receipt.rows
        told |= receipt.columns.keys()
        for name, column in receipt.columns.items():
            nulls[name] += column["nulls"]
        if 0 <= receipt.tile < facts.tiles:
            outside += [receipt.tile] if receipt.rows and receipt.tile not in wanted else []
            findings += [*_check_rows(facts, receipt), *_check_ranges(facts, receipt)]
    findings = _check_tiles(facts, seen, outside) + findings + _check_total(facts, rows)
    for key in sorted({0, facts.tiles - 1}):  # where x and y are largest, they are coarsest
        findings += check_round_trip(facts, key)
    return findings + _check_nulls(facts, rows, nulls, told)


def _wanted(facts: Facts) -> Collection[int]:
    """Keys of the tiles that must have a receipt, rising."""
    return range(facts.tiles) if facts.mask is None else dict.fromkeys(keys_of(facts.mask.runs).tolist())


def _check_tiles(facts: Facts, seen: Mapping[int, int], outside: Sequence[int]) -> list[Finding]:
    known, wanted = range(facts.tiles), _wanted(facts)
    problems = {
        "without a receipt": [key for key in wanted if key not in seen],
        "with several receipts": sorted(key for key, count in seen.items() if count > 1),
        "that are not in the plan": sorted(key for key in seen if key not in known),
        "with rows outside the mask": sorted(outside),
    }
    return [
        Finding("error", "manifest", f"tiles {what}: {listed(found)}; planned are {len(wanted):,}")
        for what, found in problems.items()
        if found
    ]


def _check_rows(facts: Facts, receipt: Receipt) -> Iterator[Finding]:
    """Rows of one tile against its cells, and against the values that a kept cell must have."""
    name, cells = f"tile {receipt.tile}", facts.grid.tile(receipt.tile, facts.window_size).cells
    exact = facts.complete and facts.cells == facts.grid.cells  # how many of a tile are in a mask is not kept
    if receipt.rows > cells or (exact and receipt.rows < cells):
        wanted = f"{cells:,}" if exact else f"at most {cells:,}"
        yield Finding("error", "rows", f"{name} has {receipt.rows:,} rows; planned are {wanted} (how = {facts.how})")
    values: dict[str, int] = {}
    for variable, told in receipt.columns.items():
        if variable not in facts.variables:
            yield Finding("error", "manifest", f"{name} has a variable {variable}, which is not in the plan")
            continue
        if not 0 <= told["nulls"] <= receipt.rows:
            text = f"{variable} of {name} has {told['nulls']:,} nulls in {receipt.rows:,} rows"
            yield Finding("error", "nulls", text)
        elif told["nulls"] and variable in facts.required:
            text = f"{variable} of {name} has {told['nulls']:,} nulls, but merge.drop leaves none"
            yield Finding("error", "nulls", text)
        fact = facts.variables[variable]
        if not fact.skipped:
            key = f"layer {fact.layer}" if facts.how == "inner" else "all layers together"
            values[key] = values.get(key, 0) + receipt.rows - told["nulls"]
    if missing := [v for v in facts.variables if v not in receipt.columns]:
        yield Finding("error", "manifest", f"{name} lacks the variables {listed(missing)}")
    for layers, count in values.items():
        if count < receipt.rows and facts.how != "grid":
            text = f"{name} has {receipt.rows:,} rows, but {layers} only {count:,} values (how = {facts.how})"
            yield Finding("error", "rows", text)


def _check_total(facts: Facts, rows: int) -> list[Finding]:
    cells = facts.cells
    if rows > cells or (facts.complete and rows < cells):
        wanted = f"{cells:,}" if facts.complete else f"at most {cells:,}"
        return [Finding("error", "rows", f"the table has {rows:,} rows; planned are {wanted} (how = {facts.how})")]
    return []


def _check_ranges(facts: Facts, receipt: Receipt) -> Iterator[Finding]:
    for name, told in receipt.columns.items():
        fact = facts.variables.get(name)
        low, high = number(told["min"]), number(told["max"])
        if fact is None or fact.range is None or low is None or high is None:
            continue
        least, greatest = fact.range
        slack = ROUNDING.get(fact.dtype, 0.0) * max(abs(least), abs(greatest))
        if not (least - slack <= low and high <= greatest + slack):
            text = f"{name} of tile {receipt.tile} has values from {low!r} to {high!r}"
            yield Finding("error", "values", f"{text}; its source can have {least!r} to {greatest!r}")


def check_round_trip(facts: Facts, key: int) -> Iterator[Finding]:
    """Whether the centres of a tile's rows and columns lead back to them."""
    grid, tile = facts.grid, facts.grid.tile(key, facts.window_size)
    back = {
        "column": (np.floor((grid.xs(tile.col, tile.width) - grid.x0) / grid.dx), tile.col),
        "row": (np.floor((grid.y0 - grid.ys(tile.row, tile.height)) / grid.dy), tile.row),
    }
    for name, (found, first) in back.items():
        wrong = np.flatnonzero(found != np.arange(first, first + len(found)))
        if wrong.size:
            at = int(wrong[0])
            yield Finding(
                "error",
                "coordinates",
                f"tile {key}: {wrong.size:,} of {len(found):,} {name}s do not come back from their coordinate: "
                f"{name} {first + at} comes back as {found[at]:.0f}; the cells are too small for their distance from 0",
            )


def _check_nulls(facts: Facts, rows: int, nulls: Mapping[str, int], told: Container[str]) -> list[Finding]:
    if rows == 0:
        return [Finding("warning", "rows", f"the table has no rows: of {facts.cells:,} cells none is kept")]
    return [
        Finding("warning", "nulls", f"{name} (layer {fact.layer}) is null in all of {rows:,} rows (100 %)")
        for name, fact in facts.variables.items()
        if name in told and nulls.get(name, 0) == rows and not fact.skipped
    ]


def number(value: Any) -> float | None:
    """A number of a receipt: JSON has no infinity, so that it stands there as text."""
    if value is None or isinstance(value, int | float):
        return value
    return float(value)


def listed(items: Sequence[object], most: int = 5) -> str:
    """The first items in a message, and how many more there are."""
    shown = ", ".join(map(str, items[:most]))
    return shown if len(items) <= most else f"{shown} and {len(items) - most:,} more"
