"""How geopipe scales with nodes, on work that sleeps: the scheduler alone, so that two cores suffice for four nodes.

    python bench/scaling.py [--nodes 1 2 4] [--seconds 8 40] [--blocks 1000] [--tiles 1000 4000]

Each node has one CPU, and the head none. Reading a tile of 32 x 32 cells takes a second of sleep, about as long as a
tile of 2048 x 2048 cells computes; the engine, its actors, the shuffle and the merge are those of a run. The work grows
with the nodes, and is measured at two sizes, the small one twice: the difference to the faster is the time of the work
without the start. Then tiles that do not sleep: blocks a second beside Ray Data alone, and the memory of the driver.
Each measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import psutil
import pyarrow as pa
import ray
import ray.data
from affine import Affine
from ray.cluster_utils import Cluster
from results import RESULTS, Results, commit
from tiles import IdleWorker, resident, unwatched

from geopipe.engine import address as addresses
from geopipe.engine import ray as engine
from geopipe.engine.cluster import joined
from geopipe.engine.contract import never
from geopipe.engine.steps import Aligned
from geopipe.events import records
from geopipe.events.records import Progress
from geopipe.export.ledger import JOURNALS, Journal
from geopipe.export.tiles import Receipt
from geopipe.grid.grid import Grid
from geopipe.layers.header import Band, Header
from geopipe.layers.layer import Layer, Source
from geopipe.merge.blocks import Column
from geopipe.monitoring.collector import open_collector
from geopipe.plan.estimate import Machine
from geopipe.plan.options import Options
from geopipe.plan.plan import Inputs, Plan, make_plan
from geopipe.resample.methods import Window

GB = 1 << 30
EDGE, LAYERS = 32, 2
"""Cells along the edge of a tile, and layers."""
STRATEGIES = ("aligned", "groupby")
PAIR = 2
"""Nodes of the measurements without sleep: as many as this machine has cores."""


class SleepingReader:
    """A reader of pixels that no file holds, each window after some sleep."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def read_window(self, layer: Layer, source: Source, index: int, window: Window) -> Column:
        if self.seconds:
            time.sleep(self.seconds)
        shape = window.height, window.width
        return np.ones(shape, "float32"), np.ones(shape, bool)

    def close(self) -> None:
        """Nothing is open."""


NAP = 0.5
"""Seconds that a window takes: LAYERS times as many for a tile."""


