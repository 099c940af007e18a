"""Columns on their way to bands: the type in which a value is stored, and the number that marks a cell without one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from geopipe.errors import SettingsError
from geopipe.layers.layer import Kind
from geopipe.table.files import unit_of
from geopipe.table.table import Table
from geopipe.validate.facts import Ends

EXACT = {"float32": 2**24, "float64": 2**53}
"""Integers up to this number are exact in a float type."""

TICKS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}

INTEGERS = tuple(np.dtype(name) for name in ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"])
FLOATS = (np.dtype("float32"), np.dtype("float64"))

AVERAGE, MODE, NEAREST = "average", "mode", "nearest"


@dataclass(frozen=True)
class MapColumn:
    """A column that becomes a band.

    Attributes:
        stored: Arrow's type of its values in the map.
        classes: name and colour by value, where they are known.
        overviews: the resampling that suits its values.
    """

    name: str
    stored: pa.DataType
    unit: str = ""
    classes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    overviews: str = AVERAGE

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its values in NumPy."""
        own: np.dtype[Any] = np.dtype(self.stored.to_pandas_dtype())
        return own


@dataclass(frozen=True)
class Pixels:
    """How cells are stored in a file. `nodata` marks a missing cell; without a free number it is None.

    `masked`: a mask band marks the missing cells instead.
    """

    dtype: np.dtype[Any]
    nodata: float | int | None
    masked: bool = False


def column_of(own: pa.Field, table: Table | None) -> MapColumn:
    """A column by its field in the rows.

    Args:
        own: the field; unit and type are its own.
        table: a finished table; its column of this name gives the classes, the kind, and a unit that the field lacks.

    Raises:
        SettingsError: no raster has values of this type.
    """
    stored, unit = _stored(own)
    twin = table.schema.field(own.name) if table is not None and own.name in table.columns else None
    unit = unit or unit_of(own) or (unit_of(twin) if twin is not None else "")
    kind = table.kinds.get(own.name) if table is not None else None
    classes = table.provenance.get("classes", {}).get(own.name, {}) if table is not None else {}
    return MapColumn(own.name, stored, unit, classes, _overviews(stored, kind))


def _stored(own: pa.Field) -> tuple[pa.DataType, str]:
    """The type in which a column is stored in a raster, and the unit that follows from its type."""
    kind = own.type.value_type if pa.types.is_dictionary(own.type) else own.type
    if pa.types.is_boolean(kind):
        return pa.uint8(), ""
    if pa.types.is_float16(kind):
        return pa.float32(), ""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return kind, ""
    if pa.types.is_date32(kind):
        return pa.int32(), "days since 1970-01-01"
    if pa.types.is_date64(kind):
        return pa.int64(), "milliseconds since 1970-01-01"
    if pa.types.is_timestamp(kind):
        return pa.int64(), f"{TICKS[kind.unit]} since 1970-01-01"
    if pa.types.is_duration(kind):
        return pa.int64(), TICKS[kind.unit]
    hint = "leave it out, or cast it to float64 first"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        hint = "number its classes first, in pandas: frame[name], names = pandas.factorize(frame[name])"
    raise SettingsError(f"column {own.name!r} is of type {own.type}; a raster holds numbers only", hint)


def _overviews(stored: pa.DataType, kind: Kind | None) -> str:
    """The resampling of overviews that suits a column; `kind` is that of its variable, if it is known."""
    if pa.types.is_integer(stored) and stored.bit_width == 64:
        return NEAREST  # GDAL computes the others in floats, which do not hold each number
    if kind is Kind.CIRCULAR:
        return NEAREST
    if pa.types.is_floating(stored) or kind in (Kind.CONTINUOUS, Kind.COUNT):
        return AVERAGE
    return MODE


def overviews_of(columns: Sequence[MapColumn]) -> str:
    """The resampling of a file's overviews: GDAL has one for all bands, and nearest is wrong for none."""
    choices = {column.overviews for column in columns}
    return choices.pop() if len(choices) == 1 else NEAREST


def pixels_of(columns: Sequence[MapColumn], ends: Mapping[str, Ends], all_cells: bool) -> Pixels:
    """The type of a file that holds all columns exactly, with a number outside their values for missing cells.

    Args:
        columns: of the file.
        ends: nulls, least and greatest value of each column.
        all_cells: each cell of the map has a row.

    Raises:
        SettingsError: there is no such type.
    """
    own, complete = [c.dtype for c in columns], all_cells and not any(ends[c.name].nulls for c in columns)
    if any(dtype.kind == "f" for dtype in own):
        for dtype in FLOATS:
            if all(_floats(dtype, column, ends[column.name]) for column in columns):
                return Pixels(dtype, math.nan)
        raise _no_type(columns, "no type of float holds all of them exactly")
    fitting = [dtype for dtype in INTEGERS if all(np.can_cast(one, dtype) for one in own)]
    if len(set(own)) == 1:
        fitting = [own[0], *(dtype for dtype in fitting if dtype.itemsize > own[0].itemsize)]
    for dtype in fitting if len(columns) > 1 else own:
        nodata = _free(dtype, [ends[c.name] for c in columns])
        if nodata is not None or complete:
            return Pixels(dtype, nodata)
    if len(columns) > 1:
        why = "no type of integer holds all of them with a number left for no-data" if fitting else "their types differ"
        raise _no_type(columns, why)
    return Pixels(own[0], None, masked=True)


def _floats(dtype: np.dtype[Any], column: MapColumn, ends: Ends) -> bool:
    """Whether a float type holds the values of a column exactly. Of 64-bit integers the values decide."""
    if column.dtype.kind == "f" or column.dtype.itemsize < 8:
        return np.can_cast(column.dtype, dtype)
    return max(abs(ends.low or 0), abs(ends.high or 0)) <= EXACT[dtype.name] and dtype == FLOATS[-1]


def _free(dtype: np.dtype[Any], ends: Sequence[Ends]) -> int | None:
    """An end of an integer type that no column has. float64 holds it, too: so do programs read it."""
    limits = np.iinfo(dtype)
    top = limits.max if dtype.itemsize < 8 else limits.max + 1 - 2 ** (11 if dtype.kind == "u" else 10)
    lows, highs = (
        [v for v in values if v is not None] for values in zip(*((e.low, e.high) for e in ends), strict=True)
    )
    low, high = min(lows, default=1), max(highs, default=1)
    choices = (limits.min, top) if dtype.kind == "i" else (top, 0)
    return next((int(number) for number in choices if number < low or number > high), None)


def _no_type(columns: Sequence[MapColumn], why: str) -> SettingsError:
    names = ", ".join(f"{c.name} {c.stored}" for c in columns)
    return SettingsError(
        f"one file cannot hold these columns: {names}; the bands of a file have one type, and {why}",
        "give columns of one type, or a file for each",
    )
