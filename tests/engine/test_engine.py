"""The Ray engine against the plain loop: the same files to the bit, whatever the plan, the workers, the faults."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import rasterio
import ray
from affine import Affine
from helpers import write_raster
from hypothesis import Phase, given
from hypothesis import strategies as st
from ray.data import DataContext
from waiting import until

from geopipe.engine import local
from geopipe.engine import ray as engine
from geopipe.engine.baseline import whole_reads
from geopipe.engine.contract import never
from geopipe.errors import MachineError, SourceError
from geopipe.events import emit
from geopipe.export.ledger import finisher
from geopipe.export.lock import locked
from geopipe.export.staging import Staging
from geopipe.layers.layer import Layer, Source
from geopipe.load import raster, tables
from geopipe.monitoring.options import MonitoringOptions
from geopipe.plan.plan import Plan
from geopipe.plan.text import plan_text
from geopipe.resample.methods import Window
from geopipe.run import draft, pipeline
from geopipe.settings import load

GRID = """
[run]
output = "{folder}/output"
[grid]
crs = "EPSG:32632"
resolution = 100
bounds = [600000, 5000000, 730000, 5110000]
[resampling]
window_size = 512
[export]
formats = ["parquet", "csv"]
compress = false
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rasters for a grid of 1300 x 1100 cells, 9 tiles: on the grid, warped with holes, and classes in part."""
    folder, rng = tmp_path_factory.mktemp("sources"), np.random.default_rng(7)
    smooth = np.add.outer(np.linspace(0, 50, 1100), np.linspace(0, 30, 1300)).astype("float32")
    write_raster(folder / "own.tif", smooth, "EPSG:32632", Affine(100, 0, 600000, 0, -100, 5110000))
    noise = rng.normal(100, 9, (900, 1400)).astype("float32")
    noise[300:420, 500:800] = -1
    write_raster(folder / "warped.tif", noise, "EPSG:4326", Affine(0.0014, 0, 10.1, 0, -0.0014, 46.3), nodata=-1)
    classes = rng.integers(1, 9, (400, 500), dtype="uint8")
    transform, tiles = Affine(120, 0, 4370000, 0, -120, 2540000), {"tiled": True, "blockxsize": 16, "blockysize": 16}
    write_raster(folder / "classes.tif", classes, "EPSG:3035", transform, nodata=0, **tiles)
    return folder


def write_settings(folder: Path, sources: Path, more: str = "") -> Path:
    text = GRID.format(folder=folder)
    for name in ("own", "warped", "classes"):
        kind = 'kind = "categorical"' if name == "classes" else ""
        text += f'[[layers]]\nname = "{name}"\npath = "{sources / name}.tif"\n{kind}\n{more}\n'
    file = folder / "s.toml"
    file.write_text(text)
    return file


def hashes(output: Path) -> dict[str, str]:
    names = [p for form in ("parquet", "csv") for p in sorted((output / form).iterdir())] + [output / "manifest.jsonl"]
    return {str(p.relative_to(output)): hashlib.sha256(p.read_bytes()).hexdigest() for p in names}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, sources: Path) -> Path:
    """The output of the plain loop."""
    folder = tmp_path_factory.mktemp("reference")
    return pipeline.run(load.load(write_settings(folder, sources), ("engine.kind=local",))).output


@pytest.mark.newest_ray
@pytest.mark.parametrize(("strategy", "workers"), [("aligned", 1), ("groupby", 2)])
def test_ray_writes_the_files_of_the_plain_loop(
    reference: Path, sources: Path, tmp_path: Path, ray_session: None, strategy: str, workers: int
) -> None:
    """The exchange goes in three waves, in which the strips of two rasters are swept and the third is read by tiles."""
    flags = (f"merge.strategy={strategy}", f"engine.workers={workers}", "merge.wave_tiles=4")
    summary = pipeline.run(load.load(write_settings(tmp_path, sources), flags))
    assert summary.plan.strategy == strategy
    assert [p.sweeps for p in summary.plan.layers] == [strategy == "groupby"] * 2 + [False]
    assert len(summary.plan.waves(summary.plan.keys)) == (3 if strategy == "groupby" else 1)
    assert len(hashes(reference)) == 9 * 2 + 1
    assert hashes(summary.output) == hashes(reference)
    assert {stage: p.tiles for stage, p in summary.stages.items()} == {"read": 27, "merge": 9, "write": 9}


@hypothesis.settings(max_examples=3, phases=(Phase.generate,))
@given(
    strategy=st.sampled_from(["aligned", "groupby"]),
    workers=st.integers(1, 3),
    window_size=st.sampled_from([512, 1024]),
    shape=st.tuples(st.integers(300, 1300), st.integers(300, 1300)),
    corner=st.tuples(st.integers(0, 400), st.integers(0, 400)),
)
def test_any_grid_workers_windows_and_strategy_give_the_table_of_the_plain_loop(
    sources: Path,
    tmp_path_factory: pytest.TempPathFactory,
    ray_session: None,
    strategy: str,
    workers: int,
    window_size: int,
    shape: tuple[int, int],
    corner: tuple[int, int],
) -> None:
    left, top = 600_000 + 100 * corner[0], 5_110_000 - 100 * corner[1]
    bounds = [left, top - 100 * shape[0], left + 100 * shape[1], top]
    file = write_settings(tmp_path_factory.mktemp("any"), sources)
    common = (f"grid.bounds={bounds}", "merge.how=grid")
    plans = [
        draft.draft(load.load(file, (*common, *flags)))
        for flags in (
            ("resampling.window_size=2048",),
            (f"resampling.window_size={window_size}", f"merge.strategy={strategy}", f"engine.workers={workers}"),
        )
    ]
    order = [("row", "ascending"), ("col", "ascending")]
    expected = pa.concat_tables(local.merge(plans[0])).sort_by(order)
    result = pa.concat_tables(ray.get(engine.merge(engine.Work(plans[1])).to_arrow_refs())).sort_by(order)
    assert result.replace_schema_metadata().equals(expected.replace_schema_metadata())


@pytest.mark.parametrize("beside", [True, False])
def test_tables_come_through_the_exchange_to_the_bit(
    sources: Path, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    """Beside a raster, and alone: then no read but the tables' own says which tiles there are."""
    monkeypatch.setattr(tables, "PART_ROWS", 2000)
    rng, count = np.random.default_rng(3), 9000
    columns = {"x": rng.uniform(599000, 640000, count), "y": rng.uniform(5060000, 5111000, count)}
    table = pa.table(columns | {"value": rng.lognormal(0, 9, count), "w": rng.random(count)})
    pq.write_table(table, tmp_path / "points.parquet", row_group_size=500)
    text = f'[[layers]]\nname = "p"\npath = "{tmp_path}/points.parquet"\ncrs = "EPSG:32632"\nvalues = ["value", "x"]\n'
    text += 'weight = "w"\naggregate = ["mean", "count", "first"]\n'
    if beside:
        text += f'[[layers]]\nname = "own"\npath = "{sources}/own.tif"\n'
    outputs = []
    for kind in ("local", "ray"):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "s.toml").write_text(GRID.format(folder=folder) + text)
        summary = pipeline.run(load.load(folder / "s.toml", (f"engine.kind={kind}",)))
        assert summary.plan.strategy == "groupby"
        assert summary.stages["read"].tiles == summary.plan.reads(summary.plan.keys) == (9 * beside + 5)
        outputs.append(hashes(summary.output))
    assert outputs[0] == outputs[1]


