"""The comparison of speed at its smallest size: peers make the same table, a series continues, pages have room."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import surroundings

BENCH = surroundings.REPOSITORY / "bench"


def run(script: str, *arguments: str | Path) -> str:
    """What a script prints; peers run with the Python of the tests, and those that it lacks are skipped."""
    command = [sys.executable, BENCH / script, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fast(folder: Path, *steps: str) -> str:
    """Run steps of the comparison, with data and results in a folder."""
    places = ("--data", folder / "data", "--results", folder / "results.json", "--peers", sys.executable)
    return run("fast.py", *steps, "--tiny", *places)


@pytest.mark.slow
def test_peers_make_the_same_table_and_a_series_continues(tmp_path: Path) -> None:
    lines = fast(tmp_path, "agreement", "in_process", "floor").splitlines()
    for peer in ("w8/loop", "w8/tuned_loop", "w3/gdal_defaults", "w3/exact_extract"):
        assert f"agreement/{peer}: the same table" in lines
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["in_process/256/local/0"]["rows"] == results["in_process/256/loop/0"]["rows"]
    again = fast(tmp_path, "in_process", "floor").splitlines()
    assert [line for line in again if line[0] != "#"] == []
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert "\n| scene min | " in run("report.py", "--print", "--results", tmp_path / "results.json")


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["odc_dask", "rioxarray_dask", "xrspatial_dask"])
def test_a_peer_on_dask_makes_all_cells(peer: str, tmp_path: Path) -> None:
    pytest.importorskip("dask", reason="Dask is in the environment of the peers alone: make bench-peers")
    pytest.importorskip({"odc_dask": "odc.geo", "xrspatial_dask": "xrspatial.reproject"}.get(peer, "rioxarray"))
    run("w8.py", tmp_path, "96")
    run(f"peers/{peer}.py", tmp_path, tmp_path / "output", "--chunk", "48")
    assert len(list((tmp_path / "output").glob("tile-*.parquet"))) == 4


@pytest.mark.slow
def test_windows_change_no_value_of_geopipe(tmp_path: Path) -> None:
    places = ("--data", tmp_path, "--results", tmp_path / "results.json", "--peers", sys.executable)
    lines = run("league.py", "--n", "1100", *places).splitlines()
    assert " ".join(lines[-1].split()) == "geopipe 0 changed, 0 visibly, of 9,680,000"


def test_pages_have_a_place_for_each_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    import report

    page, readme = report.PAGE.read_text(), report.README.read_text()
    for name in report.PAGE_TABLES:
        new = report.filled(page, name, "| a new table |\n")
        assert "-->\n| a new table |\n<!--" in new
        assert report.filled(new, name, "| a new table |\n") == new
    assert report.filled(readme, "fast", "") == readme
