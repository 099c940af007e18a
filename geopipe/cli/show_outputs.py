"""What `run`, `status` and `validate` print: summaries, states of outputs, and reports."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from geopipe.cli.screen import facts, headline
from geopipe.export.objects import Stored
from geopipe.export.state import Status
from geopipe.run.pipeline import Summary
from geopipe.text import size
from geopipe.validate.output import Report

SHOWN = 5
"""Findings of one check that are printed; --json has all."""


def summary(out: Console, made: Summary) -> None:
    """What a run has made, and how long each step took."""
    headline(out, f"{made.plan.name} is done", f"  run {made.run_id}")
    wall = sum(made.seconds.values())
    steps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in made.seconds.items())
    work = ", ".join(f"{p.stage} {p.seconds:.1f}" for p in made.stages.values())
    facts(
        out,
        {
            "rows": f"{made.rows:,} in {made.files:,} files, {size(made.bytes)}",
            "seconds": f"{wall:.1f} ({steps})",
            "of workers": f"{work} seconds",
            "output": str(made.output),
        },
    )
    for name, reason in made.skipped.items():
        headline(out, "  skipped", f"      layer {name}, null in every row: {reason}", "yellow")
    for finding in made.warnings:
        headline(out, "  note", f"         {finding.message}", "yellow")


def status(out: Console, found: Status) -> None:
    """What an output folder holds."""
    done = found.finished
    if done is not None:
        headline(out, f"{done.get('name', 'a run')} is finished", f"  run {done.get('run_id', '')}")
        counts = f"{done['rows']:,} in {done['files']:,} files, {size(done['bytes'])}"
        facts(out, {"rows": counts, "plan": done["plan_hash"][:16], "output": str(found.output)})
    for run in found.unfinished:
        headline(out, f"{run.name} is {'at work' if found.holder else 'unfinished'}", f"  {found.holder}")
        told = {"tiles": f"{run.done:,} of {run.tiles:,} are done, {size(run.bytes)}", "plan": run.plan_hash[:16]}
        if run.missing:
            told["missing"] = f"tiles {run.missing}"
        if not found.holder:
            told["next"] = "geopipe run SETTINGS --resume"
        facts(out, told)


def stored(out: Console, found: Stored) -> None:
    """What is under a prefix of an object store."""
    done, told = found.finished, {"output": found.uri}
    if done is None:
        headline(out, "a table is on its way here, or was cut short")
        told["next"] = "geopipe run SETTINGS --resume, if nobody is sending it"
        facts(out, {"objects": f"{found.objects:,}, and no _SUCCESS"} | told)
        return
    headline(out, f"{done.get('name', 'a run')} is finished", f"  run {done.get('run_id', '')}")
    if found.missing:
        more = f" and {len(found.missing) - SHOWN:,} more" if len(found.missing) > SHOWN else ""
        told["missing"] = f"{', '.join(found.missing[:SHOWN])}{more} (not there, or of another size)"
    counts = f"{done['rows']:,} in {done['files']:,} files, {size(done['bytes'])}"
    facts(out, {"rows": counts, "plan": done["plan_hash"][:16]} | told)


def status_json(found: Status) -> dict[str, Any]:
    """What an output folder holds, as JSON values."""
    left_out = {"identity"}
    return {
        "output": str(found.output),
        "finished": found.finished,
        "unfinished": [{k: v for k, v in asdict(run).items() if k not in left_out} for run in found.unfinished],
        "holder": found.holder,
    }


def summary_json(made: Summary) -> dict[str, Any]:
    """A summary as JSON values."""
    return {
        "run_id": made.run_id,
        "name": made.plan.name,
        "plan_hash": made.plan.hash,
        "output": str(made.output),
        "rows": made.rows,
        "files": made.files,
        "bytes": made.bytes,
        "seconds": {k: round(v, 3) for k, v in made.seconds.items()},
        "worker_seconds": {p.stage: round(p.seconds, 3) for p in made.stages.values()},
        "skipped": made.skipped,
        "warnings": [{"check": f.check, "message": f.message} for f in made.warnings],
    }


def report(out: Console, made: Report) -> None:
    """A line for each check with its findings below it, and a table of the variables."""
    colours = {"ok": "green", "warning": "yellow", "error": "red"}
    for check, text in made.numbers.items():
        level = made.level(check)
        headline(out, f"{level:<8}", f" {check:<12} {text}", colours[level])
        found = [f for f in made.findings if f.check == check]
        for finding in found[:SHOWN]:
            out.print(f"  {finding.level}: {finding.message}")
        if len(found) > SHOWN:
            out.print(f"  and {len(found) - SHOWN:,} more (--json shows all)")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("variable", "type", "null", "least", "greatest"):
        table.add_column(name, justify="left" if name in ("variable", "type") else "right")
    for c in made.columns:
        ends = ["" if end is None else f"{end:.7g}" if isinstance(end, float) else str(end) for end in (c.low, c.high)]
        table.add_row(c.name, c.dtype, _share(c.nulls, made.rows), *ends)
    out.print(table)
    if made.exit_code:
        out.print(
            f"{made.output} is not what its run wrote or planned\n"
            f"  hint: copy the files from a backup, or run {made.output}/settings.toml again with --overwrite",
        )


def _share(part: int, whole: int) -> str:
    """A share that is 0 % or 100 % only where it is so."""
    if part in (0, whole):
        return "100%" if part else "0%"
    return f"{min(max(part / whole, 0.0001), 0.9999):.2%}"


def report_json(made: Report) -> dict[str, Any]:
    """A report as JSON values; an infinite number is text."""

    def plain(value: float | None) -> float | str | None:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    return {
        "output": str(made.output),
        "exit_code": made.exit_code,
        "rows": made.rows,
        "checks": {check: {"level": made.level(check), "numbers": text} for check, text in made.numbers.items()},
        "findings": [{"level": f.level, "check": f.check, "message": f.message} for f in made.findings],
        "variables": [
            {
                "name": c.name,
                "type": c.dtype,
                "nulls": c.nulls,
                "null_share": c.nulls / made.rows if made.rows else None,
                "min": plain(c.low),
                "max": plain(c.high),
            }
            for c in made.columns
        ],
    }
