"""Compile all kernels into numba's cache, by resampling a few invented pixels in every way."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from affine import Affine

from geopipe.grid.grid import Grid
from geopipe.layers.header import Band, Header
from geopipe.layers.layer import Kind, Layer, Source
from geopipe.load import raster, tiles
from geopipe.merge.blocks import Column, Mask, Values
from geopipe.plan.estimate import Machine
from geopipe.plan.options import Options
from geopipe.plan.plan import Inputs, Plan, make_plan
from geopipe.resample import large_cells
from geopipe.resample.coverage import EVERYWHERE
from geopipe.resample.footprints import Footprints, Lattice
from geopipe.resample.kernels import INTERPOLATIONS
from geopipe.resample.methods import PICKED, Window
from geopipe.resample.statistics import STATISTICS

TYPES = ("float32", "float64", "int64", "uint64")
"""Types of pixels that kernels know: others are converted to one of them."""

METHODS = tuple(m for m in (*INTERPOLATIONS, *STATISTICS) if m != "sum")
"""All but the sum, which is for counts and is made as the average is."""

GRID = Grid("EPSG:32632", 500_000, 5_000_000, 10, 10, 64, 64)
PLACES = {
    "whole": ("EPSG:32632", Affine(5, 0, 499_900, 0, -5, 5_000_100), 200),
    "parallel": ("EPSG:32632", Affine(4, 0, 499_900, 0, -4, 5_000_100), 250),
    "polygons": ("EPSG:32633", Affine(5, 0, 13_900, 0, -5, 5_052_000), 9000),
}
"""CRS, transform and edge of a source by how its cells lie on its pixels."""


class _Invented:
    """A reader of pixels that no file holds."""

    def read_window(self, layer: Layer, source: Source, index: int, window: Window) -> Column:
        values = np.arange(window.pixels).reshape(window.height, window.width) % 7
        return values.astype(source.files[0].bands[index].dtype), values != 3

    def close(self) -> None:
        """Nothing is open."""


def warm() -> float:
    """Compile all kernels, or load them where they are cached; returns the seconds that it took."""
    start, plan = time.perf_counter(), _plan()
    with raster.environment():
        for _ in tiles.read_rows(plan, plan.rasters, plan.spec.tile(0), _Invented()):
            pass
    corners = np.array([[0.0, 2], [0, 2]]), np.array([[0.0, 0], [2, 2]])
    outline = Footprints(Lattice(*corners)).outline(0, 0)
    for dtype in TYPES:
        for name in STATISTICS:
            large_cells.statistic_of(name, *outline, lambda dtype=dtype: _strips(dtype), 0)  # type: ignore[misc]
    return time.perf_counter() - start


def _plan() -> Plan:
    """A plan with a layer for each place and type, resampled by all methods that the type has."""
    layers = []
    for place, (crs, transform, edge) in PLACES.items():
        for dtype in TYPES:
            methods = tuple(m for m in METHODS if dtype.startswith("float") or m in PICKED)
            layer = Layer(f"{place}_{dtype}", (place,), kind=Kind.CONTINUOUS, resampling=methods)
            layers.append((layer, [Header(place, "GTiff", crs, transform, edge, edge, (Band(1, dtype),))]))
    for place in ("parallel", "polygons"):
        crs, transform, edge = PLACES[place]
        for dtype in ("uint8", "uint16", "uint32", "uint64"):  # nearest moves bits, whatever they mean
            layer = Layer(f"nearest_{place}_{dtype}", (place,), resampling="nearest")
            layers.append((layer, [Header(place, "GTiff", crs, transform, edge, edge, (Band(1, dtype),))]))
    machine = Machine(cpus=1, workers=1, memory=1 << 40, object_store=1 << 40, free_disk=1 << 40)
    return make_plan(Inputs("warm", GRID, layers, {"geopipe": "warm"}), Options(engine="local"), machine)


def _strips(dtype: str) -> Iterator[tuple[tuple[int, int], Values, Mask]]:
    """The pixels of a large cell."""
    pixels = np.arange(9).reshape(3, 3).astype(dtype)
    yield (0, 0), pixels, EVERYWHERE if dtype.startswith("float") else pixels > 0
