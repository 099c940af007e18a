"""Messages for mistakes in settings: the value, the values that the key accepts, and an example."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from geopipe.errors import SettingsError
from geopipe.proposals import near
from geopipe.settings.raw import Keys, RawSettings
from geopipe.settings.rules import KEYS, allowed, choices, example, header, listed, schema_of, shown, types

KEY_WORDS = {
    "file": "path", "files": "path", "filename": "path", "uri": "path", "url": "path", "src": "path", "source": "path",
    "paths": "path", "input": "path", "id": "name", "layer_name": "name",
    "no_data": "nodata", "missing": "nodata", "missing_value": "nodata", "fill_value": "nodata", "na": "nodata",
    "method": "resampling", "resample": "resampling", "interpolation": "resampling", "type": "kind", "band": "bands",
    "epsg": "crs", "srs": "crs", "projection": "crs", "proj": "crs", "res": "resolution", "cellsize": "resolution",
    "cell_size": "resolution", "pixel_size": "resolution", "extent": "bounds", "bbox": "bounds",
    "format": "formats", "compression": "compress", "output_dir": "output", "out": "output", "output_path": "output",
    "lon": "x", "longitude": "x", "lat": "y", "latitude": "y", "column": "values", "columns": "values",
    "sql": "query", "threads": "workers", "cpus": "workers", "join": "how", "tile_size": "window_size",
    "input_layers": "layers", "inputs": "layers", "sources": "layers", "rasters": "layers", "datasets": "layers",
    "target": "grid", "logging": "monitoring", "ray": "engine",
}  # fmt: skip
"""Keys of other programs, and words that people try, each with the key of geopipe."""

VALUE_WORDS = {
    "classes": "categorical", "class": "categorical", "classified": "categorical", "discrete": "categorical",
    "category": "categorical", "nominal": "categorical", "numeric": "continuous", "float": "continuous",
    "real": "continuous", "angle": "circular", "direction": "circular", "degrees": "circular", "counts": "count",
    "nearest_neighbour": "nearest", "nearest_neighbor": "nearest", "nn": "nearest", "near": "nearest",
    "linear": "bilinear", "majority": "mode", "median": "med", "maximum": "max", "minimum": "min", "avg": "mean",
    "average": "mean", "total": "sum", "cubicspline": "cubic_spline", "full": "outer", "all": "grid", "left": "outer",
    "geoparquet": "parquet", "pq": "parquet", "gz": "gzip", "zst": "zstd", "ignore": "skip", "raise": "fail",
    "warn": "WARNING", "center": "centres", "centers": "centres", "centre": "centres", "corner": "corners",
    "points": "point", "newest": "-datetime", "oldest": "datetime", "single": "one", "exchange": "groupby",
}  # fmt: skip
"""Values of other programs, each with the value of geopipe."""


UNITS = {
    "m": 1, "km": 1000, "cm": 0.01, "mm": 0.001, "metre": 1, "meter": 1, "metres": 1, "meters": 1,
    "deg": 1, "degree": 1, "degrees": 1, "°": 1, "arcmin": 1 / 60, "arcsec": 1 / 3600,
    "b": 1, "kb": 1000, "mb": 10**6, "gb": 10**9, "tb": 10**12, "k": 1000, "g": 10**9,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
"""Units by their names, in metres, degrees or bytes."""


def united(mistakes: Sequence[SettingsError]) -> SettingsError:
    """One error of several."""
    if len(mistakes) == 1:
        return mistakes[0]
    lines = "\n".join(map(str, mistakes)).split("\n")
    return SettingsError("\n  ".join([f"{len(mistakes)} mistakes in the settings", *lines]))


def explain(error: ValidationError, raw: RawSettings) -> list[SettingsError]:
    """All mistakes in the order of their lines; a value has one mistake, whatever types it may have."""
    by_keys: dict[Keys, list[ErrorDetails]] = {}
    for detail in error.errors():
        loc = detail["loc"]
        by_keys.setdefault(loc[: 3 if loc and loc[0] == "layers" else 2], []).append(detail)
    others = [keys for keys in by_keys if keys != ("layers",)]
    if any(keys[0] == "layers" or near(str(keys[0]), ["layers"], KEY_WORDS) for keys in others):
        by_keys.pop(("layers",), None)  # there are layers, but with mistakes
    mistakes = []
    for keys, details in sorted(by_keys.items(), key=lambda item: raw.line(item[0])):
        message, hint = _explained(keys, details, raw)
        mistakes.append(SettingsError(f"{raw.where(keys)}: {message}", hint))
    return mistakes


def _explained(keys: Keys, details: Sequence[ErrorDetails], raw: RawSettings) -> tuple[str, str]:
    """Message and hint for the mistakes of one value."""
    kinds = [detail["type"] for detail in details if len(detail["loc"]) == len(keys)]
    section, key, name = str(keys[0]), str(keys[-1]), raw.name(keys)
    if refused := [detail for detail in details if detail["type"] == "refused"]:
        context, value = refused[0]["ctx"], refused[0]["input"]
        message = context["message"]
        named = re.search(rf"(?<!\w){re.escape(str(value))}(?!\w)", message)
        own = "" if value is None or "password" in message or named else f" = {shown(value)}"
        return f"{name}{own}: {message}", context["hint"]
    if "extra_forbidden" in kinds:
        return _unknown_key(section, key, name) if len(keys) > 1 else _unknown_section(key)
    if keys == ("layers",) and (kinds == ["missing"] or raw.value(keys) in ([], ())):
        return "there is no layer", 'add one: [[layers]] and below it name = "..." and path = "..."'
    if kinds == ["missing"]:
        return f"{name} is missing", f"add it, for example {key} = {example(schema_of(section, key))}"
    value = raw.value(keys)
    if len(keys) == 1 or (section == "layers" and len(keys) == 2):
        return _no_table(name, section, value)
    schema = schema_of(section, key)
    return f"{name} = {shown(value)} must be {allowed(schema)}", _proposal(section, key, value, schema)


def _proposal(section: str, key: str, value: Any, schema: dict[str, Any]) -> str:
    """A hint: what to write instead."""
    words, known = value if isinstance(value, list) else [value], choices(schema)
    meant = [near(word, known, VALUE_WORDS) if isinstance(word, str) else None for word in words]
    if any(meant):
        texts = [json.dumps(new or old) for new, old in zip(meant, words, strict=True) if new or old in known]
        return f"did you mean {key} = {'[' + ', '.join(texts) + ']' if isinstance(value, list) else texts[0]}?"
    if key in ("crs", "mask_crs") and isinstance(value, int) and not isinstance(value, bool):
        return f'did you mean {key} = "EPSG:{value}"?'
    if key == "name" and isinstance(value, str) and value.strip():
        plain = re.sub("[^A-Za-z0-9_]", "_", value.strip())[:63]
        plain = plain if section == "run" or not plain[0].isdigit() else f"_{plain}"
        return f'did you mean name = "{plain}"?'
    hints = [schema["hint"]] if "hint" in schema else []
    numeric = types(schema) & {"number", "integer", "array"}
    number = _without_unit(value) if numeric and isinstance(value, str) else None
    hints += [f"for example {key} = {example(schema)}" if number is None else f"did you mean {key} = {number}?"]
    return "; ".join(hints)


def _unknown_section(word: str) -> tuple[str, str]:
    if meant := near(word, KEYS, KEY_WORDS):
        return f"unknown section {word!r}", f"did you mean {header(meant)}?"
    key = near(word, [word] if (homes := _homes(word)) else {key for keys in KEYS.values() for key in keys}, KEY_WORDS)
    if key is None:
        return f"{word!r} is no section", f"sections: {', '.join(KEYS)}"
    return f"{word!r} is no section", f"did you mean {key} in {listed(homes or _homes(key))}?"


def _unknown_key(section: str, key: str, name: str) -> tuple[str, str]:
    meant, homes = near(key, KEYS[section], KEY_WORDS), _homes(key)
    hint = f"did you mean {meant!r}?" if meant else f"valid keys: {', '.join(KEYS[section])}"
    if homes and not (meant and key in KEY_WORDS):
        hint = f"it belongs in {listed(homes)}"
    return f"unknown key {name!r}", hint


def _homes(key: str) -> list[str]:
    """The sections that have a key."""
    return [header(section) for section, keys in KEYS.items() if key in keys]


def _no_table(name: str, section: str, value: Any) -> tuple[str, str]:
    """Message and hint for a section that is no table, or for layers that are no list of tables."""
    if section != "layers":
        problem = "is a list of tables" if isinstance(value, list) else f"= {shown(value)} is no section"
        return f"{section} {problem}", f"write [{section}] on a line of its own, and its keys below it"
    if not isinstance(value, dict):
        below = 'name = "..." and path = "..."'
        return f"{name} = {shown(value)} is no table", f"write [[layers]] for each layer, and below it {below}"
    if not value or not all(isinstance(item, dict) for item in value.values()):
        return "[layers] is one table; layers are a list", "write [[layers]] for each"
    first = next(iter(value))
    hint = f'write [[layers]] for each, and below it name = "{first}"'
    return f"[layers.{first}] is a table; layers are a list", hint


def _without_unit(text: str) -> float | None:
    """The number that a text with a unit means, in metres, degrees or bytes."""
    match = re.fullmatch(r"([\d.,_]+)\s*([A-Za-z°\"']+)", text.strip())
    if match is None or match[2].casefold() not in UNITS:
        return None
    try:
        number = float(match[1].replace(",", "").replace("_", "")) * UNITS[match[2].casefold()]
    except ValueError:
        return None
    return int(number) if number == int(number) else round(number, 12)
