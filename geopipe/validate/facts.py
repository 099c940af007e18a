"""The facts that a plan promises of its table, and the checks of a run's receipts against them.

The facts stand in `_SUCCESS`, so that a run (`check_receipts`, before it is published) and a finished output
(`validate`) are compared with the same. An error means that the table is not what was planned; a warning, that it may
not be what the user meant.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from geopipe.errors import GeopipeError, PlanError
from geopipe.export.tiles import Receipt
from geopipe.grid.grid import Grid
from geopipe.layers.header import Band
from geopipe.layers.layer import Kind, Overlap, Variable
from geopipe.plan.cells import Reach, keys_of
from geopipe.plan.layers import LayerPlan
from geopipe.plan.options import Layout
from geopipe.plan.plan import Plan
from geopipe.resample.methods import FRACTION, VALID, Route
from geopipe.text import listed

CHECKS = ("manifest", "files", "checksum", "schema", "rows", "cells", "coordinates", "values", "nulls")
"""The checks by name, in the order of a report.

manifest: a receipt for every tile, and their totals. files: every file of the manifest exists and can be read, and
there is no other. checksum: size and sha256 of every file. schema: one schema in all files. rows: rows of the files,
the manifest and the plan. cells: each cell in its tile, once, in row-major order. coordinates: x and y are the centres
of the cells, and lead back to them; what follows from them does. values: no NaN; least and greatest as the manifest
says, and inside the source's range. nulls: nulls of each variable.
"""

CONVEX = frozenset({"nearest", "mode", "min", "max", "med", "q1", "q3", "average", "bilinear"})
"""Methods whose result lies between the least and the greatest of the pixels under a cell."""

ROUNDING = {"float32": 1e-5, "float64": 1e-10}
"""Share of its larger end by which a value may leave a range: more than rounding of weighted sums does.

Small enough to tell 65535 and -32768 as float32, and -2147483648 as float64, from their neighbours.
"""


class Finding(NamedTuple):
    """Something that is wrong ("error") or looks wrong ("warning"); `check` is one of CHECKS."""

    level: str
    check: str
    message: str


def fault(check: str, message: str) -> Finding:
    """An error that a check finds."""
    return Finding("error", check, message)


class Ends(NamedTuple):
    """Nulls of a column, and its least and greatest value, which are None without a value."""

    nulls: int = 0
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, column: Mapping[str, Any]) -> Ends:
        """Those in a receipt."""
        return cls(column["nulls"], _number(column["min"]), _number(column["max"]))

    def __or__(self, other: Ends) -> Ends:
        """Those of both parts of a column."""
        lows, highs = ([v for v in pair if v is not None] for pair in ((self.low, other.low), (self.high, other.high)))
        return Ends(self.nulls + other.nulls, min(lows, default=None), max(highs, default=None))


@dataclass(frozen=True)
class VariableFacts:
    """Facts of a column, known before it is computed.

    `type` is numpy's name of its type; `range` its least and greatest possible value, None if headers do not give
    them; `skipped` columns are null everywhere.
    """

    layer: str
    type: str
    range: tuple[float, float] | None = None
    skipped: bool = False


@dataclass(frozen=True)
class Facts:
    """What a plan promises of its table; `variables` in the order of the columns.

    `required` variables are null nowhere. A tile outside the reach of `mask` has no rows and needs no receipt.
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
        return math.prod(self.grid.tiling(self.window_size))

    @property
    def cells(self) -> int:
        """The most rows that there can be."""
        return self.grid.cells if self.mask is None else self.mask.cells

    @property
    def complete(self) -> bool:
        """Whether each of `cells` must be a row."""
        return self.how == "grid" and not self.required and (self.mask is None or self.mask.exact)

    def describe(self) -> dict[str, Any]:
        """The facts as JSON values, for `parse`."""
        return {
            "grid": self.grid.projjson(),
            "window_size": self.window_size,
            "how": self.how,
            "required": sorted(self.required),
            "mask": self.mask.describe() if self.mask else None,
            "layout": asdict(self.layout),
            "variables": {name: asdict(variable) for name, variable in self.variables.items()},
        }

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Facts:
        """The facts from the JSON values of `describe`.

        Raises:
            KeyError, TypeError, ValueError, GeopipeError: the values are others.
        """
        layout = Layout(**data.get("layout", {}))  # outputs of before there was one have the default
        folders, zooms = (None, "tile", *data["variables"]), (None, *range(16))
        if layout.csv_files not in ("tiles", "one") or layout.partition_by not in folders or layout.h3 not in zooms:
            raise ValueError(f"there is no such layout: {layout}")
        if not data["variables"]:
            raise ValueError("it has no variables")
        return cls(
            grid=Grid.parse(data["grid"]),
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
    low, high = (None, None) if value is None else map(_number, value)
    return None if low is None or high is None else (low, high)


def _number(value: Any) -> float | None:
    """A number of JSON, in which an infinity is text."""
    return float(value) if isinstance(value, str) else value


def facts_in(success: Mapping[str, Any], where: str) -> Facts:
    """The facts in the contents of a `_SUCCESS`, of which `where` is the name. Checks the types in its schema, too.

    Raises:
        PlanError: they are missing or damaged.
    """
    try:
        _ = [pa.type_for_alias(text) for text in success["schema"].values()]
        return Facts.parse(success["table"])
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, GeopipeError) as error:
        hint = "it was edited, or written by another version of geopipe: run its settings again"
        raise PlanError(f"{where} lacks the facts of the table ({type(error).__name__}: {error})", hint) from None


