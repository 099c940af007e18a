"""Coordinate tables on disk and in Postgres: headers, rows in batches, and sparse block rows from them."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from glob import glob
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geopipe.errors import SourceError, first_line
from geopipe.events.emit import emit
from geopipe.events.records import Progress
from geopipe.grid.grid import Grid
from geopipe.layers.layer import Layer
from geopipe.layers.tables import (
    ENDINGS,
    ORDER_BITS,
    PART_ROWS,
    SERVER,
    Columns,
    Offset,
    Part,
    Partition,
    TableColumn,
    TableHeader,
    TablePlan,
    choose_columns,
    is_table,
    told_crs,
)
from geopipe.load import postgres
from geopipe.load.missing import find_missing
from geopipe.load.opening import refuse_special
from geopipe.load.stamps import refuse_change
from geopipe.merge.points import SparseRow
from geopipe.plan.layers import LayerPlan
from geopipe.plan.plan import Plan
from geopipe.resample.points import offsets, place

log = logging.getLogger(__name__)

BATCH_ROWS = 1 << 18
"""Rows of a Parquet file that are held at a time."""

CSV_BLOCK = 8 << 20
"""Bytes of text that are parsed at a time."""

MOST_STEPS = 1 << 20
"""Different x (or y) that a table of cells may have where their size is looked for."""

BESIDE = (".json", ".jsonl", ".md", ".toml", ".txt", ".xml")
"""Endings of files that lie beside tables in a folder and are none."""

Batch = Mapping[str, NDArray[Any]]
"""Columns of one length, each as numbers; masked, where a null is none."""


# ---------------------------------------------------------------- headers


def expand(path: str) -> list[str]:
    """The tables that a path means: itself, the files of a folder, or what a glob pattern matches, sorted.

    None, where that is no table; a folder with other files than tables and what lies beside them is one of rasters.
    """
    if path.startswith(SERVER):
        return [path]
    if os.path.isdir(path):
        files = [str(p) for p in Path(path).iterdir() if p.is_file() and p.name[0] not in "_."]
        found = sorted(filter(is_table, files))
        return found if all(f.lower().endswith((*ENDINGS, *BESIDE)) for f in files) else []
    if any(c in path for c in "*?[") and not os.path.exists(path):
        files = sorted(glob(path, recursive=True))
        return files if files and all(map(is_table, files)) else []
    return [path] if is_table(path) else []


def headers(layer: Layer) -> list[TableHeader]:
    """The headers of a layer's tables; none where its paths do not name tables.

    Raises:
        SourceError: some of its paths are tables and others are not, or a table cannot be read.
    """
    found = [expand(path) for path in layer.paths]
    if not any(found):
        return []
    if not all(found):
        raise SourceError(
            f"layer {layer.name}: {layer.paths[found.index([])]} is no table, and others of its paths are",
            f"tables are Postgres, or files with one of the endings {', '.join(ENDINGS)}; make two layers of them",
            layer.name,
        )
    postgres.check_keys(layer)
    return [header(file, layer) for files in found for file in files]


def header(path: str, layer: Layer | None = None) -> TableHeader:
    """What a table says of itself. A CSV says nothing: it is read once, for its types and the number of its rows.

    Args:
        path: of a file, or postgresql:...
        layer: for Postgres, what to read there.

    Raises:
        SourceError: it cannot be read, or is no table.
    """
    where = f"layer {layer.name}: " if layer else ""
    name = layer.name if layer else None
    if path.startswith(SERVER):
        return postgres.header(path, layer)
    refuse_special(path, where, name)
    try:
        stat = os.stat(path)
        if path.lower().endswith((".csv", ".csv.gz")):
            columns, rows = _csv_types(path, stat.st_size, stat.st_mtime_ns)
            parts: tuple[Part, ...] = (Part(0, 1, rows),)
            return TableHeader(path, "CSV", columns, rows, parts, None, stat.st_size, stat.st_mtime_ns)
        with pq.ParquetFile(path) as file:
            columns = tuple(_parquet_column(f) for f in file.schema_arrow)
            meta, crs = file.metadata, _geo_crs(file.schema_arrow.metadata or {})
            groups = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        return TableHeader(
            path, "Parquet", columns, sum(groups), tuple(_parts(groups)), crs, stat.st_size, stat.st_mtime_ns
        )
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # of a column's name, say
        raise SourceError(
            f"{where}{path} cannot be read as a table: {first_line(error)}", "correct path =, or repair the file", name
        ) from None


def _parts(groups: Sequence[int]) -> Iterator[Part]:
    """Consecutive row groups in parts of about PART_ROWS rows; one at least, so that each table is read."""
    start = rows = 0
    for index, count in enumerate(groups):
        if rows and rows + count > PART_ROWS:
            yield Part(start, index, rows)
            start, rows = index, 0
        rows += count
    yield Part(start, len(groups), rows)


def _parquet_column(column: pa.Field) -> TableColumn:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return TableColumn(column.name, _dtype(kind), str(column.type))


def _dtype(kind: pa.DataType) -> str:
    """The type in which numbers of an Arrow type are read, "" where it has none."""
    if pa.types.is_boolean(kind):
        return "uint8"
    if pa.types.is_decimal(kind) or pa.types.is_null(kind):
        return "float64"
    if pa.types.is_float16(kind):
        return "float32"
    return str(kind.to_pandas_dtype().__name__) if pa.types.is_integer(kind) or pa.types.is_floating(kind) else ""


def _geo_crs(metadata: Mapping[bytes, bytes]) -> str | None:
    """The CRS that the metadata of a GeoParquet file give to its primary column; without a word it is CRS84."""
    try:
        geo = json.loads(metadata.get(b"geo", b"null"))
        column = geo["columns"][geo["primary_column"]]
    except (ValueError, TypeError, KeyError):
        return None
    crs = column.get("crs", "OGC:CRS84")
    if not isinstance(crs, dict):
        return crs if isinstance(crs, str) else None
    identity = crs.get("id", {})
    known = "authority" in identity and "code" in identity
    return f"{identity['authority']}:{identity['code']}" if known else json.dumps(crs)


WIDER = {"null": pa.int64(), "int64": pa.float64()}
"""What a column of CSV is taken for next, where a later row does not fit; text at last."""


@lru_cache(maxsize=1024)
def _csv_types(path: str, size: int, mtime_ns: int) -> tuple[tuple[TableColumn, ...], int]:
    """Columns and rows of a CSV: whole numbers where all are, else floating point, else no numbers.

    Arrow guesses types from the first block; where a later row does not fit, the column is taken for more.
    """
    told: dict[str, pa.DataType] = {}
    while True:
        with _open_csv(path, told, None) as reader:
            schema, rows = reader.schema, 0
            try:
                for batch in reader:
                    rows += batch.num_rows
            except pa.ArrowInvalid as error:
                found = re.search(r"In CSV column #(\d+)", str(error))
                if found is None:
                    raise
                column = schema.field(int(found[1]))
                if pa.types.is_string(column.type):
                    raise
                told[column.name] = WIDER.get(str(column.type), pa.string())
                continue
        return tuple(TableColumn(f.name, _dtype(f.type), str(f.type)) for f in schema), rows


def _open_csv(path: str, types: Mapping[str, pa.DataType], columns: Sequence[str] | None) -> csv.CSVStreamingReader:
    return csv.open_csv(
        path,
        read_options=csv.ReadOptions(block_size=CSV_BLOCK),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(column_types=dict(types), include_columns=columns or None),
    )


# ---------------------------------------------------------------- rows


def _rows(layer: str, header: TableHeader, part: Part, columns: Columns, dtypes: Mapping[str, str]) -> Iterator[Batch]:
    """The rows of a part of a table in their order, in batches of some 100,000, with the columns named in `dtypes`.

    Nulls come as masked, and NaN as well.

    Raises:
        SourceError: the table cannot be read, or is not what it was when it was planned.
    """
    if header.driver == "PostgreSQL":
        yield from postgres.rows(layer, header, part, columns, dtypes)
        return
    try:
        refuse_change(header, layer)
        for batch in _file_batches(header, part, columns, dtypes):
            yield {name: _numbers(batch.column(name), dtype) for name, dtype in dtypes.items()}
    except (OSError, pa.ArrowException) as error:
        raise SourceError(
            f"layer {layer}: {header.uri} cannot be read: {first_line(error)}",
            f'repair the file, or leave it out with on_error = "skip" in the layer {layer}',
            layer,
        ) from None


def _file_batches(
    header: TableHeader, part: Part, columns: Columns, dtypes: Mapping[str, str]
) -> Iterator[pa.RecordBatch]:
    if header.driver == "CSV":
        types = {name: pa.from_numpy_dtype(np.dtype(dtype)) for name, dtype in dtypes.items()}
        with _open_csv(header.uri, types | _bools(header, types), columns.names) as reader:
            yield from reader
        return
    with pq.ParquetFile(header.uri, pre_buffer=False) as file:
        groups = list(range(part.start, part.stop))
        yield from file.iter_batches(BATCH_ROWS, row_groups=groups, columns=list(columns.names))


def _bools(header: TableHeader, types: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """Columns of true and false, which do not parse as the numbers that they become."""
    return {c.name: pa.bool_() for c in header.columns if c.name in types and c.told == "bool"}


def _numbers(column: pa.Array, dtype: str) -> NDArray[Any]:
    """A column as numbers, masked where it is null or NaN."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = pa.from_numpy_dtype(np.dtype(dtype))
    column = column.cast(kind, safe=not pa.types.is_decimal(column.type)) if column.type != kind else column
    null = column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    values = (column.fill_null(0) if column.null_count else column).to_numpy(zero_copy_only=False)
    return np.ma.MaskedArray(values, null) if null.any() else values


