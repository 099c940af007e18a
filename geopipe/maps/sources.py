"""Where the rows of a map come from, and the grid that they are on."""

from __future__ import annotations

import glob
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as ds

from geopipe import proposals
from geopipe.errors import GeopipeError, MachineError, PlanError, SettingsError, first_line
from geopipe.export import state
from geopipe.export.state import SUCCESS
from geopipe.grid.crs import crs_of
from geopipe.grid.grid import Grid
from geopipe.layers import uris
from geopipe.maps.rows import RowSource
from geopipe.table.table import Table, open_table

if TYPE_CHECKING:
    import pandas as pd

LEVELS = 3
"""Folders above rows among which a finished output is looked for."""


def open_rows(table: str | os.PathLike[str] | Table | pa.Table | pd.DataFrame) -> Table | RowSource:
    """Open the rows that become a map.

    Args:
        table: a finished output; a file, a folder or a pattern of Parquet; or rows in memory.

    Raises:
        SettingsError, PlanError: there are no rows in it.
        MachineError: it cannot be read.
    """
    if isinstance(table, Table):
        return table
    if isinstance(table, pa.Table):
        return RowSource("the table", ds.dataset(table))
    if not isinstance(table, str | os.PathLike):
        return RowSource("the frame", ds.dataset(pa.Table.from_pandas(table, preserve_index=False)))
    name = os.fspath(table)
    if uris.is_store(name) or state.finished(Path(name).expanduser()) is not None:
        return open_table(name)
    path = os.path.expanduser(name)
    files: str | list[str] = path
    if any(character in path for character in "*?[") and not os.path.exists(path):
        files = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
        if not files:
            raise SettingsError(f"no file matches {name}", proposals.path(os.path.abspath(path), "TABLE"))
    elif not os.path.exists(path):
        raise SettingsError(f"there is no {name}", proposals.path(os.path.abspath(path), "TABLE"))
    try:
        rows = ds.dataset(files, format="parquet", partitioning="hive", exclude_invalid_files=False)
    except (pa.ArrowException, OSError) as error:
        raise MachineError(
            f"{name} is no Parquet that can be read: {first_line(error)}",
            "give a finished output of geopipe, or Parquet: pandas writes it with frame.to_parquet",
        ) from None
    if not rows.files:
        raise PlanError(
            f"{name} holds neither a finished run nor Parquet files",
            "give the output of a finished run, or a folder, a file or a pattern of Parquet",
        )
    return RowSource(name, rows, _home(Path(path).absolute()), _grid_of(Path(path)))


def _home(path: Path) -> Table | None:
    """The finished output that rows are in, such as OUTPUT/analysis/kmeans/labels."""
    outputs = (folder for folder in list(path.parents)[:LEVELS] if state.is_finished(folder))
    return next(map(open_table, outputs), None)


def _grid_of(path: Path) -> Grid | None:
    """The grid in the `_SUCCESS` beside rows that geopipe computed from a table."""
    text = state.read(path / SUCCESS)
    try:
        return None if text is None else Grid.parse(json.loads(text)["grid"])
    except (ValueError, KeyError, TypeError, GeopipeError):
        return None  # of another program: Spark's is empty


def grid_of(rows: Table | RowSource, like: str | os.PathLike[str] | Table | None) -> tuple[Grid, Table | None]:
    """The grid of a map, and the finished table that has it, if there is one.

    Args:
        like: a finished output; None for that of the rows themselves.

    Raises:
        SettingsError: nothing says which grid it is, or the rows are of another one.
    """
    home = rows if isinstance(rows, Table) else rows.home
    own = rows.grid or (home.grid if home is not None else None)
    if like is None:
        if own is None:
            assert isinstance(rows, RowSource)
            raise SettingsError(
                f"nothing says which grid the rows of {rows.name} are on",
                "give the finished output whose rows and columns they have: --like OUTPUT",
            )
        return own, home
    table = like if isinstance(like, Table) else open_table(like)
    if own is not None and not _same(own, table.grid):
        raise SettingsError(
            f"the rows are on {_text(own)}; {table.output} has {_text(table.grid)}",
            "leave --like out: the rows know their grid",
        )
    return table.grid, table


def _same(one: Grid, other: Grid) -> bool:
    numbers = [(g.x0, g.y0, g.dx, g.dy, g.width, g.height) for g in (one, other)]
    return numbers[0] == numbers[1] and crs_of(one.crs) == crs_of(other.crs)


def _text(grid: Grid) -> str:
    return (
        f"a grid of {grid.width:,} x {grid.height:,} cells of {grid.dx:g} x {grid.dy:g} from {grid.x0:g}, {grid.y0:g} "
        f"({crs_of(grid.crs).name})"
    )
