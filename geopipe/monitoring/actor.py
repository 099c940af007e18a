"""The monitoring actor: the run's collector in a process of its own on the head node. Nothing waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from geopipe.events.records import Progress
from geopipe.monitoring.collector import Collector, open_archive, open_collector
from geopipe.monitoring.options import MonitoringOptions
from geopipe.monitoring.shipping import Deliver

PATIENCE = 10.0
"""Seconds that a process waits for the actor before it keeps its records and tries again."""


class Monitor:
    """Receives the records of every process of a run. It reserves no CPU, and a run goes on without it."""

    def __init__(self, options: MonitoringOptions) -> None:
        self.collector: Collector = open_collector(options)
        self.archive: Collector = open_archive(options)

    def receive(self, source: str, lines: Sequence[str], keep: bool = True) -> int:
        """Take a batch, as `Collector.receive`."""
        return self.collector.receive(source, lines, keep)

    def receive_other(self, source: str, lines: Sequence[str], keep: bool = True) -> int:
        """Take a batch of another run, which died, and which this run does not count."""
        return self.archive.receive(source, lines, keep)

    def close(self, wait: float) -> None:
        """Close, after at most `wait` seconds for a last scrape of Prometheus."""
        self.archive.close()
        self.collector.close(wait)

    def stages(self) -> dict[str, Progress]:
        """Progress by stage."""
        return self.collector.stages()


def start(options: MonitoringOptions) -> ActorHandle:
    """Start the monitor of a run on the node of its driver, which is the head node for a job: it knows the database.

    Not `soft`: an actor without a CPU would then come to any node.
    """
    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(Monitor)
    name = f"monitor-{options.run_id}"
    named = actor.options(name=name, namespace="geopipe", scheduling_strategy=node, max_concurrency=8)
    return cast(ActorHandle, named.remote(options))


def deliver(monitor: ActorHandle, seconds: float = PATIENCE, other: bool = False) -> Deliver:
    """The function that delivers records to the actor; it raises if the actor does not answer in time.

    It does not wait inside Ray's core, as `ray.get` does: Ray may end this process meanwhile, and its core would abort.

    Args:
        other: whether the records are of another run.
    """

    def send(source: str, lines: Sequence[str], keep: bool = True) -> int:
        receive: Any = monitor.receive_other if other else monitor.receive
        answer: Any = receive.remote(source, lines, keep)
        return cast(int, answer.future().result(seconds))

    return send
