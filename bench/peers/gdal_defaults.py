"""GDAL's WarpedVRT with its defaults for each layer and method, tiles of 1024 cells, two threads, pyarrow with zstd."""

from __future__ import annotations

from job import read_job
from warped import loop

if __name__ == "__main__":
    loop(read_job(chunk=1024), {}, {})