@pytest.mark.newest_ray
@pytest.mark.parametrize("strategy", ["aligned", "groupby"])
def test_the_merged_dataset_is_a_plain_ray_dataset_that_wrote_nothing(
    sources: Path, tmp_path: Path, ray_session: None, strategy: str
) -> None:
    plan = draft.draft(load.load(write_settings(tmp_path, sources), (f"merge.strategy={strategy}",)))
    before = set(tmp_path.rglob("*"))
    merged = engine.dataset(plan).materialize()
    assert set(tmp_path.rglob("*")) == before
    order = [("row", "ascending"), ("col", "ascending")]
    expected = pa.concat_tables(local.merge(plan)).sort_by(order)
    merged.write_parquet(str(tmp_path / "plain_parquet"))
    assert ds.dataset(tmp_path / "plain_parquet").to_table().sort_by(order).equals(expected)
    merged.write_csv(str(tmp_path / "plain_csv"))
    types = pacsv.ConvertOptions(column_types=expected.schema)
    parts = [pacsv.read_csv(p, convert_options=types) for p in sorted((tmp_path / "plain_csv").iterdir())]
    assert pa.concat_tables(parts).sort_by(order).cast(expected.schema).equals(expected)


def test_a_plan_is_made_for_the_nodes_of_the_session_and_not_for_this_machine(
    sources: Path, tmp_path: Path, ray_session: None
) -> None:
    plan = draft.plan_for_cluster(load.load(write_settings(tmp_path, sources)))
    assert [(node.cpus, node.object_store) for node in plan.machine.nodes] == [(2, 300 * 2**20)]
    assert (plan.machine.workers, plan.machine.object_store) == (2, 300 * 2**20)
    assert "1 node for work: 2 CPUs" in plan_text(plan)


