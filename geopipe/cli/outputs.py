"""Commands about outputs: `geopipe status`, `geopipe validate` and `geopipe open`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from geopipe.cli.options import json_option, print_json


@click.command(epilog="Example: geopipe status output")
@click.argument("output", metavar="OUTPUT")
@json_option
def status(output: str, as_json: bool) -> None:
    """Show the state of an output: finished, unfinished, at work.

    OUTPUT is an output folder, a run.staging, or the URI of an object store. Of an unfinished run it shows the missing
    tiles, of a table in an object store the missing objects.
    """
    from geopipe.cli import show_outputs
    from geopipe.cli.screen import console
    from geopipe.export import objects, state
    from geopipe.layers import uris

    if uris.is_store(output):
        stored = objects.status(output)
        if as_json:
            print_json(asdict(stored))
        else:
            show_outputs.stored(console(), stored)
        return
    folder = state.status(Path(output))
    if as_json:
        print_json(show_outputs.status_json(folder))
    else:
        show_outputs.status(console(), folder)


@click.command(epilog="Example: geopipe validate output")
@click.argument("output", metavar="OUTPUT", type=click.Path(path_type=Path))
@json_option
def validate(output: Path, as_json: bool) -> int:
    """Check the files and rows of a finished table.

    OUTPUT is the output folder of a run. Every file is read and compared with the manifest and the plan. The exit code
    is 1 if anything is wrong.
    """
    from geopipe import api
    from geopipe.cli import show_outputs
    from geopipe.cli.screen import console

    report = api.validate(output)
    if as_json:
        print_json(show_outputs.report_json(report))
    else:
        show_outputs.report(console(), report)
    return report.exit_code


@click.command("open", epilog="Example: geopipe open output")
@click.argument("output", metavar="OUTPUT")
@json_option
def open_table(output: str, as_json: bool) -> None:
    """Show what a table holds and how to read it.

    OUTPUT is the output folder of a finished run, or the URI of an object store. The lines for Python, pandas, DuckDB,
    polars, R and QGIS have the paths and columns of this table.
    """
    from geopipe import api
    from geopipe.cli import show_table
    from geopipe.cli.screen import console

    table = api.open(output)
    if as_json:
        print_json(show_table.description_json(table))
    else:
        show_table.description(console(), table)
