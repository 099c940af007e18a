"""A small finished table of an invented landscape: two numbers with gaps, one without, and classes, in four tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from helpers import north_up, write_raster

import geopipe as gp

UTM, WIDTH, HEIGHT, CELL = "EPSG:32632", 540, 520, 10
LEFT, TOP = 500_000, 5_000_000
RARE = 7
"""A class of 30 cells; 1, 2 and 3 share the others, and 0 is missing."""


def arrays() -> dict[str, np.ndarray]:
    """The pixels of each layer, (HEIGHT, WIDTH)."""
    row, col = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), indexing="ij")
    noise = np.random.default_rng(3).normal(0, 1, (HEIGHT, WIDTH))
    height = (1000 + 300 * np.sin(row / 90) + col + 5 * noise).astype("float32")
    height[100:120, 200:260] = np.nan
    cover = (1 + (col // 90 + row // 130) % 3).astype("uint8")
    cover[300, 30:60] = RARE
    cover[:8, :8] = 0
    slope = (20 + 10 * np.cos(col / 70) + noise[::-1]).astype("float32")
    slope[510:, 100:200] = np.nan
    rain = (500 + row // 2).astype("int16")
    return {"height": height, "slope": slope, "rain": rain, "cover": cover}


def settings(folder: Path, crs: str = UTM, **sections: Any) -> dict[str, Any]:
    """Settings of a run of all layers into `folder`/output, whose sources are beside it."""
    folder.mkdir(exist_ok=True)
    transform = north_up(LEFT, TOP, CELL) if crs == UTM else north_up(10.0, 60.0, 0.01)
    layers = []
    for name, array in arrays().items():
        path = write_raster(folder / f"{name}.tif", array, crs, transform, nodata=0 if name == "cover" else None)
        layers.append({"name": name, "path": path} | ({"kind": "categorical"} if name == "cover" else {}))
    base = {"run": {"output": folder / "output"}, "grid": {"like": folder / "rain.tif"}, "layers": layers}
    return base | {"resampling": {"window_size": 512}} | sections


def table(folder: Path, crs: str = UTM, **sections: Any) -> gp.Table:
    """The finished table of these settings."""
    return gp.open(gp.run(settings(folder, crs, **sections), engine="local", progress=False).output)
