"""What the groups of the command line share. Loads nothing but click and what hides secrets."""

from __future__ import annotations

import json

import click

from geopipe.redaction import redacted

HELP = {"help_option_names": ["-h", "--help"]}

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def print_json(value: object) -> None:
    """Print a value; what JSON does not know becomes text, and secrets in texts are hidden."""
    click.echo(json.dumps(redacted(value), indent=2, default=str))
