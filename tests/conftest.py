"""One Ray session and one Postgres for all tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import postgres_server as postgres
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real rasters beside the repository."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("the real rasters (../shared/data) are not here")
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray on two CPUs with a small object store, as on a laptop."""
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(num_cpus=2, object_store_memory=300 * 2**20, include_dashboard=False, logging_level="error")
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


@pytest.fixture
def empty_database(postgres_server: postgres.Server) -> Iterator[str]:
    """The address of a database of its own for a test, with nothing in it."""
    address = postgres_server.database()
    yield address
    postgres_server.drop(address)


@pytest.fixture
def database(empty_database: str) -> str:
    """The address of a database with the monitor's tables."""
    from geopipe.database import upgrade

    upgrade(empty_database)
    return empty_database
