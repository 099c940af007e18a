"""Polygons as a mask: transform them to the grid's CRS, and find the cells whose centres they contain.

A centre is inside by the even-odd rule of the rings of any polygon. Edges are half-open: a centre on an edge is inside
if the polygon continues to its right or, on a level edge, below, so that one of two polygons with a common edge has it.
The crossing of an edge with a row of centres is computed from that edge and row alone: no tile can change an answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geopipe.errors import SourceError
from geopipe.grid.crs import Bounds, Floats, Transform, crs_transform, is_lonlat, same_crs
from geopipe.grid.grid import Grid, outline, projected_bounds

Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

BEND = 0.01
"""Largest distance in cells of an edge in the grid's CRS from its true course."""

HALVINGS = 14
"""How often an edge is cut in four to follow its course. An edge that is not smooth by then is torn."""

EVEN = 2.0**-20
"""Places are rounded to multiples of this, in cells, so that the two sides of a seam (longitude +-180) agree."""

MOST_CROSSINGS = 1 << 24
"""Crossings of edges and rows in memory at a time."""


class Shapes(NamedTuple):
    """The polygons of a file: each a sequence of rings, (n, 2) float64 in its CRS."""

    uri: str
    crs: str
    polygons: Sequence[Sequence[Floats]]


@dataclass(frozen=True)
class Rings:
    """Closed rings of polygons.

    Attributes:
        points: (n, 2) float64, x and y.
        ring: (n,) int64, the ring of each point, rising.
        owner: (rings,) int64, the polygon of each ring.
    """

    points: Floats
    ring: Integers
    owner: Integers

    @classmethod
    def of(cls, polygons: Sequence[Sequence[Floats]]) -> Rings:
        """The rings of polygons, each a sequence of rings (n, 2). Open rings are closed."""
        rings = [np.vstack([r, r[:1]]) if (r[0] != r[-1]).any() else r for p in polygons for r in p]
        owner = np.repeat(np.arange(len(polygons)), [len(p) for p in polygons])
        ring = np.repeat(np.arange(len(rings)), [len(r) for r in rings])
        return cls(np.concatenate([np.zeros((0, 2)), *rings]), ring, owner)

    @property
    def starts(self) -> Integers:
        return np.searchsorted(self.ring, np.arange(len(self.owner)))

    def meeting(self, bounds: Bounds) -> Rings:
        """The rings whose bounds meet these. The others contain no place in them."""
        if not len(self.owner):
            return self
        low = np.minimum.reduceat(self.points, self.starts)
        high = np.maximum.reduceat(self.points, self.starts)
        which = np.all((low < bounds[2:]) & (high > bounds[:2]), axis=1)
        keep = which[self.ring]
        return Rings(self.points[keep], (np.cumsum(which) - 1)[self.ring[keep]], self.owner[which])

    def with_copies(self) -> Rings:
        """The rings, and copies of them 360 degrees to the west and to the east."""
        count, polygons = len(self.owner), int(self.owner.max(initial=-1)) + 1
        return Rings(
            np.concatenate([self.points + np.array([degrees, 0]) for degrees in (0.0, -360.0, 360.0)]),
            np.concatenate([self.ring + n * count for n in range(3)]),
            np.concatenate([self.owner + n * polygons for n in range(3)]),
        )

    def with_points(self, after: Integers, points: Floats) -> Rings:
        """The rings with more points, each after the point with the index in `after`."""
        rings = np.insert(self.ring, after + 1, self.ring[after])
        return Rings(np.insert(self.points, after + 1, points, axis=0), rings, self.owner)


