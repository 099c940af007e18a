"""Write the rows of a tile as Parquet and CSV to an open file."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geopipe.errors import RunError
from geopipe.grid.crs import Bounds, is_lonlat
from geopipe.grid.grid import BLOCK, Tile, union
from geopipe.layers.layer import Kind
from geopipe.merge import derived
from geopipe.plan.plan import Plan

ROW_GROUP = BLOCK * BLOCK
"""Rows of a row group: a stripe of the tile, whose least and greatest y let a reader skip others."""

GZIP_LEVEL = 5
"""A fifth of the time of level 9, Arrow's only one, for 2 % more bytes (measured on a table of floats)."""

SPLIT = "BYTE_STREAM_SPLIT"
"""Parquet's encoding of floats by which all first bytes come first, then all second bytes, and so on."""

SPLIT_LEVEL = -1
"""zstd's level for these: as small as level 1, or smaller, in two thirds of the time (measured on four tables)."""

CSV_SUFFIX = {"gzip": ".csv.gz", "zstd": ".csv.zst", "none": ".csv"}
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
"""Hive's value for nulls in the name of a folder."""

MAX_PARTITIONS = 1024
"""Most folders for the values of one tile: more values are no classes."""

Write = Callable[[pa.Table], None]
"""Writes the next rows of a file."""


Rows = Callable[[], Iterator[pa.Table]]
"""The rows of a file, about a row group at a time, each time that it is called."""


def folders(plan: Plan, tile: Tile, table: pa.Table) -> Iterator[tuple[str, Rows]]:
    """The folders of a tile's rows, named as hive does, and the rows of each; at least one.

    Raises:
        RunError: there are too many.
    """
    if not plan.options.layout.by_values:
        yield folder_of(plan, tile), lambda: iter([table])
        return
    name = str(plan.options.layout.partition_by)
    values = table[name].unique().drop_null()
    if len(values) > MAX_PARTITIONS:
        raise RunError(
            f"export.partition_by = {name!r}: tile {tile.key} has {len(values):,} values of it; each would be a "
            f"folder, and {MAX_PARTITIONS:,} are the most",
            "partition by a variable with fewer classes, or by 'tile'",
        )
    codes = np.empty(table.num_rows, np.uint16)
    for at in range(0, table.num_rows, ROW_GROUP):
        places = pc.index_in(table[name].slice(at, ROW_GROUP), value_set=values)
        codes[at : at + ROW_GROUP] = pc.fill_null(places, len(values)).to_numpy()
    counts = np.bincount(codes, minlength=len(values) + 1)
    for code, value in enumerate([*values.to_pylist(), HIVE_NULL]):
        if counts[code] or not table.num_rows:  # a tile without rows has a file, too: the schema is in it
            yield f"{name}={value}/", partial(_rows_of, table, codes, code)


def folder_of(plan: Plan, tile: Tile) -> str:
    """The folder of all rows of a tile."""
    return f"tile={tile.key}/" if plan.options.layout.partition_by == "tile" else ""


def _rows_of(table: pa.Table, codes: NDArray[np.uint16], code: int) -> Iterator[pa.Table]:
    """The rows of a table that have a code. codes: (rows,) uint16."""
    waiting = np.zeros(0, np.intp)
    for at in range(0, len(codes), ROW_GROUP):
        waiting = np.concatenate([waiting, at + np.flatnonzero(codes[at : at + ROW_GROUP] == code)])
        if len(waiting) >= ROW_GROUP:
            yield table.take(waiting)
            waiting = waiting[:0]
    if len(waiting):
        yield table.take(waiting)


