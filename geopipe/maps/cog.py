"""Write an area of a map as a Cloud Optimized GeoTIFF, piece by piece.

The pieces go to a tiled GeoTIFF, which GDAL's driver then translates: overviews need all cells. Memory holds a piece
and GDAL's block cache, however large the area is.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from geopipe import machine
from geopipe.errors import MachineError
from geopipe.export.publish import free_bytes
from geopipe.grid.grid import BLOCK, Grid, Tile
from geopipe.load.gdal import GDAL_ERRORS
from geopipe.load.messages import damages, listening
from geopipe.maps.cells import fill
from geopipe.maps.columns import overviews_of
from geopipe.maps.rows import Pieces
from geopipe.maps.vrt import Content, MapPart, vrt_text

CACHE = 256 * 2**20
"""Bytes of GDAL's block cache."""

FULL = 16 * 2**20
"""Bytes: with fewer free ones, an error of writing is that of a full disk."""


def write_cog(path: Path, grid: Grid, area: Tile, content: Content, pieces: Pieces) -> MapPart:
    """Write an area of a map; temporary files are beside it.

    Args:
        pieces: of the area, with their rows.

    Raises:
        SettingsError: two rows are of one cell.
        MachineError: the files cannot be written.
    """
    cells, mask = (path.with_name(f"{path.stem}.{name}.tif") for name in ("cells", "mask"))
    with _errors(path):
        _write_cells((cells, mask), grid, area, content, pieces)
    masked = content.pixels.masked
    text = vrt_text(grid, area, content, [MapPart(cells, area, (mask, "1") if masked else None)])
    options: dict[str, Any] = {
        "BLOCKSIZE": BLOCK,
        "COMPRESS": "ZSTD",
        "PREDICTOR": "YES",
        "OVERVIEWS": "IGNORE_EXISTING",
        "OVERVIEW_RESAMPLING": overviews_of(content.columns).upper(),
        "BIGTIFF": "IF_SAFER",
        "STATISTICS": "YES" if content.finite else "NO",
        "NUM_THREADS": machine.cpus(),
    }
    with _errors(path):
        rasterio.shutil.copy(text, str(path), driver="COG", **options)
    cells.unlink()
    mask.unlink(missing_ok=True)
    return MapPart(path, area, (path, "mask,1") if masked else None)


def _write_cells(paths: tuple[Path, Path], grid: Grid, area: Tile, content: Content, pieces: Pieces) -> None:
    """Write the pieces of an area to a tiled GeoTIFF, and where they have values to another one."""
    common: dict[str, Any] = {"driver": "GTiff", "width": area.width, "height": area.height}
    common |= {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "zstd", "zstd_level": 1}
    common |= {"bigtiff": "yes", "interleave": "band", "transform": grid.transform_of(area)}
    pixels, (cells, mask) = content.pixels, paths
    common |= {"count": len(content.columns)}
    with ExitStack() as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a grid of unit cells from 0, 0 looks like none
        values = opened.enter_context(rasterio.open(cells, "w", dtype=pixels.dtype.name, **common))
        valid = pixels.masked and opened.enter_context(rasterio.open(mask, "w", dtype="uint8", **common | {"count": 1}))
        for piece, parts in pieces:
            window = Window(piece.col - area.col, piece.row - area.row, piece.width, piece.height)
            bands, present = fill(piece, parts, content.columns, pixels)
            values.write(bands, window=window)
            if valid:
                valid.write(present.astype(np.uint8) * 255, 1, window=window)


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Errors of GDAL as one of ours, those included that it reports when it closes a file."""
    reason = ""
    try:
        with listening() as messages:
            yield
    except GDAL_ERRORS as error:
        reason = next(iter(damages(messages)), str(error))
    else:
        reason = next(iter(damages(messages)), "")
    if not reason:
        return
    free = free_bytes(path.parent)
    if free < FULL:
        text = f"the disk is full: {path.name} could not be written, {free:,} bytes are free in {path.parent.parent}"
        raise MachineError(text, "free some space, or choose a folder on another disk")
    raise MachineError(f"{path.name} cannot be written. GDAL says: {reason[:300]}", "choose another folder")
