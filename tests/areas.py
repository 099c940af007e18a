"""A statistic of cells by their footprints, as a block computes it."""

from __future__ import annotations

import numpy as np

from geopipe.resample.coverage import EVERYWHERE
from geopipe.resample.footprints import Footprints
from geopipe.resample.methods import Window
from geopipe.resample.statistics import statistic_of


def block_statistic(
    name: str,
    footprints: Footprints,
    pixels: np.ndarray,
    valid: np.ndarray = EVERYWHERE,
    corner: tuple[int, int] = (0, 0),
) -> tuple[np.ndarray, np.ndarray]:
    """The statistic of each cell, and the share of its area that is valid (0 where the statistic is arbitrary)."""
    shape = tuple(n - 1 for n in footprints.corners.cols.shape)
    (coverage,) = footprints.coverages(Window(*corner, *pixels.shape))
    values, moments = statistic_of(name, pixels, valid, coverage)
    share = np.minimum(moments.areas / np.where(moments.areas > 0, coverage.sizes, 1), 1).astype(np.float32)
    return values.reshape(shape), share.reshape(shape)
