"""Nanoseconds a cell of the resampling kernels, beside those of an older commit, measured together.

    python bench/kernels.py [--old COMMIT] [--results FILE]

Each repetition is a process of its own, and commits alternate. A kernel resamples pixels in memory to one block of
512 x 512 cells, in one thread: what is done once for a block (areas of pixels) counts, reading and locating do not.
Beside them the layer of W3 with one, three and four statistics from a file in memory, which shares what they share.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from results import REPOSITORY, RESULTS, Results, commit

from geopipe.resample import coverage, kernels
from geopipe.resample.methods import Window

OLD = "dd40c90"
"""The commit before footprints had routes."""
N = 512
CELLS = N * N
TILT, PIXELS = math.radians(5), 3.3
"""Of the cells of the tilted cases: against the pixels, and pixels to an edge."""

Work = Callable[[], object]
Corners = tuple[NDArray[np.float64], NDArray[np.float64]]


def nanoseconds(work: Work, repetitions: int) -> float:
    """Processor time a cell of the fastest of some repetitions."""
    work()  # compiles
    times = []
    for _ in range(repetitions):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return min(times) / CELLS * 1e9


def places(step: float, tilt: float, offset: float) -> Corners:
    """Columns and rows of a lattice of places, (N + 1, N + 1) float64 each, `step` pixels apart."""
    j, i = np.meshgrid(np.arange(N + 1.0), np.arange(N + 1.0))
    cos, sin = step * math.cos(tilt), step * math.sin(tilt)
    return offset + j * cos + i * sin, offset + N * sin + i * cos - j * sin


def footprints(name: str, pixels: NDArray[Any], corners: Corners, ratio: int) -> Work:
    """A statistic of the pixels under each cell.

    Args:
        corners: of the cells.
        ratio: pixels to an edge if cells are made of whole ones; else 0.
    """
    before: Any = coverage
    if hasattr(before, "footprints"):  # a commit without routes
        statistic = before.STATISTICS.index(name)
        return lambda: before.footprints(
            pixels, before.EVERYWHERE, *corners, (0, 0), statistic, 0.0, 0, (0.0, 0.0), np.inf
        )
    from geopipe.resample import statistics
    from geopipe.resample.footprints import Footprints, Lattice

    window = Window(0, 0, *pixels.shape)

    def work() -> None:
        whole: list[statistics.Whole] = [statistics.Whole(ratio, ratio)] if ratio else []
        for part in whole or Footprints(Lattice(*corners)).coverages(window):
            statistics.statistic_of(name, pixels, coverage.EVERYWHERE, part)

    return work


def interpolation(name: str, pixels: NDArray[Any]) -> Work:
    """An interpolation at the centres of slightly tilted cells of about one pixel."""
    cols, rows = (array[:N, :N].copy() for array in places(0.999, 0.01, 12.3))  # contiguous, as those of a block are
    method = kernels.INTERPOLATIONS.index(name)
    return lambda: kernels.interpolate(pixels, cols, rows, (0, 0), method, (1.0, 1.0))


def cases() -> dict[str, Work]:
    """The kernels by name."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 100, (2 * N, 2 * N)).astype(np.float32)
    classes = rng.integers(1, 10, (2 * N, 2 * N)).astype(np.float32)
    straight, tilted = places(2.0, 0.0, 0.0), places(PIXELS, TILT, 5.0)
    shape = tuple(int(array.max()) + 8 for array in reversed(tilted))
    larger = rng.uniform(0, 100, shape).astype(np.float32)
    more_classes = rng.integers(1, 12, shape).astype(np.float32)
    holes = values.copy()
    holes[100:200, 300:400] = np.nan
    return {
        "average of 2 x 2 pixels": footprints("average", values, straight, 2),
        "average of 2 x 2 pixels, some missing": footprints("average", holes, straight, 2),
        "mode of 2 x 2 pixels": footprints("mode", classes, straight, 2),
        "bilinear": interpolation("bilinear", values),
        "bilinear, some missing": interpolation("bilinear", holes),
        "cubic": interpolation("cubic", values),
        "lanczos": interpolation("lanczos", values),
        "average, tilted, 3.3 pixels": footprints("average", larger, tilted, 0),
        "mode, tilted, 3.3 pixels": footprints("mode", more_classes, tilted, 0),
    }


