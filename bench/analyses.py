"""Time the analyses of a finished table, and measure their memory, beside scikit-learn, numpy and pandas.

    python bench/analyses.py [--data FOLDER] [--sizes 3163 10000] [--cases NAME ...] [--again]

The table has n x n rows and eight variables (`bench/cells.py`); it is made once. Each measurement is a process of its
own, start included. scikit-learn gets the sizes that fit into memory. `bench/report.py` makes the table.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import measure
from cells import generate
from results import REPOSITORY, RESULTS, Results, commit
from series import GEOPIPE, PEERS

CASES = {
    "summary": ("summary",),
    "correlation": ("correlation",),
    "pca": ("pca", "pca_scores=false"),
    "pca_scores": ("pca",),
    "kmeans_step": ("kmeans", "kmeans_k=8", "kmeans_max_iterations=1"),
    "kmeans": ("kmeans", "kmeans_k=8"),
    "som": ("som", "som_epochs=1", "som_height=10", "som_width=10"),
    "autocorrelation": ("autocorrelation",),
    "regions": ("regions",),
    "gwpca": ("gwpca",),
}
"""Methods with their options."""

PEER_CASES = ("correlation", "pca", "kmeans_step", "som")
"""What scikit-learn, numpy, pandas and MiniSom do the same for."""

FITS = 5000
"""Rows and columns up to which the peers hold the table and what they make of it."""


def own(folder: Path, case: str) -> dict[str, Any]:
    """What geopipe takes."""
    method, *flags = CASES[case]
    options = [part for flag in flags for part in ("--set", flag)]
    usage = measure.run([GEOPIPE, "analyze", folder / "table", "--methods", method, *options, "--engine=local"])
    shutil.rmtree(folder / "table" / "analysis")
    return figures(usage)


def peer(folder: Path, case: str) -> dict[str, Any]:
    """What scikit-learn, numpy and pandas take."""
    with tempfile.TemporaryDirectory() as name:
        return figures(measure.run([sys.executable, PEERS / "learn.py", folder, Path(name) / "result.json", case]))


def figures(usage: measure.Usage) -> dict[str, Any]:
    """A measurement as it is kept."""
    return {"wall": usage.wall, "cpu": usage.cpu, "memory": usage.memory, "commit": commit()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REPOSITORY / "bench" / "data")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--sizes", type=int, nargs="+", default=[3163, 10_000], help="rows along an edge of the grid")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--again", action="store_true", help="measure anew what was measured")
    options = parser.parse_args()
    results = Results(options.results)
    for n in options.sizes:
        folder = options.data.absolute() / f"cells-{n}"
        generate(folder, n)
        for case in options.cases:
            tools = {"geopipe": own} | ({"peer": peer} if case in PEER_CASES and n <= FITS else {})
            for tool, take in tools.items():
                key = f"analyses/{n}/{case}/{tool}/0"
                if options.again:
                    results.forget(key)
                one = results.measured(key, partial(take, folder, case))
                name = key.removesuffix("/0")
                print(f"{name}: {one['wall']:.1f} s, {one['cpu']:.1f} s of CPU, {one['memory'] / 1e9:.2f} GB, "
                      f"{n * n / one['wall'] / 1e6:.1f} M rows/s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
