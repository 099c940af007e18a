"""Hide the secrets in whatever leaves a run: files of the output, records, messages."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

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
