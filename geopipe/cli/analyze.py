"""`geopipe analyze`, and what commands that pass over a finished table share: the engine, and progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from geopipe.cli.options import json_option, names_of, print_json

if TYPE_CHECKING:
    from geopipe.analysis.drive import Step, Watch

F = TypeVar("F", bound=Callable[..., Any])


def engine_options(command: F) -> F:
    """The options --engine and --address of a command that passes over a table."""
    engine = click.option(
        "--engine",
        type=click.Choice(["auto", "ray", "local"]),
        default="auto",
        show_default=True,
        help="Threads of this process (local) or Ray; auto: Ray where a cluster exists.",
    )
    return engine(click.option("--address", metavar="ADDRESS", help="Ray cluster to join.")(command))


@click.command(epilog="Example: geopipe analyze output --methods summary,pca")
@click.argument("output", metavar="OUTPUT")
@click.option("--methods", default="summary", show_default=True, metavar="NAME,...", help="What to compute.")
@click.option("--columns", default="", metavar="NAME,...", help="Variables to look at; all of them without it.")
@click.option("--nulls", type=click.Choice(["drop", "mean"]), help="Rows that lack a value: leave out, or fill.")
@click.option("--seed", type=int, help="Of all random choices.")
@click.option(
    "--set", "flags", multiple=True, metavar="KEY=VALUE", help="An option of a method: kmeans_k=6; repeat for several."
)
@engine_options
@json_option
def analyze(
    output: str,
    methods: str,
    columns: str,
    flags: tuple[str, ...],
    engine: Any,
    address: str | None,
    as_json: bool,
    **common: Any,
) -> None:
    """Analyse a finished table.

    OUTPUT is the output folder of a run. Results stand beside the table, in OUTPUT/analysis/NAME: result.json, small
    tables as Parquet, and files with a value for each cell. The table is not touched. The methods and their options are
    those of [analysis] in the settings (geopipe config reference).
    """
    from geopipe import api
    from geopipe.analysis.stage import analyze_table
    from geopipe.cli import show_analysis
    from geopipe.cli.screen import console
    from geopipe.settings import load

    keys = {"methods": names_of(methods), "columns": names_of(columns)}
    keys |= {key: value for key, value in common.items() if value is not None}
    settings = load.analysis([*(f"analysis.{_flag(key, value)}" for key, value in keys.items()), *map(_full, flags)])
    table = api.open(output)
    with progress(as_json) as watch:
        analyses = analyze_table(table, settings, engine, address, watch)
    if as_json:
        print_json([show_analysis.analysis_json(analysis) for analysis in analyses])
    else:
        show_analysis.analyses(console(), analyses)


def _flag(key: str, value: Any) -> str:
    """A value as the text of a flag, which TOML reads."""
    import json

    return f"{key}={json.dumps(value)}"


def _full(flag: str) -> str:
    """A flag with its section, which may be left out."""
    return flag if flag.startswith("analysis.") else f"analysis.{flag}"


@contextmanager
def progress(quiet: bool) -> Iterator[Watch]:
    """Show how far passes are: a bar for each on a terminal, elsewhere nothing."""
    from geopipe.cli.screen import console, on_terminal
    from geopipe.events import logs

    logs.configure_logging("WARNING", "text")
    out = console(stderr=True)
    if quiet or not on_terminal(out):
        yield lambda step: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as bars:
        bar = bars.add_task("", total=None)

        def watch(step: Step) -> None:
            text = f"{step.method}: {step.title}" + (f" ({step.number})" if step.number > 1 else "")
            bars.update(bar, description=text, completed=step.tile, total=step.tiles)

        yield watch
