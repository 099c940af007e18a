"""Ray heads: where one is, the one that geopipe starts on this machine and ends again, and its token."""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from geopipe import machine
from geopipe.errors import MachineError
from geopipe.monitoring.home import home
from geopipe.settings.load import ENV_NESTED, ENV_PREFIX

MARK = "GEOPIPE_HEAD"
"""In the environment of every process of our own head, and of nothing else: by it they are found again."""

PATIENCE = 10.0
"""Seconds that the processes of a head have to end by themselves."""


def place(address: str) -> tuple[str, int | None]:
    """Host and port of an address, as those who connect to it understand it."""
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        return parts.hostname or "", parts.port
    except ValueError:
        return "", None


def is_here(address: str) -> bool:
    """Whether an address is of this machine."""
    host = place(address)[0]
    if host in ("localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def alone(address: str | None) -> bool:
    """Whether a run at this address (else RAY_ADDRESS) works on this machine alone, as far as that can be told."""
    told = address or os.environ.get("RAY_ADDRESS") or "local"
    return told in ("auto", "local") or is_here(told)


# ---------------------------------------------------------------- the token


def _token_file() -> Path:
    return Path.home() / ".ray" / "auth_token"


def has_token() -> bool:
    """Whether there is a token to show."""
    names = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    return any(os.environ.get(name) for name in names) or _token_file().exists()


def use_token(address: str) -> None:
    """Show the token to a head of this machine, where there is one and the environment does not say otherwise."""
    if (address == "auto" or is_here(address)) and has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def make_token() -> None:
    """Make the token of this user, where a new head would make one: Ray itself would let everybody read it."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token" or has_token():
        return
    with suppress(OSError, RuntimeError):  # another process was faster; or Ray will say that it has no home
        _token_file().parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(_token_file(), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))


# ---------------------------------------------------------------- our own head


def own() -> str | None:
    """The address of our own head, where it answers."""
    try:
        address = str(_noted()["address"])
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=2).close()
        return address
    except (OSError, ValueError, KeyError):
        return None


def _noted() -> dict[str, str]:
    noted = json.loads((home() / "head.json").read_text(encoding="utf-8"))
    return noted if isinstance(noted, dict) else {}


def start(object_store: int) -> str:
    """Start a head on this machine, for loopback only as far as Ray lets us, and note where it is.

    Args:
        object_store: bytes of its shared memory.

    Raises:
        MachineError: it does not start.
    """
    ray = Path(sys.executable).with_name("ray")
    ports, mark = [free_port() for _ in range(4)], secrets.token_hex(8)
    command = [str(ray), "start", "--head", "--node-ip-address=127.0.0.1", f"--port={ports[0]}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={ports[1]}", f"--ray-client-server-port={ports[2]}"]
    command += [
        f"--dashboard-agent-listen-port={ports[3]}",  # without it the second head of a machine would take no jobs
        f"--num-cpus={machine.cpus()}",
        f"--object-store-memory={object_store}",
        "--disable-usage-stats",
    ]
    # settings in the environment of who starts the head are not those of jobs to come, over whose files they would win
    environment = {k: v for k, v in os.environ.items() if not (k.startswith(ENV_PREFIX) and ENV_NESTED in k)}
    environment.setdefault("RAY_AUTH_MODE", "token")
    make_token()
    done = subprocess.run(command, env=environment | {MARK: mark}, capture_output=True, text=True, check=False)
    if done.returncode:
        _end(mark)
        last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-1:]
        raise MachineError(f"no Ray head could be started here: {' '.join(last)}", "see /tmp/ray/session_latest/logs")
    address = f"127.0.0.1:{ports[0]}"
    home().mkdir(parents=True, exist_ok=True)
    noted = {"address": address, "dashboard": f"http://127.0.0.1:{ports[1]}", "mark": mark}
    (home() / "head.json").write_text(json.dumps(noted))
    return address


def shutdown() -> int:
    """End our own head with all that works in it, and nothing of another; how many processes these were.

    Raises:
        MachineError: it was started by a geopipe that did not mark its processes.
    """
    try:
        noted = _noted()
    except (OSError, ValueError):
        return 0
    if "mark" not in noted:
        if own() is None:
            return 0
        raise MachineError(
            f"the head at {noted.get('address')} was started by an older geopipe, which did not mark its processes",
            "end it with `ray stop`, which ends every Ray of this user",
        )
    ended = _end(noted["mark"])
    (home() / "head.json").unlink(missing_ok=True)
    return ended


def _end(mark: str) -> int:
    """End every process that has this mark, gently first; new ones, too, that they started meanwhile."""
    ended: set[int] = set()
    end = time.monotonic() + PATIENCE
    while found := _marked(mark):
        for process in found:
            with suppress(psutil.Error):
                if process.pid not in ended:
                    process.terminate()
                elif time.monotonic() > end:
                    process.kill()
        ended.update(process.pid for process in found)
        psutil.wait_procs(found, timeout=0.2)
        if time.monotonic() > end + PATIENCE:
            break
    return len(ended)


def _marked(mark: str) -> list[psutil.Process]:
    """The living processes of this user with this mark, but for this one and those that it comes from."""
    ours = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            lives = process.pid not in ours and process.status() != psutil.STATUS_ZOMBIE
            if lives and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def free_port() -> int:
    """A port of the loopback that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
