"""A finished table of two tiles, and ways to damage it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from helpers import north_up, write_raster

from geopipe.run import pipeline
from geopipe.settings import load
from geopipe.validate.output import Report

UTM = "EPSG:32632"
WIDTH, HEIGHT = 600, 20
SETTINGS = """
[grid]
crs = "EPSG:32632"
resolution = 10
bounds = [500000, 4999800, 506000, 5000000]
[[layers]]
name = "height"
path = "height.tif"
[[layers]]
name = "cover"
path = "cover.tif"
kind = "categorical"
[[layers]]
name = "big"
path = "big.tif"
[[layers]]
name = "coarse"
path = "coarse.tif"
[resampling]
window_size = 512
[export]
formats = ["parquet", "csv"]
"""


def make_settings(folder: Path) -> Path:
    """Settings of two tiles (512 and 88 columns wide): floats with holes, classes, 64-bit integers, packed bytes."""
    rng = np.random.default_rng(3)
    height = rng.normal(1000, 200, (HEIGHT, WIDTH)).astype("float32")
    height[:5, :100], height[7, 550] = np.nan, np.inf
    cover = rng.integers(0, 5, height.shape).astype("uint8")
    cover[:5, :20] = 0
    here = north_up(500_000, 5_000_000, 10)
    write_raster(folder / "height.tif", height, UTM, here)
    write_raster(folder / "cover.tif", cover, UTM, here, nodata=0)
    write_raster(folder / "big.tif", rng.integers(2**53, 2**60, height.shape), UTM, here)
    coarse = rng.integers(1, 256, (12, 210)).astype("uint8")
    profile = {"nodata": 0, "scales": (0.5,), "offsets": (-10.0,)}
    write_raster(folder / "coarse.tif", coarse, UTM, north_up(499_900, 5_000_100, 30), **profile)
    file = folder / "settings.toml"
    file.write_text(SETTINGS)
    return file


def run(file: Path, *flags: str) -> pipeline.Summary:
    return pipeline.run(load.load(file, (*flags, "engine.kind=local")), overwrite=True)


def errors(report: Report) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {}
    for finding in report.findings:
        if finding.level == "error":
            result.setdefault(finding.check, []).append(finding.message)
    return result


def edit_manifest(output: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Let `change` alter the receipts, as JSON values."""
    path = output / "manifest.jsonl"
    receipts = [json.loads(line) for line in path.read_text().splitlines()]
    change(receipts)
    path.write_text("".join(json.dumps(r) + "\n" for r in receipts))


def edit_success(output: Path, **changes: Any) -> None:
    document = json.loads((output / "_SUCCESS").read_text())
    (output / "_SUCCESS").write_text(json.dumps(document | changes))


def forge(output: Path, name: str) -> None:
    """Make the manifest and the totals agree with the bytes of a file, so that only its content can tell."""
    data = (output / name).read_bytes()

    def change(receipts: list[dict[str, Any]]) -> None:
        for file in (f for r in receipts for f in r["files"] if f["path"] == name):
            file |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        edit_success(output, bytes=sum(f["bytes"] for r in receipts for f in r["files"]))

    edit_manifest(output, change)


def rewrite(output: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Replace the rows of a Parquet file, and forge the manifest."""
    table = change(pq.ParquetFile(output / name).read())
    pq.write_table(table, output / name)
    forge(output, name)
