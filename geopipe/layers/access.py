"""What a source may open: GDAL's drivers by the name and the first bytes of a file, and where references may lead.

Pure functions of text and bytes. A file is opened as what it says it is: a name ends in what chooses the driver, and
nothing that is found in a file leads to another one unless that lies beside it or below, or the settings allow it.
"""

from __future__ import annotations

import os
import posixpath
import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from geopipe.errors import SourceError
from geopipe.layers.uris import REMOTE, is_remote, subdataset

DRIVERS = {
    ("tif", "tiff", "gtiff", "geotiff", "cog", "btf", "tf8"): ("GTiff",),
    ("nc", "nc3", "nc4", "cdf", "netcdf"): ("netCDF",),
    ("h5", "hdf5", "he5", "hdf"): ("HDF5", "netCDF"),
    ("zarr", "zarr2", "zarr3"): ("Zarr",),
    ("grib", "grib1", "grib2", "grb", "grb1", "grb2", "gb2"): ("GRIB",),
    ("jp2", "j2k", "jpx"): ("JP2OpenJPEG",),
    ("vrt",): ("VRT",),
    ("asc", "agr"): ("AAIGrid", "GRASSASCIIGrid", "ISG"),
    ("img",): ("HFA", "ENVI", "EHdr"),
    ("bil", "bip", "bsq", "flt"): ("EHdr", "ENVI"),
    ("ers",): ("ERS",),
    ("grd",): ("RRASTER", "GSBG", "GS7BG", "GSAG", "NWT_GRD", "netCDF"),
    ("ntf", "nitf", "nsf"): ("NITF",),
    ("png",): ("PNG",),
    ("jpg", "jpeg"): ("JPEG",),
    ("webp",): ("WEBP",),
    ("gif",): ("GIF", "BIGGIF"),
    ("bmp",): ("BMP",),
    ("hgt",): ("SRTMHGT",),
    ("dem",): ("USGSDEM",),
    ("dt0", "dt1", "dt2"): ("DTED",),
    ("bt",): ("BT",),
    ("gtx",): ("GTX",),
    ("rst",): ("RST",),
    ("sdat", "sgrd"): ("SAGA",),
    ("map",): ("PCRaster",),
    ("adf",): ("AIG",),
    ("mbtiles",): ("MBTiles",),
    ("gpkg",): ("GPKG",),
    ("xyz",): ("XYZ",),
    ("bag",): ("BAG",),
}
"""Which drivers open a file of a name: those that read the file itself, and nothing that it could point to."""

BY_ENDING = {ending: drivers for endings, drivers in DRIVERS.items() for ending in endings}

