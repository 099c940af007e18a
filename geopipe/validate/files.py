"""The files of a finished table: their bytes, their schema, and their rows in the types of the table."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from geopipe.errors import first_line
from geopipe.export.state import MANIFEST, SUCCESS
from geopipe.export.tiles import File, Receipt
from geopipe.export.writers import CSV_SUFFIX, HIVE_NULL, ROW_GROUP
from geopipe.merge import derived
from geopipe.text import listed
from geopipe.validate.facts import Facts, Finding, fault
from geopipe.validate.rows import check_rows

BATCH_BYTES = 16 * 2**20
"""Bytes of CSV text to parse at a time."""

Rows = tuple[pa.Schema, Iterator[pa.RecordBatch]]
"""Schema and rows of a file."""

UNREADABLE = (OSError, MemoryError, UnicodeDecodeError, json.JSONDecodeError, pa.ArrowException)
"""Errors of pyarrow for damaged files. A damaged length may ask for more memory than the machine has."""


@dataclass
class TableFiles:
    """The files of one table, and what is known of them so far.

    `success` is its `_SUCCESS`, `rows` the rows read by format, `first` the schema of the first Parquet file.
    """

    output: Path
    facts: Facts
    success: Mapping[str, Any]
    rows: dict[str, int] = field(default_factory=dict)
    first: pa.Schema | None = None


def check_tile(tables: TableFiles, receipt: Receipt, form: str, files: Sequence[File]) -> list[Finding]:
    """Check the files of a tile in one format: bytes, then schema, then rows."""
    shared = form == "csv" and tables.facts.layout.csv_files == "one"
    findings = [finding for file in files for finding in _check_bytes(tables.output / file.path, file, shared)]
    at = files[0].path
    name = at if len(files) == 1 else f"{form} of tile {receipt.tile} ({len(files):,} files)"

    def parts() -> Iterator[tuple[str, Iterator[pa.RecordBatch]]]:
        nonlocal at
        for file in files:
            at = file.path
            if form == "parquet":
                schema, batches = _parquet(tables, receipt, file, findings)
            else:
                schema, batches = _csv(tables, receipt, file)
            findings.extend(_check_schema(tables, file.path, schema))
            if len(set(schema.names)) < len(schema):
                raise pa.ArrowInvalid("it has a column twice")
            yield file.path, batches

    try:
        row_findings, rows = check_rows(tables.facts, receipt, name, parts())
    except UNREADABLE as error:
        cause = first_line(error)[:200]
        return [*findings, fault("files", f"{at} cannot be read: {cause}")]
    findings += row_findings
    tables.rows[form] = tables.rows.get(form, 0) + rows
    if rows != receipt.rows:
        text = f"{name} has {rows:,} rows; {MANIFEST} says {receipt.rows:,} for tile {receipt.tile}"
        findings.append(fault("rows", text))
    return findings


def _check_bytes(path: Path, file: File, shared: bool) -> Iterator[Finding]:
    """Check size and checksum of a file, or of a tile's part of a shared file."""
    digest, size = hashlib.sha256(), 0
    try:
        with open(path, "rb") as data:
            data.seek(file.offset)
            while chunk := data.read(min(BATCH_BYTES, file.bytes - size) if shared else BATCH_BYTES):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        yield fault("checksum", f"{file.path} cannot be read: {error.strerror}")
        return
    part = f" from byte {file.offset:,} on" if shared else ""
    if size != file.bytes:
        yield fault("checksum", f"{file.path} has {size:,} bytes{part}; {MANIFEST} says {file.bytes:,}")
    elif digest.hexdigest() != file.sha256:
        text = f"{file.path} has the sha256 {digest.hexdigest()[:16]}...{part}; {MANIFEST} says {file.sha256[:16]}..."
        yield fault("checksum", text)


def _parquet(tables: TableFiles, receipt: Receipt, file: File, findings: list[Finding]) -> Rows:
    """Schema and rows of a Parquet file in the columns of the table: with that of its folder, without the geometry."""
    source, layout = pq.ParquetFile(tables.output / file.path), tables.facts.layout
    schema, batches = source.schema_arrow, source.iter_batches(batch_size=ROW_GROUP)
    folder = "/".join(Path(file.path).parts[1:-1])
    key, _, value = folder.partition("=")
    if key != (layout.partition_by or "") or (key == "tile" and value != str(receipt.tile)):
        planned = {None: "none", "tile": f"tile={receipt.tile}"}.get(layout.partition_by, f"{layout.partition_by}=...")
        text = f"{file.path} of tile {receipt.tile} is in the folder {folder or 'none'}; planned is {planned}"
        findings.append(fault("files", text))
    elif tables.facts.partitioned:
        schema, batches = _with_folder((schema, batches), key, value, tables.success["schema"])
    if layout.geometry:
        batches = _with_extent((schema, batches), file.path, tables, findings)
        if schema.names[-1:] == [derived.GEOMETRY.name] and schema.field(-1).type == derived.GEOMETRY.type:
            schema = schema.remove(len(schema) - 1)
        else:
            findings.append(fault("schema", f"{file.path} has no column geometry of WKB at its end"))
    return schema, batches


