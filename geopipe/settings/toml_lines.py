"""Reads TOML files, with a helpful error for every file that is no TOML, and finds the lines of keys."""

from __future__ import annotations

import codecs
import re
import tomllib
from pathlib import Path
from typing import Any

from geopipe import proposals
from geopipe.errors import SettingsError


def read(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a TOML file, and its values.

    Raises:
        SettingsError: it cannot be read, is no UTF-8 text or no TOML; names the line and what it looks like instead.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        hint = proposals.path(str(path.absolute()), "the name") if isinstance(error, FileNotFoundError) else ""
        if path.is_dir() and (inside := sorted(map(str, path.glob("*.toml")))[:3]):
            hint = f"did you mean {' or '.join(inside)}?"
        raise SettingsError(
            f"the settings file {path} cannot be read: {error.strerror}",
            hint if hint.startswith("did you mean") else "name a TOML file; `geopipe demo` writes one",
        ) from None
    text = _decoded(path, data)
    try:
        return text, tomllib.loads(text)
    except ValueError as error:  # of a number with too many digits it is no TOMLDecodeError
        raise _no_toml(path, text, str(error)) from None
    except RecursionError:
        raise SettingsError(
            f"{path}: lists or tables are nested too deeply", "no setting needs more than two"
        ) from None


def _decoded(path: Path, data: bytes) -> str:
    """The bytes as text; a byte order mark of UTF-8 is left out."""
    data = data.removeprefix(codecs.BOM_UTF8)
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if not marked and b"\0" in data and any(data[0:100:2]) and any(data[1:100:2]):
        raise SettingsError(
            f"the settings file {path} is no text", f"name a TOML file; of a raster or table, geopipe inspect {path}"
        )
    if marked or b"\0" in data[:4]:
        raise SettingsError(
            f"the settings file {path} is UTF-16 (as Windows' Notepad and PowerShell write it); TOML is UTF-8",
            f"save it as UTF-8, or: iconv -f utf-16 -t utf-8 {path} > new.toml",
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].split(b"\n")
        line = (before[-1] + data[error.start :].split(b"\n")[0]).decode("cp1252", "replace")
        raise SettingsError(
            f"{path}:{len(before)}: the byte 0x{data[error.start]:02x} is no UTF-8; as Latin-1 (or Windows-1252) the "
            f"line is: {_shown(line)}",
            f"save the file as UTF-8, or: iconv -f latin1 -t utf-8 {path} > new.toml",
        ) from None
    if lone := re.search(r"\r(?!\n)", text):
        number = text[: lone.start()].count("\n") + 1
        raise SettingsError(
            f"{path}:{number}: a carriage return without a line feed",
            "save the file with line ends of Unix (LF) or Windows (CR LF)",
        )
    return text.replace("\r\n", "\n")


def _no_toml(path: Path, text: str, error: str) -> SettingsError:
    """The error for a text that is no TOML, with its line."""
    number, lines = re.search(r"line (\d+)", error), text.split("\n")
    at = min(int(number[1]) if number else len(lines), len(lines))
    line = lines[at - 1].strip()
    if text.lstrip().startswith("{"):
        return SettingsError(f"{path}: that is JSON, not TOML", "write [section], and below it key = value")
    message, hint = _mistake(line, error)
    return SettingsError(": ".join(filter(None, (f"{path}:{at}", _shown(line), message))), hint)


def _mistake(line: str, error: str) -> tuple[str, str]:
    """Message and hint for a line that is no TOML: a common mistake by name, else the words of the parser."""
    if "overwrite" in error or "twice" in error:
        return "this key or table is there twice", "keep one of the two"
    if re.search(r'"[^"]*\\', line):
        plain = re.sub(r'"([^"]*)"', r"'\1'", line)
        message = "a backslash in double quotes has a meaning of its own (\\t is a tab)"
        return message, f"write slashes, or single quotes: {_shown(plain)}"
    if quotes := re.search("[\u2018-\u201f\u00ab\u00bb]", line):
        return f"{quotes[0]} is no quote of TOML", 'write "straight" quotes, as on a keyboard'
    if (yaml := re.match(r"([\w.-]+)\s*:\s*(.*)", line)) and "=" not in line:
        hint = f"write {yaml[1]} = {yaml[2]}" if yaml[2] else f"write [{yaml[1]}], and below it key = value"
        return "that is YAML; TOML has = after a key", hint
    if comma := re.fullmatch(r"([\w.-]+)\s*=\s*(-?\d+),(\d+)", line):
        key, whole, rest = comma.groups()
        return (
            "a number has a point, a list has brackets",
            f"write {key} = {whole}.{rest}, or {key} = [{whole}, {rest}]",
        )
    bare = re.fullmatch(r"([\w.-]+)\s*=\s*([^\s\"'\[{#][^#]*?)\s*(#.*)?", line)
    if bare and "Invalid" in error:
        value = {"true": "true", "false": "false", "yes": "true", "no": "false"}.get(bare[2].casefold(), f'"{bare[2]}"')
        return "the value is no TOML; text needs quotes", f"write {bare[1]} = {value}"
    if re.fullmatch(r"([\w.-]+)\s*=", line):
        return "there is no value", "give one, or put # before the key"
    reason = re.sub(r" \(at .*\)", "", error)
    return f"no valid TOML ({reason})", "correct that line, or the one before it"


def _shown(line: str) -> str:
    """A line of a file for a message. Of a line with an address only the key, for it may have a password."""
    line = line.strip()
    return f"{line.partition('=')[0].strip()} = ..." if "://" in line else line[:80]


def value_of(text: str, is_list: bool) -> Any:
    """The value of a text from the command line or the environment: TOML, but text needs no quotes.

    Args:
        is_list: whether the key accepts a list; then 1,2,3,4 is one.
    """
    text = text.strip()
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        pass
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if is_list and ("," in inner or inner is not text):
        return [value_of(part, False) for part in inner.split(",") if part.strip()]
    return text


def line_of(text: str, keys: tuple[Any, ...]) -> int:
    """The line of a key in a TOML text; that of its table if the key is missing."""
    section, index = (str(keys[0]) if keys else ""), keys[1] if len(keys) > 1 and isinstance(keys[1], int) else None
    name = next((str(k) for k in keys[1:] if isinstance(k, str)), None)
    current, count, at = "", -1, 1
    for number, line in enumerate(text.split("\n"), 1):
        header = re.match(r"\s*\[\[?\s*([\w.-]+)\s*\]\]?", line)
        if header:
            current = header[1]
            count += current == section
            if current.partition(".")[0] == section and (index is None or count == index):
                at = number
            continue
        inside = current == section and (index is None or count == index)
        if not current and re.match(rf"\s*{re.escape(section)}\s*[=.]", line):
            at = number
        if inside and name and re.match(rf"\s*[\"']?{re.escape(name)}[\"']?\s*=", line):
            return number
    return at
