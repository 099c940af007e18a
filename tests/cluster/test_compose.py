"""cluster/compose.yaml: by `docker compose config` where that is, else by a schema of the keys that the file uses."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import surroundings
import yaml

CLUSTER = surroundings.REPOSITORY / "cluster"
TEXT = (CLUSTER / "compose.yaml").read_text(encoding="utf-8")

Document = dict[str, Any]


# ---------------------------------------------------------------- a schema, for machines without Docker Compose


def closed(**properties: Document) -> Document:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def many(schema: Document, **more: Any) -> Document:
    return {"type": "object", "additionalProperties": schema, **more}


STRING, BOOLEAN, NUMBER = {"type": "string"}, {"type": "boolean"}, {"type": ["string", "integer"]}
STRINGS = {"type": "array", "items": STRING, "uniqueItems": True}
COMMAND = {"type": "array", "items": STRING}
CONDITIONS = {"enum": ["service_started", "service_healthy", "service_completed_successfully"]}
SERVICE = closed(
    image=STRING,
    user={"type": "string", "pattern": r"^\d+:\d+$"},
    init=BOOLEAN,
    read_only=BOOLEAN,
    hostname=STRING,
    command=COMMAND,
    tmpfs=STRINGS,
    cap_drop=STRINGS,
    security_opt=STRINGS,
    secrets=STRINGS,
    volumes=STRINGS,
    ports=STRINGS,
    shm_size={"type": "string", "pattern": r"^\d+[kmg]b$"},
    ulimits=closed(nofile={"type": "integer"}),
    environment=many(STRING),
    restart={"enum": ["no", "always", "on-failure", "unless-stopped"]},
    depends_on={"oneOf": [STRINGS, many({**closed(condition=CONDITIONS), "required": ["condition"]})]},
    healthcheck=closed(test=COMMAND, interval=STRING, timeout=STRING, start_period=STRING, retries={"type": "integer"}),
    deploy=closed(replicas=NUMBER, resources=closed(limits=closed(cpus=NUMBER, memory=STRING))),
)
SCHEMA = closed(
    name=STRING,
    services=many({**SERVICE, "required": ["image"]}),
    secrets=many(closed(file=STRING)),
    volumes=many({"type": "null"}),
) | {"patternProperties": {"^x-": {}}}


def by_schema(document: Document) -> str:
    """What is wrong with a file by the schema and by its names, "" if nothing."""
    try:
        jsonschema.validate(document, SCHEMA)
    except jsonschema.ValidationError as error:
        return error.message
    services = document["services"]
    for service in services.values():
        volumes = {volume.partition(":")[0] for volume in service.get("volumes", [])}
        names = {name for name in volumes if re.fullmatch(r"\w+", name)}
        for kind, used, defined in (
            ("service", set(service.get("depends_on", ())), services),
            ("secret", set(service.get("secrets", ())), document["secrets"]),
            ("volume", names, document["volumes"]),
        ):
            if unknown := used - defined.keys():
                return f"unknown {kind} {unknown}"
    return ""


def by_compose(document: Document, command: list[str], folder: Path) -> str:
    """What `docker compose config` finds, "" if nothing."""
    (folder / "compose.yaml").write_text(yaml.safe_dump(document))
    options = ["--file", str(folder / "compose.yaml"), "config", "--quiet"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=False)
    return done.stderr if done.returncode else ""


def compose_command() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
            if done.returncode == 0 and not done.stdout.startswith("1."):  # 1 knows another format
                return command
    return None


@pytest.fixture(params=["schema", "compose"])
def judge(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Document], str]:
    if request.param == "schema":
        return by_schema
    if (command := compose_command()) is None:
        pytest.skip("Docker Compose is not installed: the schema judges alone")
    return lambda document: by_compose(document, command, tmp_path)


def document() -> Document:
    loaded: Document = yaml.safe_load(TEXT)
    return loaded


def test_the_file_is_valid(judge: Callable[[Document], str]) -> None:
    assert judge(document()) == ""


@pytest.mark.parametrize(
    "change",
    [
        lambda services: services["head"].update(comand=["ray"]),
        lambda services: services["head"].update(depends_on={"migrat": {"condition": "service_healthy"}}),
        lambda services: services["head"].update(depends_on={"migrate": {"condition": "healthy"}}),
        lambda services: services["worker"]["secrets"].append("tokens"),
        lambda services: services["grafana"]["volumes"].append("dashboards:/var"),
        lambda services: services["worker"]["deploy"].update(replica=3),
        lambda services: services["postgres"].pop("image"),
        lambda services: services["postgres"]["healthcheck"].update(retries="often"),
    ],
)
def test_a_broken_file_is_refused(
    judge: Callable[[Document], str], change: Callable[[dict[str, Document]], object]
) -> None:
    broken = document()
    change(broken["services"])
    assert judge(broken) != ""


# ---------------------------------------------------------------- what the cluster promises


def faults(document: Document) -> list[str]:
    """What the services must not do, or lack."""
    services, nodes = document["services"], [document["services"][name] for name in ("migrate", "head", "worker")]
    text = yaml.safe_dump(document["services"])
    store = [re.search(r"--object-store-memory=(\d+)", str(node["command"])) for node in nodes[1:]]
    checks = {
        "an image without a version": all(
            re.search(r":[^:/}]*\d\.\d[^:/}]*}?$", s["image"]) for s in services.values()
        ),
        "a port for everybody": all(p.startswith("127.0.0.1:") for s in services.values() for p in s.get("ports", ())),
        "a password in the file": not re.search(r"(?i)(password|token|dsn)\w*['\"]?: (?!/run/secrets/)\S", text),
        "a node may change its code": all(node["read_only"] and node["user"] == "1000:100" for node in nodes),
        "a node asks for no token": all(node["environment"]["RAY_AUTH_MODE"] == "token" for node in nodes),
        "an object store on the disk": all(match and int(match[1]) < 2 << 30 for match in store),
        "a service without health check": all("healthcheck" in s for n, s in services.items() if n != "migrate"),
        "nodes do not wait for the tables": services["head"]["depends_on"]
        == {"migrate": {"condition": "service_completed_successfully"}},
        "the head computes": "--num-cpus=0" in services["head"]["command"],
    }
    return [fault for fault, is_well in checks.items() if not is_well]


def test_the_services_keep_secrets_and_their_code_safe() -> None:
    assert faults(document()) == []


@pytest.mark.parametrize(
    ("service", "change", "fault"),
    [
        ("postgres", {"image": "postgres:latest"}, "an image without a version"),
        ("grafana", {"ports": ["3000:3000"]}, "a port for everybody"),
        ("postgres", {"environment": {"POSTGRES_PASSWORD": "geopipe"}}, "a password in the file"),
        ("worker", {"read_only": False}, "a node may change its code"),
        ("worker", {"environment": {"RAY_AUTH_MODE": "disabled"}}, "a node asks for no token"),
        ("worker", {"command": ["ray", "--object-store-memory=9000000000"]}, "an object store on the disk"),
        ("worker", {"healthcheck": None}, "a service without health check"),
        ("head", {"depends_on": ["postgres"]}, "nodes do not wait for the tables"),
        ("head", {"command": ["ray", "--object-store-memory=500000000"]}, "the head computes"),
    ],
)
def test_a_careless_file_is_noticed(service: str, change: Document, fault: str) -> None:
    careless = document()
    careless["services"][service] |= change
    careless["services"] = {
        name: {key: value for key, value in keys.items() if value is not None}
        for name, keys in careless["services"].items()
    }
    assert faults(careless) == [fault]


def test_grafana_is_provisioned_with_the_prometheus_of_the_file() -> None:
    (source,) = yaml.safe_load((CLUSTER / "grafana/provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    (provider,) = yaml.safe_load((CLUSTER / "grafana/provisioning/dashboards/geopipe.yaml").read_text())["providers"]
    assert source["url"].partition("://")[2].partition(":")[0] in document()["services"]
    mounts = [volume.split(":")[:2] for volume in document()["services"]["grafana"]["volumes"]]
    (dashboards,) = [CLUSTER / host for host, inside in mounts if inside == provider["options"]["path"]]
    assert {file.name for file in dashboards.glob("*.json")} >= {"geopipe.json", "cluster.json"}


def test_prometheus_scrapes_services_of_the_file_for_the_dashboards(prometheus_programs: Path) -> None:
    file = CLUSTER / "prometheus" / "compose.yml"
    command = [str(prometheus_programs / "promtool"), "check", "config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = {job["job_name"]: job for job in yaml.safe_load(file.read_text())["scrape_configs"]}
    assert jobs.keys() == {"geopipe", "ray"}
    for job in jobs.values():
        for sd in job["dns_sd_configs"]:
            assert set(sd["names"]) <= document()["services"].keys()


def test_secrets_are_written_once_and_nobody_else_enters_their_folder(tmp_path: Path) -> None:
    script = shutil.copy(CLUSTER / "secrets.sh", tmp_path)
    subprocess.run([script], check=True)
    folder = tmp_path / "secrets"
    first = {file.name: file.read_text() for file in folder.iterdir()}
    assert {f"./secrets/{name}" for name in first} == {secret["file"] for secret in document()["secrets"].values()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(set(first.values())) == 4
    assert len(first["ray_token"]) == 48
    assert first["dsn"] == f"postgresql://geopipe:{first['postgres_password']}@postgres/geopipe"
    subprocess.run([script], check=True)
    assert {file.name: file.read_text() for file in folder.iterdir()} == first
