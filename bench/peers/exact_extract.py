"""exactextract on W3: a polygon for each cell in the CRS of the rasters, tile by tile in two processes.

It has no root mean square: that comes from mean and standard deviation.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
import shapely
from exactextract import exact_extract
from job import THREADS, Columns, Job, Layer, job_of
from numpy.typing import NDArray
from pyproj import Transformer

OPERATIONS = {"average": ("mean",), "min": ("min",), "max": ("max",), "rms": ("mean", "stdev"), "mode": ("mode",)}
"""The operations of exactextract that a method needs."""


def cells(job: Job, tile: tuple[int, int, int, int], crs: Any) -> geopandas.GeoDataFrame:
    """The cells of a tile as polygons through the images of their corners, row by row."""
    row, col, height, width = tile
    cols, rows = np.meshgrid(np.arange(col, col + width + 1.0), np.arange(row, row + height + 1.0))
    to_source = Transformer.from_crs(job.crs, crs, always_xy=True)
    x, y = to_source.transform(*(job.transform * (cols.ravel(), rows.ravel())))
    corners = np.stack([np.reshape(x, cols.shape), np.reshape(y, cols.shape)], axis=-1)
    ring = [corners[:-1, :-1], corners[:-1, 1:], corners[1:, 1:], corners[1:, :-1], corners[:-1, :-1]]
    return geopandas.GeoDataFrame(geometry=shapely.polygons(np.stack(ring, axis=2).reshape(-1, 5, 2)), crs=crs)


def statistic(method: str, values: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """A method's values from those of its operations."""
    return np.hypot(values["mean"], values["stdev"]) if method == "rms" else values[OPERATIONS[method][0]]


def extract(layer: Layer, polygons: geopandas.GeoDataFrame, shape: tuple[int, int]) -> Columns:
    """The columns of a layer."""
    with rasterio.open(layer.path) as source:
        bands, dtype = source.count, source.dtypes[0]
    operations = sorted({operation for method in layer.methods for operation in OPERATIONS[method]})
    frame = exact_extract(str(layer.path), polygons, operations, strategy="raster-sequential", output="pandas")
    columns = {}
    for band in range(1, bands + 1):
        prefix = f"band_{band}_" if bands > 1 else ""
        values = {name: frame[prefix + name].to_numpy(np.float64).reshape(shape) for name in operations}
        for method in layer.methods:
            numbers = statistic(method, values)
            missing = np.isnan(numbers)
            kept = np.where(missing, 0, numbers).astype(dtype if method == "mode" else np.float32)
            columns[layer.column(method, band, bands)] = kept, missing
    return columns


def work(job: Job, tile: tuple[int, int, int, int]) -> None:
    """Make and write one tile."""
    row, col, height, width = tile
    with rasterio.open(job.layers[0].path) as source:
        polygons = cells(job, tile, source.crs)
    columns: dict[str, Any] = {}
    for layer in job.layers:
        columns |= extract(layer, polygons, (height, width))
    job.write(row, col, columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--chunk", type=int, default=425, help="edge of a tile in cells")
    parser.add_argument("--tiles", type=int, help="make the first so many tiles only")
    options = parser.parse_args()
    job = job_of(options.folder, options.output, options.chunk)
    tiles = list(job.tiles())[: options.tiles]
    with ProcessPoolExecutor(THREADS) as pool:
        list(pool.map(partial(work, job), tiles))


if __name__ == "__main__":
    main()
