"""Where a model holds: the dissimilarity of every cell from the training data, and the area of applicability."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.spatial import cKDTree

from geopipe.analysis.catalogue import columns_of
from geopipe.analysis.contract import Pass, Reduce, Result, Subject, Write
from geopipe.analysis.rows import numbers
from geopipe.errors import SettingsError
from geopipe.table.points import read_rows, require_columns, require_numbers
from geopipe.training.space import MOST_EXACT, Space, held_back, mean_distance, threshold_of

SCHEMA = pa.schema([("row", pa.int32()), ("col", pa.int32()), ("di", pa.float32()), ("inside", pa.bool_())])


@dataclass(frozen=True)
class Applicability:
    """Dissimilarity index (di) and area of applicability (inside) of each cell.

    The index is the distance to the nearest row of the training data, by the mean distance of all of their pairs. A
    cell is inside where it is not above the threshold: the largest index of the training data themselves, without
    outliers, each measured to the data of other folds.

    Attributes:
        train: file of the training data, which have the variables of the model.
        weights: importance by variable; none: all weigh the same.
        folds: column of the training data with the folds of the model's cross-validation.
    """

    name: ClassVar[str] = "applicability"

    train: str
    weights: Mapping[str, float] = field(default_factory=dict)
    folds: str | None = None

    def prepare(self, subject: Subject) -> Pass:
        train = read_rows(self.train, "train")
        columns = self._columns(subject, train)
        weights, findings = self._weights(columns)
        if absent := [name for name in subject.columns if name not in train.column_names]:
            findings.append(f"Not in the training data, so not looked at: {', '.join(absent)}.")
        columns = tuple(name for name in columns if weights[name] > 0)
        classes = tuple(name for name in subject.classes if name in columns)
        require_numbers(train.schema, columns, self.train)
        space = Space.of(train, columns, classes, weights)
        rows = space.of_rows(train)
        folds = self._folds(train)
        folds = folds if folds is None else folds[rows.complete]
        if folds is not None and len(np.unique(folds[~np.isnan(folds)])) < 2:
            raise SettingsError(
                f"column {self.folds!r} of {self.train} has fewer than 2 folds",
                "give a column of folds, or leave it out",
            )
        mean = mean_distance(rows.values, subject.seed)
        own = held_back(rows.values, folds) / mean
        incomplete = len(train) - len(rows.values)
        if incomplete:
            findings.append(f"{incomplete:,} of {len(train):,} training rows lack a value and were left out.")
        if folds is None:
            findings.append(
                "No folds were given: the threshold is by leave-one-out, which is too strict where training data come "
                "in clusters. Give the folds of the model's cross-validation (--folds)."
            )
        if len(rows.values) > MOST_EXACT:
            findings.append(f"The mean distance is that of a sample of {MOST_EXACT:,} training rows.")
        model = Dissimilarity(space, cKDTree(rows.values), mean, threshold_of(own))
        about = {
            "threshold": model.threshold,
            "mean_distance": mean,
            "threshold_by": "leave-one-out" if folds is None else f"folds of column {self.folds}",
            "train": {"file": self.train, "rows": len(train), "incomplete": incomplete},
            "variables": {name: weights[name] for name in columns},
            "classes": {name: list(values) for name, values in space.classes.items()},
        }
        return _Work(model, columns, about, tuple(findings), own).first()

    def _columns(self, subject: Subject, train: pa.Table) -> tuple[str, ...]:
        """The variables of the model: those that are named or weighted, or all that both tables have.

        Raises:
            SettingsError: there is none, or the training data have no rows.
        """
        if not len(train):
            raise SettingsError(f"{self.train} has no rows", "give the training data of the model")
        everything = subject.columns == tuple(subject.table.files.facts.variables)
        columns = subject.columns
        if everything and self.weights:
            columns = columns_of(tuple(self.weights), columns, subject.table.output)
        elif everything:
            columns = tuple(name for name in columns if name in train.column_names)
        require_columns(train.column_names, columns, self.train)
        if not columns:
            raise SettingsError(
                f"{self.train} has none of the variables of {subject.table.output}",
                f"its columns: {', '.join(train.column_names)}; variables: {', '.join(subject.columns)}",
            )
        return columns

    def _weights(self, columns: tuple[str, ...]) -> tuple[dict[str, float], list[str]]:
        """The weight of each column, and what there is to say of them."""
        if not self.weights:
            return dict.fromkeys(columns, 1.0), []
        unknown = [name for name in self.weights if name not in columns]
        missing = [name for name in columns if name not in self.weights]
        if unknown or missing:
            which = f"not of the model: {', '.join(unknown)}" if unknown else f"missing: {', '.join(missing)}"
            raise SettingsError(f"weights do not fit the columns; {which}", f"weigh each of {', '.join(columns)}")
        weights = {name: float(self.weights[name]) for name in columns}
        if not all(map(math.isfinite, weights.values())) or max(weights.values()) <= 0:
            raise SettingsError("no weight is above 0, or one is no number", "give the importance of each variable")
        useless = [name for name, weight in weights.items() if weight <= 0]
        findings = [f"Left out, as their weights are 0 or below: {', '.join(useless)}."] if useless else []
        return weights, findings

    def _folds(self, train: pa.Table) -> Any:
        """The fold of each training row, (rows,) float64, NaN without one; None without a column."""
        if self.folds is None:
            return None
        require_columns(train.column_names, [self.folds], self.train)
        column = train[self.folds]
        codes = pc.index_in(column, value_set=column.unique().drop_null())
        return codes.cast(pa.float64()).fill_null(math.nan).to_numpy()


@dataclass(frozen=True)
class Dissimilarity:
    """Training data as they are compared with cells. `tree` holds them in `space`."""

    space: Space
    tree: cKDTree
    mean: float
    threshold: float

    def write(self, rows: pa.Table) -> pa.Table:
        """The index of each row, and whether it is inside, as `SCHEMA` has them; null where a variable is missing."""
        values, complete = self.space.of_rows(rows)
        index = np.zeros(len(rows))
        index[complete] = self.tree.query(values)[0] / self.mean
        missing = ~complete
        di = pa.array(index.astype(np.float32), mask=missing)
        inside = pa.array(index <= self.threshold, mask=missing)
        return pa.table([rows["row"], rows["col"], di, inside], schema=SCHEMA)

    def unknown(self, rows: pa.Table) -> dict[tuple[str, float], int]:
        """Rows by column and class, of classes that the training data lack."""
        counts = dict[tuple[str, float], int]()
        for name, classes in self.space.classes.items():
            column, present = numbers(rows, name)
            values, times = np.unique(column if present is None else column[present], return_counts=True)
            new = ~np.isin(values, classes)
            counts |= {(name, float(v)): int(n) for v, n in zip(values[new], times[new], strict=True)}
        return counts


class _Sums(NamedTuple):
    rows: int
    nulls: int
    inside: int
    total: float
    largest: float


def _sums(rows: pa.Table) -> _Sums:
    index = rows["di"].drop_null().to_numpy().astype(np.float64)
    inside = int(pc.sum(rows["inside"]).as_py() or 0)
    return _Sums(len(rows), len(rows) - len(index), inside, float(index.sum()), float(index.max(initial=0.0)))


def _added(left: _Sums, right: _Sums) -> _Sums:
    return _Sums(
        left.rows + right.rows,
        left.nulls + right.nulls,
        left.inside + right.inside,
        left.total + right.total,
        max(left.largest, right.largest),
    )


def _together(left: dict[Any, int], right: dict[Any, int]) -> dict[Any, int]:
    return {key: left.get(key, 0) + right.get(key, 0) for key in {**left, **right}}


@dataclass(frozen=True)
class _Work:
    """The model with what there is to say of it. Each step makes the next one."""

    model: Dissimilarity
    columns: tuple[str, ...]
    about: dict[str, Any]
    findings: tuple[str, ...]
    own: Any

    def first(self) -> Pass:
        classes = tuple(self.model.space.classes)
        if not classes:
            return self._write({})
        return Reduce("classes", classes, self.model.unknown, _together, lambda counts: self._write(counts or {}))

    def _write(self, unknown: dict[tuple[str, float], int]) -> Pass:
        finish = partial(self._result, unknown)
        return Write(
            "dissimilarity", "cells", self.columns, SCHEMA, self.model.write, finish, state=_sums, merge=_added
        )

    def _result(self, unknown: dict[tuple[str, float], int], sums: _Sums | None) -> Result:
        sums = sums or _Sums(0, 0, 0, 0.0, 0.0)
        cells = sums.rows - sums.nulls
        share = sums.inside / cells if cells else None
        values = {
            **self.about,
            "rows": sums.rows,
            "nulls": sums.nulls,
            "inside": sums.inside,
            "share_inside": share,
            "di": {"mean": sums.total / cells if cells else None, "max": sums.largest if cells else None},
            "unknown_classes": [
                {"column": name, "class": value, "rows": n} for (name, value), n in sorted(unknown.items())
            ],
        }
        findings = list[str]()
        if share is None:
            findings.append("No cell has a value in each variable, so nothing is known of where the model holds.")
        else:
            findings.append(
                f"{share:.1%} of {cells:,} cells are inside the area of applicability "
                f"(threshold {self.model.threshold:.4g}, by {self.about['threshold_by']})."
            )
        if sums.nulls:
            findings.append(f"{sums.nulls:,} of {sums.rows:,} cells lack a variable and have no index.")
        for (name, value), n in sorted(unknown.items()):
            findings.append(f"{n:,} cells have {name} = {value:g}, a class that the training data lack.")
        tables = {"training": pa.table({"di": np.sort(self.own)})}
        return Result(values, (*findings, *self.findings), tables)
