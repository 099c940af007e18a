"""Access rules: the GDAL drivers for a file by its name and first bytes, and the files that it may refer to.

Pure functions of text and bytes. The ending of a name chooses the driver. A reference in a file may lead to files in
its folder or below, and elsewhere only if the settings allow it.
"""

from __future__ import annotations

import os
import posixpath
import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from geopipe.errors import SourceError
from geopipe.layers.uris import REMOTE, is_remote, path_of, subdataset

DRIVERS = {
    ("tif", "tiff", "gtiff", "geotiff", "cog", "btf", "tf8"): ("GTiff",),
    ("nc", "nc3", "nc4", "cdf", "netcdf"): ("netCDF",),
    ("h5", "hdf5", "he5", "hdf"): ("HDF5", "netCDF"),
    ("zarr", "zarr2", "zarr3"): ("Zarr",),
    ("grib", "grib1", "grib2", "grb", "grb1", "grb2", "gb2"): ("GRIB",),
    ("jp2", "j2k", "jpx"): ("JP2OpenJPEG",),
    ("asc", "agr"): ("AAIGrid", "GRASSASCIIGrid", "ISG"),
    ("img",): ("HFA", "ENVI", "EHdr"),
    ("bil", "bip", "bsq", "flt"): ("EHdr", "ENVI"),
    ("grd",): ("RRASTER", "GSBG", "GS7BG", "GSAG", "NWT_GRD", "netCDF"),
    ("ntf", "nitf", "nsf"): ("NITF",),
    ("jpg", "jpeg"): ("JPEG",),
    ("gif",): ("GIF", "BIGGIF"),
    ("hgt",): ("SRTMHGT",),
    ("dem",): ("USGSDEM",),
    ("dt0", "dt1", "dt2"): ("DTED",),
    ("sdat", "sgrd"): ("SAGA",),
    ("map",): ("PCRaster",),
    ("adf",): ("AIG",),
    ("mbtiles",): ("MBTiles",),
}
"""Drivers by the ending of a name: those that read the file itself, and nothing that it could refer to."""

NAMESAKES = ("bag", "bmp", "bt", "ers", "gpkg", "gtx", "png", "rst", "vrt", "webp", "xyz")
"""Endings whose driver is their name in capitals."""

BY_ENDING = {ending: drivers for endings, drivers in DRIVERS.items() for ending in endings}
BY_ENDING |= {ending: (ending.upper(),) for ending in NAMESAKES}

