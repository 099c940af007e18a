"""From settings to a plan: read headers, resolve the grid, skip what may be skipped.

Headers are enough, with two exceptions: `fractions = true` reads every pixel of its layer under the grid to find the
classes, and a table of cells has its x and y read once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version

import pyproj

from geopipe import __version__, machine, proposals
from geopipe.analysis.catalogue import columns_of
from geopipe.engine import address as addresses
from geopipe.errors import MachineError, SettingsError, SourceError
from geopipe.export import publish, state
from geopipe.grid.grid import Grid
from geopipe.grid.polygons import Shapes
from geopipe.layers.access import Access
from geopipe.layers.header import Header, Palette
from geopipe.layers.layer import Kind, Layer, check_files
from geopipe.layers.tables import TableHeader
from geopipe.load import inspect, points, raster, stac, tables, tiles, vectors
from geopipe.plan.estimate import Machine
from geopipe.plan.layers import MASK, LayerPlan
from geopipe.plan.plan import Inputs, Plan, make_plan
from geopipe.plan.target import GridRequest, resolve_grid
from geopipe.resample.methods import FRACTION, VALID
from geopipe.settings.model import Settings

log = logging.getLogger(__name__)

Headers = list[Header] | list[TableHeader]
"""The headers of the files of a layer."""

OBJECT_STORE = 640 * 2**20
"""Bytes of Ray's shared memory unless the settings name another size: once used, it stays in memory."""


