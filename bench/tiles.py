"""Plan 500,000 tiles of 10 layers, and run them on Ray with workers that read nothing: what the driver needs.

    python bench/tiles.py [--tiles 625 800] [--layers 10]

No pixel is read: a worker finishes a tile without a look at it. What is left is planning and scheduling. Seconds and
resident memory of the driver, at each tenth of the tiles.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
from affine import Affine

from geopipe.engine import ray as engine
from geopipe.engine.contract import never
from geopipe.engine.steps import Aligned, Batch
from geopipe.events.records import new_run_id
from geopipe.grid.grid import Grid
from geopipe.layers.header import Band, Header
from geopipe.layers.layer import Layer
from geopipe.monitoring.options import MonitoringOptions
from geopipe.plan.estimate import Machine
from geopipe.plan.options import Options
from geopipe.plan.plan import Inputs, Plan, make_plan

GB = 1 << 30


class IdleWorker(Aligned):
    """Finishes tiles without a look at them."""

    def __call__(self, batch: Batch) -> Iterator[pa.Table]:
        yield pa.table({"done": batch["keys"][0]})


def resident() -> float:
    """Megabytes of this process."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


def plan_of(rows: int, columns: int, layers: int) -> Plan:
    """A plan of so many rows and columns of tiles; every other layer is in another CRS."""
    height, width = 512 * rows, 512 * columns
    own, other = Affine(10, 0, 500_000, 0, -10, 6_000_000), Affine(10, 0, 90_000, 0, -10, 6_030_000)
    first = Header("", "GTiff", "EPSG:32632", own, width, height, (Band(1, "float32"),), (512, 512))
    headers = []
    for number in range(layers):
        header = replace(first, uri=f"{number}.tif")
        if number % 2:
            header = replace(header, crs="EPSG:32633", transform=other, width=width + 4096, height=height + 4096)
        headers.append((Layer(f"l{number}", (header.uri,)), [header]))
    grid = Grid("EPSG:32632", 500_003, 6_000_000, 10, 10, width, height)
    machine = Machine(cpus=os.cpu_count() or 1, workers=2, memory=16 * GB, object_store=GB, free_disk=1 << 60)
    options = Options(window_size=512, strategy="aligned")
    return make_plan(Inputs("tiles", grid, headers, {"geopipe": "bench"}), options, machine)


def unwatched(folder: Path) -> MonitoringOptions:
    """A run that writes no records to a database, samples nothing and opens no port."""
    return MonitoringOptions(
        run_id=new_run_id(),
        attempt=1,
        output=folder,
        database=False,
        batch_size=500,
        flush_interval=5.0,
        metrics_interval=None,
        prometheus_port=None,
        spool_bytes=1 << 20,
        root=folder,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, nargs=2, default=[625, 800], metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--layers", type=int, default=10)
    args = parser.parse_args()
    start = time.perf_counter()
    rows, columns = args.tiles
    plan = plan_of(rows, columns, args.layers)
    tiles = plan.estimate.tiles
    print(f"{tiles:,} tiles x {len(plan.layers)} layers", flush=True)
    print(f"planned in {time.perf_counter() - start:.1f} s, driver {resident():,.0f} MB", flush=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(engine, "Aligned", IdleWorker),
        engine.ray_engine(None, plan.machine, unwatched(Path(folder))) as ray,
    ):
        start, tenth = time.perf_counter(), max(1, tiles // 10)
        for count, _ in enumerate(ray.run(plan, plan.keys, lambda tile, table, journal: None, never), 1):
            if count % tenth == 0:
                seconds = time.perf_counter() - start
                print(f"{count:>9,} tiles  {seconds:6.1f} s  driver {resident():,.0f} MB", flush=True)


if __name__ == "__main__":
    main()
