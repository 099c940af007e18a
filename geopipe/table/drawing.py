"""Which rows a sample of a table has: drawn at random, by class, over space, or away from points.

All but the oldest way choose the rows whose cells have the least hashes, so that a sample does not depend on tiles,
files or formats. A tile is read in parts: memory holds a part and the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from geopipe.errors import SettingsError
from geopipe.grid.crs import Floats
from geopipe.grid.distances import centres, chord, positions
from geopipe.grid.hashes import hash_of
from geopipe.table.files import Files

Ints = NDArray[np.int64]

Places = dict[int, Ints]
"""Positions of rows in their tile, rising, by the key of the tile; rows of a tile are by row and col."""

PART = 2**18
"""Rows of a tile that are read at a time."""

MOST_STRATA = 10_000
MOST_LEVELS = 10
"""Levels of the quadtree of a spatial sample: a million quadrants."""


def take(files: Files, places: Places, names: Sequence[str]) -> pa.Table:
    """Rows by their places, a tile at a time."""
    parts = [pa.schema([files.schema.field(name) for name in names], metadata=files.schema.metadata).empty_table()]
    for key in sorted(places):
        tile = files.read(np.array([key]), list(dict.fromkeys([*names, "row", "col"])))
        if files.facts.partitioned:
            tile = tile.sort_by([("row", "ascending"), ("col", "ascending")])
        parts.append(tile.take(places[key]).select(names))
    return pa.concat_tables(parts)


def draw_random(files: Files, n: int, seed: int) -> Places:
    """Places of `n` rows, each with the same chance; it reads the manifest alone."""
    tiles, rows = files.manifest.tiles, files.manifest.rows
    chosen, ends = _choose(int(rows.sum()), n, seed), np.cumsum(rows)
    places: Places = {}
    for i in np.unique(np.searchsorted(ends, chosen, "right")).tolist():
        first = ends[i] - rows[i]
        places[int(tiles[i])] = chosen[(chosen >= first) & (chosen < ends[i])] - first
    return places


def _choose(count: int, n: int, seed: int) -> Ints:
    """`n` of the numbers below `count`, rising: (n,) int64. Memory grows with `n` alone."""
    rng = np.random.default_rng(seed)
    if 2 * n >= count:
        return np.sort(rng.permutation(count)[:n])
    chosen = np.zeros(0, np.int64)
    while len(chosen) < n:  # every set of n numbers has the same chance: no round draws more than are missing
        chosen = np.union1d(chosen, rng.integers(count, size=n - len(chosen)))
    return chosen


# ---------------------------------------------------------------- by class


def draw_stratified(files: Files, n: int, seed: int, column: str, proportional: bool) -> Places:
    """Places of `n` rows: the same number from each class of a column, or as many as its share of the rows.

    Raises:
        SettingsError: the column has no value, or so many that they are no classes.
    """
    counts: dict[Any, int] = {}
    for _, _, chunk in _parts(files, [column]):
        for entry in pc.value_counts(chunk[column]).to_pylist():
            if entry["values"] is not None:
                counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
        if len(counts) > MOST_STRATA:
            raise SettingsError(
                f"column {column!r} has more than {MOST_STRATA:,} values, too many for strata",
                "give a column of classes",
            )
    if not counts:
        raise SettingsError(f"column {column!r} has no value, so there are no strata", "give another column")
    classes = sorted(counts)
    sizes = (_in_proportion if proportional else _equally)(np.array([counts[c] for c in classes]), n)
    values = pa.array(classes, files.schema.field(column).type)

    def strata(chunk: pa.Table) -> Ints:
        return np.asarray(pc.index_in(chunk[column], value_set=values).fill_null(-1).to_numpy().astype(np.int64))

    return _lowest(files, Strata([column], strata, sizes), seed)


def _equally(counts: Ints, n: int) -> Ints:
    """`n` in equal parts; what a small stratum lacks comes from the others."""
    sizes = np.zeros_like(counts)
    while (missing := n - int(sizes.sum())) > 0:
        larger = np.flatnonzero(sizes < counts)
        if not len(larger):
            break
        larger = larger[:missing]
        sizes[larger] = np.minimum(counts[larger], sizes[larger] + missing // len(larger))
    return sizes


def _in_proportion(counts: Ints, n: int) -> Ints:
    """`n` in the proportions of `counts`, rounded by the largest remainders."""
    total = int(counts.sum())
    if n >= total:
        return counts
    exact = counts * (n / total)
    sizes: Ints = np.floor(exact).astype(np.int64)
    order = np.argsort(sizes - exact, kind="stable")
    sizes[order[: n - int(sizes.sum())]] += 1
    return sizes


# ---------------------------------------------------------------- over space


def draw_spatial(files: Files, n: int, seed: int) -> Places:
    """Places of `n` rows, evenly spread over those that there are, each with the same chance.

    Generalized random-tessellation stratified sampling (Stevens and Olsen 2004, JASA 99, 262): the quadrants of a
    quadtree are put in a row by an order that is random at each branch and keeps neighbours together, and every
    (rows / n)th row of it is taken.
    """
    n = min(n, int(files.manifest.rows.sum()))
    levels = min(MOST_LEVELS, (4 * n).bit_length() // 2 + 1)
    extent = max(files.facts.grid.width, files.facts.grid.height)

    def quadrants(chunk: pa.Table) -> Ints:
        row, col = (chunk[name].to_numpy().astype(np.int64) for name in ("row", "col"))
        return np.asarray(((row << levels) // extent << levels) | (col << levels) // extent)

    counts = np.zeros(4**levels, np.int64)
    for _, _, chunk in _parts(files, []):
        counts += np.bincount(quadrants(chunk), minlength=len(counts))
    order = _hierarchical_order(levels, seed)
    total, ends = int(counts.sum()), np.cumsum(counts[order])
    start = np.random.default_rng(seed).random()
    steps = np.minimum(np.floor((start + np.arange(n)) * (total / max(n, 1))), total - 1)
    sizes = np.zeros_like(counts)
    sizes[order] = np.bincount(np.searchsorted(ends, steps, "right"), minlength=len(counts))
    return _lowest(files, Strata([], quadrants, sizes), seed)


def _hierarchical_order(levels: int, seed: int) -> Ints:
    """The quadrants of a quadtree in a hierarchical order that is random at each branch: (4**levels,) int64."""
    side = np.arange(2**levels)
    row, col = (axis.ravel() for axis in np.meshgrid(side, side, indexing="ij"))
    orders, address = np.array(list(permutations(range(4)))), np.zeros(4**levels, np.int64)
    for level in range(levels):
        above, below = levels - level, levels - level - 1
        branch = hash_of((row >> above).astype(np.int32), (col >> above).astype(np.int32), seed + level + 1)
        quarter = ((row >> below) & 1) * 2 + ((col >> below) & 1)
        address = address * 4 + orders[(branch % np.uint64(len(orders))).astype(np.int64), quarter]
    return np.argsort(address)


# ---------------------------------------------------------------- away from points


def draw_apart(files: Files, n: int, seed: int, points: tuple[Floats, Floats], distance: float) -> Places:
    """Places of `n` rows whose cells' centres are at least `distance` from all points, each with the same chance.

    Args:
        points: x and y in the unit of the grid's CRS.
        distance: in the grid's unit; in metres on a sphere where the grid is geographic.
    """
    grid = files.facts.grid
    tree, limit = cKDTree(positions(grid.crs, *points)), chord(grid.crs, distance)

    def apart(chunk: pa.Table) -> Ints:
        place = centres(grid, chunk["row"].to_numpy(), chunk["col"].to_numpy())
        nearest, _ = tree.query(positions(grid.crs, *place), distance_upper_bound=limit)
        return np.where(np.isinf(nearest), 0, -1)

    return _lowest(files, Strata([], apart, np.array([n])), seed)


# ---------------------------------------------------------------- the rows with the least hashes


class Strata(NamedTuple):
    """Parts of a table to draw from.

    Attributes:
        columns: names of those that `of` needs beside row and col.
        of: rows -> the stratum of each, (rows,) int64, below 0 for none.
        sizes: (strata,) int64, rows to draw from each; all where it has fewer.
    """

    columns: list[str]
    of: Callable[[pa.Table], Ints]
    sizes: Ints


class _Candidates(NamedTuple):
    """Rows that are drawn as far as the table was read: (n,) each. `places` are positions in the tile."""

    strata: NDArray[Any]
    hashes: NDArray[Any]
    tiles: NDArray[Any]
    places: NDArray[Any]


def _lowest(files: Files, strata: Strata, seed: int) -> Places:
    """Places of the rows with the least hashes of each stratum."""
    drawn = _Candidates(*(np.zeros(0, kind) for kind in (np.int64, np.uint64, np.int64, np.int64)))
    limits = np.where(strata.sizes > 0, np.uint64(2**64 - 1), np.uint64(0))
    for key, first, chunk in _parts(files, strata.columns):
        hashes = hash_of(chunk["row"].to_numpy(), chunk["col"].to_numpy(), seed)
        low = np.flatnonzero(hashes <= limits.max())
        stratum = strata.of(chunk.take(low))
        kept = (stratum >= 0) & (hashes[low] <= limits[stratum])
        low, stratum = low[kept], stratum[kept]
        new = _Candidates(stratum, hashes[low], np.full(len(low), key), low + first)
        drawn, full = _trimmed(
            _Candidates(*(np.concatenate(pair) for pair in zip(drawn, new, strict=True))), strata.sizes
        )
        limits[drawn.strata[full]] = drawn.hashes[full]
    order = np.lexsort((drawn.places, drawn.tiles))
    tiles, starts = np.unique(drawn.tiles[order], return_index=True)
    parts = np.split(drawn.places[order], starts[1:])
    return {int(key): part for key, part in zip(tiles, parts, strict=True)}


def _trimmed(rows: _Candidates, sizes: Ints) -> tuple[_Candidates, Ints]:
    """Candidates of which each stratum has no more than its size, and the last ones of strata that are full."""
    order = np.lexsort((rows.hashes, rows.strata))
    strata = rows.strata[order]
    starts = np.searchsorted(strata, strata, "left")
    rank = np.arange(len(order)) - starts
    kept = rank < sizes[strata]
    rows = _Candidates(*(values[order[kept]] for values in rows))
    return rows, np.flatnonzero(rank[kept] == sizes[rows.strata] - 1)


def _parts(files: Files, columns: list[str]) -> Iterator[tuple[int, int, pa.Table]]:
    """All rows in parts: key of the tile, position of the first row in it, rows with row, col and some columns."""
    names = list(dict.fromkeys(["row", "col", *columns]))
    for key in files.keys.tolist():
        first = 0
        for chunk in files.stream(key, names, PART):
            yield key, first, chunk
            first += len(chunk)
