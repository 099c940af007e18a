"""`geopipe monitor`: runs as the monitor's database has them. rich and psycopg2 are imported where they are used."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from geopipe.cli.options import HELP, json_option, print_json
from geopipe.errors import Paused, Terminated
from geopipe.monitoring.database.runs import KINDS
from geopipe.monitoring.states import DISPLAYED, LEVELS, STAGES

if TYPE_CHECKING:
    from psycopg2.extensions import connection
    from rich.console import Console

    from geopipe.monitoring.database.runs import RunRow

F = TypeVar("F", bound=Callable[..., Any])

EARLY = 3.0
"""Seconds that `watch` waits on a terminal for a run that is about to start, before it displays the last one."""

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
LONGEST = timedelta(weeks=5200)


def _age(_: click.Context, __: click.Parameter, text: str | None) -> timedelta | None:
    """Parse an age: 45s, 30m, 2h, 3d, 1w."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([smhdw])\s*", text.lower())
    age = timedelta(**{UNITS[match[2]]: float(match[1])}) if match and float(match[1]) < 1e6 else None
    if age is None or age > LONGEST:
        raise click.BadParameter(f"{text!r} is no age; give a number and a unit, such as 45s, 30m, 2h, 3d or 1w")
    return age


run_argument = click.argument("run", metavar="[RUN]", default="latest")
since_option = click.option("--since", metavar="AGE", callback=_age, help="Only the last AGE: 45s, 30m, 2h, 3d, 1w.")


def limit_option(default: int, what: str) -> Callable[[F], F]:
    """The option for the number of rows; 0 for all."""
    text = f"At most this many {what}; 0 for all."
    return click.option("--limit", type=click.IntRange(0), default=default, show_default=True, help=text)


@click.group(context_settings=HELP, epilog="Example: geopipe monitor watch latest")
def monitor() -> None:
    """Watch runs, and look at those that have ended.

    RUN is the id of a run, the start of an id, a name (its newest run) or `latest`, the default. The database is named
    by GEOPIPE_MONITORING_DSN or GEOPIPE_MONITORING_DSN_FILE, else it is the embedded server.
    """


@contextmanager
def _reading() -> Iterator[connection]:
    """A connection for a command that may be interrupted: a run does not notice its watchers."""
    from geopipe.monitoring import dead_runs
    from geopipe.monitoring.database import follow

    try:
        with follow.reading() as connected:
            dead_runs.settle(connected)
            yield connected
    except (KeyboardInterrupt, Terminated) as stop:
        click.echo("stopped watching; the run goes on", err=True)
        sys.exit(128 + (signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM))


@contextmanager
def _reading_run(reference: str) -> Iterator[tuple[connection, RunRow]]:
    """A connection, and the run that the argument RUN refers to."""
    from geopipe.monitoring.database import queries

    with _reading() as connected:
        yield connected, queries.find_run(connected, reference)


def _console() -> Console:
    from geopipe.cli import screen

    return screen.console()


def _print(value: Any, as_json: bool, show: Callable[[Console], None], run: RunRow | None = None) -> None:
    """Print a value as JSON or by `show`; a part of a run with the name of the run.

    Args:
        value: of a part of a run a dict.
    """
    from geopipe.cli import show_runs

    if as_json:
        print_json(show_runs.as_json(value if run is None else {"run": show_runs.run_named(run), **value}))
        return
    out = _console()
    if run is not None:
        show_runs.title(out, run)
    show(out)


def _print_limit(limit: int, which: str) -> None:
    click.echo(f"these are the {which} {limit:,}; --limit 0 shows all", err=True)


# ---------------------------------------------------------------- runs


@monitor.command(epilog="Example: geopipe monitor runs --state failed --since 1d")
@click.option("--name", metavar="GLOB", help="Runs of this name; * stands for any characters, ? for one.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(DISPLAYED),
    help="Runs in this state; may be repeated. Stale: no record for a minute.",
)
@since_option
@limit_option(20, "runs")
@json_option
def runs(name: str | None, states: tuple[str, ...], since: timedelta | None, limit: int, as_json: bool) -> None:
    """List runs, the newest first."""
    from geopipe.cli import show_runs
    from geopipe.monitoring.database import queries

    with _reading() as connected:
        rows = queries.runs(connected, name, states, since, limit + 1 if limit else None)
    filtered = name is not None or states or since is not None
    none = "no runs match" if filtered else "no run has been recorded yet"
    listed = rows[: limit or None]
    _print(listed, as_json, lambda out: show_runs.runs(out, listed) if rows else click.echo(none, err=True))
    if len(listed) < len(rows):
        _print_limit(limit, "newest")


# ---------------------------------------------------------------- watch


