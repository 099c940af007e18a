"""Choose how a source is resampled: method, route, kernel scale and tolerance. Pure functions.

There are three routes, and the cheapest exact one is taken: `copy` (the pixels are the cells), `decimate` (a whole
number of pixels makes a cell) and `warp`. The footprints of a warp are rectangles where cells run along the pixels, as
between cylindrical projections, and polygons elsewhere. Warps are computed in canonical blocks anchored to the grid,
with a kernel scale that belongs to the source and not to the window: tiles, workers and plans cannot change a byte.

nearest and the interpolation kernels use the pixels around a cell's centre, all other methods those in its outline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from geopipe.errors import SettingsError
from geopipe.grid.grid import Grid, Tile
from geopipe.layers.layer import Kind, Layer, Source
from geopipe.resample.pixels import aligned, parallel, pixel_steps

RADIUS = {"bilinear": 1, "cubic": 2, "cubic_spline": 2, "lanczos": 3}
"""Radius in source pixels of the interpolation kernels. Only these have a scale."""

CENTRED = ("nearest", *RADIUS)
"""Methods that use the pixels around a cell's centre; all others use those in its outline."""

METHODS = (*RADIUS, "nearest", "average", "mode", "max", "min", "med", "q1", "q3", "sum", "rms", "std")
"""GDAL's names, and `std` (the standard deviation by area). `mean` is another name for average."""

PICKED = ("nearest", "mode", "min", "max", "med", "q1", "q3")
"""Methods whose result is one of the pixels."""

MEANINGFUL = {
    Kind.CONTINUOUS: tuple(m for m in METHODS if m != "sum"),
    Kind.CATEGORICAL: ("nearest", "mode"),
    Kind.COUNT: ("sum",),
    Kind.CIRCULAR: (*RADIUS, "nearest", "average", "mode"),
}

FRACTION, VALID = "fraction", "valid"
"""Additional columns: the share of a class, and the share of valid source area."""

SHRINKS = 1.5
"""Source pixels per cell edge from which on a layer is downsampled."""

AUTO_TOLERANCE = {"nearest": 0.0, "mode": 1e-4}
"""Tolerance in pixels of `tolerance = "auto"`; 0.01 for other methods. A class is either right or wrong."""

WINDOW_PIXELS = 4096 * 4096
"""Source pixels that one warp may hold. A canonical block is quartered until its window fits."""

Floats = NDArray[np.float64]


class Route(StrEnum):
    """How a source is brought to the grid."""

    COPY = "copy"
    DECIMATE = "decimate"
    WARP = "warp"


@dataclass(frozen=True)
class Window:
    """A rectangle of source pixels. If columns wrap around, it may reach beyond the edges of the source."""

    row: int
    col: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        return self.height * self.width


@dataclass(frozen=True)
class Decision:
    """How one source is resampled by one method. It is complete: reading needs nothing else.

    Attributes:
        why: the reason for the method, for the plan.
        ratio: source pixels per cell (rows, columns), for copy and decimate.
        origin: source pixel (row, column) at the grid's corner, for copy and decimate.
        scale: width of the kernel in pixels (x, y), 1 for plain interpolation; None for methods without a kernel.
        tolerance: largest error of a place in source pixels, 0 for exact places.
        steps: median pixels per cell edge (x, y).
        spread: largest pixels per cell edge, divided by the smallest.
        share: compute the valid area of each cell, too.
        is_parallel: the edges of cells are parallel to those of pixels: footprints are rectangles, for warp.
        requested_method: as the settings have it.
        rank: of the source in its layer.
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
    is_parallel: bool = False
    requested_method: str = ""
    rank: int = 0

    @property
    def centred(self) -> bool:
        """Whether the method uses the pixels around a cell's centre."""
        return self.method in CENTRED

    @property
    def covering(self) -> bool:
        """Whether the method weights pixels by their area in a cell."""
        return self.share or not self.centred

    @property
    def cells(self) -> str:
        """How the pixels under a cell are weighted, for the plan; empty if they are not."""
        if not self.covering or self.route is Route.COPY:
            return ""
        if self.route is Route.DECIMATE:
            return "whole pixels"
        return "rectangles" if self.is_parallel else "polygons"

    @property
    def geometry(self) -> tuple[object, ...]:
        """What decides the window and the places of a block. Decisions about a source that agree in it share them."""
        method = self.method if self.centred and self.route is not Route.COPY else ""
        return self.rank, self.route, self.ratio, self.origin, self.scale, self.tolerance, self.covering, method


def by_geometry(decisions: Sequence[Decision]) -> list[tuple[Decision, ...]]:
    """The decisions that share windows and places: each group is read and located together."""
    groups: dict[tuple[object, ...], list[Decision]] = {}
    for decision in decisions:
        groups.setdefault(decision.geometry, []).append(decision)
    return [tuple(group) for group in groups.values()]


def requested_methods(layer: Layer) -> tuple[str, ...]:
    """The methods that a layer requests: those of `resampling`, and those of `fractions` and `valid_fraction`."""
    methods = (layer.resampling,) if isinstance(layer.resampling, str) else layer.resampling
    more = (FRACTION,) if layer.fractions and layer.fractions is not True else ()
    return (*methods, *more, *((VALID,) if layer.valid_fraction else ()))


