"""Messages for mistakes in settings: the value, the values that the key accepts, and an example."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from geopipe.errors import SettingsError
from geopipe.proposals import near
from geopipe.settings.rules import KeyRules, listed, shown

Keys = tuple[int | str, ...]
"""The place of a value: section and key, or "layers", index and key."""

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


def refusal(message: str, hint: str) -> PydanticCustomError:
    """The error of a validator, with a hint of its own."""
    return PydanticCustomError("refused", "{message}", {"message": message, "hint": hint})


def united(mistakes: Sequence[SettingsError]) -> SettingsError:
    """One error of several."""
    if len(mistakes) == 1:
        return mistakes[0]
    lines = "\n".join(map(str, mistakes)).split("\n")
    return SettingsError("\n  ".join([f"{len(mistakes)} mistakes in the settings", *lines]))


class Explainer(KeyRules):
    """Turns errors of pydantic into messages in the words of the settings.

    Args:
        sections: the model of each section; of `layers`, that of one layer.
        where: names the place of a value (file and line, variable or flag) for the start of a message.
        line: line of a value in the file; 0 for a value that is not from the file.
        values: all values of the settings, by section.
    """

    def __init__(
        self,
        sections: dict[str, type[BaseModel]],
        where: Callable[[Keys], str],
        line: Callable[[Keys], int],
        values: dict[str, Any],
    ) -> None:
        super().__init__(sections)
        self.where, self.line, self.values = where, line, values

    def explain(self, error: ValidationError) -> list[SettingsError]:
        """All mistakes in the order of their lines; a value has one mistake, whatever types it may have."""
        by_keys: dict[Keys, list[ErrorDetails]] = {}
        for detail in error.errors():
            loc = detail["loc"]
            by_keys.setdefault(loc[: 3 if loc and loc[0] == "layers" else 2], []).append(detail)
        others = [keys for keys in by_keys if keys != ("layers",)]
        if any(keys[0] == "layers" or near(str(keys[0]), ["layers"], KEY_WORDS) for keys in others):
            by_keys.pop(("layers",), None)  # there are layers, but with mistakes
        return [self._one(keys, details) for keys, details in sorted(by_keys.items(), key=lambda i: self.line(i[0]))]

    def name(self, keys: Keys) -> str:
        """The name of a place, as in `--set`: section.key or layers.NAME.key."""
        if len(keys) < 2 or keys[0] != "layers":
            return ".".join(map(str, keys))
        layers = self.values.get("layers")
        layer = layers[int(keys[1])] if isinstance(layers, list) else None
        own = layer.get("name") if isinstance(layer, dict) else None
        which = own if isinstance(own, str) and own.isidentifier() else str(int(keys[1]) + 1)
        return ".".join(["layers", which, *map(str, keys[2:])])

    def _one(self, keys: Keys, details: Sequence[ErrorDetails]) -> SettingsError:
        where, kinds = self.where(keys), [f["type"] for f in details if len(f["loc"]) == len(keys)]
        section, key = str(keys[0]), str(keys[-1])
        if refused := [f for f in details if f["type"] == "refused"]:
            context, value = refused[0]["ctx"], refused[0]["input"]
            message = context["message"]
            named = re.search(rf"(?<!\w){re.escape(str(value))}(?!\w)", message)
            own = "" if value is None or "password" in message or named else f" = {shown(value)}"
            return SettingsError(f"{where}: {self.name(keys)}{own}: {message}", context["hint"])
        if "extra_forbidden" in kinds:
            return self._unknown(keys)
        if kinds == ["missing"]:
            if section == "layers" and len(keys) == 1:
                return SettingsError(
                    f"{where}: there is no layer", 'add one: [[layers]] and below it name = "..." and path = "..."'
                )
            example = self.example(section, key)
            return SettingsError(f"{where}: {self.name(keys)} is missing", f"add it, for example {key} = {example}")
        if len(keys) == 1 or (section == "layers" and len(keys) == 2):
            return self._no_table(keys)
        schema = self.schema(section, key)
        value = self._value(keys)
        message = f"{where}: {self.name(keys)} = {shown(value)} must be {self.allowed(section, schema)}"
        return SettingsError(message, self._proposal(section, key, value, schema))

    def _proposal(self, section: str, key: str, value: Any, schema: dict[str, Any]) -> str:
        """A hint: what to write instead."""
        words = value if isinstance(value, list) else [value]
        choices = self.choices(section, schema)
        meant = [near(w, choices, VALUE_WORDS) if isinstance(w, str) else None for w in words]
        if choices and any(meant):
            text = [json.dumps(m or w) for m, w in zip(meant, words, strict=True) if m or w in choices]
            return f"did you mean {key} = {text[0] if not isinstance(value, list) else '[' + ', '.join(text) + ']'}?"
        if key in ("crs", "mask_crs") and isinstance(value, int) and not isinstance(value, bool):
            return f'did you mean {key} = "EPSG:{value}"?'
        if key == "name" and isinstance(value, str) and value.strip():
            plain = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in value.strip())[:63]
            plain = plain if plain[:1].isalpha() or plain[:1] == "_" or section == "run" else f"_{plain}"
            return f'did you mean name = "{plain}"?'
        hint = schema.get("hint", "")
        numeric = any(p.get("type") in ("number", "integer", "array") for p in [schema, *schema.get("anyOf", ())])
        if numeric and isinstance(value, str) and (number := _without_unit(value)) is not None:
            return f"{hint + '; ' if hint else ''}did you mean {key} = {number}?"
        example = f"for example {key} = {self.example(section, key)}"
        return f"{hint}; {example}" if hint else example

    def _unknown(self, keys: Keys) -> SettingsError:
        where, key = self.where(keys), str(keys[-1])
        section = str(keys[0]) if len(keys) > 1 else ""
        homes = [name for name, known in self.keys.items() if key in known and name != section]
        if not section:
            meant = near(key, self.keys, KEY_WORDS)
            if meant:
                return SettingsError(f"{where}: unknown section {key!r}", f"did you mean {_header(meant)}?")
            meant = key if homes else near(key, {k for known in self.keys.values() for k in known}, KEY_WORDS)
            homes = homes or [name for name, known in self.keys.items() if meant in known]
            hint = f"sections: {', '.join(self.keys)}"
            if meant and homes:
                hint = (
                    f"did you mean {meant} in {listed([f'[{h}]' if h != 'layers' else '[[layers]]' for h in homes])}?"
                )
            return SettingsError(f"{where}: {key!r} is no section", hint)
        known = self.keys[section]
        meant = near(key, known, KEY_WORDS)
        hint = f"did you mean {meant!r}?" if meant else f"valid keys: {', '.join(known)}"
        if homes and not (meant and key in KEY_WORDS):
            hint = f"it belongs in {listed([_header(h) for h in homes])}"
        return SettingsError(f"{where}: unknown key {self.name(keys)!r}", hint)

    def _no_table(self, keys: Keys) -> SettingsError:
        """The error for a section that is no table, or for layers that are no list of tables."""
        where, section, value = self.where(keys), str(keys[0]), self._value(keys)
        if section != "layers":
            got = "is a list of tables" if isinstance(value, list) else f"= {shown(value)} is no section"
            return SettingsError(
                f"{where}: {section} {got}", f"write [{section}] on a line of its own, and its keys below it"
            )
        if isinstance(value, dict) and value and all(isinstance(v, dict) for v in value.values()):
            name = next(iter(value))
            return SettingsError(
                f"{where}: [layers.{name}] is a table; layers are a list",
                f'write [[layers]] for each, and below it name = "{name}"',
            )
        if isinstance(value, dict):
            return SettingsError(f"{where}: [layers] is one table; layers are a list", "write [[layers]] for each")
        if not value:
            return SettingsError(
                f"{where}: there is no layer", 'add one: [[layers]] and below it name = "..." and path = "..."'
            )
        return SettingsError(
            f"{where}: {self.name(keys)} = {shown(value)} is no table",
            'write [[layers]] for each layer, and below it name = "..." and path = "..."',
        )

    def _value(self, keys: Keys) -> Any:
        value: Any = self.values
        for key in keys:
            value = value[key]
        return value


def _header(section: str) -> str:
    return "[[layers]]" if section == "layers" else f"[{section}]"


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
