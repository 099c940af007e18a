"""The plan: everything that is decided before a pixel is read, and refused if it cannot be done.

`make_plan` is a pure function of the grid, the layers with the headers of their files, the options and the machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, fields, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from geopipe.bands import choose, columns, of_file
from geopipe.errors import SettingsError, SourceError
from geopipe.estimate import MB, Estimate, Machine, estimate, refuse
from geopipe.grid import Grid, crs_of, horizontal, operation, projected_bounds, radius
from geopipe.layer import Band, Header, Kind, Layer, Overlap, Source, Variable, check_files, sources_of
from geopipe.places import read_amplification
from geopipe.relation import Partition, TableHeader, TablePlan, check_keys, plan_table, variables_of
from geopipe.resampling import FRACTION, VALID, Decision, Way, asked_methods, decide
from geopipe.sparse import POINT_BYTES
from geopipe.table import RESERVED, TableSpec
from geopipe.target import numbers


@dataclass(frozen=True)
class Options:
    """What the settings say beside grid and layers. `tolerance` is "auto", "exact" or source pixels."""

    window_size: int = 2048
    tolerance: str | float = "auto"
    passthrough: bool = True
    allow_ballpark: bool = False
    how: str = "outer"
    strategy: str = "auto"
    wave_tiles: int | None = None
    alignment_tolerance: float = 0.01
    formats: tuple[str, ...] = ("parquet",)
    compress: bool = True


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

    @property
    def identity(self) -> dict[str, Any]:
        """What the hash covers, as JSON values."""
        version = json.loads(dict(self.spec.metadata)["geopipe:versions"])["geopipe"]
        made = _identity(self.grid, self.layers, self.options, version)
        return cast(dict[str, Any], json.loads(json.dumps(made)))

    @property
    def keys(self) -> NDArray[np.int64]:
        """The tiles of the run, in their order."""
        return np.arange(self.estimate.tiles)

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
) -> Plan:
    """Decide everything, and refuse what cannot be done.

    Args:
        layers: each layer with the headers of its files or tables; a skipped layer may have none.
        versions: of the libraries that make the bytes, for the provenance.
        skipped: reason by layer name, for layers that failed and may be left null.

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
    _check_names(variables)
    identity = _identity(grid, plans, options, versions["geopipe"])
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
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
    )
    strategy, why = _choose_strategy(options, plans, grid, [v.dtype for v in variables])
    if strategy == "groupby":
        plans = tuple(replace(p, sweeps=p.amplification > SWEEPS) for p in plans)
    needed = estimate(
        grid,
        options.window_size,
        [p.decisions for p in plans if not p.table],
        [v.dtype for v in variables],
        carried=[v.dtype for p in plans if not p.table for v in p.variables],
        points=[(len(p.table.partitions), p.table.rows, _point_bytes(p.table)) for p in plans if p.table],
        exchange=strategy == "groupby",
        wave_tiles=options.wave_tiles,
        formats=options.formats,
        compress=options.compress,
        machine=machine,
    )
    refuse(needed, machine, options.window_size)
    notes = [note for p in plans for note in p.notes]
    notes += [f"layer {p.layer.name} is skipped, its columns are null: {p.skipped}" for p in plans if p.skipped]
    return Plan(name, spec, plans, options, strategy, why, machine, needed, digest, tuple(notes))


def _identity(grid: Grid, plans: Sequence[LayerPlan], options: Options, version: str) -> dict[str, Any]:
    """What decides the bytes, and nothing that does not: no strategy, no worker count, no output folder.

    By names that a person knows from the settings, because a resumed run that differs is told what differs.
    """
    return {
        "geopipe": version,
        "grid": {f.name: getattr(grid, f.name) for f in fields(grid)},
        "resampling": {"window_size": options.window_size},
        "merge": {"how": options.how},
        "export": {"formats": list(options.formats), "compress": options.compress},
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


def _point_bytes(table: TablePlan) -> int:
    """Bytes of a row of a table in block rows."""
    return sum(POINT_BYTES + np.dtype(dtype).itemsize for dtype in table.dtypes)


def _plan_table(grid: Grid, layer: Layer, headers: Sequence[TableHeader], options: Options) -> LayerPlan:
    table = plan_table(layer, headers, grid, options.alignment_tolerance)
    kind, why = _told_kind(layer, ())
    notes = _check_way(grid, layer, table.crs, headers[0].uri, options) if table.crs else []
    return LayerPlan(layer, kind, why, variables_of(layer, kind, table), (), notes=tuple(notes), table=table)


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
    kind, kind_why = _kind(layer, bands)
    blends = len(headers) > 1 and layer.overlap in (Overlap.MEAN, Overlap.SUM)
    if blends and kind is Kind.CATEGORICAL:
        raise SettingsError(
            f"layer {layer.name}: overlap = {layer.overlap.value!r} makes no sense for classes",
            "choose first, last, min or max",
        )
    notes = [n for source in sources for n in _check_way(grid, layer, source.crs, source.name, options)]
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


def _check_way(grid: Grid, layer: Layer, crs: str, source: str, options: Options) -> list[str]:
    """What there is to say of the way from a source's CRS to the grid's; refuses one that would put pixels wrong."""
    here, there = radius(crs), radius(grid.crs)
    if here and there and abs(here / there - 1) > 0.02:
        raise SourceError(
            f"layer {layer.name}: {source} is on another body than the grid: its radius is {here / 1000:,.0f} km "
            f"({crs_of(crs).name}), the grid's {there / 1000:,.0f} km",
            "give a grid.crs of the same body",
            layer.name,
        )
    on_earth = there is not None and abs(there / 6_378_137 - 1) < 0.02
    area = projected_bounds(grid.transform, grid.width, grid.height, grid.crs, "OGC:CRS84") if on_earth else None
    way = operation(grid.crs, crs, area)
    names = f"{crs_of(crs).name} and {crs_of(grid.crs).name}"
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
    if bands and all(b.paletted for b in bands):
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


SWEEPS = 1.5
"""A layer whose stored blocks would be decoded this often, tile by tile, is read along them where it can be."""

EXCHANGE_COST = 3.0
"""What it costs to exchange a byte, in bytes decoded (see bench/)."""


def _choose_strategy(
    options: Options, plans: Sequence[LayerPlan], grid: Grid, dtypes: Sequence[str]
) -> tuple[str, str]:
    """Aligned, unless there are points, or reading tile by tile decodes so much again that an exchange is cheaper."""
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
