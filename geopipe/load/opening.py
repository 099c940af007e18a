"""Open datasets: by drivers that fit their names and contents, with every reference checked. Nothing else opens them.

GDAL by itself tries all of its drivers: whatever its name, a file could reach any other file and any server. Here the
name chooses the drivers (`access`), a VRT is rewritten (`vrt`), and sidecars must be plain TIFFs.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache, lru_cache
from glob import glob
from pathlib import Path
from typing import NamedTuple

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.io import DatasetReader

from geopipe import proposals
from geopipe.errors import SourceError
from geopipe.layers.access import BY_PREFIX, HEAD, POINTERS, WEB, Access, drivers, ending, resolve, root_of
from geopipe.layers.uris import REMOTE, file_of, in_gdal, is_remote, path_of, subdataset
from geopipe.load import hdf5, vrt

LOCAL = {"CPL_VSIL_CURL_ALLOWED_FILENAME": "/none"}
"""GDAL's settings to open files on this machine: no server."""

ELSEWHERE = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
"""Those for files on servers and in archives: no sidecars, which were not checked."""

STORE = (".zgroup", ".zarray", ".zmetadata", "zarr.json")
"""Files of which one is in a folder that is a Zarr store."""

OF_HDF5 = ("HDF5", "HDF5IMAGE", "NETCDF", "BAG", "KEA", "S102", "S104", "S111")
"""GDAL's drivers that use libhdf5, in capitals."""

SERVER = re.compile(r"(https?|ftp|s3|gs|az|oss|swift)://|/vsi(curl|s3|gs|az|adls|oss|swift)")
"""Beginnings of addresses on servers. Another name that is no path is a file in an archive, or a part of one."""

NESTED = 8
"""Most levels of VRTs within VRTs."""

TEXT = 2**28
"""Bytes of the largest VRT."""


class Target(NamedTuple):
    """What GDAL may open: a name, the drivers for it, and the files and addresses that it refers to."""

    name: str
    drivers: tuple[str, ...]
    remote: bool
    refers: tuple[str, ...] = ()

    @property
    def reaches(self) -> tuple[str, ...]:
        """The folders and hosts that it refers to."""
        return tuple(dict.fromkeys(map(root_of, self.refers)))

    @property
    def files(self) -> tuple[str, ...]:
        """The files on this machine that it refers to."""
        return tuple(sorted({file for uri in self.refers if (file := file_of(uri)) is not None}))


def open_dataset(uri: str, access: Access) -> DatasetReader:
    """Open a dataset.

    Raises:
        SourceError: its contents do not fit its name, or it refers to files that it may not.
        RasterioError: GDAL cannot open it.
    """
    target = look_at(uri, access)
    first: RasterioError | None = None
    with rasterio.Env(**(ELSEWHERE if target.remote else {} if access.is_web else LOCAL)), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # `check_files` raises an error of ours
        for driver in target.drivers:
            try:
                return _with_all_values(rasterio.open(target.name, driver=driver))
            except RasterioError as error:
                first = first or error
    text = str(first).replace(target.name, uri)  # the name of a VRT is its whole text
    raise RasterioIOError(text) from None


def _with_all_values(ds: DatasetReader) -> DatasetReader:
    """Open a NetCDF dataset again without GDAL's valid ranges: `missing` applies them all.

    GDAL makes all values equal if a range does not fit in the type, such as the shorts 0, 254 for unsigned bytes. But
    from 0, 255 it concludes that bytes are unsigned.
    """
    ends = ("#valid_range", "#valid_min", "#valid_max")
    if ds.driver != "netCDF" or all(text == "{0,255}" for key, text in ds.tags().items() if key.endswith(ends)):
        return ds
    name = ds.name
    ds.close()
    return rasterio.open(name, driver="netCDF", HONOUR_VALID_RANGE="NO")


def reading(ds: DatasetReader) -> AbstractContextManager[object]:
    """GDAL's settings for reading pixels: a VRT opens its sources only then."""
    if ds.driver != "VRT":
        return nullcontext()
    env: AbstractContextManager[object] = rasterio.Env(**(ELSEWHERE if "/vsi" in ds.name else LOCAL))
    return env


