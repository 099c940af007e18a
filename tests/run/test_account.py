"""The report of a run: after the commit, with the account of the run, and never at the table's cost."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import north_up, write_raster

import geopipe as gp
from geopipe.report import write


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    values = np.arange(1200, dtype="float32").reshape(30, 40)
    path = write_raster(tmp_path / "dem.tif", values, "EPSG:32632", north_up(500_000, 5_000_000, 10))
    run = {"output": tmp_path / "out"}
    return {"run": run, "grid": {"like": path}, "layers": [{"name": "height", "path": path}]}


def run(settings: dict[str, Any], **report: Any) -> gp.Summary:
    return gp.run(settings | {"report": report}, engine="local", progress=False)


def test_a_run_writes_its_report_and_its_account(settings: dict[str, Any], tmp_path: Path) -> None:
    summary = run(settings)
    account = json.loads((tmp_path / "out/report/run.json").read_text())
    assert account["run_id"] == summary.run_id
    assert [phase["name"] for phase in account["phases"]] == ["plan", "start", "run", "commit"]
    assert all(phase["wall"] >= 0 and phase["cpu"] >= 0 and phase["peak_bytes"] > 2**20 for phase in account["phases"])
    assert account["usage"]["processes"] == 1
    assert account["extents"] == {"height": 1.0}
    assert "report" in summary.seconds
    assert (tmp_path / "out/report.html").stat().st_size < 5e6


def test_a_report_that_is_not_enabled_is_not_written_and_changes_no_byte(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    run(settings)
    own = (tmp_path / "out/manifest.jsonl").read_bytes()
    settings["run"]["output"] = tmp_path / "bare"
    summary = run(settings, enabled=False)
    assert "report" not in summary.seconds
    assert (tmp_path / "bare/manifest.jsonl").read_bytes() == own
    assert not list((tmp_path / "bare").glob("report*"))
    assert gp.plan(settings).hash == gp.plan(settings | {"report": {"enabled": False}}).hash


def test_a_report_that_fails_is_a_warning_and_the_table_is_whole(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(write, "facts_of", fail)
    summary = run(settings)
    assert summary.rows == 1200
    assert gp.validate(tmp_path / "out").exit_code == 0
    assert "the table is whole, its report is not: ZeroDivisionError: a defect" in caplog.text
    assert not (tmp_path / "out/report.html").exists()
