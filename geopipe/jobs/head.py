"""The Ray cluster that takes jobs: one at an address, or a head of our own on this machine."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from geopipe import machine
from geopipe.engine import address as addresses
from geopipe.errors import MachineError, PlanError, first_line
from geopipe.monitoring.home import home
from geopipe.run import draft
from geopipe.settings.raw import ENV_NESTED, ENV_PREFIX

MARK = "GEOPIPE_HEAD"
"""Environment variable of every process of our own head, and of no other process: `shutdown` finds them by it."""

PATIENCE = 10.0
"""Seconds that the processes of a head have to end by themselves."""


def cluster(address: str | None, start: bool = False) -> str:
    """The address of the cluster for jobs: `address`, else RAY_ADDRESS, else our own head on this machine.

    Args:
        address: the address that the user named.
        start: start a head on this machine if there is none.

    Raises:
        MachineError: there is no cluster, or it is on another machine and no token protects it.
    """
    target = addresses.requested(address)
    if target in ("auto", "local"):
        head = own_address() or (start_head(draft.OBJECT_STORE) if start else None)
        if head is None:
            raise MachineError(
                "no Ray head of geopipe runs on this machine (any more)", "name the job's cluster by --address"
            )
        target = head
    addresses.use_token(target)
    needs_token = os.environ.get("RAY_AUTH_MODE") == "token"
    if needs_token and not addresses.has_token():  # Ray would end this process
        raise MachineError(
            "RAY_AUTH_MODE is token, and there is no token",
            "set RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) as the cluster has it, or unset RAY_AUTH_MODE",
        )
    if not needs_token and not addresses.is_local(target):
        raise MachineError(
            f"the cluster at {target} is beyond this machine, and no token would protect what is submitted to it",
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) as the cluster has them",
        )
    return target


def client(address: str) -> Any:
    """Ray's client for jobs.

    Raises:
        MachineError: no cluster answers at the address.
    """
    from ray.job_submission import JobSubmissionClient  # loads half of Ray, which a look into the database must not

    try:
        host, port = addresses.host_and_port(address)
        if host and port:  # Ray itself would try for a minute
            socket.create_connection((host, port), timeout=10).close()
        connected = JobSubmissionClient(address)
        for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(name).setLevel(logging.WARNING)  # users need not know how it packs and sends
        return connected
    except Exception as error:  # Ray raises RuntimeError, ConnectionError, AuthenticationError and others
        raise MachineError(
            f"no Ray cluster takes jobs at {address}: {first_line(error)}",
            "start one (`ray start --head`), or correct --address or RAY_ADDRESS",
        ) from None


def own_address() -> str | None:
    """The address of our own head on this machine; None if it does not answer."""
    with suppress(OSError, ValueError):
        host, _, port = _head_file().get("address", "").rpartition(":")
        socket.create_connection((host, int(port)), timeout=2).close()
        return f"{host}:{port}"
    return None


def _head_file() -> dict[str, str]:
    """Address of our own head, and the mark of its processes; empty if there is none."""
    with suppress(OSError, ValueError):
        head = json.loads((home() / "head.json").read_text(encoding="utf-8"))
        return {name: str(text) for name, text in head.items()} if isinstance(head, dict) else {}
    return {}


def start_head(object_store: int) -> str:
    """Start a head on this machine and write its address to head.json; it listens on the loopback as far as Ray can.

    Args:
        object_store: size of its shared memory in bytes.

    Returns:
        its address.

    Raises:
        MachineError: it does not start.
    """
    ports, mark = [free_port() for _ in range(4)], secrets.token_hex(8)
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.1", f"--port={ports[0]}", f"--ray-client-server-port={ports[2]}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={ports[1]}"]
    command += [f"--dashboard-agent-listen-port={ports[3]}"]  # else the second head of a machine would take no jobs
    command += [f"--num-cpus={machine.cpus()}", f"--object-store-memory={object_store}"]
    # settings in the environment of this process must not win over the files of later jobs
    environment = {k: v for k, v in os.environ.items() if not (k.startswith(ENV_PREFIX) and ENV_NESTED in k)}
    environment.setdefault("RAY_AUTH_MODE", "token")
    addresses.keep_workers(environment)
    addresses.create_token()
    done = subprocess.run(command, env=environment | {MARK: mark}, capture_output=True, text=True, check=False)
    if done.returncode:
        _end(mark)
        last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-1:]
        raise MachineError(f"no Ray head could be started here: {' '.join(last)}", "see /tmp/ray/session_latest/logs")
    address = f"127.0.0.1:{ports[0]}"
    home().mkdir(parents=True, exist_ok=True)
    head = {"address": address, "dashboard": f"http://127.0.0.1:{ports[1]}", "mark": mark}
    (home() / "head.json").write_text(json.dumps(head))
    return address


def shutdown(force: bool) -> int:
    """End our own head on this machine with all its processes, and no other Ray; returns how many processes ended.

    Args:
        force: end it even if jobs run on it.

    Raises:
        PlanError: jobs run on it.
        MachineError: an older geopipe started it and did not mark its processes.
    """
    address = own_address()
    if address is not None and not force:
        with suppress(MachineError):  # a head that does not answer has no jobs that could be saved
            jobs = [job.submission_id for job in client(cluster(address)).list_jobs() if not job.status.is_terminal()]
            if jobs:
                raise PlanError(
                    f"{len(jobs)} jobs are at work on the head at {address}: {', '.join(map(str, jobs[:3]))}",
                    "wait, stop them with `geopipe jobs stop`, or give --force",
                )
    mark = _head_file().get("mark")
    if mark is None and address is not None:
        raise MachineError(
            f"the head at {address} was started by an older geopipe, which did not mark its processes",
            "end it with `ray stop`, which ends every Ray of this user",
        )
    ended = _end(mark) if mark else 0
    for path in (home() / "head.json", *home().glob("job-*.dsn")):  # with the files of the jobs that ran on it
        path.unlink(missing_ok=True)
    return ended


def _end(mark: str) -> int:
    """End every process with this mark, SIGTERM first, also those that start meanwhile."""
    ended: set[int] = set()
    end = time.monotonic() + PATIENCE
    while processes := _marked(mark):
        for process in processes:
            with suppress(psutil.Error):
                if process.pid not in ended:
                    process.terminate()
                elif time.monotonic() > end:
                    process.kill()
        ended.update(process.pid for process in processes)
        psutil.wait_procs(processes, timeout=0.2)
        if time.monotonic() > end + PATIENCE:
            break
    return len(ended)


def _marked(mark: str) -> list[psutil.Process]:
    """The living processes of this user with this mark, without this one and its parents."""
    ours = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    marked = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            lives = process.pid not in ours and process.status() != psutil.STATUS_ZOMBIE
            if lives and process.environ().get(MARK) == mark:
                marked.append(process)
    return marked


def free_port() -> int:
    """A port of the loopback that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
