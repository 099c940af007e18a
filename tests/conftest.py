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

import surroundings

FOLDER = surroundings.folder()
surroundings.isolate(FOLDER)

import object_store as s3  # noqa: E402
import postgres_server as postgres  # noqa: E402
import prometheus_server as prometheus  # noqa: E402
import pytest  # noqa: E402

NEEDS = {
    "outside": {"outside"},
    "ray": {"ray_session", "head_address"},
    "postgres": {"postgres_server", "monitor_server"},
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


def group(item: pytest.Item) -> str:
    """Tests of one group run in one process, one after the other: they share a module's set-up, or a cluster of Ray."""
    if "ray_session" in getattr(item, "fixturenames", ()):
        return "ray session"
    own_clusters = item.get_closest_marker("ray") or "jobs" in item.path.parts
    return "own clusters" if own_clusters else item.nodeid.partition("::")[0]


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
    """A Postgres of the tests' own. Not under pytest's folders, which only their owner may enter."""
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


@pytest.fixture
def database(empty_database: str) -> str:
    """The address of a database with the monitor's tables."""
    from geopipe.monitoring.database.schema import upgrade

    upgrade(empty_database)
    return empty_database


@pytest.fixture(scope="module")
def monitor_server() -> Iterator[postgres.Server]:
    """A Postgres with the monitor's tables, which a test may stop and start."""
    from geopipe.monitoring.database import schema

    folder = Path(tempfile.mkdtemp(prefix="geopipe-monitor-"))
    try:
        with postgres.server(folder) as running:
            schema.upgrade(running.dsn)
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def monitor_dsn(monitor_server: postgres.Server) -> str:
    """The address of the monitor's tables."""
    return monitor_server.dsn


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
