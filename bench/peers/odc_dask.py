"""odc-geo with Dask: `odc.reproject` of chunked rasters, tiles computed on Dask's threads."""

from __future__ import annotations

import odc.geo.xr  # noqa: F401 - registers .odc
from chunked import open_chunked, write_chunks
from job import Job, read_job
from odc.geo.geobox import GeoBox


def main(job: Job) -> None:
    geobox = GeoBox((job.height, job.width), job.transform, job.crs)
    arrays, nodata = {}, {}
    for layer in job.layers:
        source, chunks = open_chunked(layer), (job.chunk, job.chunk)
        nodata[layer.name] = source.odc.nodata
        target = source.odc.reproject(geobox, resampling=layer.methods[0], chunks=chunks, dst_nodata=source.odc.nodata)
        arrays[layer.name] = target.data
    write_chunks(job, arrays, nodata)


if __name__ == "__main__":
    main(read_job(chunk=1024))
