"""A finished table, opened: its schema, grid and provenance, and its rows as Arrow, pandas, Ray or xarray."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import LocalFileSystem

from geopipe.errors import PlanError, SettingsError
from geopipe.export import objects, state
from geopipe.export.state import SUCCESS
from geopipe.grid.crs import Bounds, crs_of
from geopipe.grid.grid import Grid
from geopipe.layers import uris
from geopipe.layers.layer import Kind
from geopipe.proposals import near
from geopipe.redaction import redact
from geopipe.table.drawing import draw_apart, draw_random, draw_spatial, draw_stratified, take
from geopipe.table.files import Files, unit_of, window_of
from geopipe.table.points import PointsLike, points_of
from geopipe.validate.facts import facts_in

if TYPE_CHECKING:
    import pandas as pd
    import ray.data
    import xarray as xr


def open_table(output: str | os.PathLike[str]) -> Table:
    """Open a finished table in a folder or an object store; reads `_SUCCESS`.

    Raises:
        PlanError: there is no finished run, or `_SUCCESS` is damaged.
        MachineError: the folder or the store cannot be read.
    """
    name = os.fspath(output)
    if uris.is_store(name):
        store = objects.connect(name)
        fs, root, success = store.fs, store.root, objects.finished(store)
    else:
        folder = Path(name).expanduser().absolute()
        fs, root, success = LocalFileSystem(), str(folder), state.finished(folder)
    name = redact(name)
    if success is None:
        raise PlanError(f"{name} holds no finished run", "give the output of a finished run (run.output)")
    facts = facts_in(success, f"{SUCCESS} of {name}")
    form = "parquet" if "parquet" in success["formats"] else "csv"
    layers = success.get("provenance", {}).get("layers", ())
    units = {variable["name"]: variable["unit"] for layer in layers for variable in layer["variables"]}
    return Table(name, success, Files(name, fs, root, form, facts, success["schema"], units))


@dataclass(frozen=True)
class Table:
    """A finished table of geopipe. A row is a cell of the grid, a column a variable.

    `columns` of a method are names; None means all. `bounds` are (xmin, ymin, xmax, ymax) in units of the grid's CRS:
    the cells whose centre lies inside or on them. `where` is an expression of `pyarrow.compute`. Tiles and row groups
    that cannot hold such rows are not read.

    Args:
        output: the folder or URI as it was opened.
        success: the contents of `_SUCCESS`.
        files: the files of the table.
    """

    output: str
    success: Mapping[str, Any] = field(repr=False)
    files: Files = field(repr=False)

    @property
    def grid(self) -> Grid:
        """The grid of the cells: CRS, cell size, width and height."""
        return self.files.facts.grid

    @property
    def bounds(self) -> Bounds:
        """Outer edges of the grid: xmin, ymin, xmax, ymax in units of its CRS."""
        return self.grid.bounds

    @property
    def schema(self) -> pa.Schema:
        """Columns with types; the metadata of a field has its unit and layer."""
        return self.files.schema

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.success["rows"])

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns: row, col, x, y, then the variables."""
        return tuple(self.schema.names)

    @property
    def kinds(self) -> dict[str, Kind]:
        """The kind of each variable: what its numbers are."""
        layers = self.success.get("provenance", {}).get("layers", ())
        return {v["name"]: Kind(layer["kind"]) for layer in layers for v in layer["variables"]}

    @property
    def provenance(self) -> dict[str, Any]:
        """How the table was made: run, plan, versions of libraries, layers with their methods, sources, mask."""
        keys = ("run_id", "name", "plan_hash", "skipped", "warnings")
        run = {key: self.success[key] for key in keys if key in self.success}
        return run | dict(self.success.get("provenance", {}))

    def arrow(
        self, columns: Sequence[str] | None = None, bounds: Bounds | None = None, where: pc.Expression | None = None
    ) -> pa.Table:
        """Rows as a table of Arrow, with the types of the files; missing values are nulls.

        Example:
            >>> import pyarrow.compute as pc
            >>> import geopipe as gp
            >>> table = gp.open("output")
            >>> high = table.arrow(["x", "y", "elevation"], where=pc.field("elevation") >= 1000)
            >>> high.num_rows
            200
            >>> table.arrow(bounds=(500000, 4999900, 500100, 5000000)).num_rows
            100
        """
        window = window_of(self.grid, bounds)
        return self.files.read(self.files.keys_in(window), self._named(columns), window, where)

    def pandas(
        self, columns: Sequence[str] | None = None, bounds: Bounds | None = None, where: pc.Expression | None = None
    ) -> pd.DataFrame:
        """Rows as a data frame. Missing values are NaN; integers with missing values become pandas' nullable integers.

        Example:
            >>> import geopipe as gp
            >>> gp.open("output").pandas(["elevation"]).elevation.max()
            np.float32(1199.0)
        """
        import pandas as pd

        def nullable(kind: pa.DataType) -> Any:
            name = str(kind).replace("int", "Int").replace("uI", "UI")
            return pd.api.types.pandas_dtype(name) if pa.types.is_integer(kind) else None

        table = self.arrow(columns, bounds, where)
        pairs = zip(table.column_names, table.columns, strict=True)
        return pd.DataFrame({n: c.to_pandas(types_mapper=nullable if c.null_count else None) for n, c in pairs})

    def ray(
        self, columns: Sequence[str] | None = None, bounds: Bounds | None = None, where: pc.Expression | None = None
    ) -> ray.data.Dataset:
        """Rows as a lazy Ray Dataset: each task reads some tiles, one at a time.

        Example:
            >>> import geopipe as gp
            >>> gp.open("output").ray(["elevation"]).max("elevation")
            1199.0
        """
        from geopipe.engine.reading import tiles_dataset

        window = window_of(self.grid, bounds)
        read = partial(self.files.read, columns=self._named(columns), window=window, where=where)
        return tiles_dataset(read, self.files.keys_in(window))

    def xarray(self, columns: Sequence[str] | None = None, bounds: Bounds | None = None) -> xr.Dataset:
        """Variables as a Dataset of xarray on (y, x), lazy: indexing reads the tiles that it touches, and no others.

        Floats have NaN where the table has no value. An integer column with a value in every cell of the grid keeps its
        type. Others become floats with NaN as in `xarray.open_dataset`: float32 for 8 and 16 bits, else float64. A
        64-bit column with numbers beyond 2**53 stays integer, and its attribute `_FillValue` marks the missing cells.

        The attributes follow CF: units, long_name, and the grid mapping `spatial_ref`, which rioxarray and QGIS read.

        Args:
            columns: names of variables; None for all of them.
            bounds: xmin, ymin, xmax, ymax in units of the grid's CRS.

        Example:
            >>> import geopipe as gp
            >>> dataset = gp.open("output").xarray()
            >>> dict(dataset.sizes)
            {'y': 30, 'x': 40}
            >>> float(dataset.elevation.sel(x=500105, y=4999995, method="nearest"))
            10.0
        """
        from geopipe.table.lazy import dataset_of

        return dataset_of(self, self._named(columns or tuple(self.files.facts.variables)), window_of(self.grid, bounds))

    def sample(
        self,
        n: int,
        seed: int = 0,
        columns: Sequence[str] | None = None,
        by: Literal["random", "stratified", "spatial"] = "random",
        classes: str | None = None,
        proportional: bool = False,
    ) -> pa.Table:
        """Some rows without repetition; all rows where there are no more than `n`.

        The same seed gives the same rows, whatever the number and the format of the files. Tiles are read one at a
        time, and the rows of the sample alone are kept: for "random" the tiles in which they lie, else every tile.

        Args:
            n: number of rows.
            seed: of the random numbers.
            columns: names of columns; None for all.
            by: "random" gives each row the same chance. "stratified" takes the same number of each class; what a rare
                class lacks comes from the others. "spatial" spreads the rows evenly over the cells that there are, each
                with the same chance (generalized random-tessellation stratified sampling, Stevens and Olsen 2004).
            classes: the column that has the class of a row, for "stratified". Rows without a class are left out.
            proportional: "stratified" takes as many of a class as its share of the rows.

        Returns:
            Rows in the order of the tiles, and of row and col within a tile.

        Raises:
            SettingsError: a column does not exist, or the arguments do not go together.

        Example:
            >>> import geopipe as gp
            >>> table = gp.open("output")
            >>> table.sample(100, seed=1).equals(table.sample(100, seed=1))
            True
            >>> table.sample(16, by="spatial", columns=["row", "col"]).num_rows
            16
        """
        names = self._named(columns)
        if n < 0:
            raise SettingsError(f"n = {n} is below 0", "give a number of rows")
        if by not in ("random", "stratified", "spatial"):
            raise SettingsError(f"by = {by!r} is not known", 'give "random", "stratified" or "spatial"')
        if (classes is not None) != (by == "stratified"):
            hint = 'give both: by="stratified", classes="landcover"'
            raise SettingsError(f"by = {by!r} does not go with classes = {classes!r}", hint)
        if by == "random":
            return take(self.files, draw_random(self.files, n, seed), names)
        if by == "spatial":
            return take(self.files, draw_spatial(self.files, n, seed), names)
        (column,) = self._named(classes)
        return take(self.files, draw_stratified(self.files, n, seed, column, proportional), names)

    def background(
        self,
        n: int,
        presences: PointsLike,
        distance: float = 0.0,
        seed: int = 0,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Some rows away from points, each with the same chance: background or pseudo-absences for presences.

        Tiles are read one at a time, and the rows of the sample alone are kept. A sample does not depend on tiles and
        formats.

        Args:
            n: number of rows; all that are far enough where there are fewer.
            presences: columns x and y in the unit of the grid's CRS, or row and col: a table of Arrow, a data frame, or
                arrays by name. They may lie off the grid.
            distance: least distance from the centre of a cell to every presence: in the grid's unit; in metres on a
                sphere where the grid is geographic. 0 leaves out no cell.
            seed: of the random numbers.
            columns: names of columns; None for all.

        Returns:
            Rows in the order of the tiles, and of row and col within a tile.

        Raises:
            SettingsError: the presences have no places, or the distance is below 0.

        Example:
            >>> import geopipe as gp
            >>> table = gp.open("output")
            >>> rows = table.background(50, {"x": [500_200.0], "y": [4_999_850.0]}, distance=100, seed=1)
            >>> rows.num_rows
            50
        """
        names = self._named(columns)
        if n < 0 or not 0 <= distance < math.inf:
            raise SettingsError(f"n = {n}, distance = {distance} are not both 0 or more", "give numbers from 0 on")
        points = points_of(self.grid, presences, "presences")
        if not len(points.x):
            raise SettingsError("presences has no point", 'give points, or use sample(n, by="random")')
        return take(self.files, draw_apart(self.files, n, seed, (points.x, points.y), distance), names)

    def schema_of(self, columns: Iterable[str]) -> pa.Schema:
        """The schema of some columns.

        Raises:
            SettingsError: the table lacks one.
        """
        names = self._named(list(columns))
        return pa.schema([self.schema.field(name) for name in names], metadata=self.schema.metadata)

    def _named(self, columns: Sequence[str] | None) -> list[str]:
        """Names of columns that the table has."""
        if columns is None:
            return list(self.schema.names)
        names = [columns] if isinstance(columns, str) else list(columns)
        for name in names:
            if name not in self.schema.names:
                meant = near(name, self.columns, {})
                hint = f"did you mean {meant!r}?" if meant else f"columns: {', '.join(self.columns)}"
                raise SettingsError(f"{self.output} has no column {name!r}", hint)
        return names

    def _repr_html_(self) -> str:
        grid = self.grid
        rows = "".join(
            f"<tr><td>{html.escape(f.name)}</td><td>{html.escape(str(f.type))}</td><td>{html.escape(unit_of(f))}</td></tr>"
            for f in self.schema
        )
        return (
            f"<div><b>{html.escape(str(self.success.get('name', 'table')))}</b> {self.rows:,} rows in "
            f"{html.escape(self.output)}<br>{html.escape(crs_of(grid.crs).name)}, {grid.width:,} x {grid.height:,} "
            f"cells of {grid.dx:g} x {grid.dy:g}"
            f"<table><tr><th>column</th><th>type</th><th>unit</th></tr>{rows}</table></div>"
        )
