"""Planning 500,000 tiles of 10 layers, and a run over them on Ray whose reads do nothing: what the driver needs.

    python bench/tiles.py

No pixel is read: the workers say at once that a tile is done. What is left is planning and scheduling. Seconds and
memory (resident) of the driver, at the first tenth of the tiles and at the last.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from affine import Affine

from geopipe.engine import ray as engine
from geopipe.grid.grid import Grid
from geopipe.layers.header import Band, Header
from geopipe.layers.layer import Layer
from geopipe.plan.estimate import Machine
from geopipe.plan.options import Options
from geopipe.plan.plan import Inputs, Plan, make_plan

TILES = (625, 800)
GB = 1 << 30


class Nothing(engine._Aligned):
    """Finishes tiles without a look at them."""

    def __call__(self, batch: dict[str, Any]) -> Iterator[pa.Table]:
        yield pa.table({"done": batch["keys"][0]})


def resident() -> float:
    """Megabytes of this process."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


def plan_of(tiles: tuple[int, int], layers: int) -> Plan:
    """A plan of so many rows and columns of tiles; every other layer is in another CRS."""
    height, width = (512 * n for n in tiles)
    band = Band(1, "float32")
    here = Affine(10, 0, 500_000, 0, -10, 6_000_000)
    there = Affine(10, 0, 0, 0, -10, 6_100_000)
    one = Header("", "GTiff", "EPSG:32632", here, width, height, (band,), (512, 512))
    result = []
    for n in range(layers):
        other = (
            replace(one, uri=f"{n}.tif", crs="EPSG:32633", transform=there) if n % 2 else replace(one, uri=f"{n}.tif")
        )
        result.append((Layer(f"l{n}", (f"{n}.tif",)), [other]))
    grid = Grid("EPSG:32632", 500_003, 6_000_000, 10, 10, width, height)
    machine = Machine(cpus=os.cpu_count() or 1, workers=2, memory=16 * GB, object_store=GB, free_disk=1 << 60)
    return make_plan(Inputs("tiles", grid, result, {"geopipe": "bench"}), Options(window_size=512), machine)


def main() -> None:
    start = time.perf_counter()
    plan = plan_of(TILES, 10)
    print(f"{plan.estimate.tiles:,} tiles x {len(plan.layers)} layers", flush=True)
    print(f"planned in {time.perf_counter() - start:.1f} s, driver {resident():,.0f} MB", flush=True)
    engine._Aligned = Nothing
    with engine.ray_engine(None, plan.machine) as ray:
        start, tenth = time.perf_counter(), plan.estimate.tiles // 10
        for count, _ in enumerate(ray.run(plan, plan.keys, lambda tile, table: None, "bench"), 1):
            if count % tenth == 0:
                print(
                    f"{count:>9,} tiles  {time.perf_counter() - start:6.1f} s  driver {resident():,.0f} MB", flush=True
                )


if __name__ == "__main__":
    main()
