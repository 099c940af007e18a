"""Write a tile as files, each atomically, under a name that comes from the tile alone."""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from geopipe.durable import replacing, sync_folder, write_error
from geopipe.errors import MachineError
from geopipe.events.emit import emit
from geopipe.events.records import Progress
from geopipe.export import views
from geopipe.export.writers import (
    CSV_SUFFIX,
    Write,
    csv_writer,
    extent_of,
    folder_of,
    folders,
    parquet_writer,
)
from geopipe.grid.crs import Bounds
from geopipe.grid.grid import Grid, Tile
from geopipe.merge.tile import Part
from geopipe.plan.plan import Plan
from geopipe.processes import unique_name

FORMATS = ("parquet", "csv")

ONE_CSV = "table"
"""The name of the CSV file that holds all tiles, without its suffix."""

CSV_PARTS = "csv_parts"
"""Folder of the CSV files of tiles until they are joined; it is not published."""

PARTIAL = ".tmp"
"""End of the name of a file that is not complete yet."""

PROGRESS_INTERVAL = 0.2
"""Least seconds between records of progress inside a tile."""


@dataclass(frozen=True)
class File:
    """One committed file; `path` is relative to the output folder.

    Of a file that tiles share it is the part of one tile: `bytes` from `offset` on, with a sha256 of its own.
    """

    path: str
    bytes: int
    sha256: str
    offset: int = 0


