"""Points of a user: places by row and col, or by x and y, on the grid of a table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geopipe import proposals
from geopipe.errors import SettingsError, first_line
from geopipe.grid.crs import Floats, crs_of
from geopipe.grid.distances import cells, centres
from geopipe.grid.grid import Grid

if TYPE_CHECKING:
    import pandas as pd

PointsLike: TypeAlias = "pa.Table | pd.DataFrame | Mapping[str, Any]"
"""Columns x and y, or row and col."""


class PointCells(NamedTuple):
    """Places in the order of their rows.

    Attributes:
        rows: (n,) int64, of the cells that hold them, -1 off the grid; `cols` as well.
        x: (n,) float64, in the unit of the grid's CRS; `y` as well.
    """

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    x: Floats
    y: Floats


def read_rows(path: str | os.PathLike[str], argument: str) -> pa.Table:
    """A table of the user's own: a Parquet file, a folder of them, or a CSV file.

    Args:
        argument: its name in messages: "--points".

    Raises:
        SettingsError: there is none, or it cannot be read.
    """
    file = Path(path).expanduser()
    if not file.exists():
        raise SettingsError(f"{argument} {path} does not exist", proposals.path(str(file.absolute()), argument.upper()))
    try:
        return pacsv.read_csv(file) if ".csv" in file.suffixes else pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        hint = "give a Parquet file, or a CSV file whose name has .csv"
        raise SettingsError(f"{argument} {path} cannot be read: {first_line(error)}", hint) from None


def points_of(grid: Grid, points: PointsLike, name: str) -> PointCells:
    """Points by row and col, else by x and y.

    Args:
        points: a table of Arrow, a data frame, or columns by name.
        name: of the points in messages.

    Raises:
        SettingsError: columns are missing, or a place is not a number.
    """
    names = points.column_names if isinstance(points, pa.Table) else list(points)
    for pair in (("row", "col"), ("x", "y")):
        if set(pair) <= set(names):
            break
    else:
        raise SettingsError(
            f"{name} has neither row and col nor x and y", f"columns: {', '.join(map(str, names)) or 'none'}"
        )
    first, second = (_numbers(points[column], f"{name}: column {column}") for column in pair)
    if len(first) != len(second):
        raise SettingsError(f"{name} has {len(first):,} of {pair[0]} and {len(second):,} of {pair[1]}", "give pairs")
    if pair == ("x", "y"):
        return PointCells(*cells(grid, first, second), first, second)
    x, y = centres(grid, first, second)
    return PointCells(*cells(grid, x, y), x, y)


def _numbers(column: Any, name: str) -> Floats:
    """A column as (n,) float64."""
    try:
        values = np.asarray(column.to_numpy() if hasattr(column, "to_numpy") else column, np.float64)
    except (TypeError, ValueError):
        raise SettingsError(f"{name} does not hold numbers", "give numbers") from None
    if values.ndim != 1 or not np.isfinite(values).all():
        missing = int(np.count_nonzero(~np.isfinite(values)))
        raise SettingsError(f"{name} lacks a number in {missing:,} rows", "leave these rows out")
    return values


def require_columns(names: Iterable[str], columns: Iterable[str], name: str) -> None:
    """Refuse columns that a table does not have.

    Raises:
        SettingsError: with the name that was meant, or all names.
    """
    names = list(names)
    for column in columns:
        if column not in names:
            meant = proposals.near(column, names)
            hint = f"did you mean {meant!r}?" if meant else f"columns: {', '.join(names)}"
            raise SettingsError(f"{name} has no column {column!r}", hint)


def require_numbers(schema: pa.Schema, columns: Iterable[str], name: str) -> None:
    """Refuse columns that hold no numbers.

    Raises:
        SettingsError: with the type of the column.
    """
    for column in columns:
        kind = schema.field(column).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise SettingsError(f"column {column!r} of {name} holds {kind}, not numbers", "leave it out of the columns")


def require_on_grid(grid: Grid, points: PointCells, name: str) -> None:
    """Refuse points that lie off the grid.

    Raises:
        SettingsError: with their number and the first of them.
    """
    off = np.flatnonzero(points.rows < 0)
    if len(off):
        x, y = points.x[off[0]], points.y[off[0]]
        raise SettingsError(
            f"{name}: {len(off):,} of {len(points.x):,} points lie off the grid, the first at x = {x:g}, y = {y:g}",
            f"give x and y in {crs_of(grid.crs).name}, between {', '.join(f'{edge:g}' for edge in grid.bounds)}, "
            "and leave out points outside",
        )
