"""A Ray cluster of our own on this machine: a head, worker nodes, and a Prometheus. Its facts are in head.json."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from geopipe import machine
from geopipe.engine import address as addresses
from geopipe.errors import MachineError
from geopipe.jobs import scraping
from geopipe.jobs.marked import MARK, end
from geopipe.monitoring.home import home
from geopipe.monitoring.options import TARGETS
from geopipe.run import draft
from geopipe.settings.raw import ENV_NESTED, ENV_PREFIX
from geopipe.text import count

DASHBOARD_PORT, PROMETHEUS_PORT = 8265, 9090
"""The ports that Ray and Prometheus are known for; another one if they are in use."""

START_SECONDS = 60.0
"""Seconds that the nodes may take until Ray counts them as alive."""


@dataclass(frozen=True)
class Size:
    """What a cluster has.

    Attributes:
        workers: nodes beside the head.
        cpus: CPUs of each node; 0 to share those of this machine.
        dashboard_port: 0 for Ray's usual port, or any if that is in use.
        prometheus: whether to start Prometheus, if it is installed.
    """

    workers: int = 0
    cpus: int = 0
    dashboard_port: int = 0
    prometheus: bool = False

    @property
    def nodes(self) -> int:
        """The head and the workers."""
        return 1 + self.workers

    @property
    def cpus_per_node(self) -> int:
        """CPUs of each node."""
        return self.cpus or max(1, machine.cpus() // self.nodes)


@dataclass(frozen=True)
class LocalCluster:
    """The cluster of geopipe on this machine.

    Attributes:
        address: of its head, host:port.
        dashboard: URL of Ray's dashboard, which takes jobs, too.
        mark: of its processes.
        workers: nodes beside the head.
        cpus: CPUs of each node.
        session: folder of Ray's session.
        prometheus: its URL; empty without one.
    """

    address: str
    dashboard: str
    mark: str
    workers: int
    cpus: int
    session: str = ""
    prometheus: str = ""

    def __str__(self) -> str:
        return f"a cluster of {count(1 + self.workers, 'node')} with {count(self.cpus, 'CPU')} each"


@dataclass(frozen=True)
class LocalNode:
    """A node as the head knows it.

    Attributes:
        memory: bytes that it offers to Ray.
        object_store: bytes of its shared memory.
        session: folder of Ray's session on it.
    """

    id: str
    address: str
    is_head: bool
    is_alive: bool
    cpus: float
    memory: int
    object_store: int
    session: str


def recorded() -> LocalCluster | None:
    """The cluster that was started last and not ended, whether it lives or not."""
    with suppress(OSError, ValueError, TypeError):
        return LocalCluster(**json.loads(_file().read_text(encoding="utf-8")))
    return None


def alive() -> LocalCluster | None:
    """The cluster, if its head answers."""
    own = recorded()
    with suppress(OSError, ValueError):
        if own is not None:
            host, _, port = own.address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=2).close()
            return own
    return None


def start(size: Size) -> LocalCluster:
    """Start a cluster, unless one is alive, and wait until all its nodes are.

    It listens on the loopback as far as Ray can. What was started ends again if a part of it does not start.

    Raises:
        MachineError: a node, or Prometheus, does not start.
    """
    with _locked():
        if own := alive():
            return own
        if left := recorded():  # its head has died
            end(left.mark)
        ports = [size.dashboard_port or usual_port(DASHBOARD_PORT), free_port()]
        prometheus = f"http://127.0.0.1:{usual_port(PROMETHEUS_PORT)}" if size.prometheus else ""
        own = LocalCluster(
            address=f"127.0.0.1:{ports[1]}",
            dashboard=f"http://127.0.0.1:{ports[0]}",
            mark=secrets.token_hex(8),
            workers=size.workers,
            cpus=size.cpus_per_node,
            prometheus=prometheus,
        )
        _record(own)  # first: `stop` finds by it what a killed process had started
        try:
            return _start(own)
        except BaseException:
            stop(own)
            raise


def _start(own: LocalCluster) -> LocalCluster:
    addresses.use_token("local")
    addresses.create_token()
    environment = _environment(own)
    _start_node(_head_command(own), environment)
    for _ in range(own.workers):  # one after the other: two that start at once can take one socket
        _start_node(_worker_command(own), environment)
    deadline = time.monotonic() + START_SECONDS
    while sum(node.is_alive for node in nodes(own.address)) < 1 + own.workers:
        if time.monotonic() > deadline:
            raise MachineError("not every node of the cluster comes to life", f"see {_logs()}")
        time.sleep(0.1)
    own = replace(own, session=next(node.session for node in nodes(own.address) if node.is_head))
    _record(own)
    if own.prometheus:
        scraping.start(int(own.prometheus.rpartition(":")[2]), Path(own.session), environment)
    return own


def stop(own: LocalCluster) -> int:
    """End all processes of the cluster, and no other; return how many ended."""
    ended = end(own.mark)
    for path in (_file(), *home().glob("job-*.dsn")):  # with the files of the jobs that ran on it
        path.unlink(missing_ok=True)
    return ended


def nodes(address: str) -> list[LocalNode]:
    """The nodes of the cluster at host:port, those that have died included, the head first.

    Raises:
        MachineError: it does not answer.
    """
    from geopipe.engine import internals  # loads Ray

    internals.read_environment()
    known = internals.nodes_of(address, _node)
    return sorted(known, key=lambda node: (not node.is_head, not node.is_alive, node.id))


def _node(info: Any) -> LocalNode:
    return LocalNode(
        id=info.node_id.hex(),
        address=info.node_manager_address,
        is_head=info.is_head_node,
        is_alive=info.state == 0,
        cpus=info.resources_total.get("CPU", 0.0),
        memory=int(info.resources_total.get("memory", 0)),
        object_store=int(info.resources_total.get("object_store_memory", 0)),
        session=info.session_dir,
    )


# ---------------------------------------------------------------- processes


def _environment(own: LocalCluster) -> dict[str, str]:
    """The environment of the cluster's processes."""
    # settings in the environment of this process must not win over the files of later jobs
    environment = {k: v for k, v in os.environ.items() if not (k.startswith(ENV_PREFIX) and ENV_NESTED in k)}
    addresses.keep_workers(environment)
    # Ray's own ports for metrics are fixed: those of a second Ray on this machine would be taken for ours
    environment |= {name: str(free_port()) for name in ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT")}
    # a head sends its jobs to the cluster that was started last in its folder: another Ray would take ours, or ours its
    environment["RAY_TMPDIR"] = str(ray_folder())
    if own.prometheus:
        environment |= {TARGETS: str(scraping.targets()), "RAY_PROMETHEUS_HOST": own.prometheus}
        environment.setdefault("RAY_metrics_report_interval_ms", "5000")  # as Prometheus scrapes; short runs show, too
    return environment | {MARK: own.mark}


def _head_command(own: LocalCluster) -> list[str]:
    port, dashboard = (address.rpartition(":")[2] for address in (own.address, own.dashboard))
    return [
        *("--head", f"--port={port}", f"--ray-client-server-port={free_port()}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *_node_options(own),
    ]


def _worker_command(own: LocalCluster) -> list[str]:
    return [f"--address={own.address}", *_node_options(own)]


def _node_options(own: LocalCluster) -> list[str]:
    """Options of a node: its share of this machine, and ports that several nodes of one machine do not share."""
    memory = machine.available_memory() // (1 + own.workers)
    store = min(draft.OBJECT_STORE, memory // 4)
    return [
        *("--disable-usage-stats", "--node-ip-address=127.0.0.1"),
        *(f"--num-cpus={own.cpus}", f"--memory={memory - store}", f"--object-store-memory={store}"),
        f"--dashboard-agent-listen-port={free_port()}",  # else the second head of a machine would take no jobs
        *("--min-worker-port=0", "--max-worker-port=0"),
    ]


def _start_node(options: list[str], environment: dict[str, str]) -> None:
    """Start a node by `ray start` with these options.

    Raises:
        MachineError: it does not start.
    """
    command = [str(Path(sys.executable).with_name("ray")), "start", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-1:]
        raise MachineError(f"no Ray node could be started on this machine: {' '.join(last)}", f"see {_logs()}")


def ray_folder() -> Path:
    """The folder in which Ray keeps the sessions of our clusters; a short path, for Ray makes sockets in it."""
    name = hashlib.sha256(os.fsencode(home())).hexdigest()[:4]
    return Path(os.environ.get("RAY_TMPDIR", "/tmp")) / f"geopipe-{name}"


def _logs() -> Path:
    return ray_folder() / "ray" / "session_latest" / "logs"


# ---------------------------------------------------------------- files and ports


def _file() -> Path:
    return home() / "head.json"


def _record(own: LocalCluster) -> None:
    _file().write_text(json.dumps(asdict(own)), encoding="utf-8")


@contextmanager
def _locked() -> Iterator[None]:
    """Let one process at a time start a cluster."""
    home().mkdir(parents=True, exist_ok=True)
    with (home() / "head.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def free_port() -> int:
    """A port of the loopback that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether nothing listens on a port of the loopback."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        with suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return True
    return False


def usual_port(port: int) -> int:
    """A port if it is free, else any that is."""
    return port if is_free(port) else free_port()
