"""What a run from Python leaves alone: databases, logging, Ray sessions; and where it shows its progress."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from helpers import write_raster
from jupyter_client.manager import KernelManager

import geopipe as gp
from geopipe.monitoring.database import embedded
from geopipe.run.options import Snapshot

SETTINGS = {"grid": {"like": "dem.tif"}, "layers": [{"name": "elevation", "path": "dem.tif"}]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with dem.tif."""
    values = np.arange(1200, dtype="float32").reshape(30, 40)
    write_raster(tmp_path / "dem.tif", values, "EPSG:32632", Affine(10, 0, 500000, 0, -10, 5000000))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_starts_no_database_unless_the_settings_name_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEOPIPE_MONITORING__ENABLE_DATABASE_LOGGING")
    started: list[bool] = []

    def start() -> str:
        started.append(True)
        raise gp.GeopipeError("not in this test")

    monkeypatch.setattr(embedded, "start", start)
    (folder / "s.toml").write_text('[grid]\nlike = "dem.tif"\n[[layers]]\nname = "elevation"\npath = "dem.tif"\n')
    for settings in (SETTINGS, "s.toml", gp.Settings(**SETTINGS)):  # type: ignore[arg-type]
        gp.run(settings, engine="local", overwrite=True)
    assert not started
    with pytest.raises(gp.GeopipeError, match="not in this test"):
        gp.run(SETTINGS, {"monitoring.enable_database_logging": True}, engine="local", overwrite=True)


def test_a_run_leaves_the_logging_of_the_process_as_it_was(folder: Path) -> None:
    names = ("", "geopipe", "ray", "ray.data", "rasterio")

    def state() -> list[object]:
        loggers = [logging.getLogger(name) for name in names]
        return [(one.level, one.handlers[:], one.propagate, one.disabled) for one in loggers]

    before = state()
    gp.run(SETTINGS, engine="local")
    gp.open("output").xarray().load()
    assert state() == before


def test_progress_may_be_a_function(folder: Path) -> None:
    snapshots: list[Snapshot] = []
    gp.run(SETTINGS, engine="local", progress=snapshots.append)
    assert snapshots[-1].totals == {"read": 1, "merge": 1, "write": 1}


def test_nothing_is_printed_where_nobody_looks(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    gp.run(SETTINGS, engine="local")
    assert capfd.readouterr() == ("", "")


def test_a_notebook_shows_the_plan_and_one_output_of_progress_that_is_updated(folder: Path) -> None:
    manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "kernel"))
    manager.kernel_spec_manager.ensure_native_kernel = True
    manager.start_kernel(env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, cwd=folder)
    client = manager.blocking_client()
    client.start_channels()
    outputs: list[dict[str, object]] = []
    try:
        client.wait_for_ready(timeout=120)
        code = f"import geopipe as gp\ngp.run({SETTINGS!r}, engine='local')\ngp.plan({SETTINGS!r})"
        reply = client.execute_interactive(code, timeout=240, output_hook=outputs.append)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert reply["content"]["status"] == "ok", reply["content"]
    by_type: dict[str, list[dict[str, object]]] = {}
    for message in outputs:
        by_type.setdefault(str(message["msg_type"]), []).append(message["content"])  # type: ignore[arg-type]
    (first,), updates = by_type["display_data"], by_type["update_display_data"]
    assert {str(u["transient"]) for u in updates} == {str(first["transient"])}
    assert "write" in str(updates[-1]["data"])
    (result,) = by_type["execute_result"]
    assert str(result["data"]["text/html"]).startswith("<pre>plan run")  # type: ignore[index]


def test_a_plan_shows_itself_as_text_and_escapes_it(folder: Path) -> None:
    (folder / "dem.tif").rename(folder / "a<b>.tif")
    plan = gp.plan({"grid": {"like": "a<b>.tif"}, "layers": [{"name": "elevation", "path": "a<b>.tif"}]})
    assert repr(plan).startswith("plan run\n")
    assert "a<b>.tif" in repr(plan)
    assert "a&lt;b&gt;.tif" in plan._repr_html_()
