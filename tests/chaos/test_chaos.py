"""Runs that something breaks, at moments by a seed: they go on, or end with a word and can go on, and nothing is lost.

`GEOPIPE_TRIALS` is the number of trials for each victim; `make chaos` takes twenty. Each trial holds the files of the
table to those of an undisturbed run, by their hashes, while a reader polls the folder. The last word is a table.
"""

from __future__ import annotations

import fcntl
import os
import pty
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import rasterio
from records import query
from trials import hashes, make_trial

from geopipe.export.ledger import Ledger

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TRIALS = int(os.environ.get("GEOPIPE_TRIALS", "2"))
GEOPIPE = str(Path(sys.executable).with_name("geopipe"))
TILES = 12
LIMIT = 60.0 if "GEOPIPE_TRIALS" in os.environ else 240.0
"""Seconds from a fault to the end of a run that cannot go on; more where the machine has other work, too."""
PATIENCE = 400.0
"""Seconds for a whole run there."""

ENGINES = {
    "local": ["--engine=local"],
    "aligned": ["--engine=ray", "--set", "engine.workers=2"],
    "groupby": [
        "--engine=ray",
        "--set",
        "merge.strategy=groupby",
        "--set",
        "merge.wave_tiles=4",
        "--set",
        "engine.workers=2",
    ],
}
VICTIMS = {  # processes of a run on Ray
    "worker": r"^ray::.*(Aligned|read_layer|merge_groups|MapBatches|MapWorker)",
    "monitor": r"^ray::Monitor\b",
    "GCS": r"/gcs_server",
    "raylet": r"/raylet/raylet",
}


@dataclass
class Tally:
    """What came of the trials of a victim."""

    trials: int = 0
    went_on: int = 0
    resumed: int = 0
    slowest: float = 0.0

    def add(self, resumed: bool, seconds: float) -> None:
        self.trials += 1
        self.went_on += not resumed
        self.resumed += resumed
        self.slowest = max(self.slowest, seconds)


