"""The values that each key of the settings accepts, in words, from the JSON Schema of its model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from datetime import date
from functools import cache
from typing import Any

from geopipe.settings.model import SECTIONS

KEYS = {name: list(model.model_fields) for name, model in SECTIONS.items()}
"""The keys of each section."""

LIMITS = {"minimum": "of at least", "exclusiveMinimum": "above", "exclusiveMaximum": "below", "maximum": "at most"}
"""Limits of a number in JSON Schema, in words."""


def header(section: str) -> str:
    """The line of TOML that begins a section."""
    return "[[layers]]" if section == "layers" else f"[{section}]"


def listed(words: Sequence[str]) -> str:
    """Words with commas, and "or" before the last."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def shown(value: Any) -> str:
    """A value as TOML has it, shortened; an address that may hold a secret is not shown."""
    if isinstance(value, str) and "://" in value and re.search("[@?#]", value):
        return '"..."'
    if isinstance(value, list | tuple):
        text = f"[{', '.join(map(shown, value))}]"
    elif isinstance(value, dict):
        text = "a table"
    elif isinstance(value, float) and not math.isfinite(value):
        text = str(value)
    else:
        text = str(value) if isinstance(value, date) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:76]} ..."


@cache
def schema_of(section: str, key: str) -> dict[str, Any]:
    """The JSON Schema of a key, with definitions in place of references."""
    model = SECTIONS[section].model_json_schema()

    def resolved(part: Any) -> Any:
        if isinstance(part, list):
            return [resolved(item) for item in part]
        if not isinstance(part, dict):
            return part
        definition = model.get("$defs", {}).get(part.get("$ref", "").rpartition("/")[2], {})
        return {name: resolved(item) for name, item in part.items()} | definition

    schema: dict[str, Any] = resolved(model["properties"][key])
    return schema


def types(schema: dict[str, Any]) -> set[str]:
    """The types of JSON that a key accepts."""
    return {str(part.get("type")) for part in (schema, *schema.get("anyOf", ()))}


def choices(schema: dict[str, Any]) -> list[str]:
    """The words that a key accepts."""
    own = [schema["const"]] if "const" in schema else schema.get("enum", ())
    parts = [*schema.get("anyOf", ()), schema.get("items", {})] if schema else []
    return [*map(str, own), *(word for part in parts for word in choices(part))]


def allowed(schema: dict[str, Any]) -> str:
    """The values that a key accepts, in words."""
    if "allowed" in schema:
        return str(schema["allowed"])
    if parts := [part for part in schema.get("anyOf", ()) if part.get("type") != "null"]:
        return listed(list(dict.fromkeys(map(allowed, parts))))
    kind = schema["type"]
    if kind == "array":
        return f"{allowed(schema['items'])}, or a list of them"
    if words := choices(schema):
        return listed([json.dumps(word) for word in words])
    if kind in ("integer", "number"):
        return _number(schema)
    return {"boolean": "true or false", "string": "text in quotes"}[kind]


def example(schema: dict[str, Any]) -> str:
    """A value that a key accepts, as TOML."""
    if isinstance(table := schema.get("example"), dict):
        return f"{{{', '.join(f'{json.dumps(key)} = {shown(value)}' for key, value in table.items())}}}"
    if "example" in schema:
        return shown(schema["example"])
    if words := choices(schema):
        return json.dumps(words[:2] if schema.get("type") == "array" else words[0])
    if schema.get("default") is not None:
        return shown(schema["default"])
    return "true" if "boolean" in types(schema) else "1"


def _number(schema: dict[str, Any]) -> str:
    """A number with its limits."""
    text = "a whole number" if schema["type"] == "integer" else "a number"
    if "minimum" in schema and "maximum" in schema:
        text += f" from {schema['minimum']:,} to {schema['maximum']:,}"
    else:
        limits = [f" {words} {schema[name]:,}" for name, words in LIMITS.items() if name in schema]
        text += " and".join(limits)
    return text + (f", a multiple of {schema['multipleOf']}" if "multipleOf" in schema else "")
