"""Map a model over a finished table: a prediction for each row, committed as a whole."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geopipe import __version__
from geopipe.analysis.drive import Step, Watch
from geopipe.analysis.rows import chunks
from geopipe.durable import replacing, write_error
from geopipe.engine.passes import Kind, passes
from geopipe.errors import GeopipeError, RunError, SettingsError, first_line
from geopipe.export import state
from geopipe.export.state import SUCCESS
from geopipe.layers import uris
from geopipe.maps.commit import check_free, publish, workshop
from geopipe.redaction import redacted
from geopipe.table.files import Files
from geopipe.table.table import Table
from geopipe.training.models import Model, features, predictions

PLACE = (pa.field("row", pa.int32(), nullable=False), pa.field("col", pa.int32(), nullable=False))

TRIAL = 1000
"""Rows of the first call of a model, which tells names and types of its predictions."""


@dataclass(frozen=True)
class Predictions:
    """Predictions that were written.

    Attributes:
        path: the folder: Parquet files with row, col and the predictions, and `_SUCCESS`.
        columns: of the table that the model took.
        names: of the predictions.
        rows: of the table; each has a row in the files.
        nulls: rows without a prediction, because one of the columns is null.
        missing: other rows for which the model gives NaN or None.
    """

    path: Path
    model: str
    sha256: str
    columns: tuple[str, ...]
    names: tuple[str, ...]
    rows: int
    nulls: int
    missing: int
    files: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class PredictOptions:
    """How to predict. `proba`: probabilities of classes (`predict_proba`) instead of the likeliest class."""

    proba: bool = False
    engine: Kind = "auto"
    address: str | None = None
    overwrite: bool = False


class Counts(NamedTuple):
    """Rows of a tile, those with a null, and others without a prediction."""

    rows: int = 0
    nulls: int = 0
    missing: int = 0

    def plus(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Job:
    """The work on a tile, as workers get it. `fields` are those of the predictions."""

    files: Files
    model: Model
    columns: tuple[str, ...]
    fields: tuple[pa.Field, ...]
    folder: Path = field(repr=False)
    proba: bool = False

    def __call__(self, key: int) -> Counts:
        """Write the predictions of a tile. A tile without rows has a file, too."""
        path, counts = self.folder / f"{self.files.name(key)}.parquet", Counts()
        schema = pa.schema([*PLACE, *self.fields])
        try:
            with replacing(path) as sink, pq.ParquetWriter(sink, schema, compression="zstd") as writer:
                for chunk in chunks(self.files, key, self.columns):
                    place = f"tile {key}, its rows {counts.rows:,} to {counts.rows + len(chunk) - 1:,}"
                    columns, part = self._predict(chunk, place)
                    writer.write_table(pa.table([chunk["row"], chunk["col"], *columns], schema=schema))
                    counts = counts.plus(part)
        except OSError as error:
            raise write_error(error, path) from error
        return counts

    def _predict(self, chunk: pa.Table, place: str) -> tuple[list[pa.Array], Counts]:
        """The predictions for some rows, null where a column is null."""
        complete = complete_rows(chunk, self.columns)
        rows = chunk.select(self.columns).filter(pa.array(complete))
        values = predict_rows(self.model, rows, self.proba, place_of(chunk, place)) if len(rows) else {}
        names = [one.name for one in self.fields]
        if values and list(values) != names:
            text = f"{self.model.name} gives {', '.join(values)} for {place_of(chunk, place)}; before it gave {names}"
            raise RunError(text, "let it give the same columns for any rows")
        places = pa.array(np.cumsum(complete) - 1, mask=~complete)
        columns, absent = [], np.zeros(len(chunk), bool)
        for one in self.fields:
            value = values.get(one.name, pa.nulls(0, one.type))
            try:
                plain = [pa.types.is_primitive(kind) for kind in (one.type, value.type)]
                if plain[0] != plain[1] and not pa.types.is_null(value.type):
                    raise pa.ArrowInvalid(f"it is {value.type}")  # Arrow would parse texts
                column = value.cast(one.type).take(places)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                text = f"{one.name} of {self.model.name} was {one.type} at first, and not for {place_of(chunk, place)}"
                raise RunError(f"{text}: {error}", "let it give values of one type for any rows") from None
            absent |= column.is_null().to_numpy(zero_copy_only=False)
            columns.append(column)
        nulls = len(chunk) - len(rows)
        return columns, Counts(len(chunk), nulls, int(absent.sum()) - nulls)


def complete_rows(chunk: pa.Table, columns: Sequence[str]) -> NDArray[np.bool_]:
    """The rows of a chunk without a null in any of the columns: (rows,) bool."""
    complete = np.ones(len(chunk), bool)
    for name in columns:
        if chunk[name].null_count:
            complete &= chunk[name].is_valid().to_numpy()
    return complete


def place_of(chunk: pa.Table, place: str) -> str:
    """Rows of a tile for a message, with their first and last cell."""
    first, last = ((chunk["row"][i].as_py(), chunk["col"][i].as_py()) for i in (0, -1))
    return f"{place} (cells from row {first[0]:,}, column {first[1]:,} to row {last[0]:,}, column {last[1]:,})"


def predict_rows(model: Model, rows: pa.Table, proba: bool, place: str) -> dict[str, pa.Array]:
    """What a model says of rows without nulls.

    Raises:
        RunError: the model raises an error; names the rows.
    """
    try:
        return predictions(model.load(), rows, proba)
    except GeopipeError:
        raise
    except Exception as error:  # the model is the user's
        raise RunError(
            f"{model.name} failed in {place}: {type(error).__name__}: {first_line(error)}",
            "nothing was written; try the model on these rows: gp.open(OUTPUT).pandas(columns)",
        ) from error


def predict(
    table: Table,
    model: Model,
    columns: Sequence[str],
    to: str | os.PathLike[str],
    options: PredictOptions,
    watch: Watch = lambda step: None,
) -> Predictions:
    """Predict each row of a table (see `geopipe.table_api.predict`)."""
    start = time.perf_counter()
    names = features(model.load(), columns)
    table.schema_of(names)
    target = _target(to)
    check_free(target, options.overwrite, is_ours)
    fields = _trial(table, model, names, options.proba)
    with workshop(target) as folder:
        staged, counts = folder / target.name, Counts()
        staged.mkdir()
        # workers have other working folders
        job = Job(table.files, model, names, fields, staged.absolute(), options.proba)
        keys = table.files.keys.tolist()
        with passes(options.engine, options.address) as running:
            for done, part in enumerate(running.map(job, keys), 1):
                counts = counts.plus(part)
                watch(Step("predict", model.name, 1, done, len(keys)))
        size = sum(file.stat().st_size for file in staged.iterdir())
        with replacing(staged / SUCCESS) as file:
            file.write(json.dumps(_success(table, job, counts), indent=2).encode() + b"\n")
        publish(staged, target)
    seconds = time.perf_counter() - start
    written = tuple(one.name for one in fields)
    return Predictions(target, model.name, model.sha256, names, written, *counts, len(keys), size, seconds)


def is_ours(folder: Path) -> bool:
    """Whether predictions are in a folder."""
    try:
        return "model" in json.loads(state.read(folder / SUCCESS) or b"{}")
    except ValueError:
        return False


def _target(to: str | os.PathLike[str]) -> Path:
    name = os.fspath(to)
    if uris.is_store(name):
        raise SettingsError(f"predictions are written to a folder of this machine, not to {name}", "copy them later")
    target = Path(name).expanduser()
    if target.suffix.lower() in (".parquet", ".csv", ".tif", ".tiff", ".joblib", ".pkl"):
        text = f"{name}: predictions are a folder of Parquet files"
        raise SettingsError(text, f"give a name like {target.with_suffix('')}; geopipe rasterize makes a map of them")
    return target


def _trial(table: Table, model: Model, names: tuple[str, ...], proba: bool) -> tuple[pa.Field, ...]:
    """Names and types of the predictions, from those of the first rows that have no null.

    Raises:
        RunError: no row has all columns, or the model fails.
    """
    for chunk in _all_chunks(table, names):
        complete = complete_rows(chunk, names)
        if complete.any():
            rows = chunk.select(names).filter(pa.array(complete)).slice(0, TRIAL)
            values = predict_rows(model, rows, proba, place_of(chunk, "the first rows"))
            taken = {"row", "col"} & set(values)
            if taken or not values:
                raise RunError(f"{model.name} gives {', '.join(taken) or 'nothing'}", "let it give other names")
            types = {name: pa.float64() if pa.types.is_null(v.type) else v.type for name, v in values.items()}
            return tuple(pa.field(name, kind) for name, kind in types.items())
    raise RunError(
        f"no row of {table.output} has a value in each of {', '.join(names)}: nothing can be predicted",
        "leave out the columns that are null everywhere: geopipe open shows their nulls",
    )


def _all_chunks(table: Table, names: Sequence[str]) -> Iterator[pa.Table]:
    for key in table.files.keys.tolist():
        yield from chunks(table.files, key, names)


def _success(table: Table, job: Job, counts: Counts) -> dict[str, Any]:
    """What the predictions are, and of what, as JSON values."""
    origin = {name: table.success.get(name) for name in ("run_id", "plan_hash", "rows")}
    libraries = {"geopipe": __version__, "python": sys.version.partition(" ")[0]}
    for name in ("numpy", "pyarrow", "scikit-learn", "joblib"):
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            continue
    success: dict[str, Any] = redacted(
        {
            "model": {"name": job.model.name, "sha256": job.model.sha256, "proba": job.proba},
            "table": {"output": table.output, **origin},
            "grid": table.grid.projjson(),
            "columns": list(job.columns),
            "predictions": {one.name: str(one.type) for one in job.fields},
            **counts._asdict(),
            "versions": libraries,
        }
    )
    return success
