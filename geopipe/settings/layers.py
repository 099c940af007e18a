"""Settings of a layer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, field_validator

from geopipe.layers import uris
from geopipe.layers.layer import Kind, Overlap
from geopipe.settings.fields import ALLOW, CRS_RULE, Crs, Method, PathText, Section, Statistic, as_list, setting, texts
from geopipe.settings.mistakes import refusal


class LayerSettings(Section):
    """A layer: rasters or tables that become one or more columns. The table keeps the order of the layers."""

    name: str = setting(
        ..., "name of the column; with several bands the columns are name_band",
        "a name for the column: letters, digits and _, no digit first", "elevation",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"
    )  # fmt: skip
    path: Annotated[tuple[PathText, ...], BeforeValidator(as_list)] = setting(
        ..., "file, folder, glob pattern or URI of rasters or tables, or a list of them",
        "a file, folder, pattern or URI in quotes, or a list of them", "dem.tif", min_length=1
    )  # fmt: skip
    driver: str | None = setting(
        None, 'GDAL driver, if the file name does not tell it; needed for a web service: "WMS"',
        "the name of a driver of GDAL in quotes", "SAGA", min_length=1
    )  # fmt: skip
    allow: Annotated[tuple[PathText, ...], BeforeValidator(as_list)] = setting(
        (), "folders and address prefixes, beside its own folder, that a VRT or STAC item may refer to",
        "folders and beginnings of addresses in quotes", ALLOW
    )  # fmt: skip
    asset: str | None = setting(
        None, "asset of each STAC item (default: its only data asset)", "the name of an asset in quotes", "B04",
        min_length=1
    )  # fmt: skip
    sort_by: Literal["datetime", "-datetime", "cloud_cover", "-cloud_cover"] | None = setting(
        None, "order of STAC items; a minus reverses it: -datetime is newest first", example="cloud_cover"
    )
    variable: str | None = setting(
        None, "variable of a file with several: NetCDF, HDF5, Zarr, GRIB", "the name of a variable in quotes", "tas",
        min_length=1
    )  # fmt: skip
    bands: Annotated[tuple[int | str, ...], BeforeValidator(as_list)] = setting(
        (), "numbers or descriptions of bands (default: all)",
        "numbers of bands from 1 on, or words of their descriptions", [1, 2]
    )  # fmt: skip
    time: Annotated[tuple[str, ...], BeforeValidator(texts)] = setting(
        (), 'bands of a day, month, year or range "1999-03/1999-05", or a list of them (default: all)',
        "a day, month, year, or a range of them, or a list of such", "1999-03/1999-05"
    )  # fmt: skip
    level: Annotated[tuple[str, ...], BeforeValidator(texts)] = setting(
        (), 'bands of a level or range "1000/500", or a list of them (default: all)',
        "a level, a range of them, or a list of such", 850
    )  # fmt: skip
    reduce: Literal["mean", "min", "max", "sum"] | None = setting(
        None, "one column of all times instead of one for each; missing values are left out"
    )
    kind: Kind | None = setting(
        None, "what the numbers are; circular: degrees (default: categorical with a colour table, else continuous)",
        example="continuous"
    )  # fmt: skip
    resampling: Annotated[tuple[Method, ...], BeforeValidator(as_list)] = setting(
        ("auto",), "method; auto: by kind and scale, the plan says why; a list makes a column each", min_length=1
    )
    nodata: int | float | None = setting(
        None, "number that means no value, if the file lacks it", "a number", -9999,
        "leave it out where the file says it, or where there is none"
    )  # fmt: skip
    crs: Crs | None = setting(None, "CRS of files that lack it or have a wrong one", CRS_RULE, "EPSG:32612")
    scale: float | None = setting(None, "value = stored number x scale + offset, if the file lacks it", "a number", 0.1)
    offset: float | None = setting(None, "see scale", "a number", -273.15)
    unit: str | None = setting(None, "unit for the table's schema, if the file lacks it", "text in quotes", "m")
    unpack: bool = setting(True, "apply the file's own scale and offset")
    georeference: Literal["gcps", "rpcs"] | None = setting(
        None, "place the file by its ground control points (gcps) or its RPC model (rpcs)"
    )
    bits: tuple[int, int] | None = setting(
        None, "first and last bit of a bit field, as in quality bands", "the first and the last bit", [3, 4]
    )
    fractions: bool | tuple[int, ...] = setting(
        False, "true: also a column with the share of each class (reads every pixel to plan); or a list of classes",
        "true, false or a list of classes", [10, 20]
    )  # fmt: skip
    valid_fraction: bool = setting(False, "true: also a column with the share of the cell that has values")
    min_valid: float = setting(
        0.0, "leave cells empty that have values on a smaller share", "a share from 0 to 1", 0.5, ge=0, le=1
    )
    overlap: Overlap = setting(Overlap.FIRST, "value where several files cover a cell")
    on_error: Literal["fail", "skip"] = setting(
        "fail", "skip: leave the columns of a broken layer empty, say so, and exit with code 4"
    )
    table: str | None = setting(
        None, "table in Postgres", "the name of a table in quotes", "public.wells", min_length=1
    )
    query: str | None = setting(
        None, "query in Postgres, instead of a table", "a query in quotes", "select * from wells where depth > 10",
        min_length=1
    )  # fmt: skip
    key: str | None = setting(
        None, "column of whole numbers by which Postgres is read in ranges (default: the primary key)",
        "the name of a column of whole numbers in quotes", "id", min_length=1
    )  # fmt: skip
    x: str | None = setting(
        None, "column of x (default: x, x_coord, lon or longitude)", "the name of a column in quotes", "lon",
        min_length=1
    )  # fmt: skip
    y: str | None = setting(
        None, "column of y (default: y, y_coord, lat or latitude)", "the name of a column in quotes", "lat",
        min_length=1
    )  # fmt: skip
    values: Annotated[tuple[str, ...], BeforeValidator(as_list)] = setting(
        (), "columns of values, a variable each (default: value, else the only other column of numbers)",
        "names of columns in quotes", ["depth", "yield"]
    )  # fmt: skip
    weight: str | None = setting(
        None, "column of weights for mean and sum; rows without a weight do not count",
        "the name of a column in quotes", "area", min_length=1
    )  # fmt: skip
    aggregate: Annotated[tuple[Statistic, ...], BeforeValidator(as_list)] = setting(
        ("auto",), "what the points of a cell become; auto: by kind; a list makes a column each", min_length=1
    )
    cells: Literal["centres", "corners", "index"] | None = setting(
        None, "each row is a cell: x and y are its centre, its upper left corner, or column and row of the grid"
    )
    on_misaligned: Literal["fail", "aggregate"] = setting(
        "fail", "cells that are off by more than merge.alignment_tolerance; aggregate: treat them as points"
    )

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
