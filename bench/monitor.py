"""Measure what monitoring costs: pairs of runs, one with the monitor and one without, and the quotient of their times.

    python bench/monitor.py [--pairs 7] [--size 4096] [--local]

The runs of a pair follow each other, in an order that alternates, so that a machine that others use slows both alike.
Prints the median of the quotients, and the range that half of them lie in.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from memory import settings

COMMAND = [sys.executable, "-c", "from geopipe.cli.main import main; main()"]
OFF = ("monitoring.enable_database_logging=false", "monitoring.enable_metrics=false")


def seconds(file: Path, watched: bool, local: bool) -> float:
    """Wall time of the run itself, from its workers' start to the commit."""
    flags = [part for flag in (() if watched else OFF) for part in ("--set", flag)]
    command = [*COMMAND, "run", str(file), "--overwrite", "--json", f"--engine={'local' if local else 'ray'}", *flags]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["seconds"]["run"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--local", action="store_true", help="the plain loop instead of Ray")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.setdefault("GEOPIPE_RESAMPLING__WINDOW_SIZE", "512")  # many tiles, and so many records
        file = settings(folder, args.size)
        seconds(file, watched=True, local=args.local)  # what is read and compiled for the first time
        quotients = []
        for number in range(args.pairs):
            order = (True, False) if number % 2 else (False, True)
            took = {watched: seconds(file, watched, args.local) for watched in order}
            quotients.append(took[True] / took[False])
            print(f"pair {number + 1}: watched {took[True]:6.2f} s, not {took[False]:6.2f} s", flush=True)
    low, middle, high = statistics.quantiles(quotients, n=4)
    print(f"watched / not: median {middle:.3f}, half of the pairs from {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    main()
