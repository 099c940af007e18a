"""What a Python user does with a finished table, and the command line too: analyse it, train on it, map it, report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from geopipe.errors import SettingsError
from geopipe.settings import load
from geopipe.table.table import open_table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from geopipe.analysis.results import Analysis
    from geopipe.maps.rasterize import RasterMap
    from geopipe.table.table import Table
    from geopipe.training.predict import Predictions


def analyze(
    output: str | os.PathLike[str],
    methods: Sequence[str],
    *,
    columns: Sequence[str] = (),
    nulls: Literal["drop", "mean"] = "drop",
    engine: Literal["auto", "ray", "local"] = "auto",
    **options: Any,
) -> list[Analysis]:
    """Analyse a finished table. Results stand beside it, in output/analysis; the table is not touched.

    Args:
        output: the output folder of a run.
        methods: "summary", and others: see docs/analyses.md.
        columns: variables; none for all.
        nulls: what to do with rows that lack a value: leave them out, or take the variable's mean.
        engine: "local" (threads of this process), "ray", or "auto": Ray where a cluster exists.
        options: seed, and those of the methods, as in the settings: kmeans_k=6.

    Returns:
        The results of each method: `values`, `findings`, `table(name)`, `cells(name)`.

    Raises:
        SettingsError: a method, an option or a column does not exist, or does not fit the table.
        GeopipeError: it failed; earlier results of the method are still there.

    Example:
        >>> import geopipe as gp
        >>> (summary,) = gp.analyze("output", ["summary"])
        >>> summary.values["variables"]["elevation"]["max"]
        1199.0
    """
    from geopipe.analysis.stage import analyze_table

    keys = {"methods": list(methods), "columns": list(columns), "nulls": nulls} | options
    settings = load.analysis({f"analysis.{key}": value for key, value in keys.items()})
    return analyze_table(open_table(output), settings, engine)


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
    from dataclasses import fields

    from geopipe.proposals import near
    from geopipe.training.folds import Folds
    from geopipe.training.work import run, subject

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
    from geopipe.training.applicability import Applicability
    from geopipe.training.work import run, subject

    method = Applicability(os.fspath(train), dict(weights or {}), folds)
    return run(method, subject(open_table(output), method, columns, 0), engine)


def rasterize(
    table: str | os.PathLike[str] | Table | pa.Table | pd.DataFrame,
    columns: str | Sequence[str],
    *,
    like: str | os.PathLike[str] | Table | None = None,
    to: str | os.PathLike[str],
    overwrite: bool = False,
    **options: Any,
) -> RasterMap:
    """Write columns of a table as a map: a Cloud Optimized GeoTIFF with a band for each, the inverse of the export.

    Rows may come in any order, one at most for each cell. Cells without a row or a value are no-data: NaN in floats, a
    number that no cell has in integers, else a mask band. Bands have the names and units of their columns, and the
    palettes and names of their classes. Nothing is at `to` until the map is complete.

    Args:
        table: a finished output; a file, a folder or a pattern of Parquet; or rows in memory. Rows that are not a
            finished output have row and col, or x and y of their cells' centres.
        columns: names of the columns, of one type, or of types that one type holds exactly.
        like: a finished output on the grid of the rows. None: `table` itself, or the output that it is in.
        to: the name of the file. A map of more than `part_size` x `part_size` cells, or a name without an ending,
            becomes a folder of GeoTIFFs with a VRT over them.
        overwrite: replace a map that is there.
        options: part_size: edge in cells of the GeoTIFFs of a folder, 32,768 by default; watch: called with a title,
            a number and a total while the map is written.

    Returns:
        The map: `path`, `bands`, `dtype`, `nodata`, `rows`, `files`, `bytes`, `seconds`.

    Raises:
        SettingsError: a column is missing, rows are outside the grid or of one cell, or no type holds all columns.
        PlanError: there is no finished output, or something is at `to`.
        MachineError: the map cannot be written.

    Example:
        >>> import geopipe as gp
        >>> raster = gp.rasterize("output", ["elevation"], to="elevation.tif")
        >>> raster.bands, raster.dtype
        (('elevation',), 'float32')
    """
    from geopipe.maps import rasterize as maps

    watch = options.pop("watch", lambda title, done, total: None)
    target = maps.MapTarget(to, overwrite=overwrite, **options)
    return maps.rasterize(table, [columns] if isinstance(columns, str) else columns, like, target, watch)


def predict(
    output: str | os.PathLike[str] | Table,
    model: Any,
    columns: Sequence[str] = (),
    *,
    to: str | os.PathLike[str],
    overwrite: bool = False,
    **options: Any,
) -> Predictions:
    """Map a model over a finished table: a folder of Parquet with row, col and a prediction for each row.

    An estimator (with `predict`) gets a frame of pandas with its own column names, if it was fitted with a frame, else
    a matrix (rows, columns) of float64. A function gets a dict of arrays (rows,) by column, in the types of the table,
    and returns an array (rows,) or (rows, k), or a dict of named arrays. It may be called in several threads at a time.
    Rows with a null in one of the columns are not shown to the model: their predictions are null, and counted.

    Args:
        output: the output of a finished run.
        model: path of a joblib file, which is code: load only files that you trust; "module:function"; or the
            estimator or function itself.
        columns: names, in the order of the model; none for those that it was fitted with.
        to: folder of the predictions. Nothing is there until all are complete.
        overwrite: replace predictions that are there.
        options: engine: "local" (threads of this process), "ray", or "auto": Ray where a cluster exists; address: of
            the cluster; proba: True for probabilities of classes.

    Returns:
        The predictions: `path`, `names`, `rows`, `nulls`, `missing`, `files`, `bytes`, `seconds`.

    Raises:
        SettingsError: the model or a column does not exist, or they do not fit.
        RunError: the model fails; the message names the rows.
        MachineError: the model cannot be loaded, or the disk is full.

    Example:
        >>> import geopipe as gp
        >>> done = gp.predict("output", lambda rows: rows["elevation"] > 1000, ["elevation"], to="high")
        >>> done.names, done.rows, done.nulls
        (('prediction',), 1200, 0)
    """
    from geopipe.training import predict as training
    from geopipe.training.models import model_of

    watch = options.pop("watch", lambda step: None)
    table = open_table(output) if isinstance(output, str | os.PathLike) else output
    chosen = training.PredictOptions(overwrite=overwrite, **options)
    return training.predict(table, model_of(model), columns, to, chosen, watch)


def report(
    output: str | os.PathLike[str],
    file: str | os.PathLike[str] | None = None,
    *,
    against: str | os.PathLike[str] | None = None,
) -> Path:
    """Write the report of a finished table: one file of HTML, which needs no network.

    Args:
        output: folder or URI of the table.
        file: for the page; None for OUTPUT/report.html, and OUTPUT/report/against.html.
        against: another table: report which variables, tiles and quantiles differ.

    Returns:
        The path of the page.

    Raises:
        PlanError: there is no finished run.
        MachineError: the table cannot be read, or the page not written.

    Example:
        >>> import geopipe as gp
        >>> gp.report("output").name
        'report.html'
    """
    from geopipe.report import write

    page = None if file is None else Path(file)
    if against is not None:
        return write.compare(os.fspath(output), os.fspath(against), page)[0]
    return write.report(os.fspath(output), page)[0]
