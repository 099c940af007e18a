"""What deserves a look first: the alerts of a table, worst first."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from geopipe.export.state import MANIFEST
from geopipe.export.tiles import Receipt
from geopipe.layers.layer import Kind
from geopipe.table.table import Table
from geopipe.text import listed
from geopipe.validate.facts import Ends, VariableFacts

MOSTLY = 0.9
"""Share of nulls from which a variable is mostly null."""

LITTLE = 0.05
"""Share of the grid below which a layer covers little of it."""

ORDER = ("error", "warning", "note")

Json = dict[str, Any]


def alerts_of(table: Table, variables: Sequence[Json], relations: Json | None, run: Json | None) -> list[Json]:
    """The alerts, each with level, title, text, and the variables that it is about."""
    alerts = [
        *_checks(table),
        *_skipped(table),
        *_extents(run),
        *_nulls(variables),
        *_constants(variables),
        *_ends_of_types(table, variables),
        *_correlations(relations),
    ]
    return sorted(alerts, key=lambda alert: ORDER.index(alert["level"]))


def _alert(level: str, title: str, text: str, *names: str) -> Json:
    return {"level": level, "title": title, "text": text, "variables": list(names)}


def _checks(table: Table) -> Iterator[Json]:
    """The checks of the run that looked wrong; those on nulls have an alert of their own."""
    for warning in table.success.get("warnings", ()):
        if warning.get("check") != "nulls":
            yield _alert("error", f"The check of {warning.get('check')} failed", str(warning.get("message")))


def _skipped(table: Table) -> Iterator[Json]:
    for name, reason in table.success.get("skipped", {}).items():
        yield _alert("error", f"Layer {name} was skipped", f"Its columns are null in every row: {reason}")


def _extents(run: Json | None) -> Iterator[Json]:
    for name, share in (run or {}).get("extents", {}).items():
        if share is not None and share < LITTLE:
            covers = "does not meet the grid" if share == 0 else f"covers {share:.1%} of the grid"
            text = "Check its CRS and bounds, and those of the grid: geopipe inspect shows them."
            yield _alert("error", f"Layer {name} {covers}", text)


def _nulls(variables: Sequence[Json]) -> Iterator[Json]:
    for v in variables:
        share = v["null_share"]
        if share is None or v["skipped"]:
            continue
        if share == 1:
            yield _alert("error", f"{v['name']} is null in every row", f"Layer {v['layer']} has no value.", v["name"])
        elif share >= MOSTLY:
            text = f"{v['nulls']:,} rows have no value of it. A model that drops rows with nulls would keep few."
            yield _alert("warning", f"{v['name']} is null in {share:.1%} of the rows", text, v["name"])


def _constants(variables: Sequence[Json]) -> Iterator[Json]:
    for v in variables:
        if v["constant"]:
            text = "It tells no two cells apart, and a model learns nothing from it."
            yield _alert("warning", f"{v['name']} is {v['min']:g} wherever it has a value", text, v["name"])


def _correlations(relations: Json | None) -> Iterator[Json]:
    """An alert for each group of variables that high correlations connect."""
    pairs, groups = (relations or {}).get("high", ()), list[set[str]]()
    for pair in pairs:
        own = {pair["one"], pair["other"]}
        apart = [group for group in groups if not group & own]
        groups = [*apart, own.union(*(group for group in groups if group & own))]
    for group in sorted(groups, key=min):
        names = [name for name in (relations or {})["names"] if name in group]
        strengths = [abs(pair["r"]) for pair in pairs if pair["one"] in group]
        text = f"|r| is {max(strengths):.3f} in the sample: one of them may be enough."
        if len(names) > 2:
            text = (
                f"|r| is {min(strengths):.3f} to {max(strengths):.3f} in the sample, pair by pair: few may be enough."
            )
        yield _alert("note", f"{' and '.join([', '.join(names[:-1]), names[-1]])} say nearly the same", text, *names)


def _ends_of_types(table: Table, variables: Sequence[Json]) -> Iterator[Json]:
    """Variables with values at an end of their type: a no-data value that no file declares, or values cut off."""
    facts = table.files.facts.variables
    ends = {v["name"]: ends for v in variables if not v["constant"] and any(ends := _suspicious(facts[v["name"]], v))}
    if not ends:
        return
    tiles: dict[tuple[str, float], list[int]] = {}
    for receipt in receipts(table):
        for name, (bottom, top) in ends.items():
            of_tile = Ends.of(receipt.columns[name])
            for end, value in ((bottom, of_tile.low), (top, of_tile.high)):
                if end is not None and value == end:
                    tiles.setdefault((name, end), []).append(receipt.tile)
    for (name, end), keys in tiles.items():
        text = (
            "A no-data value that the file does not declare looks like this, or values that were cut off. "
            f"Tiles: {listed(keys)}."
        )
        yield _alert("warning", f"{name} has {end:,.10g}, an end of its type", text, name)


def _suspicious(fact: VariableFacts, entry: Json) -> tuple[float | None, float | None]:
    """The ends of the type of a variable's source that it reaches; 0 and the ends of shares are no such ends."""
    bottom: float | None = None
    top: float | None = None
    if fact.range is not None and fact.range != (0.0, 1.0):
        bottom, top = fact.range
    elif np.dtype(fact.type).kind in "iu" and entry["kind"] != Kind.CATEGORICAL:
        limits = np.iinfo(fact.type)
        bottom, top = float(limits.min), float(limits.max)
    reached = [end if end and entry[key] == end else None for end, key in ((bottom, "min"), (top, "max"))]
    return reached[0], reached[1]


def receipts(table: Table) -> Iterator[Receipt]:
    """The receipts of a finished table, one at a time."""
    files = table.files
    with files.reading(), files.fs.open_input_stream(f"{files.root}/{MANIFEST}", compression=None) as stream:
        for line in io.BufferedReader(stream):
            yield Receipt.parse(line)


def counts(alerts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Number of alerts by level."""
    return {level: sum(alert["level"] == level for alert in alerts) for level in ORDER}
