"""The rules of resampling, as pure functions: which method, which way, which scale, which part of the source.

A layer gets to the grid in one of three ways, the cheapest that is right: `copy` (its pixels are the cells), `decimate`
(a whole number of pixels makes a cell) or `warp`. Warps are computed in canonical blocks anchored to the grid, with a
kernel scale that belongs to the source and not to the window, so that no tile, worker or plan can change a byte.

Methods look at cells in one of two ways: nearest and the kernels at the pixels around a cell's centre, all others at
the pixels in its outline.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from geopipe.errors import SettingsError
from geopipe.grid.crs import Transform, crs_transform, is_lonlat, same_crs
from geopipe.grid.grid import Grid, Tile, apply, outline
from geopipe.layers.layer import Kind, Layer, Source
from geopipe.resample.gcps import model_of

RADIUS = {"bilinear": 1, "cubic": 2, "cubic_spline": 2, "lanczos": 3}
"""Radius in source pixels of the kernels that interpolate; these, and only these, have a pinned scale."""

CENTRED = ("nearest", *RADIUS)
"""What looks at the pixels around a cell's centre; all other methods look at those in its outline."""

METHODS = (*RADIUS, "nearest", "average", "mode", "max", "min", "med", "q1", "q3", "sum", "rms", "std")
"""By GDAL's names, and the standard deviation of what an average averages. `mean` is another word for average."""

PICKED = ("nearest", "mode", "min", "max", "med", "q1", "q3")
"""Methods whose result is one of the pixels."""

MEANINGFUL = {
    Kind.CONTINUOUS: tuple(m for m in METHODS if m != "sum"),
    Kind.CATEGORICAL: ("nearest", "mode"),
    Kind.COUNT: ("sum",),
    Kind.CIRCULAR: (*RADIUS, "nearest", "average", "mode"),
}

FRACTION, VALID = "fraction", "valid"
"""Columns that a layer may have beside: the share of a class, and the share of valid source area."""

SHRINKS = 1.5
"""From this many source pixels to a cell edge on, a layer counts as shrinking."""

AUTO_TOLERANCE = {"nearest": 0.0, "mode": 1e-4}
"""Pixels by which a place may be off under `tolerance = "auto"`, where it is not 0.01: a class is right or wrong."""

WINDOW_PIXELS = 4096 * 4096
"""Pixels of a source that one warp may hold: a canonical block is quartered until its window fits."""

Floats = NDArray[np.float64]


class Route(StrEnum):
    """How a source gets to the grid."""

    COPY = "copy"
    DECIMATE = "decimate"
    WARP = "warp"


@dataclass(frozen=True)
class Window:
    """A rectangle of source pixels. Where longitudes go round it may reach beyond the edges of the source."""

    row: int
    col: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        return self.height * self.width


@dataclass(frozen=True)
class Decision:
    """How one source gets to the grid; enough to do it without looking at anything else.

    `ratio` is in source pixels per cell (rows, columns) for copy and decimate, `origin` the source pixel (row, column)
    at the grid's corner. `scale` is how many pixels wide (x, y) a kernel is made, 1 for plain interpolation and None
    for methods without one. `tolerance` is by how many source pixels a place may be off (0: exact). `steps` are the
    median pixels per cell edge (x, y), and `spread` is how many times larger the largest is than the smallest. `share`
    asks for the valid area of each cell beside what is made of it. `word` is how the settings call the method, and
    `rank` the place of the source in its layer.
    """

    source: Source
    route: Route
    method: str
    why: str
    ratio: tuple[int, int] = (1, 1)
    origin: tuple[int, int] = (0, 0)
    scale: tuple[float, float] | None = None
    tolerance: float = 0.0
    steps: tuple[float, float] = (1.0, 1.0)
    spread: float = 1.0
    note: str = ""
    share: bool = False
    requested_method: str = ""
    rank: int = 0

    @property
    def centred(self) -> bool:
        """Whether the method looks at the pixels around a cell's centre."""
        return self.method in CENTRED

    @property
    def covering(self) -> bool:
        """Whether pixels count by the area that they have in a cell."""
        return self.share or not self.centred


