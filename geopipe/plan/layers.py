"""Plan one layer, or the mask, by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from geopipe.errors import SettingsError, SourceError
from geopipe.grid.crs import crs_of, ellipsoids_apart, horizontal, operation, radius
from geopipe.grid.grid import Grid, apply, projected_bounds
from geopipe.grid.polygons import Polygons, Shapes, polygons_of
from geopipe.layers.access import root_of
from geopipe.layers.bands import choose, columns, of_file
from geopipe.layers.header import Band, Header
from geopipe.layers.layer import Kind, Layer, Overlap, Source, Variable, check_files, sources_of
from geopipe.layers.table_plan import TablePlan, plan_table, table_variables
from geopipe.layers.tables import TableHeader, check_keys
from geopipe.plan.cells import Reach, reach_of
from geopipe.plan.options import Options
from geopipe.plan.target import numbers
from geopipe.plan.variables import declared_kind, dtype_of, kind_of, variables_of
from geopipe.resample.methods import PICKED, Decision, Route, RouteRules, decide, requested_methods
from geopipe.resample.predictions import decode_factor

MASK = "grid.mask"
"""The mask in place of a layer's name in messages; no layer can have this name."""


ONE_DATUM = 10.0
"""Metres by which the ellipsoids of two CRS may differ that still have one datum."""


@dataclass(frozen=True)
class LayerPlan:
    """How one layer is read: a decision for each source that meets the grid and each method, by the source's rank.

    `decode_factor` is the number of times that a stored block is decoded when the layer is read tile by tile. A layer
    that `sweeps` is read along its own blocks instead, each once, and its block rows are shuffled. A layer of
    coordinate tables has a `table` and no decisions.
    """

    layer: Layer
    kind: Kind
    kind_why: str
    variables: tuple[Variable, ...]
    decisions: tuple[Decision, ...]
    decode_factor: float = 1.0
    sweeps: bool = False
    skipped: str = ""
    notes: tuple[str, ...] = ()
    table: TablePlan | None = None


@dataclass(frozen=True)
class MaskPlan:
    """The cells that may be rows: those in `polygons`, or where `raster`, a layer of one band, is valid and not 0.

    Just one of the two is not None.
    """

    reach: Reach
    polygons: Polygons | None = None
    raster: LayerPlan | None = None
    notes: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """The mask as JSON values."""
        about = {"file": self.reach.uri, "tiles": self.reach.tiles, "cells": self.reach.cells}
        if self.polygons is not None:
            return about | self.polygons.describe()
        return about | {"raster": describe_layer(self.raster) if self.raster else None}


def reaches(plan: LayerPlan) -> list[str]:
    """The folders and hosts of a layer's files, and of files that these refer to."""
    headers = [placed.header for d in plan.decisions for placed in d.source.files]
    return list(dict.fromkeys(root for h in headers for root in (root_of(h.uri), *h.reaches)))


def describe_layer(plan: LayerPlan) -> dict[str, Any]:
    """The plan of a layer as JSON values."""
    return {
        "name": plan.layer.name,
        "kind": plan.kind.value,
        "kind_why": plan.kind_why,
        "skipped": plan.skipped,
        "variables": [
            {"name": v.name, "type": v.dtype, "unit": v.unit, "band": v.band.index} | v.band.place
            for v in plan.variables
        ],
        "reaches": reaches(plan),
        "decode_factor": round(plan.decode_factor, 2),
        "table": plan.table and plan.table.describe(),
        "sources": [
            {
                "files": [placed.header.uri for placed in d.source.files],
                "route": d.route.value,
                "method": d.method,
                "why": d.why,
                "cells": d.cells,
                "rank": d.rank,
                "scale": list(d.scale) if d.scale else None,
                "pixels_per_cell": [round(s, 4) for s in d.steps],
                "tolerance": d.tolerance,
                "note": d.note,
            }
            for d in plan.decisions
        ],
    }


