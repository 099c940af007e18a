"""Commands about input files: `geopipe inspect` and `geopipe init`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from geopipe.cli.options import json_option, print_error, print_json


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--allow", multiple=True, help="A folder, or the beginning of addresses, that the files may refer to.")
@click.option("--driver", help="GDAL's driver, where names do not tell it; or of a service on the web: WMS.")
@json_option
def inspect(paths: tuple[str, ...], allow: tuple[str, ...], driver: str | None, as_json: bool) -> None:
    """Show what rasters and tables say of themselves: CRS, size, bands or columns, types, nodata, layout.

    PATH is a file, a folder, a glob, or anything that GDAL opens. Only headers are read, and all of a CSV.
    """
    from geopipe import api
    from geopipe.cli import show_inputs
    from geopipe.cli.screen import console
    from geopipe.errors import SourceError
    from geopipe.layers.header import Header

    errors: list[SourceError] = []
    headers = api.inspect(*paths, allow=allow, driver=driver, on_error=errors.append)
    if len(errors) == 1 and not headers:
        raise errors[0]
    rasters = [header for header in headers if isinstance(header, Header)]
    tables = [header for header in headers if not isinstance(header, Header)]
    if as_json:
        print_json([*map(show_inputs.header_json, rasters), *map(show_inputs.table_json, tables)])
    else:
        out = console()
        if rasters:
            show_inputs.headers(out, rasters)
        if tables:
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
