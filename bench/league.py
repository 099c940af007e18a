"""The league table of windows: the same job at three chunk or window sizes, and the cells that change.

    python bench/league.py [--n 2048] [--data FOLDER] [--peers PYTHON] [--results FILE]

W8 by each tool at three sizes of its window, tile or chunk. A table should not depend on how it was cut: what counts
are the cells whose value, or whether they have one, differs between the largest size and another one, to the bit.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import agree
import measure
import numpy as np
from results import REPOSITORY, RESULTS, Results, commit
from series import PEERS, Bench, Sizes, geopipe_run

ROUNDING = 1e-6
"""A larger difference, as a share of a column's range, is more than the rounding of float32."""


@dataclass(frozen=True)
class Contender:
    """A tool, what its sizes are, and three of them in cells; `peer` is its script, empty for geopipe."""

    name: str
    peer: str
    sizes: tuple[int, int, int]


CONTENDERS = (
    Contender("GDAL, WarpedVRT with defaults", "gdal_defaults", (512, 1000, 2048)),
    Contender("rioxarray + Dask", "rioxarray_dask", (512, 1000, 2048)),
    Contender("odc-geo + Dask", "odc_dask", (512, 1000, 2048)),
    Contender("xarray-spatial + Dask", "xrspatial_dask", (512, 1000, 2048)),
    Contender("geopipe", "", (512, 1024, 2048)),
)


def command(bench: Bench, contender: Contender, n: int, size: int, output: Path) -> Sequence[str | Path]:
    """The command that makes the table with windows of some size."""
    folder = bench.folder("w8", n)
    if contender.peer:
        return [bench.peers, PEERS / f"{contender.peer}.py", folder, output, "--chunk", str(size)]
    flags = (f"resampling.window_size={size}", "engine.kind=local")
    return geopipe_run(folder / "settings.toml", output, flags)


def changes(one: Path, other: Path, shape: tuple[int, int]) -> dict[str, dict[str, float]]:
    """The cells of each column that differ between two tables: to the bit, and by more than ROUNDING."""
    result = {}
    for name in agree.columns_of(one):
        (first, valid), (second, also) = (agree.column(output, name, shape) for output in (one, other))
        differs = (valid != also) | (valid & also & (first != second))
        both = valid & also
        low, high = np.percentile(first[both], (1, 99)) if both.any() else (0.0, 1.0)
        apart = np.abs(first[both].astype(np.float64) - second[both])
        apart /= max(high - low, 1e-12)
        more = int((apart > ROUNDING).sum() + (valid != also).sum())
        result[name] = {"cells": int(differs.sum()), "more": more, "greatest": float(apart.max(initial=0.0))}
    return result


def compared(bench: Bench, contender: Contender, n: int) -> dict[str, Any]:
    """The changes of a contender between its largest size and each of the others."""
    outputs = [bench.work / f"window-{size}" for size in contender.sizes]
    for size, output in zip(contender.sizes, outputs, strict=True):
        shutil.rmtree(output, ignore_errors=True)
        measure.run(command(bench, contender, n, size, output))
    shape = agree.shape_of(bench.folder("w8", n))
    *smaller, largest = outputs
    columns = [changes(largest, output, shape) for output in smaller]
    for output in outputs:
        shutil.rmtree(output)
    # of two smaller sizes the one that changes more
    worst = {name: max((column[name] for column in columns), key=lambda one: one["cells"]) for name in columns[0]}
    cells, more = (sum(one[key] for one in worst.values()) for key in ("cells", "more"))
    print(f"{contender.name:<32} {cells:>10,} changed, {more:>10,} visibly, of {n * n * len(worst):,}", flush=True)
    return {"n": n, "sizes": contender.sizes, "columns": worst, "commit": commit()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=2048, help="cells along an edge of the grid")
    parser.add_argument("--data", type=Path, default=REPOSITORY / "bench" / "data", help="folder of the workloads")
    parser.add_argument("--peers", type=Path, default=REPOSITORY / ".venv-bench" / "bin" / "python")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="forget the results of a series before")
    options = parser.parse_args()
    results = Results(options.results)
    if options.again:
        results.forget("league/")
    with tempfile.TemporaryDirectory(prefix="geopipe-bench-") as work:
        bench = Bench(options.data.absolute(), Path(work), results, options.peers.absolute(), Sizes())
        for contender in CONTENDERS:
            if contender.peer and (reason := bench.missing(contender.peer)):
                print(f"{contender.name}: skipped, {reason}", flush=True)
            else:
                results.measured(f"league/{contender.name}", partial(compared, bench, contender, options.n))


if __name__ == "__main__":
    main()
