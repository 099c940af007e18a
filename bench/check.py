"""Compare kernels and a small run with what is recorded: did something become much slower?

    python bench/check.py [--record] [--results FILE]

Only ratios of times that were measured together count, so that the speed of a machine counts for little: kernels
against a pass of numpy's sine, and a small run in one process against the loop of an expert. The bounds are loose.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import kernels
import measure
import w8
from results import REPOSITORY, RESULTS, Results
from series import ENGINES, PEERS, geopipe_run

SINE = "a pass of numpy's sine"
MOST = 1.6
"""Times a recorded ratio at which it counts as slower."""


def kernel_ratios(repetitions: int) -> dict[str, float]:
    """The time of each kernel as a multiple of that of a sine."""
    times = kernels.in_process_of(REPOSITORY, repetitions)
    return {name: round(value / times[SINE], 2) for name, value in times.items() if name != SINE}


def run_ratio(n: int, repetitions: int) -> float:
    """Processor time of a small run in one process as a multiple of the loop's, start of both included."""
    with tempfile.TemporaryDirectory(prefix="geopipe-bench-") as name:
        folder, output = Path(name) / "w8", Path(name) / "output"
        settings = w8.generate(folder, n)
        run = geopipe_run(settings, output, ENGINES["local"])
        loop: list[str | Path] = [sys.executable, PEERS / "loop.py", folder, output, "--chunk", "512"]
        measure.run(run)  # compiled code and files come from the cache
        ratios = [measure.run(run).cpu / measure.run(loop).cpu for _ in range(repetitions)]
    return round(statistics.median(ratios), 2)


def ratios(n: int, repetitions: int) -> dict[str, Any]:
    """All ratios by name."""
    return kernel_ratios(repetitions) | {f"run of {n} x {n} cells, processor time": run_ratio(n, repetitions)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="record the ratios as those to compare with")
    parser.add_argument("--n", type=int, default=1024, help="cells along an edge of the small run's grid")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    results, slower = Results(options.results), 0
    today = ratios(options.n, options.repetitions)
    if options.record:
        results.forget("check")
        results.measured("check", lambda: today)
    recorded = results.values.get("check", {})
    for name, ratio in today.items():
        before = recorded.get(name)
        is_slower = before is not None and ratio > MOST * before
        slower += is_slower
        was = "not recorded" if before is None else f"recorded {before:8.2f}"
        print(f"{name:<44} {ratio:8.2f}   {was}{'   SLOWER' if is_slower else ''}", flush=True)
    print(f"{slower} of {len(today)} became slower by more than {MOST:g} times")
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    main()
