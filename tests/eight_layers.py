"""Eight rasters over one grid of longitudes and latitudes: five CRS, four resolutions, holes; seeded, of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers import write_raster
from rasterio.transform import from_bounds

from geopipe.grid.grid import projected_bounds

BOUNDS = (10.0, 44.0, 19.216, 53.216)
"""West, south, east, north of the grid."""

LAYERS = [  # name, CRS, pixels as a multiple of the grid's, data type, lines of the settings
    ("same", "EPSG:4326", 1.0, "float32", ""),
    ("fine", "EPSG:4326", 2.0, "float32", 'resampling = "average"'),
    ("coarse", "EPSG:4326", 0.25, "float32", 'resampling = "bilinear"'),
    ("landcover", "EPSG:4326", 2.0, "uint8", 'kind = "categorical"\nresampling = "mode"'),
    ("utm", "EPSG:32633", 1.0, "float32", 'resampling = "bilinear"'),
    ("merc", "EPSG:3857", 1.5, "int16", 'resampling = "bilinear"'),
    ("laea", "EPSG:3035", 1.0, "float32", 'resampling = "cubic"'),
    ("ease", "EPSG:6933", 0.5, "float32", 'resampling = "bilinear"'),
]


def make(folder: Path, size: int, output: str = "output") -> Path:
    """Write the rasters of a grid of `size` x `size` cells, and the settings of their run."""
    text = f'[run]\nname = "eight-layers"\noutput = "{output}"\n'
    text += f'[grid]\ncrs = "EPSG:4326"\nresolution = {9.216 / size!r}\nbounds = {list(BOUNDS)}\n'
    for seed, (name, crs, times, dtype, lines) in enumerate(LAYERS):
        pixels = round(size * times)
        bounds = (
            BOUNDS if crs == "EPSG:4326" else projected_bounds(from_bounds(*BOUNDS, 99, 99), 99, 99, "EPSG:4326", crs)
        )
        profile = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
        profile["predictor"] = 3 if dtype == "float32" else 2
        write_raster(
            folder / f"{name}.tif",
            field(pixels, dtype, np.random.default_rng(seed)),
            crs,
            from_bounds(*bounds, pixels, pixels),
            nodata=0 if dtype == "uint8" else -9999,
            **profile,
        )
        text += f'[[layers]]\nname = "{name}"\npath = "{name}.tif"\n{lines}\n'
    (folder / "settings.toml").write_text(text)
    return folder / "settings.toml"


def field(size: int, dtype: str, rng: np.random.Generator) -> np.ndarray:
    """Smooth waves with 5 % noise and rectangular holes of nodata; classes 1..9 where the type is uint8."""
    y, x = np.ogrid[0 : 6.28 : size * 1j, 0 : 6.28 : size * 1j]
    a, b, c = rng.uniform(0.5, 3, 3)
    values = 500 + 400 * np.sin(a * x + 1) * np.cos(b * y) + 50 * np.sin(c * (x + y))
    values = values + rng.normal(0, 25, (size, size))
    values = values / 120 % 9 + 1 if dtype == "uint8" else values
    values = values.astype(dtype)
    for _ in range(12):
        row, col = rng.integers(0, size, 2)
        values[row : row + size // 12, col : col + size // 9] = 0 if dtype == "uint8" else -9999
    return values
