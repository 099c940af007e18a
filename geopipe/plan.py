"""The plan: everything that is decided before a pixel is read, and refused if it cannot be done.

`make_plan` is a pure function of the grid, the layers with the headers of their files, the options and the machine.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geopipe.bands import choose, columns, of_file
from geopipe.choice import Reach, effective_how, keys_of, reach_of, required
from geopipe.errors import SettingsError, SourceError
from geopipe.estimate import Estimate, Machine, estimate, refuse
from geopipe.grid import Grid, apply, crs_of, horizontal, operation, projected_bounds, radius
from geopipe.layer import Band, Header, Kind, Layer, Overlap, Source, Variable, check_files, sources_of
from geopipe.places import read_amplification
from geopipe.polygons import Polygons, Shapes, polygons_of
from geopipe.resampling import FRACTION, VALID, Decision, Way, asked_methods, decide
from geopipe.table import RESERVED, TableSpec
from geopipe.target import numbers

MASK = "grid.mask"
"""In place of a layer's name, in what is told of the mask; no layer can be named so."""


@dataclass(frozen=True)
class Options:
    """What the settings say beside grid and layers. `tolerance` is "auto", "exact" or source pixels."""

    window_size: int = 2048
    tolerance: str | float = "auto"
    passthrough: bool = True
    allow_ballpark: bool = False
    how: str = "outer"
    drop: str | tuple[str, ...] = ()
    strategy: str = "auto"
    alignment_tolerance: float = 0.01
    formats: tuple[str, ...] = ("parquet",)
    compress: bool = True


@dataclass(frozen=True)
class LayerPlan:
    """What happens to one layer: `decisions` has one entry for each of its sources that meets the grid, by rank."""

    layer: Layer
    kind: Kind
    kind_why: str
    variables: tuple[Variable, ...]
    decisions: tuple[Decision, ...]
    amplification: float = 1.0
    skipped: str = ""
    notes: tuple[str, ...] = ()


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
        """The mask as JSON values, which change where it does; `sources` are added for a raster."""
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
        """Keys of the tiles that may have rows, rising: all of them, or those that the mask meets."""
        return np.arange(self.estimate.tiles) if self.mask is None else keys_of(self.mask.reach.runs)

    @property
    def grid(self) -> Grid:
        return self.spec.grid

    @property
    def skipped(self) -> dict[str, str]:
        """Reason by name of each layer that is left null."""
        return {p.layer.name: p.skipped for p in self.layers if p.skipped}

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
    layers: Sequence[tuple[Layer, Sequence[Header]]],
    options: Options,
    machine: Machine,
    versions: Mapping[str, str],
    skipped: Mapping[str, str] | None = None,
    mask: Shapes | tuple[Layer, Header] | None = None,
) -> Plan:
    """Decide everything, and refuse what cannot be done.

    Args:
        layers: each layer with the headers of its files; a skipped layer may have none.
        versions: of the libraries that make the bytes, for the provenance.
        skipped: reason by layer name, for layers that failed and may be left null.
        mask: polygons, or a raster as a layer with its header.

    Raises:
        SettingsError, SourceError: a layer, band, kind or method makes no sense.
        PlanError: it does not fit in memory or on disk.
    """
    skipped = skipped or {}
    plans = tuple(
        _skip(layer, headers, skipped[layer.name])
        if layer.name in skipped
        else _plan_layer(grid, layer, headers, options)
        for layer, headers in layers
    )
    variables = tuple(v for p in plans for v in p.variables)
    _check_names(variables)
    how = effective_how(options.how, options.drop)
    needed = required(options.drop, variables, [p.layer.name for p in plans], skipped)
    masked = None if mask is None else _plan_mask(grid, mask, options)
    identity = _identity(grid, plans, options) | {"cells": [how, sorted(needed)], "mask": _mask_identity(masked)}
    digest = hashlib.sha256(json.dumps([identity, versions["geopipe"]], sort_keys=True).encode()).hexdigest()
    metadata = {
        "geopipe:plan_hash": digest,
        "geopipe:grid": json.dumps(grid.projjson()),
        "geopipe:versions": json.dumps(dict(versions)),
        "geopipe:layers": json.dumps([_describe_layer(p) for p in plans]),
        "geopipe:sources": json.dumps(identity["sources"]),
    } | ({"geopipe:mask": json.dumps(masked.describe())} if masked else {})
    spec = TableSpec(
        grid=grid,
        window_size=options.window_size,
        variables=variables,
        overlaps=tuple(p.layer.overlap for p in plans for _ in p.variables),
        how=how,
        null_layers=frozenset(skipped),
        required=needed,
        metadata=tuple(metadata.items()),
    )
    strategy, why = _choose_strategy(options, plans)
    predicted = estimate(
        grid,
        options.window_size,
        [p.decisions for p in plans],
        [v.dtype for v in variables],
        exchange=strategy == "groupby",
        formats=options.formats,
        compress=options.compress,
        machine=machine,
        reach=masked.reach if masked else None,
        mask_bytes=masked.polygons.memory if masked and masked.polygons else 0,
    )
    refuse(predicted, machine, options.window_size)
    notes = [note for p in plans for note in p.notes] + list(masked.notes if masked else ())
    notes += [f"layer {p.layer.name} is skipped, its columns are null: {p.skipped}" for p in plans if p.skipped]
    if options.drop == "any" and skipped:
        notes.append("merge.drop: skipped layers do not count")
    return Plan(name, spec, plans, options, strategy, why, machine, predicted, digest, tuple(notes), masked)