@dataclass(frozen=True)
class Receipt:
    """The committed rows and files of one tile. `columns` has min, max and nulls of each variable."""

    tile: int
    rows: int
    files: tuple[File, ...]
    columns: dict[str, dict[str, Any]]

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def parse(cls, line: str | bytes) -> Receipt:
        """The receipt of a line of JSON.

        Raises:
            ValueError: it is no receipt.
        """
        try:
            data = json.loads(line)
            receipt = cls(data["tile"], data["rows"], tuple(File(**f) for f in data["files"]), data["columns"])
            counts = [receipt.tile, receipt.rows, *(n for f in receipt.files for n in (f.bytes, f.offset))]
            for column in receipt.columns.values():
                counts.append(column["nulls"])
                _ = [float(column[end]) for end in ("min", "max") if column[end] is not None]
            if not all(isinstance(count, int) and 0 <= count < 1 << 63 for count in counts):
                raise ValueError("a count is not a whole number")
            if not all(isinstance(f.path, str) and isinstance(f.sha256, str) for f in receipt.files):
                raise ValueError("a path or a checksum is not a text")
        except (AttributeError, KeyError, OverflowError, RecursionError, TypeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        return receipt


def tile_name(grid: Grid, window_size: int, tile: Tile) -> str:
    """The file name of a tile without its suffix; names sort in the order of the tiles."""
    rows, cols = grid.tiling(window_size)
    row, col = tile.row // window_size, tile.col // window_size
    return f"tile-r{row:0{len(str(rows - 1))}d}-c{col:0{len(str(cols - 1))}d}"


def totals(receipts: Sequence[Receipt]) -> dict[str, int]:
    """Rows, files and bytes of all receipts."""
    files = [f for r in receipts for f in r.files]
    return {
        "rows": sum(r.rows for r in receipts),
        "files": len({f.path for f in files}),
        "bytes": sum(f.bytes for f in files),
    }


def is_ours(name: str) -> bool:
    """Whether a run writes a file of this name to the folder of a format."""
    return name.startswith("tile-") or name in {ONE_CSV + suffix for suffix in CSV_SUFFIX.values()}


def write_tile(
    plan: Plan,
    staging: str,
    chunk_size: int,
    tile: Tile,
    parts: Iterable[Part],
    note: Callable[[Receipt], None] = lambda receipt: None,
) -> Receipt:
    """Write one tile in every format, durably, under its final name in the staging folder.

    Memory beside a part is a row group or a chunk. For GeoParquet and folders by values the parts are joined first.

    Args:
        chunk_size: rows to format as CSV at a time.
        parts: of the tile, from top to bottom.
        note: keeps the receipt. It is called before the tile counts as done.

    Raises:
        MachineError: a file cannot be written.
        RunError: there are too many values to make a folder for each.
    """
    progress, files = _Progress(tile), _TileFiles(plan, Path(staging), tile)
    ranges = {v.name: _Range() for v in plan.spec.variables}
    view = files.new_view()
    if plan.options.layout.needs_whole_tiles:
        parts = [(tile, pa.concat_tables([table for _, table in parts]))]
    formats: dict[str, Callable[[], AbstractContextManager[Write]]] = {
        "parquet": files.parquet,
        "csv": partial(files.csv, chunk_size, progress.chunk),
    }
    with ExitStack() as opened:
        # the last one is closed first, and the receipt has the files in the order of the formats
        writers = [opened.enter_context(formats[form]()) for form in reversed(plan.options.formats)]
        for table in progress.over(parts):
            for write in writers:
                write(table)
            for name, values in ranges.items():
                values.add(table[name], view is not None)
            if view is not None:
                view.add(table)
            del table  # before the next part is waited for
    if view is not None:
        files.write_view(view.table(plan.spec.schema, {name: values.total for name, values in ranges.items()}))
    columns = {name: values.describe() for name, values in ranges.items()}
    receipt = Receipt(tile.key, progress.rows, tuple(files.done), columns)
    note(receipt)
    progress.end(sum(f.bytes for f in files.done))
    return receipt


class _TileFiles:
    """The files of one tile; those that are durable are in `done`."""

    def __init__(self, plan: Plan, staging: Path, tile: Tile) -> None:
        self.plan, self.staging, self.tile, self.done = plan, staging, tile, list[File]()
        self.name = tile_name(plan.grid, plan.options.window_size, tile)

    @contextmanager
    def parquet(self) -> Iterator[Write]:
        """Open the Parquet file of the tile; or, once it is called with all rows, one after the other of its files."""
        if self.plan.options.layout.needs_whole_tiles:
            yield self._write_folders
            return
        with self._new(folder_of(self.plan, self.tile)) as write:
            yield write

    def _write_folders(self, table: pa.Table) -> None:
        for folder, rows in folders(self.plan, self.tile, table):
            with self._new(folder, extent_of(rows()) if self.plan.options.layout.geometry else None) as write:
                for some in rows():
                    write(some)

    @contextmanager
    def _new(self, folder: str, extent: Bounds | None = None) -> Iterator[Write]:
        name = f"parquet/{folder}{self.name}.parquet"
        with _new_file(self.staging, name, self.done) as sink, parquet_writer(self.plan, sink, extent) as write:
            yield write

    @contextmanager
    def csv(self, chunk_size: int, report: Callable[[int], None]) -> Iterator[Write]:
        """Open the CSV file of the tile."""
        one, codec = self.plan.options.layout.csv_files == "one", self.plan.options.compress
        headed = not one or self.tile.key == int(self.plan.keys[0])
        name = f"{CSV_PARTS if one else 'csv'}/{self.name}{CSV_SUFFIX[codec]}"
        with (
            _new_file(self.staging, name, self.done) as sink,
            csv_writer(self.plan.spec.schema, sink, codec, chunk_size, headed, report) as write,
        ):
            yield write

    def new_view(self) -> views.TileView | None:
        """An empty view of the tile; None where none is taken, and where every cell would be in it."""
        stride = views.stride_of(self.plan.grid)
        if stride == 1 or not (self.staging / views.VIEWS).is_dir():
            return None
        return views.TileView(stride, [v.name for v in self.plan.spec.variables])

    def write_view(self, view: pa.Table) -> None:
        """Write the view of the tile."""
        with _new_file(self.staging, f"{views.VIEWS}/{self.tile.key}{views.SUFFIX}", []) as sink:
            views.write_view(sink, view)


class _Range:
    """Min, max, nulls and sum of a column, as its parts come."""

    def __init__(self) -> None:
        self.least, self.most, self.nulls, self.total = list[Any](), list[Any](), 0, 0.0

    def add(self, column: pa.ChunkedArray, summed: bool = False) -> None:
        """Count the next values. NumPy finds the ends in a tenth of Arrow's time.

        Args:
            summed: add them up, too, in float64: a sum of int64 may not fit in one.
        """
        self.nulls += column.null_count
        for chunk in column.chunks:
            values = np.from_dlpack(chunk.drop_null())  # `to_numpy` would load pandas
            if len(values):
                # + 0: a zero has no sign, because the order of zeros would decide it
                self.least.append(np.fmin.reduce(values).item() + 0)
                self.most.append(np.fmax.reduce(values).item() + 0)
                if summed:
                    with np.errstate(invalid="ignore"):  # of both infinities: no number
                        self.total += float(np.add.reduce(values, dtype=np.float64))

    def describe(self) -> dict[str, Any]:
        """As JSON values; an infinity is text, because JSON has none."""
        ends = {"min": min(self.least, default=None), "max": max(self.most, default=None)}
        texts = {k: str(v) if isinstance(v, float) and math.isinf(v) else v for k, v in ends.items()}
        return {**texts, "nulls": self.nulls}


class _Progress:
    """Records of progress while a tile is written, which add up to the tile; waiting for a part takes no time."""

    def __init__(self, tile: Tile) -> None:
        self.tile, self.cells, self.rows, self.written = tile, 0, 0, 0
        self.reported_cells, self.reported_rows, self.seconds, self.last = 0, 0, 0.0, 0.0

    def over(self, parts: Iterable[Part]) -> Iterator[pa.Table]:
        """The tables of the parts."""
        for part, table in parts:
            self.cells += part.cells
            self.rows += table.num_rows
            self.last = time.perf_counter()
            yield table
            del table
            self.seconds += time.perf_counter() - self.last
        self.last = time.perf_counter()

    def chunk(self, rows: int) -> None:
        """Count rows that were formatted."""
        self.written += rows
        if self.seconds + time.perf_counter() - self.last >= PROGRESS_INTERVAL:
            self._report(0, self.cells * self.written // max(self.rows, 1), self.written, 0)

    def end(self, size: int) -> None:
        """Report the end of the tile, of `size` bytes."""
        self._report(1, self.tile.cells, self.rows, size)

    def _report(self, tiles: int, cells: int, rows: int, size: int) -> None:
        now, cells = time.perf_counter(), max(cells, self.reported_cells)
        seconds = self.seconds + now - self.last
        emit(Progress("write", tiles, cells - self.reported_cells, seconds, rows - self.reported_rows, size))
        self.reported_cells, self.reported_rows, self.seconds, self.last = cells, rows, 0.0, now


@contextmanager
def _new_file(staging: Path, name: str, files: list[File]) -> Iterator[_Hashing]:
    """Open a file of a tile, hashed as it is written; once it is durable it is added to `files`."""
    path = staging / name
    # never the file of another process, of this run or of one that died
    partial = path.with_name(f"{path.name}.{unique_name()}{PARTIAL}")
    try:
        if path.parent != staging / name.partition("/")[0]:
            path.parent.mkdir(exist_ok=True)
            sync_folder(path.parent.parent)
        with replacing(path, partial) as raw:
            sink = _Hashing(raw)
            yield sink
    except OSError as error:
        raise write_error(error, path) from error
    files.append(File(name, sink.size, sink.digest.hexdigest()))


class _Hashing(io.RawIOBase):
    """A file whose SHA-256 is computed as it is written."""

    def __init__(self, raw: BinaryIO) -> None:
        self.raw, self.digest, self.size = raw, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self.raw.write(data)

    def tell(self) -> int:
        return self.size

    def writable(self) -> bool:
        return True


def join_csv(staging: Path, plan: Plan, receipts: Iterable[Receipt]) -> Iterator[Receipt]:
    """Join the CSV files of the tiles to one; yields the receipts that name their parts of it.

    Compressed files are copied as they are: members of gzip and frames of zstd may follow each other. The files of the
    tiles stay, so that it can be repeated after a crash.

    Args:
        receipts: of all tiles, in their order; the file of the first tile has the header.

    Raises:
        MachineError: the file cannot be written, or one of a tile is not what its receipt says.
    """
    name = f"csv/{ONE_CSV}{CSV_SUFFIX[plan.options.compress]}"
    with _new_file(staging, name, []) as sink:
        for receipt in receipts:
            files = []
            for file in receipt.files:
                if file.path.startswith(f"{CSV_PARTS}/"):
                    offset = sink.size
                    _copy(staging, file, sink)
                    file = replace(file, path=name, offset=offset)
                files.append(file)
            yield replace(receipt, files=tuple(files))


def _copy(staging: Path, file: File, sink: _Hashing) -> None:
    digest, left = hashlib.sha256(), file.bytes
    with open(staging / file.path, "rb") as source:
        while left and (data := source.read(min(left, 1 << 20))):
            digest.update(data)
            sink.write(data)
            left -= len(data)
    if digest.hexdigest() != file.sha256:
        raise MachineError(
            f"{staging / file.path} has changed since it was written: its sha256 is {digest.hexdigest()[:16]}..., "
            f"not {file.sha256[:16]}... of {file.bytes:,} bytes",
            "check the disk, then start the run again",
        )
