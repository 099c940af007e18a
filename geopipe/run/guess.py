"""Guesses about files for `geopipe init`: names, kinds, mosaics, the grid. Every guess has its reason."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geopipe.errors import SettingsError, SourceError
from geopipe.grid.crs import Bounds, crs_of
from geopipe.grid.grid import intersection, projected_bounds, union
from geopipe.layers.header import Header
from geopipe.merge.spec import RESERVED

CLASSES = re.compile(r"class|land_?(cover|use)|lulc|nlcd|corine|worldcover|biome|lithology|soil_?type|zones?$|categor")
ANGLES = re.compile(r"aspect|direction|azimuth|bearing|heading")
COUNTS = re.compile(r"population|people|inhabitants|households|counts?$")
DEGREES = ("", "degree", "degrees", "deg", "°", "degree_true", "degrees_true")
TILE = re.compile(r"[ns]\d+[_-]?[ew]\d+|(?<![a-z])(north|south|east|west|ne|nw|se|sw|tile)(?![a-z])|\d+")
"""Parts of file names that tell the tiles of a mosaic apart."""

WEB = "EPSG:3857"
"""Web Mercator. Its cells differ in size between latitudes, so a grid has it only if all layers have it."""

MOST_CELLS = 20_000_000
"""Cells of a proposed grid at most."""


@dataclass
class Proposal:
    """A layer for the settings: its values, a comment for each guess, and the headers of its rasters."""

    values: dict[str, Any]
    comments: dict[str, str] = field(default_factory=dict)
    headers: list[Header] = field(default_factory=list)
    bounds: tuple[str, Bounds] | None = None
    """CRS and bounds of the points of a table."""


def name_of(text: str, taken: set[str]) -> str:
    """A column name from a file name: letters, digits and _, and not one of `taken`."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_").lower()[:50] or "layer"
    name = name if name[0].isalpha() else f"layer_{name}"
    name = f"{name}_value" if name in RESERVED else name
    number, first = 2, name
    while name in taken:
        name, number = f"{first}_{number}", number + 1
    taken.add(name)
    return name


def kind_of(name: str, header: Header) -> tuple[str, str]:
    """The kind of a raster and the reason for it."""
    whole = all(np.dtype(b.dtype).kind in "iu" for b in header.bands)
    units = {b.unit.lower() for b in header.bands}
    words = "_".join([name, *(f"{b.variable}_{b.description}".lower() for b in header.bands)])
    if all(b.paletted for b in header.bands):
        return "categorical", "guess: the file has a colour table"
    if whole and all(b.categories for b in header.bands):
        return "categorical", "guess: the file names its classes"
    if whole and CLASSES.search(words):
        return "categorical", "guess: whole numbers, and the name sounds like classes"
    if ANGLES.search(words) and units <= set(DEGREES):
        return "circular", "guess from the name: angles in degrees"
    if COUNTS.search(words) and not any("/" in u or "-2" in u for u in units):
        return "count", "guess from the name: a number per pixel, which is shared out among cells"
    if whole and len(header.bands) == 1 and header.bands[0].scale == 1 and "8" in header.bands[0].dtype:
        return "continuous", 'guess; small whole numbers may be classes: then "categorical"'
    return "continuous", "guess: measured numbers"


def signature(header: Header) -> tuple[Any, ...]:
    """What the tiles of a mosaic have in common; "" in place of their numbers and compass words."""
    types = tuple((b.dtype, b.nodata, b.scale) for b in header.bands)
    size = tuple(round(r, 9) for r in header.resolution)
    stem = TILE.sub("", Path(header.uri).stem.lower())
    return (Path(header.uri).parent, stem, header.crs, size, types, header.variables)


def mosaics(headers: Sequence[Header]) -> list[list[Header]]:
    """Headers in groups of files that lie side by side: same name but for numbers, same pixels, other bounds."""
    groups: dict[tuple[Any, ...], list[Header]] = {}
    for header in headers:
        groups.setdefault(signature(header), []).append(header)
    result: list[list[Header]] = []
    for group in groups.values():
        apart = len({h.bounds for h in group}) == len(group)
        result += [group] if apart else [[header] for header in group]
    return result


# ---------------------------------------------------------------- the grid


