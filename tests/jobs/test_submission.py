"""Runs that go to a cluster by its http address, or by `ray job submit`, on a real head that a token protects."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path

import canary
import postgres_server as postgres
import pytest
import ray_head
from helpers import call
from surroundings import REPOSITORY, TESTS
from trials import extend, hashes, make_trial, run
from waiting import PATIENCE, piped, until

from geopipe.cli.run import json_printer
from geopipe.engine import address as addresses
from geopipe.errors import SettingsError
from geopipe.jobs import checks
from geopipe.settings import load

pytestmark = pytest.mark.ray

TOKEN = f"c4n4ryT0k3n{secrets.token_hex(16)}"


@dataclass(frozen=True)
class Cluster:
    """A head that requires a token and knows a database, and the environment of a client that knows none."""

    head: ray_head.Head
    client: dict[str, str]
    dsn: str
    gate: Path

    def geopipe(self, *args: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "geopipe", *map(str, args)]
        environment = self.client | environment
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)

    def ray(self, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
        """A command of Ray, in a folder."""
        command = [str(ray_head.PROGRAMS / "ray"), "job", "submit", "--address", self.head.dashboard, *args]
        environment = self.client | {"RAY_AUTH_MODE": "token"}
        return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)

    def jobs(self) -> dict[str, dict[str, str]]:
        """The jobs that the head knows, by their names."""
        status, text = self.head.ask("/api/jobs/", TOKEN)
        assert status == 200
        return {job["submission_id"]: job for job in json.loads(text)}


@pytest.fixture(scope="module")
def cluster(monitor_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "dsn").write_text(monitor_dsn)
    (gate := folder / "gate").mkdir()
    (home := folder / "home").mkdir()
    common = {k: v for k, v in os.environ.items() if k != "GEOPIPE_MONITORING__ENABLE_DATABASE_LOGGING"}
    common |= {"PATH": f"{ray_head.PROGRAMS}:{os.environ['PATH']}", "RAY_AUTH_TOKEN": TOKEN}
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
        "GEOPIPE_MONITORING_DSN_FILE": str(folder / "dsn"),
    }
    path = os.pathsep.join([str(TESTS / "cluster/gate"), str(REPOSITORY)])
    own |= {"GEOPIPE_TEST_GATE": str(gate), "PYTHONPATH": path}
    with ray_head.head(common | own) as head:
        until(lambda: head.ask("/api/version", TOKEN)[0] == 200)
        yield Cluster(head, common | {"HOME": str(home), "GEOPIPE_HOME": str(home)}, monitor_dsn, gate)


@contextmanager
def held(cluster: Cluster, file: Path, *names: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Runs with these names, and output folders of these names beside their settings, which cannot end inside.

    They have been submitted and have planned; that named "stopped" is to stop at an interrupt.
    """
    gate, pipes = cluster.gate / "shut", {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    gate.touch()
    with ExitStack() as stack:
        stack.callback(gate.unlink)
        processes = []
        for name in names:
            command = [sys.executable, "-m", "geopipe", "run", str(file), "--address", cluster.head.dashboard]
            for flag in ("engine.workers=1", f"run.name={name}", f"run.output={file.parent / name}"):
                command += ["--set", flag]
            command += ["--on-interrupt", "stop"] if name == "stopped" else []
            process = stack.enter_context(subprocess.Popen(command, env=cluster.client, text=True, **pipes))
            processes.append(process)
        until(lambda: len(list(file.parent.glob("*/_staging/*/plan.json"))) == len(names) or has_ended(processes))
        assert not has_ended(processes), [process.communicate() for process in processes]
        yield processes


def has_ended(processes: list[subprocess.Popen[str]]) -> bool:
    return any(process.poll() is not None for process in processes)


@pytest.mark.newest_ray
def test_a_client_that_is_interrupted_leaves_its_run_or_stops_it(cluster: Cluster, tmp_path: Path) -> None:
    """It can come back to a run that it has left."""
    file = make_trial(tmp_path)
    with held(cluster, file, "left", "stopped") as processes:
        for process in processes:
            process.send_signal(signal.SIGINT)
        outcomes = [process.communicate(timeout=PATIENCE) for process in processes]
        jobs = {job["metadata"]["name"]: (name, job) for name, job in cluster.jobs().items()}
        assert [process.returncode for process in processes] == [130, 130]

        (out, err), (name, job) = outcomes[0], jobs["left"]
        assert job["status"] == "RUNNING"
        assert json.loads(job["metadata"][checks.VERSIONS]) == checks.versions()
        announced, *_, note = err.splitlines()
        assert f"{name} to {cluster.head.dashboard}; see {cluster.head.dashboard}/#/jobs/{name}" in announced
        assert note.startswith(
            "interrupted; the job goes on; follow it: RAY_AUTH_MODE=token ray job logs --follow --address"
        )

        (shown, err), (name, job) = outcomes[1], jobs["stopped"]
        assert job["status"] == "STOPPED"
        assert err.splitlines()[-1] == f"interrupted; job {name} has stopped; --resume continues its run"
        assert "terminated; nothing was published" in shown, "what the run says at its end is shown, too"

    done = cluster.geopipe("jobs", "logs", "-f", "left", **known(cluster))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(out), "what was printed before the interrupt, and the rest"
    assert "left is done" in done.stdout
    run(file, f"run.output={tmp_path}/here", "monitoring.enable_database_logging=false")
    assert hashes(tmp_path / "left") == hashes(tmp_path / "here")


def known(cluster: Cluster) -> dict[str, str]:
    """The environment that names the cluster and its database."""
    return {"GEOPIPE_MONITORING_DSN": cluster.dsn, "RAY_ADDRESS": cluster.head.dashboard}


def test_a_run_by_hand_leaves_no_secret_in_a_log_an_answer_a_metric_or_an_output(
    cluster: Cluster, www: tuple[Path, int], tmp_path: Path
) -> None:
    canary.fill(www[0])
    (private := tmp_path / "private").mkdir()
    file = canary.secret_settings(private, www[1])
    refused = cluster.geopipe("run", file, "--engine", "ray", "--address", cluster.head.dashboard)
    assert refused.returncode == 2
    assert "there is a secret in grid.like" in refused.stderr
    set_output = ("--set", f"run.output={tmp_path}/output", "--set", "run.name=canary")
    done = cluster.ray(tmp_path, "--", "geopipe", "run", str(file), *set_output)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "canary is done" in done.stdout
    assert (tmp_path / "output/_SUCCESS").exists()
    listed, *_ = cluster.head.folder.rglob("prom_metrics_service_discovery.json")
    targets = [target for group in json.loads(listed.read_text()) for target in group["targets"]]
    urls = ["/api/jobs/", "/nodes?view=summary", *(f"http://{target}/metrics" for target in targets)]
    answers = [until(partial(answer_of, cluster.head, url)) for url in urls]
    texts = [refused.stdout + refused.stderr, done.stdout + done.stderr, *(text for _, text in answers)]
    assert "geopipe run" in texts[2], "the run is among the jobs"
    for secret in (canary.CANARY, TOKEN, postgres.PASSWORD):
        assert [text for text in texts if secret in text] == []
        for folder in (cluster.head.folder, tmp_path / "output"):
            assert canary.files_with(secret, folder) == []


def answer_of(head: ray_head.Head, url: str) -> tuple[int, str] | None:
    """The answer to a URL; None if it is not there yet, as an agent of Ray that has just been listed."""
    answer = head.ask(url, TOKEN)
    return answer if answer[0] == 200 else None


def test_a_run_by_hand_takes_its_settings_from_the_working_folder(cluster: Cluster, tmp_path: Path) -> None:
    file = make_trial(tmp_path)
    command = ("--working-dir", ".", "--", "geopipe", "run", file.name, "--engine", "local")
    done = cluster.ray(tmp_path, *command, "--set", f"run.output={tmp_path}/output")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "output/_SUCCESS").exists()


