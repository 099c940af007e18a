"""Run in a process of its own: the peak memory of reading one tile, for a list of cases, as JSON lines."""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from helpers import north_up, plan_of
from rasterio.windows import Window

from geopipe.grid.grid import Grid
from geopipe.layers.layer import Kind, Layer
from geopipe.load import raster, tiles
from geopipe.plan.estimate import reading_bytes
from geopipe.plan.plan import Plan

MB = 1 << 20
EDGE = 512  # cells of a grid, at most
CORNER = {"EPSG:4326": (8.0, 50.0), "EPSG:32632": (500_000.0, 5_000_000.0)}  # of rasters


def write(path: Path, size: int, pixel: float, crs: str, dtype: str, at: tuple[int, int]) -> str:
    """A sparse raster of size x size pixels, with numbers in a few of its blocks; it takes next to no room on disk.

    `at` is its column and row among files of one size.
    """
    corner = CORNER[crs][0] + at[0] * size * pixel, CORNER[crs][1] - at[1] * size * pixel
    about = {"crs": crs, "transform": north_up(*corner, pixel), "dtype": dtype, "tiled": True, "sparse_ok": True}
    with rasterio.open(
        path, "w", driver="GTiff", width=size, height=size, count=1, nodata=0, blockxsize=512, blockysize=512, **about
    ) as ds:
        for start in range(0, size, 2048):
            block = np.random.default_rng(start).integers(1, 100, (min(300, size - start),) * 2).astype(dtype)
            ds.write(block, 1, window=Window(start, start, *block.shape))
    return str(path)


def status(name: str) -> int:
    """A number of /proc/self/status, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def measure(plan: Plan) -> int:
    """Bytes by which memory grows at most while the first tile is read."""
    layer, tile, readers = plan.layers[0], plan.spec.tile(0), raster.Readers()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    with raster.environment():
        rows = list(tiles.read_tile(plan, layer, tile, readers))
    readers.close()
    assert rows
    return status("VmHWM") - before


def plan_for(case: dict[str, Any], folder: Path) -> Plan:
    crs, pixel, size, dtype, method = (case[key] for key in ("crs", "pixel", "size", "dtype", "method"))
    cell, (x, y) = pixel * case["ratio"], CORNER[crs]
    files, part = case.get("files", 1), size // case.get("files", 1)  # as many in a row, and in a column
    paths = [
        write(folder / f"{size}-{pixel}-{dtype}-{n}-{files}.tif", part, pixel, crs, dtype, (n % files, n // files))
        for n in range(files**2)
    ]
    edge = max(1, min(EDGE, int(size / case["ratio"])))
    grid = Grid(crs, x + 0.3 * pixel, y - 0.3 * pixel, cell, cell, edge, edge)
    kind = Kind.CATEGORICAL if method == "mode" else Kind.CONTINUOUS
    return plan_of(grid, [Layer("a", tuple(paths), kind=kind, resampling=method)], window_size=EDGE)


def main(folder: Path, cases: list[dict[str, Any]]) -> None:
    raster.READ_CACHE = 4 * MB  # GDAL's cache is counted apart
    for case in cases:
        warm = {**case, "size": 100, "ratio": 3}
        measure(plan_for(warm, folder))  # which loads the kernels, or compiles them
        plan = plan_for(case, folder)
        predicted = reading_bytes(plan.grid, plan.layers[0].decisions, EDGE, in_strips=True)
        block_rows = plan.grid.cells * sum(np.dtype(v.dtype).itemsize + 1 for v in plan.spec.variables)
        numbers = {"measured": measure(plan), "predicted": predicted + block_rows + 4 * MB}
        print(json.dumps(case | numbers), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
