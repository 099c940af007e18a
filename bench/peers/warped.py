"""A loop over tiles by two threads, with a WarpedVRT of rasterio for each layer and method."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import rasterio
from job import THREADS, Columns, Job, Layer
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

PICKED = ("min", "max", "mode")
"""Methods whose result is a pixel. Those of the others need floats, lest GDAL rounds them to the raster's integers."""


def loop(job: Job, encoding: Mapping[str, Any], gdal: Mapping[str, Any], plain: bool = False, **vrt: Any) -> None:
    """Read, merge and write tile by tile.

    Args:
        encoding: arguments of pyarrow's `write_table`.
        gdal: configuration options of GDAL.
        plain: read rasters that lie on the grid without a VRT.
        vrt: more arguments of WarpedVRT.
    """
    local = threading.local()

    def reader(layer: Layer, method: str) -> Any:
        source = rasterio.open(layer.path)
        if plain and source.crs == job.crs and source.transform == job.transform:
            return source
        return WarpedVRT(
            source, crs=job.crs, transform=job.transform, width=job.width, height=job.height,
            resampling=Resampling[method], dtype=source.dtypes[0] if method in PICKED else "float32",
            UNIFIED_SRC_NODATA="NO", **vrt,
        )  # fmt: skip

    def readers() -> dict[tuple[Layer, str], Any]:
        if not hasattr(local, "readers"):
            local.readers = {(layer, method): reader(layer, method) for layer in job.layers for method in layer.methods}
        return dict(local.readers)

    def read(window: Window) -> Columns:
        columns = {}
        for (layer, method), source in readers().items():
            for band, values in enumerate(source.read(window=window), 1):
                columns[layer.column(method, band, source.count)] = values, values == source.nodata
        return columns

    def work(tile: tuple[int, int, int, int]) -> None:
        row, col, height, width = tile
        with rasterio.Env(**gdal):
            columns = read(Window(col, row, width, height))
        job.write(row, col, columns, **encoding)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, job.tiles()))
