"""Masks and merge.drop: which cells are rows, from the settings to a table that validates."""

from __future__ import annotations

import json
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyogrio
import pyproj
import pytest
import rasterio
from fake_reader import NotingReader
from helpers import call, north_up, read_table, write_raster

from geopipe.engine import local, steps
from geopipe.errors import GeopipeError, SettingsError, SourceError
from geopipe.export.tiles import Receipt
from geopipe.load import raster, tiles, vectors
from geopipe.load.sweep import sweep
from geopipe.merge.blocks import MARKER, BlockRow, marker
from geopipe.merge.tile import merge_tile
from geopipe.plan.plan import Plan
from geopipe.run import draft as drafting
from geopipe.run import pipeline
from geopipe.settings import load
from geopipe.validate.facts import check_receipts, facts_of
from geopipe.validate.output import validate

UTM, LON_LAT = "EPSG:32632", "EPSG:4326"
WEST, NORTH = 600_000.0, 5_000_000.0

BASE = """
[run]
output = "{folder}/output"
[grid]
crs = "EPSG:32632"
resolution = 10
bounds = [{west}, {south}, {east}, {north}]
{mask}
[resampling]
window_size = 512
"""


def settings_of(folder: Path, width: int, height: int, layers: dict[str, Path], mask: str = "", more: str = "") -> Path:
    """Settings of a grid of 10 m cells from (WEST, NORTH) on."""
    edges = {"west": WEST, "south": NORTH - 10 * height, "east": WEST + 10 * width, "north": NORTH}
    text = BASE.format(folder=folder, mask=mask, **edges)
    for name, path in layers.items():
        text += f'[[layers]]\nname = "{name}"\npath = "{path}"\n'
    file = folder / "s.toml"
    file.write_text(text + more)
    return file


def drawn(folder: Path, *polygons: list[Any], name: str = "mask.gpkg", crs: str | None = UTM, **overrides: Any) -> Path:
    """A vector file of polygons in cells: rings of (column, row) from the upper left corner of the grid."""
    features = [
        struct.pack("<BII", 1, 3, len(rings))
        + b"".join(
            struct.pack("<I", len(ring) + 1) + np.array([*ring, ring[0]], "<f8").tobytes()
            for ring in ([(WEST + 10 * c, NORTH - 10 * r) for c, r in cells] for cells in rings)
        )
        for rings in polygons
    ]
    path = folder / name
    geometry = np.array(features, object)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a file without a CRS
        pyogrio.raw.write(path, geometry, [], [], crs=crs, geometry_type="Polygon", **overrides)
    return path


def box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def draft(file: Path, *flags: str) -> Plan:
    return drafting.draft(load.load(file, flags))


def table_of(plan: Plan) -> pa.Table:
    return pa.concat_tables(local.merge(plan))


