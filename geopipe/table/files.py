"""The files of a finished table: which hold a tile, and their rows as a dataset of Arrow. Nothing lists all files."""

from __future__ import annotations

import io
import math
import shlex
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import and_, or_
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileSystem, FileType

from geopipe.errors import MachineError, SettingsError, first_line
from geopipe.export.state import MANIFEST
from geopipe.export.tiles import ONE_CSV, Receipt, tile_name
from geopipe.export.writers import CSV_SUFFIX, HIVE_NULL
from geopipe.grid.crs import Bounds
from geopipe.grid.grid import Grid
from geopipe.merge.spec import COORDINATES
from geopipe.plan.cells import keys_of
from geopipe.validate.facts import Ends, Facts

Keys = np.ndarray[Any, Any]
"""Keys of tiles: (n,) int64, rising."""


class CellWindow(NamedTuple):
    """Rows and columns of the grid: from the first on, and before the second of each pair."""

    rows: tuple[int, int]
    cols: tuple[int, int]

    def expression(self) -> pc.Expression:
        """The cells of the window as a filter of rows."""
        row, col = pc.field("row"), pc.field("col")
        (top, bottom), (left, right) = self.rows, self.cols
        return (row >= top) & (row < bottom) & (col >= left) & (col < right)


def window_of(grid: Grid, bounds: Bounds | None) -> CellWindow:
    """The cells whose centres lie in bounds; without bounds, all of them.

    Raises:
        SettingsError: the bounds are not four rising numbers.
    """
    if bounds is None:
        return CellWindow((0, grid.height), (0, grid.width))
    if len(bounds) != 4 or not all(map(math.isfinite, bounds)) or bounds[0] > bounds[2] or bounds[1] > bounds[3]:
        raise SettingsError(f"bounds = {tuple(bounds)} are not xmin, ymin, xmax, ymax", "give four rising numbers")
    xmin, ymin, xmax, ymax = bounds
    rows = _between(-ymax, -ymin, grid.height, lambda row: -float(grid.ys(row, 1)[0]))
    return CellWindow(rows, _between(xmin, xmax, grid.width, lambda col: float(grid.xs(col, 1)[0])))


def _between(low: float, high: float, count: int, centre: Callable[[int], float]) -> tuple[int, int]:
    """The first of `count` cells whose centre is from `low` to `high`, and the first behind them."""
    return bisect_left(range(count), low, key=centre), bisect_right(range(count), high, key=centre)


class Manifest(NamedTuple):
    """Sums of the manifest: rows by tile, and nulls, least and greatest value by column.

    `tiles` and `rows`: (tiles,) int64, sorted by tile. `csv`: first byte and bytes of a tile, in a file of all tiles.
    """

    tiles: Keys
    rows: Keys
    columns: dict[str, Ends]
    csv: dict[int, tuple[int, int]]


