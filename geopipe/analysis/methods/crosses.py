"""Classes against classes and against numbers: counts of pairs, and moments of a number by class."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe.analysis.rows import numbers

MOST_CLASSES = 1000
"""A column of more classes is left out: the counts of its pairs would not stay small."""

Groups = Mapping[Any, NDArray[np.float64]]
"""By class: counts, means, and sums of squared deviations of each number: shape (3, numbers), float64."""


class Coded(NamedTuple):
    """A column of classes: `codes` (rows,) int64 are places in `classes`, -1 where there is none."""

    codes: NDArray[np.int64]
    classes: list[Any]


@dataclass(frozen=True)
class Crosses:
    """What rows say of classes.

    Attributes:
        classes: by column; None for one that has more than MOST_CLASSES.
        pairs: by two columns: rows by their pair of classes, both there.
        groups: by column.
    """

    classes: Mapping[str, frozenset[Any] | None]
    pairs: Mapping[tuple[str, str], Counter[tuple[Any, Any]]]
    groups: Mapping[str, Groups]


def cross(classes: Sequence[str], columns: Sequence[str], chunk: pa.Table) -> Crosses:
    """The state of a chunk, of which `classes` and the numbers `columns` are used."""
    coded = {name: _coded(chunk, name) for name in classes}
    seen = {name: _bounded(frozenset(one.classes)) for name, one in coded.items()}
    few = [name for name in classes if seen[name] is not None]
    values = [numbers(chunk, name) for name in columns]
    return Crosses(
        seen,
        {(a, b): _count(coded[a], coded[b]) for a, b in combinations(few, 2)},
        {name: _grouped(coded[name], values) for name in few},
    )


def merge(left: Crosses, right: Crosses) -> Crosses:
    """The state of both parts."""
    seen = {name: _union(one, right.classes[name]) for name, one in left.classes.items()}
    few = [name for name, one in seen.items() if one is not None]
    return Crosses(
        seen,
        {pair: left.pairs[pair] + right.pairs[pair] for pair in combinations(few, 2)},
        {name: _merge_groups(left.groups[name], right.groups[name]) for name in few},
    )


def cramers_v(pair: Counter[tuple[Any, Any]]) -> float | None:
    """Cramer's V of the counts of two columns, not corrected for bias; None where a column has one class alone."""
    rows, total = Counter[Any](), sum(pair.values())
    columns = Counter[Any]()
    for (one, other), count in pair.items():
        rows[one] += count
        columns[other] += count
    freedom = min(len(rows), len(columns)) - 1
    if freedom < 1:
        return None
    parts = (n / rows[one] * n / columns[other] for (one, other), n in sorted(pair.items()))
    return math.sqrt(min(max(math.fsum(parts) - 1, 0.0) / freedom, 1.0)) if total else None


def eta(groups: Groups, number: int) -> tuple[float | None, int]:
    """The correlation ratio of a number against classes, and its rows; None where the number is constant.

    The square is the share of the number's variance that lies between the classes (Pearson 1905).
    """
    parts = [groups[name][:, number] for name in sorted(groups)]
    rows = sum(int(count) for count, _, _ in parts)
    if not rows:
        return None, 0
    mean = math.fsum(count * mean for count, mean, _ in parts) / rows
    between = math.fsum(count * (own - mean) ** 2 for count, own, _ in parts)
    total = between + math.fsum(squares for _, _, squares in parts)
    return (math.sqrt(between / total) if total > 1e-24 * rows * mean**2 else None), rows


def _coded(chunk: pa.Table, name: str) -> Coded:
    column = chunk[name].combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    encoded = column.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return Coded(codes, encoded.dictionary.to_pylist())


def _bounded(classes: frozenset[Any]) -> frozenset[Any] | None:
    return classes if len(classes) <= MOST_CLASSES else None


def _union(one: frozenset[Any] | None, other: frozenset[Any] | None) -> frozenset[Any] | None:
    return None if one is None or other is None else _bounded(one | other)


def _count(one: Coded, other: Coded) -> Counter[tuple[Any, Any]]:
    valid = (one.codes >= 0) & (other.codes >= 0)
    width = max(len(other.classes), 1)
    counts = np.bincount((one.codes * width + other.codes)[valid])
    at = np.flatnonzero(counts)
    pairs = ((one.classes[i // width], other.classes[i % width]) for i in at.tolist())
    return Counter(dict(zip(pairs, counts[at].tolist(), strict=True)))


def _grouped(coded: Coded, values: Sequence[tuple[NDArray[np.float64], NDArray[np.bool_] | None]]) -> Groups:
    """Moments by class, each number of the rows that have it and a class."""
    size = len(coded.classes)
    result = np.zeros((size, 3, len(values)))
    for i, (column, present) in enumerate(values):
        valid = coded.codes >= 0 if present is None else present & (coded.codes >= 0)
        codes, own = (coded.codes, column) if valid.all() else (coded.codes[valid], column[valid])
        count = partial(np.bincount, codes, minlength=size)
        counts = count().astype(np.float64)
        means = np.divide(count(own), counts, out=np.zeros(size), where=counts > 0)
        result[:, :, i] = np.column_stack([counts, means, count((own - means[codes]) ** 2)])
    return dict(zip(coded.classes, result, strict=True))


def _merge_groups(left: Groups, right: Groups) -> Groups:
    merged = dict(left)
    for name, other in right.items():
        one = merged.get(name)
        merged[name] = other if one is None else _merged(one, other)
    return merged


def _merged(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Moments of both parts, by Chan, Golub and LeVeque (1979)."""
    counts = left[0] + right[0]
    share, delta = right[0] / np.maximum(counts, 1), right[1] - left[1]
    return np.stack([counts, left[1] + delta * share, left[2] + right[2] + delta**2 * (left[0] * share)])
