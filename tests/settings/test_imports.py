"""What a process loads to read settings: nothing that compiles kernels, reads rasters or starts Ray."""

from __future__ import annotations

import subprocess
import sys


def test_settings_load_neither_numba_nor_rasterio() -> None:
    script = (
        "import sys, geopipe.settings.load\n"
        "heavy = {'numba', 'llvmlite', 'rasterio', 'ray', 'pyarrow', 'psycopg2', 'h5py'} & set(sys.modules)\n"
        "assert not heavy, sorted(heavy)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_decisions_are_made_without_rasterio() -> None:
    script = "import sys, geopipe.plan.layers\nassert 'rasterio' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
