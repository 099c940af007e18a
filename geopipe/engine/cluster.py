"""The Ray cluster of a run: the one that exists, or one of our own that ends with the run."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import ray
from ray._raylet import Config  # type: ignore[attr-defined]

from geopipe import machine
from geopipe.engine import address as addresses
from geopipe.engine.guard import Guard, apart, guarded
from geopipe.errors import MachineError
from geopipe.events.emit import emit
from geopipe.events.records import RAY_STARTS, Event
from geopipe.plan.estimate import Machine


@contextmanager
def cluster(address: str | None, object_store_memory: int) -> Iterator[Guard]:
    """A Ray cluster: the one that is there, else one of our own that is stopped at the end; with its guard.

    There is one if this process is connected, or at `address`, or at RAY_ADDRESS.

    Raises:
        MachineError: there is none at the address, or it does not start.
    """
    # what Ray Data logs of an error, with its whole stack, reaches the user once, as our error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        with guarded() as guard:
            yield guard
        return
    address = addresses.requested(address)
    _reach(address)
    emit(Event(RAY_STARTS))
    addresses.use_token(address)
    Config.initialize("")  # as Ray does it itself: what the environment said was read when Ray was imported
    if address == "local":
        addresses.create_token()
    # of calls whose answer nobody waits for: Ray Data's statistics, of which a dead actor forgets all that it was told
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    own: dict[str, Any] = {}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        own = {"num_cpus": machine.cpus(), "object_store_memory": object_store_memory, "include_dashboard": False}
    on_term = signal.getsignal(signal.SIGTERM)
    with ExitStack() as stack:
        starting = stack.enter_context(guarded(starts=True)) if own else None
        try:
            with apart(), starting.armed() if starting else nullcontext():
                ray.init(address, logging_level=logging.ERROR, **own)
        except MachineError:
            if starting is not None:
                starting.abandon()
            raise
        except (
            Exception
        ) as error:  # Ray raises whatever its start scripts met: all of it means that there is no cluster
            raise MachineError(
                f"no Ray cluster at {address!r}: {error}", "start one, or unset engine.address and RAY_ADDRESS"
            ) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_term)  # Ray takes it, and would exit with a code of its own
        guard = starting or stack.enter_context(guarded())
        try:
            yield guard
        finally:
            if not guard.look():
                _join_executors(5.0)
            guard.shutdown()


def _join_executors(seconds: float) -> None:
    """Wait for the threads of Ray Data, which ends a process at once in which one of them still wants Ray after it."""
    end = time.monotonic() + seconds
    for thread in threading.enumerate():
        if thread.name.startswith("StreamingExecutor-"):
            thread.join(timeout=max(end - time.monotonic(), 0))


def _reach(address: str) -> None:
    """Refuse host:port where nothing listens, at once; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise MachineError(
                f"no Ray cluster at {address!r}: {error}", "start one, or correct engine.address or RAY_ADDRESS"
            ) from None


@contextmanager
def joined(address: str | None, here: Machine) -> Iterator[Machine]:
    """The cluster that is there, joined, as what there is to run on; `here` has what the settings ask for."""
    with cluster(address, here.object_store) as guard:
        with guard.armed():
            there = _cluster_machine(here)
        yield there


def _cluster_machine(here: Machine) -> Machine:
    total = ray.cluster_resources()
    cpus = int(total.get("CPU", 1))
    return replace(
        here,
        cpus=cpus,
        workers=here.workers if here.workers != here.cpus else max(1, cpus),
        memory=int(total.get("memory", here.memory)),
        object_store=int(total.get("object_store_memory", here.object_store)),
    )
