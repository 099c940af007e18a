"""What the settings say beside grid and layers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """How the table lies in files, and which columns follow from a cell's place.

    `csv_files` is "tiles" or "one"; `partition_by` a variable of classes or "tile": a folder for each of its values;
    `geometry` "point" for GeoParquet; `lonlat` and `h3` (a resolution) ask for columns; `encoding` "plain" is Parquet
    for readers that do not know the encoding of floats by bytes.
    """

    csv_files: str = "tiles"
    partition_by: str | None = None
    geometry: str | None = None
    lonlat: bool = False
    h3: int | None = None
    encoding: str = "auto"


@dataclass(frozen=True)
class Options:
    """What the settings say beside grid and layers.

    `tolerance` is "auto", "exact" or source pixels; `whole` asks for the old way, which reads whole rasters;
    `compress`, of CSV, is "gzip", "zstd" or "none"; a run that would decode more than `max_pixels` is refused.
    """

    window_size: int = 2048
    tolerance: str | float = "auto"
    whole: bool = False
    passthrough: bool = True
    allow_ballpark: bool = False
    how: str = "outer"
    drop: str | tuple[str, ...] = ()
    strategy: str = "auto"
    wave_tiles: int | None = None
    alignment_tolerance: float = 0.01
    formats: tuple[str, ...] = ("parquet",)
    compress: str = "gzip"
    layout: Layout = Layout()
    max_pixels: int | None = None
