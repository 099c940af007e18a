"""Times and levels of bands: parse them from the tags of a file as text, and select bands by them.

GDAL makes a band of each step of a NetCDF, Zarr or GRIB variable and has its coordinates in tags. A time becomes an ISO
date or datetime; it stays a number if its calendar or unit is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

import cftime

Tags = Mapping[str, str]

SINCE = re.compile(r"\s*(\w+)\s+since\s+(.+)", re.I)
REFERENCE = re.compile(
    r"(-?\d{1,4}-\d{1,2}-\d{1,2}(?:[T ]+\d{1,2}:\d{1,2}(?::\d{1,2}(?:\.\d*)?)?)?)"
    r"\s*(?:Z|UTC|GMT|([+-])(\d{1,2}):?(\d{2})?)?",
    re.I,
)
"""The reference date of a unit of time. cftime would ignore what it does not understand in it."""

ISO = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d)?)?")

FIRST = {"proleptic_gregorian": (1, 1, 1), "standard": (1582, 10, 15), "gregorian": (1582, 10, 15)}
"""First day that becomes a date. CF's standard calendar is the Julian one before 15 October 1582."""


class Place(NamedTuple):
    """Variable, time and level of a band; each is "" if the file does not have it."""

    variable: str = ""
    step: str = ""
    level: str = ""


class _Axis(NamedTuple):
    name: str
    value: str
    units: str
    calendar: str


def places(tags: Tags, bands: Sequence[Tags]) -> list[Place]:
    """The place of each band, from the tags of the dataset and of the bands."""
    if bands and all("GRIB_ELEMENT" in band for band in bands):
        return _grib(bands)
    axes = [_axes(tags, band) for band in bands]
    steps = [""] * len(bands)
    timed = {axis.name for own in axes for axis in own if SINCE.fullmatch(axis.units)}
    for name in sorted(timed):
        steps_of = [(i, axis) for i, own in enumerate(axes) for axis in own if axis.name == name]
        texts = dates([a.value for _, a in steps_of], steps_of[0][1].units, steps_of[0][1].calendar)
        for (index, _), text in zip(steps_of, texts, strict=True):
            steps[index] = f"{steps[index]} {text}".lstrip()
    levels = [" ".join(_number(a.value) for a in own if a.name not in timed) for own in axes]
    return list(map(Place, [band.get("NETCDF_VARNAME", "") for band in bands], steps, levels))


def _axes(tags: Tags, band: Tags) -> list[_Axis]:
    """The axes of a band of a NetCDF or Zarr variable, beside x and y."""
    names = tags.get("NETCDF_DIM_EXTRA", "").strip("{}")
    if names:
        return [
            _Axis(n, band[f"NETCDF_DIM_{n}"], tags.get(f"{n}#units", ""), tags.get(f"{n}#calendar", ""))
            for n in names.split(",")
            if f"NETCDF_DIM_{n}" in band
        ]
    own = [key[4:-6] for key in band if key.startswith("DIM_") and key.endswith("_VALUE")]
    return [_Axis(n, band[f"DIM_{n}_VALUE"], band.get(f"DIM_{n}_UNIT", ""), tags.get(f"{n}#calendar", "")) for n in own]


def _grib(bands: Sequence[Tags]) -> list[Place]:
    """Element, time and level of each GRIB message."""
    seconds = [re.match(r"-?\d+", band.get("GRIB_VALID_TIME", "")) for band in bands]
    times = dates([s[0] for s in seconds if s], "seconds since 1970-01-01", "") if all(seconds) else [""] * len(bands)
    names = ["" if (name := band["GRIB_ELEMENT"]) == "unknown" else name for band in bands]
    return list(map(Place, names, times, [band.get("GRIB_SHORT_NAME", "") for band in bands]))


