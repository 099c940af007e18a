"""A function over many tiles of a finished table, by threads of this process or by tasks of Ray, in a fixed order.

Work for analyses: what comes back for a tile is small, or was written by the function itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, Literal, Protocol, TypeVar

from geopipe import machine
from geopipe.engine import address as addresses
from geopipe.errors import RunError, find, first_line

Result = TypeVar("Result")

Kind = Literal["auto", "ray", "local"]

OBJECT_STORE = 256 * 2**20
"""Bytes of shared memory of a cluster that is started for passes alone: only small results are in it."""


class Passes(Protocol):
    """Calls functions with the keys of tiles."""

    def map(self, function: Callable[[int], Result], keys: Sequence[int]) -> Iterator[Result]:
        """The results in the order of the keys, whoever is done first. An error of the function ends it."""


@contextmanager
def passes(kind: Kind = "auto", address: str | None = None, workers: int | None = None) -> Iterator[Passes]:
    """What executes passes: threads of this process, or Ray.

    Args:
        kind: "auto" takes Ray where a cluster exists; a cluster of our own would be no faster than threads.
        address: of the cluster; None for RAY_ADDRESS.
        workers: how many tiles are worked on at a time; None for one for each processor.

    Raises:
        MachineError: there is no cluster at the address, or ours does not start.
    """
    if kind == "local" or (kind == "auto" and not addresses.existing(address)):
        yield _Threads(workers or machine.cpus())
        return
    from geopipe.engine.cluster import cluster

    with cluster(address, OBJECT_STORE) as guard, guard.armed():
        yield _Tasks(workers)


class _Threads:
    def __init__(self, workers: int) -> None:
        self.workers = workers

    def map(self, function: Callable[[int], Result], keys: Sequence[int]) -> Iterator[Result]:
        with ThreadPoolExecutor(self.workers, "pass") as pool:
            try:
                futures = (pool.submit(copy_context().run, function, key) for key in keys)
                yield from _in_order(futures, self.workers, lambda future: future.result())
            finally:
                pool.shutdown(cancel_futures=True)


class _Tasks:
    def __init__(self, workers: int | None) -> None:
        import ray

        self.workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def map(self, function: Callable[[int], Result], keys: Sequence[int]) -> Iterator[Result]:
        import ray

        shared = ray.put(function)
        task = ray.remote(num_cpus=1, max_retries=3, scheduling_strategy="SPREAD")(_call)
        try:
            yield from _in_order((task.remote(shared, key) for key in keys), self.workers, ray.get)
        except ray.exceptions.RayError as error:
            ours = find(error) or RunError(f"a task of Ray failed: {first_line(error)}", "see Ray's logs")
            raise ours from error


def _call(function: Callable[[int], Any], key: int) -> Any:
    result = function(key)
    machine.release_memory()
    return result


def _in_order(work: Iterable[Any], workers: int, result: Callable[[Any], Any]) -> Iterator[Any]:
    """Results in the order of the work, which starts when it is taken: twice as much at a time as there are workers."""
    running: deque[Any] = deque()
    for started in work:
        running.append(started)
        if len(running) >= 2 * workers:
            yield result(running.popleft())
    while running:
        yield result(running.popleft())
