"""A Postgres of this user's own on this machine: on the loopback, with a password, in GEOPIPE_HOME/postgres.

The server outlives the process that started it; later processes use it. Several nodes need a server that all can reach.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg2

from geopipe.errors import MachineError
from geopipe.monitoring.database import place
from geopipe.monitoring.database.programs import call, error_line, major_version, package, programs_of
from geopipe.monitoring.home import HOME, try_lock, write_private


def start() -> str:
    """Start the server if it does not run, and create it before the first start. Returns its DSN, with the password.

    Of several processes at once, one starts the server, and the others wait.

    Raises:
        MachineError: it cannot be started; the message says why and what else to do.
    """
    server = place.server_folder()
    if place.pid_of(server) is None:
        package()  # before errors about this user, who could do nothing with them
    place.check_user(server)
    with _locked(server):
        if place.pid_of(server) is None:
            place.check_host(server)
            programs = programs_of(server)
            if not server.data.exists():
                _create(server, programs)
            place.check_data(server, major_version(programs))
            _start(server, programs)
        return _ready(server)


def stop() -> bool:
    """Stop the server and wait for its end. Returns whether it was running. Its data stay.

    Raises:
        MachineError: it does not stop.
    """
    server = place.server_folder()
    if not server.data.exists():
        return False
    with _locked(server):
        if place.pid_of(server) is None:
            return False
        done = call(server, programs_of(server) / "pg_ctl", "-D", str(server.data), "-m", "fast", "-w", "stop")
        if done.returncode:
            raise MachineError(
                f"the embedded Postgres does not stop: {error_line(done.stderr)}", f"see {server.folder}/log"
            )
        return True


def running() -> bool:
    """Whether the server runs; reads the file of its process only."""
    with suppress(MachineError):
        return place.pid_of(place.server_folder()) is not None
    return False


def exists() -> bool:
    """Whether the server has data, running or not."""
    with suppress(MachineError, OSError):
        return (place.folder() / "data").exists()
    return False


def url() -> str:
    """The DSN of the running server, with its password.

    Raises:
        MachineError: it does not run.
    """
    server = place.server_folder()
    if place.pid_of(server) is None:
        raise MachineError(f"no embedded Postgres runs in {server.folder}", "start it: `geopipe db start`")
    return place.dsn_of(server)


def _ready(server: place.ServerFolder) -> str:
    """Wait until the server answers, and return its DSN; after a kill it recovers first.

    Raises:
        MachineError: it does not answer in time, or refuses our password.
    """
    end = time.monotonic() + place.WAIT
    while True:
        try:
            address = place.dsn_of(server)
            psycopg2.connect(address, connect_timeout=5).close()
            return address
        except psycopg2.OperationalError as error:
            reason = error_line(str(error))
            if "password" in reason:
                raise MachineError(
                    f"the embedded Postgres in {server.folder} refuses the password in its file",
                    "put the file `password` back that belongs to its data",
                ) from None
        except MachineError as error:
            reason = error.message
        if time.monotonic() > end or place.pid_of(server) is None:
            raise MachineError(
                f"the embedded Postgres in {server.folder} does not answer: {reason}", f"see {server.folder}/log"
            )
        time.sleep(0.05)


@contextmanager
def _locked(server: place.ServerFolder) -> Iterator[None]:
    """Hold the folder's lock, which ends with the process; the server does not inherit it."""
    try:
        server.folder.mkdir(parents=True, exist_ok=True)
        server.folder.chmod(0o711 if server.user else 0o700)
        lock = os.open(server.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise MachineError(
            f"{server.folder}, where the embedded Postgres is kept, cannot be used: {error.strerror}",
            f"set {HOME} to a folder that this user can write to",
        ) from None
    try:
        end = time.monotonic() + place.WAIT
        while not try_lock(lock):
            if time.monotonic() > end:
                message = f"another process has held {server.folder}/lock for {place.WAIT:.0f} s"
                raise MachineError(message, "see what holds it: fuser")
            time.sleep(0.05)
        yield
    finally:
        os.close(lock)


def _create(server: place.ServerFolder, programs: Path) -> None:
    """Create the data; the folder gets its name when it is complete, after its password is written."""
    for partial in server.folder.glob("new-*"):  # of a process that died
        shutil.rmtree(partial, ignore_errors=True)
    fresh = server.folder / f"new-{os.getpid()}"
    password = secrets.token_urlsafe(24)
    try:
        fresh.mkdir(mode=0o700)
        password_file = fresh / "password"
        write_private(password_file, password)
        server.give(fresh, password_file)
        options = ("-A", "scram-sha-256", "--pwfile", str(password_file), "-E", "UTF8", "--no-locale")
        done = call(server, programs / "initdb", "-D", str(fresh / "data"), "-U", place.USER, *options)
        if done.returncode:
            raise MachineError(
                f"the embedded Postgres cannot be made in {server.folder}: {error_line(done.stderr or done.stdout)}",
                f"see that there is room and that the folder may be written, or {place.ELSEWHERE}",
            )
        write_private(server.folder / "password", password)
        os.rename(fresh / "data", server.data)
    except OSError as error:
        raise MachineError(
            f"the embedded Postgres cannot be made in {server.folder}: {error.strerror}",
            f"set {HOME} to a folder that this user can write to, or {place.ELSEWHERE}",
        ) from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _start(server: place.ServerFolder, programs: Path) -> None:
    """Start the server on the port that it had before, or on another if that is in use.

    Raises:
        MachineError: it starts on none of several ports.
    """
    log = server.folder / "log"
    place.wait_for_orphans(server)
    # Postgres takes any live process of this number for a server, even a zombie. It is none: no process works on the
    # data, and we hold the lock.
    (server.data / "postmaster.pid").unlink(missing_ok=True)
    if log.exists():
        os.replace(log, server.folder / "log.old")
    write_private(log, "")
    server.give(log)
    for _ in range(5):
        port = _port(server)
        options = f"-h 127.0.0.1 -p {port} -k ''"
        command = ("-D", str(server.data), "-w", "-t", str(int(place.WAIT)), "-l", str(log), "-o", options, "start")
        done = call(server, programs / "pg_ctl", *command)
        if done.returncode == 0:
            write_private(server.folder / "port", str(port))
            write_private(server.folder / "host", socket.gethostname())
            return
        reason = "; ".join(server.read("log").splitlines()[-3:])
        if "bind" not in server.read("log"):
            break
        (server.folder / "port").unlink(missing_ok=True)  # in use since we looked
    raise MachineError(
        f"the embedded Postgres in {server.folder} does not start: {reason or error_line(done.stderr)}",
        f"see {log}, or {place.ELSEWHERE}",
    )


def _port(server: place.ServerFolder) -> int:
    """The last port if it is free, else any free port."""
    last = server.read("port")
    for port in (int(last) if last.isdigit() else 0, 0):
        with socket.socket() as free, suppress(OSError, OverflowError):
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Postgres does
            free.bind(("127.0.0.1", port))
            return int(free.getsockname()[1])
    raise MachineError("no port is free on 127.0.0.1", place.ELSEWHERE)
