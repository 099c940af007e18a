"""What peers on Dask share: chunked rasters, and tiles written on Dask's threads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dask
import numpy as np
import rioxarray
from job import THREADS, Job, Layer
from numpy.typing import NDArray


def open_chunked(layer: Layer) -> Any:
    """A raster as a lazy array (y, x)."""
    opened: Any = rioxarray.open_rasterio(layer.path, chunks={"y": 2048, "x": 2048})
    return opened.squeeze("band", drop=True)


def write_chunks(job: Job, arrays: Mapping[str, Any], nodata: Mapping[str, float]) -> None:
    """Compute and write all tiles.

    Args:
        arrays: a Dask array (height, width) by column.
        nodata: the value of missing cells by column; NaN is missing everywhere.
    """

    def write(row: int, col: int, *parts: NDArray[Any]) -> None:
        columns = {}
        for name, values in zip(arrays, parts, strict=True):
            missing = values == nodata[name]
            columns[name] = values, missing | np.isnan(values) if values.dtype.kind == "f" else missing
        job.write(row, col, columns)

    tasks = []
    for row, col, height, width in job.tiles():
        parts = [array[row : row + height, col : col + width] for array in arrays.values()]
        tasks.append(dask.delayed(write)(row, col, *parts))
    dask.compute(*tasks, scheduler="threads", num_workers=THREADS)
