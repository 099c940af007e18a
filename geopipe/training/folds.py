"""Folds for an honest cross-validation: of all rows of a table, or of training points on its grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from geopipe.analysis.contract import Pass, Reduce, Result, Subject, Write
from geopipe.analysis.methods.sampling import sample
from geopipe.analysis.results import FOLDER, RESULT, read
from geopipe.analysis.rows import matrix
from geopipe.analysis.stage import folder_of
from geopipe.errors import SettingsError
from geopipe.grid.crs import Floats
from geopipe.grid.distances import axis_unit, centres, positions
from geopipe.grid.grid import Grid
from geopipe.table.points import points_of, read_rows, require_columns, require_numbers, require_on_grid
from geopipe.table.table import Table
from geopipe.training import diagnostics
from geopipe.training.blocks import Assignment, Blocks
from geopipe.training.clusters import kmeans
from geopipe.training.counts import classes_of, counted, crossed, merged
from geopipe.training.distances import Ints, Neighbourhood
from geopipe.training.knndm import Clustering, match

CELLS = 20_000
"""Cells of a sample: those to predict, and those that stand for training points where no points are known."""

STARTS = 4
"""Runs of k-means, of which the best one is taken."""

SCHEMA = pa.schema([("row", pa.int32()), ("col", pa.int32()), ("fold", pa.int16())])

Then = Callable[[Any], "Pass | Result"]


class Training(NamedTuple):
    """Training points: their cells with the columns that folds need, and where they are exactly."""

    rows: pa.Table
    x: Floats
    y: Floats


class Parts(Protocol):
    """Parts of the grid or of the variables' space, of which each is in one fold."""

    def of(self, rows: pa.Table) -> Ints:
        """The number of each row's part: (rows,) int64."""


@dataclass(frozen=True)
class Centres:
    """Parts of space, or of the space of variables, by the nearest centre. What is missing counts as the mean."""

    grid: Grid
    columns: tuple[str, ...]
    means: Floats
    deviations: Floats
    centres: Floats

    def of(self, rows: pa.Table) -> Ints:
        return np.asarray(cKDTree(self.centres).query(self.places(rows))[1], np.int64)

    def places(self, rows: pa.Table) -> Floats:
        """Where rows are in the space: (rows, dimensions) float64."""
        if self.columns:
            return (matrix(rows, self.columns, self.means).values - self.means) / self.deviations
        return _positions(self.grid, rows)


@dataclass(frozen=True)
class Assigned:
    """Parts with their folds. `numbers` of parts rise; `folds` are theirs, from 1."""

    parts: Parts
    numbers: Ints
    folds: Ints

    def of(self, rows: pa.Table) -> Ints:
        """The fold of each row: (rows,) int64."""
        return self.folds[np.searchsorted(self.numbers, self.parts.of(rows))]

    def write(self, rows: pa.Table) -> pa.Table:
        """Rows with their folds, as `SCHEMA` has them."""
        return pa.table([rows["row"], rows["col"], pa.array(self.of(rows).astype(np.int16))], schema=SCHEMA)


@dataclass(frozen=True)
class Folds:
    """Folds by blocks, by clusters, or by distance matching.

    Attributes:
        k: number of folds; None for 5, and for the 2 of a checkerboard.
        size: edge of a block in the unit of the grid's CRS; None for the range of autocorrelation.
        assignment: of blocks to folds.
        classes: column whose classes are balanced and counted by fold.
        points: file of training points; None: all rows of the table have a fold.
        clustering: of distance matching; None for a choice by the number of points.
        largest: share of the points that a fold of distance matching may have.
    """

    name: ClassVar[str] = "folds"

    method: Literal["block", "cluster", "knndm"] = "block"
    k: int | None = None
    size: float | None = None
    assignment: Assignment = "random"
    classes: str | None = None
    points: str | None = None
    clustering: Clustering | None = None
    largest: float = 0.5

    @property
    def count(self) -> int:
        """The number of folds."""
        return self.k if self.k is not None else 2 if self.assignment == "checkerboard" else 5

    def prepare(self, subject: Subject) -> Pass:
        self._check(subject)
        return _Work(self, subject, self._training(subject)).first()

    def _check(self, subject: Subject) -> None:
        for key, kinds in (("method", ("block", "cluster", "knndm")), ("assignment", get_args(Assignment))):
            if getattr(self, key) not in kinds:
                raise SettingsError(f"{key} = {getattr(self, key)!r} is not known", f"give {', '.join(kinds)}")
        if self.clustering not in (None, *get_args(Clustering)):
            raise SettingsError(f"clustering = {self.clustering!r} is not known", "give hierarchical or kmeans")
        if not 2 <= self.count <= np.iinfo(np.int16).max:
            raise SettingsError(f"k = {self.count} is no number of folds", "give 2 or more; 5 and 10 are usual")
        if self.assignment == "checkerboard" and self.count != 2:
            raise SettingsError(f"a checkerboard has 2 folds, not {self.count}", "leave out k, or assign at random")
        if self.method == "knndm" and self.points is None:
            raise SettingsError(
                "folds by distance matching (knndm) need training points", "give a file of them: --points FILE"
            )
        if self.method != "block" and (self.size is not None or self.assignment != "random"):
            raise SettingsError(f"size and assignment are of blocks, not of {self.method}", "leave them out")
        if self.method != "cluster" and subject.columns:
            raise SettingsError(
                f"folds by {self.method} look at places, not at columns", "leave out columns, or take clusters"
            )

    def _training(self, subject: Subject) -> Training | None:
        """The training points of the file.

        Raises:
            SettingsError: columns are missing, points lie off the grid, or are fewer than folds.
        """
        columns = list(dict.fromkeys([*subject.columns, *([self.classes] if self.classes else [])]))
        if self.points is None:
            require_columns(subject.table.columns, columns, subject.table.output)
            return None
        table, grid = read_rows(self.points, "points"), subject.table.grid
        require_columns(table.column_names, columns, self.points)
        require_numbers(table.schema, subject.columns, self.points)
        points = points_of(grid, table, self.points)
        require_on_grid(grid, points, self.points)
        if len(table) < self.count:
            raise SettingsError(
                f"{self.points} has {len(table):,} points, fewer than {self.count} folds", "give more points"
            )
        cells = {"row": points.rows.astype(np.int32), "col": points.cols.astype(np.int32)}
        return Training(pa.table(cells | {name: table[name] for name in columns}), points.x, points.y)


