"""Runs of a few tiles that tests watch, cut short, and take up again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from helpers import north_up, write_raster

from geopipe.run import pipeline
from geopipe.settings import load

UTM = "EPSG:32632"
SETTINGS = """
[run]
name = "trial"
output = "out"
[grid]
crs = "EPSG:32632"
resolution = 30
bounds = "union"
[resampling]
window_size = 512
[export]
formats = ["parquet"]
[[layers]]
name = "a"
path = "a.tif"
[[layers]]
name = "b"
path = "b.tif"
"""


def make_trial(folder: Path) -> Path:
    """Settings of 4 x 3 tiles and two layers."""
    rng = np.random.default_rng(0)
    for name, shift in (("a", 0), ("b", 11)):
        pixels = rng.uniform(0, 100, (1300, 1800)).astype("float32")
        write_raster(folder / f"{name}.tif", pixels, UTM, north_up(500_000 + shift, 5_000_000, 30))
    (folder / "s.toml").write_text(SETTINGS)
    return folder / "s.toml"


SQUARE = """
[run]
name = "{name}"
output = "out"
[grid]
crs = "EPSG:32632"
resolution = 10
bounds = [500000, {bottom}, {right}, 5000000]
[resampling]
window_size = 512
[[layers]]
name = "a"
path = "a.tif"
"""


def make_square(folder: Path, name: str, tiles: int) -> Path:
    """Settings of tiles x tiles tiles and one layer, whose pixels are row + column."""
    edge = 512 * tiles
    pixels = np.add.outer(np.arange(edge), np.arange(edge)).astype("float32")
    write_raster(folder / "a.tif", pixels, UTM, north_up(500_000, 5_000_000, 10))
    bottom, right = 5_000_000 - 10 * edge, 500_000 + 10 * edge
    (folder / "s.toml").write_text(SQUARE.format(name=name, bottom=bottom, right=right))
    return folder / "s.toml"


def extend(file: Path, text: str) -> None:
    """Add lines to settings."""
    file.write_text(file.read_text() + text)


def run(file: Path, *flags: str, engine: str = "local", **how: Any) -> pipeline.Summary:
    return pipeline.run(load.load(file, (*flags, f"engine.kind={engine}")), **how)


def hashes(output: Path) -> list[str]:
    return [line.split('"columns"')[0] for line in (output / "manifest.jsonl").read_text().splitlines()]