def facts_of(plan: Plan) -> Facts:
    """What a plan promises of its table."""
    variables = {
        v.name: VariableFacts(layer.layer.name, v.dtype, source_range(layer, v), bool(layer.skipped))
        for layer in plan.layers
        for v in layer.variables
    }
    reach, spec, layout = plan.mask.reach if plan.mask else None, plan.spec, plan.options.layout
    return Facts(spec.grid, spec.window_size, spec.how, variables, spec.required, reach, layout)


def source_range(layer: LayerPlan, variable: Variable) -> tuple[float, float] | None:
    """The least and greatest value that a variable of a layer can have; None if headers do not give them.

    No pixel is read: the range is that of the bands' integer types, without a nodata value at its end, unpacked.
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
    """Check tiles, rows, nulls and ranges by the receipts alone, and that x and y of the grid lead back to its cells.

    No file is read. Receipts are read once, and not kept.
    """
    seen, nulls = Counter[int](), Counter[str]()
    findings, rows = list[Finding](), 0
    planned, outside = _planned_tiles(facts), list[int]()
    for receipt in receipts:
        seen[receipt.tile] += 1
        rows += receipt.rows
        nulls.update({name: column["nulls"] for name, column in receipt.columns.items()})
        if 0 <= receipt.tile < facts.tiles:
            outside += [receipt.tile] if receipt.rows and receipt.tile not in planned else []
            findings += [*_check_rows(facts, receipt), *_check_ranges(facts, receipt)]
    findings = [*_check_tiles(facts, seen, outside), *findings]
    findings += _check_count("the table", rows, facts.cells, facts.complete, facts.how)
    for key in sorted({0, facts.tiles - 1}):  # where x and y are largest, they are coarsest
        findings += check_round_trip(facts, key)
    return findings + _check_nulls(facts, rows, nulls)


def _planned_tiles(facts: Facts) -> Collection[int]:
    """Keys of the tiles that must have a receipt, rising."""
    return range(facts.tiles) if facts.mask is None else dict.fromkeys(keys_of(facts.mask.runs).tolist())


def _check_tiles(facts: Facts, seen: Mapping[int, int], outside: Sequence[int]) -> Iterator[Finding]:
    known, planned = range(facts.tiles), _planned_tiles(facts)
    problems = {
        "without a receipt": [key for key in planned if key not in seen],
        "with several receipts": sorted(key for key, count in seen.items() if count > 1),
        "that are not in the plan": sorted(key for key in seen if key not in known),
        "with rows outside the mask": sorted(outside),
    }
    for what, keys in problems.items():
        if keys:
            yield fault("manifest", f"tiles {what}: {listed(keys)}; planned are {len(planned):,}")


def _check_rows(facts: Facts, receipt: Receipt) -> Iterator[Finding]:
    """Compare the rows of one tile with its cells, and with the values that a kept cell must have."""
    name, cells = f"tile {receipt.tile}", facts.grid.tile(receipt.tile, facts.window_size).cells
    exact = facts.complete and facts.cells == facts.grid.cells  # how many of a tile are in a mask is not kept
    yield from _check_count(name, receipt.rows, cells, exact, facts.how)
    values = Counter[str]()
    for variable, column in receipt.columns.items():
        if variable not in facts.variables:
            yield fault("manifest", f"{name} has a variable {variable}, which is not in the plan")
            continue
        if not 0 <= column["nulls"] <= receipt.rows:
            yield fault("nulls", f"{variable} of {name} has {column['nulls']:,} nulls in {receipt.rows:,} rows")
        elif column["nulls"] and variable in facts.required:
            yield fault("nulls", f"{variable} of {name} has {column['nulls']:,} nulls, but merge.drop leaves none")
        fact = facts.variables[variable]
        if not fact.skipped:
            key = f"layer {fact.layer}" if facts.how == "inner" else "all layers together"
            values[key] += receipt.rows - column["nulls"]
    if missing := [v for v in facts.variables if v not in receipt.columns]:
        yield fault("manifest", f"{name} lacks the variables {listed(missing)}")
    for layers, count in values.items():
        if count < receipt.rows and facts.how != "grid":
            text = f"{name} has {receipt.rows:,} rows, but {layers} only {count:,} values (how = {facts.how})"
            yield fault("rows", text)


def _check_count(name: str, rows: int, cells: int, exact: bool, how: str) -> Iterator[Finding]:
    """Compare a number of rows with its cells, of which each must be a row if `exact`."""
    if rows > cells or (exact and rows < cells):
        planned = f"{cells:,}" if exact else f"at most {cells:,}"
        yield fault("rows", f"{name} has {rows:,} rows; planned are {planned} (how = {how})")


def _check_ranges(facts: Facts, receipt: Receipt) -> Iterator[Finding]:
    for name, column in receipt.columns.items():
        fact = facts.variables.get(name)
        _, low, high = Ends.of(column)
        if fact is None or fact.range is None or low is None or high is None:
            continue
        least, greatest = fact.range
        slack = ROUNDING.get(fact.type, 0.0) * max(abs(least), abs(greatest))
        if not (least - slack <= low and high <= greatest + slack):
            text = f"{name} of tile {receipt.tile} has values from {low!r} to {high!r}"
            yield fault("values", f"{text}; its source can have {least!r} to {greatest!r}")


def check_round_trip(facts: Facts, key: int) -> Iterator[Finding]:
    """Check that x and y of a tile's cells lead back to their column and row."""
    grid, tile = facts.grid, facts.grid.tile(key, facts.window_size)
    columns = np.floor((grid.xs(tile.col, tile.width) - grid.x0) / grid.dx)
    rows = np.floor((grid.y0 - grid.ys(tile.row, tile.height)) / grid.dy)
    for name, indices, first in (("column", columns, tile.col), ("row", rows, tile.row)):
        wrong = np.flatnonzero(indices != np.arange(first, first + len(indices)))
        if wrong.size:
            at = int(wrong[0])
            text = f"tile {key}: {wrong.size:,} of {len(indices):,} {name}s do not come back from their coordinate: "
            text += f"{name} {first + at} comes back as {indices[at]:.0f}"
            yield fault("coordinates", f"{text}; cells are too small for their distance from 0")


def _check_nulls(facts: Facts, rows: int, nulls: Mapping[str, int]) -> list[Finding]:
    if rows == 0:
        return [Finding("warning", "rows", f"the table has no rows: of {facts.cells:,} cells none is kept")]
    return [
        Finding("warning", "nulls", f"{name} (layer {fact.layer}) is null in all of {rows:,} rows (100 %)")
        for name, fact in facts.variables.items()
        if nulls.get(name) == rows and not fact.skipped
    ]
