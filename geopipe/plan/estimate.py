"""What a run needs, predicted before it starts, and refused where the machine does not have it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from geopipe.errors import MachineError, PlanError
from geopipe.grid.grid import BLOCK, Grid
from geopipe.plan.cells import Reach
from geopipe.resample.locate import canonical_blocks
from geopipe.resample.methods import WINDOW_PIXELS, Decision, Route

MB = 1 << 20
WORKER_BYTES = 260 * MB
"""Resident size of a worker before its first tile: the interpreter, Ray, GDAL, Arrow (measured)."""

DRIVER_BYTES = 900 * MB
"""The driver and Ray's own processes on the head (measured)."""

READ_CACHE = 128 * MB
"""GDAL's block cache in each worker, set explicitly: its default is 5 % of the whole machine."""

OPEN_FILES = 128
"""Datasets that a worker keeps open; GDAL keeps a block of each beside its cache."""

PIXEL_BYTES = 20
"""Of a pixel that is read: value, mask, what finds missing ones, and the float copy that is resampled (measured).

In a mosaic it is 16 and twice the value, because files are put on each other."""

PLACE_BYTES = 160
"""Of a cell of a canonical block, while its place is sought and its value made (measured)."""

SCRATCH = 48 * MB
"""Pixels under cells and their areas (coverage.PART), and classes (large_cells.MOST_CLASSES). Measured."""

SAMPLE = 16
"""Parts of a canonical block whose windows are looked at: a block may have as many parts as cells."""


@dataclass(frozen=True)
class Machine:
    """What there is to run on. Bytes; `object_store` is Ray's shared memory."""

    cpus: int
    workers: int
    memory: int
    object_store: int
    free_disk: int


@dataclass(frozen=True)
class Estimate:
    """Predictions in bytes, rows and tasks; each is an upper bound of what a run should need.

    `wave_tiles` are the tiles that are exchanged at a time, `wave_bytes` their block rows; 0 where nothing is.
    """

    tiles: int
    tasks: int
    task_bytes: int
    exchange_bytes: int
    wave_tiles: int
    wave_bytes: int
    peak_bytes: int
    rows: int
    output_bytes: int


WAVE_SHARE = 0.2
"""Share of the object store that the block rows of a wave take: a shuffle holds them twice, and memory stays flat."""

ROW_SHARE = 0.45
"""Share that they may take where a whole row of tiles is wanted, so that a sweep meets each stored block once."""


def estimate(
    grid: Grid,
    window_size: int,
    layers: Sequence[Sequence[Decision]],
    dtypes: Sequence[str],
    *,
    carried: Sequence[str],
    points: Sequence[tuple[int, int, int]] = (),
    exchange: bool,
    wave_tiles: int | None,
    sweeps: bool = False,
    formats: Sequence[str],
    compress: bool,
    csv_copies: int = 1,
    machine: Machine,
    whole: bool = False,
    reach: Reach | None = None,
    mask_bytes: int = 0,
) -> Estimate:
    """Predict a run.

    Args:
        layers: the decisions of each raster layer.
        dtypes: of the variables.
        carried: types of those that cross an exchange as arrays.
        points: partitions and rows of each layer of coordinate tables, and bytes of a row in block rows.
        exchange: whether block rows travel between tasks.
        whole: whether all rasters and the whole grid are in the memory of one process.
        reach: of the mask, where there is one.
        mask_bytes: what it takes in each worker.
        wave_tiles: tiles that are exchanged at a time, where the settings say so.
        sweeps: whether a layer is read along its own blocks.
        csv_copies: how often the CSV is on disk at most: twice while the files of the tiles become one.
    """
    rows, cols = grid.tiling(window_size)
    tiles = rows * cols
    tile_cells = min(window_size, grid.width) * min(window_size, grid.height)
    sizes = [np.dtype(d).itemsize for d in dtypes]
    block_rows = tile_cells * sum(s + 1 for s in sizes)
    table = tile_cells * (24 + sum(sizes))
    reading = reading_bytes(grid, [d for decisions in layers for d in decisions], window_size)
    # a table beside the block rows, and its encoded form
    task = READ_CACHE + block_rows + 2 * table + reading + mask_bytes
    met, cells = (tiles, grid.cells) if reach is None else (reach.tiles, reach.cells)
    sparse = sum(rows * size for _, rows, size in points)
    cell_bytes = sum(np.dtype(d).itemsize + 1 for d in carried)
    exchanged = min(grid.cells, met * tile_cells) * cell_bytes + sparse if exchange else 0
    wave = min(met, wave_tiles or _wave(machine, tile_cells * cell_bytes, cols, sweeps)) if exchange else 0
    tasks = met * (len(layers) + 1) + sum(parts for parts, _, _ in points) if exchange else met
    # all points may lie in one tile, where they are joined and sorted beside what came
    waiting = wave * tile_cells * cell_bytes + (sparse if exchange else 0)
    processes = min(machine.workers, tasks) + (1 if exchange else 0)  # a shuffle's own tasks run beside the readers
    peak = DRIVER_BYTES + processes * (WORKER_BYTES + task) + 2 * waiting + 2 * sparse
    if whole:
        pixels = max((d.source.width * d.source.height for decisions in layers for d in decisions), default=0)
        peak = WORKER_BYTES + task + grid.cells * sum(s + 1 for s in sizes) + pixels * 8
    per_row = 1 + 0.75 * sum(sizes) * ("parquet" in formats)
    if "csv" in formats:
        per_row += (24 + 9 * len(sizes)) * (0.4 if compress else 1.0) * csv_copies
    return Estimate(
        tiles=tiles,
        tasks=tasks,
        task_bytes=task,
        exchange_bytes=exchanged,
        wave_tiles=wave,
        wave_bytes=waiting if exchange else 0,
        peak_bytes=peak,
        rows=cells,
        output_bytes=math.ceil(cells * per_row),
    )


