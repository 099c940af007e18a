"""`geopipe report`: the report of a finished table, and what differs between two."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
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
@click.option("--serve", is_flag=True, help="Show a run at work in a browser, then its report.")
@click.option("--host", default="127.0.0.1", show_default=True, help="With --serve: address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="With --serve: port (default: a free one).")
@json_option
def report(output: str, file: Path | None, against: str | None, serve: bool, as_json: bool, **place: Any) -> int:
    """Write the report of a finished table.

    OUTPUT is the output folder of a run, or the URI of an object store. The page is OUTPUT/report.html: one file, which
    needs no network. --json prints what it says.

    With --against the page is OUTPUT/report/against.html: which variables, tiles and quantiles differ. The exit code is
    1 if the two tables differ, and 0 if every cell is the same.

    With --serve OUTPUT may also be a run that `geopipe monitor runs` lists, by id or name, or "latest". A page shows
    its tiles as they are committed, its stages, pace and errors, and becomes the report when the run is done. Only this
    machine can read it; with --host of another address its own address has a token.
    """
    if serve:
        return _serve(output, **place)
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


def _serve(target: str, host: str, port: int) -> int:
    """Serve the page of a run until a person stops it."""
    from geopipe.report.live import server

    with server(target, host, port) as (address, listen):
        click.echo(f"{address}  (Ctrl-C ends it; a run goes on)")
        with suppress(KeyboardInterrupt):
            listen()
    return 0


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
