"""Statistics of the pixels under cells. Cells are a `Coverage`, or `Whole`: whole pixels make each cell."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geopipe.resample.counted import whole_deviations, whole_moments, whole_ranks
from geopipe.resample.coverage import SLIVER, Coverage, Floats, Mask
from geopipe.resample.weighted import Moments, deviations, moments, ranks

STATISTICS = ("average", "std", "rms", "sum", "min", "max", "med", "q1", "q3", "mode")

QUANTILES = {"q1": 0.25, "med": 0.5, "q3": 0.75}


class Whole(NamedTuple):
    """Cells that are made of `rows` x `cols` whole pixels each, from the first pixel of the window on."""

    rows: int
    cols: int


def moments_of(pixels: Floats, valid: Mask, cells: Coverage | Whole) -> Moments:
    """The moments of cells.

    Args:
        pixels: (height, width) of the window.
        valid: (height, width) bool for integers, EVERYWHERE for floats.
        cells: in the window.
    """
    if isinstance(cells, Whole):
        return whole_moments(pixels, valid, cells.rows, cells.cols)
    return moments(pixels, valid, cells)


def statistic_of(name: str, pixels: Floats, valid: Mask, cells: Coverage | Whole, known: Moments) -> NDArray[Any]:
    """A statistic of cells: (n,) of the pixels' type; arbitrary for a cell without valid pixels.

    Args:
        name: one of STATISTICS. The other arguments are those of `moments_of`, and `known` is its result.
    """
    if name in ("min", "max"):
        return known.lows if name == "min" else known.highs
    if name in ("mode", *QUANTILES):
        share = QUANTILES.get(name, 0.0)
        if isinstance(cells, Whole):
            return whole_ranks(pixels, valid, cells.rows, cells.cols, known, share, SLIVER)
        return ranks(pixels, valid, cells, known, share, SLIVER)
    with np.errstate(invalid="ignore", divide="ignore"):
        if name == "average":
            result = known.sums / known.areas
        elif name == "rms":
            result = np.sqrt(known.squares / known.areas)
        elif name == "sum":
            result = known.sums
        elif isinstance(cells, Whole):
            result = whole_deviations(pixels, valid, cells.rows, cells.cols, known)
        else:
            result = deviations(pixels, valid, cells, known)
    return result.astype(pixels.dtype)
