"""Sources without files, and what is decided for them."""

from __future__ import annotations

import math
from typing import Any

from affine import Affine
from helpers import north_up

from geopipe.grid.grid import Grid
from geopipe.layers.header import Band, Header
from geopipe.layers.layer import Kind, Layer, Placed, Source
from geopipe.resample.methods import (
    Decision,
    RouteRules,
    decide,
)

UTM = "EPSG:32632"
GRID = Grid(UTM, 500_000, 5_000_000, 30, 30, width=400, height=200)


def source_of(crs: str, transform: Affine, width: int, height: int, block: tuple[int, int] = (256, 256)) -> Source:
    header = Header("a.tif", "GTiff", crs, transform, width, height, (Band(1, "float32"),), block)
    return Source((Placed(header),), crs, transform, width, height)


def on_grid(pixel: float, dx: float = 0.0, dy: float = 0.0, crs: str = UTM) -> Source:
    """A source that covers GRID with `pixel` metres, moved by dx and dy metres."""
    count = math.ceil(12_000 / pixel), math.ceil(6000 / pixel)
    return source_of(crs, north_up(500_000 + dx, 5_000_000 + dy, pixel), *count)


def decision(source: Source, grid: Grid = GRID, kind: Kind = Kind.CONTINUOUS, **overrides: Any) -> Decision:
    layer = Layer("a", ("a.tif",), resampling=overrides.pop("resampling", "auto"))
    decisions = decide(grid, source, layer, kind, RouteRules(**overrides))
    return decisions[0]
