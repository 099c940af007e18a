"""Samples of a node: processor, memory, Ray's object store, spilled objects, free disk."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from geopipe.durable import nearest_folder
from geopipe.events.emit import context, emit
from geopipe.events.records import Metric, Progress
from geopipe.monitoring.home import try_lock
from geopipe.monitoring.presence import pids

SHARED = Path("/dev/shm")


class Sampler:
    """Samples the node every `interval` seconds, in one process of the run; to be called often.

    A lock in `folder` chooses the process; it ends with the process, and the next process takes over.

    Args:
        folder: spool folder of the run.
        output: folder whose free space is sampled.
    """

    def __init__(self, folder: Path, output: Path, interval: float) -> None:
        self.folder, self.output, self.interval = folder, output, interval
        self._lock, self._due = -1, 0.0

    def __call__(self) -> None:
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self.interval
        if self._lock >= 0:
            for metric in samples(self.folder, self.output):
                emit(metric)
            return
        file = os.open(self.folder / "sampler.lock", os.O_RDWR | os.O_CREAT, 0o600)
        if not try_lock(file):
            os.close(file)
            return
        self._lock = file
        psutil.cpu_percent()  # the first value is meaningless: it covers the time since the last call
        self._due = time.monotonic() + min(self.interval, 1.0)

    def close(self) -> None:
        """Release the lock, so that another process takes over."""
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1


def samples(folder: Path, output: Path) -> list[Metric]:
    """The samples of this node; values that cannot be read here are left out."""
    memory = psutil.virtual_memory()
    metrics = [
        Metric("cpu_percent", psutil.cpu_percent(), "%"),
        Metric("rss_bytes", _resident(folder), "bytes"),
        Metric("memory_used_bytes", memory.total - memory.available, "bytes"),
        Metric("memory_total_bytes", memory.total, "bytes"),
    ]
    probes: dict[str, Callable[[], int]] = {
        "object_store_bytes": lambda: shutil.disk_usage(SHARED).used,
        "spill_bytes": _spilled,
        "disk_free_bytes": lambda: shutil.disk_usage(nearest_folder(output)).free,
    }
    for name, probe in probes.items():
        with suppress(OSError):
            metrics.append(Metric(name, probe(), "bytes"))
    return metrics


def _resident(folder: Path) -> int:
    """Resident bytes of the processes of the run on this node."""
    total = 0
    for pid in pids(folder):
        with suppress(psutil.Error):
            total += psutil.Process(pid).memory_info().rss
    return total


def _spilled() -> int:
    """Bytes of the objects that Ray has spilled on this node."""
    root = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "session_latest"
    return sum(p.stat().st_size for p in root.glob("ray_spilled_objects*/*"))


def speedometer(stages: Callable[[], Mapping[str, Progress]], interval: float) -> Callable[[], None]:
    """A function that records the speed of each stage every `interval` seconds; to be called often.

    Args:
        stages: progress of the whole run by stage.
    """
    last, before = time.monotonic(), dict[str, Progress]()

    def sample() -> None:
        nonlocal last, before
        seconds = time.monotonic() - last
        if seconds < interval:
            return
        now = dict(stages())
        for stage, done in now.items():
            old = before.get(stage)
            with context(stage=stage):
                for name in ("cells", "rows"):
                    count = getattr(done, name) - (getattr(old, name) if old else 0)
                    emit(Metric(f"{name}_per_second", count / seconds, f"{name}/s"))
        last, before = time.monotonic(), now

    return sample
