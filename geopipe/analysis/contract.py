"""The contract of an analysis: passes over the rows of a table, each mapped and merged into a small state.

    prepare(subject) -> pass -> finish(state) -> pass -> ... -> finish(state) -> Result

A pass maps chunks of rows (`rows.CHUNK` at most, cut from each tile in the same places whatever the format, the engine
and the workers are) to states, and merges the states in a fixed tree order. So the bits of a result do not depend on
workers. States are small: they travel from workers to the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import pyarrow as pa

from geopipe.layers.layer import Kind

if TYPE_CHECKING:
    from geopipe.table.table import Table  # loads pandas, which a run without methods must not

Nulls = Literal["drop", "mean"]
"""What a method does with missing values: leave out the row, or take the variable's mean. Counted in the result."""


@dataclass(frozen=True)
class Subject:
    """What an analysis is of.

    Attributes:
        columns: names of variables, in the order of the table.
        nulls: what to do with missing values.
        seed: of all random choices.
    """

    table: Table
    columns: tuple[str, ...]
    nulls: Nulls = "drop"
    seed: int = 0

    @property
    def classes(self) -> tuple[str, ...]:
        """The columns that hold classes: their numbers are names."""
        return tuple(name for name in self.columns if self.table.kinds.get(name) is Kind.CATEGORICAL)

    @property
    def numbers(self) -> tuple[str, ...]:
        """The other columns."""
        return tuple(name for name in self.columns if name not in self.classes)


@dataclass(frozen=True)
class Result:
    """What an analysis comes to.

    Attributes:
        values: of JSON: numbers, texts, lists, mappings. No NaN: what is unknown is None, and `findings` say why.
        findings: sentences for people, the most important first.
        tables: small tables by name, written as Parquet.
    """

    values: Mapping[str, Any]
    findings: tuple[str, ...] = ()
    tables: Mapping[str, pa.Table] = field(default_factory=dict)


@dataclass(frozen=True)
class Reduce:
    """A pass that reads rows and keeps a state.

    Attributes:
        title: what the pass does, for people who wait: "means and deviations".
        columns: names of those that `map` needs beside row and col.
        map: a chunk of rows -> its state. The chunk has row and col (int32), then `columns`.
        merge: the states of two neighbours, in their order -> the state of both.
        finish: the state of all rows -> the next pass, or the result. It is called in the driver; None: no rows at all.
    """

    title: str
    columns: tuple[str, ...]
    map: Callable[[pa.Table], Any]
    merge: Callable[[Any, Any], Any]
    finish: Callable[[Any], Pass | Result]


@dataclass(frozen=True)
class Write:
    """A pass that writes a value for each row: labels, scores. The cells keep their row and col.

    Attributes:
        name: folder of the files, one for each tile: "labels".
        columns: names of those that `map` needs beside row and col.
        schema: of the files, which begins with row and col.
        map: a chunk of rows -> as many rows of `schema`.
        state: rows that were written -> a state; merged and finished as in `Reduce`.
    """

    title: str
    name: str
    columns: tuple[str, ...]
    schema: pa.Schema
    map: Callable[[pa.Table], pa.Table]
    finish: Callable[[Any], Pass | Result]
    state: Callable[[pa.Table], Any] | None = None
    merge: Callable[[Any, Any], Any] | None = None


@dataclass(frozen=True)
class Tiles:
    """A pass that reads tiles by itself: for what needs the cells around a tile, too.

    Attributes:
        map: the key of a tile -> its state, or None without rows; merged and finished as in `Reduce`.
    """

    title: str
    map: Callable[[int], Any]
    merge: Callable[[Any, Any], Any]
    finish: Callable[[Any], Pass | Result]


Pass = Reduce | Write | Tiles


class Method(Protocol):
    """A method of analysis: a frozen dataclass whose fields are its options."""

    name: ClassVar[str]

    def prepare(self, subject: Subject) -> Pass:
        """The first pass.

        Raises:
            SettingsError: the options or the columns do not fit the method.
        """
