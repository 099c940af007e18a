"""The methods of analysis by name, made of settings. A module is imported when its method is used."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from geopipe.analysis.contract import Method, Subject
from geopipe.errors import SettingsError
from geopipe.proposals import near
from geopipe.settings.analysis import AnalysisSettings

if TYPE_CHECKING:
    from geopipe.table.table import Table

CLASSES = {
    "summary": "SummaryMethod",
    "correlation": "Correlation",
    "pca": "Pca",
    "kmeans": "Kmeans",
    "som": "Som",
    "autocorrelation": "Autocorrelation",
    "regions": "Regions",
    "gwpca": "Gwpca",
}
"""The class of each method, in the module of its name."""


def method_of(name: str, settings: AnalysisSettings) -> Method:
    """A method with the options that the settings have for it, under names that begin with its own."""
    module = importlib.import_module(f"geopipe.analysis.methods.{name}")
    kind = getattr(module, CLASSES[name])
    method: Method = kind(**{field.name: getattr(settings, f"{name}_{field.name}") for field in fields(kind)})
    return method


def subject_of(table: Table, settings: AnalysisSettings) -> Subject:
    """What the settings analyse of a table.

    Raises:
        SettingsError: a column is no variable of the table.
    """
    columns = columns_of(settings.columns, list(table.files.facts.variables), table.output)
    return Subject(table, columns, settings.nulls, settings.seed)


def columns_of(names: Sequence[str], variables: Sequence[str], table: str) -> tuple[str, ...]:
    """Variables by their names; without names all of them.

    Args:
        variables: those that there are.
        table: what has them, for the message.

    Raises:
        SettingsError: there is no such variable.
    """
    for name in names:
        if name not in variables:
            meant = near(name, variables)
            hint = f"did you mean {meant!r}?" if meant else f"variables: {', '.join(variables)}"
            raise SettingsError(f"{table} has no variable {name!r}", hint)
    return tuple(dict.fromkeys(names)) or tuple(variables)
