"""`geopipe validate`: a finished output folder, opened on its own and held to what was planned.

Every file is read, a batch of rows at a time, so that memory does not grow with the table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from geopipe.checks import CHECKS, Facts, Finding, check_receipts, check_rows, listed, number
from geopipe.commit import MANIFEST, STAGING, SUCCESS
from geopipe.errors import GeopipeError, MachineError, PlanError
from geopipe.export import FORMATS, ROW_GROUP, File, Receipt

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
    tables = _Tables(facts, success)
    size = 0
    for receipt in receipts:
        for file in receipt.files:
            size += file.bytes
            if (output / file.path).is_file() and _inside(file, success):
                findings += _check_file(output, tables, receipt, file)
    rows, files = sum(r.rows for r in receipts), sum(len(r.files) for r in receipts)
    left, bottom, right, top = facts.grid.bounds
    known = sum(v.range is not None for v in facts.variables.values())
    counted = ", ".join(f"{count:,} in {form}" for form, count in tables.rows.items())
    columns = _columns(facts, receipts)
    most = max(columns, key=lambda c: c.nulls)
    numbers = {
        "manifest": f"receipts: {len(receipts):,}, tiles: {facts.tiles:,}",
        "files": f"{files:,} files",
        "checksum": f"{size:,} bytes",
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
        cure = "give the output folder of a finished run (run.output in its settings)"
        if (output.parent / SUCCESS).exists():
            cure = f"did you mean {output.parent}?"
        elif (output / STAGING).is_dir():
            cure = "a run is at work here, or was cut short: wait for it, or start it again"
        raise PlanError(f"{output} holds no finished run: there is no {SUCCESS}", cure) from None
    except OSError as error:
        raise MachineError(f"{path} cannot be read: {error.strerror}", "permit this user to read it") from None
    except ValueError:
        success = None
    if not isinstance(success, dict) or "plan_hash" not in success:
        raise PlanError(f"{path} is not geopipe's: it names no plan", "give the output folder of a finished run")
    try:
        facts = Facts.parse(success["table"])
        success |= {"formats": tuple(success["formats"]), "schema": dict(success["schema"])}
        _ = [int(success[key]) for key in ("rows", "files", "bytes")], next(iter(facts.variables))
    except (KeyError, TypeError, ValueError, StopIteration, GeopipeError) as error:
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
                    receipts.append(_receipt(line))
                except (AttributeError, KeyError, TypeError, ValueError) as error:
                    text = f"line {count} of {MANIFEST} is no receipt: {type(error).__name__}: {error}"
                    findings.append(Finding("error", "manifest", text))
    except OSError as error:
        findings.append(Finding("error", "manifest", f"{MANIFEST} cannot be read: {error.strerror}"))
    return receipts, findings


def _receipt(line: str) -> Receipt:
    """A receipt whose numbers are numbers."""
    receipt = Receipt.parse(line)
    counts = [receipt.tile, receipt.rows, *(f.bytes for f in receipt.files)]
    for told in receipt.columns.values():
        counts.append(told["nulls"])
        number(told["min"]), number(told["max"])
    if not all(isinstance(count, int) for count in counts):
        raise ValueError("a count is no whole number")
    return receipt


def _check_totals(success: Mapping[str, Any], receipts: Sequence[Receipt]) -> list[Finding]:
    totals = {
        "rows": sum(r.rows for r in receipts),
        "files": sum(len(r.files) for r in receipts),
        "bytes": sum(f.bytes for r in receipts for f in r.files),
    }
    return [
        Finding("error", "manifest", f"{SUCCESS} says {success[name]} {name}, the receipts of {MANIFEST} {total}")
        for name, total in totals.items()
        if success[name] != total
    ]


def _inside(file: File, success: Mapping[str, Any]) -> bool:
    parts = Path(file.path).parts
    return len(parts) > 1 and parts[0] in success["formats"] and ".." not in parts


def _check_files(output: Path, success: Mapping[str, Any], receipts: Sequence[Receipt]) -> list[Finding]:
    """Files that are missing; files that readers would take for a part of the table, and others in its folders."""
    files = [f for r in receipts for f in r.files]
    known = {f.path for f in files}
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


def _check_file(output: Path, tables: _Tables, receipt: Receipt, file: File) -> list[Finding]:
    """One file: its bytes, then its schema, then its rows."""
    findings = list(_check_bytes(output / file.path, file))
    form = file.path.partition("/")[0]
    try:
        reader = _parquet if form == "parquet" else _csv
        schema, batches = reader(output / file.path, tables.success["schema"])
        findings += _check_schema(tables, file.path, schema)
        found, rows = check_rows(tables.facts, receipt, file.path, batches)
        findings += found
    except UNREADABLE as error:
        cause = (str(error) or type(error).__name__).splitlines()[0][:200]
        return [*findings, Finding("error", "files", f"{file.path} cannot be read: {cause}")]
    tables.rows[form] = tables.rows.get(form, 0) + rows
    if rows != receipt.rows:
        text = f"{file.path} has {rows:,} rows; {MANIFEST} says {receipt.rows:,} for tile {receipt.tile}"
        findings.append(Finding("error", "rows", text))
    return findings


def _check_bytes(path: Path, file: File) -> Iterator[Finding]:
    try:
        with open(path, "rb") as data:
            digest = hashlib.file_digest(data, "sha256").hexdigest()
            size = data.tell()
    except OSError as error:
        yield Finding("error", "checksum", f"{file.path} cannot be read: {error.strerror}")
        return
    if size != file.bytes:
        yield Finding("error", "checksum", f"{file.path} has {size:,} bytes; {MANIFEST} says {file.bytes:,}")
    elif digest != file.sha256:
        text = f"{file.path} has the sha256 {digest[:16]}...; {MANIFEST} says {file.sha256[:16]}..."
        yield Finding("error", "checksum", text)


def _parquet(path: Path, _: Mapping[str, str]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    file = pq.ParquetFile(path)
    return file.schema_arrow, file.iter_batches(batch_size=ROW_GROUP)


def _csv(path: Path, types: Mapping[str, str]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The rows of a CSV file in the types of the table; an empty field is the only null."""
    convert = pacsv.ConvertOptions(
        column_types={name: kind for name, text in types.items() if (kind := _type(text)) is not None},
        null_values=[""],
        strings_can_be_null=True,
    )
    reader = pacsv.open_csv(path, pacsv.ReadOptions(block_size=BATCH_BYTES), convert_options=convert)
    return reader.schema, iter(reader)


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
    if json.loads(metadata.get(b"geopipe:grid", b"null")) != tables.success["table"]["grid"]:
        yield Finding("error", "schema", f"{path} has another grid in its metadata than {SUCCESS}")
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
