"""Read coordinate tables from files and Postgres: their headers, and their rows in batches."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geopipe.errors import first_line
from geopipe.layers.access import NOTHING
from geopipe.layers.header import Stamp
from geopipe.layers.layer import Layer
from geopipe.layers.tables import ENDINGS, PART_ROWS, SERVER, Part, TableColumn, TableHeader, is_table
from geopipe.load import postgres
from geopipe.load.opening import listing, refuse_special
from geopipe.load.stamps import refuse_change

log = logging.getLogger(__name__)

BATCH_ROWS = 1 << 18
"""Rows of a Parquet file in memory at a time."""

CSV_BLOCK = 8 << 20
"""Bytes of text to parse at a time."""

BESIDE = (".json", ".jsonl", ".md", ".toml", ".txt", ".xml")
"""Endings of files beside tables in a folder that are no tables themselves."""

Batch = Mapping[str, NDArray[Any]]
"""Columns of equal length by name, as numbers; masked arrays if there are nulls."""


# ---------------------------------------------------------------- headers


def expand(path: str) -> list[str]:
    """The tables of a path, sorted: itself, the files of a folder, or the matches of a glob pattern.

    Empty if the path has no tables. A folder with other files than tables and their companions is one of rasters.
    """
    if path.startswith(SERVER):
        return [path]
    files = [file for file in listing(path) if not os.path.basename(file).startswith("_")]
    return list(filter(is_table, files)) if all(f.lower().endswith((*ENDINGS, *BESIDE)) for f in files) else []


def headers(layer: Layer) -> list[TableHeader]:
    """Read the headers of a layer's tables. Empty if its paths are no tables.

    Raises:
        SourceError: some of its paths are tables and others are not, or a table cannot be read.
    """
    tables = [expand(path) for path in layer.paths]
    if not any(tables):
        return []
    if not all(tables):
        hint = f"tables are Postgres, or files with one of the endings {', '.join(ENDINGS)}; make two layers of them"
        raise layer.error(f"{layer.paths[tables.index([])]} is no table, and others of its paths are", hint)
    postgres.check_keys(layer)
    return [header(file, layer) for files in tables for file in files]


def header(path: str, layer: Layer | None = None) -> TableHeader:
    """Read the header of a table. A CSV has none: it is read once, for its types and its number of rows.

    Args:
        path: of a file, or postgresql:...
        layer: with the table or query to read in Postgres.

    Raises:
        SourceError: it cannot be read, or is no table.
    """
    access = layer.access if layer else NOTHING
    if path.startswith(SERVER):
        return postgres.header(path, layer)
    refuse_special(path, access)
    try:
        stat = os.stat(path)
        stamp = Stamp(stat.st_size, stat.st_mtime_ns)
        if path.lower().endswith((".csv", ".csv.gz")):
            columns, rows = _csv_types(path, stamp)
            return TableHeader(path, "CSV", columns, rows, (Part(0, 1, rows),), stamp=stamp)
        with pq.ParquetFile(path) as file:
            columns = _columns(file.schema_arrow)
            meta, crs = file.metadata, _geo_crs(file.schema_arrow.metadata or {})
            groups = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        return TableHeader(path, "Parquet", columns, sum(groups), tuple(_parts(groups)), crs, stamp)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # such as a column's name
        hint = "correct path =, or repair the file"
        raise access.error(f"{path} cannot be read as a table: {first_line(error)}", hint) from None


def _parts(groups: Sequence[int]) -> Iterator[Part]:
    """Group consecutive row groups into parts of about PART_ROWS rows. There is at least one part."""
    start = rows = 0
    for index, count in enumerate(groups):
        if rows and rows + count > PART_ROWS:
            yield Part(start, index, rows)
            start, rows = index, 0
        rows += count
    yield Part(start, len(groups), rows)


def _columns(schema: pa.Schema) -> tuple[TableColumn, ...]:
    return tuple(TableColumn(column.name, _dtype(column.type), str(column.type)) for column in schema)


def _dtype(kind: pa.DataType) -> str:
    """The type in which numbers of an Arrow type are read, "" if it has no numbers."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_boolean(kind):
        return "uint8"
    if pa.types.is_decimal(kind) or pa.types.is_null(kind):
        return "float64"
    if pa.types.is_float16(kind):
        return "float32"
    return str(kind.to_pandas_dtype().__name__) if pa.types.is_integer(kind) or pa.types.is_floating(kind) else ""


