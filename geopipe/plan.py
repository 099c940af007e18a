"""The plan: everything that is decided before a pixel is read, and refused if it cannot be done.

`make_plan` is a pure function of the grid, the layers with the headers of their files, the options and the machine.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, fields, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from geopipe import derived
from geopipe.bands import choose, columns, of_file
from geopipe.choice import Reach, effective_how, keys_of, reach_of, required
from geopipe.errors import SettingsError, SourceError
from geopipe.estimate import MB, Estimate, Machine, estimate, refuse
from geopipe.grid import Grid, apply, crs_of, horizontal, operation, projected_bounds, radius
from geopipe.layer import Band, Header, Kind, Layer, Overlap, Source, Variable, check_files, sources_of
from geopipe.places import read_amplification
from geopipe.polygons import Polygons, Shapes, polygons_of
from geopipe.relation import Partition, TableHeader, TablePlan, check_keys, plan_table, table_variables
from geopipe.resampling import Decision, Way, asked_methods, decide
from geopipe.sparse import POINT_BYTES
from geopipe.table import TableSpec
from geopipe.target import numbers
from geopipe.variables import check_names, dtype_of, kind_of, told_kind, variables_of

MASK = "grid.mask"
"""In place of a layer's name, in what is told of the mask; no layer can be named so."""


@dataclass(frozen=True)
class Layout:
    """How the table lies in files, and which columns follow from a cell's place.

    `csv_files` is "tiles" or "one"; `partition_by` a variable of classes or "tile": a folder for each of its values;
    `geometry` "point" for GeoParquet; `lonlat` and `h3` (a resolution) ask for columns.
    """

    csv_files: str = "tiles"
    partition_by: str | None = None
    geometry: str | None = None
    lonlat: bool = False
    h3: int | None = None


@dataclass(frozen=True)
class Options:
    """What the settings say beside grid and layers.

    `tolerance` is "auto", "exact" or source pixels; `whole` asks for the old way, which reads whole rasters;
    `compress`, of CSV, is "gzip", "zstd" or "none".
    """

    window_size: int = 2048
    tolerance: str | float = "auto"
    whole: bool = False
    passthrough: bool = True
    allow_ballpark: bool = False
    how: str = "outer"
    drop: str | tuple[str, ...] = ()
    strategy: str = "auto"
    wave_tiles: int | None = None
    alignment_tolerance: float = 0.01
    formats: tuple[str, ...] = ("parquet",)
    compress: str = "gzip"
    layout: Layout = Layout()


@dataclass(frozen=True)
class LayerPlan:
    """What happens to one layer: `decisions` has one entry for each of its sources that meets the grid, by rank.

    `amplification` is how often its stored blocks are decoded when it is read tile by tile. Where it `sweeps`, it is
    read along its own blocks instead, each of them once, and its block rows are exchanged. A layer of coordinate tables
    has a `table` instead.
    """

    layer: Layer
    kind: Kind
    kind_why: str
    variables: tuple[Variable, ...]
    decisions: tuple[Decision, ...]
    amplification: float = 1.0
    sweeps: bool = False
    skipped: str = ""
    notes: tuple[str, ...] = ()
    table: TablePlan | None = None