def look_at(uri: str, access: Access, above: Sequence[str] = ()) -> Target:
    """Check a file or address, and choose how GDAL opens it.

    Args:
        above: the VRTs that refer to it.

    Raises:
        SourceError: it may not be opened.
    """
    inner, file, path = subdataset(uri), file_of(uri), path_of(uri)
    name = str(inner._replace(file=in_gdal(inner.file))) if inner else uri
    if access.driver and access.is_web:
        return Target(name, (access.driver,), False, _addresses(uri))
    if inner is not None and inner.prefix not in BY_PREFIX:
        raise _unknown(uri, access)
    if file is not None:
        _check_there(file, access)
    if is_remote(path):
        chosen = _of_address(uri, access)
    elif os.path.isdir(path):
        chosen = _of_folder(path, access)
    else:
        refuse_special(path, access)
        head = _head(path)
        _check_sidecars(path, access)
        if ending(path) == "vrt" or (access.driver or "").upper() == "VRT":
            text, refers = _read_vrt(path, access, above)
            return Target(text, ("VRT",), any(map(is_remote, refers)), refers)
        chosen = _of_file(path, head, access)
    chosen = (access.driver,) if access.driver else (BY_PREFIX[inner.prefix],) if inner is not None else chosen
    if is_remote(path) and not SERVER.match(path):
        chosen = _without_hdf5(uri, chosen, access)
    could_be = chosen != ("GTiff",) and os.path.isfile(path)
    refers = hdf5.referred(path, access) if could_be and hdf5.is_hdf5(path) else ()
    return Target(name, chosen, is_remote(path), refers)


def _check_there(file: str, access: Access) -> None:
    if not os.path.exists(file):
        raise access.error(f"there is no file {file}", proposals.path(file))
    if not os.access(file, os.R_OK):
        raise access.error(f"{file} may not be read", "give this user the permission to read it")


def refuse_special(uri: str, access: Access) -> None:
    """Refuse what is neither a file nor a folder. Opening a FIFO would wait for ever for a writer.

    Raises:
        SourceError: names it.
    """
    file = file_of(uri)
    if file is not None and os.path.exists(file) and not (os.path.isfile(file) or os.path.isdir(file)):
        hint = "give a file or a folder: copy what comes there"
        raise access.error(f"{file} is a pipe, a socket or a device", hint)


def _of_address(uri: str, access: Access) -> tuple[str, ...]:
    """The drivers for a file on a server or in an archive, of which only the name is known."""
    path = path_of(uri)
    if path.startswith("vrt://") or not (path.startswith("/vsi") or "://" in path):
        raise _unknown(uri, access)
    if ending(path) == "vrt":
        raise access.error(
            f"{uri} is a VRT on a server or in an archive; what it refers to cannot be looked at there",
            f"copy it to this machine, and name the host of its files: {access.key('allow', root_of(path) + '/')}",
        )
    return drivers(path, None)


def _without_hdf5(uri: str, chosen: tuple[str, ...], access: Access) -> tuple[str, ...]:
    """The drivers for a file in an archive, without those of HDF5, whose references cannot be checked there."""
    rest = tuple(driver for driver in chosen if driver.upper() not in OF_HDF5)
    if chosen and not rest:
        text = f"{uri}: HDF5 and NetCDF are read from a path or a server only, and not in an archive"
        raise access.error(text, "unpack it, and give the path of the file")
    return rest


def _of_folder(folder: str, access: Access) -> tuple[str, ...]:
    """The drivers for a folder that is one raster."""
    path = Path(folder, ".zmetadata")
    if path.exists() and b'"record_size"' in path.read_bytes():
        text = f"{folder} refers to chunks of other files (kerchunk)"
        raise access.error(text, "give those files, or a Zarr store with chunks of its own")
    return ("Zarr",) if is_store(folder) else ("AIG",)


def _of_file(file: str, head: bytes, access: Access) -> tuple[str, ...]:
    """The drivers for a file on this machine, by its name and its first bytes."""
    chosen = drivers(file, head)
    if access.driver is None and (mark := POINTERS.search(head)):
        raise _pretends(file, mark[0].decode().lstrip("<"), access)
    if access.driver is None and not chosen:
        raise access.error(
            f"{file} is no raster that GDAL can open: it does not begin like a file with this ending",
            f"give it the ending of what it is, or name its driver: {access.key('driver', 'GTiff')}",
        )
    if "ERS" in ((access.driver or "").upper(), *chosen):
        _check_ers(file, access)
    return chosen


def _head(file: str, size: int = HEAD) -> bytes:
    """The first bytes of a file."""
    try:
        with open(file, "rb") as opened:
            return opened.read(size)
    except OSError as error:
        raise RasterioIOError(f"{error.strerror}") from None


