"""What folds are like: sizes, balance of classes, and distances beside those of the map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from geopipe.analysis.contract import Result
from geopipe.grid.crs import Floats
from geopipe.grid.distances import distance_unit
from geopipe.training.distances import Ints, Neighbourhood, finite, quantiles
from geopipe.training.knndm import at_random

CLEARLY = 1.5
"""Medians of distances that differ by this factor are worth a sentence."""


class Balance(NamedTuple):
    """Rows by fold and class.

    Attributes:
        sizes: (folds, classes) float64.
        classes: their values; [None] without a column.
        column: that has the class.
    """

    sizes: Floats
    classes: list[Any]
    column: str | None

    def findings(self) -> list[str]:
        """Folds that lack a class."""
        lines = []
        for fold, rows in enumerate(self.sizes, 1):
            missing = [str(name) for name, n in zip(self.classes, rows, strict=True) if n == 0 and name is not None]
            if self.column is not None and missing:
                lines.append(f"Fold {fold} has no row of {self.column} = {', '.join(missing[:10])}.")
        return lines

    def table(self) -> pa.Table:
        """Columns fold, class and rows."""
        folds, count = np.arange(1, len(self.sizes) + 1), len(self.classes)
        classes = pa.array(self.classes * len(folds))
        fold = pa.array(np.repeat(folds, count).astype(np.int16))
        return pa.table({"fold": fold, "class": classes, "rows": self.sizes.ravel().astype(np.int64)})


class Comparison(NamedTuple):
    """Distances to the nearest training point: in the folds, in others, and from the cells to predict."""

    unit: str
    distances: dict[str, Floats]
    w: dict[str, float]

    def median(self, name: str) -> float:
        return float(np.median(self.distances[name]))


def compared(places: Neighbourhood, folds: Ints, k: int, seed: int) -> Comparison:
    """Compare the distances of folds, of random folds and of leave-one-out with those of the cells to predict."""
    randomly = places.between(at_random(len(folds), k, np.random.default_rng(seed)))
    tests = {"folds": places.between(folds), "random": randomly, "leave_one_out": places.leave_one_out}
    w = {name: places.mismatch(distances) for name, distances in tests.items()}
    return Comparison(distance_unit(places.crs), {**tests, "prediction": places.to_predict}, w)


def result(values: Mapping[str, Any], balance: Balance, comparison: Comparison, has_points: bool) -> Result:
    """Sizes, balance and distances as the results of an analysis."""
    rows = balance.sizes.sum(axis=1)
    sizes = [{"fold": fold, "rows": int(n), "share": float(n / rows.sum())} for fold, n in enumerate(rows, 1)]
    distances = {name: quantiles(measured) for name, measured in comparison.distances.items()}
    measured = {
        "unit": comparison.unit,
        "quantiles": distances,
        "w": {name: finite(w) for name, w in comparison.w.items()},
    }
    names = list(distances)
    table = pa.table(
        {
            "of": [name for name in names for _ in distances[name]],
            "quantile": [float(q) for name in names for q in distances[name]],
            "distance": [d for name in names for d in distances[name].values()],
        }
    )
    findings = [_sizes(values, rows, has_points), *_honesty(comparison, has_points), *balance.findings()]
    return Result(
        {**values, "rows": int(rows.sum()), "folds": sizes, "classes": balance.column, "distances": measured},
        tuple(findings),
        {"folds": balance.table(), "distances": table},
    )


def _sizes(values: Mapping[str, Any], rows: Floats, has_points: bool) -> str:
    kind = "points" if has_points else "rows"
    block, matching = values.get("block"), values.get("matching")
    origin = ""
    if block:
        origin = f", from {block['blocks']:,} blocks of {block['size']:g} {block['unit']} ({block['origin']})"
    elif matching:
        clusters = matching["clusters"]
        origin = f", merged from {clusters:,} clusters" if clusters else ", at random: the points lie like the cells"
    return f"{len(rows)} folds of {int(rows.min()):,} to {int(rows.max()):,} {kind}{origin}."


def _honesty(comparison: Comparison, has_points: bool) -> list[str]:
    """Whether a cross-validation by the folds is as hard as the map, and what random folds would pretend."""
    unit = comparison.unit
    folds, randomly, needed = (comparison.median(name) for name in ("folds", "random", "prediction"))
    rows = len(comparison.distances["folds"])
    training = "" if has_points else f", for {rows:,} training rows drawn at random from the table"
    lines = [
        f"From a test row to the nearest training row: {folds:,.4g} {unit} (median). "
        f"From a cell of the table to it: {needed:,.4g} {unit}{training}. W = {comparison.w['folds']:,.4g} {unit}, "
        f"of random folds {comparison.w['random']:,.4g} {unit}."
    ]
    if needed > CLEARLY * randomly:
        lines.append(
            f"Random folds would be too optimistic: they test {randomly:,.4g} {unit} from the training rows, "
            f"the map predicts {needed:,.4g} {unit} away."
        )
    if needed > CLEARLY * folds:
        lines.append("These folds are still too optimistic for this map: try larger blocks, or distance matching.")
    elif folds > CLEARLY * needed:
        lines.append(
            "These folds are harder than a map of this table: they show how a model does in new areas, "
            "and underrate it inside this one."
        )
    return lines
