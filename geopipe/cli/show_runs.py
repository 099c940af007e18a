"""The output of `geopipe monitor`: tables and records on a terminal, plain lines elsewhere, and JSON.

Messages, names and tracebacks may hold anything: they are escaped here, and never read as markup.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from datetime import UTC, datetime
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from geopipe.cli.screen import head, on_terminal, padded, say, speaks_unicode, table
from geopipe.monitoring.database.runs import Cause, EventRow, LogRow, RunRow
from geopipe.text import age, clean, clean_lines, clock, moment, share, tail

STYLES = {
    "pending": "dim",
    "running": "cyan",
    "stale": "bold yellow",
    "paused": "yellow",
    "completed": "green",
    "failed": "bold red",
    "cancelled": "magenta",
    "DEBUG": "dim",
    "INFO": "",
    "WARNING": "yellow",
    "ERROR": "bold red",
    "CRITICAL": "bold white on red",
}

ID = 13
"""Displayed characters of an id: two runs that share them started in the same millisecond."""

BAR = 10


def short_id(run: RunRow) -> str:
    """The start of a run's id, which commands accept as RUN."""
    return run.run_id[:ID]


# ---------------------------------------------------------------- JSON


def as_json(value: Any) -> Any:
    """A value of `database.runs` as JSON: times in ISO 8601 UTC, numbers that are not finite as null."""
    if isinstance(value, RunRow):
        columns = {f.name: as_json(getattr(value, f.name)) for f in fields(value) if f.name != "now"}
        more = {"seconds": value.seconds, "share": value.share, "seconds_since_heartbeat": value.silent}
        return columns | as_json(more)
    if is_dataclass(value) and not isinstance(value, type):
        return as_json(asdict(value))
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_json(one) for one in value]
    return value


def run_named(run: RunRow) -> dict[str, Any]:
    """The run in the JSON of a part of it."""
    return {"run_id": run.run_id, "name": run.name, "state": run.state, "stale": run.stale}


# ---------------------------------------------------------------- runs


def runs(out: Console, listed: Sequence[RunRow]) -> None:
    """Print a line for each run."""
    unicode, terminal = speaks_unicode(out.encoding), on_terminal(out)
    wide = terminal and out.width >= 100
    names = ["run", "name", "state", "age", "took", "done", "output"]
    rows: list[list[str | Text]] = [
        [
            Text(short_id(run), style="bold"),
            head(clean(run.name), 30 if wide else 18, unicode) if terminal else clean(run.name),
            Text(run.displayed, style=STYLES[run.displayed]),
            age(run.age),
            "" if run.seconds is None else clock(run.seconds),
            _done(run, unicode) if wide else share(run.share),
            clean(run.output or ""),
        ]
        for run in listed
    ]
    if terminal:  # rich would cut the end of a path, which identifies it
        columns = list(zip(names, *rows, strict=True))[:6]
        taken = sum(max(cell_len(str(cell)) for cell in column) + 2 for column in columns)
        for row in rows:
            row[6] = tail(str(row[6]), max(out.width - taken, 8), unicode)
    table(out, names, rows, right=("age", "took", "done"))
    for run in listed:
        for line in _reasons(run):
            say(out, head(line, out.width, unicode) if terminal else line, style="dim")


def _reasons(run: RunRow) -> list[str]:
    """Lines about a run below the table: its request, its attempt, why it failed."""
    reasons = [f"asked to {run.request}"] if run.request and not run.over else []
    reasons += [f"attempt {run.attempt}"] if run.attempt > 1 else []
    reasons += [clean(run.error.get("message", ""))] if run.error and run.state == "failed" else []
    return [f"  {short_id(run)}  {text}" for text in reasons]


def _done(run: RunRow, unicode: bool) -> Text:
    """A small bar with its share in percent."""
    if run.share is None:
        return Text("")
    full = min(int(run.share * BAR), BAR)
    bar = Text(("━" if unicode else "#") * full, style=STYLES[run.displayed])
    bar.append(("━" if unicode else ".") * (BAR - full), style="grey30")
    return bar.append(f" {share(run.share):>4}", style="default")


def title(out: Console, run: RunRow) -> None:
    """Print which run the following lines belong to."""
    if on_terminal(out):
        say(out, headline(run))


def headline(run: RunRow) -> Text:
    """Name, id and state of a run in one line."""
    return Text.assemble(
        (clean(run.name), "bold"), (f"  {short_id(run)}  ", "dim"), (run.displayed, STYLES[run.displayed])
    )