def _missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    return np.ma.getmaskarray(values)


def _placeless(coordinates: NDArray[Any]) -> NDArray[np.bool_]:
    """Where coordinates are missing or infinite."""
    return np.asarray(_missing(coordinates) | ~np.isfinite(np.asarray(coordinates)))


# ---------------------------------------------------------------- offsets


def measured(layer: Layer, found: Sequence[TableHeader], grid: Grid) -> list[TableHeader]:
    """The headers of a layer; where its rows are cells, with how far these are off the grid's: reads x and y once.

    Raises:
        SourceError: a table cannot be read, or has rows without finite x and y.
    """
    if layer.cells not in ("centres", "corners"):
        return list(found)
    crs = told_crs(layer, found)
    return [replace(header, offset=_offset(layer, header, grid, crs)) for header in found]


@lru_cache(maxsize=256)
def _offset(layer: Layer, header: TableHeader, grid: Grid, crs: str) -> Offset:
    columns = choose_columns(layer, header)
    place_only = Columns(columns.x, columns.y, ())
    worst, start = Offset(0.0, 0, 0.0, 0.0), 0
    steps = layer.cells == "corners" and layer.on_misaligned == "aggregate"
    seen = [np.zeros(0), np.zeros(0)]
    for part in header.parts:
        for batch in _rows(layer.name, header, part, place_only, dict.fromkeys(place_only.names, "float64")):
            x, y = batch[columns.x], batch[columns.y]
            gone = _placeless(x) | _placeless(y)
            if gone.any():
                _refuse_missing(layer.name, header.uri, int(gone.sum()), start + int(np.argmax(gone)), start + len(x))
            off = offsets(grid, crs, str(layer.cells), np.asarray(x), np.asarray(y))
            at = int(np.argmax(off)) if len(off) else 0
            if len(off) and off[at] > worst.cells:
                worst = Offset(float(off[at]), start + at, float(x[at]), float(y[at]))
            start += len(x)
            if steps:
                seen = [np.unique(np.concatenate([old, new])) for old, new in zip(seen, (x, y), strict=True)]
                if max(map(len, seen)) > MOST_STEPS:
                    raise SourceError(
                        f"layer {layer.name}: {header.uri} has more than {MOST_STEPS:,} different x or y",
                        "leave cells out, and its rows are points; a table of cells has few of them",
                        layer.name,
                    )
    return replace(worst, step=(_step(seen[0]), _step(seen[1])))


