"""A running run on the command line: a screen that changes, lines without a terminal, and a log that is followed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TypeVar

import click
from psycopg2.extensions import connection
from rich.console import Console
from rich.live import Live

from geopipe.cli import show_runs, show_watch
from geopipe.cli.screen import say
from geopipe.monitoring.database import follow, history
from geopipe.monitoring.database.follow import Away, Batch
from geopipe.monitoring.database.runs import Filter, Look, RunRow

T = TypeVar("T")


def watch_screen(out: Console, looks: Iterator[Look | Away]) -> str:
    """Draw each look over the one before. Returns the last state of the run."""
    state = ""
    with Live(console=out, auto_refresh=False, transient=False, redirect_stdout=False, redirect_stderr=False) as live:
        for look, paces, away in follow.paced(looks):
            state = look.run.state
            live.update(show_watch.screen(out, look, paces, away), refresh=True)
    return state


def watch_lines(out: Console, looks: Iterator[Look | Away], every: float, as_json: bool) -> str:
    """Print a line when the state changes or errors arrive, and every so many seconds. Returns the last state."""
    seen: set[tuple[str, int]] = set()
    noted: set[str] = set()
    due, displayed, state = 0.0, "", ""
    for look, paces, _ in follow.paced(_answers(looks)):
        state = look.run.state
        fresh = [record for record in look.errors if (record.source, record.seq) not in seen]
        seen.update((record.source, record.seq) for record in fresh)
        if due <= time.monotonic() or look.run.displayed != displayed or look.run.over or (fresh and as_json):
            due, displayed = time.monotonic() + every, look.run.displayed
            say(out, json.dumps(show_watch.look_json(look, paces)) if as_json else show_watch.line(look, paces))
        if not as_json:
            _print_notes(out, look.run, noted)
            for record in fresh:
                say(out, show_watch.error_line(record))
        out.file.flush()
    return state


def _print_notes(out: Console, run: RunRow, noted: set[str]) -> None:
    for note in show_watch.notes(run):
        kind = note.split()[0]  # the seconds of a silence grow: print it once
        if kind not in noted:
            noted.add(kind)
            say(out, note)


def follow_logs(connected: connection, out: Console, run: RunRow, filters: Filter, limit: int, as_json: bool) -> None:
    """Print the last records of a run, and then new ones until the run has ended."""
    marks = history.log_marks(connected, run)
    last = history.last_logs(connected, run, filters, limit or None)
    records = [record for record in last if record.seq <= marks[record.source]]
    connected.close()
    if not as_json:
        show_runs.title(out, run)
    _print_batch(out, Batch(run, tuple(records)), filters, as_json)
    stale, state = False, run.state
    read = follow.tail(run.run_id, filters, marks)
    batches = follow.until_end(follow.looks(follow.connect_to_read, run.run_id, read))
    for batch in _answers(batches):
        if batch.run.stale and not stale:
            click.echo(f"run {show_runs.short_id(run)} has not been heard of for a minute", err=True)
        stale, state = batch.run.stale, batch.run.state
        _print_batch(out, batch, filters, as_json)
    click.echo(f"run {show_runs.short_id(run)} is {state}", err=True)


def _print_batch(out: Console, batch: Batch, filters: Filter, as_json: bool) -> None:
    for record in batch.logs:
        if as_json:
            values: Mapping[str, object] = show_runs.as_json(record)
            click.echo(json.dumps({"run_id": batch.run.run_id, **values}))
        else:
            show_runs.log(out, record, batch.run.now, filters.tracebacks)
    sys.stdout.flush()


def _answers(results: Iterator[T | Away]) -> Iterator[T]:
    """Results without the times when the database is away, which are reported on stderr."""
    away = False
    for result in results:
        if isinstance(result, Away):
            click.echo(show_watch.retrying(result.reason), err=True)
        else:
            if away:
                click.echo("the database is back", err=True)
            yield result
        away = isinstance(result, Away)
