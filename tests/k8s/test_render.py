"""`geopipe k8s render`: what it writes passes the checks of k8s/, has the plan's numbers, and no secret."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from checks import problems
from click.testing import CliRunner, Result
from kuberay import quantity
from manifests import KUBECTL, NO_KUBECTL, Document, parse
from surroundings import REPOSITORY, signals_as_they_were

from geopipe.cli.k8s import CPUS
from geopipe.cli.main import cli
from geopipe.demo import generate
from geopipe.errors import SettingsError
from geopipe.kuberay.contents import settings_for_pods
from geopipe.kuberay.render import OVERLAYS, job_name, tree
from geopipe.settings.load import load
from geopipe.settings.load import parse as parse_settings

needs_kubectl = pytest.mark.skipif(KUBECTL is None, reason=NO_KUBECTL)
IMAGE = "registry.example.org:5000/maps/geopipe:1.2"
CANARY = "canary-secret-7f3a"


def geopipe(*args: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "geopipe", "k8s", "render", *map(str, args)]
    environment = os.environ | variables
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The settings of the demo; its folder is /data of the pods."""
    return generate(tmp_path_factory.mktemp("demo"))


def in_process(*args: object) -> Result:
    """The same in this process, which is quicker."""
    with signals_as_they_were():
        return CliRunner().invoke(cli, ["k8s", "render", *map(str, args)])


def rendered(settings: Path, *args: object) -> list[Document]:
    outcome = in_process(settings, "--data", settings.parent, "--image", IMAGE, *args)
    assert outcome.exit_code == 0, outcome.output
    return parse(outcome.stdout)


def one(documents: Sequence[Document], kind: str) -> dict[str, Any]:
    (document,) = [dict(document) for document in documents if document["kind"] == kind]
    return document


def settings_in(documents: Sequence[Document]) -> dict[str, Any]:
    name = one(documents, "RayJob")["metadata"]["name"]
    (own,) = [d for d in documents if d["kind"] == "ConfigMap" and d["metadata"]["name"] == f"{name}-settings"]
    values = tomllib.loads(own["data"]["settings.toml"])
    parse_settings(values)  # as pods do
    return values


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_demo_passes_every_check_of_the_manifests(demo: Path, overlay: str) -> None:
    documents = rendered(demo, "--overlay", overlay)
    assert problems(documents) == []
    job = one(documents, "RayJob")
    assert job["metadata"]["name"].startswith("demo-")
    spec = job["spec"]["rayClusterSpec"]
    templates = [spec["headGroupSpec"]["template"], spec["workerGroupSpecs"][0]["template"]]
    templates.append(job["spec"]["submitterPodTemplate"])
    containers = [c for t in templates for c in (*t["spec"]["containers"], *t["spec"].get("initContainers", ()))]
    assert {container["image"] for container in containers} == {IMAGE}
    settings = settings_in(documents)
    assert settings["run"]["output"] == "/data/output"
    assert settings["layers"][0]["path"] == ["/data/data/elevation.tif"]
    assert settings["engine"]["kind"] == "ray"
    assert settings["monitoring"]["prometheus_port"] == 9490


@needs_kubectl
def test_numbers_of_the_plan_are_resources_of_the_pods(demo: Path) -> None:
    # 0.1 m instead of 100 m: a million times the work
    options = ["--overlay", "production", "--set", "grid.resolution=0.1", "--within", "10h", "--workers", 5]
    documents = rendered(demo, *options, "--cpus", 4)
    assert problems(documents) == []
    job = one(documents, "RayJob")
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert (group["minReplicas"], group["maxReplicas"], limits["cpu"]) == (1, 5, "4")
    assert settings_in(documents)["engine"]["max_workers"] == 20
    # memory of tasks, of objects, and 2 GiB for Ray; a worker is at least 260 MiB
    parts = [int(group["rayStartParams"][key]) for key in ("memory", "object-store-memory")]
    assert parts[0] >= 4 * 260 * 2**20
    assert quantity(limits["memory"]) == sum(parts) + 2**31
    assert job["spec"]["activeDeadlineSeconds"] > 3_600


@needs_kubectl
def test_the_name_is_that_of_the_plan(demo: Path) -> None:
    def name(*args: object) -> str:
        return str(one(rendered(demo, *args), "RayJob")["metadata"]["name"])

    first = name()
    assert name("--overlay", "production", "--within", "2h") == first  # the same table
    assert name("--set", "grid.resolution=200") != first
    assert name("--name", "mine") == "mine"


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("demo", "demo-01234567"),
        ("Zion 2024/v2", "zion-2024-v2-01234567"),
        ("2024", "run-2024-01234567"),
        ("Böden", "b-den-01234567"),
        ("日本", "run-01234567"),
        ("x" * 60, "x" * 38 + "-01234567"),
    ],
)
def test_a_name_is_a_dns_label_of_at_most_47_characters(run: str, expected: str) -> None:
    assert job_name(run, "0123456789abcdef") == expected
    assert len(expected) <= 47