@dataclass(frozen=True)
class Polygons:
    """A mask in the grid's CRS, in a form that is hashable and can be pickled to workers.

    `points`, `ring` and `owner` are the arrays of `Rings` as bytes. `count` is the number of polygons that meet the
    grid, `bounds` are those of all polygons in their own `crs`.
    """

    uri: str
    crs: str
    bounds: Bounds
    count: int
    points: bytes
    ring: bytes
    owner: bytes

    @property
    def digest(self) -> str:
        """Hash of the mask in the grid's CRS."""
        return hashlib.sha256(self.points + self.ring + self.owner).hexdigest()

    @property
    def memory(self) -> int:
        """Bytes in a worker: the mask, its edges, and those near a tile."""
        return 8 * len(self.points)

    def describe(self) -> dict[str, Any]:
        return {"crs": self.crs, "polygons": self.count, "points": len(self.points) // 16, "digest": self.digest}


def polygons_of(uri: str, crs: str, polygons: Sequence[Sequence[Floats]], grid: Grid) -> Polygons:
    """Transform the polygons of a file to the grid's CRS. Those that do not meet the grid are left out.

    Edges are straight in `crs`; in the grid's CRS they follow their course to BEND of a cell. Longitudes that differ by
    360 degrees are the same place.

    Raises:
        SourceError: a polygon has no image in the grid's CRS, or is torn there.
    """
    rings, lonlat = Rings.of(polygons), is_lonlat(grid.crs)
    (left, bottom), (right, top) = rings.points.min(0).tolist(), rings.points.max(0).tolist()
    if not same_crs(crs, grid.crs):
        if not lonlat:  # what is far from the grid may have no image
            rings = rings.with_copies() if is_lonlat(crs) else rings
            rings = _cut(rings, _around(grid, crs, uri))
        rings = _projected(rings, crs_transform(crs, grid.crs), min(grid.dx, grid.dy), lonlat, uri)
    rings = (rings.with_copies() if lonlat else rings).meeting(grid.bounds)
    count = len(np.unique(rings.owner % max(1, len(polygons))))
    bounds = (left, bottom, right, top)
    return Polygons(uri, crs, bounds, count, rings.points.tobytes(), rings.ring.tobytes(), rings.owner.tobytes())


def _around(grid: Grid, crs: str, uri: str) -> Bounds:
    """Bounds of the grid in another CRS with a margin, so that their edge lies outside the grid."""
    bounds = projected_bounds(grid.transform, grid.width, grid.height, grid.crs, crs)
    if bounds is None:
        raise SourceError(f"grid.mask = {uri}: the grid has no image in its CRS", "correct grid.mask_crs")
    left, bottom, right, top = bounds
    up = (top - bottom) / 16
    if not is_lonlat(crs):
        across = (right - left) / 16
        return left - across, bottom - up, right + across, top + up
    left, right = (-180.0, 180.0) if max(-bottom, top) >= 90 else _longitudes(grid, crs)
    across = min((right - left) / 16, (360 - (right - left)) / 2)
    # a place near a pole, or 360 degrees away, can lie beyond the end of the projection
    return left - across, max(bottom - up, (bottom - 90) / 2), right + across, min(top + up, (top + 90) / 2)


def _longitudes(grid: Grid, crs: str) -> tuple[float, float]:
    """First and last longitude of a grid without a pole, without a jump within it."""
    x, y = outline(grid.transform, grid.width, grid.height)
    lon = crs_transform(grid.crs, crs)(x, y)[0].reshape(65, 65)
    if not np.isfinite(lon).all():
        return -180.0, 180.0
    lon = np.unwrap(lon, period=360, axis=1)
    lon += (np.unwrap(lon[:, 0], period=360) - lon[:, 0])[:, None]
    left, right = float(lon.min()), float(lon.max())
    return (left, right) if right - left < 360 else (left, left + 360)


def _cut(rings: Rings, bounds: Bounds) -> Rings:
    """Clip rings to bounds: points outside move to the nearest place on the edge of the bounds.

    Every place within the bounds stays on its side of the outline.
    """
    rings = rings.meeting(bounds)
    start, step = rings.points[:-1], np.diff(rings.points, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = (np.array(bounds) - np.tile(start, 2)) / np.tile(step, 2)  # (n, 4): where an edge meets each side
    inside = (shares > 0) & (shares < 1) & (rings.ring[:-1] == rings.ring[1:])[:, None]
    after, side = np.nonzero(inside)
    share = shares[after, side]
    order = np.lexsort((share, after))
    after, share = after[order], share[order, None]
    rings = rings.with_points(after, start[after] + share * step[after])
    return Rings(np.clip(rings.points, bounds[:2], bounds[2:]), rings.ring, rings.owner)


def _projected(rings: Rings, transform: Transform, cell: float, lonlat: bool, uri: str) -> Rings:
    """Transform rings to another CRS, with more points so that edges follow their course to BEND of a cell."""

    def image_of(points: Floats) -> Floats:
        image = np.column_stack(transform(points[:, 0], points[:, 1]))
        lost = np.flatnonzero(~np.isfinite(image).all(1))
        if lost.size:
            x, y = points[lost[0]]
            raise SourceError(
                f"grid.mask = {uri}: {lost.size:,} points of its polygons, the first at {x:.9g}, {y:.9g}, "
                "have no image in the grid's CRS",
                "cut the polygons to the area of that CRS, or choose another grid.crs",
            )
        return image if lonlat else np.round(image / (EVEN * cell)) * (EVEN * cell)

    image, bent = Rings(image_of(rings.points), rings.ring, rings.owner), rings.ring[:-1] == rings.ring[1:]
    for _ in range(HALVINGS):
        edge = np.flatnonzero(bent)
        shares = np.array([0.25, 0.5, 0.75])[:, None]
        start, step = rings.points[edge, None], (rings.points[edge + 1] - rings.points[edge])[:, None]
        between = start + shares * step
        true = image_of(between.reshape(-1, 2)).reshape(between.shape)
        first, chord = image.points[edge, None], (image.points[edge + 1] - image.points[edge])[:, None]
        off = true - (first + shares * _short(chord, lonlat))
        bad = (np.abs(_short(off, lonlat)).max((1, 2), initial=0)) > BEND * cell
        if not bad.any():
            return _closed(image) if lonlat else image
        after = np.repeat(edge[bad], 3)
        rings = rings.with_points(after, between[bad].reshape(-1, 2))
        image = image.with_points(after, true[bad].reshape(-1, 2))
        bent = np.zeros(len(rings.points) - 1, bool)
        begin = edge[bad] + 3 * np.arange(np.count_nonzero(bad))
        bent[(begin[:, None] + np.arange(4)).ravel()] = True
    x, y = rings.points[begin[0]]
    raise SourceError(
        f"grid.mask = {uri}: the outline of a polygon is torn in the grid's CRS, near {x:.9g}, {y:.9g}",
        "cut the polygon there (often at the antimeridian or the edge of a projection), or choose another grid.crs",
    )


def _short(off: Floats, lonlat: bool) -> Floats:
    """Differences of places, with longitudes the short way round."""
    return off - (360 * np.round(off / 360)) * (1, 0) if lonlat else off


def _closed(rings: Rings) -> Rings:
    """Rings of longitudes and latitudes without a jump. A ring around a pole includes it along a meridian."""
    steps = np.diff(rings.points[:, 0], prepend=rings.points[:1, 0])
    jumps = np.where(np.diff(rings.ring, prepend=-1) == 0, -360 * np.round(steps / 360), 0.0)
    sums, starts = np.cumsum(jumps), rings.starts
    points = rings.points + np.column_stack([sums - sums[starts][rings.ring], np.zeros(len(sums))])
    ends = np.append(starts[1:], len(points)) - 1
    open_ = np.flatnonzero(np.abs(points[ends, 0] - points[starts, 0]) > 180)
    rings, first, last = Rings(points, rings.ring, rings.owner), points[starts[open_]], points[ends[open_]]
    pole = 90 * np.sign(first[:, 1])
    corners = [np.column_stack([last[:, 0], pole]), np.column_stack([first[:, 0], pole]), first]
    return rings.with_points(np.repeat(ends[open_], 3), np.stack(corners, 1).reshape(-1, 2))


# ---------------------------------------------------------------- cells


@lru_cache(maxsize=2)
def _rings(polygons: Polygons) -> Rings:
    owner = np.frombuffer(polygons.owner, np.int64)
    return Rings(np.frombuffer(polygons.points).reshape(-1, 2), np.frombuffer(polygons.ring, np.int64), owner)


@lru_cache(maxsize=2)
def _edges(polygons: Polygons) -> tuple[Floats, Floats, Integers]:
    """Edges that are not level: (n, 2) float64 of their lower and upper ends, and (n,) of their polygons."""
    rings = _rings(polygons)
    start, end = rings.points[:-1], rings.points[1:]
    edge = np.flatnonzero((rings.ring[:-1] == rings.ring[1:]) & (start[:, 1] != end[:, 1]))
    up = (start[edge, 1] < end[edge, 1])[:, None]
    low, high = np.where(up, start[edge], end[edge]), np.where(up, end[edge], start[edge])
    return low, high, rings.owner[rings.ring[edge]]


def covered(polygons: Polygons, xs: Floats, ys: Floats) -> Mask:
    """Whether each place at columns `xs` (rising) and rows `ys` (falling) is in a polygon: (rows, columns) bool.

    Scan conversion: crossings of each row with the edges of a polygon, sorted, alternately enter and leave it.
    """
    low, high, owner = _edges(polygons)
    near = np.flatnonzero((high[:, 1] >= ys[-1]) & (low[:, 1] < ys[0]))
    low, high = low[near], high[near]
    first = np.searchsorted(-ys, -high[:, 1], "left")
    count = np.searchsorted(-ys, -low[:, 1], "left") - first
    if count.sum() > MOST_CROSSINGS and len(ys) > 1:
        half = len(ys) // 2
        return np.concatenate([covered(polygons, xs, ys[:half]), covered(polygons, xs, ys[half:])])
    edge, row = _counted(first, count)
    y, (x0, y0), (x1, y1) = ys[row], low[edge].T, high[edge].T
    x = np.where(y == y1, x1, x0 + (y - y0) * ((x1 - x0) / (y1 - y0)))  # exactly at a corner, to the last bit
    col = np.searchsorted(xs, x, "left")
    order = np.lexsort((col, owner[near][edge], row))
    row, col = row[order], col[order]
    return _between(row[::2], col[::2], col[1::2], (len(ys), len(xs)))


def _counted(first: Integers, count: Integers) -> tuple[Integers, Integers]:
    """`count` numbers from `first` on for each index: the index of each number, and the numbers."""
    index = np.repeat(np.arange(len(first)), count)
    return index, np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count) + first[index]


def _between(row: Integers, start: Integers, end: Integers, shape: tuple[int, int]) -> Mask:
    """The places that any span of columns in a row contains, from `start` on and before `end`."""
    change = np.zeros((shape[0], shape[1] + 1), np.int32)
    np.add.at(change, (row, start), 1)
    np.add.at(change, (row, end), -1)
    return np.asarray(np.cumsum(change[:, :-1], axis=1) > 0)


def squares(polygons: Polygons, grid: Grid, size: int) -> Mask:
    """Whether each square of `size` cells may contain a cell in a polygon: (rows, columns) bool of `grid.tiling`.

    A square without an edge in it is inside or outside as a whole, as the centre of its first cell is.
    """
    rows, cols = grid.tiling(size)
    xs = np.asarray(grid.x0 + (np.arange(0, grid.width, size) + 0.5) * grid.dx, np.float64)
    ys = np.asarray(grid.y0 - (np.arange(0, grid.height, size) + 0.5) * grid.dy, np.float64)
    inside = covered(polygons, xs, ys)
    rings = _rings(polygons)
    places = (rings.points - (grid.x0, grid.y0)) / (grid.dx, -grid.dy) / size
    edge = np.flatnonzero(rings.ring[:-1] == rings.ring[1:])
    start, end = places[edge], places[edge + 1]
    least, most = np.minimum(start, end) - 1e-6, np.maximum(start, end) + 1e-6
    near = (least < (cols, rows)).all(1) & (most > 0).all(1)
    start, end, least, most = start[near], end[near], least[near], most[near]
    first = np.maximum(np.floor(least[:, 1]), 0).astype(np.int64)
    count = np.minimum(np.floor(most[:, 1]), rows - 1).astype(np.int64) - first + 1
    which, row = _counted(first, count)
    (u0, v0), (u1, v1) = start[which].T, end[which].T
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.clip(np.stack([(row - v0) / (v1 - v0), (row + 1 - v0) / (v1 - v0)]), 0, 1)
    shares = np.where(np.isfinite(shares), shares, [[0.0], [1.0]])  # a level edge is in one row
    us = u0 + shares * (u1 - u0)
    left = np.clip(np.floor(us.min(0) - 1e-6), 0, cols).astype(np.int64)
    right = np.clip(np.floor(us.max(0) + 1e-6) + 1, 0, cols).astype(np.int64)
    return inside | _between(row, left, right, (rows, cols))
