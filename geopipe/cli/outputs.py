"""Commands about outputs: `geopipe status` and `geopipe validate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from geopipe.cli.options import json_option, print_json


@click.command()
@click.argument("output", metavar="OUTPUT")
@json_option
def status(output: str, as_json: bool) -> None:
    """Say what an output holds: a finished table, an unfinished run and what it lacks, a run at work.

    OUTPUT is an output folder, a run.staging, or the URI of an object store: is there a table, are all its objects?
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


@click.command()
@click.argument("output", metavar="OUTPUT", type=click.Path(path_type=Path))
@json_option
def validate(output: Path, as_json: bool) -> int:
    """Check a finished table: its files against the manifest, its rows against what was planned.

    OUTPUT is the output folder of a run. Every file is read. Exits with 1 if anything is wrong.
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
