"""The plan: everything that is decided before a pixel is read, and refused if it cannot be done.

`make_plan` is a pure function of the grid, the layers with the headers of their files, the options and the machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from geopipe import derived
from geopipe.bands import choose, columns, of_file
from geopipe.errors import SettingsError, SourceError
from geopipe.estimate import Estimate, Machine, estimate, refuse
from geopipe.grid import Grid, crs_of, horizontal, operation, projected_bounds, radius
from geopipe.layer import Band, Header, Kind, Layer, Overlap, Source, Variable, check_files, sources_of
from geopipe.places import read_amplification
from geopipe.resampling import FRACTION, VALID, Decision, Way, asked_methods, decide
from geopipe.table import RESERVED, TableSpec
from geopipe.target import numbers


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

    `tolerance` is "auto", "exact" or source pixels; `compress`, of CSV, "gzip", "zstd" or "none".
    """

    window_size: int = 2048
    tolerance: str | float = "auto"
    passthrough: bool = True
    allow_ballpark: bool = False
    how: str = "outer"
    strategy: str = "auto"
    alignment_tolerance: float = 0.01
    formats: tuple[str, ...] = ("parquet",)
    compress: str = "gzip"
    layout: Layout = Layout()


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
class Plan:
    """The whole plan: small, frozen, and pickled to every worker."""

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
) -> Plan:
    """Decide everything, and refuse what cannot be done.

    Args:
        layers: each layer with the headers of its files; a skipped layer may have none.
        versions: of the libraries that make the bytes, for the provenance.
        skipped: reason by layer name, for layers that failed and may be left null.

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
    _check_layout(grid, plans, options)
    identity = _identity(grid, plans, options)
    digest = hashlib.sha256(json.dumps([identity, versions["geopipe"]], sort_keys=True).encode()).hexdigest()
    metadata = {
        "geopipe:plan_hash": digest,
        "geopipe:grid": json.dumps(grid.projjson()),
        "geopipe:versions": json.dumps(dict(versions)),
        "geopipe:layers": json.dumps([_describe_layer(p) for p in plans]),
        "geopipe:sources": json.dumps(identity["sources"]),
    }
    spec = TableSpec(
        grid=grid,
        window_size=options.window_size,
        variables=variables,
        overlaps=tuple(p.layer.overlap for p in plans for _ in p.variables),
        how=options.how,
        null_layers=frozenset(skipped),
        metadata=tuple(metadata.items()),
        lonlat=options.layout.lonlat,
        h3=options.layout.h3,
    )
    strategy, why = _choose_strategy(options, plans)
    needed = estimate(
        grid,
        options.window_size,
        [p.decisions for p in plans],
        [str(f.type) for f in derived.fields(spec.lonlat, spec.h3)] + [v.dtype for v in variables],
        exchange=strategy == "groupby",
        formats=options.formats,
        compress=options.compress != "none",
        csv_copies=2 if options.layout.csv_files == "one" else 1,
        machine=machine,
    )
    refuse(needed, machine, options.window_size)
    notes = [note for p in plans for note in p.notes]
    notes += [f"layer {p.layer.name} is skipped, its columns are null: {p.skipped}" for p in plans if p.skipped]
    return Plan(name, spec, plans, options, strategy, why, machine, needed, digest, tuple(notes))


def _identity(grid: Grid, plans: Sequence[LayerPlan], options: Options) -> dict[str, Any]:
    """What decides the bytes, and nothing that does not: no strategy, no worker count, no output folder."""
    return {
        "grid": [grid.crs, grid.x0, grid.y0, grid.dx, grid.dy, grid.width, grid.height],
        "options": [options.window_size, options.how, list(options.formats), options.compress, asdict(options.layout)],
        "layers": [[_describe_layer(p), asdict(p.layer)] for p in plans],
        "crs": [d.source.crs for p in plans for d in p.decisions],
        "bands": [[asdict(b) for b in f.bands] for p in plans for d in p.decisions for f in d.source.files],
        "variables": [asdict(v) for p in plans for v in p.variables],
        "sources": [
            [f.header.uri, f.header.size, f.header.mtime_ns] for p in plans for d in p.decisions for f in d.source.files
        ],
    }


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
    notes = [note for source in sources for note in _check_way(grid, layer, source, options)]
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


def _check_way(grid: Grid, layer: Layer, source: Source, options: Options) -> list[str]:
    """What there is to say of the way from a source's CRS to the grid's; refuses one that would put pixels wrong."""
    here, there = radius(source.crs), radius(grid.crs)
    if here and there and abs(here / there - 1) > 0.02:
        raise SourceError(
            f"layer {layer.name}: {source.name} is on another body than the grid: its radius is {here / 1000:,.0f} km "
            f"({crs_of(source.crs).name}), the grid's {there / 1000:,.0f} km",
            "give a grid.crs of the same body",
            layer.name,
        )
    on_earth = there is not None and abs(there / 6_378_137 - 1) < 0.02
    area = projected_bounds(grid.transform, grid.width, grid.height, grid.crs, "OGC:CRS84") if on_earth else None
    way = operation(grid.crs, source.crs, area)
    names = f"{crs_of(source.crs).name} and {crs_of(grid.crs).name}"
    if way.ballpark and not way.unnamed and not options.allow_ballpark:
        raise SourceError(
            f"layer {layer.name}: PROJ knows no datum shift between {names}; pixels could be off by 100 m or more",
            "give the right crs = in the layer, another grid.crs, or resampling.allow_ballpark = true",
            layer.name,
        )
    notes = []
    if way.ballpark:
        why = "one of them does not name its datum" if way.unnamed else "PROJ knows none"
        notes.append(f"layer {layer.name}: no datum shift between {names}: {why}")
    elif way.accuracy:
        better = f"; better, but its grid files are not installed: {way.better}" if way.better else ""
        notes.append(f"layer {layer.name}: datum shift {way.name}, good to {way.accuracy:g} m{better}")
    heights = {horizontal(layer.crs or f.header.crs or source.crs)[1] for f in source.files} - {""}
    notes += [f"layer {layer.name}: the vertical part of its CRS ({name}) is ignored" for name in sorted(heights)]
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


def _choose_strategy(options: Options, plans: Sequence[LayerPlan]) -> tuple[str, str]:
    worst = max(plans, key=lambda p: p.amplification)
    if options.strategy != "auto":
        return options.strategy, "as the settings ask"
    return "aligned", (
        "every layer can be read tile by tile "
        f"(read amplification at most {worst.amplification:.2g}, of {worst.layer.name}), so nothing need be exchanged"
    )
