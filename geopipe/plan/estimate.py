"""Predict memory, tasks and output of a run, and refuse a run that does not fit on the machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from geopipe.errors import MachineError, PlanError
from geopipe.grid.grid import BLOCK, Grid
from geopipe.layers.table_plan import TablePlan
from geopipe.merge import derived
from geopipe.merge.points import POINT_BYTES
from geopipe.merge.spec import TableSpec
from geopipe.plan.layers import LayerPlan, MaskPlan
from geopipe.plan.options import Options
from geopipe.resample.coverage import PART
from geopipe.resample.footprints import COVERAGE_PIXELS
from geopipe.resample.methods import WINDOW_PIXELS, Decision, Route
from geopipe.resample.predictions import rough_window, strip_pixels
from geopipe.text import count

MB = 1 << 20
WORKER_BYTES = 260 * MB
"""Resident size of a worker before its first tile: the interpreter, Ray, GDAL, Arrow (measured)."""

DRIVER_BYTES = 600 * MB
"""The driver and Ray's own processes on the head (measured)."""

READ_CACHE = 128 * MB
"""Most of GDAL's block cache in each worker, set explicitly: its default is 5 % of the whole machine."""

LEAST_CACHE = 32 * MB
"""Least of it."""

OPEN_FILES = 128
"""Datasets that a worker keeps open; GDAL keeps a block of each beside its cache."""

PIXEL_BYTES = 20
"""Bytes of a pixel that is read: value, masks, and the float copy for resampling (measured).

In a mosaic it is 16 and twice the value, because its files are overlaid."""

PLACE_BYTES = 160
"""Bytes of a cell of a canonical block while its position and value are computed (measured)."""

SCRATCH = 48 * MB
"""Pixels under cells and their areas (coverage.PART), and classes (large_cells.MOST_CLASSES). Measured."""

PIXEL_AREA_BYTES, RUN_BYTES = 8, 16
"""Bytes of a pixel of a coverage, and of its pixels in a row."""

STATISTIC_BYTES = 80
"""Bytes of a cell while statistics are made: its sums and extremes, and their parts put together."""

SAMPLE = 9
"""Canonical blocks whose windows are measured."""


@dataclass(frozen=True)
class NodeLimits:
    """The processors and memory of a node of a cluster; sizes in bytes."""

    cpus: float
    memory: int
    object_store: int


