"""All that geopipe uses of Ray beyond its public API. A Ray without one of these gives the same table, or one error.

Each function says what it does where Ray lacks it. Ray's private modules are imported nowhere else.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import ray

from geopipe.engine import address as addresses
from geopipe.errors import MachineError, first_line

Node = TypeVar("Node")

MISSING = (ImportError, AttributeError, TypeError)
"""What Python raises where a part of Ray is gone, or takes other arguments."""

PATIENCE = 30.0
"""Seconds to wait for the raylet; then Ray waits as long again, and fails."""

_auth_mode = os.environ.get(addresses.AUTH_MODE)
"""The mode of authentication that Ray read when it was imported, at the latest just before this module."""


# ---------------------------------------------------------------- a process and its cluster


def read_environment() -> None:
    """Have Ray's core read RAY_AUTH_MODE again: it read the environment when it was imported.

    Without it the variable must have its value before geopipe starts.

    Raises:
        MachineError: it cannot, and the variable has changed.
    """
    try:
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")
    except MISSING:
        mode = os.environ.get(addresses.AUTH_MODE, "")
        if mode != _auth_mode:
            raise MachineError(
                f"Ray {ray.__version__} does not read {addresses.AUTH_MODE} again once it is loaded",
                f"set {addresses.AUTH_MODE}={mode} in the environment of geopipe",
            ) from None


def resolved(address: str) -> str:
    """The address that "auto" stands for, to ask that cluster whether it requires a token.

    Without it, or without a cluster, it stays "auto": a token is sent if the user has one, and Ray reports the rest.
    """
    if address == "auto":
        with suppress(ConnectionError, *MISSING):
            from ray._private.services import canonicalize_bootstrap_address

            return canonicalize_bootstrap_address(address) or address
    return address


def nodes_of(address: str, read: Callable[[Any], Node]) -> list[Node]:
    """The nodes that the head at host:port knows, without joining the cluster, which would start processes.

    Without it, `geopipe cluster` and a job on the cluster of this machine are refused.

    Args:
        address: of the head's GCS.
        read: makes a value of Ray's description of a node.

    Raises:
        MachineError: the head does not answer, or Ray lacks this.
    """
    try:
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        return [read(info) for info in GcsClient(address=address).get_all_node_info(timeout=10).values()]
    except MISSING as error:
        raise MachineError(
            f"Ray {ray.__version__} lacks what geopipe asks the head of a cluster with: {error}",
            "pip install --require-hashes -r requirements.lock: geopipe is tested with that Ray",
        ) from None
    except Exception as error:  # RpcError, AuthenticationError and others
        raise MachineError(
            f"the head at {address} does not answer: {first_line(error)}", "end it: `geopipe cluster down --force`"
        ) from None


# ---------------------------------------------------------------- the client for jobs


def ray_of_cluster(client: Any) -> str:
    """The version of Ray in the cluster of a client for jobs.

    Without it our own: Ray itself then reports what does not fit.
    """
    return getattr(client, "_server_ray_version", None) or ray.__version__


def session_of_head(client: Any) -> str:
    """The folder of the head's session, by a client for jobs; it is on this machine if the head is.

    Without it "": a job is then started by the `geopipe` of the cluster's PATH.

    Raises:
        Exception: the head does not answer; whatever Ray raises.
    """
    try:
        ask = client._do_request
    except AttributeError:
        return ""
    with suppress(KeyError, TypeError):
        raylets = [node["raylet"] for node in ask("GET", "/nodes?view=summary").json()["data"]["summary"]]
        return next((str(raylet["sessionDir"]) for raylet in raylets if raylet.get("isHeadNode")), "")
    return ""


# ---------------------------------------------------------------- the cluster of a run


@contextmanager
def own_head(meanwhile: Callable[[], object]) -> Iterator[None]:
    """Start a lean head inside, whose processes have process groups of their own; Ray has no options for it.

    `meanwhile` is called, in this thread, while the processes start. Without it Ray starts as usual, which takes some
    seconds more, and `meanwhile` is called at the end.

    A terminal that closes, or `timeout`, signals our group. If Ray's processes ended with it, its core would end this
    process without a message. On Linux alone Ray's processes end when their parent does; elsewhere Ray ends them by
    our group, so they stay in it.
    """
    waiting = [meanwhile]
    with ExitStack() as stack:
        with suppress(*MISSING):
            from ray._private import node, services

            stack.enter_context(_replaced(node, "Node", partial(_lean_head, waiting)))
            if sys.platform == "linux":
                stack.enter_context(_replaced(services, "ConsolePopen", _in_own_group))
        yield
    for call in waiting:
        call()


def _lean_head(waiting: list[Callable[[], object]], usual: Any) -> Any:
    class Head(usual):  # type: ignore[misc]
        """A head without autoscaler and API server: a run adds no nodes, and has no dashboard.

        Both ignore the signal by which Ray ends them, and Ray waits a second for each.
        """

        def start_monitor(self, *args: Any, **options: Any) -> None:
            """Start no autoscaler."""

        def start_api_server(self, *args: Any, **options: Any) -> None:
            """Start no API server, which Ray would wait for."""
            self._webui_url = ""

        def start_ray_processes(self, *args: Any, **options: Any) -> None:
            """Start the processes of the node, and wait until the raylet is there: Ray looks once a second only."""
            super().start_ray_processes(*args, **options)
            import ray.data  # noqa: F401 - takes a third of the time

            while waiting:
                waiting.pop()()
            with suppress(*MISSING):
                client, end = self.get_gcs_client(), time.monotonic() + PATIENCE
                while not client.get_all_node_info(timeout=PATIENCE) and time.monotonic() < end:
                    time.sleep(0.02)

    return Head


def _in_own_group(usual: Any) -> Any:
    class Process(usual):  # type: ignore[misc]
        """A process of Ray in a process group of its own."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, process_group=0, **options)

    return Process


