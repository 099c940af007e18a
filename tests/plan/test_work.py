"""What a plan says of the work and the time of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from helpers import GENEROUS, call, plan_of, write_raster

from geopipe.errors import PlanError
from geopipe.grid.grid import Grid
from geopipe.layers.layer import Layer
from geopipe.plan.options import Options
from geopipe.plan.work import STARTUP, choose_engine, span

UTM = "EPSG:32632"


def raster(folder: Path, edge: int, size: float, **profile: object) -> Path:
    values = np.zeros((edge, edge), "float32")
    return write_raster(folder / f"r{edge}.tif", values, UTM, Affine(size, 0, 500_000, 0, -size, 6_000_000), **profile)


def test_the_pixels_of_a_plan_are_those_under_the_grid_in_whole_blocks(tmp_path: Path) -> None:
    path = raster(tmp_path, 1024, 10, tiled=True, blockxsize=256, blockysize=256)
    layer = Layer("a", (str(path),))
    whole = plan_of(Grid(UTM, 500_000, 6_000_000, 10, 10, 1024, 1024), [layer])
    assert whole.work.pixels == 1024 * 1024
    assert whole.work.values == 1024 * 1024 * 5  # row, col, x, y, a
    corner = plan_of(Grid(UTM, 500_000, 6_000_000, 10, 10, 300, 100), [layer])
    assert corner.work.pixels == 512 * 256
    coarse = plan_of(Grid(UTM, 500_000, 6_000_000, 100, 100, 102, 102), [layer])
    assert coarse.work.pixels == 1024 * 1024
    assert coarse.work.values == 102 * 102 * 5
    strips = Layer("a", (str(raster(tmp_path, 1023, 10)),))
    tiles = plan_of(Grid(UTM, 500_000, 6_000_000, 10, 10, 1024, 1024), [strips], window_size=512)
    assert tiles.work.pixels == pytest.approx(2 * 1023 * 1023, rel=0.01), "two tiles decode each strip"


def test_more_work_is_predicted_to_take_longer(tmp_path: Path) -> None:
    path = raster(tmp_path, 1024, 10, tiled=True, compress="deflate")
    grid = Grid(UTM, 500_003, 5_999_997, 10, 10, 1000, 1000)

    def high(*methods: str, **options: object) -> float:
        layers = [Layer("a", (str(path),), resampling=methods)]
        return plan_of(grid, layers, engine="ray", **options).work.seconds[1]

    assert high("bilinear") < high("cubic") < high("lanczos") < high("lanczos", "bilinear")
    assert high("nearest") < high("nearest", formats=("parquet", "csv"))


def test_a_sparse_file_of_four_million_million_pixels_is_warned_of_and_may_be_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edge = 2_000_000
    profile = {"driver": "GTiff", "width": edge, "height": edge, "count": 1, "dtype": "uint8", "crs": UTM}
    tiled = {"tiled": True, "blockxsize": 16384, "blockysize": 16384, "SPARSE_OK": True, "BIGTIFF": "YES"}
    with rasterio.open(tmp_path / "a.tif", "w", **profile, **tiled, transform=Affine(0.1, 0, 5e5, 0, -0.1, 5e6)):
        pass
    assert (tmp_path / "a.tif").stat().st_size < 1 << 20
    file = tmp_path / "s.toml"
    file.write_text(f'[grid]\ncrs = "{UTM}"\nresolution = 1000\n[[layers]]\nname = "a"\npath = "a.tif"\n')
    code, out, _ = call(capsys, "plan", file)
    assert code == 0
    text = " ".join(out.split())
    assert "pixels to decode" in text
    assert "note the run: it decodes 4,0" in text
    assert "engine.max_pixels" in text
    _, out, _ = call(capsys, "plan", file, "--json")
    work = json.loads(out)["work"]
    assert edge**2 <= work["pixels"] < 1.1 * edge**2
    assert 3600 < work["seconds"][0] < work["seconds"][1]
    code, _, err = call(capsys, "run", file, "--engine=local", "--set", "engine.max_pixels=1000000000")
    assert code == PlanError.exit_code
    assert "engine.max_pixels = 1,000,000,000 allows no more" in err


def test_the_time_of_each_engine_is_the_work_by_its_workers_and_the_start(tmp_path: Path) -> None:
    """A copy decodes 1 ns a pixel, places 1 ns a cell and writes 7 ns a value: 1024 x 1024 x (1 + 1 + 5 x 7).

    In one process writing takes longer than reading, beside which it goes on.
    """
    path = raster(tmp_path, 1024, 10, tiled=True, blockxsize=512, blockysize=512)
    grid, layer = Grid(UTM, 500_000, 6_000_000, 10, 10, 1024, 1024), Layer("a", (str(path),))
    seconds, alone = 1024 * 1024 * 37 / 1e9, STARTUP["local"] + 1024 * 1024 * 35 / 1e9
    whole, halves = plan_of(grid, [layer]).seconds, plan_of(grid, [layer], window_size=512).seconds
    assert whole == {"local": alone, "ray": STARTUP["ray"] + seconds}, "one tile, one worker"
    assert halves == {"local": alone, "ray": STARTUP["ray"] + seconds / 2}, "four tiles, two"


@pytest.mark.parametrize(
    ("kind", "cluster", "local", "ray", "engine", "reason"),
    [
        ("auto", "", 3.0, 11.0, "local", "auto: the faster one by prediction"),
        ("auto", "", 40.0, 25.0, "ray", "auto: the faster one by prediction"),
        ("auto", "", 12.0, 12.0, "local", "auto: the faster one by prediction"),
        ("auto", "RAY_ADDRESS = 'auto'", 3.0, 11.0, "ray", "auto: RAY_ADDRESS = 'auto' names a cluster"),
        ("ray", "", 3.0, 11.0, "ray", "engine.kind says so"),
        ("local", "RAY_ADDRESS = 'auto'", 40.0, 25.0, "local", "engine.kind says so"),
    ],
)
def test_small_work_needs_no_ray_unless_a_cluster_exists(
    kind: str, cluster: str, local: float, ray: float, engine: str, reason: str
) -> None:
    assert choose_engine(Options(engine=kind), cluster, {"local": local, "ray": ray}) == (engine, reason)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A sparse raster of 20,000 x 20,000 pixels."""
    profile = {"driver": "GTiff", "width": 20_000, "height": 20_000, "count": 1, "dtype": "uint8", "crs": UTM}
    tiled = {"tiled": True, "blockxsize": 512, "blockysize": 512, "SPARSE_OK": True}
    with rasterio.open(tmp_path / "a.tif", "w", **profile, **tiled, transform=Affine(10, 0, 5e5, 0, -10, 6e6)):
        pass
    return tmp_path / "a.tif"


