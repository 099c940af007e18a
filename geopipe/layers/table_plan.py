"""Plan coordinate tables: how their points come to cells, and the columns that they make. Pure rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from geopipe.errors import SettingsError
from geopipe.grid.crs import horizontal
from geopipe.grid.grid import Grid
from geopipe.layers.bands import label_of
from geopipe.layers.header import Band
from geopipe.layers.layer import Kind, Layer, Variable
from geopipe.layers.tables import WEIGHTED, Columns, Part, TableHeader, check_keys, choose_columns, requested_statistics

STATISTICS = ("mean", "sum", "min", "max", "count", "first", "mode")
"""Statistics of the points of a cell."""


@dataclass(frozen=True)
class Partition:
    """A part of one of the tables of a layer, with its number in the layer: the unit of reading."""

    index: int
    file: int
    part: Part


@dataclass(frozen=True)
class TablePlan:
    """How the points of a layer come to cells. It is complete: reading needs nothing else.

    Attributes:
        dtypes: of the value columns, as they are read.
        cells: "" floors each point to its cell; "centres" and "corners" round it, because it is a cell's centre or
            upper left corner; "index" takes x and y for column and row.
        shift: added to x and y first.
    """

    headers: tuple[TableHeader, ...]
    columns: Columns
    dtypes: tuple[str, ...]
    crs: str
    cells: str
    shift: tuple[float, float]
    why: str

    @property
    def rows(self) -> int:
        return sum(header.rows for header in self.headers)

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """All parts of all tables, in the order of their rows."""
        parts = [(file, part) for file, header in enumerate(self.headers) for part in header.parts]
        return tuple(Partition(index, file, part) for index, (file, part) in enumerate(parts))

    def describe(self) -> dict[str, Any]:
        """The plan of the table as plain JSON values."""
        keys = ("uri", "driver", "relation", "key", "rows")
        return {
            "tables": [{key: getattr(header, key) for key in keys} for header in self.headers],
            **self.columns._asdict(),
            "cells": self.cells,
            "shift": list(self.shift),
            "why": self.why,
            "rows": self.rows,
            "partitions": len(self.partitions),
        }


def statistics(layer: Layer, kind: Kind) -> list[str]:
    """The statistic of each column that a value column makes.

    Raises:
        SettingsError: the statistic does not exist, or makes no sense for the kind.
    """
    auto = {Kind.CATEGORICAL: "mode", Kind.COUNT: "sum"}.get(kind, "mean")
    chosen = [auto if requested == "auto" else requested for requested in requested_statistics(layer)]
    for name in chosen:
        if name not in STATISTICS:
            hint = f"one of {', '.join(STATISTICS)}"
            raise SettingsError(f"layer {layer.name}: aggregate = {name!r} is unknown", hint)
        if kind is Kind.CIRCULAR or (kind is Kind.CATEGORICAL and name in WEIGHTED):
            raise SettingsError(
                f"layer {layer.name}: aggregate = {name!r} makes no sense for kind = {kind.value!r}",
                "give another kind" + (", or mode, first, min, max, count" if kind is Kind.CATEGORICAL else ""),
            )
    return chosen


def plan_table(layer: Layer, headers: Sequence[TableHeader], grid: Grid, tolerance: float) -> TablePlan:
    """Decide how the points of a layer come to cells.

    Args:
        layer: of coordinate tables.
        headers: its tables, with their offsets if `cells` says that the points are cells.
        grid: the target.
        tolerance: largest distance, in cells, of a point from its cell.

    Raises:
        SettingsError, SourceError: columns, types or CRS are missing or differ, or the points are off the cells.
    """
    check_keys(layer, table=True)
    columns = choose_columns(layer, headers[0])
    others = [choose_columns(layer, header) for header in headers[1:]]
    if any(other != columns for other in others):
        raise layer.error("its tables do not have the same columns for x, y and values", "name them: x, y and values")
    dtypes = tuple(_dtype(layer, headers, name) for name in columns.values)
    crs = "" if layer.cells == "index" else crs_of_tables(layer, headers)
    cells, shift, why = _placing(layer, headers, tolerance)
    return TablePlan(tuple(headers), columns, dtypes, crs, cells, shift, why)


def _dtype(layer: Layer, headers: Sequence[TableHeader], name: str) -> str:
    """The type that holds the values of a column of all tables."""
    if not name:
        return "uint8"
    own = [(h.uri, c.dtype) for h in headers if (c := h.column(name)) is not None]
    dtypes = [np.dtype(dtype) for _, dtype in own]
    common = np.result_type(*dtypes)
    if common.kind == "f" and all(d.kind in "iu" for d in dtypes):
        raise layer.error(
            f"column {name} is {own[0][1]} in {own[0][0]}, and no whole number holds it and "
            + ", ".join(sorted({dtype for _, dtype in own})),
            "store it in one type",
        )
    return str(common)


def crs_of_tables(layer: Layer, headers: Sequence[TableHeader]) -> str:
    """The horizontal CRS of x and y, from the settings or from the tables.

    Raises:
        SourceError: it is unknown, or the tables differ.
    """
    names = {layer.crs} if layer.crs else {header.crs for header in headers}
    if None in names or len(names) > 1:
        what = f"{headers[0].uri} does not say its CRS" if None in names else "its tables have several CRS"
        raise layer.error(what, f'say it in the layer {layer.name}: crs = "EPSG:..."')
    return horizontal(str(names.pop()))[0]


def _placing(layer: Layer, headers: Sequence[TableHeader], tolerance: float) -> tuple[str, tuple[float, float], str]:
    """How points come to cells: the rule, the shift before it, and the reason."""
    if layer.cells is None or layer.cells == "index":
        why = "column and row of the grid, as the settings say" if layer.cells else "each point falls into a cell"
        return layer.cells or "", (0.0, 0.0), why
    known = [(h, h.offset) for h in headers if h.offset is not None]
    if len(known) < len(headers):
        raise layer.error("its cells could not be measured", "see why it is skipped")
    header, worst = max(known, key=lambda pair: pair[1].cells)
    off = f"its {layer.cells} are off the grid's by at most {worst.cells:.3g} of a cell"
    if worst.cells <= tolerance:
        return layer.cells, (0.0, 0.0), off
    if layer.on_misaligned == "fail":
        raise layer.error(
            f"{off}, more than merge.alignment_tolerance = {tolerance:g}: row {worst.row:,} of "
            f"{header.uri}, x {worst.x!r}, y {worst.y!r}",
            "correct grid.bounds and grid.resolution, try the other of centres and corners, or let the values be "
            'aggregated anew by centres: on_misaligned = "aggregate"',
        )
    if layer.cells == "centres":
        return "", (0.0, 0.0), f"{off}: aggregated anew"
    steps = {o.step for _, o in known}
    dx, dy = min(s[0] for s in steps), min(s[1] for s in steps)
    if not (dx and dy):
        raise layer.error(
            f"the corners of {header.uri} do not tell how large its cells are: its x or y are one "
            "number only, or not at equal distances",
            'give it centres, and cells = "centres"',
        )
    return "", (dx / 2, -dy / 2), f"{off}: aggregated anew by the centres of cells of {dx:g} x {dy:g}"


def table_variables(layer: Layer, kind: Kind, table: TablePlan) -> tuple[Variable, ...]:
    """The columns of a table layer: by value column, and for each by statistic."""
    chosen = statistics(layer, kind)
    if layer.weight is not None and not set(chosen) & set(WEIGHTED):
        raise SettingsError(
            f"layer {layer.name}: weight = {layer.weight!r} counts in mean and sum only, and aggregate is "
            + ", ".join(chosen),
            'leave weight out, or say aggregate = "mean" or "sum"',
        )
    variables = []
    for index, (name, dtype) in enumerate(zip(table.columns.values, table.dtypes, strict=True)):
        band = Band(index + 1, dtype, nodata=layer.nodata, unit=layer.unit or "", description=name)
        base = layer.name if len(table.columns.values) == 1 else f"{layer.name}_{label_of(band)}"
        for statistic in chosen:
            full = f"{base}_{statistic}" if len(chosen) > 1 else base
            band = replace(band, unit="" if statistic == "count" else layer.unit or "")
            own = statistic_type(statistic, dtype, table.columns.weight is not None)
            variables.append(Variable(full, own, layer.name, band, band.unit, index, statistic))
    return tuple(variables)


def statistic_type(statistic: str, dtype: str, weighted: bool) -> str:
    """Numpy's name of the type of a statistic of values of `dtype`. It holds every value of the source exactly."""
    total = "int64" if np.dtype(dtype).kind in "iu" and not weighted else "float64"
    return {"count": "int64", "mean": "float64", "sum": total}.get(statistic, dtype)
