"""Peak memory of a run: aligned, exchanged, and the old way that reads whole rasters, on growing grids.

    python bench/memory.py [--sizes 2048 4096 8192 16384] [--world]

Three layers, as files that cost little to make: one on the grid, one of classes at half its pixel size, one warped from
longitude and latitude. The peak is that of all processes of a run together, each shared page counted once (PSS), Ray's
object store included. `--world` runs a source of 36000 x 18000 pixels on its own grid, with two others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import measure
import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine

MB = 1 << 20
GEOPIPE = Path(sys.executable).with_name("geopipe")
WAYS = {
    "aligned": ["engine.kind=ray", "merge.strategy=aligned"],
    "exchange": ["engine.kind=ray", "merge.strategy=groupby"],
    "old way": ["resampling.enable_memory_aware_processing=false"],
}


def sparse(path: Path, dtype: str, width: int, height: int, crs: str, transform: Affine, fill: int) -> str:
    """A tiled GeoTIFF of which only every tenth tile is stored; the others read as 0."""
    profile = {"driver": "GTiff", "count": 1, "dtype": dtype, "width": width, "height": height, "crs": crs}
    profile |= {"transform": transform, "tiled": True, "blockxsize": 512, "blockysize": 512, "sparse_ok": True}
    rng = np.random.default_rng(width)
    with rasterio.open(path, "w", compress="deflate", **profile) as ds:
        windows = [w for _, w in ds.block_windows(1)]
        for window in windows[::10]:
            ds.write((rng.random((window.height, window.width)) * fill).astype(dtype), 1, window=window)
    return str(path)


def settings(folder: Path, size: int) -> Path:
    """Settings of a grid of `size` x `size` cells of 10 m under three layers."""
    left, top = 500_000, 5_000_000
    sparse(folder / "own.tif", "float32", size, size, "EPSG:32632", Affine(10, 0, left, 0, -10, top), 100)
    half = Affine(5, 0, left, 0, -5, top)
    sparse(folder / "classes.tif", "uint8", 2 * size, 2 * size, "EPSG:32632", half, 9)
    around = Affine(0.0002, 0, 8.9, 0, -0.0002, 45.2)
    wide, high = int(size * 10 / 78_000 / 0.0002 * 1.1) + 600, int(size * 10 / 111_000 / 0.0002 * 1.1) + 400
    sparse(folder / "warped.tif", "float32", wide, high, "EPSG:4326", around, 50)
    bounds = [left, top - 10 * size, left + 10 * size, top]
    text = f'[run]\noutput = "out"\n[grid]\ncrs = "EPSG:32632"\nresolution = 10\nbounds = {bounds}\n'
    text += '[export]\nformats = ["parquet"]\n'
    text += '[[layers]]\nname = "own"\npath = "own.tif"\n'
    text += '[[layers]]\nname = "classes"\npath = "classes.tif"\nkind = "categorical"\n'
    text += '[[layers]]\nname = "warped"\npath = "warped.tif"\n'
    (folder / "s.toml").write_text(text)
    return folder / "s.toml"


def world(folder: Path) -> Path:
    """Settings of the grid of 36000 x 18000 pixels of a cloud-optimized source, with two others."""
    pixel = 0.01
    own = sparse(folder / "plain.tif", "uint8", 36_000, 18_000, "EPSG:4326", Affine(pixel, 0, -180, 0, -pixel, 90), 200)
    with rasterio.open(own) as ds:
        rasterio.shutil.copy(ds, folder / "world.tif", driver="COG", sparse_ok=True, compress="deflate")
    sparse(folder / "coarse.tif", "float32", 3600, 1800, "EPSG:4326", Affine(0.1, 0, -180, 0, -0.1, 90), 30)
    equal = Affine(10_000, 0, -17_367_530, 0, -10_000, 7_314_540)
    sparse(folder / "equal.tif", "int16", 3474, 1463, "EPSG:6933", equal, 1000)
    text = f'[run]\noutput = "out"\n[grid]\nlike = "{folder}/world.tif"\n[export]\nformats = ["parquet"]\n'
    text += "".join(f'[[layers]]\nname = "{name}"\npath = "{name}.tif"\n' for name in ("world", "coarse", "equal"))
    (folder / "s.toml").write_text(text)
    return folder / "s.toml"


def predicted(file: Path, flags: list[str]) -> int:
    """Bytes that the plan of settings predicts."""
    plan = subprocess.run([GEOPIPE, "plan", file, "--json", *flags], check=True, capture_output=True, text=True)
    return int(json.loads(plan.stdout)["estimate"]["peak_bytes"])


def measured(file: Path, flags: list[str]) -> measure.Usage:
    """Run settings, and measure all processes of the run."""
    return measure.run([GEOPIPE, "run", file, "--overwrite", "--json", *flags])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2048, 4096, 8192, 16_384])
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--most", type=int, default=16_384, help="the largest grid for the old way")
    parser.add_argument("--world", action="store_true")
    args = parser.parse_args()
    print(f"{'grid':>15}  {'way':<9}  {'peak MB':>8}  {'predicted MB':>12}  {'seconds':>7}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = [("36000 x 18000", world, ["aligned"])] if args.world else []
        jobs += [] if args.world else [(f"{n} x {n}", partial(settings, size=n), args.ways) for n in args.sizes]
        for label, make, ways in jobs:
            file = make(folder)
            for way in ways:
                if way == "old way" and int(label.split()[0]) > args.most:
                    continue
                flags = [part for flag in WAYS[way] for part in ("--set", flag)]
                usage = measured(file, flags)
                numbers = f"{usage.memory / MB:>8,.0f}  {predicted(file, flags) / MB:>12,.0f}  {usage.wall:>7,.0f}"
                print(f"{label:>15}  {way:<9}  {numbers}", flush=True)


if __name__ == "__main__":
    main()
