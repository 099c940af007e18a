"""Each variable by itself: counts, mean, deviation, ends, quantiles and a histogram; of classes, counts and areas.

Quantiles are found by radix selection: a number is the bits of its type in the order of its values, one pass counts
their upper half and a second one the lower half of those that a quantile needs. So they are exact for types of 32 bits;
for 64 bits the first 32 are, which is a relative error of 2**-20. Infinities count as missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from geopipe.analysis.contract import Pass, Reduce, Result, Subject
from geopipe.grid.areas import cell_areas
from geopipe.grid.crs import is_lonlat
from geopipe.validate.facts import Ends

Ints = NDArray[np.int64]

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

HALF = 2**16
"""Values of half a key of 32 bits."""

LARGEST = float(np.finfo(np.float32).max)

MOST_CLASSES = 10_000
"""Classes of a variable at most: beyond it its numbers are no classes, and are not counted one by one."""


@dataclass(frozen=True)
class SummaryMethod:
    """Statistics of each variable."""

    name: ClassVar[str] = "summary"

    bins: int = 50
    """bars of a histogram"""

    def prepare(self, subject: Subject) -> Pass:
        ends = subject.table.files.manifest.columns
        ranges = {name: _range(ends[name]) for name in subject.numbers if name in ends and ends[name].low is not None}
        areas = cell_areas(subject.table.grid)
        first = partial(_first, subject.numbers, subject.classes, _edges(ranges, self.bins), areas)
        return Reduce("counts", subject.columns, first, _merge, partial(self._second, subject, ranges))

    def _second(self, subject: Subject, ranges: Mapping[str, tuple[Any, Any]], state: _State | None) -> Pass | Result:
        state = state or _State()
        uppers = {name: sorted({_upper(state.numbers[name], q) for q in _ranks(state.numbers[name])})
                  for name in subject.numbers if name in state.numbers and state.numbers[name].count}  # fmt: skip
        finish = partial(self._result, subject, ranges, state, uppers)
        if not uppers:
            return finish(None)
        return Reduce("quantiles", tuple(uppers), partial(_lower_halves, uppers), _add_all, finish)

    def _result(
        self,
        subject: Subject,
        ranges: Mapping[str, tuple[Any, Any]],
        state: _State,
        uppers: Mapping[str, list[int]],
        lowers: Mapping[str, Ints] | None,
    ) -> Result:
        variables: dict[str, Any] = {}
        types = {name: subject.table.schema.field(name).type for name in subject.columns}
        for name in subject.numbers:
            own = state.numbers.get(name, _Number.empty(self.bins))
            about: dict[str, Any] = {"kind": "number", "count": own.count, "nulls": state.rows - own.count}
            if own.count and lowers is not None:
                keys = [_key_at(own, rank, uppers[name], lowers[name]) for rank in _ranks(own)]
                values = _values_of(np.array(keys, np.uint64), types[name])
                low, high = ranges[name]
                about |= {"mean": own.mean, "sd": float(np.sqrt(own.m2 / own.count)), "min": low, "max": high}
                about["quantiles"] = dict(zip(map(str, QUANTILES), values.tolist(), strict=True))
                about["quantile_error"] = 0.0 if types[name].bit_width <= 32 else 2.0**-20
                bars = np.linspace(float(low), float(high), self.bins + 1)
                about["histogram"] = {"edges": bars.tolist(), "counts": own.bars.tolist()}
            variables[name] = about
        for name in subject.classes:
            classes = state.classes.get(name, _Classes())
            about = {"kind": "classes", "count": sum(classes.counts.values())}
            about["nulls"] = state.rows - about["count"]
            about["classes"] = [
                {"value": value, "count": count, "area": classes.areas[value]}
                for value, count in sorted(classes.counts.items())
            ]
            about["is_complete"] = not classes.overflow
            variables[name] = about
        where = "on the ellipsoid" if is_lonlat(subject.table.grid.crs) else "in the plane of the projection"
        summary = {"rows": state.rows, "variables": variables, "area_unit": f"m2, {where}"}
        return Result(summary, tuple(_findings(state.rows, variables)), {"variables": _table(variables)})


def _range(ends: Ends) -> tuple[float, float]:
    """The finite ends of a variable; those of its type's greatest numbers where one is infinite."""
    low, high = np.clip([ends.low or 0.0, ends.high or 0.0], -LARGEST, LARGEST).tolist()
    return (low, high) if isinstance(ends.low, float) else (ends.low or 0, ends.high or 0)


