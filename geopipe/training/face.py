"""What a Python user calls: `gp.folds` and `gp.applicability`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

from geopipe.analysis.results import Analysis
from geopipe.errors import SettingsError
from geopipe.proposals import near
from geopipe.table.table import open_table
from geopipe.training.applicability import Applicability
from geopipe.training.folds import Folds
from geopipe.training.work import run, subject


def folds(
    output: str | os.PathLike[str],
    method: Literal["block", "cluster", "knndm"] = "block",
    *,
    columns: Sequence[str] = (),
    seed: int = 0,
    engine: Literal["auto", "ray", "local"] = "auto",
    **options: Any,
) -> Analysis:
    """Make folds for an honest cross-validation: of all rows of a table, or of training points on its grid.

    Results stand beside the table, in output/analysis/folds: the fold of each row in `cells("folds")`, that of each
    point in `table("points")`, sizes and balance in `table("folds")`, distances in `table("distances")`.

    Args:
        output: the output folder of a run.
        method: "block" (squares of cells), "cluster" (k-means in space, or of `columns`), or "knndm" (nearest neighbour
            distance matching, for `points`).
        columns: variables in whose space "cluster" works; none for places.
        seed: of all random choices.
        engine: "local" (threads of this process), "ray", or "auto": Ray where a cluster exists.
        options: `k` folds (5); `size` of blocks in the unit of the grid's CRS; `assignment` of blocks ("random",
            "systematic", "checkerboard"); `classes`, a column to balance; `points`, a file with x and y or row and col;
            `clustering` ("hierarchical", "kmeans") and `largest` share of a fold for "knndm".

    Returns:
        The result: `values`, `findings`, `table(name)`, `cells(name)`.

    Raises:
        SettingsError: an option or a column does not exist, or does not fit the table.

    Example:
        >>> import geopipe as gp
        >>> result = gp.folds("output", "block", k=4, size=100, seed=1)
        >>> result.values["block"]["blocks"]
        12
        >>> [fold["rows"] for fold in result.values["folds"]]
        [300, 300, 300, 300]
    """
    names = [field.name for field in fields(Folds)]
    for name in options:
        if name not in names:
            meant = near(name, names)
            hint = f"did you mean {meant!r}?" if meant else f"options: {', '.join(names)}"
            raise SettingsError(f"folds has no option {name!r}", hint)
    if options.get("points") is not None:
        options["points"] = os.fspath(options["points"])
    chosen = Folds(method, **options)
    return run(chosen, subject(open_table(output), chosen, columns, seed), engine)


def applicability(
    output: str | os.PathLike[str],
    train: str | os.PathLike[str],
    *,
    weights: Mapping[str, float] | None = None,
    columns: Sequence[str] = (),
    folds: str | None = None,
    engine: Literal["auto", "ray", "local"] = "auto",
) -> Analysis:
    """Find where a model holds: the dissimilarity of every cell from the training data, and what is inside.

    The dissimilarity index and the area of applicability of Meyer and Pebesma (2021). Results stand beside the table,
    in output/analysis/applicability: row, col, di and inside of each cell in `cells("cells")`.

    Args:
        output: the output folder of a run.
        train: Parquet or CSV file of the training data, with the variables of the model.
        weights: importance by variable; None: all weigh the same.
        columns: variables of the model; none for those of `weights`, or for all that both tables have.
        folds: column of the training data with the folds of the cross-validation; None: leave-one-out.
        engine: "local" (threads of this process), "ray", or "auto": Ray where a cluster exists.

    Returns:
        The result: `values` (share_inside, threshold), `findings`, `cells(name)`.

    Raises:
        SettingsError: a column is missing, or the training data do not fit.

    Example:
        >>> import geopipe as gp
        >>> import pyarrow.parquet as pq
        >>> table = gp.open("output")
        >>> pq.write_table(table.sample(100, seed=1, by="spatial"), "train.parquet")
        >>> gp.applicability("output", "train.parquet").values["share_inside"] > 0.9
        True
    """
    method = Applicability(os.fspath(train), dict(weights or {}), folds)
    return run(method, subject(open_table(output), method, columns, 0), engine)