@pytest.mark.parametrize("cpus", [(2,), (8,), (1, 1), (1, 1, 1, 1), (4, 4), (8, 2), (8,) * 64])
def test_all_readers_fit_into_the_half_of_the_cpus_that_a_shuffle_leaves_them(cpus: tuple[int, ...]) -> None:
    workers = sum(cpus)
    share = engine.share_of(cpus, 2 * workers)
    assert 0.2 * workers < share * workers <= workers / 2
    free = [own - own * share for own in cpus]  # where each node has as many readers as CPUs
    assert all(cpus_left >= 1 for own, cpus_left in zip(cpus, free, strict=True) if own > 1)


def test_all_workers_fit_on_the_nodes_and_a_cpu_stays_free() -> None:
    for cpus in ((2,), (1, 1, 1, 1), (8, 2), (3, 3)):
        share = engine.share_of(cpus, sum(cpus))
        assert sum(int(own / share) for own in cpus) >= sum(cpus)
        assert share * sum(cpus) <= sum(cpus) - 1
    assert engine.share_of((1,), 1) == 0


def test_labels_that_no_node_has_are_refused_unless_the_cluster_grows(
    sources: Path, tmp_path: Path, ray_session: None
) -> None:
    file, label = write_settings(tmp_path, sources), 'engine.label_selector={"ray.io/market-type" = "spot"}'
    with pytest.raises(MachineError, match=r"none has CPUs and the labels ray\.io/market-type = spot"):
        pipeline.run(load.load(file, (label,)))
    growing = draft.plan_for_cluster(load.load(file, (label, "engine.max_workers=3")))
    assert (growing.machine.nodes, growing.machine.workers, growing.machine.grown()) == ((), 1, 3)


def commit(output: Path, plan: Plan, engine: Callable[..., Iterator[int]]) -> None:
    """Execute a plan and commit its table; `engine` takes plan, keys and finish."""
    staging = Staging(output, plan, "[run]\n")
    with locked(output, "run"):
        keys = staging.begin()
        assert sorted(engine(plan, keys, finisher(plan, staging.folder, 1000))) == keys.tolist()
        staging.commit({"run_id": "run"})


@pytest.mark.newest_ray
@pytest.mark.parametrize("strategy", ["aligned", "groupby"])
def test_a_worker_that_dies_is_replaced_and_the_bytes_stay(
    reference: Path, sources: Path, tmp_path: Path, ray_session: None, strategy: str
) -> None:
    """A worker process dies in the middle of its third read, once."""
    died = tmp_path / "died"

    class MortalReader(raster.Readers):
        def __init__(self) -> None:
            super().__init__()
            self.reads = 0

        def read_window(self, *window: Any) -> Any:
            self.reads += 1
            if self.reads == 3 and not died.exists():
                died.touch()
                os._exit(1)
            return super().read_window(*window)

    plan = draft.draft(load.load(write_settings(tmp_path, sources), (f"merge.strategy={strategy}",)))
    options = MonitoringOptions("run", database=False)
    with engine.ray_engine(None, plan.machine, options, MortalReader) as cluster:
        commit(tmp_path / "output", plan, lambda *work: cluster.run(*work, never))
    assert died.exists()
    assert hashes(tmp_path / "output") == hashes(reference)


