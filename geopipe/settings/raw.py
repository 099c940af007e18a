"""The values of settings before they are checked, and where each of them is from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geopipe.errors import SettingsError
from geopipe.settings.rules import KEYS, schema_of, types
from geopipe.settings.toml_lines import line_of, read, value_of

ENV_PREFIX, ENV_NESTED = "GEOPIPE_", "__"

Keys = tuple[int | str, ...]
"""The place of a value: section and key, or "layers", index and key."""

Overrides = Sequence[str] | Mapping[str, Any]
"""What wins over a file: "section.key=value" as on a command line, or values by "section.key"."""


class RawSettings:
    """The values of a file or a dict, the environment and overrides together, and the origin of each."""

    def __init__(self, source: Path | Mapping[str, Any], overrides: Overrides = (), environment: bool = True) -> None:
        self.path = source if isinstance(source, Path) else None
        self.text, values = read(source) if isinstance(source, Path) else ("", _plain(source))
        self.values: dict[str, Any] = values
        self.sections = set(self.values)
        self.origins: dict[Keys, str] = {}
        for variable, value in sorted(os.environ.items()) if environment else ():
            section, nested, key = variable.removeprefix(ENV_PREFIX).lower().partition(ENV_NESTED)
            if variable.startswith(ENV_PREFIX) and nested:
                if section == "layers":
                    raise SettingsError(
                        f"{variable}: layers are not set in the environment", "use --set layers.NAME.key=value"
                    )
                self._set([section, key], _value_of([section, key], value), variable)
        if isinstance(overrides, Mapping):
            for key, value in _plain(overrides).items():
                self._set(_parts(key, f"override {key!r}"), value, f"override {key}")
            return
        for flag in overrides:
            key, equals, text = flag.partition("=")
            parts = _parts(key.strip() if equals else "", f"--set {flag!r}")
            self._set(parts, _value_of(parts, text), f"--set {key.strip()}")

    def _set(self, parts: list[str], value: Any, origin: str) -> None:
        """Set a value; that of a layer in the layer of that name."""
        section, key = parts[0], parts[-1]
        keys: Keys = (section, key)
        table = self.values.setdefault(section, [] if section == "layers" else {})
        if section == "layers":
            layers = [layer for layer in table if isinstance(layer, dict)] if isinstance(table, list) else []
            names = [str(layer.get("name")) for layer in layers]
            if len(parts) < 3 or parts[1] not in names:
                raise SettingsError(
                    f"{origin}: there is no layer {parts[1]!r}",
                    f"the layers are {', '.join(names) or 'none'}; say layers.NAME.key (a layer is added in the file)",
                )
            index = names.index(parts[1])
            table, keys = layers[index], ("layers", index, key)
        if isinstance(table, dict):  # a section that is no table is an error like others of the file
            table[key] = value
        self.origins[keys] = origin

    def value(self, keys: Keys) -> Any:
        """The value of a place."""
        value: Any = self.values
        for key in keys:
            value = value[key]
        return value

    def name(self, keys: Keys) -> str:
        """The name of a place, as in `--set`: section.key or layers.NAME.key."""
        if len(keys) < 2 or keys[0] != "layers":
            return ".".join(map(str, keys))
        layers = self.values.get("layers")
        layer = layers[int(keys[1])] if isinstance(layers, list) else None
        own = layer.get("name") if isinstance(layer, dict) else None
        which = own if isinstance(own, str) and own.isidentifier() else str(int(keys[1]) + 1)
        return ".".join(["layers", which, *map(str, keys[2:])])

    def where(self, keys: Keys) -> str:
        """The origin of a value: a flag, a variable of the environment, or a line."""
        if len(keys) == 1 and keys[0] not in self.sections:  # only a flag or variable may have this section
            for place, origin in self.origins.items():
                if place[0] == keys[0]:
                    return origin
        return self.origins.get(keys) or (f"{self.path}:{line_of(self.text, keys)}" if self.path else "settings")

    def line(self, keys: Keys) -> int:
        """The line of a value; 0 for a value that is not from the file."""
        return 0 if keys in self.origins or self.path is None else line_of(self.text, keys)


def places(values: Mapping[str, Any]) -> Iterator[tuple[Keys, Any]]:
    """The place of each value, and the value."""
    for section, table in values.items():
        for index, one in enumerate(table) if isinstance(table, list) else [(None, table)]:
            own: Keys = (section,) if index is None else (section, index)
            yield from (((*own, key), value) for key, value in one.items()) if isinstance(one, dict) else ()


def _value_of(parts: list[str], text: str) -> Any:
    """The value of a text; a key that accepts a list takes 1,2 as one."""
    section, key = parts[0], parts[-1]
    return value_of(text, key in KEYS.get(section, ()) and "array" in types(schema_of(section, key)))


def _parts(key: str, origin: str) -> list[str]:
    """Section and key, or "layers", name and key."""
    parts = key.split(".")
    if len(parts) != (3 if parts[0] == "layers" else 2) or not all(parts):
        raise SettingsError(
            f"{origin} is neither section.key=value nor layers.NAME.key=value",
            "for example grid.resolution=90, or layers.elevation.kind=continuous",
        )
    return parts


def _plain(value: Any) -> Any:
    """A value of Python as TOML has it: paths become text, tuples lists, numbers of numpy those of Python."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if isinstance(value, np.generic) else value
