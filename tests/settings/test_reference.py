"""The reference of the settings: every key, as text, Markdown, TOML and JSON Schema."""

from __future__ import annotations

import json
import re
import tomllib
from functools import cache
from typing import Any

import pytest
import surroundings
from click.testing import CliRunner

from geopipe.cli.main import cli
from geopipe.settings.model import SECTIONS, Settings
from geopipe.settings.reference import keys

KEYS = [(section, key) for section in SECTIONS for key in keys(section)]


@cache
def printed(*words: str) -> str:
    shown = CliRunner().invoke(cli, ["config", *words])
    assert shown.exit_code == 0, shown.output
    return shown.output


@pytest.mark.parametrize(("section", "key"), KEYS, ids=lambda item: item if isinstance(item, str) else item.name)
def test_a_key_has_a_meaning_its_values_and_its_default(section: str, key: Any) -> None:
    assert key.meaning not in ("", "None")
    field = SECTIONS[section].model_fields[key.name]
    assert key.required == field.is_required()
    if key.default:
        assert json.loads(key.default) == json.loads(json.dumps(field.default))
    text = re.search(rf"^\[+{section}\]+\n(.*?)(?=^\[|\Z)", printed("reference"), re.M | re.S)
    assert text is not None
    assert f"\n  {key.name}\n    {key.meaning[:20]}" in f"\n{text[1]}"
    assert f"| `{key.name}` | " in printed("reference", "--format", "markdown")


def test_text_fits_80_columns() -> None:
    assert max(map(len, printed("reference").splitlines())) <= 80


def test_the_toml_with_every_key_is_the_one_of_the_models() -> None:
    values = tomllib.loads(re.sub(r"^# (?=\w+ = )", "", printed("reference", "--format", "toml"), flags=re.M))
    assert {section: set(tables[0] if section == "layers" else tables) for section, tables in values.items()} == {
        section: set(model.model_fields) for section, model in SECTIONS.items()
    }


def test_the_top_level_settings_have_the_meaning_of_every_key() -> None:
    text = " ".join((surroundings.REPOSITORY / "settings.toml").read_text().replace("\n# ", " ").split())
    assert [key.name for _, key in KEYS if key.meaning not in text] == []


def test_the_json_schema_accepts_what_the_settings_accept() -> None:
    schema = json.loads(printed("schema"))
    layer = schema["$defs"]["LayerSettings"]["properties"]
    assert schema["$schema"].endswith("2020-12/schema")
    assert {"type": "string"} in layer["path"]["anyOf"], "one path stands for a list of it"
    assert any(
        option.get("type") == "number"
        for option in schema["$defs"]["GridSettings"]["properties"]["resolution"]["anyOf"]
    )
    assert layer["nodata"]["examples"] == [-9999]
    assert all("description" in field for field in layer.values())
    assert set(schema["properties"]) == set(Settings.model_fields)
    assert not re.search('"(allowed|hint|example)":', json.dumps(schema))
