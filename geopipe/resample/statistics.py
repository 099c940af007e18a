"""Statistics of the pixels under cells. Cells are a `Coverage`, or `Whole`: whole pixels make each cell."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geopipe.resample.counted import whole_deviations, whole_modes, whole_moments, whole_ranks, whole_sums
from geopipe.resample.coverage import SLIVER, Coverage, Floats, Mask
from geopipe.resample.weighted import Moments, deviations, moments, ranks

STATISTICS = ("average", "std", "rms", "sum", "min", "max", "med", "q1", "q3", "mode")

QUANTILES = {"q1": 0.25, "med": 0.5, "q3": 0.75}

SUMS = ("average", "sum")
"""Statistics of floats that need areas and sums alone."""

FEW = 16
"""Pixels of a cell up to which a mode takes less time by comparing them than by sorting them."""


class Whole(NamedTuple):
    """Cells that are made of `rows` x `cols` whole pixels each, from the first pixel of the window on."""

    rows: int
    cols: int


def statistic_of(
    name: str, pixels: Floats, valid: Mask, cells: Coverage | Whole, known: Moments | None = None
) -> tuple[NDArray[Any], Moments]:
    """A statistic of cells, and the moments that it is made of.

    Args:
        name: one of STATISTICS.
        pixels: (height, width) of the window.
        valid: (height, width) bool for integers, EVERYWHERE for floats.
        cells: in the window.
        known: moments of the same pixels and cells from a statistic before. They spare a pass if they suffice.

    Returns:
        (n,) of the pixels' type, arbitrary for a cell without valid pixels; and moments, which have at least areas.
    """
    if name == "mode" and isinstance(cells, Whole) and cells.rows * cells.cols <= FEW:
        modes, areas = whole_modes(pixels, valid, cells.rows, cells.cols)
        nothing = np.zeros(0), np.zeros(0), modes[:0], modes[:0]
        return modes, known or Moments(areas, *nothing)
    if known is None or not (known.sums if name in SUMS else known.squares).size:
        known = _moments_of(name, pixels, valid, cells)
    if name in ("min", "max"):
        return known.lows if name == "min" else known.highs, known
    if name in ("mode", *QUANTILES):
        share = QUANTILES.get(name, 0.0)
        if isinstance(cells, Whole):
            return whole_ranks(pixels, valid, cells.rows, cells.cols, known, share, SLIVER), known
        return ranks(pixels, valid, cells, known, share, SLIVER), known
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
    return result.astype(pixels.dtype), known


def _moments_of(name: str, pixels: Floats, valid: Mask, cells: Coverage | Whole) -> Moments:
    """The moments that a statistic needs."""
    if not isinstance(cells, Whole):
        return moments(pixels, valid, cells)
    if name in SUMS:
        return whole_sums(pixels, cells.rows, cells.cols)
    return whole_moments(pixels, valid, cells.rows, cells.cols)
