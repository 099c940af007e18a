"""What `geopipe doctor` says of machines on which something is wrong: each of them is made for real."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mounts
import pytest
from trials import make_trial

from geopipe.doctor import folder, services, variables
from geopipe.doctor.diagnose import Scope, diagnose
from geopipe.doctor.findings import MachineFinding
from geopipe.errors import MachineError
from geopipe.monitoring.database import schema
from geopipe.monitoring.database.migrations import revisions

NOBODY = 65_534


def doctor(*options: str, before: tuple[str, ...] = (), **environment: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code of the command, and its findings by name."""
    command = [*before, sys.executable, "-m", "geopipe", "doctor", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.returncode in (0, 3), done.stderr
    return done.returncode, {finding["name"]: finding for finding in json.loads(done.stdout)}


def distribution(folder: Path, name: str, number: str) -> None:
    """The metadata of an installed package."""
    info = folder / f"{name}-{number}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that this process can read only, also if it is root's."""
    path = Path(tempfile.mkdtemp(prefix="geopipe-doctor-"))
    path.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield path
    finally:
        os.seteuid(user)
        path.rmdir()


def test_a_healthy_machine_has_no_problem_and_leaves_nothing_behind(tmp_path: Path) -> None:
    code, findings = doctor("--output", str(tmp_path))
    assert {name for name, finding in findings.items() if finding["state"] == "problem"} == set()
    assert code == 0
    assert all(set(f) == {"name", "state", "value", "hint", "node"} for f in findings.values())
    assert {f["state"] for f in findings.values()} <= {"ok", "note", "problem"}
    assert all(f["hint"] for f in findings.values() if f["state"] != "ok")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_problem_if_it_is_named(read_only: Path) -> None:
    for path in (read_only, read_only / "new" / "table"):
        finding = folder.check(path, is_named=True)
        assert finding.state == "problem"
        assert f"{read_only} cannot be written: Permission denied" in finding.value
        assert "run.output" in finding.hint
    assert folder.check(read_only, is_named=False).state == "note"


def test_a_full_disk_is_a_problem(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=9m tmpfs {tmp_path}"
    if subprocess.run(["unshare", "--mount", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("a small disk needs root, and the right to mount")
    before = ("unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh")
    code, findings = doctor("--output", str(tmp_path), before=before)
    assert (code, findings["output"]["state"]) == (3, "problem")
    assert "9.0 MiB are free" in findings["output"]["value"]


def test_the_folder_of_the_settings_is_checked(tmp_path: Path) -> None:
    settings = make_trial(tmp_path)
    code, findings = doctor(str(settings), "--set", "run.output=/proc/none")
    assert (code, findings["output"]["state"]) == (3, "problem")
    assert findings["postgres"]["value"] == "monitoring.enable_database_logging is off"


def test_a_database_that_does_not_answer_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"postgresql://user:canary@127.0.0.1:{closed.getsockname()[1]}/runs"
        monkeypatch.setenv("GEOPIPE_MONITORING_DSN", address)
        finding = services.database(is_enabled=True)
    assert finding.state == "problem"
    assert "cannot be reached" in finding.value
    assert "canary" not in str(finding)


def test_an_old_schema_is_a_problem_and_a_current_one_is_none(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOPIPE_MONITORING_DSN", empty_database)
    schema.upgrade(empty_database, revisions.REVISIONS[0])
    finding = services.database(is_enabled=True)
    assert (finding.state, finding.hint) == ("problem", "run `geopipe db upgrade`")
    assert f"{revisions.HEAD} is needed" in finding.value
    schema.upgrade(empty_database)
    assert services.database(is_enabled=True).state == "ok"


def test_a_busy_port_is_a_note_that_names_its_holder() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        listener.listen()
        finding = _port(port)
    assert finding.state == "note"
    assert f"process {os.getpid()}" in finding.value
    assert "monitoring.prometheus_port" in finding.hint
    assert _port(port).state == "ok", "nobody holds it any more"


LISTENER = """
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
input()
"""


def test_the_port_of_a_cluster_at_work_is_no_hint_to_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dashboard of Ray has the name of its interpreter."""
    program = tmp_path / "ray" / "dashboard" / "dashboard.py"
    program.parent.mkdir(parents=True)
    program.write_text(LISTENER)
    with subprocess.Popen(
        [sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        monkeypatch.setattr(services, "PORTS", {"port-dashboard": (port, "the dashboard of Ray")})
        (finding,) = services.ports(None)
        process.communicate("\n")
    assert (finding.state, finding.hint) == ("ok", "")
    assert f"ray-dashboard (process {process.pid}): a cluster is at work" in finding.value


def _port(port: int) -> MachineFinding:
    return next(finding for finding in services.ports(port) if finding.name == "port-metrics")


def test_a_token_that_others_can_read_or_that_is_missing_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)  # a run in this process may have set the mode
    assert services.authentication().state == "ok"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert "there is no token" in services.authentication().value
    file = tmp_path / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("canary")
    for mode, state, hint in ((0o644, "problem", f"chmod 600 {file}"), (0o600, "ok", "")):
        file.chmod(mode)
        finding = services.authentication()
        assert (finding.state, finding.hint) == (state, hint)
        assert "canary" not in str(finding)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert services.authentication().state == "note"
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.7:6379")
    assert services.authentication().state == "problem"


@pytest.mark.parametrize(
    ("name", "text", "state"),
    [
        ("RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR", "1", "problem"),
        ("PROJ_DATA", "/nowhere", "problem"),
        ("GDAL_DATA", "/nowhere", "problem"),
        ("GDAL_SKIP", "GTiff", "note"),
        ("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR", "note"),
        ("CPL_DEBUG", "ON", "note"),
    ],
)
def test_a_variable_that_does_harm_is_named(name: str, text: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [finding.name for finding in variables.findings()] == ["environment"]
    monkeypatch.setenv(name, text)
    (finding,) = variables.findings()
    assert (finding.name, finding.state) == (name, state)
    assert finding.hint


@pytest.mark.parametrize("name", ["RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA", "RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE"])
def test_a_run_on_ray_refuses_to_unpickle_what_is_stored(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-m", "geopipe", "run", str(make_trial(tmp_path)), "--engine=ray"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {name: "1"})
    assert done.returncode == MachineError.exit_code, done.stderr
    assert f"{name} is set" in done.stderr
    assert f"hint: unset {name}" in done.stderr


def test_a_version_that_geopipe_does_not_take_is_a_problem_and_one_beside_the_lock_a_note(tmp_path: Path) -> None:
    distribution(tmp_path, "ray", "2.59.0")
    distribution(tmp_path, "pandas", "2.99.0")
    code, findings = doctor(PYTHONPATH=str(tmp_path))
    assert (code, findings["ray"]["state"]) == (3, "problem")
    assert findings["ray"]["value"] == "2.59.0, and geopipe needs ray ==2.60.*"
    assert findings["pandas"]["state"] == "note"
    assert "requirements.lock has 3." in findings["pandas"]["value"]
    assert findings["numpy"]["state"] == "ok"


def test_kernels_that_are_not_compiled_at_all_are_a_problem() -> None:
    code, findings = doctor(NUMBA_DISABLE_JIT="1")
    assert (code, findings["kernels"]["state"]) == (3, "problem")
    assert findings["kernels"]["hint"] == "unset NUMBA_DISABLE_JIT"


def test_too_few_open_files_are_a_problem() -> None:
    code, findings = doctor(before=("sh", "-c", 'ulimit -n 512 && exec "$@"', "sh"))
    assert (code, findings["open-files"]["state"]) == (3, "problem")
    assert "512 files" in findings["open-files"]["value"]


def test_everything_that_a_node_finds_is_checked_here_too() -> None:
    names = [finding.name for finding in diagnose(Scope(Path.cwd()))]
    assert len(names) == len(set(names)), "a name is one finding"


LOOKS = """
import sys
from pathlib import Path
from geopipe.doctor.diagnose import Scope, look
print(*(f"{f.state}: {f.value}; {f.hint}" for f in look(Scope(Path(sys.argv[1]), True), sys.argv[2]).findings
        if f.name == "output"))
"""


def test_a_node_that_does_not_see_the_locks_of_others_is_a_problem(tmp_path: Path) -> None:
    (share := tmp_path / "share").mkdir()
    with folder.locked(share / "marker") as marker:
        here = subprocess.run([sys.executable, "-c", LOOKS, share, marker], capture_output=True, text=True, check=True)
        assert here.stdout.startswith(f"ok: {share} can be written and locked")
        there = mounts.run(share, LOOKS, share, marker)
        assert there.startswith(f"problem: {share}: this node does not see the locks of other machines; mount it")
    assert list(share.iterdir()) == []
    assert folder.check_shared(share, Path(marker)).value == f"{share} is another folder on this node, or none"


CLUSTER = """
import os, subprocess, sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
cluster.add_node(num_cpus=1)
cluster.add_node(num_cpus=64, env_vars={"PYTHONPATH": sys.argv[1], "NUMBA_DISABLE_JIT": "1"})
command = [sys.executable, "-m", "geopipe", "doctor", "--json", "--address", cluster.address, *sys.argv[2:]]
code = subprocess.run(command).returncode
cluster.shutdown()
sys.exit(code)
"""


@pytest.mark.ray
def test_every_node_is_asked_and_versions_that_differ_name_it(tmp_path: Path) -> None:
    """Two nodes and a head; one node has another pandas, more CPUs than its machine, and a variable that does harm."""
    distribution(tmp_path / "other", "pandas", "2.99.0")
    command = [sys.executable, "-c", CLUSTER, str(tmp_path / "other"), "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    findings = json.loads(done.stdout[done.stdout.index("[") :])
    problems = {(f["name"], bool(f["node"])): f for f in findings if f["state"] == "problem"}
    assert set(problems) == {("pandas", False), ("kernels", True)}
    differing = problems["pandas", False]["value"]
    assert "on this machine; 2.99.0 on node " in differing
    assert differing.count(" node ") == 1
    nodes = [finding for finding in findings if finding["name"] == "ray-node"]
    assert [finding["state"] for finding in nodes].count("note") == 1, "64 CPUs are too many"
    assert sum(finding["name"] == "output" and bool(finding["node"]) for finding in findings) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
