"""`geopipe validate`: a finished output folder, opened on its own and held to what was planned.

Every file is read, a batch of rows at a time, so that memory does not grow with the table.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from geopipe.errors import GeopipeError, MachineError, PlanError, first_line
from geopipe.export.lock import STAGING
from geopipe.export.state import MANIFEST, SUCCESS
from geopipe.export.tiles import FORMATS, File, Receipt, totals
from geopipe.export.writers import CSV_SUFFIX, HIVE_NULL, ROW_GROUP
from geopipe.merge import derived
from geopipe.validate.facts import CHECKS, Facts, Finding, check_receipts, listed, number
from geopipe.validate.rows import check_rows

BATCH_BYTES = 16 * 2**20
"""Text of CSV that is parsed at a time."""

UNREADABLE = (OSError, MemoryError, UnicodeDecodeError, json.JSONDecodeError, pa.ArrowException)
"""What pyarrow raises for files that are damaged: a broken length can also ask for more memory than there is."""


@dataclass(frozen=True)
class Column:
    """A variable of a finished table: its type, nulls, and the least and greatest value (None where all are null)."""

    name: str
    dtype: str
    nulls: int
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Report:
    """What a finished output is like. `numbers` says of each check what it looked at."""

    output: Path
    rows: int
    numbers: Mapping[str, str]
    columns: tuple[Column, ...]
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        return int(any(f.level == "error" for f in self.findings))

    def level(self, check: str) -> str:
        """How a check ended: "error", "warning" or "ok"."""
        levels = {f.level for f in self.findings if f.check == check}
        return next((level for level in ("error", "warning") if level in levels), "ok")


def validate(output: Path) -> Report:
    """Check every file of a finished output against its manifest, and the table against what was planned.

    Files are read a batch of rows at a time.

    Raises:
        PlanError: there is no finished run of geopipe.
        MachineError: the folder cannot be read.
    """
    success, facts = _success(output)
    receipts, findings = _manifest(output)
    findings += check_receipts(facts, receipts)
    findings += _check_totals(success, receipts)
    findings += _check_files(output, success, receipts)
    findings += _check_shared(output, facts, receipts)
    facts, told = _without_h3(facts)
    findings += told
    tables = _Tables(facts, success)
    for receipt in receipts:
        for form in success["formats"]:
            files = [f for f in receipt.files if f.path.startswith(f"{form}/") and _inside(f, success)]
            if files := [f for f in files if (output / f.path).is_file()]:
                findings += _check_tile(output, tables, receipt, form, files)
    sums = totals(receipts)
    rows = sums["rows"]
    left, bottom, right, top = facts.grid.bounds
    known = sum(v.range is not None for v in facts.variables.values())
    counted = ", ".join(f"{count:,} in {form}" for form, count in tables.rows.items())
    columns = _columns(facts, receipts)
    most = max(columns, key=lambda c: c.nulls)
    numbers = {
        "manifest": f"receipts: {len(receipts):,}, tiles: {facts.tiles:,}",
        "files": f"{sums['files']:,} files",
        "checksum": f"{sums['bytes']:,} bytes",
        "schema": f"{len(success['schema'])} columns, plan {str(success['plan_hash'])[:16]}",
        "rows": f"{rows:,} rows ({counted}) of {facts.cells:,} cells, how = {facts.how}" + _mask(facts),
        "cells": f"{facts.grid.width:,} columns x {facts.grid.height:,} rows",
        "coordinates": f"x {left:.12g} to {right:.12g}, y {bottom:.12g} to {top:.12g}",
        "values": f"{len(facts.variables):,} variables, {known:,} with a known range of the source",
        "nulls": f"at most {most.nulls:,} in {rows:,} rows ({most.name})",
    }
    order = list(CHECKS)
    findings.sort(key=lambda f: (order.index(f.check), f.level))
    return Report(output, rows, numbers, columns, tuple(findings))


def _mask(facts: Facts) -> str:
    return "" if facts.mask is None else f", mask {facts.mask.uri}"


def _success(output: Path) -> tuple[dict[str, Any], Facts]:
    """What `_SUCCESS` says, and the facts in it."""
    if not output.is_dir():
        what = "is a file" if output.exists() else "does not exist"
        raise PlanError(f"{output} {what}", "give the output folder of a finished run (run.output in its settings)")
    path = output / SUCCESS
    try:
        success = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = "give the output folder of a finished run (run.output in its settings)"
        if (output.parent / SUCCESS).exists():
            hint = f"did you mean {output.parent}?"
        elif (output / STAGING).is_dir():
            hint = "a run is at work here, or was cut short: wait for it, or start it again"
        raise PlanError(f"{output} holds no finished run: there is no {SUCCESS}", hint) from None
    except OSError as error:
        raise MachineError(f"{path} cannot be read: {error.strerror}", "permit this user to read it") from None
    except (ValueError, RecursionError):
        success = None
    if not isinstance(success, dict) or "plan_hash" not in success:
        raise PlanError(f"{path} is not geopipe's: it names no plan", "give the output folder of a finished run")
    try:
        facts = Facts.parse(success["table"])
        success |= {"formats": tuple(success["formats"]), "schema": dict(success["schema"])}
        _ = [int(success[key]) for key in ("rows", "files", "bytes")], next(iter(facts.variables))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, StopIteration, GeopipeError) as error:
        raise PlanError(
            f"{path} does not say what the table must be like ({type(error).__name__}: {error})",
            "it was edited, or written by another version of geopipe: run its settings again",
        ) from None
    return success, facts


def _manifest(output: Path) -> tuple[list[Receipt], list[Finding]]:
    """The receipts of the manifest that can be read, and what is wrong with the others."""
    receipts, findings = [], []
    try:
        with open(output / MANIFEST, encoding="utf-8", errors="replace") as lines:
            for count, line in enumerate(lines, 1):
                try:
                    receipts.append(Receipt.parse(line))
                except ValueError as error:
                    text = f"line {count} of {MANIFEST} is no receipt: {error}"
                    findings.append(Finding("error", "manifest", text))
    except OSError as error:
        findings.append(Finding("error", "manifest", f"{MANIFEST} cannot be read: {error.strerror}"))
    return receipts, findings


def _check_totals(success: Mapping[str, Any], receipts: Sequence[Receipt]) -> list[Finding]:
    return [
        Finding("error", "manifest", f"{SUCCESS} says {success[name]} {name}, the receipts of {MANIFEST} {total}")
        for name, total in totals(receipts).items()
        if success[name] != total
    ]


def _inside(file: File, success: Mapping[str, Any]) -> bool:
    parts = Path(file.path).parts
    return len(parts) > 1 and parts[0] in success["formats"] and ".." not in parts


def _check_files(output: Path, success: Mapping[str, Any], receipts: Sequence[Receipt]) -> list[Finding]:
    """Files that are missing; files that readers would take for a part of the table, and others in its folders."""
    known = {f.path: f for r in receipts for f in r.files}
    files = known.values()
    findings = [
        Finding("error", "files", f"{f.path} is missing ({f.bytes:,} bytes in {MANIFEST})")
        for f in files
        if not (output / f.path).is_file()
    ]
    findings += [
        Finding("error", "files", f"{f.path} in {MANIFEST} is in none of the folders {listed(success['formats'])}")
        for f in files
        if not _inside(f, success)
    ]
    for form in FORMATS:
        for path in sorted((output / form).rglob("*")):
            name = path.relative_to(output).as_posix()
            if name in known or path.is_dir():
                continue
            hidden = any(part.startswith((".", "_")) for part in Path(name).parts)
            note = ": readers pass over such names" if hidden else ": readers would take it for a part of the table"
            text = f"{name} ({path.lstat().st_size:,} bytes) is not in {MANIFEST}{note}"
            findings.append(Finding("warning" if hidden else "error", "files", text))
    for form in success["formats"]:
        tiles = [r.tile for r in receipts if not any(f.path.startswith(f"{form}/") for f in r.files)]
        if tiles:
            findings.append(Finding("error", "files", f"{len(tiles):,} tiles have no {form} file: {listed(tiles)}"))
    return findings


@dataclass
class _Tables:
    """What the files of one table share: the facts, the rows that were read by format, and the first schema."""

    facts: Facts
    success: Mapping[str, Any]
    rows: dict[str, int] = field(default_factory=dict)
    first: pa.Schema | None = None


def _without_h3(facts: Facts) -> tuple[Facts, list[Finding]]:
    """The facts that can be checked here: H3 cells need a package."""
    if facts.layout.h3 is None:
        return facts, []
    try:
        derived.h3_package(facts.layout.h3)
    except MachineError as error:
        text = f"the column h3 is not checked: {error.message}"
        return replace(facts, layout=replace(facts.layout, h3=None)), [Finding("warning", "coordinates", text)]
    return facts, []


def _check_shared(output: Path, facts: Facts, receipts: Sequence[Receipt]) -> Iterator[Finding]:
    """Whether the tiles' parts of the one CSV file follow each other and are all of it."""
    if facts.layout.csv_files != "one":
        return
    ends: dict[str, int] = {}
    for receipt in sorted(receipts, key=lambda r: r.tile):
        for file in receipt.files:
            if not file.path.startswith("csv/"):
                continue
            end = ends.get(file.path, 0)
            if file.offset != end:
                text = f"tile {receipt.tile} starts at byte {file.offset:,} of {file.path}, not at {end:,}"
                yield Finding("error", "manifest", text)
            ends[file.path] = file.offset + file.bytes
    if len(ends) > 1:
        yield Finding("error", "files", f"there are {len(ends):,} CSV files, and one was asked for: {listed([*ends])}")
    for path, end in ends.items():
        if (output / path).is_file() and (size := (output / path).stat().st_size) != end:
            yield Finding("error", "checksum", f"{path} has {size:,} bytes; the tiles in {MANIFEST} end at {end:,}")


