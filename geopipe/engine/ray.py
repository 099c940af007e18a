"""The Ray engine: the only module that builds Ray Datasets.

Both strategies make the same groups of block rows and call the same `merge_tile`. `groupby` shuffles block rows by
tile. In `aligned` an actor reads all layers of a tile, so there is nothing to shuffle. Each step of Ray is a few lines
around a plain function.
"""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
import ray.data
import ray.exceptions
from ray.actor import ActorHandle
from ray.util.annotations import RayDeprecationWarning
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from geopipe import machine
from geopipe.engine.cluster import cluster, connect
from geopipe.engine.contract import Engine, Finish, Keys, Stop, never
from geopipe.engine.guard import Guard
from geopipe.engine.session import WorkerSession, task_session
from geopipe.engine.strips import merge_strips, parts_of
from geopipe.engine.waves import in_turn
from geopipe.errors import Terminated, find
from geopipe.events import logs
from geopipe.events.emit import context
from geopipe.events.records import Progress
from geopipe.grid.grid import Tile
from geopipe.load import points, raster, tiles
from geopipe.load.sweep import sweep
from geopipe.merge.blocks import BlockRow, marker, pack, unpack
from geopipe.merge.points import SparseRow
from geopipe.merge.tile import Part
from geopipe.monitoring import actor as monitor
from geopipe.monitoring import prometheus
from geopipe.monitoring.leftovers import delete_spool, deliver_leftovers, release_workers
from geopipe.monitoring.options import MonitoringOptions
from geopipe.plan.estimate import BATCH, STORE_SHARE, Machine, readers_of_wave
from geopipe.plan.layers import LayerPlan
from geopipe.plan.plan import Plan

log = logging.getLogger(__name__)

Batch = dict[str, np.ndarray[Any, Any]]

MOST_BLOCKS = 1000
"""Blocks of a Dataset at most: Ray keeps statistics of each for the whole run. Many tiles share a block."""


@dataclass(frozen=True)
class Monitoring:
    """The monitoring of a run, for its workers: its options, and the actor that takes their records."""

    options: MonitoringOptions
    actor: ActorHandle

    def deliver(self, source: str, lines: Sequence[str], keep: bool = True) -> int:
        """Hand records to the actor."""
        return monitor.deliver(self.actor)(source, lines, keep)


@dataclass(frozen=True)
class Work:
    """What every worker of a Dataset needs.

    Attributes:
        monitoring: the monitoring of the run; None without.
        finish: called with each merged tile; None to return the tile's table.
        stop: called before each tile of the aligned strategy, which leaves the tile out if true.
        reader: makes the reader of a worker.
    """

    plan: Plan
    monitoring: Monitoring | None = None
    finish: Finish | None = None
    stop: Stop = never
    reader: Callable[[], raster.Reader] = raster.Readers

    def session(self) -> WorkerSession:
        """Open a session."""
        cache = self.plan.estimate.cache_bytes
        if self.monitoring is None:
            return WorkerSession(reader=self.reader, cache=cache)
        return WorkerSession(self.monitoring.options, self.monitoring.deliver, self.reader, cache)

    def task_session(self) -> AbstractContextManager[WorkerSession]:
        """The session for a task: shared with other tasks of the run, or the task's own without a run."""
        return task_session(self.monitoring.options if self.monitoring else None, self.session)


class _Aligned:
    """A resampling actor: reads all layers of a tile, and merges them."""

    def __init__(self, work: Work) -> None:
        self.work, self.session = work, work.session()

    def __call__(self, batch: Batch) -> Iterator[pa.Table]:
        plan = self.work.plan
        with self.session.working() as session:
            for tile in map(plan.spec.tile, batch["keys"][0].tolist()):
                if self.work.stop():
                    return
                with context(tile=tile.key), logs.failures():
                    read = partial(tiles.read_rows, plan, plan.layers, reader=session.reader)
                    yield _finished(self.work, tile, merge_strips(plan, tile, read), session)

    def __del__(self) -> None:
        """Ray is about to end this process: stop the recorder's thread before Ray's core goes."""
        self.session.close()


