"""`geopipe report`: the report of a finished table, and what differs between two."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geopipe.cli.options import json_option, print_json

if TYPE_CHECKING:
    from rich.console import Console


@click.command(epilog="Example: geopipe report output --against yesterday")
@click.argument("output", metavar="OUTPUT")
@click.option("-o", "--file", type=click.Path(path_type=Path, dir_okay=False), help="File for the page.")
@click.option("--against", metavar="OTHER", help="Another output: report what differs.")
@json_option
def report(output: str, file: Path | None, against: str | None, as_json: bool) -> int:
    """Write the report of a finished table.

    OUTPUT is the output folder of a run, or the URI of an object store. The page is OUTPUT/report.html: one file, which
    needs no network. --json prints what it says.

    With --against the page is OUTPUT/report/against.html: which variables, tiles and quantiles differ. The exit code is
    1 if the two tables differ, and 0 if every cell is the same.
    """
    from geopipe.cli.screen import console
    from geopipe.report import write

    if against is None:
        page, facts = write.report(output, file)
        if as_json:
            print_json(facts | {"page": page})
        else:
            _show(console(), facts)
            console().print(f"report: {page}")
        return 0
    page, comparison = write.compare(output, against, file)
    if as_json:
        print_json(comparison | {"page": page})
    else:
        _show_comparison(console(), comparison)
        console().print(f"report: {page}")
    return 0 if comparison["same"] else 1


def _show(out: Console, facts: Mapping[str, Any]) -> None:
    """Write the alerts."""
    from geopipe.cli.screen import headline

    colours = {"error": "red", "warning": "yellow", "note": ""}
    for alert in facts["alerts"]:
        headline(out, f"{alert['level']:<8}", f" {alert['title']}", colours[alert["level"]])
    if not facts["alerts"]:
        out.print("no alerts")


def _show_comparison(out: Console, comparison: Mapping[str, Any]) -> None:
    """Write a line for each variable that differs."""
    from geopipe.text import listed

    if comparison["same"]:
        out.print("every cell of every variable is the same")
    if not comparison["same_grid"]:
        out.print("the grids differ: cells cannot be compared, distributions are")
    for output, names in zip(comparison["outputs"], comparison["missing"], strict=True):
        if names:
            out.print(f"only in {output}: {listed(names)}")
    if comparison["rows_alone"] and any(comparison["rows_alone"]):
        counts = zip(comparison["rows_alone"], comparison["outputs"], strict=True)
        out.print("rows in one alone: " + ", ".join(f"{count:,} in {output}" for count, output in counts))
    for variable in comparison["variables"]:
        if variable["same"]:
            continue
        cells = variable["cells"]
        text = "its distribution or its type differs"
        if cells and cells["count"]:
            text = f"{cells['count']:,} of {cells['of']:,} cells differ"
            text += "" if variable["kind"] == "categorical" else f", by {cells['largest']:.4g} at most"
            text += f"; tiles {listed(cells['tiles'])}"
        out.print(f"{variable['name']}: {text}")
