"""Processes that carry a mark in their environment: those of a cluster of our own, and all that they start."""

from __future__ import annotations

import os
import time
from contextlib import suppress

import psutil

MARK = "GEOPIPE_HEAD"
"""Environment variable of every process of our own cluster, and of no other process."""

PATIENCE = 5.0
"""Seconds that processes have to end by themselves; Ray's dashboard and autoscaler take no notice of SIGTERM."""


def marked(mark: str) -> list[psutil.Process]:
    """The living processes of this user with this mark, and their descendants, without this one and its parents.

    Ray's agents write their titles over their environment: they are known as children of a raylet.
    """
    ours = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    processes: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                processes |= {process, *process.children(recursive=True)}
    return [process for process in processes if process.pid not in ours and lives(process)]


def end(mark: str) -> int:
    """End every process with this mark, SIGTERM first, also those that start meanwhile; return how many ended."""
    ended: set[psutil.Process] = set()
    deadline = time.monotonic() + PATIENCE
    while processes := {*marked(mark), *filter(lives, ended)}:
        for process in processes:
            with suppress(psutil.Error):
                if process not in ended:
                    process.terminate()
                elif time.monotonic() > deadline:
                    process.kill()
        ended |= processes
        psutil.wait_procs(processes, timeout=0.2)
        if time.monotonic() > deadline + PATIENCE:
            break
    return len(ended)


def lives(process: psutil.Process) -> bool:
    """Whether a process is at work, and no zombie."""
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
