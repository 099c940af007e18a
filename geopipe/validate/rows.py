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
from geopipe.grid.grid import Tile
from geopipe.merge import derived
from geopipe.merge.spec import COORDINATES
from geopipe.validate.facts import Ends, Facts, Finding, check_round_trip

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
    cells = None if tile is None else _Cells(facts, tile)
    total = 0
    for path, batches in parts:
        counts = _Counts()
        if cells is not None:
            cells.begin()
        for batch in batches:
            spots = list(_nan_spots(batch))
            if cells is not None and all(column in batch.schema.names for column, _ in COORDINATES):
                spots += cells.spots(batch)
            counts.add(batch.num_rows, spots)
            seen |= {name: ends | _ends_of(batch[name]) for name, ends in seen.items() if name in batch.schema.names}
        findings += counts.findings(path)
        total += counts.rows
    if tile is not None:
        findings += check_round_trip(facts, tile.key)
    for variable, ends in seen.items():
        findings += _compare(name, variable, ends, Ends.of(receipt.columns[variable]))
    return findings, total


class _Counts:
    """Counts of the faulty rows of a file, batch by batch."""

    def __init__(self) -> None:
        self.rows = 0
        self.faults: dict[tuple[str, str], tuple[int, str]] = {}

    def add(self, rows: int, spots: Iterable[Spot]) -> None:
        for check, what, mask, tell in spots:
            count = int(np.count_nonzero(mask))
            if count:
                at = int(np.argmax(mask))
                first = f"the first is row {self.rows + at:,} of the file, {tell(at)}"
                old, text = self.faults.get((check, what), (0, first))
                self.faults[check, what] = (old + count, text)
        self.rows += rows

    def findings(self, path: str) -> Iterator[Finding]:
        for (check, what), (count, text) in sorted(self.faults.items()):
            yield Finding("error", check, f"{path}: {count:,} of {self.rows:,} rows {what}; {text}")


class _Cells:
    """The cells of a tile, in one file or several.

    A cell's place is its row-major index in the tile. Where places only rise, no cell is there twice.
    """

    def __init__(self, facts: Facts, tile: Tile) -> None:
        self.facts, self.tile, self.last, self.file = facts, tile, -1, 0
        self.files = np.zeros(0, np.uint16)
        """(cells,) uint16, number of the file that has the cell, from 1; 0 for none. Empty for a single file."""

    def begin(self) -> None:
        """Start with the rows of another file."""
        self.last, self.file = -1, self.file + 1

    def spots(self, batch: pa.RecordBatch) -> list[Spot]:
        """The faults of the cells of a batch."""
        tile, grid = self.tile, self.facts.grid
        null = np.zeros(batch.num_rows, bool)
        for name, _ in COORDINATES:
            if batch[name].null_count:
                null |= batch[name].is_null().to_numpy(zero_copy_only=False)
        row, col = (_filled(batch[name], 0).astype(np.int64) for name in ("row", "col"))
        x, y = (_filled(batch[name], math.nan) for name in ("x", "y"))
        down, right = row - tile.row, col - tile.col
        inside = ~null & (down >= 0) & (down < tile.height) & (right >= 0) & (right < tile.width)
        at = np.flatnonzero(inside)
        place = down[at] * tile.width + right[at]
        steps = np.diff(place, prepend=self.last)
        self.last = int(place[-1]) if len(place) else self.last
        xs, ys = grid.xs(tile.col, tile.width)[right[at]], grid.ys(tile.row, tile.height)[down[at]]

        def spread(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
            full = np.zeros(len(inside), bool)
            full[at] = mask
            return full

        def cell(i: int) -> str:
            return f"row {row[i]}, col {col[i]}"

        def placed(i: int) -> str:
            j = int(np.searchsorted(at, i))
            return f"{cell(i)}: x {float(x[i])!r}, y {float(y[i])!r}, centre {float(xs[j])!r}, {float(ys[j])!r}"

        area = f"rows {tile.row} to {tile.row + tile.height - 1}, cols {tile.col} to {tile.col + tile.width - 1}"
        return [
            ("cells", "have no row, col, x or y", null, lambda i: "where a field is null"),
            ("cells", f"are outside tile {tile.key} ({area})", ~inside & ~null, cell),
            ("cells", "are a cell again", spread((steps == 0) | self._elsewhere(place)), cell),
            ("cells", "are not in row-major order", spread(steps < 0), cell),
            ("coordinates", "are not at the centre of their cell", spread((x[at] != xs) | (y[at] != ys)), placed),
            *_derived_spots(self.facts, batch, x, y, cell),
        ]

    def _elsewhere(self, place: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(rows,) bool, whether a cell was in an earlier file."""
        if not self.facts.partitioned:
            return np.zeros(len(place), bool)
        if not len(self.files):
            self.files = np.zeros(self.tile.cells, np.uint16)
        before = self.files[place]
        self.files[place] = self.file
        return np.asarray((before != 0) & (before != self.file))


def _derived_spots(
    facts: Facts, batch: pa.RecordBatch, x: NDArray[np.float64], y: NDArray[np.float64], tell: Callable[[int], str]
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
        yield "coordinates", f"have a {name} that does not follow from x and y", wrong, tell


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
        text = f"{path} has {ends.nulls:,} nulls in {name}; {MANIFEST} says {planned.nulls:,}"
        yield Finding("error", "nulls", text)
    if ends[1:] != planned[1:]:
        text = f"{path} has values from {ends.low!r} to {ends.high!r} in {name}"
        yield Finding("error", "values", f"{text}; {MANIFEST} says {planned.low!r} to {planned.high!r}")
