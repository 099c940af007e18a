"""The command line: it parses, calls, and prints. What loads Ray or rasterio is imported where it is used."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from geopipe import __version__
from geopipe.cli import signals
from geopipe.cli.db import db
from geopipe.cli.jobs import jobs
from geopipe.cli.monitor import monitor
from geopipe.cli.options import HELP, json_option, print_json
from geopipe.errors import GeopipeError, Terminated, find_signal

if TYPE_CHECKING:
    from geopipe.cli.progress import Screen
    from geopipe.settings.load import Settings

F = TypeVar("F", bound=Callable[..., Any])

file_argument = click.argument("file", metavar="SETTINGS", type=click.Path(path_type=Path))
set_option = click.option(
    "--set", "flags", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a setting; may be given again."
)


def main() -> NoReturn:
    """Run the command line and exit with its code: 0 done, 1 failed, 2 usage or settings, 3 environment, 4 skipped."""

    def terminate(number: int, _: object) -> NoReturn:
        raise Terminated(number)

    signal.signal(signal.SIGTERM, terminate)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, terminate)
    signals.keep()
    try:
        code = cli.main(standalone_mode=False)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # all is done and said: its code is the truth
            signal.signal(number, signal.SIG_IGN)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except GeopipeError as error:
        _say(f"error: {error}")
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort, Terminated) as error:
        code = _ended_by(error)
    except BrokenPipeError:
        code = 0
    code = code if isinstance(code, int) else 0
    guard = sys.modules.get("geopipe.engine.guard")  # which loads Ray
    if guard is not None and guard.abandoned.is_set():
        sys.stdout.flush()
        os._exit(code)  # at a usual end Ray would wait for its head, and end the process with a code of its own
    sys.exit(code)


def _ended_by(error: BaseException) -> int:
    """Say that a signal has ended the command, and what that has come to; returns the exit code."""
    found = find_signal(error) or error
    how, code = ("terminated", found.exit_code) if isinstance(found, Terminated) else ("interrupted", 130)
    _say("; ".join((how, *getattr(found, "__notes__", ()))))
    return code


def _say(text: str) -> None:
    """Print an error or a warning; it may have names of files in it."""
    from geopipe.text import message

    try:
        click.echo(message(text), err=True)
    except OSError:  # the terminal is gone; Python would try once more when it ends, and exit with a code of its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


@click.group(context_settings=HELP)
@click.version_option(__version__, prog_name="geopipe")
def cli() -> None:
    """Many rasters in, one table out.

    geopipe puts rasters that agree in nothing on one grid and merges them into one table: a row per cell, a column per
    variable, as Parquet and CSV. Start with `geopipe demo`.
    """


def _load(file: Path, flags: tuple[str, ...]) -> Settings:
    from geopipe.events import logs
    from geopipe.settings import load as settings

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", DeprecationWarning)
        loaded = settings.load(file, flags)
    for one in told:
        _say(f"warning: {one.message}")
    logs.configure_logging(loaded.monitoring.log_level, loaded.monitoring.log_format)
    return loaded


cli.add_command(db)
cli.add_command(jobs)
cli.add_command(monitor)


@cli.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--allow", multiple=True, help="A folder, or the beginning of addresses, that the files may refer to.")
@click.option("--driver", help="GDAL's driver, where names do not tell it; or of a service on the web: WMS.")
@json_option
def inspect(paths: tuple[str, ...], allow: tuple[str, ...], driver: str | None, as_json: bool) -> None:
    """Show what rasters and tables say of themselves: CRS, size, bands or columns, types, nodata, layout.

    PATH is a file, a folder, a glob, or anything that GDAL opens. Only headers are read, and all of a CSV.
    """
    from geopipe.cli import show as render
    from geopipe.errors import SourceError
    from geopipe.layers.access import Access
    from geopipe.layers.tables import is_table
    from geopipe.load import raster, tables

    access = Access(allow, driver)
    files = [file for path in paths for file in raster.expand(path)]
    if not files:
        raise SourceError(f"no file matches {', '.join(paths)}", "give a file, a folder or a glob in quotes")
    found: dict[bool, list[Any]] = {False: [], True: []}  # rasters and tables
    errors = []
    for file in files:
        try:
            found[is_table(file)].append(tables.header(file) if is_table(file) else raster.inspect(file, access=access))
        except SourceError as error:
            if len(files) == 1:
                raise
            errors.append(error)
    if as_json:
        print_json([*map(render.header_json, found[False]), *map(render.table_json, found[True])])
    else:
        out = render.console()
        for table, show in ((False, render.headers), (True, render.tables)):
            if found[table]:
                show(out, found[table])
    for met in errors:
        _say(f"error: {met}")
    if errors:
        sys.exit(SourceError.exit_code)


@cli.command()
@file_argument
@set_option
@json_option
def plan(file: Path, flags: tuple[str, ...], as_json: bool) -> None:
    """Show what a run would do, and refuse what cannot fit. Only headers are read, nothing is written."""
    from geopipe.cli import show as render
    from geopipe.run import draft

    settings = _load(file, flags)
    made = draft.draft(settings)
    if as_json:
        print_json(made.describe() | render.places(settings.run))
    else:
        render.plan(render.console(), made, settings.run)


def _run(settings: Settings, as_json: bool, **how: Any) -> int:
    from geopipe.cli import progress
    from geopipe.cli import show as render
    from geopipe.run import pipeline

    shown = progress.progress(settings.monitoring.progress_interval, as_json, settings.run.name, settings.run.output)
    with progress.without_noise(), shown as watch:
        if sys.stdin.isatty() and isinstance(watch, progress.Screen):
            how["confirm"] = partial(_confirm, watch)
        made = pipeline.run(settings, watch=watch, **how)
    if as_json:
        print_json(render.summary_json(made))
    else:
        render.summary(render.console(), made)
    return made.exit_code


def _confirm(screen: Screen, question: str) -> bool:
    try:
        with screen.aside():
            return click.confirm(question, default=True, err=True)
    except click.Abort:
        raise KeyboardInterrupt from None


@cli.command()
@file_argument
@set_option
@json_option
@click.option("--overwrite", is_flag=True, help="Replace a finished run in the output.")
@click.option("--resume", is_flag=True, help="Go on with a run that was cut short; start it where there is none.")
@click.option("--fresh", is_flag=True, help="Drop what runs that were cut short have left in the output.")
@click.option("--address", help="Use the Ray cluster at this address (else RAY_ADDRESS, else one is started).")
@click.option("--local", is_flag=True, help="Use the plain loop in this process instead of Ray.")
@click.option("--run-id", hidden=True, help="The id under which `geopipe jobs start` has noted the run.")
@click.option("--attempt", type=int, default=1, hidden=True, help="The attempt under which it has.")
def run(
    file: Path,
    flags: tuple[str, ...],
    as_json: bool,
    overwrite: bool,
    resume: bool,
    fresh: bool,
    address: str | None,
    local: bool,
    run_id: str | None,
    attempt: int,
) -> int:
    """Run the settings: read, resample, merge, and write one table.

    The output folder has the finished table or, if anything fails, what it had before. A run that was cut short goes on
    with --resume, and does again only the tiles that were in work; it is refused if settings or sources have changed.
    Without --resume its tiles are kept, too, where nothing has changed (a terminal is asked), and dropped with --fresh.
    To an object store (run.output = "s3://...") the finished table is sent from run.staging, _SUCCESS last; --resume
    sends again what did not arrive.
    """
    if fresh and resume:
        raise click.UsageError("--fresh drops what --resume would go on with: give one of them")
    if address:
        flags = (*flags, f"engine.address={json.dumps(address)}")
    how = {"overwrite": overwrite, "resume": resume, "fresh": fresh, "local": local}
    return _run(_load(file, flags), as_json, **how, run_id=run_id, attempt=attempt)


@cli.command()
@click.argument("output", metavar="OUTPUT")
@json_option
def status(output: str, as_json: bool) -> None:
    """Say what an output holds: a finished table, an unfinished run and what it lacks, a run at work.

    OUTPUT is an output folder, a run.staging, or the URI of an object store: is there a table, are all its objects?
    """
    from geopipe.cli import show as render
    from geopipe.export import objects, state
    from geopipe.layers import uris

    if uris.is_store(output):
        stored = objects.status(output)
        if as_json:
            print_json(asdict(stored))
        else:
            render.stored(render.console(), stored)
        return
    found = state.status(Path(output))
    if as_json:
        print_json(render.status_json(found))
    else:
        render.status(render.console(), found)


@cli.command()
@click.argument("output", metavar="OUTPUT", type=click.Path(path_type=Path))
@json_option
def validate(output: Path, as_json: bool) -> int:
    """Check a finished table: its files against the manifest, its rows against what was planned.

    OUTPUT is the output folder of a run. Every file is read. Exits with 1 if anything is wrong.
    """
    from geopipe.cli import show as render
    from geopipe.validate import output as validation

    report = validation.validate(output)
    if as_json:
        print_json(render.report_json(report))
    else:
        render.report(render.console(), report)
    return report.exit_code


@cli.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
    help="Where the demo's rasters, settings and output go.",
)
@set_option
def demo(folder: Path, flags: tuple[str, ...]) -> int:
    """Make rasters that disagree on purpose, and run the main job on them."""
    from geopipe import demo as demonstration
    from geopipe.cli import show as render
    from geopipe.run import draft

    out = render.console()
    file = demonstration.generate(folder)
    settings = _load(file, flags)
    render.headline(out, f"rasters in {folder / 'data'}")
    from geopipe.load import raster

    render.headers(out, [raster.inspect(f) for f in raster.expand(str(folder / "data"))])
    out.print()
    render.plan(out, draft.draft(settings), settings.run)
    out.print()
    code = _run(settings, as_json=False, overwrite=True)
    out.print()
    render.headline(out, "first rows")
    click.echo(_first_rows(settings.run.output))
    out.print(f"\nsettings: {file}\ntable:    parquet and csv in {settings.run.output}")
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


@cli.group()
def config() -> None:
    """Look at settings."""


@config.command()
@file_argument
@set_option
@json_option
def show(file: Path, flags: tuple[str, ...], as_json: bool) -> None:
    """Print the effective settings, and where each value comes from."""
    from geopipe.settings import load as settings
    from geopipe.text import clean

    rows = settings.origins(_load(file, flags), file, flags)
    if as_json:
        print_json([{"key": key, "value": value, "origin": origin} for key, value, origin in rows])
        return
    wide = max(len(key) for key, _, _ in rows)
    for key, value, origin in rows:
        shown = "" if value is None else json.dumps(value)
        click.echo(f"{key:<{wide}}  {clean(shown):<40}  {clean(origin)}")
