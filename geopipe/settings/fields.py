"""Fields of the settings: their types and validators.

Every key has its meaning below it in `sections`. `geopipe config reference`, the top-level settings.toml and
docs/settings.md take it from there.
"""

from __future__ import annotations

import math
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from geopipe.errors import SettingsError
from geopipe.grid.crs import crs_of
from geopipe.proposals import from_windows
from geopipe.text import numbers


class Section(BaseModel):
    """A table of the settings. Unknown keys are errors, and text is not converted to numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def refusal(message: str, hint: str) -> PydanticCustomError:
    """The error of a validator, with a hint of its own."""
    return PydanticCustomError("refused", "{message}", {"message": message, "hint": hint})


def _pair(value: Any) -> Any:
    """A number as a pair of it."""
    return [value, value] if isinstance(value, int | float) and not isinstance(value, bool) else value


def as_list(value: Any) -> Any:
    """A text or whole number as a list of it."""
    return [value] if isinstance(value, str | int) else value


def _texts(value: Any) -> Any:
    """Dates, numbers and texts as a list of texts; a single one may stand alone."""
    values = value if isinstance(value, list | tuple) else [value]
    return [v.isoformat() if isinstance(v, date) else str(v) if isinstance(v, int | float) else v for v in values]


def _known_crs(value: str) -> str:
    try:
        crs_of(value)
    except SettingsError as error:
        raise refusal(error.message, error.hint) from None
    return value


def _local_path(value: str) -> str:
    """A path or URI, without control characters (from a backslash in double quotes) and not of Windows."""
    control = next((c for c in value if c < " " or c == "\x7f"), None)
    if control is not None:
        raise refusal(
            f"there is the character {control!r} in it: a backslash in double quotes has a meaning of its own",
            "write slashes, or the path in single quotes",
        )
    if path := from_windows(value):
        raise refusal(
            "that is a path of Windows, and this is none", f"give it as this machine sees it, in WSL for example {path}"
        )
    return value


def _above_zero(value: tuple[float, float] | None) -> tuple[float, float] | None:
    if value is not None and not all(0 < size < math.inf for size in value):
        raise refusal("a cell has a width and a height above zero", "for example resolution = 90")
    return value


def _in_order(value: Any) -> Any:
    if isinstance(value, tuple):
        (x0, y0, x1, y1), finite = value, all(map(math.isfinite, value))
        if not (finite and x0 < x1 and y0 < y1):
            ordered = numbers((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), 12)
            raise refusal(f"{list(value)} are empty: bounds are xmin, ymin, xmax, ymax", f"did you mean [{ordered}]?")
    return value


def setting(default: Any, allowed: str = "", example: Any = None, hint: str = "", **rules: Any) -> Any:
    """A field, with what an error says about it. Its meaning is the text below it.

    Args:
        default: the default; `...` for a required key.
        allowed: the values that are allowed, as the end of a sentence (left out: from the type).
        example: a value that is allowed.
        hint: what a person must know to correct the value.
        rules: constraints of pydantic: ge, le, pattern.
    """
    extra = {"allowed": allowed, "example": example, "hint": hint}
    return Field(default, json_schema_extra={name: value for name, value in extra.items() if value}, **rules)


# what some keys accept, as the end of a sentence
CRS_RULE = 'a CRS in quotes: an authority code such as "EPSG:32612", WKT or PROJ text'
ADDRESSES = "folders and beginnings of addresses in quotes"
COLUMN = "the name of a column in quotes"
AT_LEAST_ONE = "a whole number of at least 1"

Method = Literal[
    "auto", "nearest", "bilinear", "cubic", "cubic_spline", "lanczos", "average", "mean", "mode", "max", "min", "med",
    "q1", "q3", "sum", "rms", "std",
]  # fmt: skip
Statistic = Literal["auto", "mean", "sum", "min", "max", "count", "first", "mode"]

AsList = BeforeValidator(as_list)
Crs = Annotated[str, AfterValidator(_known_crs)]
Name = Annotated[str, Field(min_length=1)]
PathText = Annotated[str, AfterValidator(_local_path)]
Paths = Annotated[tuple[PathText, ...], AsList]
Names = Annotated[tuple[str, ...], AsList]
Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]
CellSize = Annotated[tuple[float, float] | None, BeforeValidator(_pair), AfterValidator(_above_zero)]
GridBounds = Annotated[
    Literal["union", "intersection"] | tuple[float, float, float, float] | None, AfterValidator(_in_order)
]
