"""Open datasets by name: files, URIs, and variables in files; and read the times and levels of their bands."""

from __future__ import annotations

import os
import re
from contextlib import suppress

import numpy as np
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from geopipe.errors import SourceError
from geopipe.layers import times
from geopipe.layers.access import NOTHING, Access
from geopipe.layers.uris import Subdataset, file_of, in_gdal, is_remote, path_of, subdataset
from geopipe.load.messages import listening, refusing_damage
from geopipe.load.opening import open_dataset

GDAL_ERRORS = (RasterioError, CPLE_BaseError)
"""Errors of GDAL. rasterio is not meant to raise the second kind, but does."""

NETWORK = {
    "GDAL_HTTP_CONNECTTIMEOUT": 5,  # seconds
    "GDAL_HTTP_LOW_SPEED_TIME": 10,  # seconds without a byte
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1,
    "GDAL_HTTP_TIMEOUT": 60,  # of one request, which gets a part of a file
    "GDAL_HTTP_MAX_RETRY": 2,
    "GDAL_HTTP_RETRY_DELAY": 0.5,  # seconds, about doubled each time
}
"""GDAL's time limits for a server that does not answer. By default it would wait for ever."""


def network() -> dict[str, float]:
    """GDAL's settings for remote files, without those that the user's environment has."""
    return {key: value for key, value in NETWORK.items() if key not in os.environ}


def open_raster(uri: str, access: Access = NOTHING) -> DatasetReader:
    """Open a dataset.

    Raises:
        SourceError: the file is missing, unreadable, no raster, or refers to files that it may not (see `opening`).
    """
    try:
        with refusing_damage(uri, uri, access):
            return open_dataset(uri, access)
    except GDAL_ERRORS as error:
        file = file_of(uri)
        hint = "correct path ="
        if file is None and is_remote(path_of(uri)):
            hint = "correct path =, or look after the network and the credentials (AWS_..., GS_..., AZURE_...)"
        elif subdataset(uri) is not None:
            hint = f"correct the name after the file; geopipe inspect {file} shows its variables"
        raise access.error(f"{uri} is no raster that GDAL can open: {error}", hint) from None


def open_variable(uri: str, variable: str | None, access: Access) -> tuple[DatasetReader, str]:
    """Open a variable of a file, and return its URI, too. Without a variable, open the file itself.

    The last part of a variable's name is enough if it is unique. A HDF5 file without a place on Earth is opened by the
    netCDF driver if that knows the place: it understands more conventions.

    Raises:
        SourceError: the file cannot be opened, or does not have the variable; lists those that it has.
    """
    ds = open_raster(uri, access)
    inside = variables(ds, uri)
    uris = [u for name, u in inside.items() if variable is not None and name == variable.lstrip("/")]
    uris = uris or [u for name, u in inside.items() if variable is not None and name.rpartition("/")[2] == variable]
    if len(uris) == 1:
        ds.close()
        ds, uri = open_raster(uris[0], access), uris[0]
    if ds.driver.startswith("HDF5") and ds.count and not _placed(ds):
        ds, uri = _as_netcdf(ds, uri, access._replace(driver=None))
    own = {place.variable for place in coordinates(ds, uri)} - {""}
    if variable is None or len(uris) == 1 or variable.casefold() in {name.casefold() for name in own}:
        return ds, uri
    ds.close()
    names = ", ".join(sorted(uris) or sorted(inside or own)) or "none"
    several, none = f"{variable!r} may be several variables of {uri}", f"{uri} has no variable {variable!r}; it has"
    hint = "correct variable =" if inside or own else "leave out variable =; bands = chooses bands"
    raise access.error(f"{several}: {names}" if uris else f"{none} {names}", hint)


