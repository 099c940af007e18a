"""A Ray head of the tests' own: other ports than the usual, a folder that goes with it, on the loopback."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from ports import free_port
from waiting import until

PROGRAMS = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    """Where it listens, and its folder, with all that its processes write beside the output of runs."""

    gcs: str
    dashboard: str
    folder: Path

    def ask(self, url: str, token: str = "", method: str = "GET") -> tuple[int, str]:
        """Status and text of an answer to a path or a URL; 0 if there is none."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = url if "://" in url else self.dashboard + url
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method)) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""


@contextmanager
def head(environment: Mapping[str, str]) -> Iterator[Head]:
    """A head with two CPUs whose processes have an environment, and their home in its folder."""
    folder = Path(tempfile.mkdtemp(prefix="gh-", dir="/tmp"))  # short: Ray makes sockets in it
    (folder / "home").mkdir()
    gcs, dashboard, client, agent, grpc = (free_port() for _ in range(5))
    command = [str(PROGRAMS / "ray"), "start", "--head", "--block", f"--temp-dir={folder / 'ray'}", "--num-cpus=2"]
    command += ["--node-ip-address=127.0.0.1", f"--port={gcs}", f"--ray-client-server-port={client}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--object-store-memory=150000000"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}"]
    command += ["--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"]
    own = dict(environment) | {"HOME": str(folder / "home"), "GEOPIPE_HOME": str(folder / "home/geopipe")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=own, stdout=log, stderr=subprocess.STDOUT)
    try:
        until(lambda: process.poll() is not None or b"Ray runtime started" in (folder / "log").read_bytes())
        if process.poll() is not None:
            pytest.skip(f"no Ray head can be started here: {(folder / 'log').read_text()[-500:]}")
        yield Head(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", folder)
    finally:
        processes = [process.pid]
        with suppress(psutil.Error):
            processes += [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        for pid in processes:
            with suppress(psutil.Error):
                psutil.Process(pid).kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
