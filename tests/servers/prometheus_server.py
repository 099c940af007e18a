"""Prometheus for the tests: the system's, or Debian's package without the 332 MB that it depends on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from waiting import PATIENCE

PROGRAMS = ("prometheus", "promtool")


def programs(cache: Path) -> Path:
    """The folder with prometheus and promtool; `cache` keeps what had to be downloaded."""
    folder = cache / "root" / "usr" / "bin"
    system = Path(shutil.which("prometheus") or folder / "prometheus").parent
    for candidate in (system, folder):
        if all((candidate / name).exists() for name in PROGRAMS):
            return candidate
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        pytest.skip("no Prometheus: it is not in PATH, and without apt-get and dpkg-deb it cannot be got from Debian")
    unpacked = cache / f"unpacked-{os.getpid()}"
    try:
        package = _download(cache)
        subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True, capture_output=True, timeout=120)
        package.unlink()
        shutil.rmtree(cache / "root", ignore_errors=True)
        unpacked.replace(cache / "root")  # whole or not at all, whatever else is at work here
    except (subprocess.SubprocessError, OSError) as error:
        stderr = getattr(error, "stderr", None)
        pytest.skip(f"no Prometheus: not in PATH, and {error}: {stderr.decode().strip() if stderr else ''}")
    return folder


def _download(cache: Path) -> Path:
    """The package. apt's own lists are tried first, then new ones of our own: those need no root."""
    state = cache / "apt"
    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    own = [f"-oDir::State::Lists={state / 'lists'}", f"-oDir::Cache={state / 'cache'}", "-oAPT::Sandbox::User="]
    for options in ([], own):
        if options:
            subprocess.run(["apt-get", *options, "-q", "update"], check=True, capture_output=True, timeout=300)
        done = subprocess.run(
            ["apt-get", *options, "-q", "download", "prometheus"],
            cwd=cache,
            check=bool(options),
            capture_output=True,
            timeout=300,
        )
        if done.returncode == 0:
            break
    shutil.rmtree(state)
    return next(cache.glob("prometheus_*.deb"))


class Server:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **params: str) -> Any:
        """The `data` of an answer of the HTTP API."""
        query = urllib.parse.urlencode(params)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=PATIENCE) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{params}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query, each with `metric` and `value`."""
        result: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return result

    def value(self, expression: str) -> float | None:
        """The value of the only series, if there is one."""
        series = self.query(expression)
        assert len(series) <= 1, series
        return float(series[0]["value"][1]) if series else None


@contextmanager
def server(folder: Path, config: Path, data: Path) -> Iterator[Server]:
    """A running Prometheus with this configuration, and its data in `data`."""
    port = free_port()
    args = [f"--config.file={config}", f"--storage.tsdb.path={data}", f"--web.listen-address=127.0.0.1:{port}"]
    log = data.with_suffix(".log")
    with log.open("wb") as sink:
        process = subprocess.Popen([folder / "prometheus", *args], stdout=sink, stderr=subprocess.STDOUT)
    running, deadline = Server(port), time.monotonic() + PATIENCE
    try:
        while True:
            try:
                urllib.request.urlopen(f"{running.url}/-/ready", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
        yield running
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)
