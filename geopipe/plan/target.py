"""The target grid: from numbers in the settings, from another raster, or around the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from geopipe.errors import SettingsError
from geopipe.grid.crs import Bounds, horizontal
from geopipe.grid.grid import Grid, intersection, make_grid, projected_bounds, union
from geopipe.layers.header import Header


class GridRequest(NamedTuple):
    """The grid as the settings describe it; None where they leave something out.

    `resolution` is cell width and height; `bounds` xmin, ymin, xmax, ymax, or "union" or "intersection" of the layers
    (a layer's own files are united); `like` a raster that fills in what is left out; `snap` says whether edges move
    to whole multiples of the resolution (None: those of a union or intersection do).
    """

    crs: str | None = None
    resolution: tuple[float, float] | None = None
    bounds: Bounds | str | None = None
    like: Header | None = None
    snap: bool | None = None


def resolve_grid(
    request: GridRequest, layers: Mapping[str, Sequence[Header]], layer_crs: Mapping[str, str | None]
) -> Grid:
    """The grid of a request. Without bounds it has those of `like`, or the union of the layers.

    Args:
        layers: headers by layer.
        layer_crs: the CRS that the settings give to a layer, where they do.

    Raises:
        SettingsError: something is missing, or there is no such grid.
    """
    crs, resolution, bounds, like = request.crs, request.resolution, request.bounds, request.like
    if like is not None:
        if request == GridRequest(like=like, snap=request.snap):
            text, (dx, dy), _ = _filled(request, like)
            return Grid(horizontal(text)[0], like.transform.c, like.transform.f, dx, dy, like.width, like.height)
        crs, resolution, bounds = _filled(request, like)
    if crs is None or resolution is None:
        missing = "grid.crs" if crs is None else "grid.resolution"
        raise SettingsError(f"{missing} is missing", f"set {missing}, or grid.like = a raster to take it from")
    crs = horizontal(crs)[0]
    if bounds is not None and not isinstance(bounds, str):
        return make_grid(crs, resolution, bounds, bool(request.snap))
    extents = {name: _extent(name, headers, layer_crs[name], crs) for name, headers in layers.items()}
    if not extents:
        raise SettingsError("the grid has no bounds: there is no raster, or all are skipped", "give grid.bounds")
    area = intersection(extents.values()) if bounds == "intersection" else union(extents.values())
    if area is None:
        listed = "; ".join(f"{name} {numbers(b)}" for name, b in extents.items())
        raise SettingsError(
            f'grid.bounds = "intersection" is empty: the layers do not all meet. In {crs}: {listed}',
            'use "union", explicit bounds, or leave the stray layer out',
        )
    return make_grid(crs, resolution, area, request.snap is None or request.snap)


def _filled(request: GridRequest, like: Header) -> tuple[str, tuple[float, float], Bounds | str]:
    """CRS, resolution and bounds of a request, each from `like` where it is None."""
    t = like.transform
    if t.b or t.d or t.a <= 0 or t.e >= 0:
        raise SettingsError(
            f"grid.like = {like.uri} is rotated or not north-up", "a grid is north-up; give crs, resolution, bounds"
        )
    crs = request.crs or like.crs
    if crs is None:
        raise SettingsError(f"grid.like = {like.uri} has no CRS", 'say which it is: grid.crs = "EPSG:..."')
    extent = request.bounds or projected_bounds(t, like.width, like.height, like.crs or crs, crs)
    if extent is None:
        raise SettingsError(f"grid.like = {like.uri} has no image in {crs}", "choose another grid.crs")
    return crs, request.resolution or (t.a, -t.e), extent


def _extent(name: str, headers: Sequence[Header], layer_crs: str | None, crs: str) -> Bounds:
    """The bounds of a layer's files in the grid's CRS."""
    parts = [projected_bounds(h.transform, h.width, h.height, layer_crs or h.crs or "", crs) for h in headers]
    known = [b for b in parts if b is not None]
    if not known:
        raise SettingsError(f"layer {name} has no image in {crs}", "choose another grid.crs, or explicit grid.bounds")
    return union(known)


def numbers(bounds: Bounds) -> str:
    """Bounds in a message."""
    return "[" + ", ".join(f"{v:.9g}" for v in bounds) + "]"