@dataclass(frozen=True)
class Machine:
    """The processors, memory and disk for a run; sizes in bytes. `object_store` is Ray's shared memory.

    `cluster` tells by what a Ray cluster that exists is named; "" if a run on Ray starts its own. `nodes` are those of
    it that can run work now, and `labels` what they must have (Ray's label selector). `most_workers` is the number of
    workers that a cluster may have once it has grown, 0 if it does not grow.
    """

    cpus: int
    workers: int
    memory: int
    object_store: int
    free_disk: int
    cluster: str = ""
    nodes: tuple[NodeLimits, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    most_workers: int = 0

    def describe(self) -> dict[str, object]:
        """The machine for JSON."""
        return asdict(self) | {"nodes": [asdict(node) for node in self.nodes], "labels": dict(self.labels)}

    @property
    def node_store(self) -> int:
        """Bytes of the smallest object store of a node: a merge needs all block rows of its tiles on one node."""
        return min((node.object_store for node in self.nodes), default=self.object_store)

    @property
    def held(self) -> float:
        """Bytes that a wave takes in the object stores, in bytes of its block rows."""
        return HELD_APART if len(self.nodes) > 1 else HELD

    def grown(self) -> int:
        """The number of workers once the cluster has grown."""
        return max(self.workers, self.most_workers)

    def fitted(self, worker_bytes: int) -> Machine:
        """This machine with as many workers as the memory of its nodes allows; at least one, which may not fit."""
        fitting = sum(node.memory // worker_bytes for node in self.nodes)
        return replace(self, workers=max(1, min(self.workers, fitting))) if self.nodes else self


@dataclass(frozen=True)
class Estimate:
    """Predictions in bytes, rows and tasks; each is an upper bound of what a run should need.

    `in_strips` tells whether a tile is read and written in strips, and not whole; `cache_bytes` is the size of GDAL's
    block cache in each worker. `workers` is the number of processes
    that hold a tile or strip at a time. `shuffle_bytes` are the block rows of the whole run that travel between tasks,
    `wave_bytes` those of the `wave_tiles` that are shuffled at a time; all 0 unless block rows are shuffled.
    """

    tiles: int
    in_strips: bool
    cache_bytes: int
    workers: int
    tasks: int
    task_bytes: int
    shuffle_bytes: int
    wave_tiles: int
    wave_bytes: int
    waves_at_once: int
    peak_bytes: int
    rows: int
    output_bytes: int

    @property
    def worker_bytes(self) -> int:
        """Memory of a worker with its largest task."""
        return WORKER_BYTES + self.task_bytes

    @property
    def share_bytes(self) -> int:
        """Memory of a worker and of the processes that shuffle and merge for it."""
        return self.worker_bytes + (MERGERS * (WORKER_BYTES + 2 * BATCH) if self.shuffle_bytes else 0)


MERGERS = 2
"""Processes that shuffle and merge, for each worker."""

BATCH = 32 * MB
"""Block rows that go through a shuffle in one piece."""

WAVE_SHARE = 0.2
"""Share of the object store for the block rows of a wave."""

WAVES = 3
"""Waves at a time at most: while one is merged, the others are read."""

HELD = 1.25
"""Bytes that a wave takes in the object store, in bytes of its block rows: while some are put into groups, the store
holds these twice."""

HELD_APART = 2.0
"""The same on several nodes: most block rows are copied to the node that merges them."""

STORE_SHARE = 0.9
"""Share of the object store for all waves at a time."""

ROW_SHARE = 0.45
"""Share if that makes room for a whole row of tiles, so that a sweep decodes each stored block once."""


def estimate(
    spec: TableSpec,
    plans: Sequence[LayerPlan],
    options: Options,
    machine: Machine,
    mask: MaskPlan | None = None,
    way: str = "aligned",
) -> Estimate:
    """Predict memory, tasks and output of a run.

    Args:
        way: the strategy of a run on Ray; "local" for one in this process.
    """
    grid, size = spec.grid, options.window_size
    rows, cols = grid.tiling(size)
    tile_cells = min(size, grid.width) * min(size, grid.height)
    rasters, point_tables = [p for p in plans if not p.table], [p.table for p in plans if p.table]
    decisions = [d for p in rasters for d in p.decisions]
    derived_types = [str(f.type) for f in derived.fields(spec.lonlat, spec.h3)]
    sizes = [np.dtype(d).itemsize for d in derived_types + [v.dtype for v in spec.variables]]
    tiles, cells = (rows * cols, grid.cells) if mask is None else (mask.reach.tiles, mask.reach.cells)
    mask_bytes = mask.polygons.memory if mask and mask.polygons else 0
    in_strips, cache = _strips(grid, [p for p in plans if way != "groupby" or not p.sweeps], options)
    cells_at_once = min(BLOCK, grid.height) * min(size, grid.width) if in_strips else tile_cells
    block_rows, table = cells_at_once * sum(s + 1 for s in sizes), cells_at_once * (24 + sum(sizes))
    # a table beside the block rows, and its encoded form; of strips, one is written while the next one is read
    tables = (3 if in_strips else 2) * table
    task = cache + block_rows + tables + reading_bytes(grid, decisions, size, in_strips) + mask_bytes
    point_bytes = sum(t.rows * _row_bytes(t) for t in point_tables)
    shuffled, wave, waiting, at_once, tasks = 0, 0, 0, 1, tiles
    if way == "groupby":
        cell_bytes = sum(np.dtype(v.dtype).itemsize + 1 for p in rasters for v in p.variables)
        shuffled = min(grid.cells, tiles * tile_cells) * cell_bytes + point_bytes
        sweeps = any(p.sweeps for p in plans)
        wave = min(tiles, options.wave_tiles or _wave(machine, tile_cells * cell_bytes, cols, sweeps))
        tasks = tiles * (len(rasters) + 1) + sum(len(t.partitions) for t in point_tables)
        # all points may lie in one tile, where they are joined and sorted beside what came
        waiting = wave * tile_cells * cell_bytes + point_bytes
        fitting = int(STORE_SHARE * machine.object_store / (machine.held * max(1, waiting)))
        at_once = max(1, min(WAVES, -(-tiles // wave), fitting)) if machine.workers > 1 else 1
    workers = 1 if way == "local" else min(machine.workers, tasks)
    readers, others = workers, 0
    if way == "groupby":  # the shuffle's own tasks and the merging ones have processes of their own
        readers, others = min(at_once * readers_of_wave(machine.workers, at_once), tasks), MERGERS * workers
    peak = DRIVER_BYTES + readers * (WORKER_BYTES + task) + others * (WORKER_BYTES + 2 * BATCH)
    peak += min(2 * waiting * at_once, machine.object_store) + 2 * point_bytes
    if way == "local":
        peak = WORKER_BYTES + task + 4 * point_bytes
    if options.whole:
        pixels = max((d.source.width * d.source.height for d in decisions), default=0)
        peak = WORKER_BYTES + task + grid.cells * sum(s + 1 for s in sizes) + pixels * 8
    return Estimate(
        tiles=rows * cols,
        in_strips=in_strips,
        cache_bytes=cache,
        workers=workers,
        tasks=tasks,
        task_bytes=task,
        shuffle_bytes=shuffled,
        wave_tiles=wave,
        wave_bytes=waiting,
        waves_at_once=at_once,
        peak_bytes=peak,
        rows=cells,
        output_bytes=math.ceil(cells * _output_row_bytes(sizes, options)),
    )


def readers_of_wave(workers: int, at_once: int) -> int:
    """Readers of a wave at a time: while one wave is merged, the others share the workers."""
    return -(-workers // max(1, at_once - 1))


STRIP_COST = 2.0
"""Decoding for strips may cost so many times as much as for whole tiles, if GDAL's cache does not hold a strip."""


def _strips(grid: Grid, plans: Sequence[LayerPlan], options: Options) -> tuple[bool, int]:
    """Whether tiles are read and written in strips, and the bytes of GDAL's cache that it takes.

    The cache holds the blocks of all layers under a strip: those on its lower edge are needed for the next one, too.
    """
    if options.layout.needs_whole_tiles or any(p.table for p in plans):
        return False, READ_CACHE
    decisions = [
        (d, sum(np.dtype(b.dtype).itemsize for b in d.source.files[0].bands)) for p in plans for d in p.decisions
    ]
    parts = np.array([strip_pixels(grid, d, options.window_size) * size for d, size in decisions]).reshape(-1, 3)
    at_once, apart, largest = parts.sum(axis=0).tolist()
    if largest > READ_CACHE and apart > STRIP_COST * at_once:
        return False, READ_CACHE
    is_sample = bool(parts[:, 0].all())  # else some sources do not lie in the middle, and nothing is known of them
    return True, min(READ_CACHE, max(LEAST_CACHE, math.ceil(1.1 * largest))) if is_sample else READ_CACHE


def _row_bytes(table: TablePlan) -> int:
    """Bytes of a row of a coordinate table in block rows."""
    return sum(POINT_BYTES + np.dtype(dtype).itemsize for dtype in table.dtypes)


def _output_row_bytes(sizes: Sequence[int], options: Options) -> float:
    """Bytes on disk of a row whose values are noise, which nothing compresses (measured with normal deviates).

    Args:
        sizes: bytes of a value of each column behind row, col, x and y.
    """
    total = 0.0
    if "parquet" in options.formats:
        total += 1 + sum(sizes)
    if "csv" in options.formats:
        text = 36 + sum(3 + 2.8 * size for size in sizes)
        text = text if options.compress == "none" else 4 + sum(4 + 1.4 * size for size in sizes)
        total += text * (2 if options.layout.csv_files == "one" else 1)  # the tiles' files stay until they are joined
    return total


def _wave(machine: Machine, tile_bytes: int, cols: int, sweeps: bool) -> int:
    """Tiles whose block rows fit in the object store at a time: whole rows of tiles if one fits."""
    fitting, most = (int(share * machine.object_store / max(1, tile_bytes)) for share in (WAVE_SHARE, ROW_SHARE))
    if fitting >= cols:
        return fitting // cols * cols
    return cols if sweeps and most >= cols else max(1, fitting)


def reading_bytes(grid: Grid, decisions: Sequence[Decision], window_size: int, in_strips: bool) -> int:
    """Most bytes of memory that one read needs, beside GDAL's cache and its block rows."""
    blocks = sorted(f.header.block_bytes for d in decisions for f in d.source.files)
    return max((_reading(grid, d, window_size, in_strips) for d in decisions), default=0) + sum(blocks[-OPEN_FILES:])


def _reading(grid: Grid, decision: Decision, window_size: int, in_strips: bool) -> int:
    files, copied = decision.source.files, decision.route is Route.COPY
    values = max(
        (8 if b.scale != 1 or b.offset else np.dtype(b.dtype).itemsize for f in files for b in f.bands), default=8
    )
    pixel = PIXEL_BYTES if len(files) == 1 else max(PIXEL_BYTES, 16 + 2 * values)
    height, width = window_size if copied and not in_strips else BLOCK, window_size if copied else BLOCK
    cells = min(height, grid.height) * min(width, grid.width)
    if copied:
        return cells * pixel
    scratch = SCRATCH + cells * STATISTIC_BYTES + _coverage(decision, cells) if decision.cells else 0
    return _window_pixels(grid, decision) * pixel + (cells + 1) * PLACE_BYTES + scratch


def _coverage(decision: Decision, cells: int) -> int:
    """Most bytes of the areas of the pixels under the cells of a block."""
    if decision.cells == "whole pixels" and not decision.centred:
        return 0
    width, height = (1.42 * step * min(decision.spread, 2) + 1 for step in decision.steps)  # of a cell that lies askew
    if min(decision.steps) > 1 and math.prod(decision.steps) > PART:
        return 0  # such cells are worked on in parts
    covered = min(cells, COVERAGE_PIXELS / (width * height))
    return math.ceil(covered * (PIXEL_AREA_BYTES * width * height + RUN_BYTES * height))


def _window_pixels(grid: Grid, decision: Decision) -> int:
    """Pixels of the largest window that one read of a source holds, from a sample of blocks."""
    source = decision.source
    if decision.spread > 2:
        return WINDOW_PIXELS
    rows, cols = grid.tiling(BLOCK)
    keys = np.unique(np.linspace(0, rows * cols - 1, SAMPLE).astype(int))
    windows = [rough_window(grid, decision, grid.tile(int(key), BLOCK)) for key in keys]
    # a source may lie between the places of the sample
    pixels = max((w.pixels for w in windows if w is not None), default=source.height * source.width)
    cells = min(BLOCK, grid.height) * min(BLOCK, grid.width)
    while pixels > WINDOW_PIXELS and cells > 1:  # a block is quartered until its window fits
        pixels, cells = -(-pixels // 4), -(-cells // 4)
    return min(pixels, WINDOW_PIXELS)  # a cell alone is read in strips, two of which may be in memory


def refuse(needs: Estimate, machine: Machine, window_size: int, written: int = 0) -> None:
    """Refuse a run that does not fit, with the numbers and a hint.

    Args:
        written: bytes that an unfinished run of the same plan has written to the disk already.

    Raises:
        PlanError: the run needs more memory than it may use.
        MachineError: the disk has too little room.
    """
    smaller = f"resampling.window_size = {window_size // 1024 * 512}, " if window_size >= 1024 else ""
    if needs.wave_bytes > 0.7 * machine.object_store:
        raise PlanError(
            f"a wave of {needs.wave_tiles:,} tiles would shuffle {needs.wave_bytes / MB:,.0f} MB; "
            f"the object store has {machine.object_store / MB:,.0f} MB",
            "use fewer merge.wave_tiles, a smaller resampling.window_size, or a larger engine.object_store_memory",
        )
    _refuse_nodes(needs, machine, smaller)
    if needs.peak_bytes > machine.memory:
        raise PlanError(
            f"the run would need about {needs.peak_bytes / MB:,.0f} MB "
            f"({count(needs.workers, 'worker')} with {needs.task_bytes / MB:,.0f} MB each); "
            f"there are {machine.memory / MB:,.0f} MB to use",
            f"{smaller}{'fewer engine.workers, ' if needs.workers > 1 else ''}or a larger engine.memory",
        )
    if needs.output_bytes - written > machine.free_disk:
        already = f" ({written / MB:,.0f} MB are there already)" if written else ""
        raise MachineError(
            f"the output would take up to {needs.output_bytes / MB:,.0f} MB{already}; "
            f"{machine.free_disk / MB:,.0f} MB are free",
            "choose another run.output (with an object store: run.staging), fewer export.formats, or a coarser grid",
        )


def _refuse_nodes(needs: Estimate, machine: Machine, smaller: str) -> None:
    """Refuse a worker, or a tile of a shuffle, that fits on no node.

    Args:
        smaller: the part of a hint that names a smaller window, or "".
    """
    largest = max((node.memory for node in machine.nodes), default=needs.share_bytes)
    if needs.share_bytes > largest:
        raise PlanError(
            f"a worker would need about {needs.share_bytes / MB:,.0f} MB; "
            f"of {count(len(machine.nodes), 'node')} the largest has {largest / MB:,.0f} MB of memory for Ray",
            f"{smaller}or nodes with more memory" if smaller else "use nodes with more memory",
        )
    tile = needs.wave_bytes / max(1, needs.wave_tiles)
    if machine.nodes and tile > 0.7 * machine.node_store:
        raise PlanError(
            f"the block rows of a tile take {tile / MB:,.0f} MB, which must be on one node to be merged; "
            f"the smallest object store of a node has {machine.node_store / MB:,.0f} MB",
            f"{smaller}merge.strategy = 'aligned', or nodes with more object_store_memory",
        )