def _read(batch: Batch, work: Work) -> Iterator[pa.Table]:
    """Read one layer in some tiles, or a partition of a table, into block rows for the shuffle.

    A task, not an actor: an actor pool would end with each wave, and start anew for the next. Tasks come back to the
    same warm workers, which also merge.
    """
    layer, keys = work.plan.layers[int(batch["layer"][0])], batch["keys"][0].tolist()
    with context(layer=layer.layer.name), work.task_session() as session:
        for row in _rows(work.plan, layer, int(batch["part"][0]), keys, session.reader):
            yield pack(row)
    machine.release_memory()


def _rows(
    plan: Plan, layer: LayerPlan, part: int, keys: list[int], reader: raster.Reader
) -> Iterator[BlockRow | SparseRow]:
    """The block rows of a layer, after a marker of each tile, which has a marker even if nothing follows.

    The mask of a tile travels once: with the marker of the first layer and its first partition.
    """
    carries_mask = layer is plan.layers[0] and part == 0
    if layer.table is None and not layer.sweeps:
        for tile in map(plan.spec.tile, keys):
            with context(tile=tile.key), logs.failures():
                inside = tiles.inside_of(plan, tile, reader)
                yield marker(tile.key, inside if carries_mask else None)
                for strip in parts_of(plan, tile):
                    top = strip.row - tile.row
                    cells = None if inside is None else inside[top : top + strip.height]
                    for row in tiles.read_tile(plan, layer, strip, reader, cells):
                        yield replace(row, top=top)
        return
    for key in keys:
        yield marker(key, tiles.inside_of(plan, plan.spec.tile(key), reader) if carries_mask else None)
    if layer.table is not None:
        yield from points.read_points(plan, layer, layer.table.partitions[part], keys)
    else:
        yield from sweep(plan, layer, keys, reader)


def _merge_groups(groups: pa.Table, work: Work) -> Iterator[pa.Table]:
    """Merge the tiles of one partition of the shuffle. Their block rows are views of the object store."""
    plan = work.plan
    with work.task_session() as session:
        for tile in map(plan.spec.tile, sorted(set(groups["tile"].to_pylist()))):
            with context(tile=tile.key), logs.failures():
                yield _finished(work, tile, merge_strips(plan, tile, partial(unpack, plan.spec, groups)), session)


def _finished(work: Work, tile: Tile, parts: Iterable[Part], session: WorkerSession) -> pa.Table:
    """Finish a tile, and return its key as a table; without `finish` return the tile's table."""
    if work.finish is None:
        return pa.concat_tables([table for _, table in parts])
    work.finish(tile, parts, session.journal)
    del parts
    machine.release_memory()
    return pa.table({"done": [tile.key]})


