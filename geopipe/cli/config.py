"""`geopipe config`: the settings of a file, and where each value comes from."""

from __future__ import annotations

import json
from pathlib import Path

import click

from geopipe.cli.options import file_argument, json_option, load_settings, print_json, set_option


@click.group()
def config() -> None:
    """Look at settings."""


@config.command()
@file_argument
@set_option
@json_option
def show(file: Path, flags: tuple[str, ...], as_json: bool) -> None:
    """Print the effective settings, and where each value comes from."""
    from geopipe.settings.load import origins
    from geopipe.text import clean

    rows = origins(load_settings(file, flags), file, flags)
    if as_json:
        print_json([{"key": key, "value": value, "origin": origin} for key, value, origin in rows])
        return
    width = max(len(key) for key, _, _ in rows)
    for key, value, origin in rows:
        text = "" if value is None else json.dumps(value)
        click.echo(f"{key:<{width}}  {clean(text):<40}  {clean(origin)}")
