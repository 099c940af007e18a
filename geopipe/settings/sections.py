"""The keys of every section, each with its meaning below it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from geopipe.grid.grid import BLOCK
from geopipe.layers import uris
from geopipe.layers.layer import Kind, Overlap
from geopipe.settings.fields import (
    ADDRESSES,
    AT_LEAST_ONE,
    COLUMN,
    CRS_RULE,
    AsList,
    CellSize,
    Crs,
    GridBounds,
    Method,
    Name,
    Names,
    Paths,
    PathText,
    Section,
    Statistic,
    Texts,
    refusal,
    setting,
)


class Run(Section):
    """Name and output of the run."""

    name: str = setting(
        "run",
        "a label of letters, digits, . _ - that begins with a letter or digit",
        "soils-2024",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$",
    )
    """label of the run"""
    output: PathText = "output"
    """folder of the table, or prefix of an object store: "s3://bucket/prefix", gs://, abfs:// (see docs)"""
    staging: PathText | None = setting(
        None, "the path of a folder in quotes", "work", min_length=1, validate_default=True
    )
    """only for an object store: folder, shared by all nodes, where the run works until its table is sent"""

    @field_validator("output")
    @classmethod
    def _output_is_a_folder_or_a_store(cls, value: str) -> str:
        if uris.is_store(value) and (problem := uris.store_problem(value)):
            raise refusal(problem, "correct run.output")
        return value

    @field_validator("staging")
    @classmethod
    def _staging_is_for_a_store(cls, value: str | None, info: ValidationInfo) -> str | None:
        if "output" not in info.data:  # the output has an error of its own
            return value
        store = uris.is_store(info.data["output"])
        if store and value is None:
            raise refusal(
                "run.output is an object store, which has no rename; a run needs a folder to work in",
                'add staging = "<a folder>", on a file system that all nodes share',
            )
        if value is not None and uris.is_store(value):
            raise refusal(
                "it must be a folder: a run works there and renames its files", 'for example staging = "work"'
            )
        if value is not None and not store:
            raise refusal("run.output is a folder, and a run works there", "leave staging out")
        return value

    @property
    def store(self) -> str | None:
        """The URI of the object store that receives the finished table; None if the output is a folder."""
        return self.output if uris.is_store(self.output) else None

    @property
    def folder(self) -> Path:
        """The folder in which the run works: the output, or `staging` for an object store."""
        return Path(self.staging or self.output)


