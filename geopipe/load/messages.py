"""Collect GDAL's messages while a raster is opened or read: a call may succeed and yet lose a tag, a mask or pixels.

rasterio logs GDAL's warnings as warnings, and its errors in a call that succeeds at INFO.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from geopipe.layers.access import Access
from geopipe.redaction import redact

log = logging.getLogger(__name__)

LOGGERS = ("rasterio._env", "rasterio._err")
"""Loggers of rasterio with GDAL's messages: while it opens, and while it reads."""

DESCRIPTIVE = (
    r"(DateTime|Software|Artist|Copyright|HostComputer|Make|Model|DocumentName|ImageDescription|PageName|PageNumber|"
    r"XResolution|YResolution|ResolutionUnit|Photoshop|RichTIFFIFD|XMLPacket|ICC Profile|EXIFIFDOffset|InkNames)"
)
"""Tags of a TIFF that do not matter for values or places."""

HARMLESS = re.compile(
    "|".join(
        (
            rf'TIFFFetchNormalTag: ?(?!IO error).*"{DESCRIPTIVE}"',
            r"does not end in null byte",  # libtiff ends it, and keeps the value
            r"Unknown field with tag",
            r"tags are not sorted in ascending order",
            r"Sum of Photometric type-related color channels and ExtraSamples doesn't match",
            r"used to have optimizations in its layout",
            r"got from GeoTIFF keys is not the same as the one from the EPSG registry",
            r"PROJ: .*(grid|\.gsb|\.gtx|\.tif|network)",  # places go through pyproj, which says what it used
            r"valid_range: min > max",  # of unsigned bytes, of which `missing` knows better
            r"Retrying again in",  # what comes of the last try is an error, or nothing
            r"Unable to save auxiliary information",
            r"fill_value = null is invalid",  # GDAL writes it itself where a Zarr array has none
            r"\bis deprecated\b",
        )
    ),
    re.I,
)
"""Messages, errors included, that do not affect values or places."""

DAMAGE = re.compile(
    r"ignor|discard|truncat|corrupt|damage|error|fail|invalid|illegal|\bbad\b|\beof\b|unexpected|premature|missing|"
    r"inconsisten|incomplete|overflow|checksum|\bcrc\b|exceed|beyond|not enough|too (small|short|large|big)|unknown|"
    r"unsupported|not supported|unrecogni[sz]ed|"
    r"(can ?not|can't|could not|couldn't|unable to) (be )?(open|read|find|pars|load|decod|process|seek)",
    re.I,
)
"""Words of a warning that mean a loss. Other warnings go to geopipe's log."""

REPAIR = "get the file again, or write it anew: its values cannot be trusted as it is"

_heard = threading.local()


class _Filter(logging.Filter):
    """Collects GDAL's messages for the listener of this thread. Without one, logging is as before."""

    def filter(self, record: logging.LogRecord) -> bool:
        messages: list[tuple[bool, str]] | None = getattr(_heard, "messages", None)
        parent = logging.getLogger("rasterio")
        if messages is None or record.levelno < logging.INFO:
            record.msg, record.args = redact(record.getMessage()), None
            return record.levelno >= parent.getEffectiveLevel()
        about = record.args if isinstance(record.args, tuple) else ()
        text = about[-1] if len(about) > 1 else record.getMessage()
        text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        messages.append((record.levelno != logging.WARNING, " ".join(text.split())))
        return False


@contextmanager
def hearing() -> Iterator[None]:
    """Let GDAL's messages reach listeners inside. Afterwards logging is as before."""
    collector, before = _Filter(), sys.unraisablehook

    def hook(unraisable: Any) -> None:
        """Keep a message that rasterio drops in its callback, because it is not UTF-8."""
        messages, error = getattr(_heard, "messages", None), unraisable.exc_value
        if messages is None or not isinstance(error, UnicodeDecodeError):
            before(unraisable)
        else:
            messages.append((True, error.object.decode(errors="replace")))

    sys.unraisablehook = hook
    levels = {logger: logger.level for logger in map(logging.getLogger, LOGGERS)}
    for logger in levels:
        logger.setLevel(logging.INFO)
        logger.addFilter(collector)
    try:
        yield
    finally:
        if sys.unraisablehook is hook:
            sys.unraisablehook = before
        for logger, level in levels.items():
            logger.setLevel(level)
            logger.removeFilter(collector)


@contextmanager
def listening() -> Iterator[list[tuple[bool, str]]]:
    """Collect GDAL's messages in this thread as (is an error, text). Works inside of `hearing`."""
    outer = getattr(_heard, "messages", None)
    messages: list[tuple[bool, str]] = []
    _heard.messages = messages
    try:
        yield messages
    finally:
        _heard.messages = outer


@contextmanager
def refusing_damage(what: str, uri: str, access: Access) -> Iterator[None]:
    """Raise an error if GDAL loses something while it opens or reads a file inside.

    Args:
        what: beginning of the message: file, and place in it.
        uri: of the file, whose name is ignored in messages.
        access: whose error it is.

    Raises:
        SourceError: with GDAL's message.
    """
    with listening() as messages:
        yield
    for text in damages(messages, uri):
        raise access.error(f"{what} is damaged or incomplete. GDAL says: {text[:300]}", REPAIR)
    for _, text in dict.fromkeys(messages):
        if not HARMLESS.search(_without(text, uri)):
            log.warning("%s%s: GDAL says: %s", access.where, what, text[:300])


def damages(messages: list[tuple[bool, str]], uri: str = "") -> list[str]:
    """The messages that mean a loss: errors and DAMAGE, without HARMLESS ones."""
    shortened = [(is_error, text, _without(text, uri)) for is_error, text in messages]
    return [text for is_error, text, own in shortened if not HARMLESS.search(own) and (is_error or DAMAGE.search(own))]


def _without(text: str, uri: str) -> str:
    """A message without the name of its file."""
    name = re.split(r"[/\\]", uri.partition("?")[0].rstrip('/"'))[-1]
    return text.replace(uri, "").replace(name, "") if name else text
