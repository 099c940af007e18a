"""The loop with all our tricks: larger tiles, a cache for a row of blocks, plain reads on the grid, better encoding."""

from __future__ import annotations

from job import read_job
from warped import loop

if __name__ == "__main__":
    job = read_job(chunk=2048)
    floats = [layer.name for layer in job.layers if layer.methods != ("mode",)]
    encoding = {"use_dictionary": ["row", "col", "landcover"], "use_byte_stream_split": floats, "compression_level": 1}
    loop(job, encoding, {"GDAL_CACHEMAX": 512}, plain=True, warp_mem_limit=256)
