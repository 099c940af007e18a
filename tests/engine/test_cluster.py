"""The Ray cluster that a run starts for itself, and ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from trials import make_trial

from geopipe.errors import PlanError

pytestmark = pytest.mark.ray

START = """
import json, psutil, ray, ray.data
from geopipe.engine.cluster import cluster

connected = []
with cluster("local", 80 * 2**20, lambda: connected.append(ray.is_initialized())) as guard:
    with cluster("local", 80 * 2**20) as inner:
        assert inner is guard
    assert ray.data.range(2).map_batches(lambda batch: batch).count() == 2
    commands = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    nodes, lost = len(ray.nodes()), guard.look()
left = [process.name() for process in psutil.Process().children() if process.status() != psutil.STATUS_ZOMBIE]
print(json.dumps({"connected": connected, "commands": commands, "nodes": nodes, "left": left, "lost": lost}))
"""


@pytest.mark.newest_ray
def test_a_cluster_of_a_run_has_what_the_run_uses_and_starts_beside_other_work() -> None:
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["connected"] == [False], "called once, before Ray is there"
    assert (result["nodes"], result["left"], result["lost"]) == (1, [], "")
    assert any("gcs_server" in command for command in result["commands"])
    assert any("raylet" in command for command in result["commands"])
    assert not any("monitor.py" in c and "log_monitor" not in c for c in result["commands"]), "no autoscaler"
    assert not any("dashboard.py" in command for command in result["commands"]), "no API server"
    assert not any("StatsActor" in c or "Autoscaling" in c for c in result["commands"]), "no actor that nobody asks"


def test_a_plan_that_is_refused_while_ray_starts_is_the_error_of_the_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "geopipe", "run", str(make_trial(tmp_path)), "--engine=ray"]
    flags = ("--set", "engine.max_pixels=1", "--set", "monitoring.enable_database_logging=false")
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == PlanError.exit_code, done.stderr
    assert done.stderr.splitlines()[-2].startswith("error: ")
    assert "engine.max_pixels = 1 allows no more" in done.stderr
    assert "Traceback" not in done.stderr


STANDS = """
import importlib, signal

def stand(*args):
    print("planning", flush=True)
    signal.pause()

importlib.import_module("geopipe.run.pipeline").draft = stand
from geopipe.cli.main import main
main()
"""


def test_a_signal_while_a_run_is_planned_beside_ray_s_start_ends_both(tmp_path: Path) -> None:
    """Ray takes SIGTERM when it starts, and would end the process without a word."""
    command = [sys.executable, "-c", STANDS, "run", str(make_trial(tmp_path)), "--engine=ray"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "planning\n"
        run.send_signal(signal.SIGTERM)
        _, err = run.communicate()
    assert run.returncode == 128 + signal.SIGTERM, err
    assert err.splitlines()[-1] == "terminated; nothing was published"