MAGIC = {
    "GTiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "netCDF": (b"CDF\x01", b"CDF\x02", b"CDF\x05", b"\x89HDF\r\n\x1a\n"),
    "HDF5": (b"\x89HDF\r\n\x1a\n",),
    "JP2OpenJPEG": (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51\0"),
    "HFA": (b"EHFA_HEADER_TAG",),
    "NITF": (b"NITF", b"NSIF"),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
}
"""First bytes of the files of a driver."""

ANYTHING = ("GTiff", "netCDF", "HDF5", "GRIB", "JP2OpenJPEG", "HFA", "NITF", "PNG", "JPEG", "WEBP", "ENVI", "EHdr")
"""Drivers to try, in this order, if the ending is unknown: each recognizes its files by their contents."""

BY_PREFIX = {"NETCDF": "netCDF", "HDF5": "HDF5Image", "ZARR": "Zarr", "GTIFF_DIR": "GTiff"}
"""Drivers of names that mean a part of a file."""

WEB = ("WMS", "WMTS", "WCS", "OGCAPI", "EEDAI", "DAAS", "PLMOSAIC", "STACTA", "STACIT")
"""Drivers of web services: only for a layer with `driver`."""

POINTERS = re.compile(
    rb"<(VRTDataset|OGRVRTDataSource|GDAL_WMS|GDAL_WMTS|WMS_|WMT_|WCS_|Capabilities|GDALTileIndexDataset|OGRWFS|WFS_)"
    rb"|gdal_streamed_alg",
    re.I,
)
"""Marks, among the first bytes of a file of any name, of a description that refers to other files."""

HEAD = 4096
"""First bytes of a file to check; GDAL looks at 1024."""

INSIDE = re.compile(r"/vsi(zip|tar|gzip|7z|rar)/")


class Access(NamedTuple):
    """What a source may refer to beside its own folder, and how messages speak of it.

    `allow` has folders and beginnings of addresses, `driver` the driver of the layer. `setting` is the form of such
    keys in messages, `where` the beginning of errors, `layer` the layer that a run may skip for them.
    """

    allow: tuple[str, ...] = ()
    driver: str | None = None
    setting: str = "--{key} {value}"
    where: str = ""
    layer: str | None = None

    @classmethod
    def of_layer(cls, name: str, allow: tuple[str, ...] = (), driver: str | None = None) -> Access:
        return cls(allow, driver, f"{{key}} = {{value}} in the layer {name}", f"layer {name}: ", name)

    def within(self, place: str) -> Access:
        """The same access; errors name a place in the source, too."""
        return self._replace(where=self.where + place)

    def error(self, message: str, hint: str) -> SourceError:
        """The error for a source that cannot be read."""
        return SourceError(self.where + message, hint, self.layer)

    @property
    def is_web(self) -> bool:
        """Whether the driver is that of a web service. GDAL ignores the case of its name."""
        return self.driver is not None and self.driver.upper() in WEB

    def key(self, key: str, value: str) -> str:
        """A key of this setting as a user writes it."""
        shown = f'["{value}"]' if key == "allow" else f'"{value}"'
        return self.setting.format(key=key, value=value if self.setting.startswith("--") else shown)


NOTHING = Access()
"""A file and its companions, and nothing else."""


def ending(path: str) -> str:
    """The ending of a file or address in small letters; in an archive that of the inner name."""
    path = path.partition("?")[0] if "://" in path or path.startswith("/vsi") else path
    return posixpath.basename(path.rstrip("/")).rpartition(".")[2].lower()


def drivers(path: str, head: bytes | None) -> tuple[str, ...]:
    """The drivers that may open a file, in the order of trying; empty if none may.

    Args:
        head: the first bytes of a local file, None if they are unknown.
    """
    by_name = BY_ENDING.get(ending(path), ANYTHING)
    return by_name if head is None else tuple(d for d in by_name if d not in MAGIC or head.startswith(MAGIC[d]))


def resolve(reference: str, folder: str, access: Access) -> str:
    """Resolve a reference in a file to a path or address that may be opened.

    Args:
        folder: of the file with the reference; all below it may be opened.
        access: of the file; `where` names it.

    Raises:
        SourceError: it leads elsewhere, and `allow` does not permit it.
    """
    if not reference or any(c < " " for c in reference):
        raise _refused(repr(reference), "", access)
    inner = subdataset(reference)
    if inner is not None and inner.prefix in BY_PREFIX:
        return str(inner._replace(file=resolve(inner.file, folder, access)))
    address = _address(reference)
    if inner is not None or (address is None and not _is_path(reference)):
        raise _refused(reference, "", access)
    if address is None:
        path = os.path.normpath(os.path.join(folder, reference.removeprefix("file://")))
        if any(_below(path, root) for root in (folder, *access.allow) if _is_path(root)):
            return path
        raise _refused(reference, os.path.dirname(path), access)
    if any(_starts(address, allowed) for allowed in access.allow if not _is_path(allowed)):
        return address
    raise _refused(reference, f"{root_of(address)}/", access)


def root_of(address: str) -> str:
    """The folder of a local file, or scheme and host of an address, without user and password."""
    address = path_of(address)
    scheme, colon, rest = address.partition("://")
    if colon and scheme in REMOTE:
        return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"
    return os.path.dirname(address) or address


def _is_path(text: str) -> bool:
    return not text.lstrip().startswith("<") and (text.startswith("file://") or not is_remote(text))


def _address(reference: str) -> str | None:
    """An address in the form of the settings (https://, s3://), or GDAL's name of an archive; None for others."""
    for scheme, vsi in REMOTE.items():
        if reference.startswith(vsi):
            return _normal(f"{scheme}://{reference.removeprefix(vsi)}")
    if reference.partition("://")[0] in REMOTE:
        return _normal(reference)
    archive = INSIDE.match(reference)
    rest = reference[archive.end() :] if archive else ""
    return archive[0] + posixpath.normpath(rest) if archive and "/vsi" not in rest and "{" not in rest else None


def _normal(address: str) -> str | None:
    """The address, None if it goes upward, has a user in it, or is ambiguous."""
    parts = urlsplit(address)
    odd = "@" in parts.netloc or any(c <= " " or c == "\\" for c in address)
    return None if odd or {".", ".."} & set(unquote(parts.path).split("/")) else address


def _starts(address: str, allowed: str) -> bool:
    """Whether an address begins with `allowed`, with whole host and folders."""
    allowed = _address(allowed) or allowed
    if allowed.endswith("://"):
        return address.startswith(allowed)
    return address.startswith(allowed.rstrip("/") + "/") or address == allowed


def _below(path: str, root: str) -> bool:
    """Whether a file is in a folder or below it, after following links."""
    real, top = os.path.realpath(path), _real(root)
    return real == top or real.startswith(top.rstrip("/") + "/")


@lru_cache(maxsize=64)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _refused(reference: str, root: str, access: Access) -> SourceError:
    shown = reference if len(reference) < 200 else f"{reference[:200]}..."
    if not root:
        return access.error(
            f"refers to {shown}, which is neither a file nor an address",
            "give the files themselves in path =, each as a file, or as an address with https://, s3://, gs:// or az://",
        )
    hint = f"if you trust it, allow it: {access.key('allow', root)}"
    return access.error(f"refers to {shown}, which is not below its folder", hint)
