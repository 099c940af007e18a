"""`geopipe open`: what a table holds, and lines for other programs that read this very table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
from damage import make_settings
from helpers import call

import geopipe as gp

LAYOUTS: dict[str, dict[str, Any]] = {
    "parquet": {"formats": ["parquet"]},
    "folders by class": {"formats": ["parquet"], "partition_by": "cover"},
    "points": {"formats": ["parquet"], "geometry": "point"},
    "csv": {"formats": ["csv"]},
    "one csv": {"formats": ["csv"], "csv_files": "one"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_lines_for_python_pandas_and_duckdb_read_the_table(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = {f"export.{key}": value for key, value in LAYOUTS[layout].items()}
    summary = gp.run(make_settings(tmp_path), overrides | {"run.output": "it's here"}, engine="local")
    code, out, error = call(capsys, "open", summary.output, "--json")
    assert code == 0, error
    described = json.loads(out)
    assert (described["rows"], described["crs"]) == (summary.rows, "WGS 84 / UTM zone 32N")
    column = next(c for c in described["columns"] if c["name"] == "cover")
    assert (column["type"], column["method"]) == ("uint8", "categorical, copy")
    names: dict[str, Any] = {}
    exec(described["read"]["Python"], names)
    assert len(names["frame"]) == summary.rows
    assert names["image"].height.shape == (20, 600)
    exec(described["read"]["pandas"], names)
    assert len(names["frame"]) == summary.rows
    assert duckdb.sql(described["read"]["DuckDB"]).fetchall()[0][0] is not None
    code, out, _ = call(capsys, "open", summary.output)
    assert code == 0
    for program, block in described["read"].items():
        assert program in out
        assert all(line in out for line in block.splitlines())


def test_open_says_what_is_no_finished_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = call(capsys, "open", tmp_path)
    assert code == 2
    assert f"{tmp_path} holds no finished run" in error
