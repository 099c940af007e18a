"""The Ray engine: the only module that builds Ray Datasets.

Both strategies make the same groups of block rows and call the same `merge_tile`. `groupby` shuffles block rows by
tile. In `aligned` an actor reads all layers of a tile, so there is nothing to shuffle. Each step of Ray is a few lines
around a plain function.
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
import ray.data
import ray.exceptions

from geopipe.engine import losses, nodes
from geopipe.engine.cluster import cluster, connect
from geopipe.engine.contract import Engine, Finish, Keys, Stop
from geopipe.engine.guard import Guard
from geopipe.engine.steps import Aligned, Monitoring, Work, merge_groups, read_layer
from geopipe.engine.tries import Tries
from geopipe.engine.waves import in_turn
from geopipe.errors import Terminated, find
from geopipe.events.records import Progress
from geopipe.load import raster
from geopipe.monitoring import actor as monitor
from geopipe.monitoring import prometheus
from geopipe.monitoring.leftovers import delete_spool, deliver_others, deliver_own, prune_spools, release_workers
from geopipe.monitoring.options import MonitoringOptions
from geopipe.plan.estimate import BATCH, STORE_SHARE, Machine, readers_of_wave
from geopipe.plan.plan import Plan

log = logging.getLogger(__name__)

MOST_BLOCKS = 1000
"""Blocks of a Dataset at most: Ray keeps statistics of each for the whole run. Many tiles share a block."""


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
    workers, most = plan.machine.workers, plan.machine.grown()
    units = _units(plan, plan.keys if keys is None else keys, most)
    reads = ray.data.from_blocks(units)
    context = reads.context
    context.enable_progress_bars = False
    context.enable_fallback_to_arrow_object_ext_type = False
    context.execution_no_progress_timeout_s = 600
    context.log_internal_stack_trace = False
    context.execution_options.label_selector = dict(plan.machine.labels) or None
    workers, most = min(workers, len(units)), min(most, len(units))
    if plan.strategy == "aligned":
        actors = ray.data.ActorPoolStrategy(min_size=workers, max_size=most)
        return _mapped(reads, Aligned, plan, workers, compute=actors, fn_constructor_args=(work,))
    losses.end_on_loss(context)
    context.shuffle_compression = None
    context.shuffle_input_batch_bytes = context.target_max_block_size = BATCH
    context.override_object_store_memory_limit_fraction = STORE_SHARE  # the plan has divided it among the waves
    parts = min(plan.estimate.wave_tiles or 4 * most, 4 * most)
    tasks = ray.data.TaskPoolStrategy(size=readers_of_wave(most, at_once))
    # Ray Data reserves half of the CPUs for the shuffle, which waits for all readers: they fit into the other half
    places = 2 * at_once * readers_of_wave(workers, at_once)
    rows = _mapped(reads, read_layer, plan, places, compute=tasks, fn_args=(work,))
    # the shuffle of groupby("tile").map_groups, but without its sort, which would copy all block rows
    groups = rows.repartition(parts, keys=["tile"])
    return groups.map_batches(partial(merge_groups, work=work), batch_size=None, batch_format="pyarrow")


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
            share = workers / len(plan.layers)  # the workers share the runs of all layers
            runs = np.array_split(keys, min(len(keys), workers)) if layer.sweeps else _runs(keys, share)
            units += [_unit(index, run) for run in runs]
    return units


def _unit(layer: int, keys: Keys, part: int = 0) -> pa.Table:
    return pa.table({"layer": [layer], "keys": [keys], "part": [part]})


def _runs(keys: Keys, workers: float) -> list[Keys]:
    """Runs of at most eight neighbours: fewer if there are few tiles, more if there were more than MOST_BLOCKS runs.

    Each of many workers has about sixteen runs at least, so that all of them end together.
    """
    size = max(1, min(8, int(len(keys) / (16 * workers))), math.ceil(len(keys) / max(MOST_BLOCKS, 8 * workers)))
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def _mapped(reads: ray.data.Dataset, step: Any, plan: Plan, workers: int, **how: Any) -> ray.data.Dataset:
    """Map reads by actors or tasks, one read at a time. Ray starts a process that died again, and `Tries` bounds it.

    Args:
        plan: says what memory a worker needs: on a cluster Ray places it where there is as much.
        workers: that share the CPUs.
        how: other arguments of `map_batches`.
    """
    memory = plan.estimate.worker_bytes if plan.machine.nodes or plan.machine.most_workers else None
    return reads.map_batches(step, batch_size=1, num_cpus=_worker_cpus(plan, workers), memory=memory, **how)


def _worker_cpus(plan: Plan, workers: int) -> float:
    """The share of a CPU that each of these readers holds, so that one CPU stays free for Ray's own tasks."""
    if plan.machine.most_workers and not plan.machine.nodes:
        return 1.0  # so that the cluster adds a node
    cpus = [node.cpus for node in plan.machine.nodes] or [ray.cluster_resources().get("CPU", 1)]
    # on a cluster, what holds no CPU could come to a head that has none
    least = 0.01 if plan.machine.nodes and plan.strategy == "aligned" else 0.0
    return max(least, share_of(cpus, workers))


