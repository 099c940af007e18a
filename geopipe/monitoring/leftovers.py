"""Records that processes left on this node: delivered to the database, or deleted after a time."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path

from geopipe.monitoring.collector import open_collector
from geopipe.monitoring.home import claim
from geopipe.monitoring.options import MonitoringOptions
from geopipe.monitoring.shipping import Deliver, deliver_lines
from geopipe.monitoring.spool import PRESENT, files, is_alive, lines_of, living, source_of

log = logging.getLogger(__name__)

OVER = "over"
"""File in a spool folder that tells the processes of this node that the run is over."""

KEPT_SECONDS = 14 * 86_400.0
"""Age at which records that never arrived are deleted."""

KEPT_BYTES = 256 * 2**20
"""Bytes of such records that are kept, of the newest runs first."""


def deliver_leftovers(
    options: MonitoringOptions, seconds: float, deliver: Deliver | None = None, other_runs: bool = True
) -> None:
    """Deliver what is left on this node: all records of this run, and those of dead processes of other runs.

    Args:
        seconds: time limit.
        deliver: receives the records of this run; None for the database. Those of other runs go to the database.
    """
    end = time.monotonic() + seconds
    with suppress(OSError):  # the folder may belong to another user
        claim(options.root)
        for folder in sorted(options.root.glob("*"), key=lambda p: p != options.folder):
            ours = folder == options.folder
            # without a database, records of other runs would be counted and deleted, and kept nowhere
            if not ours and not (other_runs and options.database and time.monotonic() <= end and folder.is_dir()):
                continue
            # no warning: the processes that write records warn
            collector = open_collector(replace(options, run_id=folder.name), serve=False, warns=False)
            with closing(collector):
                send = deliver if ours and deliver is not None else collector.receive
                deliver_folders([folder], send, options.batch_size, max(end - time.monotonic(), 0.1), living=ours)


def deliver_folders(
    folders: Iterable[Path], deliver: Deliver, batch_size: int, seconds: float, living: bool = False
) -> int:
    """Deliver the records of dead processes of this node. Returns the number of processes with nothing left.

    Args:
        folders: spool folders, one for each run.
        seconds: time limit.
        living: deliver the records of living processes, too; these will send them again.
    """
    end, done = time.monotonic() + seconds, 0
    for folder in folders:
        for source, paths in groupby(files(folder, "*.jsonl"), source_of):
            alive = source is not None and is_alive(folder, source)
            if source is None or (alive and not living):
                continue
            send = partial(deliver_lines, deliver, source)
            arrived = _deliver_files(list(paths), send, batch_size, end, keep=alive)
            if arrived is None:
                return done
            done += arrived
        reporters = filter(None, map(source_of, files(folder, f"*{PRESENT}")))
        if not any(is_alive(folder, source) for source in reporters) and not files(folder, "*.jsonl"):
            shutil.rmtree(folder, ignore_errors=True)
    return done


def _deliver_files(
    paths: Sequence[Path], deliver: Callable[..., int | None], batch_size: int, end: float, keep: bool
) -> bool | None:
    """Deliver the files of one source until the time `end`; delete each file that has arrived, unless `keep`.

    Returns:
        whether all records arrived (others were at least counted); None if the receiver is away or time is up.
    """
    lines, left, arrives = lines_of(paths), [] if keep else list(paths), True
    while batch := list(islice(lines, batch_size)):
        seq = None if time.monotonic() > end else deliver(batch, keep=arrives)
        if seq is None:
            return None
        arrives = arrives and seq >= batch[-1].seq
        while arrives and left and left[0] != batch[-1].path:
            left.pop(0).unlink(missing_ok=True)
    for path in left if arrives else ():
        path.unlink(missing_ok=True)
    return arrives


def release_workers(options: MonitoringOptions, seconds: float) -> None:
    """Tell the workers of this node that their run is over, and wait until they have left it, or for `seconds`."""
    with suppress(OSError):
        claim(options.root)
        (options.folder / OVER).touch(mode=0o600)
        end = time.monotonic() + seconds
        while time.monotonic() < end and living(options.folder):
            time.sleep(0.02)


def delete_spool(options: MonitoringOptions) -> None:
    """Delete the records of a finished run that no database receives."""
    if not options.database:
        shutil.rmtree(options.folder, ignore_errors=True)


def prune_spools(options: MonitoringOptions) -> None:
    """Delete records of earlier runs older than KEPT_SECONDS, then the oldest beyond KEPT_BYTES; none in use."""
    with suppress(OSError):
        claim(options.root)
        spools = []
        for folder in options.root.iterdir():
            if folder.is_dir() and folder != options.folder and not living(folder):
                stats = [file.stat() for file in folder.iterdir()]
                newest = max(file.st_mtime for file in (folder.stat(), *stats))
                spools.append((newest, sum(file.st_size for file in stats), folder))
        total = 0
        for newest, size, folder in sorted(spools, reverse=True):
            total += size
            if total > KEPT_BYTES or time.time() - newest > KEPT_SECONDS:
                log.info("deleted %s bytes of records of run %s, which never arrived", size, folder.name)
                shutil.rmtree(folder, ignore_errors=True)
