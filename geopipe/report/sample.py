"""The sample of a table: its cells at every n-th row and column, as the run took them, or read from the table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow.fs import FileType

from geopipe.export.state import REPORT
from geopipe.export.views import SAMPLE, STRIDE, SUMS, TileView, stride_of
from geopipe.export.writers import ROW_GROUP
from geopipe.table.table import Table

Values = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """Cells of a table at every n-th row and column.

    Attributes:
        read: reads columns of the sample.
        stride: the n.
        sums: of each variable, over all rows of the table.
        shape: rows and columns of a picture.
    """

    read: Callable[[Sequence[str]], pa.Table]
    stride: int
    sums: Mapping[str, float]
    shape: tuple[int, int]

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """(cells,) int64, place of each cell in the flat picture."""
        table = self.read(["row", "col"])
        rows, cols = (table[name].to_numpy().astype(np.int64) for name in ("row", "col"))
        return np.asarray(rows // self.stride * self.shape[1] + cols // self.stride)

    @property
    def cells(self) -> int:
        """Number of cells."""
        return len(self.places)

    def column(self, name: str) -> tuple[Values, Mask]:
        """The values of a variable in the cells, and which of them are values: both (cells,)."""
        column = self.read([name])[name].combine_chunks()
        valid = np.asarray(column.is_valid())
        return np.asarray(column.fill_null(0)), valid

    def picture(self, name: str) -> tuple[Values, Mask]:
        """The values of a variable as a picture, and where there are any: both of `shape`."""
        values, valid = self.column(name)
        picture, mask = np.zeros(self.shape, values.dtype), np.zeros(self.shape, bool)
        picture.ravel()[self.places], mask.ravel()[self.places] = values, valid
        return picture, mask


def sample_of(table: Table) -> Sample:
    """The sample of a table: that of its run, else one that is read from the table, tile by tile."""
    files, variables = table.files, list(table.files.facts.variables)
    path = f"{files.root}/{REPORT}/{SAMPLE}"
    with files.reading():
        if files.fs.get_file_info(path).type is FileType.File:
            file = pq.ParquetFile(files.fs.open_input_file(path))
            metadata = file.metadata.metadata
            is_ours = (
                metadata.get(STRIDE) == str(stride_of(table.grid)).encode()
            )  # another version may take other cells
            if is_ours and set(variables) <= set(file.schema_arrow.names):
                return _sample(table, lambda names: file.read(list(names)), json.loads(metadata[SUMS]))
    view = TileView(stride_of(table.grid), variables)
    manifest = files.manifest
    sums = dict.fromkeys(variables, 0.0)
    for key in manifest.tiles[manifest.rows > 0].tolist():
        for rows in files.stream(key, view.names, ROW_GROUP):
            view.add(rows)
            for name in variables:
                sums[name] += float(pc.sum(rows[name].cast(pa.float64(), safe=False)).as_py() or 0.0)
    return _sample(table, view.table(table.schema, sums).select, sums)


def _sample(table: Table, read: Callable[[Sequence[str]], pa.Table], sums: Mapping[str, float]) -> Sample:
    grid = table.grid
    n = stride_of(grid)
    height, width = (len(range(n // 2, size, n)) for size in (grid.height, grid.width))
    return Sample(read, n, sums, (max(height, 1), max(width, 1)))