@dataclass(frozen=True)
class Files:
    """The files of a finished table below `root`, as `fs` takes it. `types` and `units` are by column."""

    output: str
    fs: FileSystem = field(repr=False)
    root: str = field(repr=False)
    format: str
    facts: Facts = field(repr=False)
    types: dict[str, str] = field(repr=False)
    units: dict[str, str] = field(repr=False)

    @cached_property
    def keys(self) -> Keys:
        """Keys of the tiles that have files, rising: (tiles,) int64."""
        mask = self.facts.mask
        return np.arange(self.facts.tiles) if mask is None else np.unique(keys_of(mask.runs))

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns with types and metadata, as every file of the table has them."""
        if self.format == "csv":
            places = dict(COORDINATES)
            return pa.schema(
                pa.field(name, pa.type_for_alias(text), name not in places, {"unit": self.units.get(name) or ""})
                for name, text in self.types.items()
            )
        with self.reading():
            path = next((path for path, _ in self._parquet_files(self.keys[:1])), None)
        if path is None:
            raise MachineError(f"{self.output} has no file of its first tile", f"see: geopipe validate {self.output}")
        with self.reading(path):
            schema = pq.read_schema(path, filesystem=self.fs)
        if self.facts.partitioned:
            name = str(self.facts.layout.partition_by)
            position = list(self.types).index(name)
            schema = schema.insert(position, pa.field(name, pa.type_for_alias(self.types[name])))
        return schema

    def keys_in(self, window: CellWindow) -> Keys:
        """Keys of the tiles that a window touches, rising: (n,) int64."""
        size, keys = self.facts.window_size, self.keys
        across = self.facts.grid.tiling(size)[1]
        (top, bottom), (left, right) = window.rows, window.cols
        row, col = keys // across, keys % across
        touched = (row >= top // size) & (row * size < bottom) & (col >= left // size) & (col * size < right)
        return np.asarray(keys[touched] if top < bottom and left < right else keys[:0])

    def read(
        self, keys: Keys, columns: Sequence[str], window: CellWindow | None = None, where: pc.Expression | None = None
    ) -> pa.Table:
        """Rows of some tiles, in the order of the tiles.

        Args:
            keys: (n,) int64, of tiles that have files.
            window: keeps the cells inside; None keeps all.
            where: keeps the rows for which it is true.

        Raises:
            SettingsError: `where` is no condition on the columns.
        """
        conditions = [] if where is None else [where]
        if window is not None and window != window_of(self.facts.grid, None):
            conditions.append(window.expression())
        if self.facts.layout.csv_files == "one" and self.format == "csv" and len(keys) < len(self.keys):
            conditions.append(reduce(or_, [self._window(key).expression() for key in keys.tolist()], pc.scalar(False)))
        condition = reduce(and_, conditions, pc.scalar(True))
        with self.reading():
            try:
                self.schema.empty_table().filter(condition)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                reason, columns = first_line(error), ", ".join(self.schema.names)
                raise SettingsError(f"where = {where} does not fit the rows: {reason}", f"columns: {columns}") from None
            if self.format == "csv":
                return self._read_csv(self._csv(keys), list(columns), condition)
            return self._parquet(keys).to_table(columns=list(columns), filter=condition)

    def stream(self, key: int, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        """The rows of a tile, some at a time, by row and col. Memory does not grow with the tile.

        A table in folders by value is read a tile at a time: its rows are not in order.

        Args:
            key: of a tile that has files.
            rows: to read at a time, at most.
        """
        if self.facts.partitioned:
            names = list(dict.fromkeys([*columns, "row", "col"]))
            yield (
                self.read(np.array([key]), names).sort_by([("row", "ascending"), ("col", "ascending")]).select(columns)
            )
            return
        with self.reading():
            if self.format == "csv":
                yield from self._csv_parts(key, list(columns))
                return
            schema = pa.schema([self.schema.field(name) for name in columns])
            for path, _ in self._parquet_files(np.array([key])):
                with self.reading(path), pq.ParquetFile(self.fs.open_input_file(path), pre_buffer=False) as file:
                    for batch in file.iter_batches(rows, columns=list(columns), use_threads=False):
                        yield pa.Table.from_batches([batch]).select(columns).cast(schema)

    def _csv_parts(self, key: int, columns: list[str]) -> Iterator[pa.Table]:
        """The rows of a tile in CSV, a batch at a time."""
        (path,) = self._csv(np.array([key]))
        schema = pa.schema([self.schema.field(name) for name in columns])
        headed, part = True, None
        if self.facts.layout.csv_files == "one":
            headed, part = key == int(self.keys[0]), self.manifest.csv[key]
        names = None if headed else self.schema.names
        with self._opened(path, part) as stream:
            options = pacsv.ReadOptions(column_names=names, use_threads=False)
            try:
                batches = pacsv.open_csv(stream, options, convert_options=self._conversion)
            except pa.ArrowInvalid as error:
                if "Empty CSV" not in str(error):
                    raise
                return  # a tile without rows, in a file that others share
            with batches:
                for batch in batches:
                    yield pa.Table.from_batches([batch]).select(columns).cast(schema)

    @contextmanager
    def _opened(self, path: str, part: tuple[int, int] | None) -> Iterator[Any]:
        """A CSV file as text; of one that tiles share, some bytes from an offset on, which are compressed alone."""
        if part is None:
            with self.fs.open_input_stream(path) as stream:
                yield stream
            return
        with self.fs.open_input_file(path) as file:
            file.seek(part[0])
            codec = next((name for name, suffix in CSV_SUFFIX.items() if suffix == self.csv_suffix), "none")
            raw = pa.BufferReader(file.read_buffer(part[1]))
            yield raw if codec == "none" else pa.CompressedInputStream(raw, codec)

    @property
    def _conversion(self) -> pacsv.ConvertOptions:
        types = {f.name: f.type for f in self.schema}
        return pacsv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True)

    def _window(self, key: int) -> CellWindow:
        """The cells of a tile."""
        tile = self.facts.grid.tile(key, self.facts.window_size)
        return CellWindow((tile.row, tile.row + tile.height), (tile.col, tile.col + tile.width))

    def name(self, key: int) -> str:
        """The name of a tile's files, without what follows."""
        return tile_name(self.facts.grid, self.facts.window_size, self.facts.grid.tile(key, self.facts.window_size))

    def _parquet(self, keys: Keys) -> ds.Dataset:
        """The Parquet files of some tiles, in the order of the tiles."""
        files = list(self._parquet_files(keys))
        paths, folders = [path for path, _ in files], [folder for _, folder in files]
        return ds.FileSystemDataset.from_paths(paths, self.schema, ds.ParquetFileFormat(), self.fs, folders)

    def _parquet_files(self, keys: Keys) -> Iterator[tuple[str, ds.Expression]]:
        """Paths of the Parquet files of some tiles, each with a condition that all of its rows meet."""
        for key in keys.tolist():
            name = self.name(key)
            if not self.facts.partitioned:
                folder = f"tile={key}/" if self.facts.layout.partition_by == "tile" else ""
                yield f"{self.root}/parquet/{folder}{name}.parquet", pc.scalar(True)
                continue
            paths = [f"{self.root}/parquet/{folder}/{name}.parquet" for folder in self._folders]
            for info, value in zip(self.fs.get_file_info(paths), self._folders.values(), strict=True):
                if info.type is FileType.File:
                    yield info.path, value

    @cached_property
    def _folders(self) -> dict[str, ds.Expression]:
        """The folders NAME=VALUE of a partitioned table, with what each says of the rows in it."""
        name = str(self.facts.layout.partition_by)
        own, kind, folders = ds.field(name), pa.type_for_alias(self.types[name]), {}
        for info in sorted(self.fs.get_file_info(FileSelector(f"{self.root}/parquet")), key=lambda info: info.path):
            column, _, value = info.base_name.partition("=")
            if column == name and info.type is FileType.Directory:
                folders[info.base_name] = own.is_null() if value == HIVE_NULL else own == pa.scalar(value).cast(kind)
        return folders

    def _csv(self, keys: Keys) -> list[str]:
        """Paths of the CSV files that hold some tiles."""
        names = [ONE_CSV] if self.facts.layout.csv_files == "one" else map(self.name, keys.tolist())
        return [f"{self.root}/csv/{name}{self.csv_suffix}" for name in names]

    @cached_property
    def csv_suffix(self) -> str:
        """How the names of the CSV files end."""
        one = self.facts.layout.csv_files == "one"
        stem = f"{self.root}/csv/{ONE_CSV if one else self.name(int(self.keys[0]))}"
        for info in self.fs.get_file_info([stem + suffix for suffix in CSV_SUFFIX.values()]):
            if info.type is FileType.File:
                return str(info.path.removeprefix(stem))
        raise MachineError(f"{self.output} has no file {stem}.csv", f"see: geopipe validate {self.output}")

    def _read_csv(self, paths: list[str], columns: list[str], condition: pc.Expression) -> pa.Table:
        """Rows of CSV files, in which an empty field is a null; a batch is filtered before the next is parsed."""
        parts = [self.schema.empty_table().select(columns)]
        for path in paths:
            with (
                self.fs.open_input_stream(path) as stream,
                pacsv.open_csv(stream, convert_options=self._conversion) as batches,
            ):
                for batch in batches:
                    part = pa.Table.from_batches([batch]).cast(self.schema)
                    parts.append(part.filter(condition).select(columns))
        return pa.concat_tables(parts)

    @cached_property
    def manifest(self) -> Manifest:
        """The sums of the manifest, which is read once, a line at a time."""
        tiles, rows = list[int](), list[int]()
        columns, csv = dict.fromkeys(self.facts.variables, Ends()), dict[int, tuple[int, int]]()
        with self.reading(), self.fs.open_input_stream(f"{self.root}/{MANIFEST}", compression=None) as stream:
            for line in io.BufferedReader(stream):
                receipt = Receipt.parse(line)
                tiles.append(receipt.tile)
                rows.append(receipt.rows)
                for file in receipt.files:
                    if file.path.startswith(f"csv/{ONE_CSV}"):
                        csv[receipt.tile] = file.offset, file.bytes
                columns |= {name: columns[name] | Ends.of(column) for name, column in receipt.columns.items()}
        order = np.argsort(tiles)
        return Manifest(np.array(tiles)[order], np.array(rows)[order], columns, csv)

    @contextmanager
    def reading(self, path: str = "") -> Iterator[None]:
        """Errors of reading as one of ours, which names the file."""
        try:
            yield
        except (OSError, pa.ArrowException, ValueError) as error:
            reason = " ".join(str(error).split())
            reason = f"{path}: {reason}" if path and path not in reason else reason
            hint = f"see what is missing: geopipe validate {shlex.quote(self.output)}"
            raise MachineError(f"{self.output} cannot be read: {reason}", hint) from error


def unit_of(column: pa.Field) -> str:
    """The unit of a column, or nothing."""
    return str((column.metadata or {}).get(b"unit", b"").decode())
