"""What a layer may ask of its values (statistics, class fractions, shares, angles, bit fields) and of its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from helpers import north_up, plan_of, raster_of, table_of, write_raster

from geopipe.errors import SettingsError, SourceError
from geopipe.grid.crs import crs_transform
from geopipe.grid.grid import Grid
from geopipe.layers.access import Access
from geopipe.layers.layer import Kind, Layer
from geopipe.load import raster
from geopipe.run import draft
from geopipe.settings import load

UTM = "EPSG:32632"
GRID = Grid(UTM, 500_000, 5_000_000, 100, 100, width=2, height=2)
TURNED = Affine.translation(500_000, 5_000_000) @ Affine.rotation(0.001) @ Affine.scale(50, -50)
"""Pixels of 50 m that lie like those of `north_up(..., 50)` but for a hair: these are warped, those decimated."""

PIXELS = np.array([[1, 3, 5, 5], [5, 7, 5, 5], [2, 2, 0, 8], [2, 2, 8, 0]])
WAYS = {"decimate": north_up(500_000, 5_000_000, 50), "warp": TURNED}


def columns(tmp_path: Path, pixels: Any, way: str = "decimate", grid: Grid = GRID, **layer: Any) -> dict[str, Any]:
    """The arrays of the variables of one layer on the grid, NaN where null."""
    nodata = layer.pop("declared", None)
    path = write_raster(tmp_path / "a.tif", np.asarray(pixels), UTM, WAYS[way], nodata=nodata)
    plan = plan_of(grid, [Layer("a", (str(path),), **layer)], how="grid")
    assert {d.route.value for p in plan.layers for d in p.decisions} <= {way, "copy"}
    return {v.name: raster_of(plan, v.name) for v in plan.spec.variables}


@pytest.mark.parametrize("way", WAYS)
def test_several_statistics_of_one_layer(tmp_path: Path, way: str) -> None:
    if way == "decimate":
        values = columns(tmp_path, PIXELS.astype("uint8"), resampling=("mean", "std"))
    else:
        values = columns(tmp_path, PIXELS.astype("uint8"), way, resampling=("mean", "std", "min", "max"))
        assert (values["a_min"] <= [[1, 5], [2, 0]]).all()  # a hair of the neighbours is touched, and counts
        assert (values["a_max"] >= [[7, 5], [2, 8]]).all()
    # deviations from 4: -3, -1, 1, 3; the mean of their squares is 5
    assert values["a_mean"] == pytest.approx(np.array([[4, 5], [2, 4]]), abs=2e-3)
    hair = 0.03 if way == "warp" else 1e-6  # a neighbour's sliver of 1e-5 is 3e-3 under the root
    assert values["a_std"] == pytest.approx(np.array([[5**0.5, 0], [0, 4]]), abs=hair)


def test_a_standard_deviation_of_large_numbers_keeps_its_digits(tmp_path: Path) -> None:
    values = columns(tmp_path, PIXELS + 1e9, resampling="std")["a"]
    assert values == pytest.approx(np.array([[5**0.5, 0], [0, 4]]), abs=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_fractions_are_the_share_of_each_class_and_add_up_to_one(tmp_path: Path, way: str) -> None:
    pixels = PIXELS.astype("uint8")
    pixels[0, 0] = 9
    keys = {"kind": Kind.CATEGORICAL, "resampling": "mode", "fractions": (0, 2, 3, 5, 7, 8), "declared": 9}
    values = columns(tmp_path, pixels, way, **keys)
    assert list(values) == ["a", "a_0", "a_2", "a_3", "a_5", "a_7", "a_8"]
    assert values["a_5"] == pytest.approx(np.array([[1 / 3, 1], [0, 0]]), abs=1e-3)
    assert values["a_8"] == pytest.approx(np.array([[0, 0], [0, 0.5]]), abs=1e-3)
    assert sum(v for k, v in values.items() if k != "a") == pytest.approx(np.ones((2, 2)), abs=1e-5)


def test_fractions_true_finds_the_classes_that_the_grid_meets(tmp_path: Path) -> None:
    pixels = np.full((40, 40), 77, "uint8")  # far from the grid
    pixels[:4, :4] = PIXELS
    write_raster(tmp_path / "a.tif", pixels, UTM, WAYS["decimate"])
    file = tmp_path / "s.toml"
    file.write_text(
        f'[grid]\ncrs = "{UTM}"\nresolution = 100\nbounds = [500000, 4999800, 500200, 5000000]\n'
        '[[layers]]\nname = "a"\npath = "a.tif"\nkind = "categorical"\nfractions = true\n'
    )
    plan = draft.draft(load.load(file))
    assert [v.name for v in plan.spec.variables] == ["a", "a_0", "a_1", "a_2", "a_3", "a_5", "a_7", "a_8"]
    (note,) = plan.notes
    assert note.startswith("layer a: the plan reads every pixel of it under the grid to find its classes")
    continuous = file.read_text().replace("categorical", "continuous")
    file.write_text(continuous)
    with pytest.raises(SettingsError, match="layer a: fractions = true makes no sense for kind = 'continuous'"):
        draft.draft(load.load(file))


@pytest.mark.parametrize(
    ("dtype", "classes", "words"),
    [
        ("int16", (-2, 0, 7), ["minus2", "0", "7"]),
        ("float32", (-2.5, 0.1, 7), ["minus2_5", "0_1", "7"]),
        ("float64", (0.1, 1e-7, 1e30), ["0_1", "1eminus07", "1e30"]),
    ],
)
def test_columns_of_fractions_are_letters_digits_and_underscores(
    tmp_path: Path, dtype: str, classes: tuple[float, ...], words: list[str]
) -> None:
    path = write_raster(tmp_path / "a.tif", np.resize(np.array(classes, dtype), (4, 4)), UTM, WAYS["decimate"])
    file = tmp_path / "s.toml"
    file.write_text(
        f'[grid]\ncrs = "{UTM}"\nresolution = 200\nbounds = [500000, 4999800, 500200, 5000000]\n'
        f'[[layers]]\nname = "a"\npath = "{path.name}"\nkind = "categorical"\nfractions = true\n'
    )
    plan = draft.draft(load.load(file))
    values = {v.name: raster_of(plan, v.name)[0, 0] for v in plan.spec.variables if v.part is not None}
    assert set(values) == {f"a_{word}" for word in words}
    assert [values[f"a_{word}"] for word in words] == pytest.approx([6 / 16, 5 / 16, 5 / 16])


@pytest.mark.parametrize("way", WAYS)
def test_the_valid_share_of_a_cell_and_the_least_that_counts(tmp_path: Path, way: str) -> None:
    pixels = PIXELS.astype("float32")
    pixels[0, :2] = pixels[0, 2] = pixels[2:, :2] = -1  # two of four, one of four, and all four pixels
    values = columns(tmp_path, pixels, way, resampling="average", valid_fraction=True, declared=-1)
    assert values["a_valid"] == pytest.approx(np.array([[0.5, 0.75], [np.nan, 1]]), abs=2e-3, nan_ok=True)
    assert np.isfinite(values["a"]).tolist() == [[True, True], [False, True]]
    strict = columns(tmp_path, pixels, way, resampling="average", min_valid=0.6, declared=-1)
    assert np.isfinite(strict["a"]).tolist() == [[False, True], [False, True]]


@pytest.mark.parametrize("way", WAYS)
def test_the_valid_share_counts_what_lies_beyond_the_source_as_not_valid(tmp_path: Path, way: str) -> None:
    grid = Grid(UTM, 499_950, 5_000_000, 100, 100, width=3, height=2)  # half a cell further west
    values = columns(tmp_path, PIXELS.astype("float32"), way, grid, resampling="average", valid_fraction=True)
    assert values["a_valid"] == pytest.approx(np.array([[0.5, 1, 0.5]] * 2), abs=2e-3)


@pytest.mark.parametrize("way", WAYS)
def test_angles_are_averaged_as_vectors(tmp_path: Path, way: str) -> None:
    """The mean of 350 and 10 degrees is north, not south."""
    pixels = np.array([[350, 10, 90, 90], [350, 10, 90, 90], [180, 180, 0, 90], [180, 180, 0, 90]], "int16")
    values = columns(tmp_path, pixels, way, kind=Kind.CIRCULAR, resampling="average")["a"]
    off = (values - np.array([[0, 90], [180, 45]]) + 180) % 360 - 180
    assert np.abs(off).max() < 0.1
    assert ((values >= 0) & (values < 360)).all()


@pytest.mark.parametrize("dtype", ["int8", "int16", "float32", "float64"])
@pytest.mark.parametrize("method", ["nearest", "mode", "average"])
def test_angles_are_from_0_to_360_whatever_the_method(tmp_path: Path, method: str, dtype: str) -> None:
    turns = 0 if dtype == "int8" else 2  # 720 degrees
    pixels = np.array([[-10, -10], [90, 90]]) + np.array([[0, 0], [360, 360]]) * turns
    grid = Grid(UTM, 500_000, 5_000_000, 50, 50, width=2, height=2)
    copied = columns(tmp_path, pixels.astype(dtype), grid=grid, kind=Kind.CIRCULAR, resampling=method)["a"]
    assert copied.tolist() == [[350, 350], [90, 90]]
    warped = columns(tmp_path, pixels.astype(dtype), "warp", grid=grid, kind=Kind.CIRCULAR, resampling=method)["a"]
    assert warped == pytest.approx(copied, abs=0.1)


def test_an_angle_just_below_0_is_0_and_an_infinite_one_is_missing(tmp_path: Path) -> None:
    grid = Grid(UTM, 500_000, 5_000_000, 50, 50, width=2, height=1)
    pixels = np.array([[-1e-9, np.inf]], "float32")
    for way, method in (("decimate", "mode"), ("warp", "nearest")):
        values = columns(tmp_path, pixels, way, grid=grid, kind=Kind.CIRCULAR, resampling=method)["a"]
        assert values[0, 0] == 0
        assert np.isnan(values[0, 1])


@pytest.mark.parametrize("way", WAYS)
def test_equal_classes_of_a_turn_are_one(tmp_path: Path, way: str) -> None:
    pixels = np.array([[350, -10], [90, 91]], "int16")
    grid = Grid(UTM, 500_000, 5_000_000, 100, 100, width=1, height=1)
    values = columns(tmp_path, pixels, way, grid=grid, kind=Kind.CIRCULAR, resampling="mode")["a"]
    assert values.tolist() == [[350]]


def test_bits_are_taken_out_of_whole_numbers(tmp_path: Path) -> None:
    """Bits 3 and 4 of a quality band: 0b11000 is 3, 0b01000 is 1; nodata counts before."""
    pixels = np.array([[0b11000, 0b01111], [255, 0b10111]], "uint8")
    grid = Grid(UTM, 500_000, 5_000_000, 50, 50, width=2, height=2)
    path = write_raster(tmp_path / "a.tif", pixels, UTM, WAYS["decimate"], nodata=255)
    plan = plan_of(grid, [Layer("a", (str(path),), bits=(3, 4))])
    assert plan.layers[0].kind is Kind.CATEGORICAL
    assert raster_of(plan, "a", -1).tolist() == [[3, 1], [-1, 2]]
    with pytest.raises(SettingsError, match=r"bilinear.*makes no sense"):
        plan_of(grid, [Layer("a", (str(path),), bits=(3, 4), resampling="bilinear")])


@pytest.mark.parametrize(
    ("dtype", "bits", "column", "expected"),
    [
        ("int16", (0, 15), "uint16", [0, 1, 65_535, 32_768]),
        ("int16", (0, 14), "int16", [0, 1, 32_767, 0]),
        ("int16", (15, 15), "int16", [0, 0, 1, 1]),
        ("int32", (0, 31), "uint32", [0, 1, 2**32 - 1, 2**31]),
        ("int64", (0, 63), "uint64", [0, 1, 2**64 - 1, 2**63]),
        ("uint64", (0, 63), "uint64", [0, 1, 2**64 - 1, 0]),
    ],
)
def test_all_bits_of_a_number_are_a_number_without_a_sign(
    tmp_path: Path, dtype: str, bits: tuple[int, int], column: str, expected: list[int]
) -> None:
    ends = np.iinfo(dtype)
    pixels = np.array([[0, 1], [-1 if ends.min else ends.max, ends.min]], dtype)
    grid = Grid(UTM, 500_000, 5_000_000, 50, 50, width=2, height=2)
    path = write_raster(tmp_path / "a.tif", pixels, UTM, WAYS["decimate"])
    result = table_of(plan_of(grid, [Layer("a", (str(path),), bits=bits)]))["a"]
    assert (str(result.type), result.to_pylist()) == (column, expected)


@pytest.mark.parametrize(("dtype", "bits"), [("uint8", (0, 8)), ("uint8", (4, 3)), ("float32", (0, 1))])
def test_bits_that_a_band_does_not_have_are_refused(tmp_path: Path, dtype: str, bits: tuple[int, int]) -> None:
    path = write_raster(tmp_path / "a.tif", np.zeros((2, 2), dtype), UTM, WAYS["decimate"])
    with pytest.raises(SourceError, match=rf"layer a: bits = \[.*cannot be taken out of band 1 of .*a.tif, .* {dtype}"):
        plan_of(GRID, [Layer("a", (str(path),), bits=bits)])


def test_unpack_false_keeps_the_numbers_of_the_file(tmp_path: Path) -> None:
    pixels = np.array([[1, 2], [3, 4]], "int16")
    path = write_raster(tmp_path / "a.tif", pixels, UTM, WAYS["decimate"], scales=(0.1,), offsets=(5.0,))
    grid = Grid(UTM, 500_000, 5_000_000, 50, 50, width=2, height=2)
    packed = table_of(plan_of(grid, [Layer("a", (str(path),), unpack=False)]))["a"]
    assert (str(packed.type), packed.to_pylist()) == ("int16", [1, 2, 3, 4])
    unpacked = table_of(plan_of(grid, [Layer("a", (str(path),))]))["a"]
    assert unpacked.to_pylist() == pytest.approx([5.1, 5.2, 5.3, 5.4])


def test_sources_of_one_layer_may_need_different_methods(tmp_path: Path) -> None:
    """auto averages the fine file and interpolates the coarse one; both are in the column."""
    fine = write_raster(tmp_path / "fine.tif", np.full((20, 20), 1, "float32"), UTM, north_up(500_000, 5_000_000, 10))
    coarse = write_raster(tmp_path / "coarse.tif", np.full((4, 4), 2, "float32"), UTM, north_up(500_200, 5_000_000, 50))
    grid = Grid(UTM, 500_000, 5_000_000, 20, 20, width=20, height=10)
    plan = plan_of(grid, [Layer("a", (str(fine), str(coarse)))])
    assert {d.method for d in plan.layers[0].decisions} == {"average", "bilinear"}
    values = raster_of(plan, "a")
    assert (values[:, :10] == 1).all()
    assert (values[:, 10:] == 2).all()


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "float64"])
@pytest.mark.parametrize("way", WAYS)
def test_a_mode_keeps_classes_to_the_last_bit(tmp_path: Path, way: str, dtype: str) -> None:
    pixels = np.full((4, 4), 2**24 + 1, dtype)
    pixels[:2, :2] = 123_456_789
    values = columns(tmp_path, pixels, way, kind=Kind.CATEGORICAL, resampling="mode")["a"]
    assert values.tolist() == [[123_456_789, 2**24 + 1], [2**24 + 1] * 2]


OF_FOUR = {  # of four pixels: what a cell of 2 x 2 of them is
    "min": np.min,
    "max": np.max,
    "q1": lambda four: np.sort(four)[0],
    "med": lambda four: np.sort(four)[1],
    "mode": lambda four: np.bincount(four - four.min()).argmax() + four.min(),
    "nearest": lambda four: four[3],  # a centre on the edge of pixels is in the right and lower one
}


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", OF_FOUR)
def test_numbers_of_64_bits_keep_each_bit_where_one_of_them_is_the_result(
    tmp_path: Path, method: str, way: str, dtype: str
) -> None:
    """20 x 20 cells of 2 x 2 pixels near 2^60, where a double has steps of 128."""
    pixels = (2**60 + np.random.default_rng(1).integers(0, 9, (40, 40))).astype(dtype)
    path = write_raster(tmp_path / "a.tif", pixels, UTM, WAYS["decimate"], nodata=0)
    grid = Grid(UTM, 500_000, 5_000_000, 100, 100, width=20, height=20)
    layer = Layer("a", (str(path),), kind=Kind.CONTINUOUS, resampling=method)
    plan = plan_of(grid, [layer], passthrough=way == "decimate")
    assert plan.layers[0].decisions[0].route.value == way
    result = table_of(plan)["a"].to_numpy().reshape(20, 20)
    fours = pixels.astype("int64").reshape(20, 2, 20, 2).transpose(0, 2, 1, 3).reshape(20, 20, 4)
    assert result.dtype == dtype
    assert (result == np.apply_along_axis(OF_FOUR[method], 2, fours)).all()


@pytest.mark.parametrize("passthrough", [True, False])
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_a_south_up_copy_has_the_same_mode_where_classes_are_equally_frequent(
    tmp_path: Path, kind: str, passthrough: bool
) -> None:
    """Of equal areas the smaller class wins: 900 cells of 3 x 2 pixels, of 3 classes."""
    pixels = np.random.default_rng(2).integers(1, 4, (60, 90)).astype(kind)
    up = write_raster(tmp_path / "a.tif", pixels, UTM, north_up(500_000, 5_000_000, 50))
    down = write_raster(tmp_path / "b.tif", pixels[::-1], UTM, Affine(50, 0, 500_000, 0, 50, 4_997_000))
    grid = Grid(UTM, 500_000, 5_000_000, 150, 100, width=30, height=30)
    cells = pixels.astype("int64").reshape(30, 2, 30, 3).transpose(0, 2, 1, 3).reshape(30, 30, 6)
    expected = np.apply_along_axis(lambda six: np.bincount(six).argmax(), 2, cells)
    for path in (up, down):
        layer = Layer("a", (str(path),), kind=Kind.CATEGORICAL, resampling="mode")
        assert (raster_of(plan_of(grid, [layer], passthrough=passthrough), "a") == expected).all()


# ---------------------------------------------------------------- place


def layer_in(tmp_path: Path, declared: str, transform: Affine = WAYS["decimate"], **layer: Any) -> Layer:
    path = write_raster(tmp_path / "a.tif", np.ones((4, 4), "float32"), declared, transform)
    return Layer("a", (str(path),), **layer)


def test_another_planet_is_refused(tmp_path: Path) -> None:
    mars = "+proj=eqc +lat_ts=0 +lon_0=0 +R=3396190 +units=m"
    with pytest.raises(SourceError, match=r"layer a: .*a\.tif is on another body.*3,396 km.*6,378 km"):
        plan_of(GRID, [layer_in(tmp_path, mars)])
    moon = Grid("+proj=eqc +R=1737400", 0, 0, 100, 100, 2, 2)
    on_moon = layer_in(tmp_path, "+proj=eqc +R=1737400 +lon_0=0", north_up(0, 0, 50))
    assert raster_of(plan_of(moon, [on_moon]), "a").tolist() == [[1, 1], [1, 1]]


def test_a_datum_shift_that_proj_does_not_know_is_refused_unless_allowed(tmp_path: Path) -> None:
    """Both datums have a name, and no operation leads from one to the other."""
    named = (
        'GEOGCRS["Atlantis",DATUM["Atlantis 1900",ELLIPSOID["International 1924",6378388,297]],'
        'CS[ellipsoidal,2],AXIS["lat",north],AXIS["lon",east],UNIT["degree",0.0174532925199433]]'
    )
    layer = layer_in(tmp_path, UTM, north_up(8.999, 45.1547, 0.001), crs=named)
    with pytest.raises(SourceError, match="layer a: PROJ knows no datum shift between Atlantis and WGS 84") as caught:
        plan_of(GRID, [layer])
    assert "allow_ballpark" in caught.value.hint
    allowed = plan_of(GRID, [layer], allow_ballpark=True)
    assert any("no datum shift between Atlantis" in note for note in allowed.notes)


USGS = (
    'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378140,298.2569999999957,AUTHORITY["EPSG","7030"]],'
    'AUTHORITY["EPSG","6326"]],PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]{}]'
)
ALBERS = (
    'PROJCS["WGS_1984_Albers",{},PROJECTION["Albers_Conic_Equal_Area"],PARAMETER["standard_parallel_1",29.5],'
    'PARAMETER["standard_parallel_2",45.5],PARAMETER["latitude_of_center",23],PARAMETER["longitude_of_center",-96],'
    'PARAMETER["false_easting",0],PARAMETER["false_northing",0],UNIT["metre",1]]'
)


@pytest.mark.parametrize("datum", [USGS, USGS.replace(',AUTHORITY["EPSG","6326"]', "")], ids=["code", "name"])
def test_one_datum_with_a_slightly_other_ellipsoid_is_a_note_with_the_size_of_the_error(
    tmp_path: Path, datum: str
) -> None:
    """As files of the USGS have it (Analysis Ready Data): WGS 84, and 3 m more of radius."""
    file = ALBERS.format(datum.format(""))
    x, y = crs_transform("EPSG:32612", file)(np.array([320_100.0]), np.array([4_120_000.0]))
    grid = Grid("EPSG:32612", 320_000, 4_120_100, 100, 100, 2, 2)
    plan = plan_of(grid, [layer_in(tmp_path, file, north_up(x[0] - 2000, y[0] + 2000, 1000))])
    assert any("one datum, and ellipsoids that differ by 3 m: places may be off by" in note for note in plan.notes)
    other = datum.format("").replace("6378140", "6378200")
    with pytest.raises(SourceError, match="PROJ knows no datum shift between WGS 84 and WGS 84"):
        plan_of(GRID, [layer_in(tmp_path, UTM, north_up(8.999, 45.1547, 0.001), crs=other)])


@pytest.mark.parametrize(
    ("source", "target", "place", "expected", "accuracy", "metres"),
    [
        ("EPSG:21781", "EPSG:2056", (833_000, 166_000), (2_833_000, 1_166_000), 2.5, 2.5),
        # lat' = lat - 1.0695e-4 lat + 1.7464e-5 lon + 0.0046017, lon' = lon - 4.6038e-5 lat - 8.3043e-5 lon + 0.01004:
        # the approximation that Japanese maps use
        ("EPSG:4301", "EPSG:6668", (139.7700, 35.6777), (139.766791, 35.680927), 10, 10),
    ],
)
def test_a_datum_shift_whose_grid_files_are_missing_goes_through_wgs_84(
    tmp_path: Path,
    source: str,
    target: str,
    place: tuple[float, float],
    expected: tuple[float, float],
    accuracy: float,
    metres: float,
) -> None:
    """PROJ would leave the shift out; its accuracy is that of both parts."""
    values = crs_transform(source, target)(*(np.array([float(v)]) for v in place))
    unit = 1.0 if target == "EPSG:2056" else 111_000.0
    assert np.hypot(*(np.array(values)[:, 0] - expected)) * unit < metres
    size = 1000 / unit
    grid = Grid(target, expected[0] - size, expected[1] + size, size, size, 2, 2)
    plan = plan_of(grid, [layer_in(tmp_path, source, north_up(place[0] - 4 * size, place[1] + 4 * size, 2 * size))])
    (note,) = [note for note in plan.notes if "datum shift" in note]
    assert f"good to {accuracy:g} m; better, but its grid files are not installed: " in note
    assert raster_of(plan, "a").tolist() == [[1, 1], [1, 1]]


def test_the_plan_names_the_datum_shift_that_is_used(tmp_path: Path) -> None:
    grid = Grid("EPSG:3577", 0, -3_000_000, 100, 100, 2, 2)
    plan = plan_of(grid, [layer_in(tmp_path, "EPSG:4326", north_up(131.9, -27.4, 0.2))])
    assert any("GDA94 to WGS 84" in note and "good to 3 m" in note for note in plan.notes)


def test_the_vertical_part_of_a_crs_is_named_and_ignored(tmp_path: Path) -> None:
    plan = plan_of(GRID, [layer_in(tmp_path, UTM, crs="EPSG:32632+5773")])
    assert plan.layers[0].decisions[0].route == "decimate" or plan.layers[0].decisions[0].route == "warp"
    assert raster_of(plan, "a").tolist() == [[1, 1], [1, 1]]
    assert any("EGM96 height" in note and "is ignored" in note for note in plan.notes)


def test_gcps_place_a_file_that_has_nothing_else(shared_data: Path) -> None:
    like = raster.inspect(str(shared_data / "odd/au-3577.tif"))
    t = like.transform
    grid = Grid("EPSG:3577", t.c, t.f, t.a, -t.e, like.width, like.height)
    layer = Layer("a", (str(shared_data / "odd/au-gcp.tif"),), kind=Kind.CATEGORICAL, resampling="nearest")
    with pytest.raises(SourceError, match="has no geotransform, but ground control points") as caught:
        plan_of(grid, [layer])
    assert "gcps" in caught.value.hint
    placed = [raster.georeferenced(raster.inspect(layer.paths[0]), "gcps", Access.of_layer("a"))]
    own = Layer("own", (like.uri,), kind=Kind.CATEGORICAL)
    plan = plan_of(grid, [own, layer], headers={"a": placed}, how="grid")
    one, two = raster_of(plan, "own", 0), raster_of(plan, "a", 0)
    # the same pixels, placed by a polynomial through 24 points: at most a neighbour is met instead
    assert (one == two).mean() > 0.9
    assert (two > 0).sum() == pytest.approx((one > 0).sum(), rel=0.01)


def test_an_rpc_model_places_a_file_on_request(shared_data: Path) -> None:
    file = str(shared_data / "odd/test_rpcs.tif")
    with pytest.raises(SourceError, match="has no geotransform, but an RPC model") as caught:
        plan_of(Grid("EPSG:4326", 46.729, 39.873, 2e-5, 2e-5, 300, 250), [Layer("a", (file,))])
    assert "rpcs" in caught.value.hint
    layer = Layer("a", (file,), nodata=0, resampling="nearest")
    header = raster.georeferenced(raster.inspect(file), "rpcs", Access.of_layer("a"))
    grid = Grid("EPSG:4326", 46.729, 39.8732, 2e-5, 2e-5, 370, 310)
    values = raster_of(plan_of(grid, [layer], headers={"a": [header]}), "a")
    import rasterio

    with rasterio.open(file) as ds:
        pixels = ds.read(1)
    assert np.nanmean(values) == pytest.approx(pixels[pixels > 0].mean(), rel=0.01)
    assert set(np.unique(values[~np.isnan(values)]).astype(int)) <= set(np.unique(pixels).tolist())