def requested_methods(layer: Layer) -> tuple[str, ...]:
    """The words of the layer's `resampling`, and what its other keys ask for."""
    words = (layer.resampling,) if isinstance(layer.resampling, str) else layer.resampling
    more = (FRACTION,) if layer.fractions and layer.fractions is not True else ()
    return (*words, *more, *((VALID,) if layer.valid_fraction else ()))


def choose_method(layer: str, word: str, kind: Kind, shrink: float) -> tuple[str, str]:
    """The method that a word of the settings means for a source with `shrink` pixels to a cell edge, and why.

    Args:
        layer: its name, for the message.
        word: of the settings.
        kind: of the layer.
        shrink: pixels to a cell edge.

    Raises:
        SettingsError: the method does not exist, or makes no sense for the kind.
    """
    if word in (FRACTION, VALID):
        return word, "the share of each class" if word == FRACTION else "the share of valid source area"
    if word == "auto":
        if kind is Kind.COUNT:
            return "sum", "auto: counts are summed, their total is kept"
        if shrink >= SHRINKS:
            method = "mode" if kind is Kind.CATEGORICAL else "average"
        else:
            method = "nearest" if kind is Kind.CATEGORICAL else "bilinear"
        return method, f"auto: {kind.value}, {shrink:.3g} pixels to a cell edge"
    method = "average" if word == "mean" else word
    if method not in METHODS:
        raise SettingsError(
            f"layer {layer}: resampling = {word!r} is no method", f"choose auto, mean, {', '.join(METHODS)}"
        )
    if method not in MEANINGFUL[kind]:
        raise SettingsError(
            f"layer {layer}: resampling = {word!r} makes no sense for kind = {kind.value!r}",
            f"choose auto, {', '.join(MEANINGFUL[kind])}; or give the layer another kind",
        )
    return method, "as the settings ask"


def decide(
    grid: Grid, source: Source, layer: Layer, kind: Kind, *, tolerance: str | float, alignment: float, passthrough: bool
) -> tuple[Decision, ...]:
    """How `source` gets to `grid`, for each method that the layer asks for; empty where the two do not meet.

    Args:
        tolerance: of the transformer: "auto", "exact", or source pixels.
        alignment: share of a pixel by which pixels may miss the cells that they are copied to.
        passthrough: whether the ways without a warp may be taken.
    """
    steps = pixel_steps(grid, source)
    if steps is None:
        return ()
    lattice = aligned(grid, source, alignment) if passthrough else None
    return tuple(
        _decide(
            source,
            steps,
            lattice,
            word,
            *choose_method(layer.name, word, kind, _shrink(steps)),
            tolerance=tolerance,
            share=layer.min_valid > 0,
        )
        for word in requested_methods(layer)
    )


Steps = tuple[Floats, Floats]
Lattice = tuple[tuple[int, int], tuple[int, int]]


def _shrink(steps: Steps) -> float:
    """Pixels to a cell edge, in the middle of both directions."""
    return math.sqrt(float(np.median(steps[0])) * float(np.median(steps[1])))