@dataclass(frozen=True)
class _Number:
    """A variable of numbers: moments, bars of the histogram, and counts of upper halves of keys (HALF,)."""

    count: int
    mean: float
    m2: float
    bars: Ints
    halves: Ints

    @classmethod
    def empty(cls, bins: int) -> _Number:
        return cls(0, 0.0, 0.0, np.zeros(bins, np.int64), np.zeros(HALF, np.int64))


@dataclass(frozen=True)
class _Classes:
    """Counts and areas (m2) by class; `overflow`: there are more than MOST_CLASSES, and some are not counted."""

    counts: dict[int | float, int] = field(default_factory=dict)
    areas: dict[int | float, float] = field(default_factory=dict)
    overflow: bool = False


@dataclass(frozen=True)
class _State:
    rows: int = 0
    numbers: dict[str, _Number] = field(default_factory=dict)
    classes: dict[str, _Classes] = field(default_factory=dict)


def _edges(ranges: Mapping[str, tuple[Any, Any]], bins: int) -> dict[str, tuple[float, float, int]]:
    return {name: (float(low), float(high), bins) for name, (low, high) in ranges.items()}


def _first(
    numbers: Sequence[str],
    classes: Sequence[str],
    edges: Mapping[str, tuple[float, float, int]],
    areas: NDArray[np.float64],
    chunk: pa.Table,
) -> _State:
    """The state of a chunk.

    Args:
        edges: least and greatest value and number of bars, of the variables that have values.
        areas: of a cell in each row of the grid, shape (height,).
    """
    own = {name: _number(_finite(chunk[name]), *edges[name]) for name in numbers if name in edges}
    area = areas[chunk["row"].to_numpy()]
    return _State(len(chunk), own, {name: _count(chunk[name], area) for name in classes})


def _finite(column: pa.ChunkedArray) -> NDArray[Any]:
    """The values that are there and finite."""
    values = column.drop_null().to_numpy()
    if values.dtype.kind == "f" and not np.isfinite(values.sum()):
        values = values[np.isfinite(values)]
    return np.asarray(values)


def _number(values: NDArray[Any], low: float, high: float, bins: int) -> _Number:
    if not len(values):
        return _Number.empty(bins)
    floats = values.astype(np.float64)
    mean = floats.mean()
    width = high - low
    places = ((floats - low) * (bins / width)).astype(np.int64) if width > 0 else np.zeros(len(floats), np.int64)
    bars = np.bincount(np.clip(places, 0, bins - 1), minlength=bins)
    halves = np.bincount((_keys(values) >> np.uint64(16)).astype(np.int64), minlength=HALF)
    return _Number(len(values), float(mean), float(np.square(floats - mean).sum()), bars, halves)


