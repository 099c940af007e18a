"""A self-organising map, trained in batches: rows of many variables laid out on a plane of nodes.

Batch algorithm of Kohonen (2013), "Essentials of the self-organizing map": in each epoch every row is given to its
nearest node, and then each node becomes the mean of all rows, weighted by how near their nodes are on the map. The sums
of nodes merge, so that an epoch is a pass over the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe.analysis.contract import Pass, Reduce, Result, Subject, Write
from geopipe.analysis.methods.moments import Comoments, moments
from geopipe.analysis.methods.sampling import sample
from geopipe.analysis.methods.som_kernels import Floats, Singles, nearest_two, sums_of_nodes
from geopipe.analysis.methods.variables import Variables, lost, numbers_of
from geopipe.analysis.rows import matrix
from geopipe.errors import SettingsError

MOST_NODES = 900
"""Of a map whose size is chosen here; one of a given size may have `LARGEST`."""

LARGEST = 32_767

Topology = Literal["rectangular", "hexagonal"]

LABELS = pa.schema(
    [("row", pa.int32()), ("col", pa.int32()), ("node", pa.int16()), ("distance", pa.float32()), ("torn", pa.bool_())]
)


@dataclass(frozen=True)
class Som:
    """A self-organising map."""

    name: ClassVar[str] = "som"

    height: int | None = None
    """rows of nodes (default: height and width follow from the number of rows and the first two eigenvalues)"""
    width: int | None = None
    """nodes of a row"""
    epochs: int = 10
    """passes over the rows"""
    radius_from: float | None = None
    """standard deviation of the neighbourhood in the first epoch, in steps between nodes (default: half a side)"""
    radius_to: float = 0.5
    """the same in the last epoch"""
    topology: Topology = "rectangular"
    """a node has eight neighbours, or six"""
    start: Literal["plane", "sample"] = "plane"
    """first nodes: on the plane of the first two principal components, or rows of a seeded sample"""

    def prepare(self, subject: Subject) -> Pass:
        """Means and deviations of the variables, by which they are standardised."""
        if (self.height is None) != (self.width is None) or not 2 <= (self.height or 2) * (self.width or 1) <= LARGEST:
            raise SettingsError(
                f"som_height = {self.height} and som_width = {self.width} are no size of a map",
                f"give both, from 2 to {LARGEST:,} nodes, or neither: then the size follows from the table",
            )
        names = numbers_of(subject, self.name)
        return moments(names, subject.nulls, partial(self._begin, subject))

    def _begin(self, subject: Subject, state: Comoments) -> Pass | Result:
        """The size of the map and its first nodes."""
        data = _Data(state, Variables.of(subject.numbers, state))
        if not data.names:
            reason = "no variable varies" if state.count else "no row has a value of each variable"
            return Result(state.counts(), (f"there is no map: {reason}", *data.findings))
        values, axes = np.linalg.eigh(data.correlations)
        height, width = self.size(state.count, values[::-1])
        if state.count < height * width:
            raise SettingsError(
                f"som has {height} x {width} nodes, but only {state.count:,} of {state.rows:,} rows that count",
                'give fewer nodes (som_height, som_width), or nulls = "mean" to keep rows that lack a value',
            )
        shape = _Shape(height, width, self.topology)
        radii = self.radius_from or max(height, width) / 2, self.radius_to
        training = _Training(data, shape, self.epochs, radii)
        if self.start == "plane":
            return training.epoch(_plane(shape.positions, values[::-1], axes[:, ::-1]), ())
        return sample(data.names, height * width, subject.seed, training.begin, complete=data.fill is None)

    def size(self, rows: int, eigenvalues: Floats) -> tuple[int, int]:
        """Height and width: about 5 sqrt(rows) nodes, sides as the deviations along both axes (Vesanto 2000)."""
        if self.height and self.width:
            return self.height, self.width
        nodes = min(5 * math.sqrt(rows), MOST_NODES, max(rows, 4))
        second = eigenvalues[1] if len(eigenvalues) > 1 else 0.0
        ratio = min(math.sqrt(eigenvalues[0] / second), 4.0) if second > eigenvalues[0] / 16 else 4.0
        height = max(2, int(math.sqrt(nodes / ratio)))
        return height, max(2, int(nodes / height))


@dataclass(frozen=True)
class _Data:
    """The variables of a map, and how they are standardised."""

    moments: Comoments
    variables: Variables

    @property
    def names(self) -> tuple[str, ...]:
        return self.variables.names

    @property
    def fill(self) -> Floats | None:
        """What stands for missing values: shape (d,), float64."""
        return None if self.moments.fill is None else self.moments.fill[self.variables.at]

    @property
    def scaling(self) -> Floats:
        """Means and standard deviations: shape (2, d), float64."""
        return np.stack([self.moments.means, self.moments.deviations])[:, self.variables.at].copy()

    @property
    def correlations(self) -> Floats:
        at = self.variables.at
        return self.moments.correlations()[np.ix_(at, at)]

    @property
    def findings(self) -> list[str]:
        """Sentences about what is left out."""
        return self.variables.findings + lost(self.moments)


@dataclass(frozen=True)
class _Shape:
    """The nodes of a map, numbered row by row."""

    height: int
    width: int
    topology: Topology

    @property
    def positions(self) -> Floats:
        """Places of the nodes on the map, x and y in steps between neighbours: shape (nodes, 2), float64."""
        row, col = np.divmod(np.arange(self.height * self.width), self.width)
        if self.topology == "rectangular":
            return np.stack([col, row], axis=1).astype(np.float64)
        return np.stack([col + 0.5 * (row % 2), row * math.sqrt(0.75)], axis=1)

    @property
    def squares(self) -> Floats:
        """Squared distances between nodes on the map: shape (nodes, nodes), float64."""
        places = self.positions
        result: Floats = np.square(places[:, np.newaxis] - places).sum(axis=2)
        return result

    @property
    def neighbours(self) -> NDArray[np.bool_]:
        """Which nodes are neighbours on the map: shape (nodes, nodes)."""
        squares = self.squares
        return np.asarray((squares > 0) & (squares < (2.1 if self.topology == "rectangular" else 1.1)))


@dataclass(frozen=True)
class _Training:
    """Epochs over the rows; `radii` are those of the neighbourhood in the first and in the last one.

    Nodes are of shape (nodes, d), float32, standardised. `errors` are mean distances of rows from their nodes in each
    epoch before.
    """

    data: _Data
    shape: _Shape
    epochs: int
    radii: tuple[float, float]

    def radius(self, epoch: int) -> float:
        """The radius of the neighbourhood in an epoch: it falls by the same factor from each to the next."""
        share = epoch / (self.epochs - 1) if self.epochs > 1 else 1.0
        return float(self.radii[0] * (self.radii[1] / self.radii[0]) ** share)

    def begin(self, rows: pa.Table) -> Pass:
        """The first epoch from rows of a sample; fewer than there are nodes are repeated."""
        data, count = self.data, self.shape.height * self.shape.width
        values = np.resize(matrix(rows, data.names, data.fill).values, (count, len(data.names)))
        return self.epoch(((values - data.scaling[0]) / data.scaling[1]).astype(np.float32), ())

    def epoch(self, nodes: Singles, errors: tuple[float, ...]) -> Pass:
        """The next epoch, or after the last one the labels."""
        names, laid = self.data.names, _laid(nodes)
        if len(errors) == self.epochs:
            label = partial(_label, self.data, laid, self.shape.neighbours)
            result, state = partial(self._result, nodes, errors), partial(_errors, len(nodes))
            return Write("nodes of the cells", "labels", names, LABELS, label, result, state, np.add)
        title, finish = f"epoch {len(errors) + 1} of {self.epochs}", partial(self._smoothed, nodes, errors)
        return Reduce(title, names, partial(_sums, self.data, laid), _add, finish)

    def _smoothed(self, nodes: Singles, errors: tuple[float, ...], state: _State) -> Pass:
        """The nodes after an epoch: means of all rows, weighted by the distance of their nodes on the map."""
        weights = np.exp(-self.shape.squares / (2 * self.radius(len(errors)) ** 2))
        sums = np.einsum("ij,jk->ik", weights, state.sums)  # not by BLAS, whose threads change the order of sums
        reached = sums[:, -1] > 1e-12
        nodes = nodes.copy()
        nodes[reached] = (sums[reached, :-1] / sums[reached, -1:]).astype(np.float32)
        return self.epoch(nodes, (*errors, float(state.distance[0] / self.data.moments.count)))

    def _result(self, nodes: Singles, errors: tuple[float, ...], state: Floats) -> Result:
        """Maps of the nodes, and how well they stand for the rows."""
        data, neighbours, sides = self.data, self.shape.neighbours, (self.shape.height, self.shape.width)
        hits, (distance, torn) = state[:-2].astype(np.int64), (state[-2:] / data.moments.count).tolist()
        between = np.sqrt(np.square(nodes[:, np.newaxis].astype(np.float64) - nodes).sum(axis=2))
        u_matrix = (between * neighbours).sum(axis=1) / neighbours.sum(axis=1)
        planes = nodes.astype(np.float64) * data.scaling[1] + data.scaling[0]
        values = data.moments.counts() | {
            "height": self.shape.height,
            "width": self.shape.width,
            "topology": self.shape.topology,
            "radii": [self.radius(epoch) for epoch in range(self.epochs)],
            "quantisation_error": distance,
            "topographic_error": torn,
            "quantisation_error_by_epoch": list(errors),
            "constant": list(data.variables.constant),
            "hits": hits.reshape(sides).tolist(),
            "u_matrix": u_matrix.reshape(sides).tolist(),
            "planes": {name: planes[:, i].reshape(sides).tolist() for i, name in enumerate(data.names)},
        }
        x, y = self.shape.positions.T
        columns = {"node": np.arange(len(nodes), dtype=np.int16), "x": x, "y": y, "hits": hits, "u_distance": u_matrix}
        table = pa.table(columns | {f"mean_{name}": planes[:, i] for i, name in enumerate(data.names)})
        return Result(values, (self._sentence(distance, torn), *data.findings), {"nodes": table})

    def _sentence(self, distance: float, torn: float) -> str:
        return (
            f"{self.shape.height} x {self.shape.width} nodes stand for {self.data.moments.count:,} rows: a row is "
            f"{distance:.3g} standard deviations from its node on average; for {torn:.1%} of the rows the second "
            "nearest node is no neighbour of the nearest"
        )


class _State(NamedTuple):
    """Of some rows in an epoch: sums of the rows of each node with their number; sum of distances, shape (1,)."""

    sums: Floats
    distance: Floats


def _plane(positions: Floats, eigenvalues: Floats, axes: Floats) -> Singles:
    """Nodes on the plane of the first two principal components, a standard deviation to each side of the mean."""
    centred = 2 * positions / np.maximum(positions.max(axis=0), 1) - 1
    order = np.argsort(-np.ptp(positions, axis=0), kind="stable")  # the longer side along the first component
    nodes = np.zeros((len(positions), len(axes)))
    for i, side in enumerate(order[: len(eigenvalues)]):
        axis = axes[:, i] * np.sign(axes[np.argmax(np.abs(axes[:, i])), i])
        nodes += np.outer(centred[:, side], axis * math.sqrt(max(eigenvalues[i], 0.0)))
    return nodes.astype(np.float32)


def _laid(nodes: Singles) -> Singles:
    """Nodes as the kernels take them: shape (d + 1, nodes), float32."""
    return np.ascontiguousarray(np.column_stack([nodes, np.square(nodes).sum(axis=1) / 2]).T)


def _sums(data: _Data, nodes: Singles, chunk: pa.Table) -> _State:
    """The sums of a chunk. What Ray hands over is read-only, a type of its own for numba: hence the copy."""
    return _State(*sums_of_nodes(matrix(chunk, data.names, data.fill).values, data.scaling, nodes.copy()))


def _add(left: _State, right: _State) -> _State:
    return _State(left.sums + right.sums, left.distance + right.distance)


def _label(data: _Data, nodes: Singles, neighbours: NDArray[np.bool_], chunk: pa.Table) -> pa.Table:
    """The node of each row, its distance in standard deviations, and whether the next node is no neighbour of it."""
    rows = matrix(chunk, data.names, data.fill)
    first, second, distances = nearest_two(rows.values, data.scaling, nodes.copy())
    columns = []
    for column in (first, distances, ~neighbours[first, second]):
        values = np.zeros(len(chunk), column.dtype)
        values[rows.kept] = column
        columns.append(pa.array(values, mask=None if rows.kept.all() else ~rows.kept))
    return pa.table([chunk["row"], chunk["col"], *columns], schema=LABELS)


def _errors(count: int, rows: pa.Table) -> Floats:
    """Hits of each node, the sum of distances, and the number of rows that are torn: shape (nodes + 2,), float64."""
    rows = rows.drop_null()
    hits = np.bincount(rows["node"].to_numpy(), minlength=count)
    distance = rows["distance"].to_numpy().astype(np.float64).sum()
    return np.append(hits.astype(np.float64), [distance, np.count_nonzero(rows["torn"].to_numpy())])
