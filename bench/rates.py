"""Processor time that decoding, resampling and writing take: the rates of `geopipe.work`, which predicts a run's time.

    python bench/rates.py

Nanoseconds of one processor for each source pixel or cell, the least of three times, so that other work on the
machine counts for little. Rasters of 4096 x 4096 smooth values with noise, tiles of 512, on disk in a temporary folder.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from helpers import plan_of, write_raster

from geopipe.export.writers import write_csv, write_parquet
from geopipe.grid.grid import Grid
from geopipe.layers.layer import Kind, Layer
from geopipe.load import raster, tiles
from geopipe.merge.tile import merge_tile

SIZE = 4096
HERE = Affine(10, 0, 500_000, 0, -10, 6_000_000)
UTM = "EPSG:32632"


def seconds(work: Callable[[], object]) -> float:
    """Processor time of the fastest of three."""
    times = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def decode(path: Path) -> None:
    with rasterio.Env(GDAL_NUM_THREADS=1, GDAL_CACHEMAX=128 << 20), rasterio.open(path) as ds:
        for top in range(0, SIZE, 512):
            ds.read(1, window=((top, top + 512), (0, SIZE)))


def read(path: Path, method: str, ratio: float) -> tuple[float, float, float]:
    """Seconds of reading one tile with a method, and its cells and pixels; `ratio` pixels to the edge of a cell."""
    cell = 10 * ratio
    edge = min(2048, int((SIZE - 64) / ratio / 512) * 512 or int((SIZE - 64) / ratio))
    grid = Grid(UTM, 500_003.3, 5_999_996.7, cell, cell, edge, edge)
    kind = Kind.COUNT if method == "sum" else Kind.CATEGORICAL if method == "mode" else Kind.CONTINUOUS
    plan = plan_of(grid, [Layer("a", (str(path),), kind=kind, resampling=(method,))], window_size=2048)

    def work() -> None:
        readers = raster.Readers()
        with raster.environment():
            for _ in tiles.read_tile(plan, plan.layers[0], plan.spec.tile(0), readers):
                pass
        readers.close()

    work()  # compiles
    return seconds(work), edge * edge, (edge * ratio) ** 2


def main() -> None:
    rng = np.random.default_rng(0)
    x = np.linspace(0, 20, SIZE, dtype=np.float32)
    values = np.sin(x)[:, None] * np.cos(x)[None, :] * 1000 + rng.normal(0, 1, (SIZE, SIZE)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        base = None
        for name, options in {
            "none": {},
            "deflate": {"compress": "deflate"},
            "deflate, predictor": {"compress": "deflate", "predictor": 3},
            "lzw": {"compress": "lzw"},
            "zstd": {"compress": "zstd"},
            "int16 deflate": {"compress": "deflate", "predictor": 2},
        }.items():
            data = values.astype("int16") if name.startswith("int16") else values
            path = Path(folder) / f"{name}.tif"
            write_raster(path, data, UTM, HERE, tiled=True, blockxsize=512, blockysize=512, **options)
            base = base or path
            print(f"decode {name:<20} {seconds(lambda p=path: decode(p)) / SIZE**2 * 1e9:7.1f} ns a pixel", flush=True)
        assert base is not None
        classes = write_raster(Path(folder) / "c.tif", (values > 0).astype("uint8") + 1, UTM, HERE, tiled=True)
        for method, ratios in {
            "nearest": (1, 4),
            "bilinear": (1, 4),
            "cubic": (1, 4),
            "lanczos": (1, 4),
            "average": (0.25, 1, 4, 16),
            "std": (4,),
            "min": (4,),
            "mode": (1, 4, 16),
            "med": (4, 16),
            "sum": (4,),
        }.items():
            for ratio in ratios:
                took, cells, pixels = read(classes if method == "mode" else base, method, ratio)
                print(
                    f"read {method:<9} {ratio:5g} pixels to a cell: {took / cells * 1e9:9.1f} ns a cell, "
                    f"{took / pixels * 1e9:7.1f} ns a pixel",
                    flush=True,
                )
        grid = Grid(UTM, 500_000, 6_000_000, 10, 10, 1024, 1024)
        layers = [Layer(f"v{n}", (str(base),)) for n in range(4)]
        plan = plan_of(grid, layers, window_size=1024)
        readers = raster.Readers()
        with raster.environment():
            rows = list(tiles.read_rows(plan, plan.rasters, plan.spec.tile(0), readers))
        tile = plan.spec.tile(0)
        table = merge_tile(plan.spec, tile, rows)
        count = table.num_rows * 4
        print(f"merge   {seconds(lambda: merge_tile(plan.spec, tile, rows)) / count * 1e9:7.1f} ns a value")
        print(f"parquet {seconds(lambda: write_parquet(plan, table, BytesIO())) / count * 1e9:7.1f} ns a value")
        for codec in ("none", "gzip", "zstd"):
            took = seconds(lambda c=codec: write_csv(table, BytesIO(), c, 100_000, True, lambda n: None))
            print(f"csv {codec:<5} {took / count * 1e9:7.1f} ns a value")


if __name__ == "__main__":
    main()
