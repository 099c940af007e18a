"""What the commands share: options, settings from a file, errors and JSON. Imports click and light modules only."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from geopipe.redaction import redacted

if TYPE_CHECKING:
    from geopipe.settings.model import Settings

F = TypeVar("F", bound=Callable[..., Any])

HELP = {"help_option_names": ["-h", "--help"]}

file_argument = click.argument("file", metavar="SETTINGS", type=click.Path(path_type=Path))
set_option = click.option(
    "--set", "flags", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a setting; repeat for several."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def picked(value: object, names: str) -> dict[str, Any]:
    """Attributes of a value by their names, which stand in one text with blanks between them."""
    return {name: getattr(value, name) for name in names.split()}


def names_of(text: str) -> list[str]:
    """Names in a text, with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


def print_json(value: object) -> None:
    """Print a value as JSON. Types that JSON lacks become text, and secrets in texts are hidden."""
    click.echo(json.dumps(redacted(value), indent=2, default=str))


def print_error(text: str) -> None:
    """Print an error or a warning on stderr, with control characters escaped."""
    from geopipe.text import message

    try:
        click.echo(message(text), err=True)
    except OSError:  # the terminal is gone; at its end Python would flush once more and exit with a code of its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def load_settings(file: Path, flags: tuple[str, ...]) -> Settings:
    """Load settings, print a warning for each deprecated key, and set up logging as they say."""
    from geopipe.events import logs
    from geopipe.settings.load import load

    with warnings.catch_warnings(record=True) as deprecations:
        warnings.simplefilter("always", DeprecationWarning)
        settings = load(file, flags)
    for deprecation in deprecations:
        print_error(f"warning: {deprecation.message}")
    logs.configure_logging(settings.monitoring.log_level, settings.monitoring.log_format)
    return settings
