"""A table of n x n cells and eight variables, made by a run of a generated raster: what analyses are measured on.

    python bench/cells.py FOLDER N          # FOLDER/table

Smooth fields of three kinds are mixed into eight bands of float32 with noise, so that variables relate, and regions
differ.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import measure
import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window
from series import ENGINES, geopipe_run

VARIABLES = tuple(f"v{number}" for number in range(1, 9))
BLOCK = 512
SEED = 13


def generate(folder: Path, n: int) -> Path:
    """Make the table unless it exists; returns its folder."""
    table = folder / "table"
    if (table / "_SUCCESS").exists():
        return table
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "cells.tif", n)
    lines = ["[grid]", 'like = "cells.tif"', "[export]", 'formats = ["parquet"]']
    for band, name in enumerate(VARIABLES, 1):
        lines += ["[[layers]]", f'name = "{name}"', 'path = "cells.tif"', f"bands = [{band}]"]
    settings = folder / "settings.toml"
    settings.write_text("\n".join(lines) + "\n", encoding="utf-8")
    measure.run(geopipe_run(settings, table, ENGINES["local"]))
    (folder / "cells.tif").unlink()
    return table


def _write(path: Path, n: int) -> None:
    """Write the raster of eight bands, a strip of blocks at a time."""
    rng = np.random.default_rng(SEED)
    mixture = rng.normal(0, 1, (len(VARIABLES), 3)).astype(np.float32)
    waves, phases = rng.uniform(1, 4, (3, 2)) * 2 * math.pi, rng.uniform(0, 2 * math.pi, (3, 2))
    along = (np.arange(n) + 0.5) / n
    profile = {"driver": "GTiff", "dtype": "float32", "width": n, "height": n, "count": len(VARIABLES)}
    profile |= {"crs": "EPSG:32632", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000), "tiled": True}
    profile |= {"blockxsize": BLOCK, "blockysize": BLOCK, "BIGTIFF": "IF_SAFER", "interleave": "band"}
    with rasterio.open(path, "w", **profile) as target:
        for top in range(0, n, BLOCK):
            down = along[top : top + BLOCK]
            rows = np.sin(waves[:, :1] * down + phases[:, :1])
            columns = np.cos(waves[:, 1:] * along + phases[:, 1:])
            fields = np.tanh(2 * (rows[:, :, None] * columns[:, None, :])).astype(np.float32)
            for band, weights in enumerate(mixture, 1):
                noise = rng.standard_normal(fields.shape[1:], np.float32)
                values = 100 + 20 * np.tensordot(weights, fields, 1) + 5 * noise
                target.write(values, band, window=Window(0, top, n, len(down)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("n", type=int)
    options = parser.parse_args()
    print(generate(options.folder, options.n))


if __name__ == "__main__":
    main()
