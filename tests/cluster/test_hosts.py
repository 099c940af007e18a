"""A Ray cluster of a head and two nodes, each on a host of its own: the bytes are those of the local run."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import hosts
import postgres_server as postgres
import psutil
import pytest
import zion
from records import query
from trials import hashes, make_trial
from waiting import PATIENCE, until

from geopipe import demo
from geopipe.monitoring.database import schema
from geopipe.monitoring.presence import PRESENT, is_alive

pytestmark = [pytest.mark.ray, pytest.mark.postgres]

PROGRAMS = Path(sys.executable).parent
STRATEGIES = ("aligned", "groupby")


@dataclass
class Cluster:
    """A head that computes nothing and knows the database, and two nodes with a CPU each, which do not.

    Attributes:
        shared: a folder that all hosts see; each has a home and a folder for Ray of its own.
    """

    network: hosts.Network
    shared: Path
    ray: Path
    environment: dict[str, str]
    dsn: str

    @property
    def address(self) -> str:
        return f"http://{self.network.hosts[0].address}:8265"

    @property
    def elsewhere(self) -> Path:
        """A folder of the head, which is another one on each node."""
        return self.shared / "elsewhere"

    @property
    def gate(self) -> Path:
        return self.shared / "gate"

    def start_head(self) -> None:
        host = self.network.add()
        own = ["--head", "--port=6379", f"--dashboard-host={host.address}", "--num-cpus=0", f"--temp-dir={self.ray}"]
        soon = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}  # a loss is seen
        self._start(host, own, {"GEOPIPE_MONITORING_DSN": self.dsn} | soon)

    def start_node(self) -> hosts.Host:
        host = self.network.add()
        self._start(host, [f"--address={self.network.hosts[0].address}:6379", "--num-cpus=1"], {}, self.elsewhere)
        return host

    def _start(self, host: hosts.Host, flags: list[str], more: dict[str, str], *apart: Path) -> None:
        command = [str(PROGRAMS / "ray"), "start", "--block", f"--node-ip-address={host.address}", *flags]
        command += ["--object-store-memory=150000000", "--disable-usage-stats"]
        gate = {"GEOPIPE_TEST_GATE": str(self.gate), "PYTHONPATH": str(Path(__file__).parent / "gate")}
        host.start(command, self.environment | gate | more, apart=[self.ray, *apart])

    def nodes(self) -> int:
        """How many nodes live, as the head says."""
        answer = self.ask(self.address + "/nodes?view=summary", self.environment["RAY_AUTH_TOKEN"])
        summary = json.loads(answer[1])["data"]["summary"] if answer[0] == 200 else []
        return sum(node.get("raylet", {}).get("state") == "ALIVE" for node in summary)

    def ask(self, url: str, token: str | None) -> tuple[int, str]:
        """Status and text of an answer; 0 if there is none."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""

    def command(self, file: Path, *flags: str) -> list[str]:
        return [str(PROGRAMS / "geopipe"), "run", str(file), "--address", self.address, *flags]

    def run(self, file: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Submit a run from this machine, and wait for its end."""
        command, environment = self.command(file, *flags), self.environment | environment
        return subprocess.run(command, env=environment, cwd=self.shared, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The cluster, ready for jobs. Not under pytest's folders: Ray's sockets and Postgres allow no such names."""
    with ExitStack() as stack:
        shared, ray, database = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"gp-{name}-")))
            for name in ("shared", "ray", "database")
        )
        network = stack.enter_context(hosts.network(shared / "hosts"))
        server = stack.enter_context(postgres.server(database, sockets=True))
        for name in ("gate", "elsewhere", "home"):
            (shared / name).mkdir()
        home = str(shared / "home")
        environment = {"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "HOME": home, "RAY_AUTH_MODE": "token"}
        environment["RAY_AUTH_TOKEN"] = secrets.token_hex(24)
        schema.upgrade(server.socket_dsn)
        cluster = Cluster(network, shared, ray, environment, server.socket_dsn)
        cluster.start_head()
        until(lambda: cluster.ask(cluster.address + "/api/version", cluster.environment["RAY_AUTH_TOKEN"])[0] == 200)
        for _ in range(2):
            cluster.start_node()
        until(lambda: cluster.nodes() == 3)
        yield cluster


def files_of(output: Path) -> dict[str, bytes]:
    """The files of a table."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for kind in ("parquet", "csv")
        for path in sorted((output / kind).rglob("*"))
        if path.is_file()
    }


def folder_of(cluster: Cluster, name: str) -> Path:
    """A new folder that all hosts see."""
    (folder := cluster.shared / name).mkdir()
    return folder


def local(file: Path, output: Path) -> dict[str, bytes]:
    """The files that this machine makes of settings."""
    command = [str(PROGRAMS / "geopipe"), "run", str(file), "--engine", "local", "--set", f"run.output={output}"]
    subprocess.run(command, check=True, capture_output=True)
    return files_of(output)


@pytest.mark.parametrize(("token", "status"), [("", 401), ("f" * 48, 403), (None, 200)])
def test_who_has_no_token_gets_no_answer(cluster: Cluster, token: str | None, status: int) -> None:
    assert (
        cluster.ask(cluster.address + "/api/jobs/", cluster.environment["RAY_AUTH_TOKEN"] if token is None else token)[
            0
        ]
        == status
    )


def test_a_wrong_token_is_one_error(cluster: Cluster, tmp_path: Path) -> None:
    done = cluster.run(make_trial(tmp_path), RAY_AUTH_TOKEN="f" * 48)
    assert done.returncode == 3, done.stderr
    assert "RAY_AUTH_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def demo_files(cluster: Cluster) -> tuple[Path, dict[str, bytes]]:
    """The settings of the demo on the shared disk, and the files that this machine makes of them."""
    file = demo.generate(cluster.shared / "demo")
    return file, local(file, cluster.shared / "demo-here")


def submitted(cluster: Cluster, file: Path, name: str, *flags: str) -> dict[str, bytes]:
    """The files of a run that is submitted to the cluster."""
    output = cluster.shared / f"{name}-there"
    done = cluster.run(file, "--set", f"run.output={output}", "--set", f"run.name={name}", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    return files_of(output)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_demo_has_the_bytes_of_the_local_run(
    cluster: Cluster, demo_files: tuple[Path, dict[str, bytes]], strategy: str
) -> None:
    file, expected = demo_files
    assert expected
    assert submitted(cluster, file, f"demo-{strategy}", "--set", f"merge.strategy={strategy}") == expected


@pytest.mark.outside
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_zion_has_the_bytes_of_the_local_run(cluster: Cluster, shared_data: Path, strategy: str) -> None:
    file = zion.write_settings(folder_of(cluster, f"zion-{strategy}"), shared_data)
    files = submitted(cluster, file, f"zion-{strategy}", "--set", f"merge.strategy={strategy}")
    assert files == local(file, file.parent / "here")


@pytest.mark.parametrize("output", ["there", "elsewhere"])
def test_what_a_node_lacks_is_refused_before_the_first_tile(cluster: Cluster, output: str) -> None:
    lacks = "source" if output == "there" else "folder"
    folder = cluster.elsewhere if lacks == "source" else folder_of(cluster, "on-all-nodes")
    target = cluster.shared / "refused" if lacks == "source" else cluster.elsewhere / "refused"
    done = cluster.run(make_trial(folder), "--set", f"run.output={target}")
    assert done.returncode != 0
    text = done.stdout + done.stderr
    assert str(folder / "a.tif" if lacks == "source" else target) in text
    assert any(host.address in text for host in cluster.network.hosts[1:]), "it names the node"
    assert not list(target.rglob("*.parquet"))


@contextmanager
def shut(gate: Path) -> Iterator[Callable[[], Iterable[str]]]:
    """Let every worker wait after its next tile inside; yields what tells the hosts that wait."""
    for path in gate.iterdir():
        path.unlink()
    (gate / "shut").touch()
    try:
        yield lambda: {path.name for path in gate.iterdir()} - {"shut"}
    finally:
        (gate / "shut").unlink()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_node_that_dies_and_one_that_joins_change_no_byte(cluster: Cluster, strategy: str) -> None:
    file, output = make_trial(folder_of(cluster, f"loss-{strategy}")), cluster.shared / f"loss-{strategy}-there"
    flags = ["--set", f"merge.strategy={strategy}", "--set", f"run.output={output}"]
    expected = local(file, file.parent / "here")
    with subprocess.Popen(cluster.command(file, *flags), env=cluster.environment, stderr=subprocess.PIPE) as process:
        with shut(cluster.gate) as waiting:
            until(lambda: waiting() or process.poll() is not None)
            name = min(waiting())
            (victim,) = (host for host in cluster.network.hosts if host.name == name)
            victim.kill()
            cluster.start_node()
            until(lambda: cluster.nodes() == 3)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err.decode()
    assert files_of(output) == expected
    assert len(hashes(output)) == 12


def by_hand(cluster: Cluster, file: Path, name: str) -> list[str]:
    """The command that submits a run with Ray's own program."""
    submit = [str(PROGRAMS / "ray"), "job", "submit", "--address", cluster.address, "--"]
    flags = ["--set", f"run.output={cluster.shared / name}-there", "--set", f"run.name={name}"]
    return [*submit, str(PROGRAMS / "geopipe"), "run", str(file), *flags]


def spools(cluster: Cluster) -> dict[str, list[Path]]:
    """The files in the spools of the hosts that are at work."""
    at_work = [host for host in cluster.network.hosts if host.process is not None]
    return {host.name: sorted(host.home.glob(".local/share/geopipe/spool/*/*")) for host in at_work}


def test_the_records_of_all_nodes_arrive_once_and_none_stay_behind(cluster: Cluster) -> None:
    file = make_trial(folder_of(cluster, "records"))
    with shut(cluster.gate):
        process = subprocess.Popen(by_hand(cluster, file, "records"), env=cluster.environment)
        until(lambda: all(spools(cluster).values()) or process.poll() is not None)
        assert all(spools(cluster).values()), "each host has a spool"
    assert process.wait() == 0
    ((run, state),) = query(cluster.dsn, "SELECT run_id::text, state FROM pipeline_runs WHERE name = 'records'")
    assert state == "completed"
    tiles = query(cluster.dsn, "SELECT sum(tiles) FROM pipeline_progress WHERE run_id = %s AND stage = 'write'", run)
    assert tiles == [(12,)], "each tile counts once"
    assert not any(spools(cluster).values())


def test_what_a_killed_run_left_on_nodes_without_a_database_arrives_with_the_next_run(cluster: Cluster) -> None:
    """No process of the first run sends what it records, and all of them die. The second run has other settings."""
    file = make_trial(folder_of(cluster, "killed"))
    with shut(cluster.gate) as waiting:
        (cluster.gate / "mute").touch()
        client = subprocess.Popen(by_hand(cluster, file, "killed"), env=cluster.environment)
        until(lambda: len(set(waiting()) - {"mute"}) == 2 or client.poll() is not None)
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if "run.name=killed" in " ".join(process.cmdline()) and process.pid != client.pid:
                    process.kill()
        assert client.wait() != 0
        marks = [mark for paths in spools(cluster).values() for mark in paths if mark.suffix == PRESENT]
        until(lambda: not any(is_alive(mark.parent, mark.stem) for mark in marks))
    (cluster.gate / "mute").unlink()
    files = {host: [path for path in paths if path.suffix == ".jsonl"] for host, paths in spools(cluster).items()}
    assert all(files.values()), "the dead have left records on each host"
    left = [json.loads(line) for paths in files.values() for path in paths for line in path.open()]
    (run,) = {record["run_id"] for record in left}
    assert query(cluster.dsn, "SELECT FROM pipeline_runs WHERE run_id = %s", run) == []

    submitted(cluster, make_trial(folder_of(cluster, "next")), "next")
    assert not any(spools(cluster).values())
    kinds = {"log": "pipeline_logs", "event": "pipeline_events", "metric": "pipeline_metrics"}
    for kind, table in kinds.items():
        rows = query(cluster.dsn, f"SELECT source, seq FROM {table} WHERE run_id = %s ORDER BY 1, 2", run)
        assert rows == sorted((r["source"], r["seq"]) for r in left if r["kind"] == kind), kind
    done = sum(record["tiles"] for record in left if record["kind"] == "progress")
    assert query(cluster.dsn, "SELECT sum(tiles) FROM pipeline_progress WHERE run_id = %s", run) == [(done,)]
    assert done > 0
    of_next = "SELECT sum(tiles) FROM pipeline_progress JOIN pipeline_runs USING (run_id) WHERE name = 'next'"
    assert query(cluster.dsn, f"{of_next} AND stage = 'write'") == [(12,)], "its own alone"


def test_no_secret_is_in_a_log_an_answer_a_metric_or_an_output(
    cluster: Cluster, demo_files: tuple[Path, dict[str, bytes]]
) -> None:
    token = cluster.environment["RAY_AUTH_TOKEN"]
    submitted(cluster, demo_files[0], "canary")
    (listed,) = cluster.network.hosts[0].folder.rglob("prom_metrics_service_discovery.json")
    metrics = [f"http://{target}/metrics" for group in json.loads(listed.read_text()) for target in group["targets"]]
    urls = [cluster.address + "/api/jobs/", cluster.address + "/nodes?view=summary", *metrics]
    answers = [cluster.ask(url, token) for url in urls]
    assert [status for status, _ in answers] == [200] * len(answers)
    assert len(metrics) >= 3
    assert "canary" in answers[0][1], "the run is among the jobs"
    kept = [text.encode() for _, text in answers]
    kept += [path.read_bytes() for path in cluster.shared.rglob("*") if path.is_file()]  # Ray's logs, too: see Host
    assert len(kept) > 100
    for secret in (postgres.PASSWORD, token):
        assert not [text[:200] for text in kept if secret.encode() in text]
