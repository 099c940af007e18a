"""geopipe: many rasters in, one table out.

`import geopipe as gp` has `gp.plan`, `gp.run`, `gp.merge`, `gp.open`, `gp.inspect`, `gp.validate`, `gp.analyze`,
`gp.rasterize`, `gp.predict`, `gp.folds`, `gp.applicability` and `gp.report` (`geopipe.api`, `geopipe.table_api`).
A name is loaded at its first use, so that the import itself takes no time and loads no library.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

TYPE_CHECKING = False  # type checkers take it for true; typing itself takes longer to load than all the rest
if TYPE_CHECKING:
    from typing import Any

    from geopipe.api import inspect as inspect
    from geopipe.api import merge as merge
    from geopipe.api import open as open  # noqa: A004
    from geopipe.api import plan as plan
    from geopipe.api import run as run
    from geopipe.api import validate as validate
    from geopipe.errors import GeopipeError as GeopipeError
    from geopipe.plan.plan import Plan as Plan
    from geopipe.run.summary import Summary as Summary
    from geopipe.settings.model import Settings as Settings
    from geopipe.table.table import Table as Table
    from geopipe.table_api import analyze as analyze
    from geopipe.table_api import applicability as applicability
    from geopipe.table_api import folds as folds
    from geopipe.table_api import predict as predict
    from geopipe.table_api import rasterize as rasterize
    from geopipe.table_api import report as report

__version__ = "0.1.0"

_HOMES = dict.fromkeys(("plan", "run", "merge", "open", "inspect", "validate"), "geopipe.api")
_HOMES |= dict.fromkeys(("analyze", "predict", "rasterize", "folds", "applicability", "report"), "geopipe.table_api")
_HOMES |= {
    "Settings": "geopipe.settings.model",
    "Plan": "geopipe.plan.plan",
    "Summary": "geopipe.run.summary",
    "Table": "geopipe.table.table",
    "GeopipeError": "geopipe.errors",
}

__all__ = [
    "plan",
    "run",
    "merge",
    "open",
    "inspect",
    "validate",
    "analyze",
    "rasterize",
    "predict",
    "folds",
    "applicability",
    "report",
    "Settings",
    "Plan",
    "Summary",
    "Table",
    "GeopipeError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'geopipe' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Face(ModuleType):
    """The type of this module: `geopipe.plan` stays the function, also after the package of that name was imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
