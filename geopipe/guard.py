"""Notices that the Ray cluster of a run is lost. Ray itself says nothing for a minute, and then ends the process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil
import ray

from geopipe import requests
from geopipe.errors import MachineError

EVERY = 0.5
"""Seconds between two looks."""

PATIENCE = 30.0
"""Seconds for which the head of a cluster that we did not start may be away: it may be started again."""

abandoned = threading.Event()
"""Set where Ray cannot be shut down any more: this process must end without asking it."""


class Guard:
    """Looks after Ray's head, and after its processes where we have started them."""

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self.processes = processes
        self.heads = {name: p for p in processes if (name := _name(p)) in ("gcs_server", "raylet")}
        self.address: str = ray.get_runtime_context().gcs_address
        self.lost = ""
        self._answered = time.monotonic()
        self._armed, self._interrupted = False, False

    def look(self, patience: float = 0.0) -> str:
        """What is lost; empty where nothing is.

        Args:
            patience: seconds for which the head of somebody else's cluster may be away.
        """
        gone = [name for name, process in self.heads.items() if _is_gone(process)]
        if gone:
            self.lost = f"Ray's {' and '.join(gone)} died on this machine"
        elif self.heads or _answers(self.address):
            self._answered = time.monotonic()
        elif time.monotonic() - self._answered >= patience:
            self.lost = f"the head of the Ray cluster at {self.address} does not answer"
        return self.lost

    @contextmanager
    def armed(self) -> Iterator[None]:
        """End what the main thread does inside, as a signal would, when the cluster is lost.

        Raises:
            MachineError: it was.
        """
        self._armed = True
        try:
            yield
        except BaseException as error:
            if self._interrupted or (isinstance(error, Exception) and self.look()):
                raise MachineError(
                    self.lost, "see Ray's logs in /tmp/ray/session_latest/logs; `geopipe run --resume` goes on"
                ) from error
            raise
        finally:
            self._armed = False

    def abandon(self) -> None:
        """Leave a cluster that is lost without asking it; what we have started of it ends."""
        abandoned.set()
        for process in self.processes:
            with suppress(psutil.Error):
                process.kill()

    def watch(self, ended: threading.Event) -> None:
        """Look again and again, and interrupt the run once."""
        while not ended.wait(EVERY):
            if self.look(PATIENCE) and self._armed and not self._interrupted:
                self._interrupted = True
                requests.cancel()


@contextmanager
def guarded(processes: Sequence[psutil.Process] = ()) -> Iterator[Guard]:
    """A guard of the cluster that this process is connected to.

    Args:
        processes: Ray's, where we have started them.
    """
    guard, ended = Guard(processes), threading.Event()
    threading.Thread(target=guard.watch, args=(ended,), daemon=True).start()
    try:
        yield guard
    finally:
        ended.set()


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


def _is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return True


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True
