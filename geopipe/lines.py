"""Where the keys of a TOML text stand, for messages: its parser does not tell."""

from __future__ import annotations

import re
from typing import Any


def line_of(text: str, keys: tuple[Any, ...]) -> int:
    """The line of a key in a TOML text, found by its table header and name; of the table where the key is not there."""
    section, index = (str(keys[0]) if keys else ""), keys[1] if len(keys) > 1 and isinstance(keys[1], int) else None
    name = next((str(k) for k in keys[1:] if isinstance(k, str)), None)
    current, count, at = "", -1, 1
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\[?\s*([\w.-]+)\s*\]\]?", line)
        if header:
            current = header[1]
            count += current == section
            if current == section and (index is None or count == index):
                at = number
            continue
        here = current == section and (index is None or count == index)
        if not current and re.match(rf"\s*{re.escape(section)}\s*[=.]", line):
            at = number
        if here and name and re.match(rf"\s*[\"']?{re.escape(name)}[\"']?\s*=", line):
            return number
    return at


def line_of_value(text: str, key: str, value: str) -> int:
    """The last line that gives `key` this text."""
    found = [n for n, line in enumerate(text.splitlines(), 1) if re.match(rf"\s*{key}\s*=\s*[\"']{value}[\"']", line)]
    return found[-1] if found else 1