def truncate(source: Path, copy: Path) -> None:
    """A raster whose header is sound and whose last blocks are missing."""
    data = source.read_bytes()
    copy.write_bytes(data[: len(data) * 2 // 3])


def test_a_source_that_cannot_be_read_fails_the_run_and_leaves_nothing(
    sources: Path, tmp_path: Path, ray_session: None
) -> None:
    """GDAL's own cause survives the trip from the worker."""
    file = write_settings(tmp_path, tmp_path)
    for name in ("own", "classes"):
        (tmp_path / f"{name}.tif").write_bytes((sources / f"{name}.tif").read_bytes())
    truncate(sources / "warped.tif", tmp_path / "warped.tif")
    with pytest.raises(SourceError) as caught:
        pipeline.run(load.load(file))
    assert caught.value.layer == "warped"
    assert f"band 1 of {tmp_path}/warped.tif cannot be read at row" in caught.value.message
    assert "TIFF" in caught.value.message  # GDAL's cause
    assert not (tmp_path / "output").exists()


def test_a_broken_source_may_be_skipped_and_changes_nothing_else(
    reference: Path, sources: Path, tmp_path: Path, ray_session: None
) -> None:
    file = write_settings(tmp_path, tmp_path, more='on_error = "skip"')
    for name in ("own", "classes"):
        (tmp_path / f"{name}.tif").write_bytes((sources / f"{name}.tif").read_bytes())
    truncate(sources / "warped.tif", tmp_path / "warped.tif")
    summary = pipeline.run(load.load(file))
    assert summary.exit_code == 4
    assert list(summary.skipped) == ["warped"]
    table = ds.dataset(summary.output / "parquet").to_table()
    sound = ds.dataset(reference / "parquet").to_table()
    assert table.schema.types == sound.schema.types
    assert table["warped"].null_count == table.num_rows == sound.num_rows
    assert table.drop_columns("warped").equals(sound.drop_columns("warped"))
    assert "warped" in (summary.output / "_SUCCESS").read_text()


def test_readers_stay_open_across_tiles(sources: Path, tmp_path: Path) -> None:
    """Files that are gone after the tile in the middle, which all layers cover, are read to the end."""
    for file in sources.iterdir():
        shutil.copy(file, tmp_path)
    plan = draft.draft(load.load(write_settings(tmp_path, tmp_path)))
    expected = dict(zip(plan.keys.tolist(), local.merge(plan), strict=True))
    keys = np.array([4, *(key for key in plan.keys if key != 4)])
    tables = {}
    for key, table in zip(keys.tolist(), local.merge(plan, keys), strict=True):
        tables[key] = table
        for file in tmp_path.glob("*.tif"):
            file.unlink()
    assert len(tables) == 9
    assert all(tables[key].equals(expected[key]) for key in expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "key", ["enable_memory_aware_processing=false", "use_legacy_resampling=true", "use_legacy_passthrough=true"]
)
def test_the_old_way_is_deprecated_and_gives_the_same_files(
    reference: Path, sources: Path, tmp_path: Path, key: str
) -> None:
    with pytest.warns(DeprecationWarning, match=f"resampling.{key.split('=')[0]} .*is deprecated.*window_size"):
        loaded = load.load(write_settings(tmp_path, sources), (f"resampling.{key}",))
    summary = pipeline.run(loaded)
    assert hashes(summary.output) == hashes(reference)


def test_the_old_way_reads_each_raster_once_and_whole(reference: Path, sources: Path, tmp_path: Path) -> None:
    windows = []

    class CountingReader(raster.Readers):
        def read_window(self, layer: Layer, source: Source, index: int, window: Window) -> Any:
            windows.append((window.height, window.width) == (source.height, source.width))
            return super().read_window(layer, source, index, window)

    plan = draft.draft(load.load(write_settings(tmp_path, sources)))
    old_way = partial(local.finish_tiles, reads=whole_reads, reader=CountingReader)
    commit(tmp_path / "output", plan, old_way)
    assert hashes(tmp_path / "output") == hashes(reference)
    assert windows == [True] * 3


def test_an_engine_asks_a_reader_for_its_windows_and_nothing_else(sources: Path, tmp_path: Path) -> None:
    """A reader of a few lines in place of files: every window of `own` is its row numbers."""

    class RowReader:
        def read_window(self, layer: Layer, source: Source, index: int, window: Window) -> Any:
            rows = np.arange(window.row, window.row + window.height, dtype=np.float32)
            return np.repeat(rows[:, np.newaxis], window.width, axis=1), None

        def close(self) -> None:
            pass

    plan = draft.draft(load.load(write_settings(tmp_path, sources)))
    tables: list[pa.Table] = []

    def keep(_tile: Any, parts: Any, _journal: Any) -> None:
        tables.extend(table for _, table in parts)

    assert list(local.finish_tiles(plan, plan.keys, keep, reader=RowReader)) == plan.keys.tolist()
    whole = pa.concat_tables(tables)
    assert whole["own"].to_pylist() == [float(row) for row in whole["row"].to_pylist()]


@pytest.mark.parametrize("strategy", ["aligned", "groupby"])
def test_two_hundred_layers(sources: Path, tmp_path: Path, ray_session: None, strategy: str) -> None:
    text = (
        GRID.format(folder=tmp_path)
        .replace("600000, 5000000, 730000, 5110000", "630000, 5050000, 655000, 5070000")
        .replace(', "csv"', "")
    )
    kinds = ["own", "warped", "classes"]
    for n in range(200):
        text += f'[[layers]]\nname = "l{n}"\npath = "{sources / kinds[n % 3]}.tif"\n'
    (tmp_path / "s.toml").write_text(text)
    loaded = load.load(tmp_path / "s.toml", (f"merge.strategy={strategy}", "merge.how=grid"))
    (table,) = local.merge(draft.draft(loaded))
    summary = pipeline.run(loaded)
    assert ds.dataset(summary.output / "parquet").to_table().equals(table)
    assert table.num_columns == 204


def process_state() -> dict[str, Any]:
    """What a user of a process and of its Ray session may have set, and what lives in them."""
    loggers = [logging.getLogger(name) for name in ("", "ray", "ray.data", "geopipe", "rasterio")]
    return {
        "loggers": {x.name: (x.level, x.propagate, x.disabled, list(x.filters), list(x.handlers)) for x in loggers},
        "data context": DataContext.get_current().__dict__.copy(),
        "environment": dict(os.environ),
        "signals": {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)},
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook),
        "sinks": list(emit._sinks),
        "gdal": rasterio.env.hasenv(),
        "threads": {x.name for x in threading.enumerate() if "geopipe" in x.name},
        "session": ray.get_runtime_context().get_session_name(),
        "actors": [x for x in ray.util.list_named_actors(all_namespaces=True) if x["namespace"] == "geopipe"],
    }


@pytest.mark.parametrize("strategy", ["aligned", "groupby"])
def test_a_run_leaves_a_session_of_the_user_as_it_was(
    sources: Path, tmp_path: Path, ray_session: None, strategy: str
) -> None:
    before, cpus = process_state(), ray.available_resources()["CPU"]
    pipeline.run(load.load(write_settings(tmp_path, sources), (f"merge.strategy={strategy}",)))
    # Ray ends the actors of a Dataset a moment later.
    until(lambda: process_state() == before and ray.available_resources().get("CPU") == cpus)
    assert ray.data.range(3).count() == 3
