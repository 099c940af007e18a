"""Processors, memory, disks, open files, compiled kernels and grids of PROJ."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

import pyproj
import pyproj.network

from geopipe import machine
from geopipe.analysis import warm as analyses
from geopipe.doctor.findings import MachineFinding
from geopipe.doctor.folder import existing
from geopipe.load import warm as kernels
from geopipe.resample import compiled
from geopipe.text import count, size

SHARED = "/dev/shm"
"""Where Ray keeps its object store on Linux; with too little of it Ray uses the disk."""

LEAST_SHARED, LEAST_MEMORY = 640 << 20, 2 << 30
"""Bytes of shared memory and of memory that a run on Ray needs."""

FULL = 0.95
"""Share of a disk above which Ray writes no object to it (local_fs_capacity_threshold)."""

LITTLE_ROOM = 5 << 30
"""Bytes of free space for objects that leave the memory, below which a large shuffle may end."""

OPEN_FILES = (1024, 4096)
"""Limits of open files below which Ray fails, and below which a large cluster may."""


def warm() -> float:
    """Compile all kernels into numba's cache, or load them from it; returns the seconds that it took."""
    return kernels.warm() + analyses.warm()


def findings() -> Iterator[MachineFinding]:
    """The findings of this machine."""
    limit = machine.memory()
    yield MachineFinding(
        "processors", "ok", f"{machine.cpus()} of {os.cpu_count()} on {platform.system()} {platform.machine()}"
    )
    free = machine.available_memory()
    hint = "" if free > LEAST_MEMORY else "a run on Ray needs some 2 GiB: use --engine local, or free memory"
    yield MachineFinding("memory", "note" if hint else "ok", f"{size(free)} of {size(limit)} are free", hint)
    yield _shared_memory()
    yield _spill()
    yield _open_files()
    yield _kernels()
    yield _proj()


def _shared_memory() -> MachineFinding:
    try:
        free = shutil.disk_usage(SHARED).free
    except OSError:
        return MachineFinding("shared-memory", "note", f"there is no {SHARED}: Ray uses the disk", "use --engine local")
    value = f"{size(free)} are free in {SHARED}"
    if free >= LEAST_SHARED:
        return MachineFinding("shared-memory", "ok", value)
    hint = f"mount a larger {SHARED} (docker run --shm-size=2g), or run with --engine local"
    return MachineFinding("shared-memory", "note", value, hint)


def spill_folder() -> Path:
    """The folder for objects that leave Ray's memory, as far as the environment says."""
    names = ("RAY_object_spilling_directory", "RAY_TMPDIR")
    return Path(next(filter(None, map(os.environ.get, names)), tempfile.gettempdir()))


def _spill() -> MachineFinding:
    folder = spill_folder()
    place = existing(folder)
    disk = shutil.disk_usage(place)
    value = f"{size(disk.free)} are free in {folder}, for objects that leave Ray's memory"
    hint = f"free space, or set RAY_TMPDIR to a folder on a larger disk in place of {folder}"
    if not os.access(place, os.W_OK):
        return MachineFinding("spill", "problem", f"{folder} cannot be written, and Ray works there", hint)
    if disk.used > FULL * (disk.used + disk.free):
        return MachineFinding("spill", "problem", f"{value}; above {FULL:.0%} of use Ray writes none", hint)
    if disk.free < LITTLE_ROOM:
        return MachineFinding("spill", "note", value, hint)
    return MachineFinding("spill", "ok", value)


def _open_files() -> MachineFinding:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # Ray raises the soft limit up to the hard one
    if limit == resource.RLIM_INFINITY:
        return MachineFinding("open-files", "ok", "a process may open any number of files")
    least, enough = OPEN_FILES
    value = f"a process may open {limit:,} files"
    if limit >= enough:
        return MachineFinding("open-files", "ok", value)
    hint = "raise it: `ulimit -Hn 65535`, or nofile in /etc/security/limits.conf"
    return MachineFinding("open-files", "problem" if limit < least else "note", value, hint)


def _kernels() -> MachineFinding:
    ready, all_kernels = compiled.cached(), len(compiled.KERNELS)
    if any(isinstance(kernel, FunctionType) for kernel in compiled.KERNELS):
        return MachineFinding(
            "kernels", "problem", "numba is switched off: they run as Python", "unset NUMBA_DISABLE_JIT"
        )
    if not (place := compiled.folder()):
        hint = "set NUMBA_CACHE_DIR to a folder that is writable: until then every process compiles them"
        return MachineFinding("kernels", "note", "no folder for their machine code is writable", hint)
    value = f"{ready} of {all_kernels} are compiled, in {place}"
    if ready == all_kernels:
        return MachineFinding("kernels", "ok", value)
    return MachineFinding("kernels", "note", value, "`geopipe doctor --warm` compiles them, so that no run has to")


def _proj() -> MachineFinding:
    folders = [pyproj.datadir.get_data_dir(), pyproj.datadir.get_user_data_dir()]  # type: ignore[attr-defined]
    grids = sum(
        name.endswith((".tif", ".gsb")) for folder in folders if os.path.isdir(folder) for name in os.listdir(folder)
    )
    is_online = pyproj.network.is_network_enabled()  # type: ignore[attr-defined]
    network = "on" if is_online else "off"
    value = f"{count(grids, 'grid')} of datum shifts in {' and '.join(folders)}; network {network}"
    if grids or is_online:
        return MachineFinding("proj-grids", "ok", value)
    hint = "a plan names datum shifts without their grid; `projsync --list-files` shows grids"
    return MachineFinding("proj-grids", "note", value, hint)
