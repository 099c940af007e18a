"""Nodes of a cluster come and go while a run works: nothing is lost, and no byte changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trials

pytestmark = pytest.mark.ray

RUNS = """
import json, os, sys, threading
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from geopipe.engine.cluster import joined
from geopipe.engine.contract import never
from geopipe.engine.ray import ray_engine
from geopipe.export.ledger import finisher
from geopipe.export.lock import locked
from geopipe.export.staging import Staging
from geopipe.load import raster
from geopipe.monitoring.options import MonitoringOptions
from geopipe.run import draft
from geopipe.settings import load
from waiting import until

folder = Path(sys.argv[1])
go, reads = folder / "go", folder / "reads"
reads.mkdir()

class Reader(raster.Readers):
    "Notes node and process, and reads nothing before the cluster has changed."

    def read_window(self, *window):
        (reads / f"{ray.get_runtime_context().get_node_id()}-{os.getpid()}").touch()
        until(go.exists)
        return super().read_window(*window)

def readers():
    return [path.name.partition("-")[0] for path in reads.iterdir()]

health = {"health_check_period_ms": 500, "health_check_failure_threshold": 2}
head = {"num_cpus": 1, "include_dashboard": False, "_system_config": health}
cluster, spot = Cluster(initialize_head=True, head_node_args=head), {"ray.io/market-type": "spot"}
first, second = (cluster.add_node(num_cpus=1, labels=spot) for _ in "ab")
flags = ("merge.strategy=aligned", f"run.output={folder}/out", "engine.kind=ray", "engine.max_workers=3")
flags += (f"engine.address={cluster.address}", 'engine.label_selector={"ray.io/market-type" = "spot"}')
settings = load.load(folder / "s.toml", flags)

def run():
    "Commit the table of the plan."
    with locked(folder / "out", "run"):
        keys = staging.begin()
        done.extend(engine.run(plan, keys, finisher(plan, staging.folder, 1000), never))
        staging.commit({"run_id": "run"})

with joined(cluster.address, draft.this_machine(settings)) as machine:
    plan = draft.draft(settings, machine)
    with ray_engine(None, plan.machine, MonitoringOptions("run", database=False), Reader) as engine:
        staging, done = Staging(folder / "out", plan, "[run]"), []
        work = threading.Thread(target=run, daemon=True)
        work.start()
        until(lambda: set(readers()) >= {first.node_id, second.node_id})
        cluster.remove_node(first, allow_graceful=False)  # in the middle of a read
        added = cluster.add_node(num_cpus=2, labels=spot)
        until(lambda: added.node_id in readers())
        go.touch()
        work.join()
names = {cluster.head_node.node_id: "head", first.node_id: "first", second.node_id: "second", added.node_id: "added"}
print(json.dumps({
    "workers": [plan.machine.cpus, plan.machine.workers, plan.machine.grown()],
    "done": sorted(done) == sorted(plan.keys.tolist()),
    "readers": sorted({names[node] for node in readers()}),
}))
cluster.shutdown()
"""


@pytest.mark.newest_ray
def test_a_node_that_dies_and_one_that_comes_change_nothing(tmp_path: Path) -> None:
    """Workers are on the nodes with the label alone, and as many as the cluster has grown to."""
    file = trials.make_trial(tmp_path)
    expected = trials.hashes(Path(trials.run(file, f"run.output={tmp_path}/local").output))
    command = [sys.executable, "-c", RUNS, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result == {"workers": [2, 2, 3], "done": True, "readers": ["added", "first", "second"]}
    assert trials.hashes(tmp_path / "out") == expected