@contextmanager
def nodes_of(count: int) -> Iterator[Machine]:
    """A cluster of a head without CPUs and some nodes of one CPU, as the machine of a plan."""
    small: dict[str, Any] = {"object_store_memory": GB // 4}
    head = {"num_cpus": 0, "include_dashboard": False} | small
    addresses.keep_workers(os.environ)  # as nodes that geopipe starts
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(count):
        cluster.add_node(num_cpus=1, memory=4 * GB, **small)
    ray.init(cluster.address, logging_level=logging.ERROR)
    machine = Machine(cpus=1, workers=1, memory=4 * GB, object_store=GB // 4, free_disk=1 << 60)
    try:
        with joined(None, machine) as offer:
            yield offer
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


def plan_of(tiles: int, strategy: str, machine: Machine) -> Plan:
    """A plan of just so many tiles, in rows of at most 100."""
    columns = next(count for count in range(100, 0, -1) if tiles % count == 0)
    width, height = EDGE * columns, EDGE * (tiles // columns)
    transform = Affine(10, 0, 500_000, 0, -10, 6_000_000)
    header = Header("", "GTiff", "EPSG:32632", transform, width, height, (Band(1, "float32"),), (EDGE, EDGE))
    layers = [(Layer(f"l{n}", (f"{n}.tif",)), [header]) for n in range(LAYERS)]
    grid = Grid("EPSG:32632", 500_000, 6_000_000, 10, 10, width, height)
    options = Options(window_size=EDGE, strategy=strategy, engine="ray")
    return make_plan(Inputs("scaling", grid, layers, {"geopipe": "bench"}), options, machine)


def finish(tile: Any, parts: Iterable[Any], journal: Any) -> None:
    """Merge a tile, and write nothing."""
    for _ in parts:
        pass


def processor_seconds() -> float:
    """CPU seconds of this process and of all that it started: of the whole cluster."""
    own, seconds = psutil.Process(), 0.0
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            seconds += sum(process.cpu_times()[:4])  # user and system, of itself and of children that have ended
    return seconds


def run(plan: Plan, machine: Machine, nap: float) -> list[float]:
    """Run a plan, and return the seconds after which each tile was done."""
    start = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        engine.ray_engine(None, machine, unwatched(Path(folder)), partial(SleepingReader, nap)) as on_ray,
    ):
        return [time.perf_counter() - start for _ in on_ray.run(plan, plan.keys, finish, never)]


WORKERS = {"idle": IdleWorker, "tiles": Aligned}

# ---------------------------------------------------------------- measurements, each in a process of its own


def scaled(strategy: str, nodes: int, small: float, large: float) -> dict[str, Any]:
    """Seconds at two sizes, and of the difference its sleep (`least`) and CPU seconds (`cpu`)."""
    tiles = [round(seconds / (NAP * LAYERS)) * nodes for seconds in (small, large)]
    with nodes_of(nodes) as machine:
        run(plan_of(4 * nodes, strategy, machine), machine, 0.0)  # the first run of a node loads libraries
        runs, marks = [], [processor_seconds()]
        for count in (tiles[0], *tiles):  # the faster of the small ones counts: a shuffle takes 5 to 15 s to start
            runs.append(run(plan_of(count, strategy, machine), machine, NAP))
            marks.append(processor_seconds())
    before, after = min(done[-1] for done in runs[:2]), runs[2][-1]
    least = (tiles[1] - tiles[0]) * NAP * LAYERS / nodes
    return {
        "tiles": tiles,
        "firsts": [done[0] for done in runs],
        "walls": [done[-1] for done in runs],
        "seconds": after - before,
        "least": least,
        "cpu": marks[3] - 2 * marks[2] + marks[1],
    }


def scheduled(worker: str, blocks: int) -> dict[str, Any]:
    """Blocks and tiles a second from the first that is done to the last: "idle" workers look at no tile."""
    with nodes_of(PAIR) as machine:
        plan = plan_of(8 * blocks, "aligned", machine)
        with patch.object(engine, "Aligned", WORKERS[worker]):
            done = run(plan, machine, 0.0)
    rate = (len(done) - 8) / (done[-1] - done[0])
    return {"blocks": rate / 8, "tiles": rate}


def alone(blocks: int) -> dict[str, Any]:
    """Blocks a second of Ray Data alone: the same tables through an actor pool of the same size."""

    class Trivial:
        def __call__(self, batch: Any) -> Any:
            return pa.table({"done": batch["keys"][0]})

    with nodes_of(PAIR) as machine:
        tables = [pa.table({"layer": [-1], "keys": [np.arange(8)], "part": [0]}) for _ in range(blocks)]
        pool = ray.data.ActorPoolStrategy(size=machine.workers)
        data = ray.data.from_blocks(tables)
        data.context.enable_progress_bars = False
        mapped = data.map_batches(Trivial, batch_size=1, num_cpus=0.5, compute=pool)
        done = [time.perf_counter() for _ in mapped.iter_batches(batch_size=None)]
    return {"blocks": (len(done) - 1) / (done[-1] - done[0])}


def driver(tiles: int) -> dict[str, Any]:
    """Megabytes of the driver after so many tiles, and before them."""
    with nodes_of(PAIR) as machine:
        before = resident()
        run(plan_of(tiles, "aligned", machine), machine, 0.0)
        return {"before": before, "after": resident()}


def shuffled(tasks: int, partitions: int) -> dict[str, Any]:
    """Bytes of the driver for each object of a shuffle, of which a task makes one for each partition."""

    def parts() -> list[None]:
        return [None] * partitions

    with nodes_of(PAIR):
        task = ray.remote(num_returns=partitions)(parts)
        ray.get(cast(Any, task.remote())[0])
        before, start = resident(), time.perf_counter()
        references = [reference for _ in range(tasks) for reference in cast(Any, task.remote())]
        ray.wait(references, num_returns=len(references))
        seconds = time.perf_counter() - start
        return {"bytes": (resident() - before) * 2**20 / len(references), "per_second": len(references) / seconds}


def bookkeeping(count: int) -> dict[str, Any]:
    """Receipts a second that a process syncs to this disk, and records that a process like the actor counts."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        journal, receipt = Journal(), Receipt(1, EDGE * EDGE, (), {"l0": {"min": 0.0, "max": 1.0, "nulls": 0}})
        (Path(name) / JOURNALS).mkdir()
        start = time.perf_counter()
        for _ in range(count):
            journal.append(Path(name), receipt)
        receipts = count / (time.perf_counter() - start)
        journal.close()
        collector = open_collector(unwatched(Path(name)), serve=False)
        envelope = {"ts": 1.0, "worker": 1, "node": "n", "source": "s"}
        progress = Progress("read", 1, 10, 0.5, 3, 7)
        lines = [
            records.line(progress, {"seq": n + 1, **envelope}, {"run_id": "r", "attempt": 1}) for n in range(count)
        ]
        start = time.perf_counter()
        for first in range(0, count, 100):
            collector.receive("s", lines[first : first + 100])
        return {"receipts": receipts, "records": count / (time.perf_counter() - start)}


MEASUREMENTS: dict[str, Callable[..., dict[str, Any]]] = {
    "scaled": scaled,
    "scheduled": scheduled,
    "alone": alone,
    "driver": driver,
    "shuffled": shuffled,
    "bookkeeping": bookkeeping,
}
"""Measurements by name."""


def measured(name: str, *arguments: Any) -> dict[str, Any]:
    """The result of a measurement in a new process."""
    command = [sys.executable, __file__, "--one", json.dumps([name, *arguments])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    return dict(json.loads(done.stdout.splitlines()[-1])) | {"commit": commit()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, nargs=2, default=[8.0, 40.0], help="of sleep a node, at the two sizes")
    parser.add_argument("--blocks", type=int, default=1000, help="of a Dataset; eight tiles each")
    parser.add_argument("--tiles", type=int, nargs="+", default=[1000, 4000], help="for the memory of the driver")
    parser.add_argument(
        "--only", nargs="+", choices=[*STRATEGIES, "rates", "driver", "parts"], help="some measurements"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, *arguments = json.loads(options.one)
        print(json.dumps(MEASUREMENTS[name](*arguments)))
        return
    cases: dict[str, tuple[Any, ...]] = {}
    for strategy in STRATEGIES:
        cases |= {f"{strategy}/{n}": ("scaled", strategy, n, *options.seconds) for n in options.nodes}
    cases["rates/alone"] = ("alone", options.blocks)
    cases |= {f"rates/{worker}": ("scheduled", worker, options.blocks) for worker in ("idle", "tiles")}
    cases |= {f"driver/{tiles}": ("driver", tiles) for tiles in options.tiles}
    cases["parts/references"] = ("shuffled", max(1, options.blocks // 10), options.blocks)
    cases["parts/bookkeeping"] = ("bookkeeping", options.blocks)
    results = Results(options.results)
    for name, case in cases.items():
        if options.only is None or name.partition("/")[0] in options.only:
            result = results.measured(f"scaling/{name}/0", partial(measured, *case))
            figures = {key: value for key, value in result.items() if key != "commit"}
            print(f"scaling/{name}: {figures}", flush=True)


if __name__ == "__main__":
    main()
