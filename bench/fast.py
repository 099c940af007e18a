"""Time geopipe and what an expert would write instead, on the same rasters, in the same run.

    python bench/fast.py [STEP ...] [--data FOLDER] [--peers PYTHON] [--results FILE] [--tiny]

Each repetition is a process of its own; contenders alternate. A result is on disk as soon as it is measured, and a
series that was cut short continues: --again STEP measures a step anew. `bench/report.py` makes the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import agree
import measure
from results import REPOSITORY, RESULTS, Results, commit, machine
from series import (
    ENGINES,
    GEOPIPE,
    MEANINGS,
    TINY,
    Bench,
    Case,
    Sizes,
    figures,
    geopipe_run,
    show,
    warm_up,
)
from start import TRIVIAL


def agreement(bench: Bench) -> None:
    """Whether each peer makes the same table; its time counts only if it does."""
    check(bench, "w8", bench.sizes.small, ("loop", "tuned_loop", "odc_dask", "rioxarray_dask", "xrspatial_dask"))
    check(bench, "w3", bench.sizes.scene // 4, ("gdal_defaults", "exact_extract"))


def check(bench: Bench, workload: str, n: int, peers: Sequence[str]) -> None:
    """Compare the tables of peers with geopipe's."""
    folder, own = bench.folder(workload, n), bench.work / f"{workload}-{n}-geopipe"

    def compared(peer: str) -> dict[str, Any]:
        if not own.exists():
            measure.run(geopipe_run(folder / "settings.toml", own, ENGINES["local"]))
        other = bench.work / peer
        shutil.rmtree(other, ignore_errors=True)
        measure.run(bench.command(Case(workload, n, peer), other))
        columns = dict(agree.agreements(agree.shape_of(folder), own, other, slice(None)))
        shutil.rmtree(other)
        result = {name: vars(one) | {"is_same": one.is_same} for name, one in columns.items()}
        is_same = all(one.is_same for one in columns.values())
        print(f"agreement/{workload}/{peer}: {'the same table' if is_same else 'NOT the same table'}", flush=True)
        return {"n": n, "is_same": is_same, "columns": result}

    for peer in peers:
        if missing := bench.missing(peer):
            print(f"{peer}: skipped, {missing}", flush=True)
        else:
            bench.results.measured(f"agreement/{workload}/{peer}", partial(compared, peer))
    shutil.rmtree(own, ignore_errors=True)


def margin(bench: Bench) -> None:
    """W8 on Ray against the loop, the tuned loop and odc-geo with Dask, cold, at two sizes."""
    sizes, contenders = (bench.sizes.half, bench.sizes.whole), ("ray", "loop", "tuned_loop", "odc_dask")
    cases = [Case("w8", n, contender) for n in sizes for contender in contenders]
    bench.series("margin", cases, bench.sizes.repetitions)


def in_process(bench: Bench) -> None:
    """W8 in this process against the loop, processor time."""
    cases = [Case("w8", bench.sizes.half, contender) for contender in ("local", "loop")]
    bench.series("in_process", cases, bench.sizes.repetitions + 1)