def _geo_crs(metadata: Mapping[bytes, bytes]) -> str | None:
    """The CRS of a GeoParquet file's primary column; CRS84 by default, as in its specification."""
    try:
        geo = json.loads(metadata.get(b"geo", b"null"))
        crs = geo["columns"][geo["primary_column"]].get("crs", "OGC:CRS84")
    except (AttributeError, ValueError, TypeError, KeyError):
        return None
    if not isinstance(crs, dict):
        return crs if isinstance(crs, str) else None
    identity = crs.get("id", {})
    known = "authority" in identity and "code" in identity
    return f"{identity['authority']}:{identity['code']}" if known else json.dumps(crs)


WIDER = {"null": pa.int64(), "int64": pa.float64()}
"""The next type of a CSV column if a row does not fit; text at last."""


@lru_cache(maxsize=1024)
def _csv_types(path: str, stamp: Stamp) -> tuple[tuple[TableColumn, ...], int]:
    """Columns and number of rows of a CSV. A column has integers, floats, or no numbers.

    Arrow guesses types from the first block. If a later row does not fit, the column gets the next wider type.
    """
    types: dict[str, pa.DataType] = {}
    while True:
        with _open_csv(path, types, None) as reader:
            try:
                return _columns(reader.schema), sum(batch.num_rows for batch in reader)
            except pa.ArrowInvalid as error:
                match = re.search(r"In CSV column #(\d+)", str(error))
                column = reader.schema.field(int(match[1])) if match else None
                if column is None or pa.types.is_string(column.type):
                    raise
                types[column.name] = WIDER.get(str(column.type), pa.string())


def _open_csv(path: str, types: Mapping[str, pa.DataType], columns: Sequence[str] | None) -> csv.CSVStreamingReader:
    return csv.open_csv(
        path,
        read_options=csv.ReadOptions(block_size=CSV_BLOCK),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(column_types=dict(types), include_columns=columns or None),
    )


# ---------------------------------------------------------------- rows


def read_batches(layer: Layer, header: TableHeader, part: Part, dtypes: Mapping[str, str]) -> Iterator[Batch]:
    """Read the rows of a part of a table in their order, in batches of about 100,000, with the columns of `dtypes`.

    Nulls and NaN are masked.

    Raises:
        SourceError: the table cannot be read, or was changed after it was planned.
    """
    try:
        for batch in _batches(layer, header, part, dtypes):
            yield {name: _numbers(batch.column(name), dtype) for name, dtype in dtypes.items()}
    except (OSError, pa.ArrowException) as error:
        hint = f'repair the file, or leave it out with on_error = "skip" in the layer {layer.name}'
        raise layer.error(f"{header.uri} cannot be read: {first_line(error)}", hint) from None


def _batches(layer: Layer, header: TableHeader, part: Part, dtypes: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    if header.driver == "PostgreSQL":
        yield from postgres.batches(layer, header, part, list(dtypes))
        return
    refuse_change(header, layer.access)
    if header.driver == "CSV":
        types = {name: pa.from_numpy_dtype(np.dtype(dtype)) for name, dtype in dtypes.items()}
        # CSV does not parse true and false as numbers
        types |= {c.name: pa.bool_() for c in header.columns if c.name in types and c.type_name == "bool"}
        with _open_csv(header.uri, types, list(types)) as reader:
            yield from reader
        return
    with pq.ParquetFile(header.uri, pre_buffer=False) as file:
        groups = list(range(part.start, part.stop))
        yield from file.iter_batches(BATCH_ROWS, row_groups=groups, columns=list(dtypes))


def _numbers(column: pa.Array, dtype: str) -> NDArray[Any]:
    """A column as numbers, masked where it is null or NaN."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = pa.from_numpy_dtype(np.dtype(dtype))
    column = column.cast(kind, safe=not pa.types.is_decimal(column.type)) if column.type != kind else column
    null = column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    values = (column.fill_null(0) if column.null_count else column).to_numpy(zero_copy_only=False)
    return np.ma.MaskedArray(values, null) if null.any() else values
