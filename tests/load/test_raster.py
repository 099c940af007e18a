"""Rasters on disk: which pixels are missing, which values and types reach the table, what an error names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import north_up, plan_of, raster_of, table_of, write_raster

from geopipe.errors import SourceError
from geopipe.grid.grid import Grid
from geopipe.layers.access import Access
from geopipe.layers.layer import Kind, Layer, Overlap
from geopipe.load import raster
from geopipe.load.missing import find_missing

UTM = "EPSG:32612"
T = north_up(500_000, 4_000_000, 10)
GRID = Grid(UTM, 500_000, 4_000_000, 10, 10, width=3, height=2)
LOWEST = float(np.finfo("float32").min)  # -3.4028234663852886e+38


def values_of(path: Path, grid: Grid = GRID, **layer: Any) -> list[Any]:
    """Every cell of the one column of a raster, row by row."""
    return table_of(plan_of(grid, [Layer("a", (str(path),), **layer)], how="grid"))["a"].to_pylist()


@pytest.mark.parametrize(
    ("dtype", "pixels", "declared", "override", "expected"),
    [
        ("int16", [1, -9999, 0, 2, 3, 4], -9999, None, [1, None, 0, 2, 3, 4]),
        ("int16", [1, -9999, 0, 2, 3, 4], -9999, 0, [1, -9999, None, 2, 3, 4]),  # the layer overrides the file
        ("uint8", [0, 255, 7, 0, 1, 2], 255, None, [0, None, 7, 0, 1, 2]),
        ("uint8", [0, 255, 7, 0, 1, 2], None, -9999, [0, 255, 7, 0, 1, 2]),  # no uint8 is -9999
        ("uint8", [0, 255, 7, 0, 1, 2], None, 0.5, [0, 255, 7, 0, 1, 2]),
        ("int64", [2**53 + 1, 2**53, 0, 1, 2, 3], None, 2**53 + 1, [None, 2**53, 0, 1, 2, 3]),
        ("float32", [0, np.nan, 1, 2, 3, 4], None, None, [0, None, 1, 2, 3, 4]),  # NaN need not be declared
        ("float32", [0, np.nan, 1, 2, 3, 4], np.nan, None, [0, None, 1, 2, 3, 4]),
        ("float32", [0, np.nan, -9999, 2, 3, 4], -9999, None, [0, None, None, 2, 3, 4]),
        ("float32", [0, np.float32(-9999.9), 1, 2, 3, 4], -9999.9, None, [0, None, 1, 2, 3, 4]),  # no float32 is it
        ("float32", [0, -3.4028231e38, LOWEST, -3e38, 3, 4], LOWEST, None, [0, None, None, np.float32(-3e38), 3, 4]),
        ("float32", [0, -3.4028235e38, 1, 2, 3, 4], None, -3.402823e38, [0, None, 1, 2, 3, 4]),
        ("float32", [0, LOWEST, 1, 2, 1, 4], None, -3.4028235677973366e38, [0, None, 1, 2, 1, 4]),
        ("float64", [0, 1e-300, -1.797e308, 2, 3, 4], -1.797e308, None, [0, 1e-300, None, 2, 3, 4]),
    ],
)  # fmt: skip
def test_nodata(tmp_path: Path, dtype: str, pixels: Any, declared: Any, override: Any, expected: list[Any]) -> None:
    path = write_raster(tmp_path / "a.tif", np.array(pixels, dtype).reshape(2, 3), UTM, T, nodata=declared)
    assert values_of(path, nodata=override) == expected


@pytest.mark.parametrize("method", ["nearest", "bilinear", "average"])
def test_missing_pixels_stay_out_of_a_warp(tmp_path: Path, method: str) -> None:
    # -9999 next to 5: any trace of it in a cell would show
    pixels = np.full((40, 60), 5, "int16")
    pixels[10:20, 10:20] = -9999
    path = write_raster(tmp_path / "a.tif", pixels, UTM, T, nodata=-9999)
    grid = Grid(UTM, 500_003, 3_999_996, 10, 10, width=58, height=38)
    table = table_of(plan_of(grid, [Layer("a", (str(path),), resampling=method)], how="grid"))
    assert set(table["a"].to_pylist()) == {5.0, None}


@pytest.mark.parametrize(
    ("values", "nodata", "missing"),
    [
        (np.array([1, 2, 3], "uint8"), None, None),
        (np.array([1, 2, 3], "uint8"), 2, [False, True, False]),
        (np.array([1, 2, 3], "uint8"), 300, None),
        (np.array([1, 2, 3], "uint8"), 2.5, None),
        (np.array([1, 2, 3], "uint8"), np.nan, None),
        (np.array([1, 2, 3], "uint8"), -np.inf, None),
        (np.array([2**63, 2**64 - 1], "uint64"), 2**64 - 1, [False, True]),
        (np.array([-(2**63), 2**63 - 1], "int64"), -(2**63), [True, False]),
        (np.array([1, np.nan], "float32"), None, [False, True]),
        (np.array([1, np.nan, np.inf], "float64"), np.inf, [False, True, True]),
        (np.array([0.1, 0.2], "float32"), 0.1, [True, False]),
        (np.array([3.4e38, 3.3e38], "float32"), 3.4e38, [True, False]),
        (np.array([1e-3, 0], "float32"), 0, [False, True]),
        (np.array([3.4028234663852886e38, np.inf], "float32"), 3.4028235677973366e38, [True, False]),  # ESRI's
        (np.array([-1.797e308, -np.inf], "float64"), -1.7976931348623157e308, [False, False]),
        (np.array([3.4028234663852886e38], "float32"), 1e39, [False]),
    ],
)
def test_find_missing(values: np.ndarray, nodata: Any, missing: list[bool] | None) -> None:
    result = find_missing(values, nodata)
    assert (None if result is None else result.tolist()) == missing


def test_an_internal_mask_hides_pixels_and_leaves_true_zeros(tmp_path: Path) -> None:
    mask = np.array([[True, False, True], [True, True, False]])
    path = write_raster(tmp_path / "a.tif", np.array([[0, 1, 2], [0, 4, 5]], "uint8"), UTM, T, mask=mask)
    assert values_of(path) == [0, None, 2, 0, 4, None]


def test_an_alpha_band_hides_pixels_and_is_no_column(tmp_path: Path) -> None:
    bands = np.array([[[0, 1, 2], [0, 4, 5]], [[255, 0, 255], [1, 255, 0]]], "uint8")
    path = write_raster(tmp_path / "a.tif", bands, UTM, T, alpha="YES")
    plan = plan_of(GRID, [Layer("a", (str(path),))], how="grid")
    assert [v.name for v in plan.spec.variables] == ["a"]
    assert table_of(plan)["a"].to_pylist() == [0, None, 2, 0, 4, None]


def test_an_alpha_band_hides_pixels_beside_nodata(tmp_path: Path) -> None:
    colours = np.array([[[0, 1, 2], [3, 4, 5]]] * 3 + [[[255, 0, 255], [1, 255, 0]]], "uint8")
    path = write_raster(tmp_path / "a.tif", colours, UTM, T, nodata=0, photometric="RGB", alpha="YES")
    assert values_of(path, bands=(2,)) == [None, None, 2, 3, 4, None]
    alone = values_of(path, bands=(4,))
    assert alone == [255, None, 255, 1, 255, None], "as a band of its own it has its numbers and its nodata"


def test_packed_values_are_unpacked_after_nodata_was_found(tmp_path: Path) -> None:
    pixels = np.array([[-32768, 0, 1000], [100, -100, 5]], "int16")
    path = write_raster(tmp_path / "a.tif", pixels, UTM, T, nodata=-32768, scales=(0.01,), offsets=(273.15,))
    expected = [None, 273.15, 283.15, 274.15, 272.15, 273.2]
    assert values_of(path) == [v if v is None else float(np.float32(v)) for v in expected]
    assert values_of(path, scale=2.0, offset=1.0) == [None, 1, 2001, 201, -199, 11], "the layer overrides the file"


def test_a_constant_that_float32_does_not_hold_is_float64(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3), "uint8")
    path = write_raster(tmp_path / "a.tif", pixels, UTM, T, scales=(0.0,), offsets=(120_000_001.0,))
    assert values_of(path) == [120_000_001.0] * 6


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"])
def test_a_copy_keeps_type_and_last_bit(tmp_path: Path, dtype: str) -> None:
    ends = np.iinfo(dtype)
    pixels = [ends.min, ends.max, ends.max - 1, 0, 1, min(ends.max, 2**53 + 1)]
    path = write_raster(tmp_path / "a.tif", np.array(pixels, dtype).reshape(2, 3), UTM, T)
    plan = plan_of(GRID, [Layer("a", (str(path),))])
    assert str(table_of(plan).schema.field("a").type) == dtype
    assert values_of(path) == pixels


@pytest.mark.parametrize("method", ["nearest", "mode"])
@pytest.mark.parametrize("passthrough", [True, False])
def test_64_bit_classes_keep_their_last_bit_through_a_warp(tmp_path: Path, method: str, passthrough: bool) -> None:
    # 2 x 2 pixels to a cell; neither 2**53 + 1 nor its neighbours are float64 numbers
    one, two = 2**53 + 1, 2**62 + 3
    pixels = np.array([[one, one, two, two], [one, one, -7, two]], "int64")
    path = write_raster(tmp_path / "a.tif", pixels, UTM, T, nodata=-7)
    grid = Grid(UTM, 500_000, 4_000_000, 20, 20, width=2, height=1)
    layer = Layer("a", (str(path),), kind=Kind.CATEGORICAL, resampling=method)
    assert table_of(plan_of(grid, [layer], passthrough=passthrough))["a"].to_pylist() == [one, two]


@pytest.mark.parametrize("passthrough", [True, False])
def test_an_average_of_integers_is_not_rounded(tmp_path: Path, passthrough: bool) -> None:
    path = write_raster(tmp_path / "a.tif", np.array([[1, 2], [3, 5]], "uint8"), UTM, T)
    grid = Grid(UTM, 500_000, 4_000_000, 20, 20, width=1, height=1)
    plan = plan_of(grid, [Layer("a", (str(path),), resampling="average")], passthrough=passthrough)
    assert table_of(plan)["a"].to_pylist() == [2.75]


def two_files(folder: Path, one: list[list[float]], two: list[list[float]], dtype: str, **second: Any) -> Layer:
    """A layer of two files side by side that share their middle column of pixels."""
    paths = (
        write_raster(folder / "one.tif", np.array(one, dtype), UTM, T),
        write_raster(folder / "two.tif", np.array(two, dtype), UTM, north_up(500_010, 4_000_000, 10), **second),
    )
    return Layer("a", tuple(map(str, paths)))


@pytest.mark.parametrize(
    ("overlap", "middle"),
    [("first", [100, 8]), ("last", [201, 4]), ("mean", [150.5, 6]), ("min", [100, 4]), ("max", [201, 8]),
     ("sum", [301, 12])],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_overlaps_in_a_mosaic(tmp_path: Path, dtype: str, overlap: str, middle: list[float]) -> None:
    layer = two_files(tmp_path, [[1, 100], [2, 8]], [[201, 5], [4, 6]], dtype)
    layer = Layer("a", layer.paths, overlap=Overlap(overlap))
    plan = plan_of(GRID, [layer])
    assert len(plan.layers[0].decisions[0].source.files) == 2
    assert raster_of(plan, "a").tolist() == [[1, middle[0], 5], [2, middle[1], 6]]


def test_sources_on_two_lattices_are_settled_by_their_order(tmp_path: Path) -> None:
    fine = write_raster(tmp_path / "fine.tif", np.full((8, 8), 1, "int16"), UTM, north_up(500_000, 4_000_000, 5))
    coarse = write_raster(tmp_path / "coarse.tif", np.full((3, 3), 2, "int16"), UTM, north_up(499_990, 4_000_010, 20))
    grid = Grid(UTM, 500_000, 4_000_000, 10, 10, width=5, height=4)  # 40 m of the fine one, 50 m of the other
    layer = {"kind": Kind.CATEGORICAL, "resampling": "nearest"}
    plan = plan_of(grid, [Layer("a", (str(fine), str(coarse)), **layer)])
    assert len(plan.layers[0].decisions) == 2
    assert raster_of(plan, "a").tolist() == [[1, 1, 1, 1, 2]] * 4
    assert raster_of(plan_of(grid, [Layer("a", (str(coarse), str(fine)), **layer)]), "a").tolist() == [[2] * 5] * 4


def test_each_file_of_a_layer_has_its_own_nodata(tmp_path: Path) -> None:
    layer = two_files(tmp_path, [[1], [2]], [[-2, 5], [4, 6]], "int16", nodata=-2)
    assert raster_of(plan_of(GRID, [layer]), "a", -1).tolist() == [[1, -1, 5], [2, 4, 6]]


def test_each_file_of_a_layer_has_its_own_scale(tmp_path: Path) -> None:
    layer = two_files(tmp_path, [[1], [2]], [[3, 5], [4, 6]], "int16", scales=(10.0,))
    assert raster_of(plan_of(GRID, [layer]), "a").tolist() == [[1, 30, 50], [2, 40, 60]]


def test_a_truncated_file_is_an_error_that_names_layer_file_band_and_window(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (2, 600, 700)).astype("uint8")
    path = write_raster(tmp_path / "cut.tif", noise, UTM, T, compress="deflate", tiled=True)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)
    grid = Grid(UTM, 500_000, 4_000_000, 10, 10, width=700, height=600)
    plan = plan_of(grid, [Layer("dem", (str(path),), bands=(2,))])
    with pytest.raises(SourceError) as caught:
        table_of(plan)
    assert f"layer dem: band 2 of {path} cannot be read at row 0, column 0, 512 x 700 pixels" in caught.value.message
    assert "TIFF" in caught.value.message, "GDAL's own cause"
    assert caught.value.layer == "dem"
    assert 'on_error = "skip"' in caught.value.hint


def test_what_is_no_raster_is_an_error_that_names_it(tmp_path: Path) -> None:
    text = tmp_path / "a.tif"
    text.write_text("no raster")
    with pytest.raises(SourceError, match=r"layer dem: .*a\.tif is no raster that GDAL can open"):
        raster.inspect(str(text), Access.of_layer("dem"))
    with pytest.raises(SourceError, match=r"layer dem: there is no file .*b\.tif"):
        raster.inspect(str(tmp_path / "b.tif"), Access.of_layer("dem"))
    with pytest.raises(SourceError, match=r"is no raster that GDAL can open|there is no file"):
        raster.inspect("MEM:::DATAPOINTER=0,PIXELS=1,LINES=1")  # GDAL must not read any memory


def test_a_folder_means_its_rasters_and_not_their_companions(tmp_path: Path) -> None:
    for name in ("b.tif", "a.tif"):
        write_raster(tmp_path / name, np.zeros((2, 2), "uint8"), UTM, T)
    for name in ("a.tif.aux.xml", "a.tif.ovr", "a.tif.msk", "a.tfw", ".DS_Store"):
        (tmp_path / name).write_bytes(b"")
    assert raster.expand(str(tmp_path)) == [str(tmp_path / "a.tif"), str(tmp_path / "b.tif")]
    assert raster.expand(str(tmp_path / "*.tif")) == [str(tmp_path / "a.tif"), str(tmp_path / "b.tif")]
