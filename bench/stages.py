"""Processor time of the stages of a run in this process: read, resample, merge, write.

    python bench/stages.py FOLDER OUTPUT     # runs FOLDER/settings.toml

Thread time around each stage, so that stages in several threads count, too. Prints seconds as JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import geopipe
from geopipe.engine.local import finish_tiles
from geopipe.engine.strips import Read
from geopipe.export.ledger import Journal
from geopipe.export.tiles import write_tile
from geopipe.grid.grid import Tile
from geopipe.layers.layer import Layer, Source
from geopipe.load import raster, tiles
from geopipe.merge.blocks import BlockRow, Column
from geopipe.merge.tile import Part
from geopipe.plan.plan import Plan
from geopipe.resample.methods import Window


class Stopwatch:
    """Processor seconds by stage. Time of a stage within another counts for the inner one."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._local = threading.local()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside for a stage."""
        outer = getattr(self._local, "inner", 0.0)
        self._local.inner, start = 0.0, time.thread_time()
        try:
            yield
        finally:
            took = time.thread_time() - start
            self.seconds[name] += took - self._local.inner
            self._local.inner = outer + took


class TimedReader:
    """Reads windows by another reader, as the stage `read`."""

    def __init__(self, reader: raster.Reader, watch: Stopwatch) -> None:
        self._reader, self._watch = reader, watch

    def read_window(self, layer: Layer, source: Source, index: int, window: Window) -> Column:
        with self._watch.stage("read"):
            return self._reader.read_window(layer, source, index, window)

    def close(self) -> None:
        self._reader.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    watch, start = Stopwatch(), time.process_time()
    plan = geopipe.plan(options.folder / "settings.toml")
    watch.seconds["plan"] = time.process_time() - start
    shutil.rmtree(options.output, ignore_errors=True)
    (options.output / "parquet").mkdir(parents=True)

    def reads(plan: Plan, reader: raster.Reader) -> Read:
        def read(tile: Tile) -> Iterator[BlockRow]:
            rows = tiles.read_rows(plan, plan.rasters, tile, reader)
            while True:
                with watch.stage("resample"):
                    row = next(rows, None)
                if row is None:
                    return
                yield row

        return read

    def finish(tile: Tile, parts: Iterable[Part], _journal: Journal) -> None:
        with watch.stage("write"):  # waiting for the thread that reads takes no processor time
            write_tile(plan, str(options.output), 100_000, tile, parts)

    start = time.process_time()
    loop = finish_tiles(plan, plan.keys, finish, reads=reads, reader=lambda: TimedReader(raster.Readers(), watch))
    for _ in loop:
        pass
    run = time.process_time() - start
    watch.seconds["merge"] = run - sum(watch.seconds[name] for name in ("read", "resample", "write"))
    print(json.dumps({name: round(watch.seconds[name], 3) for name in ("plan", "read", "resample", "merge", "write")}))


if __name__ == "__main__":
    main()