@dataclass(frozen=True)
class MaskPlan:
    """Which cells may be rows: those in polygons, or where a raster (as a layer of one band) is valid and not 0.

    One of `polygons` and `raster` is there.
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
        return about | {"raster": _describe_layer(self.raster) if self.raster else None}


@dataclass(frozen=True)
class Plan:
    """The whole plan: small, frozen, and pickled to every worker. `mask` None means that every cell may be a row."""

    name: str
    spec: TableSpec
    layers: tuple[LayerPlan, ...]
    options: Options
    strategy: str
    strategy_why: str
    machine: Machine
    estimate: Estimate
    hash: str
    notes: tuple[str, ...] = ()
    mask: MaskPlan | None = None

    @property
    def keys(self) -> NDArray[np.int64]:
        """The tiles of the run, in their order: all of the grid, or those that the mask meets."""
        return np.arange(self.estimate.tiles) if self.mask is None else keys_of(self.mask.reach.runs)

    @property
    def grid(self) -> Grid:
        return self.spec.grid

    @property
    def skipped(self) -> dict[str, str]:
        """Reason by name of each layer that is left null."""
        return {p.layer.name: p.skipped for p in self.layers if p.skipped}

    @property
    def identity(self) -> dict[str, Any]:
        """What the hash covers, as JSON values."""
        version = json.loads(dict(self.spec.metadata)["geopipe:versions"])["geopipe"]
        made = _identity(self.grid, self.layers, self.options, version, _cells(self.spec, self.mask))
        return cast(dict[str, Any], json.loads(json.dumps(made)))

    def waves(self, keys: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The tiles that are merged and committed together: all of them, unless block rows are exchanged."""
        size = self.estimate.wave_tiles or max(1, len(keys))
        return [keys[start : start + size] for start in range(0, len(keys), size)]

    @cached_property
    def rasters(self) -> tuple[LayerPlan, ...]:
        """The layers that are read tile by tile."""
        return tuple(layer for layer in self.layers if layer.table is None)

    @cached_property
    def partitions(self) -> tuple[tuple[LayerPlan, Partition], ...]:
        """The partitions of all coordinate tables, each of which may have points for any tile."""
        return tuple((layer, p) for layer in self.layers if layer.table for p in layer.table.partitions)

    def reads(self, keys: NDArray[np.int64]) -> int:
        """The reads for these tiles: each raster layer in each tile, and each partition in each wave."""
        return len(keys) * len(self.rasters) + len(self.waves(keys)) * len(self.partitions)

    @cached_property
    def first_variable(self) -> dict[str, int]:
        """Index of the first variable of each layer; the others follow it."""
        starts, index = {}, 0
        for layer in self.layers:
            starts[layer.layer.name] = index
            index += len(layer.variables)
        return starts

    def describe(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {
            "name": self.name,
            "plan_hash": self.hash,
            "grid": {**self.grid.projjson(), "bounds": list(self.grid.bounds), "cells": self.grid.cells},
            "window_size": self.options.window_size,
            "how": self.options.how,
            "drop": sorted(self.spec.required),
            "mask": self.mask.describe() if self.mask else None,
            "files": {
                "formats": list(self.options.formats),
                "compress": self.options.compress,
                **asdict(self.options.layout),
            },
            "strategy": {"name": self.strategy, "why": self.strategy_why},
            "layers": [_describe_layer(layer) for layer in self.layers],
            "machine": asdict(self.machine),
            "estimate": asdict(self.estimate),
            "notes": list(self.notes),
        }


def _describe_layer(plan: LayerPlan) -> dict[str, Any]:
    return {
        "name": plan.layer.name,
        "kind": plan.kind.value,
        "kind_why": plan.kind_why,
        "skipped": plan.skipped,
        "variables": [
            {"name": v.name, "type": v.dtype, "unit": v.unit, "band": v.band.index} | v.band.place
            for v in plan.variables
        ],
        "read_amplification": round(plan.amplification, 2),
        "table": plan.table and plan.table.describe(),
        "sources": [
            {
                "files": [placed.header.uri for placed in d.source.files],
                "way": d.way.value,
                "method": d.method,
                "why": d.why,
                "rank": d.rank,
                "scale": list(d.scale) if d.scale else None,
                "pixels_per_cell": [round(s, 4) for s in d.steps],
                "tolerance": d.tolerance,
                "note": d.note,
            }
            for d in plan.decisions
        ],
    }


def make_plan(
    name: str,
    grid: Grid,
    layers: Sequence[tuple[Layer, Sequence[Header] | Sequence[TableHeader]]],
    options: Options,
    machine: Machine,
    versions: Mapping[str, str],
    skipped: Mapping[str, str] | None = None,
    mask: Shapes | tuple[Layer, Header] | None = None,
) -> Plan:
    """Decide everything, and refuse what cannot be done.

    Args:
        layers: each layer with the headers of its files or tables; a skipped layer may have none.
        versions: of the libraries that make the bytes, for the provenance.
        skipped: reason by layer name, for layers that failed and may be left null.
        mask: polygons, or a raster as a layer with its header.

    Raises:
        SettingsError, SourceError: a layer, band, kind or method makes no sense.
        PlanError: it does not fit in memory or on disk.
    """
    skipped = skipped or {}
    plans = tuple(
        _skip(grid, layer, headers, skipped[layer.name], options)
        if layer.name in skipped
        else _plan_layer(grid, layer, headers, options)
        for layer, headers in layers
    )
    variables = tuple(v for p in plans for v in p.variables)
    check_names(variables)
    _check_layout(grid, plans, options)
    masked = None if mask is None else _plan_mask(grid, mask, options)
    spec = TableSpec(
        grid=grid,
        window_size=options.window_size,
        variables=variables,
        overlaps=tuple(p.layer.overlap for p in plans for _ in p.variables),
        how=effective_how(options.how, options.drop),
        null_layers=frozenset(skipped),
        required=required(options.drop, variables, [p.layer.name for p in plans], skipped),
        lonlat=options.layout.lonlat,
        h3=options.layout.h3,
    )
    identity = _identity(grid, plans, options, versions["geopipe"], _cells(spec, masked))
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    metadata = {
        "geopipe:plan_hash": digest,
        "geopipe:grid": json.dumps(grid.projjson()),
        "geopipe:versions": json.dumps(dict(versions)),
        "geopipe:layers": json.dumps([_describe_layer(p) for p in plans]),
        "geopipe:sources": json.dumps(identity["sources"]),
    } | ({"geopipe:mask": json.dumps(masked.describe())} if masked else {})
    spec = replace(spec, metadata=tuple(metadata.items()))
    strategy, why = _choose_strategy(options, plans, grid, [v.dtype for v in variables])
    if strategy == "groupby":
        plans = tuple(replace(p, sweeps=p.amplification > SWEEPS) for p in plans)
    predicted = estimate(
        grid,
        options.window_size,
        [p.decisions for p in plans if not p.table],
        [str(f.type) for f in derived.fields(spec.lonlat, spec.h3)] + [v.dtype for v in variables],
        carried=[v.dtype for p in plans if not p.table for v in p.variables],
        points=[(len(p.table.partitions), p.table.rows, _point_bytes(p.table)) for p in plans if p.table],
        exchange=strategy == "groupby",
        wave_tiles=options.wave_tiles,
        formats=options.formats,
        compress=options.compress != "none",
        csv_copies=2 if options.layout.csv_files == "one" else 1,
        machine=machine,
        whole=options.whole,
        reach=masked.reach if masked else None,
        mask_bytes=masked.polygons.memory if masked and masked.polygons else 0,
    )
    refuse(predicted, machine, options.window_size)
    notes = [note for p in plans for note in p.notes] + list(masked.notes if masked else ())
    notes += [f"layer {p.layer.name} is skipped, its columns are null: {p.skipped}" for p in plans if p.skipped]
    if options.drop == "any" and skipped:
        notes.append("merge.drop: skipped layers do not count")
    return Plan(name, spec, plans, options, strategy, why, machine, predicted, digest, tuple(notes), masked)


def _cells(spec: TableSpec, mask: MaskPlan | None) -> dict[str, Any]:
    """What decides which cells are rows."""
    told: dict[str, Any] = {"merge": {"how": spec.how, "drop": sorted(spec.required)}}
    if mask is not None:
        headers = [f.header for d in mask.raster.decisions for f in d.source.files] if mask.raster else []
        told["mask"] = {**mask.describe(), "sources": [[h.size, h.mtime_ns] for h in headers]}
    return told


def _identity(
    grid: Grid, plans: Sequence[LayerPlan], options: Options, version: str, cells: Mapping[str, Any]
) -> dict[str, Any]:
    """What decides the bytes, and nothing that does not: no strategy, no worker count, no output folder.

    By names that a person knows from the settings, because a resumed run that differs is told what differs.
    """
    return {
        **cells,
        "geopipe": version,
        "grid": {f.name: getattr(grid, f.name) for f in fields(grid)},
        "resampling": {"window_size": options.window_size},
        "export": {"formats": list(options.formats), "compress": options.compress, **asdict(options.layout)},
        "layers": {p.layer.name: {**asdict(p.layer), "plan": _describe_layer(p), **_details(p)} for p in plans},
        "order": [p.layer.name for p in plans],
        "sources": {
            f.header.uri: {"size": f.header.size, "mtime_ns": f.header.mtime_ns}
            for p in plans
            for d in p.decisions
            for f in d.source.files
        }
        # of Postgres, nothing but its rows and keys tells that a table was changed
        | {
            h.uri: {"size": h.size, "mtime_ns": h.mtime_ns, "parts": [list(astuple(part)) for part in h.parts]}
            for p in plans
            if p.table
            for h in p.table.headers
        },
    }


def _details(plan: LayerPlan) -> dict[str, Any]:
    """What else decides a layer's bytes."""
    return {
        "crs_of_sources": [plan.table.crs] if plan.table else [d.source.crs for d in plan.decisions],
        "bands_of_files": [[asdict(b) for b in f.bands] for d in plan.decisions for f in d.source.files],
        "variables": [asdict(v) for v in plan.variables],
    }


def _plan_mask(grid: Grid, mask: Shapes | tuple[Layer, Header], options: Options) -> MaskPlan:
    """A mask with the tiles that it meets.

    Raises:
        SourceError: there is no cell in it, or it is no raster of one band.
    """
    if isinstance(mask, Shapes):
        notes = _check_way(grid, MASK, mask.uri, mask.crs, options)
        area = polygons_of(*mask, grid)
        found = MaskPlan(reach_of(area, grid, options.window_size, whole=True), area, notes=tuple(notes))
        if not found.reach.cells:
            raise SourceError(
                f"grid.mask = {mask.uri} has no centre of a cell of the grid {numbers(grid.bounds)} inside: "
                f"its polygons cover {numbers(area.bounds)} in {crs_of(mask.crs).name}",
                "correct grid.mask, grid.mask_crs or grid.bounds",
            )
        return found
    layer, header = mask
    plan = _plan_layer(grid, layer, [header], options)
    if len(plan.variables) > 1:
        raise SourceError(
            f"grid.mask = {header.uri} has {len(plan.variables)} bands: which of them is the mask?",
            "give a raster with one band",
        )
    source, tiles = plan.decisions[0].source, math.prod(grid.tiling(options.window_size))
    corners = np.array([(0, 0), (source.width, 0), (source.width, source.height), (0, source.height)], np.float64)
    try:  # no pixel is read: what is said is where the raster lies
        outline = np.column_stack(apply(source.transform, *corners.T))
        area = polygons_of(header.uri, source.crs, [[outline]], grid)
        reach = reach_of(area, grid, options.window_size, whole=False)
    except SourceError:  # its outline has no place in the grid's CRS
        reach = Reach(header.uri, ((0, tiles),), grid.cells, False)
    return MaskPlan(reach, raster=plan, notes=plan.notes)


def _point_bytes(table: TablePlan) -> int:
    """Bytes of a row of a table in block rows."""
    return sum(POINT_BYTES + np.dtype(dtype).itemsize for dtype in table.dtypes)


def _plan_table(grid: Grid, layer: Layer, headers: Sequence[TableHeader], options: Options) -> LayerPlan:
    table = plan_table(layer, headers, grid, options.alignment_tolerance)
    kind, why = told_kind(layer, ())
    notes = _check_way(grid, layer.name, headers[0].uri, table.crs, options) if table.crs else []
    return LayerPlan(layer, kind, why, table_variables(layer, kind, table), (), notes=tuple(notes), table=table)


def _plan_layer(
    grid: Grid, layer: Layer, given: Sequence[Header] | Sequence[TableHeader], options: Options
) -> LayerPlan:
    if tables := [h for h in given if isinstance(h, TableHeader)]:
        return _plan_table(grid, layer, tables, options)
    headers = [h for h in given if isinstance(h, Header)]
    check_keys(layer, table=False)
    check_files(layer, headers)
    files = choose(layer, headers)
    sources, bands = sources_of(layer, files), files[0][1]
    kind, kind_why = kind_of(layer, bands)
    blends = len(headers) > 1 and layer.overlap in (Overlap.MEAN, Overlap.SUM)
    if blends and kind is Kind.CATEGORICAL:
        raise SettingsError(
            f"layer {layer.name}: overlap = {layer.overlap.value!r} makes no sense for classes",
            "choose first, last, min or max",
        )
    notes = [note for s in sources for note in _check_way(grid, layer.name, s.name, s.crs, options)]
    heights = {horizontal(layer.crs or f.header.crs or s.crs)[1] for s in sources for f in s.files} - {""}
    notes += [f"layer {layer.name}: the vertical part of its CRS ({name}) is ignored" for name in sorted(heights)]
    decisions = tuple(
        replace(decision, rank=rank)
        for rank, source in enumerate(sources)
        for decision in decide(
            grid,
            source,
            layer,
            kind,
            tolerance=options.tolerance,
            alignment=options.alignment_tolerance,
            passthrough=options.passthrough,
        )
    )
    if not decisions:
        raise _outside(grid, layer, sources)
    copied = {word for word in asked_methods(layer) if all(d.way is Way.COPY for d in decisions if d.word == word)}
    variables = variables_of(layer, kind, [own for _, own in files], copied if not blends else set())
    amplification = max(read_amplification(grid, d, options.window_size) for d in decisions)
    notes += [f"layer {layer.name}: {d.note}" for d in decisions if d.note]
    return LayerPlan(layer, kind, kind_why, variables, decisions, amplification, notes=tuple(notes))


def _check_way(grid: Grid, layer: str, source: str, crs: str, options: Options) -> list[str]:
    """What there is to say of the way from a source's CRS to the grid's; refuses one that would put pixels wrong."""
    here, there = radius(crs), radius(grid.crs)
    if here and there and abs(here / there - 1) > 0.02:
        raise SourceError(
            f"layer {layer}: {source} is on another body than the grid: its radius is {here / 1000:,.0f} km "
            f"({crs_of(crs).name}), the grid's {there / 1000:,.0f} km",
            "give a grid.crs of the same body",
            layer,
        )
    on_earth = there is not None and abs(there / 6_378_137 - 1) < 0.02
    area = projected_bounds(grid.transform, grid.width, grid.height, grid.crs, "OGC:CRS84") if on_earth else None
    way = operation(grid.crs, crs, area)
    names = f"{crs_of(crs).name} and {crs_of(grid.crs).name}"
    if way.ballpark and not way.unnamed and not options.allow_ballpark:
        raise SourceError(
            f"layer {layer}: PROJ knows no datum shift between {names}; pixels could be off by 100 m or more",
            "give the right crs = in the layer, another grid.crs, or resampling.allow_ballpark = true",
            layer,
        )
    notes = []
    if way.ballpark:
        why = "one of them does not name its datum" if way.unnamed else "PROJ knows none"
        notes.append(f"layer {layer}: no datum shift between {names}: {why}")
    elif way.accuracy:
        better = f"; better, but its grid files are not installed: {way.better}" if way.better else ""
        notes.append(f"layer {layer}: datum shift {way.name}, good to {way.accuracy:g} m{better}")
    return notes


def _skip(
    grid: Grid, layer: Layer, given: Sequence[Header] | Sequence[TableHeader], reason: str, options: Options
) -> LayerPlan:
    """A layer that is left null: its columns as far as headers tell, else one float32 column."""
    if tables := [h for h in given if isinstance(h, TableHeader)]:
        with suppress(SourceError):
            return replace(_plan_table(grid, layer, tables, options), table=None, skipped=reason)
    headers = [h for h in given if isinstance(h, Header)]
    bands: tuple[Band, ...] = (Band(1, "float32"),)
    with suppress(SourceError):  # its bands may be what is wrong with it
        bands = of_file(layer, headers[0]) if headers else bands
    kind, kind_why = kind_of(layer, bands)
    variables = tuple(
        Variable(n, dtype_of(kind, b, False), layer.name, b, b.unit)
        for n, b in zip(columns(layer, bands), bands, strict=True)
    )
    return LayerPlan(layer, kind, kind_why, variables, (), skipped=reason)


def _check_layout(grid: Grid, plans: Sequence[LayerPlan], options: Options) -> None:
    """Refuse files that cannot be written as they are asked for."""
    layout, formats = options.layout, list(options.formats)
    asked = {
        "csv_files": ("csv", layout.csv_files if layout.csv_files != "tiles" else None),
        "partition_by": ("parquet", layout.partition_by),
        "geometry": ("parquet", layout.geometry),
    }
    for key, (form, value) in asked.items():
        if value is not None and form not in formats:
            raise SettingsError(
                f"export.{key} = {value!r} is about {form}, but export.formats = {formats}",
                f"add {form!r} to export.formats, or leave export.{key} out",
            )
    if layout.lonlat or layout.h3 is not None:
        derived.arrays(grid, layout.lonlat, layout.h3, grid.xs(0, 1), grid.ys(0, 1))
    if layout.partition_by not in (None, "tile"):
        _check_partition(plans, str(layout.partition_by))


def _check_partition(plans: Sequence[LayerPlan], name: str) -> None:
    found = {v.name: (p, v) for p in plans for v in p.variables}
    classes = [n for n, (p, v) in found.items() if p.kind is Kind.CATEGORICAL and np.dtype(v.dtype).kind in "iu"]
    cure = f"choose one of {', '.join([*classes, 'tile'])}"
    if name not in found:
        raise SettingsError(f"export.partition_by = {name!r} is no variable of the table", cure)
    layer, variable = found[name]
    if name not in classes and not layer.skipped:
        raise SettingsError(
            f"export.partition_by = {name!r} is {layer.kind.value} ({layer.kind_why}), of type {variable.dtype}; "
            "there would be a folder for each of its values, so it must have whole numbers for classes",
            f"{cure}, or give layer {layer.layer.name} kind = 'categorical'",
        )


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


SWEEPS = 1.5
"""A layer whose stored blocks would be decoded this often, tile by tile, is read along them where it can be."""

EXCHANGE_COST = 3.0
"""What it costs to exchange a byte, in bytes decoded (see bench/)."""


def _choose_strategy(
    options: Options, plans: Sequence[LayerPlan], grid: Grid, dtypes: Sequence[str]
) -> tuple[str, str]:
    """Aligned, unless there are points, or reading tile by tile decodes so much again that an exchange is cheaper."""
    if options.whole:
        return "aligned", "the old way reads whole rasters, in one process"
    tables = [p.layer.name for p in plans if p.table]
    if tables:
        why = f"the points of {', '.join(tables)} are read for all tiles at once, so that they must be exchanged"
        if options.strategy == "aligned":
            raise SettingsError(f'merge.strategy = "aligned" cannot be: {why}', 'use "auto" or "groupby"')
        return "groupby", why
    again = sum((p.amplification - 1) * _decoded(p, grid) for p in plans)
    exchanged = float(grid.cells * sum(np.dtype(d).itemsize + 1 for d in dtypes))
    worst = max(plans, key=lambda p: p.amplification)
    told = (
        f"tile by tile, {again / MB:,.0f} MB would be decoded again (amplification at most {worst.amplification:.3g}, "
        f"of {worst.layer.name}); an exchange moves {exchanged / MB:,.0f} MB"
    )
    if options.strategy != "auto":
        return options.strategy, f"as the settings ask; {told}"
    return ("groupby" if again > EXCHANGE_COST * exchanged else "aligned"), told


def _decoded(plan: LayerPlan, grid: Grid) -> float:
    """Bytes of a layer's pixels under the grid, decoded once."""
    sizes = [np.dtype(b.dtype).itemsize for d in plan.decisions[:1] for b in d.source.files[0].bands]
    return float(grid.cells * sum(sizes) * np.prod(plan.decisions[0].steps)) if plan.decisions else 0.0
