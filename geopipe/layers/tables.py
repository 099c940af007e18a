"""Coordinate tables as layers: what their headers say, which columns mean what, and how points come to cells.

Pure rules on frozen values; `points` reads the tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geopipe.errors import SettingsError, SourceError
from geopipe.grid.crs import horizontal
from geopipe.grid.grid import Grid
from geopipe.layers.header import Band
from geopipe.layers.layer import Kind, Layer, Variable

Floats = NDArray[np.float64]

ENDINGS = (".parquet", ".geoparquet", ".pq", ".csv", ".csv.gz")
"""Of files that are read as coordinate tables."""

SERVER = ("postgresql:", "postgres:")
"""Beginnings of a path that means a table in Postgres."""

PAIRS = (("x", "y"), ("x_coord", "y_coord"), ("lon", "lat"), ("longitude", "latitude"))
"""Names under which x and y are looked for; the first pair wins over the others, which must be the only one."""

INDEX = (("col_idx", "row_idx"), ("col", "row"))
"""The same for `cells = "index"`."""

RASTER_KEYS = (
    "asset",
    "sort_by",
    "variable",
    "bands",
    "time",
    "level",
    "reduce",
    "resampling",
    "scale",
    "offset",
    "unpack",
    "georeference",
    "bits",
    "fractions",
    "valid_fraction",
    "min_valid",
    "overlap",
)
TABLE_KEYS = ("table", "query", "key", "x", "y", "values", "weight", "aggregate", "cells", "on_misaligned")
"""Keys of a layer that mean something only for the one or the other."""

STATISTICS = ("mean", "sum", "min", "max", "count", "first", "mode")
"""What the points of a cell may become."""

WEIGHTED = ("mean", "sum")
"""Statistics in which a weight counts."""

PART_ROWS = 1 << 20
"""Rows of a partition, about: where a source can be cut."""

ORDER_BITS = 40
"""Of a point's place in the source: its partition above, its row in the partition below."""


@dataclass(frozen=True)
class TableColumn:
    """A column of a table: `dtype` is numpy's name of the type in which it is read, "" where it holds no numbers.

    `told` is the type in the words of the source.
    """

    name: str
    dtype: str
    told: str


@dataclass(frozen=True)
class Part:
    """A range of a table that is read in one go: row groups of a Parquet file, or keys in Postgres, `stop` excluded."""

    start: int
    stop: int
    rows: int


@dataclass(frozen=True)
class Offset:
    """How far a table's points are off the cells of a grid at most, in cells, and the row (from 0) that is it.

    `step` is the least distance of two different x and y, 0 where there is none.
    """

    cells: float
    row: int
    x: float
    y: float
    step: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class TableHeader:
    """A coordinate table as its header tells it. `crs` is an authority code or PROJJSON.

    In Postgres `path` is that of the settings, `relation` the table or query as SQL, and `key` the column whose ranges
    are the parts. `offset` is only known where it was measured.
    """

    uri: str
    driver: str
    columns: tuple[TableColumn, ...]
    rows: int
    parts: tuple[Part, ...]
    crs: str | None = None
    size: int = 0
    mtime_ns: int = 0
    relation: str = ""
    key: str = ""
    path: str = ""
    offset: Offset | None = None

    def column(self, name: str) -> TableColumn | None:
        return next((c for c in self.columns if c.name == name), None)


@dataclass(frozen=True)
class Columns:
    """Which columns of a table mean what; the first of `values` is "" where rows themselves are counted."""

    x: str
    y: str
    values: tuple[str, ...]
    weight: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that is read, once."""
        names = (self.x, self.y, *self.values, self.weight or "")
        return tuple(dict.fromkeys(name for name in names if name))


@dataclass(frozen=True)
class Partition:
    """A part of one of the tables of a layer, under its number in the layer: the unit in which tables are read."""

    index: int
    file: int
    part: Part


@dataclass(frozen=True)
class TablePlan:
    """How the points of a layer come to cells: complete, nothing else is looked at later.

    `cells`: "" floors each point to its cell; "centres" and "corners" round it, because it is a cell's centre or upper
    left corner; "index" takes x and y for column and row. `shift` is added to x and y first. `dtypes` are the types of
    the columns' values as they are read.
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
        return {
            "tables": [
                {"uri": h.uri, "driver": h.driver, "relation": h.relation, "key": h.key, "rows": h.rows}
                for h in self.headers
            ],
            "x": self.columns.x,
            "y": self.columns.y,
            "values": list(self.columns.values),
            "weight": self.columns.weight,
            "cells": self.cells,
            "shift": list(self.shift),
            "why": self.why,
            "rows": self.rows,
            "partitions": len(self.partitions),
        }


def is_table(path: str) -> bool:
    """Whether a path names a coordinate table, by its ending or scheme."""
    return path.startswith(SERVER) or path.lower().endswith(ENDINGS)