@monitor.command(epilog="Example: geopipe monitor watch latest")
@run_argument
@click.option(
    "--every",
    type=click.FloatRange(0),
    default=10.0,
    show_default=True,
    help="Seconds between two lines without a terminal.",
)
@click.option("--json", "as_json", is_flag=True, help="Print each line as JSON.")
def watch(run: str, every: float, as_json: bool) -> int:
    """Follow RUN until it ends or pauses.

    Shows its progress, speed, time left, resources and last errors. Exits with 0 if the run is completed, with 1 if it
    failed or was cancelled, with 75 if it is paused.
    """
    from geopipe.cli import live, screen
    from geopipe.monitoring.database import follow, queries

    with _reading() as connected:
        if run == "latest":
            early = EARLY if screen.on_terminal(_console()) else 0.0
            run_id = follow.newest(connected, early, lambda text: click.echo(text, err=True))
        else:
            run_id = queries.find_run(connected, run).run_id
        connected.close()
        out, read = _console(), partial(queries.look, run_id=run_id)
        looks = follow.until_done(follow.looks(follow.connect_to_read, run_id, read))
        if as_json or not screen.on_terminal(out):
            state = live.watch_lines(out, looks, every, as_json)
        else:
            state = live.watch_screen(out, looks)
    return {"completed": 0, "paused": Paused.exit_code}.get(state, 1)


# ---------------------------------------------------------------- logs


@monitor.command(epilog="Example: geopipe monitor logs latest --level warning --follow")
@run_argument
@click.option("--level", type=click.Choice(list(LEVELS), case_sensitive=False), help="Records of this level and above.")
@click.option("--stage", help=f"Records of this stage: {', '.join(STAGES)}.")
@click.option("--layer", help="Records of this layer.")
@since_option
@click.option("--grep", metavar="REGEX", help="Messages that match; (?i) at the start ignores case.")
@click.option("--follow", "-f", is_flag=True, help="Continue with new records until the run ends.")
@click.option("--traceback", "tracebacks", is_flag=True, help="Show tracebacks, and search them with --grep.")
@limit_option(200, "records, the last ones")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of text; with --follow one line for each record."
)
def logs(run: str, follow: bool, limit: int, as_json: bool, **conditions: Any) -> None:
    """Show the log of RUN, in the order of time."""
    from geopipe.cli import live, show_runs
    from geopipe.monitoring.database import history
    from geopipe.monitoring.database.runs import Filter

    filters = Filter(**conditions)
    with _reading_run(run) as (connected, row):
        if follow:
            live.follow_logs(connected, _console(), row, filters, limit, as_json)
            return
        records = history.last_logs(connected, row, filters, limit or None)
        total = history.count_logs(connected, row, filters) if limit and len(records) == limit else len(records)
    values = {"total": total, "logs": records}
    _print(values, as_json, lambda out: show_runs.logs(out, records, row.now, filters.tracebacks), row)
    if total > len(records) and not as_json:
        click.echo(f"the last {len(records):,} of {total:,} records; --limit 0 shows all", err=True)


# ---------------------------------------------------------------- metrics, events, errors


@monitor.command(epilog="Example: geopipe monitor metrics latest --type memory")
@run_argument
@click.option("--type", "kind", type=click.Choice(list(KINDS)), help="Metrics of this kind; without it all.")
@since_option
@json_option
def metrics(run: str, kind: str | None, since: timedelta | None, as_json: bool) -> None:
    """Plot the resources and the speed of RUN.

    One line for each node and stage, from the start of the run to now.
    """
    from geopipe.cli import show_metrics
    from geopipe.monitoring.database import history

    with _reading_run(run) as (connected, row):
        plots = history.metrics(connected, row, kind, 60 if as_json else show_metrics.FINE, since)
    _print(vars(plots), as_json, lambda out: show_metrics.metrics(out, plots, kind), row)


@monitor.command(epilog="Example: geopipe monitor events latest --limit 20")
@run_argument
@since_option
@limit_option(100, "events, the last ones")
@json_option
def events(run: str, since: timedelta | None, limit: int, as_json: bool) -> None:
    """Show the events of RUN.

    These are its plan, stages, waves, resumes, skipped layers and commits.
    """
    from geopipe.cli import show_runs
    from geopipe.monitoring.database import history

    with _reading_run(run) as (connected, row):
        rows = history.events(connected, row, since, limit + 1 if limit else None)
    last = rows[-limit:]
    _print({"events": last}, as_json, lambda out: show_runs.events(out, last, row.now), row)
    if len(last) < len(rows):
        _print_limit(limit, "last")


@monitor.command(epilog="Example: geopipe monitor errors latest --traceback")
@run_argument
@click.option("--traceback", is_flag=True, help="Show one traceback of each cause.")
@json_option
def errors(run: str, traceback: bool, as_json: bool) -> None:
    """Show the errors of RUN by cause, the most frequent first.

    For each cause: how often, when, in which stages and layers, and an example.
    """
    from geopipe.cli import show_runs
    from geopipe.monitoring.database import history

    with _reading_run(run) as (connected, row):
        causes = history.causes(connected, row, traceback)
    values = {"error": row.error, "causes": causes}
    _print(values, as_json, lambda out: show_runs.causes(out, row, causes, traceback), row)
