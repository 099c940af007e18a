"""The files for `ray up`, by Ray's own checks and by what geopipe needs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import surroundings
import yaml

FILES = ("ssh", "aws")


def config(name: str) -> dict[str, Any]:
    text = (surroundings.REPOSITORY / "cluster" / f"{name}.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """The config with Ray's defaults, which Ray has validated."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    whole: dict[str, Any] = prepare_config(config)
    validate_config(whole)
    return whole


def faults(config: dict[str, Any]) -> list[str]:
    """What geopipe needs of a valid config, and the config lacks."""
    whole = prepared(config)
    options, head, workers = (
        " ".join(whole[key]) if key != "docker" else " ".join(whole[key]["run_options"])
        for key in ("docker", "head_start_ray_commands", "worker_start_ray_commands")
    )
    commands = [c for key in whole if key.endswith(("setup_commands", "initialization_commands")) for c in whole[key]]
    shared = int(re.findall(r"--shm-size=(\d+)g", options)[0]) << 30
    stores = [int(number) for number in re.findall(r"--object-store-memory=(\d+)", head + workers)]
    checks = {
        "installs beside the image": not commands,
        "no version of the image": re.fullmatch(r"geopipe:\d+\.\d+\.\d+", whole["docker"]["image"]),
        "no token": "RAY_AUTH_MODE=token" in options and "RAY_AUTH_TOKEN_PATH=/etc/geopipe/" in options,
        "a secret in the file": not re.search(r"(?i)(TOKEN|PASSWORD|DSN)=", options),
        "no folder with settings and secrets": "/etc/geopipe" in whole["file_mounts"],
        "an object store on the disk": len(stores) == 2 and max(stores) < shared,
        "the head computes": "--num-cpus=0" in head,
        "the dashboard answers everybody": "--dashboard-host=127.0.0.1" in head,
        "idle workers stay": whole["idle_timeout_minutes"] <= 15,
        "workers on demand": all(
            node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
            and node["labels"] == {"ray.io/market-type": "spot"}
            for name, node in whole["available_node_types"].items()
            if whole["provider"]["type"] == "aws" and name != whole["head_node_type"]
        ),
    }
    return [fault for fault, is_well in checks.items() if not is_well]


@pytest.mark.parametrize("name", FILES)
def test_ray_finds_no_fault_with_the_files_and_neither_do_we(name: str) -> None:
    assert faults(config(name)) == []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.update(max_worker=3),
        lambda config: config.update(upscaling_speed="fast"),
        lambda config: config["docker"].update(run_option=[]),
        lambda config: config["docker"].pop("container_name"),
        lambda config: config["auth"].update(ssh_key="~/.ssh/id_ed25519"),
        lambda config: config.update(setup_commands=[1]),
    ],
)
def test_ray_refuses_a_broken_file(name: str, change: Callable[[dict[str, Any]], object]) -> None:
    broken = config(name)
    change(broken)
    with pytest.raises(Exception, match=r"(?s)(not allowed|is not of type|container & image)"):
        prepared(broken)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda config: config["docker"].update(image="geopipe"), "no version of the image"),
        (lambda config: config.update(setup_commands=["pip install geopipe"]), "installs beside the image"),
        (lambda config: config.update(file_mounts={}), "no folder with settings and secrets"),
        (lambda config: config.update(idle_timeout_minutes=600), "idle workers stay"),
        (lambda config: config["docker"]["run_options"].append("--env RAY_AUTH_TOKEN=1"), "a secret in the file"),
        (lambda config: config["docker"]["run_options"].insert(0, "--shm-size=1g"), "an object store on the disk"),
    ],
)
def test_a_careless_file_is_noticed(name: str, change: Callable[[dict[str, Any]], object], fault: str) -> None:
    careless = config(name)
    change(careless)
    assert faults(careless) == [fault]