def _positions(grid: Grid, rows: pa.Table) -> Floats:
    return positions(grid.crs, *centres(grid, rows["row"].to_numpy(), rows["col"].to_numpy()))


@dataclass(frozen=True)
class _Work:
    """Options with what they are of. Each step makes the next one."""

    folds: Folds
    subject: Subject
    training: Training | None

    def first(self) -> Pass:
        columns = self.subject.columns
        return sample(columns, CELLS, self.subject.seed, self._parts, complete=bool(columns))

    def _parts(self, cells: pa.Table) -> Pass | Result:
        """The step after the sample of cells."""
        if len(cells) < 2 * self.folds.count:
            columns = ", ".join(self.subject.columns)
            raise SettingsError(
                f"{self.subject.table.output} has {len(cells)} rows"
                + (f" with a value in each of {columns}" if columns else "")
                + f", too few for {self.folds.count} folds",
                "give other columns (--columns)" if columns else "give fewer folds (--k)",
            )
        if self.folds.method == "knndm":
            return self._matched(cells)
        about: dict[str, Any] = {}
        parts: Parts
        if self.folds.method == "block":
            size, origin = self._size()
            parts = Blocks(self.subject.table.grid, size)
            unit = axis_unit(self.subject.table.grid.crs)
            about = {"block": {"size": size, "unit": unit, "origin": origin, "assignment": self.folds.assignment}}
        else:
            parts = self._clusters(cells)
        then = partial(self._assigned, cells, parts, about)
        if self.training is not None:
            return then(counted(parts.of(self.training.rows), self._classes(self.training.rows)))
        names = tuple(dict.fromkeys([*self.subject.columns, *([self.folds.classes] if self.folds.classes else [])]))
        count = partial(_count, parts, self.folds.classes)
        return Reduce("rows by part and class", names, count, merged, then)

    def _size(self) -> tuple[float, str]:
        """The size of blocks, and where it comes from."""
        if self.folds.size is not None:
            return self.folds.size, "given"
        return proposed_size(self.subject.table)

    def _clusters(self, cells: pa.Table) -> Centres:
        columns, k = self.subject.columns, self.folds.count
        means, deviations = np.zeros(0), np.ones(0)
        if columns:
            values = matrix(cells, columns).values
            means, deviations = values.mean(axis=0), values.std(axis=0)
            constant = [name for name, deviation in zip(columns, deviations, strict=True) if deviation == 0]
            if constant:
                raise SettingsError(f"{', '.join(constant)} has one value only", "leave it out of --columns")
        space = Centres(self.subject.table.grid, columns, means, deviations, np.zeros((0, 0)))
        training = cells if self.training is None else self.training.rows
        places = space.places(training)
        centroids = kmeans(places, k, np.random.default_rng(self.subject.seed), STARTS).centres
        if len(centroids) < k:
            raise SettingsError(
                f"only {len(centroids)} of {k} clusters have points: the others coincide", "give fewer folds (--k)"
            )
        return Centres(space.grid, columns, means, deviations, centroids[np.lexsort(centroids.T[::-1])])

    def _assigned(self, cells: pa.Table, parts: Parts, about: dict[str, Any], counts: pa.Table) -> Pass | Result:
        """The step after rows were counted by part and class."""
        numbers = np.unique(counts["number"].to_numpy())
        classes = classes_of(counts, str(self.folds.classes))
        table = crossed(counts, numbers, classes)
        if isinstance(parts, Blocks):
            assigned = parts.assign(numbers, table, self.folds.count, self.folds.assignment, self.subject.seed)
            about["block"]["blocks"] = len(numbers)
        else:
            assigned = numbers + 1
        rule = Assigned(parts, numbers, assigned)
        sizes = np.zeros((self.folds.count, len(classes)))
        np.add.at(sizes, assigned - 1, table)
        balance = diagnostics.Balance(sizes, classes, self.folds.classes)
        if empty := np.flatnonzero(sizes.sum(axis=1) == 0).tolist():
            raise SettingsError(f"fold {empty[0] + 1} has no row", "give smaller blocks, or assign them at random")
        if self.training is not None:
            return self._points_result(cells, rule.of(self.training.rows), balance, about)
        stand_ins = np.random.default_rng(self.subject.seed).permutation(len(cells)) < len(cells) // 2
        training, prediction = cells.filter(pa.array(stand_ins)), cells.filter(pa.array(~stand_ins))
        grid = self.subject.table.grid
        places = Neighbourhood(grid.crs, _positions(grid, training), _positions(grid, prediction))
        finish = partial(self._result, places, rule.of(training), balance, about)
        return Write("folds", "folds", self._needs(), SCHEMA, rule.write, lambda _: finish())

    def _needs(self) -> tuple[str, ...]:
        return self.subject.columns if self.folds.method == "cluster" else ()

    def _matched(self, cells: pa.Table) -> Result:
        """Folds by distance matching."""
        training = self.training
        assert training is not None
        k = self.folds.count
        matching = match(self._places(cells), k, self.subject.seed, self.folds.clustering, self.folds.largest)
        classes = self._classes(training.rows)
        counts = counted(matching.folds, classes)
        names = classes_of(counts, str(self.folds.classes))
        balance = diagnostics.Balance(crossed(counts, np.arange(1, k + 1), names), names, self.folds.classes)
        about = {"matching": {"clusters": matching.clusters, "clustering": matching.clustering}}
        return self._points_result(cells, matching.folds, balance, about)

    def _places(self, cells: pa.Table) -> Neighbourhood:
        """The training points, and the cells to predict."""
        assert self.training is not None
        grid = self.subject.table.grid
        points = positions(grid.crs, self.training.x, self.training.y)
        return Neighbourhood(grid.crs, points, _positions(grid, cells))

    def _classes(self, rows: pa.Table) -> Any:
        return None if self.folds.classes is None else rows[self.folds.classes]

    def _points_result(
        self, cells: pa.Table, folds: Ints, balance: diagnostics.Balance, about: dict[str, Any]
    ) -> Result:
        assert self.training is not None
        result = self._result(self._places(cells), folds, balance, about)
        rows = self.training.rows.select(["row", "col"]).append_column("fold", pa.array(folds.astype(np.int16)))
        return Result(result.values, result.findings, {**result.tables, "points": rows})

    def _result(
        self, places: Neighbourhood, folds: NDArray[np.int64], balance: diagnostics.Balance, about: dict[str, Any]
    ) -> Result:
        values = {
            "method": self.folds.method,
            "k": self.folds.count,
            "of": "rows" if self.training is None else "points",
        }
        comparison = diagnostics.compared(places, folds, self.folds.count, self.subject.seed)
        return diagnostics.result(values | about, balance, comparison, self.training is not None)


def _count(parts: Parts, classes: str | None, rows: pa.Table) -> pa.Table:
    return counted(parts.of(rows), None if classes is None else rows[classes])


def proposed_size(table: Table) -> tuple[float, str]:
    """The block size that the range of autocorrelation proposes, and where it comes from.

    Raises:
        SettingsError: there is no such result for this table, or it has no range.
    """
    folder, hint = folder_of(table) / FOLDER / "autocorrelation", "give the edge of a block: --size"
    if not (folder / RESULT).exists():
        raise SettingsError(
            "blocks need a size", f"{hint}, or first run: geopipe analyze OUTPUT --methods autocorrelation"
        )
    analysis = read(folder)
    if analysis.about.get("run_id") != table.success.get("run_id"):
        raise SettingsError(
            "the autocorrelation is of an earlier table",
            f"{hint}, or repeat: geopipe analyze OUTPUT --methods autocorrelation",
        )
    size = analysis.values.get("block_size")
    if size is None:
        raise SettingsError("the autocorrelation has no range, so it proposes no block size", hint)
    variable = analysis.values.get("block_size_of")
    return float(size), "range of autocorrelation" + (f" of {variable}" if variable else "")
