"""Hide secrets in all that leaves a run: output files, records, messages."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
"""The text in place of a secret."""

_NAME = (
    r"[\w.%-]{0,64}(?:pass(?:word|wd|phrase)|pwd|secret|token|signature|credential|authorization|cookie|"
    r"(?:api|access|account|subscription|shared|private)[-_]?key(?:[-_]?id)?)[\w.-]{0,64}"
)
_IN_QUERY = r"sig|key|code|auth|hmac|jwt|userpwd|googleaccessid"
_VALUE = r"""(?:'[^']*'|"[^"]*"|(?:(?!%26|%22)[^\s&;"'<>\\])+)"""


_SECRETS = (
    # a header for GDAL to send: its value may hold blanks
    (re.compile(r"(header\.[\w-]+(?:=|%3D))(?:(?!%26)[^&\"'<>\\\n])+", re.I), rf"\1{HIDDEN}"),
    (re.compile(rf"((?:[?&]|%3F|%26)(?:{_IN_QUERY})(?:=|%3D)){_VALUE}", re.I), rf"\1{HIDDEN}"),
    (re.compile(rf"((?:^|(?<![\w.%-])|%3F|%26){_NAME}(?:=|%3D)){_VALUE}", re.I), rf"\1{HIDDEN}"),
    (re.compile(r"\b(bearer|authorization\W{1,5}basic)((?:\s|%20)+)[\w.~+/=-]{6,}", re.I), rf"\1\2{HIDDEN}"),
    # user:password@ of a URL; a password may not be quoted as it should, so any text up to the last @ counts
    (re.compile(r"""(://)(?=[^/?#\s"'<>@:]*:)[^/?#\s"'<>]*@"""), rf"\1{HIDDEN}@"),
    (re.compile(r"""\b((?:https?|ftp)://)[^/?#\s"'<>]+@""", re.I), rf"\1{HIDDEN}@"),  # a token in place of a user
    (re.compile(r"""(://)[^/?#\s"'<>:]*:(?!\d+(?:[/?#\s"']|$))[^\s"'<>]{0,512}@"""), rf"\1{HIDDEN}@"),
    (re.compile(r"(%3A%2F%2F)(?:(?!%2F|%40)[^\s&\"'])*%40", re.I), rf"\1{HIDDEN}%40"),
)
"""Patterns of secrets, and their replacements."""


def redact(text: str) -> str:
    """A text without the secrets in its URLs, GDAL options and connection strings.

    All text that leaves a run goes through this function: output files, records, messages.
    """
    if not any(mark in text for mark in ("=", "@", "%3D", "%3d", "%40")) and not re.search("bearer|basic", text, re.I):
        return text
    for pattern, rest in _SECRETS:
        text = pattern.sub(rest, text)
    return text


def redacted(value: Any, mark: bool = False) -> Any:
    """A JSON value without secrets in its texts and keys.

    Args:
        mark: add a hash of the original to a text that held a secret, so that two such texts differ.
    """
    if isinstance(value, str):
        shown = redact(value)
        return f"{shown}#{hashlib.sha256(value.encode()).hexdigest()[:16]}" if mark and shown != value else shown
    if isinstance(value, Mapping):
        return {redacted(key, mark): redacted(item, mark) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item, mark) for item in value]
    return value
