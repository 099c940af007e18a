"""Settings: one TOML file, `GEOPIPE_SECTION__KEY` in the environment, and `--set section.key=value`.

Flags win over the environment, the environment over the file, the file over the defaults below. Every error names the
place, the value, what may be there instead, and an example; all errors are told at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from geopipe.errors import SettingsError
from geopipe.layers import uris
from geopipe.settings.mistakes import Explainer, Keys, united
from geopipe.settings.model import SECTIONS, Settings
from geopipe.settings.toml_lines import line_of, read, value_of

ENV_PREFIX, ENV_NESTED = "GEOPIPE_", "__"


Overrides = Sequence[str] | Mapping[str, Any]
"""What wins over a file: "section.key=value" as on a command line, or values by "section.key"."""


class _Values:
    """The values of a file or a dict, the environment and overrides together, and the origin of each."""

    def __init__(self, source: Path | Mapping[str, Any], overrides: Overrides = (), environment: bool = True) -> None:
        self.path = source if isinstance(source, Path) else None
        self.text, values = read(source) if isinstance(source, Path) else ("", _plain(source))
        self.values: dict[str, Any] = values
        self.sections = set(self.values)
        self.origins: dict[Keys, str] = {}
        self.explainer = Explainer(SECTIONS, self.where, self.line, self.values)
        for variable, value in sorted(os.environ.items()) if environment else ():
            section, nested, key = variable.removeprefix(ENV_PREFIX).lower().partition(ENV_NESTED)
            if variable.startswith(ENV_PREFIX) and nested:
                if section == "layers":
                    raise SettingsError(
                        f"{variable}: layers are not set in the environment", "use --set layers.NAME.key=value"
                    )
                self._set([section, key], self._value_of([section, key], value), variable)
        if isinstance(overrides, Mapping):
            for key, value in _plain(overrides).items():
                self._set(_parts(key, f"override {key!r}"), value, f"override {key}")
            return
        for flag in overrides:
            key, equals, text = flag.partition("=")
            parts = _parts(key.strip() if equals else "", f"--set {flag!r}")
            self._set(parts, self._value_of(parts, text), f"--set {key.strip()}")

    def _value_of(self, parts: list[str], text: str) -> Any:
        return value_of(text, self.explainer.is_list(parts[0], parts[-1]))

    def _set(self, parts: list[str], value: Any, origin: str) -> None:
        """Set a value; that of a layer in the layer of that name."""
        table, keys = self._table(parts, origin)
        table[parts[-1]] = value
        self.origins[keys] = origin

    def _table(self, parts: list[str], origin: str) -> tuple[dict[str, Any], Keys]:
        """The table of a value, and the keys of its place."""
        section, key = parts[0], parts[-1]
        if section != "layers":
            table = self.values.setdefault(section, {})
            # a value that is no table is an error like others of the file
            return table if isinstance(table, dict) else {}, (section, key)
        layers = self.values.get("layers")
        layers = [y for y in layers if isinstance(y, dict)] if isinstance(layers, list) else []
        names = [str(y.get("name")) for y in layers]
        if len(parts) < 3 or parts[1] not in names:
            raise SettingsError(
                f"{origin}: there is no layer {parts[1]!r}",
                f"the layers are {', '.join(names) or 'none'}; say layers.NAME.key (a layer is added in the file)",
            )
        index = names.index(parts[1])
        return layers[index], ("layers", index, key)

    def where(self, keys: Keys) -> str:
        """The origin of a value: a flag, a variable of the environment, or a line."""
        if len(keys) == 1 and keys[0] not in self.sections and self.origins:  # only a flag or variable has this section
            for place, origin in self.origins.items():
                if place[0] == keys[0]:
                    return origin
        return self.origins.get(keys) or (f"{self.path}:{line_of(self.text, keys)}" if self.path else "settings")

    def line(self, keys: Keys) -> int:
        """The line of a value; 0 for a value that is not from the file."""
        return 0 if keys in self.origins or self.path is None else line_of(self.text, keys)

    def wide_numbers(self) -> list[SettingsError]:
        """An error for each whole number of more than 64 bits, which TOML does not have."""
        places: list[tuple[Keys, Any]] = []
        for section, table in self.values.items():
            tables = enumerate(table) if isinstance(table, list) else [(None, table)]
            for index, one in tables:
                own: Keys = (section,) if index is None else (section, index)
                places += [((*own, key), value) for key, value in one.items()] if isinstance(one, dict) else []
        mistakes = []
        for keys, value in places:
            numbers = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int)]
            if any(not -(2**63) <= v < 2**63 for v in numbers):
                name = self.explainer.name(keys)
                mistakes.append(
                    SettingsError(f"{self.where(keys)}: {name} has more than 64 bits", "give a smaller number")
                )
        return mistakes

    def same_names(self) -> list[SettingsError]:
        """An error for each layer with the name of an earlier one."""
        layers, seen, mistakes = self.values.get("layers"), set[str](), []
        for index, layer in enumerate(layers if isinstance(layers, list) else []):
            name = layer.get("name") if isinstance(layer, dict) else None
            if isinstance(name, str) and name in seen:
                where = self.where(("layers", index, "name"))
                mistakes.append(SettingsError(f"{where}: two layers are named {name!r}", "rename one of the two"))
            seen |= {name} if isinstance(name, str) else set()
        return mistakes


def load(path: Path, overrides: Overrides = (), environment: bool = True) -> Settings:
    """Read settings from a file and the environment; relative paths are taken from the folder of the file.

    Args:
        environment: read GEOPIPE_SECTION__KEY, too.
        overrides: "section.key=value" or "layers.NAME.key=value", the value as TOML (bare words are text); or a dict
            of such keys with Python values.

    Raises:
        SettingsError: every mistake with file, line, key, value, and what to write instead.
    """
    return _checked(_Values(path, overrides, environment), path.resolve().parent)


def parse(values: Mapping[str, Any], overrides: Overrides = (), environment: bool = False) -> Settings:
    """Settings from a dict of sections; relative paths are taken from the working folder.

    Args:
        environment: read GEOPIPE_SECTION__KEY, too.

    Raises:
        SettingsError: every mistake with section.key, value, and what to write instead.
    """
    return _checked(_Values(values, overrides, environment), Path.cwd())


def _checked(source: _Values, folder: Path) -> Settings:
    mistakes = source.wide_numbers()
    if mistakes:
        raise united(mistakes)
    mistakes = source.same_names()
    try:
        settings = Settings(**source.values)
    except ValidationError as error:
        mistakes = source.explainer.explain(error) + mistakes
    if mistakes:
        raise united(mistakes)
    return absolute(settings, folder)


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


def absolute(settings: Settings, folder: Path) -> Settings:
    """The same settings with local relative paths made absolute."""

    def full(path: str) -> str:
        return uris.absolute(path, folder)

    def fully(paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(full(path) for path in paths)

    layers = tuple(s.model_copy(update={"path": fully(s.path), "allow": fully(s.allow)}) for s in settings.layers)
    folders = {key: full(path) for key in ("output", "staging") if (path := getattr(settings.run, key)) is not None}
    run = settings.run.model_copy(update=folders)
    grid = settings.grid
    named = {key: full(path) for key in ("like", "mask") if (path := getattr(grid, key)) is not None}
    grid = grid.model_copy(update=named | {"allow": fully(grid.allow)})
    return settings.model_copy(update={"layers": layers, "run": run, "grid": grid})


def origins(settings: Settings, path: Path, flags: tuple[str, ...]) -> list[tuple[str, Any, str]]:
    """Key, value and origin of every setting: a flag, the environment, file and line, or the default."""
    source = _Values(path, flags)
    rows = []
    for section, values in settings.model_dump(mode="json").items():
        tables = enumerate(values) if isinstance(values, list) else [(None, values)]
        for index, table in tables:
            own = source.values.get(section, {}) if index is None else source.values[section][index]
            for key, value in table.items():
                keys: Keys = (section, key) if index is None else (section, index, key)
                rows.append((source.explainer.name(keys), value, source.where(keys) if key in own else "default"))
    return rows
