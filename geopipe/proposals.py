"""Proposals for what a person may have meant: words, paths and coordinate reference systems that come close."""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache


def near(word: str, known: Iterable[str], others: Mapping[str, str] | None = None) -> str | None:
    """The known word that is closest to `word`; None if none is close.

    Args:
        others: known words by words of other programs.
    """
    known = list(known)
    folded = word.strip().casefold().replace("-", "_").replace(" ", "_")
    meant = (others or {}).get(folded)
    if meant in known:
        return meant
    by_fold = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(folded, by_fold, n=1, cutoff=0.6)
    return by_fold[close[0]] if close else None


# ---------------------------------------------------------------- paths

WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
"""The beginning of an absolute path of Windows."""


def from_windows(text: str) -> str | None:
    """The path under which WSL has a path of Windows; None for any other path, and on Windows."""
    if os.name == "nt" or not WINDOWS.match(text):
        return None
    drive = re.match(r"([A-Za-z]):[\\/](.*)", text)
    return f"/mnt/{drive[1].lower()}/{drive[2]}".replace("\\", "/") if drive else "/mnt/..."


def path(missing: str, subject: str = "path") -> str:
    """A hint for a local path or glob pattern that does not exist.

    Args:
        missing: an absolute path or pattern.
        subject: the setting that has it, or an argument in capitals.
    """
    correct = f"correct {subject} =" if subject.islower() else f"correct {subject}"
    folder, name = os.path.split(missing)
    while re.search(r"[*?\[]", folder):
        folder, name = os.path.split(folder)
    try:
        names = sorted(os.listdir(folder or "."))
    except OSError:
        parent = folder
        while parent != os.path.dirname(parent) and not os.path.isdir(parent):
            parent = os.path.dirname(parent)
        if parent == folder:
            return correct
        return f"{correct}; there is {parent}, but no {os.path.relpath(folder, parent)} in it"
    stem = os.path.splitext(name)[0].casefold()
    alike = [n for n in names if n.casefold() == name.casefold() or os.path.splitext(n)[0].casefold() == stem]
    alike += difflib.get_close_matches(name, names, n=3, cutoff=0.7)
    if re.search(r"[*?\[]", name):
        stem, ending = os.path.splitext(name)
        endings = sorted({os.path.splitext(n)[1] for n in names})
        patterns = [stem + e for e in difflib.get_close_matches(ending, endings, n=3, cutoff=0.5) or endings]
        alike += [pattern for pattern in patterns if fnmatch.filter(names, pattern) and pattern != name]
    close = [os.path.join(folder, n) for n in dict.fromkeys(alike)][:3]
    if close:
        return f"did you mean {' or '.join(close)}?"
    files = [n for n in names if not n.startswith(".")][:5]
    inside = f"; in {folder} are {', '.join(files)}{' and more' if len(names) > 5 else ''}" if files else ""
    return f"{correct}{' (it is relative to the settings file)' if subject.islower() else ''}{inside}"


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
"""EPSG codes with common words for them that their EPSG names lack."""

DATUMS = ("WGS 84 ", "ETRS89 ", "NAD83 ")
"""Datums whose CRS come first."""


@lru_cache(maxsize=64)
def crs(text: str, most: int = 3) -> tuple[str, ...]:
    """CRS whose names have the words of `text`, the likeliest first: "EPSG:32632 (WGS 84 / UTM zone 32N)"."""
    from pyproj.database import query_crs_info  # loaded only for an error

    words = re.findall(r"[a-z]+|\d+", text.casefold())
    infos = [i for i in query_crs_info(auth_name="EPSG") if not i.deprecated and "VERTICAL" not in str(i.type)]
    numbers = [w for w in words if len(w) >= 4 and w.isdigit()]
    matches = [i for i in infos if i.code in numbers]
    joined = "".join(words)
    matches += [i for code, names in COMMON.items() for i in infos if i.code == code and {joined, *words} & set(names)]
    words = [w for w in words if w not in ("epsg", "zone", "crs", "grid")]
    if not matches and words:

        def fits(name: str) -> bool:
            parts = re.findall(r"[a-z]+|\d+", name.casefold())
            return all(any(part == w or (len(w) > 3 and part.startswith(w)) for part in parts) for w in words)

        matches = sorted(
            (i for i in infos if fits(i.name) and i.type.name in ("PROJECTED_CRS", "GEOGRAPHIC_2D_CRS")),
            key=lambda i: (
                [i.name.startswith(d) for d in DATUMS].index(True) if i.name.startswith(DATUMS) else 9,
                len(i.name),
            ),
        )
    return tuple(dict.fromkeys(f"EPSG:{i.code} ({i.name})" for i in matches))[:most]