def check_keys(layer: Layer, table: bool) -> None:
    """Refuse keys that mean nothing for this sort of layer.

    Raises:
        SettingsError: names the first of them.
    """
    plain = Layer(layer.name, layer.paths)
    for key in RASTER_KEYS if table else TABLE_KEYS:
        value = getattr(layer, key)
        if value != getattr(plain, key) and value != ("auto",):
            other, this = ("a raster", "a table") if table else ("a table", "a raster")
            raise SettingsError(
                f"layer {layer.name}: {key} = {value!r} is for {other}, and {layer.paths[0]} is {this}",
                f"leave {key} out"
                + ("; points are settled by aggregate =" if key in ("resampling", "overlap") else ""),
            )


def choose_columns(layer: Layer, header: TableHeader) -> Columns:
    """Which columns of a table are x, y, the values and the weight.

    Raises:
        SettingsError, SourceError: the settings do not say it where they must, or a column is not there.
    """
    names = [c.name for c in header.columns]
    x, y = layer.x, layer.y
    if x is None or y is None:
        if (x, y) != (None, None):
            raise SettingsError(f"layer {layer.name}: one of x and y is missing", "give both, or neither")
        x, y = _coordinates(layer, header, names)
    words = _words(layer)
    values = layer.values or _values(layer, header, {x, y, layer.weight})
    if not values and set(words) != {"count"}:
        raise SourceError(
            f"layer {layer.name}: nothing says which columns of {header.uri} are the values; it has {_listed(names)}",
            'name them: values = ["..."]; or count the points: aggregate = "count"',
            layer.name,
        )
    columns = Columns(x, y, values or ("",), layer.weight)
    for name in columns.names:
        found = header.column(name)
        if found is None or not found.dtype:
            what = f"no column {name!r}" if found is None else f"no numbers in its column {name!r}, but {found.told}"
            raise SourceError(
                f"layer {layer.name}: {header.uri} has {what}; its columns: "
                + _listed([f"{c.name} ({c.told})" for c in header.columns]),
                "correct x, y, values or weight; text and times can be no values: make numbers of them first",
                layer.name,
            )
    return columns


def _coordinates(layer: Layer, header: TableHeader, names: Sequence[str]) -> tuple[str, str]:
    pairs = INDEX if layer.cells == "index" else PAIRS
    found = [pair for pair in pairs if set(pair) <= set(names)]
    if not found or (len(found) > 1 and found[0] != pairs[0]):
        which = "several could be" if found else "none are"
        raise SourceError(
            f"layer {layer.name}: of the columns of {header.uri} {which} x and y; it has {_listed(names)}",
            'name them: x = "...", y = "..."',
            layer.name,
        )
    return found[0]


def _values(layer: Layer, header: TableHeader, taken: set[str | None]) -> tuple[str, ...]:
    """The values where the settings do not name them: `value`, or the only numbers that have no other meaning."""
    if set(_words(layer)) == {"count"}:
        return ()
    if header.column("value") is not None:
        return ("value",)
    known = taken | {header.key} | {name for pair in PAIRS + INDEX for name in pair}
    rest = tuple(c.name for c in header.columns if c.dtype and c.name not in known)
    return rest if len(rest) == 1 else ()


def _words(layer: Layer) -> tuple[str, ...]:
    return (layer.aggregate,) if isinstance(layer.aggregate, str) else layer.aggregate


def statistics(layer: Layer, kind: Kind) -> tuple[tuple[str, str], ...]:
    """The word and statistic of each column that is made of a value column.

    Raises:
        SettingsError: there is no such statistic, or it makes no sense for the kind.
    """
    auto = {Kind.CATEGORICAL: "mode", Kind.COUNT: "sum"}.get(kind, "mean")
    made = []
    for word in _words(layer):
        name = auto if word == "auto" else word
        if name not in STATISTICS:
            raise SettingsError(f"layer {layer.name}: aggregate = {word!r} is unknown", f"one of {_listed(STATISTICS)}")
        if kind is Kind.CIRCULAR or (kind is Kind.CATEGORICAL and name in WEIGHTED):
            raise SettingsError(
                f"layer {layer.name}: aggregate = {name!r} makes no sense for kind = {kind.value!r}",
                "give another kind" + (", or mode, first, min, max, count" if kind is Kind.CATEGORICAL else ""),
            )
        made.append((word, name))
    return tuple(made)


def plan_table(layer: Layer, headers: Sequence[TableHeader], grid: Grid, tolerance: float) -> TablePlan:
    """Decide how the points of a layer come to cells.

    Args:
        layer: of coordinate tables.
        headers: its tables, with their offsets where `cells` says that the points are cells.
        grid: the target.
        tolerance: how far, in cells, a point may be off and still be taken for a cell.

    Raises:
        SettingsError, SourceError: columns, types or CRS are missing or differ, or the points are off the cells.
    """
    check_keys(layer, table=True)
    columns = choose_columns(layer, headers[0])
    others = [choose_columns(layer, header) for header in headers[1:]]
    if any(other != columns for other in others):
        raise SourceError(
            f"layer {layer.name}: its tables do not have the same columns for x, y and values",
            "name them: x, y and values",
            layer.name,
        )
    dtypes = tuple(_dtype(layer, headers, name) for name in columns.values)
    crs = "" if layer.cells == "index" else told_crs(layer, headers)
    cells, shift, why = _placing(layer, headers, tolerance)
    return TablePlan(tuple(headers), columns, dtypes, crs, cells, shift, why)


