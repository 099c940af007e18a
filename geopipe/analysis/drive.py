"""Drive a method to its committed results: its passes one after the other, over all tiles of the table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from geopipe.analysis.contract import Method, Pass, Reduce, Result, Subject, Tiles, Write
from geopipe.analysis.results import Analysis, committed
from geopipe.analysis.rows import chunks, fold
from geopipe.durable import replacing, write_error
from geopipe.engine.passes import Passes
from geopipe.errors import GeopipeError, RunError, first_line
from geopipe.events import logs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """How far a method is: `tile` of `tiles` in the pass with this title, the `number`th of the method."""

    method: str
    title: str
    number: int
    tile: int
    tiles: int


Watch = Callable[[Step], None]


def analyze(
    method: Method, subject: Subject, passes: Passes, folder: Path, watch: Watch = lambda step: None
) -> Analysis:
    """Run a method, and commit its results as `folder`/NAME.

    Earlier results of the method are replaced at the end, as a whole; after an error they are what they were.

    Args:
        folder: of all analyses of the table: OUTPUT/analysis.
        watch: called after each tile.

    Raises:
        SettingsError: the method does not fit the columns.
        RunError: it failed; the message says in which tile.
    """
    with logs.log_stage(log, f"analyze {method.name}"), committed(method, subject, folder) as staged:
        step: Pass | Result = method.prepare(subject)
        number = 0
        while not isinstance(step, Result):
            number += 1
            work = _Work(method.name, step, number, subject, staged.folder)
            step = step.finish(work.state(passes, watch))
        return staged.finish(step)


@dataclass(frozen=True)
class _Work:
    """A pass over tiles. Workers have it without its `finish`, which may hold much."""

    method: str
    step: Pass
    number: int
    subject: Subject
    folder: Path

    def state(self, passes: Passes, watch: Watch) -> Any:
        """The state of all tiles."""
        if isinstance(self.step, Write):
            (self.folder / self.step.name).mkdir()
        keys = self.subject.table.files.keys.tolist()
        sent = replace(self, step=replace(self.step, finish=_not_here))

        def states() -> Iterator[Any]:
            for tile, state in enumerate(passes.map(sent.tile, keys), 1):
                watch(Step(self.method, self.step.title, self.number, tile, len(keys)))
                if state is not None:
                    yield state

        return fold(states(), self.step.merge or _not_here)

    def tile(self, key: int) -> Any:
        """The state of one tile; None without rows."""
        files, step = self.subject.table.files, self.step
        try:
            if isinstance(step, Tiles):
                return step.map(key)
            parts = chunks(files, key, step.columns)
            if isinstance(step, Reduce):
                return fold((step.map(chunk) for chunk in parts), step.merge)
            return _write(step, parts, self.folder / step.name / f"{files.name(key)}.parquet")
        except GeopipeError:
            raise
        except Exception as error:
            raise RunError(
                f"{self.method} failed in tile {key} of {self.subject.table.output} ({step.title}): "
                f"{type(error).__name__}: {first_line(error)}",
                "the table is as it was; report it with the log",
            ) from error


def _not_here(*_: Any) -> Any:
    raise TypeError("a worker finishes no pass, and a pass without states merges none")


def _writer(sink: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of values by cell. Floats are split by byte, and cells are steps: plain ones take five times as long."""
    encodings = {"row": "DELTA_BINARY_PACKED", "col": "DELTA_BINARY_PACKED"}
    encodings |= {field.name: "BYTE_STREAM_SPLIT" for field in schema if pa.types.is_floating(field.type)}
    coded = [name for name in schema.names if name not in encodings]
    return pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=coded, column_encoding=encodings)


def _write(step: Write, parts: Iterator[pa.Table], path: Path) -> Any:
    """Write the rows of a tile, and return their state; None without one. A tile without rows has a file, too."""

    def states(writer: pq.ParquetWriter) -> Iterator[Any]:
        for chunk in parts:
            rows = step.map(chunk)
            writer.write_table(rows)
            if step.state is not None:
                yield step.state(rows)

    try:
        with replacing(path, sync=False) as sink, _writer(sink, step.schema) as writer:
            return fold(states(writer), step.merge or _not_here)
    except OSError as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise write_error(error, path) from error
