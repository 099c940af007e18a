"""Hosts on this machine: network namespaces on a bridge, each with a host name, process numbers and folders of its own.

All hosts have one HOME, as the nodes of a cluster do. What a host writes there and into a folder that it keeps `apart`
no other host sees; all else is shared, as by a network file system. Killing a host ends all its processes at once, and
nothing says good-bye.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass
class Host:
    """A host with a command at work.

    Attributes:
        folder: of its own, with its home and its log.
    """

    name: str
    address: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self, command: Sequence[str], environment: Mapping[str, str], apart: Sequence[Path] = ()) -> None:
        """Start a command, and see to it that HOME and each folder of `apart` are others on this host."""
        binds = ""
        own_folders = {Path(environment["HOME"]): self.home}
        own_folders |= {path: self.folder / f"apart-{number}" for number, path in enumerate(apart)}
        for path, own in own_folders.items():
            own.mkdir(exist_ok=True)
            binds += f"mount --bind {shlex.quote(str(own))} {shlex.quote(str(path))} && "
        script = f"hostname {self.name} && {binds}exec {shlex.join(command)}"
        spaces = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--uts", "--kill-child"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *spaces, "sh", "-c", script],
                env=dict(environment),
                cwd=self.home,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """End all processes of the host, as a power cut would."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@dataclass
class Network:
    """A bridge with hosts; this machine has the first address on it."""

    folder: Path
    name: str
    prefix: str
    hosts: list[Host] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{self.prefix}.1"

    def add(self) -> Host:
        """A new host on the bridge, on which nothing runs yet."""
        number = len(self.hosts) + 2
        host = Host(f"{self.name}-{number}", f"{self.prefix}.{number}", self.folder / f"host-{number}")
        host.home.mkdir(parents=True)
        _ip("netns", "add", host.name)
        self.hosts.append(host)
        cable = f"{self.name}v{number}"
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        _ip("link", "set", cable, "master", self.name, "up")
        _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
        for interface in ("eth0", "lo"):
            _ip("-n", host.name, "link", "set", interface, "up")
        return host


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """A network whose hosts have their folders in `folder`; skips where nobody may make one."""
    if os.geteuid() or not all(map(shutil.which, ("ip", "unshare", "mount"))):
        pytest.skip("hosts in network namespaces need Linux, root, and the programs ip and unshare")
    number = secrets.randbelow(200) + 20
    net = Network(folder, f"gp{secrets.token_hex(2)}", f"10.213.{number}")
    try:
        _ip("link", "add", net.name, "type", "bridge")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    try:
        _ip("addr", "add", f"{net.address}/24", "dev", net.name)
        _ip("link", "set", net.name, "up")
        yield net
    finally:
        for host in net.hosts:
            host.kill()
            subprocess.run(["ip", "netns", "del", host.name], check=False, capture_output=True)
        _ip("link", "del", net.name)