def plain_pass(values: NDArray[np.float64]) -> Work:
    """A pass of numpy over a block, which the speed of the machine is judged by."""
    return lambda: np.sin(values)


def layer(statistics: tuple[str, ...], folder: Path) -> Work:
    """Read a tile of a raster in memory with statistics of exact areas, as a run does."""
    import w3

    from geopipe import api
    from geopipe.load import raster, tiles

    settings = folder / "settings.toml"
    text = w3.settings_of(N).replace(w3.statistics_line(w3.STATISTICS), w3.statistics_line(statistics))
    settings.write_text(text.partition('[[layers]]\nname = "classes"')[0], encoding="utf-8")
    plan = api.plan(settings)

    class Kept:
        """Reads windows once."""

        def __init__(self) -> None:
            self.reader, self.windows = raster.Readers(), dict[Any, Any]()

        def read_window(self, layer: Any, source: Any, index: int, window: Any) -> Any:
            key = index, window
            if key not in self.windows:
                self.windows[key] = self.reader.read_window(layer, source, index, window)
            return self.windows[key]

        def close(self) -> None:
            self.reader.close()

    reader = Kept()

    def work() -> None:
        with raster.environment():
            for _ in tiles.read_tile(plan, plan.layers[0], plan.spec.tile(0), reader):
                pass

    return work


def measured(repetitions: int) -> dict[str, float]:
    """Nanoseconds a cell by case, in this process."""
    import w3

    times = {name: nanoseconds(work, repetitions) for name, work in cases().items()}
    times["a pass of numpy's sine"] = nanoseconds(plain_pass(np.linspace(0, 1, CELLS)), repetitions)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        w3.generate(folder, N)
        for count in (1, 3, 4):
            work = layer(w3.STATISTICS[:count], folder)
            times[f"six tilted bands, {count} of 4 statistics"] = nanoseconds(work, repetitions)
    return {name: round(value, 2) for name, value in times.items()}


@contextmanager
def worktree(revision: str) -> Iterator[Path | None]:
    """A work tree of a commit of this repository; None if the history does not have it."""
    git = ["git", "-C", str(REPOSITORY)]
    known = subprocess.run([*git, "cat-file", "-e", f"{revision}^{{commit}}"], capture_output=True, check=False)
    if known.returncode:
        yield None
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "old"
        subprocess.run([*git, "worktree", "add", "--quiet", "--detach", folder, revision], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", folder], check=True)


def in_process_of(folder: Path, repetitions: int) -> dict[str, float]:
    """What this script measures with the geopipe of a folder, in a process of its own."""
    command = [sys.executable, __file__, "--one", "--repetitions", str(repetitions)]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{folder}: {done.stderr}")
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", default=OLD, metavar="COMMIT", help="to compare with, if the history has it")
    parser.add_argument("--processes", type=int, default=2, help="of each commit")
    parser.add_argument("--repetitions", type=int, default=5, help="in each process, of which the fastest counts")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="forget the results of a series before")
    parser.add_argument("--one", action="store_true", help="measure once in this process, and print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.repetitions)))
        return
    results = Results(options.results)
    if options.again:
        results.forget("kernels/")
    with worktree(options.old) as old:
        folders = {"old": old, "new": REPOSITORY}
        for number in range(options.processes):
            for name, folder in folders.items():
                if folder is None:
                    print(f"no commit {options.old} in this history: figures of today only", flush=True)
                    continue
                revision = options.old if name == "old" else commit()

                def work(folder: Path = folder, revision: str = revision) -> dict[str, Any]:
                    return {"commit": revision, "ns": in_process_of(folder, options.repetitions)}

                one = results.measured(f"kernels/{name}/{number}", work)
                print(f"{name} {one['commit']}", flush=True)
                for case, value in one["ns"].items():
                    print(f"  {case:<40} {value:8.1f} ns a cell", flush=True)


if __name__ == "__main__":
    main()
