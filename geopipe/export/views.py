"""Views of a table: its cells at every n-th row and column, taken while a tile is in memory to be written.

The n comes from the grid, so that the cells of a view do not depend on tiles, workers or strips. They make the maps of
a report, and are its sample for histograms, quantiles and correlations. Beside them stand exact sums. A table of at
most LONGEST rows and columns needs no views: it is its own sample.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geopipe.durable import replacing
from geopipe.grid.grid import Grid

VIEWS = "views"
"""Folder of the views of tiles in a staging folder; where it is, views are taken."""

SUFFIX = ".arrow"
"""End of the name of the view of a tile."""

SAMPLE = "sample.parquet"
"""The views of all tiles, in the folder of the report."""

SUMS, STRIDE = b"geopipe:sums", b"geopipe:stride"
"""Metadata of a view: the sum of each variable over all rows; the n."""

LONGEST = 640
"""Most rows and columns of a map."""

ROWS = 1 << 18
"""Rows of the sample that are written at a time."""


def stride_of(grid: Grid) -> int:
    """The n of a grid: every n-th row and column is in its views."""
    return max(1, math.ceil(max(grid.width, grid.height) / LONGEST))


def on_lattice(rows: NDArray[Any], cols: NDArray[Any], stride: int) -> NDArray[np.intp]:
    """Places of the cells of a view among cells in row-major order, found row by row.

    Args:
        rows: (cells,) int32, rising.
        cols: (cells,) int32, rising within a row.
        stride: the n.

    Returns:
        (places,) intp, rising.
    """
    if stride == 1 or not len(rows):
        return np.arange(len(rows))
    first, height, width = stride // 2, int(rows[-1] - rows[0]) + 1, int(cols[-1] - cols[0]) + 1
    if len(rows) == height * width:  # a whole rectangle
        down = np.arange((first - rows[0]) % stride, height, stride)
        across = np.arange((first - cols[0]) % stride, width, stride)
        return np.asarray(down[:, np.newaxis] * width + across).ravel()
    lattice_rows = np.arange(rows[0] + (first - rows[0]) % stride, rows[-1] + 1, stride)
    starts, ends = np.searchsorted(rows, lattice_rows, "left"), np.searchsorted(rows, lattice_rows, "right")
    places = [
        start + np.flatnonzero(cols[start:end] % stride == first) for start, end in zip(starts, ends, strict=True)
    ]
    return np.concatenate([np.zeros(0, np.intp), *places])


class TileView:
    """The view of a tile, as its parts come.

    Args:
        stride: the n.
        variables: names of the columns beside row and col.
    """

    def __init__(self, stride: int, variables: Sequence[str]) -> None:
        self.stride, self.names = stride, ["row", "col", *variables]
        self.parts = list[pa.RecordBatch]()

    def add(self, table: pa.Table) -> None:
        """Take the cells of the view out of some rows of the tile."""
        for batch in table.select(self.names).to_batches():
            rows, cols = (np.from_dlpack(batch.column(name)) for name in ("row", "col"))
            self.parts.append(batch.take(pa.array(on_lattice(rows, cols, self.stride))))

    def table(self, schema: pa.Schema, sums: Mapping[str, float]) -> pa.Table:
        """The view, with the sums in its metadata.

        Args:
            schema: of the table.
            sums: of each variable over all rows of the tile.
        """
        fields = [schema.field(name) for name in self.names]
        metadata = {SUMS: json.dumps(dict(sums)), STRIDE: str(self.stride)}
        return pa.Table.from_batches(self.parts, pa.schema(fields, metadata=metadata))


def write_view(sink: Any, view: pa.Table) -> None:
    """Write the view of a tile to an open file."""
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, view.schema, options=options) as writer:
        writer.write_table(view)


def path_of(staging: Path, tile: int) -> Path:
    """The file with the view of a tile in a staging folder."""
    return staging / VIEWS / f"{tile}{SUFFIX}"


def join(staging: Path, tiles: Iterable[int], folder: str) -> None:
    """Join the views of the tiles to the sample of the table; memory does not grow with the tiles.

    Nothing is written where a tile has no view, because an earlier attempt wrote it without.

    Args:
        tiles: keys of all tiles, in their order.
        folder: of the report, made in the staging folder.

    Raises:
        OSError: a file cannot be read or written.
    """
    paths = [path_of(staging, tile) for tile in tiles]
    if paths and all(map(os.path.exists, paths)):
        (staging / folder).mkdir(exist_ok=True)
        with replacing(staging / folder / SAMPLE) as sink:
            _write_sample(sink, paths)


def _read_view(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as source:
        return pa.ipc.open_stream(source).read_all()


def _write_sample(sink: Any, paths: Sequence[Path]) -> None:
    sums, stride, waiting, rows = dict[str, float](), "", list[pa.Table](), 0
    schema = _read_view(paths[0]).schema.remove_metadata()
    floats = [field.name for field in schema if pa.types.is_floating(field.type)]
    classes = [field.name for field in schema if field.name not in floats]
    with pq.ParquetWriter(
        sink, schema, compression="zstd", use_dictionary=classes, use_byte_stream_split=floats
    ) as writer:
        for path in paths:
            view = _read_view(path)
            for name, value in json.loads(view.schema.metadata[SUMS]).items():
                sums[name] = sums.get(name, 0.0) + value
            stride = view.schema.metadata[STRIDE].decode()
            waiting.append(view.cast(schema))
            rows += view.num_rows
            if rows >= ROWS:
                writer.write_table(pa.concat_tables(waiting))
                waiting, rows = [], 0
        if waiting:
            writer.write_table(pa.concat_tables(waiting))
        writer.add_key_value_metadata({SUMS.decode(): json.dumps(sums), STRIDE.decode(): stride})