def variables(ds: DatasetReader, uri: str) -> dict[str, str]:
    """The variables of a file by name, sorted, each with the URI that opens it.

    The list may come from the file's own tags: entries for other files are left out.
    """
    tags, own = ds.tags(ns="SUBDATASETS"), in_gdal(path_of(uri))
    parts = [(name, subdataset(name)) for key, name in tags.items() if key.endswith("_NAME")]
    return dict(sorted((part.name or name, name) for name, part in parts if part and in_gdal(part.file) == own))


def _placed(ds: DatasetReader) -> bool:
    return bool(ds.transform != Affine.identity() or ds.gcps[0] or ds.rpcs)


def _as_netcdf(ds: DatasetReader, uri: str, access: Access) -> tuple[DatasetReader, str]:
    """Open the variable by the netCDF driver if that has a place for it; else return it as it was."""
    inner = subdataset(uri) or Subdataset("HDF5", uri, "")
    other = str(Subdataset("NETCDF", in_gdal(inner.file), f"/{inner.name}" if inner.name else ""))
    try:
        with listening():  # what it cannot open stays as it was
            candidate = open_dataset(other, access)
    except GDAL_ERRORS:
        return ds, uri
    if not (candidate.count == ds.count and candidate.shape == ds.shape and _placed(candidate)):
        candidate.close()
        return ds, uri
    ds.close()
    return candidate, other


def coordinates(ds: DatasetReader, uri: str) -> list[times.Place]:
    """Variable, time and level of each band, as far as the file has them."""
    tags, bands = ds.tags(), [ds.tags(i) for i in ds.indexes]
    inner = subdataset(uri)
    if ds.driver == "Zarr" and bands:
        tags |= _calendars(uri, bands[0])
    name = inner.name.rpartition("/")[2] if inner else ""
    return [place._replace(variable=place.variable or name) for place in times.places(tags, bands)]


def _calendars(uri: str, band: times.Tags) -> times.Tags:
    """The calendars of a Zarr variable's axes of time: the tags of the axes have them."""
    inner = subdataset(uri) or Subdataset("ZARR", uri, "")
    group, calendars = inner.variable.rpartition("/")[0], {}
    for key, unit in band.items():
        if key.startswith("DIM_") and key.endswith("_UNIT") and times.SINCE.fullmatch(unit):
            axis = key[4:-5]
            name = str(Subdataset("ZARR", inner.file, f"{group}/{axis}"))
            with suppress(*GDAL_ERRORS), listening(), open_dataset(name, NOTHING) as ds:  # it may have no array
                calendars[f"{axis}#calendar"] = ds.tags().get("calendar", "")
    return calendars


Y_NAMES = ("latitude", "projection_y_coordinate")
Y_UNITS = re.compile(r"degrees?_?n(orth)?", re.I)
"""Standard names and units of y coordinates."""


def is_transposed(ds: DatasetReader, uri: str, access: Access) -> bool:
    """Whether the columns of a NetCDF variable run along y: GDAL always takes the last dimension for x.

    Its tags do not have the order of dimensions; the values of the y coordinate show it.
    """
    tags = ds.tags()
    names = [key[:-14] for key, text in tags.items() if key.endswith("#standard_name") and text in Y_NAMES]
    names += [key[:-6] for key, text in tags.items() if key.endswith("#units") and Y_UNITS.fullmatch(text)]
    inner, t = subdataset(uri) or Subdataset("NETCDF", uri, ""), ds.transform
    if ds.driver != "netCDF" or not names or t.b or t.d or not _placed(ds):
        return False
    try:
        with open_raster(str(Subdataset("NETCDF", inner.file, names[0])), access) as axis:
            ends = axis.read(1).ravel()[[0, -1]]
            count = axis.width * axis.height
    except (SourceError, RasterioError):
        return False  # its coordinates are not one-dimensional, or in another group

    def runs_along(start: float, step: float, pixels: int) -> bool:
        places = sorted((start + step / 2, start + step * (pixels - 0.5)))
        return count == pixels and bool(np.abs(np.sort(ends) - places).max() < abs(step) / 4)

    return runs_along(t.c, t.a, ds.width) and not runs_along(t.f, t.e, ds.height)