def test_an_output_that_ray_would_delete_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy := tmp_path / "runtime_resources/working_dir_files/_ray_pkg_0123").mkdir(parents=True)
    code, out, err = call(capsys, "run", make_trial(copy), "--engine", "local")
    assert (code, out) == (2, "")
    assert "out is in the job's copy of its working folder, which Ray deletes" in err


ELSEWHERE = """
import sys
from pathlib import Path
from geopipe.errors import GeopipeError
from geopipe.jobs import head, submission
from geopipe.settings import load
address, file, path = sys.argv[1:]
submission.RayJob.is_here = False
job = submission.RayJob(head.cluster(address), f"elsewhere-{hash(path)}")
job.submit(load.load(Path(file)), [], {"PATH": path})
for text in job.follow():
    print(text, end="")
try:
    sys.exit(job.exit_code())
except GeopipeError as error:
    print("error:", error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize(("has_geopipe", "code"), [(True, 0), (False, 3)])
def test_a_cluster_on_another_machine_starts_its_own_geopipe_or_the_client_says_that_it_has_none(
    cluster: Cluster, tmp_path: Path, has_geopipe: bool, code: int
) -> None:
    path = os.pathsep.join([str(ray_head.PROGRAMS)] * has_geopipe + ["/usr/bin", "/bin"])
    command = [sys.executable, "-c", ELSEWHERE, cluster.head.dashboard, str(make_trial(tmp_path)), path]
    done = subprocess.run(command, env=cluster.client, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    refusal = f"no geopipe in the environment of the cluster at {cluster.head.dashboard}\n  hint: install"
    assert (refusal in done.stderr) is not has_geopipe
    assert (tmp_path / "out/_SUCCESS").exists() is has_geopipe


def test_kuberay_is_told_of_success_or_a_stop_where_a_new_cluster_would_not_help(
    cluster: Cluster, tmp_path: Path
) -> None:
    """KubeRay starts a job with the state FAILED again, whatever its exit code."""
    skipping, refused = make_trial(tmp_path), tmp_path / "refused.toml"
    refused.write_text(skipping.read_text() + 'on_error = "stop"\n')
    extend(skipping, 'on_error = "skip"\n')
    (tmp_path / "b.tif").unlink()
    outcomes = [cluster.ray(tmp_path, "--", "geopipe", "k8s", "entrypoint", str(file)) for file in (skipping, refused)]
    jobs = {Path(job["entrypoint"].split()[-1]).name: job for job in cluster.jobs().values()}
    assert [jobs[file.name]["status"] for file in (skipping, refused)] == ["SUCCEEDED", "STOPPED"]
    assert "layer b, null in every row" in outcomes[0].stdout
    assert "layers were left out (exit code 4); the job exits with 0" in outcomes[0].stdout
    assert "error: " in outcomes[1].stdout
    assert "the job is stopped, not failed: KubeRay does not start it again" in outcomes[1].stdout


FOLLOW = """
import sys
from geopipe.errors import GeopipeError
from geopipe.jobs import head, submission
address, seconds, *entrypoints = sys.argv[1:]
submission.LOST_SECONDS = float(seconds)
jobs = [submission.RayJob(head.cluster(address), f"follow-{hash(text)}") for text in entrypoints]
for job, text in zip(jobs, entrypoints):
    job._take(entrypoint=text, submission_id=job.name)
