"""Find the missing values of a band: nodata, NetCDF's other no-data attributes, and NaN. Pure functions."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geopipe.layers.header import Band

Values = NDArray[Any]
Mask = NDArray[np.bool_]
Number = float | int


def find_missing(values: Values, nodata: Number | None) -> Mask | None:
    """The mask of values that are equal to nodata, or NaN. None if no value can be missing.

    Of a float nodata beyond 1e30 five digits count: writers differ in the last digits of 3.4e38.
    """
    if values.dtype.kind == "f":
        missing: Mask = np.isnan(values)
        if nodata is not None and abs(nodata) > 1e30:
            end = sys.float_info.max if math.isfinite(nodata) else math.inf
            near = sorted(min(max(nodata * factor, -end), end) for factor in (1 - 1e-5, 1 + 1e-5))
            low, high = map(np.float64, near)  # float32 may not hold them
            missing |= (values >= low) & (values <= high)
        elif nodata is not None:
            missing |= values == values.dtype.type(nodata)
        return missing
    if nodata is None or not math.isfinite(nodata) or int(nodata) != nodata:
        return None
    limits = np.iinfo(values.dtype)
    return values == values.dtype.type(int(nodata)) if limits.min <= nodata <= limits.max else None


def missing_in(values: Values, band: Band) -> Mask | None:
    """The mask of missing stored values by all attributes of a band. None if no value can be missing."""
    masks = [find_missing(values, nodata) for nodata in dict.fromkeys((band.nodata, *band.missing))]
    low, high = band.limits
    masks += [values < low] if low is not None else []
    masks += [values > high] if high is not None else []
    known = [mask for mask in masks if mask is not None]
    return functools.reduce(np.logical_or, known) if known else None


def declared(
    tags: Mapping[str, str], dtype: str, nodata: Number | None
) -> tuple[tuple[Number, ...], tuple[Number | None, Number | None]]:
    """No-data numbers of a NetCDF variable beside its nodata, and its smallest and largest valid number.

    GDAL takes only one no-data number, and a range only if it has both ends. A reversed range is ignored.
    """
    own = np.dtype(dtype)

    def numbers(key: str) -> list[Number]:
        parsed = [_number(text) for text in tags.get(key, "").strip("{}").split(",")]
        plain = [number for number in parsed if number is not None]
        if own.kind == "u":  # _Unsigned: attributes have the signed type in which the file stores its values
            plain = [number + 2 ** (8 * own.itemsize) if number < 0 else number for number in plain]
        return plain

    others = [n for n in numbers("_FillValue") + numbers("missing_value") if not math.isnan(n)]
    if nodata is not None:  # the text of a float has fewer digits than it
        others = [n for n in others if not math.isclose(n, nodata, rel_tol=1e-6 if own.kind == "f" else 0.0)]
    missing = tuple(dict.fromkeys(others))
    ends = numbers("valid_range")
    least, most = (ends[:1], ends[1:]) if len(ends) == 2 else (numbers("valid_min"), numbers("valid_max"))
    low, high = (number[0] if len(number) == 1 else None for number in (least, most))
    backwards = low is not None and high is not None and low > high
    return missing, (None, None) if backwards else (low, high)


def _number(text: str) -> Number | None:
    """Parse a number: an integer if it is one that 64 bits hold. None if it is no number."""
    try:
        number = float(text)
        return int(text) if text.strip().lstrip("+-").isdecimal() and abs(number) < 2**64 else number
    except ValueError:
        return None
