"""`geopipe validate`: compare a finished output folder with its manifest and its plan.

Every file is read, a batch of rows at a time, so that memory does not grow with the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from geopipe.errors import MachineError, PlanError
from geopipe.export.lock import STAGING
from geopipe.export.state import MANIFEST, SUCCESS, finished
from geopipe.export.tiles import FORMATS, File, Receipt, totals
from geopipe.merge import derived
from geopipe.text import listed
from geopipe.validate.facts import CHECKS, Ends, Facts, Finding, check_receipts, facts_in, fault
from geopipe.validate.files import TableFiles, check_tile


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
    """What a finished output is like. `numbers` has by check a line with the figures that it compared."""

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
    """Compare every file of a finished output with its manifest, and the table with its plan.

    Raises:
        PlanError: there is no finished run of geopipe.
        MachineError: the folder cannot be read.
    """
    success, facts = _success(output)
    receipts, findings = _manifest(output)
    findings += check_receipts(facts, receipts)
    sums = totals(receipts)
    for name, total in sums.items():
        if success[name] != total:
            text = f"{SUCCESS} says {success[name]} {name}, the receipts of {MANIFEST} {total}"
            findings.append(fault("manifest", text))
    findings += _check_files(output, success, receipts)
    findings += _check_shared(output, facts, receipts)
    facts, warnings = _without_h3(facts)
    findings += warnings
    tables = TableFiles(output, facts, success)
    for receipt in receipts:
        for form in success["formats"]:
            files = [f for f in receipt.files if f.path.startswith(f"{form}/") and _inside(f, success)]
            if files := [f for f in files if (output / f.path).is_file()]:
                findings += check_tile(tables, receipt, form, files)
    left, bottom, right, top = facts.grid.bounds
    known = sum(v.range is not None for v in facts.variables.values())
    counted = ", ".join(f"{count:,} in {form}" for form, count in tables.rows.items())
    columns = tuple(Column(name, fact.type, *_ends(name, receipts)) for name, fact in facts.variables.items())
    most = max(columns, key=lambda c: c.nulls)
    mask = "" if facts.mask is None else f", mask {facts.mask.uri}"
    numbers = {
        "manifest": f"receipts: {len(receipts):,}, tiles: {facts.tiles:,}",
        "files": f"{sums['files']:,} files",
        "checksum": f"{sums['bytes']:,} bytes",
        "schema": f"{len(success['schema'])} columns, plan {str(success['plan_hash'])[:16]}",
        "rows": f"{sums['rows']:,} rows ({counted}) of {facts.cells:,} cells, how = {facts.how}{mask}",
        "cells": f"{facts.grid.width:,} columns x {facts.grid.height:,} rows",
        "coordinates": f"x {left:.12g} to {right:.12g}, y {bottom:.12g} to {top:.12g}",
        "values": f"{len(facts.variables):,} variables, {known:,} with a known range of the source",
        "nulls": f"at most {most.nulls:,} in {sums['rows']:,} rows ({most.name})",
    }
    findings.sort(key=lambda f: (CHECKS.index(f.check), f.level))
    return Report(output, sums["rows"], numbers, columns, tuple(findings))


def _success(output: Path) -> tuple[dict[str, Any], Facts]:
    """The contents of `_SUCCESS`, and the facts in it."""
    path, hint = output / SUCCESS, "give the output folder of a finished run (run.output in its settings)"
    if not output.is_dir():
        raise PlanError(f"{output} {'is a file' if output.exists() else 'does not exist'}", hint)
    success = finished(output)
    if success is not None:
        return success, facts_in(success, str(path))
    if path.exists():
        raise PlanError(f"{path} is not geopipe's: it names no plan", hint)
    if (output.parent / SUCCESS).exists():
        hint = f"did you mean {output.parent}?"
    elif (output / STAGING).is_dir():
        hint = "a run is at work here, or was cut short: wait for it, or start it again"
    raise PlanError(f"{output} holds no finished run: there is no {SUCCESS}", hint)


def _manifest(output: Path) -> tuple[list[Receipt], list[Finding]]:
    """The receipts of the manifest that can be read, and a finding for each other line."""
    receipts, findings = [], []
    try:
        with open(output / MANIFEST, encoding="utf-8", errors="replace") as lines:
            for count, line in enumerate(lines, 1):
                try:
                    receipts.append(Receipt.parse(line))
                except ValueError as error:
                    findings.append(fault("manifest", f"line {count} of {MANIFEST} is no receipt: {error}"))
    except OSError as error:
        findings.append(fault("manifest", f"{MANIFEST} cannot be read: {error.strerror}"))
    return receipts, findings


def _inside(file: File, success: Mapping[str, Any]) -> bool:
    parts = Path(file.path).parts
    return len(parts) > 1 and parts[0] in success["formats"] and ".." not in parts


def _check_files(output: Path, success: Mapping[str, Any], receipts: Sequence[Receipt]) -> Iterator[Finding]:
    """Find files that are missing, and files in the folders of the table that are not part of it."""
    known = {f.path: f for r in receipts for f in r.files}
    for file in known.values():
        if not (output / file.path).is_file():
            yield fault("files", f"{file.path} is missing ({file.bytes:,} bytes in {MANIFEST})")
        if not _inside(file, success):
            yield fault("files", f"{file.path} in {MANIFEST} is in none of the folders {listed(success['formats'])}")
    for form in FORMATS:
        for path in sorted((output / form).rglob("*")):
            name = path.relative_to(output).as_posix()
            if name in known or path.is_dir():
                continue
            hidden = any(part.startswith((".", "_")) for part in Path(name).parts)
            note = ": readers pass over such names" if hidden else ": readers would take it for a part of the table"
            text = f"{name} ({path.lstat().st_size:,} bytes) is not in {MANIFEST}{note}"
            yield Finding("warning" if hidden else "error", "files", text)
    for form in success["formats"]:
        tiles = [r.tile for r in receipts if not any(f.path.startswith(f"{form}/") for f in r.files)]
        if tiles:
            yield fault("files", f"{len(tiles):,} tiles have no {form} file: {listed(tiles)}")


def _without_h3(facts: Facts) -> tuple[Facts, list[Finding]]:
    """The facts that this installation can check: H3 cells need a package."""
    if facts.layout.h3 is None:
        return facts, []
    try:
        derived.h3_package(facts.layout.h3)
    except MachineError as error:
        text = f"the column h3 is not checked: {error.message}"
        return replace(facts, layout=replace(facts.layout, h3=None)), [Finding("warning", "coordinates", text)]
    return facts, []


def _check_shared(output: Path, facts: Facts, receipts: Sequence[Receipt]) -> Iterator[Finding]:
    """Check that the parts of the tiles in the one CSV file follow each other and are all of it."""
    if facts.layout.csv_files != "one":
        return
    ends: dict[str, int] = {}
    for receipt in sorted(receipts, key=lambda r: r.tile):
        for file in (f for f in receipt.files if f.path.startswith("csv/")):
            end = ends.get(file.path, 0)
            if file.offset != end:
                text = f"tile {receipt.tile} starts at byte {file.offset:,} of {file.path}, not at {end:,}"
                yield fault("manifest", text)
            ends[file.path] = file.offset + file.bytes
    if len(ends) > 1:
        yield fault("files", f"there are {len(ends):,} CSV files, and one was asked for: {listed([*ends])}")
    for path, end in ends.items():
        if (output / path).is_file() and (size := (output / path).stat().st_size) != end:
            yield fault("checksum", f"{path} has {size:,} bytes; the tiles in {MANIFEST} end at {end:,}")


def _ends(name: str, receipts: Sequence[Receipt]) -> Ends:
    return reduce(or_, (Ends.of(r.columns[name]) for r in receipts if name in r.columns), Ends())
