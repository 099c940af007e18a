"""Processors and memory of this machine, within the limits of its container."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

_CGROUP = Path("/sys/fs/cgroup")


def cpus() -> int:
    """Number of processors that this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    if not quota:  # the first version of cgroups
        quota, period = (_read(_CGROUP / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    if quota.strip().isdigit() and period.strip().isdigit():
        count = min(count, max(1, int(quota) // int(period)))
    return count


def memory() -> int:
    """Bytes of memory that this process may use: the lesser of the machine's and the container's."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, _ = _container_memory()
    return total if limit is None else min(total, limit)


def available_memory() -> int:
    """Bytes that are free without swapping: the lesser of the system's and the container's."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = _container_memory()
    return free if limit is None else min(free, limit - used)


def _container_memory() -> tuple[int | None, int]:
    """Limit and use of the container's memory in bytes, by either version of cgroups; no limit is None."""
    for limit_file, used_file in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit, used = _read(_CGROUP / limit_file).strip(), _read(_CGROUP / used_file).strip()
        if limit.isdigit() and used.isdigit():
            return int(limit), int(used)
    return None, 0


def has_kernels() -> bool:
    """Whether the kernels' machine code is cached on this machine; if not, the first run compiles them."""
    if named := os.environ.get("NUMBA_CACHE_DIR"):
        return any(Path(named).glob("**/kernels.*.nbi"))
    beside, cache = Path(__file__).parent / "resample" / "__pycache__", Path(os.path.expanduser("~/.cache/numba"))
    return any(beside.glob("kernels.*.nbi")) or any(cache.glob("**/kernels.*.nbi"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def release_memory() -> None:
    """Return freed memory, which Arrow and the C library keep, to the system: an idle worker needs none."""
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