def test_an_engine_needs_the_memory_of_its_processes(large: Path) -> None:
    """Ray has two workers, and processes of its own; where they do not fit, the run has one process."""
    grid, layers = Grid(UTM, 500_000, 6_000_000, 10, 10, 30_000, 30_000), [Layer("a", (str(large),))]
    on_ray, alone = (plan_of(grid, layers, engine=kind) for kind in ("ray", "local"))
    assert (on_ray.estimate.workers, alone.estimate.workers) == (2, 1)
    assert alone.estimate.task_bytes < alone.estimate.peak_bytes
    assert alone.estimate.peak_bytes < on_ray.estimate.peak_bytes - on_ray.estimate.task_bytes
    assert on_ray.hash == alone.hash, "the table is the same"
    assert plan_of(grid, layers).engine == "ray"
    small = replace(GENEROUS, memory=on_ray.estimate.peak_bytes - 1)
    chosen = plan_of(grid, layers, small)
    assert chosen.engine == "local"
    assert "on Ray it would need" in chosen.engine_why
    with pytest.raises(PlanError, match=r"2 workers with .* MB each") as caught:
        plan_of(grid, layers, small, engine="ray")
    assert "fewer engine.workers" in caught.value.hint


@pytest.mark.parametrize(
    ("flags", "address", "engine"),
    [
        ((), None, "local"),
        (("engine.kind=ray",), None, "ray"),
        ((), "127.0.0.1:1", "ray"),
        (("engine.address=127.0.0.1:1",), None, "ray"),
        (("engine.kind=local",), "127.0.0.1:1", "local"),
        ((), "local", "local"),
    ],
)
def test_a_plan_says_where_it_runs_and_why(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    address: str | None,
    engine: str,
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # another test may have a session
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    path, file = raster(tmp_path, 64, 10), tmp_path / "s.toml"
    file.write_text(f'[grid]\nlike = "{path}"\n[[layers]]\nname = "a"\npath = "{path}"\n')
    options = [word for flag in flags for word in ("--set", flag)]
    _, out, _ = call(capsys, "plan", file, *options)
    assert f"engine       {engine} (" in out
    assert "in this process about 2 s, on Ray about" in out
    assert ("are those of this machine" in out) == (engine == "ray" and "engine.kind=ray" not in flags)
    _, out, _ = call(capsys, "plan", file, "--json", *options)
    document = json.loads(out)["engine"]
    assert document["name"] == engine
    assert document["seconds"]["local"] < document["seconds"]["ray"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ((12, 50), "12 s to 50 s"),
        ((40, 400), "40 s to 7 min"),
        ((3000, 24000), "50 min to 7 h"),
        ((1e6, 1e9), "12 days to 32 years"),
        ((10.1, 10.4), "about 10 s"),
    ],
)
def test_times_are_few_words(seconds: tuple[float, float], text: str) -> None:
    assert span(seconds) == text
