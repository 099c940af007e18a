"""The commands for Kubernetes that pages show write manifests; figures of cost are those of the benchmarks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import samples
from pages import blocks
from surroundings import REPOSITORY

SETTINGS = """\
[run]
output = "output"

[grid]
crs = "EPSG:32612"
resolution = 90

[[layers]]
name = "elevation"
path = "srtm.tif"
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl, which builds the manifests, is not installed")
@pytest.mark.parametrize("page", ["docs/clusters.md", "k8s/README.md"])
def test_commands_that_render_manifests_run_up_to_kubectl(page: str, tmp_path: Path) -> None:
    samples.create(tmp_path)
    (tmp_path / "mine.toml").write_text(SETTINGS)
    lines = [
        line for block in blocks(page) for line in block.code.splitlines() if line.startswith("geopipe k8s render")
    ]
    assert lines
    for line in lines:
        command, pipe, rest = line.partition(" | ")
        assert (pipe, rest) == (" | ", "kubectl apply -f -")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            command.split(), cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "kind: RayJob" in done.stdout


def test_costs_are_those_of_the_benchmarks() -> None:
    results = json.loads((REPOSITORY / "bench/results.json").read_text())

    def mean(place: str, key: str) -> float:
        values = [one[key] for name, one in results.items() if re.fullmatch(rf"{place}/\d+", name)]
        return float(sum(values) / len(values))

    large, small, shuffled, scene = "margin/16384/ray", "margin/4096/groupby", "margin/8192/groupby", "scene/1700/local"
    rows = mean(shuffled, "rows") - mean(small, "rows")
    seconds = [
        mean(large, "cpu") / (8 * mean(large, "rows")),
        (mean(shuffled, "cpu") - mean(small, "cpu")) / (8 * rows),
        mean(scene, "cpu") / (25 * mean(scene, "rows")),
    ]
    text = (REPOSITORY / "k8s/README.md").read_text()
    shown = re.findall(r"^\| W\d.*\| ([\d.]+) \| ([\d.]+) \|$", text, re.M)
    assert shown == [(f"{1e9 * one:.1f}", f"{1e9 * one / 3600:.3f}") for one in seconds]
