"""Which process of this machine one is, told so that another process can see later whether it is still there."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def identity() -> dict[str, Any]:
    """Which process this is, among all that this machine has and had, before it was last started, too."""
    return _place() | {"pid": os.getpid(), "started": _started(os.getpid())}


def is_dead(process: Mapping[str, Any]) -> bool:
    """Whether a process was one of this machine and is no more, by its `identity`; False where nobody here can know."""
    here = _place()
    if not here["boot"] or any(process.get(name) != here[name] for name in ("host", "machine")):
        return False
    if process.get("boot") != here["boot"]:
        return bool(here["machine"])  # of the same machine, before it was started anew
    pid, started = process.get("pid"), process.get("started")
    known = process.get("namespace") == here["namespace"] and isinstance(pid, int) and isinstance(started, int)
    return known and bool(started) and _started(int(str(pid))) != started


def _place() -> dict[str, str]:
    """Where process numbers of this process mean something: a machine since its start, and a container."""
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
    """When a process began, in ticks since the machine's start; 0 where there is none, or nobody has reaped it."""
    name, _, rest = _read(Path(f"/proc/{pid}/stat")).rpartition(")")
    parts = rest.split()
    return int(parts[19]) if name and len(parts) > 19 and parts[0] not in "ZX" else 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
