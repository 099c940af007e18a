"""`geopipe jobs`: where jobs may go, what is asked of runs, and one real head with real jobs on it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import call
from monitored import HOSTILE, Source, new_id, settle
from records import query
from surroundings import REPOSITORY
from trials import extend, make_square
from waiting import until

from geopipe.engine import address as addresses
from geopipe.errors import MachineError, PlanError, SettingsError
from geopipe.export import lock, state
from geopipe.jobs import head, jobs, local, marked, submission
from geopipe.monitoring import dead_runs, requests
from geopipe.monitoring.database import follow, queries
from geopipe.monitoring.database.runs import RunRow
from geopipe.run import pipeline
from geopipe.settings import load
from geopipe.settings.model import Settings
from geopipe.settings.sections import LayerSettings


@pytest.fixture(scope="module", autouse=True)
def surroundings(monitor_dsn: str) -> Iterator[Path]:
    """A home of geopipe's own, a database, and a token; nothing of the user's own."""
    with tempfile.TemporaryDirectory(prefix="geopipe-home-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOPIPE_HOME", folder)
        patch.setenv("HOME", folder)
        patch.setenv("GEOPIPE_MONITORING_DSN", monitor_dsn)
        patch.delenv("GEOPIPE_MONITORING__ENABLE_DATABASE_LOGGING", raising=False)
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        yield Path(folder)


@pytest.fixture(autouse=True)
def mode(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test sets of Ray's environment is gone after it."""
    monkeypatch.setenv("RAY_AUTH_MODE", "")
    monkeypatch.delenv("RAY_AUTH_MODE")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of 16 tiles; `slow` lets each take a second or more."""
    file = make_square(tmp_path_factory.mktemp("jobs"), "watched", 4)
    extend(file, "[monitoring]\nlog_flush_interval = 0.2\n[engine]\nworkers = 1\n")
    return file


def noted(dsn: str, state: str, name: str = "soils", **detail: Any) -> str:
    """A run as the database knows it; its id."""
    now = time.time()
    source = Source(new_id(now, secrets.randbits(60)))
    source.state(now, state, name=name, output="/data/soils", **detail).write(dsn)
    return source.run_id


def row(dsn: str, run_id: str, columns: str) -> tuple[Any, ...]:
    ((*result,),) = query(dsn, f"SELECT {columns} FROM pipeline_runs WHERE run_id = %s", run_id)
    return tuple(result)


def known(run_id: str) -> RunRow:
    with follow.reading() as connected:
        return queries.run_of(connected, run_id)


class Gone:
    """A cluster that knows no job, or does not answer any more."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def stop_job(self, job: str) -> None:
        raise self.error

    def get_job_status(self, job: str) -> None:
        raise self.error

    def get_job_info(self, job: str) -> None:
        raise self.error

    def get_job_logs(self, job: str) -> None:
        raise self.error


# ---------------------------------------------------------------- where jobs may go


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:6379",
        "127.0.0.9:6379",
        "127.0.0.1",
        "localhost",
        "http://localhost",
        "http://LOCALHOST:8265/",
        "ray://127.0.0.1:10001",
        "[::1]:6379",
        "[::1]",
        f"{socket.gethostname()}:6379",
    ],
)
def test_an_address_of_this_machine_needs_no_token(address: str) -> None:
    assert head.cluster(address) == address
    assert os.environ["RAY_AUTH_MODE"] == "disabled", "without a token Ray would end this process"


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.7:6379",
        "0.0.0.0:6379",
        "http://head.example:8265",
        "127.0.0.1.example:6379",
        "localhost.example:6379",
        "http://127.0.0.1:8265@head.example",
        "http://head.example//127.0.0.1:8265",
        "http://head.example:8265/?to=//localhost:1",
        "[::ffff:10.0.0.7]:6379",
        "[nonsense",
    ],
)
def test_beyond_this_machine_nothing_goes_without_a_token(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MachineError, match="no token") as caught:
        head.cluster(address)
    assert "RAY_AUTH_MODE=token" in caught.value.hint
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(MachineError, match="no token"):
        head.cluster(address)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert head.cluster(address) == address


def test_ray_address_is_where_jobs_go_unless_another_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert head.cluster(None) == "127.0.0.1:1"
    assert head.cluster("127.0.0.1:2") == "127.0.0.1:2"