def _read_vrt(file: str, access: Access, above: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The rewritten text of a VRT, and all that it refers to."""
    real, folder = os.path.realpath(file), os.path.dirname(os.path.abspath(file))
    if real in above or len(above) == NESTED:
        raise access.error(f"{file} refers to itself, or is nested too deeply", "correct the VRT")
    refers: dict[str, None] = {}

    @cache
    def opened(reference: str, relative: bool) -> str:
        is_path = not is_remote(reference) and not reference.startswith("<")
        absolute = os.path.abspath(reference) if is_path and not relative else reference
        address = resolve(absolute, folder, access.within(f"{file} "))
        plain = access.within(f"{file} refers to {reference}: ")._replace(driver=None)
        target = look_at(address, plain, (*above, real))
        refers.update(dict.fromkeys([address, *target.refers]))
        return in_gdal(target.name)

    try:
        text = _head(file, TEXT + 1)
        if len(text) > TEXT:
            raise ValueError(f"it has more than {TEXT:,} bytes")
        return vrt.rewrite(text.decode(), opened), tuple(refers)
    except (ValueError, RecursionError) as error:
        hint = "a VRT of files, as gdalbuildvrt makes it, is welcome; make one, or give the files in path ="
        raise access.error(f"{file} is no VRT that is opened: {error}", hint) from None


@lru_cache(maxsize=64)
def _names(folder: str, mtime_ns: int) -> dict[str, list[str]]:
    """The masks and overviews in a folder by their names in small letters, as GDAL finds them."""
    sidecars: dict[str, list[str]] = {}
    with suppress(PermissionError):  # GDAL cannot list it either, and tries these names
        for name in os.listdir(folder):
            if name.lower().endswith((".ovr", ".msk")):
                sidecars.setdefault(name.lower(), []).append(name)
    return sidecars


def _check_sidecars(file: str, access: Access) -> None:
    """Refuse a mask or overviews beside a file that are not plain TIFFs: GDAL would open any format."""
    folder, name = os.path.split(os.path.abspath(file))
    beside = _names(folder, os.stat(folder).st_mtime_ns)
    for ends in (".ovr", ".msk"):
        tried = [f"{name}{ends}", f"{name}{ends.upper()}"]
        for other in beside.get(f"{name}{ends}".lower()) or filter(lambda n: os.path.exists(f"{folder}/{n}"), tried):
            path = os.path.join(folder, other)
            if "GTiff" not in drivers("x.tif", _head(path)):
                text = f"{path}, beside its raster, is no TIFF as masks and overviews are"
                raise access.error(text, "remove it, or make it anew (gdaladdo, gdal_translate)")


def is_store(path: str) -> bool:
    """Whether a folder is one raster (a Zarr store)."""
    return path.rstrip("/").endswith(".zarr") or any(os.path.exists(os.path.join(path, name)) for name in STORE)


def listing(path: str) -> list[str]:
    """The files of a path, sorted: itself, the files and stores in a folder, or the matches of a glob pattern."""
    if os.path.isdir(path) and not is_store(path):
        inside = (p for p in Path(path).iterdir() if not p.name.startswith("."))
        return sorted(str(p) for p in inside if p.is_file() or is_store(str(p)))
    has_matches = any(c in path for c in "*?[") and not os.path.exists(path)
    return sorted(glob(path, recursive=True)) if has_matches else [path]


def _check_ers(file: str, access: Access) -> None:
    """Refuse an ERS header with its data in another folder or format."""
    text = _head(file, 2**24).decode("latin-1")
    named = re.findall(r'DataFile\s*=\s*"?([^"\r\n]*)', text, re.I)
    if any("/" in name or "\\" in name for name in named) or re.search(r"DataSetType\s*=\s*Translated", text, re.I):
        hint = "put them beside it, under its name"
        raise access.error(f"{file} has its pixels elsewhere: {', '.join(named)}", hint)


def _addresses(uri: str) -> tuple[str, ...]:
    """The addresses in the name of a web service, or in the file that describes it."""
    file, text = file_of(uri), uri
    if file is not None and os.path.isfile(file):
        text = _head(file, HEAD * 16).decode("utf-8", "replace")
    return tuple(dict.fromkeys(re.findall(r"https?://[^\s<>\"'&?]+", text)))


def _unknown(uri: str, access: Access) -> SourceError:
    prefix = uri.partition(":")[0].upper()
    if prefix in WEB:
        hint = f"if it is to be asked, say so: {access.key('driver', prefix)}"
        return access.error(f"{uri} is a service on the web (WMS and the like)", hint)
    return access.error(
        f"{uri[:200]} is no raster that GDAL can open: it is neither a file nor an address",
        f"correct path =: a file, or an address with {'://, '.join(REMOTE)}://; "
        f'a part of a file is NETCDF:"file":variable, and so with {", ".join(BY_PREFIX)}',
    )


def _pretends(file: str, mark: str, access: Access) -> SourceError:
    hint = "remove it, or give it the ending of what it is"
    if mark.upper().startswith(("GDAL_WM", "WM", "WCS", "CAPA")):
        hint = f"if it is a service to be asked, say so: {access.key('driver', 'WCS' if 'WCS' in mark else 'WMS')}"
    elif mark == "VRTDataset":
        hint = "if you trust it, give it the ending .vrt"
    text = f"{file} is no raster that GDAL can open: it has pointers to other files or servers in it ({mark})"
    return access.error(text, hint)
