"""The identity of a process, by which another process can see later whether it still lives."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

STARTED = time.time_ns()
"""Time of this process's start, in ns since 1970."""


def unique_name() -> str:
    """The name of this process for files in a folder that hosts share; containers repeat hosts and pids."""
    return f"{socket.gethostname()}-{os.getpid()}-{STARTED}"


def identity() -> dict[str, Any]:
    """The identity of this process, unique on this machine, also across restarts of the machine."""
    return _place() | {"pid": os.getpid(), "started": _started(os.getpid())}


def is_dead(process: Mapping[str, Any]) -> bool:
    """Whether a process of this machine has ended, by its `identity`; False if that cannot be known."""
    place = _place()
    if not place["boot"] or any(process.get(name) != place[name] for name in ("host", "machine")):
        return False
    if process.get("boot") != place["boot"]:
        return bool(place["machine"])  # it ran before this machine was restarted
    pid, started = process.get("pid"), process.get("started")
    known = process.get("namespace") == place["namespace"] and isinstance(pid, int) and isinstance(started, int)
    return known and bool(started) and _started(int(str(pid))) != started


def _place() -> dict[str, str]:
    """Where the PIDs of this process are valid: a machine since its start, and a container."""
    namespace = ""
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return {
        "host": socket.gethostname(),
        "machine": _read(Path("/etc/machine-id")).strip(),
        "boot": _read(Path("/proc/sys/kernel/random/boot_id")).strip(),
        "namespace": namespace,
    }


def _started(pid: int) -> int:
    """Start of a process in ticks since the machine's start; 0 if it has ended, even if nobody has reaped it."""
    name, _, rest = _read(Path(f"/proc/{pid}/stat")).rpartition(")")
    parts = rest.split()
    return int(parts[19]) if name and len(parts) > 19 and parts[0] not in "ZX" else 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