@needs_kubectl
def test_a_claim_that_exists_and_a_namespace_take_the_place_of_ours(demo: Path) -> None:
    documents = rendered(demo, "--claim", "rasters", "--namespace", "maps")
    assert not [d for d in documents if d["kind"] == "PersistentVolumeClaim"]
    assert {d["metadata"]["name"] for d in documents if d["kind"] == "Namespace"} == {"maps"}
    assert {d["metadata"]["namespace"] for d in documents if d["kind"] != "Namespace"} == {"maps"}
    cluster = one(documents, "RayJob")["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        claims = [v["persistentVolumeClaim"] for v in group["template"]["spec"]["volumes"] if v["name"] == "data"]
        assert claims == [{"claimName": "rasters"}]


@needs_kubectl
def test_workers_and_memory_by_hand_need_no_rasters(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        '[run]\noutput = "/data/out"\n[grid]\ncrs = "EPSG:32612"\nresolution = 90\n'
        '[[layers]]\nname = "dem"\npath = "/data/dem.tif"\n'
    )
    refused = geopipe(file, "--image", IMAGE)
    assert refused.returncode == 2
    assert "--workers and --memory" in refused.stderr
    options = [
        "--overlay",
        "kueue",
        "--workers",
        "3",
        "--memory",
        "28Gi",
        "--output",
        tmp_path / "out.yaml",
        "--summary",
    ]
    done = geopipe(file, "--image", IMAGE, *options)
    assert done.returncode == 0, done.stderr
    assert "3 worker pods with 7 CPUs and 28.0 GiB" in done.stderr
    assert done.stdout == ""
    documents = parse((tmp_path / "out.yaml").read_text())
    assert problems(documents) == []
    assert one(documents, "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"] == 3


def test_a_secret_in_the_settings_is_refused_and_not_printed(demo: Path) -> None:
    address = f"https://example.org/slope.tif?token={CANARY}"
    done = geopipe(demo, "--data", demo.parent, "--image", IMAGE, "--set", f"layers.slope.path={address}")
    assert done.returncode == 2
    assert "layers.slope.path holds a secret" in done.stderr
    assert "GDAL_HTTP_" in done.stderr
    assert CANARY not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--image", "geopipe", "one version of an image"),
        ("--image", "geopipe:latest", "one version of an image"),
        ("--name", "Mine", "no name of a RayJob"),
        ("--name", "a" * 48, "no name of a RayJob"),
        ("--namespace", "a_b", "no name of a namespace"),
        ("--claim", "A", "no name of a PersistentVolumeClaim"),
        ("--within", "soon", "no positive number with a unit"),
        ("--memory", "28Gi", "--memory needs --workers"),
    ],
)
def test_options_that_make_no_manifest_are_refused(demo: Path, option: str, value: str, words: str) -> None:
    outcome = in_process(demo, "--data", demo.parent, "--image", IMAGE, option, value)
    assert outcome.exit_code != 0
    assert words in f"{outcome.stderr}{outcome.exception}"
    assert outcome.stdout == ""


def test_a_file_that_cannot_be_written_is_one_error(demo: Path, tmp_path: Path) -> None:
    file = tmp_path / "none" / "run.yaml"
    done = geopipe(demo, "--data", demo.parent, "--image", IMAGE, "--output", file)
    assert (done.returncode, done.stdout, done.stderr.count("error:")) == (3, "", 1)
    assert f"{file} cannot be written: No such file or directory" in done.stderr


def test_without_kubectl_the_error_names_it(demo: Path, tmp_path: Path) -> None:
    done = geopipe(demo, "--data", demo.parent, "--image", IMAGE, PATH=str(tmp_path))
    assert done.returncode == 3
    assert "kubectl is not installed" in done.stderr


def test_paths_outside_of_the_volume_are_refused(demo: Path) -> None:
    settings = load(demo)
    with pytest.raises(SettingsError, match=r"layers\.elevation\.path = .* pods see only the volume at /data"):
        settings_for_pods(settings, None, None)
    with pytest.raises(SettingsError, match=r"run\.output") as caught:
        settings_for_pods(load(demo, {"run.output": "/elsewhere/output"}), demo.parent, None)
    assert caught.value.hint.startswith(f"--data {demo.parent}, which is /data in the pods, must be")
    bucket = {"run.output": "s3://tables/demo", "run.staging": str(demo.parent / "staging")}
    text = settings_for_pods(load(demo, bucket), demo.parent, None)
    run = tomllib.loads(text)["run"]
    assert (run["output"], run["staging"]) == ("s3://tables/demo", "/data/staging")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("FOLDER/a/*.tif", "/data/a/*.tif"),
        ('NETCDF:"FOLDER/a.nc":tas', 'NETCDF:"/data/a.nc":tas'),
        ("/vsizip/FOLDER/a.zip/a.tif", "/vsizip//data/a.zip/a.tif"),
        ("/data/a.tif", "/data/a.tif"),
        ("https://example.org/FOLDER/a.tif", "https://example.org/FOLDER/a.tif"),
        ("/vsis3/bucket/a.tif", "/vsis3/bucket/a.tif"),
    ],
)
def test_paths_below_the_folder_are_those_of_the_volume(demo: Path, path: str, expected: str) -> None:
    folder = str(demo.parent)
    settings = load(demo, {"layers.slope.path": path.replace("FOLDER", folder)})
    layers = tomllib.loads(settings_for_pods(settings, demo.parent, None))["layers"]
    (slope,) = [layer for layer in layers if layer["name"] == "slope"]
    assert slope["path"] == [expected.replace("FOLDER", folder)]


@needs_kubectl
@pytest.mark.slow
def test_a_wheel_has_the_manifests(demo: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    done = geopipe(
        demo, "--data", demo.parent, "--image", IMAGE, "--overlay", "production", PYTHONPATH=str(tmp_path / "site")
    )
    assert done.returncode == 0, done.stderr
    assert parse(done.stdout) == rendered(demo, "--overlay", "production")


def test_every_overlay_of_runs_has_a_size() -> None:
    folders = {path.parent.name for path in (tree() / "overlays").glob("*/kustomization.yaml")}
    assert set(OVERLAYS) == set(CPUS) == folders - {"interactive"}