def this_machine(settings: Settings) -> Machine:
    """The resources of this machine within the limits of the settings; by default four fifths of its free memory."""
    available = machine.available_memory()
    memory = settings.engine.memory or int(available * 0.8)
    cpus, cluster = machine.cpus(), addresses.existing(settings.engine.address)
    return Machine(
        cpus=cpus,
        workers=settings.engine.workers or cpus,
        memory=memory,
        object_store=settings.engine.object_store_memory or min(OBJECT_STORE, memory // 4),
        free_disk=publish.free_bytes(settings.run.folder),
        cluster=cluster,
        labels=tuple(settings.engine.label_selector.items()) if cluster else (),
        most_workers=(settings.engine.max_workers or 0) if cluster else 0,
    )


def versions() -> dict[str, str]:
    """Versions of everything that makes the bytes of the output."""
    libraries = {name: version(name) for name in ("numpy", "pyarrow", "pyproj", "ray")}
    return {"geopipe": __version__, **libraries, "proj": pyproj.proj_version_str, **raster.versions()}


def plan_for_cluster(settings: Settings) -> Plan:
    """Make the plan of the settings for the nodes of the cluster that exists, else for this machine.

    A plan can be made where the cluster cannot be reached; a note says so.

    Raises:
        GeopipeError: as `draft`.
    """
    engine = settings.engine
    if engine.kind == "local" or settings.resampling.old_way or not addresses.existing(engine.address):
        return draft(settings)
    from geopipe.engine.cluster import joined  # loads Ray

    with ExitStack() as stack:
        try:
            target = stack.enter_context(joined(engine.address, this_machine(settings), engine.workers))
        except MachineError as error:
            plan = draft(settings)
            note = f"{error.message}: workers, memory and object store of the plan are those of this machine"
            return replace(plan, notes=(*plan.notes, note))
        return draft(settings, target)


def draft(
    settings: Settings,
    target: Machine | None = None,
    skipped: Mapping[str, str] | None = None,
    engine: str | None = None,
) -> Plan:
    """Make the plan of the settings. Reads headers (and what the module names), writes nothing.

    Args:
        settings: of the run.
        target: the resources to run on; None for this machine.
        skipped: reason by name of layers to skip.
        engine: that is at work already; None for that of the settings.

    Raises:
        SettingsError: the settings fit no such sources.
        SourceError: a source cannot be read, and its layer may not be skipped.
        PlanError: the plan cannot be executed on these resources.
    """
    reasons = dict(skipped or {})
    layers: list[tuple[Layer, Headers]] = []
    for layer in settings.layer_values():
        try:
            layers.append((layer, tables.headers(layer) or _headers(layer)))
        except SourceError as error:
            if layer.on_error != "skip":
                raise
            reasons.setdefault(layer.name, error.message)
            layers.append((layer, []))
    section = settings.grid
    access = Access(section.allow, setting="grid.{key} = {value}")
    like = raster.inspect(section.like, access) if section.like else None
    # the header of a table has no extent, so tables have no part in a union of extents
    rasters = {layer.name: [h for h in headers if isinstance(h, Header)] for layer, headers in layers}
    sound = {name: headers for name, headers in rasters.items() if headers and name not in reasons}
    request = GridRequest(section.crs, section.resolution, section.bounds, like, section.snap)
    grid = resolve_grid(request, sound, {layer.name: layer.crs for layer, _ in layers})
    target, mask = target or this_machine(settings), _mask(settings)
    written = partial(state.written_bytes, settings.run.folder)
    layers = [(layer, _measured(settings, layer, headers, grid, reasons)) for layer, headers in layers]
    searched: list[str] = []
    while True:
        try:
            inputs = Inputs(settings.run.name, grid, layers, versions(), reasons, mask)
            options = replace(settings.options(), engine=engine or settings.engine.kind)
            plan = make_plan(inputs, options, target, written)
            classes = {p.layer.name: values for p in plan.layers if (values := _classes(plan, p)) is not None}
            if not classes:
                columns_of(
                    settings.analysis.columns, [v.name for v in plan.spec.variables], "analysis.columns: the table"
                )
                notes = (*plan.notes, *map(_searched_note, searched))
                return replace(plan, notes=notes, palettes=_palettes(plan))
            layers = [(replace(y, fractions=classes.get(y.name, y.fractions)), headers) for y, headers in layers]
            searched += classes
        except SourceError as error:
            reasons |= skippable(settings, error, reasons)


def _mask(settings: Settings) -> Shapes | tuple[Layer, Header] | None:
    """The polygons of grid.mask, or its raster as a layer: a raster is what GDAL opens as one."""
    section = settings.grid
    if section.mask is None:
        return None
    layer = Layer(
        MASK, (section.mask,), kind=Kind.CATEGORICAL, resampling=("nearest",), crs=section.mask_crs, allow=section.allow
    )
    if vectors.missing(section.mask):
        raise SourceError(f"grid.mask: there is no file {section.mask}", proposals.path(section.mask, "grid.mask"))
    header = None
    if section.mask_layer is None:
        with suppress(SourceError):  # the error of GDAL's vector side says more
            header = raster.inspect(section.mask, layer.access)
    if header is not None and header.bands:
        if header.crs is None and section.mask_crs is None:
            raise SourceError(f"grid.mask = {section.mask} has no CRS", 'say which it is: grid.mask_crs = "EPSG:..."')
        check_files(layer, [header])
        return layer, header
    return vectors.read(section.mask, section.mask_layer, section.mask_crs)


def _searched_note(layer: str) -> str:
    return (
        f"layer {layer}: the plan reads every pixel of it under the grid to find its classes (fractions = true); "
        "fractions = [...] names them and spares that"
    )


def _classes(plan: Plan, layer: LayerPlan) -> tuple[float, ...] | None:
    """The classes of a layer with `fractions = true`: reads every pixel of it under the grid. None for others."""
    if layer.layer.fractions is not True or layer.skipped:
        return None
    if layer.kind is not Kind.CATEGORICAL:
        raise SettingsError(
            f"layer {layer.layer.name}: fractions = true makes no sense for kind = {layer.kind.value!r}",
            'give it kind = "categorical", or leave fractions out',
        )
    return tiles.classes(plan, layer)


def _palettes(plan: Plan) -> dict[str, Palette]:
    """The palettes of the variables whose values are classes of a file with a colour table: of the first file."""
    palettes: dict[str, Palette] = {}
    for layer in plan.rasters:
        if layer.kind is not Kind.CATEGORICAL or layer.skipped or not layer.decisions:
            continue
        header = layer.decisions[0].source.files[0].header
        with suppress(SourceError):  # it was opened a moment ago, and the run will say what is wrong
            own = dict(
                zip((band.index for band in header.bands), inspect.palettes(header, layer.layer.access), strict=True)
            )
            statistics = [v for v in layer.variables if v.requested_method not in (FRACTION, VALID) and not v.band.bits]
            palettes |= {v.name: own[v.band.index] for v in statistics if own[v.band.index]}
    return palettes


def _files(layer: Layer) -> list[str]:
    """The files that the paths of a layer mean, or that the STAC items in these point to."""
    files = [file for path in layer.paths for file in raster.expand(path)]
    if not files:
        raise layer.error(f"no file matches {', '.join(layer.paths)}", proposals.path(layer.paths[0]))
    contents = [stac.read(file, layer.access) for file in files]
    if all(contents):
        return stac.files([item for items in contents for item in items], layer.asset, layer.sort_by, layer.access)
    if any(contents) or layer.asset or layer.sort_by:
        raise layer.error(
            f"{files[[bool(items) for items in contents].index(False)]} holds no STAC items",
            "give STAC files only; or leave asset and sort_by out and give rasters only",
        )
    return files


def _headers(layer: Layer) -> list[Header]:
    files = _files(layer)
    headers = [raster.inspect(file, layer.access, layer.variable) for file in files]
    if layer.georeference is not None:
        headers = [raster.georeferenced(header, layer.georeference, layer.access) for header in headers]
    check_files(layer, headers)
    return headers


def _measured(settings: Settings, layer: Layer, headers: Headers, grid: Grid, reasons: dict[str, str]) -> Headers:
    """The headers of a layer, with the offsets of tables of cells; adds to `reasons` a layer that is to be skipped."""
    own = [h for h in headers if isinstance(h, TableHeader)]
    if not own or layer.name in reasons:
        return headers
    try:
        return points.measure_offsets(layer, own, grid)
    except SourceError as error:
        reasons |= skippable(settings, error, reasons)
        return headers


def skippable(settings: Settings, error: SourceError, reasons: Mapping[str, str]) -> dict[str, str]:
    """The name and reason of the layer to skip for `error`; raises the error again if no layer may be skipped."""
    for layer in settings.layers:
        if layer.name == error.layer and layer.on_error == "skip" and layer.name not in reasons:
            log.warning("layer %s is skipped: %s", layer.name, error.message)
            return {layer.name: error.message}
    raise error
