"""The loop that an expert writes: a WarpedVRT per layer, tiles of 1024 cells, two threads, pyarrow with zstd."""

from __future__ import annotations

from job import read_job
from warped import loop

if __name__ == "__main__":
    loop(read_job(chunk=1024), {}, {}, warp_mem_limit=256)
