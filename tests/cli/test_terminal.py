"""What a run on Ray prints: its progress, and not a word of Ray's that nobody can act on."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest
from trials import make_square

from geopipe import machine
from geopipe.cli import progress

KILLED = """
import ray
from geopipe.cli import main as cli; from geopipe.engine import ray as engine

done = engine._done

def kill_statistics(dataset):
    for key in done(dataset):
        yield key
        try:
            ray.kill(ray.get_actor("datasets_stats_actor", namespace="_dataset_stats_actor"))
        except ValueError:
            pass

engine._done = kill_statistics
cli.main()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return make_square(tmp_path, "quiet", 2)


@pytest.mark.ray
def test_ray_tells_nothing_of_statistics_that_it_has_lost(file: Path) -> None:
    """Its actor of statistics dies of memory pressure, say; the next one knows no Dataset (KeyError)."""
    command = [sys.executable, "-c", KILLED, "run", str(file), "--engine=ray", "--set", "engine.workers=1"]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=file.parent)
    assert outcome.returncode == 0, outcome.stderr
    noise = re.compile("_StatsActor|Unhandled error|KeyError|Traceback")
    assert [line for line in outcome.stderr.splitlines() if noise.search(line)] == []


def test_attempts_to_reach_a_cluster_are_noise_and_its_death_is_not() -> None:
    stamp = "[2026-11-28 15:55:05,376 {} 19568 19568] "
    for line in (
        stamp.format("W") + "rpc_client.h:153: Failed to connect to GCS at address 192.0.2.2:55701 within 5 seconds.",
        stamp.format("W") + "gcs_client.cc:210: Failed to get cluster ID from GCS server: TimedOut",
        stamp.format("E") + "gcs_client.cc:164: Failed to get cluster ID: Unauthenticated",
    ):
        assert progress.NOISE.search(line.encode()), line
    for line in (
        stamp.format("C")
        + "gcs_rpc_client.h:640: Failed to connect to GCS within 60 seconds. GCS may have been killed.",
        "error: no Ray cluster at '127.0.0.1:1': gcs_client",
    ):
        assert not progress.NOISE.search(line.encode()), line


@pytest.mark.ray
def test_a_terminal_shows_name_output_and_step_from_the_first_second(file: Path) -> None:
    """Elsewhere nothing comes for the ten seconds in which Ray starts and kernels are compiled."""
    screen, shell = pty.openpty()
    fcntl.ioctl(shell, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "", "NUMBA_CACHE_DIR": str(file.parent / "cache")}
    command = [sys.executable, "-m", "geopipe", "run", "s.toml", "--engine=ray", "--set", "engine.workers=1"]
    with subprocess.Popen(command, stderr=shell, stdout=shell, cwd=file.parent, env=environment) as run:
        os.close(shell)
        seen = bytearray()
        with suppress(OSError):  # the other end is closed
            while data := os.read(screen, 4096):
                seen += data
    os.close(screen)
    assert run.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    # Ray starts while headers are read, so either may be drawn first, and the shorter one not at all
    firsts = [text.find(f"quiet: {step}, 0:") for step in ("starting Ray", "reading headers, planning")]
    compiling = text.find("quiet: compiling kernels (once), ")
    assert 0 in firsts
    assert compiling > max(firsts)
    assert "/out" in text


def test_kernels_are_there_where_numba_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert not machine.has_kernels()
    (tmp_path / "geopipe_0").mkdir()
    (tmp_path / "geopipe_0" / "kernels._box-330.py311.nbi").touch()
    assert machine.has_kernels()
