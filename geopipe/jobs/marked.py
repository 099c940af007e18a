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
    """The living processes of this user with this mark, without this one and its parents."""
    ours = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    processes = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            lives = process.pid not in ours and process.status() != psutil.STATUS_ZOMBIE
            if lives and process.environ().get(MARK) == mark:
                processes.append(process)
    return processes


def end(mark: str) -> int:
    """End every process with this mark, SIGTERM first, also those that start meanwhile; return how many ended."""
    ended: set[int] = set()
    deadline = time.monotonic() + PATIENCE
    while processes := marked(mark):
        for process in processes:
            with suppress(psutil.Error):
                if process.pid not in ended:
                    process.terminate()
                elif time.monotonic() > deadline:
                    process.kill()
        ended.update(process.pid for process in processes)
        psutil.wait_procs(processes, timeout=0.2)
        if time.monotonic() > deadline + PATIENCE:
            break
    return len(ended)