def plan_mask(grid: Grid, mask: Shapes | tuple[Layer, Header], options: Options) -> MaskPlan:
    """Plan a mask: polygons, or a raster as a layer with its header.

    Raises:
        SourceError: no cell is in it, or it has several bands.
    """
    if isinstance(mask, Shapes):
        notes = _check_transformation(grid, MASK, mask.uri, mask.crs, options)
        area = polygons_of(*mask, grid)
        plan = MaskPlan(reach_of(area, grid, options.window_size, whole=True), area, notes=tuple(notes))
        if not plan.reach.cells:
            raise SourceError(
                f"grid.mask = {mask.uri} has no centre of a cell of the grid {numbers(grid.bounds)} inside: "
                f"its polygons cover {numbers(area.bounds)} in {crs_of(mask.crs).name}",
                "correct grid.mask, grid.mask_crs or grid.bounds",
            )
        return plan
    layer, header = mask
    raster = plan_layer(grid, layer, [header], options)
    if len(raster.variables) > 1:
        raise SourceError(
            f"grid.mask = {header.uri} has {len(raster.variables)} bands: which of them is the mask?",
            "give a raster with one band",
        )
    source, tiles = raster.decisions[0].source, math.prod(grid.tiling(options.window_size))
    corners = np.array([(0, 0), (source.width, 0), (source.width, source.height), (0, source.height)], np.float64)
    try:  # no pixel is read: the reach is that of the raster's outline
        outline = np.column_stack(apply(source.transform, *corners.T))
        area = polygons_of(header.uri, source.crs, [[outline]], grid)
        reach = reach_of(area, grid, options.window_size, whole=False)
    except SourceError:  # the outline cannot be projected to the grid's CRS
        reach = Reach(header.uri, ((0, tiles),), grid.cells, False)
    return MaskPlan(reach, raster=raster, notes=raster.notes)


def _plan_table(grid: Grid, layer: Layer, headers: Sequence[TableHeader], options: Options) -> LayerPlan:
    table = plan_table(layer, headers, grid, options.alignment_tolerance)
    kind, why = declared_kind(layer, ())
    notes = _check_transformation(grid, layer.name, headers[0].uri, table.crs, options) if table.crs else []
    return LayerPlan(layer, kind, why, table_variables(layer, kind, table), (), notes=tuple(notes), table=table)


def plan_layer(
    grid: Grid, layer: Layer, sources: Sequence[Header] | Sequence[TableHeader], options: Options
) -> LayerPlan:
    """Plan a layer from the headers of its files or tables.

    Raises:
        SettingsError, SourceError: a band, kind or method makes no sense, or no source meets the grid.
    """
    if tables := [h for h in sources if isinstance(h, TableHeader)]:
        return _plan_table(grid, layer, tables, options)
    headers = [h for h in sources if isinstance(h, Header)]
    check_keys(layer, table=False)
    check_files(layer, headers)
    files = choose(layer, headers)
    mosaics, bands = sources_of(layer, files), files[0][1]
    kind, kind_why = kind_of(layer, bands)
    blends = len(headers) > 1 and layer.overlap in (Overlap.MEAN, Overlap.SUM)
    if blends and kind is Kind.CATEGORICAL:
        raise SettingsError(
            f"layer {layer.name}: overlap = {layer.overlap.value!r} makes no sense for classes",
            "choose first, last, min or max",
        )
    notes = [note for s in mosaics for note in _check_transformation(grid, layer.name, s.name, s.crs, options)]
    heights = {horizontal(layer.crs or f.header.crs or s.crs)[1] for s in mosaics for f in s.files} - {""}
    notes += [f"layer {layer.name}: the vertical part of its CRS ({name}) is ignored" for name in sorted(heights)]
    rules = RouteRules(options.tolerance, options.alignment_tolerance, options.passthrough)
    decisions = tuple(
        replace(decision, rank=rank)
        for rank, source in enumerate(mosaics)
        for decision in decide(grid, source, layer, kind, rules)
    )
    if not decisions:
        raise _outside(grid, layer, mosaics)
    methods = requested_methods(layer)
    copied = set(methods) - {d.requested_method for d in decisions if d.route is not Route.COPY}
    picked = {method for method in methods if method in PICKED}
    variables = variables_of(layer, kind, [own for _, own in files], *((set(), set()) if blends else (copied, picked)))
    factor = max(decode_factor(grid, d, options.window_size) for d in decisions)
    notes += [f"layer {layer.name}: {d.note}" for d in decisions if d.note]
    return LayerPlan(layer, kind, kind_why, variables, decisions, factor, notes=tuple(notes))


