"""Inputs of other projects, and what those projects state of them, through whole runs: oracles/CASES.md of `outside`.

Every grid is one run on Ray: settings, plan, actors, the committed Parquet read back. The cases check its table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import rasterio
import tomli_w
from affine import Affine
from helpers import write_raster
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT
from rasterio.warp import calculate_default_transform
from rasterio.windows import Window

from geopipe.resample.methods import RADIUS
from geopipe.run import pipeline
from geopipe.settings import load

KINDS = {"nearest": "categorical", "mode": "categorical", "sum": "count"}

RGB = {  # cells that are not 0
    "nearest": 438113,
    "bilinear": 439280,
    "cubic": 437888,
    "cubic_spline": 440475,
    "lanczos": 436001,
    "average": 439172,
    "mode": 438002,  # of GDAL 3.11, whose mode weighs by area; older ones count pixels (437298)
    "max": 439464,
    "min": 436397,
    "med": 437194,
    "q1": 436397,
    "q3": 438948,
    "sum": 439142,
    "rms": 439385,
}
METHODS = tuple(RGB)
RGB_WIDTH, RGB_HEIGHT, RGB_TRANSFORM = 791, 718, Affine(300, 0, -8789636.708, 0, -300, 2943560.235)

MEUSE = {  # place: nearest, bilinear
    (178900, 329900): (378, 378.00),
    (179000, 330000): (251, 270.75),
    (180000, 331000): (208, 197.25),
}


def layer(path: Path | list[Path], method: str, name: str | None = None, **more: Any) -> dict[str, Any]:
    """A layer of the settings, of the kind that suits the method: for classes the source's type is kept."""
    paths = [str(p) for p in path] if isinstance(path, list) else str(path)
    kind = KINDS.get(method, "continuous")
    return {"name": name or method, "path": paths, "resampling": method, "kind": kind, **more}


def cells(crs: str, x0: float, y0: float, size: float, width: int, height: int) -> dict[str, Any]:
    """A grid in numbers, from its upper left corner."""
    return {"crs": crs, "resolution": size, "bounds": [x0, y0 - height * size, x0 + width * size, y0]}


