"""The values that each key of the settings accepts, in words, from the JSON Schema of its model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from datetime import date
from typing import Any

from pydantic import BaseModel


def listed(words: Sequence[str], last: str = "or") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


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


class KeyRules:
    """The rules of all keys.

    Args:
        sections: the model of each section; of `layers`, that of one layer.
    """

    def __init__(self, sections: dict[str, type[BaseModel]]) -> None:
        self.schemas = {name: model.model_json_schema() for name, model in sections.items()}
        self.keys = {name: list(model.model_fields) for name, model in sections.items()}

    def schema(self, section: str, key: str) -> dict[str, Any]:
        """The JSON Schema of a key."""
        schema: dict[str, Any] = self.schemas[section]["properties"][key]
        return schema

    def _resolved(self, section: str, schema: dict[str, Any]) -> dict[str, Any]:
        reference = schema.get("$ref")
        return self.schemas[section]["$defs"][reference.rpartition("/")[2]] if reference else schema

    def is_list(self, section: str, key: str) -> bool:
        """Whether the key accepts a list."""
        if key not in self.keys.get(section, ()):
            return False
        schema = self.schema(section, key)
        return any(part.get("type") == "array" for part in [schema, *schema.get("anyOf", ())])

    def choices(self, section: str, schema: dict[str, Any]) -> list[str]:
        """The words that the key accepts."""
        schema = self._resolved(section, schema)
        parts = [*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else [])]
        own = [schema["const"]] if "const" in schema else schema.get("enum", [])
        return [*map(str, own), *(word for part in parts for word in self.choices(section, part))]

    def allowed(self, section: str, schema: dict[str, Any]) -> str:
        """The values that the key accepts, in words."""
        if "allowed" in schema:
            return str(schema["allowed"])
        schema = self._resolved(section, schema)
        if parts := [p for p in schema.get("anyOf", ()) if p.get("type") != "null"]:
            return listed(list(dict.fromkeys(self.allowed(section, p) for p in parts)))
        if "const" in schema or "enum" in schema:
            return listed([json.dumps(w) for w in self.choices(section, schema)])
        kind = schema["type"]
        if kind == "array":
            if "prefixItems" in schema:
                return f"a list of {len(schema['prefixItems'])} numbers"
            return f"{self.allowed(section, schema['items'])}, or a list of them"
        if kind in ("integer", "number"):
            return _number(schema)
        return {"boolean": "true or false", "string": "text in quotes"}[kind]

    def example(self, section: str, key: str) -> str:
        """A value that the key accepts, as TOML."""
        schema = self.schema(section, key)
        if "example" in schema:
            return shown(schema["example"])
        words = self.choices(section, schema)
        if words:
            return json.dumps(words[:2] if schema.get("type") == "array" else words[0])
        default = schema.get("default")
        if default is not None:
            return shown(default)
        types = [part.get("type") for part in [schema, *schema.get("anyOf", ())]]
        return "true" if "boolean" in types else "1"


def _number(schema: dict[str, Any]) -> str:
    """A number with its limits."""
    text = "a whole number" if schema["type"] == "integer" else "a number"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        text += f" from {low:,} to {high:,}"
    elif low is not None:
        text += f" of at least {low:,}"
    if "exclusiveMinimum" in schema:
        text += f" above {schema['exclusiveMinimum']:g}"
    if "exclusiveMaximum" in schema:
        text += f" and below {schema['exclusiveMaximum']:g}"
    if "exclusiveMinimum" in schema and high is not None:
        text += f" and at most {high:g}"
    return text + (f", a multiple of {schema['multipleOf']}" if "multipleOf" in schema else "")