def _check_transformation(grid: Grid, layer: str, source: str, crs: str, options: Options) -> list[str]:
    """Notes on the transformation from a source's CRS to the grid's.

    Raises:
        SourceError: PROJ knows no datum shift between them, or they are of two planets.
    """
    source_radius, grid_radius = radius(crs), radius(grid.crs)
    if source_radius and grid_radius and abs(source_radius / grid_radius - 1) > 0.02:
        raise SourceError(
            f"layer {layer}: {source} is on another body than the grid: its radius is {source_radius / 1000:,.0f} km "
            f"({crs_of(crs).name}), the grid's {grid_radius / 1000:,.0f} km",
            "give a grid.crs of the same body",
            layer,
        )
    on_earth = grid_radius is not None and abs(grid_radius / 6_378_137 - 1) < 0.02
    area = projected_bounds(grid.transform, grid.width, grid.height, grid.crs, "OGC:CRS84") if on_earth else None
    shift = operation(grid.crs, crs, area)
    names = f"{crs_of(crs).name} and {crs_of(grid.crs).name}"
    apart = ellipsoids_apart(crs, grid.crs)
    if shift.ballpark and apart is not None and apart <= ONE_DATUM:
        differ = f"have one datum, and ellipsoids that differ by {apart:.3g} m"
        return [f"layer {layer}: {names} {differ}: places may be off by as much"]
    if shift.ballpark and not shift.unnamed and not options.allow_ballpark:
        raise SourceError(
            f"layer {layer}: PROJ knows no datum shift between {names}; pixels could be off by 100 m or more",
            "give the right crs = in the layer, another grid.crs, or resampling.allow_ballpark = true",
            layer,
        )
    notes = []
    if shift.ballpark:
        why = "one of them does not name its datum" if shift.unnamed else "PROJ knows none"
        notes.append(f"layer {layer}: no datum shift between {names}: {why}")
    elif shift.accuracy:
        better = f"; better, but its grid files are not installed: {shift.better}" if shift.better else ""
        notes.append(f"layer {layer}: datum shift {shift.name}, good to {shift.accuracy:g} m{better}")
    return notes


def skip(
    grid: Grid, layer: Layer, sources: Sequence[Header] | Sequence[TableHeader], reason: str, options: Options
) -> LayerPlan:
    """Plan a layer that is left null: the columns of its headers, or one float32 column."""
    if tables := [h for h in sources if isinstance(h, TableHeader)]:
        with suppress(SourceError):
            return replace(_plan_table(grid, layer, tables, options), table=None, skipped=reason)
    headers = [h for h in sources if isinstance(h, Header)]
    bands: tuple[Band, ...] = (Band(1, "float32"),)
    with suppress(SourceError):  # its bands may be the reason why it is skipped
        bands = of_file(layer, headers[0]) if headers else bands
    kind, kind_why = kind_of(layer, bands)
    variables = tuple(
        Variable(n, dtype_of(kind, b, False), layer.name, b, b.unit)
        for n, b in zip(columns(layer, bands), bands, strict=True)
    )
    return LayerPlan(layer, kind, kind_why, variables, (), skipped=reason)


def _outside(grid: Grid, layer: Layer, sources: Sequence[Source]) -> SourceError:
    where = []
    for source in sources:
        bounds = projected_bounds(source.transform, source.width, source.height, source.crs, grid.crs)
        where.append(f"{source.name} covers {numbers(bounds) if bounds else 'nothing'}")
    return SourceError(
        f"layer {layer.name} does not meet the grid {numbers(grid.bounds)}: {'; '.join(where[:3])} in the grid's CRS",
        "correct grid.bounds (xmin, ymin, xmax, ymax), the CRS, or leave the layer out",
        layer.name,
    )
