"""A folder from another mount: a process there sees the files, and no lock that is held here on them.

So it is with a network file system whose locks stay on each machine.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

MOUNT = 'mount -t overlay overlay -o "lowerdir=$0,upperdir=$1/upper,workdir=$1/work" "$0"'


def run(folder: Path, code: str, *arguments: object) -> str:
    """What Python code prints that has the folder from another mount; skips where nobody may mount."""
    if not shutil.which("unshare"):
        pytest.skip("another mount needs Linux and the program unshare")
    with tempfile.TemporaryDirectory(dir=folder.parent) as layers:
        for name in ("upper", "work"):
            Path(layers, name).mkdir()
        command = ["unshare", "--mount", "sh", "-c", f'{MOUNT} || exit 77; shift; exec "$@"', str(folder), layers]
        command += [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 77 or done.stderr.startswith("unshare:"):
        pytest.skip(f"no other mount here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout
