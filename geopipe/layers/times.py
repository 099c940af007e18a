"""Times and levels of bands: what a file's header says of them, as text, and whether a text is one that was asked for.

GDAL makes a band of each step of a NetCDF, Zarr or GRIB variable and tells its place in tags. A time becomes an ISO
date or datetime; what no calendar explains stays the number that it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import NamedTuple

Tags = Mapping[str, str]

SINCE = re.compile(r"\s*(\w+)\s+since\s+(.+)", re.I)
REFERENCE = re.compile(
    r"(-?\d{1,4})-(\d{1,2})-(\d{1,2})(?:[T ]+(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.\d*)?)?)?"
    r"\s*(?:Z|UTC|GMT|([+-])(\d{1,2}):?(\d{2})?)?\s*",
    re.I,
)
ISO = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d)?)?")

SECONDS = {
    **dict.fromkeys(("nanosecond", "nanoseconds", "ns"), 1e-9),
    **dict.fromkeys(("microsecond", "microseconds", "us"), 1e-6),
    **dict.fromkeys(("millisecond", "milliseconds", "msec", "ms"), 1e-3),
    **dict.fromkeys(("second", "seconds", "sec", "secs", "s"), 1.0),
    **dict.fromkeys(("minute", "minutes", "min", "mins"), 60.0),
    **dict.fromkeys(("hour", "hours", "hr", "hrs", "h"), 3600.0),
    **dict.fromkeys(("day", "days", "d"), 86400.0),
}
"""Units of time that have one length in every calendar; months and years have none."""

MONTHS = {
    **dict.fromkeys(("noleap", "365_day"), (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)),
    **dict.fromkeys(("all_leap", "366_day"), (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)),
    "360_day": (30,) * 12,
}
"""Days of the months in calendars whose years are all alike."""

GREGORY = date(1582, 10, 15).toordinal()
"""The first day of the Gregorian calendar; CF's standard calendar is the Julian one before it."""


class Place(NamedTuple):
    """Where a band belongs: the variable of the file, its time, its level; empty text where the file says nothing."""

    variable: str = ""
    step: str = ""
    level: str = ""


class _Axis(NamedTuple):
    name: str
    value: str
    units: str
    calendar: str


def places(tags: Tags, bands: Sequence[Tags]) -> list[Place]:
    """The place of each band, from the tags of its dataset and its own."""
    if bands and all("GRIB_ELEMENT" in band for band in bands):
        return _grib(bands)
    axes = [_axes(tags, band) for band in bands]
    steps: dict[int, str] = {}
    timed = {a.name for found in axes for a in found if SINCE.fullmatch(a.units)}
    for name in sorted(timed):
        here = [(i, a) for i, found in enumerate(axes) for a in found if a.name == name]
        texts = dates([a.value for _, a in here], here[0][1].units, here[0][1].calendar)
        for (index, _), text in zip(here, texts, strict=True):
            steps[index] = f"{steps[index]} {text}" if index in steps else text
    return [
        Place(
            variable=band.get("NETCDF_VARNAME", ""),
            step=steps.get(index, ""),
            level=" ".join(_number(a.value) for a in axes[index] if a.name not in timed),
        )
        for index, band in enumerate(bands)
    ]


def _axes(tags: Tags, band: Tags) -> list[_Axis]:
    """The axes beyond x and y on which a band of a NetCDF or Zarr variable lies."""
    names = tags.get("NETCDF_DIM_EXTRA", "").strip("{}")
    if names:
        return [
            _Axis(n, band[f"NETCDF_DIM_{n}"], tags.get(f"{n}#units", ""), tags.get(f"{n}#calendar", ""))
            for n in names.split(",")
            if f"NETCDF_DIM_{n}" in band
        ]
    zarr = [key[4:-6] for key in band if key.startswith("DIM_") and key.endswith("_VALUE")]
    return [
        _Axis(n, band[f"DIM_{n}_VALUE"], band.get(f"DIM_{n}_UNIT", ""), tags.get(f"{n}#calendar", "")) for n in zarr
    ]


def _grib(bands: Sequence[Tags]) -> list[Place]:
    """Element, time and level of each GRIB message."""
    seconds = [re.match(r"-?\d+", band.get("GRIB_VALID_TIME", "")) for band in bands]
    times = dates([s[0] for s in seconds if s], "seconds since 1970-01-01", "") if all(seconds) else [""] * len(bands)
    return [
        Place(
            variable=band["GRIB_ELEMENT"] if band["GRIB_ELEMENT"] != "unknown" else "",
            step=time,
            level=band.get("GRIB_SHORT_NAME", ""),
        )
        for band, time in zip(bands, times, strict=True)
    ]


def dates(values: Sequence[str], units: str, calendar: str) -> list[str]:
    """Numbers in `units` ("days since 1950-01-01") as ISO text of one form: dates where all are at midnight.

    A calendar or unit that is not understood, or a date that its calendar does not have, leaves the numbers.
    """
    try:
        moments = _moments([float(v) for v in values], units, (calendar or "standard").lower())
    except ValueError:
        return [_number(v) for v in values]
    clock = [divmod(seconds, 60) for _, seconds in moments]
    if all(seconds == 0 for _, seconds in moments):
        return [day for day, _ in moments]
    exact = any(second for _, second in clock)
    return [
        f"{day}T{minute // 60:02d}:{minute % 60:02d}" + (f":{second:02d}" if exact else "")
        for (day, _), (minute, second) in zip(moments, clock, strict=True)
    ]


def _moments(values: Sequence[float], units: str, calendar: str) -> list[tuple[str, int]]:
    """Date and second of the day of each value.

    Raises:
        ValueError: they have none.
    """
    since = SINCE.fullmatch(units)
    reference = REFERENCE.fullmatch(since[2].strip()) if since else None
    if since is None or reference is None or since[1].lower() not in SECONDS:
        raise ValueError(units)
    year, month, day, hour, minute, second = (int(reference[i] or 0) for i in range(1, 7))
    zone = int(f"{reference[7]}1") * (int(reference[8]) * 60 + int(reference[9] or 0)) if reference[7] else 0
    start = hour * 3600 + (minute - zone) * 60 + second
    first = _ordinal(year, month, day, calendar)
    unit = SECONDS[since[1].lower()]
    found = [divmod(start + round(value * unit), 86400) for value in values]
    return [(_date(first + days, calendar), seconds) for days, seconds in found]


def _ordinal(year: int, month: int, day: int, calendar: str) -> int:
    """A date as a number of days, counted from where the calendar counts best."""
    if calendar in MONTHS:
        months = MONTHS[calendar]
        return year * sum(months) + sum(months[: month - 1]) + day - 1
    if calendar == "proleptic_gregorian":
        return date(year, month, day).toordinal()
    if calendar not in ("standard", "gregorian"):
        raise ValueError(calendar)
    if (year, month, day) >= (1582, 10, 15):
        return date(year, month, day).toordinal()
    # a Julian date: the day of its year in March-based months, as for the Julian day number
    early = (14 - month) // 12
    years, since_march = year + 4800 - early, month + 12 * early - 3
    return day + (153 * since_march + 2) // 5 + 365 * years + years // 4 - 32083 - 1721425


def _date(ordinal: int, calendar: str) -> str:
    if calendar in MONTHS:
        months = MONTHS[calendar]
        year, day = divmod(ordinal, sum(months))
        month = 0
        while day >= months[month]:
            day -= months[month]
            month += 1
        return f"{year:04d}-{month + 1:02d}-{day + 1:02d}"
    if calendar != "proleptic_gregorian" and ordinal < GREGORY:
        raise ValueError(ordinal)
    if not 1 <= ordinal <= date.max.toordinal():
        raise ValueError(ordinal)
    return date.fromordinal(ordinal).isoformat()


def _number(text: str) -> str:
    """A number without what only its printing added: 500, not 500.0."""
    try:
        value = float(text)
    except ValueError:
        return text.strip()
    return f"{value:.15g}"


# ---------------------------------------------------------------- what was asked for


def matches(text: str, wanted: str) -> bool:
    """Whether a time or level is one that was asked for.

    `wanted` is a time that may be cut short ("1999-03"), a number, a text, or two of them with a slash between: a
    range that includes both its ends; ".." leaves an end open.
    """
    low, slash, high = wanted.partition("/")
    if slash:
        return _above(text, low) and _above(text, high, -1)
    if ISO.match(text):
        full, asked = _full(text), _asked(wanted)
        rest = full[len(asked) :]
        return full.startswith(asked) and not rest[:1].isdigit()  # "1999-1" is no beginning of 1999-12
    one, other = _float(text), _float(wanted)
    return one == other if one is not None and other is not None else text.casefold() == wanted.strip().casefold()


def _above(text: str, end: str, sign: int = 1) -> bool:
    """Whether a time or number is not below the end of a range; with -1, not above it."""
    end = end.strip()
    if end in ("", ".."):
        return True
    if ISO.match(text):
        asked = _asked(end)
        cut = _full(text)[: len(asked)]
        return cut >= asked if sign > 0 else cut <= asked
    value, limit = _float(text), _float(end)
    return value is not None and limit is not None and sign * value >= sign * limit


def _full(text: str) -> str:
    """An ISO date or datetime with all its digits."""
    return text + "0000-01-01T00:00:00"[len(text) :]


def _asked(text: str) -> str:
    return text.strip().upper().replace(" ", "T").removesuffix("Z")


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def span(texts: Sequence[str]) -> str:
    """Several times or levels as one text: the first and the last."""
    known = [t for t in texts if t]
    return known[0] if len(set(known)) == 1 else f"{known[0]}/{known[-1]}" if known else ""


def word(text: str) -> str:
    """A time or level as part of a column's name: 19990315, 19990315t0600, 500, 2_htgl."""
    if ISO.fullmatch(text):
        return re.sub(r"[-:]", "", text).lower()
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
