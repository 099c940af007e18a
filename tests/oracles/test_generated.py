"""Generated rasters against the oracles of `judges`: what test_oracles shows on real rasters, anywhere.

Each raster is a smooth field with noise, seeded by its name: CRS, pixel size, tilt, type and holes are those that real
files trouble people with. Whole numbers of pixels to a cell are judged by plain block reductions in numpy.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from helpers import plan_of, raster_of, table_of, write_raster
from judges import File, judge_average_and_sum, judge_bilinear, judge_copy, judge_min_and_max, judge_nearest, load
from scipy import stats

from geopipe.grid.grid import Grid
from geopipe.layers.layer import Kind, Layer
from geopipe.resample.methods import Route


@dataclass(frozen=True)
class Landscape:
    """A raster to be written: `corner` is its upper left one, in units of its CRS, `size` that of a pixel."""

    crs: str
    corner: tuple[float, float]
    size: tuple[float, float]
    shape: tuple[int, int]
    dtype: str = "float32"
    angle: float = 0.0
    place: tuple[float, float] | None = None
    profile: dict[str, Any] = field(default_factory=dict)

    @property
    def transform(self) -> Affine:
        x, y = self.size
        return Affine.translation(*self.corner) @ Affine.rotation(self.angle) @ Affine.scale(x, -y)

    def pixels(self, name: str) -> np.ndarray:
        """Values from 1 to 250, with a round hole and a hole in each hundredth pixel where nodata is declared."""
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        row, col = np.indices(self.shape)
        values = 125 + 60 * np.sin(row / 17.3) * np.cos(col / 23.9) + 40 * np.sin((row + 2 * col) / 91)
        values = np.clip(values + rng.normal(0, 6, self.shape), 1, 250)
        if "nodata" in self.profile:
            hole = np.hypot(row - self.shape[0] / 2.6, col - self.shape[1] / 2.2) < min(self.shape) / 11
            values[hole | (rng.random(self.shape) < 0.01)] = self.profile["nodata"]
        return values.astype(self.dtype)

    def write(self, folder: Path, name: str) -> str:
        return str(write_raster(folder / f"{name}.tif", self.pixels(name), self.crs, self.transform, **self.profile))


LANDSCAPES = {
    "utm": Landscape("EPSG:32632", (500_000, 5_000_000), (30, 30), (420, 510)),
    "utm with holes": Landscape("EPSG:32618", (300_000, 4_500_000), (10, 10), (500, 430), profile={"nodata": -9999}),
    "degrees, bytes": Landscape("EPSG:4326", (8.1, 47.3), (0.0025, 0.0025), (410, 520), "uint8", profile={"nodata": 0}),
    "degrees, packed": Landscape(
        "EPSG:4326", (-71.0, -33.0), (0.01, 0.008), (380, 440), "int16",
        profile={"nodata": -32768, "scales": (0.1,), "offsets": (273.15,)},
    ),
    "nan is a hole": Landscape("EPSG:2154", (600_000, 6_700_000), (250, 250), (400, 400), profile={"nodata": np.nan}),
    "longitudes to 360": Landscape("EPSG:4326", (0, 70), (0.5, 0.5), (280, 720), place=(0.07, 0.35)),
    "across 180 degrees": Landscape("EPSG:4326", (170, -10), (0.04, 0.04), (400, 500), profile={"nodata": -1}),
    "equal area": Landscape("EPSG:3035", (4_000_000, 3_100_000), (1000, 1000), (450, 380), "float64"),
    "polar": Landscape("EPSG:3413", (-400_000, -900_000), (500, 500), (430, 430), "uint16", profile={"nodata": 0}),
    "sinusoidal": Landscape("ESRI:54008", (650_000, 5_500_000), (463.3, 463.3), (420, 410), "int32"),
    "oblong pixels": Landscape("EPSG:32733", (400_000, 7_400_000), (20, 50), (300, 600), profile={"nodata": -1}),
    "tilted": Landscape("EPSG:32632", (480_000, 5_300_000), (30, 30), (400, 460), angle=17.0),
}  # fmt: skip
NORTH_UP = [name for name, landscape in LANDSCAPES.items() if not landscape.angle]
every_landscape = pytest.mark.parametrize("name", LANDSCAPES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("landscapes")
    for name, landscape in LANDSCAPES.items():
        landscape.write(folder, name)
    return folder


@pytest.fixture
def file(folder: Path, name: str) -> File:
    return load(str(folder / f"{name}.tif"), place=LANDSCAPES[name].place)


@every_landscape
def test_nearest_is_the_pixel_under_the_centre(file: File) -> None:
    judge_nearest(file)


@every_landscape
def test_bilinear_is_scipys_away_from_missing_pixels(file: File) -> None:
    judge_bilinear(file)


@every_landscape
def test_average_and_sum_are_exactextracts(file: File) -> None:
    judge_average_and_sum(file)


@every_landscape
def test_min_and_max_are_those_of_the_pixels_under_the_cell(file: File) -> None:
    judge_min_and_max(file)


@pytest.mark.parametrize("name", NORTH_UP)
def test_a_copy_is_a_plain_read(file: File) -> None:
    judge_copy(file)


UTM = "EPSG:32632"
REDUCTIONS = {
    "average": np.nanmean,
    "min": np.nanmin,
    "max": np.nanmax,
    "std": np.nanstd,
    "rms": lambda values, axis: np.sqrt(np.nanmean(values**2, axis=axis)),
    "sum": lambda values, axis: np.where(np.isnan(values).all(axis), np.nan, np.nansum(values, axis)),
}


def blocks(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels by cell: (rows, columns, height * width)."""
    rows, columns = pixels.shape[0] // height, pixels.shape[1] // width
    return pixels.reshape(rows, height, columns, width).swapaxes(1, 2).reshape(rows, columns, height * width)


