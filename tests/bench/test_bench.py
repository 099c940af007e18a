"""The scripts of bench/ run, each at its smallest size; what they measure is read by people."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import surroundings

SCRIPTS = {
    "rates.py": (("--size", "600"), "csv zstd"),
    "monitor.py": (("--pairs", "2", "--size", "512", "--local"), "watched / not: median"),
    "start.py": (("--pairs", "1"), "demo - trivial:"),
    "tiles.py": (("--tiles", "4", "5", "--layers", "3"), "20 tiles"),
    "w8.py": (("w8", "64"), "settings.toml"),
    "w3.py": (("w3", "30"), "settings.toml"),
    "kernels.py": (
        ("--old", "0" * 7, "--processes", "1", "--repetitions", "1", "--results", "r.json"),
        "4 of 4 statistics",
    ),
    "check.py": (("--n", "128", "--repetitions", "1", "--results", "r.json"), "0 of 13 became slower"),
    "cells.py": (("cells", "64"), "table"),
    "analyses.py": (
        ("--sizes", "128", "--cases", "pca", "--data", ".", "--results", "r.json"),
        "analyses/128/pca/peer:",
    ),
    "scaling.py": (
        ("--nodes", "2", "--seconds", "1", "2", "--only", "groupby", "--results", "r.json"),
        "scaling/groupby/2",
    ),
    "memory.py": (("--sizes", "512", "--ways", "aligned"), "512 x 512  aligned"),
}
"""Arguments that make a script quick, and what its last line has, by its name."""
ON_RAY = ("start.py", "tiles.py", "memory.py", "scaling.py")
ELSEWHERE = {"fast.py", "agree.py", "floor.py", "stages.py", "league.py", "report.py"}
"""Scripts that `test_fast` tries."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", [pytest.param(name, marks=pytest.mark.ray) if name in ON_RAY else name for name in SCRIPTS]
)
def test_a_script_runs_to_its_last_line(script: str, tmp_path: Path) -> None:
    arguments, last = SCRIPTS[script]
    command = [sys.executable, str(surroundings.REPOSITORY / "bench" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert last in done.stdout.splitlines()[-1]


def test_each_script_is_tried() -> None:
    paths = (surroundings.REPOSITORY / "bench").glob("*.py")
    scripts = {path.name for path in paths if 'if __name__ == "__main__"' in path.read_text()}
    assert scripts == set(SCRIPTS) | ELSEWHERE
