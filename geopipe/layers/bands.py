"""Choose the bands of a layer's files, and name their columns. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

import numpy as np

from geopipe.layers import times
from geopipe.layers.header import Band, Header
from geopipe.layers.layer import Layer


def choose(layer: Layer, headers: Sequence[Header]) -> list[tuple[Header, tuple[Band, ...]]]:
    """Choose the band of each variable from each file of a layer.

    Raises:
        SourceError: a file does not have what the layer asks for, or the files have other variables.
    """
    files = [(header, of_file(layer, header)) for header in headers]
    (first, bands), *others = files
    for header, own in others:
        if len(own) != len(bands) or (len(bands) > 1 and any(map(_differ, bands, own))):
            raise layer.error(
                f"{header.uri} has {_listed(own)}; {first.uri} has {_listed(bands)}",
                "files of one layer must have the same bands and steps; choose them with bands, time or level, "
                "or make a layer of each",
            )
    return files


def of_file(layer: Layer, header: Header) -> tuple[Band, ...]:
    """The band of each variable of the layer in this file, with the layer's settings applied.

    If the layer reduces several bands to one, the first of them has the others in `more`.
    """
    chosen = [named(layer, header, name) for name in layer.bands] or [b for b in header.bands if not b.alpha]
    if layer.variable and len({b.variable for b in chosen}) > 1:
        chosen = [b for b in chosen if b.variable.casefold() == layer.variable.casefold()]
    chosen = _at(layer, header, _at(layer, header, chosen, "time"), "level")
    for band in chosen:
        if band.dtype.startswith("complex"):
            hint = "write its amplitude or phase to a real band first"
            raise layer.error(f"band {band.index} of {header.uri} has the complex type {band.dtype}", hint)
        if layer.bits is not None:
            _check_bits(layer, header, band, layer.bits)
    own: dict[str, Any] = {"bits": layer.bits} if layer.unpack else {"bits": layer.bits, "scale": 1.0, "offset": 0.0}
    own |= {key: value for key in ("nodata", "scale", "offset", "unit") if (value := getattr(layer, key)) is not None}
    own |= {"missing": ()} if layer.nodata is not None else {}
    changed = [replace(band, **own) for band in chosen]
    return tuple(_reduced(layer, changed, layer.reduce) if layer.reduce else changed)


def _check_bits(layer: Layer, header: Header, band: Band, bits: tuple[int, int]) -> None:
    own = np.dtype(band.dtype)
    if own.kind not in "iu" or not 0 <= bits[0] <= bits[1] < 8 * own.itemsize:
        top = 8 * own.itemsize - 1
        allowed = f"from 0 to {top}, the lower one first" if own.kind in "iu" else "of whole numbers only"
        raise layer.error(
            f"bits = {list(bits)} cannot be taken out of band {band.index} of {header.uri}, which is {band.dtype}",
            f"correct bits = of the layer {layer.name}: they are {allowed}",
        )


def named(layer: Layer, header: Header, name: int | str) -> Band:
    """The band with this number, or this description: all of it, else whole words of it ("665" of "B4 (665 nm)").

    Raises:
        SourceError: there is none, or there are several.
    """
    if isinstance(name, int):
        candidates = [b for b in header.bands if b.index == name]
    else:
        text = name.strip().casefold()
        described = [b for b in header.bands if text and b.description.strip()]
        candidates = [b for b in described if b.description.strip().casefold() == text]
        words = re.compile(rf"(?<![^\W_]){re.escape(text)}(?![^\W_])")
        candidates = candidates or [b for b in described if words.search(b.description.casefold())]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        hint = f"name one of them in bands = of the layer {layer.name}, or give its number"
        raise layer.error(f"{name!r} may be several bands of {header.uri}: {_numbered(candidates)}", hint)
    hint = f"correct bands = of the layer {layer.name}"
    raise layer.error(f"{header.uri} has no band {name!r}; it has {_numbered(header.bands)}", hint)


def _numbered(bands: Iterable[Band]) -> str:
    return ", ".join(f"{b.index}" + (f" ({b.description})" if b.description else "") for b in bands)


def _at(layer: Layer, header: Header, bands: list[Band], key: str) -> list[Band]:
    """The bands whose time or level (`key`) matches a selection of the layer; all bands without one."""
    selections = layer.time if key == "time" else layer.level
    texts = [band.place.get(key, "") for band in bands]
    if not selections:
        return bands
    if not any(texts):
        raise layer.error(f"the bands of {header.uri} have no {key}", f"leave out {key} = and choose them with bands =")
    for one in selections:
        if not any(times.matches(text, one) for text in texts if text):
            present = list(dict.fromkeys(t for t in texts if t))
            shown = ", ".join(present) if len(present) <= 12 else f"{len(present)}, from {present[0]} to {present[-1]}"
            hint = f"correct {key} = of the layer {layer.name}; geopipe inspect shows each"
            raise layer.error(f"{header.uri} has no {key} {one!r}; it has {shown}", hint)
    chosen = [bool(text) and any(times.matches(text, one) for one in selections) for text in texts]
    return list(compress(bands, chosen))


def _reduced(layer: Layer, bands: Sequence[Band], rule: str) -> list[Band]:
    """One band for each variable and level, with its other times in `more`. With one time, levels are reduced."""
    over_time = len({b.step for b in bands}) > 1
    groups: dict[tuple[str, str], list[Band]] = {}
    for band in bands:
        groups.setdefault((band.variable, band.level if over_time else ""), []).append(band)
    reduced = []
    for first, *more in groups.values():
        if any(b.dtype != first.dtype for b in more):
            raise layer.error(
                "the bands to reduce have different types: "
                + ", ".join(f"{b.index} {b.dtype}" for b in (first, *more)),
                "choose bands of one type with bands =",
            )
        step, level = (times.span([getattr(b, key) for b in (first, *more)]) for key in ("step", "level"))
        reduced.append(replace(first, step=step, level=level, more=tuple(more), reduce=rule))
    return reduced


def _differ(one: Band, other: Band) -> bool:
    """Whether two bands make different variables. Reduced bands may have other times."""
    return (one.variable, one.level) != (other.variable, other.level) or (not one.reduce and one.step != other.step)


def _listed(bands: Sequence[Band]) -> str:
    """Bands for a message: their number, and the places of the first and last."""
    places = [" ".join(filter(None, (b.variable, b.level, b.step))) for b in bands]
    return f"{len(bands)} bands" + (f" ({places[0]} to {places[-1]})" if any(places) else "")


def columns(layer: Layer, bands: Sequence[Band]) -> tuple[str, ...]:
    """Names of the layer's columns: the layer's name, with several bands followed by a label.

    The label is what distinguishes the bands of variable, level and time; else the description if it is one plain word,
    else the number.
    """
    if len(bands) == 1:
        return (layer.name,)
    places = [(b.variable, b.level, "" if b.reduce else b.step) for b in bands]
    telling = [i for i in range(3) if len({place[i] for place in places}) > 1]
    labels = ["_".join(times.column_label(place[i]) for i in telling if place[i]) for place in places]
    if not all(labels) or len(set(labels)) < len(labels):
        labels = [label_of(band) for band in bands]
    return tuple(f"{layer.name}_{label}" for label in labels)


def label_of(band: Band) -> str:
    """The label of a band in a column's name: its description if that is one plain word, else its number."""
    text = band.description.strip().lower()
    return text if text.replace("_", "").isalnum() and text.isascii() else str(band.index)
