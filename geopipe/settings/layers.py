"""Settings of a layer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import field_validator

from geopipe.layers import uris
from geopipe.layers.layer import Kind, Overlap
from geopipe.settings.fields import (
    ADDRESSES,
    COLUMN,
    CRS_RULE,
    AsList,
    Crs,
    Method,
    Name,
    Names,
    Paths,
    Section,
    Statistic,
    Texts,
    refusal,
    setting,
)


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