@pytest.fixture(scope="module")
def tallies(request: pytest.FixtureRequest) -> Iterator[dict[str, Tally]]:
    """By victim; printed when all trials are over. Only trials whose table was right are in it."""
    by_victim: dict[str, Tally] = {}
    yield by_victim
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\n{'victim':<16} {'trials':>6} {'went on':>8} {'resumed':>8} {'slowest end':>12}")
        for victim, one in by_victim.items():
            print(f"{victim:<16} {one.trials:6} {one.went_on:8} {one.resumed:8} {one.slowest:10.1f} s")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of 4 x 3 tiles and two layers."""
    return make_trial(tmp_path_factory.mktemp("chaos"))


@pytest.fixture(scope="module")
def undisturbed(sources: Path) -> list[str]:
    """The hashes of the files that every engine makes of them."""
    output = sources.parent / "undisturbed"
    command = [GEOPIPE, "run", str(sources), "--engine=local", "--set", f"run.output={output}"]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
    return hashes(output)


class Run:
    """`geopipe run` in a process of its own, and a reader that polls its output all the time."""

    def __init__(self, file: Path, output: Path, engine: str) -> None:
        self.output = output
        self.command = [GEOPIPE, "run", str(file), *ENGINES[engine], "--set", f"run.output={output}"]
        self.unreadable: list[str] = []
        self.process = self.start()

    def start(self, *flags: str) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*self.command, *flags], text=True, errors="replace", **pipes)

    @property
    def tiles(self) -> int:
        """Tiles that are written."""
        return len(list(self.output.glob("_staging/*/parquet/*.parquet")))

    def wait(self, seed: int, most: int = TILES - 1) -> None:
        """Wait for a moment: the run has begun, some tiles are written, and a little later; or it has ended before."""
        rng = random.Random(seed)
        tiles, end = rng.randint(0, most), time.monotonic() + PATIENCE
        staging = self.output / "_staging"
        while not (staging.exists() and self.tiles >= tiles) and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3 if tiles else 3.0))

    def end(self, limit: float) -> tuple[int, str, float]:
        """Exit code, standard error, and seconds from now to the end."""
        begin = time.monotonic()
        _, err = self.process.communicate(timeout=limit)
        return self.process.returncode, err, time.monotonic() - begin

    def resume(self, seed: int) -> None:
        """Go on with the run; every other one by the plain loop, which starts sooner."""
        self.process = self.start("--resume", *(ENGINES["local"] if seed % 2 else ()))
        code, err, _ = self.end(PATIENCE)
        assert code == 0, err


@contextmanager
def trial(file: Path, output: Path, engine: str) -> Iterator[Run]:
    """A run that a reader watches; nothing of it is left at the end."""
    one, ended = Run(file, output, engine), threading.Event()
    reader = threading.Thread(target=poll, args=(output, ended, one.unreadable))
    reader.start()
    try:
        yield one
    finally:
        ended.set()
        reader.join()
        for process in [*children(one.process.pid), one.process]:
            process.kill()
        shutil.rmtree(output, ignore_errors=True)


def poll(output: Path, ended: threading.Event, unreadable: list[str]) -> None:
    """Read every Parquet file under the folder each 50 ms, as a careless reader does."""
    while not ended.wait(0.05):
        files: list[Path] = []
        with suppress(FileNotFoundError):  # a folder was moved while it was listed: look again
            files = list(output.glob("**/*.parquet"))
        for path in files:
            try:
                pq.ParquetFile(path).close()
            except FileNotFoundError:
                continue  # moved into place, or taken back, between the listing and the look
            except Exception as error:
                unreadable.append(f"{path}: {error}")


def written_without_receipt(output: Path) -> int:
    """Tiles whose work a kill has thrown away, though a file of theirs was there."""
    staged = list((output / "_staging").glob("*/plan.json"))
    if not staged:
        return 0
    done = Ledger.read(staged[0].parent, TILES).done
    return len(list((staged[0].parent / "parquet").glob("*.parquet"))) - int(done.sum())


def children(pid: int, pattern: str = "") -> list[psutil.Process]:
    """Processes below one whose command line has the pattern."""
    below = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if re.search(pattern, " ".join(process.cmdline())):
                    below.append(process)
    return below


def is_said(err: str) -> bool:
    """Whether a run that ended says why in a line of its own, without a traceback."""
    return bool(re.search(r"^(error: |interrupted|terminated|hung up)", err, re.M)) and "Traceback" not in err


# ---------------------------------------------------------------- processes that die


@pytest.mark.parametrize("seed", range(TRIALS))
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_process_of_ray_dies(
    victim: str,
    seed: int,
    sources: Path,
    undisturbed: list[str],
    dsn_file: str,
    tallies: dict[str, Tally],
) -> None:
    """A run goes on without a worker and without its monitor; without GCS or raylet it ends soon, and is resumed."""
    engine = ("aligned", "groupby")[seed % 2]
    with trial(sources, sources.parent / f"{victim}{seed}", engine) as run:
        run.wait(seed)
        victims = children(run.process.pid, VICTIMS[victim])
        while not victims and run.process.poll() is None:
            time.sleep(0.02)
            victims = children(run.process.pid, VICTIMS[victim])
        if victims:
            random.Random(seed).choice(victims).kill()
        goes_on = victim in ("worker", "monitor")
        code, err, seconds = run.end(PATIENCE if goes_on else LIMIT)
        if goes_on or code == 0:
            assert code == 0, err
        else:
            assert is_said(err), err
            subprocess.run([GEOPIPE, "monitor", "runs"], check=True, capture_output=True, timeout=PATIENCE)  # who looks
            states = query(dsn_file, "SELECT state FROM pipeline_runs WHERE output = %s", str(run.output))
            assert states == [("failed",)]
            run.resume(seed)
        assert hashes(run.output) == undisturbed
        assert run.unreadable == []
        states = query(dsn_file, "SELECT state FROM pipeline_runs WHERE output = %s", str(run.output))
        assert {state for (state,) in states} <= {"completed", "failed"}
        assert ("completed",) in states
        tallies.setdefault(victim, Tally()).add(code != 0, seconds)


@pytest.mark.parametrize("seed", range(TRIALS))
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_the_driver_gets_a_signal(
    number: signal.Signals, seed: int, sources: Path, undisturbed: list[str], tallies: dict[str, Tally]
) -> None:
    engine = list(ENGINES)[(seed + number) % 3]
    with trial(sources, sources.parent / f"{number.name}{seed}", engine) as run:
        run.wait(seed)
        run.process.send_signal(number)
        code, err, seconds = run.end(LIMIT)
        lost = written_without_receipt(run.output)
        if code:
            assert number == signal.SIGKILL or is_said(err), err
            assert number == signal.SIGKILL or code == 128 + number
            run.resume(seed)
        assert lost <= 2, "a tile in the hands of each of two workers"
        assert hashes(run.output) == undisturbed
        assert run.unreadable == []
        tallies.setdefault(f"driver, {number.name}", Tally()).add(code != 0, seconds)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_of_a_run_on_ray(number: signal.Signals, sources: Path, dsn_file: str) -> None:
    """A terminal that closes, Ctrl-C, `timeout`: Ray's head is in that group, unless it has one of its own."""
    output = sources.parent / f"group{number.name}"
    command = [GEOPIPE, "run", str(sources), *ENGINES["aligned"], "--set", f"run.output={output}"]
    screen, shell = pty.openpty()
    streams = {"stdin": shell, "stdout": shell, "stderr": shell}
    own = {"start_new_session": True, "preexec_fn": lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)}
    process = subprocess.Popen(command, **streams, **own)  # type: ignore[call-overload]
    os.close(shell)
    shown, end = bytearray(), time.monotonic() + PATIENCE
    while not list(output.glob("_staging/*/parquet/*.parquet")) and process.poll() is None and time.monotonic() < end:
        if select.select([screen], [], [], 0.05)[0]:
            shown += os.read(screen, 4096)
    of_ray = children(process.pid)
    assert any("gcs_server" in one.name() for one in of_ray), shown
    if number == signal.SIGHUP:
        os.close(screen)
    else:
        if number == signal.SIGINT:
            os.write(screen, b"\x03")
        else:
            os.killpg(process.pid, number)
        with suppress(OSError):  # the terminal's end
            while data := os.read(screen, 4096):
                shown += data
        os.close(screen)
        word = "interrupted" if number == signal.SIGINT else "terminated"
        assert shown.endswith(f"{word}; nothing was published\r\n".encode()), shown[-2000:]
    assert process.wait(timeout=LIMIT) == 128 + number
    ended = query(dsn_file, "SELECT state, exit_code FROM pipeline_runs WHERE output = %s", str(output))
    assert ended == [("cancelled", 128 + number)]
    assert psutil.wait_procs(of_ray, timeout=LIMIT)[1] == []


