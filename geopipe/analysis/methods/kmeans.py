"""K-means: seeded and settled on a sample, then the steps of Lloyd over all rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe.analysis.contract import Pass, Reduce, Result, Subject, Write
from geopipe.analysis.methods.lloyd import assign
from geopipe.analysis.methods.moments import Comoments, moments
from geopipe.analysis.methods.sampling import sample
from geopipe.analysis.methods.starts import distinct, mean_silhouettes, moved_centres, shift, start
from geopipe.analysis.methods.together import together
from geopipe.analysis.methods.variables import Variables, lost, numbers_of
from geopipe.analysis.rows import matrix
from geopipe.errors import SettingsError
from geopipe.text import count

Floats = NDArray[np.float64]

SILHOUETTE_ROWS = 5000
"""Rows of the sample whose silhouettes are found: the work grows with their square."""


@dataclass(frozen=True)
class Kmeans:
    """Clusters of cells that are alike in their standardised numbers, with a label for each cell."""

    name: ClassVar[str] = "kmeans"

    k: int | None = None
    """number of clusters; None: from 2 to `k_max` the one with the largest mean silhouette on a sample"""

    k_max: int = 10
    """the largest number of clusters to try where `k` is not given"""

    sample: int = 100_000
    """rows of the seeded sample on which the centres start and settle, before all rows are read"""

    starts: int = 3
    """starts by k-means++ on the sample; the best goes on"""

    tolerance: float = 1e-4
    """stop when the squared ways of all centres, in standard deviations, are together no more"""

    max_iterations: int = 100
    """passes over all rows, at most"""

    def prepare(self, subject: Subject) -> Pass:
        """The pass that finds means, deviations and the sample.

        Raises:
            SettingsError: there are no numbers.
        """
        names = numbers_of(subject, self.name)
        rows = partial(sample, names, self.sample, subject.seed, complete=subject.nulls == "drop")
        return together([partial(moments, names, subject.nulls), rows], partial(self._start, subject))

    def _start(self, subject: Subject, known: Comoments, sampled: pa.Table) -> Pass:
        """Centres on the sample, then the first pass of Lloyd."""
        variables = Variables.of(subject.numbers, known)
        if not variables.names:
            reason = "no variable varies" if known.count else "no row has all values"
            more = "; ".join(variables.findings) or f"the table has {count(known.rows, 'row')}"
            raise SettingsError(f"kmeans finds no clusters: {reason}", more)
        space = _Space.of(variables, known)
        rows = space.standardised(sampled)
        most = distinct(rows)
        if most < (self.k or 2):
            source = f"{known.count:,} rows" if len(rows) == known.count else f"the sample of {len(rows):,} rows"
            message = f"kmeans_k = {self.k or 2} is more than the {most:,} different rows in {source} with all values"
            raise SettingsError(message, "take fewer clusters, more columns, or a larger kmeans_sample")
        tried = [self.k] if self.k else range(2, min(self.k_max, most) + 1)
        trials = [start(rows, k, subject.seed, self.starts, self.tolerance) for k in tried]
        scores = mean_silhouettes(rows, trials, SILHOUETTE_ROWS)
        best = int(np.argmax(scores))
        silhouettes = dict(zip(tried, scores.tolist(), strict=True))
        seeds = trials[best].centres
        return _Steps(self, space, known, variables, rows, seeds, silhouettes, seeds).next()


@dataclass(frozen=True)
class _Space:
    """Standardised variables.

    Attributes:
        fill: shape (d,), float64: what stands for a missing value; None where such rows are left out.
        means: shape (d,), float64.
        scales: shape (d,), float64: 1 / standard deviation.
    """

    columns: tuple[str, ...]
    fill: Floats | None
    means: Floats
    scales: Floats

    @classmethod
    def of(cls, variables: Variables, known: Comoments) -> _Space:
        at = variables.at
        fill = None if known.fill is None else known.fill[at]
        return cls(variables.names, fill, known.means[at], 1 / known.deviations[at])

    def standardised(self, rows: pa.Table) -> Floats:
        """Rows in standard deviations from the means, shape (n, d)."""
        return np.asarray((matrix(rows, self.columns, self.fill).values - self.means) * self.scales)

    def sums(self, centres: Floats, chunk: pa.Table) -> Floats:
        """Sums of the rows of a chunk by centre, as `assign` gives them."""
        values = matrix(chunk, self.columns, self.fill).values
        return assign(values, self.means, self.scales, centres, np.empty(len(values), np.uint16))

    def labels(self, centres: Floats, numbers: NDArray[np.uint16], schema: pa.Schema, chunk: pa.Table) -> pa.Table:
        """Row, col and the cluster, the number of its centre; null where a row lacks a value."""
        rows = matrix(chunk, self.columns, self.fill)
        labels = np.empty(len(rows.values), np.uint16)
        assign(rows.values, self.means, self.scales, centres, labels)
        whole = np.zeros(len(chunk), np.uint16)
        whole[rows.kept] = numbers[labels]
        clusters = pa.array(whole, mask=~rows.kept).cast(schema.field("cluster").type)
        return pa.table([chunk["row"], chunk["col"], clusters], schema)


@dataclass(frozen=True)
class _Steps:
    """The steps of Lloyd over all rows.

    Attributes:
        sample: shape (n, d), float64, standardised.
        seeds: shape (k, d), float64: the centres of the first step.
        silhouettes: mean silhouette on the sample by number of clusters.
        centres: shape (k, d), float64: of the next step.
        step: how many were made.
    """

    options: Kmeans
    space: _Space
    known: Comoments
    variables: Variables
    sample: Floats
    seeds: Floats
    silhouettes: Mapping[int, float]
    centres: Floats
    step: int = 0

    def next(self) -> Pass:
        """The pass of the next step."""
        mapped = partial(self.space.sums, self.centres)
        return Reduce(f"k-means, step {self.step + 1}", self.space.columns, mapped, np.add, self._finish)

    def _finish(self, sums: Floats) -> Pass:
        """Another step, or the labels where the centres move no more.

        The centres are those of the last step, and not where it would move them: their sizes and distances are known.
        """
        moved = moved_centres(sums, self.centres, self.sample)
        way = shift(moved, self.centres)
        if way > self.options.tolerance and self.step + 1 < self.options.max_iterations:
            return replace(self, centres=moved, step=self.step + 1).next()
        keys = [(-sums[c, 0], *self.centres[c].tolist()) for c in range(len(sums))]
        order = sorted(range(len(sums)), key=lambda c: keys[c])
        kind = pa.uint8() if len(order) < 256 else pa.uint16()
        fields = [("row", pa.int32(), False), ("col", pa.int32(), False), ("cluster", kind, True)]
        schema = pa.schema([pa.field(*one) for one in fields])
        result = self._result(sums[order], order, way <= self.options.tolerance)
        numbers = np.empty(len(order), np.uint16)
        numbers[order] = np.arange(1, len(order) + 1)
        mapped = partial(self.space.labels, self.centres, numbers, schema)
        return Write("labels of cells", "labels", self.space.columns, schema, mapped, lambda _: result)

    def _result(self, sums: Floats, order: list[int], is_converged: bool) -> Result:
        names, k = self.space.columns, len(order)
        sizes, inertia = sums[:, 0].astype(np.int64), float(sums[:, 1].sum())
        spread = np.sqrt(sums[:, 1] / np.maximum(sizes, 1) / len(names))
        clusters = {"cluster": np.arange(1, k + 1), "rows": sizes, "share": sizes / self.known.count, "sd": spread}
        tables = {"clusters": pa.table(clusters)}
        for name, centres in (("centres", self.centres), ("seeds", self.seeds)):
            units = centres[order] / self.space.scales + self.space.means
            columns = {f"cluster{c}": one for c, one in enumerate(units, 1)}
            tables[name] = pa.table({"variable": list(names)} | columns)
        values: dict[str, Any] = {
            **self.known.counts(),
            "variables": list(names),
            "constant": list(self.variables.constant),
            "k": k,
            "inertia": inertia,
            "explained": 1 - inertia / (self.known.count * len(names)),
            "steps": self.step + 1,
            "is_converged": is_converged,
            "silhouettes": {str(tried): score for tried, score in self.silhouettes.items()},
            "sizes": sizes.tolist(),
            "centres": tables["centres"].drop(["variable"]).to_pydict(),
        }
        return Result(values, tuple(self._findings(values)), tables)

    def _findings(self, values: Mapping[str, Any]) -> list[str]:
        sizes, own = values["sizes"], self.silhouettes[values["k"]]
        sentences = [
            f"{values['k']} clusters explain {values['explained']:.1%} of the variance; the largest has "
            f"{sizes[0] / self.known.count:.1%} of the rows, the smallest {sizes[-1] / self.known.count:.1%}",
            f"mean silhouette on a sample: {own:.2f}" + (" (clusters hardly differ)" if own < 0.25 else ""),
        ]
        if empty := sum(size == 0 for size in sizes):
            sentences.append(f"{count(empty, 'cluster')} without a row: take fewer clusters")
        if not values["is_converged"]:
            limit = f"kmeans_max_iterations = {self.options.max_iterations}"
            sentences.append(f"the centres still moved after {limit} passes")
        return sentences + self.variables.findings + lost(self.known)
