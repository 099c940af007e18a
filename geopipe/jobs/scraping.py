"""A Prometheus for the cluster of this machine: it finds the nodes of Ray, and each run on them, by itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import geopipe
from geopipe.errors import MachineError
from geopipe.monitoring.home import home

INTERVALS = {"geopipe": "1s", "ray": "5s"}
"""Between two scrapes of each job. A run waits for its last one; Ray renews its metrics every 5 s."""

START_SECONDS = 60.0
"""Seconds that Prometheus may take to read its data and answer."""


def is_installed() -> bool:
    """Whether `prometheus` is in PATH."""
    return shutil.which("prometheus") is not None


def targets() -> Path:
    """The folder in which each run on the cluster puts its address for Prometheus."""
    return _folder() / "targets"


def shipped(name: str) -> Path:
    """A file or folder of the repository's `cluster`, which a wheel has in the package."""
    package = Path(geopipe.__file__).parent
    source = package.parent / "cluster" / name
    return source if source.exists() else package / "cluster" / name


def start(port: int, session: Path, environment: Mapping[str, str]) -> None:
    """Start Prometheus on the loopback and wait until it answers. It outlives this process.

    Args:
        port: to listen on.
        session: folder of Ray's session, in which Ray keeps a list of its nodes.
        environment: of the process.

    Raises:
        MachineError: it does not answer.
    """
    folder = _folder()
    shutil.rmtree(targets(), ignore_errors=True)  # of runs that were killed with the last cluster
    targets().mkdir(parents=True)
    (folder / "prometheus.yml").write_text(json.dumps(_configuration(session), indent=2), encoding="utf-8")
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    end = time.monotonic() + START_SECONDS
    while not is_ready(f"http://127.0.0.1:{port}"):
        if process.poll() is not None or time.monotonic() > end:
            raise MachineError("Prometheus does not start", f"see {folder}/log, or give --no-prometheus")
        time.sleep(0.1)


def is_ready(url: str) -> bool:
    """Whether a Prometheus answers there."""
    with suppress(OSError):
        urllib.request.urlopen(f"{url}/-/ready", timeout=5).close()
        return True
    return False


def _folder() -> Path:
    return home() / "prometheus"


def _configuration(session: Path) -> dict[str, object]:
    """As cluster/prometheus/prometheus.yml, for this cluster; JSON is YAML, too."""
    files = {"geopipe": targets() / "*.json", "ray": session / "prom_metrics_service_discovery.json"}
    return {
        "global": {"evaluation_interval": "5s"},
        "rule_files": [str(shipped("prometheus/rules.yml"))],
        "scrape_configs": [
            {
                "job_name": job,
                "scrape_interval": INTERVALS[job],
                "file_sd_configs": [{"files": [str(file)], "refresh_interval": "5s"}],
            }
            for job, file in files.items()
        ],
    }
