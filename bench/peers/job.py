"""What every peer of the comparison shares: the settings of the workload, its tiles, and how a tile is written.

A peer makes the table that geopipe makes (row, col, x, y and a column per variable, nulls where a layer has no value,
cells without any value left out) as Parquet files with zstd. Each is a script of its own:

    python bench/peers/loop.py FOLDER OUTPUT [--chunk 1024]
"""

from __future__ import annotations

import argparse
import itertools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from affine import Affine
from numpy.typing import NDArray

THREADS = 2

Columns = Mapping[str, tuple[NDArray[Any], NDArray[np.bool_]]]
"""Values and where they are missing, both (height, width), by name."""


@dataclass(frozen=True)
class Layer:
    """A raster and its methods; a layer with one method is one column for each band."""

    name: str
    path: Path
    methods: tuple[str, ...]

    def column(self, method: str, band: int, bands: int) -> str:
        """The name that geopipe has for a column; bands count from 1."""
        parts = [self.name, *([str(band)] if bands > 1 else []), *([method] if len(self.methods) > 1 else [])]
        return "_".join(parts)


@dataclass(frozen=True)
class Job:
    """A workload as a peer needs it: a grid of square cells, layers, and edge of a tile or chunk in cells."""

    output: Path
    crs: str
    transform: Affine
    width: int
    height: int
    layers: tuple[Layer, ...]
    chunk: int

    def tiles(self) -> Iterator[tuple[int, int, int, int]]:
        """Row, column, height and width of each tile."""
        for row, col in itertools.product(range(0, self.height, self.chunk), range(0, self.width, self.chunk)):
            yield row, col, min(self.chunk, self.height - row), min(self.chunk, self.width - col)

    def write(self, row: int, col: int, columns: Columns, **encoding: Any) -> None:
        """Write one tile, whose first cell is in `row` and `col`."""
        height, width = next(iter(columns.values()))[0].shape
        keep = np.zeros(height * width, bool)
        for _, missing in columns.values():
            keep |= ~missing.ravel()
        rows = np.repeat(np.arange(row, row + height, dtype=np.int32), width)[keep]
        cols = np.tile(np.arange(col, col + width, dtype=np.int32), height)[keep]
        cell = self.transform.a
        arrays = [pa.array(rows), pa.array(cols)]
        arrays += [pa.array(self.transform.c + (cols + 0.5) * cell), pa.array(self.transform.f - (rows + 0.5) * cell)]
        arrays += [pa.array(values.ravel()[keep], mask=missing.ravel()[keep]) for values, missing in columns.values()]
        table = pa.table(arrays, names=["row", "col", "x", "y", *columns])
        pq.write_table(table, self.output / f"tile-{row}-{col}.parquet", **{"compression": "zstd", **encoding})


def read_job(chunk: int) -> Job:
    """The job of the command line.

    Args:
        chunk: edge of a tile in cells, as the peer's expert would choose it.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="with the rasters and settings.toml of a workload")
    parser.add_argument("output", type=Path)
    parser.add_argument("--chunk", type=int, default=chunk, help="edge of a tile or chunk in cells")
    options = parser.parse_args()
    return job_of(options.folder, options.output, options.chunk)


def job_of(folder: Path, output: Path, chunk: int) -> Job:
    """The job of a folder with a workload; makes the output folder."""
    settings = tomllib.loads((folder / "settings.toml").read_text(encoding="utf-8"))
    xmin, ymin, xmax, ymax = settings["grid"]["bounds"]
    cell = settings["grid"]["resolution"]
    layers = []
    for layer in settings["layers"]:
        methods = layer["resampling"]
        names = (methods,) if isinstance(methods, str) else tuple(methods)
        layers.append(Layer(layer["name"], folder / layer["path"], names))
    output.mkdir(parents=True, exist_ok=True)
    width, height = round((xmax - xmin) / cell), round((ymax - ymin) / cell)
    transform = Affine(cell, 0, xmin, 0, -cell, ymax)
    return Job(output, settings["grid"]["crs"], transform, width, height, tuple(layers), chunk)
