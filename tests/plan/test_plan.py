"""The plan: columns and their types, everything that is refused before a pixel is read, and the plan's hash."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from affine import Affine
from helpers import GENEROUS, VERSIONS, header, north_up, tiles_of

from geopipe.errors import MachineError, PlanError, SettingsError, SourceError
from geopipe.grid.crs import crs_transform
from geopipe.grid.grid import Grid, projected_bounds
from geopipe.layers.header import Band, Header, Stamp
from geopipe.layers.layer import Kind, Layer, Overlap
from geopipe.plan.estimate import Machine, NodeLimits, readers_of_wave
from geopipe.plan.options import Layout, Options
from geopipe.plan.plan import Inputs, Plan, make_plan
from geopipe.plan.text import plan_text
from geopipe.resample.locate import canonical_blocks
from geopipe.resample.methods import Route

UTM, MB = "EPSG:32612", 1 << 20
GRID = Grid(UTM, 500_000, 4_000_000, 30, 30, width=100, height=80)
T = north_up(500_000, 4_000_000, 30)  # where `header` is by default


def plan_from(
    *layers: tuple[Layer, Header], grid: Grid = GRID, machine: Machine = GENEROUS, skipped: Any = None, **options: Any
) -> Plan:
    files = [(layer, [source]) for layer, source in layers]
    return make_plan(Inputs("p", grid, files, VERSIONS, skipped or {}), Options(**options), machine)


OFF, FINE = north_up(500_010, 4_000_010, 30), north_up(500_000, 4_000_000, 15)


@pytest.mark.parametrize(
    ("band", "kind", "transform", "dtype"),
    [
        # continuous values are float32, float64 where the source has 64 bits
        (Band(1, "uint8"), Kind.CONTINUOUS, OFF, "float32"),
        (Band(1, "int16"), Kind.CONTINUOUS, OFF, "float32"),
        (Band(1, "float32"), Kind.CONTINUOUS, OFF, "float32"),
        (Band(1, "float64"), Kind.CONTINUOUS, OFF, "float64"),
        (Band(1, "int64"), Kind.CONTINUOUS, OFF, "float64"),
        (Band(1, "int32"), Kind.CONTINUOUS, OFF, "float64"),  # float32 would lose the last 8 of its 32 bits
        (Band(1, "uint8"), Kind.CONTINUOUS, FINE, "float32"),
        (Band(1, "int16"), Kind.COUNT, OFF, "float32"),
        # classes and untouched values keep their own
        (Band(1, "uint8"), Kind.CATEGORICAL, OFF, "uint8"),
        (Band(1, "uint8"), Kind.CATEGORICAL, FINE, "uint8"),
        (Band(1, "int64"), Kind.CATEGORICAL, OFF, "int64"),
        (Band(1, "uint8"), Kind.CONTINUOUS, T, "uint8"),
        (Band(1, "int64"), Kind.CONTINUOUS, T, "int64"),
        (Band(1, "float64"), Kind.CONTINUOUS, T, "float64"),
        (Band(1, "int32"), Kind.COUNT, T, "int32"),
        # packed values: float32 while it tells every packed step apart
        (Band(1, "int16", scale=0.01, offset=273.15), Kind.CONTINUOUS, T, "float32"),
        (Band(1, "uint16", scale=0.0001), Kind.CONTINUOUS, OFF, "float32"),
        (Band(1, "uint16", scale=0.001, offset=1e6), Kind.CONTINUOUS, T, "float64"),
        (Band(1, "int32", scale=0.1), Kind.CONTINUOUS, T, "float64"),
        (Band(1, "float32", scale=0.1), Kind.CONTINUOUS, T, "float64"),
        (Band(1, "int16", offset=100), Kind.CATEGORICAL, OFF, "float32"),
    ],
)
def test_column_types(band: Band, kind: Kind, transform: Affine, dtype: str) -> None:
    source = header(band, transform=transform, width=220, height=220)
    assert [v.dtype for v in plan_from((Layer("a", (), kind=kind), source)).spec.variables] == [dtype]


@pytest.mark.parametrize("overlap", [Overlap.MEAN, Overlap.SUM])
def test_a_mean_or_sum_of_sources_has_a_type_that_holds_it(overlap: Overlap) -> None:
    # two files of one place, both copied, so that the column would keep their type
    layer = Layer("a", (), overlap=overlap)
    files = [header(Band(1, "uint8")), header(Band(1, "uint8"), uri="/data/b.tif")]
    plan = make_plan(Inputs("p", GRID, [(layer, files)], VERSIONS), Options(), GENEROUS)
    assert plan.spec.variables[0].dtype != "uint8", "200 + 101 is no uint8, nor is (200 + 101) / 2"


def names(*layers: tuple[Layer, Header]) -> list[str]:
    return [v.name for v in plan_from(*layers).spec.variables]


def test_a_column_is_named_after_its_layer_and_band() -> None:
    two = header(Band(1, "uint8"), Band(2, "uint8"))
    assert names((Layer("dem", ()), header())) == ["dem"]
    assert names((Layer("s2", ()), two)) == ["s2_1", "s2_2"]
    assert names((Layer("s2", (), bands=(2,)), two)) == ["s2"]
    assert names((Layer("s2", (), bands=(2, 1)), two)) == ["s2_2", "s2_1"]
    document = header(Band(1, "uint8", description="NIR"), Band(2, "uint8", description="a sentence, no name"))
    assert names((Layer("s2", ()), document)) == ["s2_nir", "s2_2"]
    assert names((Layer("s2", (), bands=("nir", 2)), document)) == ["s2_nir", "s2_2"], "bands go by description, too"
    alpha = header(Band(1, "uint8"), Band(2, "uint8", alpha=True))
    assert names((Layer("photo", ()), alpha)) == ["photo"]


@pytest.mark.parametrize("name", ["row", "col", "x", "y", "lon", "lat", "tile", "geometry"])
def test_a_reserved_name_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"layer {name}: the column name '{name}' is reserved"):
        plan_from((Layer(name, ()), header()))


def test_two_columns_of_one_name_are_refused() -> None:
    two = header(Band(1, "uint8"), Band(2, "uint8"))
    with pytest.raises(SettingsError, match="named 'a_1': of layer a and of layer a_1") as caught:
        plan_from((Layer("a", ()), two), (Layer("a_1", ()), header()))
    assert "rename" in caught.value.hint


def test_a_band_that_is_not_there_is_refused_with_those_that_are() -> None:
    source = header(Band(1, "uint8", description="red"), Band(2, "uint8"))
    for expected in (3, 0, "blue"):
        with pytest.raises(SourceError, match=rf"layer a: /data/a.tif has no band {expected!r}; it has 1 \(red\), 2"):
            plan_from((Layer("a", (), bands=(expected,)), source))


def test_kind_is_the_settings_word_else_told_by_a_colour_table() -> None:
    painted = header(Band(1, "uint8", paletted=True))
    kinds = [
        plan_from((layer, source)).layers[0].kind
        for layer, source in (
            (Layer("a", ()), painted),
            (Layer("a", ()), header()),
            (Layer("a", (), kind=Kind.CONTINUOUS), painted),
        )
    ]
    assert kinds == [Kind.CATEGORICAL, Kind.CONTINUOUS, Kind.CONTINUOUS]


def test_a_complex_band_is_refused() -> None:
    with pytest.raises(SourceError, match=r"layer sar: band 1 of /data/a\.tif has the complex type complex64"):
        plan_from((Layer("sar", ()), header(Band(1, "complex64"))))


def test_a_file_of_subdatasets_is_refused_with_their_names() -> None:
    # as GDAL shows a NetCDF container: no band, no CRS
    empty = replace(header(), bands=(), crs=None, subdatasets=("NETCDF:a.nc:t", "NETCDF:a.nc:p"))
    with pytest.raises(SourceError, match=r"no bands of its own; its variables: t, p") as caught:
        plan_from((Layer("a", ()), empty))
    assert 'variable = "t"' in caught.value.hint


def test_a_file_without_crs_is_refused_with_file_and_setting() -> None:
    with pytest.raises(SourceError, match=r"layer a: /data/a\.tif has no CRS") as caught:
        plan_from((Layer("a", ()), header(crs=None)))
    assert 'crs = "EPSG:..."' in caught.value.hint
    assert plan_from((Layer("a", (), crs=UTM), header(crs=None))).layers[0].decisions[0].route is Route.COPY


def test_a_layer_outside_the_grid_is_refused_with_both_bounds() -> None:
    away = header(transform=north_up(700_000, 4_000_000, 30))
    message = r"layer a does not meet the grid \[500000, 3997600.*a\.tif covers \[700000"
    with pytest.raises(SourceError, match=message) as caught:
        plan_from((Layer("a", ()), away))
    assert caught.value.layer == "a"


def test_a_layer_beside_a_tilted_grid_is_refused_and_not_left_null() -> None:
    # the grid is turned by 4 degrees against the file: it lies in the rectangle around the grid, but 16 m outside
    grid = Grid("EPSG:32633", 0, 5_000_000, 30, 30, width=100, height=100)
    x, y = crs_transform("EPSG:32633", "EPSG:32632")(np.array([-27.0]), np.array([4_998_493.0]))
    beside = header(crs="EPSG:32632", transform=north_up(x.item(), y.item(), 5), width=2, height=2)
    bounds = projected_bounds(beside.transform, 2, 2, "EPSG:32632", grid.crs)
    assert bounds is not None
    assert bounds[2] < -10
    with pytest.raises(SourceError, match="does not meet the grid"):
        plan_from((Layer("a", ()), beside), grid=grid)


def test_files_of_one_layer_must_have_the_same_bands() -> None:
    files = [header(), header(Band(1, "int16"), uri="/data/b.tif")]
    with pytest.raises(SourceError, match=r"/data/b\.tif has bands of type int16, /data/a\.tif of float32"):
        make_plan(Inputs("p", GRID, [(Layer("a", ()), files)], VERSIONS), Options(), GENEROUS)


def test_names_of_classes_reach_the_columns_that_hold_classes() -> None:
    band = Band(1, "uint8", categories=((1, "water"), (2, "forest")))
    layer = Layer("c", (), kind=Kind.CATEGORICAL, resampling=("mode",), fractions=(1.0,))
    metadata = {f.name: f.metadata for f in plan_from((layer, header(band))).spec.schema}
    assert json.loads(metadata["c"][b"categories"]) == {"1": "water", "2": "forest"}
    assert b"categories" not in metadata["c_1"], "a share is no class"
    (column,) = plan_from((Layer("n", (), kind=Kind.CONTINUOUS), header(band))).spec.variables
    assert column.band.categories == (), "a mean is no class"


def test_provenance_has_each_file_of_a_mosaic_once() -> None:
    files = [header(transform=north_up(500_000 + 3000 * i, 4_000_000, 30), uri=f"/data/{i}.tif") for i in range(5)]
    plan = make_plan(Inputs("p", GRID, [(Layer("a", ()), files)], VERSIONS), Options(), GENEROUS)
    assert set(plan.provenance) == {"versions", "layers", "sources", "source_count", "mask", "classes"}
    assert [plan.provenance["source_count"], *plan.provenance["sources"]] == [5, *(f"/data/{i}.tif" for i in range(5))]
    (mosaic,) = plan.provenance["layers"][0]["sources"]
    assert (len(mosaic["files"]), mosaic["file_count"]) == (3, 5)


def test_a_skipped_layer_keeps_its_columns_and_is_told() -> None:
    plan = plan_from((Layer("a", ()), header()), (Layer("b", ()), header()), skipped={"b": "it is broken"})
    assert [(v.name, v.dtype) for v in plan.spec.variables] == [("a", "float32"), ("b", "float32")]
    assert plan.skipped == {"b": "it is broken"}
    assert "layer b is skipped, its columns are null: it is broken" in plan.notes


def test_too_little_memory_is_refused_with_the_numbers() -> None:
    with pytest.raises(PlanError, match=r"\(\d+ workers? with .* MB each\); there are 200 MB") as caught:
        plan_from((Layer("a", ()), header()), machine=replace(GENEROUS, memory=200 * MB))
    assert "resampling.window_size = 1024" in caught.value.hint
    need = plan_from((Layer("a", ()), header())).estimate.peak_bytes
    assert f"about {need / MB:,.0f} MB" in caught.value.message
    plan_from((Layer("a", ()), header()), machine=replace(GENEROUS, memory=need))


def test_too_little_disk_is_refused_with_the_numbers() -> None:
    need = plan_from((Layer("a", ()), header())).estimate.output_bytes
    with pytest.raises(MachineError, match=r"would take up to .* MB; 0 MB are free") as caught:
        plan_from((Layer("a", ()), header()), machine=replace(GENEROUS, free_disk=need - 1))
    assert "run.output" in caught.value.hint
    assert caught.value.exit_code == 3


def test_a_note_on_a_datum_shift_stands_once_for_all_layers_that_it_is_about() -> None:
    """Three layers of one CRS and one of another; two files of a layer on lattices of their own."""
    shifted = header(crs="EPSG:26712", uri="/data/b.tif")
    plan = plan_from(
        (Layer("a", ()), shifted),
        (Layer("b", ()), shifted),
        (Layer("c", ()), header()),
        (Layer("d", ()), header(crs="EPSG:26712", uri="/data/d.tif", transform=north_up(500_010, 4_000_010, 30))),
    )
    assert [note.partition(": ")[0] for note in plan.notes] == ["layers a, b, d"]
    assert "datum shift" in plan.notes[0]


def test_one_cell_of_30_degrees_is_likely_meant_in_metres() -> None:
    plan = plan_from((Layer("a", ()), header()), grid=Grid("EPSG:4326", -120, 60, 30, 30, 1, 1))
    assert any("1 cells of 30 x 30 degrees; in metres 30 is about 0.000269 degrees" in note for note in plan.notes)


def test_an_exchange_is_cut_into_waves_that_the_object_store_can_take() -> None:
    # 20000 x 20000 cells of float32 and a byte: 5 bytes x 4e8 are 1907 MB
    grid = Grid(UTM, 500_000, 4_000_000, 30, 30, width=20_000, height=20_000)
    store = replace(GENEROUS, object_store=1000 * MB)
    result = plan_from((Layer("a", ()), header()), grid=grid, machine=store, strategy="groupby", engine="ray").estimate
    # a tile of 2048 x 2048 cells is 20 MB; 0.35 of the store takes 17, and 10 of them are a row of tiles
    assert (result.shuffle_bytes, result.wave_tiles, result.wave_bytes) == (2_000_000_000, 10, 10 * 20 * MB)
    assert result.waves_at_once == 3, "each takes 1.25 times its 200 MB, of at most 900"
    more = plan_from((Layer("a", ()), header()), grid=grid, machine=store, strategy="groupby", wave_tiles=13).estimate
    assert more.waves_at_once == 2, "3 x 325 MB are more than 900"
    alone = plan_from((Layer("a", ()), header()), grid=grid, machine=store, strategy="groupby", wave_tiles=30).estimate
    assert alone.waves_at_once == 1
    one = replace(store, workers=1)
    single = plan_from((Layer("a", ()), header()), grid=grid, machine=one, strategy="groupby").estimate
    assert single.waves_at_once == 1, "one worker does one thing at a time"
    assert [readers_of_wave(2, waves) for waves in (1, 2, 3)] == [2, 2, 1]
    with pytest.raises(
        PlanError, match=r"a wave of 50 tiles would shuffle 1,000 MB; the object store has 1,000"
    ) as caught:
        plan_from((Layer("a", ()), header()), grid=grid, machine=store, strategy="groupby", engine="ray", wave_tiles=50)
    assert "fewer merge.wave_tiles" in caught.value.hint
    assert plan_from((Layer("a", ()), header()), grid=grid, machine=store).strategy == "aligned"


def cluster_of(*nodes: NodeLimits) -> Machine:
    """What an engine makes of the nodes of a cluster."""
    store = len(nodes) * min(node.object_store for node in nodes)
    named = replace(GENEROUS, cluster="RAY_ADDRESS", nodes=nodes, workers=int(sum(node.cpus for node in nodes)))
    return replace(named, object_store=store)


def test_on_several_nodes_a_wave_is_held_where_it_was_read_and_where_it_is_merged() -> None:
    grid = Grid(UTM, 500_000, 4_000_000, 30, 30, width=20_000, height=20_000)
    node = NodeLimits(4, 100 << 30, 500 * MB)
    how: dict[str, Any] = {"grid": grid, "strategy": "groupby", "engine": "ray"}
    plan = plan_from((Layer("a", ()), header()), machine=cluster_of(node, node), **how)
    one = plan_from((Layer("a", ()), header()), machine=replace(GENEROUS, object_store=1000 * MB), **how)
    assert plan.estimate.wave_tiles == one.estimate.wave_tiles == 10
    assert (plan.estimate.waves_at_once, one.estimate.waves_at_once) == (2, 3), "3 x 2 x 200 MB are more than 900"
    assert "2 nodes for work: 8 CPUs" in plan_text(plan)


def test_a_tile_whose_block_rows_fit_on_no_node_is_refused() -> None:
    """All nodes together have room for it."""
    grid = Grid(UTM, 500_000, 4_000_000, 30, 30, width=20_000, height=20_000)
    small = cluster_of(*[NodeLimits(4, 100 << 30, 25 * MB)] * 20)
    with pytest.raises(PlanError, match=r"a tile take 20 MB, .* the smallest object store of a node has 25 MB"):
        plan_from((Layer("a", ()), header()), grid=grid, machine=small, strategy="groupby", engine="ray")


def test_workers_are_as_many_as_the_nodes_have_memory_for() -> None:
    """Memory that is left on a node is of no use to a worker on another."""
    grid = Grid(UTM, 500_000, 4_000_000, 30, 30, width=20_000, height=20_000)
    one = plan_from((Layer("a", ()), header()), grid=grid, machine=GENEROUS, engine="ray").estimate.worker_bytes
    nodes = cluster_of(NodeLimits(8, int(2.9 * one), MB), NodeLimits(8, int(1.9 * one), MB))
    plan = plan_from((Layer("a", ()), header()), grid=grid, machine=nodes, engine="ray")
    assert (nodes.workers, plan.machine.workers, plan.estimate.workers) == (16, 3, 3)
    assert plan.estimate.worker_bytes == one
    growing = plan_from((Layer("a", ()), header()), grid=grid, machine=replace(nodes, most_workers=40), engine="ray")
    assert "3 workers (40 once the cluster has grown) of up to" in plan_text(growing)
    tiny = cluster_of(NodeLimits(8, int(0.9 * one), MB), NodeLimits(8, int(0.8 * one), MB))
    with pytest.raises(PlanError, match=r"a worker would need about .* MB; of 2 nodes the largest has") as caught:
        plan_from((Layer("a", ()), header()), grid=grid, machine=tiny, engine="ray")
    assert caught.value.hint == "resampling.window_size = 1024, or nodes with more memory"


def test_the_estimate_holds_the_largest_window_of_all() -> None:
    # around a pole the blocks on the antimeridian need pixels of all longitudes
    polar = header(
        Band(1, "int16"), crs="EPSG:4326", transform=north_up(-180, 90, 0.0025), width=144_000, height=16_000
    )
    grid = Grid("EPSG:3413", -805_750, 922_300, 250, 250, width=8000, height=8000)
    plan = plan_from((Layer("a", ()), polar), grid=grid, window_size=512)
    decision = plan.layers[0].decisions[0]
    largest = max(n.window.pixels for tile in tiles_of(grid, 512) for n in canonical_blocks(grid, decision, tile))
    assert plan.estimate.task_bytes > largest * 6  # an int16 and a float32 for each pixel, at the very least


LAYER = Layer("a", ("a.tif",), resampling="bilinear")
SHIFTED = header(Band(1, "int16"), transform=OFF)


def test_the_hash_and_the_metadata_do_not_know_how_a_run_is_executed() -> None:
    plan = plan_from((LAYER, SHIFTED))
    others = [
        plan_from((LAYER, SHIFTED), strategy="groupby"),
        plan_from((LAYER, SHIFTED), machine=replace(GENEROUS, workers=7, cpus=3)),
        make_plan(Inputs("another name", GRID, [(LAYER, [SHIFTED])], VERSIONS), Options(), GENEROUS),
    ]
    assert {p.hash for p in others} == {plan.hash}
    assert {p.spec.metadata for p in others} == {plan.spec.metadata}


SHIFTED_CRS = "+proj=tmerc +lon_0=-111 +k=0.9996 +x_0={} +datum=WGS84 +units=m"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (plan_from((LAYER, SHIFTED)), plan_from((LAYER, SHIFTED), **{key: value}))
        for key, value in {
            "window_size": 1024, "how": "inner", "tolerance": "exact", "formats": ("csv",), "compress": "zstd",
            "layout": Layout(lonlat=True),
            "grid": replace(GRID, x0=500_001),
        }.items()
    ]
    + [
        (plan_from((LAYER, SHIFTED)), plan_from((replace(LAYER, **{key: value}), SHIFTED)))
        for key, value in {
            "nodata": 0, "scale": 2.0, "offset": 1.0, "resampling": "cubic", "unit": "m", "name": "b",
            "overlap": Overlap.LAST,
        }.items()
    ]
    + [
        (plan_from((LAYER, SHIFTED)), plan_from((LAYER, replace(SHIFTED, **{key: value}))))
        for key, value in (("stamp", Stamp(1000, 2)), ("stamp", Stamp(1001, 1)), ("uri", "/data/b.tif"))
    ]
    + [
        (plan_from((LAYER, header())), plan_from((LAYER, header()), passthrough=False)),
        (plan_from((LAYER, header())), plan_from((replace(LAYER, kind=Kind.CATEGORICAL, resampling="auto"), header()))),
        tuple(plan_from((replace(LAYER, crs=SHIFTED_CRS.format(x)), SHIFTED)) for x in (500_000, 500_300)),
    ],
    ids=["window_size", "how", "tolerance", "formats", "compress", "layout", "grid", "nodata", "scale", "offset",
         "resampling", "unit", "name", "overlap", "mtime", "size", "uri", "passthrough", "kind", "crs"],
)  # fmt: skip
def test_the_hash_knows_whatever_changes_a_byte(one: Plan, other: Plan) -> None:
    assert one.hash != other.hash


def test_describe_is_plain_json() -> None:
    plan = plan_from(
        (Layer("a", (), nodata=float("nan")), header()), (Layer("b", ()), SHIFTED), skipped={"b": "broken"}
    )
    document = json.loads(json.dumps(plan.describe(), allow_nan=False))
    assert document == plan.describe()
    assert document["plan_hash"] == plan.hash
    assert [layer["name"] for layer in document["layers"]] == ["a", "b"]
    assert document["layers"][0]["sources"][0]["route"] == "copy"


def test_the_plan_of_many_tiles_is_no_larger() -> None:
    """What travels to every worker, and stays in the driver, must not grow with the tiles."""
    many = Grid(UTM, 500_000, 4_000_000, 30, 30, width=512 * 800, height=512 * 625)
    few = replace(many, width=512, height=512)
    wide = replace(GENEROUS, free_disk=1 << 60)
    sizes = [
        len(pickle.dumps(plan_from((Layer("a", ()), header()), grid=g, machine=wide, window_size=512)))
        for g in (few, many)
    ]
    assert abs(sizes[1] - sizes[0]) < 300
