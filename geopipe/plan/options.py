"""The settings of a plan beside grid and layers, as values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """The files of the table, and its columns derived from a cell's place.

    `csv_files` is "tiles" or "one"; `partition_by` a variable of classes or "tile", with a folder for each value;
    `geometry` "point" for GeoParquet. `lonlat` and `h3` (a resolution) add columns. `encoding` "plain" is for readers
    of Parquet without byte stream split.
    """

    csv_files: str = "tiles"
    partition_by: str | None = None
    geometry: str | None = None
    lonlat: bool = False
    h3: int | None = None
    encoding: str = "auto"

    @property
    def by_values(self) -> bool:
        """Whether the rows of a tile go to folders by the values of a variable."""
        return self.partition_by not in (None, "tile")

    @property
    def needs_whole_tiles(self) -> bool:
        """Whether all rows of a tile must be there before its first file is written."""
        return self.geometry is not None or self.by_values


@dataclass(frozen=True)
class Options:
    """The settings of a plan beside grid and layers.

    `tolerance` is "auto", "exact" or source pixels; `whole` chooses the baseline, which reads whole rasters;
    `compress` (of CSV) is "gzip", "zstd" or "none"; a run that would decode more than `max_pixels` is refused;
    `engine` is "auto", "ray" or "local".
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
    engine: str = "auto"