for job in jobs:
    try:
        for text in job.follow():
            print(text, end="", flush=True)
        print(job.exit_code(), flush=True)
    except GeopipeError as error:
        print(error.exit_code, error, flush=True)
"""


@pytest.mark.newest_ray
def test_the_exit_code_is_that_of_the_process(cluster: Cluster) -> None:
    """Of a process that a signal has killed, too, and of a job that was stopped."""
    command = [sys.executable, "-c", FOLLOW, cluster.head.dashboard, "60"]
    command += ["kill -9 $$", "echo ready; exec sleep 600"]
    with subprocess.Popen(command, env=cluster.client, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        before = list(takewhile(lambda line: line != "ready\n", lines))
        assert [line.strip() for line in before if line.strip().isdigit()] == ["137"]
        (name,) = (name for name, job in cluster.jobs().items() if "echo ready" in job["entrypoint"])
        assert cluster.head.ask(f"/api/jobs/{name}/stop", TOKEN, "POST")[0] == 200
        assert list(lines)[-1] == "143\n"


class Cable:
    """Connects a port with that of a server, until it is cut."""

    def __init__(self, port: int) -> None:
        self.target, self.ends = port, list[socket.socket]()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near = self.listener.accept()[0]
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.target))
            self.ends += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def cut(self) -> None:
        """End the connections that exist."""
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # `close` alone would not wake the thread that reads
            end.close()
        self.ends.clear()

    def remove(self) -> None:
        """End the connections, and take no others."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()