def share_of(cpus: Sequence[float], workers: int) -> float:
    """The share of a CPU with which so many workers fit on the nodes, and one CPU of all stays free.

    Args:
        cpus: of each node.
        workers: on all nodes together.
    """
    share = min(1.0, max(0, int(sum(cpus)) - 1) / workers)
    while share and sum(int(own / share) for own in cpus) < workers:
        share *= 0.9
    return math.floor(1000 * share) / 1000


EARLIER = 60.0
"""Seconds that each node has, while the run goes on, to deliver what killed runs left there."""


FAREWELL = 20.0
"""Seconds that other nodes have to leave a run; each may have to start a process for it."""


class _RayEngine:
    def __init__(self, options: MonitoringOptions, guard: Guard, reader: Callable[[], raster.Reader]) -> None:
        self.guard, self.reader = guard, reader
        self.monitoring = Monitoring(options, monitor.start(options))
        self.receive = self.monitoring.deliver
        nodes.begin(_other_nodes(), _deliver_others, self.monitoring, EARLIER)  # nobody waits for it
        self._stages: Mapping[str, Progress] = {}

    def run(
        self, plan: Plan, keys: Keys, finish: Finish, stop: Stop, tries: Path | None = None
    ) -> Generator[int, None, None]:
        counted, failure = Tries(tries), None
        work = Work(plan, self.monitoring, finish, stop, self.reader, counted)
        counted.clear()
        try:
            with self.guard.armed(), losses.watching(counted) if plan.machine.nodes else nullcontext():
                at_once = plan.estimate.waves_at_once
                yield from in_turn(plan.waves(keys), lambda wave: _done(merge(work, wave, at_once)), at_once, stop)
            self.collect()  # the last counts are part of the summary
        except Exception as error:
            failure = find(error) or losses.loss_of(error)
            self.collect()  # an attempt without this layer begins with these counts
            if failure is None:
                raise
        if failure is not None:
            # the frames of Ray's error keep the actors and their CPUs, which the next attempt needs
            gc.collect()
            raise failure

    def collect(self, over: bool = False, seconds: float = 5.0) -> None:
        """Let every node deliver its last records, unless the cluster is lost (arguments as for `_collect`)."""
        self.guard.wait(partial(_collect, self.monitoring, over, seconds), 5.0 + seconds)

    def close(self, wait: float) -> None:
        """End the monitoring actor after the last records.

        Args:
            wait: seconds for which it waits for a last scrape; 0 if the run was interrupted.
        """
        self.collect(True, FAREWELL if wait else 5.0)

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


def _other_nodes() -> list[nodes.ClusterNode]:
    return [node for node in nodes.alive() if not node.is_own]


def _collect(monitoring: Monitoring, over: bool, seconds: float) -> None:
    """Let every node deliver the records that workers of the run have not sent yet; others stay on its disk.

    Args:
        over: the run is over, and its workers close their sessions.
        seconds: for which other nodes are waited for.
    """
    calls = nodes.begin(_other_nodes(), _leave if over else _deliver_own, monitoring)
    if over:
        release_workers(monitoring.options, 1.0)
    _deliver_own(monitoring)  # in this process; the driver delivers what earlier runs left, and deletes the spool
    nodes.wait(calls, seconds)


# ---------------------------------------------------------------- on each node


def _deliver_own(monitoring: Monitoring) -> None:
    deliver_own(monitoring.options, 1.0, monitor.deliver(monitoring.actor, 1.0))


def _deliver_others(monitoring: Monitoring, seconds: float) -> None:
    """Deliver what killed runs left on this node. It may know no database, so that the actor of this run takes it."""
    deliver_others(monitoring.options, seconds, monitor.deliver(monitoring.actor, min(seconds, monitor.PATIENCE), True))


def _leave(monitoring: Monitoring) -> None:
    """Leave nothing of the run on this node, nor of those before it."""
    release_workers(monitoring.options, 1.0)
    _deliver_own(monitoring)
    _deliver_others(monitoring, 1.0)
    delete_spool(monitoring.options)
    prune_spools(monitoring.options)
