"""What a run does when Ray loses processes or nodes: a shuffle ends, and what is left of it is done again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ray.exceptions

from geopipe.engine import nodes
from geopipe.engine.tries import Tries
from geopipe.errors import WorkersLost, causes, first_line

log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds between two looks at the nodes."""

LOSSES = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
)
"""What Ray raises when it has lost a process, a node, or what these held."""

HINT = "see Ray's dashboard and logs; the finished tiles are kept, and --resume goes on"

_lost: list[str] = []
"""The nodes that the run has lost since its shuffles began."""


def loss_of(error: BaseException) -> WorkersLost | None:
    """The loss behind an error; None if it is another error."""
    for cause in causes(error):
        if isinstance(cause, LOSSES):
            return WorkersLost(f"Ray has lost workers of the run: {first_line(cause)}", HINT)
    return None


def end_on_loss(context: Any) -> None:
    """Have the Datasets of a `DataContext` end at their next step once a node is lost.

    Ray would compute the block rows that the node held again, by tasks for which there may be no CPU: those that wait
    for the block rows hold them all. A Ray without such callbacks does so, until `execution_no_progress_timeout_s`.
    """
    with suppress(AttributeError):
        context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, EndOnLoss]


class EndOnLoss:
    """A callback of a Dataset's execution."""

    def on_execution_step(self, *args: Any) -> None:
        """Raise WorkersLost if a node is lost."""
        if _lost:
            raise WorkersLost(f"{_lost[0]} is lost", HINT)

    def __getattr__(self, name: str) -> Any:
        """Do nothing at any other event: another Ray may have more of them.

        Raises:
            AttributeError: the name is none of an event.
        """
        if name.startswith(("before_", "on_", "after_")):
            return lambda *args, **options: None
        raise AttributeError(name)


@contextmanager
def watching(tries: Tries) -> Iterator[None]:
    """Look at the nodes while the block runs. A node that is lost has no part in the count of `tries`."""
    _lost.clear()
    ended = threading.Event()
    threading.Thread(target=_look, args=(nodes.alive(), tries, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _look(known: Sequence[nodes.ClusterNode], tries: Tries, ended: threading.Event) -> None:
    while not ended.wait(EVERY):
        with suppress(Exception):  # a head that does not answer is the guard's matter
            living = nodes.alive()
            there = {node.id for node in living}
            for node in known:
                if node.id not in there and node.resources.get("CPU"):
                    log.warning("%s is lost: what it had not finished is done again", node)
                    tries.forget(node.name)
                    _lost.append(str(node))
            known = living
