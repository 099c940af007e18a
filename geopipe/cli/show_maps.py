"""What `geopipe rasterize` and `geopipe predict` print."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console

from geopipe.cli.screen import facts, headline
from geopipe.maps.rasterize import RasterMap
from geopipe.text import count, listed, size
from geopipe.training.predict import Predictions


def raster_map(out: Console, written: RasterMap) -> None:
    """Write what a map is, and where."""
    missing = "a mask band" if written.masked else "none" if written.nodata is None else f"{written.nodata}"
    headline(out, str(written.path), f"  {size(written.bytes)} in {count(written.files, 'GeoTIFF')}")
    facts(
        out,
        {
            "bands": f"{listed(written.bands, 20)}; {written.dtype}, no-data: {missing}",
            "cells": f"{written.width:,} x {written.height:,}, {count(written.rows, 'row')} of the table",
            "overviews": written.overviews,
            "seconds": f"{written.seconds:.1f}",
        },
    )


def predictions(out: Console, written: Predictions) -> None:
    """Write what predictions are, where, and how they become a map."""
    headline(
        out,
        str(written.path),
        f"  {count(written.rows, 'row')} in {count(written.files, 'file')}, {size(written.bytes)}",
    )
    missing = f", {written.missing:,} for which the model gives none" if written.missing else ""
    facts(
        out,
        {
            "model": f"{written.model} of {listed(written.columns, 20)}",
            "columns": f"row, col, {listed(written.names, 20)}",
            "null": f"{written.nulls:,} rows with a null in one of the columns{missing}",
            "seconds": f"{written.seconds:.1f}",
            "next": f"geopipe rasterize {written.path} --column {written.names[0]} -o {written.names[0]}.tif",
        },
    )


def json_of(written: RasterMap | Predictions) -> dict[str, Any]:
    """What was written as JSON values; NaN is text, because JSON has none."""
    return {key: "nan" if value != value else value for key, value in asdict(written).items()}
