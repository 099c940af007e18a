"""The page of a report: facts and pictures, laid out by templates into one file of HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from geopipe.report import analyses, charts, images
from geopipe.report.sample import Sample
from geopipe.table.table import Table
from geopipe.text import count, size

MOST_MAPS = 48
"""Variables with a map of their own; all stand in the table."""

MINUS = "\N{MINUS SIGN}"

Json = dict[str, Any]


@cache
def environment() -> Environment:
    """The templates of the page. Texts are escaped; a name that a template lacks is an error."""
    env = Environment(
        loader=PackageLoader("geopipe.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"number": number, "bytes": size, "percent": percent, "seconds": seconds, "clean_id": clean_id}
    env.globals |= {"count": count}
    return env


def page_of(facts: Mapping[str, Any], sample: Sample, table: Table) -> str:
    """The page as HTML.

    Args:
        facts: from `facts_of`.
        sample: the pixels of the maps.
        table: whose analyses have maps, too.
    """
    variables = [
        {**v, "classes": images.with_colours(v["classes"])} if "classes" in v else v for v in facts["variables"]
    ]
    maps = images.maps_of(variables[:MOST_MAPS], sample)
    grid = facts["table"]["grid"]
    ratio = aspect(grid)
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            facts=facts,
            variables=variables,
            maps=maps,
            most_maps=MOST_MAPS,
            histograms={v["name"]: Markup(charts.histogram(v)) for v in variables if "histogram" in v and v["scale"]},
            ratio=ratio,
            bar=charts.scale_bar(grid["metres_across"]),
            heat=heat_of(facts["relations"]),
            analyses=analyses.drawn(facts["analyses"], sample, table),
            style=_style(),
            time=_now(),
        )
    )


def comparison_page(comparison: Mapping[str, Any], samples: tuple[Sample, Sample]) -> str:
    """The page of the differences of two tables as HTML; on one grid with a map of each variable that differs."""
    maps = {}
    if comparison["same_grid"] and samples[0].shape == samples[1].shape:
        differing = [v for v in comparison["variables"] if not v["same"]][:MOST_MAPS]
        maps = {v["name"]: one for v in differing if (one := images.difference_of(v, samples)) is not None}
    grid = comparison["grids"][0]
    return (
        environment()
        .get_template("against.html.j2")
        .render(comparison=comparison, maps=maps, ratio=aspect(grid), bar=None, style=_style(), time=_now())
    )


def _style() -> Markup:
    return Markup(files("geopipe.report").joinpath("templates/style.css").read_text(encoding="utf-8"))


def _now() -> str:
    return datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")


def aspect(grid: Mapping[str, Any]) -> float:
    """Width of the map by its height, on the ground: a degree of longitude is shorter than one of latitude."""
    left, bottom, right, top = grid["bounds"]
    squeeze = math.cos(math.radians(min(max((bottom + top) / 2, -85), 85))) if grid["geographic"] else 1.0
    return float(min(max((right - left) * squeeze / (top - bottom), 0.1), 10))


def heat_of(relations: Mapping[str, Any] | None) -> list[list[Json]] | None:
    """The cells of the matrix of correlations: text, colour, and a colour of ink that can be read on it."""
    if relations is None:
        return None
    scale = {"low": -1.0, "high": 1.0, "colours": "diverging"}
    rows = []
    for line in relations["matrix"]:
        cells = []
        for r in line:
            colour = images.colour_at(scale, r) if r is not None else None
            cells.append({"r": r, "colour": colour, "ink": ink_on(colour) if colour else None})
        rows.append(cells)
    return rows


def ink_on(colour: str) -> str:
    """Black or white, whichever contrasts more with a colour (WCAG 2.2, relative luminance)."""
    parts = [value / 255 for value in bytes.fromhex(colour[1:])]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000" if luminance > 0.179 else "#fff"


def number(value: Any, digits: int = 4) -> str:
    """A number for people: about four digits, thousands separated; whole numbers whole."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (abs(value) >= 10**digits and math.isfinite(value) and abs(value) < 1e15):
        return f"{round(value):,}".replace("-", MINUS)
    return f"{value:.{digits}g}".replace("-", MINUS)


def percent(share: float | None) -> str:
    """A share in percent; 0 % and 100 % are exact."""
    if share is None:
        return "unknown"
    if share in (0, 1):
        return f"{share:.0%}"
    return f"{min(max(share, 0.0001), 0.9999):.{2 if share < 0.01 or share > 0.99 else 1}%}"


def seconds(value: float) -> str:
    """A duration with its unit."""
    if value < 100:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 6000 else f"{value / 3600:.1f} h"


def clean_id(text: str) -> str:
    """A name as a part of an id."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)
