"""How much cells are like the cells near them: Moran's I at lags on the grid, and variograms of a sample of pairs.

Moran's I is exact: each tile is read with the cells around it, in strips. A cell counts for a variable where it has a
value of it; one without neighbours is an island, as in esda. The range of a variogram proposes the size of blocks for
folds: cells nearer than it are no test of a model that has seen one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe.analysis.contract import Pass, Reduce, Result, Subject, Tiles
from geopipe.analysis.methods.moments import value_sums
from geopipe.analysis.methods.neighbours import STEPS, Floats, morans_i, sums_of_pairs
from geopipe.analysis.methods.sampling import sample
from geopipe.analysis.methods.variables import numbers_of
from geopipe.analysis.methods.variogram import Ints, Scale, empirical, fitted, partners
from geopipe.analysis.rows import CHUNK, numbers
from geopipe.table.files import CellWindow, Files

STRIP = 2**20
"""Cells of a strip at most, unless a tile is wider than 16,384: some megabytes for each variable."""


@dataclass(frozen=True)
class Autocorrelation:
    """Moran's I and variograms of each variable of numbers."""

    name: ClassVar[str] = "autocorrelation"

    lags: tuple[int, ...] = (1, 2, 4, 8)
    """distances to neighbours, in cells"""
    contiguity: Literal["queen", "rook"] = "queen"
    """neighbours of a cell: eight directions, or four"""
    weights: Literal["row", "binary"] = "row"
    """weights of a cell's neighbours: they add up to 1, or each is 1"""
    pairs: int = 2000
    """pairs of cells in each class of distance of a variogram"""

    def prepare(self, subject: Subject) -> Pass:
        """Means of the variables, from which deviations are taken."""
        names = numbers_of(subject, self.name)
        finish = partial(self._pairs, subject)
        return Reduce("means", names, partial(value_sums, names), np.add, finish)

    def _pairs(self, subject: Subject, state: Floats | None) -> Pass:
        """Sums over neighbours."""
        counts, sums = np.zeros((2, len(subject.numbers))) if state is None else state
        means = np.divide(sums, counts, out=np.zeros(len(sums)), where=counts > 0)
        finish = partial(self._sampled, subject, counts, means)
        return Tiles("neighbours", partial(self._tile, subject, means), _add, finish)

    def _tile(self, subject: Subject, means: Floats, key: int) -> _Sums:
        """The sums of a tile, strip by strip."""
        facts = subject.table.files.facts
        tile = facts.grid.tile(key, facts.window_size)
        height = max(64, STRIP // tile.width)
        state = _Sums(np.zeros((len(means), 3)), np.zeros((len(means), len(self.lags), 4)))
        for row in range(tile.row, tile.row + tile.height, height):
            rows = row, min(row + height, tile.row + tile.height)
            state = _add(state, self._strip(subject, means, CellWindow(rows, (tile.col, tile.col + tile.width))))
        return state

    def _strip(self, subject: Subject, means: Floats, window: CellWindow) -> _Sums:
        margin = 2 * max(self.lags)
        planes = _deviations(subject, means, window, margin)
        steps = np.array(STEPS[self.contiguity])
        state = _Sums(np.zeros((len(means), 3)), np.zeros((len(means), len(self.lags), 4)))
        for i, plane in enumerate(planes):
            inner = plane[margin:-margin, margin:-margin]
            squares = inner[~np.isnan(inner)] ** 2
            state.own[i] = len(squares), squares.sum(), (squares**2).sum()
            for j, lag in enumerate(self.lags):
                state.pairs[i, j] = sums_of_pairs(plane, margin, lag, steps, self.weights == "row")
        return state

    def _sampled(self, subject: Subject, counts: Floats, means: Floats, state: _Sums) -> Pass | Result:
        """The first cells of the pairs, a seeded sample; no variogram of a table that is too small."""
        gaps = subject.table.rows - counts.astype(np.int64)
        moran = {name: self._moran(state, means, gaps, i) for i, name in enumerate(subject.numbers)}
        scale = Scale(subject.table.grid)
        if not len(scale.edges) or not state.own[:, 0].any():
            return _result(self, subject, moran, {})
        then = partial(self._partners, subject, moran, scale)
        return sample(subject.numbers, self.pairs, subject.seed, then, complete=False)

    def _moran(self, state: _Sums, means: Floats, gaps: Ints, i: int) -> _Moran:
        """Moran's I of a variable at each lag."""
        count, second, fourth = state.own[i].tolist()
        if second <= count * (1e-12 * abs(means[i])) ** 2:  # constant but for rounding
            second = 0.0
        lags = [{"lag": lag} | morans_i(count, second, fourth, state.pairs[i, j]) for j, lag in enumerate(self.lags)]
        return _Moran(int(count), int(gaps[i]), second <= 0, lags)

    def _partners(self, subject: Subject, moran: Mapping[str, _Moran], scale: Scale, cells: pa.Table) -> Pass:
        """The values of both cells of each pair."""
        places = np.stack([cells[name].to_numpy().astype(np.int64) for name in ("row", "col")], axis=1)
        pairs = partners(scale, places, np.random.default_rng(subject.seed))
        width = scale.grid.width
        keys_of_pairs = np.unique(
            np.concatenate([pairs[:, 0] * width + pairs[:, 1], pairs[:, 2] * width + pairs[:, 3]])
        )
        finish = partial(self._variograms, subject, moran, scale, pairs)
        map_ = partial(_values_at, subject.numbers, keys_of_pairs, width)
        return Reduce("values of pairs of cells", subject.numbers, map_, _join, finish)

    def _variograms(
        self, subject: Subject, moran: Mapping[str, _Moran], scale: Scale, pairs: Ints, state: _Values
    ) -> Result:
        """A variogram of each variable that varies."""
        order = np.argsort(state.cells)
        cells, values = state.cells[order], state.values[order]
        distances, ends = scale.distances(pairs[:, :2], pairs[:, 2:]), []
        for row, col in (pairs[:, :2].T, pairs[:, 2:].T):
            keys = row * scale.grid.width + col
            place = np.minimum(np.searchsorted(cells, keys), len(cells) - 1)
            ends.append(np.where((cells[place] == keys)[:, np.newaxis], values[place], np.nan))
        squares, variograms = (ends[0] - ends[1]) ** 2, {}
        for i, name in enumerate(subject.numbers):
            if not moran[name].is_constant:
                means, semivariances, counts = empirical(distances, squares[:, i], scale.edges)
                columns = {"distance": means.tolist(), "semivariance": semivariances.tolist(), "pairs": counts.tolist()}
                variograms[name] = columns | fitted(means, semivariances, counts)
        return _result(self, subject, moran, variograms)


class _Sums(NamedTuple):
    """Sums over some cells.

    own: shape (variables, 3), float64: count, squares and fourth powers of deviations.
    pairs: shape (variables, lags, 4), float64, of `sums_of_pairs`.
    """

    own: Floats
    pairs: Floats


class _Moran(NamedTuple):
    """Moran's I of a variable at each lag, of cells that count; rows without a value are `nulls`."""

    cells: int
    nulls: int
    is_constant: bool
    lags: list[dict[str, Any]]


class _Values(NamedTuple):
    """Values of cells: row * width + col, (n,) int64, and (n, variables) float64 with NaN where missing."""

    cells: NDArray[np.int64]
    values: Floats


def _add(left: _Sums, right: _Sums) -> _Sums:
    return _Sums(left.own + right.own, left.pairs + right.pairs)


def _join(left: _Values, right: _Values) -> _Values:
    return _Values(np.append(left.cells, right.cells), np.concatenate([left.values, right.values]))


def _deviations(subject: Subject, means: Floats, window: CellWindow, margin: int) -> Floats:
    """Deviations in a window with a margin: shape (variables, height, width), float64, NaN where there is no value."""
    (top, bottom), (left, right) = window
    around = CellWindow((top - margin, bottom + margin), (left - margin, right + margin))
    (top, bottom), (left, right) = around
    files, height, width = subject.table.files, bottom - top, right - left
    rows = _rows(files, around, ["row", "col", *subject.numbers])
    planes = np.full((len(means), height * width), np.nan)
    if len(rows):
        places = (rows["row"].to_numpy().astype(np.int64) - top) * width + rows["col"].to_numpy() - left
        for i, name in enumerate(subject.numbers):
            values, present = numbers(rows, name)
            values -= means[i]
            if present is not None:
                values[~present] = 0.0 if subject.nulls == "mean" else np.nan
            planes[i, places] = values
    return planes.reshape(len(means), height, width)


def _rows(files: Files, window: CellWindow, columns: list[str]) -> pa.Table:
    """The rows in a window: Parquet by its row groups, CSV by tiles, which can be parts of one file."""
    keys = files.keys_in(window)
    if files.format == "parquet":
        return files.read(keys, columns, window)
    inside = window.expression()
    parts = (part.filter(inside) for key in keys.tolist() for part in files.stream(key, columns, CHUNK))
    return pa.concat_tables([files.schema.empty_table().select(columns), *parts])


def _values_at(columns: tuple[str, ...], keys_of_pairs: Ints, width: int, chunk: pa.Table) -> _Values:
    """The values of those cells of a chunk that are among some."""
    keys = chunk["row"].to_numpy().astype(np.int64) * width + chunk["col"].to_numpy()
    near = keys_of_pairs[np.searchsorted(keys_of_pairs, keys[0]) : np.searchsorted(keys_of_pairs, keys[-1], "right")]
    place = np.searchsorted(keys, near)  # rows of a chunk are in the order of row and col
    place = place[keys[place] == near]
    part, values = chunk.take(pa.array(place)), np.empty((len(place), len(columns)))
    for i, name in enumerate(columns):
        column, present = numbers(part, name)
        values[:, i] = column if present is None else np.where(present, column, np.nan)
    return _Values(keys[place], values)


def _result(
    method: Autocorrelation, subject: Subject, moran: Mapping[str, _Moran], variograms: Mapping[str, Any]
) -> Result:
    scale = Scale(subject.table.grid)
    ranges = {name: v["range"] for name, v in variograms.items() if v["range"] is not None}
    longest = max(ranges, key=ranges.__getitem__, default=None)
    values = {
        "contiguity": method.contiguity,
        "weights": method.weights,
        "unit": scale.unit,
        "cells": {name: one.cells for name, one in moran.items()},
        "nulls": {name: one.nulls for name, one in moran.items()},
        "moran": {name: one.lags for name, one in moran.items()},
        "variograms": dict(variograms),
        "block_size": scale.block(ranges[longest]) if longest else None,
        "block_size_of": longest,
    }
    lines = [{"variable": name} | lag for name, one in moran.items() for lag in one.lags]
    columns = ("distance", "semivariance", "pairs")
    points = {name: [v for one in variograms.values() for v in one[name]] for name in columns}
    names = [name for name, one in variograms.items() for _ in one["pairs"]]
    tables = {"moran": pa.Table.from_pylist(lines), "variogram": pa.table({"variable": names} | points)}
    return Result(values, tuple(_findings(scale, moran, variograms, longest)), tables)


def _findings(
    scale: Scale, moran: Mapping[str, _Moran], variograms: Mapping[str, Any], longest: str | None
) -> list[str]:
    sentences = []
    if longest:
        length = float(f"{variograms[longest]['range']:.4g}")
        sentences.append(
            f"cells hang together over {length:,.10g} {scale.unit} ({longest}): blocks of folds should be no smaller"
        )
    elif variograms:
        sentences.append("no variogram has a range within a third of the extent: choose the size of blocks by hand")
    else:
        sentences.append("there is no variogram: the grid is too small, or no variable varies")
    for name, one in moran.items():
        if one.is_constant:
            sentences.append(f"{name} is constant or has no value: it has no Moran's I")
        elif one.lags[0]["i"] is None:
            sentences.append(f"{name} has no two cells {one.lags[0]['lag']} apart: it has no Moran's I")
    for name, one in variograms.items():
        if one["reason"]:
            sentences.append(f"the variogram of {name} has no range: {one['reason']}")
    return sentences