def merge(work: Work, keys: Keys | None = None, at_once: int = 1) -> ray.data.Dataset:
    """The merged table as a Ray Dataset, by the strategy of the plan: lazy, and written nowhere by itself.

    `finish` is called in the merging step, so that a tile does not cross the object store once more to be written; the
    Dataset then has one column `done`, the keys of the tiles.

    Args:
        work: for the workers.
        keys: of the tiles to merge; None for all.
        at_once: shuffles that share the workers.
    """
    plan = work.plan
    workers = plan.machine.workers
    units = _units(plan, plan.keys if keys is None else keys, workers)
    reads = ray.data.from_blocks(units)
    context = reads.context
    context.enable_progress_bars = False
    context.enable_fallback_to_arrow_object_ext_type = False
    context.execution_no_progress_timeout_s = 600
    context.log_internal_stack_trace = False
    workers = min(workers, len(units))
    if plan.strategy == "aligned":
        actors = ray.data.ActorPoolStrategy(size=workers)
        restarts = {"max_restarts": 3, "max_task_retries": 3}
        return _mapped(reads, _Aligned, workers, compute=actors, fn_constructor_args=(work,), **restarts)
    context.shuffle_compression = None
    context.shuffle_input_batch_bytes = context.target_max_block_size = BATCH
    context.override_object_store_memory_limit_fraction = STORE_SHARE  # the plan has divided it among the waves
    parts = min(plan.estimate.wave_tiles or 4 * workers, 4 * workers)
    tasks = ray.data.TaskPoolStrategy(size=readers_of_wave(workers, at_once))
    rows = _mapped(reads, _read, workers * at_once, compute=tasks, fn_args=(work,), max_retries=3)
    # the shuffle of groupby("tile").map_groups, but without its sort, which would copy all block rows
    groups = rows.repartition(parts, keys=["tile"])
    return groups.map_batches(partial(_merge_groups, work=work), batch_size=None, batch_format="pyarrow")


def dataset(plan: Plan, address: str | None = None) -> ray.data.Dataset:
    """The merged table of a plan as a Ray Dataset: lazy, and written nowhere.

    Args:
        plan: to execute.
        address: of the Ray cluster to join if this process has no Ray session; None for RAY_ADDRESS, else a cluster of
            our own. The session stays until `ray.shutdown()`, or until the process ends.

    Raises:
        MachineError: there is no cluster at the address, or ours does not start.
    """
    if not ray.is_initialized():
        connect(address, plan.machine.object_store)
    return merge(Work(plan))


def _units(plan: Plan, keys: Keys, workers: int) -> list[pa.Table]:
    """The reads, a table of one row for each block of the Dataset: layer (-1: all), keys of tiles, partition.

    Neighbouring tiles go to one worker, which finds the blocks that they share in GDAL's cache. A layer that sweeps is
    divided among the workers, and no further.
    """
    if plan.strategy == "aligned":
        return [_unit(-1, run) for run in _runs(keys, workers)]
    units = []
    for index, layer in enumerate(plan.layers):
        if layer.table is not None:  # each partition may have points for any tile
            units += [_unit(index, keys, part) for part in range(len(layer.table.partitions))]
        else:
            runs = np.array_split(keys, min(len(keys), workers)) if layer.sweeps else _runs(keys, workers)
            units += [_unit(index, run) for run in runs]
    return units


def _unit(layer: int, keys: Keys, part: int = 0) -> pa.Table:
    return pa.table({"layer": [layer], "keys": [keys], "part": [part]})


