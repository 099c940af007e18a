"""The output of `geopipe monitor watch`: a screen for a terminal, lines elsewhere, and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from geopipe.cli.screen import head, speaks_unicode
from geopipe.cli.show_metrics import amount
from geopipe.cli.show_runs import STYLES, as_json, headline, run_named
from geopipe.monitoring.database.runs import LogRow, Look, Node, RunRow
from geopipe.text import clean, clock, count, moment, share, short, tail

ERRORS = 6
"""Displayed errors at most."""


def screen(out: Console, look: Look, paces: Mapping[str, float | None], away: str = "") -> Group:
    """A look as a screen, in the height of the terminal; nodes and errors get the room that is left."""
    unicode = speaks_unicode(out.encoding)
    parts: list[RenderableType] = [*_top(look, out.width, unicode, away), _stages(look, paces)]
    room = out.height - 2 - len(parts) - max(len(look.stages), 1)
    shown = min(len(look.errors), ERRORS, max(room - 6, 2))
    if look.nodes:
        parts += [Text(""), _nodes(look.nodes, max(room - shown - 4, 1), out.width, unicode)]
    if counts := _counts(look):
        parts += [Text(""), Text("  " + ", ".join(counts), style="red" if look.error_count else "yellow")]
        for record in look.errors[-shown:] if shown else ():
            when = f"  {moment(record.ts, look.run.now)} "
            parts.append(Text.assemble((when, "dim"), head(_error(record), out.width - len(when), unicode)))
    return Group(*parts)


def _top(look: Look, width: int, unicode: bool, away: str) -> list[Text]:
    run, line = look.run, headline(look.run)
    if run.seconds is not None:
        line.append(f" {'in' if run.ended else 'after' if run.stale or run.over else 'for'} {clock(run.seconds)}")
    if run.attempt > 1:
        line.append(f", attempt {run.attempt}")
    line.append(f", about {clock(look.left)} left" if look.left else "", style="bold")
    line.truncate(width, overflow="ellipsis" if unicode else "crop")
    lines = [line]
    if run.output:
        lines.append(Text("  " + tail(clean(run.output), width - 2, unicode), style="dim"))
    lines += [Text(head(note, width, unicode), style="yellow") for note in notes(run, away)]
    if run.error:
        error = f"{clean(run.error.get('type', 'error'))}: {clean(run.error.get('message', ''))}"
        lines.append(Text(head(error, width * 2, unicode), style="red"))
        if run.error.get("hint"):
            lines.append(Text(head(f"  hint: {clean(run.error['hint'])}", width * 2, unicode)))
    return lines


def notes(run: RunRow, away: str = "") -> list[str]:
    """Notes on what is not normal: no answer, silence, a request."""
    lines = [retrying(away)] if away else []
    if run.stale and run.silent is not None:
        lines.append(f"not heard of for {clock(run.silent)}: its driver may be dead, or cannot reach the database")
    if run.request and not run.over:
        lines.append(f"asked to {run.request}")
    return lines


def retrying(reason: str) -> str:
    """The message that the database does not answer."""
    return f"no answer, trying again: {clean(reason)}"


def _stages(look: Look, paces: Mapping[str, float | None]) -> RenderableType:
    if not look.stages:
        return Text("  no work has been reported yet", style="dim")
    right = [Column(justify="right", no_wrap=True) for _ in range(3)]
    grid = Table.grid(Column(no_wrap=True), Column(ratio=1), *right, padding=(0, 2, 0, 0), expand=True)
    for stage in look.stages:
        cells, of = paces[stage.stage], stage.of or 0
        style = "green" if of and stage.tiles >= of else STYLES[look.run.displayed]
        grid.add_row(
            Text("  " + clean(stage.stage)),
            ProgressBar(of or 1, min(stage.tiles, of), complete_style=style, finished_style="green"),
            share(stage.tiles / of if of else None),
            f"{stage.tiles:,}/{of:,}" if of else f"{stage.tiles:,}",
            "" if cells is None else f"{short(cells)} cells/s",
        )
    return grid


COLUMNS = {
    "cpu": "cpu_percent",
    "processes": "rss_bytes",
    "memory": "",
    "store": "object_store_bytes",
    "spilled": "spill_bytes",
    "disk free": "disk_free_bytes",
}
"""The columns of a node and their metrics; `memory` combines two."""

NARROW = 72
"""Width of a terminal below which a node has three columns."""


def _nodes(nodes: tuple[Node, ...], fit: int, width: int, unicode: bool) -> Table:
    """A line for each node; if not all fit, for those whose processes use the most memory."""
    columns = list(COLUMNS)[: 3 if width < NARROW else None]
    right = [Column(name, justify="right", no_wrap=True) for name in columns]
    grid = Table(
        Column("  node", no_wrap=True), *right, box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0)
    )
    shown = nodes
    if len(nodes) > fit:
        heavy = sorted(nodes, key=lambda n: -n.values.get("rss_bytes", 0.0))[: max(fit - 1, 1)]
        shown = tuple(node for node in nodes if node in heavy)
    for node in shown:
        texts = [_memory(node) if name == "memory" else _value(node, COLUMNS[name]) for name in columns]
        grid.add_row(Text("  " + head(clean(node.node), 14, unicode)), *texts)
    if len(shown) < len(nodes):
        grid.add_row(Text(f"  and {len(nodes) - len(shown):,} more", style="dim"))
    return grid


def _value(node: Node, name: str) -> str:
    return amount(name, node.values[name]) if name in node.values else ""


def _memory(node: Node) -> str:
    used, whole = (node.values.get(f"memory_{part}_bytes") for part in ("used", "total"))
    return f"{used / whole:.0%} of {amount('_bytes', whole)}" if used is not None and whole else ""


def _counts(look: Look) -> list[str]:
    """The numbers of errors and warnings, where there are any."""
    counts = ((look.error_count, "error"), (look.warning_count, "warning"))
    return [count(number, noun) for number, noun in counts if number]


def _error(record: LogRow) -> str:
    where = " ".join(clean(part) for part in (record.stage, record.layer) if part)
    return (f"{where}: " if where else "") + clean(record.message)


# ---------------------------------------------------------------- without a terminal


def line(look: Look, paces: Mapping[str, float | None]) -> str:
    """A look in one line."""
    run = look.run
    work = [f"{clean(s.stage)} {s.tiles:,}" + (f"/{s.of:,}" if s.of else "") for s in look.stages]
    parts = [moment(run.now), f"{run.displayed:<9}", *work]
    if not run.over:
        rate = next((paces[s.stage] for s in reversed(look.stages) if paces[s.stage]), None)
        parts += [f"{short(rate)} cells/s"] if rate else []
        parts += [f"{clock(look.left)} left"] if look.left else []
        parts += _totals(look.nodes)
    elif run.seconds is not None:
        parts.append(f"in {clock(run.seconds)}")
    return "  ".join([*parts, *_counts(look)])


def _totals(nodes: tuple[Node, ...]) -> list[str]:
    """The processors and the memory that all nodes use together."""
    totals = []
    for name, label in (("cpu_percent", "cpu"), ("rss_bytes", "memory")):
        values = [node.values[name] for node in nodes if name in node.values]
        totals += [f"{label} {amount(name, sum(values))}"] if values else []
    return totals


def error_line(record: LogRow) -> str:
    """An error in one line."""
    return f"{moment(record.ts)}  {record.level.lower():<9}  {_error(record)}"


def look_json(look: Look, paces: Mapping[str, float | None]) -> dict[str, Any]:
    """A look as JSON values."""
    rates = {name: {"cells_per_second": cells} for name, cells in paces.items()}
    return {
        **run_named(look.run),
        "run": as_json(look.run),
        "seconds_left": as_json(look.left),
        "stages": [as_json(stage) | as_json(rates[stage.stage]) for stage in look.stages],
        "nodes": as_json(look.nodes),
        "errors": look.error_count,
        "warnings": look.warning_count,
        "last_errors": as_json(look.errors),
    }
