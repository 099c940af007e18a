"""A Ray that lacks its private parts: the same table, or one error that names Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.data
import trials

from geopipe.engine import address as addresses
from geopipe.engine import internals, losses
from geopipe.errors import MachineError, WorkersLost, find

WITHOUT = """
import builtins, sys

file, usual = sys.argv.pop(1), builtins.__import__

def without(name, names=None, *rest, **named):
    "Ray's private modules are gone for geopipe; Ray itself needs them."
    if (names or {}).get("__name__") == "geopipe.engine.internals" and "._" in name:
        with open(file, "a") as refused:
            print(name, file=refused)
        raise ImportError(f"No module named {name}")
    return usual(name, names, *rest, **named)

builtins.__import__ = without
from geopipe.cli.main import main
main()
"""


def run_without(folder: Path, *flags: str, **variables: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """`geopipe run` on a Ray without private modules, and those that it has tried to import."""
    environment = os.environ | {"GEOPIPE_MONITORING__ENABLE_DATABASE_LOGGING": "false"} | variables
    command = [sys.executable, "-c", WITHOUT, str(folder / "refused"), "run", str(folder / "s.toml"), "--engine=ray"]
    done = subprocess.run([*command, *flags], env=environment, capture_output=True, text=True, check=False)
    return done, set((folder / "refused").read_text().split())


@pytest.mark.ray
def test_a_ray_without_private_parts_gives_the_table(tmp_path: Path) -> None:
    file = trials.make_trial(tmp_path)
    expected = trials.hashes(Path(trials.run(file, f"run.output={tmp_path}/local").output))
    flags = ["--set=merge.strategy=groupby", f"--set=run.output={tmp_path}/out"]
    done, refused = run_without(tmp_path, *flags, RAY_AUTH_MODE="token")
    assert done.returncode == 0, done.stderr
    data = {"ray.data._internal", "ray.data._internal.execution"}
    assert refused == {"ray._raylet", "ray._private"} | data, "each part was gone"
    assert trials.hashes(tmp_path / "out") == expected


def test_a_mode_of_authentication_that_comes_too_late_is_one_error(tmp_path: Path) -> None:
    trials.make_trial(tmp_path)
    done, _ = run_without(tmp_path)
    assert done.returncode == MachineError.exit_code
    *_, error, hint = done.stderr.splitlines()
    assert error == f"error: Ray {ray.__version__} does not read RAY_AUTH_MODE again once it is loaded"
    assert hint.strip() == "hint: set RAY_AUTH_MODE=token in the environment of geopipe"


def test_a_head_that_cannot_be_asked_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("ray._raylet.GcsClient")
    with pytest.raises(MachineError, match=f"Ray {ray.__version__} lacks what geopipe asks the head"):
        internals.nodes_of("127.0.0.1:1", lambda info: info)


def test_a_description_of_a_node_that_lacks_a_part_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    client = SimpleNamespace(get_all_node_info=lambda timeout: {"id": SimpleNamespace()})
    monkeypatch.setattr("ray._raylet.GcsClient", lambda address: client)
    with pytest.raises(MachineError, match=r"lacks .* no attribute 'state'"):
        internals.nodes_of("127.0.0.1:1", lambda info: info.state)


def test_auto_stays_auto_where_ray_does_not_say_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:7")
    assert internals.resolved("auto").endswith(":7")
    monkeypatch.delattr("ray._private.services.canonicalize_bootstrap_address")
    assert internals.resolved("auto") == "auto"


def test_other_work_is_done_if_ray_starts_another_head_than_ours() -> None:
    done: list[str] = []
    with internals.own_head(lambda: done.append("done")):
        assert done == []
    assert done == ["done"]


@pytest.mark.newest_ray
def test_an_autoscaler_that_must_do_more_is_ray_s_own(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.data._internal import stats
    from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
    from ray.data._internal.execution import streaming_executor

    def parts() -> list[Any]:
        return [streaming_executor.create_cluster_autoscaler, stats.get_or_create_stats_actor]

    before = parts()
    with internals.lean_data():
        assert [own == usual for own, usual in zip(parts(), before, strict=True)] == [False, False]
    assert parts() == before
    methods = ClusterAutoscaler.__abstractmethods__ | {"rescale"}
    monkeypatch.setattr(ClusterAutoscaler, "rescale", SimpleNamespace(__isabstractmethod__=True), raising=False)
    monkeypatch.setattr(ClusterAutoscaler, "__abstractmethods__", methods)
    with internals.lean_data():
        assert [own == usual for own, usual in zip(parts(), before, strict=True)] == [True, False]
    assert parts() == before


@pytest.mark.newest_ray
def test_a_dataset_ends_at_its_next_step_once_a_node_is_lost(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ray.data.range(4).map_batches(lambda batch: batch)
    losses.end_on_loss(data.context)
    assert data.count() == 4
    monkeypatch.setattr(losses, "_lost", ["node 7"])
    with pytest.raises(Exception, match="node 7 is lost") as caught:
        data.materialize()
    assert isinstance(find(caught.value), WorkersLost)


def test_events_that_ray_adds_to_a_dataset_are_no_error() -> None:
    callback = losses.EndOnLoss()
    callback.on_execution_paused("executor", seconds=1)
    with pytest.raises(AttributeError):
        _ = callback.executor
    losses.end_on_loss(object())  # a context without callbacks


def test_a_client_without_private_parts_leaves_the_choice_to_the_cluster() -> None:
    client = SimpleNamespace()
    assert internals.ray_of_cluster(client) == ray.__version__
    assert internals.session_of_head(client) == ""
    answer = SimpleNamespace(json=lambda: {"data": {"nodes": []}})
    client._do_request = lambda *request: answer
    assert internals.session_of_head(client) == ""


def test_the_mode_in_the_environment_is_the_one_that_ray_has_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("ray._raylet.Config")
    monkeypatch.setattr(internals, "_auth_mode", "disabled")
    monkeypatch.setenv(addresses.AUTH_MODE, "disabled")
    internals.read_environment()
    monkeypatch.setenv(addresses.AUTH_MODE, "token")
    with pytest.raises(MachineError, match="does not read RAY_AUTH_MODE again"):
        internals.read_environment()
