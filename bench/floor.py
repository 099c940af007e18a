"""The floor of a workload: processor time of decoding all pixels once, and of encoding the finished table once.

    python bench/floor.py FOLDER TABLE       # TABLE is the output of a run of FOLDER/settings.toml

Nothing that makes this table from these files can need less. Prints seconds as JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from pathlib import Path

import agree
import pyarrow.parquet as pq
import rasterio

import geopipe
from geopipe.export.writers import parquet_writer

BLOCK = 512


def decode(path: Path) -> None:
    """Read all bands by rows of blocks, in one thread."""
    with rasterio.Env(GDAL_NUM_THREADS=1, GDAL_CACHEMAX=128 << 20), rasterio.open(path) as source:
        for top in range(0, source.height, BLOCK):
            source.read(window=((top, min(top + BLOCK, source.height)), (0, source.width)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("table", type=Path)
    options = parser.parse_args()
    plan = geopipe.plan(options.folder / "settings.toml")
    start = time.process_time()
    for path in sorted(options.folder.glob("*.tif")):
        decode(path)
    decoded = time.process_time() - start
    encoded = 0.0
    for path in agree.files_of(options.table):
        table = pq.read_table(path)
        start = time.process_time()
        with parquet_writer(plan, io.BytesIO()) as write:
            write(table)
        encoded += time.process_time() - start
    print(json.dumps({"decode": round(decoded, 3), "encode": round(encoded, 3)}))


if __name__ == "__main__":
    main()
