"""Compare the tables of two runs, cell by cell: the share of cells that agree, by column.

    python bench/agree.py FOLDER OUTPUT OTHER      # FOLDER has the workload, OUTPUT the table to compare with

A peer's time counts only if its table is the same within a tolerance, which differs by method: GDAL moves positions by
up to an eighth of a pixel, and ties between classes are settled in another way.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

CLOSE, NEAR = 0.01, 0.1
"""Differences, as shares of the range from the 1st to the 99th percentile of a column. The layers have 5 % noise: an
eighth of a pixel, which is GDAL's tolerance of positions, moves values further than CLOSE, but not than NEAR."""

LEAST_NEAR, LEAST_EQUAL, MOST_NULLS = 0.99, 0.9, 0.005
"""Shares of the cells of a table that counts as the same: near values, equal classes, values in one table only."""

KEYS = ("row", "col", "x", "y")


@dataclass(frozen=True)
class Agreement:
    """How a column of two tables agrees.

    Attributes:
        cells: with a value in both.
        equal: share of them that are equal to the bit.
        close: share of them that differ by at most CLOSE.
        near: share of them that differ by at most NEAR.
        nulls: share of all cells that have a value in one table only.
        greatest: difference, as a share of the column's range.
        is_class: whether the values are classes.
    """

    cells: int
    equal: float
    close: float
    near: float
    nulls: float
    greatest: float
    is_class: bool

    @property
    def is_same(self) -> bool:
        """Whether the columns count as the same."""
        same = self.equal >= LEAST_EQUAL if self.is_class else self.near >= LEAST_NEAR
        return same and self.nulls <= MOST_NULLS


def files_of(output: Path) -> list[Path]:
    """The Parquet files of a table."""
    return sorted(output.rglob("*.parquet"))


def column(output: Path, name: str, shape: tuple[int, int]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """A column on the whole grid, and where it has a value, both of `shape`."""
    values, valid = None, np.zeros(shape, bool)
    for path in files_of(output):
        table = pq.read_table(path, columns=["row", "col", name])
        part = table[name].combine_chunks()
        if values is None:
            values = np.zeros(shape, part.type.to_pandas_dtype())
        at = table["row"].to_numpy(), table["col"].to_numpy()
        valid[at] = ~np.asarray(part.is_null())
        values[at] = part.fill_null(0).to_numpy(zero_copy_only=False)
    if values is None:
        raise SystemExit(f"{output} has no Parquet file")
    return values, valid


def shape_of(folder: Path) -> tuple[int, int]:
    """Rows and columns of the grid of a workload."""
    grid = tomllib.loads((folder / "settings.toml").read_text(encoding="utf-8"))["grid"]
    xmin, ymin, xmax, ymax = grid["bounds"]
    return round((ymax - ymin) / grid["resolution"]), round((xmax - xmin) / grid["resolution"])


def columns_of(output: Path) -> list[str]:
    """The names of the variables of a table."""
    return [name for name in pq.read_schema(files_of(output)[0]).names if name not in KEYS]


def agreement(one: tuple[NDArray[Any], NDArray[np.bool_]], other: tuple[NDArray[Any], NDArray[np.bool_]]) -> Agreement:
    """Compare a column of two tables, each as values and where they are."""
    both, is_class = one[1] & other[1], one[0].dtype.kind == "u"
    first, second = one[0][both].astype(np.float64), other[0][both].astype(np.float64)
    nulls = float((one[1] != other[1]).mean())
    if not first.size:
        return Agreement(0, 1.0, 1.0, 1.0, nulls, 0.0, is_class)
    low, high = np.percentile(first[:: max(1, first.size // 100_000)], (1, 99))
    apart = np.abs(first - second) / max(high - low, 1e-12)
    equal, close, near = (float(np.mean(apart <= most)) for most in (0, CLOSE, NEAR))
    return Agreement(int(both.sum()), equal, close, near, nulls, float(apart.max()), is_class)


def agreements(shape: tuple[int, int], one: Path, other: Path, part: slice) -> Iterator[tuple[str, Agreement]]:
    """The agreement of each column of two tables, in rows and columns `part` of the grid."""
    for name in columns_of(one):
        cut = [tuple(array[part, part] for array in column(output, name, shape)) for output in (one, other)]
        yield name, agreement((cut[0][0], cut[0][1]), (cut[1][0], cut[1][1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--cells", type=int, help="compare the first so many rows and columns")
    options = parser.parse_args()
    for name, one in agreements(shape_of(options.folder), options.output, options.other, slice(0, options.cells)):
        print(f"{name:<20} {json.dumps(asdict(one))}", flush=True)


if __name__ == "__main__":
    main()