def test_a_lost_connection_is_made_anew_and_at_last_the_job_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    cable = Cable(int(cluster.head.dashboard.rpartition(":")[2]))
    entrypoint = f"echo one; until test -e {tmp_path}/two; do sleep 0.1; done; echo two; exec sleep 600"
    command = [sys.executable, "-c", FOLLOW, cable.url, "5", entrypoint]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.client.items():
            patch.setenv(name, value)
        with piped(command) as process:
            lines: list[str] = []

            def reads(text: str) -> bool:
                lines.append(process.line())
                return lines[-1] == text

            until(lambda: reads("one"))
            cable.cut()
            (tmp_path / "two").touch()
            until(lambda: reads("two"))
            assert lines.count("one") == 1, "what was shown is not shown again"
            cable.remove()
            message, hint = process.line(), process.line()
    assert "has not answered for 5 s" in message
    (name,) = (name for name, job in cluster.jobs().items() if job["status"] == "RUNNING")
    assert f"job {name} goes on if its cluster does; follow it: RAY_AUTH_MODE=token ray job logs" in hint


# ---------------------------------------------------------------- tokens


@pytest.mark.newest_ray
@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RAY_AUTH_TOKEN": ""}, "there is no token for the cluster at"),
        ({"RAY_AUTH_TOKEN": "", "RAY_AUTH_MODE": "disabled"}, "requires a token, and none was sent"),
        ({"RAY_AUTH_TOKEN": "f" * 48}, "accepts another token than ours"),
    ],
)
def test_without_the_token_of_the_cluster_nothing_is_submitted(
    cluster: Cluster, tmp_path: Path, variables: dict[str, str], message: str
) -> None:
    done = cluster.geopipe("run", make_trial(tmp_path), "--address", cluster.head.dashboard, **variables)
    assert (done.returncode, done.stdout, done.stderr.count("error:")) == (3, "", 1)
    assert message in done.stderr
    assert "set RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH" in done.stderr
    assert "f" * 48 not in done.stderr


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RAY_AUTH_TOKEN": "f" * 48}, "accepts another token than ours"),
        ({"RAY_AUTH_MODE": "disabled"}, "none was sent: RAY_AUTH_MODE is disabled"),
        ({"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "/none", "RAY_AUTH_MODE": "token"}, "and /none has none"),
    ],
)
def test_without_the_token_of_the_cluster_no_process_joins_it(
    cluster: Cluster, tmp_path: Path, variables: dict[str, str], message: str
) -> None:
    """Ray itself would try for half a minute, and not say why it failed."""
    done = cluster.geopipe("run", make_trial(tmp_path), "--address", cluster.head.gcs, **variables)
    assert (done.returncode, done.stdout, done.stderr.count("error:")) == (3, "", 1)
    assert message in done.stderr
    assert "InvalidAuthToken" not in done.stderr, "Ray was not asked"


