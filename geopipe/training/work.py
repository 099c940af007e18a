"""Run the methods of training over a finished table, and commit their results beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from geopipe.analysis.catalogue import columns_of
from geopipe.analysis.contract import Method, Subject
from geopipe.analysis.drive import Watch, analyze
from geopipe.analysis.results import FOLDER, Analysis
from geopipe.analysis.stage import folder_of
from geopipe.durable import replacing, write_error
from geopipe.engine.passes import Kind, passes
from geopipe.export.lock import locked
from geopipe.table.points import read_rows
from geopipe.table.table import Table
from geopipe.training.applicability import Applicability
from geopipe.training.folds import Folds


def subject(table: Table, method: Method, columns: Sequence[str], seed: int) -> Subject:
    """What a method looks at.

    Raises:
        SettingsError: a column is no variable of the table.
    """
    variables = columns_of(columns, list(table.files.facts.variables), table.output)
    return Subject(table, variables if columns or isinstance(method, Applicability) else (), seed=seed)


def run(
    method: Method, about: Subject, kind: Kind = "auto", address: str | None = None, watch: Watch = lambda step: None
) -> Analysis:
    """Run a method over a table, and commit its results as OUTPUT/analysis/NAME."""
    folder = folder_of(about.table)
    with locked(folder, f"of geopipe {method.name}"), passes(kind, address) as at_work:
        return analyze(method, about, at_work, folder / FOLDER, watch)


def write_points(folds: Folds, analysis: Analysis, path: str | os.PathLike[str]) -> Path:
    """Write the training points with their fold, as Parquet, or as CSV where the name ends so.

    Returns:
        The file: the rows of the points in their order, with a column `fold` at the end.

    Raises:
        MachineError: the file cannot be written.
    """
    file = Path(path).expanduser()
    table = read_rows(str(folds.points), "points")
    if "fold" in table.column_names:
        table = table.drop_columns(["fold"])
    table = table.append_column("fold", analysis.table("points")["fold"])
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as sink:
            if file.suffix == ".csv":
                pacsv.write_csv(table, sink)
            else:
                pq.write_table(table, sink, compression="zstd")
    except OSError as error:
        raise write_error(error, file) from error
    return file