def dates(values: Sequence[str], units: str, calendar: str) -> list[str]:
    """Numbers in `units` ("days since 1950-01-01") as ISO texts of one form: dates if all are at midnight.

    They stay numbers if the calendar or unit is unknown, or a date does not exist in the calendar.
    """
    try:
        moments = _moments([float(v) for v in values], units, (calendar or "standard").lower())
    except (ValueError, OverflowError):
        return [_number(v) for v in values]
    seconds = any(m.second for m in moments)
    clock = "T%H:%M:%S" if seconds else "T%H:%M" if any(m.hour or m.minute for m in moments) else ""
    return [f"{m.year:04d}-{m.month:02d}-{m.day:02d}{m.strftime(clock) if clock else ''}" for m in moments]


def _moments(values: Sequence[float], units: str, calendar: str) -> list[cftime.datetime]:
    """The moment of each value, to a second.

    Raises:
        ValueError: the calendar or unit is unknown, or a date does not exist in the calendar.
    """
    since = SINCE.fullmatch(units)
    reference = REFERENCE.fullmatch(since[2].strip()) if since else None
    if since is None or reference is None:
        raise ValueError(units)
    unit = since[1].lower()
    zone = f"{reference[2]}{int(reference[3]):02d}:{reference[4] or '00'}" if reference[2] else ""
    if unit in ("ns", "nanosecond", "nanoseconds"):  # cftime has no such unit
        unit, values = "seconds", [value / 1e9 for value in values]
    exact = cftime.num2date(values, f"{unit} since {reference[1]}{zone}", calendar, only_use_cftime_datetimes=True)
    rounded = [moment + timedelta(milliseconds=500) for moment in exact]
    if not all(FIRST.get(calendar, (0, 1, 1)) <= (m.year, m.month, m.day) < (10000,) for m in rounded):
        raise ValueError(units)
    return rounded


def _number(text: str) -> str:
    """A number in its shortest form: 500, not 500.0."""
    value = _float(text)
    return text.strip() if value is None else f"{value:.15g}"


# ---------------------------------------------------------------- selection


def matches(text: str, selection: str) -> bool:
    """Whether a time or level matches a selection of the settings.

    `selection` is a time or its beginning ("1999-03"), a number, a text, or two of them with a slash between: a range
    with both its ends, of which ".." leaves one open.
    """
    low, slash, high = selection.partition("/")
    if slash:
        return _above(text, low) and _above(text, high, -1)
    if ISO.match(text):
        full, prefix = _full(text), _normalized(selection)
        rest = full[len(prefix) :]
        return full.startswith(prefix) and not rest[:1].isdigit()  # "1999-1" is no beginning of 1999-12
    one, other = _float(text), _float(selection)
    return one == other if one is not None and other is not None else text.casefold() == selection.strip().casefold()


def _above(text: str, end: str, sign: int = 1) -> bool:
    """Whether a time or number is not below the end of a range; with -1, not above it."""
    end = end.strip()
    if end in ("", ".."):
        return True
    if ISO.match(text):
        limit_text = _normalized(end)
        cut = _full(text)[: len(limit_text)]
        return cut >= limit_text if sign > 0 else cut <= limit_text
    value, limit = _float(text), _float(end)
    return value is not None and limit is not None and sign * value >= sign * limit


def _full(text: str) -> str:
    """An ISO date or datetime with all its digits."""
    return text + "0000-01-01T00:00:00"[len(text) :]


def _normalized(text: str) -> str:
    return text.strip().upper().replace(" ", "T").removesuffix("Z")


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def span(texts: Sequence[str]) -> str:
    """Several times or levels as one text: first/last."""
    known = [t for t in texts if t]
    return known[0] if len(set(known)) == 1 else f"{known[0]}/{known[-1]}" if known else ""


def column_label(text: str) -> str:
    """A time or level in a column's name: 19990315, 19990315t0600, 500, 2_htgl."""
    if ISO.fullmatch(text):
        return re.sub(r"[-:]", "", text).lower()
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
