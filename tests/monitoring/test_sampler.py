"""Samples of a node: plausible, by one process of the run on it, and by another when that one is gone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import until

from geopipe.events.emit import subscribe
from geopipe.events.records import Metric
from geopipe.monitoring import sampler
from geopipe.monitoring.presence import Presence
from geopipe.monitoring.spool import source_name

UNITS = {
    "cpu_percent": "%",
    "rss_bytes": "bytes",
    "memory_used_bytes": "bytes",
    "memory_total_bytes": "bytes",
    "object_store_bytes": "bytes",
    "spill_bytes": "bytes",
    "disk_free_bytes": "bytes",
}


@pytest.fixture
def heard() -> Iterator[list[Any]]:
    """Everything that is emitted."""
    result: list[Any] = []
    end = subscribe(result.append)
    yield result
    end()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is for the sampler."""
    now = [1000.0]
    monkeypatch.setattr(sampler.time, "monotonic", lambda: now[0])
    return now


def values(metrics: list[Metric]) -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics}


def test_values_are_plausible_and_have_units(tmp_path: Path) -> None:
    Presence(tmp_path, source_name())
    result = sampler.samples(tmp_path, tmp_path)
    assert {metric.name: metric.unit for metric in result} == UNITS
    numbers = values(result)
    assert 0 <= numbers["cpu_percent"] <= 100
    assert numbers["memory_total_bytes"] == psutil.virtual_memory().total
    assert 0 < numbers["memory_used_bytes"] < numbers["memory_total_bytes"]
    assert 0.5 < numbers["rss_bytes"] / psutil.Process().memory_info().rss < 2
    assert 0 <= numbers["object_store_bytes"] <= shutil.disk_usage("/dev/shm").total
    assert 0 < numbers["disk_free_bytes"] <= shutil.disk_usage(tmp_path).total


def test_memory_is_of_the_processes_that_report_also_of_those_whose_records_have_all_arrived(tmp_path: Path) -> None:
    assert values(sampler.samples(tmp_path, tmp_path))["rss_bytes"] == 0
    for _ in range(2):
        Presence(tmp_path, source_name())
    mark = json.loads(next(tmp_path.glob("*.pid")).read_text())
    for number, other in enumerate(({"boot": "another"}, {"namespace": "another"}, {"pid": 4_194_304})):
        (tmp_path / f"here-1-{number}.pid").write_text(json.dumps({**mark, "pid": 1, **other}))
    (tmp_path / "notes.pid").touch()
    (tmp_path / "notes.jsonl").touch()
    own = psutil.Process().memory_info().rss
    assert 0.5 < values(sampler.samples(tmp_path, tmp_path))["rss_bytes"] / own < 1.5  # once, and no one else's


def test_an_output_that_is_not_there_yet_has_the_space_of_its_parent(tmp_path: Path) -> None:
    assert "disk_free_bytes" in values(sampler.samples(tmp_path, tmp_path / "a" / "b"))
    assert "disk_free_bytes" in values(sampler.samples(tmp_path, Path("a/b")))


def test_what_is_not_there_is_left_out_and_the_rest_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "SHARED", tmp_path / "none")
    assert values(sampler.samples(tmp_path, tmp_path)).keys() == UNITS.keys() - {"object_store_bytes"}

    def vanished() -> int:
        raise FileNotFoundError

    monkeypatch.setattr(sampler, "_spilled", vanished)

    def unreadable(path: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(sampler.shutil, "disk_usage", unreadable)
    known = {"cpu_percent", "rss_bytes", "memory_used_bytes", "memory_total_bytes"}
    assert values(sampler.samples(tmp_path, tmp_path)).keys() == known


def test_spilled_objects_are_counted_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    folder = tmp_path / "ray" / "session_latest" / "ray_spilled_objects_abc"
    folder.mkdir(parents=True)
    (folder / "1").write_bytes(b"x" * 1000)
    (folder / "2").write_bytes(b"x" * 24)
    assert values(sampler.samples(tmp_path, tmp_path))["spill_bytes"] == 1024


def test_a_sample_comes_each_interval_however_often_it_is_asked(
    tmp_path: Path, clock: list[float], heard: list[Any]
) -> None:
    sample = sampler.Sampler(tmp_path, tmp_path, 10.0)
    times = []
    for _ in range(320):
        before = len(heard)
        sample()
        if len(heard) > before:
            times.append(clock[0])
        clock[0] += 0.1
    assert [round(t - times[0]) for t in times] == [0, 10, 20, 30]
    assert times[0] - 1000 == pytest.approx(1, abs=0.2)  # the first second is what its load is measured over
    assert len(heard) == 4 * len(UNITS)


def test_in_one_process_too_one_samples(tmp_path: Path, clock: list[float], heard: list[Any]) -> None:
    one, two = (sampler.Sampler(tmp_path, tmp_path, 0.5) for _ in range(2))
    for _ in range(3):
        one()
        two()
        clock[0] += 0.5
    assert len(heard) == 2 * len(UNITS)
    assert (tmp_path / "sampler.lock").stat().st_mode & 0o777 == 0o600


def test_those_who_wait_leave_no_file_open(tmp_path: Path, clock: list[float]) -> None:
    one, two = (sampler.Sampler(tmp_path, tmp_path, 0.5) for _ in range(2))
    one()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        two()
        clock[0] += 0.5
    assert len(os.listdir("/proc/self/fd")) == before


SAMPLES = """
import os, sys, time
from pathlib import Path
from geopipe.events.emit import subscribe
from geopipe.monitoring import sampler
from geopipe.monitoring.presence import Presence
subscribe(lambda metric: os.write(1, metric.name.encode() + b"\\n"))
sample = sampler.Sampler(Path(sys.argv[1]), Path(sys.argv[1]), 0.05)
print("ready", flush=True)
while True:
    sample()
    time.sleep(0.01)
"""


def test_one_process_of_a_node_samples_and_another_takes_over_when_it_is_killed(tmp_path: Path) -> None:
    def start(out: Path) -> subprocess.Popen[bytes]:
        with open(out, "wb") as file:
            return subprocess.Popen([sys.executable, "-c", SAMPLES, str(tmp_path)], stdout=file)

    def total(which: int) -> int:
        return outs[which].read_text().count("cpu_percent")

    outs = [tmp_path / "one.txt", tmp_path / "two.txt"]
    both = [start(out) for out in outs]
    try:
        until(lambda: all("ready" in out.read_text() for out in outs))
        until(lambda: total(0) + total(1) >= 5)
        first = int(total(1) > 0)
        assert total(1 - first) == 0
        both[first].kill()
        both[first].wait()
        until(lambda: total(1 - first) >= 3)
    finally:
        for process in both:
            process.kill()
            process.wait()
