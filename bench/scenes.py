"""Write seeded rasters strip by strip: what the generators of the workloads share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

NODATA = -9999
BLOCK = 512
HOLES = 12
"""Rectangles without data in each raster."""


@dataclass(frozen=True)
class Scene:
    """A raster to write: smooth fields with 5 % noise, or classes, with rectangular holes.

    Attributes:
        size: pixels along both edges.
        classes: number of classes; 0 for a continuous field.
        scale: factor of the values, which lie around 100.
    """

    crs: str
    transform: Affine
    size: int
    dtype: str
    bands: int = 1
    classes: int = 0
    scale: float = 1.0

    @property
    def nodata(self) -> int:
        """The value of the holes."""
        return 0 if np.dtype(self.dtype).kind == "u" else NODATA

    def write(self, path: Path, seed: int) -> None:
        """Write a GeoTIFF in deflated blocks with a predictor, as most rasters on the web are, unless it exists."""
        if path.exists():
            return
        profile: dict[str, Any] = {
            "driver": "GTiff", "width": self.size, "height": self.size, "count": self.bands, "dtype": self.dtype,
            "crs": self.crs, "transform": self.transform, "nodata": self.nodata, "tiled": True, "blockxsize": BLOCK,
            "blockysize": BLOCK, "compress": "deflate", "zlevel": 1, "interleave": "band", "BIGTIFF": "IF_SAFER",
            "predictor": 3 if np.dtype(self.dtype).kind == "f" else 2,
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.tif")
        with rasterio.open(partial, "w", **profile) as target:
            for band in range(self.bands):
                for row, values in self._strips(np.random.default_rng((seed, band))):
                    target.write(values, band + 1, window=Window(0, row, self.size, len(values)))
        partial.rename(path)

    def _strips(self, rng: np.random.Generator) -> Iterator[tuple[int, NDArray[Any]]]:
        """The pixels of a band in strips of a row of blocks: the strip's first row, and its values."""
        waves = rng.uniform(0.5, 4, (4, 2)) * 2 * math.pi
        phases = rng.uniform(0, 2 * math.pi, (4, 2))
        corners, sides = rng.uniform(0, 1, (HOLES, 2)), rng.uniform(0.01, 0.06, (HOLES, 2))
        across = (np.arange(self.size, dtype=np.float32) + 0.5) / self.size
        columns = np.sin(across * waves[:, :1] + phases[:, :1]).astype(np.float32)
        for row in range(0, self.size, BLOCK):
            down = (np.arange(row, min(row + BLOCK, self.size), dtype=np.float32) + 0.5) / self.size
            rows = np.cos(down * waves[:, 1:] + phases[:, 1:]).astype(np.float32)
            field = rows.T @ columns * 25 + 100
            field += rng.standard_normal(field.shape, np.float32) * 5
            field = np.clip(field / 20, 1, self.classes) if self.classes else field * self.scale
            values = field.astype(self.dtype)
            for (left, top), (width, height) in zip(corners, sides, strict=True):
                inside = np.flatnonzero((down >= top) & (down < top + height))
                values[inside, int(left * self.size) : int((left + width) * self.size)] = self.nodata
            yield row, values
