"""What somebody may have meant: near misses of words, of paths and of coordinate reference systems."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache


def near(word: str, known: Iterable[str], others: Mapping[str, str] | None = None) -> str | None:
    """The known word that `word` comes closest to; `others` has words of other programs, each with the known one."""
    known = list(known)
    folded = word.strip().casefold().replace("-", "_").replace(" ", "_")
    meant = (others or {}).get(folded)
    if meant in known:
        return meant
    by_fold = {name.casefold(): name for name in known}
    found = difflib.get_close_matches(folded, by_fold, n=1, cutoff=0.6)
    return by_fold[found[0]] if found else None


# ---------------------------------------------------------------- paths

WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
"""How an absolute path of Windows begins."""


def from_windows(text: str) -> str | None:
    """Where WSL has a path of Windows; None where it is none, or this is Windows."""
    if os.name == "nt" or not WINDOWS.match(text):
        return None
    drive = re.match(r"([A-Za-z]):[\\/](.*)", text)
    return f"/mnt/{drive[1].lower()}/{drive[2]}".replace("\\", "/") if drive else "/mnt/..."


def path(missing: str, subject: str = "path") -> str:
    """What to do about a local path that is not there, in a sentence.

    Args:
        missing: an absolute path.
        subject: the setting that has it.
    """
    folder, name = os.path.split(missing)
    try:
        names = sorted(os.listdir(folder or "."))
    except OSError:
        parent = folder
        while parent != os.path.dirname(parent) and not os.path.isdir(parent):
            parent = os.path.dirname(parent)
        if parent == folder:
            return f"correct {subject} ="
        return f"correct {subject} =; there is {parent}, but no {os.path.relpath(folder, parent)} in it"
    stem = os.path.splitext(name)[0].casefold()
    alike = [n for n in names if n.casefold() == name.casefold() or os.path.splitext(n)[0].casefold() == stem]
    alike += difflib.get_close_matches(name, names, n=3, cutoff=0.7)
    found = [os.path.join(folder, n) for n in dict.fromkeys(alike)][:3]
    if not found:
        return f"correct {subject} = (it is relative to the settings file)"
    return f"did you mean {' or '.join(found)}?"


# ---------------------------------------------------------------- coordinate reference systems

COMMON = {
    "4326": ("wgs", "latlon", "lonlat", "latlong", "longlat", "geographic", "gps", "degrees", "wgs1984"),
    "3857": ("mercator", "google", "webmercator", "osm", "900913"),
    "27700": ("osgb", "bng", "british"),
    "2154": ("lambert93",),
    "3035": ("laea", "etrslaea"),
    "2056": ("lv95", "swiss"),
    "5070": ("albers", "conus"),
}
"""EPSG codes by words for them that EPSG's own names do not have."""

DATUMS = ("WGS 84 ", "ETRS89 ", "NAD83 ")
"""Datums whose CRS are proposed before others."""


@lru_cache(maxsize=64)
def crs(text: str, most: int = 3) -> tuple[str, ...]:
    """CRS whose names have the words of `text`, as "EPSG:32632 (WGS 84 / UTM zone 32N)"; the likeliest first."""
    from pyproj.database import query_crs_info  # of use only where something is wrong

    words = re.findall(r"[a-z]+|\d+", text.casefold())
    infos = [i for i in query_crs_info(auth_name="EPSG") if not i.deprecated and "VERTICAL" not in str(i.type)]
    numbers = [w for w in words if len(w) >= 4 and w.isdigit()]
    found = [i for i in infos if i.code in numbers]
    joined = "".join(words)
    found += [i for code, names in COMMON.items() for i in infos if i.code == code and {joined, *words} & set(names)]
    words = [w for w in words if w not in ("epsg", "zone", "crs", "grid")]
    if not found and words:

        def fits(name: str) -> bool:
            parts = re.findall(r"[a-z]+|\d+", name.casefold())
            return all(any(part == w or (len(w) > 3 and part.startswith(w)) for part in parts) for w in words)

        found = sorted(
            (i for i in infos if fits(i.name) and i.type.name in ("PROJECTED_CRS", "GEOGRAPHIC_2D_CRS")),
            key=lambda i: (
                [i.name.startswith(d) for d in DATUMS].index(True) if i.name.startswith(DATUMS) else 9,
                len(i.name),
            ),
        )
    return tuple(dict.fromkeys(f"EPSG:{i.code} ({i.name})" for i in found))[:most]
