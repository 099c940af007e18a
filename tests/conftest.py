"""One Ray session, one Postgres, one Prometheus and one object store for all tests."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import surroundings

FOLDER = surroundings.folder()
surroundings.isolate(FOLDER)

import object_store as s3  # noqa: E402
import postgres_server as postgres  # noqa: E402
import prometheus_server as prometheus  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# The same examples in each run, however long each takes; `--hypothesis-profile=default` looks for others.
settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

NEEDS = {
    "outside": {"outside"},
    "ray": {"ray_session", "head_address"},
    "postgres": {"postgres_server"},
    "slow": {"object_store", "prometheus_programs"},
}
"""Markers, and the fixtures that bring them."""


def pytest_unconfigure() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test by what its fixtures start or need. What starts Ray in another process is marked by hand."""
    for item in items:
        for marker, fixtures in NEEDS.items():
            if fixtures.intersection(getattr(item, "fixturenames", ())):
                item.add_marker(marker)
        if config.pluginmanager.hasplugin("xdist"):
            item.add_marker(pytest.mark.xdist_group(group(item)))
    if hasattr(config, "workerinput"):
        longest_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: list[str]) -> None:
    """Refuse to run without groups: module set-ups and Ray sessions would be made in each process."""
    if node.config.getoption("dist") == "loadgroup" and not all("@" in name for name in ids):
        raise pytest.UsageError("pytest-xdist cannot group tests with this pytest: install what requirements.lock has")


def group(item: pytest.Item) -> str:
    """Tests of one group run in one process, one after the other: they share a module's set-up, or the Ray session."""
    if "ray_session" in getattr(item, "fixturenames", ()):
        return "ray session"
    if "jobs" in item.path.parts:  # they change how Ray finds its token
        return "jobs"
    if "chaos" in item.path.parts:  # its trials take too long for one process
        return item.nodeid.partition("[")[0]
    return item.nodeid.partition("::")[0]


def longest_first(items: list[pytest.Item]) -> None:
    """Begin with groups that start Ray, and then those with slow tests, so that all processes end together.

    The first two groups go to two processes: in that of the Ray session no test may change how Ray finds its token.
    """

    def rank(item: pytest.Item) -> int:
        features = (
            "jobs" in item.path.parts,
            group(item) == "ray session",
            *(item.get_closest_marker(name) for name in ("ray", "slow", "postgres")),
            True,
        )
        return next(n for n, feature in enumerate(features) if feature)

    ranks: dict[str, int] = {}
    for item in items:
        ranks[group(item)] = min(rank(item), ranks.get(group(item), 9))
    items.sort(key=lambda item: ranks[group(item)])


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the Ray session with its group: in a process that has one, `engine.kind = "auto"` chooses Ray."""
    if hasattr(item.config, "workerinput") and group(item) == "ray session" != (nextitem and group(nextitem)):
        import ray

        ray.shutdown()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much of the suite has not run."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "outside" in report.keywords]
    if skipped:
        oracles = sum("oracles/" in report.nodeid for report in skipped)
        counts = f"{len(skipped)} tests skipped, {oracles} of them oracle cases on real rasters"
        terminalreporter.write_line(f"{counts}: {surroundings.MISSING}; oracle cases on generated rasters need none")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A command of a test sets up logging; the next test finds it as it was."""
    logger = logging.getLogger("geopipe")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.fixture(scope="session")
def outside() -> Path:
    """The folder of rasters and oracles of other projects."""
    known = ("data/zion/srtm.tif", "oracles/CASES.md")  # any folder may be called "shared"
    if not all((surroundings.OUTSIDE / name).is_file() for name in known):
        pytest.skip(surroundings.MISSING)
    return surroundings.OUTSIDE


@pytest.fixture(scope="session")
def shared_data(outside: Path) -> Path:
    """Real rasters of other projects."""
    return outside / "data"


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray on two CPUs with a small object store, as on a laptop; never one that is there already."""
    import ray

    own = {"num_cpus": 2, "object_store_memory": 300 * 2**20, "include_dashboard": False}
    ray.init("local", logging_level="error", **own)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """A Postgres of the tests' own, which a test may stop and start. Not under pytest's folders, which are closed."""
    folder = Path(tempfile.mkdtemp(prefix="geopipe-postgres-"))
    try:
        with postgres.server(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def prometheus_programs(request: pytest.FixtureRequest) -> Path:
    """The folder with prometheus and promtool. A download stays in $GEOPIPE_PROMETHEUS_CACHE or pytest's cache."""
    named = os.environ.get("GEOPIPE_PROMETHEUS_CACHE")
    cache = Path(named) if named else Path(request.config.cache.mkdir("prometheus"))  # type: ignore[union-attr]
    cache.mkdir(parents=True, exist_ok=True)
    return prometheus.programs(cache.resolve())


@pytest.fixture
def empty_database(postgres_server: postgres.Server) -> Iterator[str]:
    """The address of a database of its own for a test, with nothing in it."""
    address = postgres_server.database()
    yield address
    postgres_server.drop(address)


@pytest.fixture(scope="session")
def monitor_template(postgres_server: postgres.Server) -> str:
    """The address of a database with the monitor's tables, of which others are copies."""
    from geopipe.monitoring.database.schema import upgrade

    address = postgres_server.database()
    upgrade(address)
    return address


@pytest.fixture
def database(postgres_server: postgres.Server, monitor_template: str) -> Iterator[str]:
    """The address of a database of its own for a test, with the monitor's tables."""
    address = postgres_server.database(monitor_template)
    yield address
    postgres_server.drop(address)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of geopipe's own, and the monitor switched on. Not under pytest's folders, where Postgres may not go."""
    with tempfile.TemporaryDirectory(prefix="geopipe-home-") as folder:
        os.chmod(folder, 0o755)
        monkeypatch.setenv("GEOPIPE_HOME", folder)
        monkeypatch.delenv("GEOPIPE_MONITORING__ENABLE_DATABASE_LOGGING")
        yield Path(folder)


@pytest.fixture
def dsn(home: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a database in which runs of this test are recorded."""
    monkeypatch.setenv("GEOPIPE_MONITORING_DSN", database)
    return database


@pytest.fixture
def dsn_file(home: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same in a file, as processes of a cluster need it that was there before."""
    (home / "dsn").write_text(database)
    monkeypatch.setenv("GEOPIPE_MONITORING_DSN_FILE", str(home / "dsn"))
    return database


@pytest.fixture(scope="module")
def monitor_dsn(postgres_server: postgres.Server, monitor_template: str) -> Iterator[str]:
    """The address of a database with the monitor's tables, for all tests of a module."""
    address = postgres_server.database(monitor_template)
    yield address
    postgres_server.drop(address)


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.ObjectStore]:
    """An S3 server of the tests' own; whoever uses it sets `object_store.ENVIRONMENT`."""
    with s3.server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def www(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A folder that a web server serves, with the server's port."""
    folder = tmp_path_factory.mktemp("www")
    script = surroundings.SERVERS / "range_server.py"
    with subprocess.Popen([sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield folder, int(server.stdout.readline())
        server.kill()
