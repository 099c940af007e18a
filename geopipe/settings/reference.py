"""The reference of the settings, from the models: every key as text, Markdown, commented TOML, and JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from textwrap import wrap
from typing import Any, NamedTuple

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from geopipe.settings.model import SECTIONS, Settings
from geopipe.settings.rules import allowed, example, header, schema_of

WIDTH = 118
"""Characters of a line of TOML, beyond which its comment stands above it."""


class Key(NamedTuple):
    """A key of the settings. `default` and `example` are TOML; a key without a default has ""."""

    name: str
    values: str
    default: str
    required: bool
    example: str
    meaning: str


def meaning(field: FieldInfo) -> str:
    """The meaning of a key in one line."""
    return " ".join(str(field.description).split())


@cache
def keys(section: str) -> tuple[Key, ...]:
    """The keys of a section, in the order of the model."""
    result = []
    for name, field in SECTIONS[section].model_fields.items():
        default = "" if field.is_required() or field.default in (None, ()) else toml(field.default)
        rule = schema_of(section, name)
        result.append(Key(name, allowed(rule), default, field.is_required(), example(rule), meaning(field)))
    return tuple(result)


def title(section: str) -> str:
    """The first line of a section's description."""
    return str(SECTIONS[section].__doc__).partition("\n")[0]


def text_reference() -> str:
    """The reference as text of at most 80 columns."""
    lines: list[str] = []
    for section in SECTIONS:
        lines += [header(section), *wrap(title(section), 80)]
        for key in keys(section):
            default = "required" if key.required else f"default: {key.default}" if key.default else "no default"
            lines.append(f"  {key.name}")
            for text in (key.meaning, f"{key.values}; {default}"):
                lines += wrap(text, 78, initial_indent="    ", subsequent_indent="    ")
        lines.append("")
    return "\n".join(lines)


def markdown_reference() -> str:
    """The reference as Markdown: a table for each section."""
    lines: list[str] = []
    for section in SECTIONS:
        lines += [f"## `{header(section)}`", "", title(section), "", "| key | value | default | meaning |"]
        lines.append("|---|---|---|---|")
        for key in keys(section):
            default = "required" if key.required else f"`{key.default}`" if key.default else ""
            cells = (f"`{key.name}`", key.values, default, key.meaning)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines)


def toml_reference() -> str:
    """The reference as a settings file with every key."""
    return "\n\n".join("\n".join(full_section(section, {})) for section in SECTIONS) + "\n"


def schema() -> dict[str, Any]:
    """A JSON Schema of a settings file, for editors."""
    result = Settings.model_json_schema()
    definitions = result["$defs"]
    for model in SECTIONS.values():
        properties = definitions[model.__name__]["properties"]
        for name, field in model.model_fields.items():
            described = {k: v for k, v in properties[name].items() if k not in ("allowed", "hint", "example")}
            described["description"] = meaning(field)
            if "example" in properties[name]:
                described["examples"] = [properties[name]["example"]]
            if any(isinstance(item, BeforeValidator) for item in field.metadata):  # a value may stand for a list of it
                described = _with_single_values(described)
            properties[name] = described
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **result, "title": "Settings of geopipe"}


def _with_single_values(described: dict[str, Any]) -> dict[str, Any]:
    """A schema of a list that accepts one item in place of the list, and a number in place of a text."""
    outer = {k: v for k, v in described.items() if k in ("description", "default", "examples", "title")}
    inner = {k: v for k, v in described.items() if k not in outer}
    options = inner.pop("anyOf", None) or [inner]
    items = [item for option in options for item in [option.get("items"), *option.get("prefixItems", ())[:1]] if item]
    return {**outer, "anyOf": [*options, *items, {"type": "number"}]}


# ---------------------------------------------------------------- TOML with comments


def toml(value: Any) -> str:
    """A value as TOML on one line."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def line(name: str, text: str, comment: str = "", active: bool = True) -> list[str]:
    """A key with its comment beside it, or above it if the line would be too long; behind "# " if not active.

    Args:
        text: the value as TOML.
    """
    whole = f"{'' if active else '# '}{name} = {text}"
    if len(whole) + len(comment) + 4 <= WIDTH:
        return [f"{whole}  # {comment}" if comment else whole]
    return [*(f"# {part}" for part in wrap(comment, WIDTH - 2)), whole]


def full_section(section: str, values: Mapping[str, Any]) -> list[str]:
    """The lines of a section with every key. Keys without a value or default show an example behind "# "."""
    lines = [f"{header(section)}  # {title(section)}"]
    for key in keys(section):
        text = toml(values[key.name]) if key.name in values else key.default or key.example
        choice = f"; {key.values}" if key.values.startswith('"') and '"' not in key.meaning else ""
        lines += line(key.name, text, key.meaning + choice, active=key.name in values or bool(key.default))
    return lines


def short_section(section: str, values: Mapping[str, Any], comments: Mapping[str, str]) -> list[str]:
    """The lines of a section with its values only, each with its comment; that of the section itself is under ""."""
    lines = ["  # ".join(filter(None, (header(section), comments.get(""))))]
    return lines + [part for name, value in values.items() for part in line(name, toml(value), comments.get(name, ""))]