@pytest.mark.parametrize("address", [None, "auto", "local"])
def test_without_an_address_it_is_the_head_of_this_machine(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = local.LocalCluster("127.0.0.1:3", "http://127.0.0.1:4", "mark", workers=0, cpus=1)
    monkeypatch.setattr(local, "alive", lambda: None)
    monkeypatch.setattr(local, "start", lambda size: own)
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert head.cluster(address, start=True) == "127.0.0.1:3"
    with pytest.raises(MachineError, match="no Ray head of geopipe runs") as caught:
        head.cluster(address)  # a new one would know nothing of the job that is meant
    assert "--address" in caught.value.hint


def test_a_token_on_this_machine_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
    head.cluster("127.0.0.1:1")
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_a_token_that_is_asked_for_and_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(MachineError, match="there is no token") as caught:
        head.cluster("127.0.0.1:1")
    assert "RAY_AUTH_TOKEN" in caught.value.hint


@pytest.mark.parametrize("held", ["", "{}", '{"address": "127.0.0.1:1"}', '{"address": "127.0.0.1:x"}'])
def test_a_head_that_is_gone_or_was_never_noted_is_none(
    held: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOPIPE_HOME", str(tmp_path))
    assert local.alive() is None
    (tmp_path / "head.json").write_text(held)
    assert local.alive() is None


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_wrong_address_is_one_error_and_soon(scheme: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MachineError, match="no Ray cluster takes jobs at") as caught:
        head.client(f"{scheme}127.0.0.1:{local.free_port()}")
    assert "--address" in caught.value.hint
    assert capfd.readouterr().err == ""


# ---------------------------------------------------------------- settings


EVERY_KEY: dict[str, dict[str, Any]] = {
    "bands": {"bands": [1, "red"], "nodata": -3.4028234663852886e38, "scale": 1e-4, "offset": -1e30, "unit": "m"},
    "placed": {"path": ["b*.tif", "http://x/c.tif"], "crs": "EPSG:4326", "georeference": "gcps", "nodata": -9999},
    "bits": {"bits": [2, 3], "kind": "categorical", "resampling": ["mode", "nearest"], "nodata": 2**64 - 1},
    "classes": {"kind": "categorical", "fractions": True, "valid_fraction": True, "nodata": -(2**63)},
    "named": {"kind": "categorical", "fractions": [1, 41], "overlap": "last", "on_error": "skip", "min_valid": 0.5},
    "packed": {"variable": "t2m", "time": [1990, "2000-01-01"], "level": [500, 850.5], "reduce": "mean"},
    "plain": {"unpack": False, "nodata": 0.0, "kind": "circular", "resampling": "average"},
    "stac": {
        "asset": "B04",
        "sort_by": "-datetime",
        "driver": "STACIT",
        "allow": ["https://x/"],
        "nodata": float("inf"),
    },
    "wells": {"path": "postgres:", "table": "wells", "key": "id", "x": "lon", "y": "lat", "values": ["depth", "ph"]},
    "asked": {"path": "postgres:", "query": 'SELECT 1 AS "Tief\'e"', "values": "a", "weight": "w", "cells": "centres"},
    "sums": {"path": "p.csv", "aggregate": ["sum", "mean"], "on_misaligned": "aggregate", "cells": "index"},
    "missing": {"nodata": float("nan")},
}


def test_settings_come_from_the_database_as_they_were(monitor_dsn: str) -> None:
    settings = Settings(
        run={"name": "all", "output": "s3://bucket/x", "staging": "/tmp/x"},  # type: ignore[arg-type]
        layers=tuple({"name": name, "path": "a.tif", **keys} for name, keys in EVERY_KEY.items()),  # type: ignore[arg-type]
    )
    plain = LayerSettings(name="x", path=("a.tif",))
    never = [
        key
        for key in LayerSettings.model_fields
        if all(getattr(y, key) == getattr(plain, key) for y in settings.layers)
    ]
    assert not never, "each key is told by one layer at least"
    run_id = noted(monitor_dsn, "pending", settings=settings.model_dump(mode="json"))
    result = jobs.settings_of(known(run_id))
    assert result.to_toml() == settings.to_toml(), "the file of the job, to the last digit"
    assert result.layers[:-1] == settings.layers[:-1]
    assert [type(y.nodata) for y in result.layers] == [type(y.nodata) for y in settings.layers]
    assert result.model_copy(update={"layers": ()}) == settings.model_copy(update={"layers": ()})


@pytest.mark.parametrize("kept", [None, {}, {"layers": []}, {"layers": [{"name": "a", "path": ["a"], "old": 1}]}])
def test_settings_that_are_not_there_name_the_file_as_cure(monitor_dsn: str, kept: Any) -> None:
    run = known(noted(monitor_dsn, "failed", settings=kept))
    with pytest.raises(SettingsError, match="not in the database, or are another version's") as caught:
        jobs.settings_of(run)
    assert "geopipe run SETTINGS --resume" in caught.value.hint


def test_a_job_that_would_write_no_state_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    off = "monitoring.enable_database_logging=false"
    code, _, err = call(capsys, "jobs", "start", file, "--daemon", "--address", "127.0.0.1:1", "--set", off)
    assert code == 2
    assert "monitoring.enable_database_logging" in err


# ---------------------------------------------------------------- requests


def test_what_is_asked_of_a_run_is_in_its_row_until_it_is_taken_back(monitor_dsn: str) -> None:
    run_id, other = noted(monitor_dsn, "running"), noted(monitor_dsn, "running")
    assert requests.read_request(run_id) is None
    requests.send_request(run_id, "pause")
    assert (requests.read_request(run_id), requests.read_request(other)) == ("pause", None)
    requests.send_request(run_id, None)
    assert requests.read_request(run_id) is None
    assert requests.read_request(new_id(time.time())) is None, "of a run that nobody knows nothing is asked"


def test_each_request_is_answered_once_and_waits_for_its_answer(
    monitor_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "EVERY", 0.0)
    run_id, met = noted(monitor_dsn, "running"), list[str]()
    listener = requests.Requests(run_id)
    look = listener.answer
    look()
    requests.send_request(run_id, "pause")
    look()
    assert not met, "nobody can pause yet"
    for what in ("pause", "cancel"):
        listener.on(what, partial(met.append, what))
    for _ in range(3):
        look()
    assert met == ["pause"]
    requests.send_request(run_id, "cancel")
    for _ in range(3):
        look()
    assert met == ["pause", "cancel"]


def test_a_listener_looks_now_and_then(monitor_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr(requests, "read_request", looked.append)
    look = requests.Requests("id").answer
    for _ in range(100):
        look()
    assert looked == ["id"]


def test_a_database_that_is_away_asks_nothing(monitor_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "EVERY", 0.0)
    run_id, met = noted(monitor_dsn, "running"), list[str]()
    requests.send_request(run_id, "pause")
    listener = requests.Requests(run_id)
    listener.on("pause", lambda: met.append("pause"))
    look = listener.answer
    monkeypatch.setenv("GEOPIPE_MONITORING_DSN", f"postgresql://nobody@127.0.0.1:{local.free_port()}/none")
    look()
    with pytest.raises(MachineError, match="cannot be reached"):
        requests.send_request(run_id, "cancel")
    assert not met
    monkeypatch.setenv("GEOPIPE_MONITORING_DSN", monitor_dsn)
    look()
    assert met == ["pause"], "what was asked meanwhile is answered when it is back"


# ---------------------------------------------------------------- runs that nobody drives


def test_a_job_whose_driver_was_killed_is_cancelled_by_stop(monitor_dsn: str) -> None:
    run_id = silent(monitor_dsn, ray_job_id="geopipe-x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submission, "client", lambda address: Gone(RuntimeError("Job geopipe-x does not exist")))
        ended = jobs.stop(known(run_id), lambda: known(run_id), lambda: "127.0.0.1:1", 0.1)
    assert (ended.state, ended.exit_code, ended.stale, ended.request) == ("cancelled", 137, False, "cancel")


def silent(dsn: str, **detail: Any) -> str:
    """A run that nobody has heard of for an hour."""
    run_id = noted(dsn, "running", **detail)
    settle(dsn, f"UPDATE pipeline_runs SET heartbeat_at = now() - interval '1 h' WHERE run_id = '{run_id}'")
    assert known(run_id).stale
    return run_id


def test_a_run_whose_process_is_gone_without_a_word_is_cancelled_by_stop(
    monitor_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was no job, or the head of its machine ended with it."""
    monkeypatch.setenv("GEOPIPE_HOME", str(tmp_path))
    for run_id in (silent(monitor_dsn), silent(monitor_dsn, ray_job_id="geopipe-x")):
        code, out, err = call(capsys, "jobs", "stop", run_id, "--timeout", "0.1", "--json")
        assert (code, err, json.loads(out)["state"]) == (0, "", "cancelled")
        assert row(monitor_dsn, run_id, "state, request") == ("cancelled", "cancel")
    young = noted(monitor_dsn, "pending", ray_job_id="geopipe-x")
    assert call(capsys, "jobs", "stop", young)[0] == 3
    assert known(young).state == "pending", "it may begin yet"
    settle(monitor_dsn, f"UPDATE pipeline_runs SET created_at = now() - interval '1 h' WHERE run_id = '{young}'")
    assert call(capsys, "jobs", "stop", young)[0] == 0
    assert known(young).state == "cancelled"


def test_nobody_waits_for_a_silent_run_to_pause(monitor_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = silent(monitor_dsn)
    code, _, err = call(capsys, "jobs", "pause", run_id, "--timeout", "1000")
    assert code == 3
    assert "has not been heard of for 36" in err
    assert f"geopipe jobs stop {run_id}" in err
    assert requests.read_request(run_id) is None


@pytest.mark.parametrize("state", ["pending", "paused"])
def test_what_waits_is_cancelled_by_stop_and_keeps_its_attempt(
    monitor_dsn: str, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    now = time.time()
    source = Source(new_id(now, secrets.randbits(60)), attempt=3)
    source.state(now, state, name="waits").write(monitor_dsn)
    code, out, err = call(capsys, "jobs", "stop", source.run_id, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["state"] == "cancelled"
    assert row(monitor_dsn, source.run_id, "state, attempt") == ("cancelled", 3)


def test_a_run_that_is_no_job_is_asked_and_not_forced(monitor_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = noted(monitor_dsn, "running", "alone")
    code, _, err = call(capsys, "jobs", "stop", "alone", "--timeout", "0.1")
    assert (code, err.count("error:"), err.count("hint:")) == (3, 1, 1)
    assert "is no job that could be forced" in err
    assert row(monitor_dsn, run_id, "state, request") == ("running", "cancel")


def test_a_pause_that_is_late_stands(monitor_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = noted(monitor_dsn, "running", "busy")
    code, _, err = call(capsys, "jobs", "pause", "busy", "--timeout", "0.1")
    assert code == 3
    assert "the request stands" in err
    assert requests.read_request(run_id) == "pause"
    assert "asked to pause" in call(capsys, "jobs", "status", run_id)[1]


@pytest.mark.parametrize("error", [RuntimeError("no"), ConnectionError("refused"), OSError()])
def test_a_cluster_that_goes_away_is_one_error(
    monitor_dsn: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "client", lambda address: Gone(error))
    run = known(noted(monitor_dsn, "running", ray_job_id="geopipe-x"))
    with pytest.raises(MachineError) as caught:
        jobs.job_of(run, "127.0.0.1:1").printed()
    assert "geopipe monitor logs" in caught.value.hint
    pending = known(noted(monitor_dsn, "pending", ray_job_id="geopipe-x"))
    with pytest.raises(MachineError, match="says nothing of job geopipe-x") as caught:
        jobs.settled(pending, lambda: known(pending.run_id), "127.0.0.1:1")
    assert "--address" in caught.value.hint
    with pytest.raises(MachineError, match="says nothing of job geopipe-x"):
        jobs.job_of(run, "127.0.0.1:1").exit_code()
    with pytest.raises(MachineError, match="Ray cannot end job"):
        jobs.stop(run, lambda: known(run.run_id), lambda: "127.0.0.1:1", 0.1)


def test_an_attempt_that_finds_nothing_on_disk_still_writes_its_states(
    monitor_dsn: str, file: Path, tmp_path: Path
) -> None:
    """The first one failed before it had done a tile, so that its folder says nothing of it."""
    loaded = load.load(file, (f"run.output={tmp_path}/out", "grid.resolution=40", "engine.kind=local"))
    before = noted(monitor_dsn, "failed")
    run_id = new_id(time.time(), secrets.randbits(60))
    identity = {"ray_job_id": submission.job_id(run_id), "parent_run_id": before, "name": loaded.run.name}
    dead_runs.record_state(run_id, "pending", identity, 2)
    pipeline.run(loaded, resume=True, run_id=run_id, attempt=2)
    result = row(monitor_dsn, run_id, "state, attempt, exit_code, ray_job_id, parent_run_id::text")
    assert result == ("completed", 2, 0, f"geopipe-{run_id}", before)


# ---------------------------------------------------------------- mistakes on the command line


@pytest.mark.parametrize("verb", ["pause", "resume", "stop"])
def test_nothing_is_asked_of_a_run_that_is_complete(
    monitor_dsn: str, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = noted(monitor_dsn, "completed", "whole", ray_job_id="geopipe-x")
    address = [] if verb == "pause" else ["--address", "127.0.0.1:1"]
    code, out, err = call(capsys, "jobs", verb, "whole", *address)
    assert (code, out) == (2, "")
    assert err.startswith("error: run whole is completed; it cannot be ")
    assert "geopipe jobs start" in err
    assert row(monitor_dsn, run_id, "request") == (None,)


def test_a_cure_is_for_the_run_that_was_meant(monitor_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    older = noted(monitor_dsn, "failed", "twice")
    noted(monitor_dsn, "completed", "twice")
    code, _, err = call(capsys, "jobs", "stop", older)
    assert code == 2
    assert f"`geopipe jobs resume {older}`" in err


@pytest.mark.parametrize("verb", ["status", "pause", "resume", "stop", "logs"])
def test_an_unknown_name_is_told_with_those_that_are_near(
    monitor_dsn: str, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    noted(monitor_dsn, "running", "nearby")
    address = ["--address", "127.0.0.1:1"] if verb in ("resume", "stop", "logs") else []
    code, out, err = call(capsys, "jobs", verb, "nearbi", *address)
    assert (code, out) == (2, "")
    assert "there is no run 'nearbi'" in err
    assert "nearby?" in err


@pytest.mark.parametrize("verb", ["status", "list", "pause", "stop", "resume", "logs"])
def test_without_a_database_the_cure_says_how_to_get_one(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GEOPIPE_MONITORING_DSN")
    monkeypatch.setenv("GEOPIPE_HOME", str(tmp_path))
    address = ["--address", "127.0.0.1:1"] if verb in ("resume", "stop", "logs") else []
    code, out, err = call(capsys, "jobs", verb, *address)
    assert (code, out, err.count("error:"), err.count("hint:")) == (3, "", 1, 1)
    assert "geopipe db start" in err


def test_a_start_needs_a_database_that_answers(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEOPIPE_MONITORING_DSN", f"postgresql://nobody@127.0.0.1:{local.free_port()}/none")
    code, out, err = call(capsys, "jobs", "start", file, "--daemon", "--address", "127.0.0.1:1")
    assert (code, out, err.count("error:"), err.count("hint:")) == (3, "", 1, 1)
    assert "cannot be reached" in err


def test_no_head_is_started_for_a_job_that_has_no_database(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a plain `pip install geopipe`."""
    find, begun = importlib.util.find_spec, list[local.Size]()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "pgserver" in name else find(name))
    monkeypatch.setattr(local, "start", begun.append)
    monkeypatch.delenv("GEOPIPE_MONITORING_DSN")
    monkeypatch.setenv("GEOPIPE_HOME", str(tmp_path))
    code, out, err = call(capsys, "jobs", "start", file, "--daemon")
    assert (code, out, err.count("error:")) == (3, "", 1)
    assert "pip install 'geopipe[postgres]'" in err
    assert not begun


def test_a_job_onto_an_output_in_use_is_refused_at_start(file: Path, tmp_path: Path) -> None:
    loaded = load.load(file, (f"run.output={tmp_path}/out",))
    with lock.locked(tmp_path / "out", "another"), pytest.raises(MachineError, match="in use by run another"):
        jobs.start(loaded, "127.0.0.1:1", [])


def test_without_a_head_there_is_none_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEOPIPE_HOME", str(tmp_path))
    assert call(capsys, "cluster", "down") == (0, "no cluster of geopipe is up on this machine\n", "")


def test_the_token_that_geopipe_makes_is_for_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    before = os.umask(0o000)
    try:
        addresses.create_token()
    finally:
        os.umask(before)
    result = tmp_path / ".ray" / "auth_token"
    assert result.stat().st_mode & 0o777 == 0o600
    text = result.read_text()
    assert len(text) >= 32
    addresses.create_token()
    assert result.read_text() == text, "one that is there stays"


def test_only_jobs_are_listed_and_only_they_have_printed_something(
    monitor_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job, alone = noted(monitor_dsn, "running", ray_job_id="geopipe-x"), noted(monitor_dsn, "running", "lonely")
    listed = [run["run_id"] for run in json.loads(call(capsys, "jobs", "list", "--limit", "500", "--json")[1])]
    assert job in listed
    assert alone not in listed
    with pytest.raises(PlanError, match="was not started as a job"):
        jobs.job_of(known(alone), "127.0.0.1:1")
    code, _, err = call(capsys, "jobs", "logs", alone)
    assert (code, "was not started as a job" in err) == (2, True), "no cluster is needed to say so"


def test_runs_are_listed_with_a_header_their_age_and_why_they_failed(
    monitor_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"type": "SourceError", "message": "a.tif: band 1 has no CRS", "hint": "give layers.crs"}
    run_id = noted(monitor_dsn, "failed", "listed", ray_job_id="geopipe-x", error=error)
    for command in (("list", "--limit", "500"), ("status", run_id)):
        header, *rows = call(capsys, "jobs", *command)[1].splitlines()
        assert header.split() == ["run", "name", "state", "age", "took", "done", "output"]
        (row,) = [row for row in rows if row.startswith(run_id[:13]) and "listed" in row]
        assert re.search(r"failed +\d+ s ", row)
        assert f"  {run_id[:13]}  a.tif: band 1 has no CRS" in rows


def test_a_hostile_name_cannot_steer_the_terminal(monitor_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = noted(monitor_dsn, "completed", HOSTILE, ray_job_id="geopipe-x")
    for verb in ("status", "pause", "stop"):
        _, out, err = call(capsys, "jobs", verb, run_id)
        assert out + err
        assert not set("\x1b\x07\u202e") & set(out + err)


# ---------------------------------------------------------------- a real head


def geopipe(*args: object, seconds: float = 240, group: str = "jobs") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: what Ray keeps of its client stays out of this one."""
    command = [sys.executable, "-m", "geopipe", group, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)


@pytest.fixture(scope="module")
def head_address(surroundings: Path) -> Iterator[str]:
    """A head that `cluster` has started, and found again. It knows a wrong database, and settings that are no job's."""
    folder = tempfile.mkdtemp(prefix="gj-", dir="/tmp")  # short: Ray makes sockets in it
    script = "from geopipe.jobs import head; print(head.cluster(None, start=True)); print(head.cluster('auto'))"
    wrong = {
        "GEOPIPE_MONITORING_DSN": "postgresql://nobody@127.0.0.1:1/none",
        "GEOPIPE_MONITORING__ENABLE_DATABASE_LOGGING": "false",
        "GEOPIPE_RUN__OUTPUT": "elsewhere",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).with_name("slow")), str(REPOSITORY)]))
        try:
            command, environment = [sys.executable, "-c", script], os.environ | wrong
            outcome = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
            assert outcome.returncode == 0, outcome.stderr
            first, again = outcome.stdout.split()
            assert first == again, "one head serves all jobs"
            yield first
        finally:
            _end(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _end(folder: str) -> None:
    """End all that was started with this folder of Ray's: the head, and what it has started."""

    def ours() -> list[psutil.Process]:
        result = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get("RAY_TMPDIR", "").startswith(folder):
                    result.append(process)
            except psutil.Error:
                continue
        return result

    for _ in range(10):
        if not (left := ours()):
            return
        for process in left:
            try:
                process.kill()
            except psutil.Error:
                continue
        psutil.wait_procs(left, timeout=3)


def at_work(dsn: str, run_id: str) -> None:
    """Wait until a run has written a tile."""
    written = "SELECT coalesce(sum(tiles), 0) FROM pipeline_progress WHERE run_id = %s AND stage = 'write'"
    until(lambda: query(dsn, written, run_id)[0][0] > 0 or known(run_id).ended)
    assert known(run_id).state == "running"


def hashes(folder: Path) -> dict[str, str]:
    """Hashes of the files of a table, without those that say when and where it was made."""
    telling = (state.SUCCESS, state.SETTINGS, *state.BESIDE)
    result = (p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).parts[0] not in telling)
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in result}


def started(file: Path, name: str, output: Path) -> str:
    outcome = geopipe("start", file, "--name", name, "--daemon", "--json", "--set", f"run.output={output}")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr == ""
    document = json.loads(outcome.stdout)
    assert document["job"] == f"geopipe-{document['run_id']}"
    return str(document["run_id"])


def test_a_job_pauses_and_goes_on_to_the_table_of_a_plain_loop(
    head_address: str, file: Path, monitor_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = started(file, "story", tmp_path / "out")
    assert row(monitor_dsn, first, "name, attempt, ray_job_id") == ("story", 1, f"geopipe-{first}")
    at_work(monitor_dsn, first)
    code, out, err = call(capsys, "jobs", "pause", "story", "--json", "--timeout", "120")
    assert (code, err) == (0, "")
    assert json.loads(out)["state"] == "paused"
    result = row(monitor_dsn, first, "state, exit_code, request, ray_job_id")
    assert result == ("paused", 75, "pause", f"geopipe-{first}"), "the driver's states keep what the start has noted"
    (left,) = state.status(tmp_path / "out").unfinished
    assert 0 < left.done < left.tiles == 16

    outcome = geopipe("resume", "story")
    assert outcome.returncode == 0, outcome.stderr
    again = known(
        str(query(monitor_dsn, "SELECT run_id::text FROM pipeline_runs WHERE parent_run_id = %s", first)[0][0])
    )
    assert (again.name, again.state, again.attempt, again.exit_code) == ("story", "completed", 2, 0)
    assert 0 < again.done["write"] < 16, "what was done is not done again"
    printed = geopipe("logs", "story")
    assert (printed.returncode, printed.stdout) == (0, outcome.stdout)
    assert "story is done" in printed.stdout
    shown = json.loads(call(capsys, "jobs", "status", "story", "--json")[1])
    assert (shown["run_id"], shown["share"], shown["stale"]) == (again.run_id, 1.0, False)
    listed = [run["run_id"] for run in json.loads(call(capsys, "jobs", "list", "--limit", "500", "--json")[1])]
    assert listed.index(again.run_id) < listed.index(first)

    flags = (f"run.output={tmp_path}/plain", "run.name=story", "monitoring.enable_database_logging=false")
    pipeline.run(load.load(file, (*flags, "engine.kind=local")))
    assert hashes(tmp_path / "out") == hashes(tmp_path / "plain")


def test_a_job_is_stopped_by_asking_and_by_force(
    head_address: str, file: Path, monitor_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = started(file, "ended", tmp_path / "out")
    at_work(monitor_dsn, first)
    code, out, err = call(capsys, "jobs", "stop", "ended", "--json", "--timeout", "120")
    assert (code, err) == (0, "")
    assert json.loads(out)["state"] == "cancelled"
    assert row(monitor_dsn, first, "state, exit_code") == ("cancelled", 143)
    (left,) = state.status(tmp_path / "out").unfinished
    assert left.done > 0, "what was done waits for resume"

    outcome = geopipe("resume", "ended", "--daemon", "--json")
    assert outcome.returncode == 0, outcome.stderr
    second = json.loads(outcome.stdout)["run_id"]
    until(lambda: known(second).state == "running")
    (driver,) = [p for p in psutil.process_iter(["cmdline"]) if second in (p.info["cmdline"] or ())]
    driver.send_signal(signal.SIGSTOP)
    outcome = geopipe("stop", "ended", "--timeout", "1")
    assert outcome.returncode == 0, outcome.stderr
    assert "cancelled" in outcome.stdout
    assert row(monitor_dsn, second, "state, exit_code, request, attempt") == ("cancelled", 137, "cancel", 2)
    assert not driver.is_running()


def test_a_job_that_ends_before_its_run_begins_has_failed(
    head_address: str, monitor_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where geopipe is not installed on the cluster, for instance: nobody is there to say so but Ray."""
    run_id = noted(monitor_dsn, "pending", "missing", ray_job_id="geopipe-missing")
    script = (
        "import sys, time; from geopipe.jobs import head, submission\n"
        "job = submission.RayJob(head.cluster(None), sys.argv[1])\n"
        "job._take(entrypoint='geopipe-that-is-not-there', submission_id=job.name)\n"
        "while not job.details().status.is_terminal(): time.sleep(0.1)"
    )
    subprocess.run([sys.executable, "-c", script, "geopipe-missing"], check=True, timeout=120)
    assert known(run_id).state == "pending"
    shown = geopipe("status", "missing", "--json")
    assert shown.returncode == 0, shown.stderr
    document = json.loads(shown.stdout)
    assert (document["state"], document["exit_code"]) == ("failed", 127)
    assert "ended before the run began" in document["error"]["message"]
    assert "not-there: not found" in geopipe("logs", "missing").stdout
    followed = geopipe("logs", "missing", "--follow")
    assert followed.returncode == 3
    assert "hint: install geopipe" in followed.stderr

    elsewhere = noted(monitor_dsn, "pending", "elsewhere", ray_job_id="geopipe-elsewhere")
    done = script.replace("geopipe-that-is-not-there", "true")
    subprocess.run([sys.executable, "-c", done, "geopipe-elsewhere"], check=True, timeout=120)
    assert geopipe("logs", "elsewhere", "--follow").returncode == 0
    assert known(elsewhere).state == "pending", "its records may be in a database that the cluster knows"


def test_a_paused_job_says_how_a_job_goes_on(
    head_address: str, file: Path, monitor_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = geopipe("start", file, "--name", "paused-job", "--daemon", "--set", f"run.output={tmp_path}/out")
    run_id = known_by_name(monitor_dsn, "paused-job")
    assert outcome.stdout.splitlines()[1].count(run_id) == 2, "advice names the run that was started"
    at_work(monitor_dsn, run_id)
    assert call(capsys, "jobs", "pause", run_id, "--timeout", "120")[0] == 0
    until(lambda: "paused" in geopipe("logs", run_id).stdout)
    assert f"`geopipe jobs resume {run_id}` goes on" in geopipe("logs", run_id).stdout


def known_by_name(dsn: str, name: str) -> str:
    return str(query(dsn, "SELECT run_id::text FROM pipeline_runs WHERE name = %s", name)[0][0])


def test_no_password_stays_behind_a_job(head_address: str, surroundings: Path, monitor_dsn: str, file: Path) -> None:
    killed = surroundings / f"job-{noted(monitor_dsn, 'failed')}.dsn"
    killed.write_text(monitor_dsn)
    older = surroundings / "job-0123456789abcdef.dsn"
    older.write_text(monitor_dsn)
    flags = ("--set", f"run.output={surroundings}/brief", "--set", "grid.resolution=40")
    done = geopipe("start", file, "--name", "brief", "--overwrite", *flags)
    assert done.returncode == 0, done.stderr
    assert not killed.exists()
    assert not older.exists()
    assert not (surroundings / f"job-{known_by_name(monitor_dsn, 'brief')}.dsn").exists()


@pytest.mark.newest_ray
def test_a_run_joins_the_head_of_this_machine_by_its_token(head_address: str, surroundings: Path, file: Path) -> None:
    assert (surroundings / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    command = [sys.executable, "-m", "geopipe", "run", file, "--overwrite", "--address", head_address]
    command += ["--set", f"run.output={surroundings}/joined", "--set", "grid.resolution=40"]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert "gcs_client" not in outcome.stderr


def test_down_ends_our_head_and_nothing_else(
    head_address: str, file: Path, monitor_dsn: str, tmp_path: Path, surroundings: Path
) -> None:
    """The last one: after it there is no head."""
    mark = json.loads((surroundings / "head.json").read_text())["mark"]
    assert len(marked.marked(mark)) > 5
    run_id = started(file, "busy-head", tmp_path / "out")
    at_work(monitor_dsn, run_id)
    refused = geopipe("down", group="cluster")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"geopipe-{run_id}" in refused.stderr
    stranger = subprocess.Popen(["sleep", "600"], env=os.environ | {marked.MARK: "another"})
    try:
        done = geopipe("down", "--force", group="cluster")
        assert done.returncode == 0, done.stderr
        assert "ended the cluster" in done.stdout
        assert marked.marked(mark) == []
        assert stranger.poll() is None
        assert not (surroundings / "head.json").exists()
        assert not list(surroundings.glob("job-*.dsn"))
    finally:
        stranger.kill()
        stranger.wait()
