"""The help of every command: a sentence, its arguments, an example, and no line that is cut."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from geopipe.cli.main import cli


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, own in command.commands.items():
            yield from commands(own, (*path, name))


ALL = list(commands(cli))


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) or "geopipe" for path, _ in ALL])
def test_help_fits_80_columns_and_has_a_sentence_arguments_and_an_example(
    path: tuple[str, ...], command: click.Command
) -> None:
    shown = CliRunner().invoke(cli, [*path, "--help"], prog_name="geopipe", terminal_width=80)
    assert shown.exit_code == 0
    usage, *lines = shown.output.splitlines()
    assert usage.startswith(" ".join(("Usage: geopipe", *path)))
    assert not [line for line in lines if len(line) > 80 or line.rstrip().endswith("...")]
    text = command.help or ""
    assert text.partition("\n")[0].rstrip().endswith(".")
    assert all(p.help for p in command.params if isinstance(p, click.Option))
    if isinstance(command, click.Group):
        return
    assert (command.epilog or "").startswith(f"Example: geopipe {' '.join(path)}")
    for argument in (p for p in command.params if isinstance(p, click.Argument)):
        name = argument.make_metavar(click.Context(command)).strip("[].")
        assert name in text, f"{name} is not explained"


def leaves() -> dict[str, click.Command]:
    return {" ".join(path): command for path, command in ALL if not isinstance(command, click.Group)}


@pytest.mark.parametrize("name", leaves())
def test_an_example_parses(name: str) -> None:
    command = leaves()[name]
    words = str(command.epilog).removeprefix(f"Example: geopipe {name}").partition(" > ")[0].partition(" | ")[0].split()
    command.make_context(name, words, resilient_parsing=False)
