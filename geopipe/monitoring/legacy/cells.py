"""Coordinates for the old system's tables of cells: the centre of each pixel, from its row, its column and the grid.

Such a table is named passthrough_... or resampled_... and has the columns row (or row_idx), col (or col_idx) and value.
Its grid comes from bounds and resolution in a table of datasets, or from the caller.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2 import sql

from geopipe.errors import MachineError, SettingsError

ROW, COL = ("row", "row_idx"), ("col", "col_idx")
X, Y = "x_coord", "y_coord"
PREFIXES = ("passthrough_", "resampled_")

TABLE = ("data_table_name", "data_table", "storage_table", "storage_table_name", "table_name")
NAME = ("name", "dataset_name", "dataset")
BOUNDS = ("bounds", "target_bounds", "extent", "bbox")
EDGES = (("min_x", "xmin", "west", "left", "minx"), ("min_y", "ymin", "south", "bottom", "miny"),
         ("max_x", "xmax", "east", "right", "maxx"), ("max_y", "ymax", "north", "top", "maxy"))  # fmt: skip
RESOLUTION = ("target_resolution", "resolution", "pixel_size", "cell_size")

TOLERANCE = 1e-6
"""Largest error of a coordinate, in pixels."""


@dataclass(frozen=True)
class PixelGrid:
    """The upper left corner of the first pixel (row 0, column 0) and the size of pixels; rows go down."""

    x: float
    y: float
    width: float
    height: float
    source: str = "the command line"

    def __post_init__(self) -> None:
        sound = all(map(math.isfinite, (self.x, self.y, self.width, self.height)))
        if not sound or self.width <= 0 or self.height <= 0:
            raise SettingsError(
                f"{self.source}: origin {self.x}, {self.y} and pixels of {self.width} x {self.height} are no grid",
                "give the upper left corner, and a positive width and height of a pixel (rows go down from there)",
            )


@dataclass(frozen=True)
class Migrated:
    """A table, its grid, its rows, how many of them got (or would get) coordinates, and the bounds of the centres."""

    table: str
    grid: PixelGrid
    rows: int
    filled: int
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class _Cells:
    table: str
    row: str
    col: str
    coordinates: bool


def fill_coordinates(cursor: Any, default: PixelGrid | None, tables: Sequence[str], dry_run: bool) -> list[Migrated]:
    """Fill the coordinates of all such tables, or of `tables`, in the transaction of the caller.

    Args:
        default: grid of tables without a row in a table of datasets.
        dry_run: change and lock nothing.

    Raises:
        SettingsError: there is no such table, or its grid is unknown.
        MachineError: the verification failed: the caller must roll back.
    """
    present = _cells(cursor)
    if missing := sorted(set(tables) - {cells.table for cells in present}):
        raise SettingsError(
            f"{', '.join(missing)}: no table passthrough_... or resampled_... with row, col and value",
            "there are: " + (", ".join(cells.table for cells in present) or "none"),
        )
    chosen = [cells for cells in present if not tables or cells.table in tables]
    known = _grids(cursor, [cells.table for cells in chosen])
    lost = [cells.table for cells in chosen if cells.table not in known]
    if lost and default is None:
        raise SettingsError(
            f"no table of datasets says the bounds and resolution of {', '.join(lost)}",
            "give --origin-x, --origin-y, --pixel-width and --pixel-height, with --table where tables differ",
        )
    grids = {cells.table: known.get(cells.table, default) for cells in chosen}
    return [_fill(cursor, cells, grid, dry_run) for cells in chosen if (grid := grids[cells.table]) is not None]


def _columns(cursor: Any) -> dict[str, dict[str, str]]:
    """The columns of all tables of the schema, with their types."""
    cursor.execute(
        "SELECT table_name, column_name, data_type FROM information_schema.columns JOIN information_schema.tables "
        "USING (table_schema, table_name) WHERE table_schema = current_schema() AND table_type = 'BASE TABLE' "
        "ORDER BY table_name, ordinal_position"
    )
    tables: dict[str, dict[str, str]] = {}
    for table, column, kind in cursor.fetchall():
        tables.setdefault(table, {})[column] = kind
    return tables


def _first(names: Sequence[str], columns: Mapping[str, Any]) -> str | None:
    return next((name for name in names if name in columns), None)


def _cells(cursor: Any) -> list[_Cells]:
    cells = []
    for table, columns in _columns(cursor).items():
        row, col = _first(ROW, columns), _first(COL, columns)
        if table.startswith(PREFIXES) and row and col and "value" in columns:
            cells.append(_Cells(table, row, col, X in columns and Y in columns))
    return cells


def _grids(cursor: Any, tables: Sequence[str]) -> dict[str, PixelGrid]:
    """The grids of `tables` in tables of datasets."""
    grids: dict[str, PixelGrid] = {}
    for source, columns in _columns(cursor).items():
        bounds = _first(BOUNDS, columns) or all(_first(names, columns) for names in EDGES)
        if not (bounds and _first(RESOLUTION, columns) and (_first(TABLE, columns) or _first(NAME, columns))):
            continue
        cursor.execute(sql.SQL("SELECT to_jsonb(t)::text FROM {} t").format(sql.Identifier(source)))
        for (text,) in cursor.fetchall():
            row = json.loads(text)
            grid = _grid(row, source)
            for table in _named(row, tables) if grid else ():
                if grids.setdefault(table, grid or grids[table]) != grid:
                    raise SettingsError(
                        f"{source} says two grids of {table}",
                        "correct it, or give the grid with --table and --origin-x",
                    )
    return grids


def _named(row: Mapping[str, Any], tables: Sequence[str]) -> list[str]:
    """The tables that a row of a table of datasets describes."""
    if reference := next((row[name] for name in TABLE if row.get(name)), None):
        return [table for table in tables if table == str(reference).rpartition(".")[2]]
    name = re.sub(r"\W+", "_", str(next((row[n] for n in NAME if row.get(n)), ""))).lower()
    return [table for table in tables if name and table in {prefix + name for prefix in PREFIXES}]


def _grid(row: Mapping[str, Any], source: str) -> PixelGrid | None:
    bounds = _numbers(next((row[name] for name in BOUNDS if row.get(name) is not None), None), EDGES)
    if bounds is None:
        bounds = _numbers({names[0]: row.get(_first(names, row) or "") for names in EDGES}, EDGES)
    size = _numbers(next((row[name] for name in RESOLUTION if row.get(name) is not None), None), (("x",), ("y",)))
    if bounds is None or size is None or len(bounds) != 4:
        return None
    left, _, _, top = bounds
    return PixelGrid(left, top, abs(size[0]), abs(size[-1]), f"table {source}")


def _numbers(value: Any, names: Sequence[Sequence[str]]) -> tuple[float, ...] | None:
    """The numbers in a column: one, a list, an object with names, or the text of these."""
    if isinstance(value, str):
        try:
            value = json.loads(value.translate(str.maketrans("{}()", "[][]")) if '"' not in value else value)
        except ValueError:
            return None
    if isinstance(value, Mapping):
        value = [value.get(_first(one, value) or "") for one in names]
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in values):
        return None
    return tuple(map(float, values))


def _fill(cursor: Any, cells: _Cells, grid: PixelGrid, dry_run: bool) -> Migrated:
    table = sql.Identifier(cells.table)
    row, col = sql.Identifier(cells.row), sql.Identifier(cells.col)
    if not dry_run:
        cursor.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table))
    cursor.execute(
        sql.SQL("SELECT count(*), count(*) FILTER (WHERE {0} IS NULL OR {1} IS NULL) FROM {2}").format(row, col, table)
    )
    rows, lost = cursor.fetchone()
    if lost:
        raise MachineError(
            f"{lost:,} of {rows:,} rows of {cells.table} have no {cells.row} or {cells.col}; nothing was changed",
            "delete or correct these rows",
        )
    missing = sql.SQL("{} IS NULL OR {} IS NULL").format(sql.Identifier(X), sql.Identifier(Y))
    if not cells.coordinates:
        missing = sql.SQL("true")
    cursor.execute(sql.SQL("SELECT count(*) FROM {} WHERE {}").format(table, missing))
    filled = cursor.fetchone()[0]
    if dry_run:
        return Migrated(cells.table, grid, rows, filled)
    for name in (X, Y):
        cursor.execute(
            sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} double precision").format(table, sql.Identifier(name))
        )
    x = sql.SQL("{} + ({}::float8 + 0.5) * {}").format(*map(sql.Literal, (grid.x,)), col, sql.Literal(grid.width))
    y = sql.SQL("{} - ({}::float8 + 0.5) * {}").format(*map(sql.Literal, (grid.y,)), row, sql.Literal(grid.height))
    names = {"t": table, "x": sql.Identifier(X), "y": sql.Identifier(Y), "missing": missing, "at_x": x, "at_y": y}
    cursor.execute(sql.SQL("UPDATE {t} SET {x} = {at_x}, {y} = {at_y} WHERE {missing}").format(**names))
    return _verified(cursor, cells, grid, rows, filled, names)


def _verified(
    cursor: Any, cells: _Cells, grid: PixelGrid, rows: int, filled: int, names: Mapping[str, sql.Composable]
) -> Migrated:
    """Read the table again: as many rows as before, no nulls, every centre where the grid has it."""
    cursor.execute(
        sql.SQL(
            "SELECT count(*), count(*) FILTER (WHERE {x} IS NULL OR {y} IS NULL), "
            "count(*) FILTER (WHERE abs({x} - ({at_x})) > {dx} OR abs({y} - ({at_y})) > {dy}), "
            "min({x}), max({x}), min({y}), max({y}), min({col}), max({col}), min({row}), max({row}) FROM {t}"
        ).format(
            **names,
            dx=sql.Literal(grid.width * TOLERANCE),
            dy=sql.Literal(grid.height * TOLERANCE),
            col=sql.Identifier(cells.col),
            row=sql.Identifier(cells.row),
        )
    )
    count, nulls, off, left, right, low, high, *corners = cursor.fetchone()
    if count != rows or nulls:
        raise MachineError(
            f"{cells.table} has {count:,} rows of {rows:,}, and {nulls:,} without coordinates; nothing was changed",
            "this is a defect of geopipe: please report it",
        )
    ranges: Any = (None, None)
    if count:
        first, last, top, bottom = corners
        again = (
            *(grid.x + (float(at) + 0.5) * grid.width for at in (first, last)),
            *(grid.y - (float(at) + 0.5) * grid.height for at in (bottom, top)),
        )
        sizes = (grid.width, grid.width, grid.height, grid.height)
        wrong = [
            abs(a - b) > TOLERANCE * size for a, b, size in zip((left, right, low, high), again, sizes, strict=True)
        ]
        if off or any(wrong):
            raise MachineError(
                f"{off:,} rows of {cells.table} have coordinates that are not those of the grid of {grid.source}; "
                "nothing was changed",
                "give the grid that the table was made on, or drop its columns x_coord and y_coord",
            )
        ranges = ((left, right), (low, high))
    return Migrated(cells.table, grid, rows, filled, *ranges)