def _step(values: NDArray[Any]) -> float:
    """The distance of which all distances of neighbours are multiples, 0 where there is none."""
    gaps = np.diff(values)
    step = float(gaps.min()) if len(gaps) else 0.0
    return step if step and np.abs(gaps / step - np.rint(gaps / step)).max() < 0.05 else 0.0


# ---------------------------------------------------------------- sparse block rows


@dataclass
class _Tally:
    """What is wrong with the rows of a partition, and how many lie outside the grid."""

    rows: int = 0
    outside: int = 0
    missing: int = 0
    negative: int = 0
    first: dict[str, int] = field(default_factory=dict)

    def count(self, what: str, mask: NDArray[np.bool_]) -> None:
        found = int(np.count_nonzero(mask))
        if found:
            self.first.setdefault(what, self.rows + int(np.argmax(mask)))
            setattr(self, what, getattr(self, what) + found)


def read(plan: Plan, layer: LayerPlan, partition: Partition, tiles: Sequence[int] | None = None) -> Iterator[SparseRow]:
    """The sparse block rows of a partition of a table layer, in the given tiles (all, where None).

    It holds one batch of rows at a time. Points outside the grid are dropped, and counted in the log.

    Args:
        plan: of the run.
        layer: one with a table.
        partition: one of `layer.table.partitions`.
        tiles: keys of tiles, in any order.

    Raises:
        SourceError: the table cannot be read, has rows without finite x or y, or with weights below 0.
    """
    table = layer.table
    assert table is not None
    start, tally = time.perf_counter(), _Tally()
    header, name = table.headers[partition.file], layer.layer.name
    for batch in _rows(name, header, partition.part, table.columns, _read_types(table)):
        yield from _sparse(plan, layer, table, batch, (partition.index << ORDER_BITS) + tally.rows, tiles, tally)
        tally.rows += len(batch[table.columns.x])
    if tally.missing:
        _refuse_missing(name, header.uri, tally.missing, tally.first["missing"], tally.rows)
    if tally.negative:
        raise SourceError(
            f"layer {name}: {tally.negative:,} of {tally.rows:,} rows of {header.uri} have a weight below 0 in "
            f"{table.columns.weight}; the first is row {tally.first['negative']:,} of the part {partition.part}",
            "correct the weights: none may be below 0",
            name,
        )
    if tally.outside:
        log.info("layer %s: %d of %d rows of %s lie outside the grid", name, tally.outside, tally.rows, header.uri)
    emit(Progress("read", 1, tally.rows, time.perf_counter() - start))