def jobs(oracles: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """The settings of each run by its name; small inputs are written to `folder`."""
    byte, small, rgb = oracles / "gdal/byte.tif", oracles / "gdal/utmsmall.tif", oracles / "rasterio/RGB.byte.tif"
    modis, salem, meuse = oracles / "rioxarray/MODIS_ARRAY", oracles / "salem", oracles / "terra/meuse.tif"
    scenes = oracles / "geotrellis"
    utm11, nad27 = "EPSG:32611", "EPSG:26711"
    exact = {"tolerance": "exact"}

    with rasterio.open(byte) as source:
        pixels, at, crs = source.read(1), source.transform, source.crs
        there, width, height = calculate_default_transform(crs, utm11, source.width, source.height, *source.bounds)
        halves = []
        for col in (0, 10):
            part = Window(col, 0, 10, 20)
            path = folder / f"half{col}.tif"
            halves.append(write_raster(path, source.read(1, window=part), crs, source.window_transform(part)))
    assert (width, height) == (20, 20) == pixels.shape
    assert at == Affine(60, 0, 440720, 0, -60, 3751320)
    default = {"crs": utm11, "resolution": [there.a, -there.e]}
    default["bounds"] = [there.c, there.f + height * there.e, there.c + width * there.a, there.f]

    # 4 x 4 on [0, 1]^2, and 3 x 3 without a place: any CRS will do
    squares = np.array([-1, *range(2, 17)], "int16").reshape(4, 4)
    aggregate = write_raster(folder / "t2.tif", squares, "EPSG:3857", Affine(0.25, 0, 0, 0, -0.25, 1), nodata=-1)
    ties = [[[1, 1, 1], [2, 3, 4], [5, 5, 5]], [[1, 5, 1], [2, 5, 4], [5, 1, 0]]]
    one, two = (
        write_raster(folder / f"g9_{i}.tif", np.array(tie, "int32"), "EPSG:3857", Affine(1, 0, 0, 0, -1, 3))
        for i, tie in enumerate(ties)
    )

    origin = RGB_TRANSFORM.c, RGB_TRANSFORM.f
    steps = 5.2201532544552744
    return {
        "G1": {"grid": {"like": str(byte)}, "layers": [layer(byte, m) for m in METHODS]},
        "G2": {"grid": cells(nad27, 440720, 3751320, 30, 40, 40), "layers": [layer(byte, "nearest")]},
        "G3": {"grid": default, "layers": [layer(byte, "nearest")]},
        "G4": {
            "grid": {"crs": nad27, "resolution": 60, "bounds": "union", "snap": False},
            "layers": [layer(halves, "nearest")],
        },
        "G5": {"grid": {"crs": nad27, "resolution": [100, 50]}, "layers": [layer(byte, "nearest")]},
        "G6": {
            "grid": cells(nad27, 440720, 3751320, 50, 20, 20),
            "layers": [layer(small, "nearest"), layer(small, "rms")],
        },
        "G9": {
            "grid": cells("EPSG:3857", 0, 3, 3, 1, 1),
            "layers": [layer(one, "mode", "one"), layer(two, "mode", "two")],
        },
        # a nodata that no uint8 has makes nothing missing: 0 is a value
        "R1": {
            "grid": cells("EPSG:3857", *origin, 300, RGB_WIDTH, RGB_HEIGHT),
            "layers": [
                *(layer(rgb, m, bands=1, nodata=-1) for m in METHODS),
                layer(rgb, "nearest", "declared", bands=1),
            ],
            "resampling": exact,
        },
        "X1": {
            "grid": {"like": f"{modis}_UTM_GDAL361.nc"},
            "layers": [layer(modis.with_suffix(".nc"), "nearest")],
        },
        "X2": {"grid": {"like": f"{modis}_MATCH.nc"}, "layers": [layer(modis.with_suffix(".nc"), "nearest")]},
        "S1": {
            "grid": {"like": str(salem / "ref_dem_tmerc_bilinear.tif")},
            "layers": [layer(salem / "src_dem_wgs84.tif", "bilinear")],
            "resampling": exact,
        },
        "S2": {
            "grid": {"like": str(salem / "ref_trmm_on_wrf_nn.tif")},
            "layers": [layer(salem / "src_trmm_prcp.tif", "nearest")],
        },
        # cells centred on the second and third place lie on one lattice, those of the first on another
        "T1 first": {
            "grid": {"like": str(meuse), "bounds": [178880, 329880, 178920, 329920]},
            "layers": [layer(meuse, "nearest"), layer(meuse, "bilinear")],
        },
        "T1 others": {
            "grid": {"like": str(meuse), "bounds": [178980, 329980, 180020, 331020]},
            "layers": [layer(meuse, "nearest"), layer(meuse, "bilinear")],
        },
        "T2": {
            "grid": cells("EPSG:3857", 0, 1, 0.5, 2, 2),
            "layers": [layer(aggregate, "average"), layer(aggregate, "min")],
        },
        "A1": {
            "grid": cells(utm11, 1840901.75, 1144003.25, steps, 25, 25),
            "layers": [layer(oracles / "stars/geomatrix.tif", "nearest")],
        },
        # no nodata is declared; GeoTrellis lets 0 of a plain integer type be transparent when it merges
        "E1": {
            "grid": {"like": str(scenes / "lc8-utm-re-mosaic-expected.tif")},
            "layers": [layer([scenes / f"lc8-utm-{n}.tif" for n in (1, 2, 3)], "nearest", nodata=0)],
        },
    }


JOBS = (
    "G1",
    "G2",
    "G3",
    "G4",
    "G5",
    "G6",
    "G9",
    "R1",
    "X1",
    "X2",
    "S1",
    "S2",
    "T1 first",
    "T1 others",
    "T2",
    "A1",
    "E1",
)


@dataclass(frozen=True)
class Outcome:
    """The table that a run has committed, in the order of the cells, and its shape as a grid."""

    table: pa.Table
    height: int
    width: int

    def array(self, column: str) -> np.ma.MaskedArray:
        """A column as cells of the grid; a null is masked."""
        values = np.zeros((self.height, self.width), self.table.schema.field(column).type.to_pandas_dtype())
        missing = np.ones(values.shape, bool)
        place = self.table["row"].to_numpy(), self.table["col"].to_numpy()
        values[place] = self.table[column].fill_null(0).to_numpy()
        missing[place] = self.table[column].is_null().to_numpy()
        return np.ma.MaskedArray(values, missing)

    def corner(self) -> tuple[float, float]:
        """X and y of the centre of the upper left cell."""
        return self.table["x"][0].as_py(), self.table["y"][0].as_py()


Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def oracles(outside: Path) -> Path:
    return outside / "oracles"


@pytest.fixture(scope="module")
def run(oracles: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Run:
    """The outcome of a job, each run once: on Ray, or by the plain loop; `more` are flags of the settings."""
    known = jobs(oracles, tmp_path_factory.mktemp("made"))
    assert tuple(known) == JOBS

    @cache
    def outcome(job: str, *more: str) -> Outcome:
        folder = tmp_path_factory.mktemp("job")
        file = folder / "settings.toml"
        settings = {"run": {"output": "output"}, "merge": {"how": "grid"}, **known[job]}
        file.write_text(tomli_w.dumps(settings))
        summary = pipeline.run(load.load(file, ("engine.kind=ray", *more)))
        table = ds.dataset(summary.output / "parquet").to_table().sort_by([("row", "ascending"), ("col", "ascending")])
        grid = summary.plan.grid
        assert summary.exit_code == 0
        assert table.num_rows == summary.rows == grid.cells
        return Outcome(table, grid.height, grid.width)

    return outcome


def as_byte(values: np.ndarray) -> np.ndarray:
    """As GDAL stores floats in a uint8 band: rounded half up and cut to 0..255. geopipe leaves them as they are."""
    return np.floor(np.clip(values, 0, 255) + 0.5).clip(0, 255).astype("uint8")


def checksum(values: np.ndarray) -> int:
    """GDAL's checksum of a band that holds the array in its own type."""
    shape = {"height": values.shape[0], "width": values.shape[1], "count": 1, "dtype": values.dtype}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", crs="EPSG:3857", transform=Affine(1, 0, 9, 0, -1, 9), **shape) as band:
            band.write(values, 1)
        with memory.open() as band:
            return int(band.checksum(1))


def band(path: Path) -> np.ma.MaskedArray:
    """Band 1 of a file; its nodata is masked."""
    with rasterio.open(path) as source:
        return source.read(1, masked=True)


def same(result: np.ma.MaskedArray, expected: np.ma.MaskedArray) -> np.ndarray:
    """Where two arrays are null together, or have one value."""
    null, other = np.ma.getmaskarray(result), np.ma.getmaskarray(expected)
    return (null & other) | (~null & ~other & (result.data == expected.data))


@pytest.mark.parametrize("job", JOBS)
def test_the_plain_loop_gives_the_same_table(run: Run, job: str) -> None:
    assert run(job, "engine.kind=local").table.equals(run(job).table, check_metadata=True)


@pytest.mark.parametrize("method", METHODS)
def test_g1_on_its_own_grid_a_raster_stays_what_it_is(run: Run, method: str) -> None:
    warped = run("G1", "resampling.skip_data_loading_for_passthrough=false", "engine.kind=local")
    for outcome in (run("G1"), warped):
        values = outcome.array(method)
        assert not values.mask.any()
        assert checksum(as_byte(values.data)) == 4672


@pytest.mark.parametrize(
    ("job", "shape", "expected"), [("G2", (40, 40), 18784), ("G3", (20, 20), 4672), ("G6", (20, 20), 4770)]
)
def test_g2_g3_g6_nearest(run: Run, job: str, shape: tuple[int, int], expected: int) -> None:
    values = run(job).array("nearest")
    assert values.shape == shape
    assert values.dtype == np.uint8
    assert not values.mask.any()
    assert checksum(values.data) == expected


def test_g4_two_halves_make_a_whole(run: Run) -> None:
    values = run("G4").array("nearest")
    assert values.shape == (20, 20)
    assert run("G4").corner() == (440720 + 30, 3751320 - 30)
    assert not values.mask.any()
    assert checksum(values.data) == 4672


def test_g5_edges_on_whole_multiples(run: Run) -> None:
    outcome = run("G5")
    assert (outcome.width, outcome.height) == (13, 25)
    assert outcome.corner() == (440700 + 50, 3751350 - 25)


def test_g7_root_mean_square(run: Run) -> None:
    assert checksum(as_byte(run("G6").array("rms").filled(0))) == 4926


def test_g9_a_tie_goes_to_the_smaller_class(run: Run) -> None:
    """In GDAL it goes to the value met first: 1 and 5."""
    assert [run("G9").array(name).tolist() for name in ("one", "two")] == [[[1]], [[1]]]


def test_s1_every_height(run: Run, oracles: Path) -> None:
    expected = band(oracles / "salem/ref_dem_tmerc_bilinear.tif")
    values = run("S1").array("bilinear")
    assert values.count() == values.size == expected.count() == 15496
    assert np.abs(values.data.astype(float) - expected.data).max() <= 2.5e-4


def test_s2_every_cell_of_an_engine_that_is_not_gdal(run: Run, oracles: Path) -> None:
    expected = band(oracles / "salem/ref_trmm_on_wrf_nn.tif")
    values = run("S2").array("nearest")
    assert values.size == 6400
    assert same(values, expected).all()


@pytest.mark.parametrize("place", MEUSE, ids=str)
def test_t1_values_at_places(run: Run, place: tuple[int, int]) -> None:
    table = run("T1 first" if place == (178900, 329900) else "T1 others").table
    here = table.filter((ds.field("x") == place[0]) & (ds.field("y") == place[1])).to_pylist()
    assert [(row["nearest"], row["bilinear"]) for row in here] == [MEUSE[place]]


def test_t2_nulls_are_left_out(run: Run) -> None:
    outcome = run("T2")
    assert outcome.array("average").tolist() == [pytest.approx([4.3333, 5.5], abs=5e-5), pytest.approx([11.5, 13.5])]
    assert outcome.array("min").tolist() == [[2, 3], [9, 11]]


def test_a1_a_rotated_raster(run: Run) -> None:
    result = run("A1").array("nearest")
    values = result.compressed().astype(float)
    assert (result.shape, result.mask.sum(), values.size) == ((25, 25), 224, 401)
    assert np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist() == [74, 115, 123, 132, 255]
    assert values.mean() == pytest.approx(126.4289, abs=5e-5)


def test_e1_the_first_scene_wins(run: Run, oracles: Path) -> None:
    expected = band(oracles / "geotrellis/lc8-utm-re-mosaic-expected.tif")
    values = run("E1").array("nearest").filled(0)
    assert values.shape == expected.shape == (284, 1198)
    assert (values == expected.data).mean() >= 0.996


# R1, R2, X1 and X2 state what GDAL gives with its default transformer, which may miss a place by 0.125 pixels, in one
# window of its own choice: no canonical block can give these very numbers. What can be said instead, and is more:
# geopipe has what GDAL gives with the exact transformer and what pyproj gives, and what is stated lies within those
# 0.125 pixels (of R1's counts of some 438,000 cells that are not 0, 53 at most come and go at the rim).

MISS = 0.125


def pixels_at(path: Path, outcome: Outcome, crs: str) -> tuple[np.ndarray, np.ndarray]:
    """Column and row in a file's pixels of the centre of every cell, by pyproj."""
    x, y = (outcome.table[c].to_numpy().reshape(outcome.height, outcome.width) for c in ("x", "y"))
    with rasterio.open(path) as source:
        to_source = Transformer.from_crs(crs, source.crs.to_wkt(), always_xy=True)
        col, row = ~source.transform @ to_source.transform(x, y)
    return np.asarray(col), np.asarray(row)


def look_up(pixels: np.ndarray, col: np.ndarray, row: np.ndarray, outside: int) -> np.ndarray:
    """The pixel at each place."""
    i, j = np.floor(row).astype(int), np.floor(col).astype(int)
    here = (i >= 0) & (i < pixels.shape[0]) & (j >= 0) & (j < pixels.shape[1])
    return np.where(here, pixels[i.clip(0, pixels.shape[0] - 1), j.clip(0, pixels.shape[1] - 1)], outside)


def around(pixels: np.ndarray, col: np.ndarray, row: np.ndarray, outside: int) -> np.ndarray:
    """The pixels that lie within MISS of each place: those at the corners of a square around it."""
    corners = [(dx, dy) for dx in (-MISS, MISS) for dy in (-MISS, MISS)]
    return np.stack([look_up(pixels, col + dx, row + dy, outside) for dx, dy in corners])


@pytest.mark.parametrize(("job", "file"), [("X1", "UTM_GDAL361"), ("X2", "MATCH_UTM_GDAL361")])
def test_x1_x2_gdals_file_misses_places_by_its_tolerance_at_most(run: Run, oracles: Path, job: str, file: str) -> None:
    source, missing = oracles / "rioxarray/MODIS_ARRAY.nc", -28672
    expected = band(oracles / f"rioxarray/MODIS_ARRAY_{file}.nc").filled(missing)
    values, pixels = run(job).array("nearest").filled(missing), band(source).filled(missing)
    col, row = pixels_at(source, run(job), "EPSG:32615")
    assert (values == look_up(pixels, col, row, missing)).all()
    near = around(pixels, col, row, missing)
    assert (near == expected).any(axis=0).all()
    certain = (near == near[0]).all(axis=0)
    assert (values == expected)[certain].all()
    assert certain.mean() > 0.3


def test_r2_the_number_is_right_within_gdals_tolerance(run: Run, oracles: Path) -> None:
    source = oracles / "rasterio/RGB.byte.tif"
    pixels = band(source).data
    col, row = pixels_at(source, run("R1"), "EPSG:3857")
    assert (run("R1").array("declared").filled(0) == look_up(pixels, col, row, 0)).all()
    near = around(pixels, col, row, 0) != 0
    assert near.all(axis=0).sum() <= 438113 <= near.any(axis=0).sum()


def whole_warp(path: Path, method: str) -> np.ndarray:
    """GDAL's own warp of R1 in one window with the exact transform; 0 where nothing is."""
    with rasterio.open(path) as source:
        shape = {"height": source.height, "width": source.width, "count": 1, "dtype": "uint8"}
        place = {"crs": source.crs, "transform": source.transform}
        pixels = source.read(1)
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **shape, **place) as copy:  # without a nodata
            copy.write(pixels, 1)
        with (
            memory.open() as copy,
            WarpedVRT(
                copy,
                crs="EPSG:3857",
                transform=RGB_TRANSFORM,
                width=RGB_WIDTH,
                height=RGB_HEIGHT,
                resampling=Resampling[method],
                tolerance=1e-12,
                **({} if method == "nearest" else {"dtype": "float32", "nodata": -1e6}),
            ) as vrt,
        ):
            return vrt.read(1, masked=True).filled(0)


@pytest.mark.parametrize("method", ["nearest", *RADIUS])
def test_r1_kernels_are_those_of_gdals_exact_warp(run: Run, oracles: Path, method: str) -> None:
    """The number is stated at GDAL's tolerance of an eighth of a pixel, and may be off by 53 of 438,000 cells.

    At the rim, where pixels of its kernel are not there, lanczos is bilinear.
    """
    path = oracles / "rasterio/RGB.byte.tif"
    values, expected = run("R1").array(method).filled(0), whole_warp(path, method)
    assert abs(np.count_nonzero(as_byte(values)) - RGB[method]) <= 53
    step = np.abs(values.astype("float64") - expected)
    if method == "lanczos":
        col, row = pixels_at(path, run("R1"), "EPSG:3857")
        with rasterio.open(path) as source:
            whole = (col >= 3.1) & (col <= source.width - 3.1) & (row >= 3.1) & (row <= source.height - 3.1)
        assert whole.mean() > 0.7
        step = step[whole]
    assert step.max() < (3e-3 if method == "lanczos" else 1e-4)  # float32 of up to 330; GDAL's sines are rounder


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("nearest", *RADIUS)])
def test_r1_footprints_count_like_gdals(run: Run, method: str) -> None:
    """The layer is tilted by half a degree, and GDAL's footprints are not (exactextract judges these, test_oracles).

    Its quantiles count every pixel that a cell touches as one, geopipe's by area: q1 of four pixels is GDAL's min.
    """
    allowed = {"med": 1000, "q1": 1050, "q3": 150}.get(method, 53)
    assert abs(np.count_nonzero(as_byte(run("R1").array(method).filled(0))) - RGB[method]) <= allowed