def _identity(grid: Grid, plans: Sequence[LayerPlan], options: Options) -> dict[str, Any]:
    """What decides the bytes, and nothing that does not: no strategy, no worker count, no output folder."""
    return {
        "grid": [grid.crs, grid.x0, grid.y0, grid.dx, grid.dy, grid.width, grid.height],
        "options": [options.window_size, list(options.formats), options.compress],
        "layers": [[_describe_layer(p), asdict(p.layer)] for p in plans],
        "crs": [d.source.crs for p in plans for d in p.decisions],
        "bands": [[asdict(b) for b in f.bands] for p in plans for d in p.decisions for f in d.source.files],
        "variables": [asdict(v) for p in plans for v in p.variables],
        "sources": [
            [f.header.uri, f.header.size, f.header.mtime_ns] for p in plans for d in p.decisions for f in d.source.files
        ],
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


def _mask_identity(mask: MaskPlan | None) -> list[Any]:
    """What a mask does to the table, and its source as those of the layers."""
    if mask is None:
        return []
    sources = [f.header for d in mask.raster.decisions for f in d.source.files] if mask.raster else []
    return [mask.describe(), *([h.size, h.mtime_ns] for h in sources)]


def _plan_layer(grid: Grid, layer: Layer, headers: Sequence[Header], options: Options) -> LayerPlan:
    check_files(layer, headers)
    files = choose(layer, headers)
    sources, bands = sources_of(layer, files), files[0][1]
    kind, kind_why = _kind(layer, bands)
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
    variables = _variables(layer, kind, [own for _, own in files], decisions, copied if not blends else set())
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


def _variables(
    layer: Layer,
    kind: Kind,
    files: Sequence[Sequence[Band]],
    decisions: Sequence[Decision],
    untouched: set[str],
) -> tuple[Variable, ...]:
    """The columns of a layer: by band, and for each band by what the layer asks for.

    Args:
        files: the bands of each file.
        untouched: the words whose values are the source's own.
    """
    words = asked_methods(layer)
    plain = [word for word in words if word not in (FRACTION, VALID)]
    bases = columns(layer, files[0])
    made = []
    for index, band in enumerate(files[0]):
        base = bases[index]
        for word in words:
            if word == VALID and index > 0:
                continue  # a column per layer
            about: dict[str, Any] = {"layer": layer.name, "band": band, "index": index, "word": word}
            if word == FRACTION:
                classes = layer.fractions if isinstance(layer.fractions, tuple) else ()
                made += [Variable(f"{base}_{c}", "float32", part=c, **about) for c in classes]
            elif word == VALID:
                made.append(Variable(f"{layer.name}_valid", "float32", **about))
            else:
                dtype = np.result_type(*(_dtype(kind, own[index], word in untouched) for own in files))
                name = f"{base}_{word}" if len(plain) > 1 else base
                made.append(Variable(name, str(dtype), unit=band.unit, **about))
    return tuple(made)


def _skip(layer: Layer, headers: Sequence[Header], reason: str) -> LayerPlan:
    """A layer that is left null: its columns as far as headers tell, else one float32 column."""
    bands: tuple[Band, ...] = (Band(1, "float32"),)
    with suppress(SourceError):  # its bands may be what is wrong with it
        bands = of_file(layer, headers[0]) if headers else bands
    kind, kind_why = _kind(layer, bands)
    variables = tuple(
        Variable(n, _dtype(kind, b, False), layer.name, b, b.unit)
        for n, b in zip(columns(layer, bands), bands, strict=True)
    )
    return LayerPlan(layer, kind, kind_why, variables, (), skipped=reason)


def _kind(layer: Layer, bands: Sequence[Band]) -> tuple[Kind, str]:
    kind, why = _told_kind(layer, bands)
    fitting = {Kind.CATEGORICAL: (None, "min", "max"), Kind.CIRCULAR: (None,)}.get(kind)
    if fitting and layer.reduce not in fitting:
        raise SettingsError(
            f"layer {layer.name}: reduce = {layer.reduce!r} makes no sense for kind = {kind.value!r} ({why})",
            f"leave reduce out{', choose min or max,' if len(fitting) > 1 else ''} or give the layer another kind",
        )
    return kind, why


def _told_kind(layer: Layer, bands: Sequence[Band]) -> tuple[Kind, str]:
    if layer.kind is not None:
        return layer.kind, "as the settings say"
    if layer.bits is not None:
        return Kind.CATEGORICAL, "bits are taken out of it"
    if all(b.paletted for b in bands):
        return Kind.CATEGORICAL, "the file has a colour table"
    return Kind.CONTINUOUS, "the default"


def _dtype(kind: Kind, band: Band, untouched: bool) -> str:
    """The column's type: the source's own where its values are kept as they are, else the float that holds them."""
    own = np.dtype(band.dtype)
    untouched = untouched and band.reduce not in ("mean", "sum")
    addends = 1 + len(band.more) if band.reduce == "sum" else 1
    packed = band.scale != 1.0 or band.offset != 0.0
    if not packed and (kind is Kind.CATEGORICAL or untouched):
        return band.dtype
    if own == np.float16:
        return "float32"
    if packed and own.kind in "iu" and own.itemsize <= 2 and band.scale:
        # float32 has 24 bits: enough while each packed step still changes the unpacked number
        levels = abs(band.offset / band.scale) + max(abs(np.iinfo(own).min), np.iinfo(own).max)
        return "float32" if addends * levels < 2**22 else "float64"
    if kind is Kind.CIRCULAR and not untouched:
        return "float32"
    wide = own.itemsize == 8 or (own.kind in "iu" and own.itemsize == 4) or (packed and own.itemsize == 4)
    wide = wide or (own.kind in "iu" and addends * 2.0 ** (8 * own.itemsize) > 2**24)
    return "float64" if wide else "float32"


def _check_names(variables: Sequence[Variable]) -> None:
    seen: dict[str, str] = {}
    for v in variables:
        if v.name in RESERVED:
            raise SettingsError(f"layer {v.layer}: the column name {v.name!r} is reserved", "name the layer otherwise")
        if v.name in seen:
            raise SettingsError(
                f"two columns would be named {v.name!r}: of layer {seen[v.name]} and of layer {v.layer}",
                "rename one of the layers",
            )
        seen[v.name] = v.layer


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


def _choose_strategy(options: Options, plans: Sequence[LayerPlan]) -> tuple[str, str]:
    worst = max(plans, key=lambda p: p.amplification)
    if options.strategy != "auto":
        return options.strategy, "as the settings ask"
    return "aligned", (
        "every layer can be read tile by tile "
        f"(read amplification at most {worst.amplification:.2g}, of {worst.layer.name}), so nothing need be exchanged"
    )
