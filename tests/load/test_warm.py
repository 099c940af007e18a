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
    # a kernel with an underscore is part of others, which numba's cache holds whole
    assert [k.__name__ for k in compiled.KERNELS if not k.signatures and not k.__name__.startswith("_")] == []
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


KERNEL = """
from geopipe.resample.compiled import compiled

@compiled
def double(number):
    return number + number
"""


def test_machine_code_in_a_folder_that_is_read_only_is_used_and_the_rest_is_compiled_anew(tmp_path: Path) -> None:
    """As in a container image, whose user must not write into it."""
    (tmp_path / "image.py").write_text(KERNEL)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}

    def hits(*numbers: float) -> str:
        calls = "; ".join(f"assert image.double({number}) == {2 * number}" for number in numbers)
        code = f"import image; {calls}; print(image.double.stats.cache_hits.total())"
        command = [sys.executable, "-c", code]
        if os.geteuid() == 0:  # root could write everywhere
            command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()

    assert hits(1) == "0"
    files = sorted((tmp_path / "cache").rglob("*"))
    for file in files:
        file.chmod(0o555 if file.is_dir() else 0o444)
    assert hits(1) == "1"
    assert hits(1, 0.5) == "1", "no machine code for floats is there: it is compiled, and not kept"
    assert sorted((tmp_path / "cache").rglob("*")) == files