def _check_tile(output: Path, tables: _Tables, receipt: Receipt, form: str, files: Sequence[File]) -> list[Finding]:
    """The files of a tile in one format: their bytes, then their schema, then their rows."""
    shared = form == "csv" and tables.facts.layout.csv_files == "one"
    findings = [finding for file in files for finding in _check_bytes(output / file.path, file, shared)]
    at = files[0].path
    name = at if len(files) == 1 else f"{form} of tile {receipt.tile} ({len(files):,} files)"

    def parts() -> Iterator[tuple[str, Iterator[pa.RecordBatch]]]:
        nonlocal at
        for file in files:
            at = file.path
            if form == "parquet":
                schema, batches = _parquet(output, tables, receipt, file, findings)
            else:
                schema, batches = _csv(output, tables, receipt, file)
            findings.extend(_check_schema(tables, file.path, schema))
            if len(set(schema.names)) < len(schema):
                raise pa.ArrowInvalid("it has a column twice")
            yield file.path, batches

    try:
        found, rows = check_rows(tables.facts, receipt, name, parts())
    except UNREADABLE as error:
        cause = first_line(error)[:200]
        return [*findings, Finding("error", "files", f"{at} cannot be read: {cause}")]
    findings += found
    tables.rows[form] = tables.rows.get(form, 0) + rows
    if rows != receipt.rows:
        text = f"{name} has {rows:,} rows; {MANIFEST} says {receipt.rows:,} for tile {receipt.tile}"
        findings.append(Finding("error", "rows", text))
    return findings


