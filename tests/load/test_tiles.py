"""A tile is read through a reader: what it is asked for, and what becomes of its pixels. No file, no GDAL."""

from __future__ import annotations

import numpy as np
import pytest
from fake_reader import FakeReader, NotingReader
from helpers import header, north_up, plan_of, read_table
from pyproj import Transformer

from geopipe.grid.grid import Grid
from geopipe.layers.header import Band
from geopipe.layers.layer import Kind, Layer
from geopipe.resample.methods import Route

HEADER = header()
"""100 x 80 pixels of 30 m from (500,000, 4,000,000) in UTM zone 12."""
ALIGNED = Grid(HEADER.crs or "", 500_000, 4_000_000, 30, 30, 100, 80)
DEGREES = Grid("EPSG:4326", -110.995, 36.14, 0.0002, 0.0002, 90, 70)


def plane(row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """A field that every interpolation keeps as it is."""
    return 3.0 * row + 5.0 * col


@pytest.mark.parametrize("grid", [ALIGNED, DEGREES], ids=["aligned", "degrees"])
def test_pixels_that_no_file_holds_get_to_their_cells(grid: Grid) -> None:
    plan = plan_of(grid, [Layer("a", ("a",), resampling="bilinear")], headers={"a": [HEADER]}, how="grid")
    table = read_table(plan, FakeReader(plane))
    to_source = Transformer.from_crs(grid.crs, HEADER.crs, always_xy=True)
    x, y = to_source.transform(table["x"].to_numpy(), table["y"].to_numpy())
    col, row = ~HEADER.transform @ (x, y)
    inside = (col > 0.5) & (col < 99.5) & (row > 0.5) & (row < 79.5)
    assert inside.mean() > 0.5
    values = table["a"].to_numpy(zero_copy_only=False)[inside]
    assert np.abs(values - plane(row - 0.5, col - 0.5)[inside]).max() < 0.1, "TOLERANCE pixels times the slope"


def test_a_copy_reads_each_pixel_of_a_tile_once() -> None:
    grid = Grid(ALIGNED.crs, 500_000, 4_000_000, 30, 30, 1300, 600)
    wide = header(width=1300, height=600)
    plan = plan_of(grid, [Layer("a", ("a",))], headers={"a": [wide]}, window_size=512)
    assert plan.layers[0].decisions[0].route is Route.COPY
    reader = NotingReader(FakeReader(plane))
    table = read_table(plan, reader)
    assert len(reader.reads) == len(plan.keys) == 6
    assert sum(window.pixels for _, window in reader.reads) == grid.cells
    expected = plane(table["row"].to_numpy(), table["col"].to_numpy())
    assert np.array_equal(table["a"].to_numpy(), expected.astype("float32"))


def test_a_reader_that_fails_ends_the_tile_with_its_error() -> None:
    def broken(row: np.ndarray, col: np.ndarray) -> np.ndarray:
        raise OSError("no such block")

    plan = plan_of(ALIGNED, [Layer("a", ("a",))], headers={"a": [HEADER]})
    with pytest.raises(OSError, match="no such block"):
        read_table(plan, FakeReader(broken))


def test_a_window_is_read_once_for_all_columns_of_one_geometry() -> None:
    layer = Layer("a", ("a",), kind=Kind.CATEGORICAL, resampling="mode", fractions=(1.0, 2.0))
    fine = header(Band(1, "uint8"), transform=north_up(500_000, 4_000_000, 15), width=200, height=160)
    plan = plan_of(ALIGNED, [layer], headers={"a": [fine]})
    reader = NotingReader(FakeReader(lambda row, col: (row + col) % 3))
    assert {"a", "a_1", "a_2"} <= set(read_table(plan, reader).column_names)
    assert len(reader.reads) == 1, "for the mode and both fractions"
    plan = plan_of(DEGREES, [layer], headers={"a": [fine]})
    reader = NotingReader(FakeReader(lambda row, col: (row + col) % 3))
    assert {"a", "a_1", "a_2"} <= set(read_table(plan, reader).column_names)
    assert len(reader.reads) == 2, "one for the mode, whose places are closer, one for both fractions"
