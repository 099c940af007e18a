"""How often work on a piece of a run has ended its process: a small file tells it while the work goes on.

Ray starts a process that died again, and without end: a raster that crashes GDAL would keep a run for ever. An error
of Python removes the file, and so does the end of the work; only a process that is ended leaves it.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from geopipe.errors import MachineError, SourceError

MOST = 3
"""Processes that a piece of work may end. A node that is lost takes its own from the count (`forget`)."""

HINT = (
    "a file that crashes GDAL, or too little memory for a worker: see Ray's logs and the kernel's; "
    'on_error = "skip" leaves out a layer that does it'
)


@dataclass(frozen=True)
class Tries:
    """Counts the processes that work has ended, in a folder that all nodes share; None counts nothing."""

    folder: Path | None = None

    def clear(self) -> None:
        """Begin to count."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)  # a worker of a run that was killed may have written there

    def forget(self, host: str) -> None:
        """Leave out the processes of a host that is lost: their work did not end them."""
        for path in self.folder.glob(f"*@{host}@*") if self.folder is not None else ():
            path.unlink(missing_ok=True)

    @contextmanager
    def at_work(self, work: str, place: str, layer: str = "") -> Iterator[Callable[[str], None] | None]:
        """Work on something inside.

        Args:
            work: names it, in a file name.
            place: names it in an error.
            layer: that is read; "" if that changes meanwhile.

        Yields:
            takes the name of the layer that is read from now on; None if nobody needs to know it, because this work has
            ended no process so far.

        Raises:
            SourceError: it has ended too many processes, always while the same layer was read.
            MachineError: it has ended too many processes.
        """
        if self.folder is None:
            yield None
            return
        ended = list(self.folder.glob(f"{work}@*"))
        if len(ended) >= MOST:
            raise _crashed(place, ended)
        own = self.folder / f"{work}@{socket.gethostname()}@{os.getpid()}-{time.time_ns()}"
        own.write_text(layer, encoding="utf-8")
        try:
            yield (lambda name: _note(own, name)) if ended and not layer else None
        finally:
            own.unlink(missing_ok=True)


def _note(path: Path, layer: str) -> None:
    path.write_text(layer, encoding="utf-8")


def _crashed(place: str, ended: list[Path]) -> SourceError | MachineError:
    hosts = sorted({path.name.split("@")[1] for path in ended})
    layers = set()
    for path in ended:
        with suppress(OSError):
            layers.add(path.read_text(encoding="utf-8"))
    message = f"{place} has ended its process {len(ended)} times, on {', '.join(hosts)}"
    if len(known := layers - {""}) == 1:
        (layer,) = known
        return SourceError(f"layer {layer}: reading it in {message}", HINT, layer)
    return MachineError(message, HINT)