def test_addresses_that_are_mixed_up_are_told_apart(cluster: Cluster, tmp_path: Path) -> None:
    """The dashboard as host:port, and the GCS as http://host:port."""
    trial = make_trial(tmp_path)
    dashboard = cluster.head.dashboard.removeprefix("http://")
    done = cluster.geopipe("run", trial, "--address", dashboard)
    assert (done.returncode, done.stdout) == (3, "")
    assert f"submit a job to it (http://{dashboard})" in done.stderr
    done = cluster.geopipe("run", trial, "--address", f"http://{cluster.head.gcs}")
    assert (done.returncode, done.stdout) == (3, "")
    assert f"error: no Ray cluster takes jobs at http://{cluster.head.gcs}" in done.stderr
    assert "Traceback" not in done.stderr


JOIN = """
import os, sys
from geopipe.engine import cluster
cluster.connect(sys.argv[1], 0)
import ray
print(os.environ["RAY_AUTH_MODE"], ray.get(ray.remote(lambda: 7).remote()))
"""


@pytest.mark.newest_ray
def test_a_cluster_is_asked_whether_it_requires_a_token(cluster: Cluster) -> None:
    """A user with a token can join a head without authentication, too."""
    assert addresses.requires_token(cluster.head.dashboard) is True
    assert addresses.requires_token(cluster.head.gcs) is True
    with ray_head.head(os.environ | {"RAY_AUTH_MODE": "disabled"}) as unprotected:
        until(lambda: unprotected.ask("/api/version")[0] == 200)
        assert addresses.requires_token(unprotected.dashboard) is False
        command = [sys.executable, "-c", JOIN, unprotected.gcs]
        done = subprocess.run(command, env=cluster.client, capture_output=True, text=True, check=False)
        assert done.stdout.split() == ["disabled", "7"], done.stderr
    assert addresses.requires_token(unprotected.gcs) is None, "it is gone"


# ---------------------------------------------------------------- versions


def test_another_ray_or_gdal_or_python_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = checks.versions()
    with pytest.raises(checks.MachineError, match=r"Ray 2\.60\.0 at the client and 2\.61\.1 in") as caught:
        checks.refuse_mismatch({"Ray": ("2.60.0", "2.61.1"), "GDAL": ("3.12.1", "3.12.1")})
    assert caught.value.exit_code == 3
    theirs = ours | {"GDAL": "1.2.3", "Python": "3.99"}
    job = {"metadata": {checks.VERSIONS: json.dumps(theirs)}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    with pytest.raises(checks.MachineError) as caught:
        checks.check_versions()
    for name in ("GDAL", "Python"):
        assert f"{name} {theirs[name]} at the client and {ours[name]} in the cluster" in caught.value.message
    assert "geopipe" not in caught.value.message


@pytest.mark.parametrize(
    ("flag", "key"),
    [
        ("layers.a.path=https://host/a.tif?sig=c4n4ry", "layers.a.path"),
        ("grid.like=s3://AKIA:c4n4ry@bucket/x", "grid.like"),
        ("grid.mask=https://u:***@host/a.tif", "grid.mask"),
    ],
)
def test_settings_with_a_secret_are_not_submitted(tmp_path: Path, flag: str, key: str) -> None:
    """Nor those of a run whose secret the database has hidden."""
    with pytest.raises(SettingsError, match=f"there is a secret in {key};") as caught:
        checks.refuse_secrets(load.load(make_trial(tmp_path), (flag,)))
    assert "c4n4ry" not in str(caught.value)
    checks.refuse_secrets(load.load(make_trial(tmp_path)))


def test_a_process_cannot_join_a_cluster_by_http(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from geopipe.engine import cluster

    with pytest.raises(checks.MachineError, match="takes jobs, and no process can join"):
        cluster.connect("http://127.0.0.1:8265", 0)
    local = ("--engine", "local", "--address", "http://127.0.0.1:1")
    assert call(capsys, "run", make_trial(tmp_path), *local)[0] == 0, "this process needs no cluster"


def test_only_the_summary_of_a_job_is_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.dumps({"rows": 7, "files": {}}, indent=2) + "\n"
    text = "Running entrypoint {\nwarning: {}\n" + document
    show = json_printer()
    for start in range(0, len(text), 5):
        show(text[start : start + 5])
    out, err = capsys.readouterr()
    assert (out, err) == (document, text.removesuffix(document))
