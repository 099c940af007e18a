"""rioxarray with Dask: `rio.reproject` loads each raster whole; tiles are written on Dask's threads."""

from __future__ import annotations

from chunked import open_chunked, write_chunks
from job import Job, read_job
from rasterio.enums import Resampling


def main(job: Job) -> None:
    arrays, nodata, shape = {}, {}, (job.height, job.width)
    for layer in job.layers:
        source, method = open_chunked(layer), Resampling[layer.methods[0]]
        nodata[layer.name] = source.rio.nodata
        target = source.rio.reproject(job.crs, transform=job.transform, shape=shape, resampling=method)
        arrays[layer.name] = target.chunk({"y": job.chunk, "x": job.chunk}).data
    write_chunks(job, arrays, nodata)


if __name__ == "__main__":
    main(read_job(chunk=1024))