def _decide(
    source: Source,
    steps: Steps,
    lattice: Lattice | None,
    word: str,
    method: str,
    why: str,
    *,
    tolerance: str | float,
    share: bool,
) -> Decision:
    sx, sy = float(np.median(steps[0])), float(np.median(steps[1]))
    shrink = _shrink(steps)
    spread = max(float(s.max() / s.min()) for s in steps)
    common: dict[str, Any] = {"steps": (sx, sy), "requested_method": word, "share": share and method != VALID}
    if lattice is not None:
        ratio, origin = lattice
        derived = method in ("std", FRACTION, VALID)
        if ratio == (1, 1) and method != "cubic_spline" and not derived:  # a hair off, a spline smooths
            text = f"on the grid already; {why}"
            return Decision(source, Route.COPY, method, text, ratio=ratio, origin=origin, requested_method=word)
        if method not in RADIUS:
            text = f"{ratio[1]} x {ratio[0]} pixels make a cell; {why}"
            return Decision(source, Route.DECIMATE, method, text, ratio=ratio, origin=origin, **common)
    scale, note = None, ""
    if method in RADIUS:
        scale = (max(1.0, round(sx, 4)), max(1.0, round(sy, 4))) if shrink >= SHRINKS else (1.0, 1.0)
        if shrink >= SHRINKS and spread > 1.25:
            note = (
                f"its scale varies by {spread - 1:.0%} over the grid, the kernel's does not; "
                f"average has the right footprint for each cell"
            )
    if tolerance == "auto":
        pixels = AUTO_TOLERANCE.get(method, 0.01)
    else:
        pixels = 0.0 if tolerance == "exact" else float(tolerance)
    return Decision(source, Route.WARP, method, why, scale=scale, tolerance=pixels, spread=spread, note=note, **common)