MAGIC = (
    ("GTiff", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("netCDF", (b"CDF\x01", b"CDF\x02", b"CDF\x05", b"\x89HDF\r\n\x1a\n")),
    ("HDF5", (b"\x89HDF\r\n\x1a\n",)),
    ("JP2OpenJPEG", (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51\0")),
    ("HFA", (b"EHFA_HEADER_TAG",)),
    ("NITF", (b"NITF", b"NSIF")),
    ("PNG", (b"\x89PNG\r\n\x1a\n",)),
    ("JPEG", (b"\xff\xd8\xff",)),
)
"""How the files of a driver begin."""

ANYTHING = ("GTiff", "netCDF", "HDF5", "GRIB", "JP2OpenJPEG", "HFA", "NITF", "PNG", "JPEG", "WEBP", "ENVI", "EHdr")
"""The drivers that are tried, in this order, where a name does not tell: each knows its files by their contents."""

BY_PREFIX = {"NETCDF": "netCDF", "HDF5": "HDF5Image", "ZARR": "Zarr", "GTIFF_DIR": "GTiff"}
"""The drivers of names that mean a part of a file."""

WEB = ("WMS", "WMTS", "WCS", "OGCAPI", "EEDAI", "DAAS", "PLMOSAIC", "STACTA", "STACIT")
"""Drivers of services on the web: only where a layer says `driver`."""

POINTERS = re.compile(
    rb"<(VRTDataset|OGRVRTDataSource|GDAL_WMS|GDAL_WMTS|WMS_|WMT_|WCS_|Capabilities|GDALTileIndexDataset|OGRWFS|WFS_)"
    rb"|gdal_streamed_alg",
    re.I,
)
"""What a description that leads to other files has among its first bytes, whatever the file is called."""

HEAD = 4096
"""Bytes of a file that decide what it is; GDAL looks at 1024."""

INSIDE = re.compile(r"/vsi(zip|tar|gzip|7z|rar)/")


class Access(NamedTuple):
    """What one setting lets a source reach, beside its own folder.

    `allow` has folders and beginnings of addresses, `driver` the one that the layer asks for. `setting` says in
    messages where such keys stand.
    """

    allow: tuple[str, ...] = ()
    driver: str | None = None
    setting: str = "--{key} {value}"

    @classmethod
    def of_layer(cls, name: str, allow: tuple[str, ...], driver: str | None) -> Access:
        return cls(allow, driver, f"{{key}} = {{value}} in the layer {name}")

    @property
    def is_web(self) -> bool:
        """Whether it asks for a service on the web. GDAL takes names of drivers in any letters."""
        return self.driver is not None and self.driver.upper() in WEB

    @property
    def is_vrt(self) -> bool:
        return self.driver is not None and self.driver.upper() == "VRT"

    def key(self, key: str, value: str) -> str:
        """How a person writes a key of this setting."""
        shown = f'["{value}"]' if key == "allow" else f'"{value}"'
        return self.setting.format(key=key, value=value if self.setting.startswith("--") else shown)


NOTHING = Access()
"""A name and what is beside it, and nothing else."""


def ending(path: str) -> str:
    """The ending of a file or address, in small letters: of what is in an archive, of the inner name."""
    path = path.partition("?")[0] if "://" in path or path.startswith("/vsi") else path
    return posixpath.basename(path.rstrip("/")).rpartition(".")[2].lower()


def drivers(path: str, head: bytes | None) -> tuple[str, ...]:
    """The drivers that may open a file, in the order of trying; none where nothing may.

    Args:
        head: the first bytes of a local file, None where they are not known.
    """
    by_name = BY_ENDING.get(ending(path), ANYTHING)
    if head is None:
        return by_name
    marked = {name for name, marks in MAGIC if head.startswith(marks)}
    if marked:
        return tuple(d for d in by_name if d in marked or d not in {name for name, _ in MAGIC})
    return tuple(d for d in by_name if d not in {name for name, _ in MAGIC})


def resolve(reference: str, folder: str, access: Access, where: str, layer: str | None) -> str:
    """A reference found in a file, as a path or address that may be opened.

    Args:
        folder: of the file that has it, below which all may be opened.
        where: begins the message, and names that file.

    Raises:
        SourceError: it leads elsewhere, and no `allow` lets it.
    """
    inner = subdataset(reference)
    if not reference or any(c < " " for c in reference):
        raise _refused(repr(reference), where, "", access, layer)
    if inner is not None:
        if inner.prefix not in BY_PREFIX:
            raise _refused(reference, where, "", access, layer)
        return str(inner._replace(file=resolve(inner.file, folder, access, where, layer)))
    address = _address(reference)
    if address is None and not _is_path(reference):
        raise _refused(reference, where, "", access, layer)
    if address is None:
        path = os.path.normpath(os.path.join(folder, reference.removeprefix("file://")))
        if any(_below(path, root) for root in (folder, *access.allow) if _is_path(root)):
            return path
        raise _refused(reference, where, os.path.dirname(path), access, layer)
    if any(_starts(address, allowed) for allowed in access.allow if not _is_path(allowed)):
        return address
    raise _refused(reference, where, f"{root_of(address)}/", access, layer)


def root_of(address: str) -> str:
    """The folder of a local file, or scheme and host of an address, without user and password."""
    inner = subdataset(address)
    if inner is not None:
        return root_of(inner.file)
    scheme, colon, rest = address.partition("://")
    if colon and scheme in REMOTE:
        return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"
    return os.path.dirname(address) or address


def _is_path(text: str) -> bool:
    return not text.lstrip().startswith("<") and (text.startswith("file://") or not is_remote(text))


def _address(reference: str) -> str | None:
    """An address as settings write it (https://, s3://), or GDAL's name of an archive; None for all else."""
    for scheme, vsi in REMOTE.items():
        if reference.startswith(vsi):
            return _normal(f"{scheme}://{reference.removeprefix(vsi)}")
    if reference.partition("://")[0] in REMOTE:
        return _normal(reference)
    archive = INSIDE.match(reference)
    rest = reference[archive.end() :] if archive else ""
    return archive[0] + posixpath.normpath(rest) if archive and "/vsi" not in rest and "{" not in rest else None


def _normal(address: str) -> str | None:
    """The address, or None where it goes upward, has a user in it, or may be read in two ways."""
    parts = urlsplit(address)
    odd = "@" in parts.netloc or any(c <= " " or c == "\\" for c in address)
    return None if odd or {".", ".."} & set(unquote(parts.path).split("/")) else address


def _starts(address: str, allowed: str) -> bool:
    """Whether an address begins as `allowed` does, host and folders whole."""
    allowed = _address(allowed) or allowed
    if allowed.endswith("://"):
        return address.startswith(allowed)
    return address.startswith(allowed.rstrip("/") + "/") or address == allowed


def _below(path: str, root: str) -> bool:
    """Whether a file is in a folder or below it, links followed."""
    real, top = os.path.realpath(path), _real(root)
    return real == top or real.startswith(top.rstrip("/") + "/")


@lru_cache(maxsize=64)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _refused(reference: str, where: str, root: str, access: Access, layer: str | None) -> SourceError:
    shown = reference if len(reference) < 200 else f"{reference[:200]}..."
    if not root:
        return SourceError(
            f"{where}refers to {shown}, which is neither a file nor an address",
            "give the files themselves in path =, each as a file, or as an address with https://, s3://, gs:// or az://",
            layer,
        )
    return SourceError(
        f"{where}refers to {shown}, which is not below its folder",
        f"if you trust it, allow it: {access.key('allow', root)}",
        layer,
    )
