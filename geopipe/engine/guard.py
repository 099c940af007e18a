"""Notice the loss of a run's Ray cluster at once: Ray reports nothing for a minute, and then ends the process."""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context

import psutil
import ray

from geopipe.errors import MachineError
from geopipe.events.emit import emit
from geopipe.events.records import State
from geopipe.monitoring import requests

EVERY = 0.5
"""Seconds between two checks."""

PATIENCE = 30.0
"""Seconds for which the head of somebody else's cluster may be away: it may be restarted."""

GRACE = 10.0
"""Seconds that an interrupted run has to return from Ray's core, which may wait for its head."""

FAREWELL = 20.0
"""Seconds that Ray has to end its processes, on a busy machine."""

HINT = "see Ray's logs in /tmp/ray/session_latest/logs; `geopipe run --resume` goes on"

LAST_WORD = f"""error: the process of the run was ended: it was killed, or Ray's core lost its raylet or object store
  hint: {HINT}
"""

abandoned = threading.Event()
"""Set if Ray cannot be shut down any more: this process must end without calling it."""

_farewells: list[Callable[[], object]] = []
"""Those of `last_word` that wait until an error has been printed."""


class Guard:
    """Guards the processes of Ray that we start, or the head of a cluster that existed before.

    Args:
        starts: whether this process starts the cluster, and is not connected yet.
        farewell: called before this process is ended.
    """

    def __init__(self, starts: bool, farewell: Callable[[], object]) -> None:
        self._farewell = farewell
        self.others = set(psutil.Process().children()) if starts else None
        self.heads: dict[str, psutil.Process] = {}
        self.address: str = "" if starts else ray.get_runtime_context().gcs_address
        self.lost = ""
        self._answered = time.monotonic()
        self._armed, self._disarmed, self._interrupted = False, threading.Event(), False

    def look(self, patience: float = 0.0) -> str:
        """Check the cluster, and return what is lost; "" if nothing is.

        Args:
            patience: seconds for which the head of somebody else's cluster may be away.
        """
        for process in self._started():
            if (name := _name(process)) in ("gcs_server", "raylet"):
                self.heads.setdefault(name, process)
        gone = [name for name, process in self.heads.items() if _is_gone(process)]
        if gone:
            self.lost = f"Ray's {' and '.join(gone)} died on this machine"
        elif self.others is not None or _answers(self.address):
            self._answered = time.monotonic()
        elif time.monotonic() - self._answered >= patience:
            self.lost = f"the head of the Ray cluster at {self.address} does not answer"
        return self.lost

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Interrupt the main thread inside, as a signal would, when the cluster is lost.

        Raises:
            MachineError: the cluster was lost.
        """
        self._armed = True
        self._disarmed.clear()
        try:
            yield
        except BaseException as error:
            if self._interrupted or (isinstance(error, Exception) and self.look()):
                raise MachineError(self.lost, HINT) from error
            raise
        finally:
            self._armed = False
            self._disarmed.set()

    def wait(self, work: Callable[[], object], seconds: float) -> None:
        """Call Ray in a thread, and wait `seconds` at most, and only while the cluster lives; ignore errors.

        Ray's core waits for a head that has just died, and cannot be interrupted there.
        """
        if self.look():
            return
        thread, end = in_thread(work), time.monotonic() + seconds
        while thread.is_alive() and time.monotonic() < end and not self.look():
            thread.join(EVERY)

    def shutdown(self) -> None:
        """Leave the cluster, and end those of its processes that we started."""
        if not self.look():
            thread = in_thread(ray.shutdown)
            thread.join(FAREWELL)
            if not thread.is_alive():
                return
        self.abandon()  # Ray would end this process

    def abandon(self) -> None:
        """Leave a lost cluster without calling it, and end those of its processes that we started."""
        abandoned.set()
        for process in self._started():
            with suppress(psutil.Error):
                process.kill()

    def watch(self, ended: threading.Event) -> None:
        """Check until `ended`, and interrupt the run once; end the process if Ray does not return."""
        while not ended.wait(EVERY):
            if self.look(PATIENCE) and self._armed and not self._interrupted:
                self._interrupted = True
                requests.interrupt()
                if not self._disarmed.wait(GRACE):
                    self._end()

    def _end(self) -> None:
        """Print the error and end the process, in which Ray's core waits for its head."""
        error = MachineError(self.lost, HINT)
        detail = {"type": "MachineError", "message": error.message, "hint": error.hint}
        emit(State("failed", {"exit_code": error.exit_code, "error": detail}))  # the next run delivers it
        with suppress(OSError):
            print(f"error: {error}", file=sys.stderr, flush=True)
        self.abandon()
        self._farewell()
        os._exit(error.exit_code)

    def _started(self) -> list[psutil.Process]:
        """Child processes that started after this guard."""
        if self.others is None:
            return []
        try:
            return [p for p in psutil.Process().children() if p not in self.others]
        except psutil.Error:  # some of them ended between two looks
            return []


@contextmanager
def last_word() -> Iterator[Callable[[], object]]:
    """Print an error if this process ends inside, which no Python code can see, without a call of the function yielded.

    Ray's core calls `_Exit` if its object store is gone when it is needed. A shell waits for a line from this process,
    and prints the error if the pipe closes without one.
    """
    shell = subprocess.Popen(
        ["/bin/sh", "-c", 'read -r line || printf %s "$0" >&2', LAST_WORD],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is not for it
    )

    def farewell() -> None:
        with suppress(OSError, ValueError):  # it may have ended, or heard the word already
            shell.communicate(b"done\n")

    try:
        yield farewell
    finally:
        if abandoned.is_set():  # the error is not printed yet, and Ray's core may end this process first
            _farewells.append(farewell)
        else:
            farewell()


@atexit.register
def say_farewell() -> None:
    """Say that the error of a lost cluster has been printed (see `last_word`)."""
    while _farewells:
        _farewells.pop()()


def in_thread(work: Callable[[], object]) -> threading.Thread:
    """Start `work` in a thread, in the context of this one; its errors are ignored."""

    def run() -> None:
        with suppress(Exception):
            work()

    thread = threading.Thread(target=copy_context().run, args=(run,), daemon=True)
    thread.start()
    return thread


@contextmanager
def guarded(starts: bool = False, farewell: Callable[[], object] = lambda: None) -> Iterator[Guard]:
    """Guard the cluster that this process is connected to, or starts; the arguments are those of Guard."""
    guard, ended = Guard(starts, farewell), threading.Event()
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
