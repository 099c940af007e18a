"""Text for people: short numbers and times, and escaped text of unknown origin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from rich.cells import cell_len

from geopipe.redaction import redact

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]")
"""Control characters, terminal escapes, and characters that hide text or reverse its direction."""


def clean(text: object) -> str:
    """`text` in one line without secrets; characters that a terminal would obey are escaped."""
    one = redact(str(text)).replace("\r\n", " ").replace("\n", " ").replace("\t", " ")
    return UNSAFE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode("ascii"), one)


def clean_lines(text: object) -> list[str]:
    """The lines of `text`, each escaped; at least one."""
    return [clean(line.expandtabs(4)) for line in str(text).splitlines()] or [""]


def message(text: object) -> str:
    """An error or warning for printing: further lines are indented, so that none can pass for another message."""
    first, *rest = str(text).split("\n")
    return "\n".join([clean(first), *(line if line.startswith("  ") else f"  {line}" for line in map(clean, rest))])


def tail(text: str, width: int, unicode: bool = True) -> str:
    """The end of `text` in `width` columns: of a path the end says most."""
    if cell_len(text) <= width:
        return text
    mark = "…" if unicode else "..."
    cut = text
    while cut and cell_len(cut) > width - len(mark):
        cut = cut[1:]
    return (mark + cut)[: max(width, 0)]


def size(count: float) -> str:
    """A number of bytes with a unit: 1.5 MiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def count(number: int, noun: str) -> str:
    """A number with its noun: 1 file, 2,000 files."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def numbers(values: Sequence[float], digits: int = 8) -> str:
    """Numbers with commas between them."""
    return ", ".join(f"{v:.{digits}g}" for v in values)


def listed(items: Sequence[object], most: int = 5) -> str:
    """The first items with commas between them, and the number of the others."""
    shown = ", ".join(map(str, items[:most]))
    return shown if len(items) <= most else f"{shown} and {len(items) - most:,} more"


def short(count: float) -> str:
    """A number in at most 7 characters: 950, 12.3 k, 4.56 M."""
    for unit in ("", " k", " M", " G"):
        if abs(count) < 999.5:
            digits = 0 if unit == "" and count == round(count) else 2 if abs(count) < 9.995 else 1
            return f"{count:.{digits}f}{unit}"
        count /= 1000
    return f"{count:,.1f} T"


def clock(seconds: float) -> str:
    """A duration: 0:42, 12:05, 3:07:09, 2d 03:07."""
    whole = max(round(seconds), 0)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def age(seconds: float) -> str:
    """An age: 42 s, 3 min, 5 h, 2 d."""
    whole = max(int(seconds), 0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if whole >= 2 * length:
            return f"{whole // length} {unit}"
    return f"{whole} s"


def moment(when: datetime, now: datetime | None = None) -> str:
    """A time in the user's zone, with its day unless that is today."""
    local = when.astimezone()
    today = now is not None and local.date() == now.astimezone().date()
    return local.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")


def share(part: float | None) -> str:
    """A share in percent; 100% only if it is complete."""
    return "" if part is None else "100%" if part >= 1 else f"{min(int(part * 100), 99)}%"
