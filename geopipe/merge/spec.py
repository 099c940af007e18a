"""What the table looks like: its columns, and which cells are its rows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from geopipe.grid.grid import Grid, Tile
from geopipe.layers.layer import Overlap, Variable
from geopipe.merge import derived

COORDINATES = (("row", pa.int32()), ("col", pa.int32()), ("x", pa.float64()), ("y", pa.float64()))
RESERVED = frozenset({"row", "col", "x", "y", "lon", "lat", "h3", "tile", "geometry"})
"""Names of columns that no variable may have."""


@dataclass(frozen=True)
class TableSpec:
    """The columns of the table, and the rules for its rows. `overlaps` has the rule of each variable.

    `how`: "outer" keeps the cells that any layer covers, "inner" those that all layers cover, "grid" all cells. Of
    these, cells without a value of a `required` variable are dropped. `null_layers` are skipped layers: null
    everywhere, they do not count in "inner". `lonlat` and `h3` (a resolution) add columns derived from a cell's place.
    """

    grid: Grid
    window_size: int
    variables: tuple[Variable, ...]
    overlaps: tuple[Overlap, ...]
    how: str
    null_layers: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    metadata: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    lonlat: bool = False
    h3: int | None = None

    @property
    def schema(self) -> pa.Schema:
        fields = [pa.field(name, kind, nullable=False) for name, kind in COORDINATES]
        fields += derived.fields(self.lonlat, self.h3)
        for v in self.variables:
            about = {"layer": v.layer, "band": str(v.band.index), "unit": v.unit, "description": v.band.description}
            about |= v.band.place | {"categories": json.dumps(dict(v.band.categories)) if v.band.categories else ""}
            fields.append(
                pa.field(v.name, pa.from_numpy_dtype(np.dtype(v.dtype)), metadata={k: t for k, t in about.items() if t})
            )
        return pa.schema(fields, metadata=dict(self.metadata))

    def tile(self, key: int) -> Tile:
        return self.grid.tile(key, self.window_size)
