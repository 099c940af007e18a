"""The plan: everything that is decided before a pixel is read, and refused if it cannot be done.

`make_plan` is a pure function of the grid, the layers with the headers of their files, the options and the machine.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from geopipe.errors import SettingsError
from geopipe.grid.crs import is_lonlat
from geopipe.grid.grid import Grid
from geopipe.grid.polygons import Shapes
from geopipe.layers.header import Header, Palette
from geopipe.layers.layer import Kind, Layer
from geopipe.layers.table_plan import Partition
from geopipe.layers.tables import TableHeader
from geopipe.merge import derived
from geopipe.merge.spec import TableSpec
from geopipe.plan.cells import effective_how, keys_of, required
from geopipe.plan.estimate import MB, Estimate, Machine, estimate, refuse
from geopipe.plan.identity import classes_of, hash_of, identity_of, provenance_of
from geopipe.plan.layers import LayerPlan, MaskPlan, describe_layer, plan_layer, plan_mask, skip
from geopipe.plan.options import Options
from geopipe.plan.variables import check_names
from geopipe.plan.work import FASTER, Workload, choose_engine, refuse_work, work_of
from geopipe.redaction import redacted


@dataclass(frozen=True)
class Plan:
    """A complete plan: small, frozen, and pickled to every worker. Without `mask` every cell may be a row.

    `seconds` are predicted by engine; `estimate` and `work` are those of `engine`. `palettes` are the colours of the
    classes, by variable; the hash does not cover them.
    """

    name: str
    spec: TableSpec
    layers: tuple[LayerPlan, ...]
    options: Options
    versions: Mapping[str, str]
    strategy: str
    strategy_why: str
    engine: str
    engine_why: str
    seconds: Mapping[str, float]
    machine: Machine
    estimate: Estimate
    work: Workload
    hash: str
    notes: tuple[str, ...] = ()
    mask: MaskPlan | None = None
    palettes: Mapping[str, Palette] = field(default_factory=dict)

    def __repr__(self) -> str:
        from geopipe.plan.text import plan_text

        return plan_text(self)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"

    @property
    def keys(self) -> NDArray[np.int64]:
        """(tiles,) int64, rising keys of the tiles of the run: all of the grid, or those that the mask meets."""
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
        """Everything that the hash covers, as JSON values; a secret in an address is replaced by its hash."""
        identity = identity_of(self.spec, self.mask, self.layers, self.options, self.versions["geopipe"])
        return cast(dict[str, Any], redacted(json.loads(json.dumps(identity)), mark=True))

    @property
    def provenance(self) -> dict[str, Any]:
        """The sources and versions behind the table, as JSON values for `_SUCCESS`."""
        provenance = provenance_of(self.layers, self.mask, self.versions)
        return provenance | {"classes": classes_of(self.spec.variables, self.palettes)}

    def waves(self, keys: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The tiles to merge and commit together: all of them, unless block rows are shuffled."""
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
        """Number of reads for these tiles: each raster layer in each tile, and each partition in each wave."""
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
        """The plan as JSON values."""
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
            "engine": {"name": self.engine, "why": self.engine_why, "seconds": dict(self.seconds)},
            "layers": [describe_layer(layer) for layer in self.layers],
            "machine": self.machine.describe(),
            "estimate": asdict(self.estimate),
            "work": asdict(self.work) | {"seconds": list(self.work.seconds)},
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Inputs:
    """The inputs of a plan: the grid, and each layer with the headers of its files or tables.

    `versions` are those of the libraries that make the bytes. `skipped` has the reason by name of each layer that
    failed and is left null; it may have no headers. `mask` is polygons, or a raster as a layer with its header.
    """

    name: str
    grid: Grid
    layers: Sequence[tuple[Layer, Sequence[Header] | Sequence[TableHeader]]]
    versions: Mapping[str, str]
    skipped: Mapping[str, str] = field(default_factory=dict)
    mask: Shapes | tuple[Layer, Header] | None = None