def scene(bench: Bench) -> None:
    """W3 in one process against GDAL with its defaults, and a tile of it against exactextract."""
    n = bench.sizes.scene
    cases = [Case("w3", n, contender) for contender in ("local", "gdal_defaults")]
    bench.series("scene", cases, bench.sizes.repetitions)
    chunk, labels = ("--chunk", str(n // 4)), {"0": "exact_extract_start", "1": "exact_extract"}
    cases = [Case("w3", n, "exact_extract", more=(*chunk, "--tiles", k), label=label) for k, label in labels.items()]
    bench.series("scene", cases, 1)


def small(bench: Bench) -> None:
    """The demo, warm, by each engine, against a trivial job of Ray Data."""
    folder = bench.work / "demo"
    if not folder.exists():
        generate = f"from geopipe import demo; from pathlib import Path; demo.generate(Path({str(folder)!r}))"
        measure.run([sys.executable, "-c", generate])
    settings, output = folder / "settings.toml", bench.work / "demo-output"
    commands = {name: geopipe_run(settings, output, ENGINES[name]) for name in ("auto", "local", "ray")}
    commands["auto"] = geopipe_run(settings, output, (*ENGINES["auto"], "report.enabled=true"))  # as a user starts it
    # the fixed cost of Ray, as in start.py
    commands["unwatched"] = geopipe_run(settings, output, (*ENGINES["ray"], "monitoring.enable_database_logging=false"))
    commands["trivial"] = [sys.executable, "-c", TRIVIAL]
    measure.run(commands["auto"])  # compiled code and files come from the cache

    def run(key: str, command: Sequence[str | Path]) -> dict[str, Any]:
        result = figures(measure.run(command), output) | {"commit": commit()}
        show(key, result)
        return result

    for repetition in range(bench.sizes.repetitions + 1):
        for name, command in commands.items():
            key = f"small/{name}/{repetition}"
            bench.results.measured(key, partial(run, key, command))


def floor(bench: Bench) -> None:
    """The floor of W8: decode alone, and encode alone; and the processor time of geopipe's stages beside it."""
    n = bench.sizes.half
    folder, table = bench.folder("w8", n), bench.work / "table"

    def run(script: str, *arguments: Path) -> dict[str, Any]:
        usage = measure.run([sys.executable, Path(__file__).with_name(script), folder, *arguments])
        print(f"{script}: {usage.output.strip()}", flush=True)
        return dict(json.loads(usage.output)) | {"commit": commit()}

    for repetition in range(bench.sizes.repetitions):
        stages = bench.results.measured(f"stages/{n}/{repetition}", lambda: run("stages.py", table))
        bench.results.measured(f"floor/{n}/{repetition}", lambda: run("floor.py", table))
        del stages
    shutil.rmtree(table, ignore_errors=True)


def plan(bench: Bench) -> None:
    """The time of `geopipe plan` on W8, and the memory that it predicts."""
    settings = bench.folder("w8", bench.sizes.half) / "settings.toml"

    def run(key: str, flags: Sequence[str]) -> dict[str, Any]:
        options = [part for flag in flags for part in ("--set", flag)]
        usage = measure.run([GEOPIPE, "plan", settings, "--json", *options])
        result = {"wall": round(usage.wall, 3), "peak": json.loads(usage.output)["estimate"]["peak_bytes"]}
        print(f"{key:<40} {result['wall']:8.2f} s, predicts {result['peak'] / 1e6:,.0f} MB", flush=True)
        return result | {"commit": commit()}

    for repetition in range(bench.sizes.repetitions + 1):
        for engine in ("ray", "local"):
            key = f"plan/{engine}/{repetition}"
            bench.results.measured(key, partial(run, key, ENGINES[engine]))


def shuffle(bench: Bench) -> None:
    """Groupby on Ray at two sizes; aligned is measured by `margin`."""
    sizes = (bench.sizes.half, bench.sizes.whole)
    bench.series("margin", [Case("w8", n, "groupby") for n in sizes], 1)


def warm(bench: Bench) -> None:
    """W8 at the smaller size with all files in the system's cache."""
    contenders = ("ray", "local", "loop", "tuned_loop", "odc_dask")
    cases = [Case("w8", bench.sizes.half, contender, cold=False) for contender in contenders]
    bench.series("warm", cases, bench.sizes.repetitions)


def others(bench: Bench) -> None:
    """Peers of Dask that load whole rasters (rioxarray) or have no statistics (xarray-spatial), at both sizes."""
    sizes, contenders = (bench.sizes.half, bench.sizes.whole), ("rioxarray_dask", "xrspatial_dask")
    bench.series("margin", [Case("w8", n, contender) for n in sizes for contender in contenders], 1)


def flat(bench: Bench) -> None:
    """W8 on Ray on a large grid: time per cell and memory do not grow."""
    bench.series("margin", [Case("w8", bench.sizes.large, "ray")], 1)


def report(bench: Bench) -> None:
    """What the report adds to W8 in this process, warm."""
    cases = [Case("w8", bench.sizes.half, contender, cold=False) for contender in ("local", "reported")]
    bench.series("report", cases, bench.sizes.repetitions + 1)


def monitor(bench: Bench) -> None:
    """What watching costs, on Ray, as the median of pairs (bench/monitor.py)."""
    script = Path(__file__).with_name("monitor.py")
    size, pairs = str(bench.sizes.half), str(2 * bench.sizes.repetitions + 1)

    def run() -> dict[str, Any]:
        lines = measure.run([sys.executable, script, "--size", size, "--pairs", pairs]).output.splitlines()
        print(lines[-1], flush=True)
        return {"median": float(lines[-1].partition("median ")[2].partition(",")[0]), "commit": commit()}

    bench.results.measured("monitor/0", run)


STEPS: dict[str, Callable[[Bench], None]] = {
    "agreement": agreement,
    "margin": margin,
    "in_process": in_process,
    "scene": scene,
    "small": small,
    "floor": floor,
    "plan": plan,
    "shuffle": shuffle,
    "report": report,
    "warm": warm,
    "others": others,
    "flat": flat,
    "monitor": monitor,
}
"""In order of importance."""

LONG = ("flat", "monitor")
"""Steps that run only if they are named."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "steps", nargs="*", metavar="STEP", help=f"one or more of {', '.join(STEPS)}; all but the last two"
    )
    parser.add_argument("--data", type=Path, default=REPOSITORY / "bench" / "data", help="folder of the workloads")
    parser.add_argument("--peers", type=Path, default=REPOSITORY / ".venv-bench" / "bin" / "python")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--again", action="append", default=[], metavar="PREFIX", help="forget results, such as margin/"
    )
    for name, meaning in MEANINGS.items():
        parser.add_argument(f"--{name}", type=int, default=getattr(Sizes, name), help=f"{meaning} (%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, one repetition: to try the scripts")
    options = parser.parse_args()
    if unknown := set(options.steps) - STEPS.keys():
        parser.error(f"no step {', '.join(unknown)}; the steps are {', '.join(STEPS)}")
    results = Results(options.results)
    for prefix in options.again:
        results.forget(prefix)
    sizes = Sizes(*TINY) if options.tiny else Sizes(**{name: getattr(options, name) for name in MEANINGS})
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory(prefix="geopipe-bench-") as work:
        bench = Bench(options.data.absolute(), Path(work), results, options.peers.absolute(), sizes)
        results.measured("machine", machine)
        if results.measured("sizes", lambda: vars(sizes)) != vars(sizes):
            parser.error(f"{options.results} has results of other sizes")
        warm_up(bench)
        for step in options.steps or [name for name in STEPS if name not in LONG]:
            print(f"# {step}", flush=True)
            STEPS[step](bench)


if __name__ == "__main__":
    main()
