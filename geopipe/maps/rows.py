"""The rows that become a map, a piece of the map at a time: of a finished table, or of any Parquet, in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from geopipe import proposals
from geopipe.durable import write_error
from geopipe.errors import MachineError, SettingsError, first_line
from geopipe.grid.grid import BLOCK, Grid, Tile, strips_of
from geopipe.maps.cells import INDEX, Origin, place_columns, places
from geopipe.maps.columns import MapColumn, column_of
from geopipe.table.table import Table
from geopipe.validate.facts import Ends

BATCH = 1 << 20
"""Rows to place at a time."""

EDGE = 1024
"""Least edge of the squares of cells into which rows of any order are sorted."""

MOST_SQUARES = 32
"""Most such squares side by side: each batch is appended to the files of up to 32 x 32 of them."""

Watch = Callable[[str, int, int], None]
"""Called with what is done at present, and how far it is: title, number, total."""

Pieces = Iterator[tuple[Tile, Sequence[pa.Table]]]
"""Rectangles of the map with their rows, which have row, col and the columns."""


class Rows(Protocol):
    """Rows on a grid. `step`: the edge of an area of the map must be a multiple of it.

    `columns` become bands; `ends` are their nulls, least and greatest values; `count` is the number of rows.
    """

    columns: tuple[MapColumn, ...]
    ends: dict[str, Ends]
    count: int
    step: int

    def pieces(self, area: Tile) -> Pieces:
        """The pieces that an area is made of, each with its rows."""
        ...


def tiles_in(grid: Grid, area: Tile, size: int) -> Iterator[Tile]:
    """The tiles of `size` cells in an area whose edges are multiples of it, or the grid's."""
    across = grid.tiling(size)[1]
    for row in range(area.row // size, -(-(area.row + area.height) // size)):
        for col in range(area.col // size, -(-(area.col + area.width) // size)):
            yield grid.tile(row * across + col, size)


# ---------------------------------------------------------------- a finished table


class TableRows:
    """Rows of a finished table, of which the manifest has counts and ends. Its tiles are read in strips."""

    def __init__(self, table: Table, names: Sequence[str]) -> None:
        self.table, self.count, self.step = table, table.rows, table.files.facts.window_size
        self.keys = frozenset(table.files.keys.tolist())
        self.columns = tuple(column_of(own, table) for own in table.schema_of(names))
        # the manifest has variables only; row and col are the grid's, and no cell of H3 is 0
        derived = {"row": Ends(0, 0, table.grid.height - 1), "col": Ends(0, 0, table.grid.width - 1)}
        derived |= {"x": Ends(), "y": Ends()} | {name: Ends(1, 1, 2**63 - 1) for name in ("lon", "lat", "h3")}
        known = derived | table.files.manifest.columns
        self.ends = {name: known[name] for name in names}

    def pieces(self, area: Tile) -> Pieces:
        files, names = self.table.files, list(dict.fromkeys([*INDEX, *(c.name for c in self.columns)]))
        for tile in tiles_in(self.table.grid, area, self.step):
            parts = files.stream(tile.key, names, BLOCK * BLOCK) if tile.key in self.keys else ()
            yield from _strips(tile, parts)


def _strips(tile: Tile, parts: Iterable[pa.Table]) -> Pieces:
    """The strips of a tile with their rows. `parts` are the rows of the tile in their order."""
    strips, waiting = strips_of(tile), list[pa.Table]()
    for part in parts:
        while part.num_rows and part["row"][-1].as_py() >= strips[0].row + strips[0].height:
            strip = strips.pop(0)
            end = int(np.searchsorted(part["row"].to_numpy(), strip.row + strip.height))
            yield strip, [*waiting, part.slice(0, end)]
            waiting, part = [], part.slice(end)
        waiting.append(part)
    for strip in strips:
        yield strip, waiting
        waiting = []


# ---------------------------------------------------------------- any Parquet


class LooseRows:
    """Rows in any order, sorted into squares of cells: a file for each square, in a folder."""

    def __init__(self, source: RowSource, grid: Grid, names: Sequence[str], like: Table | None, folder: Path) -> None:
        """Prepare the files. `like` knows more of columns that it has, too.

        Raises:
            SettingsError: a column is missing, or no raster holds its type.
        """
        schema = source.rows.schema
        source.check(names)
        self.grid, self.folder, self.count = grid, folder, 0
        self.columns = tuple(column_of(schema.field(name), like) for name in names)
        stored = [pa.field(c.name, c.stored) for c in self.columns if c.name not in INDEX]
        self.schema = pa.schema([*(pa.field(name, pa.int32()) for name in INDEX), *stored])
        self.ends = dict.fromkeys(names, Ends())
        self.step = max(EDGE, -(-max(grid.width, grid.height) // (MOST_SQUARES * BLOCK)) * BLOCK)
        self.names = list(dict.fromkeys([*place_columns(schema.names, source.name), *names]))

    def read(self, source: RowSource, watch: Watch) -> None:
        """Read all rows, once.

        Raises:
            SettingsError: a row has no place on the grid.
            MachineError: the rows cannot be read, or the disk is full.
        """
        grid, total = self.grid, source.rows.count_rows()
        for batch, origin in source.batches(self.names):
            row, col = places(grid, batch, origin)
            values = {c.name: batch[c.name].cast(c.stored) for c in self.columns if c.name not in INDEX}
            index = dict(zip(INDEX, (pa.array(at.astype(np.int32)) for at in (row, col)), strict=True))
            placed = pa.RecordBatch.from_pydict(index | values, schema=self.schema)
            self.ends = {name: ends | _ends(placed[name]) for name, ends in self.ends.items()}
            self.count += placed.num_rows
            watch("rows", self.count, total)
            self._sort(row // self.step * grid.tiling(self.step)[1] + col // self.step, placed)
        if not self.count:
            raise SettingsError(f"{source.name} has no rows", "give a table with at least one")

    def _sort(self, keys: np.ndarray[Any, Any], rows: pa.RecordBatch) -> None:
        """Append rows to the files of their squares. keys: (rows,) int64."""
        order = np.argsort(keys, kind="stable")
        rows, keys = rows.take(pa.array(order)), keys[order]
        bounds = [0, *(np.flatnonzero(np.diff(keys)) + 1).tolist(), len(keys)]
        for start, end in pairwise(bounds if len(keys) else ()):
            path = self._file(int(keys[start]))
            try:
                with open(path, "ab") as file:
                    file.write(rows.slice(start, end - start).serialize())
            except OSError as error:
                raise write_error(error, path) from error

    def _file(self, key: int) -> Path:
        return self.folder / f"{key}.arrows"

    def pieces(self, area: Tile) -> Pieces:
        for tile in tiles_in(self.grid, area, self.step):
            yield tile, self._read(self._file(tile.key))

    def _read(self, path: Path) -> list[pa.Table]:
        """The rows of a square, if it has any."""
        if not path.exists():
            return []
        batches = []
        with pa.OSFile(str(path)) as file:
            while file.tell() < path.stat().st_size:
                batches.append(pa.ipc.read_record_batch(pa.ipc.read_message(file), self.schema))
        return [pa.Table.from_batches(batches, self.schema)]


def _ends(column: pa.Array) -> Ends:
    """Nulls, least and greatest value of a column; NaN counts as a null."""
    ends = (end.as_py() for end in pc.min_max(column).values())
    low, high = (None if end != end else end for end in ends)  # NaN is all that there is
    missing = column.null_count + (pc.sum(pc.is_nan(column)).as_py() or 0 if pa.types.is_floating(column.type) else 0)
    return Ends(missing, low, high)


@dataclass(frozen=True)
class RowSource:
    """Rows of Parquet files, or of a table in memory.

    `home` is the finished table that they were computed from and are beside; `grid` is their grid, if they have it.
    """

    name: str
    rows: ds.Dataset = field(repr=False)
    home: Table | None = None
    grid: Grid | None = None

    def check(self, names: Sequence[str]) -> None:
        """Refuse names of columns that it does not have.

        Raises:
            SettingsError: proposes the nearest one.
        """
        for name in names:
            if name not in self.rows.schema.names:
                meant = proposals.near(name, self.rows.schema.names)
                hint = f"did you mean {meant!r}?" if meant else f"columns: {', '.join(self.rows.schema.names)}"
                raise SettingsError(f"{self.name} has no column {name!r}", hint)

    def batches(self, names: Sequence[str]) -> Iterator[tuple[pa.RecordBatch, Origin]]:
        """Columns of all rows, some rows at a time, each with the file that they are from."""
        with self._reading():
            for fragment in self.rows.get_fragments():
                name, start = getattr(fragment, "path", self.name), 0
                options = {"batch_size": BATCH, "batch_readahead": 1, "fragment_readahead": 1}
                scanner = fragment.scanner(schema=self.rows.schema, columns=list(names), **options)
                for batch in scanner.to_batches():
                    yield batch, Origin(name, start)
                    start += batch.num_rows

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Errors of reading as one of ours."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise MachineError(f"{self.name} cannot be read: {first_line(error)}", "write it anew") from error