def crs_guess(places: Sequence[tuple[str, Bounds]], lonlat: Bounds | None) -> tuple[str, str]:
    """CRS of the grid and the reason.

    Args:
        places: CRS and bounds of each layer.
        lonlat: bounds that all layers share, else of all together, in degrees.
    """
    names = [crs for crs, _ in places]
    projected = [crs for crs in names if crs_of(crs).is_projected and crs != WEB]
    common = max(dict.fromkeys(projected or names), key=(projected or names).count)
    if len(set(names)) == 1:
        return common, "the CRS of all layers"
    if projected and crs_of(common).axis_info[0].unit_name == "metre":
        return common, "the projected CRS that most layers have"
    if lonlat and lonlat[2] - lonlat[0] <= 9 and lonlat[1] > -80 and lonlat[3] < 84:
        zone = math.floor((lonlat[0] + lonlat[2]) / 2 / 6 + 30) % 60 + 1
        code = f"EPSG:{32600 + zone if lonlat[1] + lonlat[3] >= 0 else 32700 + zone}"
        return code, "the UTM zone in the middle of the layers"
    return common, "the CRS that most layers have; there is no UTM zone for an extent as wide"


def reach(crs: str, bounds: Bounds, target: str) -> Bounds | None:
    """Bounds in another CRS; None if there is no way to it."""
    from affine import Affine

    corner = Affine((bounds[2] - bounds[0]) / 64, 0, bounds[0], 0, -(bounds[3] - bounds[1]) / 64, bounds[3])
    try:
        return projected_bounds(corner, 64, 64, crs, target)
    except SettingsError:  # of another planet
        return None


def grid_guess(proposals: Sequence[Proposal], crs: str, coarser: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Values of the section grid, with comments. A key after "# " is an alternative.

    Args:
        coarser: how often to double the resolution, so that a plan fits this machine.
    """
    extents, sizes = [], []
    for proposal in proposals:
        parts = [(str(h.crs), h.bounds) for h in proposal.headers] or ([proposal.bounds] if proposal.bounds else [])
        known = [b for part in parts if (b := reach(*part, crs)) is not None]
        if known:
            extents.append(union(known))
        for header in proposal.headers:
            if (own := reach(str(header.crs), header.bounds, crs)) is not None:
                exact = header.crs == crs
                edge = math.sqrt((own[2] - own[0]) * (own[3] - own[1]) / (header.width * header.height))
                sizes.append(min(header.resolution) if exact else _rounded(edge))
    box, everything = intersection(extents), union(extents)
    area = box or everything
    if not (area[0] < area[2] and area[1] < area[3]):
        raise SourceError(
            "the points lie on one line or in one place, and cover no area",
            "write [grid] and [[layers]] by hand",
        )
    resolution = min(sizes, default=_rounded(math.dist(area[:2], area[2:]) / 500))
    doubled, why = 0, "the finest pixels of the layers" if sizes else "a 500th of the extent of the points"
    while doubled < coarser or (area[2] - area[0]) * (area[3] - area[1]) / resolution**2 > MOST_CELLS:
        resolution, doubled = resolution * 2, doubled + 1
    if doubled:
        resolution = _rounded(resolution)
        why = f"coarser than the finest pixels ({min(sizes, default=0):.6g}), which would make a very large table"
    values = {"crs": crs, "resolution": _plain(resolution), "bounds": _outward(area, resolution)}
    comments = {
        "resolution": f"guess: {why}, in units of the CRS",
        "bounds": "guess: the area that all layers share" if box else "all layers together; they share no area",
    }
    if box:
        values["# bounds"], comments["# bounds"] = _outward(everything, resolution), "all that any layer covers"
    return values, comments


def _rounded(value: float) -> float:
    """A number with two digits."""
    return _plain(float(f"{value:.2g}"))


def _plain(value: float) -> float:
    """A number with at most 12 digits; a whole number as int, which has no ".0"."""
    short = float(f"{value:.12g}")
    return int(short) if short.is_integer() else short


def _outward(bounds: Bounds, step: float) -> list[float]:
    """Bounds moved outward to multiples of a step."""
    low = [math.floor(v / step + 1e-6) * step for v in bounds[:2]]
    return [_plain(v) for v in (*low, *(math.ceil(v / step - 1e-6) * step for v in bounds[2:]))]
