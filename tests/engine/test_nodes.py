"""Functions that every node of a cluster calls."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from geopipe.engine.nodes import matches
from geopipe.engine.ray import _runs


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("spot", ["spot"]),
        ("!spot", ["demand", ""]),
        ("in(spot, demand)", ["spot", "demand"]),
        ("!in(spot,demand)", [""]),
    ],
)
def test_a_node_matches_a_label_selector_as_ray_reads_it(text: str, accepted: list[str]) -> None:
    """A node without the label matches what is negated."""
    labels = {"spot": {"market": "spot"}, "demand": {"market": "demand", "zone": "a"}, "": {"zone": "a"}}
    assert [name for name, own in labels.items() if matches(own, {"market": text})] == [
        name for name in labels if name in accepted
    ]
    assert matches({}, {})


@pytest.mark.parametrize(
    ("tiles", "workers", "runs"),
    [(12, 2, 12), (12, 0.25, 4), (160, 2, 32), (1000, 2, 125), (500_000, 2, 1000), (500_000, 512, 4066)],
)
def test_each_of_many_workers_has_some_runs_of_neighbours(tiles: int, workers: float, runs: int) -> None:
    """Of a quarter of a worker, whose other quarters read other layers, too."""
    keys = np.arange(tiles)
    parts = _runs(keys, workers)
    assert len(parts) == runs
    assert np.array_equal(np.concatenate(parts), keys)


ASKS = """
import json, pathlib, sys, time
import ray
from ray.cluster_utils import Cluster
from geopipe.engine import nodes
from geopipe.errors import MachineError
from geopipe.monitoring import actor
from geopipe.monitoring.options import MonitoringOptions

STOP = pathlib.Path(sys.argv[1])

def node_id():
    return ray.get_runtime_context().get_node_id()

def behave(own, refusing):
    if node_id() == own:
        return "well"
    if node_id() == refusing:
        raise MachineError("no room", "make some")
    while not STOP.exists():
        time.sleep(0.01)

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
for market in ("spot", "on-demand"):
    cluster.add_node(num_cpus=1, labels={"ray.io/market-type": market})
ray.init(cluster.address, logging_level="ERROR")
answers = nodes.on_every_node(node_id, seconds=60)
head, first, second = answers
mixed = nodes.on_every_node(behave, head.node.id, first.node.id, seconds=3)
STOP.touch()
monitors = [actor.start(MonitoringOptions(str(number), database=False)) for number in range(4)]
places = ray.get([monitor.__ray_call__.remote(lambda self: node_id()) for monitor in monitors])
print(json.dumps({
    "own": [answer.value == answer.node.id for answer in answers],
    "heads": [(answer.node.is_head, answer.node.is_own) for answer in answers],
    "cpus": [answer.node.resources.get("CPU") for answer in answers],
    "labels": sorted(answer.node.labels.get("ray.io/market-type", "") for answer in answers),
    "names": [bool(answer.node.name and answer.node.address in str(answer.node)) for answer in answers],
    "mixed": [(answer.node.id == before.node.id, answer.value, answer.error) for answer, before in zip(mixed, answers)],
    "monitors": [place == head.node.id for place in places],
}))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.newest_ray
@pytest.mark.ray
def test_every_node_answers_and_one_that_does_not_is_named(tmp_path: Path) -> None:
    """A node without CPUs answers, too; one that fails or hangs has its error, and the others their answers."""
    command = [sys.executable, "-c", ASKS, str(tmp_path / "stop")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["own"] == [True] * 3
    assert result["heads"] == [[True, True], [False, False], [False, False]]
    assert result["cpus"] == [None, 1, 1]
    assert result["labels"] == ["", "on-demand", "spot"]
    assert result["names"] == [True] * 3
    assert result["mixed"] == [[True, "well", ""], [True, None, "no room"], [True, None, "no answer in 3 s"]]
    assert result["monitors"] == [True] * 4, "the node of the driver knows the database"
