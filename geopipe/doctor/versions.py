"""Versions of Python and the libraries, beside what geopipe needs and what requirements.lock has."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

import pyproj
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

import geopipe
from geopipe.doctor.findings import MachineFinding
from geopipe.load import raster

LIBRARIES = ("ray", "pyarrow", "numpy", "numba", "pandas", "scipy", "pyproj", "rasterio", "pyogrio")
"""Libraries whose version decides values, or whether nodes understand each other."""

LOCK = Path(geopipe.__file__).parents[1] / "requirements.lock"
"""Versions with which geopipe is tested; only a checkout has the file."""


def numbers() -> dict[str, str]:
    """Versions by name: of Python, geopipe, its libraries, and GDAL and PROJ inside them."""
    libraries = {name: _version(name) for name in LIBRARIES}
    inside = {"gdal": raster.versions()["gdal"], "proj": pyproj.proj_version_str}
    return {"python": platform.python_version(), "geopipe": geopipe.__version__} | libraries | inside


def findings() -> Iterator[MachineFinding]:
    """A finding for each number: a problem outside of what geopipe needs, a note if the lock has another."""
    needed = {"python": SpecifierSet(_metadata("Requires-Python"))}
    needed |= {r.name: r.specifier for r in _requirements(_required())}
    locked = {r.name: r.specifier for r in _requirements(_locked())}
    for name, number in numbers().items():
        if not number:
            yield MachineFinding(name, "problem", "it is not installed", f"pip install '{name}{needed.get(name, '')}'")
        elif name in needed and not needed[name].contains(number, prereleases=True):
            yield MachineFinding(
                name, "problem", f"{number}, and geopipe needs {name} {needed[name]}",
                "install geopipe anew in an environment of its own"
            )  # fmt: skip
        elif name in locked and not locked[name].contains(number, prereleases=True):
            pinned = str(locked[name]).removeprefix("==")
            hint = "pip install --require-hashes -r requirements.lock: geopipe is tested with those versions"
            yield MachineFinding(name, "note", f"{number}, and requirements.lock has {pinned}", hint)
        else:
            yield MachineFinding(name, "ok", f"{number} in {sys.prefix}" if name == "python" else number)


def differences(numbers: dict[str, str], by_node: dict[str, dict[str, str]]) -> Iterator[MachineFinding]:
    """A problem for each library with another number on a node than on this machine, with the nodes.

    Args:
        numbers: of this machine.
        by_node: those of each node.
    """
    for name, own in numbers.items():
        others: dict[str, list[str]] = {}
        for node, theirs in by_node.items():
            if theirs.get(name) != own:
                others.setdefault(theirs.get(name) or "none", []).append(node)
        if others:
            text = "; ".join(f"{number} on {', '.join(nodes)}" for number, nodes in others.items())
            hint = "give every node the same image, or the same requirements.lock: values and formats depend on it"
            yield MachineFinding(name, "problem", f"{own or 'none'} on this machine; {text}", hint)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _metadata(field: str) -> str:
    try:
        return metadata("geopipe")[field] or ""
    except (PackageNotFoundError, KeyError):
        return ""


def _required() -> list[str]:
    try:
        return requires("geopipe") or []
    except PackageNotFoundError:
        return []


def _locked() -> list[str]:
    try:
        lines = LOCK.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [line.rstrip("\\ ") for line in lines if line[:1].isalnum()]


def _requirements(lines: list[str]) -> Iterator[Requirement]:
    """The requirements that hold for this Python, without extras."""
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement
