"""Commands that plan and run: `geopipe plan`, `geopipe run` and `geopipe demo`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geopipe.cli.jobs import follow, interrupt_option, show
from geopipe.cli.options import file_argument, json_option, load_settings, picked, print_json, set_option
from geopipe.errors import noted

if TYPE_CHECKING:
    from geopipe.run.progress import Bars
    from geopipe.settings.model import Settings


@click.command(epilog="Example: geopipe plan mine.toml --set grid.resolution=30")
@file_argument
@set_option
@click.option("--verbose", "-v", is_flag=True, help="Show the reasons, too: strategy, tasks, methods.")
@json_option
def plan(file: Path, flags: tuple[str, ...], verbose: bool, as_json: bool) -> None:
    """Show what a run would do; write nothing.

    Reads the headers of the files that SETTINGS, a TOML file, names. It shows the table, time, memory and disk that the
    run needs, and refuses what cannot fit. `fractions = true` reads every pixel to find the classes.
    """
    from geopipe import api
    from geopipe.cli import show_plan
    from geopipe.cli.screen import console

    settings = load_settings(file, flags)
    planned = api.plan(settings)
    if as_json:
        print_json(planned.describe() | picked(settings.run, "output staging"))
    else:
        show_plan.plan(console(), planned, settings.run, verbose)
        console().print(f"next:   geopipe run {file}")


@click.command(epilog="Example: geopipe run mine.toml --resume")
@file_argument
@set_option
@json_option
@click.option("--overwrite", is_flag=True, help="Replace a finished run in the output.")
@click.option("--resume", is_flag=True, help="Continue a run that was cut short; start it if there is none.")
@click.option("--fresh", is_flag=True, help="Delete the tiles of runs that were cut short.")
@click.option("--address", help="Ray cluster to use: host:port, or http://head:8265 to submit the run as a job.")
@interrupt_option
@click.option("--engine", type=click.Choice(["auto", "ray", "local"]), help="Ray or this process (engine.kind).")
@click.option("--run-id", hidden=True, help="The id that `geopipe jobs start` gave the run.")
@click.option("--attempt", type=int, default=1, hidden=True, help="The number of the attempt.")
def run(
    file: Path,
    flags: tuple[str, ...],
    as_json: bool,
    address: str | None,
    on_interrupt: str,
    engine: str | None,
    **options: Any,
) -> int:
    """Run the settings and write one table.

    SETTINGS is a TOML file. The output has the finished table or, if anything fails, what it had before.

    --resume continues a run that was cut short, from its finished tiles; it refuses if settings or sources have
    changed. Without --resume the tiles are kept if nothing has changed (on a terminal you are asked). --fresh deletes
    them.

    For an object store (run.output = "s3://...") the run works in run.staging and then sends the table, _SUCCESS last.
    --resume sends again what did not arrive.

    Without --address RAY_ADDRESS counts, and without both Ray is started here if it is needed. An http address submits
    the run as a job with these settings, prints what it prints, and exits with its code.
    """
    from geopipe.engine import address as addresses
    from geopipe.jobs import checks

    checks.check_versions()
    if options["fresh"] and options["resume"]:
        raise click.UsageError("--fresh deletes what --resume continues: give one of them")
    if address:
        flags = (*flags, f"engine.address={json.dumps(address)}")
    if engine:
        flags = (*flags, f"engine.kind={engine}")
    settings = load_settings(file, flags)
    target = addresses.requested(settings.engine.address)
    if addresses.is_http(target) and settings.engine.kind != "local":
        return _submit(settings, target, as_json, on_interrupt, [name for name in CHOICES if options[name]])
    checks.check_output(settings)
    return _run(settings, as_json, **options)


CHOICES = ("overwrite", "resume", "fresh")
"""Options that a job takes over."""


def _submit(settings: Settings, address: str, as_json: bool, on_interrupt: str, choices: list[str]) -> int:
    """Run the settings as a job of the cluster at an http address; returns the exit code of the run."""
    from geopipe.events.records import new_run_id
    from geopipe.jobs import head
    from geopipe.jobs.submission import RayJob, job_id

    address = head.cluster(address)
    job = RayJob(address, job_id(new_run_id()))
    flags = [f"--{name}" for name in (*choices, *(["json"] if as_json else []))]
    with noted(lambda: f"the job may have begun; {job.advice}"):
        job.submit(settings, flags, {})
    click.echo(f"submitted as job {job.name} to {address}; see {address.rstrip('/')}/#/jobs/{job.name}", err=True)
    follow(job, on_interrupt, job.advice, json_printer() if as_json else show)
    return job.exit_code()


def json_printer() -> Callable[[str], None]:
    """A function that prints the JSON document in a job's output on stdout, and the lines before it on stderr."""
    rest, begun = "", False

    def separate(text: str) -> None:
        nonlocal rest, begun
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            begun = begun or line == "{"
            click.echo(line, err=not begun)

    return separate


def _run(settings: Settings, as_json: bool, **options: Any) -> int:
    """Run the settings with progress on stderr, and print the summary; returns the exit code."""
    from geopipe import api
    from geopipe.cli import progress, show_outputs
    from geopipe.cli.screen import console
    from geopipe.run.progress import Bars

    shown = progress.progress(settings.monitoring.progress_interval, as_json, settings.run.name, settings.run.output)
    with progress.without_noise(), shown as watch:
        if sys.stdin.isatty() and isinstance(watch, Bars):
            options["confirm"] = partial(_confirm, watch)
        summary = api.execute(settings, watch, **options)
    if as_json:
        print_json(show_outputs.summary_json(summary))
    else:
        show_outputs.summary(console(), summary)
    return summary.exit_code


def _confirm(screen: Bars, question: str) -> bool:
    try:
        with screen.aside():
            return click.confirm(question, default=True, err=True)
    except click.Abort:
        raise KeyboardInterrupt from None


@click.command(epilog="Example: geopipe demo --folder demo")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
    help="Folder for rasters, settings and output.",
)
@set_option
def demo(folder: Path, flags: tuple[str, ...]) -> int:
    """Make rasters that disagree on purpose, and merge them on Ray.

    Writes eight small rasters in four CRS and the settings that merge them, shows the plan, runs it, and prints the
    first rows of the table. A later `geopipe run` of the settings needs no Ray: the plan takes the faster engine.
    """
    from geopipe import api
    from geopipe.cli import show_inputs, show_plan
    from geopipe.cli.screen import console, headline
    from geopipe.demo import generate
    from geopipe.layers.header import Header

    out = console()
    file = generate(folder)
    settings = load_settings(file, ("engine.kind=ray", *flags))
    headline(out, f"rasters in {folder / 'data'}")
    show_inputs.headers(out, [h for h in api.inspect(folder / "data") if isinstance(h, Header)])
    out.print()
    show_plan.plan(out, api.plan(settings), settings.run)
    out.print()
    code = _run(settings, as_json=False, overwrite=True)
    out.print()
    headline(out, "first rows")
    click.echo(_first_rows(settings.run.output))
    out.print(f"\nsettings: {file}\ntable:    parquet and csv in {settings.run.output}")
    if settings.report.enabled:
        out.print(f"report:   {settings.run.output}/report.html")
    out.print(f"next:     geopipe plan {file}   or edit it and   geopipe run {file} --overwrite")
    if settings.monitoring.enable_database_logging:
        out.print(
            "history:  geopipe monitor logs   or   geopipe monitor watch latest   in another terminal during a run"
        )
    return code


def _first_rows(output: str, count: int = 8) -> str:
    import pandas as pd
    import pyarrow.dataset as ds
    from pyarrow.fs import FileSystem

    fs, root = FileSystem.from_uri(output)
    with pd.option_context("display.width", shutil.get_terminal_size((120, 24)).columns, "display.max_columns", 30):
        return str(ds.dataset(f"{root}/parquet", filesystem=fs).head(count).to_pandas())
