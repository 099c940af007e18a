"""Coordinates for the old system's tables of cells: the centre of each pixel, from its row, its column and the grid.

Such a table is named passthrough_... or resampled_... and has the columns row (or row_idx), col (or col_idx) and value.
Its grid comes from bounds and resolution in a table of datasets, or from the caller.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2 import sql

from geopipe.errors import MachineError, SettingsError
from geopipe.monitoring.legacy.columns import Row, relations, rows_of

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


def fill_coordinates(cursor: Any, default: PixelGrid | None, tables: Sequence[str], dry_run: bool) -> list[Migrated]:
    """Fill the coordinates of all such tables, or of `tables`, in the transaction of the caller.

    Args:
        default: grid of tables without a row in a table of datasets.
        dry_run: change and lock nothing.

    Raises:
        SettingsError: there is no such table, or its grid is unknown.
        MachineError: the verification failed: the caller must roll back.
    """
    known = relations(cursor, "rp")
    cells = {t: names for t, names in known.items() if t.startswith(PREFIXES) and _is_of_cells(names)}
    if missing := sorted(set(tables) - cells.keys()):
        raise SettingsError(
            f"{', '.join(missing)}: no table passthrough_... or resampled_... with row, col and value",
            f"there are: {', '.join(cells) or 'none'}",
        )
    chosen = [table for table in cells if not tables or table in tables]
    grids = _grids(cursor, known, chosen)
    lost = [table for table in chosen if table not in grids]
    if lost and default is None:
        raise SettingsError(
            f"no table of datasets says the bounds and resolution of {', '.join(lost)}",
            "give --origin-x, --origin-y, --pixel-width and --pixel-height, with --table where tables differ",
        )
    both = [(table, grids.get(table, default)) for table in chosen]
    return [_fill(cursor, table, cells[table], grid, dry_run) for table, grid in both if grid is not None]


def _first(names: Sequence[str], columns: Iterable[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def _value(names: Sequence[str], row: Mapping[str, Any]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _is_of_cells(columns: Sequence[str]) -> bool:
    return bool(_first(ROW, columns) and _first(COL, columns) and "value" in columns)


def _grids(cursor: Any, known: Mapping[str, Sequence[str]], tables: Sequence[str]) -> dict[str, PixelGrid]:
    """The grids of `tables` in tables of datasets."""
    grids: dict[str, PixelGrid] = {}
    for source, columns in known.items():
        bounds = _first(BOUNDS, columns) or all(_first(names, columns) for names in EDGES)
        if not (bounds and _first(RESOLUTION, columns) and (_first(TABLE, columns) or _first(NAME, columns))):
            continue
        for row in rows_of(cursor, source):
            grid = _grid(row, source)
            for table in _tables_of(row, tables) if grid else ():
                if grids.setdefault(table, grid or grids[table]) != grid:
                    raise SettingsError(
                        f"{source} says two grids of {table}",
                        "correct it, or give the grid with --table and --origin-x",
                    )
    return grids


def _tables_of(row: Row, tables: Sequence[str]) -> list[str]:
    """The tables that a row of a table of datasets describes."""
    if reference := next((row[name] for name in TABLE if row.get(name)), None):
        return [table for table in tables if table == str(reference).rpartition(".")[2]]
    name = re.sub(r"\W+", "_", str(next((row[n] for n in NAME if row.get(n)), ""))).lower()
    return [table for table in tables if name and table in {prefix + name for prefix in PREFIXES}]


def _grid(row: Row, source: str) -> PixelGrid | None:
    bounds = _numbers(_value(BOUNDS, row), EDGES) or _numbers([_value(names, row) for names in EDGES], EDGES)
    size = _numbers(_value(RESOLUTION, row), (("x",), ("y",)))
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


def _fill(cursor: Any, table: str, columns: Sequence[str], grid: PixelGrid, dry_run: bool) -> Migrated:
    """Fill a table, and read it again: as many rows as before, no nulls, every centre where the grid has it."""
    row, col = _first(ROW, columns) or "", _first(COL, columns) or ""
    names = {"t": table, "x": X, "y": Y, "row": row, "col": col}
    parts: dict[str, sql.Composable] = {key: sql.Identifier(name) for key, name in names.items()}
    left, top, width, height = map(sql.Literal, (grid.x, grid.y, grid.width, grid.height))
    parts["at_x"] = sql.SQL("{} + ({}::float8 + 0.5) * {}").format(left, parts["col"], width)
    parts["at_y"] = sql.SQL("{} - ({}::float8 + 0.5) * {}").format(top, parts["row"], height)
    parts["missing"] = sql.SQL("{x} IS NULL OR {y} IS NULL" if X in columns and Y in columns else "true").format(
        **parts
    )

    def execute(statement: str) -> None:
        cursor.execute(sql.SQL(statement).format(**parts))

    if not dry_run:
        execute("LOCK TABLE {t} IN ACCESS EXCLUSIVE MODE")
    execute(
        "SELECT count(*), count(*) FILTER (WHERE {row} IS NULL OR {col} IS NULL), count(*) FILTER (WHERE {missing}) "
        "FROM {t}"
    )
    rows, lost, filled = cursor.fetchone()
    if lost:
        raise MachineError(
            f"{lost:,} of {rows:,} rows of {table} have no {row} or {col}; nothing was changed",
            "delete or correct these rows",
        )
    if dry_run:
        return Migrated(table, grid, rows, filled)
    for name in ("x", "y"):
        execute(f"ALTER TABLE {{t}} ADD COLUMN IF NOT EXISTS {{{name}}} double precision")
    execute("UPDATE {t} SET {x} = {at_x}, {y} = {at_y} WHERE {missing}")
    parts |= {"dx": sql.Literal(grid.width * TOLERANCE), "dy": sql.Literal(grid.height * TOLERANCE)}
    execute(
        "SELECT count(*), count(*) FILTER (WHERE {x} IS NULL OR {y} IS NULL), "
        "count(*) FILTER (WHERE abs({x} - ({at_x})) > {dx} OR abs({y} - ({at_y})) > {dy}), "
        "min({x}), max({x}), min({y}), max({y}) FROM {t}"
    )
    count, nulls, off, *ends = cursor.fetchone()
    if count != rows or nulls:
        raise MachineError(
            f"{table} has {count:,} rows of {rows:,}, and {nulls:,} without coordinates; nothing was changed",
            "this is a defect of geopipe: please report it",
        )
    if off:
        raise MachineError(
            f"{off:,} rows of {table} have coordinates that are not those of the grid of {grid.source}; "
            "nothing was changed",
            "give the grid that the table was made on, or drop its columns x_coord and y_coord",
        )
    ranges = ((ends[0], ends[1]), (ends[2], ends[3])) if count else (None, None)
    return Migrated(table, grid, rows, filled, *ranges)
