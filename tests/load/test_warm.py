"""Kernels are compiled before a run needs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from helpers import plan_of, table_of, write_raster

from geopipe.analysis.warm import warm as warm_analyses
from geopipe.grid.grid import Grid
from geopipe.layers.layer import Kind, Layer
from geopipe.load.warm import METHODS, warm
from geopipe.resample import compiled
from geopipe.resample.methods import PICKED

UTM = "EPSG:32632"


@pytest.mark.slow
def test_a_warm_machine_compiles_nothing_for_any_type_method_or_route(tmp_path: Path) -> None:
    warm()
    warm_analyses()
    assert compiled.cached() == len(compiled.KERNELS)
    before = {id(kernel): len(kernel.signatures) for kernel in compiled.KERNELS}
    places = {"same": Affine(15, 0, 500_000, 0, -15, 5_000_000), "finer": Affine(11, 0, 500_000, 0, -11, 5_000_000)}
    tilted = Affine(9, 1, 500_000, 1, -9, 5_000_000)
    for dtype in ("uint8", "int16", "int32", "int64", "uint64", "float32", "float64"):
        pixels = np.random.default_rng(1).integers(0, 99, (120, 120)).astype(dtype)
        methods = tuple(m for m in METHODS if m in PICKED or dtype not in ("int64", "uint64"))
        layers = []
        for place, transform in (places | {"tilted": tilted}).items():
            file = write_raster(tmp_path / f"{place}_{dtype}.tif", pixels, UTM, transform, nodata=7)
            layers.append(Layer(place, (str(file),), kind=Kind.CONTINUOUS, resampling=methods))
        file = write_raster(tmp_path / f"count_{dtype}.tif", pixels, UTM, places["finer"])
        layers.append(Layer("count", (str(file),), kind=Kind.COUNT))
        layers.append(Layer("angle", (str(file),), kind=Kind.CIRCULAR))
        layers.append(Layer("share", (str(file),), kind=Kind.CATEGORICAL, fractions=(3, 4), valid_fraction=True))
        table_of(plan_of(Grid(UTM, 500_000, 5_000_000, 30, 30, 40, 40), layers))
    anew = [kernel.__name__ for kernel in compiled.KERNELS if len(kernel.signatures) > before[id(kernel)]]
    assert anew == []


def doctor(*options: str, **environment: str) -> str:
    command = [sys.executable, "-m", "geopipe", "doctor", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment)
    return done.stdout


def test_the_doctor_counts_the_compiled_kernels_and_says_what_to_do(tmp_path: Path) -> None:
    findings = {finding["name"]: finding for finding in json.loads(doctor("--json", NUMBA_CACHE_DIR=str(tmp_path)))}
    state, _, folder = findings["kernels"]["value"].partition(", in ")
    assert state == f"0 of {len(compiled.KERNELS)} are compiled"
    assert Path(folder).parent == tmp_path
    assert findings["kernels"]["state"] == "note"
    assert "geopipe doctor --warm" in findings["kernels"]["hint"]
    text = doctor(RAY_ADDRESS="127.0.0.1:6379")
    assert "a run joins the cluster of RAY_ADDRESS = '127.0.0.1:6379'" in text