@contextmanager
def parquet_writer(plan: Plan, sink: Any, extent: Bounds | None = None) -> Iterator[Write]:
    """Write rows as Parquet: each column in the encoding that suits it, then zstd.

    Row groups are full, so that the bytes do not depend on the tables in which rows come. The variable of the folders
    is left out, as hive does it. pyarrow and pandas refuse files that have it, too, with another type than they read
    from the folders. `geometry` is the last column.

    Args:
        extent: of all rows (see `extent_of`), if the file has `geometry`.
    """
    layout, schema = plan.options.layout, plan.spec.schema
    if layout.partition_by in schema.names:
        schema = schema.remove(schema.get_field_index(layout.partition_by))
    names = schema.names
    if layout.geometry:
        geo = derived.geo_text(plan.grid, extent)
        schema = schema.append(derived.GEOMETRY).with_metadata({**schema.metadata, "geo": geo})
    coded, others = _encodings(plan, names)
    waiting: pa.Table | None = None
    count = 0
    with pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        compression_level={name: SPLIT_LEVEL for name, encoding in others.items() if encoding == SPLIT},
        use_dictionary=coded,
        column_encoding=others,
        write_statistics=names,  # not of WKB, where they mean nothing
        write_page_index=True,
    ) as writer:

        def write_group(rows: pa.Table) -> None:
            nonlocal count
            rows = rows.combine_chunks()
            columns = rows.select(names).columns
            if layout.geometry:
                columns.append(derived.points(rows["x"].to_numpy(), rows["y"].to_numpy()))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=ROW_GROUP)
            count += 1

        def write(table: pa.Table) -> None:
            nonlocal waiting
            waiting = pa.concat_tables([waiting, table]) if waiting else table
            while waiting and waiting.num_rows >= ROW_GROUP:
                write_group(waiting.slice(0, ROW_GROUP))
                waiting = waiting.slice(ROW_GROUP) or None  # no rows would hold the memory of the table

        yield write
        if waiting or not count:
            write_group(waiting or plan.spec.schema.empty_table())


def extent_of(tables: Iterable[pa.Table]) -> Bounds | None:
    """Bounds of the cell centres of some rows; None without rows."""
    ends = [[pc.min_max(table[name]).as_py() for name in ("x", "y")] for table in tables if table.num_rows]
    return union([(x["min"], y["min"], x["max"], y["max"]) for x, y in ends]) if ends else None


def _encodings(plan: Plan, names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The columns to encode by a dictionary, and the encoding of others; the rest is plain.

    Classes and x repeat; col rises by steps, mostly of 1. Floats are split by byte. Rows and y are long runs, and cells
    of H3 seldom repeat: zstd alone makes them as small, in half the time. `encoding = "plain"` is for readers that know
    only the oldest encodings.
    """
    categorical = {p.layer.name for p in plan.layers if p.kind is Kind.CATEGORICAL}
    coded, others = ["x"], {"col": "DELTA_BINARY_PACKED"}
    if is_lonlat(plan.grid.crs):
        coded.append("lon")
    else:  # one value for each cell
        others |= {"lon": SPLIT, "lat": SPLIT}
    for v in plan.spec.variables:
        if v.layer in categorical and np.dtype(v.dtype).kind in "iu":
            coded.append(v.name)
        elif np.dtype(v.dtype).kind == "f":
            others[v.name] = SPLIT
    if plan.options.layout.encoding == "plain":
        coded, others = [*coded, "col"], {}
    return [n for n in coded if n in names], {n: e for n, e in others.items() if n in names}


class _Gzip:
    """One member of gzip without a time in it, compressed as it is written.

    zlib writes the header, with the same operating system in it for every version of Python; `gzip.GzipFile` does not.
    """

    def __init__(self, sink: Any) -> None:
        self.sink, self.closed = sink, False
        self.deflate = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)

    def write(self, data: bytes) -> int:
        self.sink.write(self.deflate.compress(data))
        return len(data)

    def flush(self) -> None:
        self.sink.flush()

    def close(self) -> None:
        if not self.closed:
            self.sink.write(self.deflate.flush())
            self.closed = True


@contextmanager
def csv_writer(
    schema: pa.Schema, sink: Any, codec: str, chunk_size: int, header: bool, report: Callable[[int], None]
) -> Iterator[Write]:
    """Write rows as CSV text; a null is an empty field.

    The header has names and all other cells are numbers, so that no cell is a formula for a spreadsheet.

    Args:
        codec: a key of CSV_SUFFIX.
        chunk_size: rows to format at a time.
        report: called with the number of rows of each chunk.
    """
    out = pa.PythonFile(_Gzip(sink) if codec == "gzip" else sink, "w")
    if codec == "zstd":
        out = pa.CompressedOutputStream(out, codec)
    with out, pacsv.CSVWriter(out, schema, write_options=pacsv.WriteOptions(include_header=header)) as writer:

        def write(table: pa.Table) -> None:
            for at in range(0, table.num_rows, chunk_size):
                chunk = table.slice(at, chunk_size)
                writer.write_table(chunk)
                report(chunk.num_rows)

        yield write
