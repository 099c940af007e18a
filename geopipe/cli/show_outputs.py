"""What `run`, `status` and `validate` print: summaries, states of outputs, and reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from geopipe.cli.options import picked
from geopipe.cli.screen import facts, headline, table
from geopipe.cli.show_analysis import analyses
from geopipe.export.objects import Stored
from geopipe.export.state import Status
from geopipe.run.pipeline import Summary
from geopipe.text import count, size
from geopipe.validate.output import Report

SHOWN = 5
"""Findings of a check that are printed; --json has all."""


def summary(out: Console, run: Summary) -> None:
    """Write the summary of a run: rows, files, seconds of each step, output."""
    headline(out, f"{run.plan.name} is done", f"  run {run.run_id}")
    wall = sum(run.seconds.values())
    steps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in run.seconds.items())
    work = ", ".join(f"{p.stage} {p.seconds:.1f}" for p in run.stages.values())
    facts(
        out,
        {
            "rows": f"{count(run.rows, 'row')} in {count(run.files, 'file')}, {size(run.bytes)}",
            "seconds": f"{wall:.1f} ({steps})",
            "of workers": f"{work} seconds",
            "output": str(run.output),
            **({} if run.report is None else {"report": str(run.report)}),
        },
    )
    for name, reason in run.skipped.items():
        headline(out, "  skipped", f"      layer {name}, null in every row: {reason}", "yellow")
    for finding in run.warnings:
        headline(out, "  note", f"         {finding.message}", "yellow")
    analyses(out, run.analyses)


def _finished(out: Console, done: Mapping[str, Any], lines: Mapping[str, str]) -> None:
    headline(out, f"{done.get('name', 'a run')} is finished", f"  run {done.get('run_id', '')}")
    counts = f"{count(done['rows'], 'row')} in {count(done['files'], 'file')}, {size(done['bytes'])}"
    facts(out, {"rows": counts, "plan": done["plan_hash"][:16], **lines})


def status(out: Console, output: Status) -> None:
    """Write the state of an output folder."""
    if output.finished is not None:
        _finished(out, output.finished, {"output": str(output.output)})
    for run in output.unfinished:
        headline(out, f"{run.name} is {'at work' if output.holder else 'unfinished'}", f"  {output.holder}")
        lines = {"tiles": f"{run.done:,} of {run.tiles:,} are done, {size(run.bytes)}", "plan": run.plan_hash[:16]}
        if run.missing:
            lines["missing"] = f"tiles {run.missing}"
        if not output.holder:
            lines["next"] = "geopipe run SETTINGS --resume"
        facts(out, lines)


def stored(out: Console, output: Stored) -> None:
    """Write the state of a prefix of an object store."""
    lines = {"output": output.uri}
    if output.finished is None:
        headline(out, "a table is on its way here, or was cut short")
        lines["next"] = "geopipe run SETTINGS --resume, if nobody is sending it"
        facts(out, {"objects": f"{output.objects:,}, and no _SUCCESS"} | lines)
        return
    if output.missing:
        more = f" and {len(output.missing) - SHOWN:,} more" if len(output.missing) > SHOWN else ""
        lines["missing"] = f"{', '.join(output.missing[:SHOWN])}{more} (not there, or of another size)"
    _finished(out, output.finished, lines)


def status_json(output: Status) -> dict[str, Any]:
    """The state of an output folder as JSON values."""
    unfinished = [run.describe() for run in output.unfinished]
    return picked(output, "output finished") | {"unfinished": unfinished, "holder": output.holder}


def summary_json(run: Summary) -> dict[str, Any]:
    """A summary as JSON values."""
    return {
        **{"run_id": run.run_id, "name": run.plan.name, "plan_hash": run.plan.hash},
        **picked(run, "output report rows files bytes"),
        "seconds": {k: round(v, 3) for k, v in run.seconds.items()},
        "worker_seconds": {p.stage: round(p.seconds, 3) for p in run.stages.values()},
        "skipped": run.skipped,
        "warnings": [picked(finding, "check message") for finding in run.warnings],
        "analyses": [str(analysis.folder) for analysis in run.analyses],
    }


def report(out: Console, result: Report) -> None:
    """Write a line for each check with its findings, and a table of the variables."""
    colours = {"ok": "green", "warning": "yellow", "error": "red"}
    for check, text in result.numbers.items():
        level = result.level(check)
        headline(out, f"{level:<8}", f" {check:<12} {text}", colours[level])
        findings = [f for f in result.findings if f.check == check]
        for finding in findings[:SHOWN]:
            out.print(f"  {finding.level}: {finding.message}")
        if len(findings) > SHOWN:
            out.print(f"  and {len(findings) - SHOWN:,} more (--json shows all)")
    rows = []
    for c in result.columns:
        ends = ["" if end is None else f"{end:.7g}" if isinstance(end, float) else str(end) for end in (c.low, c.high)]
        rows.append((c.name, c.dtype, _share(c.nulls, result.rows), *ends))
    table(out, ("variable", "type", "null", "least", "greatest"), rows, right=("null", "least", "greatest"), fold=True)
    if result.exit_code:
        out.print(
            f"{result.output} is not what its run wrote or planned\n"
            f"  hint: copy the files from a backup, or run {result.output}/settings.toml again with --overwrite",
        )


def _share(part: int, whole: int) -> str:
    """A share in percent; 0% and 100% are exact."""
    if part in (0, whole):
        return "100%" if part else "0%"
    return f"{min(max(part / whole, 0.0001), 0.9999):.2%}"


def report_json(result: Report) -> dict[str, Any]:
    """A report as JSON values; an infinite number is text."""

    def plain(value: float | None) -> float | str | None:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    variables = [
        {"name": c.name, "type": c.dtype, "nulls": c.nulls}
        | {"null_share": c.nulls / result.rows if result.rows else None, "min": plain(c.low), "max": plain(c.high)}
        for c in result.columns
    ]
    return picked(result, "output exit_code rows") | {
        "checks": {check: {"level": result.level(check), "numbers": text} for check, text in result.numbers.items()},
        "findings": [picked(finding, "level check message") for finding in result.findings],
        "variables": variables,
    }
