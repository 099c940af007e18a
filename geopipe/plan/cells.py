"""The cells that become rows: the extent of a mask, and the variables that merge.drop requires."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geopipe.errors import SettingsError
from geopipe.grid.grid import Grid
from geopipe.grid.polygons import Mask, Polygons, covered, squares
from geopipe.layers.layer import Variable

Runs = tuple[tuple[int, int], ...]
"""Rising keys of tiles as ranges (first, last + 1), which stay few for many tiles."""

SQUARES = 1 << 22
"""Most squares of cells by which the cells of a mask are counted. In a smaller grid each cell is counted."""


@dataclass(frozen=True)
class Reach:
    """The extent of a mask, known before a tile is computed.

    `runs` are the tiles that it may meet. At most `cells` cells are inside, or just as many if `exact`.
    """

    uri: str
    runs: Runs
    cells: int
    exact: bool

    @property
    def tiles(self) -> int:
        return sum(end - start for start, end in self.runs)

    def describe(self) -> dict[str, Any]:
        """The reach as JSON values, for `parse`."""
        return {"file": self.uri, "tiles": [list(run) for run in self.runs], "cells": self.cells, "exact": self.exact}

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Reach:
        """The reach from the JSON values of `describe`.

        Raises:
            KeyError, TypeError, ValueError: the values are others.
        """
        runs = tuple((int(start), int(end)) for start, end in data["tiles"])
        return cls(str(data["file"]), runs, int(data["cells"]), bool(data["exact"]))


def reach_of(area: Polygons, grid: Grid, window_size: int, *, whole: bool) -> Reach:
    """The reach of a mask in these polygons.

    Args:
        whole: the polygons are the mask; else the mask is a part of their area.
    """
    runs = runs_of(np.flatnonzero(squares(area, grid, window_size)))
    if whole and grid.cells <= SQUARES:
        cells = int(np.count_nonzero(covered(area, grid.xs(0, grid.width), grid.ys(0, grid.height))))
        return Reach(area.uri, runs, cells, True)
    size = 2
    while np.prod(grid.tiling(size)) > SQUARES:
        size *= 2
    return Reach(area.uri, runs, _cells(squares(area, grid, size), grid, size), False)


def _cells(meeting: Mask, grid: Grid, size: int) -> int:
    """Cells in the squares that meet the mask. The grid's edge cuts the last square of a row and of a column."""
    rows, cols = meeting.shape
    heights = np.minimum(size, grid.height - np.arange(rows) * size)
    widths = np.minimum(size, grid.width - np.arange(cols) * size)
    return int(heights @ meeting.astype(np.int64) @ widths)


def runs_of(keys: NDArray[np.integer[Any]]) -> Runs:
    """The ranges of rising keys."""
    parts = np.split(keys, np.flatnonzero(np.diff(keys) != 1) + 1)
    return tuple((int(part[0]), int(part[-1]) + 1) for part in parts if len(part))


def keys_of(runs: Runs) -> NDArray[np.int64]:
    """The keys of ranges, rising."""
    return np.concatenate([np.zeros(0, np.int64), *(np.arange(start, end) for start, end in runs)])


# ---------------------------------------------------------------- missing values


def effective_how(how: str, drop: str | Sequence[str]) -> str:
    """The rule `how` with merge.drop: "all" drops cells in which every variable is null, as "outer" does."""
    return "outer" if how == "grid" and drop == "all" else how


def required(
    drop: str | Sequence[str], variables: Sequence[Variable], layers: Sequence[str], skipped: Collection[str]
) -> frozenset[str]:
    """The variables that merge.drop names, themselves or by their layer. A cell without a value of one is dropped.

    Args:
        layers: names of all layers, in their order.
        skipped: layers that are null everywhere; they do not count, as in how = "inner".

    Raises:
        SettingsError: a name is unknown, or is a layer and also a variable of another layer.
    """
    if drop == "all":
        return frozenset()
    dropping: list[Variable] = [] if drop != "any" else list(variables)
    for name in drop if drop != "any" else ():
        of_layer, itself = [v for v in variables if v.layer == name], [v for v in variables if v.name == name]
        if not of_layer and not itself:
            known = dict.fromkeys([*layers, *(v.name for v in variables)])
            raise SettingsError(
                f"merge.drop names {name!r}, which is neither a layer nor a column", f"choose from: {', '.join(known)}"
            )
        if of_layer and itself and itself[0].layer != name:
            raise SettingsError(
                f"merge.drop names {name!r}: that is a layer ({', '.join(v.name for v in of_layer)}), "
                f"and a column of the layer {itself[0].layer}",
                "rename one of the two, or name the columns of the layer",
            )
        dropping += itself or of_layer
    return frozenset(v.name for v in dropping if v.layer not in skipped)
