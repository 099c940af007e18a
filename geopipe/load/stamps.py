"""Notice changes of files: by size and time on this machine, by length and etag (or time) on a server."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import takewhile
from pathlib import Path

import rasterio._env

from geopipe.errors import MachineError
from geopipe.layers.access import Access
from geopipe.layers.header import UNKNOWN, Header, Stamp
from geopipe.layers.tables import TableHeader
from geopipe.layers.uris import file_of, in_gdal, path_of
from geopipe.plan.plan import Plan

AT_ONCE = 16
"""Files to check in parallel: a server may take long for each."""


def stamp_of(uri: str, others: Sequence[str] = ()) -> Stamp:
    """The current stamp of a source. Clears GDAL's cache of a remote file first.

    Args:
        others: local files that are read with it, such as a sidecar or the tiles of a VRT.
    """
    file = local_file(uri)
    if file is None:
        return _remote(uri)
    if not os.path.exists(file):
        return UNKNOWN
    own = sorted(p for p in Path(file).rglob("*") if p.is_file()) if os.path.isdir(file) else [Path(file)]
    paths = [*own, *(Path(name) for name in others if os.path.isfile(name))]
    parts = [(str(path), stat.st_size, stat.st_mtime_ns) for path in paths for stat in [path.stat()]]
    size, mtime_ns = sum(p[1] for p in parts[: len(own)]), max((p[2] for p in parts[: len(own)]), default=0)
    tag = hashlib.sha256(repr(parts).encode()).hexdigest()[:16] if len(parts) > 1 else ""
    return Stamp(size, mtime_ns, tag)


def local_file(uri: str) -> str | None:
    """The file, folder or archive on this machine of a name, also of GDAL's own names of archives."""
    path = path_of(uri)
    archive = re.match("/vsi(?:zip|tar|gzip|7z|rar)/(.*)", path)
    if archive is None:
        return file_of(uri)
    path = archive[1].strip("{}")
    return next((str(p) for p in (Path(path), *Path(path).parents) if p.is_file()), None)


def refuse_change(header: Header | TableHeader, access: Access, now: Stamp | None = None) -> None:
    """Check that a source is as it was in the plan. A stamp that was or is unknown counts as unchanged.

    Args:
        now: its current stamp, if it is known already.

    Raises:
        SourceError: the source was changed; names the file and the difference.
    """
    planned, file = header.stamp, local_file(header.uri)
    now = _now(header) if now is None else now
    gone = file is not None and not os.path.exists(file)
    if now == planned or planned == UNKNOWN or (now == UNKNOWN and not gone):
        return
    pairs = zip(("size", "time", "etag or hash"), planned, now, strict=True)
    differs = "it is gone" if gone else ", ".join(f"{n} {a} -> {b}" for n, a, b in pairs if a != b)
    hint = "run it again when the file stays as it is; nothing was published"
    raise access.error(f"{header.uri} was changed since the run was planned: {differs}", hint)


def known(plan: Plan) -> dict[str, tuple[Header | TableHeader, Access]]:
    """The sources of a plan whose stamps are known, by URI, with the rules of their layers."""
    sources: dict[str, tuple[Header | TableHeader, Access]] = {}
    for p in (*plan.layers, *([plan.mask.raster] if plan.mask and plan.mask.raster else [])):
        headers: list[Header | TableHeader] = [f.header for d in p.decisions for f in d.source.files]
        headers += p.table.headers if p.table else ()
        sources |= {header.uri: (header, p.layer.access) for header in headers if header.stamp != UNKNOWN}
    return sources


def refuse_changes(plan: Plan) -> None:
    """Check, before publication, that no source was changed during the run.

    Tables in Postgres are not checked, nor files whose server gives neither length nor etag nor time.

    Raises:
        SourceError: a file was changed, or is gone.
        MachineError: the server of a file does not answer any more.
    """
    sources = known(plan).values()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        stamps = pool.map(_now, (header for header, _ in sources))
        for (header, access), now in zip(sources, stamps, strict=True):
            refuse_change(header, access, now)
            if now == UNKNOWN:
                raise MachineError(
                    f"{access.where}whether {header.uri} is what it was when the run was planned cannot be known: "
                    "its server does not answer",
                    "look after the network; the tiles that are done are kept, and `geopipe run --resume` goes on",
                )


def beside(header: Header | TableHeader) -> tuple[str, ...]:
    """The local files that are read with a source."""
    return header.beside if isinstance(header, Header) else ()


def _now(header: Header | TableHeader) -> Stamp:
    return stamp_of(header.uri, beside(header))


# ---------------------------------------------------------------- remote files


@lru_cache(maxsize=1)
def _gdal() -> ctypes.CDLL | None:
    """The GDAL of rasterio by ctypes: rasterio does not offer the headers of a remote file."""
    try:
        gdal = ctypes.CDLL(rasterio._env.__file__)
        gdal.VSIGetFileMetadata.restype = ctypes.POINTER(ctypes.c_char_p)
        gdal.VSIGetFileMetadata.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
        gdal.VSICurlPartialClearCache.argtypes = [ctypes.c_char_p]
        gdal.CPLPushErrorHandler.argtypes = gdal.CSLDestroy.argtypes = [ctypes.c_void_p]
    except (OSError, AttributeError):  # a build that hides its symbols
        return None
    return gdal


def _remote(uri: str) -> Stamp:
    """The stamp of a file on a server from its headers; empty if it does not answer or has none."""
    path = path_of(uri)
    scheme, colon, rest = path.partition("://")
    if colon and "+" in scheme:  # an archive on a server
        path = f"{scheme.rpartition('+')[2]}://{rest.partition('!')[0]}"
    name, gdal = in_gdal(path).encode(), _gdal()
    if gdal is None or not name.startswith(b"/vsi"):
        return UNKNOWN
    # opening the file will raise the error
    gdal.CPLPushErrorHandler(ctypes.cast(gdal.CPLQuietErrorHandler, ctypes.c_void_p))
    gdal.VSICurlPartialClearCache(name)
    metadata = gdal.VSIGetFileMetadata(name, b"HEADERS", None)
    if not metadata:
        gdal.VSICurlPartialClearCache(name)  # the next opening asks again
    gdal.CPLErrorReset()
    gdal.CPLPopErrorHandler()
    lines = [line.decode("latin-1") for line in takewhile(bool, metadata or ())]
    gdal.CSLDestroy(metadata)
    headers = {key.lower(): value for key, _, value in (line.partition("=") for line in lines)}
    whole = re.search(r"/(\d+)$", headers.get("content-range", ""))
    length = whole[1] if whole else headers.get("content-length", "")
    tag = headers.get("etag") or headers.get("last-modified", "")
    return Stamp(int(length) if length.isdecimal() else 0, 0, tag)