def _dtype(layer: Layer, headers: Sequence[TableHeader], name: str) -> str:
    """The type that holds the values of a column in every table of the layer."""
    if not name:
        return "uint8"
    own = [(h.uri, c.dtype) for h in headers if (c := h.column(name)) is not None]
    dtypes = [np.dtype(dtype) for _, dtype in own]
    common = np.result_type(*dtypes)
    if common.kind == "f" and all(d.kind in "iu" for d in dtypes):
        raise SourceError(
            f"layer {layer.name}: column {name} is {own[0][1]} in {own[0][0]}, and no whole number holds it and "
            + _listed(sorted({dtype for _, dtype in own})),
            "store it in one type",
            layer.name,
        )
    return str(common)


def told_crs(layer: Layer, headers: Sequence[TableHeader]) -> str:
    """The horizontal CRS of x and y, from the settings or from all tables alike.

    Raises:
        SourceError: nothing says it, or the tables differ.
    """
    told = {layer.crs} if layer.crs else {header.crs for header in headers}
    if None in told or len(told) > 1:
        what = f"{headers[0].uri} does not say its CRS" if None in told else "its tables have several CRS"
        raise SourceError(
            f"layer {layer.name}: {what}", f'say it in the layer {layer.name}: crs = "EPSG:..."', layer.name
        )
    return horizontal(str(told.pop()))[0]


def _placing(layer: Layer, headers: Sequence[TableHeader], tolerance: float) -> tuple[str, tuple[float, float], str]:
    """How points are snapped: the rule, the shift before it, and why."""
    if layer.cells is None or layer.cells == "index":
        why = "column and row of the grid, as the settings say" if layer.cells else "each point falls into a cell"
        return layer.cells or "", (0.0, 0.0), why
    known = [(h, h.offset) for h in headers if h.offset is not None]
    if len(known) < len(headers):
        raise SourceError(f"layer {layer.name}: its cells could not be measured", "see why it is skipped", layer.name)
    header, worst = max(known, key=lambda told: told[1].cells)
    off = f"its {layer.cells} are off the grid's by at most {worst.cells:.3g} of a cell"
    if worst.cells <= tolerance:
        return layer.cells, (0.0, 0.0), off
    if layer.on_misaligned == "fail":
        raise SourceError(
            f"layer {layer.name}: {off}, more than merge.alignment_tolerance = {tolerance:g}: row {worst.row:,} of "
            f"{header.uri}, x {worst.x!r}, y {worst.y!r}",
            "correct grid.bounds and grid.resolution, try the other of centres and corners, or let the values be "
            'aggregated anew by centres: on_misaligned = "aggregate"',
            layer.name,
        )
    if layer.cells == "centres":
        return "", (0.0, 0.0), f"{off}: aggregated anew"
    steps = {o.step for _, o in known}
    dx, dy = min(s[0] for s in steps), min(s[1] for s in steps)
    if not (dx and dy):
        raise SourceError(
            f"layer {layer.name}: the corners of {header.uri} do not tell how large its cells are: its x or y are one "
            "number only, or not at equal distances",
            'give it centres, and cells = "centres"',
            layer.name,
        )
    return "", (dx / 2, -dy / 2), f"{off}: aggregated anew by the centres of cells of {dx:g} x {dy:g}"


def table_variables(layer: Layer, kind: Kind, table: TablePlan) -> tuple[Variable, ...]:
    """The columns that a table layer makes: by value column, and for each by statistic."""
    words = statistics(layer, kind)
    if layer.weight is not None and not {word for _, word in words} & set(WEIGHTED):
        raise SettingsError(
            f"layer {layer.name}: weight = {layer.weight!r} counts in mean and sum only, and aggregate is "
            + _listed([word for _, word in words]),
            'leave weight out, or say aggregate = "mean" or "sum"',
        )
    made = []
    for index, (name, dtype) in enumerate(zip(table.columns.values, table.dtypes, strict=True)):
        base = layer.name if len(table.columns.values) == 1 else f"{layer.name}_{_label(name, index)}"
        weight = table.columns.weight is not None
        for _, word in words:
            unit = "" if word == "count" else layer.unit or ""
            full = f"{base}_{word}" if len(words) > 1 else base
            band = Band(index + 1, dtype, nodata=layer.nodata, unit=unit, description=name)
            made.append(Variable(full, statistic_type(word, dtype, weight), layer.name, band, unit, index, word))
    return tuple(made)


def statistic_type(statistic: str, dtype: str, weighted: bool) -> str:
    """Numpy's name of the type of a statistic of values of `dtype`: no value of the source loses a bit in it."""
    if statistic == "count":
        return "int64"
    if statistic == "mean":
        return "float64"
    if statistic == "sum":
        return "int64" if np.dtype(dtype).kind in "iu" and not weighted else "float64"
    return dtype


def _label(name: str, index: int) -> str:
    text = name.strip().lower()
    return text if text.replace("_", "").isalnum() and text.isascii() else str(index + 1)


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:20]) + (f" and {len(items) - 20} more" if len(items) > 20 else "")
