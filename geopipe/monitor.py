"""The monitoring actor: it collects what the workers of a run report."""

from __future__ import annotations

from collections.abc import Callable

import ray
from ray.actor import ActorHandle

from geopipe.events import Progress, Tally


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=1)
class Monitor:
    """Adds up progress. It holds no CPU, and a run goes on without it."""

    def __init__(self) -> None:
        self.tally = Tally()

    def add(self, item: Progress) -> None:
        self.tally.add(item)

    def snapshot(self) -> dict[str, Progress]:
        """Progress by stage so far."""
        return self.tally.stages


def reporter(monitor: ActorHandle) -> Callable[[Progress], None]:
    """A sink for `events.subscribe` that sends records to the actor without waiting for it."""

    def send(item: Progress) -> None:
        monitor.add.remote(item)

    return send
