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

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from geopipe.cli.screen import head, on_terminal, say, speaks_unicode, table
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
    unicode, wide = speaks_unicode(out.encoding), on_terminal(out) and out.width >= 100
    names = ["run", "name", "state", "age", "took", "done", "output"]
    rows: list[list[str | Text]] = []
    for run in listed:
        name = clean(run.name)
        rows.append(
            [
                Text(short_id(run), style="bold"),
                head(name, 30 if wide else 18, unicode) if on_terminal(out) else name,
                Text(run.displayed, style=STYLES[run.displayed]),
                age(run.age),
                "" if run.seconds is None else clock(run.seconds),
                _done(run, unicode) if wide else Text(share(run.share)),
                clean(run.output or ""),
            ]
        )
    if on_terminal(out):  # rich would cut the end of a path, which identifies it
        taken = sum(max([cell_len(names[i]), *(cell_len(str(row[i])) for row in rows)]) + 2 for i in range(6))
        for row in rows:
            row[6] = tail(str(row[6]), max(out.width - taken, 8), unicode)
    table(out, names, rows, right=("age", "took", "done"))
    for run in listed:
        for line in _reasons(run):
            say(out, head(line, out.width, unicode) if on_terminal(out) else line, style="dim")


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
    line = Text(clean(run.name), style="bold")
    line.append(f"  {short_id(run)}  ", style="not bold dim")
    return line.append(run.displayed, style=f"not bold {STYLES[run.displayed]}")


# ---------------------------------------------------------------- logs


def log(out: Console, record: LogRow, now: datetime, traceback: bool = False) -> None:
    """Print a record: time, level and message; further lines stand below the message."""
    when = moment(record.ts, now if on_terminal(out) else None)
    level = record.level.lower()
    indent = len(when) + 10
    context = _context(record.stage, record.layer, record.tile)
    first, *more = clean_lines(record.message)
    if on_terminal(out):
        line = Text(first, style=STYLES.get(record.level, "") if record.level != "INFO" else "")
        line.append("  " + context if context else "", style="not bold default dim" if context else "")
        start = Text(when, style="dim").append(f" {level:<8} ", style=f"not dim {STYLES.get(record.level, '')}")
        for n, part in enumerate(line.wrap(out, max(out.width - indent, 20))):
            out.print(start + part if n == 0 else Text(" " * indent) + part, soft_wrap=True)
    else:
        say(out, f"{when} {level:<8} {first}" + (f"  [{context}]" if context else ""))
    for text in more:
        say(out, " " * indent + text)
    if traceback and record.traceback:
        _traceback(out, record.traceback, indent)


def _context(stage: str | None, layer: str | None, tile: int | None) -> str:
    parts = {"stage": stage, "layer": layer, "tile": tile}
    return " ".join(f"{name}={clean(value)}" for name, value in parts.items() if value is not None)


def _traceback(out: Console, text: str, indent: int) -> None:
    for line in clean_lines(text):
        say(out, " " * indent + line, style="dim")


# ---------------------------------------------------------------- events


def events(out: Console, rows: Sequence[EventRow], now: datetime) -> None:
    """Print a line for each event."""
    unicode = speaks_unicode(out.encoding)
    width = max([0, *(cell_len(clean(event.name)) for event in rows)])
    for event in rows:
        when = moment(event.ts, now if on_terminal(out) else None)
        context = _context(event.stage, event.layer, event.tile)
        detail = "  ".join(part for part in (context, _detail(event.detail or {})) if part)
        name = clean(event.name)
        line = Text(when, style="dim").append("  " + name + " " * (width - cell_len(name)), style="not dim bold")
        room = out.width - len(when) - width - 4
        line.append("  " + (head(detail, room, unicode) if on_terminal(out) else detail), style="not dim")
        line.rstrip()
        say(out, line)


def _detail(detail: Mapping[str, Any]) -> str:
    return " ".join(
        f"{clean(key)}={clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))}"
        for key, value in detail.items()
    )


# ---------------------------------------------------------------- errors


def causes(out: Console, run: RunRow, rows: Sequence[Cause], tracebacks: bool) -> None:
    """Print each cause with its count, times, places and an example."""
    if run.error:
        _failure(out, run.error)
    for cause in rows:
        count = f"{cause.count:,} x" if cause.count > 1 else "once"
        line = Text(f"{count:>8}  ", style="bold red").append(clean(cause.cause), style="not red bold")
        _hanging(out, line, 10)
        first, last = moment(cause.first_ts, run.now), moment(cause.last_ts, run.now)
        line_below = first if cause.count == 1 else f"{first} to {last}"
        for name, values in (("stage", cause.stages), ("layer", cause.layers)):
            if values:
                line_below += f"   {name}{'s' if len(values) > 1 else ''} {', '.join(map(clean, values[:8]))}"
                line_below += f" and {len(values) - 8} more" if len(values) > 8 else ""
        _hanging(out, Text(" " * 10 + line_below, style="dim"), 10)
        if clean(cause.example) != clean(cause.cause):
            lines = clean_lines(cause.example)
            _hanging(out, Text(" " * 10 + f"such as: {lines[0]}"), 10)
            for more in lines[1:]:
                _hanging(out, Text(" " * 10 + more), 10)
        if tracebacks:
            _traceback(out, cause.traceback or "no traceback was recorded", 10)
    if not rows and not run.error:
        say(out, "no errors")


def _failure(out: Console, error: Mapping[str, Any]) -> None:
    """Print the error that ended the run."""
    message = clean_lines(error.get("message", ""))
    _hanging(
        out, Text(f"{clean(error.get('type', 'error'))}: ", style="bold red").append(message[0], "not bold red"), 2
    )
    for line in message[1:]:
        _hanging(out, Text("  " + line), 2)
    if error.get("hint"):
        _hanging(out, Text(f"  hint: {clean(error['hint'])}"), 2)


def _hanging(out: Console, line: Text, indent: int) -> None:
    """Print a line; on a terminal it is broken between words, and its further lines are indented."""
    if not on_terminal(out):
        say(out, line)
        return
    first = line.wrap(out, out.width)[0]
    out.print(first, soft_wrap=True)
    rest = line[len(first) :]
    rest.plain = rest.plain.strip()
    if rest.plain:
        for part in rest.wrap(out, max(out.width - indent, 20)):
            out.print(Text(" " * indent) + part, soft_wrap=True)
