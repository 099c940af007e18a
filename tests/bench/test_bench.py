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
    "memory.py": (("--sizes", "512", "--ways", "aligned"), "512 x 512  aligned"),
}
"""Arguments that make a script quick, and what its last line has, by its name."""
ON_RAY = ("start.py", "tiles.py", "memory.py")


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
    assert {path.name for path in (surroundings.REPOSITORY / "bench").glob("*.py")} == set(SCRIPTS)
