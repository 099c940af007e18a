"""How variables relate: Pearson, Spearman, Cramer's V, the correlation ratio, and variance inflation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe.analysis.contract import Pass, Reduce, Result, Subject
from geopipe.analysis.methods.crosses import MOST_CLASSES, Crosses, cramers_v, cross, eta, merge
from geopipe.analysis.methods.moments import Comoments, comoments, moments
from geopipe.analysis.methods.sampling import sample
from geopipe.analysis.methods.together import together
from geopipe.analysis.methods.variables import Variables, grid, lost, plain
from geopipe.analysis.rows import matrix
from geopipe.text import count

Floats = NDArray[np.float64]

DEPENDENT = 1e-10
"""A variable of which the others leave a smaller share of the variance unexplained is a sum of them."""

NAMED = 10
"""Pairs of variables that findings name, at most."""


@dataclass(frozen=True)
class Correlation:
    """How variables relate: one pass over all rows."""

    name: ClassVar[str] = "correlation"

    sample: int = 100_000
    """rows of the seeded sample whose ranks Spearman's correlations are of"""

    high: float = 0.95
    """findings name pairs of variables whose correlation is above it"""

    high_vif: float = 10.0
    """findings name variables whose variance inflation is above it"""

    def prepare(self, subject: Subject) -> Pass:
        """The pass over all rows."""
        names, is_complete = subject.numbers, subject.nulls == "drop"

        def crosses(then: Callable[[Crosses], Pass | Result]) -> Pass:
            mapped = partial(cross, subject.classes, names)
            return Reduce("classes", subject.classes + names, mapped, merge, lambda s: then(s or Crosses({}, {}, {})))

        def ranked(then: Callable[[pa.Table], Pass | Result]) -> Pass:
            return sample(names, self.sample, subject.seed, then, is_complete)

        return together([partial(moments, names, subject.nulls), ranked, crosses], partial(self._result, subject))

    def _result(self, subject: Subject, known: Comoments, sampled: pa.Table, crosses: Crosses) -> Result:
        variables = Variables.of(subject.numbers, known)
        r = known.correlations()
        ranks = _spearman(sampled, subject.numbers, known)
        inflation = dict(zip(variables.names, vif(r[np.ix_(variables.at, variables.at)]), strict=True))
        tables = {
            "pearson": _pairs(subject.numbers, r, known.count),
            "spearman": _pairs(subject.numbers, ranks, len(sampled)),
            "vif": pa.table({"variable": list(inflation), "vif": pa.array(inflation.values(), pa.float64())}),
            "cramers_v": _classes(crosses),
            "eta": _ratios(crosses, subject.numbers),
        }
        values = {
            **known.counts(),
            "nulls": dict(zip(subject.numbers, known.nulls.tolist(), strict=True)),
            "variables": list(subject.numbers),
            "constant": list(variables.constant),
            "empty": list(variables.empty),
            "pearson": grid(r),
            "spearman": grid(ranks),
            "spearman_rows": len(sampled),
            "vif": inflation,
            "cramers_v": tables["cramers_v"].to_pylist(),
            "eta": tables["eta"].to_pylist(),
        }
        findings = self._findings(tables)
        crowded = [name for name, classes in crosses.classes.items() if classes is None]
        findings += [f"{name} has more than {MOST_CLASSES:,} classes, and is left out" for name in crowded]
        return Result(values, (*findings, *variables.findings, *lost(known)), tables)

    def _findings(self, tables: Mapping[str, pa.Table]) -> list[str]:
        """The pairs and variables above the limits, the largest first."""
        pairs = []
        for table, symbol in (("pearson", "r"), ("cramers_v", "Cramer's V"), ("eta", "eta")):
            pairs += [(abs(row[0]), *row, symbol) for row in _triples(tables[table]) if abs(row[0]) > self.high]
        pairs.sort(key=lambda pair: -pair[0])
        sentences = [f"{one} and {other}: {symbol} = {value:.3f}" for _, value, one, other, symbol in pairs[:NAMED]]
        if len(pairs) > NAMED:
            sentences.append(f"{count(len(pairs) - NAMED, 'more pair')} above {self.high:g}: see the tables")
        rows = tables["vif"].to_pylist()
        if dependent := ", ".join(row["variable"] for row in rows if row["vif"] is None):
            sentences.append(f"linear combinations of other variables, whose VIF has no limit: {dependent}")
        large = [row for row in rows if row["vif"] is not None and row["vif"] > self.high_vif]
        large.sort(key=lambda row: -row["vif"])
        if names := ", ".join(f"{row['variable']} ({row['vif']:,.1f})" for row in large):
            sentences.append(f"others explain these, with VIF above {self.high_vif:g}: {names}")
        return sentences or [f"no pair is above {self.high:g}, and no VIF above {self.high_vif:g}"]


def vif(correlations: Floats) -> list[float | None]:
    """Variance inflation of each variable, 1 / (1 - R^2): the diagonal of the inverse correlation matrix.

    It is the Schur complement of each variable, which says more than the inverse where some variables are sums of
    others: theirs is None, and that of the rest is what it is.

    Args:
        correlations: shape (d, d), float64, of variables that vary.
    """
    result = list[float | None]()
    for i in range(len(correlations)):
        rest = np.delete(np.arange(len(correlations)), i)
        own = correlations[rest, i]
        inverse = np.linalg.pinv(correlations[np.ix_(rest, rest)], rcond=DEPENDENT, hermitian=True)
        unexplained = float(1 - own @ inverse @ own)
        result.append(None if unexplained < DEPENDENT else max(1 / unexplained, 1.0))
    return result


def _spearman(sampled: pa.Table, names: Sequence[str], known: Comoments) -> Floats:
    """Correlations of the ranks of a sample, equal values with the mean of their ranks; NaN for a constant."""
    from scipy.stats import rankdata

    if not len(sampled) or not names:
        return np.full((len(names), len(names)), np.nan)
    values = matrix(sampled, names, known.fill).values
    means, products = comoments(np.ascontiguousarray(rankdata(values, axis=0)))
    return Comoments(len(values), len(values), known.nulls, means, products).correlations()


def _pairs(names: Sequence[str], r: Floats, rows: int) -> pa.Table:
    """A row for each pair of variables."""
    pairs = list(combinations(range(len(names)), 2))
    return _table([(names[i], names[j], plain(r[i, j]), rows) for i, j in pairs], "r")


def _classes(crosses: Crosses) -> pa.Table:
    """A row for each pair of columns of classes, of the rows that have both."""
    return _table([(*names, cramers_v(pair), pair.total()) for names, pair in crosses.pairs.items()], "v")


def _ratios(crosses: Crosses, numbers: Sequence[str]) -> pa.Table:
    """A row for each column of classes with each number, of the rows that have both."""
    rows = [(name, own, *eta(of, i)) for name, of in crosses.groups.items() for i, own in enumerate(numbers)]
    return _table(rows, "eta")


def _table(rows: Sequence[tuple[str, str, float | None, int]], symbol: str) -> pa.Table:
    types = {"variable": pa.string(), "other": pa.string(), symbol: pa.float64(), "rows": pa.int64()}
    columns = zip(*rows, strict=True) if rows else ((),) * 4
    return pa.table([pa.array(c, t) for c, t in zip(columns, types.values(), strict=True)], names=list(types))


def _triples(table: pa.Table) -> list[tuple[float, str, str]]:
    """The pairs of a table that have a value: it, and both names."""
    columns = (table.column(i).to_pylist() for i in range(3))
    return [(value, one, other) for one, other, value in zip(*columns, strict=True) if value is not None]
