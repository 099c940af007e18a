"""Write the rows of a tile as Parquet and CSV to an open file."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geopipe.errors import RunError
from geopipe.grid.crs import is_lonlat
from geopipe.grid.grid import BLOCK, Tile
from geopipe.layers.layer import Kind
from geopipe.merge import derived
from geopipe.plan.plan import Plan

ROW_GROUP = BLOCK * BLOCK
"""Rows of a row group: a stripe of the tile, whose least and greatest y let a reader skip others."""

GZIP_LEVEL = 5
"""A fifth of the time of level 9, Arrow's only one, for 2 % more bytes (measured on a table of floats)."""

SPLIT = "BYTE_STREAM_SPLIT"
"""Parquet's encoding of floats by which all first bytes come first, then all second bytes, and so on."""

CSV_SUFFIX = {"gzip": ".csv.gz", "zstd": ".csv.zst", "none": ".csv"}
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
"""Hive's value for nulls in the name of a folder."""

MAX_PARTITIONS = 1024
"""Most folders for the values of one tile: more values are no classes."""

Rows = tuple[NDArray[np.uint16], int] | None
"""Some rows of a table: the code of each row, (rows,) uint16, and the code to take; None for all rows."""


def partitions(plan: Plan, tile: Tile, table: pa.Table) -> Iterator[tuple[str, Rows]]:
    """The folders of a tile's rows, named as hive does, and the rows of each; at least one.

    Raises:
        RunError: there are too many.
    """
    name = plan.options.layout.partition_by
    if name is None:
        yield "", None
    elif name == "tile":
        yield f"tile={tile.key}/", None
    else:
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
                yield f"{name}={value}/", (codes, code)


def _pieces(table: pa.Table, rows: Rows) -> Iterator[pa.Table]:
    """Some rows of a table, a row group at a time; at least one piece, even without rows."""
    if rows is None:
        for at in range(0, max(table.num_rows, 1), ROW_GROUP):
            yield table.slice(at, ROW_GROUP)
        return
    codes, code = rows
    waiting, is_empty = np.zeros(0, np.intp), True
    for at in range(0, len(codes), ROW_GROUP):
        waiting = np.concatenate([waiting, at + np.flatnonzero(codes[at : at + ROW_GROUP] == code)])
        if len(waiting) >= ROW_GROUP:
            yield table.take(waiting[:ROW_GROUP])
            waiting, is_empty = waiting[ROW_GROUP:], False
    if len(waiting) or is_empty:
        yield table.take(waiting)


def write_parquet(plan: Plan, table: pa.Table, sink: Any, rows: Rows = None) -> None:
    """Write rows as Parquet: each column in the encoding that suits it, then zstd.

    The variable of the folders is left out, as hive does it. pyarrow and pandas refuse files that have it, too, with
    another type than they read from the folders. `geometry` is the last column.
    """
    layout, schema = plan.options.layout, table.schema
    if layout.partition_by in schema.names:
        schema = schema.remove(schema.get_field_index(layout.partition_by))
    names = schema.names
    if layout.geometry:
        text = derived.geo_text(plan.grid, _extent(table, rows))
        schema = schema.append(derived.GEOMETRY).with_metadata({**schema.metadata, "geo": text})
    coded, others = _encodings(plan, names)
    with pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        use_dictionary=coded,
        column_encoding=others,
        write_statistics=names,  # not of WKB, where they mean nothing
        write_page_index=True,
    ) as writer:
        for piece in _pieces(table, rows):
            columns = piece.select(names).columns
            if layout.geometry:
                columns.append(derived.points(piece["x"].to_numpy(), piece["y"].to_numpy()))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=ROW_GROUP)


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


def _extent(table: pa.Table, rows: Rows) -> tuple[float, float, float, float] | None:
    """Bounds of the cell centres of some rows; None without rows."""
    pieces = (piece for piece in _pieces(table.select(["x", "y"]), rows) if piece.num_rows)
    ends = [[pc.min_max(piece[n]).as_py() for n in ("x", "y")] for piece in pieces]
    if not ends:
        return None
    low = [min(end[i]["min"] for end in ends) for i in range(2)]
    high = [max(end[i]["max"] for end in ends) for i in range(2)]
    return low[0], low[1], high[0], high[1]


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


def write_csv(
    table: pa.Table, sink: Any, codec: str, chunk_size: int, header: bool, report: Callable[[int], None]
) -> None:
    """Write rows as CSV text; a null is an empty field.

    The header has names and all other cells are numbers, so that no cell is a formula for a spreadsheet.

    Args:
        codec: a key of CSV_SUFFIX.
        report: called with the number of rows of each chunk.
    """
    out = pa.PythonFile(_Gzip(sink) if codec == "gzip" else sink, "w")
    if codec == "zstd":
        out = pa.CompressedOutputStream(out, codec)
    with out, pacsv.CSVWriter(out, table.schema, write_options=pacsv.WriteOptions(include_header=header)) as writer:
        for at in range(0, table.num_rows, chunk_size):
            chunk = table.slice(at, chunk_size)
            writer.write_table(chunk)
            report(chunk.num_rows)
