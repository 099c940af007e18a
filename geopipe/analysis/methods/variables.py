"""Which of the variables a method can use, and what its result says of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geopipe.analysis.contract import Subject
from geopipe.analysis.methods.moments import Comoments
from geopipe.errors import SettingsError
from geopipe.text import count


@dataclass(frozen=True)
class Variables:
    """The numbers of a table by what can be done with them.

    Attributes:
        names: of those that vary.
        at: their places among all numbers.
        constant: names of those with one value alone.
        empty: names of those without any value.
    """

    names: tuple[str, ...]
    at: list[int]
    constant: tuple[str, ...]
    empty: tuple[str, ...]

    @classmethod
    def of(cls, names: Sequence[str], known: Comoments) -> Variables:
        """Those of a table whose moments are known."""
        pairs = zip(names, known.nulls.tolist(), strict=True)
        empty = tuple(name for name, nulls in pairs if nulls == known.rows > 0)
        constant = [bool(flat) and name not in empty for name, flat in zip(names, known.is_constant, strict=True)]
        varying = [not flat and name not in empty for name, flat in zip(names, constant, strict=True)]
        at = [i for i, varies in enumerate(varying) if varies]
        flat = tuple(name for name, is_constant in zip(names, constant, strict=True) if is_constant and known.count)
        return cls(tuple(names[i] for i in at), at, flat, empty)

    @property
    def findings(self) -> list[str]:
        """Sentences about those that are left out."""
        sentences = [f"{name} has no value in any row" for name in self.empty]
        return sentences + [f"{name} is constant, and left out" for name in self.constant]


def numbers_of(subject: Subject, method: str) -> tuple[str, ...]:
    """The numbers among the columns.

    Raises:
        SettingsError: there are only classes.
    """
    if not subject.numbers:
        classes = ", ".join(subject.classes) or "nothing"
        raise SettingsError(f"{method} needs numbers, and the columns have none", f"{classes}: only classes")
    return subject.numbers


def lost(known: Comoments) -> list[str]:
    """A sentence about the rows that are left out, or none."""
    gone = known.rows - known.count
    if not gone:
        return []
    share = f"{gone / known.rows:.1%}"
    return [f"{count(gone, 'row')} of {known.rows:,} ({share}) lack a value and are left out"]


def plain(value: float) -> float | None:
    """A number for JSON: None for one that is not finite."""
    return float(value) if np.isfinite(value) else None


def grid(matrix: NDArray[np.float64]) -> list[list[Any]]:
    """A matrix for JSON."""
    return [[plain(value) for value in row] for row in matrix]