@contextmanager
def _replaced(module: Any, name: str, replacement: Callable[[Any], Any]) -> Iterator[None]:
    """Replace what a module has under a name by what is made of it, inside.

    Raises:
        AttributeError: the module has no such thing.
    """
    usual = getattr(module, name)
    setattr(module, name, replacement(usual))
    try:
        yield
    finally:
        setattr(module, name, usual)


class _Nobody:
    """Stands for an actor whose answers nobody needs: takes each call, and does nothing."""

    def __getattr__(self, name: str) -> _Nobody:
        return self

    def remote(self, *args: Any, **options: Any) -> None:
        """Do nothing."""


@contextmanager
def lean_data() -> Iterator[None]:
    """Have Ray Data neither ask for nodes inside nor keep statistics for a dashboard: each takes a process.

    For a cluster of our own, which has neither autoscaler nor dashboard. Without it, these processes start.
    """
    with ExitStack() as stack:
        with suppress(*MISSING):
            from ray.data._internal import stats

            stack.enter_context(_replaced(stats, "get_or_create_stats_actor", lambda usual: _Nobody))
        with suppress(*MISSING):
            from ray.data._internal.execution import streaming_executor

            autoscaler = _fixed_size()
            stack.enter_context(_replaced(streaming_executor, "create_cluster_autoscaler", lambda usual: autoscaler))
        yield


def _fixed_size() -> Any:
    """A class of Ray Data that asks for no nodes.

    Raises:
        ImportError: Ray has no such class.
        TypeError: it has methods that ours lacks.
    """
    from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
    from ray.data._internal.execution.interfaces import ExecutionResources

    resources: ExecutionResources = ExecutionResources.from_resource_dict(ray.cluster_resources())

    class FixedSize(ClusterAutoscaler):
        def __init__(self, *args: object, **options: object) -> None:
            """Take what Ray Data knows of its work, and need none of it."""

        def try_trigger_scaling(self) -> None:
            """Ask for nothing."""

        def on_executor_shutdown(self) -> None:
            """Take nothing back."""

        def get_total_resources(self) -> ExecutionResources:
            """All resources of the cluster."""
            return resources

    FixedSize()
    return FixedSize