def _wave(machine: Machine, tile_bytes: int, cols: int, sweeps: bool) -> int:
    """Tiles whose block rows the object store can take at a time: whole rows of tiles where it can take one."""
    fit, most = (int(share * machine.object_store / max(1, tile_bytes)) for share in (WAVE_SHARE, ROW_SHARE))
    if fit >= cols:
        return fit // cols * cols
    return cols if sweeps and most >= cols else max(1, fit)


def reading_bytes(grid: Grid, decisions: Sequence[Decision], window_size: int) -> int:
    """Memory that one read needs at most, beside GDAL's cache and the block rows that come of it."""
    blocks = sorted(f.header.block_bytes for d in decisions for f in d.source.files)
    return max((_reading(grid, d, window_size) for d in decisions), default=0) + sum(blocks[-OPEN_FILES:])


def _reading(grid: Grid, decision: Decision, window_size: int) -> int:
    size = window_size if decision.route is Route.COPY else BLOCK
    cells = min(size, grid.height) * min(size, grid.width)
    places = 0 if decision.route is Route.COPY else (cells + 1) * PLACE_BYTES
    scratch = SCRATCH if decision.covering and decision.route is not Route.COPY else 0
    files = decision.source.files
    values = max(
        (8 if b.scale != 1 or b.offset else np.dtype(b.dtype).itemsize for f in files for b in f.bands), default=8
    )
    pixel = PIXEL_BYTES if len(files) == 1 else max(PIXEL_BYTES, 16 + 2 * values)
    return _window_pixels(grid, decision, size) * pixel + places + scratch


def _window_pixels(grid: Grid, decision: Decision, size: int) -> int:
    """Pixels of the largest window that one read of this source holds: over a sample, with what it may have missed."""
    rows, cols = grid.tiling(size)
    keys = np.unique(np.linspace(0, rows * cols - 1, 9).astype(int))
    blocks = (islice(canonical_blocks(grid, decision, grid.tile(int(k), size)), SAMPLE) for k in keys)
    windows = [needs.strips for needed in blocks for needs in needed]
    # of two strips, one may be there still when the next one is read
    largest = max((sum(w.pixels for w in strips[:2]) for strips in windows), default=0)
    return max(largest, WINDOW_PIXELS) if decision.spread > 2 else largest


def refuse(needed: Estimate, machine: Machine, window_size: int, written: int = 0) -> None:
    """Refuse what cannot fit, with the numbers and what to change.

    Args:
        written: bytes of the output that an unfinished run of the same plan has left on the disk.

    Raises:
        PlanError: the run needs more memory than it may use.
        MachineError: the disk has too little room.
    """
    if needed.wave_bytes > 0.7 * machine.object_store:
        raise PlanError(
            f"a wave of {needed.wave_tiles:,} tiles would exchange {needed.wave_bytes / MB:,.0f} MB; "
            f"the object store has {machine.object_store / MB:,.0f} MB",
            "use fewer merge.wave_tiles, a smaller resampling.window_size, or a larger engine.object_store_memory",
        )
    if needed.peak_bytes > machine.memory:
        smaller = f"resampling.window_size = {window_size // 1024 * 512}, " if window_size >= 1024 else ""
        raise PlanError(
            f"the run would need about {needed.peak_bytes / MB:,.0f} MB "
            f"({min(machine.workers, needed.tasks)} workers with {needed.task_bytes / MB:,.0f} MB each); "
            f"there are {machine.memory / MB:,.0f} MB to use",
            f"{smaller}fewer engine.workers, or a larger engine.memory",
        )
    if needed.output_bytes - written > machine.free_disk:
        there = f" ({written / MB:,.0f} MB are there already)" if written else ""
        raise MachineError(
            f"the output would take up to {needed.output_bytes / MB:,.0f} MB{there}; "
            f"{machine.free_disk / MB:,.0f} MB are free",
            "choose another run.output (with an object store: run.staging), fewer export.formats, or a coarser grid",
        )
