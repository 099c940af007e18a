"""The Dockerfile, and the lists of what its image installs. The image itself: `make image`, then GEOPIPE_IMAGE=NAME."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from importlib.metadata import requires

import pytest
import surroundings
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from geopipe import __version__

LISTS = surroundings.REPOSITORY / "cluster" / "image"
DOCKERFILE = (surroundings.REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((surroundings.REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
WHEEL = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
LOCK = (surroundings.REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
PINS = dict(re.findall(r"^(\S+)==(.*?) \\$", LOCK, re.MULTILINE))
"""Version and marker by package of requirements.lock."""


# ---------------------------------------------------------------- the Dockerfile


def faults(text: str) -> list[str]:
    """What a Dockerfile must not do, or lacks."""
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    steps = [(word.upper(), rest) for word, _, rest in (line.partition(" ") for line in code.splitlines() if line)]
    last = max(i for i, (word, _) in enumerate(steps) if word == "FROM")
    arguments = dict(rest.partition("=")[::2] for word, rest in steps if word == "ARG")
    final = dict(steps[last:])
    checks = {
        "the base is not pinned": re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", arguments.get("BASE", "")),
        "a stage has another base": all(rest.split()[0] == "${BASE}" for word, rest in steps if word == "FROM"),
        "the image runs as root": final.get("USER") == "1000:100",
        "no health check": final.get("HEALTHCHECK", "").endswith('CMD ["geopipe", "doctor"]'),
        "an entry point": "ENTRYPOINT" not in final,
        "packages are not pinned": all(
            "--require-hashes" in command or command.endswith("--no-deps dist/*.whl")
            for command in re.findall(r"tools/bin/pip [^;&\n]*\binstall [^;&\n]*", code)
        ),
        "an address of a registry": "://" not in code,
        "a secret": not re.search(r"(?i)(password|token|secret)\w*=", code),
        "build tools in the last stage": not re.search(r"\b(gcc|build-essential|git|make|pip)\b", str(steps[last:])),
        "kernels are not compiled": "geopipe doctor --warm" in code,
        "machine code for another processor": code.count("NUMBA_CPU_NAME=${CPU}") == 2,
        "the wheel lacks a folder": all(f"COPY {folder} {folder}" in code for folder in WHEEL["force-include"]),
    }
    return [fault for fault, is_well in checks.items() if not is_well]


def test_images_of_others_have_a_version_and_are_those_that_the_docs_list() -> None:
    """None could be pulled here: a reader must know which."""
    root = surroundings.REPOSITORY
    files = [path for folder in ("cluster", "k8s") for path in (root / folder).rglob("*.y*ml")]
    images = {
        name
        for path in files
        for name in re.findall(r"^[^#\n]*\bimage: (\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    images |= set(re.findall(r"^ARG BASE=(\S+)", DOCKERFILE, re.MULTILINE))
    others = {name for name in images if not re.fullmatch(r"(\$\{GEOPIPE_IMAGE:-)?geopipe(:[0-9.]+\}?)?", name)}
    page = (root / "docs" / "clusters.md").read_text(encoding="utf-8").partition("| image |")[2]
    assert others == set(re.findall(r"`(\S+:\S+)`", page))
    assert {name for name in others if not re.search(r":v?\d+\.\d+[\w.-]*$", name)} == set()


def test_the_dockerfile_is_pinned_rootless_and_without_secrets() -> None:
    assert faults(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("python:3.11.14-slim-bookworm", "python:3-slim", "the base is not pinned"),
        ("FROM ${BASE}\nARG VERSION", "FROM debian:12\nARG VERSION", "a stage has another base"),
        ("USER 1000:100", "USER root", "the image runs as root"),
        ("HEALTHCHECK", "# HEALTHCHECK", "no health check"),
        ("\nCMD", '\nENTRYPOINT ["geopipe"]\nCMD', "an entry point"),
        ("install --require-hashes -r build.lock", "install -r build.lock", "packages are not pinned"),
        ("ARG PIP_INDEX_URL", "ARG PIP_INDEX_URL=https://index.example", "an address of a registry"),
        ("RAY_USAGE_STATS_ENABLED=0", "RAY_AUTH_TOKEN=0", "a secret"),
        ('ARG PACKAGES=""', 'ARG PACKAGES="git"', "build tools in the last stage"),
        ("geopipe doctor --warm", "geopipe doctor", "kernels are not compiled"),
        ("    NUMBA_CPU_NAME=${CPU}", "    NUMBA_CPU_NAME=generic", "machine code for another processor"),
        ("COPY cluster/grafana cluster/grafana\n", "", "the wheel lacks a folder"),
    ],
)
def test_a_worse_dockerfile_is_noticed(old: str, new: str, fault: str) -> None:
    assert old in DOCKERFILE
    assert faults(DOCKERFILE.replace(old, new)) == [fault]


def test_the_image_is_built_without_what_the_folder_holds_by_chance() -> None:
    lines = (surroundings.REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "*"
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE):
        for path in source.split():
            assert f"!{path}" in lines
            assert list(surroundings.REPOSITORY.glob(path)), path


@pytest.mark.parametrize("file", ["Dockerfile", "cluster/compose.yaml", "cluster/ssh.yaml", "cluster/aws.yaml"])
def test_the_files_name_the_image_of_this_version(file: str) -> None:
    text = (surroundings.REPOSITORY / file).read_text(encoding="utf-8")
    assert set(re.findall(r"(?:geopipe:|ARG VERSION=)(\d+\.\d+\.\d+)", text)) == {__version__}


# ---------------------------------------------------------------- what it installs


def names(file: str) -> set[str]:
    return set((LISTS / f"{file}.txt").read_text(encoding="utf-8").split())


def needed(requirements: list[str]) -> set[str]:
    """The packages that these requirements lead to on this machine, with those of their extras."""
    done: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in done:
            continue
        done.add(key)
        for text in requires(requirement.name) or []:
            child = Requirement(text)
            extras = key[1] or {""}
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(child)
    return {name for name, _ in done}


def wrong_names(listed: set[str], requirements: list[str]) -> set[str]:
    """Names that a list lacks, and names on it that nothing on this machine or another one needs."""
    required = needed(requirements)
    elsewhere = {name for name in listed if ";" in PINS.get(name, "")}
    return (required - listed) | (listed - elsewhere - required) | (listed - PINS.keys())


EXTRAS = PROJECT["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", ["", "h3", "regions"])
def test_the_image_installs_what_geopipe_needs_and_no_more(extra: str) -> None:
    requirements = PROJECT["project"]["dependencies"] + EXTRAS.get(extra, [])
    listed = names("runtime") | (names(extra) if extra else set())
    assert wrong_names(listed, requirements) == set(), "make lock"
    assert wrong_names(listed - {"numpy"}, requirements) == {"numpy"}
    assert wrong_names(listed | {"pytest"}, requirements) == {"pytest"}


def test_the_tools_that_build_the_wheel_are_pinned() -> None:
    assert wrong_names(names("build"), PROJECT["build-system"]["requires"]) == set(), "make lock"


def test_the_head_on_aws_has_an_sdk_with_hashes() -> None:
    lock = (LISTS / "aws.lock").read_text(encoding="utf-8")
    pins = re.findall(r"^(\S+)==\S+ \\\n    --hash", lock, re.MULTILINE)
    assert {"boto3", "botocore"} <= set(pins)
    assert not set(pins) & (names("runtime") | names("h3") | names("regions")), "one version of a package in an image"


# ---------------------------------------------------------------- the image

PROBE = """
import glob, json, os, sys
from geopipe.load.warm import warm
from geopipe.resample import compiled
warm()
print(json.dumps({
    "ids": [os.getuid(), os.getgid()],
    "writable": [p for p in (sys.prefix, *glob.glob(sys.prefix + "/**", recursive=True)) if os.access(p, os.W_OK)
                 and not os.path.islink(p)],
    "compiled": sum(kernel.stats.cache_misses.total() for kernel in compiled.KERNELS),
    "loaded": sum(kernel.stats.cache_hits.total() for kernel in compiled.KERNELS),
}))
"""


@pytest.fixture
def image() -> str:
    """The name of an image that `make image` built."""
    name = os.environ.get("GEOPIPE_IMAGE")
    if not name:
        pytest.skip("GEOPIPE_IMAGE names no image: build one with `make image`")
    return name


def run(image: str, *command: str) -> str:
    done = subprocess.run([LISTS / "run.sh", image, *command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_image_runs_the_demo_for_a_user_who_cannot_change_its_code(image: str) -> None:
    facts = json.loads(run(image, "python3", "-c", PROBE).splitlines()[-1])
    assert facts["ids"] == [1000, 100]
    assert facts["writable"] == []
    assert facts["compiled"] == 0, "kernels come compiled"
    assert facts["loaded"] > 0
    assert "demo is done" in run(image, "geopipe", "demo", "--folder", "/tmp/demo")


@pytest.mark.slow
def test_a_login_shell_of_the_image_finds_ray(image: str) -> None:
    assert run(image, "bash", "--login", "-c", "type -p ray geopipe").split() == [
        "/opt/geopipe/bin/ray",
        "/opt/geopipe/bin/geopipe",
    ]