def make_plan(
    inputs: Inputs, options: Options, machine: Machine, written_bytes: Callable[[str], int] = lambda plan_hash: 0
) -> Plan:
    """Plan a run, and refuse one that cannot be done.

    Args:
        written_bytes: bytes that an unfinished run of a plan has left on the disk, by the plan's hash.

    Raises:
        SettingsError, SourceError: a layer, band, kind or method makes no sense.
        PlanError: it does not fit in memory or on disk.
    """
    grid, skipped = inputs.grid, inputs.skipped
    plans = tuple(
        skip(grid, layer, headers, skipped[layer.name], options)
        if layer.name in skipped
        else plan_layer(grid, layer, headers, options)
        for layer, headers in inputs.layers
    )
    variables = tuple(v for p in plans for v in p.variables)
    check_names(variables)
    _check_layout(grid, plans, options)
    mask = None if inputs.mask is None else plan_mask(grid, inputs.mask, options)
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
    digest = hash_of(identity_of(spec, mask, plans, options, inputs.versions["geopipe"]))
    spec = replace(spec, metadata=(("geopipe:plan_hash", digest),))
    strategy, why = _choose_strategy(options, plans, grid)
    tasks = int(np.prod(grid.tiling(options.window_size))) if mask is None else mask.reach.tiles
    if strategy == "groupby":
        plans = tuple(replace(p, sweeps=p.decode_factor > SWEEPS) for p in plans)
        tasks *= len(plans)
    busy = replace(machine, workers=min(machine.workers, tasks))
    works = work_of(grid, plans, options, busy, mask.reach if mask else None)
    engine, engine_why = choose_engine(options, machine.cluster, {name: w.predicted for name, w in works.items()})
    needs = estimate(spec, plans, options, machine, mask, strategy if engine == "ray" else "local")
    if engine == "ray" and machine.fitted(needs.share_bytes) != machine:
        machine = machine.fitted(needs.share_bytes)
        needs = estimate(spec, plans, options, machine, mask, strategy)
    if engine == "ray" and engine_why == FASTER and needs.peak_bytes > machine.memory:
        engine, engine_why = "local", f"auto: on Ray it would need {needs.peak_bytes / MB:,.0f} MB of memory"
        needs = estimate(spec, plans, options, machine, mask, "local")
    work = works[engine]
    refuse_work(work, options.max_pixels)
    refuse(needs, machine, options.window_size, written_bytes(digest))
    notes = _united([note for p in plans for note in p.notes] + list(mask.notes if mask else ()))
    notes += [f"layer {p.layer.name} is skipped, its columns are null: {p.skipped}" for p in plans if p.skipped]
    notes += [note for note in [_few_cells(grid), work.note()] if note]
    if options.drop == "any" and skipped:
        notes.append("merge.drop: skipped layers do not count")
    return Plan(
        name=inputs.name,
        spec=spec,
        layers=plans,
        options=options,
        versions=inputs.versions,
        strategy=strategy,
        strategy_why=why,
        engine=engine,
        engine_why=engine_why,
        seconds={name: w.predicted for name, w in works.items()},
        machine=machine,
        estimate=needs,
        work=work,
        hash=digest,
        notes=tuple(notes),
        mask=mask,
    )


def _few_cells(grid: Grid) -> str:
    """A note on a grid of degrees whose cells are likely meant in metres, or an empty text."""
    if grid.cells > 4 or not is_lonlat(grid.crs) or max(grid.dx, grid.dy) < 5:
        return ""
    return (
        f"the grid: {grid.cells} cells of {grid.dx:g} x {grid.dy:g} degrees; in metres {grid.dx:g} is about "
        f"{grid.dx / 111_320:.6f} degrees (grid.resolution counts in units of grid.crs)"
    )


