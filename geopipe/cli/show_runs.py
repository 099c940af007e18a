"""What `geopipe monitor` shows: tables, records and plots on a terminal, plain lines elsewhere, and JSON.

Messages, names and tracebacks come from anywhere: they are made harmless here, and never taken for markup.
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

from geopipe.cli.screen import head, on_terminal, say, speaks_unicode, table, tail
from geopipe.monitoring.database.runs import Cause, Event, Log, Run
from geopipe.text import age, clean, clean_lines, clock, moment, share

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
"""Characters of an id that are shown: with these, two runs of one name began in one millisecond."""

BAR = 10


def short_id(run: Run) -> str:
    """The start of a run's id, which is enough to name it."""
    return run.run_id[:ID]


# ---------------------------------------------------------------- JSON


def as_json(value: Any) -> Any:
    """A value of `watched` as JSON values: times as ISO in UTC, what is no finite number as null."""
    if isinstance(value, Run):
        told = {f.name: as_json(getattr(value, f.name)) for f in fields(value) if f.name != "now"}
        more = {"seconds": value.seconds, "share": value.share, "seconds_since_heartbeat": value.silent}
        return told | as_json(more)
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


def run_named(run: Run) -> dict[str, Any]:
    """What the JSON of a part of a run says of the run."""
    return {"run_id": run.run_id, "name": run.name, "state": run.state, "stale": run.stale}


# ---------------------------------------------------------------- runs


def runs(out: Console, found: Sequence[Run]) -> None:
    """A line for each run."""
    unicode, wide = speaks_unicode(out.encoding), on_terminal(out) and out.width >= 100
    names = ["run", "name", "state", "age", "took", "done", "output"]
    rows: list[list[str | Text]] = []
    for run in found:
        name = clean(run.name)
        rows.append(
            [
                Text(short_id(run), style="bold"),
                head(name, 30 if wide else 18, unicode) if on_terminal(out) else name,
                Text(run.shown, style=STYLES[run.shown]),
                age((run.now - run.created_at).total_seconds()),
                "" if run.seconds is None else clock(run.seconds),
                _done(run, unicode) if wide else Text(share(run.share)),
                clean(run.output or ""),
            ]
        )
    if on_terminal(out):  # the end of a path says most, and rich would cut that
        taken = sum(max([cell_len(names[i]), *(cell_len(str(row[i])) for row in rows)]) + 2 for i in range(6))
        for row in rows:
            row[6] = tail(str(row[6]), max(out.width - taken, 8), unicode)
    table(out, names, rows, right=("age", "took", "done"))
    for run in found:
        for line in _reasons(run):
            say(out, head(line, out.width, unicode) if on_terminal(out) else line, style="dim")


def _reasons(run: Run) -> list[str]:
    """Why a run has failed, and what else there is to know of it, below the lines of all runs."""
    made = [f"asked to {run.request}"] if run.request and not run.over else []
    made += [f"attempt {run.attempt}"] if run.attempt > 1 else []
    made += [clean(run.error.get("message", ""))] if run.error and run.state == "failed" else []
    return [f"  {short_id(run)}  {text}" for text in made]


def _done(run: Run, unicode: bool) -> Text:
    """A small bar, and the share that it shows."""
    if run.share is None:
        return Text("")
    full = min(int(run.share * BAR), BAR)
    bar = Text(("━" if unicode else "#") * full, style=STYLES[run.shown])
    bar.append(("━" if unicode else ".") * (BAR - full), style="grey30")
    return bar.append(f" {share(run.share):>4}", style="default")


def title(out: Console, run: Run) -> None:
    """Which run the rest is of."""
    if on_terminal(out):
        say(out, headline(run))


def headline(run: Run) -> Text:
    """Name, id and state of a run in one line."""
    line = Text(clean(run.name), style="bold")
    line.append(f"  {short_id(run)}  ", style="not bold dim")
    return line.append(run.shown, style=f"not bold {STYLES[run.shown]}")


# ---------------------------------------------------------------- logs


def log(out: Console, record: Log, now: datetime, traceback: bool = False) -> None:
    """A record: time, level and message; lines that follow the first, and what wraps, stand below the message."""
    when = moment(record.ts, now if on_terminal(out) else None)
    level = record.level.lower()
    indent = len(when) + 10
    told = _context(record.stage, record.layer, record.tile)
    first, *more = clean_lines(record.message)
    if on_terminal(out):
        line = Text(first, style=STYLES.get(record.level, "") if record.level != "INFO" else "")
        line.append("  " + told if told else "", style="not bold default dim" if told else "")
        start = Text(when, style="dim").append(f" {level:<8} ", style=f"not dim {STYLES.get(record.level, '')}")
        for n, part in enumerate(line.wrap(out, max(out.width - indent, 20))):
            out.print(start + part if n == 0 else Text(" " * indent) + part, soft_wrap=True)
    else:
        say(out, f"{when} {level:<8} {first}" + (f"  [{told}]" if told else ""))
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


def events(out: Console, found: Sequence[Event], now: datetime) -> None:
    """A line for each event."""
    unicode = speaks_unicode(out.encoding)
    width = max([0, *(cell_len(clean(event.name)) for event in found)])
    for event in found:
        when = moment(event.ts, now if on_terminal(out) else None)
        told = _context(event.stage, event.layer, event.tile)
        detail = "  ".join(part for part in (told, _detail(event.detail or {})) if part)
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


def causes(out: Console, run: Run, found: Sequence[Cause], tracebacks: bool) -> None:
    """Each cause with how often, when and where it was met, and one example."""
    if run.error:
        _failure(out, run.error)
    for cause in found:
        count = f"{cause.count:,} x" if cause.count > 1 else "once"
        line = Text(f"{count:>8}  ", style="bold red").append(clean(cause.cause), style="not red bold")
        _hanging(out, line, 10)
        first, last = moment(cause.first_ts, run.now), moment(cause.last_ts, run.now)
        told = first if cause.count == 1 else f"{first} to {last}"
        for name, values in (("stage", cause.stages), ("layer", cause.layers)):
            if values:
                told += f"   {name}{'s' if len(values) > 1 else ''} {', '.join(map(clean, values[:8]))}"
                told += f" and {len(values) - 8} more" if len(values) > 8 else ""
        _hanging(out, Text(" " * 10 + told, style="dim"), 10)
        if clean(cause.example) != clean(cause.cause):
            lines = clean_lines(cause.example)
            _hanging(out, Text(" " * 10 + f"such as: {lines[0]}"), 10)
            for more in lines[1:]:
                _hanging(out, Text(" " * 10 + more), 10)
        if tracebacks:
            _traceback(out, cause.traceback or "no traceback was recorded", 10)
    if not found and not run.error:
        say(out, "no errors")


def _failure(out: Console, error: Mapping[str, Any]) -> None:
    """Why the run failed, as it said itself."""
    message = clean_lines(error.get("message", ""))
    _hanging(
        out, Text(f"{clean(error.get('type', 'error'))}: ", style="bold red").append(message[0], "not bold red"), 2
    )
    for line in message[1:]:
        _hanging(out, Text("  " + line), 2)
    if error.get("hint"):
        _hanging(out, Text(f"  hint: {clean(error['hint'])}"), 2)


def _hanging(out: Console, line: Text, indent: int) -> None:
    """A line, broken between words where there is a terminal, and set in after the first."""
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
