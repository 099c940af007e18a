"""Propose settings for files: read their headers, guess, and keep what a plan accepts."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine

from geopipe.errors import GeopipeError, PlanError, SourceError
from geopipe.grid.crs import Bounds
from geopipe.grid.grid import intersection, union
from geopipe.layers.header import Header
from geopipe.layers.layer import Layer
from geopipe.layers.tables import TableHeader, choose_columns, is_table
from geopipe.layers.uris import absolute
from geopipe.load import raster, stac, tables
from geopipe.run.draft import draft
from geopipe.run.guess import TILE, Proposal, crs_guess, grid_guess, kind_of, mosaics, name_of, reach
from geopipe.settings.model import Settings
from geopipe.settings.reference import short_section
from geopipe.text import clean, numbers

MOST_STEPS = 24
"""Steps of a variable that become a column each; more are reduced to their mean."""

INIT = Layer("init", ())
"""Stands for the proposed layers in errors."""

VECTORS = (".gpkg", ".shp", ".geojson", ".fgb", ".kml")


@dataclass
class Findings:
    """What was noticed about files: `unused` has reasons by file, `degrees` the files whose CRS is a guess."""

    unused: dict[str, str] = field(default_factory=dict)
    degrees: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)


def propose(files: Sequence[str], folder: Path, name: str) -> tuple[str, int, dict[str, str]]:
    """Settings for files as commented TOML that a plan accepts.

    Args:
        files: paths or URIs of rasters and tables.
        folder: of the settings file; paths below it become relative.
        name: of the run.

    Returns:
        The text, the number of layers, and the reasons for files that are not used.

    Raises:
        SourceError: no file can be used.
    """
    findings = Findings()
    proposals = _rasters([f for f in files if not is_table(f)], findings)
    proposals += _tables([f for f in files if is_table(f)], findings)
    for proposal in proposals:
        paths = [_relative(path, folder) for path in proposal.values["path"]]
        proposal.values["path"] = paths if len(paths) > 1 else paths[0]
    grid, comments = _accepted(proposals, folder, name, findings)
    head = [
        "# Settings of a geopipe run, proposed by `geopipe init`. Check every line: comments tell each guess.",
        "# kind decides how cells get their values: continuous, categorical, count or circular (degrees).",
    ]
    head += [f"# not used: {clean(file)}: {clean(reason)}" for file, reason in findings.unused.items()]
    parts = [
        head,
        short_section("run", {"name": name, "output": "output"}, {"output": "folder of the table"}),
        short_section("grid", grid, comments),
        *(short_section("layers", p.values, p.comments) for p in proposals),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n", len(proposals), findings.unused


def _relative(path: str, folder: Path) -> str:
    full = os.path.abspath(path)
    if not os.path.exists(path):
        return path
    return os.path.relpath(full, folder) if full.startswith(f"{folder}{os.sep}") else full


def _accepted(
    proposals: list[Proposal], folder: Path, name: str, findings: Findings
) -> tuple[dict[str, Any], dict[str, str]]:
    """A grid with which a plan accepts the layers; layers that no plan accepts are taken out of `proposals`."""
    coarser = 0
    if not proposals:
        reasons = [f"{clean(file)}: {clean(reason)}" for file, reason in findings.unused.items()]
        raise SourceError("\n".join(["no file can be used", *reasons[:5]]), "geopipe inspect shows what a file has")
    refusal: GeopipeError = SourceError("no file can be used", "geopipe inspect PATH shows what a file has")
    while proposals and coarser < 20:
        places = [(str(h.crs), h.bounds) for p in proposals for h in p.headers[:1]]
        places += [p.bounds for p in proposals if p.bounds]
        degrees = [b for crs, bounds in places if (b := reach(crs, bounds, "OGC:CRS84")) is not None]
        crs, why = crs_guess(places, (intersection(degrees) or union(degrees)) if degrees else None)
        grid, comments = grid_guess(proposals, crs, coarser)
        layers = [p.values | {"path": [absolute(x, folder) for x in _listed(p.values["path"])]} for p in proposals]
        run = {"name": name, "output": str(folder / "output")}
        try:
            active = {key: value for key, value in grid.items() if not key.startswith("#")}
            draft(Settings.model_validate({"run": run, "grid": active, "layers": layers}))
            return grid, {"crs": f"guess: {why}", **comments}
        except PlanError as error:
            coarser, refusal = coarser + 1, error  # it does not fit this machine
        except GeopipeError as error:
            named = error.layer or (match[1] if (match := re.match(r"layer (\w+)", error.message)) else "")
            wrong = next((p for p in proposals if p.values["name"] == named), proposals[-1])
            proposals.remove(wrong)
            for path in _listed(wrong.values["path"]):
                findings.unused[path] = error.message
            refusal = SourceError(error.message, error.hint)
    raise refusal


def _listed(paths: Any) -> list[str]:
    return paths if isinstance(paths, list) else [paths]


# ---------------------------------------------------------------- rasters


def _rasters(files: Sequence[str], findings: Findings) -> list[Proposal]:
    """A layer for each raster or mosaic, and for each variable of files that have several."""
    headers: list[Header] = []
    variables: dict[str, list[Header]] = {}
    for file in files:
        try:
            if stac.read(file, INIT.access):
                findings.unused[file] = "STAC items; add a layer with path and asset by hand"
                continue
            header = raster.inspect(file)
            if header.subdatasets and not header.bands:
                variables[file] = _variables(header, findings)
            else:
                headers += _placed(header, findings)
        except SourceError as error:
            vector = file.lower().endswith(VECTORS)
            findings.unused[file] = f'vectors; as a mask: mask = "{file}" in [grid]' if vector else error.message
    result = [_layer(name_of(_stem(group), findings.names), group) for group in mosaics(headers)]
    for file, own in variables.items():
        for header in own:
            name = header.bands[0].variable
            result.append(_layer(name_of(name, findings.names), [header], variable=name, path=file))
    for proposal in result:
        if proposal.headers[0].uri in findings.degrees:
            proposal.values["crs"] = "EPSG:4326"
            proposal.comments["crs"] = "guess: the file has no CRS, and its bounds look like degrees"
    return result


def _variables(header: Header, findings: Findings) -> list[Header]:
    """The headers of the variables of a file that can be layers."""
    result = []
    for name in header.variables:
        try:
            own = raster.inspect(header.uri, variable=name)
        except SourceError as error:
            findings.unused[f"{header.uri}, variable {name}"] = error.message
            continue
        bands = tuple(replace(band, variable=name) for band in own.bands)
        result += _placed(replace(own, bands=bands), findings)
    return result


def _placed(header: Header, findings: Findings) -> list[Header]:
    """The header with a CRS and a place, guessed from degrees or read from control points; else nothing."""
    uri, bounds = header.uri, header.bounds
    if not header.bands:
        findings.unused[uri] = "it has no bands"
    elif header.has_gcps or (header.has_rpcs and header.crs is None):
        try:
            return [raster.georeferenced(header, "gcps" if header.has_gcps else "rpcs", INIT.access)]
        except SourceError as error:
            findings.unused[uri] = error.message
    elif header.crs is not None:
        return [header]
    elif _degrees(header):
        findings.degrees.add(uri)
        return [replace(header, crs="EPSG:4326")]
    else:
        findings.unused[uri] = f"it has no CRS; add a layer with crs =. Its bounds: {numbers(bounds, 6)}"
    return []


def _degrees(header: Header) -> bool:
    """Whether bounds look like degrees, and are not mere numbers of pixels."""
    xmin, ymin, xmax, ymax = header.bounds
    inside = -180.5 <= xmin < xmax <= 540 and -90 <= ymin < ymax <= 90
    return inside and max(header.resolution) < 30 and header.transform != Affine.identity()


def _stem(group: Sequence[Header]) -> str:
    """The name of a file, or the beginning that the names of several have in common."""
    stem = Path(group[0].uri.partition("?")[0]).stem
    return TILE.sub("", stem.lower()) if len(group) > 1 else stem


def _layer(name: str, group: list[Header], variable: str = "", path: str = "") -> Proposal:
    """A layer of one or more files, with comments on what was guessed."""
    first = group[0]
    kind, why = kind_of(name, first)
    values: dict[str, Any] = {"name": name, "path": [path or h.uri for h in group]}
    comments = {"path": f"guess: {len(group)} files side by side are one mosaic"} if len(group) > 1 else {}
    if variable:
        values["variable"] = variable
    if first.georeference is not None:
        values["georeference"] = "gcps" if first.georeference.points else "rpcs"
    values["kind"], comments["kind"] = kind, why
    steps = [b.step for b in first.bands if b.step]
    if len(first.bands) > MOST_STEPS and len(set(steps)) > 1 and kind == "continuous":
        values["reduce"] = "mean"
        comments["reduce"] = f"guess: the mean of {len(steps)} steps, {steps[0]} to {steps[-1]}; or choose by time ="
    elif len(first.bands) > 1:
        comments[""] = f"{len(first.bands)} bands make a column each; bands = or time = chooses some"
    return Proposal(values, comments, group)


# ---------------------------------------------------------------- tables


def _tables(files: Sequence[str], findings: Findings) -> list[Proposal]:
    """A layer for each table of points with coordinates and numbers."""
    result = []
    for file in files:
        try:
            header = tables.header(file)
            columns = choose_columns(Layer("init", (file,), aggregate="count"), header)
            geographic = columns.x.lower().startswith("lon")
            crs = header.crs or ("EPSG:4326" if geographic else None)
            if crs is None:
                findings.unused[file] = "it does not tell its CRS: add a layer with crs ="
                continue
            rest = [c.name for c in header.columns if c.dtype and c.name not in (columns.x, columns.y)]
            name = name_of(Path(file).name.partition(".")[0], findings.names)
            values: dict[str, Any] = {"name": name, "path": [file]}
            comments = {"x": "guess from the names of the columns"}
            values |= {"x": columns.x, "y": columns.y} | ({"values": rest} if rest else {"aggregate": "count"})
            if header.crs is None:
                values["crs"], comments["crs"] = crs, "guess: the columns are named like degrees"
            points = _extent(header, columns.x, columns.y)
            result.append(Proposal(values, comments, bounds=(crs, points)))
        except GeopipeError as error:
            findings.unused[file] = error.message.removeprefix("layer init: ")
    return result


def _extent(header: TableHeader, x: str, y: str) -> Bounds:
    """Bounds of the points of a table, from all its rows."""
    ends: list[tuple[float, float, float, float]] = []
    for part in header.parts:
        for batch in tables.read_batches(INIT, header, part, {x: "float64", y: "float64"}):
            xs, ys = (np.ma.masked_invalid(batch[name]).compressed() for name in (x, y))
            if len(xs) and len(ys):
                ends.append((float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())))
    if not ends:
        raise SourceError(f"{header.uri} has no row with coordinates", "")
    return union(ends)
