"""Coordinate reference systems (CRS): parse and compare them, and transform coordinates between them with PROJ."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.aoi import AreaOfInterest
from pyproj.exceptions import CRSError, ProjError
from pyproj.transformer import TransformerGroup

from geopipe import proposals
from geopipe.errors import SettingsError, first_line

Bounds = tuple[float, float, float, float]
"""xmin, ymin, xmax, ymax in CRS units."""

Floats = NDArray[np.float64]

Transform = Callable[[Floats, Floats], tuple[Floats, Floats]]
"""Maps arrays of x and y to another CRS. A point without an image becomes infinite."""

WGS84 = "EPSG:4326"

NO_DATUM = ("unknown", "unnamed", "not specified", "not_specified")
"""Datum names that writers use when they do not know the datum."""


@lru_cache(maxsize=256)
def crs_of(text: str) -> CRS:
    """Parse a CRS: an authority code, WKT, a PROJ string or PROJJSON.

    Raises:
        SettingsError: PROJ cannot read it.
    """
    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        alike = proposals.crs(text) if len(text) < 80 else ()
        reason = "" if alike or len(text) < 30 else f" ({first_line(error)[:120]})"
        hint = f"did you mean {' or '.join(alike)}?" if alike else "give an authority code such as EPSG:32612, or WKT"
        raise SettingsError(f"{text[:80]!r} is no CRS that PROJ knows{reason}", hint) from None


@lru_cache(maxsize=256)
def crs_label(text: str | None) -> str:
    """A CRS in a few words: its authority code, or its name."""
    if text is None:
        return "none"
    return text if len(text) < 20 else f"{crs_of(text).name} (custom)"


def horizontal(text: str) -> tuple[str, str]:
    """Split a CRS into its horizontal part and the name of its vertical part ("" if it has none)."""
    crs = crs_of(text)
    if crs.is_compound:
        plane, *rest = crs.sub_crs_list
        return _text_of(plane), ", ".join(part.name for part in rest)
    if len(crs.axis_info) == 3:
        return _text_of(crs.to_2d()), "ellipsoidal height"
    return text, ""


def _text_of(crs: CRS) -> str:
    authority = crs.to_authority(min_confidence=100)
    return ":".join(authority) if authority else crs.to_wkt()


@lru_cache(maxsize=256)
def same_crs(one: str, other: str) -> bool:
    """Whether two CRS are certainly the same. A doubtful pair is warped, which is right and only slower."""
    return one == other or crs_of(one).equals(crs_of(other), ignore_axis_order=True)


@lru_cache(maxsize=256)
def is_lonlat(text: str) -> bool:
    """Whether a CRS has longitude and latitude in degrees."""
    crs = crs_of(text)
    return crs.is_geographic and all(axis.unit_name == "degree" for axis in crs.axis_info[:2])


def radius(text: str) -> float | None:
    """Equatorial radius in metres of the body that a CRS belongs to."""
    ellipsoid = crs_of(text).ellipsoid
    return float(ellipsoid.semi_major_metre) if ellipsoid else None


@lru_cache(maxsize=256)
def ellipsoids_apart(one: str, other: str) -> float | None:
    """Metres by which the ellipsoids of two CRS of one datum (by code or name) differ. None if the datums differ."""
    first, second = crs_of(one), crs_of(other)
    if first.datum is None or second.datum is None or first.ellipsoid is None or second.ellipsoid is None:
        return None
    datums = (first.datum, second.datum)
    codes = [datum.to_json_dict().get("id") for datum in datums]
    names = [re.sub("[ _]", "", datum.name.lower()).removesuffix("ensemble") for datum in datums]
    unnamed = any(text in datum.name.lower() for datum in datums for text in NO_DATUM)
    if unnamed or not (names[0] == names[1] or (codes[0] is not None and codes[0] == codes[1])):
        return None
    axes = [(e.semi_major_metre, e.semi_minor_metre) for e in (first.ellipsoid, second.ellipsoid)]
    return float(max(abs(p - q) for p, q in zip(*axes, strict=True)))


@lru_cache(maxsize=256)
def crs_transform(source: str, target: str) -> Transform:
    """The transformation of x, y from one CRS to another, in x, y (lon, lat) order.

    Raises:
        SettingsError: PROJ has no transformation between the two.
    """
    if same_crs(source, target):
        return lambda x, y: (x, y)
    if through_wgs84(source, target):
        to_wgs84, from_wgs84 = crs_transform(source, WGS84), crs_transform(WGS84, target)
        return lambda x, y: from_wgs84(*to_wgs84(x, y))
    try:
        transformer = Transformer.from_crs(crs_of(source), crs_of(target), always_xy=True)
    except ProjError as error:
        raise SettingsError(
            f"PROJ knows no way from {crs_of(source).name} to {crs_of(target).name}: {error}", "choose another CRS"
        ) from None
    return lambda x, y: transformer.transform(x, y, errcheck=False)


class Operation(NamedTuple):
    """The transformation that PROJ uses between two CRS.

    Attributes:
        name: PROJ's name of it.
        accuracy: in metres, None if unknown.
        ballpark: PROJ knows no datum shift between the two and leaves it out.
        unnamed: one of the two CRS does not name its datum, so that no shift can be known.
        better: a better operation whose grid files are not installed.
    """

    name: str
    accuracy: float | None
    ballpark: bool
    unnamed: bool
    better: str = ""


@lru_cache(maxsize=256)
def operation(source: str, target: str, area: Bounds | None) -> Operation:
    """The best operation between two CRS within an area in longitude and latitude; `crs_transform` uses it."""
    if not through_wgs84(source, target):
        return _operation(source, target, area)
    parts = _operation(source, WGS84, area), _operation(WGS84, target, area)
    name, known = " + ".join(part.name for part in parts), [p.accuracy for p in parts if p.accuracy is not None]
    ballpark, better = any(part.ballpark for part in parts), _operation(source, target, area).better
    return Operation(name, sum(known) if len(known) == 2 else None, ballpark, False, better)


def _operation(source: str, target: str, area: Bounds | None) -> Operation:
    if same_crs(source, target):
        return Operation("the same CRS", 0.0, False, False)
    aoi = None
    if area is not None and all(map(math.isfinite, area)):
        west, south, east, north = area
        aoi = AreaOfInterest(max(west, -180), max(south, -90), min(east, 180), min(north, 90))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `better` has what PROJ warns of
        group = TransformerGroup(crs_of(source), crs_of(target), always_xy=True, area_of_interest=aoi)  # type: ignore[arg-type]
    if not group.transformers:
        return Operation("none", None, True, False)
    best = group.transformers[0]
    steps = [step for step in best.description.split(" + ") if not step.startswith("axis order change")]
    datums = [datum.name.lower() if (datum := crs_of(text).datum) else "unknown" for text in (source, target)]
    return Operation(
        name=" + ".join(steps) or "a change of axis order",
        accuracy=best.accuracy if best.accuracy is not None and best.accuracy >= 0 else None,
        ballpark="ballpark" in best.description.lower(),
        unnamed=any(text in name for name in datums for text in NO_DATUM),
        better="" if group.best_available or not group.unavailable_operations else group.unavailable_operations[0].name,
    )


@lru_cache(maxsize=256)
def through_wgs84(source: str, target: str) -> bool:
    """Whether PROJ leaves out the datum shift between two CRS but knows it by way of WGS 84.

    PROJ does not try WGS 84 if it knows a better operation whose grid files are not installed.
    """
    if same_crs(source, target) or ellipsoids_apart(source, target) is not None:
        return False
    if same_crs(source, WGS84) or same_crs(target, WGS84):
        return False
    direct = _operation(source, target, None)
    if not direct.ballpark or direct.unnamed:
        return False
    return not (_operation(source, WGS84, None).ballpark or _operation(WGS84, target, None).ballpark)
