"""Parse the names of sources: files, variables in files, archives, and addresses."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

FORMS = (
    re.compile(r'(?P<prefix>[A-Za-z]\w+):"(?P<file>[^"]+)"(?::(?P<variable>.*))?'),
    re.compile(r'(?P<prefix>NETCDF):(?P<file>[^"]+):(?P<variable>[^:"]+)', re.I),
    re.compile(r"(?P<prefix>GTIFF_DIR):(?P<variable>(?:off:)?\d+):(?P<file>.+)", re.I),
    re.compile(r'(?P<prefix>HDF5|ZARR):(?P<file>[^"]+):(?P<variable>//?[^:"]*)', re.I),
)
"""GDAL's names of a variable in a file, with the file quoted or not."""

ARCHIVE = re.compile(r"(zip|tar|gzip)://(?=[^/])")
"""An archive under a relative path, in rasterio's way of writing."""


REMOTE = {"http": "/vsicurl/http://", "https": "/vsicurl/https://", "s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/"}
"""GDAL's names of remote files by scheme. rasterio translates them only if they are the whole name."""


STORES = ("s3", "gs", "gcs", "abfs", "abfss")
"""Schemes of the object stores that a table can be sent to."""

SECRET = re.compile(r"[?&#][^=&]*(key|secret|token|password|sig)[^=&]*=", re.I)
"""An option in the query of a URI whose value is a secret."""


class Subdataset(NamedTuple):
    """A name of the form PREFIX:"file":variable, in its parts."""

    prefix: str
    file: str
    variable: str

    def __str__(self) -> str:
        if self.prefix == "GTIFF_DIR":
            return f"GTIFF_DIR:{self.variable}:{self.file}"
        return f'{self.prefix}:"{self.file}"' + (f":{self.variable}" if self.variable else "")

    @property
    def name(self) -> str:
        """The variable for people: group/variable, without leading slashes."""
        return self.variable.lstrip("/")


def subdataset(uri: str) -> Subdataset | None:
    """The parts of the name of a variable in a file, None for other names."""
    for form in FORMS:
        if match := form.fullmatch(uri):
            return Subdataset(match["prefix"].upper(), match["file"], match["variable"] or "")
    return None


def path_of(uri: str) -> str:
    """The path or address of a name: that of the file, if it means a variable in it."""
    inner = subdataset(uri)
    return inner.file if inner else uri


def in_gdal(path: str) -> str:
    """GDAL's name of a path or address."""
    scheme, colon, rest = path.partition("://")
    return REMOTE[scheme] + rest if colon and scheme in REMOTE else path


def is_remote(path: str) -> bool:
    """Whether a path is an address, a virtual file of GDAL, or a name with a driver's prefix."""
    return "://" in path or path.startswith("/vsi") or re.match(r"[A-Za-z0-9_]{2,}:", path) is not None


def has_password(path: str) -> bool:
    """Whether the address of a Postgres server contains a password: of the user, or of a key (sslpassword)."""
    parts = urlsplit(path)
    if parts.scheme not in ("postgresql", "postgres"):
        return False
    options = parse_qs(parts.query, keep_blank_values=True)
    return parts.password is not None or not {"password", "sslpassword"}.isdisjoint(options)


def is_store(output: str) -> bool:
    """Whether an output is in an object store."""
    return "://" in output


def store_problem(uri: str) -> str:
    """What is wrong with the URI of an object store, "" if nothing. The text never repeats the URI and its secrets.

    A secret need not be quoted ("/" in it ends the authority): a colon counts as one unless a port can follow it.
    """
    parts = urlsplit(uri)
    user, at, host = parts.netloc.rpartition("@")
    _, colon, port = host.partition(":")
    has_port = parts.scheme.startswith("abfs") and port.isdigit()
    if ":" in user or (at and parts.scheme == "s3") or (colon and not has_port) or SECRET.search(uri):
        return (
            "there is a password or a secret key in it; settings are copied to the output. Give it in the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, AZURE_...) or in a file of "
            "the store's own tools"
        )
    if parts.scheme not in STORES or not parts.netloc:
        return (
            "the output is a folder, s3://bucket/prefix, gs://bucket/prefix, or "
            "abfs://container@account.dfs.core.windows.net/prefix"
        )
    return ""


def absolute(path: str, folder: Path) -> str:
    """Make a path absolute, relative to `folder`. A URI stays as it is."""
    inner = subdataset(path)
    if inner is not None:
        return str(inner._replace(file=absolute(inner.file, folder)))
    archive = ARCHIVE.match(path)
    if archive:
        return archive[0] + os.path.normpath(folder / path[archive.end() :])
    return path if is_remote(path) else os.path.normpath(folder / os.path.expanduser(path))


def file_of(uri: str) -> str | None:
    """The local file, folder or archive of a name, None if it is not on this machine."""
    path = path_of(uri)
    archive = re.match("(zip|tar|gzip)://(/?[^!]+)", path)
    path = archive[2] if archive else path
    return None if is_remote(path) else path