def _with_folder(rows: Rows, name: str, value: str, types: Mapping[str, str]) -> Rows:
    """The same rows with the column that the folder stands for, at its place among the others."""
    at, kind = list(types).index(name), pa.type_for_alias(types[name])
    scalar = pa.scalar(None if value == HIVE_NULL else value, pa.string()).cast(kind)
    whole = rows[0].insert(at, pa.field(name, kind))

    def filled() -> Iterator[pa.RecordBatch]:
        for batch in rows[1]:
            columns = batch.columns
            columns.insert(at, pa.repeat(scalar, batch.num_rows))
            yield pa.RecordBatch.from_arrays(columns, schema=whole)

    return whole, filled()


def _with_extent(rows: Rows, path: str, tables: TableFiles, findings: list[Finding]) -> Iterator[pa.RecordBatch]:
    """The same rows; after the last one the GeoParquet metadata is compared with them."""
    low, high = [math.inf, math.inf], [-math.inf, -math.inf]
    for batch in rows[1]:
        for i, name in enumerate(("x", "y")):
            if name in batch.schema.names and batch.num_rows:
                ends = pc.min_max(batch[name]).as_py()
                low[i], high[i] = min(low[i], ends["min"]), max(high[i], ends["max"])
        yield batch
    bounds = (low[0], low[1], high[0], high[1]) if low[0] <= high[0] else None
    geo = json.loads((rows[0].metadata or {}).get(b"geo", b"null"))
    if geo != derived.geo(tables.success["table"]["grid"]["crs"], bounds):
        text = f"{path} has not the GeoParquet 1.1 metadata of its points: version, CRS, type, bounds {bounds}"
        findings.append(fault("schema", text))


def _csv(tables: TableFiles, receipt: Receipt, file: File) -> Rows:
    """The rows of a CSV file, or of a tile's part of it, in the types of the table. Only an empty field is null."""
    types, path = tables.success["schema"], tables.output / file.path
    codec = next(c for c, suffix in CSV_SUFFIX.items() if file.path.endswith(suffix))
    shared = tables.facts.layout.csv_files == "one"
    kinds = {name: pa.type_for_alias(text) for name, text in types.items()}
    convert = pacsv.ConvertOptions(column_types=kinds, null_values=[""], strings_can_be_null=True)
    headless = shared and receipt.tile != 0
    options = pacsv.ReadOptions(block_size=BATCH_BYTES, column_names=list(types) if headless else None)
    stream = _stream(path, file.offset, file.bytes if shared else path.stat().st_size, codec)
    if headless and not receipt.rows and not stream.read(1):  # pyarrow wants a line
        return pa.schema(kinds), iter(())
    reader = pacsv.open_csv(stream, options, convert_options=convert)
    return reader.schema, iter(reader)


def _stream(path: Path, offset: int, size: int, codec: str) -> pa.NativeFile:
    """Open the CSV text in a part of a file."""
    if not size:
        return pa.BufferReader(b"")
    mapped = pa.memory_map(str(path))
    mapped.seek(offset)
    return pa.input_stream(mapped.read_buffer(size), None if codec == "none" else codec)


def _check_schema(tables: TableFiles, path: str, schema: pa.Schema) -> Iterator[Finding]:
    """Check names, types and order of the columns; of a Parquet file also the metadata."""
    columns = [f"{f.name} {f.type}" for f in schema]
    planned = [f"{name} {kind}" for name, kind in tables.success["schema"].items()]
    if columns != planned:
        text = f"too many: {listed(sorted(set(columns) - set(planned))) or 'none'}"
        text += f"; missing: {listed(sorted(set(planned) - set(columns))) or 'none'}"
        yield fault("schema", f"{path} has not the {len(planned)} columns of {SUCCESS}, in their order: {text}")
    if schema.metadata is None and path.startswith("csv/"):
        return
    metadata = schema.metadata or {}
    plan_hash, expected = metadata.get(b"geopipe:plan_hash", b"none").decode(), str(tables.success["plan_hash"])
    if plan_hash != expected:
        yield fault("schema", f"{path} is of the plan {plan_hash[:16]}; {SUCCESS} says {expected[:16]}")
    grid = metadata.get(b"geopipe:grid")  # files of earlier versions have it
    if grid is not None and json.loads(grid) != tables.success["table"]["grid"]:
        yield fault("schema", f"{path} has another grid in its metadata than {SUCCESS}")
    schema = schema.with_metadata({k: v for k, v in metadata.items() if k != b"geo"})  # it has the bounds of its file
    tables.first = tables.first or schema
    if not schema.equals(tables.first, check_metadata=True):
        yield fault("schema", f"{path} has other metadata than the first file of the table")
