"""Cases of the comparison of speed, and how they are run in turn, each repetition in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import agree
import measure
import pyarrow.parquet as pq
import w3
import w8
from results import Results, commit

GEOPIPE = Path(sys.executable).with_name("geopipe")
PEERS = Path(__file__).with_name("peers")
ENGINES = {
    "ray": ("engine.kind=ray", "merge.strategy=aligned"),
    "groupby": ("engine.kind=ray", "merge.strategy=groupby"),
    "local": ("engine.kind=local",),
    "auto": (),
    "reported": ("engine.kind=local", "report.enabled=true"),
}
"""Settings of geopipe's own contenders. The others are scripts in bench/peers, which make no report: nor do these, but
for the last."""
GENERATORS = {"w8": w8.generate, "w3": w3.generate}


@dataclass(frozen=True)
class Sizes:
    """Cells along an edge of each workload, and repetitions; see MEANINGS."""

    small: int = 1024
    half: int = 4096
    whole: int = 8192
    large: int = 16_384
    scene: int = w3.LARGEST
    repetitions: int = 2


MEANINGS = {
    "small": "cells along an edge of W8 where the tables of peers are compared",
    "half": "of the smaller W8",
    "whole": "of the larger W8",
    "large": "of the W8 of the step flat",
    "scene": "of W3",
    "repetitions": "of most measurements",
}

TINY = (256, 256, 512, 768, 200, 1)
"""Sizes to try the scripts with."""


@dataclass(frozen=True)
class Case:
    """A contender on a workload of n x n cells, its files in the system's cache or not.

    `more` are arguments of a peer, and `label` is the name of such a case.
    """

    workload: str
    n: int
    contender: str
    cold: bool = True
    more: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True)
class Bench:
    """Where a series has its data, works, and keeps its results; the Python that peers run with."""

    data: Path
    work: Path
    results: Results
    peers: Path
    sizes: Sizes

    def folder(self, workload: str, n: int) -> Path:
        """The folder of a workload, generated if it is not there."""
        folder = self.data / f"{workload}-{n}"
        if not (folder / "settings.toml").exists():
            print(f"generate {folder}", flush=True)
            GENERATORS[workload](folder, n)
        return folder

    def missing(self, peer: str) -> str:
        """Why a peer cannot run; empty if it can."""
        if not self.peers.exists():
            return f"{self.peers} does not exist: make bench-peers"
        imports = {"odc_dask": "odc.geo, dask, rioxarray", "rioxarray_dask": "dask, rioxarray"}
        imports |= {"xrspatial_dask": "xrspatial.reproject, dask", "exact_extract": "exactextract, geopandas"}
        command = [str(self.peers), "-c", f"import rasterio, pyarrow, {imports.get(peer, 'affine')}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return (done.stderr.strip().splitlines() or ["it ended"])[-1] if done.returncode else ""

    def command(self, case: Case, output: Path) -> list[str | Path]:
        """The command of a case."""
        folder = self.folder(case.workload, case.n)
        if case.contender in ENGINES:
            return geopipe_run(folder / "settings.toml", output, ENGINES[case.contender])
        return [self.peers, PEERS / f"{case.contender}.py", folder, output, *case.more]

    def _run(self, key: str, case: Case) -> dict[str, Any]:
        """Run a case in a process of its own."""
        output = self.work / case.contender
        shutil.rmtree(output, ignore_errors=True)
        rasters = sorted(self.folder(case.workload, case.n).glob("*.tif"))
        if case.cold:
            measure.drop_from_cache(rasters)
        else:
            for path in rasters:
                path.read_bytes()
        os.sync()  # the table of the run before shall be on disk
        usage = measure.run(self.command(case, output))
        result = figures(usage, output) | {"commit": commit()}
        if case.contender in ENGINES:
            summary = json.loads(usage.output)
            result |= {"seconds": summary["seconds"], "stages": summary["worker_seconds"]}
        show(key, result)
        shutil.rmtree(output, ignore_errors=True)
        return result

    def series(self, prefix: str, cases: Sequence[Case], repetitions: int) -> None:
        """Run cases in turn, A B A B."""
        missing = {case.contender: self.missing(case.contender) for case in cases if case.contender not in ENGINES}
        for name, reason in missing.items():
            if reason:
                print(f"{prefix}: {name} skipped, {reason}", flush=True)
        for repetition in range(repetitions):
            for case in (case for case in cases if not missing.get(case.contender)):
                key = f"{prefix}/{case.n}/{case.label or case.contender}/{repetition}"
                self.results.measured(key, partial(self._run, key, case))


def geopipe_run(settings: Path, output: Path, flags: Sequence[str]) -> list[str | Path]:
    """The command that runs settings into an output folder."""
    options = [part for flag in (f"run.output={output}", "report.enabled=false", *flags) for part in ("--set", flag)]
    return [GEOPIPE, "run", settings, "--overwrite", "--json", *options]


def warm_up(bench: Bench) -> None:
    """Run once what no measurement shall pay: compile the kernels, and start the Postgres that keeps the history."""
    n = Sizes(*TINY).small
    measure.run(geopipe_run(bench.folder("w8", n) / "settings.toml", bench.work / "warm-up", ENGINES["local"]))


def figures(usage: measure.Usage, output: Path) -> dict[str, Any]:
    """What is kept of a run: seconds, bytes of memory, bytes and rows of the table."""
    files = agree.files_of(output)
    return {
        "wall": round(usage.wall, 3),
        "cpu": round(usage.cpu, 3),
        "memory": usage.memory,
        "bytes": sum(path.stat().st_size for path in files),
        "rows": sum(pq.read_metadata(path).num_rows for path in files),
    }


def show(key: str, result: dict[str, Any]) -> None:
    """Print a result."""
    print(
        f"{key:<40} {result['wall']:8.2f} s, {result['cpu']:8.2f} s of processor, {result['memory'] / 1e6:7,.0f} MB, "
        f"table {result['bytes'] / 1e6:8,.1f} MB",
        flush=True,
    )
