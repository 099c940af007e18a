"""The page of a run at work: what its server says of tiles, who may read it, and how it becomes the report."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chromium
import numpy as np
import pytest
from commits import stage
from helpers import plan_of, write_raster
from monitored import Source, new_id, settle
from test_page import CONTRAST
from waiting import until

from geopipe.errors import MachineError, SettingsError
from geopipe.export.lock import locked
from geopipe.export.staging import Staging
from geopipe.grid.grid import Grid
from geopipe.layers.layer import Layer
from geopipe.plan.plan import Plan
from geopipe.report import live, write
from geopipe.validate.facts import facts_of

GRID = Grid("EPSG:32632", 500_000, 5_000_000, 10, 10, 1100, 1100)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A plan of nine tiles."""
    file = tmp_path_factory.mktemp("live") / "dem.tif"
    write_raster(file, np.ones((1100, 1100), "float32"), GRID.crs, GRID.transform)
    return plan_of(GRID, [Layer("dem", (str(file),))], window_size=512)


@contextmanager
def served(target: object, host: str = "127.0.0.1") -> Iterator[str]:
    """The address of the page."""
    with live.server(str(target), host) as (address, serve):
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield address


def get(address: str, path: str = "", **headers: str) -> tuple[int, str]:
    """Status and body of an answer."""
    page, _, query = address.partition("?")
    request = urllib.request.Request(f"{page}{path}" + (f"?{query}" if query else ""), headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look is a new one."""
    monkeypatch.setattr(live, "EVERY", 0.0)


def state(address: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(get(address, "state")[1])
    return answer


def test_tiles_appear_as_they_are_committed(at_once: None, plan: Plan, tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    with served(output) as address:
        assert state(address)["state"] == "waiting"
        with locked(output, "run"):
            assert state(address)["state"] == "starting"
            stage(output, plan, tiles=[0, 1, 4])
            now = state(address)
            assert (now["state"], now["tiles"]["planned"]) == ("running", 9)
            assert (now["tiles"]["rows"], now["tiles"]["cols"]) == (3, 3)
            assert (now["tiles"]["done"], now["tiles"]["count"]) == ([[0, 2], [4, 5]], 3)
            staging = stage(output, plan, tiles=[2])
            assert state(address)["tiles"]["done"] == [[0, 3], [4, 5]]
        assert state(address)["state"] == "unfinished"
        with locked(output, "run"):
            stage(output, plan, tiles=[3, 5, 6, 7, 8])
            staging.commit({"run_id": "run"})
        now = state(address)
        assert (now["state"], now["rows"], now["page"]) == ("finished", GRID.cells, False)


def test_the_page_becomes_the_report(plan: Plan, tmp_path: Path) -> None:
    with served(tmp_path) as address:
        assert "A run at work" in get(address)[1]
    with locked(tmp_path, "run"):
        stage(tmp_path, plan).commit({"run_id": "run"})
    (tmp_path / "report.html").write_text("the report")
    with served(tmp_path) as address:
        assert get(address) == (200, "the report")


def test_the_page_asks_no_other_server(tmp_path: Path) -> None:
    with served(tmp_path) as address:
        assert "http" not in get(address)[1].replace("http://www.w3.org/2000/svg", "")


def test_a_page_of_another_site_cannot_read_the_state(tmp_path: Path) -> None:
    with served(tmp_path) as address:
        assert get(address, "state", Host="example.org")[0] == 403
        assert get(address, "state", Host="localhost:1")[0] == 200
        assert get(address, "elsewhere")[0] == 404


def test_beyond_this_machine_a_token_is_needed(tmp_path: Path) -> None:
    with served(tmp_path, "0.0.0.0") as address:
        address = address.replace("0.0.0.0", "127.0.0.1")
        page, _, token = address.partition("?")
        assert len(token) > 30
        assert get(address, "state")[0] == 200
        assert get(page, "state")[0] == 403
        assert get(f"{page}?token=guess", "state")[0] == 403


def test_a_port_that_is_taken_is_an_error_that_says_so(tmp_path: Path) -> None:
    with served(tmp_path) as address:
        port = int(address.rstrip("/").rpartition(":")[2])
        with (
            pytest.raises(MachineError, match="cannot be listened on: Address already in use"),
            live.server(str(tmp_path), port=port),
        ):
            pass


def test_a_name_that_is_no_folder_and_no_run_says_both(dsn: str) -> None:
    with pytest.raises(SettingsError, match="nonsense is no folder, and no run"), live.server("nonsense"):
        pass


def test_damaged_state_is_a_note_and_not_the_end(at_once: None, plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "_SUCCESS").write_text('{"plan_hash": 3}')
    with served(tmp_path) as address:
        now = state(address)
    assert now["state"] == "unknown"
    assert "damaged" in now["note"]


def test_stages_and_errors_come_from_the_monitor(at_once: None, plan: Plan, tmp_path: Path, dsn: str) -> None:
    run = Source(new_id(time.time()))
    run.state(time.time(), "running", name="dem", output=str(tmp_path), totals={"read": 9, "write": 9})
    run.progress(time.time(), "read", 4, 1_000_000).log(time.time(), "tile 5 is odd", "ERROR", stage="read")
    run.write(dsn)
    settle(dsn, f"UPDATE pipeline_runs SET heartbeat_at = now() + interval '1 h' WHERE run_id = '{run.run_id}'")
    with locked(tmp_path, "run"), served(tmp_path) as address:
        Staging(tmp_path, plan, "[run]\n", run.run_id).begin()
        monitor = until(lambda: state(address)["monitor"].get("stages") and state(address)["monitor"])
    stages = {one["stage"]: (one["done"], one["of"]) for one in monitor["stages"]}
    assert stages["read"] == (4, 9)
    assert monitor["errors"] == 1
    assert monitor["last"] == [{"level": "ERROR", "message": "tile 5 is odd"}]


def test_a_run_of_the_database_leads_to_its_folder(dsn: str, tmp_path: Path) -> None:
    run = Source(new_id(time.time())).state(time.time(), "running", name="dem", output=str(tmp_path), totals={})
    run.write(dsn)
    for target in (run.run_id, "dem", "latest"):
        with served(target) as address:
            assert state(address)["output"] == str(tmp_path)


@pytest.mark.slow
def test_a_browser_shows_tiles_as_they_come_and_then_the_report(
    at_once: None, plan: Plan, tmp_path: Path, home: Path
) -> None:
    def drawn(page: chromium.Browser) -> int:
        return int(page.value("document.querySelectorAll('.there').length"))

    output = tmp_path / "output"
    with locked(output, "run"), served(output) as address, chromium.browser(tmp_path) as page:
        staging = stage(output, plan, tiles=[0, 4])
        page.show(address, 1280, "dark")
        until(lambda: drawn(page) == 2)
        assert page.value("document.querySelector('#mosaic').getAttribute('aria-label')").startswith("2 of 9 tiles")
        assert page.value("document.title") == "test: running"
        stage(output, plan, tiles=[1])
        until(lambda: drawn(page) == 3)
        assert page.value(CONTRAST) == []
        stage(output, plan, tiles=[2, 3, 5, 6, 7, 8])
        staging.commit({"run_id": "run", "name": "test", "table": facts_of(plan).describe()})
        write.report(str(output))
        until(lambda: page.value("document.querySelector('#mosaic') === null && document.querySelector('h1') !== null"))
        assert page.problems == []
        assert [r for r in page.requests if not r.startswith(("data:", address.rstrip("/")))] == []