class GridSettings(Section):
    """The target grid. One cell of it is one row of the table."""

    crs: Crs | None = setting(None, CRS_RULE, "EPSG:32612")
    """CRS of the grid: authority code, WKT or PROJ text"""
    resolution: CellSize = setting(
        None, "a number, or [width, height]", 90, "it counts in units of grid.crs, without a name of the unit"
    )
    """size of a cell in units of the CRS: one number, or [width, height]"""
    bounds: GridBounds = setting(
        None,
        '"union", "intersection" or four numbers',
        [600000, 5130000, 650000, 5170000],
        "they are xmin, ymin, xmax, ymax in units of grid.crs",
    )
    """xmin, ymin, xmax, ymax in units of the CRS; or "union" (default) or "intersection" of the layers"""
    like: PathText | None = setting(None, "the path of a raster in quotes", "dem.tif")
    """raster that gives CRS, cells and extent where the keys above are left out"""
    allow: Paths = setting((), ADDRESSES, ["/data/tiles", "https://host/"])
    """folders and address prefixes that like and mask may refer to, if they are VRTs"""
    snap: bool | None = None
    """move edges outward to multiples of the resolution (default: only for union and intersection)"""
    mask: PathText | None = setting(None, "the path of a vector file or raster in quotes", "park.gpkg", min_length=1)
    """drop cells whose centre is outside: a vector file of polygons, or a raster (inside is valid and not 0)"""
    mask_layer: Name | None = setting(None, "the name of a layer of grid.mask in quotes", "core_zone")
    """layer of a vector file that has several"""
    mask_crs: Crs | None = setting(None, CRS_RULE, "EPSG:4326")
    """CRS of a mask whose file lacks it or has a wrong one"""

    @field_validator("mask_layer", "mask_crs")
    @classmethod
    def _mask_exists(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("mask", "") is None:
            raise refusal("it says something of a mask, but there is no grid.mask", "add mask =, or leave it out")
        return value


class LayerSettings(Section):
    """A layer: rasters or tables that become one or more columns. The table keeps the order of the layers."""

    name: str = setting(
        ...,
        "a name for the column: letters, digits and _, no digit first",
        "elevation",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$",
    )
    """name of the column; with several bands the columns are name_band"""
    path: Paths = setting(..., "a file, folder, pattern or URI in quotes, or a list of them", "dem.tif", min_length=1)
    """file, folder, glob pattern or URI of rasters or tables, or a list of them"""
    driver: Name | None = setting(None, "the name of a driver of GDAL in quotes", "SAGA")
    """GDAL driver, if the file name does not tell it; needed for a web service: "WMS\""""
    allow: Paths = setting((), ADDRESSES, ["/data/tiles", "https://host/"])
    """folders and address prefixes, beside its own folder, that a VRT or STAC item may refer to"""
    asset: Name | None = setting(None, "the name of an asset in quotes", "B04")
    """asset of each STAC item (default: its only data asset)"""
    sort_by: Literal["datetime", "-datetime", "cloud_cover", "-cloud_cover"] | None = setting(
        None, example="cloud_cover"
    )
    """order of STAC items; a minus reverses it: -datetime is newest first"""
    variable: Name | None = setting(None, "the name of a variable in quotes", "tas")
    """variable of a file with several: NetCDF, HDF5, Zarr, GRIB"""
    bands: Annotated[tuple[int | str, ...], AsList] = setting(
        (), "numbers of bands from 1 on, or words of their descriptions", [1, 2]
    )
    """numbers or descriptions of bands (default: all)"""
    time: Texts = setting((), "a day, month, year, or a range of them, or a list of such", "1999-03/1999-05")
    """bands of a day, month, year or range "1999-03/1999-05", or a list of them (default: all)"""
    level: Texts = setting((), "a level, a range of them, or a list of such", 850)
    """bands of a level or range "1000/500", or a list of them (default: all)"""
    reduce: Literal["mean", "min", "max", "sum"] | None = None
    """one column of all times instead of one for each; missing values are left out"""
    kind: Kind | None = setting(None, example="continuous")
    """what the numbers are; circular: degrees (default: categorical with a colour table, else continuous)"""
    resampling: Annotated[tuple[Method, ...], AsList] = setting(("auto",), min_length=1)
    """method; auto: by kind and scale, the plan says why; a list makes a column each"""
    nodata: int | float | None = setting(
        None, "a number", -9999, "leave it out where the file says it, or where there is none"
    )
    """number that means no value, if the file lacks it"""
    crs: Crs | None = setting(None, CRS_RULE, "EPSG:32612")
    """CRS of files that lack it or have a wrong one"""
    scale: float | None = setting(None, "a number", 0.1)
    """value = stored number x scale + offset, if the file lacks it"""
    offset: float | None = setting(None, "a number", -273.15)
    """see scale"""
    unit: str | None = setting(None, "text in quotes", "m")
    """unit for the table's schema, if the file lacks it"""
    unpack: bool = True
    """apply the file's own scale and offset"""
    georeference: Literal["gcps", "rpcs"] | None = None
    """place the file by its ground control points (gcps) or its RPC model (rpcs)"""
    bits: tuple[int, int] | None = setting(None, "the first and the last bit", [3, 4])
    """first and last bit of a bit field, as in quality bands"""
    fractions: bool | tuple[int, ...] = setting(False, "true, false or a list of classes", [10, 20])
    """true: also a column with the share of each class (reads every pixel to plan); or a list of classes"""
    valid_fraction: bool = False
    """true: also a column with the share of the cell that has values"""
    min_valid: float = setting(0.0, "a share from 0 to 1", 0.5, ge=0, le=1)
    """leave cells empty that have values on a smaller share"""
    overlap: Overlap = Overlap.FIRST
    """value where several files cover a cell"""
    on_error: Literal["fail", "skip"] = "fail"
    """skip: leave the columns of a broken layer empty, say so, and exit with code 4"""
    table: Name | None = setting(None, "the name of a table in quotes", "public.wells")
    """table in Postgres"""
    query: Name | None = setting(None, "a query in quotes", "select * from wells where depth > 10")
    """query in Postgres, instead of a table"""
    key: Name | None = setting(None, "the name of a column of whole numbers in quotes", "id")
    """column of whole numbers by which Postgres is read in ranges (default: the primary key)"""
    x: Name | None = setting(None, COLUMN, "lon")
    """column of x (default: x, x_coord, lon or longitude)"""
    y: Name | None = setting(None, COLUMN, "lat")
    """column of y (default: y, y_coord, lat or latitude)"""
    values: Names = setting((), "names of columns in quotes", ["depth", "yield"])
    """columns of values, a variable each (default: value, else the only other column of numbers)"""
    weight: Name | None = setting(None, COLUMN, "area")
    """column of weights for mean and sum; rows without a weight do not count"""
    aggregate: Annotated[tuple[Statistic, ...], AsList] = setting(("auto",), min_length=1)
    """what the points of a cell become; auto: by kind; a list makes a column each"""
    cells: Literal["centres", "corners", "index"] | None = None
    """each row is a cell: x and y are its centre, its upper left corner, or column and row of the grid"""
    on_misaligned: Literal["fail", "aggregate"] = "fail"
    """cells that are off by more than merge.alignment_tolerance; aggregate: treat them as points"""

    @field_validator("scale")
    @classmethod
    def _scale_is_not_zero(cls, value: float | None) -> float | None:
        if value == 0:
            raise refusal("a scale of 0 would make every value the same", "leave scale out, or give another number")
        return value

    @field_validator("path")
    @classmethod
    def _path_has_no_password(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(map(uris.has_password, value)):
            raise refusal(
                "there is a password in it, and settings are copied to the output",
                "give it in GEOPIPE_POSTGRES_DSN, PGPASSWORD or a password file",
            )
        return value


class ResamplingSettings(Section):
    """How cells get their values, for all layers."""

    window_size: int = Field(2048, ge=BLOCK, le=128 * BLOCK, multiple_of=BLOCK)
    """edge of a tile in cells; smaller tiles need less memory and give the same table"""
    window_overlap: int | None = setting(None, example=128, ge=0)
    """deprecated, without effect: each window is read as far around as its method needs"""
    tolerance: Literal["auto", "exact"] | Annotated[float, Field(gt=0, le=1)] = "auto"
    """largest error of positions, in source pixels (auto: exact for classes, else 0.01)"""
    skip_data_loading_for_passthrough: bool = True
    """copy pixels that are cells of the grid already; false: resample them, too"""
    allow_ballpark: bool = False
    """true: transform without a datum shift that PROJ does not know, instead of refusing the layer"""
    enable_memory_aware_processing: bool = True
    """false (deprecated): read rasters whole, in one process, for comparison"""
    use_legacy_resampling: bool = False
    """deprecated: as enable_memory_aware_processing = false"""
    use_legacy_passthrough: bool = False
    """deprecated: as enable_memory_aware_processing = false"""

    @property
    def old_way(self) -> bool:
        """Whether rasters are read whole, in one process."""
        return self.use_legacy_resampling or self.use_legacy_passthrough or not self.enable_memory_aware_processing


class MergeSettings(Section):
    """How layers become rows."""

    how: Literal["outer", "inner", "grid"] = "outer"
    """rows: cells where any layer has a value (outer), all have one (inner), or every cell (grid)"""
    drop: Literal["any", "all"] | tuple[str, ...] = ()
    """drop rows where one of these columns or layers is null; any: any column; all: each column"""
    strategy: Literal["auto", "aligned", "groupby"] = "auto"
    """tile by tile (aligned) or by a shuffle of tiles (groupby); the table is the same"""
    wave_tiles: int | None = setting(None, AT_LEAST_ONE, 16, ge=1)
    """tiles that are shuffled at a time (default: a fifth of the object store)"""
    alignment_tolerance: float = Field(0.01, ge=0, lt=0.5)
    """how far a pixel may be off its cell, in pixels, and still be copied"""
    enable_validation: bool = True
    """check rows, nulls and ranges before the table is published"""
    enable_chunked_processing: bool | None = None
    """deprecated, without effect: tables are merged tile by tile, see window_size"""
    chunk_size: int | None = setting(None, example=5000, ge=1)
    """deprecated, without effect: see window_size and wave_tiles"""


class ExportSettings(Section):
    """The files of the table."""

    formats: Annotated[tuple[Literal["parquet", "csv"], ...], AsList] = setting(
        ("parquet",),
        '"parquet" or "csv", or a list of them',
        ["parquet", "csv"],
        "the output is a table, not a raster",
        min_length=1,
    )
    """one or both"""
    compress: bool | Literal["gzip", "zstd"] = True
    """compression of CSV (true: gzip); Parquet is always compressed"""
    enable_streaming: bool = True
    """false (deprecated): format a whole tile of CSV at once"""
    chunk_size: int = Field(100_000, ge=1)
    """rows of CSV that are formatted at a time"""
    csv_files: Literal["tiles", "one"] = "tiles"
    """a CSV file for each tile, or one for all: csv/table.csv.gz"""
    partition_by: Name | None = setting(None, 'the name of a variable of classes, or "tile"', "landcover")
    """folders of Parquet by a variable of classes (landcover=20), or by "tile\""""
    geometry: Literal["point"] | None = None
    """GeoParquet 1.1: a column geometry with the centre of the cell"""
    lonlat: bool = False
    """true: columns lon and lat of the cell's centre, in degrees on WGS 84"""
    h3: int | None = setting(None, "a resolution of H3 from 0 to 15", 9, ge=0, le=15)
    """column h3 with the H3 cell of the centre, as a number (pip install geopipe[h3])"""
    encoding: Literal["auto", "plain"] = "auto"
    """encoding of floats in Parquet; plain for readers that fail with encoding 9 (fastparquet)"""

    @property
    def rows_at_once(self) -> int:
        """Rows of CSV that are formatted at a time. Without streaming it is more than any tile has."""
        return self.chunk_size if self.enable_streaming else 2**62

    @property
    def compression(self) -> str:
        """How CSV is compressed: "gzip", "zstd" or "none"."""
        return self.compress if isinstance(self.compress, str) else "gzip" if self.compress else "none"


class ReportSettings(Section):
    """The report on the table: OUTPUT/report.html."""

    enabled: bool = True
    """write the report at the end of the run; takes maps and a sample while tiles are written"""


class MonitoringSettings(Section):
    """Logs, records and metrics of the run."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"
    """least level of the log on stderr"""
    log_format: Literal["text", "json"] = "text"
    """text, or an object of JSON a line"""
    progress_interval: float = Field(5.0, gt=0)
    """seconds between lines of progress"""
    enable_database_logging: bool = True
    """record the run in Postgres: the one of GEOPIPE_MONITORING_DSN or GEOPIPE_MONITORING_DSN_FILE, else one that
    geopipe starts on this machine (see geopipe monitor)"""
    log_batch_size: int = Field(100, ge=1, le=10_000)
    """records that a process sends at a time"""
    log_flush_interval: float = Field(5.0, gt=0)
    """seconds that a record waits at most"""
    enable_metrics: bool = True
    """sample processor, memory, object store, spilled objects and disk of each node"""
    metrics_interval: float = Field(10.0, gt=0)
    """seconds between two samples"""
    prometheus_port: int | None = setting(None, "a port from 1 to 65535", 9490, ge=1, le=65_535)
    """port on which a run answers Prometheus while it works (default: no port)"""
    prometheus_host: Name | None = setting(None, "an address of this machine in quotes", "0.0.0.0")
    """address for Prometheus (default: 127.0.0.1, on a cluster 0.0.0.0)"""
    spool_bytes: int = Field(64 * 2**20, ge=2**20)
    """bytes of records that may wait on disk in each process; beyond it the least important are dropped"""


class EngineSettings(Section):
    """What executes the plan. Every key may be left out."""

    kind: Literal["auto", "ray", "local"] = "auto"
    """Ray, or this process alone (local); auto: Ray where a cluster exists or where it is faster by the plan; the table
    is the same"""
    address: str | None = setting(None, "the address of a Ray cluster in quotes", "auto")
    """Ray cluster to join; http://head:8265 takes a job (default: RAY_ADDRESS, else a Ray of its own)"""
    workers: int | None = setting(None, AT_LEAST_ONE, 4, ge=1)
    """processes that read and merge (default: one for each processor)"""
    max_workers: int | None = setting(None, AT_LEAST_ONE, 64, ge=1)
    """processes on a Ray cluster that grows and shrinks by itself: from engine.workers up to so many"""
    label_selector: dict[str, str] = setting(
        {}, "a table of labels with their values in quotes", {"ray.io/market-type": "spot"}
    )
    """labels of the nodes of a Ray cluster that read and resample: a value, !value, in(a,b) or !in(a,b)"""
    memory: int | None = setting(None, "a number of bytes, without a name of the unit", 8_000_000_000, ge=1)
    """bytes that the run may use; a plan that needs more is refused (default: 80 % of the free memory)"""
    object_store_memory: int | None = setting(
        None, f"a number of bytes of at least {80 * 2**20:,}", 500_000_000, ge=80 * 2**20
    )
    """bytes of Ray's shared memory (default: at most 640 MiB)"""
    max_pixels: int | None = setting(None, AT_LEAST_ONE, 100_000_000_000, ge=1)
    """source pixels that a run may decode; a plan with more is refused (default: any number)"""

    @field_validator("max_workers")
    @classmethod
    def _at_least_workers(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value < (info.data.get("workers") or 1):
            raise refusal("it is below engine.workers", "give engine.workers or more")
        return value