@pytest.mark.filterwarnings("ignore:(Mean of empty|All-NaN|Degrees of freedom)")
@pytest.mark.parametrize(("height", "width"), [(2, 2), (3, 5), (8, 4)])
@pytest.mark.parametrize("method", REDUCTIONS)
def test_a_whole_number_of_pixels_to_a_cell_is_a_block_reduction(
    tmp_path: Path, method: str, height: int, width: int
) -> None:
    rng = np.random.default_rng(height * width)
    pixels = rng.normal(100, 30, (height * 60, width * 70)).astype("float32")
    pixels[rng.random(pixels.shape) < 0.2] = np.nan
    pixels[: height * 9, : width * 9] = np.nan
    path = write_raster(tmp_path / "a.tif", pixels, UTM, Affine(10, 0, 500_000, 0, -10, 5_000_000))
    grid = Grid(UTM, 500_000, 5_000_000, 10 * width, 10 * height, 70, 60)
    kind = Kind.COUNT if method == "sum" else Kind.CONTINUOUS
    plan = plan_of(grid, [Layer("a", (str(path),), resampling=method, kind=kind)], how="grid")
    assert plan.layers[0].decisions[0].route is Route.DECIMATE
    expected = REDUCTIONS[method](blocks(pixels.astype("float64"), height, width), axis=2)
    np.testing.assert_allclose(raster_of(plan, "a"), expected, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(3, 3), (4, 5)])
def test_the_most_frequent_class_of_a_block_is_scipys(tmp_path: Path, height: int, width: int) -> None:
    """Of classes that are equally frequent both take the smallest."""
    pixels = np.random.default_rng(1).integers(1, 6, (height * 50, width * 40)).astype("uint8")
    path = write_raster(tmp_path / "a.tif", pixels, UTM, Affine(10, 0, 500_000, 0, -10, 5_000_000))
    grid = Grid(UTM, 500_000, 5_000_000, 10 * width, 10 * height, 40, 50)
    plan = plan_of(grid, [Layer("a", (str(path),), resampling="mode", kind=Kind.CATEGORICAL)], how="grid")
    expected = stats.mode(blocks(pixels, height, width), axis=2).mode
    assert np.array_equal(table_of(plan)["a"].to_numpy().reshape(50, 40), expected)


def test_two_halves_make_a_whole(tmp_path: Path) -> None:
    """As oracles/CASES.md has it of a file of GDAL's (G4): a layer of two files is the raster that was cut."""
    whole = Landscape(UTM, (440_720, 3_751_320), (60, 60), (20, 20), "uint8")
    pixels = whole.pixels("halves")
    paths = []
    for col in (0, 10):
        transform = whole.transform @ Affine.translation(col, 0)
        paths.append(str(write_raster(tmp_path / f"{col}.tif", pixels[:, col : col + 10], UTM, transform)))
    plan = plan_of(Grid(UTM, 440_720, 3_751_320, 60, 60, 20, 20), [Layer("a", tuple(paths))], how="grid")
    assert np.array_equal(table_of(plan)["a"].to_numpy().reshape(20, 20), pixels)


def test_nulls_are_left_out(tmp_path: Path) -> None:
    """The numbers of terra's test_aggregate.R (T2 of oracles/CASES.md)."""
    squares = np.array([-1, *range(2, 17)], "int16").reshape(4, 4)
    path = write_raster(tmp_path / "a.tif", squares, UTM, Affine(1, 0, 0, 0, -1, 4), nodata=-1)
    layers = [Layer(method, (str(path),), resampling=method) for method in ("average", "min")]
    table = table_of(plan_of(Grid(UTM, 0, 4, 2, 2, 2, 2), layers, how="grid"))
    assert table["average"].to_pylist() == pytest.approx([13 / 3, 5.5, 11.5, 13.5])
    assert table["min"].to_pylist() == [2, 3, 9, 11]


def test_a_tie_goes_to_the_smaller_class(tmp_path: Path) -> None:
    """The inputs of GDAL's test_warp_mode_ties (G9 of oracles/CASES.md), where GDAL takes the value met first."""
    for number, ties in enumerate(([[1, 1, 1], [2, 3, 4], [5, 5, 5]], [[1, 5, 1], [2, 5, 4], [5, 1, 0]])):
        path = write_raster(tmp_path / f"{number}.tif", np.array(ties, "int32"), UTM, Affine(1, 0, 0, 0, -1, 3))
        layer = Layer("a", (str(path),), resampling="mode", kind=Kind.CATEGORICAL)
        assert table_of(plan_of(Grid(UTM, 0, 3, 3, 3, 1, 1), [layer], how="grid"))["a"].to_pylist() == [1]
