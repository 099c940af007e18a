"""What lies on an edge belongs to the pixel or cell to its right or below, however its coordinates are rounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pytest
from affine import Affine
from helpers import GENEROUS, VERSIONS, plan_of, raster_of, write_raster

from geopipe.grid.grid import Grid
from geopipe.layers.layer import Layer
from geopipe.load import tables
from geopipe.plan.options import Options
from geopipe.plan.plan import Inputs, make_plan

LONLAT, UTM = "EPSG:4326", "EPSG:32633"

LATTICES = {
    "0.1 degrees": (LONLAT, 10.0, 50.0, 0.1, 180),
    "0.1 degrees, far west": (LONLAT, -179.9, 83.7, 0.1, 180),
    "3 arc seconds, cut": (LONLAT, 12.3, 47.1, 0.00083333, 700),
    "0.1 m": (UTM, 512_345.3, 5_212_345.7, 0.1, 300),
    "0.02 m": (UTM, 512_345.34, 5_212_345.78, 0.02, 700),
}


@pytest.mark.parametrize("lattice", LATTICES)
def test_centres_on_edges_take_the_pixel_to_the_right_and_below(tmp_path: Path, lattice: str) -> None:
    crs, x0, y0, size, count = LATTICES[lattice]
    pixels = np.arange(count * count, dtype="int32").reshape(count, count)
    path = write_raster(tmp_path / "a.tif", pixels, crs, Affine(size, 0, x0, 0, -size, y0))
    grid = Grid(crs, x0 + size / 2, y0 - size / 2, size, size, count - 1, count - 1)
    layers = [Layer("a", (str(path),), resampling="nearest")]
    assert raster_of(plan_of(grid, layers), "a", -1).tolist() == pixels[1:, 1:].tolist()


@pytest.mark.parametrize("lattice", LATTICES)
def test_centres_on_the_outer_edges_are_in_the_source_to_the_left_and_above_alone(tmp_path: Path, lattice: str) -> None:
    crs, x0, y0, size, count = LATTICES[lattice]
    path = write_raster(tmp_path / "a.tif", np.ones((count, count), "uint8"), crs, Affine(size, 0, x0, 0, -size, y0))
    grid = Grid(crs, x0 - size / 2, y0 + size / 2, size, size, count + 1, count + 1)
    values = raster_of(plan_of(grid, [Layer("a", (str(path),), resampling="nearest")]), "a", -1)
    assert (values[:-1, :-1] == 1).all()
    assert (values[-1] == -1).all()
    assert (values[:, -1] == -1).all()


@pytest.mark.parametrize("lattice", LATTICES)
def test_points_on_corners_are_in_the_cell_to_the_right_and_below(tmp_path: Path, lattice: str) -> None:
    crs, x0, y0, size, _ = LATTICES[lattice]
    x, y = (v.ravel() for v in np.meshgrid(x0 + np.arange(60) * size, y0 - np.arange(60) * size))
    csv.write_csv(pa.table({"x": np.round(x, 8), "y": np.round(y, 8)}), tmp_path / "p.csv")
    layer = Layer("p", (str(tmp_path / "p.csv"),), crs=crs, aggregate="count")
    plan = make_plan(
        Inputs("test", Grid(crs, x0, y0, size, size, 60, 60), [(layer, tables.headers(layer))], VERSIONS),
        Options(),
        GENEROUS,
    )
    assert (raster_of(plan, "p", 0) == 1).all()
