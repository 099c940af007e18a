"""The Ray cluster of a run: the one that exists, or one of our own that ends with the run."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import ray

from geopipe import machine
from geopipe.engine import address as addresses
from geopipe.engine import internals, nodes
from geopipe.engine.guard import Guard, guarded, last_word
from geopipe.errors import MachineError
from geopipe.events.emit import emit
from geopipe.events.records import RAY_STARTS, Event
from geopipe.plan.estimate import DRIVER_BYTES, Machine, NodeLimits

VARIABLES = ("RAY_AUTH_MODE", "RAY_IGNORE_UNHANDLED_ERRORS", "RAY_USAGE_STATS_ENABLED", addresses.IDLE_WORKERS)
"""Environment variables that `connect` sets where they are missing."""

_guards: list[Guard] = []
"""The guard of the cluster that a block of `cluster` has joined or started, for the blocks inside."""


@contextmanager
def cluster(address: str | None, object_store: int, meanwhile: Callable[[], object] = lambda: None) -> Iterator[Guard]:
    """A Ray cluster, with its guard: the session of this process, else one joined or started for the block.

    A session that was there before is left as it was.

    Args:
        address: of the cluster; None for RAY_ADDRESS, else one of our own.
        object_store: bytes of shared memory of a cluster of our own.
        meanwhile: called while the processes of a cluster of our own start; it raises nothing.

    Raises:
        MachineError: there is no cluster at the address, ours does not start, or Ray would unpickle what is stored.
    """
    addresses.refuse_unsafe()
    with ExitStack() as stack:
        # Ray Data logs an error with its whole stack; the user sees it once, as our error
        logger = logging.getLogger("ray.data")
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)
        if ray.is_initialized():
            yield _guards[-1] if _guards else stack.enter_context(guarded())
            return
        farewell = stack.enter_context(last_word())
        address = addresses.requested(address)
        for name in VARIABLES:
            if name not in os.environ:
                stack.callback(os.environ.pop, name, None)
        emit(Event(RAY_STARTS))
        starting = stack.enter_context(guarded(True, farewell)) if address == "local" else None
        try:
            with starting.armed() if starting else nullcontext():
                connect(address, object_store, meanwhile)
        except MachineError:
            if starting is not None:
                starting.abandon()
            raise
        guard = starting or stack.enter_context(guarded(False, farewell))
        if starting is not None:
            stack.enter_context(internals.lean_data())
        _guards.append(guard)
        stack.callback(_guards.remove, guard)
        try:
            yield guard
        finally:
            if not guard.look():
                _join_executors(5.0)
            guard.shutdown()


def connect(address: str | None, object_store: int, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Join the cluster at an address (None: RAY_ADDRESS), or start one of our own, as the Ray session of this process.

    The arguments are those of `cluster`.

    Raises:
        MachineError: there is no cluster at the address, or ours does not start.
    """
    address = addresses.requested(address)
    _check_port(address)
    resolved = internals.resolved(address)
    addresses.use_token(resolved)
    if address != "local":
        addresses.check_token(resolved)
    internals.read_environment()
    # Ray Data does not wait for answers to its statistics; without this Ray prints an error if their actor dies
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    own: dict[str, Any] = {}
    if address == "local":
        addresses.create_token()
        addresses.keep_workers(os.environ)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        own = {"num_cpus": machine.cpus(), "object_store_memory": object_store, "include_dashboard": False}
    on_term = signal.getsignal(signal.SIGTERM)

    def take_back() -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_term)  # Ray takes it, and would exit with a code of its own

    def beside() -> None:
        take_back()
        meanwhile()

    try:
        with internals.own_head(beside) if own else nullcontext():
            ray.init(address, logging_level=logging.ERROR, **own)
    except MachineError:
        raise
    except Exception as error:  # Ray raises whatever its start scripts met: there is no cluster
        raise MachineError(
            f"no Ray cluster at {address!r}: {error}", "start one, or unset engine.address and RAY_ADDRESS"
        ) from error
    take_back()


def _join_executors(seconds: float) -> None:
    """Wait for the threads of Ray Data: one that needs Ray after its shutdown would end this process."""
    end = time.monotonic() + seconds
    for thread in threading.enumerate():
        if thread.name.startswith("StreamingExecutor-"):
            thread.join(timeout=max(end - time.monotonic(), 0))


def _check_port(address: str) -> None:
    """Refuse host:port at once if no GCS can be there; Ray itself would try for minutes."""
    if addresses.is_http(address):
        raise MachineError(
            f"{address} takes jobs, and no process can join a cluster there",
            "give host:port of the head (its GCS, by default at port 6379), or let `geopipe run` submit a job",
        )
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise MachineError(
                f"no Ray cluster at {address!r}: {error}", "start one, or correct engine.address or RAY_ADDRESS"
            ) from None
        if addresses.answers_http(address):
            raise MachineError(
                f"no process can join a cluster at {address}: a web server answers there, such as Ray's dashboard",
                f"submit a job to it (http://{address}), or give host:port of the head's GCS, by default at port 6379",
            )


@contextmanager
def joined(address: str | None, machine: Machine, workers: int | None = None) -> Iterator[Machine]:
    """Join the cluster that exists, and yield what its nodes offer.

    Args:
        address: of the cluster; None for RAY_ADDRESS.
        machine: this machine, within the limits of the settings.
        workers: of the run; None for one for each processor of the nodes.

    Raises:
        MachineError: no node can run work, and the cluster is not said to grow.
    """
    with cluster(address, machine.object_store) as guard:
        with guard.armed():
            offer = _cluster_machine(machine, workers)
        yield offer


def _cluster_machine(machine: Machine, workers: int | None) -> Machine:
    """The machine that the nodes with CPUs and the labels make; a head without CPUs runs no work.

    Object stores count as the smallest one: waves of a shuffle spread evenly over the nodes.
    """
    able = [
        NodeLimits(cpus, int(node.resources.get("memory", 0)), int(node.resources.get("object_store_memory", 0)))
        for node in nodes.alive()
        if (cpus := node.resources.get("CPU", 0)) and nodes.matches(node.labels, dict(machine.labels))
    ]
    if not able and not machine.most_workers:
        labels = ", ".join(f"{key} = {value}" for key, value in machine.labels)
        raise MachineError(
            f"no node of the Ray cluster can run work: none has CPUs{f' and the labels {labels}' if labels else ''}",
            "add nodes, correct engine.label_selector, or give engine.max_workers if the cluster grows by itself",
        )
    if not able:
        return replace(machine, cpus=1, workers=workers or 1)
    cpus = max(1, int(sum(node.cpus for node in able)))
    return replace(
        machine,
        cpus=cpus,
        workers=workers or cpus,
        memory=sum(node.memory for node in able) + DRIVER_BYTES,  # the driver's own is on the head
        object_store=len(able) * min(node.object_store for node in able),
        nodes=tuple(able),
    )
