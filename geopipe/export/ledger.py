"""Receipts of a run at work. Every process writes its own durably, so that a run may die at any moment.

A journal is the file of one process: a receipt per line, behind its CRC-32. The last line of a process that died may
be torn, and a disk may damage any line. Such a line counts for nothing, and its tile is done again.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from geopipe.durable import sync_folder, write_error
from geopipe.export.tiles import CSV_PARTS, FORMATS, File, Receipt, write_tile
from geopipe.export.usage import Meter
from geopipe.grid.grid import Tile
from geopipe.merge.tile import Part
from geopipe.plan.plan import Plan

JOURNALS = "receipts"
"""Folder of the journals in a staging folder."""

TILE, BYTES = re.compile(rb'\{"tile": (\d+), '), re.compile(rb'"bytes": (\d+)')


class Journal:
    """The journal of this process: receipts of the tiles that it wrote. It is created for the first of them."""

    def __init__(self) -> None:
        self._file: TextIO | None = None
        self.meter = Meter()

    def append(self, folder: Path, receipt: Receipt) -> None:
        """Append a receipt durably to this process's journal in a staging folder."""
        journals = folder / JOURNALS
        # a run that starts over creates the folder anew
        if self._file is None or Path(self._file.name).parent != journals or not os.path.exists(self._file.name):
            self.close()
            name = f"{time.time_ns()}-{socket.gethostname()}-{os.getpid()}.jsonl"  # names sort by time
            try:
                self._file = open(journals / name, "a", encoding="utf-8")  # noqa: SIM115 - kept open
                sync_folder(journals)
            except OSError as error:
                raise write_error(error, journals / name) from error
        try:
            line = receipt.line()
            self._file.write(f"{zlib.crc32(line.encode()):08x} {line}")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise write_error(error, Path(self._file.name)) from error

    def close(self) -> None:
        """Close the journal; the next receipt opens another."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # a full disk: `append` has raised an error for the line
                file.close()


def finish_tile(plan: Plan, folder: str, chunk_size: int, tile: Tile, parts: Iterable[Part], journal: Journal) -> None:
    """Write a merged tile to the staging folder of a run, and its receipt to the journal.

    Args:
        chunk_size: rows to format as CSV at a time.
    """
    write_tile(plan, folder, chunk_size, tile, parts, partial(journal.append, Path(folder)))
    journal.meter.note(Path(folder))


def finisher(plan: Plan, folder: Path, chunk_size: int) -> partial[None]:
    """`finish_tile` for a plan, to be pickled to every worker."""
    return partial(finish_tile, plan, str(folder), chunk_size)


@dataclass(frozen=True)
class Ledger:
    """Where the newest receipt of each tile stands; the receipts themselves stay on disk.

    journal: (tiles,) int32, number of its journal, -1 without a receipt.
    offset: (tiles,) int64, its first byte there.
    size: (tiles,) int64, bytes of the files that it names.
    """

    journals: tuple[Path, ...]
    journal: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]

    @classmethod
    def read(cls, folder: Path, tiles: int) -> Ledger:
        """Read the journals of a staged run. A line that is no receipt of one of its tiles counts for nothing.

        Lines are searched and not parsed: with many tiles parsing takes far longer.

        Raises:
            OSError: a journal cannot be read, or is gone.
        """
        journals = tuple(sorted((folder / JOURNALS).glob("*.jsonl")))
        zeros = np.zeros(tiles, np.int64)
        ledger = cls(journals, np.full(tiles, -1, np.int32), zeros, zeros.copy())
        for number, path in enumerate(journals):
            offset = 0
            with open(path, "rb") as lines:
                for line in lines:
                    text = _text(line)
                    tile = TILE.match(text)
                    if tile and (key := int(tile[1])) < tiles:
                        ledger.journal[key], ledger.offset[key] = number, offset
                        ledger.size[key] = sum(map(int, BYTES.findall(text)))
                    offset += len(line)
        return ledger

    @property
    def done(self) -> NDArray[np.bool_]:
        """(tiles,) bool, whether there is a receipt."""
        return np.asarray(self.journal >= 0)

    def receipts(self) -> Iterator[Receipt]:
        """The receipts in the order of the tiles, one at a time."""
        files = [open(path, "rb") for path in self.journals]  # noqa: SIM115 - closed below
        try:
            for key in np.flatnonzero(self.done):
                file = files[self.journal[key]]
                file.seek(self.offset[key])
                yield Receipt.parse(_text(file.readline()))
        finally:
            for file in files:
                file.close()

    def intact(self, folder: Path) -> NDArray[np.bool_]:
        """(tiles,) bool, whether every file of the tile's receipt is there, with its size."""
        intact = self.done.copy()
        for receipt in self.receipts():
            intact[receipt.tile] = all(_is_whole(folder, file) for file in receipt.files)
        return intact


def _text(line: bytes) -> bytes:
    """The receipt of a line of a journal, or nothing if its checksum is wrong."""
    checksum, _, text = line.partition(b" ")
    return text if checksum == b"%08x" % zlib.crc32(text) else b""


def _is_whole(folder: Path, file: File) -> bool:
    """Whether a file of a receipt is in a folder of tiles, with its size."""
    parts = Path(file.path).parts
    try:
        return (
            ".." not in parts
            and parts[0] in (*FORMATS, CSV_PARTS)
            and os.stat(folder / file.path).st_size == file.bytes
        )
    except (OSError, ValueError, IndexError):
        return False


def ranges(keys: Iterable[int], most: int = 5) -> str:
    """Tiles for a message, such as "3, 5-9, 12"."""
    parts: list[list[int]] = []
    for key in keys:
        if parts and key == parts[-1][1] + 1:
            parts[-1][1] = key
        else:
            parts.append([key, key])
    shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts[:most])
    return shown + (f" and {len(parts) - most:,} more ranges" if len(parts) > most else "")


def differences(one: object, other: object, where: str = "") -> Iterator[str]:
    """The differences of two JSON values, each as "place: one -> other"."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            yield from differences(one.get(key), other.get(key), f"{where}.{key}" if where else key)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from differences(a, b, f"{where}[{index}]")
    elif one != other:
        yield f"{where}: {_short(one)} -> {_short(other)}"


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
