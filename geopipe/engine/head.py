"""The head of a run's own Ray cluster: only the processes that a run uses, and none that it waits for in vain."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import node, services

PATIENCE = 30.0
"""Seconds to wait for the raylet; then Ray waits as long again, and fails."""


class _Head(node.Node):
    """A head without autoscaler and API server: a run adds no nodes, and has no dashboard.

    Both ignore the signal by which Ray ends them, and Ray waits a second for each.

    Attributes:
        meanwhile: called while the raylet starts.
    """

    meanwhile: Callable[[], object]

    def start_monitor(self) -> None:
        """Start no autoscaler."""

    def start_api_server(self, **options: Any) -> None:
        """Start no API server, which Ray would wait for."""
        self._webui_url = ""

    def start_ray_processes(self) -> None:
        """Start the processes of the node, and wait until the raylet is registered: Ray looks once a second only."""
        super().start_ray_processes()
        import ray.data  # noqa: F401 - takes a third of the time

        self.meanwhile()
        client, end = self.get_gcs_client(), time.monotonic() + PATIENCE
        while not client.get_all_node_info(timeout=PATIENCE) and time.monotonic() < end:
            time.sleep(0.02)


class _Process(services.ConsolePopen):
    """A process of Ray in a process group of its own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, process_group=0, **options)


@contextmanager
def own_head(meanwhile: Callable[[], object]) -> Iterator[None]:
    """Start a lean head inside, whose processes have process groups of their own; Ray has no options for it.

    `meanwhile` is called, in this thread, while the processes start.

    A terminal that closes, or `timeout`, signals our group. If Ray's processes ended with it, its core would end this
    process without a message. On Linux alone Ray's processes end when their parent does; elsewhere Ray ends them by
    our group, so they stay in it.
    """
    before = node.Node, services.ConsolePopen
    node.Node = type("Head", (_Head,), {"meanwhile": staticmethod(meanwhile)})  # type: ignore[assignment, misc]
    if sys.platform == "linux":
        services.ConsolePopen = _Process  # type: ignore[misc]
    try:
        yield
    finally:
        node.Node, services.ConsolePopen = before  # type: ignore[misc]


class _Nobody:
    """Stands for an actor whose answers nobody needs: takes each call, and does nothing."""

    def __getattr__(self, name: str) -> _Nobody:
        return self

    def remote(self, *args: Any, **options: Any) -> None:
        """Do nothing."""


@contextmanager
def lean_data() -> Iterator[None]:
    """Have Ray Data neither ask for nodes inside nor keep statistics for a dashboard: each takes a process.

    For a cluster of our own, which has neither autoscaler nor dashboard.
    """
    from ray.data._internal import stats
    from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
    from ray.data._internal.execution import streaming_executor
    from ray.data._internal.execution.interfaces import ExecutionResources

    class FixedSize(ClusterAutoscaler):
        def __init__(self, *args: object, **options: object) -> None:
            self._resources: ExecutionResources = ExecutionResources.from_resource_dict(ray.cluster_resources())

        def try_trigger_scaling(self) -> None:
            """Ask for nothing."""

        def on_executor_shutdown(self) -> None:
            """Take nothing back."""

        def get_total_resources(self) -> ExecutionResources:
            """All resources of the cluster."""
            return self._resources

    data: Any = streaming_executor
    before = data.create_cluster_autoscaler, stats.get_or_create_stats_actor
    data.create_cluster_autoscaler, stats.get_or_create_stats_actor = FixedSize, _Nobody  # type: ignore[assignment]
    try:
        yield
    finally:
        data.create_cluster_autoscaler, stats.get_or_create_stats_actor = before