def choose_method(layer: str, requested: str, kind: Kind, shrink: float) -> tuple[str, str]:
    """The method for a source, and the reason.

    Args:
        layer: its name, for the message.
        requested: method of the settings, or "auto".
        kind: of the layer.
        shrink: source pixels per cell edge.

    Raises:
        SettingsError: the method does not exist, or makes no sense for the kind.
    """
    if requested in (FRACTION, VALID):
        return requested, "the share of each class" if requested == FRACTION else "the share of valid source area"
    if requested == "auto":
        if kind is Kind.COUNT:
            return "sum", "auto: counts are summed, their total is kept"
        if shrink >= SHRINKS:
            method = "mode" if kind is Kind.CATEGORICAL else "average"
        else:
            method = "nearest" if kind is Kind.CATEGORICAL else "bilinear"
        return method, f"auto: {kind.value}, {shrink:.3g} pixels to a cell edge"
    method = "average" if requested == "mean" else requested
    if method not in METHODS:
        raise SettingsError(
            f"layer {layer}: resampling = {requested!r} is no method", f"choose auto, mean, {', '.join(METHODS)}"
        )
    if method not in MEANINGFUL[kind]:
        raise SettingsError(
            f"layer {layer}: resampling = {requested!r} makes no sense for kind = {kind.value!r}",
            f"choose auto, {', '.join(MEANINGFUL[kind])}; or give the layer another kind",
        )
    return method, "as the settings ask"


@dataclass(frozen=True)
class RouteRules:
    """The settings that decide about routes.

    Attributes:
        tolerance: of places: "auto", "exact", or source pixels.
        alignment: largest distance, in pixels, between a pixel and the cell that it is copied to.
        passthrough: allow the routes without a warp.
    """

    tolerance: str | float = "auto"
    alignment: float = 0.01
    passthrough: bool = True


def decide(grid: Grid, source: Source, layer: Layer, kind: Kind, rules: RouteRules) -> tuple[Decision, ...]:
    """Decide how `source` is brought to `grid`, for each method that the layer requests. Empty if they do not meet."""
    steps = pixel_steps(grid, source)
    if steps is None:
        return ()
    lattice = aligned(grid, source, rules.alignment) if rules.passthrough else None
    is_parallel = parallel(grid, source)
    medians = float(np.median(steps[0])), float(np.median(steps[1]))
    shrink = math.sqrt(medians[0] * medians[1])
    decisions = []
    for requested in requested_methods(layer):
        method, why = choose_method(layer.name, requested, kind, shrink)
        share = layer.min_valid > 0 and method != VALID
        warp = Decision(source, Route.WARP, method, why, steps=medians, share=share, requested_method=requested)
        warp = replace(warp, is_parallel=is_parallel and warp.covering)
        decisions.append((lattice and _without_warp(warp, *lattice)) or _with_kernel(warp, steps, rules.tolerance))
    return tuple(decisions)


def _without_warp(warp: Decision, ratio: tuple[int, int], origin: tuple[int, int]) -> Decision | None:
    """The decision by copy or decimate, for a source with `ratio` pixels per cell; None if neither is exact."""
    derived = warp.method in ("std", FRACTION, VALID)
    if ratio == (1, 1) and warp.method != "cubic_spline" and not derived:  # a spline would smooth at the least offset
        why = f"on the grid already; {warp.why}"
        return replace(warp, route=Route.COPY, why=why, ratio=ratio, origin=origin, steps=(1.0, 1.0), share=False)
    if warp.method in RADIUS:
        return None
    why = f"{ratio[1]} x {ratio[0]} pixels make a cell; {warp.why}"
    return replace(warp, route=Route.DECIMATE, why=why, ratio=ratio, origin=origin)


def _with_kernel(warp: Decision, steps: tuple[Floats, Floats], tolerance: str | float) -> Decision:
    """The decision by warp with its kernel scale and tolerance."""
    method, (sx, sy) = warp.method, warp.steps
    shrinks = math.sqrt(sx * sy) >= SHRINKS
    spread = max(float(s.max() / s.min()) for s in steps)
    scale, note = None, ""
    if method in RADIUS:
        scale = (max(1.0, round(sx, 4)), max(1.0, round(sy, 4))) if shrinks else (1.0, 1.0)
        if shrinks and spread > 1.25:
            note = (
                f"its scale varies by {spread - 1:.0%} over the grid, the kernel's does not; "
                f"average has the right footprint for each cell"
            )
    auto = AUTO_TOLERANCE.get(method, 0.01) if tolerance == "auto" else tolerance
    return replace(warp, scale=scale, tolerance=0.0 if auto == "exact" else float(auto), spread=spread, note=note)


def lattice_window(decision: Decision, block: Tile) -> Window:
    """The window of pixels that make the cells of `block`, for copy and decimate. It may reach beyond the source."""
    (ry, rx), (row, col) = decision.ratio, decision.origin
    return Window(row + block.row * ry, col + block.col * rx, block.height * ry, block.width * rx)


def clip(window: Window, height: int, width: int) -> Window | None:
    """The part of a window within 0..height, 0..width, or None."""
    top, left = max(window.row, 0), max(window.col, 0)
    bottom, right = min(window.row + window.height, height), min(window.col + window.width, width)
    return Window(top, left, bottom - top, right - left) if top < bottom and left < right else None
