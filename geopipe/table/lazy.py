"""A table as a Dataset of xarray whose arrays read the tiles that an index touches."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from geopipe.grid.crs import crs_of
from geopipe.table.files import CellWindow, unit_of
from geopipe.validate.facts import Ends

if TYPE_CHECKING:
    from geopipe.table.table import Table

EXACT = 2**53
"""Integers up to this number are exact in float64."""

GRID_MAPPING = "spatial_ref"


def dataset_of(table: Table, columns: Sequence[str], window: CellWindow) -> xr.Dataset:
    """Columns of a table on (y, x), within a window."""
    grid, (top, bottom), (left, right) = table.grid, window.rows, window.cols
    crs = crs_of(grid.crs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters that CF has no word for: crs_wkt has them
        mapping = crs.to_cf()
    x0, y0 = grid.x0 + left * grid.dx, grid.y0 - top * grid.dy
    mapping["GeoTransform"] = f"{x0!r} {grid.dx!r} 0.0 {y0!r} 0.0 {-grid.dy!r}"
    axes = {axis["axis"].lower(): dict(axis) for axis in crs.cs_to_cf()}
    variables = {}
    for name in columns:
        column = table.schema.field(name)
        title = (column.metadata or {}).get(b"description", b"").decode() or name
        attributes = {"long_name": title, "grid_mapping": GRID_MAPPING}
        attributes |= {"units": unit} if (unit := unit_of(column)) else {}
        array = TileArray(table, name)
        attributes |= {} if array.fill is None else {"_FillValue": array.fill}
        whole = xr.Variable(("y", "x"), indexing.LazilyIndexedArray(array), attributes)
        variables[name] = whole[top:bottom, left:right]
    return xr.Dataset(
        variables,
        {
            "y": ("y", grid.ys(top, bottom - top), axes.get("y", {})),
            "x": ("x", grid.xs(left, right - left), axes.get("x", {})),
            GRID_MAPPING: ((), 0, mapping),
        },
        {"Conventions": "CF-1.8", "title": str(table.success.get("name", "")), "source": f"geopipe, {table.output}"},
    )


class TileArray(BackendArray):
    """A column of a table as an array on the whole grid, shape (height, width). It holds no cells itself.

    `blank` is the value of a missing cell; `fill` is it, too, where that is not NaN and not every cell has a value.
    """

    def __init__(self, table: Table, name: str) -> None:
        self.table, self.name = table, name
        self.shape = (table.grid.height, table.grid.width)
        self.dtype, self.fill = _type_and_fill(table, name)
        self.blank = np.nan if self.dtype.kind == "f" else self.fill or 0

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        """The cells of an index: a slice, an array or a number for each of y and x."""
        rows, cols = (np.arange(n)[k] for n, k in zip(self.shape, key, strict=True))
        (r, c), size = (np.atleast_1d(rows), np.atleast_1d(cols)), self.table.files.facts.window_size
        cells = np.full((len(r), len(c)), self.blank, self.dtype)
        for down in np.unique(r // size):
            for across in np.unique(c // size):
                i, j = np.flatnonzero(r // size == down), np.flatnonzero(c // size == across)
                top, left = int(r[i].min()), int(c[j].min())
                part = self._part((top, int(r[i].max()) + 1), (left, int(c[j].max()) + 1))
                cells[np.ix_(i, j)] = part[np.ix_(r[i] - top, c[j] - left)]
        return cells.reshape(rows.shape + cols.shape)

    def _part(self, rows: tuple[int, int], cols: tuple[int, int]) -> NDArray[Any]:
        """The cells of a window inside one tile."""
        window = CellWindow(rows, cols)
        part = self.table.files.read(self.table.files.keys_in(window), ["row", "col", self.name], window)
        column = part[self.name]
        if np.issubdtype(self.dtype, np.floating):
            values = column.cast(pa.from_numpy_dtype(self.dtype), safe=False).to_numpy()
        else:
            values = column.fill_null(pa.scalar(self.blank, column.type)).to_numpy()
        cells = np.full((rows[1] - rows[0], cols[1] - cols[0]), self.blank, self.dtype)
        cells[part["row"].to_numpy() - rows[0], part["col"].to_numpy() - cols[0]] = values
        return cells


def _type_and_fill(table: Table, name: str) -> tuple[np.dtype[Any], Any]:
    """The type of a column as an array, and the number that marks a missing cell (None: NaN, or none is missing)."""
    own = np.dtype(table.schema.field(name).type.to_pandas_dtype())
    if own.kind not in "iu":
        return own, None
    columns = table.files.manifest.columns  # without derived ones, such as h3
    nulls, low, high = columns.get(name, Ends())
    if table.rows == table.grid.cells and name in columns and nulls == 0:
        return own, None
    if own.itemsize <= 2:
        return np.dtype(np.float32), None
    if own.itemsize < 8 or (low is not None and high is not None and low >= -EXACT and high <= EXACT):
        return np.dtype(np.float64), None
    limits = np.iinfo(own)
    return own, own.type(limits.min if own.kind == "i" and low != limits.min else limits.max)
