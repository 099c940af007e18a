"""Pixels of coordinates in a raster with ground control points or an RPC model, by GDAL's own transformers."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from geopipe.grid.crs import Transform
from geopipe.layers.header import Georeference


@lru_cache(maxsize=64)
def model_of(georeference: Georeference) -> Transform:
    """The function from x, y to pixels (col, row), infinite where unknown. An RPC model has its default height."""
    from rasterio.control import GroundControlPoint  # few sources need rasterio before their pixels are read
    from rasterio.rpc import RPC
    from rasterio.transform import GCPTransformer, RPCTransformer

    if georeference.points:
        transformer = GCPTransformer([GroundControlPoint(*point) for point in georeference.points])
    else:
        transformer = RPCTransformer(RPC.from_gdal(dict(georeference.rpcs)))

    def to_pixels(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        col, row = np.full(x.shape, np.inf), np.full(x.shape, np.inf)
        known = np.isfinite(x) & np.isfinite(y)
        if known.any():
            row[known], col[known] = transformer.rowcol(x[known], y[known], op=np.asarray)
        return col, row

    return to_pixels
