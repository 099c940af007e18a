"""Small charts as SVG, whose colours are those of the page: they follow light and dark by its style sheet."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geopipe.report.images import colour_at

WIDTH, HEIGHT = 320, 56

INKS = {"#010101": "currentColor", "#020202": "var(--line)", "#030303": "var(--accent)", "#040404": "var(--accent-2)"}
"""Colours that matplotlib draws with, each with the colour of the page that takes its place."""

INK, LINE, ACCENT, SECOND = INKS


def histogram(entry: Mapping[str, Any]) -> str:
    """The histogram of a variable in the colours of its map, above a strip of the scale."""
    bars, scale = entry["histogram"], entry["scale"]
    low, high, counts = bars["low"], bars["high"], bars["counts"]
    most, step = max(counts) or 1, WIDTH / len(counts)
    shapes = []
    for i, count in enumerate(counts):
        middle = low + (i + 0.5) / len(counts) * (high - low)
        colour, height = colour_at(scale, middle), max(count / most * HEIGHT, 1.0 if count else 0.0)
        shapes.append(
            f'<rect x="{i * step:.1f}" y="{HEIGHT - height:.1f}" width="{step - 0.6:.1f}" height="{height:.1f}" '
            f'fill="{colour}"/>'
        )
        shapes.append(
            f'<rect x="{i * step:.1f}" y="{HEIGHT + 3}" width="{step + 0.3:.1f}" height="9" fill="{colour}"/>'
        )
    for share in ("0.05", "0.5", "0.95"):
        x = (entry["quantiles"][share] - low) / (high - low or 1) * WIDTH
        if 0 <= x <= WIDTH:
            shapes.append(f'<path class="mark" d="M{x:.1f} {HEIGHT + 2}v11"/>')
    return (
        f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT + 13}" preserveAspectRatio="none" aria-hidden="true" '
        f'focusable="false">{"".join(shapes)}</svg>'
    )


@dataclass(frozen=True)
class Trace:
    """Points of a chart: a line, points alone, or bars."""

    x: Sequence[float]
    y: Sequence[float]
    label: str = ""
    style: str = "line"


def chart(series: Sequence[Trace], x: str, y: str, title: str) -> str:
    """A chart with axes as SVG, by matplotlib.

    Args:
        x, y: labels of the axes, with units.
        title: text for those who do not see it.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[str, Any] = {"svg.fonttype": "none", "svg.hashsalt": "geopipe", "font.family": "sans-serif"}
    style |= {"axes.edgecolor": LINE, "grid.color": LINE, "axes.spines.top": False, "axes.spines.right": False}
    style |= {f"{part}.color": INK for part in ("text", "xtick", "ytick")} | {"axes.labelcolor": INK, "font.size": 9}
    with rc_context(style):  # type: ignore[arg-type]
        figure = Figure(figsize=(5.2, 2.5), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        axes.grid(axis="y", linewidth=0.5)
        axes.set_axisbelow(True)
        for one, colour in zip(series, (ACCENT, SECOND, INK) * len(series), strict=False):
            if one.style == "bars":
                axes.bar(one.x, one.y, color=colour, label=one.label or None)
            else:
                width = 0 if one.style == "points" else 1.6
                axes.plot(one.x, one.y, "o-", color=colour, label=one.label or None, markersize=3, linewidth=width)
        axes.set(xlabel=x, ylabel=y)
        if any(one.label for one in series):
            axes.legend(frameon=False)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _of_the_page(out.getvalue(), title)


def _of_the_page(svg: str, title: str) -> str:
    """An SVG of matplotlib as a part of the page: without its head, with the page's colours, fonts and a title."""
    from markupsafe import escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"font: ([^;\"]*?)'[^;\"]*", r"font: \1inherit", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    for ink, colour in INKS.items():
        svg = svg.replace(ink, colour)
    # ids of two charts on one page must differ
    prefix = f"c{abs(hash((title, svg))) % 10**8:x}"
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"#(\w[\w-]*)(?=[)\"])", rf"#{prefix}-\1", svg)
    return svg.replace("<svg", f'<svg class="chart" role="img" aria-label="{escape(title)}"', 1)


def scale_bar(metres: float | None) -> dict[str, Any] | None:
    """A round length of a quarter of the map or less: its text, and its share of the map's width."""
    if not metres or not np.isfinite(metres) or metres <= 0:
        return None
    power = 10.0 ** np.floor(np.log10(metres / 4))
    length = max(f * power for f in (1, 2, 5) if f * power <= metres / 4)
    text = f"{length / 1000:,.10g} km" if length >= 1000 else f"{length:,.10g} m"
    return {"text": text, "share": float(length / metres)}