# ---------------------------------------------------------------- disks and sources


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which a test may fill."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "geopipe-test", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("seed", range(TRIALS))
def test_the_disk_is_full(
    seed: int, sources: Path, undisturbed: list[str], small_disk: Path, tallies: dict[str, Tally]
) -> None:
    with trial(sources, small_disk / "out", ("local", "aligned")[seed % 2]) as run:
        run.wait(seed, most=TILES // 2)
        filler = small_disk / "filler"
        with open(filler, "wb", buffering=0) as file, suppress(OSError):  # a buffer would be full when it is closed
            while True:
                file.write(bytes(1 << 16))
        code, err, seconds = run.end(LIMIT)
        filler.unlink()
        if code:
            assert code == 3, err
            assert re.search(r"could not be written, [\d,.]+ \w+ are free", err), err
            assert str(small_disk) in err
            assert is_said(err), err
            run.resume(seed)
        assert hashes(run.output) == undisturbed
        assert run.unreadable == []
        tallies.setdefault("disk full", Tally()).add(code != 0, seconds)


@pytest.mark.parametrize("seed", range(TRIALS))
def test_a_source_changes_in_place(seed: int, tmp_path: Path, tallies: dict[str, Tally]) -> None:
    """A table has the pixels that there were or those that there are, and never some of both."""
    file = make_trial(tmp_path)
    with rasterio.open(tmp_path / "a.tif") as source:
        profile, before = source.profile, source.read()
    with trial(file, tmp_path / "out", ("local", "aligned", "groupby")[seed % 3]) as run:
        run.wait(seed)
        with rasterio.open(tmp_path / "changed.tif", "w", **profile) as target:
            target.write(before + np.float32(1000))
        (tmp_path / "a.tif").write_bytes((tmp_path / "changed.tif").read_bytes())
        code, err, seconds = run.end(PATIENCE)
        if code:
            assert code in (1, 2), err
            assert is_said(err), err
            assert "a.tif" in err
            assert not (run.output / "_SUCCESS").exists()
            run.process = run.start()
            assert run.end(PATIENCE)[0] == 0
        changed = ds.dataset(run.output / "parquet").to_table(columns=["a"])["a"].drop_null().to_numpy() > 500
        assert changed.all() if code else changed.all() or not changed.any()
        assert run.unreadable == []
        tallies.setdefault("source changed", Tally()).add(code != 0, seconds)


# ---------------------------------------------------------------- two at once


@pytest.mark.parametrize("seed", range(TRIALS))
def test_two_runs_at_once(seed: int, sources: Path, undisturbed: list[str], tallies: dict[str, Tally]) -> None:
    with trial(sources, sources.parent / f"two{seed}", "local") as run:
        time.sleep(random.Random(seed).uniform(0, 4))
        second = run.start()
        _, second_err = second.communicate(timeout=PATIENCE)
        code, err, seconds = run.end(PATIENCE)
        ended = sorted([(code, err), (second.returncode, second_err)])
        assert ended[0][0] == 0, ended
        assert re.search(r"is in use by run|holds a finished run", ended[1][1]), ended
        assert ended[1][0] in (2, 3)
        assert hashes(run.output) == undisturbed
        assert run.unreadable == []
        tallies.setdefault("two runs", Tally()).add(False, seconds)
