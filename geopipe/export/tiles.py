"""Write a tile as files, each atomically, under a name that comes from the tile alone."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from geopipe.durable import replacing, sync_folder, write_error
from geopipe.errors import MachineError
from geopipe.events.emit import emit
from geopipe.events.records import Progress
from geopipe.export.writers import CSV_SUFFIX, partitions, write_csv, write_parquet
from geopipe.grid.grid import Grid, Tile
from geopipe.plan.plan import Plan

FORMATS = ("parquet", "csv")

ONE_CSV = "table"
"""The name of the CSV file that holds all tiles, without its suffix."""

CSV_PARTS = "csv_parts"
"""Folder of the CSV files of tiles until they are joined; it is not published."""

PARTIAL = ".tmp"
"""End of the name of a file that is not complete yet."""

STARTED = time.time_ns()
"""Time of this process's start, in ns since 1970."""

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
    table: pa.Table,
    note: Callable[[Receipt], None] = lambda receipt: None,
) -> Receipt:
    """Write one tile in every format, durably, under its final name in the staging folder.

    Memory beside the table is a row group or a chunk.

    Args:
        chunk_size: rows to format as CSV at a time.
        note: keeps the receipt. It is called before the tile counts as done.

    Raises:
        MachineError: a file cannot be written.
        RunError: there are too many values to make a folder for each.
    """
    name, progress = tile_name(plan.grid, plan.options.window_size, tile), _Progress(tile, table.num_rows)
    files: list[File] = []
    for form in plan.options.formats:
        if form == "parquet":
            for folder, rows in partitions(plan, tile, table):
                with _new_file(Path(staging), f"parquet/{folder}{name}.parquet", files) as sink:
                    write_parquet(plan, table, sink, rows)
        else:
            one, codec = plan.options.layout.csv_files == "one", plan.options.compress
            headed = not one or tile.key == int(plan.keys[0])
            with _new_file(Path(staging), f"{CSV_PARTS if one else 'csv'}/{name}{CSV_SUFFIX[codec]}", files) as sink:
                write_csv(table, sink, codec, chunk_size, headed, progress.chunk)
    bounds = {v.name: _bounds(table[v.name]) for v in plan.spec.variables}
    receipt = Receipt(tile.key, table.num_rows, tuple(files), bounds)
    note(receipt)
    progress.end(sum(f.bytes for f in files))
    return receipt


class _Progress:
    """Records of progress while a tile is written, which add up to the tile."""

    def __init__(self, tile: Tile, rows: int) -> None:
        self.tile, self.rows, self.written, self.reported = tile, rows, 0, 0
        self.last = time.perf_counter()

    def chunk(self, rows: int) -> None:
        """Count rows that were formatted."""
        self.written += rows
        if time.perf_counter() - self.last >= PROGRESS_INTERVAL:
            self._report(0, 0)

    def end(self, size: int) -> None:
        """Report the end of the tile, of `size` bytes."""
        self.written = self.rows
        self._report(1, size)

    def _report(self, tiles: int, size: int) -> None:
        now, new = time.perf_counter(), self.written - self.reported
        done, before = (rows * self.tile.cells // max(self.rows, 1) for rows in (self.written, self.reported))
        cells = self.tile.cells - before if tiles else done - before
        emit(Progress("write", tiles, cells, now - self.last, new, size))
        self.last, self.reported = now, self.written


@contextmanager
def _new_file(staging: Path, name: str, files: list[File]) -> Iterator[_Hashing]:
    """Open a file of a tile, hashed as it is written; once it is durable it is added to `files`."""
    path = staging / name
    # containers repeat pids: a file is never another process's, of this run or of one that died
    partial = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}-{STARTED}{PARTIAL}")
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


def _bounds(column: pa.ChunkedArray) -> dict[str, Any]:
    """Min, max and nulls of a column as JSON values; an infinity is text, because JSON has none.

    NumPy finds them in a tenth of Arrow's time. A zero has no sign: its order would decide.
    """
    values = [chunk.drop_null().to_numpy() for chunk in column.chunks]
    least, most = ([end.reduce(v).item() + 0 for v in values if len(v)] for end in (np.fmin, np.fmax))
    ends = {"min": min(least, default=None), "max": max(most, default=None)}
    ends = {k: str(v) if isinstance(v, float) and math.isinf(v) else v for k, v in ends.items()}
    return {**ends, "nulls": column.null_count}