# ---------------------------------------------------------------- logs


def logs(out: Console, records: Sequence[LogRow], now: datetime, traceback: bool) -> None:
    """Print records; if there are none, a message on stderr."""
    for record in records:
        log(out, record, now, traceback)
    if not records:
        click.echo("no records match", err=True)


def log(out: Console, record: LogRow, now: datetime, traceback: bool = False) -> None:
    """Print a record: time, level and message; further lines stand below the message."""
    when, style = moment(record.ts, now if on_terminal(out) else None), STYLES.get(record.level, "")
    first, *more = clean_lines(record.message)
    context = _context(record)
    if context:
        context = f"  {context}" if on_terminal(out) else f"  [{context}]"
    lines = [Text.assemble((first, style), (context, "dim")), *map(Text, more)]
    if traceback and record.traceback:
        lines += [Text(line, "dim") for line in clean_lines(record.traceback)]
    _block(out, Text.assemble((when, "dim"), (f" {record.level.lower():<8} ", style)), lines)


def _context(record: LogRow | EventRow) -> str:
    parts = {"stage": record.stage, "layer": record.layer, "tile": record.tile}
    return " ".join(f"{name}={clean(value)}" for name, value in parts.items() if value is not None)


def _block(out: Console, start: Text, lines: Sequence[Text], indent: int | None = None) -> None:
    """Print lines, the first behind `start`, the others indented; on a terminal they are broken between words."""
    below = " " * (len(start) if indent is None else indent)
    for line in lines:
        for part in line.wrap(out, max(out.width - len(below), 20)) if on_terminal(out) else [line]:
            say(out, start + part)
            start = Text(below)


# ---------------------------------------------------------------- events


def events(out: Console, rows: Sequence[EventRow], now: datetime) -> None:
    """Print a line for each event; if there are none, a message on stderr."""
    if not rows:
        click.echo("no events", err=True)
    width = max([0, *(cell_len(clean(event.name)) for event in rows)])
    for event in rows:
        when = moment(event.ts, now if on_terminal(out) else None)
        detail = "  ".join(part for part in (_context(event), _detail(event.detail or {})) if part)
        line = Text.assemble((when, "dim"), ("  " + padded(clean(event.name), width), "bold"), "  " + detail)
        line.rstrip()
        if on_terminal(out):
            line.truncate(out.width, overflow="ellipsis" if speaks_unicode(out.encoding) else "crop")
        say(out, line)


def _detail(detail: Mapping[str, Any]) -> str:
    return " ".join(
        f"{clean(key)}={clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))}"
        for key, value in detail.items()
    )


# ---------------------------------------------------------------- errors


def causes(out: Console, run: RunRow, rows: Sequence[Cause], tracebacks: bool) -> None:
    """Print each cause with its count, times, places and an example; before them the error that ended the run."""
    if run.error:
        first, *more = clean_lines(run.error.get("message", ""))
        title = Text.assemble((f"{clean(run.error.get('type', 'error'))}: ", "bold red"), first)
        hint = [Text(f"hint: {clean(run.error['hint'])}")] if run.error.get("hint") else []
        _block(out, Text(), [title, *map(Text, more), *hint], indent=2)
    for cause in rows:
        count = f"{cause.count:,} x" if cause.count > 1 else "once"
        times = [moment(ts, run.now) for ts in (cause.first_ts, cause.last_ts)][: cause.count]
        places = [_places("stage", cause.stages), _places("layer", cause.layers)]
        lines = [Text(clean(cause.cause)), Text("   ".join(filter(None, [" to ".join(times), *places])), "dim")]
        if clean(cause.example) != clean(cause.cause):
            lines += [Text(line) for line in clean_lines(f"such as: {cause.example}")]
        if tracebacks:
            lines += [Text(line, "dim") for line in clean_lines(cause.traceback or "no traceback was recorded")]
        _block(out, Text(f"{count:>8}  ", "bold red"), lines)
    if not rows and not run.error:
        say(out, "no errors")


def _places(name: str, values: Sequence[str]) -> str:
    if not values:
        return ""
    more = f" and {len(values) - 8} more" if len(values) > 8 else ""
    return f"{name}{'s' if len(values) > 1 else ''} {', '.join(map(clean, values[:8]))}{more}"