def _keys(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Numbers of 32 bits, (n,) uint64, in the order of the values; of types of 64 bits their first half."""
    bits = values.dtype.itemsize * 8
    if values.dtype.kind == "f":
        if bits == 16:
            return _keys(values.astype(np.float32))
        raw = (values + values.dtype.type(0)).view(f"u{bits // 8}")  # + 0: a zero has no sign
        sign = raw >> raw.dtype.type(bits - 1)
        keys = np.where(sign, ~raw, raw | raw.dtype.type(1 << (bits - 1)))
    else:
        keys = values.astype(f"u{bits // 8}")
        if values.dtype.kind == "i":
            keys = keys ^ keys.dtype.type(1 << (bits - 1))
    shifted: NDArray[np.uint64] = keys.astype(np.uint64)
    return shifted >> np.uint64(32) if bits == 64 else shifted


def _values_of(keys: NDArray[np.uint64], kind: pa.DataType) -> NDArray[Any]:
    """The values of keys: the inverse of `_keys`; of types of 64 bits in the middle of those of one key."""
    own = np.dtype(kind.to_pandas_dtype())
    bits = max(own.itemsize * 8, 32 if own.kind == "f" else 8)
    unsigned = np.dtype(f"u{bits // 8}")
    raw = ((keys << np.uint64(32)) | np.uint64(1 << 31) if bits == 64 else keys).astype(unsigned)
    if own.kind == "f":
        sign = raw >> unsigned.type(bits - 1)
        raw = np.where(sign, raw & unsigned.type((1 << (bits - 1)) - 1), ~raw).astype(unsigned)
        return np.asarray(raw.view(f"f{bits // 8}"))
    if own.kind == "i":
        raw = raw ^ unsigned.type(1 << (bits - 1))
    return np.asarray(raw.view(own))


def _count(column: pa.ChunkedArray, areas: NDArray[np.float64]) -> _Classes:
    """The classes of a chunk."""
    valid = pc.is_valid(column).to_numpy()
    values, codes = np.unique(column.drop_null().to_numpy(), return_inverse=True)
    counts, sums = np.bincount(codes, minlength=len(values)), np.bincount(codes, areas[valid], len(values))
    most = slice(MOST_CLASSES)
    names = values[most].tolist()
    return _Classes(
        dict(zip(names, counts[most].tolist(), strict=True)),
        dict(zip(names, sums[most].tolist(), strict=True)),
        len(values) > MOST_CLASSES,
    )


def _merge(left: _State, right: _State) -> _State:
    numbers = dict(left.numbers)
    for name, one in right.numbers.items():
        numbers[name] = _together(numbers[name], one)
    classes = {name: _both(left.classes[name], one) for name, one in right.classes.items()}
    return _State(left.rows + right.rows, numbers, classes)


def _together(left: _Number, right: _Number) -> _Number:
    """The moments and counts of both parts, by Chan, Golub and LeVeque (1979)."""
    count = left.count + right.count
    share, delta = right.count / max(count, 1), right.mean - left.mean
    m2 = left.m2 + right.m2 + delta * delta * left.count * share
    return _Number(count, left.mean + delta * share, m2, left.bars + right.bars, left.halves + right.halves)


def _both(left: _Classes, right: _Classes) -> _Classes:
    names = sorted(left.counts.keys() | right.counts.keys())
    kept = names[:MOST_CLASSES]
    return _Classes(
        {name: left.counts.get(name, 0) + right.counts.get(name, 0) for name in kept},
        {name: left.areas.get(name, 0.0) + right.areas.get(name, 0.0) for name in kept},
        left.overflow or right.overflow or len(names) > len(kept),
    )


def _ranks(number: _Number) -> list[int]:
    """The place of each quantile among the sorted values: the least one with that share at or below it."""
    return [max(int(np.ceil(q * number.count)), 1) - 1 for q in QUANTILES]


def _upper(number: _Number, rank: int) -> int:
    """The upper half of the key at a place."""
    return int(np.searchsorted(np.cumsum(number.halves), rank, "right"))


def _lower_halves(uppers: Mapping[str, list[int]], chunk: pa.Table) -> dict[str, Ints]:
    """Counts of lower halves, by variable: shape (upper halves, HALF)."""
    result = {}
    for name, halves in uppers.items():
        counts = np.zeros((len(halves), HALF), np.int64)
        keys = _keys(_finite(chunk[name]))
        upper, lower = (keys >> np.uint64(16)).astype(np.int64), (keys & np.uint64(HALF - 1)).astype(np.int64)
        for i, half in enumerate(halves):
            counts[i] = np.bincount(lower[upper == half], minlength=HALF)
        result[name] = counts
    return result


def _add_all(left: dict[str, Ints], right: dict[str, Ints]) -> dict[str, Ints]:
    return {name: counts + right[name] for name, counts in left.items()}


def _key_at(number: _Number, rank: int, uppers: list[int], lowers: Ints) -> int:
    """The key at a place."""
    upper = _upper(number, rank)
    before = int(number.halves[:upper].sum())
    lower = int(np.searchsorted(np.cumsum(lowers[uppers.index(upper)]), rank - before, "right"))
    return upper << 16 | lower


def _findings(rows: int, variables: Mapping[str, Any]) -> list[str]:
    """What strikes the eye."""
    lines = [f"{rows:,} rows, {len(variables)} variables"]
    for name, about in variables.items():
        if not about["count"]:
            lines.append(f"{name} has no value in any row")
        elif about["nulls"] > rows / 2:
            lines.append(f"{name} is null in {about['nulls'] / rows:.0%} of the rows")
        if about["count"] and about["kind"] == "number" and about["min"] == about["max"]:
            lines.append(f"{name} is {about['min']:g} wherever it has a value")
        if not about.get("is_complete", True):
            lines.append(f"{name} has more than {MOST_CLASSES:,} classes; only the first are counted")
    return lines


def _table(variables: Mapping[str, Any]) -> pa.Table:
    """A row for each variable of numbers."""
    numbers = {name: about for name, about in variables.items() if about["kind"] == "number"}
    columns: dict[str, Any] = {"variable": list(numbers)}
    for key in ("count", "nulls", "mean", "sd", "min", "max"):
        kind = pa.int64() if key in ("count", "nulls") else pa.float64()
        columns[key] = pa.array([about.get(key) for about in numbers.values()], kind)
    for q in map(str, QUANTILES):
        columns[f"q{q}"] = pa.array([about.get("quantiles", {}).get(q) for about in numbers.values()], pa.float64())
    return pa.table(columns)
