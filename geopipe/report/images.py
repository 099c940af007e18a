"""Maps as small PNG files with a palette: colours by a perceptual scale or by class, missing cells transparent."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geopipe.layers.layer import Kind
from geopipe.report.sample import Mask, Sample, Values

LEVELS = 127
"""Colours of a scale: more cannot be told apart, and a PNG of fewer is smaller."""

SCALES = {"sequential": "viridis", "diverging": "RdBu_r", "cyclic": "twilight"}
"""Colour scales of matplotlib, in which equal steps look equal."""

OTHER = (140, 140, 140)
"""Colour of the classes that the legend leaves out."""

PICTURE_BYTES = 2_600_000
"""Bytes of all maps of a page before they become text, which adds a third."""

Colours = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """A map: a PNG as text of a data URI, with its size in pixels."""

    uri: str
    width: int
    height: int
    bytes: int


@cache
def scale_colours(name: str) -> Colours:
    """(LEVELS, 3) uint8, red, green and blue of a scale of SCALES."""
    from matplotlib import colormaps

    return np.round(colormaps[SCALES[name]](np.linspace(0, 1, LEVELS))[:, :3] * 255).astype(np.uint8)


@cache
def class_colours() -> Colours:
    """(20, 3) uint8, colours for classes whose source has none: the strong ones first, then their light twins."""
    from matplotlib import colormaps

    colours = np.round(np.array(colormaps["tab20"].colors) * 255).astype(np.uint8)  # type: ignore[attr-defined]
    return np.concatenate([colours[::2], colours[1::2]])


def as_hex(colour: Sequence[int] | Colours) -> str:
    """A colour as #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*map(int, colour))


def with_colours(classes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The classes, each with a colour: of its source, else one of ours."""
    own = class_colours()
    return [{**c, "colour": c.get("colour") or as_hex(own[i % len(own)])} for i, c in enumerate(classes)]


def colour_at(scale: Mapping[str, Any], value: float) -> str:
    """The colour of a value on a scale, of which the ends stand for all beyond them."""
    low, high = scale["low"], scale["high"]
    share = (value - low) / (high - low) if high > low else 0.5
    return as_hex(scale_colours(scale["colours"])[round(min(max(share, 0.0), 1.0) * (LEVELS - 1))])


def scaled(values: Values, mask: Mask, scale: Mapping[str, Any]) -> tuple[NDArray[np.uint8], Colours]:
    """Colour numbers (0: missing) of values by a scale, and the colours."""
    low, high = scale["low"], scale["high"]
    with np.errstate(all="ignore"):
        shares = (values - low) * ((LEVELS - 1) / (high - low)) if high > low else np.full(values.shape, LEVELS / 2)
        numbers = np.nan_to_num(np.clip(shares, 0, LEVELS - 1)).round().astype(np.uint8) + 1
    return numbers * mask, scale_colours(scale["colours"])


def classified(values: Values, mask: Mask, classes: Sequence[Mapping[str, Any]]) -> tuple[NDArray[np.uint8], Colours]:
    """Colour numbers (0: missing) of classes, and the colours; the last one is for classes that are not listed."""
    listed = np.array([c["value"] for c in classes], values.dtype if len(classes) else np.int64)
    order = np.argsort(listed)
    places = np.clip(np.searchsorted(listed[order], values), 0, max(len(listed) - 1, 0))
    known = listed[order][places] == values if len(listed) else np.zeros(values.shape, bool)
    numbers = np.where(known, (order[places] if len(listed) else 0) + 1, len(classes) + 1)
    colours = [tuple(bytes.fromhex(c["colour"][1:])) for c in classes] + [OTHER]
    return np.where(mask, numbers, 0).astype(np.uint8), np.array(colours, np.uint8)


def png(numbers: NDArray[np.uint8], colours: Colours) -> bytes:
    """A PNG (ISO 15948) of colour type 3.

    Args:
        numbers: (height, width) uint8, 0 where it is transparent, else 1 + the colour.
        colours: (n, 3) uint8, n < 256.
    """
    height, width = numbers.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each line begins with its filter: none
    lines[:, 1:] = numbers
    palette = bytes(3) + colours.tobytes()
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette),
        (b"tRNS", b"\0"),
        (b"IDAT", zlib.compress(lines.tobytes(), 4)),
        (b"IEND", b""),
    ]
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in chunks:
        parts.append(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
    return b"".join(parts)


def picture(numbers: NDArray[np.uint8], colours: Colours) -> Picture:
    """The picture of colour numbers."""
    data = png(numbers, colours)
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    return Picture(uri, numbers.shape[1], numbers.shape[0], len(data))


def map_of(entry: Mapping[str, Any], sample: Sample, step: int) -> Picture | None:
    """The map of a variable, of every `step`-th row and column of its picture; None without a value."""
    if not entry["sample"]:
        return None
    values, mask = (part[step // 2 :: step, step // 2 :: step] for part in sample.picture(entry["name"]))
    if "classes" in entry:
        return picture(*classified(values, mask, entry["classes"]))
    scale = entry.get("scale")
    return picture(*scaled(values, mask, scale)) if scale else None


def difference_of(entry: Mapping[str, Any], samples: tuple[Sample, Sample]) -> tuple[Picture, dict[str, Any]] | None:
    """The map of a variable of the second sample less that of the first, with its scale; None without two numbers.

    Classes differ (1) or do not (0).
    """
    (one, valid), (other, present) = (sample.picture(entry["name"]) for sample in samples)
    mask = valid & present
    if not mask.any():
        return None
    gaps = np.where(mask, other.astype(np.float64) - one.astype(np.float64), 0.0)
    if entry["kind"] == Kind.CATEGORICAL:
        gaps = (gaps != 0).astype(np.float64)
    end = float(np.abs(gaps).max())
    scale = {"low": -end, "high": end, "colours": "diverging"}
    return picture(*scaled(gaps, mask, scale)), scale


def maps_of(variables: Sequence[Mapping[str, Any]], sample: Sample) -> dict[str, Picture]:
    """The map of each variable, together of at most PICTURE_BYTES: of many or noisy ones in fewer pixels."""
    pixels, step = sample.shape[0] * sample.shape[1], 1
    while pixels * len(variables) * 0.8 / step**2 > PICTURE_BYTES:  # what is compressed twice costs time
        step += 1
    while True:
        maps = {v["name"]: one for v in variables if (one := map_of(v, sample, step)) is not None}
        if sum(one.bytes for one in maps.values()) <= PICTURE_BYTES or step >= max(sample.shape):
            return maps
        step += 1
