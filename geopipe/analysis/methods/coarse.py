"""Cells coarsened to the means of n x n: what methods take whose work grows with the square of the cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe.analysis.contract import Pass, Reduce, Result
from geopipe.analysis.rows import matrix
from geopipe.grid.grid import Grid

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class CoarseGrid:
    """Coarse cells of `edge` x `edge` cells of a grid, from its upper left corner on; `height` and `width` of them."""

    grid: Grid
    edge: int

    @classmethod
    def of(cls, grid: Grid, cells: int) -> CoarseGrid:
        """The finest one with at most so many coarse cells."""
        edge = max(1, math.isqrt(grid.cells // max(cells, 1)))
        while math.prod(grid.tiling(edge)) > cells:
            edge += 1
        return cls(grid, edge)

    @property
    def shape(self) -> tuple[int, int]:
        return self.grid.tiling(self.edge)

    def places(self, chunk: pa.Table) -> Ints:
        """The coarse cell of each row, in row-major order: (n,) int64."""
        row, col = (chunk[name].to_numpy().astype(np.int64) // self.edge for name in ("row", "col"))
        return np.asarray(row * self.shape[1] + col)

    def centres(self, cells: Ints) -> tuple[Floats, Floats]:
        """X and y of the centres of coarse cells, in units of the grid's CRS, each (n,) float64."""
        row, col = np.divmod(cells, self.shape[1])
        x = self.grid.x0 + (col + 0.5) * self.edge * self.grid.dx
        return x, self.grid.y0 - (row + 0.5) * self.edge * self.grid.dy


@dataclass(frozen=True)
class Coarse:
    """The coarse cells that have rows.

    Attributes:
        names: of the variables.
        cells: shape (m,), int64: their places, rising.
        counts: shape (m,), float64: rows in each that count.
        means: shape (m, d), float64.
    """

    lattice: CoarseGrid
    names: tuple[str, ...]
    cells: Ints
    counts: Floats
    means: Floats

    @property
    def standardised(self) -> Floats:
        """The means in standard deviations from their mean, shape (m, d); 0 for a variable that is the same in all."""
        deviations = self.means.std(axis=0)
        return np.asarray((self.means - self.means.mean(axis=0)) / np.where(deviations > 0, deviations, 1))


def coarsened(
    lattice: CoarseGrid, columns: Sequence[str], fill: Floats | None, then: Callable[[Coarse], Pass | Result]
) -> Reduce:
    """The pass that takes means in coarse cells, of the rows that lack no value or of all of them with `fill`."""
    names = tuple(columns)

    def finish(state: Floats | None) -> Pass | Result:
        state = np.zeros((math.prod(lattice.shape), len(names) + 1)) if state is None else state
        (cells,) = np.nonzero(state[:, 0])
        counts = state[cells, 0]
        return then(Coarse(lattice, names, cells, counts, state[cells, 1:] / counts[:, np.newaxis]))

    title = f"means of {lattice.edge} x {lattice.edge} cells"
    return Reduce(title, names, partial(_sums, lattice, names, fill), np.add, finish)


def _sums(lattice: CoarseGrid, columns: tuple[str, ...], fill: Floats | None, chunk: pa.Table) -> Floats:
    """Rows and sums of values by coarse cell: shape (coarse cells, d + 1), float64."""
    rows, size = matrix(chunk, columns, fill), math.prod(lattice.shape)
    places = lattice.places(chunk)[rows.kept]
    sums = [np.bincount(places, values, size) for values in rows.values.T]
    return np.stack([np.bincount(places, minlength=size).astype(np.float64), *sums], axis=1)
