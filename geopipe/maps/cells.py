"""From the rows of a table to the cells of the grid: where each row belongs, and the cells of a piece of the map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe.errors import SettingsError
from geopipe.grid.grid import Grid, Tile
from geopipe.maps.columns import MapColumn, Pixels

Indices = NDArray[np.int64]
Array = NDArray[Any]

TOLERANCE = 0.01
"""How far x and y may be off the centre of their cell, in cells: the default of merge.alignment_tolerance."""

INDEX, CENTRES = ("row", "col"), ("x", "y")


@dataclass(frozen=True)
class Origin:
    """The rows of a file from number `start` on, for messages."""

    name: str
    start: int = 0

    def row(self, index: int) -> str:
        """The name of a row."""
        return f"row {self.start + index:,} of {self.name} (counted from 0)"


def place_columns(names: Sequence[str], table: str) -> list[str]:
    """The columns that say where a row belongs: row and col, x and y, or all of them.

    Raises:
        SettingsError: there are neither.
    """
    pairs = [pair for pair in (INDEX, CENTRES) if set(pair) <= set(names)]
    if not pairs:
        raise SettingsError(
            f"{table} has neither row and col nor x and y; its columns: {', '.join(names)}",
            "keep row and col of the table when you compute something from it",
        )
    return [name for pair in pairs for name in pair]


def places(grid: Grid, rows: pa.RecordBatch, origin: Origin) -> tuple[Indices, Indices]:
    """Row and column in the grid of each row of a table, (rows,) int64 each.

    Raises:
        SettingsError: a row has no place, lies outside the grid or beside a cell's centre.
    """
    names = rows.schema.names
    axes = (("y", "row", grid.height), ("x", "col", grid.width))
    indices, centres = list[Indices](), list[Array]()
    if set(CENTRES) <= set(names):
        y, x = (_numbers(rows, name, pa.float64(), origin) for name in ("y", "x"))
        centres = [(grid.y0 - y) / grid.dy - 0.5, (x - grid.x0) / grid.dx - 0.5]
    if set(INDEX) <= set(names):
        indices = [_numbers(rows, name, pa.int64(), origin) for name in INDEX]
    with np.errstate(invalid="ignore"):  # what int64 does not hold lies outside
        nearest = indices or [np.rint(centre).astype(np.int64) for centre in centres]
    for (axis, index, count), cells in zip(axes, nearest, strict=True):
        outside = (cells < 0) | (cells >= count)
        if outside.any():
            at = int(outside.argmax())
            value = f"{index} = {cells[at]:,}" if indices else f"{axis} = {rows[axis][at].as_py()!r}"
            raise SettingsError(
                f"{origin.row(at)} lies outside the grid: {value}; the grid has {grid.height:,} rows x "
                f"{grid.width:,} columns from x {grid.x0!r}, y {grid.y0!r}",
                "give the output whose grid the rows have in --like, or leave such rows out",
            )
    for (axis, index, _), centre, cells in zip(axes, centres, nearest, strict=False):
        off = np.abs(centre - cells) > TOLERANCE
        if off.any():
            at = int(off.argmax())
            beside = f"its {index} is {cells[at]:,}" if indices else "its cell's centre"
            raise SettingsError(
                f"{origin.row(at)}: {axis} = {rows[axis][at].as_py()!r} is {abs(centre[at] - cells[at]):.3g} cells off "
                f"{beside}, more than {TOLERANCE:g}",
                "the rows are of another grid: give the output that they were computed from in --like",
            )
    return nearest[0], nearest[1]


def _numbers(rows: pa.RecordBatch, name: str, kind: pa.DataType, origin: Origin) -> Array:
    """A column as numbers without a gap."""
    column = rows[name]
    if column.null_count:
        at = column.is_null().to_numpy(zero_copy_only=False).argmax()
        raise SettingsError(f"{origin.row(int(at))} has no {name}", "leave out rows without a place")
    try:
        numbers: Array = column.cast(kind).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        hint = "give whole numbers in row and col, and numbers in x and y"
        raise SettingsError(f"{name} of {origin.name} is {column.type}: {error}", hint) from None
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise SettingsError(f"{origin.row(int((~np.isfinite(numbers)).argmax()))} has no {name}", "leave it out")
    return numbers


def fill(
    piece: Tile, parts: Iterable[pa.Table], columns: Sequence[MapColumn], pixels: Pixels
) -> tuple[Array, NDArray[np.bool_]]:
    """The cells of a piece of the map from its rows, in any order.

    Args:
        parts: rows of this piece, with row, col and the columns.

    Returns:
        (columns, height, width) of the file's type, and (height, width) bool: the cells that have a value in the first
        column, for a mask.

    Raises:
        SettingsError: two rows are of one cell.
    """
    blank, kind = pixels.nodata or 0, pa.from_numpy_dtype(pixels.dtype)
    cells = np.full((len(columns), piece.cells), blank, pixels.dtype)
    seen, valid, count = np.zeros(piece.cells, bool), np.zeros(piece.cells, bool), 0
    for part in parts:
        row, col = (part[name].to_numpy().astype(np.int64) for name in INDEX)
        at = (row - piece.row) * piece.width + (col - piece.col)
        again = seen[at]
        seen[at] = True
        count += len(at)
        if np.count_nonzero(seen) != count:
            raise _twice(at, again, piece)
        for band, column in enumerate(columns):
            values = part[column.name].cast(column.stored).cast(kind)
            cells[band, at] = values.fill_null(pa.scalar(blank, kind)).to_numpy()
        valid[at] = part[columns[0].name].is_valid().to_numpy()
    shape = (piece.height, piece.width)
    return cells.reshape(len(columns), *shape), valid.reshape(shape)


def _twice(at: Indices, again: NDArray[np.bool_], piece: Tile) -> SettingsError:
    """The error for a cell with two rows. at: (n,) cells of rows; again: (n,) whether earlier rows were of the cell."""
    cells, counts = np.unique(at, return_counts=True)
    cell = at[again.argmax()] if again.any() else cells[counts.argmax()]
    row, col = divmod(int(cell), piece.width)
    return SettingsError(
        f"several rows are of the cell in row {piece.row + row:,}, column {piece.col + col:,}: which of them is it?",
        "keep one row per cell, for example by its mean: frame.groupby(['row', 'col']).mean()",
    )
