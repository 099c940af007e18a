"""A method of analysis for tests, in a module that workers of Ray can import."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pyarrow as pa

from geopipe.analysis.contract import Pass, Result, Subject, Write
from geopipe.analysis.methods.moments import Comoments, moments
from geopipe.analysis.rows import matrix

NUMBERS = ("height", "warmth", "rain")
SCORES = pa.schema([("row", pa.int32()), ("col", pa.int32()), ("score", pa.float64())])


@dataclass(frozen=True)
class Scores:
    """Means, then a value for each cell: the sum of its deviations from them."""

    name: ClassVar[str] = "scores"

    fails: bool = False

    def prepare(self, subject: Subject) -> Pass:
        return moments(NUMBERS, subject.nulls, self.second)

    def second(self, known: Comoments) -> Pass:
        write = partial(_failing if self.fails else _scores, known.means)
        finish = partial(_result, known)
        return Write("scores", "cells", NUMBERS, SCORES, write, finish, _count, lambda left, right: left + right)


def _scores(means: np.ndarray, chunk: pa.Table) -> pa.Table:
    values = matrix(chunk, NUMBERS, means).values
    return pa.table([chunk["row"], chunk["col"], pa.array((values - means).sum(axis=1))], SCORES)


def _failing(means: np.ndarray, chunk: pa.Table) -> pa.Table:
    if chunk["row"][0].as_py() >= 512:
        raise ZeroDivisionError("division by zero")
    return _scores(means, chunk)


def _count(rows: pa.Table) -> int:
    return len(rows)


def _result(known: Comoments, rows: int) -> Result:
    values = {"means": known.means.tolist(), "products": known.products.tolist(), "nulls": known.nulls.tolist()}
    return Result(values | {"rows": rows}, ("done",), {"means": pa.table({"mean": known.means})})
