"""Checks of the rows of a tile, batch by batch: cells, coordinates and values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from geopipe.export.state import MANIFEST
from geopipe.export.tiles import Receipt
from geopipe.grid.crs import Floats
from geopipe.grid.grid import Tile
from geopipe.merge import derived
from geopipe.merge.spec import COORDINATES
from geopipe.validate.facts import Ends, Facts, Finding, check_round_trip, fault

DEGREES = 1e-8
"""Tolerance of longitudes and latitudes in degrees (a millimetre): another PROJ may round otherwise."""

Spot = tuple[str, str, NDArray[np.bool_], Callable[[int], str]]
"""A check, the fault of the rows where the mask is true, and a function that describes one of them by its index."""


def check_rows(
    facts: Facts, receipt: Receipt, name: str, parts: Iterable[tuple[str, Iterable[pa.RecordBatch]]]
) -> tuple[list[Finding], int]:
    """Check cells, coordinates and values of the rows of one tile in one format. Returns findings and number of rows.

    Args:
        name: of all the files together, for messages.
        parts: name and rows of each file. A cell may be in one file only.
    """
    findings: list[Finding] = []
    seen = dict.fromkeys(receipt.columns, Ends())
    tile = facts.grid.tile(receipt.tile, facts.window_size) if 0 <= receipt.tile < facts.tiles else None
    files = np.zeros(tile.cells if tile is not None and facts.partitioned else 0, np.uint16)
    total = 0
    for number, (path, batches) in enumerate(parts, 1):
        cells = None if tile is None else _Cells(facts, tile, number, files)
        rows, faults = 0, dict[tuple[str, str], tuple[int, str]]()
        for batch in batches:
            names = set(batch.schema.names)
            spots = list(_nan_spots(batch))
            if cells is not None and names.issuperset(dict(COORDINATES)):
                spots += cells.spots(batch)
            _count(faults, spots, rows)
            seen |= {name: ends | _ends_of(batch[name]) for name, ends in seen.items() if name in names}
            rows += batch.num_rows
        for (check, what), (count, text) in sorted(faults.items()):
            findings.append(fault(check, f"{path}: {count:,} of {rows:,} rows {what}; the first is {text}"))
        total += rows
    if tile is not None:
        findings += check_round_trip(facts, tile.key)
    for variable, ends in seen.items():
        findings += _compare(name, variable, ends, Ends.of(receipt.columns[variable]))
    return findings, total


def _count(faults: dict[tuple[str, str], tuple[int, str]], spots: Iterable[Spot], before: int) -> None:
    """Count the faulty rows of a batch by check and fault, and describe the first; `before` rows precede the batch."""
    for check, what, mask, describe in spots:
        if count := int(np.count_nonzero(mask)):
            at = int(np.argmax(mask))
            old, first = faults.get((check, what), (0, f"row {before + at:,} of the file, {describe(at)}"))
            faults[check, what] = old + count, first


class _Cells:
    """The cells of a tile in one of its files.

    A cell's place is its row-major index in the tile. Where places only rise, no cell is there twice.

    Args:
        number: of the file, from 1.
        files: (cells,) uint16, number of the file that has the cell; 0 for none. Empty for a single file.
    """

    def __init__(self, facts: Facts, tile: Tile, number: int, files: NDArray[np.uint16]) -> None:
        self.facts, self.tile, self.number, self.files, self.last = facts, tile, number, files, -1

    def spots(self, batch: pa.RecordBatch) -> list[Spot]:
        """The faults of the cells of a batch."""
        tile, grid = self.tile, self.facts.grid
        null = np.any([batch[name].is_null() for name, _ in COORDINATES], axis=0)
        row, col = (_filled(batch[name], 0).astype(np.int64) for name in ("row", "col"))
        x, y = (_filled(batch[name], math.nan) for name in ("x", "y"))
        down, right = row - tile.row, col - tile.col
        inside = ~null & (down >= 0) & (down < tile.height) & (right >= 0) & (right < tile.width)
        at = np.flatnonzero(inside)
        place = down[at] * tile.width + right[at]
        steps = np.diff(place, prepend=self.last)
        self.last = int(place[-1]) if len(place) else self.last
        again = steps == 0
        if len(self.files):
            again |= (self.files[place] != 0) & (self.files[place] != self.number)
            self.files[place] = self.number
        xs = grid.xs(tile.col, tile.width)[right.clip(0, tile.width - 1)]
        ys = grid.ys(tile.row, tile.height)[down.clip(0, tile.height - 1)]

        def spread(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
            full = np.zeros(len(inside), bool)
            full[at] = mask
            return full

        def cell(i: int) -> str:
            return f"row {row[i]}, col {col[i]}"

        def placed(i: int) -> str:
            return f"{cell(i)}: x {float(x[i])!r}, y {float(y[i])!r}, centre {float(xs[i])!r}, {float(ys[i])!r}"

        area = f"rows {tile.row} to {tile.row + tile.height - 1}, cols {tile.col} to {tile.col + tile.width - 1}"
        return [
            ("cells", "have no row, col, x or y", null, lambda i: "where a field is null"),
            ("cells", f"are outside tile {tile.key} ({area})", ~inside & ~null, cell),
            ("cells", "are a cell again", spread(again), cell),
            ("cells", "are not in row-major order", spread(steps < 0), cell),
            ("coordinates", "are not at the centre of their cell", inside & ((x != xs) | (y != ys)), placed),
            *_derived_spots(self.facts, batch, x, y, cell),
        ]


def _derived_spots(
    facts: Facts, batch: pa.RecordBatch, x: Floats, y: Floats, describe: Callable[[int], str]
) -> Iterator[Spot]:
    """Faults of the columns that are derived from x and y."""
    layout, names = facts.layout, batch.schema.names
    expected = derived.arrays(facts.grid, layout.lonlat, layout.h3, x, y)
    columns = dict(zip([f.name for f in derived.fields(layout.lonlat, layout.h3)], expected, strict=True))
    if layout.geometry and derived.GEOMETRY.name in names:
        columns[derived.GEOMETRY.name] = derived.points(x, y)
    for name, right in columns.items():
        if name not in names:
            continue
        column = batch[name]
        if name in ("lon", "lat"):
            wrong = ~np.isclose(_filled(column, math.inf), _filled(right, math.inf), rtol=0, atol=DEGREES)
        else:
            same = pc.fill_null(pc.equal(column, right), False)
            both = pc.and_(column.is_null(), right.is_null())
            wrong = pc.invert(pc.or_(same, both)).to_numpy(zero_copy_only=False)
        yield "coordinates", f"have a {name} that does not follow from x and y", wrong, describe


def _filled(column: pa.Array, value: float) -> NDArray[Any]:
    return np.asarray((column.fill_null(value) if column.null_count else column).to_numpy(zero_copy_only=False))


def _nan_spots(batch: pa.RecordBatch) -> Iterator[Spot]:
    for name in batch.schema.names:
        column = batch[name]
        if pa.types.is_floating(column.type):
            mask = np.isnan(column.fill_null(0).to_numpy(zero_copy_only=False))
            yield "values", f"have NaN in {name}, where a missing value is a null", mask, lambda i: "NaN"


def _ends_of(column: pa.Array) -> Ends:
    ends = pc.min_max(column).as_py()
    if ends["min"] is None or math.isnan(ends["min"]):  # NaN only of a batch without a number
        return Ends(column.null_count)
    return Ends(column.null_count, ends["min"], ends["max"])


def _compare(path: str, name: str, ends: Ends, planned: Ends) -> Iterator[Finding]:
    """Compare a column of the files with that of their receipt."""
    if ends.nulls != planned.nulls:
        yield fault("nulls", f"{path} has {ends.nulls:,} nulls in {name}; {MANIFEST} says {planned.nulls:,}")
    if ends[1:] != planned[1:]:
        text = f"{path} has values from {ends.low!r} to {ends.high!r} in {name}"
        yield fault("values", f"{text}; {MANIFEST} says {planned.low!r} to {planned.high!r}")
