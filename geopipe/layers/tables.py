"""Headers of coordinate tables, and the choice of their columns. Pure rules; `load.tables` reads the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

from geopipe.errors import SettingsError
from geopipe.layers.header import UNKNOWN, Stamp
from geopipe.layers.layer import Layer
from geopipe.text import listed

ENDINGS = (".parquet", ".geoparquet", ".pq", ".csv", ".csv.gz")
"""Endings of files that are read as coordinate tables."""

SERVER = ("postgresql:", "postgres:")
"""Beginnings of a path that means a table in Postgres."""

PAIRS = (("x", "y"), ("x_coord", "y_coord"), ("lon", "lat"), ("longitude", "latitude"))
"""Default names of x and y. The first pair wins over the others; of the others, only one may be in the table."""

INDEX = (("col_idx", "row_idx"), ("col", "row"))
"""The same for `cells = "index"`."""

TABLE_KEYS = ("table", "query", "key", "x", "y", "values", "weight", "aggregate", "cells", "on_misaligned")
COMMON_KEYS = ("name", "paths", "kind", "driver", "allow", "nodata", "crs", "unit", "on_error")
RASTER_KEYS = tuple(field.name for field in fields(Layer) if field.name not in (*TABLE_KEYS, *COMMON_KEYS))
"""Keys of a layer that only tables, both, or only rasters have."""

SHOWN = 20
"""Columns that a message lists."""

WEIGHTED = ("mean", "sum")
"""Statistics that use a weight."""

PART_ROWS = 1 << 20
"""Rows of a partition, about."""

ORDER_BITS = 40
"""Bits of a point's row in its partition; the partition's number is above them."""


class TableColumn(NamedTuple):
    """A column of a table: `dtype` is numpy's name of the type in which it is read, "" if it has no numbers.

    `type_name` is the source's own name of the type.
    """

    name: str
    dtype: str
    type_name: str


class Part(NamedTuple):
    """A range of a table that is read at a time: row groups of a Parquet file or keys in Postgres, `stop` excluded."""

    start: int
    stop: int
    rows: int


class Offset(NamedTuple):
    """The largest distance of a table's points from the cells of a grid, in cells, and the row (from 0) that has it.

    `step` is the smallest distance of different x and of different y, 0 if there is none.
    """

    cells: float
    row: int
    x: float
    y: float
    step: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class TableHeader:
    """The header of a coordinate table.

    Attributes:
        crs: an authority code or PROJJSON.
        relation: in Postgres, the table or query as SQL; `path` is that of the settings.
        key: in Postgres, the column whose ranges are the parts.
        offset: None unless it was measured.
    """

    uri: str
    driver: str
    columns: tuple[TableColumn, ...]
    rows: int
    parts: tuple[Part, ...]
    crs: str | None = None
    stamp: Stamp = UNKNOWN
    relation: str = ""
    key: str = ""
    path: str = ""
    offset: Offset | None = None

    def column(self, name: str) -> TableColumn | None:
        return next((c for c in self.columns if c.name == name), None)


class Columns(NamedTuple):
    """Columns of a table by their meaning; the first of `values` is "" if the rows themselves are counted."""

    x: str
    y: str
    values: tuple[str, ...]
    weight: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All columns to read, each once."""
        names = (self.x, self.y, *self.values, self.weight or "")
        return tuple(dict.fromkeys(name for name in names if name))


def is_table(path: str) -> bool:
    """Whether a path names a coordinate table, by its ending or scheme."""
    return path.startswith(SERVER) or path.lower().endswith(ENDINGS)


def check_keys(layer: Layer, table: bool) -> None:
    """Check that a layer has no keys of the other sort.

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
    """Choose the columns of x, y, the values and the weight.

    Raises:
        SettingsError, SourceError: the settings must name a column and do not, or the table does not have it.
    """
    names = [c.name for c in header.columns]
    x, y = layer.x, layer.y
    if x is None or y is None:
        if (x, y) != (None, None):
            raise SettingsError(f"layer {layer.name}: one of x and y is missing", "give both, or neither")
        x, y = _coordinates(layer, header, names)
    counts = set(requested_statistics(layer)) == {"count"}
    values = layer.values or (() if counts else _values(header, {x, y, layer.weight}))
    if not values and not counts:
        raise layer.error(
            f"nothing says which columns of {header.uri} are the values; it has {listed(names, SHOWN)}",
            'name them: values = ["..."]; or count the points: aggregate = "count"',
        )
    columns = Columns(x, y, values or ("",), layer.weight)
    for name in columns.names:
        column = header.column(name)
        if column is None or not column.dtype:
            what = f"no numbers in its column {name!r}, but {column.type_name}" if column else f"no column {name!r}"
            raise layer.error(
                f"{header.uri} has {what}; its columns: "
                + listed([f"{c.name} ({c.type_name})" for c in header.columns], SHOWN),
                "correct x, y, values or weight; text and times can be no values: make numbers of them first",
            )
    return columns


def _coordinates(layer: Layer, header: TableHeader, names: Sequence[str]) -> tuple[str, str]:
    pairs = INDEX if layer.cells == "index" else PAIRS
    present = [pair for pair in pairs if set(pair) <= set(names)]
    if not present or (len(present) > 1 and present[0] != pairs[0]):
        which = "several could be" if present else "none are"
        text = f"of the columns of {header.uri} {which} x and y; it has {listed(names, SHOWN)}"
        raise layer.error(text, 'name them: x = "...", y = "..."')
    return present[0]


def _values(header: TableHeader, taken: set[str | None]) -> tuple[str, ...]:
    """The default values: the column `value`, or the only column of numbers without another meaning."""
    if header.column("value") is not None:
        return ("value",)
    known = taken | {header.key} | {name for pair in PAIRS + INDEX for name in pair}
    rest = tuple(c.name for c in header.columns if c.dtype and c.name not in known)
    return rest if len(rest) == 1 else ()


def requested_statistics(layer: Layer) -> tuple[str, ...]:
    """The statistics of the settings, of which one may be "auto"."""
    return (layer.aggregate,) if isinstance(layer.aggregate, str) else layer.aggregate
