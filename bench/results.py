"""The results of measurements, in one file that a broken series continues from."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "bench" / "results.json"


class Results:
    """Measurements by key, such as "margin/4096/ray/0". Each is on disk as soon as it is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = self._read()

    def measured(self, key: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a key, measured if there is none."""
        if key not in self.values:
            result = work()
            self._write(self._read() | {key: result})  # another script may have kept results meanwhile
        return dict(self.values[key])

    def forget(self, prefix: str) -> None:
        """Drop the results whose key begins with a prefix."""
        self._write({key: value for key, value in self._read().items() if not key.startswith(prefix)})

    def _read(self) -> dict[str, Any]:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}

    def _write(self, values: dict[str, Any]) -> None:
        self.values = values
        partial = self.path.with_suffix(".partial")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(dict(sorted(values.items())), indent=1) + "\n", encoding="utf-8")
        os.replace(partial, self.path)

    def under(self, prefix: str) -> dict[str, dict[str, Any]]:
        """Results whose key begins with a prefix, by the rest of the key."""
        return {key.removeprefix(prefix): value for key, value in self.values.items() if key.startswith(prefix)}


def machine() -> dict[str, Any]:
    """The machine and the versions that a series is measured with."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.machine())
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "commit": commit()}


def commit() -> str:
    """The commit of this repository; empty outside of git."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False).stdout.strip()