def _runs(keys: Keys, workers: int) -> list[Keys]:
    """Runs of at most eight neighbours: fewer if there are few tiles, more if there were more than MOST_BLOCKS runs."""
    size = max(1, min(8, len(keys) // (16 * workers)), -(-len(keys) // MOST_BLOCKS))
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def _mapped(reads: ray.data.Dataset, step: Any, workers: int, **how: Any) -> ray.data.Dataset:
    """Map reads by actors or tasks, one read at a time.

    `how` bounds restarts and retries: by default Ray restarts the readers of a raster that crashes them for ever.
    """
    with warnings.catch_warnings():
        # the only way to bound them in the releases that our pin admits
        warnings.filterwarnings("ignore", message=".*ray_remote_args", category=RayDeprecationWarning)
        return reads.map_batches(step, batch_size=1, num_cpus=_worker_cpus(workers), **how)


def _worker_cpus(workers: int) -> float:
    """The share of a CPU that each of these readers holds, so that one CPU stays free for Ray's own tasks."""
    cpus = int(ray.cluster_resources().get("CPU", 1))
    return round(min(1.0, max(0, cpus - 1) / workers), 3)


class _RayEngine:
    def __init__(self, options: MonitoringOptions, guard: Guard, reader: Callable[[], raster.Reader]) -> None:
        self.guard, self.reader = guard, reader
        self.monitoring = Monitoring(options, monitor.start(options))
        self.receive = self.monitoring.deliver
        self._stages: Mapping[str, Progress] = {}

    def run(self, plan: Plan, keys: Keys, finish: Finish, stop: Stop) -> Generator[int, None, None]:
        work, failure = Work(plan, self.monitoring, finish, stop, self.reader), None
        try:
            with self.guard.armed():
                at_once = plan.estimate.waves_at_once
                yield from in_turn(plan.waves(keys), lambda wave: _done(merge(work, wave, at_once)), at_once, stop)
            self.collect()  # the last counts are part of the summary
        except Exception as error:
            failure = find(error)
            self.collect()  # an attempt without this layer begins with these counts
            if failure is None:
                raise
        if failure is not None:
            # the frames of Ray's error keep the actors and their CPUs, which the next attempt needs
            gc.collect()
            raise failure

    def collect(self, over: bool = False) -> None:
        """Let every node deliver its last records, unless the cluster is lost (`over`: as for `_collect`)."""
        self.guard.wait(partial(_collect, self.monitoring, over), 10.0)

    def close(self, wait: float) -> None:
        """End the monitoring actor after the last records.

        Args:
            wait: seconds for which it waits for a last scrape.
        """
        self.collect(over=True)

        def end() -> None:
            with suppress(ray.exceptions.RayError):
                ray.get(self.monitoring.actor.close.remote(wait), timeout=wait + 2)
            ray.kill(self.monitoring.actor)

        self.guard.wait(end, wait + 4)

    def stages(self) -> Mapping[str, Progress]:
        """Progress so far, by stage; the last known one if the actor does not answer in time."""
        with suppress(ray.exceptions.RayError):
            self._stages = cast(Mapping[str, Progress], ray.get(self.monitoring.actor.stages.remote(), timeout=2))
        return self._stages


def _done(dataset: ray.data.Dataset) -> Iterator[int]:
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from cast(pa.Table, batch)["done"].to_pylist()


@contextmanager
def ray_engine(
    address: str | None,
    machine: Machine,
    options: MonitoringOptions,
    reader: Callable[[], raster.Reader] = raster.Readers,
) -> Iterator[Engine]:
    """Ray as an engine, on the cluster that exists, else on one of our own for the run.

    Args:
        address: of the cluster; None for RAY_ADDRESS.
        machine: the resources of the plan.
        options: of the run's monitoring.
        reader: makes the reader of each worker.
    """
    with cluster(address, machine.object_store) as guard:
        with guard.armed():
            engine = _RayEngine(options, guard, reader)
        wait = prometheus.LAST_SCRAPE
        try:
            yield engine
        except (KeyboardInterrupt, Terminated):
            wait = 0.0
            raise
        finally:
            engine.close(wait)


def _collect(monitoring: Monitoring, over: bool = False) -> None:
    """Let every node deliver the records that workers of the run have not sent yet; others stay on its disk.

    Args:
        over: the run is over, and its workers close their sessions.
    """
    driver = ray.get_runtime_context().get_node_id()
    deliver = ray.remote(num_cpus=0, max_retries=0)(_deliver_leftovers)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != driver]
    tasks = [deliver.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n, soft=False)) for n in nodes]
    calls = [task.remote(monitoring, over) for task in tasks]
    _deliver_leftovers(monitoring, over, others=False)  # in this process; the driver delivers what earlier runs left
    if calls:
        ray.wait(calls, num_returns=len(calls), timeout=5)


def _deliver_leftovers(monitoring: Monitoring, over: bool, others: bool = True) -> None:
    if over:
        release_workers(monitoring.options, 1.0)
    deliver_leftovers(monitoring.options, 1.0, monitor.deliver(monitoring.actor, 1.0), others)
    if over and others:  # on its own node the driver does it later
        delete_spool(monitoring.options)