def _united(notes: Sequence[str]) -> list[str]:
    """Join notes that differ in their layers alone, such as those on one datum shift."""
    layers: dict[str, list[str]] = {}
    for note in notes:
        subject, _, text = note.partition(": ")
        names = layers.setdefault(text, [])
        names.extend(name for name in [subject.removeprefix("layer ")] if name not in names)
    united = []
    for text, names in layers.items():
        word = "" if names == ["grid.mask"] else "layer " if len(names) == 1 else "layers "
        united.append(f"{word}{', '.join(names)}: {text}")
    return united


def _check_layout(grid: Grid, plans: Sequence[LayerPlan], options: Options) -> None:
    """Refuse a layout of files that the formats or variables do not have."""
    layout, formats = options.layout, list(options.formats)
    keys = {
        "csv_files": ("csv", layout.csv_files if layout.csv_files != "tiles" else None),
        "partition_by": ("parquet", layout.partition_by),
        "geometry": ("parquet", layout.geometry),
        "encoding": ("parquet", layout.encoding if layout.encoding != "auto" else None),
    }
    for key, (form, value) in keys.items():
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
    variables = {v.name: (p, v) for p in plans for v in p.variables}
    classes = [n for n, (p, v) in variables.items() if p.kind is Kind.CATEGORICAL and np.dtype(v.dtype).kind in "iu"]
    hint = f"choose one of {', '.join([*classes, 'tile'])}"
    if name not in variables:
        raise SettingsError(f"export.partition_by = {name!r} is no variable of the table", hint)
    layer, variable = variables[name]
    if name not in classes and not layer.skipped:
        raise SettingsError(
            f"export.partition_by = {name!r} is {layer.kind.value} ({layer.kind_why}), of type {variable.dtype}; "
            "there would be a folder for each of its values, so it must have whole numbers for classes",
            f"{hint}, or give layer {layer.layer.name} kind = 'categorical'",
        )


SWEEPS = 1.5
"""Decode factor of a layer from which it is read along its stored blocks where it can be, not tile by tile."""

SHUFFLE_COST = 3.0
"""Cost of shuffling a byte, in bytes decoded (measured, see bench/)."""


def _choose_strategy(options: Options, plans: Sequence[LayerPlan], grid: Grid) -> tuple[str, str]:
    """The strategy and its reason: "groupby" for points, or where decoding blocks again costs more than a shuffle."""
    if options.whole:
        return "aligned", "the baseline reads whole rasters, in one process"
    tables = [p.layer.name for p in plans if p.table]
    if tables:
        why = f"the points of {', '.join(tables)} are read for all tiles at once, so that they must be shuffled"
        if options.strategy == "aligned":
            raise SettingsError(f'merge.strategy = "aligned" cannot be: {why}', 'use "auto" or "groupby"')
        return "groupby", why
    again = sum((p.decode_factor - 1) * _decoded_bytes(p, grid) for p in plans)
    shuffled = float(grid.cells * sum(np.dtype(v.dtype).itemsize + 1 for p in plans for v in p.variables))
    worst = max(plans, key=lambda p: p.decode_factor)
    why = "read tile by tile, each stored block is decoded once"
    if worst.decode_factor > 1.005:
        why = (
            f"read tile by tile, stored blocks are decoded up to {worst.decode_factor:.3g} times (layer "
            f"{worst.layer.name}), {again / MB:,.0f} MB more than once; a shuffle would move {shuffled / MB:,.0f} MB"
        )
    if options.strategy != "auto":
        return options.strategy, f"merge.strategy says so; {why}"
    return ("groupby" if again > SHUFFLE_COST * shuffled else "aligned"), why


def _decoded_bytes(plan: LayerPlan, grid: Grid) -> float:
    """Bytes of a layer's pixels under the grid, each decoded once."""
    sizes = [np.dtype(b.dtype).itemsize for d in plan.decisions[:1] for b in d.source.files[0].bands]
    return float(grid.cells * sum(sizes) * np.prod(plan.decisions[0].steps)) if plan.decisions else 0.0
