"""The output of `geopipe monitor metrics`: a small plot for each series, all over the same span of time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from geopipe.cli.screen import head, on_terminal, padded, say, spark, speaks_unicode
from geopipe.monitoring.database.runs import KINDS, Metrics, Series
from geopipe.monitoring.states import STAGES
from geopipe.text import clean, moment, short

LABELS = {
    "cpu_percent": "processors",
    "rss_bytes": "processes",
    "memory_used_bytes": "machine",
    "object_store_bytes": "object store",
    "spill_bytes": "spilled",
    "disk_free_bytes": "free",
    "cells_per_second": "cells/s",
    "rows_per_second": "rows/s",
}
NUMBERS = ("min", "mean", "max", "last")

FINE = 240
"""Points of a series to read; a plot has fewer, and its width depends on the numbers beside it."""

NARROWEST, WIDEST = 10, 72


def amount(name: str, value: float) -> str:
    """A value of a metric in few characters: 1.4G (powers of 1024), 57%, 1.05M."""
    if name.endswith("_percent"):
        return f"{value:.0f}%"
    if not name.endswith("_bytes"):
        return short(value).replace(" ", "")
    for unit in ("", "K", "M", "G"):
        if abs(value) < 1000:
            return f"{value:.0f}{unit}" if unit == "" or abs(value) >= 99.95 else f"{value:.1f}{unit}"
        value /= 1024
    return f"{value:,.1f}T"


def metrics(out: Console, plots: Metrics, kind: str | None) -> None:
    """Print a plot and four numbers for each series, grouped by kind and node."""
    whole = {series.node: series.last for series in plots.series if series.name == "memory_total_bytes"}
    shown = _sorted([series for series in plots.series if series.name != "memory_total_bytes"])
    if not shown or plots.first_ts is None or plots.last_ts is None:
        say(out, f"no metrics of {kind}" if kind else "no metrics")
        return
    unicode = speaks_unicode(out.encoding)
    nodes = [head(clean(series.node) or "all", 20, unicode) for _, series in shown]
    labels = [head(_label(series, whole.get(series.node)), 24, unicode) for _, series in shown]
    numbers = [[amount(s.name, value) for value in (s.low, s.mean, s.high, s.last)] for _, s in shown]
    node, label = max(map(cell_len, nodes)), max(map(cell_len, labels))
    wide = [max(len(name), *(len(row[i]) for row in numbers)) for i, name in enumerate(NUMBERS)]
    room = (out.width if on_terminal(out) else WIDEST * 2) - node - label - sum(wide) - 2 * 7
    points = max(min(room, WIDEST), NARROWEST)
    axis = _axis(moment(plots.first_ts, plots.last_ts), moment(plots.last_ts, plots.last_ts), points)
    group, before = "", ""
    for i, (of, series) in enumerate(shown):
        if of != group:
            group, before = of, ""
            titles = "".join(f"  {name:>{w}}" for name, w in zip(NUMBERS, wide, strict=True))
            say(out, Text(f"{of:<{node + label + 6}}", style="bold").append(axis + titles, style="not bold dim"))
        name = "" if nodes[i] == before and on_terminal(out) else nodes[i]
        before = nodes[i]
        line = Text(f"  {padded(name, node)}  {padded(labels[i], label)}  ")
        top = whole.get(series.node, 0.0) if series.name == "memory_used_bytes" else 0.0
        line.append(spark(resampled(series, points), max(series.high, top), unicode), style="cyan")
        line.append("".join(f"  {value:>{w}}" for value, w in zip(numbers[i], wide, strict=True)))
        say(out, line)


def _sorted(unsorted: Sequence[Series]) -> list[tuple[str, Series]]:
    """The series in their order on the page, each with its kind."""
    kinds = {name: kind for kind, names in KINDS.items() for name in names}
    groups, order = (*KINDS, "other"), (*LABELS,)
    pairs = [(kinds.get(series.name, "other"), series) for series in unsorted]

    def place(pair: tuple[str, Series]) -> tuple[int, str, int, str, int, str]:
        group, s = pair
        name, stage = (of.index(text) if text in of else 99 for of, text in ((order, s.name), (STAGES, s.stage)))
        return groups.index(group), s.node, name, s.name, stage, s.stage

    return sorted(pairs, key=place)


def _label(series: Series, whole: float | None) -> str:
    label = clean(LABELS.get(series.name, series.name))
    if series.name == "memory_used_bytes" and whole:
        return f"{label} of {amount('_bytes', whole)}"
    return f"{clean(series.stage)} {label}" if series.stage else label


def _axis(start: str, end: str, points: int) -> str:
    """The first and the last time above the ends of a plot, if they fit."""
    if len(start) + len(end) < points:
        return f"{start}{' ' * (points - len(start) - len(end))}{end}"
    return f"{end[-points:]:>{points}}"


def resampled(series: Series, points: int) -> list[float | None]:
    """The values of a series in `points` points. A value holds until the next one, but not across a gap."""
    reach = 2 * math.ceil(len(series.points) / series.count) + 1
    filled: list[float | None] = []
    value, since = None, 0
    for point in series.points:
        value, since = (point, 0) if point is not None else (value, since + 1)
        filled.append(value if since < reach else None)
    means: list[float | None] = []
    for i in range(points):
        start = i * len(filled) // points
        part = [v for v in filled[start : max((i + 1) * len(filled) // points, start + 1)] if v is not None]
        means.append(sum(part) / len(part) if part else None)
    return means
