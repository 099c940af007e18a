"""Records that processes left on this node: delivered to the database, or deleted after a time."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from itertools import groupby, islice
from pathlib import Path

from geopipe.monitoring.collector import open_archive, open_collector
from geopipe.monitoring.home import claim, write_private
from geopipe.monitoring.options import MonitoringOptions
from geopipe.monitoring.presence import PRESENT, is_alive, living
from geopipe.monitoring.shipping import Deliver, deliver_lines
from geopipe.monitoring.spool import SEQ, files, lines_of, source_of

log = logging.getLogger(__name__)

OVER = "over"
"""File in a spool folder that tells the processes of this node that the run is over."""

KEPT_SECONDS = 14 * 86_400.0
"""Age at which records that never arrived are deleted."""

KEPT_BYTES = 256 * 2**20
"""Bytes of such records that are kept, of the newest runs first."""


def deliver_own(options: MonitoringOptions, seconds: float, deliver: Deliver | None = None) -> None:
    """Deliver the records of a run that are left on this node, also those of its living processes.

    Args:
        seconds: time limit.
        deliver: receives the records; None for the database.
    """
    with suppress(OSError), ExitStack() as stack:  # the folder may belong to another user
        claim(options.root)
        if deliver is None:  # no warning: the processes that write records warn
            collector = stack.enter_context(closing(open_collector(options, serve=False, warns=False)))
            deliver = collector.receive
        deliver_folders([options.folder], deliver, options.batch_size, seconds, living=True)


def deliver_others(options: MonitoringOptions, seconds: float, deliver: Deliver | None = None) -> None:
    """Deliver what dead processes of other runs have left on this node, if a database receives it.

    Args:
        seconds: time limit.
        deliver: receives the records; None for the database.
    """
    if not options.database:  # the records would be deleted, and kept nowhere
        return
    with suppress(OSError), closing(open_archive(options)) as archive:
        claim(options.root)
        folders = sorted(folder for folder in options.root.iterdir() if folder.is_dir() and folder != options.folder)
        deliver_folders(folders, deliver or archive.receive, options.batch_size, seconds)


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
        _remove(folder)
    return done


def _remove(folder: Path) -> None:
    """Remove the folder of a run, unless records or living processes are in it. What comes meanwhile stays."""
    known = files(folder, "*")
    if not any(path.suffix == ".jsonl" or _is_alive(path) for path in known):
        with suppress(OSError):
            for path in known:
                path.unlink(missing_ok=True)
            folder.rmdir()


def _is_alive(path: Path) -> bool:
    """Whether a file is the mark of a living process."""
    source = source_of(path) if path.suffix == PRESENT else None
    return source is not None and is_alive(path.parent, source)


def _deliver_files(
    paths: Sequence[Path], deliver: Callable[..., int | None], batch_size: int, end: float, keep: bool
) -> bool | None:
    """Deliver the files of one source until the time `end`; delete what has arrived, unless `keep`.

    Returns:
        whether all records arrived (others were at least counted); None if the receiver is away or time is up.
    """
    lines, left, arrives, last = lines_of(paths), [] if keep else list(paths), True, 0
    while batch := list(islice(lines, batch_size)):
        seq = None if time.monotonic() > end else deliver(batch, keep=arrives)
        if seq is None:
            if left and last:
                _cut(left[0], last)
            return None
        arrives = arrives and seq >= batch[-1].seq
        last = batch[-1].seq if arrives else last
        while arrives and left and left[0] != batch[-1].path:
            left.pop(0).unlink(missing_ok=True)
    for path in left if arrives else ():
        path.unlink(missing_ok=True)
    return arrives


def _cut(path: Path, seq: int) -> None:
    """Remove the records up to a sequence number from a file, so that the next one goes on from there.

    By number, not by place: another process may have cut the file meanwhile.
    """
    with suppress(OSError):
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [text for text in lines if not ((number := SEQ.match(text)) and int(number[1]) <= seq)]
        write_private(path, b"".join(kept), sync=False)


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