def aligned(grid: Grid, source: Source, tolerance: float) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Whether a whole number of source pixels makes each cell of the grid, nowhere off by more than `tolerance` pixels.

    Comparing resolutions alone would shift data silently: phase and drift over the whole extent count too.

    Returns:
        Source pixels per cell (rows, columns) and the source pixel (row, column) at the grid's corner, or None.
    """
    t = source.transform
    if t.b or t.d or t.a <= 0 or t.e >= 0 or source.georeference or not same_crs(source.crs, grid.crs):
        return None
    rows = _phase(grid.dy / -t.e, (grid.y0 - t.f) / t.e, grid.height, tolerance)
    cols = _phase(grid.dx / t.a, (grid.x0 - t.c) / t.a, grid.width, tolerance)
    if rows is None or cols is None:
        return None
    (ry, row), (rx, col) = rows, cols
    pixels = pixels_per_360(source)
    if pixels is not None and abs(pixels - round(pixels)) < 1e-3:  # the same longitudes, counted from elsewhere
        middle = col + grid.width * rx / 2
        col -= round(pixels) * round((middle - source.width / 2) / pixels)
    return (ry, rx), (row, col)


def _phase(step: float, start: float, count: int, tolerance: float) -> tuple[int, int] | None:
    ratio, origin = round(step), round(start)
    if ratio < 1:
        return None
    off = max(abs(start - origin), abs(start + count * step - origin - count * ratio))
    return (ratio, origin) if off <= tolerance else None


def pixel_steps(grid: Grid, source: Source, places: int = 21) -> tuple[Floats, Floats] | None:
    """Source pixels that one cell edge spans in x and in y, at those of `places` x `places` cells that meet the source.

    Returns:
        Two arrays of one length, above zero; None where no cell meets the source.
    """
    col, row = np.meshgrid(
        np.linspace(0.5, grid.width - 0.5, places), np.linspace(0.5, grid.height - 0.5, places), indexing="xy"
    )
    to_pixels = pixels_of(grid.transform, grid.crs, source)
    px, py = to_pixels(col, row)
    pixels = pixels_per_360(source)
    if pixels is not None:
        px = px - pixels * np.round((px - source.width / 2) / pixels)
    right, left = to_pixels(col + 0.5, row), to_pixels(col - 0.5, row)
    below, above = to_pixels(col, row + 0.5), to_pixels(col, row - 0.5)
    with np.errstate(invalid="ignore"):
        steps = [np.hypot(right[i] - left[i], below[i] - above[i]) for i in (0, 1)]
        ok = np.isfinite(steps[0]) & np.isfinite(steps[1]) & (steps[0] > 0) & (steps[1] > 0)
        if pixels is not None:
            ok &= steps[0] < pixels / 2  # more is the jump from one edge of the longitudes to the other
        inside = ok & (px >= 0) & (px <= source.width) & (py >= 0) & (py <= source.height)
    if not inside.any():
        if not ok.any() or not _meet(grid, source):
            return None
        inside = ok  # the source lies between the places: any scale of the grid will do
    return steps[0][inside], steps[1][inside]


def pixels_per_360(source: Source) -> float | None:
    """Pixels in 360 degrees, of a geographic source whose columns run along longitude; None for others."""
    t = source.transform
    if t.b or t.d or not is_lonlat(source.crs):
        return None
    return 360.0 / abs(t.a)


def wraps_around(source: Source) -> int | None:
    """Pixels in 360 degrees, where they are a whole number and the source has them all: its columns go round."""
    pixels = pixels_per_360(source)
    if pixels is None or abs(pixels - round(pixels)) > 1e-3 or source.width < round(pixels):
        return None
    return round(pixels)


def unrolled(col: Floats, source: Source) -> Floats:
    """Source columns without a jump of 360 degrees, in the turn that is nearest to the source."""
    pixels = pixels_per_360(source)
    finite = col[np.isfinite(col)]
    if pixels is None or not finite.size:
        return col
    middle = col.flat[col.size // 2] if np.isfinite(col.flat[col.size // 2]) else finite[finite.size // 2]
    home = middle - pixels * np.round((middle - source.width / 2) / pixels)
    with np.errstate(invalid="ignore"):
        return np.asarray(col - pixels * np.round((col - home) / pixels), np.float64)


def _meet(grid: Grid, source: Source, places: int = 257) -> bool:
    """Whether a cell's place lies in the source, or a place of the source in the grid."""
    col, row = np.meshgrid(np.linspace(0, grid.width, places), np.linspace(0, grid.height, places))
    px, py = pixels_of(grid.transform, grid.crs, source)(col, row)
    pixels = pixels_per_360(source)
    if pixels is not None:
        px = px - pixels * np.round((px - source.width / 2) / pixels)
    x, y = crs_transform(source.crs, grid.crs)(*outline(source.transform, source.width, source.height, places))
    left, bottom, right, top = grid.bounds
    if is_lonlat(grid.crs):
        x = x - 360.0 * np.round((x - (left + right) / 2) / 360.0)
    with np.errstate(invalid="ignore"):
        in_source = (px > 0) & (px < source.width) & (py > 0) & (py < source.height)
        in_grid = (x > left) & (x < right) & (y > bottom) & (y < top)
    return bool(in_source.any() or in_grid.any())


def pixels_of(transform: Affine, crs: str, source: Source) -> Transform:
    """The function from cells (col, row) under `transform` to pixels (col, row) of `source`."""
    to_source, inverse = crs_transform(crs, source.crs), ~source.transform
    model = model_of(source.georeference) if source.georeference is not None else None

    def to_pixels(col: Floats, row: Floats) -> tuple[Floats, Floats]:
        x, y = to_source(*apply(transform, col, row))
        with np.errstate(invalid="ignore"):
            return apply(inverse, x, y) if model is None else model(x, y)

    return to_pixels


def lattice_window(decision: Decision, block: Tile) -> Window:
    """The pixels that make the cells of `block`, for copy and decimate. It may reach beyond the source."""
    (ry, rx), (row, col) = decision.ratio, decision.origin
    return Window(row + block.row * ry, col + block.col * rx, block.height * ry, block.width * rx)


def clip(window: Window, height: int, width: int) -> Window | None:
    """The part of a window inside 0..height, 0..width, or None."""
    top, left = max(window.row, 0), max(window.col, 0)
    bottom, right = min(window.row + window.height, height), min(window.col + window.width, width)
    return Window(top, left, bottom - top, right - left) if top < bottom and left < right else None
