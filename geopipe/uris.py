"""Names of sources as text: which part of one is a file, which a variable, and what is not on this machine."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

FORMS = (
    re.compile(r'(?P<prefix>[A-Za-z]\w+):"(?P<file>[^"]+)"(?::(?P<variable>.*))?'),
    re.compile(r'(?P<prefix>NETCDF):(?P<file>[^"]+):(?P<variable>[^:"]+)', re.I),
    re.compile(r"(?P<prefix>GTIFF_DIR):(?P<variable>(?:off:)?\d+):(?P<file>.+)", re.I),
    re.compile(r'(?P<prefix>HDF5|ZARR):(?P<file>[^"]+):(?P<variable>//?[^:"]*)', re.I),
)
"""How GDAL names a variable inside a file, with the file quoted or not."""

ARCHIVE = re.compile(r"(zip|tar|gzip)://(?=[^/])")
"""An archive under a relative path, in rasterio's way of writing."""


REMOTE = {"http": "/vsicurl/http://", "https": "/vsicurl/https://", "s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/"}
"""GDAL's names of remote files, by scheme. rasterio knows them, but not where the file is a part of a longer name."""


STORES = ("s3", "gs", "gcs", "abfs", "abfss")
"""Schemes of the object stores that a table can be sent to."""

SECRET = re.compile(r"[?&#][^=&]*(key|secret|token|password|sig)[^=&]*=", re.I)
"""An option in the query of a URI that only a secret can follow."""


HIDDEN = "***"
"""What stands for a secret wherever text leaves a run."""

_NAME = (
    r"[\w.%-]{0,64}(?:pass(?:word|wd|phrase)|pwd|secret|token|signature|credential|authorization|cookie|"
    r"(?:api|access|account|subscription|shared|private)[-_]?key(?:[-_]?id)?)[\w.-]{0,64}"
)
_IN_QUERY = r"sig|key|code|auth|hmac|jwt|userpwd|googleaccessid"
_VALUE = r"""(?:'[^']*'|"[^"]*"|(?:(?!%26|%22)[^\s&;"'<>\\])+)"""
_SECRETS = (
    # a header that GDAL is to send: its value may have blanks
    (re.compile(r"(header\.[\w-]+(?:=|%3D))(?:(?!%26)[^&\"'<>\\\n])+", re.I), rf"\1{HIDDEN}"),
    (re.compile(rf"((?:[?&]|%3F|%26)(?:{_IN_QUERY})(?:=|%3D)){_VALUE}", re.I), rf"\1{HIDDEN}"),
    (re.compile(rf"((?:^|(?<![\w.%-])|%3F|%26){_NAME}(?:=|%3D)){_VALUE}", re.I), rf"\1{HIDDEN}"),
    (re.compile(r"\b(bearer|authorization\W{1,5}basic)((?:\s|%20)+)[\w.~+/=-]{6,}", re.I), rf"\1\2{HIDDEN}"),
    # user:password@ of an address; a password need not be quoted as it should, so that any text to the last @ is one
    (re.compile(r"""(://)(?=[^/?#\s"'<>@:]*:)[^/?#\s"'<>]*@"""), rf"\1{HIDDEN}@"),
    (re.compile(r"""\b((?:https?|ftp)://)[^/?#\s"'<>]+@""", re.I), rf"\1{HIDDEN}@"),  # a token in place of a user
    (re.compile(r"""(://)[^/?#\s"'<>:]*:(?!\d+(?:[/?#\s"']|$))[^\s"'<>]{0,512}@"""), rf"\1{HIDDEN}@"),
    (re.compile(r"(%3A%2F%2F)(?:(?!%2F|%40)[^\s&\"'])*%40", re.I), rf"\1{HIDDEN}%40"),
)
"""Where in a text a secret is, and what is left of it."""


def redact(text: str) -> str:
    """A text without the secrets that addresses, options of GDAL and connection strings in it have.

    The one function for whatever leaves a run: files of the output, records, messages.
    """
    if not any(mark in text for mark in ("=", "@", "%3D", "%3d", "%40")) and not re.search("bearer|basic", text, re.I):
        return text
    for pattern, rest in _SECRETS:
        text = pattern.sub(rest, text)
    return text


def redacted(value: Any, mark: bool = False) -> Any:
    """JSON values without secrets in their texts and keys.

    Args:
        mark: put a hash of the whole behind a text that has lost a secret, so that two of them stay apart.
    """
    if isinstance(value, str):
        shown = redact(value)
        return f"{shown}#{hashlib.sha256(value.encode()).hexdigest()[:16]}" if mark and shown != value else shown
    if isinstance(value, Mapping):
        return {redacted(key, mark): redacted(item, mark) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item, mark) for item in value]
    return value


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
    """The parts of a name that means a variable inside a file, or None."""
    for form in FORMS:
        found = form.fullmatch(uri)
        if found:
            return Subdataset(found["prefix"].upper(), found["file"], found["variable"] or "")
    return None


def in_gdal(path: str) -> str:
    """A path or address as GDAL itself names it."""
    scheme, colon, rest = path.partition("://")
    return REMOTE[scheme] + rest if colon and scheme in REMOTE else path


def is_remote(path: str) -> bool:
    """Whether GDAL's virtual file systems, or a driver of its own, must find this path: no folder can be listed."""
    return "://" in path or path.startswith("/vsi") or re.match(r"[A-Za-z0-9_]{2,}:", path) is not None


def has_password(path: str) -> bool:
    """Whether the address of a Postgres server has a password in it: its own, or that of a key (sslpassword)."""
    parts = urlsplit(path)
    if parts.scheme not in ("postgresql", "postgres"):
        return False
    options = parse_qs(parts.query, keep_blank_values=True)
    return parts.password is not None or not {"password", "sslpassword"}.isdisjoint(options)


def is_store(output: str) -> bool:
    """Whether an output is an object store, and not a folder."""
    return "://" in output


def store_problem(uri: str) -> str:
    """What is wrong with the URI of an object store, or nothing. The text never repeats the URI: it may have a secret.

    A secret need not be quoted ("/" in it ends the authority), so that any colon where no port can be counts as one.
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
    """The path with what is relative in it taken from `folder`; a URI stays as it is."""
    inner = subdataset(path)
    if inner is not None:
        return str(inner._replace(file=absolute(inner.file, folder)))
    archive = ARCHIVE.match(path)
    if archive:
        return archive[0] + os.path.normpath(folder / path[archive.end() :])
    return path if is_remote(path) else os.path.normpath(folder / os.path.expanduser(path))


def file_of(uri: str) -> str | None:
    """The local file, folder or archive that a name reads, or None where there is none on this machine."""
    inner = subdataset(uri)
    path = inner.file if inner else uri
    archive = re.match("(zip|tar|gzip)://(/?[^!]+)", path)
    path = archive[2] if archive else path
    return None if is_remote(path) else path
