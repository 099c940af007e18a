"""Columns of a table as a map: Cloud Optimized GeoTIFFs on the table's grid, the inverse of the export."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from geopipe.errors import SettingsError
from geopipe.grid.grid import Grid, Tile
from geopipe.layers import uris
from geopipe.load import raster
from geopipe.maps.cog import CACHE, write_cog
from geopipe.maps.columns import overviews_of, pixels_of
from geopipe.maps.commit import check_free, publish, workshop
from geopipe.maps.rows import LooseRows, Pieces, Rows, TableRows, Watch, tiles_in
from geopipe.maps.sources import grid_of, open_rows
from geopipe.maps.vrt import Content, MapPart, vrt_text
from geopipe.table.table import Table

if TYPE_CHECKING:
    import pandas as pd

PART_SIZE = 32768
"""Edge in cells of the files of a large map, by default: a map of more than its square of cells becomes several."""

TIFF, OTHERS = (".tif", ".tiff"), (".vrt", ".png", ".jpg", ".jpeg", ".nc", ".gpkg", ".img", ".asc", ".parquet", ".csv")
"""Ends of the names of GeoTIFFs, and of files of other kinds."""


@dataclass(frozen=True)
class RasterMap:
    """A map that was written.

    Attributes:
        path: of the GeoTIFF, or of the VRT over several.
        bands: names of the columns, in their order.
        dtype: numpy's name of the type of all bands.
        nodata: marks a missing cell. None: no cell is missing, or a mask band marks it.
        masked: whether there is a mask band.
        overviews: the resampling of the overviews.
        rows: of the table that were put on the map.
        files: number of GeoTIFFs.
    """

    path: Path
    bands: tuple[str, ...]
    dtype: str
    nodata: float | int | None
    masked: bool
    overviews: str
    width: int
    height: int
    rows: int
    files: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class MapTarget:
    """Where a map goes. `part_size`: edge of its files in cells, if it becomes a folder of several."""

    path: str | os.PathLike[str]
    part_size: int = PART_SIZE
    overwrite: bool = False


def rasterize(
    table: str | os.PathLike[str] | Table | pa.Table | pd.DataFrame,
    columns: Sequence[str],
    like: str | os.PathLike[str] | Table | None,
    target: MapTarget,
    watch: Watch = lambda title, done, total: None,
) -> RasterMap:
    """Write columns of a table as a map (see `geopipe.table_api.rasterize`)."""
    start = time.perf_counter()
    names = list(dict.fromkeys(columns))
    source = open_rows(table)
    if not names:
        known = source.columns if isinstance(source, Table) else source.rows.schema.names
        raise SettingsError("no column is named", f"name those that become bands; columns: {', '.join(known)}")
    grid, home = grid_of(source, like)
    path = _path(target, grid)
    check_free(path, target.overwrite, lambda folder: (folder / f"{folder.name}.vrt").exists())
    with raster.environment(CACHE), workshop(path) as folder:
        rows: Rows
        if isinstance(source, Table):
            rows = TableRows(source, names)
        else:
            (folder / "rows").mkdir()
            rows = LooseRows(source, grid, names, home, folder / "rows")
            rows.read(source, watch)
        pixels = pixels_of(rows.columns, rows.ends, rows.count == grid.cells)
        finite = all(math.isfinite(end or 0) for ends in rows.ends.values() for end in (ends.low, ends.high))
        content = Content(rows.columns, pixels, finite)
        staged = folder / path.name
        if path.suffix.lower() in TIFF:
            files = [write_cog(staged, grid, _whole(grid), content, _watched(rows, _whole(grid), watch)).path]
        else:
            staged.mkdir()
            size = max(1, target.part_size // rows.step) * rows.step
            watched = ((area, _watched(rows, area, watch)) for area in tiles_in(grid, _whole(grid), size))
            files = _write_parts(staged, grid, content, watched)
        size = sum(file.stat().st_size for file in files)
        publish(staged, path)
    return RasterMap(
        path if path.suffix.lower() in TIFF else path / f"{path.name}.vrt",
        tuple(c.name for c in rows.columns),
        pixels.dtype.name,
        pixels.nodata,
        pixels.masked,
        overviews_of(rows.columns),
        grid.width,
        grid.height,
        rows.count,
        len(files),
        size,
        time.perf_counter() - start,
    )


def _whole(grid: Grid) -> Tile:
    return Tile(0, 0, 0, grid.height, grid.width)


def _watched(rows: Rows, area: Tile, watch: Watch) -> Pieces:
    """The pieces of an area; says how many cells of it are done, then that the overviews are next."""
    done = 0
    for piece, parts in rows.pieces(area):
        yield piece, parts
        done += piece.cells
        watch("cells", done, area.cells)
    watch("overviews", 0, 1)


def _path(target: MapTarget, grid: Grid) -> Path:
    """The path of the map: of a file, or of a folder for a large map and for a name without an ending."""
    name = os.fspath(target.path)
    path = Path(name).expanduser()
    if uris.is_store(name):
        raise SettingsError(f"a map is written to a folder of this machine, not to {name}", "write it, then copy it")
    if path.suffix.lower() in OTHERS:
        raise SettingsError(
            f"{name}: a map is a GeoTIFF", f"give a name like {path.with_suffix('.tif')}, or a folder for a large map"
        )
    if target.part_size < 1:
        raise SettingsError(f"part size {target.part_size} is below 1", "give the edge of a file in cells")
    if path.suffix.lower() in TIFF and grid.cells > target.part_size**2:
        return path.with_suffix("")
    return path


def _write_parts(staged: Path, grid: Grid, content: Content, areas: Iterable[tuple[Tile, Pieces]]) -> list[Path]:
    """Write a map as a GeoTIFF for each area, and a VRT over them. They are named by their first row and column."""
    digits = len(str(max(grid.width, grid.height)))
    parts = list[MapPart]()
    for area, pieces in areas:
        name = f"{staged.name}-r{area.row:0{digits}d}-c{area.col:0{digits}d}.tif"
        parts.append(write_cog(staged / name, grid, area, content, pieces))
        (staged / f"{name}.aux.xml").unlink(missing_ok=True)  # the VRT has the names of classes
    text = vrt_text(grid, _whole(grid), content, parts, staged)
    (staged / f"{staged.name}.vrt").write_text(text, encoding="utf-8")
    return [part.path for part in parts]
