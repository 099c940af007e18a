"""Finished tables made of arrays, and methods of analysis run on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from helpers import north_up, write_raster

import geopipe as gp
from geopipe.analysis.contract import Method, Subject
from geopipe.analysis.drive import analyze
from geopipe.analysis.results import FOLDER, Analysis
from geopipe.engine.passes import Kind, passes

UTM = "EPSG:32632"
CORNERS = {UTM: (500_000.0, 5_000_000.0, 10.0), "EPSG:4326": (8.0, 60.0, 0.01)}
"""Upper left corner and size of a cell by CRS."""


def table_of_arrays(folder: Path, arrays: Mapping[str, np.ndarray], crs: str = UTM, **export: Any) -> gp.Table:
    """A finished table with a cell for each element, in tiles of 512 cells. NaN is missing; integers are classes."""
    layers = []
    for name, array in arrays.items():
        path = write_raster(folder / f"{name}.tif", array, crs, north_up(*CORNERS[crs]))
        kind = {} if array.dtype.kind == "f" else {"kind": "categorical"}
        layers.append({"name": name, "path": path} | kind)
    settings = {
        "run": {"output": folder / "output"},
        "grid": {"like": layers[0]["path"]},
        "layers": layers,
        "resampling": {"window_size": 512},
        "merge": {"how": "outer"},
        "export": export,
    }
    return gp.open(gp.run(settings, engine="local", progress=False).output)


def analysed(method: Method, table: gp.Table, engine: Kind = "local", **subject: Any) -> Analysis:
    """The committed results of a method on all variables of a table; `subject` are nulls and seed."""
    with passes(engine) as executor:
        variables = subject.pop("columns", tuple(table.files.facts.variables))
        return analyze(method, Subject(table, variables, **subject), executor, Path(table.output) / FOLDER)


def cells(analysis: Analysis, name: str, column: str, shape: tuple[int, int]) -> np.ndarray:
    """A column of a method's files as an array of the grid's shape, NaN where it has no value."""
    import pyarrow.parquet as pq

    array = np.full(shape, np.nan)
    for path in analysis.cells(name):
        rows = pq.read_table(path)
        array[rows["row"].to_numpy(), rows["col"].to_numpy()] = rows[column].to_pandas()
    return array
