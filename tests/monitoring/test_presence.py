"""Which processes live: neither the records of a living one are taken, nor are those of a dead one kept for ever.

Processes in namespaces stand for containers with one host name and the same process ids. A folder seen through an
overlay stands for a network file system whose locks no other machine sees.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mounts
import pytest
from waiting import until

from geopipe.monitoring import presence
from geopipe.monitoring.presence import PRESENT, QUIET, Presence

SOURCE = "host-2-1"

LIVES = """
import sys
from pathlib import Path
from geopipe.monitoring.presence import Presence
mark = Presence(Path(sys.argv[1]), sys.argv[2])
print("lives", flush=True)
sys.stdin.read()
"""

LOOKS = """
import sys
from pathlib import Path
from geopipe.monitoring.presence import is_alive
print(is_alive(Path(sys.argv[1]), sys.argv[2]))
"""


def age(folder: Path) -> None:
    """Let the mark look as if it had not been touched for long."""
    os.utime(folder / f"{SOURCE}{PRESENT}", (0, time.time() - 2 * QUIET))


@contextmanager
def process(folder: Path, *container: str) -> Iterator[subprocess.Popen[str]]:
    """A process that lives in a container, or here."""
    command = [*container, sys.executable, "-c", LIVES, str(folder), SOURCE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as living:
        assert living.stdout is not None
        assert living.stdout.readline() == "lives\n"
        try:
            yield living
        finally:
            living.kill()


def container() -> list[str]:
    """The command before one that runs in a container, with process ids of its own."""
    command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--uts", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("containers need Linux, root, and the program unshare")
    return command


def lives_elsewhere(folder: Path) -> bool:
    """Whether the process lives in the eyes of one who has the folder from another mount."""
    return {"True\n": True, "False\n": False}[mounts.run(folder, LOOKS, folder, SOURCE)]


def test_a_lock_counts_in_all_containers_of_a_machine_whatever_their_names_and_process_ids(tmp_path: Path) -> None:
    with process(tmp_path, *container()) as living:
        mark = json.loads((tmp_path / f"{SOURCE}{PRESENT}").read_text())
        assert mark["namespace"] != os.readlink("/proc/self/ns/pid")
        age(tmp_path)
        assert presence.is_alive(tmp_path, SOURCE)
        assert presence.living(tmp_path) == [SOURCE]
        assert presence.pids(tmp_path) == set(), "its process id means another process here"
        living.kill()
        living.wait()
        until(lambda: not presence.is_alive(tmp_path, SOURCE))  # its container ends a little later
    (tmp_path / f"{SOURCE}{PRESENT}").touch()
    assert not presence.is_alive(tmp_path, SOURCE), "nobody waits until it has been quiet"


def test_where_locks_are_not_seen_the_host_name_decides_nothing_and_the_touches_do(tmp_path: Path) -> None:
    (folder := tmp_path / "share").mkdir()
    with process(folder):
        assert lives_elsewhere(folder)
        age(folder)
        assert presence.is_alive(folder, SOURCE), "its lock is seen here"
        assert not lives_elsewhere(folder)
    (folder / f"{SOURCE}{PRESENT}").touch()
    assert lives_elsewhere(folder), "it is not known there that it has died"


def test_of_another_machine_the_touches_count(tmp_path: Path) -> None:
    mark = tmp_path / f"{SOURCE}{PRESENT}"
    for identity in ({"boot": "another"}, {"device": 0}, {"boot": ""}):
        mark.write_text(json.dumps(presence._identity(tmp_path) | identity))
        assert presence.is_alive(tmp_path, SOURCE)
        age(tmp_path)
        assert not presence.is_alive(tmp_path, SOURCE)


@pytest.mark.parametrize("text", ["", "{", "[]", "\0"])
def test_a_mark_that_nobody_can_read_counts_by_its_touches(text: str, tmp_path: Path) -> None:
    (tmp_path / f"{SOURCE}{PRESENT}").write_text(text)
    assert presence.living(tmp_path) == [SOURCE]
    age(tmp_path)
    assert presence.living(tmp_path) == []


def test_a_process_touches_its_mark_and_takes_it_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Presence(tmp_path, SOURCE)
    age(tmp_path)
    own()
    assert time.time() - (tmp_path / f"{SOURCE}{PRESENT}").stat().st_mtime > QUIET, "it is not due"
    monkeypatch.setattr(own, "_due", 0.0)
    own()
    assert time.time() - (tmp_path / f"{SOURCE}{PRESENT}").stat().st_mtime < QUIET
    assert presence.living(tmp_path) == []
    assert presence.pids(tmp_path) == {os.getpid()}
    own.close()
    assert list(tmp_path.iterdir()) == []
    assert not presence.is_alive(tmp_path, SOURCE)