def shown(plan: Plan) -> list[str]:
    """The cells that are rows, drawn."""
    table, picture = table_of(plan), np.full((plan.grid.height, plan.grid.width), ".")
    picture[table["row"].to_numpy(), table["col"].to_numpy()] = "#"
    return ["".join(line) for line in picture]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A raster of 6 x 4 cells without a hole."""
    return write_raster(
        tmp_path / "a.tif", np.arange(24, dtype="float32").reshape(4, 6), UTM, north_up(WEST, NORTH, 10)
    )


RING = (box(0, 0, 5, 4), box(1.2, 1.2, 3.8, 2.8))
RINGED = ["#####.", "#...#.", "#...#.", "#####."]


@pytest.mark.parametrize("how", ["outer", "inner", "grid"])
@pytest.mark.parametrize("name", ["mask.gpkg", "mask.shp", "mask.fgb"])
def test_cells_outside_a_vector_mask_are_no_rows(tmp_path: Path, small: Path, name: str, how: str) -> None:
    drawn(tmp_path, list(RING), name=name)
    file = settings_of(tmp_path, 6, 4, {"a": small}, f'mask = "{name}"')
    plan = draft(file, f"merge.how={how}")
    assert shown(plan) == RINGED
    table = table_of(plan)
    assert table["a"].to_pylist() == [
        6 * r + c for r, c in zip(*np.nonzero(np.array([[*x] for x in RINGED]) == "#"), strict=True)
    ]
    assert (plan.mask.reach.cells, plan.mask.reach.exact, plan.estimate.rows) == (14, True, 14)
    about = plan.provenance["mask"]
    assert (about["file"], about["cells"], about["polygons"]) == (str(tmp_path / name), 14, 1)


def test_geojson_is_in_longitudes_and_latitudes(tmp_path: Path, small: Path) -> None:
    drawn(tmp_path, list(RING))
    _, _, geometry, _ = pyogrio.raw.read(tmp_path / "mask.gpkg")
    ring = np.frombuffer(geometry[0], "<f8", 10, 13).reshape(5, 2)
    lon, lat = pyproj.Transformer.from_crs(UTM, LON_LAT, always_xy=True).transform(*ring.T)
    polygon = {"type": "Polygon", "coordinates": [[[x, y, 7.5] for x, y in zip(lon, lat, strict=True)]]}
    multi = {"type": "MultiPolygon", "coordinates": [polygon["coordinates"]]}
    both = {"type": "GeometryCollection", "geometries": [polygon, multi]}
    for geometry in (polygon, multi, both):
        (tmp_path / "m.geojson").write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": geometry}))
        assert shown(draft(settings_of(tmp_path, 6, 4, {"a": small}, 'mask = "m.geojson"'))) == ["#####."] * 4


@pytest.mark.parametrize("size", [3, 10, 25])
def test_a_raster_mask_counts_by_its_nearest_pixel(tmp_path: Path, small: Path, size: int) -> None:
    count = 120 // size
    rng = np.random.default_rng(size)
    values = rng.choice(np.array([0, 1, 7, 255], "uint8"), (count, count))
    write_raster(tmp_path / "m.tif", values, UTM, north_up(WEST - 20, NORTH + 20, size), nodata=255)
    plan = draft(settings_of(tmp_path, 6, 4, {"a": small}, 'mask = "m.tif"'), "merge.how=grid")
    expected = []
    for row in range(4):
        at = [values[int((20 + 10 * row + 5) // size), int((20 + 10 * col + 5) // size)] for col in range(6)]
        expected.append("".join("#" if v in (1, 7) else "." for v in at))
    assert shown(plan) == expected
    assert not plan.mask.reach.exact
    assert plan.mask.polygons is None


def test_a_raster_mask_in_another_crs_reaches_as_far_as_it_lies(tmp_path: Path, small: Path) -> None:
    values = np.ones((10, 10), "float32")
    values[:, 5:] = np.nan
    write_raster(tmp_path / "m.tif", values, LON_LAT, north_up(10.0, 46.0, 0.3))  # to 13 E, 43 N
    file = settings_of(tmp_path, 3000, 600, {"a": small}, 'mask = "m.tif"')  # from 10.27 E on
    plan = draft(file, "merge.how=grid")
    assert plan.keys.tolist() == list(range(12))
    plan = draft(settings_of(tmp_path, 60_000, 1200, {"a": small}, 'mask = "m.tif"'))
    assert 40 < len(plan.keys) / 3 < 50  # of 118 to a row
    assert plan.estimate.rows < 0.4 * plan.grid.cells


# ---------------------------------------------------------------- what is not read


@pytest.fixture
def large(tmp_path: Path) -> dict[str, Path]:
    """1300 x 1100 cells, 9 tiles: a copy with broken pixels outside rows and columns 300..800, and one to be warped."""
    values = np.arange(1100 * 1300, dtype="float32").reshape(1100, 1300)
    own = write_raster(
        tmp_path / "own.tif", values, UTM, north_up(WEST, NORTH, 10), tiled=True, blockxsize=256, blockysize=256,
        compress="deflate",
    )  # fmt: skip
    warped = write_raster(tmp_path / "warped.tif", values[:400, :500], UTM, north_up(WEST - 3, NORTH + 4, 31))
    return {"own": own, "warped": warped}


def spoil(path: Path, keep: set[int]) -> None:
    """Overwrite every stored block of a TIFF but those of these numbers."""
    with rasterio.open(path) as ds:
        cols = -(-ds.width // 256)
        places = [
            [ds.get_tag_item(f"BLOCK_{what}_{n % cols}_{n // cols}", "TIFF", bidx=1) for what in ("OFFSET", "SIZE")]
            for n in range(cols * -(-ds.height // 256))
        ]
    data = bytearray(path.read_bytes())
    for number, (start, count) in enumerate(places):
        if number not in keep:
            data[int(start) : int(start) + int(count)] = b"\xff" * int(count)
    path.write_bytes(data)


def test_pixels_outside_are_never_read(tmp_path: Path, large: dict[str, Path]) -> None:
    drawn(
        tmp_path, [box(600, 100, 900, 400)]
    )  # in one canonical block of the tile of 1024, whose pixels are 4 stored blocks
    spoil(large["own"], {row * 6 + col for row in (0, 1) for col in (2, 3)})
    for size in (512, 1024, 2048):
        file = settings_of(tmp_path, 1300, 1100, large, 'mask = "mask.gpkg"')
        plan = draft(file, f"resampling.window_size={size}")
        table = table_of(plan)
        assert table.num_rows == 300 * 300
        assert table["own"].to_numpy().tolist() == (table["row"].to_numpy() * 1300 + table["col"].to_numpy()).tolist()
        assert len(plan.keys) == 1
        assert plan.estimate.tasks == 1
    with pytest.raises(SourceError, match="cannot be read"):
        table_of(draft(settings_of(tmp_path, 1300, 1100, large)))


def test_windows_are_read_where_the_mask_is_and_nowhere_else(tmp_path: Path, large: dict[str, Path]) -> None:
    mask = np.zeros((1100, 1300), "uint8")
    mask[600:700, 100:140] = 1
    write_raster(tmp_path / "m.tif", mask, UTM, north_up(WEST, NORTH, 10))
    reader = NotingReader(raster.Readers())
    table = read_table(draft(settings_of(tmp_path, 1300, 1100, large, 'mask = "m.tif"')), reader)
    reader.close()
    assert table.num_rows == 100 * 40
    layers = [(Path(name).name, window) for name, window in reader.reads if "m.tif" not in name]
    assert sorted(name for name, _ in layers) == ["own.tif", "warped.tif"]
    assert all(512 <= window.row < 600 for name, window in layers if name == "own.tif")


def test_no_tile_size_changes_a_row(tmp_path: Path, large: dict[str, Path]) -> None:
    ring = [(700 + 450 * np.cos(t) * (1 + 0.2 * np.sin(9 * t)), 500 + 400 * np.sin(t)) for t in np.linspace(0, 6.2, 90)]
    drawn(tmp_path, [ring, box(600, 450, 700, 600)])
    write_raster(
        tmp_path / "m.tif",
        np.random.default_rng(1).integers(0, 2, (90, 70), "uint8"),
        LON_LAT,
        north_up(10.3, 45.2, 0.002),
    )
    for mask in ("mask.gpkg", "m.tif"):
        tables = []
        for size in (512, 1024, 2048):
            file = settings_of(tmp_path, 1300, 1100, large, f'mask = "{mask}"')
            table = table_of(draft(file, f"resampling.window_size={size}")).replace_schema_metadata()
            tables.append(table.sort_by([("row", "ascending"), ("col", "ascending")]))
        assert tables[0].num_rows > 10_000
        assert tables[0].equals(tables[1])
        assert tables[0].equals(tables[2])


def test_classes_are_those_of_the_blocks_that_the_mask_meets(tmp_path: Path) -> None:
    for name, size in (("copied.tif", 10), ("warped.tif", 7)):
        values = np.ones((600 * 10 // size, 1300 * 10 // size), "uint8")
        values[:, 512 * 10 // size + 3 :] = 2  # columns of the grid from 513 on: in other blocks
        write_raster(tmp_path / name, values, UTM, north_up(WEST, NORTH, size))
        drawn(tmp_path, [box(10, 10, 500, 590)])
        file = settings_of(tmp_path, 1300, 600, {"a": tmp_path / name}, 'mask = "mask.gpkg"')
        file.write_text(file.read_text() + 'kind = "categorical"\nfractions = true\n')
        for tile in (512, 1024):
            plan = draft(file, f"resampling.window_size={tile}")
            assert [v.name for v in plan.spec.variables] == ["a", "a_1"]
        (tmp_path / "mask.gpkg").unlink()


@pytest.mark.parametrize("mask", ["mask.gpkg", "m.tif"])
def test_a_sweep_reads_no_more_than_tiles_and_gives_the_same(tmp_path: Path, large: dict[str, Path], mask: str) -> None:
    drawn(tmp_path, [box(600, 100, 900, 400)])
    values = np.zeros((1100, 1300), "uint8")
    values[100:400, 600:900] = 1
    write_raster(tmp_path / "m.tif", values, UTM, north_up(WEST, NORTH, 10))
    plan = draft(settings_of(tmp_path, 1300, 1100, large, f'mask = "{mask}"'), "resampling.window_size=1024")
    readers, keys, rows = raster.Readers(), plan.keys.tolist(), []
    with raster.environment():
        for layer in plan.layers:
            rows += [marker(key, tiles.inside_of(plan, plan.spec.tile(key), readers)) for key in keys]
            rows += sweep(plan, layer, keys, readers)
    tables = [merge_tile(plan.spec, plan.spec.tile(key), [r for r in rows if r.tile == key]) for key in keys]
    assert pa.concat_tables(tables).equals(table_of(plan))
    assert {(r.tile, r.top) for r in rows if r.variable >= 0} == {(0, 0)}


# ---------------------------------------------------------------- whole runs


@pytest.mark.parametrize("mask", ["mask.gpkg", "m.tif"])
@pytest.mark.parametrize("how", ["outer", "grid"])
def test_a_run_with_a_mask_validates_and_the_plan_tells_of_it(
    tmp_path: Path, large: dict[str, Path], capsys: pytest.CaptureFixture[str], mask: str, how: str
) -> None:
    drawn(tmp_path, [box(600, 100, 900, 700)], [box(10, 10, 20, 20)])
    values = np.zeros((1100, 1300), "uint8")
    values[100:700, 600:900] = values[10:20, 10:20] = 1
    write_raster(tmp_path / "m.tif", values, UTM, north_up(WEST, NORTH, 10))
    file = settings_of(tmp_path, 1300, 1100, large, f'mask = "{mask}"')
    code, out, err = call(capsys, "plan", file, "--set", f"merge.how={how}")
    assert code == 0, err
    if mask == "mask.gpkg":
        assert "2 polygons" in out
        assert "meets 3 of 9 tiles; 180,100 cells inside (12.59%)" in out
        assert "180,100 rows at most" in out
    else:
        assert "a raster, inside where it is valid and not 0" in out
        assert "meets 9 of 9 tiles; at most 1,430,000 cells inside" in out
    summary = pipeline.run(load.load(file, (f"merge.how={how}", "engine.kind=local")))
    assert summary.rows == 180_100
    assert summary.files == (3 if mask == "mask.gpkg" else 9)  # a tile that the mask does not meet has none
    assert call(capsys, "validate", summary.output)[0] == 0
    report = validate(summary.output)
    assert not report.findings
    assert str(tmp_path / mask) in report.numbers["rows"]


def test_validation_finds_rows_outside_the_mask(tmp_path: Path, large: dict[str, Path]) -> None:
    drawn(tmp_path, [box(600, 100, 900, 400)])
    summary = pipeline.run(
        load.load(settings_of(tmp_path, 1300, 1100, large, 'mask = "mask.gpkg"'), ("engine.kind=local",))
    )
    path = summary.output / "_SUCCESS"
    success = json.loads(path.read_text())
    assert success["table"]["mask"] == {
        "file": str(tmp_path / "mask.gpkg"),
        "tiles": [[1, 2]],
        "cells": 90_000,
        "exact": True,
    }
    success["table"]["mask"] |= {"tiles": [[3, 4]], "cells": 80_000}
    path.write_text(json.dumps(success))
    findings = [f.message for f in validate(summary.output).findings]
    assert "tiles with rows outside the mask: 1; planned are 1" in findings
    assert "the table has 90,000 rows; planned are at most 80,000 (how = outer)" in findings


def test_a_tile_outside_needs_no_receipt(tmp_path: Path, large: dict[str, Path]) -> None:
    drawn(tmp_path, [box(600, 100, 900, 400)])
    plan = draft(settings_of(tmp_path, 1300, 1100, large, 'mask = "mask.gpkg"'), "merge.how=grid")
    columns = {v.name: {"min": 0, "max": 1, "nulls": 0} for v in plan.spec.variables}
    assert check_receipts(facts_of(plan), [Receipt(1, 90_000, (), columns)]) == []
    findings = [f.message for f in check_receipts(facts_of(plan), [Receipt(1, 89_999, (), columns)])]
    assert findings == ["the table has 89,999 rows; planned are 90,000 (how = grid)"]


def test_the_mask_of_a_tile_travels_once_in_a_shuffle(tmp_path: Path, large: dict[str, Path]) -> None:
    drawn(tmp_path, [box(400, 300, 900, 700)])
    plan = draft(settings_of(tmp_path, 1300, 1100, large, 'mask = "mask.gpkg"'), "merge.strategy=groupby")
    readers, keys = raster.Readers(), plan.keys.tolist()
    assert len(plan.layers) > 1
    with raster.environment():
        rows = [row for layer in plan.layers for row in steps._rows(plan, layer, 0, keys, readers)]
    readers.close()
    markers = [row for row in rows if isinstance(row, BlockRow) and row.variable == MARKER]
    assert sorted(row.tile for row in markers) == sorted(keys * len(plan.layers)), "each read has a marker"
    assert [row.tile for row in markers if row.valid is not None] == keys


def test_both_plans_of_the_engine_and_the_plain_loop_agree(
    tmp_path: Path, large: dict[str, Path], ray_session: None
) -> None:
    drawn(tmp_path, [box(400, 300, 900, 700), box(420, 320, 600, 500)])
    file = settings_of(tmp_path, 1300, 1100, large, 'mask = "mask.gpkg"')
    tables = []
    for flag in "engine.kind=local", "merge.strategy=aligned", "merge.strategy=groupby":
        summary = pipeline.run(load.load(file, ("engine.kind=ray", flag)), overwrite=True)
        tables.append((summary.rows, {p.name: p.read_bytes() for p in sorted((summary.output / "parquet").iterdir())}))
    assert tables[0][0] == 500 * 400 - 180 * 180
    assert tables[0] == tables[1] == tables[2]


# ---------------------------------------------------------------- what is refused, what is the same


def test_the_plan_hash_is_that_of_the_polygons(tmp_path: Path, small: Path) -> None:
    file = settings_of(tmp_path, 6, 4, {"a": small}, 'mask = "mask.gpkg"')
    drawn(tmp_path, list(RING))
    first = draft(file).hash
    (tmp_path / "mask.gpkg").unlink()
    drawn(tmp_path, list(RING))
    assert draft(file).hash == first
    (tmp_path / "mask.gpkg").unlink()
    drawn(tmp_path, [box(0, 0, 5, 4)])
    assert draft(file).hash != first
    assert draft(settings_of(tmp_path, 6, 4, {"a": small})).hash != first


def refused(file: Path, *flags: str) -> tuple[str, str]:
    with pytest.raises(GeopipeError) as caught:
        draft(file, *flags)
    assert caught.value.exit_code == 2
    return caught.value.message, caught.value.hint


def test_a_mask_beside_the_grid_is_refused_with_both_bounds(tmp_path: Path, small: Path) -> None:
    drawn(tmp_path, [box(100, 0, 105, 4)])
    file = settings_of(tmp_path, 6, 4, {"a": small}, 'mask = "mask.gpkg"')
    message, hint = refused(file)
    assert "has no centre of a cell of the grid [600000, 4999960, 600060, 5000000] inside" in message
    assert "its polygons cover [601000, 4999960, 601050, 5000000] in WGS 84 / UTM zone 32N" in message
    assert "grid.mask_crs" in hint
    (tmp_path / "mask.gpkg").unlink()
    drawn(tmp_path, [box(0.6, 0, 1.4, 4)])  # between two columns of centres
    assert "has no centre of a cell" in refused(file)[0]
    write_raster(tmp_path / "m.tif", np.ones((4, 6), "uint8"), UTM, north_up(WEST + 500, NORTH, 10))
    message, _ = refused(file, 'grid.mask="m.tif"')
    assert "layer grid.mask does not meet the grid [600000" in message
    assert "covers [600500" in message


def test_a_mask_without_a_crs_asks_for_it(tmp_path: Path, small: Path) -> None:
    drawn(tmp_path, list(RING), name="mask.shp", crs=None)
    file = settings_of(tmp_path, 6, 4, {"a": small}, 'mask = "mask.shp"')
    assert refused(file) == (
        f"grid.mask = {tmp_path / 'mask.shp'} has no CRS",
        'say which it is: grid.mask_crs = "EPSG:..."',
    )
    assert shown(draft(file, f"grid.mask_crs={UTM}")) == RINGED
    write_raster(tmp_path / "m.tif", np.ones((4, 5), "uint8"), None, north_up(WEST, NORTH, 10))
    assert "m.tif has no CRS" in refused(file, f'grid.mask="{tmp_path}/m.tif"')[0]
    assert shown(draft(file, f'grid.mask="{tmp_path}/m.tif"', f"grid.mask_crs={UTM}")) == ["#####."] * 4


def test_of_several_layers_one_is_chosen(tmp_path: Path, small: Path) -> None:
    drawn(tmp_path, list(RING), layer="ring")
    drawn(tmp_path, [box(0, 0, 1, 1)], layer="corner", append=True)
    file = settings_of(tmp_path, 6, 4, {"a": small}, 'mask = "mask.gpkg"')
    message, hint = refused(file)
    assert "has 2 layers: ring, corner" in message
    assert 'grid.mask_layer = "ring"' in hint
    assert shown(draft(file, "grid.mask_layer=corner")) == ["#....."] + ["......"] * 3
    assert "no layer 'centre'; it has ring, corner" in refused(file, "grid.mask_layer=centre")[0]


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ({"type": "Point", "coordinates": [10, 45]}, "beside 0 polygons, 1 x point; only polygons have an inside"),
        ({"type": "MultiLineString", "coordinates": [[[10, 45], [11, 46]]]}, "1 x multiline; only polygons"),
        ({"type": "Polygon", "coordinates": []}, "has no polygon in 1 features"),
        (None, "has no polygon in 1 features"),
    ],
)
def test_only_polygons_have_an_inside(tmp_path: Path, small: Path, geometry: Any, message: str) -> None:
    (tmp_path / "m.geojson").write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": geometry}))
    assert message in refused(settings_of(tmp_path, 6, 4, {"a": small}, 'mask = "m.geojson"'))[0]


def test_what_is_no_mask_is_refused(tmp_path: Path, small: Path) -> None:
    file = settings_of(tmp_path, 6, 4, {"a": small}, 'mask = "none.gpkg"')
    assert refused(file)[0] == f"grid.mask: there is no file {tmp_path / 'none.gpkg'}"
    (tmp_path / "none.gpkg").write_text("nothing")
    assert "is neither a raster nor a vector file that GDAL can open" in refused(file)[0]
    write_raster(tmp_path / "two.tif", np.ones((2, 4, 6), "uint8"), UTM, north_up(WEST, NORTH, 10))
    assert "two.tif has 2 bands: which of them is the mask?" in refused(file, f'grid.mask="{tmp_path}/two.tif"')[0]
    with pytest.raises(SettingsError, match=r"there is no grid\.mask"):
        load.load(settings_of(tmp_path, 6, 4, {"a": small}, 'mask_crs = "EPSG:4326"'))


def test_a_mask_without_its_datum_is_refused_as_a_layer_is(tmp_path: Path, small: Path) -> None:
    moon = "+proj=longlat +R=1737400"
    drawn(tmp_path, list(RING), crs=None, name="mask.shp")
    file = settings_of(tmp_path, 6, 4, {"a": small}, f'mask = "mask.shp"\nmask_crs = "{moon}"')
    assert "layer grid.mask" in refused(file)[0]
    assert "another body" in refused(file)[0]


# ---------------------------------------------------------------- merge.drop


@pytest.fixture
def holes(tmp_path: Path) -> Path:
    """Settings of three layers on 5 x 1 cells: values where the names of their columns stand.

    a: a a . . .     pair: two bands, pair_1: 1 . 1 . . and pair_2: 2 2 . . .    none: a layer that is skipped.
    """
    here, nan = north_up(WEST, NORTH, 10), np.nan
    write_raster(tmp_path / "a.tif", np.array([[5, 5, nan, nan, nan]], "float32"), UTM, here)
    write_raster(tmp_path / "p.tif", np.array([[[1, nan, 1, nan, nan]], [[2, 2, nan, nan, nan]]], "float32"), UTM, here)
    (tmp_path / "n.tif").write_text("no raster")
    file = settings_of(
        tmp_path, 5, 1, {"a": tmp_path / "a.tif", "pair": tmp_path / "p.tif", "none": tmp_path / "n.tif"}
    )
    file.write_text(file.read_text() + 'on_error = "skip"\n')
    return file


@pytest.mark.parametrize(
    ("how", "drop", "rows"),
    [
        ("outer", "[]", "###.."),
        ("inner", "[]", "##..."),
        ("grid", "[]", "#####"),
        ("outer", "any", "#...."),
        ("inner", "any", "#...."),
        ("grid", "any", "#...."),
        ("outer", "all", "###.."),
        ("inner", "all", "##..."),
        ("grid", "all", "###.."),
        ("grid", '["a"]', "##..."),
        ("grid", '["pair_1"]', "#.#.."),
        ("grid", '["pair"]', "#...."),
        ("outer", '["a", "pair_1"]', "#...."),
        ("grid", '["none"]', "#####"),
        ("grid", '["none", "pair_2"]', "##..."),
    ],
)
def test_drop(holes: Path, how: str, drop: str, rows: str) -> None:
    flags = (f"merge.how={how}", f"merge.drop={drop}")
    assert shown(draft(holes, *flags)) == [rows]
    summary = pipeline.run(load.load(holes, (*flags, "engine.kind=local")), overwrite=True)
    assert summary.rows == rows.count("#")
    assert [f for f in validate(summary.output).findings if f.level == "error"] == []


def test_drop_is_in_the_hash_and_the_plan(holes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans = [draft(holes, f"merge.drop={drop}") for drop in ("[]", "any", "all", '["a"]')]
    assert len({plan.hash for plan in plans}) == 3
    assert plans[0].hash == plans[2].hash  # what "all" drops, how = "outer" has not
    assert plans[1].describe()["drop"] == ["a", "pair_1", "pair_2"]
    assert "merge.drop: skipped layers do not count" in plans[1].notes
    out = call(capsys, "plan", holes, "--set", 'merge.drop=["a", "pair_1"]')[1]
    assert "cells without a value in a or pair_1 (merge.drop)" in out


def test_unknown_names_are_refused_with_those_there_are(holes: Path) -> None:
    message, hint = refused(holes, 'merge.drop=["b"]')
    assert message == "merge.drop names 'b', which is neither a layer nor a column"
    assert hint == "choose from: a, pair, none, pair_1, pair_2"


def test_a_name_that_means_two_things_is_refused(holes: Path) -> None:
    text = holes.read_text() + f'[[layers]]\nname = "pair_1"\npath = "{holes.parent}/p.tif"\n'
    holes.write_text(text)
    message, _ = refused(holes, 'merge.drop=["pair_1"]')
    assert message == "merge.drop names 'pair_1': that is a layer (pair_1_1, pair_1_2), and a column of the layer pair"


def test_validation_knows_which_columns_have_no_nulls(holes: Path) -> None:
    summary = pipeline.run(load.load(holes, ("merge.how=grid", "engine.kind=local")))
    path = summary.output / "_SUCCESS"
    success = json.loads(path.read_text())
    success["table"]["required"] = ["a"]
    path.write_text(json.dumps(success))
    findings = [f.message for f in validate(summary.output).findings if f.level == "error"]
    assert findings == ["a of tile 0 has 3 nulls, but merge.drop leaves none"]


@pytest.mark.parametrize("name", ["mask.gpkg", "mask.shp", "mask.fgb", "mask.geojson"])
@pytest.mark.parametrize("gone", [10, 100])
def test_a_vector_file_that_is_cut_short_is_no_smaller_mask(tmp_path: Path, name: str, gone: int) -> None:
    path = drawn(tmp_path, [box(0, 0, 4, 3)], [box(1, 3, 4, 4)], name=name)
    shapes = vectors.read(str(path), None, None)
    assert shapes.polygons
    path.write_bytes(path.read_bytes()[:-gone])
    with pytest.raises(SourceError, match=name):
        vectors.read(str(path), None, None)
