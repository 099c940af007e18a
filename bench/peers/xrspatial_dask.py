"""xarray-spatial with Dask: `reproject` for bilinear and cubic; it has no statistics, so whole ratios are coarsened."""

from __future__ import annotations

from typing import Any

import numpy as np
from chunked import open_chunked, write_chunks
from job import Job, Layer, read_job
from numpy.typing import NDArray
from xrspatial.reproject import reproject


def mode(pixels: NDArray[Any]) -> NDArray[Any]:
    """The most frequent value but 0 along the last axis, the smallest of several; 0 where there is none."""
    ordered = np.sort(pixels, axis=-1)
    counts = (ordered[..., None] == ordered[..., None, :]).sum(axis=-1) * (ordered != 0)
    best = np.take_along_axis(ordered, counts.argmax(axis=-1)[..., None], axis=-1)
    return np.asarray(best[..., 0])


def coarsen(source: Any, method: str, ratio: int) -> Any:
    """The mean or the mode of ratio x ratio pixels."""
    windows = source.coarsen(y=ratio, x=ratio)
    if method == "average":
        return source.where(source != source.rio.nodata).coarsen(y=ratio, x=ratio).mean()
    parts = windows.construct(y=("row", "down"), x=("col", "across")).stack(pixel=("down", "across"))
    pixels = parts.data.rechunk({-1: -1})
    return pixels.map_blocks(mode, drop_axis=2, dtype=source.dtype)


def column(job: Job, layer: Layer) -> Any:
    """A layer on the grid as a Dask array. Results are float64, of which the table keeps float32."""
    source, (method,) = open_chunked(layer), layer.methods
    if method in ("average", "mode"):
        target = coarsen(source, method, source.sizes["x"] // job.width)
        return target if method == "mode" else target.data.astype(np.float32)
    if source.rio.crs == job.crs and source.rio.transform() == job.transform:
        return source.data
    left, top = job.transform.c, job.transform.f
    right, bottom = job.transform * (job.width, job.height)
    target = reproject(
        source, job.crs, bounds=(left, bottom, right, top), width=job.width, height=job.height, resampling=method,
        chunk_size=job.chunk,
    )  # fmt: skip
    return target.data.astype(np.float32) if source.dtype.kind == "f" else target.data


def main(job: Job) -> None:
    arrays = {layer.name: column(job, layer) for layer in job.layers}
    write_chunks(job, arrays, {layer.name: open_chunked(layer).rio.nodata for layer in job.layers})


if __name__ == "__main__":
    main(read_job(chunk=1024))
