"""`geopipe config`: the settings of a file, the reference of all settings, and their JSON Schema."""

from __future__ import annotations

import json
from pathlib import Path

import click

from geopipe.cli.options import file_argument, json_option, load_settings, print_json, set_option


@click.group()
def config() -> None:
    """Show settings, and the reference of every key."""


@config.command(epilog="Example: geopipe config show mine.toml --set grid.resolution=30")
@file_argument
@set_option
@json_option
def show(file: Path, flags: tuple[str, ...], as_json: bool) -> None:
    """Print every effective setting with its origin.

    SETTINGS is a TOML file. The origin of a value is a flag, a variable of the environment, a line of the file, or the
    default.
    """
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


@config.command(epilog="Example: geopipe config reference --format markdown")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown", "toml"]),
    default="text",
    show_default=True,
    help="Text, tables of Markdown, or a settings file with every key.",
)
def reference(form: str) -> None:
    """Print every key with its values, default and meaning."""
    from geopipe.settings import reference as keys

    forms = {"text": keys.text_reference, "markdown": keys.markdown_reference, "toml": keys.toml_reference}
    click.echo(forms[form](), nl=False)


@config.command(epilog="Example: geopipe config schema > geopipe.schema.json")
def schema() -> None:
    """Print a JSON Schema of the settings, for editors."""
    from geopipe.settings.reference import schema as json_schema

    print_json(json_schema())
