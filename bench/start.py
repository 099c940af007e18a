"""The fixed cost of Ray: the demo on Ray beside a trivial job of Ray Data, each a fresh process, in turns.

    python bench/start.py [--pairs 5]

The trivial job starts Ray on this machine, maps one number in an actor pool of the size of the demo's, and shuts Ray
down. Prints medians of wall and processor seconds, and their difference. The database of the monitor and the report of
the run, which have no part in Ray's cost, are off.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from geopipe import demo, machine

WORKERS = machine.cpus()
TRIVIAL = f"""
import logging, ray, ray.data
ray.init("local", num_cpus={WORKERS}, object_store_memory=640 * 2**20, include_dashboard=False, logging_level="error")
ray.data.DataContext.get_current().enable_progress_bars = False
logging.getLogger("ray.data").setLevel(logging.CRITICAL)

class Twice:
    def __call__(self, batch):
        return {{"item": 2 * batch["item"]}}

pool = ray.data.ActorPoolStrategy(size={WORKERS})
share = round(max(1, {WORKERS} - 1) / {WORKERS}, 3)
assert ray.data.from_items([1]).map_batches(Twice, compute=pool, num_cpus=share).take_all() == [{{"item": 2}}]
ray.shutdown()
"""


def seconds(command: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of a command and its processes."""
    off = {"GEOPIPE_MONITORING__ENABLE_DATABASE_LOGGING": "false", "GEOPIPE_REPORT__ENABLED": "false"}
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"} | off
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    wall = time.monotonic() - start
    with suppress(ChildProcessError):  # there is none left
        while True:
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: Ray's processes count, too, when their parent has ended
    with tempfile.TemporaryDirectory() as name:
        settings = str(demo.generate(Path(name)))
        run = [sys.executable, "-m", "geopipe", "run", settings, "--overwrite", "--engine", "ray"]
        commands = {"trivial": [sys.executable, "-c", TRIVIAL], "demo": run}
        for command in commands.values():
            seconds(command)  # kernels, files and imports are read for the first time
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for pair in range(args.pairs):
            for name in commands if pair % 2 else reversed(commands):
                measured[name].append(seconds(commands[name]))
            print(f"pair {pair + 1}: " + ", ".join(f"{n} {m[-1][0]:.1f} s" for n, m in measured.items()), flush=True)
    wall, work = ({n: statistics.median(v[i] for v in m) for n, m in measured.items()} for i in (0, 1))
    for name in commands:
        print(f"{name:<8} {wall[name]:6.2f} s of wall time, {work[name]:6.2f} s of processors")
    print(
        f"demo - trivial: {wall['demo'] - wall['trivial']:.2f} s, {work['demo'] - work['trivial']:.2f} s of processors"
    )


if __name__ == "__main__":
    main()
