"""Commands about input files: `geopipe inspect` and `geopipe init`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from geopipe.cli.options import json_option, print_error, print_json


@click.command(epilog="Example: geopipe inspect data/climate.nc --details")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--details", is_flag=True, help="Show variables, times, levels, palettes and lon/lat of each file.")
@click.option("--values", is_flag=True, help="Show the value range of each band, too. Reads every pixel.")
@click.option("--allow", multiple=True, help="A folder or address prefix that the files may refer to; may be repeated.")
@click.option("--driver", help="GDAL driver, if the file name does not tell it; needed for a web service: WMS.")
@json_option
def inspect(paths: tuple[str, ...], details: bool, values: bool, as_json: bool, **access: Any) -> None:
    """Show CRS, size, bands and types of rasters and tables.

    PATH is a file, a folder, a glob, or anything that GDAL opens. Only headers are read, and all of a CSV.
    """
    from geopipe import api
    from geopipe.cli import show_inputs
    from geopipe.cli.screen import console, headline
    from geopipe.errors import SourceError
    from geopipe.layers.access import Access
    from geopipe.layers.header import Header
    from geopipe.load.inspect import describe

    errors: list[SourceError] = []
    headers = api.inspect(*paths, **access, on_error=errors.append)
    if len(errors) == 1 and not headers:
        raise errors[0]
    rasters = [header for header in headers if isinstance(header, Header)]
    tables = [header for header in headers if not isinstance(header, Header)]
    infos = [describe(h, Access(**access), ranges=values) if details or values else None for h in rasters]
    out = console()
    if as_json:
        documents = [show_inputs.header_json(h, info) for h, info in zip(rasters, infos, strict=True)]
        print_json([*documents, *map(show_inputs.table_json, tables)])
    if rasters and not as_json:
        show_inputs.headers(out, rasters)
        for header, info in zip(rasters, infos, strict=True) if details or values or len(rasters) == 1 else ():
            if len(rasters) > 1:
                headline(out, header.uri)
            show_inputs.details(out, header, info)
    if tables and not as_json:
        show_inputs.tables(out, tables)
    for failure in errors:
        print_error(f"error: {failure}")
    if errors:
        sys.exit(SourceError.exit_code)


@click.command(epilog="Example: geopipe init data/ -o mine.toml")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option(
    "--output",
    "-o",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("mine.toml"),
    show_default=True,
    help="The settings file to write.",
)
@click.option("--force", is_flag=True, help="Replace the settings file if it exists.")
def init(paths: tuple[str, ...], file: Path, force: bool) -> None:
    """Write settings for files, with a comment on each guess.

    PATH is a file, a folder or a glob of rasters and tables. Layers, kinds, grid and bounds are guesses from the
    headers of the files; `geopipe plan` accepts them as they are.
    """
    from geopipe import api
    from geopipe.durable import replacing
    from geopipe.errors import SettingsError
    from geopipe.run.propose import propose
    from geopipe.text import clean, count

    if file.exists() and not force:
        raise SettingsError(f"{file} exists", "name another file with -o, or replace it with --force")
    text, layers, unused = propose(api.files_of(paths), file.resolve().parent, "run")
    with replacing(file) as out:
        out.write(text.encode())
    for name, reason in unused.items():
        print_error(f"not used: {clean(name)}: {clean(reason)}")
    click.echo(f"{clean(file)}: {count(layers, 'layer')}; check the guesses in it, then: geopipe plan {clean(file)}")
