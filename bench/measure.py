"""Run a command and measure all of its processes together: wall time, processor time, peak memory.

They are the processes whose environment has a mark: workers of Ray are no children of the command.
"""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MARK = "GEOPIPE_BENCH_MARK"
INTERVAL = 0.05
"""Seconds between samples of processor time."""
MEMORY_SHARE = 20
"""The memory of all processes is sampled at most every 0.1 s, and takes at most one part in so many of the time."""
PATIENCE = 10
"""Seconds that processes of a command may outlive it."""
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """What a command took.

    Attributes:
        wall: seconds from its start to its end.
        cpu: seconds of processor time of all processes, user and system.
        memory: bytes, the largest sum of the memory of all processes, each shared page counted once (PSS).
        output: what the command printed.
    """

    wall: float
    cpu: float
    memory: int
    output: str


@dataclass
class Sampler:
    """Watches the processes with a mark."""

    mark: str
    peak: int = 0
    seconds: dict[int, float] = field(default_factory=dict)
    _marked: dict[int, bool] = field(default_factory=dict)

    def watch(self, ended: threading.Event) -> None:
        """Sample until the event, and then while processes of the command are left, which shall disturb no other."""
        memory_at = patience = 0.0
        while True:
            pids = self._pids()
            for pid in pids:
                self.seconds[pid] = max(self.seconds.get(pid, 0.0), processor_seconds(pid))
            if ended.wait(INTERVAL):
                patience = patience or time.perf_counter() + PATIENCE
                if not pids or time.perf_counter() > patience:
                    return
                time.sleep(INTERVAL)
            start = time.perf_counter()
            if start >= memory_at:
                self.peak = max(self.peak, sum(map(memory_of, pids)))
                end = time.perf_counter()
                memory_at = end + max(0.1, MEMORY_SHARE * (end - start))

    def _pids(self) -> list[int]:
        alive = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        self._marked = {pid: is_marked for pid, is_marked in self._marked.items() if pid in alive}
        for pid in alive - self._marked.keys():
            try:
                environment = Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
            if environment:  # it is empty for an instant while a program is loaded
                self._marked[pid] = self.mark.encode() in environment
        return [pid for pid, is_marked in self._marked.items() if is_marked]


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_of(pid: int) -> int:
    """Bytes of a process in memory (PSS); 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    except (OSError, StopIteration):
        return 0


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Usage:
    """Run a command to its end.

    Processor time is the sum over the processes at their last sample, or what the system counts for the command and
    the children that it has waited for, whichever is more.

    Raises:
        SystemExit: the command fails.
    """
    mark, ended = uuid.uuid4().hex, threading.Event()
    sampler = Sampler(mark)
    watcher = threading.Thread(target=sampler.watch, args=(ended,))
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            list(map(str, command)),
            env={**os.environ, **(environment or {}), MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
        )
        watcher.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            wall = time.perf_counter() - start
            ended.set()
            watcher.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{errors.read()[-4000:]}")
        cpu = max(sum(sampler.seconds.values()), usage.ru_utime + usage.ru_stime)
        # the system counts a process before its exec, too: as large as this one
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        largest = usage.ru_maxrss * 1024 if usage.ru_maxrss > own else 0
        return Usage(wall, cpu, max(sampler.peak, largest), output.read())


def drop_from_cache(paths: Sequence[Path]) -> None:
    """Have the system forget the pages of files, so that the next read comes from the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
