"""The command line as its user meets it: what it prints, how it fails, what each settings key does."""

from __future__ import annotations

import copy
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from affine import Affine
from helpers import call, write_raster
from waiting import PATIENCE, until

from geopipe import demo
from geopipe.errors import GeopipeError, MachineError, PlanError, Terminated
from geopipe.run import attempts, draft, pipeline
from geopipe.run.reporting import monitoring_options
from geopipe.settings import load

GEOPIPE = [sys.executable, "-c", "from geopipe.cli.main import main; main()"]


def geopipe(*args: object, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    command = [*GEOPIPE, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, **kwargs)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of the demo, with its rasters beside them."""
    return demo.generate(tmp_path_factory.mktemp("trial"))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Settings with one raster of 40 x 30 pixels, all of it on the grid."""
    values = np.arange(1200, dtype="float32").reshape(30, 40)
    write_raster(tmp_path / "a.tif", values, "EPSG:32632", Affine(10, 0, 500000, 0, -10, 5000000))
    file = tmp_path / "s.toml"
    file.write_text('[grid]\nlike = "a.tif"\n[[layers]]\nname = "a"\npath = "a.tif"\n')
    return file


# ---------------------------------------------------------------- loading, help


def test_help_and_import_load_neither_ray_nor_rasterio() -> None:
    code = (
        "import sys, geopipe, click.testing, geopipe.cli.main as c\n"
        "assert click.testing.CliRunner().invoke(c.cli, ['--help']).exit_code == 0\n"
        "assert not {'ray', 'rasterio', 'h5py', 'pandas', 'pyarrow', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_in_this_process_loads_neither_ray_nor_pandas(small: Path) -> None:
    """pyarrow loads pandas at the first conversion that could be one of pandas, which takes as long as small work.

    The report reads the table as a dataset, which loads pandas, too.
    """
    small.write_text(f"{small.read_text()}\n[report]\nenabled = false\n")
    code = (
        "import sys, geopipe\n"
        f"assert geopipe.run({str(small)!r}, engine='local').rows == 1200\n"
        "assert not {'ray', 'pandas'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- end to end


@pytest.mark.ray
def test_a_run_from_the_command_line_to_a_table(tmp_path: Path) -> None:
    """A process of its own, with a Ray of its own: run, refuse, overwrite."""
    file = demo.generate(tmp_path)
    done = geopipe("run", file, "--json", "--engine=ray")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    table = ds.dataset(tmp_path / "output" / "parquet").to_table()
    assert document["rows"] == table.num_rows == 200_000
    assert document["output"] == str(tmp_path / "output")
    assert json.loads((tmp_path / "output" / "_SUCCESS").read_text())["run_id"] == document["run_id"]
    assert load.load(tmp_path / "output" / "settings.toml").run.name == "demo"

    assert "constructor arguments" not in done.stderr

    again = geopipe("run", file)
    assert again.returncode == 2
    assert "holds a finished run" in again.stderr
    assert "--overwrite" in again.stderr
    assert "Traceback" not in again.stderr

    replaced = geopipe("run", file, "--overwrite", "--engine=local", "--set", "run.name=second")
    assert replaced.returncode == 0, replaced.stderr
    assert "second is done" in replaced.stdout
    assert json.loads((tmp_path / "output" / "_SUCCESS").read_text())["name"] == "second"
    assert {p.name for p in (tmp_path / "output").iterdir()} == {
        "_SUCCESS", "csv", "manifest.jsonl", "parquet", "report", "report.html", "settings.toml"
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_run_and_publishes_nothing(trial: Path, tmp_path: Path, number: int, code: int) -> None:
    output = tmp_path / "output"
    flags = ("--set", f"run.output={output}", "--set", "grid.resolution=25")
    command = [*GEOPIPE, "run", str(trial), "--engine=local", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: output.exists() or process.poll() is not None)
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, err
    assert "nothing was published" in err
    assert not output.exists() or os.listdir(output) == ["_staging"], "at most what --resume can use"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_after_the_last_word_changes_nothing(number: int) -> None:
    late = f"import atexit, os; atexit.register(os.kill, os.getpid(), {int(number)})"
    command = [sys.executable, "-c", f"{late}; from geopipe.cli.main import main; main()", "inspect", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.0, 1.0])
def test_who_does_not_read_how_far_it_is_loses_nothing(trial: Path, tmp_path: Path, after: float) -> None:
    """As in `geopipe run s.toml 2>&1 >summary | head -1`."""
    flags = ("--set", f"run.output={tmp_path}/output", "--set", "monitoring.progress_interval=0.1")
    command = [*GEOPIPE, "run", str(trial), "--engine=local", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        time.sleep(after)
        process.stderr.close()
        out = process.stdout.read()
    assert process.returncode == 0
    assert "is done" in out


# ---------------------------------------------------------------- inspect, plan, config show


def test_inspect_shows_a_folder_as_a_table_and_as_json(trial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "inspect", trial.parent / "data")
    assert code == 0
    assert "EPSG:3035" in out
    assert "959 x 784" in out
    code, out, _ = call(capsys, "inspect", trial.parent / "data", "--json")
    document = {Path(h["uri"]).name: h for h in json.loads(out)}
    assert len(document) == 8
    climate = document["climate.nc"]
    assert climate["driver"] == "netCDF"
    assert climate["bands"][0]["scale"] != 1
    assert climate["bands"][0]["unit"] == "degC"
    assert document["landcover.tif"]["bands"][0]["paletted"]
    west, south, east, north = document["elevation.tif"]["lonlat_bounds"]
    assert 9 < west < east < 12
    assert 46 < south < north < 47


def test_inspect_of_a_glob_shows_what_it_can_and_fails_for_the_rest(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small.parent / "b.tif").write_text("no raster")
    code, out, err = call(capsys, "inspect", small.parent / "*.tif")
    assert code == 2
    assert "40 x 30" in out
    assert "b.tif is no raster" in err


def test_plan_says_what_and_why_and_writes_nothing(trial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(trial.parent.rglob("*"))
    code, out, _ = call(capsys, "plan", trial)
    assert code == 0
    for text in (
        "500 columns x 400 rows",
        "copy of the pixels",
        "mode (auto: ",
        "200,000 rows at most",
        "1 csv file (gzip)",
    ):
        assert text in out
    assert "strategy" not in out
    code, out, _ = call(capsys, "plan", trial, "-v")
    assert code == 0
    for text in ("aligned: read tile by tile", "warp: mode", "off by at most 0.01 of a source pixel", "1 task on "):
        assert text in out
    code, out, _ = call(capsys, "plan", trial, "--json")
    document = json.loads(out)
    assert [layer["name"] for layer in document["layers"]][:2] == ["elevation", "landcover"]
    assert document["estimate"]["tiles"] == 1
    assert set(trial.parent.rglob("*")) == before


def test_config_show_gives_every_value_its_origin(trial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "config", "show", trial, "--set", "merge.how=inner")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert lines["merge.how"].endswith("--set merge.how")
    assert "settings.toml:" in lines["grid.crs"]
    assert lines["engine.workers"].endswith("default")


def test_nothing_of_a_file_is_obeyed_by_a_terminal(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names of files, descriptions and units of bands; what looks like markup stays as it is."""
    evil = "\x1b]0;title\x07\x1b[2J[bold]\u202e"
    name = f"{evil}.tif"
    values = np.ones((30, 40), "float32")
    transform = Affine(10, 0, 500000, 0, -10, 5000000)
    write_raster(
        small.parent / name, values, "EPSG:32632", transform, descriptions=[f"d{evil}"], units=[f"u{evil}"], count=1
    )
    (small.parent / f"broken{evil}.tif").write_text("no raster")
    small.write_text(small.read_text().replace('path = "a.tif"', 'path = "*le*.tif"\nbands = [1]'))
    calls = [
        ("inspect", small.parent / name),
        ("inspect", small.parent),
        ("plan", small),
        ("plan", small, "--set", "layers.a.path=?]*.tif"),
        ("plan", small, "--set", "layers.a.path=broken*.tif"),
        ("run", small, "--engine=local", "--set", "layers.a.path=?]*.tif", "--set", "monitoring.log_level=DEBUG"),
        ("status", small.parent / "output"),
        ("validate", small.parent / "output"),
        ("config", "show", small),
        ("plan", small.parent / f"absent{evil}.toml"),
    ]
    shown = ""
    for arguments in calls:
        _, out, err = call(capsys, *arguments)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out + err), (arguments, out, err)
        shown += out + err
    assert r"\x1b]0;title\x07\x1b[2J[bold]\u202e.tif" in shown
    assert r"unit u]0;title[2J[bold]\u202e" in shown, "GDAL drops control characters of its XML, and nothing else"


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("change", "code", "message", "hint"),
    [
        (("a.tif", "absent.tif"), 2, "layer a: there is no file", "correct path"),
        (("a.tif", "*.absent"), 2, "layer a: no file matches", "*.tif"),
        (("a.tif", "elevation*.tif"), 2, "layer a: no file matches", "are a.tif, nocrs.tif"),
        (("a.tif", "dta/*.tif"), 2, "layer a: no file matches", "but no dta in it"),
        (("a.tif", "s.toml"), 2, "s.toml is no raster that GDAL can open", "correct path"),
        (("a.tif", "nocrs.tif"), 2, "nocrs.tif has no CRS", 'crs = "EPSG:..."'),
        (("a.tif", "MEM:::DATAPOINTER=1"), 2, "MEM:::DATAPOINTER=1", "correct path"),
        (("a.tif", 'a.tif"\nbands = [2]#'), 2, "has no band 2; it has 1", "correct bands"),
        (("a.tif", 'a.tif"\nbands = ["red"]#'), 2, "has no band 'red'", "correct bands"),
        (("a.tif", 'a.tif"\nkind = "categorical"\nresampling = "bilinear"#'), 2, "makes no sense", "nearest, mode"),
        (("a.tif", 'a.tif"\nresampling = "linear"#'), 2, 'resampling = "linear"', "bilinear"),
        (("a.tif", 'a.tif"\ncrs = "EPSG:999999"#'), 2, "no CRS that PROJ knows", "EPSG:32612"),
    ],
    ids=str,
)
def test_a_bad_source_is_one_error_before_anything_is_written(
    small: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], code: int, message: str, hint: str
) -> None:
    values = np.zeros((5, 5), "float32")
    write_raster(small.parent / "nocrs.tif", values, None, Affine(10, 0, 500000, 0, -10, 5000000))
    grid, layers = small.read_text().split("[[layers]]")
    small.write_text(grid + "[[layers]]" + layers.replace(*change))
    before = set(small.parent.iterdir())
    got, out, err = call(capsys, "run", small)
    assert (got, out) == (code, "")
    assert message in err
    assert hint in err.partition("hint:")[2]
    assert "Traceback" not in err
    assert set(small.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("layers.a.path=elevaton.tif", "elevation.tif"),
        ("layers.a.path=Elevation.tif", "elevation.tif"),
        ("layers.a.path=elevation.tiff", "elevation.tif"),
        ("grid.mask=elevatio.tif", "elevation.tif"),
        ("grid.like=elevation_.tif", "elevation.tif"),
    ],
)
def test_a_path_that_is_not_there_has_near_misses(
    small: Path, capsys: pytest.CaptureFixture[str], flag: str, meant: str
) -> None:
    (small.parent / "a.tif").rename(small.parent / "elevation.tif")
    small.write_text(small.read_text().replace("a.tif", "elevation.tif"))
    code, _, err = call(capsys, "plan", small, "--set", flag)
    assert code == 2
    assert f"did you mean {small.parent / meant}?" in err


def test_a_folder_that_is_not_there_is_named(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = call(capsys, "plan", small, "--set", "layers.a.path=dta/2024/a.tif")
    assert f"there is {small.parent}, but no dta/2024 in it" in err


@pytest.mark.parametrize("numbers", ["500000, 0, 0, 5e+06, 0, -10", "0, 1e+200, 0, 0, 0, -1e+200"])
def test_pixels_without_a_size_are_an_error(small: Path, capsys: pytest.CaptureFixture[str], numbers: str) -> None:
    """Of inspect a table, of plan an error, of neither a traceback."""
    (small.parent / "b.vrt").write_text(
        f'<VRTDataset rasterXSize="40" rasterYSize="30"><SRS>EPSG:32632</SRS><GeoTransform>{numbers}</GeoTransform>'
        '<VRTRasterBand dataType="Float32" band="1"><SimpleSource><SourceFilename relativeToVRT="1">a.tif'
        "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    code, out, err = call(capsys, "inspect", small.parent / "b.vrt")
    assert (code, err) == (0, "")
    assert "40 x 30" in out
    code, _, err = call(capsys, "plan", small, "--set", "layers.a.path=b.vrt")
    assert code == 2
    assert "Traceback" not in err
    assert "1e+200" in numbers or f"gives its pixels no size: {numbers}" in err


def test_a_block_that_breaks_at_work_is_a_failed_run(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The header is sound, so that the plan is made; exit code 1, as README says, where a bad setting would be 2."""
    noise = np.random.default_rng(1).random((300, 400), "float32")
    transform = Affine(10, 0, 500000, 0, -10, 5000000)
    file = write_raster(small.parent / "a.tif", noise, "EPSG:32632", transform, compress="deflate", tiled=True)
    spoilt = bytearray(file.read_bytes())
    middle = len(spoilt) * 3 // 4
    spoilt[len(spoilt) // 8 : len(spoilt) // 8 + middle] = bytes(middle)
    file.write_bytes(spoilt)
    code, _, err = call(capsys, "run", small, "--engine=local")
    assert code == 1, err
    assert "cannot be read" in err


def test_too_little_disk_is_of_the_environment(
    small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geopipe.export.publish.free_bytes", lambda folder: 100)
    code, _, err = call(capsys, "run", small, "--engine=local")
    assert code == 3, err
    assert "the output would take up to" in err


@pytest.mark.parametrize("output", ["/proc/nowhere/out", "a.tif/out", "a.tif"])
def test_an_output_that_cannot_be_written_is_refused_at_once(
    small: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    code, _, err = call(capsys, "run", small, "--set", f'run.output="{output}"')
    assert code in (2, 3)
    assert output in err
    assert "hint:" in err


def test_a_foreign_folder_is_refused_and_stays(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "run", small, "--overwrite", "--set", f'run.output="{small.parent}"')
    assert code == 2
    assert "no run of geopipe" in err
    assert {p.name for p in small.parent.iterdir()} == {"a.tif", "s.toml"}


def test_usage_errors_exit_with_2(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "run")[0] == 2
    assert call(capsys, "run", small, "--nonsense")[0] == 2
    code, _, err = call(capsys, "plan", small, "--set", "merge.hoow=grid")
    assert code == 2
    assert "did you mean 'how'" in err


# ---------------------------------------------------------------- the effect of each key


def planned(file: Path, *flags: str) -> pipeline.Plan:
    return draft.draft(load.load(file, flags))


def test_keys_of_the_plan_have_their_effect(trial: Path) -> None:
    base = planned(trial)
    assert planned(trial, "run.name=other").name == "other"
    assert planned(trial, "grid.resolution=200").grid.width == 250
    assert planned(trial, "grid.bounds=union").grid.width > 500
    assert planned(trial, "grid.bounds=intersection").grid.width < 520
    assert planned(trial, "grid.bounds=[600010, 5130000, 650000, 5170000]", "grid.snap=true").grid.x0 == 600000
    assert planned(trial, "grid.crs=EPSG:3035", "grid.bounds=union").grid.crs == "EPSG:3035"
    assert planned(trial, "resampling.window_size=512").estimate.tiles == base.estimate.tiles == 1
    assert planned(trial, "resampling.window_size=512", "grid.resolution=50").estimate.tiles == 4
    assert {d.tolerance for p in planned(trial, "resampling.tolerance=exact").layers for d in p.decisions} == {0}
    assert planned(trial, "resampling.tolerance=0.5").layers[0].decisions[0].tolerance == 0.5
    ways = {p.layer.name: p.decisions[0].route for p in base.layers}
    assert ways["slope"] == "copy"
    passed = planned(trial, "resampling.skip_data_loading_for_passthrough=false")
    assert {p.layer.name: p.decisions[0].route for p in passed.layers}["slope"] == "warp"
    shifted = "grid.bounds=[600020, 5130000, 650020, 5170000]"
    assert {p.layer.name: p.decisions[0].route for p in planned(trial, shifted).layers}["slope"] == "warp"
    tolerant = planned(trial, shifted, "merge.alignment_tolerance=0.3")
    assert {p.layer.name: p.decisions[0].route for p in tolerant.layers}["slope"] == "copy"
    assert planned(trial, "merge.strategy=groupby").strategy == "groupby"
    assert planned(trial, "engine.workers=3").machine.workers == 3


def test_keys_of_the_monitor_reach_every_process(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the options that are pickled to them; what each option does is in test_spool and test_monitor."""

    def options(*flags: str) -> Any:
        return monitoring_options(load.load(small, flags), "run", 1)

    base = options()
    assert (base.database, base.metrics_interval, base.prometheus_port) == (False, 10.0, None)
    assert options("monitoring.spool_bytes=2000000").spool_bytes == 2_000_000
    assert options("monitoring.log_flush_interval=0.5").flush_interval == 0.5
    assert options("monitoring.log_batch_size=7").batch_size == 7
    assert options("monitoring.metrics_interval=3").metrics_interval == 3
    assert options("monitoring.enable_metrics=false").metrics_interval is None
    assert options("monitoring.prometheus_port=9490").prometheus_port == 9490


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("engine.memory=1000000",), "the run would need about"),
        (("merge.strategy=groupby", "engine.object_store_memory=83886080", "grid.resolution=10"), "would shuffle"),
    ],
)
def test_what_cannot_fit_is_refused_with_numbers(trial: Path, flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        planned(trial, *flags)
    assert "MB" in caught.value.message
    assert "engine." in caught.value.hint


@pytest.mark.ray
def test_an_address_without_a_cluster_is_an_error_of_the_environment(small: Path, tmp_path: Path) -> None:
    """The key is used: nothing answers there. (In a process of its own: this one may have a cluster already.)"""
    done = geopipe("run", small, "--address", "127.0.0.1:1")
    assert done.returncode == MachineError.exit_code
    assert "no Ray cluster at '127.0.0.1:1'" in done.stderr
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(("how", "rows"), [("outer", 1200), ("inner", 600), ("grid", 1200)])
def test_how_decides_which_cells_stay(small: Path, how: str, rows: int) -> None:
    half = np.arange(600, dtype="float32").reshape(30, 20)
    write_raster(small.parent / "b.tif", half, "EPSG:32632", Affine(10, 0, 500000, 0, -10, 5000000))
    small.write_text(small.read_text() + '[[layers]]\nname = "b"\npath = "b.tif"\n')
    summary = pipeline.run(load.load(small, (f"merge.how={how}", "engine.kind=local")))
    assert summary.rows == rows
    assert summary.output == small.parent / "output"


def test_export_keys_decide_the_files(small: Path) -> None:
    def files(*flags: str) -> list[str]:
        output = pipeline.run(load.load(small, (*flags, "engine.kind=local")), overwrite=True).output
        return sorted(str(p.relative_to(output)) for p in output.rglob("tile*"))

    assert files() == ["parquet/tile-r0-c0.parquet"]
    assert files("export.formats=csv") == ["csv/tile-r0-c0.csv.gz"]
    assert files('export.formats=["csv", "parquet"]', "export.compress=false") == [
        "csv/tile-r0-c0.csv", "parquet/tile-r0-c0.parquet"
    ]  # fmt: skip


def test_monitoring_keys_shape_what_is_printed(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, quiet = call(capsys, "run", small, "--engine=local")
    assert "plan started" not in quiet
    flags = ("--overwrite", "--engine=local", "--set", "monitoring.log_level=INFO")
    _, _, text = call(capsys, "run", small, *flags)
    assert "plan started  [stage=plan]" in text
    _, _, lines = call(capsys, "run", small, *flags, "--set", "monitoring.log_format=json", "--json")
    records = [json.loads(line) for line in lines.splitlines()]
    assert {r["run_id"] for r in records} == {records[0]["run_id"]}
    performance = [r for r in records if r.get("operation") == "run" and r["rows"]]
    assert performance[0]["rows"] == 1200
    assert {"seconds", "bytes", "rate"} <= performance[0].keys()


def test_progress_is_a_line_each_interval(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from geopipe.cli.progress import progress
    from geopipe.events.records import Progress
    from geopipe.run.pipeline import Snapshot

    half = Snapshot({"read": Progress("read", 5, 10, 1.0)}, {"read": 10, "write": 10}, 2.0)
    with progress(1000, False, "name", "out") as show:
        assert show is not None
        show(half)
    assert capsys.readouterr().err == ""
    with progress(0.0001, False, "name", "out") as show:
        assert show is not None
        time.sleep(0.01)
        show(half)
    assert "read 5/10  write 0/10" in capsys.readouterr().err


def test_errors_of_geopipe_survive_pickling() -> None:
    """They travel from a worker to the driver."""
    import pickle

    for kind in (GeopipeError, PlanError, MachineError):
        error = pickle.loads(pickle.dumps(kind("what", "hint", "layer")))
        assert (type(error), error.message, error.hint, error.layer) == (kind, "what", "hint", "layer")


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize(
    ("error", "how", "code"),
    [
        (KeyboardInterrupt(), "interrupted", 130),
        (Terminated(signal.SIGTERM), "terminated", 143),
        (Terminated(signal.SIGHUP), "terminated", 129),
    ],
    ids=repr,
)
def test_a_signal_says_what_a_run_has_come_to(
    small: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    how: str,
    code: int,
) -> None:
    def stop(*_: object) -> None:
        raise copy.copy(error)

    ended = {
        "geopipe.export.ledger.write_tile": "nothing was published",
        "geopipe.run.pipeline._complete": f"the table is finished in {small.parent / 'output'}",
    }
    for place, outcome in ended.items():
        with monkeypatch.context() as patch:
            module, name = place.rsplit(".", 1)
            patch.setattr(sys.modules[module], name, stop)
            reply = call(capsys, "run", small, "--engine=local")
        assert (reply[0], reply[2].splitlines()[-1]) == (code, f"{how}; {outcome}"), place
    with monkeypatch.context() as patch:
        patch.setattr(draft, "draft", stop)
        reply = call(capsys, "plan", small)
    assert (reply[0], reply[2].strip()) == (code, how), "it publishes nothing, and says nothing of that"


def test_a_signal_in_the_middle_of_a_publication_waits_for_it(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace, met = os.replace, []

    def stop(source: Path, target: Path) -> None:
        replace(source, target)
        if Path(target) == small.parent / "output/parquet" and not met:
            met.append(target)
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    code, _, err = call(capsys, "run", small, "--engine=local")
    assert (code, err.splitlines()[-1]) == (130, f"interrupted; the table is finished in {small.parent / 'output'}")
    assert call(capsys, "validate", small.parent / "output")[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "kept"), [(b"\n", True), (b"n\n", False)])
def test_a_terminal_is_asked_whether_to_keep_the_tiles_of_an_unfinished_run(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: bytes, kept: bool
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(attempts, "check_receipts", stop)  # when the tile is done
        assert call(capsys, "run", small, "--engine=local")[0] == 130
    (staged,) = (small.parent / "output/_staging").glob("*/parquet/*.parquet")
    os.utime(staged, (1, 1))
    ours, theirs = pty.openpty()
    command = [*GEOPIPE, "run", str(small), "--engine=local"]
    process = subprocess.Popen(command, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, text=True)
    os.close(theirs)
    shown = b""
    while b"Keep them? [Y/n]" not in shown:
        shown += os.read(ours, 1000)
    assert b"1 of 1 tiles of an unfinished run of this plan are there" in shown
    os.write(ours, answer)
    with suppress(OSError):  # the terminal's end
        while True:
            shown += os.read(ours, 1000)
    assert process.wait(timeout=PATIENCE) == 0
    assert ((small.parent / "output/parquet" / staged.name).stat().st_mtime == 1) == kept
    assert process.stdout is not None
    process.stdout.close()
    os.close(ours)


def test_fresh_and_resume_exclude_each_other(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "run", small, "--fresh", "--resume")
    assert (code, "give one of them" in err) == (2, True)
