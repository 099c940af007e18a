"""Settings: one TOML file, `GEOPIPE_SECTION__KEY` in the environment, and `--set section.key=value`.

Flags win over the environment, the environment over the file, the file over the defaults below. Every error names the
place, the value, what may be there instead, and an example; all errors are told at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from geopipe.errors import SettingsError
from geopipe.layers import uris
from geopipe.settings.analysis import AnalysisSettings
from geopipe.settings.mistakes import explain, united
from geopipe.settings.model import Settings
from geopipe.settings.raw import Overrides, RawSettings, places


def load(path: Path, overrides: Overrides = (), environment: bool = True) -> Settings:
    """Read settings from a file and the environment; relative paths are taken from the folder of the file.

    Args:
        environment: read GEOPIPE_SECTION__KEY, too.
        overrides: "section.key=value" or "layers.NAME.key=value", the value as TOML (bare words are text); or a dict
            of such keys with Python values.

    Raises:
        SettingsError: every mistake with file, line, key, value, and what to write instead.
    """
    return _checked(RawSettings(path, overrides, environment), path.resolve().parent)


def parse(values: Mapping[str, Any], overrides: Overrides = (), environment: bool = False) -> Settings:
    """Settings from a dict of sections; relative paths are taken from the working folder.

    Args:
        environment: read GEOPIPE_SECTION__KEY, too.

    Raises:
        SettingsError: every mistake with section.key, value, and what to write instead.
    """
    return _checked(RawSettings(values, overrides, environment), Path.cwd())


def analysis(overrides: Overrides) -> AnalysisSettings:
    """The section [analysis] alone, of flags or values by "analysis.key".

    Raises:
        SettingsError: every mistake, as in a file.
    """
    return parse({"layers": [{"name": "table", "path": "table"}]}, overrides).analysis


def _checked(raw: RawSettings, folder: Path) -> Settings:
    if mistakes := [
        SettingsError(f"{raw.where(keys)}: {raw.name(keys)} has more than 64 bits", "give a smaller number")
        for keys, value in places(raw.values)
        if _is_wide(value)
    ]:
        raise united(mistakes)
    mistakes, names = [], set[str]()
    for keys, name in places(raw.values):
        if keys[0] == "layers" and keys[-1] == "name" and isinstance(name, str):
            if name in names:
                where = raw.where(keys)
                mistakes.append(SettingsError(f"{where}: two layers are named {name!r}", "rename one of the two"))
            names.add(name)
    try:
        settings = Settings(**raw.values)
    except ValidationError as error:
        mistakes = explain(error, raw) + mistakes
    if mistakes:
        raise united(mistakes)
    return absolute(settings, folder)


def _is_wide(value: Any) -> bool:
    """Whether a value is, or a list has, a whole number of more than 64 bits, which TOML does not have."""
    numbers = value if isinstance(value, list) else [value]
    return any(isinstance(number, int) and not -(2**63) <= number < 2**63 for number in numbers)


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
    raw = RawSettings(path, flags)
    own = dict(places(raw.values))
    return [
        (raw.name(keys), value, raw.where(keys) if keys in own else "default")
        for keys, value in places(settings.model_dump(mode="json"))
    ]
