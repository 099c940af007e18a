"""Principal components: exact, from the covariances of all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geopipe.analysis.contract import Pass, Result, Subject, Write
from geopipe.analysis.methods.moments import Comoments, moments
from geopipe.analysis.methods.projection import Projection
from geopipe.analysis.methods.variables import Variables, lost, numbers_of
from geopipe.errors import SettingsError
from geopipe.text import count

Floats = NDArray[np.float64]

ENOUGH = 0.95
"""Share of the variance that the components reach together, if their number is not given."""

SAME = 1e-9
"""Loadings whose sizes differ by less are equal where a sign is chosen: rounding shall not choose it."""


@dataclass(frozen=True)
class Pca:
    """Principal components of the numbers: loadings, explained variance, and scores on the cells."""

    name: ClassVar[str] = "pca"

    standardize: bool = True
    """divide each variable by its standard deviation, so that units do not matter"""

    components: int | None = None
    """how many components have scores; None: those that explain 95 % of the variance together"""

    scores: bool = True
    """write the scores of each cell, as columns pc1, pc2, and so on"""

    def prepare(self, subject: Subject) -> Pass:
        """The pass that finds covariances.

        Raises:
            SettingsError: there are no numbers, or fewer than `components`.
        """
        names = numbers_of(subject, self.name)
        if self.components is not None and self.components > len(names):
            message = f"pca_components = {self.components} is more than the {count(len(names), 'variable')}"
            raise SettingsError(message, f"give {len(names)} or less: {', '.join(names)}")
        return moments(names, subject.nulls, partial(self._components, names))

    def _components(self, names: tuple[str, ...], known: Comoments) -> Pass | Result:
        """Axes from the moments of all rows, then the scores."""
        variables = Variables.of(names, known)
        if not variables.names:
            empty = {"variables": [], "constant": list(variables.constant), "components": 0, "total_variance": 0.0}
            reason = "no variable varies" if known.count else "no row has all values"
            return Result(known.counts() | empty, (f"{reason}: there are no components", *variables.findings))
        inner = np.ix_(variables.at, variables.at)
        deviations = known.deviations[variables.at]
        scatter = known.correlations()[inner] if self.standardize else known.products[inner] / (known.count - 1)
        axes = principal(scatter)
        kept = min(self.components or _enough(axes.shares), len(variables.names))
        result = self._result(variables, known, axes, kept)
        if not self.scores:
            return result
        scale = 1 / deviations if self.standardize else np.ones(len(deviations))
        fill = None if known.fill is None else known.fill[variables.at]
        weights = np.ascontiguousarray((axes.loadings[:, :kept].T * scale).T)
        projection = Projection(variables.names, fill, known.means[variables.at], weights)
        places = [pa.field("row", pa.int32(), False), pa.field("col", pa.int32(), False)]
        schema = pa.schema([*places, *(pa.field(f"pc{i + 1}", pa.float32()) for i in range(kept))])
        mapped = partial(projection.scores, schema=schema)
        return Write("scores of cells", "scores", variables.names, schema, mapped, lambda _: result)

    def _result(self, variables: Variables, known: Comoments, axes: Axes, kept: int) -> Result:
        names = [f"pc{i + 1}" for i in range(len(axes.variances))]
        shares, sums = axes.shares.tolist(), np.cumsum(axes.shares).tolist()
        columns = zip(names, axes.loadings.T.tolist(), strict=True)
        deviations = known.deviations[variables.at]
        loadings = {"variable": list(variables.names), "mean": known.means[variables.at], "sd": deviations}
        explained = {"component": names, "variance": axes.variances, "share": shares, "cumulative": sums}
        values = {
            **known.counts(),
            "variables": list(variables.names),
            "constant": list(variables.constant),
            "components": kept,
            "total_variance": float(axes.variances.sum()),
            "explained_variance": axes.variances.tolist(),
            "explained_share": shares,
            "loadings": {name: dict(zip(variables.names, column, strict=True)) for name, column in columns},
        }
        first = axes.loadings[:, 0]
        leaders = ", ".join(variables.names[i] for i in np.argsort(-np.abs(first), kind="stable")[:3])
        findings = [
            f"{kept} of {len(names)} components explain {sums[kept - 1]:.1%} of the variance",
            f"pc1 explains {shares[0]:.1%}, and is mostly {leaders}",
        ]
        tables = {
            "loadings": pa.table(loadings | dict(zip(names, axes.loadings.T, strict=True))),
            "explained": pa.table(explained),
        }
        return Result(values, (*findings, *variables.findings, *lost(known)), tables)


@dataclass(frozen=True)
class Axes:
    """Principal axes, the one of the largest variance first.

    Attributes:
        loadings: shape (d, d), float64: an axis of length 1 in each column.
        variances: shape (d,), float64, along the axes.
    """

    loadings: Floats
    variances: Floats

    @property
    def shares(self) -> Floats:
        """Shares of the variance, shape (d,)."""
        return np.asarray(self.variances / self.variances.sum())


def principal(scatter: Floats) -> Axes:
    """The principal axes of a covariance or correlation matrix, shape (d, d).

    The sign of an axis has no meaning: its largest loading in size is positive, of equal ones the first.
    """
    variances, loadings = np.linalg.eigh(scatter)
    variances, loadings = np.maximum(variances[::-1], 0.0), loadings[:, ::-1].copy()
    for axis in loadings.T:
        sizes = np.abs(axis)
        axis *= np.sign(axis[np.argmax(sizes >= sizes.max() - SAME)])
    return Axes(loadings, variances)


def _enough(shares: Sequence[float] | Floats) -> int:
    """The number of components that reach ENOUGH together."""
    return int(np.argmax(np.cumsum(shares) >= ENOUGH - 1e-12)) + 1
