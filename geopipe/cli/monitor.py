"""`geopipe monitor`: what the monitor's database has of runs. rich and psycopg2 are imported where they are used."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from geopipe.cli.options import HELP, json_option, print_json
from geopipe.errors import Paused, Terminated
from geopipe.monitoring.database.runs import KINDS, LEVELS, SHOWN

if TYPE_CHECKING:
    from psycopg2.extensions import connection
    from rich.console import Console

    from geopipe.monitoring.database.follow import Away, Batch
    from geopipe.monitoring.database.runs import Filter, Look, Run

F = TypeVar("F", bound=Callable[..., Any])

EARLY = 3.0
"""Seconds that `watch` waits on a terminal for a run that is about to begin, before it shows the last one."""

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
LONGEST = timedelta(weeks=5200)


def _age(_: click.Context, __: click.Parameter, text: str | None) -> timedelta | None:
    """A time that has passed: 45s, 30m, 2h, 3d, 1w."""
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([smhdw])\s*", text.lower())
    passed = timedelta(**{UNITS[found[2]]: float(found[1])}) if found and float(found[1]) < 1e6 else None
    if passed is None or passed > LONGEST:
        raise click.BadParameter(f"{text!r} is no age; give a number and a unit, such as 45s, 30m, 2h, 3d or 1w")
    return passed


run_argument = click.argument("run", metavar="[RUN]", default="latest")
since_option = click.option("--since", metavar="AGE", callback=_age, help="Nothing older: 45s, 30m, 2h, 3d, 1w.")


def limit_option(default: int, what: str) -> Callable[[F], F]:
    """How much is shown; 0 is all of it."""
    text = f"At most so many {what}; 0 for all."
    return click.option("--limit", type=click.IntRange(0), default=default, show_default=True, help=text)


@click.group(context_settings=HELP)
def monitor() -> None:
    """Watch runs: those at work and those that have ended.

    RUN is the id of a run, the start of one, a name (its newest run), or `latest`, which is also what is meant where it
    is left out. The database is the one that GEOPIPE_MONITORING_DSN names, or the file that GEOPIPE_MONITORING_DSN_FILE
    names, else the embedded server.
    """


@contextmanager
def _reading() -> Iterator[connection]:
    """A connection for a command, which may be interrupted: a run does not notice whether it is watched."""
    from geopipe.monitoring import dead_runs
    from geopipe.monitoring.database import follow as following

    try:
        with following.reading() as connected:
            dead_runs.settle(connected)
            yield connected
    except (KeyboardInterrupt, Terminated) as stop:
        click.echo("stopped watching; what runs goes on", err=True)
        sys.exit(128 + (signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM))


def _console() -> Console:
    from geopipe.cli import screen

    return screen.console()


def _print_json(value: object) -> None:
    from geopipe.cli.show_runs import as_json

    print_json(as_json(value))


def _print_line(value: object) -> None:
    """JSON in a line that whoever reads gets at once."""
    click.echo(json.dumps(value))
    sys.stdout.flush()


def _left_out(shown: int, total: int, what: str) -> None:
    if total > shown:
        click.echo(f"the last {shown:,} of {total:,} {what}; --limit 0 shows all", err=True)


# ---------------------------------------------------------------- runs


@monitor.command()
@click.option("--name", metavar="GLOB", help="Runs of this name; * and ? stand for any characters and for one.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(SHOWN),
    help="Runs in this state; may be given again. Stale: not heard of for a minute.",
)
@since_option
@limit_option(20, "runs")
@json_option
def runs(name: str | None, states: tuple[str, ...], since: timedelta | None, limit: int, as_json: bool) -> None:
    """List runs, the newest first."""
    from geopipe.cli import show_runs
    from geopipe.monitoring.database import queries

    with _reading() as connected:
        found = queries.runs(connected, name, states, since, limit + 1 if limit else None)
    more = bool(limit) and len(found) > limit
    found = found[: limit or None]
    if as_json:
        _print_json(found)
    elif found:
        show_runs.runs(_console(), found)
    else:
        chosen = name is not None or states or since is not None
        click.echo("no run is like this" if chosen else "no run has been recorded yet", err=True)
    if more:
        click.echo(f"these are the newest {limit:,}; --limit 0 shows all", err=True)


# ---------------------------------------------------------------- watch


@monitor.command()
@run_argument
@click.option(
    "--every",
    type=click.FloatRange(0),
    default=10.0,
    show_default=True,
    help="Seconds between two lines where there is no terminal.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each line.")
def watch(run: str, every: float, as_json: bool) -> int:
    """Follow a run until it ends or pauses.

    How far it is, how fast, how long it still needs, what it uses, and its last errors. Exits with 0 when the run is
    completed, with 1 when it has failed or was cancelled, with 75 when it has paused.
    """
    from geopipe.cli import screen
    from geopipe.monitoring import dead_runs
    from geopipe.monitoring.database import follow as following
    from geopipe.monitoring.database import queries

    def look(connected: connection) -> Look:
        dead_runs.settle(connected, run_id)
        return queries.look(connected, run_id)

    with _reading() as connected:
        if run == "latest":
            early = EARLY if screen.on_terminal(_console()) else 0.0
            run_id = following.newest(connected, early, lambda text: click.echo(text, err=True))
        else:
            run_id = queries.find_run(connected, run).run_id
        connected.close()
        found = following.looks(following.connect_to_read, run_id, look)
        out = _console()
        if as_json or not screen.on_terminal(out):
            state = _watch_lines(out, following.until_done(found), every, as_json)
        else:
            state = _watch_screen(out, following.until_done(found))
    return {"completed": 0, "paused": Paused.exit_code}.get(state, 1)


def _watch_screen(out: Console, found: Iterator[Look | Away]) -> str:
    """Draw each look over the one before."""
    from rich.live import Live

    from geopipe.cli import show_watch
    from geopipe.monitoring.database import follow as following

    history: list[tuple[float, Look]] = []
    with Live(console=out, auto_refresh=False, transient=False, redirect_stdout=False, redirect_stderr=False) as live:
        for look in found:
            away = ""
            if isinstance(look, following.Away):
                away = look.reason
            else:
                following.remembered(history, look)
            if history:
                paces = following.paces(history)
                live.update(show_watch.screen(out, history[-1][1], paces, away), refresh=True)
    return history[-1][1].run.state


def _watch_lines(out: Console, found: Iterator[Look | Away], every: float, as_json: bool) -> str:
    """A line when the state changes or errors came, and every so often."""
    from geopipe.cli import show_watch
    from geopipe.cli.screen import say
    from geopipe.monitoring.database import follow as following

    history: list[tuple[float, Look]] = []
    seen: set[tuple[str, int]] = set()
    told: list[str] = []
    due, state, away = 0.0, "", False
    for look in found:
        if isinstance(look, following.Away):
            click.echo(show_watch.retrying(look.reason), err=True)
            away = True
            continue
        if away:
            click.echo("the database is back", err=True)
        following.remembered(history, look)
        paces, away = following.paces(history), False
        fresh = [record for record in look.errors if (record.source, record.seq) not in seen]
        seen.update((record.source, record.seq) for record in fresh)
        if due <= time.monotonic() or look.run.shown != state or look.run.over or (fresh and as_json):
            due, state = time.monotonic() + every, look.run.shown
            line = json.dumps(show_watch.look_json(look, paces)) if as_json else show_watch.line(look, paces)
            say(out, line)
        if not as_json:
            for note in show_watch.notes(look.run):
                kind = note.split()[0]  # a silence grows, and is told once
                if kind not in told:
                    told.append(kind)
                    say(out, note)
            for record in fresh:
                say(out, show_watch.error_line(record))
        out.file.flush()
    return history[-1][1].run.state


# ---------------------------------------------------------------- logs


@monitor.command()
@run_argument
@click.option(
    "--level",
    type=click.Choice(list(LEVELS), case_sensitive=False),
    help="Records of this level and above.",
)
@click.option("--stage", help="Records of this stage: read, merge, write.")
@click.option("--layer", help="Records of this layer.")
@since_option
@click.option("--grep", metavar="REGEX", help="Messages in which this is found; (?i) before it ignores case.")
@click.option("--follow", "-f", is_flag=True, help="Go on with new records until the run ends.")
@click.option("--traceback", is_flag=True, help="Show tracebacks, and let --grep look into them.")
@limit_option(200, "records, the last ones")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of text; with --follow a line for each record."
)
def logs(
    run: str,
    level: str | None,
    stage: str | None,
    layer: str | None,
    since: timedelta | None,
    grep: str | None,
    follow: bool,
    traceback: bool,
    limit: int,
    as_json: bool,
) -> None:
    """Show the log of a run, in order of time."""
    from geopipe.cli import show_runs
    from geopipe.monitoring.database import queries
    from geopipe.monitoring.database.runs import Filter

    asked = Filter(level, stage, layer, since, grep, traceback)
    with _reading() as connected:
        found = queries.find_run(connected, run)
        out = _console()
        if follow:
            _follow(connected, out, found, asked, limit, as_json)
            return
        records = queries.last_logs(connected, found, asked, limit or None)
        total = queries.count_logs(connected, found, asked) if limit and len(records) == limit else len(records)
        if as_json:
            _print_json({"run": show_runs.run_named(found), "total": total, "logs": records})
            return
        show_runs.title(out, found)
        for record in records:
            show_runs.log(out, record, found.now, traceback)
    if not records:
        click.echo("no record is like this", err=True)
    _left_out(len(records), total, "records")


def _follow(connected: connection, out: Console, run: Run, asked: Filter, limit: int, as_json: bool) -> None:
    """The last records, and then those that come, until the run has ended."""
    from geopipe.cli import show_runs, show_watch
    from geopipe.monitoring import dead_runs
    from geopipe.monitoring.database import follow as following
    from geopipe.monitoring.database import queries

    def show(batch: Batch) -> None:
        for record in batch.logs:
            if as_json:
                _print_line({"run_id": run.run_id, **show_runs.as_json(record)})
            else:
                show_runs.log(out, record, batch.run.now, asked.tracebacks)
        sys.stdout.flush()

    marks = queries.log_marks(connected, run)
    records = [log for log in queries.last_logs(connected, run, asked, limit or None) if log.seq <= marks[log.source]]
    connected.close()
    if not as_json:
        show_runs.title(out, run)
    show(following.Batch(run, tuple(records)))
    stale = away = False
    state = run.state
    tail = following.tail(run.run_id, asked, marks)

    def read(connected: connection) -> Batch:
        dead_runs.settle(connected, run.run_id)
        return tail(connected)

    found = following.looks(following.connect_to_read, run.run_id, read)
    for batch in following.until_end(found):
        if isinstance(batch, following.Away):
            click.echo(show_watch.retrying(batch.reason), err=True)
            away = True
            continue
        if away:
            click.echo("the database is back", err=True)
        if batch.run.stale and not stale:
            click.echo(f"run {show_runs.short_id(run)} has not been heard of for a minute", err=True)
        away, stale, state = False, batch.run.stale, batch.run.state
        show(batch)
    click.echo(f"run {show_runs.short_id(run)} is {state}", err=True)


# ---------------------------------------------------------------- metrics, events, errors


@monitor.command()
@run_argument
@click.option("--type", "kind", type=click.Choice(list(KINDS)), help="Only these; without it all.")
@since_option
@json_option
def metrics(run: str, kind: str | None, since: timedelta | None, as_json: bool) -> None:
    """Plot what a run uses, and how fast it is.

    A line for each node and stage, from the start of the run to now.
    """
    from geopipe.cli import show_metrics, show_runs
    from geopipe.monitoring.database import queries

    with _reading() as connected:
        found = queries.find_run(connected, run)
        made = queries.metrics(connected, found, kind, 60 if as_json else show_metrics.FINE, since)
    if as_json:
        told = {"first_ts": made.first_ts, "last_ts": made.last_ts, "series": made.series}
        _print_json({"run": show_runs.run_named(found), **told})
        return
    out = _console()
    show_runs.title(out, found)
    show_metrics.metrics(out, made, kind)


@monitor.command()
@run_argument
@since_option
@limit_option(100, "events, the last ones")
@json_option
def events(run: str, since: timedelta | None, limit: int, as_json: bool) -> None:
    """Show what happened in a run.

    Its plan, stages and waves, resumes, skipped layers, commits.
    """
    from geopipe.cli import show_runs
    from geopipe.monitoring.database import queries

    with _reading() as connected:
        found = queries.find_run(connected, run)
        happened = queries.events(connected, found, since, limit + 1 if limit else None)
    more = bool(limit) and len(happened) > limit
    happened = happened[-limit:] if limit else happened
    if as_json:
        _print_json({"run": show_runs.run_named(found), "events": happened})
    else:
        out = _console()
        show_runs.title(out, found)
        show_runs.events(out, happened, found.now)
        if not happened:
            click.echo("no events", err=True)
    if more:
        click.echo(f"these are the last {limit:,}; --limit 0 shows all", err=True)


@monitor.command()
@run_argument
@click.option("--traceback", is_flag=True, help="Show one traceback of each cause.")
@json_option
def errors(run: str, traceback: bool, as_json: bool) -> None:
    """Show the errors of a run by cause.

    The most frequent first: how often, when, in which stages and layers, and one of them.
    """
    from geopipe.cli import show_runs
    from geopipe.monitoring.database import queries

    with _reading() as connected:
        found = queries.find_run(connected, run)
        causes = queries.causes(connected, found, traceback)
    if as_json:
        _print_json({"run": show_runs.run_named(found), "error": found.error, "causes": causes})
        return
    out = _console()
    show_runs.title(out, found)
    show_runs.causes(out, found, causes, traceback)