def _check_bytes(path: Path, file: File, shared: bool) -> Iterator[Finding]:
    """Size and checksum of a file, or of a tile's part of a shared one."""
    digest, size = hashlib.sha256(), 0
    try:
        with open(path, "rb") as data:
            data.seek(file.offset)
            while chunk := data.read(min(BATCH_BYTES, file.bytes - size) if shared else BATCH_BYTES):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        yield Finding("error", "checksum", f"{file.path} cannot be read: {error.strerror}")
        return
    part = f" from byte {file.offset:,} on" if shared else ""
    if size != file.bytes:
        yield Finding("error", "checksum", f"{file.path} has {size:,} bytes{part}; {MANIFEST} says {file.bytes:,}")
    elif digest.hexdigest() != file.sha256:
        text = f"{file.path} has the sha256 {digest.hexdigest()[:16]}...{part}; {MANIFEST} says {file.sha256[:16]}..."
        yield Finding("error", "checksum", text)


def _parquet(
    output: Path, tables: _Tables, receipt: Receipt, file: File, findings: list[Finding]
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Schema and rows of a Parquet file as those of the table: the value of its folder is in, the geometry is out."""
    source, layout = pq.ParquetFile(output / file.path), tables.facts.layout
    schema, batches = source.schema_arrow, source.iter_batches(batch_size=ROW_GROUP)
    folders = Path(file.path).parts[1:-1]
    key, _, value = "/".join(folders).partition("=")
    if key != (layout.partition_by or "") or (key == "tile" and value != str(receipt.tile)):
        wanted = {None: "none", "tile": f"tile={receipt.tile}"}.get(layout.partition_by, f"{layout.partition_by}=...")
        text = f"{file.path} of tile {receipt.tile} is in the folder {'/'.join(folders) or 'none'}; planned is {wanted}"
        findings.append(Finding("error", "files", text))
    elif tables.facts.partitioned:
        schema, batches = _with_folder(schema, batches, key, value, tables.success["schema"])
    if layout.geometry:
        batches = _with_extent(schema, batches, file.path, tables, findings)
        if schema.names[-1:] == [derived.GEOMETRY.name] and schema.field(-1).type == derived.GEOMETRY.type:
            schema = schema.remove(len(schema) - 1)
        else:
            findings.append(Finding("error", "schema", f"{file.path} has no column geometry of WKB at its end"))
    return schema, batches


def _with_folder(
    schema: pa.Schema, batches: Iterator[pa.RecordBatch], name: str, value: str, types: Mapping[str, str]
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The same rows with the column that the folder stands for, in its place among the others."""
    at, kind = list(types).index(name), _type(types[name])
    scalar = pa.scalar(None if value == HIVE_NULL else value, pa.string()).cast(kind)
    whole = schema.insert(at, pa.field(name, kind))

    def filled() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            columns = batch.columns
            columns.insert(at, pa.repeat(scalar, batch.num_rows))
            yield pa.RecordBatch.from_arrays(columns, schema=whole)

    return whole, filled()


def _with_extent(
    schema: pa.Schema, batches: Iterator[pa.RecordBatch], path: str, tables: _Tables, findings: list[Finding]
) -> Iterator[pa.RecordBatch]:
    """The same rows; at their end GeoParquet's metadata is held to them."""
    low, high = [math.inf, math.inf], [-math.inf, -math.inf]
    for batch in batches:
        for i, name in enumerate(("x", "y")):
            if name in batch.schema.names and batch.num_rows:
                ends = pc.min_max(batch[name]).as_py()
                low[i], high[i] = min(low[i], ends["min"]), max(high[i], ends["max"])
        yield batch
    bounds = (low[0], low[1], high[0], high[1]) if low[0] <= high[0] else None
    told = json.loads((schema.metadata or {}).get(b"geo", b"null"))
    if told != derived.geo(tables.success["table"]["grid"]["crs"], bounds):
        text = f"{path} does not say of its points what GeoParquet 1.1 would: version, CRS, type, bounds {bounds}"
        findings.append(Finding("error", "schema", text))


def _csv(output: Path, tables: _Tables, receipt: Receipt, file: File) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The rows of a CSV file or of a tile's part of it, in the types of the table; an empty field is the only null."""
    types, path = tables.success["schema"], output / file.path
    codec = next(c for c, suffix in CSV_SUFFIX.items() if file.path.endswith(suffix))
    shared = tables.facts.layout.csv_files == "one"
    kinds = {name: kind for name, text in types.items() if (kind := _type(text)) is not None}
    convert = pacsv.ConvertOptions(column_types=kinds, null_values=[""], strings_can_be_null=True)
    headless = shared and receipt.tile != 0
    options = pacsv.ReadOptions(block_size=BATCH_BYTES, column_names=list(types) if headless else None)
    stream = _stream(path, file.offset, file.bytes if shared else path.stat().st_size, codec)
    if headless and not receipt.rows and not stream.read(1):  # pyarrow wants a line
        return pa.schema(kinds), iter(())
    reader = pacsv.open_csv(stream, options, convert_options=convert)
    return reader.schema, iter(reader)


def _stream(path: Path, offset: int, size: int, codec: str) -> pa.NativeFile:
    """The text in a part of a file."""
    if not size:
        return pa.BufferReader(b"")
    mapped = pa.memory_map(str(path))
    mapped.seek(offset)
    part = pa.BufferReader(mapped.read_buffer(size))
    return part if codec == "none" else pa.CompressedInputStream(part, codec)


def _type(name: str) -> pa.DataType | None:
    try:
        return pa.type_for_alias(name)
    except ValueError:
        return None


def _check_schema(tables: _Tables, path: str, schema: pa.Schema) -> Iterator[Finding]:
    """Names and types of the columns, in their order; for Parquet also the metadata."""
    found, said = [f"{f.name} {f.type}" for f in schema], [f"{n} {t}" for n, t in tables.success["schema"].items()]
    if found != said:
        text = f"too much {listed(sorted(set(found) - set(said))) or 'nothing'}"
        text += f", missing {listed(sorted(set(said) - set(found))) or 'nothing'}"
        yield Finding("error", "schema", f"{path} has not the {len(said)} columns of {SUCCESS}, in their order: {text}")
    if schema.metadata is None and path.startswith("csv/"):
        return
    metadata = schema.metadata or {}
    plan, planned = metadata.get(b"geopipe:plan_hash", b"none").decode(), str(tables.success["plan_hash"])
    if plan != planned:
        yield Finding("error", "schema", f"{path} is of the plan {plan[:16]}; {SUCCESS} says {planned[:16]}")
    grid = metadata.get(b"geopipe:grid")  # files of earlier versions have it
    if grid is not None and json.loads(grid) != tables.success["table"]["grid"]:
        yield Finding("error", "schema", f"{path} has another grid in its metadata than {SUCCESS}")
    schema = schema.with_metadata({k: v for k, v in metadata.items() if k != b"geo"})  # it has the bounds of its file
    tables.first = tables.first or schema
    if not schema.equals(tables.first, check_metadata=True):
        yield Finding("error", "schema", f"{path} has other metadata than the first file of the table")


def _columns(facts: Facts, receipts: Sequence[Receipt]) -> tuple[Column, ...]:
    columns = []
    for name, fact in facts.variables.items():
        told = [r.columns[name] for r in receipts if name in r.columns]
        lows = [low for t in told if (low := number(t["min"])) is not None]
        highs = [high for t in told if (high := number(t["max"])) is not None]
        nulls = sum(t["nulls"] for t in told)
        columns.append(Column(name, fact.dtype, nulls, min(lows, default=None), max(highs, default=None)))
    return tuple(columns)
