"""Regions that hang together: neighbouring cells that are alike, by SKATER or max-p of spopt on coarsened cells."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from geopipe.analysis.contract import Pass, Result, Subject, Write
from geopipe.analysis.methods.coarse import Coarse, CoarseGrid, Floats, Ints, coarsened
from geopipe.analysis.methods.moments import Comoments, moments
from geopipe.analysis.methods.variables import Variables, lost, numbers_of
from geopipe.errors import MachineError, SettingsError
from geopipe.text import count

CELLS = {"skater": 2000, "maxp": 400}
"""Coarse cells at most: more of them take minutes."""

LABELS = pa.schema([("row", pa.int32()), ("col", pa.int32()), ("region", pa.int16())])


@dataclass(frozen=True)
class Regions:
    """Regions of cells that touch and are alike."""

    name: ClassVar[str] = "regions"

    method: Literal["skater", "maxp"] = "skater"
    """skater: k regions (Assuncao et al. 2006); maxp: as many as can be with enough rows each (Wei et al. 2020)"""
    k: int = 10
    """number of regions of skater"""
    floor: float = 0.02
    """share that a region has at least: of the coarse cells (skater), or of the rows (maxp)"""
    cells: int | None = None
    """coarse cells at most (default: 2,000, or 400 for maxp, which takes minutes for more)"""

    def prepare(self, subject: Subject) -> Pass:
        """Which variables vary."""
        if importlib.util.find_spec("spopt") is None:
            raise MachineError(
                "regions need the library spopt, which is not installed", "pip install 'geopipe[regions]'"
            )
        return moments(numbers_of(subject, self.name), subject.nulls, partial(self._coarsen, subject))

    def _coarsen(self, subject: Subject, state: Comoments) -> Pass | Result:
        variables = Variables.of(subject.numbers, state)
        if not variables.names:
            reason = "no variable varies" if state.count else "no row has a value of each variable"
            return Result(state.counts(), (f"there are no regions: {reason}", *variables.findings))
        lattice = CoarseGrid.of(subject.table.grid, self.cells or CELLS[self.method])
        fill = None if state.fill is None else state.fill[variables.at]
        return coarsened(lattice, variables.names, fill, partial(self._divide, subject, state, variables))

    def _divide(self, subject: Subject, state: Comoments, variables: Variables, coarse: Coarse) -> Pass:
        """Divide the coarse cells into regions, and label the cells."""
        edges = _edges(coarse)
        notes = []
        if self.method == "skater":
            if len(coarse.cells) < self.k:
                raise SettingsError(
                    f"regions_k = {self.k}, but only {count(len(coarse.cells), 'coarse cell')} have values",
                    "give fewer regions, or more coarse cells (regions_cells)",
                )
            labels = _skater(coarse, edges, self.k, self.floor)
            number = int(labels.max()) + 1
            if number > self.k:
                notes.append(f"{number} regions, not {self.k}: the cells are in so many parts that do not touch")
            if number < self.k:
                notes.append(f"{number} regions, not {self.k}: no cut is left that keeps regions_floor on both sides")
        else:
            labels, outside = _maxp(coarse, edges, self.floor, subject.seed)
            if outside:
                rows = int(coarse.counts[labels < 0].sum())
                notes.append(f"{rows:,} rows are in parts that are too small for a region, and have none")
        regions = _numbered(labels)
        lookup = np.zeros(coarse.lattice.shape[0] * coarse.lattice.shape[1], np.int16)
        lookup[coarse.cells] = regions
        notes += [*variables.findings, *lost(state)]
        result = partial(self._result, state, coarse, regions, notes)
        write = partial(_label, coarse.lattice, lookup)
        return Write("regions of the cells", "labels", (), LABELS, write, result, _sizes, _add)

    def _result(self, state: Comoments, coarse: Coarse, regions: Ints, notes: list[str], sizes: Floats) -> Result:
        """Sizes and means of the regions."""
        numbers = np.unique(regions[regions > 0])
        sizes = np.pad(sizes, (0, max(0, int(regions.max()) + 1 - len(sizes))))
        weights = coarse.counts
        means = [np.average(coarse.means[regions == r], axis=0, weights=weights[regions == r]) for r in numbers]
        inside = regions > 0
        values = coarse.standardised[inside]
        middles = np.stack([values[regions[inside] == r].mean(axis=0) for r in numbers])
        rest = float(((values - middles[np.searchsorted(numbers, regions[inside])]) ** 2).sum())
        total = float(((values - values.mean(axis=0)) ** 2).sum())
        explained = 1 - rest / total if total > 0 else None
        columns: dict[str, Any] = {"region": numbers.astype(np.int16), "rows": sizes[numbers].astype(np.int64)}
        columns["coarse_cells"] = np.bincount(regions)[numbers]
        columns |= {f"mean_{name}": np.array([mean[i] for mean in means]) for i, name in enumerate(coarse.names)}
        about = state.counts() | {
            "method": self.method,
            "edge": coarse.lattice.edge,
            "coarse_cells": len(coarse.cells),
            "regions": len(numbers),
            "explained": explained,
            "sizes": columns["rows"].tolist(),
        }
        share = "" if explained is None else f", which explain {explained:.0%} of the variance between coarse cells"
        finding = f"{count(len(numbers), 'region')} of {len(coarse.cells):,} coarse cells{share}"
        return Result(about, (finding, *notes), {"regions": pa.table(columns)})


def _edges(coarse: Coarse) -> Ints:
    """Pairs of coarse cells that share a side, as indices: shape (pairs, 2), int64."""
    height, width = coarse.lattice.shape
    index = np.full(height * width, -1)
    index[coarse.cells] = np.arange(len(coarse.cells))
    lattice = index.reshape(height, width)
    sides = ((lattice[:, :-1], lattice[:, 1:]), (lattice[:-1], lattice[1:]))
    pairs = np.concatenate([np.stack([first.ravel(), second.ravel()], axis=1) for first, second in sides])
    return np.asarray(pairs[(pairs >= 0).all(axis=1)])


def _parts(edges: Ints, size: int) -> NDArray[np.int32]:
    """The connected part of each coarse cell, from 0 on."""
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), (size, size))
    return np.asarray(connected_components(graph, directed=False)[1])


def _weights(edges: Ints, size: int) -> Any:
    """The neighbours as libpysal has them."""
    from libpysal.weights import W

    neighbours: dict[int, list[int]] = {i: [] for i in range(size)}
    for first, second in edges.tolist():
        neighbours[first].append(second)
        neighbours[second].append(first)
    return W(neighbours, silence_warnings=True)


def _without(edges: Ints, kept: NDArray[np.bool_]) -> Ints:
    """The pairs of neighbours among the coarse cells that are kept, as indices among these."""
    index = np.cumsum(kept) - 1
    return np.asarray(index[edges[kept[edges].all(axis=1)]])


def _skater(coarse: Coarse, edges: Ints, k: int, floor: float) -> Ints:
    """Regions by SKATER: the minimum spanning tree of neighbours, cut where it lowers the differences inside most.

    Without a floor of cells in a region it cuts off single cells that are unlike all others. Parts below the floor that
    touch no other are regions of their own.
    """
    from sklearn.metrics.pairwise import manhattan_distances
    from spopt.region.skater import SpanningForest

    def differences(first: Floats, second: Floats | None) -> Floats:
        return np.asarray(manhattan_distances(first, second) + 1e-9)  # the tree has no edge where they are 0

    parts = _parts(edges, len(coarse.cells))
    sizes = np.bincount(parts)
    least = min(max(int(floor * len(parts)), 1), int(sizes.max()))
    kept = (sizes >= least)[parts]
    large, small = int((sizes >= least).sum()), int((sizes < least).sum())
    values, weights = coarse.standardised[kept], _weights(_without(edges, kept), int(kept.sum()))
    forest = SpanningForest(dissimilarity=differences)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parts that do not touch are a finding of ours
        forest.fit(max(k - small, large), weights, values, quorum=least, islands="ignore")
    labels = np.empty(len(parts), np.int64)
    labels[kept] = forest.current_labels_
    labels[~kept] = labels[kept].max() + 1 + np.unique(parts[~kept], return_inverse=True)[1]
    return labels


def _maxp(coarse: Coarse, edges: Ints, floor: float, seed: int) -> tuple[Ints, bool]:
    """Regions by max-p, -1 for cells in parts with fewer rows than a region needs; whether there are such cells."""
    import pandas as pd
    from spopt.region.maxp import MaxPHeuristic

    threshold = floor * coarse.counts.sum()
    parts = _parts(edges, len(coarse.cells))
    kept = np.bincount(parts, coarse.counts)[parts] >= threshold
    if not kept.any():
        raise SettingsError(
            f"regions_floor = {floor:g} of the rows is more than any part of cells that touch has", "give a lower floor"
        )
    names = [f"v{i}" for i in range(coarse.means.shape[1])]
    frame = pd.DataFrame(coarse.standardised[kept], columns=names).assign(rows=coarse.counts[kept])
    weights = _weights(_without(edges, kept), int(kept.sum()))
    model = MaxPHeuristic(frame, weights, names, "rows", threshold, max_iterations_construction=50, max_iterations_sa=1)
    with _seeded(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas, about spopt's calls
        model.solve()
    labels = np.full(len(coarse.cells), -1)
    labels[kept] = np.asarray(model.labels_)
    return labels, not kept.all()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the random numbers of numpy that max-p draws, and put them back."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _numbered(labels: Ints) -> Ints:
    """Regions from 1 on, in the order of their first cells; 0 for none."""
    values, first = np.unique(labels, return_index=True)
    order = values[np.argsort(first)]
    order = order[order >= 0]
    numbers = np.zeros(len(labels), np.int64)
    for number, value in enumerate(order, 1):
        numbers[labels == value] = number
    return numbers


def _label(lattice: CoarseGrid, lookup: NDArray[np.int16], chunk: pa.Table) -> pa.Table:
    """The region of each row, that of its coarse cell; null where this has no value."""
    regions = lookup[lattice.places(chunk)]
    return pa.table([chunk["row"], chunk["col"], pa.array(regions, mask=regions == 0)], schema=LABELS)


def _sizes(rows: pa.Table) -> Floats:
    """Rows of each region, from 0 on."""
    return np.bincount(rows["region"].drop_null().to_numpy()).astype(np.float64)


def _add(left: Floats, right: Floats) -> Floats:
    size = max(len(left), len(right))
    return np.pad(left, (0, size - len(left))) + np.pad(right, (0, size - len(right)))