def _refuse_missing(layer: str, uri: str, count: int, first: int, rows: int) -> NoReturn:
    raise SourceError(
        f"layer {layer}: {count:,} of {rows:,} rows of {uri} have no finite x or y; the first is row {first:,} "
        "(from 0) of the part that was read",
        "take these rows out: nothing says which cell they belong to",
        layer,
    )


def _read_types(table: TablePlan) -> dict[str, str]:
    """The type in which each column is read."""
    columns = table.columns
    types = {name: dtype for name, dtype in zip(columns.values, table.dtypes, strict=True) if name}
    return {name: "float64" for name in (columns.x, columns.y, columns.weight) if name} | types


def _sparse(
    plan: Plan, layer: LayerPlan, table: TablePlan, batch: Batch, first: int, tiles: Sequence[int] | None, tally: _Tally
) -> Iterator[SparseRow]:
    """The sparse block rows of a batch, whose first row has the place `first` in the source."""
    columns = table.columns
    missing = _placeless(batch[columns.x]) | _placeless(batch[columns.y])
    tally.count("missing", missing)
    x, y = (np.asarray(batch[name], np.float64) for name in (columns.x, columns.y))
    row, col, keep = place(plan.grid, table, x, y)
    tally.count("outside", ~keep & ~missing)
    keep &= ~missing
    weights = None
    if columns.weight is not None:
        told = batch[columns.weight]
        weights = np.asarray(told, np.float64)
        tally.count("negative", (weights < 0) & ~_missing(told))
        keep &= ~_missing(told)
    size = plan.options.window_size
    key = row // size * plan.grid.tiling(size)[1] + col // size
    if tiles is not None:
        keep &= np.isin(key, np.asarray(tiles))
    chosen = np.flatnonzero(keep)
    chosen = chosen[np.argsort(key[chosen], kind="stable")]
    starts = np.flatnonzero(np.diff(key[chosen], prepend=-1))
    variable = plan.first_variable[layer.layer.name]
    leads = {v.index: variable + n for n, v in reversed(list(enumerate(layer.variables)))}
    for group in np.split(chosen, starts[1:]) if len(chosen) else []:
        tile = plan.spec.tile(int(key[group[0]]))
        cells = (row[group] - tile.row) * tile.width + (col[group] - tile.col)
        for index, name in enumerate(columns.values):
            values, valid = _valued(batch, name, layer.layer.nodata, group)
            if valid.any():
                yield SparseRow(
                    tile.key,
                    leads[index],
                    cells[valid],
                    first + group[valid],
                    values[valid],
                    None if weights is None else weights[group][valid],
                )


def _valued(
    batch: Batch, name: str, nodata: float | int | None, group: NDArray[np.intp]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The values of some rows, and where they are any; without a name every row counts."""
    if not name:
        return np.ones(len(group), np.uint8), np.ones(len(group), bool)
    values = batch[name][group]
    plain = np.asarray(values)
    missing = find_missing(plain, nodata)
    return plain, ~_missing(values) if missing is None else ~(_missing(values) | missing)
