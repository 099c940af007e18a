"""Processor time of decoding, resampling, merging and writing: the rates that `geopipe.plan.work` predicts with.

    python bench/rates.py [--size 4096]

Nanoseconds of one processor for each source pixel or cell, the least of three times, so that other work on the
machine counts for little. Rasters of SIZE x SIZE smooth values with noise, on disk in a temporary folder.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer

from geopipe.export.writers import csv_writer, parquet_writer
from geopipe.grid.grid import Grid
from geopipe.layers.layer import Kind, Layer
from geopipe.load import raster, tiles
from geopipe.merge.tile import merge_tile
from geopipe.plan.estimate import Machine
from geopipe.plan.options import Options
from geopipe.plan.plan import Inputs, Plan, make_plan

TRANSFORM = Affine(10, 0, 500_000, 0, -10, 6_000_000)
UTM = "EPSG:32632"
BLOCK = 512
FILES: dict[str, dict[str, Any]] = {
    "none": {},
    "deflate": {"compress": "deflate"},
    "deflate, predictor": {"compress": "deflate", "predictor": 3},
    "lzw": {"compress": "lzw"},
    "zstd": {"compress": "zstd"},
    "int16 deflate": {"compress": "deflate", "predictor": 2},
}
"""Profiles of the files that are decoded, by the name that is printed."""
METHODS: dict[tuple[str, ...], tuple[float, ...]] = {
    ("nearest",): (1, 4),
    ("bilinear",): (1, 4),
    ("cubic",): (1, 4),
    ("lanczos",): (1, 4),
    ("average",): (1, 4, 16),
    ("average", "min", "max", "rms"): (4,),
    ("average", "std"): (4, 16),
    ("average", "med"): (4, 16),
    ("mode",): (1, 4, 16),
}
"""Pixels to the edge of a cell that each method, or some together, are tried with."""

GRIDS = {"whole pixels": (UTM, 0.0), "rectangles": (UTM, 0.3), "polygons": ("EPSG:3035", 0.3)}
"""CRS of the grid, and its offset from the pixels in cells, by how pixels under a cell are weighted."""


def seconds(work: Callable[[], object]) -> float:
    """Processor time of the fastest of three."""
    times = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def write(path: Path, values: NDArray[Any], **profile: Any) -> Path:
    """A tiled GeoTIFF of pixels of 10 m."""
    height, width = values.shape
    profile |= {"width": width, "height": height, "count": 1, "dtype": values.dtype, "crs": UTM, "transform": TRANSFORM}
    profile |= {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
    with rasterio.open(path, "w", driver="GTiff", **profile) as ds:
        ds.write(values, 1)
    return path


def plan_of(grid: Grid, layers: Sequence[Layer], window_size: int) -> Plan:
    """The plan of layers on a machine that has room for all of them."""
    machine = Machine(cpus=8, workers=2, memory=1 << 40, object_store=1 << 40, free_disk=1 << 50)
    headers = [(layer, [raster.inspect(path, layer.access) for path in layer.paths]) for layer in layers]
    return make_plan(Inputs("rates", grid, headers, {"geopipe": "bench"}), Options(window_size=window_size), machine)


def decode(path: Path) -> None:
    """Read band 1 by rows of blocks."""
    with rasterio.Env(GDAL_NUM_THREADS=1, GDAL_CACHEMAX=128 << 20), rasterio.open(path) as ds:
        for top in range(0, ds.height, BLOCK):
            ds.read(1, window=((top, min(top + BLOCK, ds.height)), (0, ds.width)))


def read(path: Path, size: int, methods: tuple[str, ...], ratio: float, cells: str) -> tuple[float, float, float]:
    """Seconds of reading one tile with some methods, and its cells and pixels.

    Args:
        ratio: pixels to the edge of a cell.
        cells: one of GRIDS.
    """
    crs, offset = GRIDS[cells]
    cell = 10 * ratio
    edge = min(2048, int((size - 64) * 0.95 / ratio / BLOCK) * BLOCK or int((size - 64) * 0.95 / ratio))
    x, y = Transformer.from_crs(UTM, crs, always_xy=True).transform(*(TRANSFORM @ (size // 2, size // 2)))
    half = edge // 2 + offset
    grid = Grid(crs, x - half * cell, y + half * cell, cell, cell, edge, edge)
    kind = Kind.CATEGORICAL if "mode" in methods else Kind.CONTINUOUS
    plan = plan_of(grid, [Layer("a", (str(path),), kind=kind, resampling=methods)], window_size=2048)

    def work() -> None:
        readers = raster.Readers()
        with raster.environment():
            for _ in tiles.read_tile(plan, plan.layers[0], plan.spec.tile(0), readers):
                pass
        readers.close()

    work()  # compiles
    return seconds(work), edge * edge, (edge * ratio) ** 2


def csv(table: pa.Table, codec: str) -> None:
    """Write a table as CSV into memory."""
    with csv_writer(table.schema, BytesIO(), codec, 100_000, True, lambda rows: None) as write:
        write(table)


def parquet(plan: Plan, table: pa.Table) -> None:
    """Write a table as Parquet into memory."""
    with parquet_writer(plan, BytesIO()) as write:
        write(table)


def merge_and_write(path: Path, size: int) -> None:
    """Print the rates of merging and writing a tile of four layers."""
    edge = min(1024, size // BLOCK * BLOCK)
    grid = Grid(UTM, 500_000, 6_000_000, 10, 10, edge, edge)
    plan = plan_of(grid, [Layer(f"v{n}", (str(path),)) for n in range(4)], window_size=edge)
    readers, tile = raster.Readers(), plan.spec.tile(0)
    with raster.environment():
        rows = list(tiles.read_rows(plan, plan.rasters, tile, readers))
    table = merge_tile(plan.spec, tile, rows)
    steps: dict[str, Callable[[], object]] = {
        "merge": lambda: merge_tile(plan.spec, tile, rows),
        "parquet": lambda: parquet(plan, table),
    }
    for codec in ("none", "gzip", "zstd"):
        steps[f"csv {codec}"] = partial(csv, table, codec)
    for name, step in steps.items():
        print(f"{name:<9} {seconds(step) / (table.num_rows * 4) * 1e9:7.1f} ns a value", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="pixels to an edge of the rasters")
    size = parser.parse_args().size
    x = np.linspace(0, 20, size, dtype=np.float32)
    noise = np.random.default_rng(0).normal(0, 1, (size, size)).astype(np.float32)
    values = np.sin(x)[:, None] * np.cos(x)[None, :] * 1000 + noise
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name, profile in FILES.items():
            data = values.astype("int16") if name.startswith("int16") else values
            path = paths[name] = write(Path(folder) / f"{name}.tif", data, **profile)
            print(f"decode {name:<20} {seconds(partial(decode, path)) / size**2 * 1e9:7.1f} ns a pixel", flush=True)
        classes = write(Path(folder) / "classes.tif", (values > 0).astype("uint8") + np.uint8(1))
        for methods, ratios in METHODS.items():
            for ratio, cells in product(ratios, GRIDS):
                took, count, pixels = read(classes if "mode" in methods else paths["none"], size, methods, ratio, cells)
                rates = f"{took / count * 1e9:9.1f} ns a cell, {took / pixels * 1e9:7.1f} ns a pixel"
                print(f"read {'+'.join(methods):<20} {ratio:5g} pixels to a cell, {cells:<12}: {rates}", flush=True)
        merge_and_write(paths["none"], size)


if __name__ == "__main__":
    main()
