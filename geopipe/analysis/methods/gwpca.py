"""Geographically weighted principal components on coarsened cells: which variables go together, place by place.

Harris, Brunsdon and Charlton (2011), "Geographically weighted principal components analysis": at each place the
covariances of the nearest cells, weighted by a bisquare kernel, have components of their own. The bandwidth is a number
of nearest cells, so that the kernel is wider where cells are few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from geopipe.analysis.contract import Pass, Result, Subject
from geopipe.analysis.methods.coarse import Coarse, CoarseGrid, Floats, Ints, coarsened
from geopipe.analysis.methods.moments import Comoments, moments
from geopipe.analysis.methods.variables import Variables, lost, numbers_of
from geopipe.errors import SettingsError
from geopipe.grid.distances import positions

GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Gwpca:
    """Principal components of the cells around each place."""

    name: ClassVar[str] = "gwpca"

    bandwidth: int | None = None
    """nearest coarse cells that count at a place (default: the number with the least cross-validated error)"""
    components: int = 2
    """components whose loadings and explained variance are written"""
    cells: int = 2000
    """coarse cells at most"""

    def prepare(self, subject: Subject) -> Pass:
        """Which variables vary."""
        return moments(numbers_of(subject, self.name), subject.nulls, partial(self._coarsen, subject))

    def _coarsen(self, subject: Subject, state: Comoments) -> Pass | Result:
        variables = Variables.of(subject.numbers, state)
        if len(variables.names) < 2:
            reason = "fewer than two variables vary" if state.count else "no row has a value of each variable"
            return Result(state.counts(), (f"there are no components: {reason}", *variables.findings))
        lattice = CoarseGrid.of(subject.table.grid, self.cells)
        fill = None if state.fill is None else state.fill[variables.at]
        return coarsened(lattice, variables.names, fill, partial(self._weigh, state, variables))

    def _weigh(self, state: Comoments, variables: Variables, coarse: Coarse) -> Result:
        """Components at each coarse cell."""
        size, names = len(coarse.cells), variables.names
        components = min(self.components, len(names) - 1)
        least = len(names) + 2
        if size < least:
            raise SettingsError(
                f"gwpca needs at least {least} coarse cells for {len(names)} variables, and {size} have values",
                "give more coarse cells (gwpca_cells) or fewer columns",
            )
        if self.bandwidth is not None and not least <= self.bandwidth <= size:
            raise SettingsError(
                f"gwpca_bandwidth = {self.bandwidth} is not from {least} to the {size:,} coarse cells that have values",
                "leave it out: cross-validation chooses one",
            )
        places, values = neighbours(coarse), coarse.standardised
        scores: dict[int, float] = {}
        bandwidth = self.bandwidth or _golden(values, places, components, scores)
        eigenvalues, loadings = local_components(values, places, bandwidth)
        shares = _shares(eigenvalues)
        table = _table(coarse, names, shares[:, :components], loadings[:, :, :components])
        seen = [b for b in sorted(scores) if np.isfinite(scores[b])]
        errors = {"bandwidth": seen, "error": [scores[b] for b in seen]}
        tables = {"cells": table, "bandwidths": pa.table(errors)}
        leading = np.abs(loadings[:, :, 0]).argmax(axis=1)
        about = state.counts() | {
            "edge": coarse.lattice.edge,
            "coarse_cells": size,
            "bandwidth": bandwidth,
            "components": components,
            "variables": list(names),
        }
        explained, notes = shares[:, :components].sum(axis=1), variables.findings + lost(state)
        return _result(about, coarse, explained, leading, tables, notes)


class Places(NamedTuple):
    """Coarse cells in the order of their distance from each: indices and distances, shape (m, m); itself first."""

    order: Ints
    distances: Floats


def neighbours(coarse: Coarse) -> Places:
    """Straight distances between coarse cells, through the globe where the grid is geographic."""
    points = positions(coarse.lattice.grid.crs, *coarse.lattice.centres(coarse.cells))
    squares = np.zeros((len(points), len(points)))
    for axis in points.T:
        squares += (axis[:, np.newaxis] - axis) ** 2
    order = np.argsort(squares, axis=1, kind="stable")
    return Places(order, np.sqrt(np.take_along_axis(squares, order, axis=1)))


def _weights(places: Places, bandwidth: int) -> Floats:
    """Bisquare weights of the nearest cells, 0 at the last of them: shape (m, bandwidth)."""
    near = places.distances[:, :bandwidth]
    return np.asarray((1 - np.minimum(near / near[:, -1:], 1) ** 2) ** 2)


def _local(values: Floats, near: Ints, weights: Floats) -> tuple[Floats, Floats]:
    """Weighted mean and covariance of some cells, without BLAS, whose threads change the order of sums."""
    rows, total = values[near], weights.sum()
    mean = np.einsum("i,ij->j", weights, rows) / total
    rows = rows - mean
    return mean, np.einsum("ij,ik->jk", rows * weights[:, np.newaxis], rows) / total


def local_components(values: Floats, places: Places, bandwidth: int) -> tuple[Floats, Floats]:
    """Components at each cell.

    Returns:
        Eigenvalues, falling, shape (m, d); loadings, shape (m, d, d), a column for each component. Its largest loading
        is positive.
    """
    weights = _weights(places, bandwidth)
    local = [_local(values, near[:bandwidth], w)[1] for near, w in zip(places.order, weights, strict=True)]
    eigenvalues, vectors = np.linalg.eigh(np.stack(local))
    vectors = vectors[:, :, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, np.newaxis], axis=1)
    return np.maximum(eigenvalues[:, ::-1], 0.0), vectors * np.where(largest < 0, -1.0, 1.0)


def cross_validation(values: Floats, places: Places, bandwidth: int, components: int) -> float:
    """Sum of squared distances of cells from the axes of components that are found without them (Harris et al. 2011).

    Values are deviations from the means of all cells, as in GWmodel: from local means, a smooth variable would always
    have the least error at the smallest bandwidth. Infinite where a cell has too few neighbours: at equal distances all
    of them can be the last, whose weight is 0.
    """
    weights = _weights(places, bandwidth)
    weights[:, 0] = 0.0
    if (np.count_nonzero(weights, axis=1) <= components).any():
        return np.inf
    local = [_local(values, near[:bandwidth], w)[1] for near, w in zip(places.order, weights, strict=True)]
    vectors = np.linalg.eigh(np.stack(local))[1][:, :, -components:]
    scores = np.einsum("ij,ijk->ik", values, vectors)
    return float((values**2).sum() - (scores**2).sum())


def _golden(values: Floats, places: Places, components: int, scores: dict[int, float]) -> int:
    """The bandwidth with the least error, by golden section as in GWmodel; fills `scores` with those on its way."""

    def score(bandwidth: int) -> float:
        if bandwidth not in scores:
            scores[bandwidth] = cross_validation(values, places, bandwidth, components)
        return scores[bandwidth]

    low, high = values.shape[1] + 2, len(values)
    while high - low > 2:
        left, right = round(high - GOLDEN * (high - low)), round(low + GOLDEN * (high - low))
        if left == right:
            break
        low, high = (low, right) if score(left) <= score(right) else (left, high)
    return min(range(low, high + 1), key=score)


def _shares(eigenvalues: Floats) -> Floats:
    """The share of the local variance that each component explains; NaN where the cells around do not differ."""
    totals = eigenvalues.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(eigenvalues, totals, out=np.full(eigenvalues.shape, np.nan), where=totals > 1e-12))


def _table(coarse: Coarse, names: tuple[str, ...], shares: Floats, loadings: Floats) -> pa.Table:
    """A row for each coarse cell: its place among coarse cells, its centre, explained variance and loadings."""
    row, col = np.divmod(coarse.cells, coarse.lattice.shape[1])
    x, y = coarse.lattice.centres(coarse.cells)
    leading = np.abs(loadings[:, :, 0]).argmax(axis=1)
    columns: dict[str, Any] = {"row": row.astype(np.int32), "col": col.astype(np.int32), "x": x, "y": y}
    columns |= {"rows": coarse.counts.astype(np.int64), "leading": [names[i] for i in leading]}
    for k, share in enumerate(shares.T, 1):
        columns[f"explained_{k}"] = pa.array(share, mask=np.isnan(share))
        columns |= {f"pc{k}_{name}": loadings[:, i, k - 1] for i, name in enumerate(names)}
    return pa.table(columns)


def _result(
    about: Mapping[str, Any],
    coarse: Coarse,
    explained: Floats,
    leading: Ints,
    tables: Mapping[str, pa.Table],
    notes: list[str],
) -> Result:
    """Maps of explained variance and of the leading variable, and what they say."""
    names, size = about["variables"], coarse.lattice.shape
    seen = explained[~np.isnan(explained)]
    first = np.bincount(leading, minlength=len(names))
    maps = {}
    for name, column in (("explained", explained), ("leading", leading)):
        full = np.full(size[0] * size[1], None, object)
        full[coarse.cells] = [None if np.isnan(v) else v for v in column.tolist()]
        maps[name] = full.reshape(size).tolist()
    values = dict(about) | {
        "explained_least": float(seen.min()) if len(seen) else None,
        "explained_median": float(np.median(seen)) if len(seen) else None,
        "explained_most": float(seen.max()) if len(seen) else None,
        "leading_cells": dict(zip(names, first.tolist(), strict=True)),
        "maps": maps,
    }
    if not len(seen):
        return Result(values, ("no variable differs between neighbouring coarse cells", *notes), tables)
    name, share = names[int(first.argmax())], first.max() / first.sum()
    sentence = (
        f"{about['components']} components explain {seen.min():.0%} to {seen.max():.0%} of the variance around a place "
        f"(median {np.median(seen):.0%}), of its {about['bandwidth']:,} nearest coarse cells; {name} leads the first "
        f"component in {share:.0%} of the places"
    )
    return Result(values, (sentence, *notes), tables)
