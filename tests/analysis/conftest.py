"""Finished tables for analyses: the same rows as Parquet and as one file of CSV, in four tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import north_up, write_raster

import geopipe as gp

UTM, HEIGHT, WIDTH = "EPSG:32632", 600, 520


@pytest.fixture(scope="session")
def arrays() -> dict[str, np.ndarray]:
    """The pixels of each source, (HEIGHT, WIDTH): three numbers that go together, one with holes, and classes."""
    rng = np.random.default_rng(3)
    rows, cols = np.mgrid[:HEIGHT, :WIDTH]
    height = 1000 + 300 * np.sin(rows / 90) * np.cos(cols / 70) + rng.normal(0, 5, (HEIGHT, WIDTH))
    warmth = 20 - 0.006 * height + rng.normal(0, 0.5, (HEIGHT, WIDTH))
    rain = rng.gamma(2.0, 300.0, (HEIGHT, WIDTH))
    rain[100:160, 200:300] = np.nan
    cover = 1 + (height > 1000).astype("uint8") + 2 * (rng.random((HEIGHT, WIDTH)) < 0.2)
    numbers = {"height": height, "warmth": warmth, "rain": rain}
    return {name: array.astype("float32") for name, array in numbers.items()} | {"cover": cover.astype("uint8")}


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("analysed")
    layers = []
    for name, array in arrays.items():
        nodata = np.nan if array.dtype.kind == "f" else None
        write_raster(folder / f"{name}.tif", array, UTM, north_up(500_000, 5_000_000, 10), nodata=nodata)
        layers.append({"name": name, "path": str(folder / f"{name}.tif")})
    layers[-1]["kind"] = "categorical"
    return {
        "grid": {"like": str(folder / "height.tif")},
        "layers": layers,
        "resampling": {"window_size": 512},
    }


@pytest.fixture(scope="session")
def table(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> gp.Table:
    """The table as Parquet."""
    output = tmp_path_factory.mktemp("table") / "output"
    return gp.open(gp.run(settings, {"run.output": str(output)}, engine="local", progress=False).output)


@pytest.fixture(scope="session")
def csv_table(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> gp.Table:
    """The table as one CSV file of all tiles."""
    export = {"export.formats": ["csv"], "export.csv_files": "one"}
    output = tmp_path_factory.mktemp("csv") / "output"
    return gp.open(gp.run(settings, {"run.output": str(output)} | export, engine="local", progress=False).output)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for results, so that a table that tests share stays as it is."""
    return tmp_path / "analysis"
