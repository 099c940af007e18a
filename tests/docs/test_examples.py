"""Every Python, shell, SQL and TOML block of the README and of docs/ runs, page by page, on generated files.

A block below a comment `<!-- not run: REASON -->` is left out; the reason says what it needs. Its settings are loaded,
and test_references checks its commands. A block whose first line is `# mine.toml` becomes that file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import duckdb
import psycopg2
import pytest
import samples
from pages import NAMES, Block, blocks

from geopipe.load import raster
from geopipe.run.draft import draft
from geopipe.settings.load import load

pytestmark = pytest.mark.slow

PAGES = [name for name in NAMES if any(b.language in {"sh", "python", "sql", "toml"} for b in blocks(name))]
GRID = '\n[grid]\ncrs = "EPSG:32612"\nresolution = 90\n'
LAYER = '\n[[layers]]\nname = "elevation"\npath = "srtm.tif"\n'
BIN = Path(sys.executable).parent


@pytest.fixture(scope="session")
def sample_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    samples.create(folder)
    return folder


@pytest.fixture
def folder(sample_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a page, with the sample files."""
    place = tmp_path / "work"
    shutil.copytree(sample_files, place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
    return place


def run_page(page: str, dsn: str = "") -> None:
    """Run the blocks of a page in their order, in the working folder; Python blocks share their names."""
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "toml":
            check_settings(block)
        elif block.reason:
            continue
        elif block.language == "sh":
            run_shell(block)
        elif block.language == "python":
            exec(compile(block.code, f"{page}:{block.line}", "exec"), names)
        elif block.language == "sql" and block.note == "in Postgres":
            with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
                cursor.execute(block.code)
                assert cursor.fetchall(), f"{page}:{block.line}: no rows"
        elif block.language == "sql":
            assert duckdb.sql(block.code).fetchall(), f"{page}:{block.line}: no rows"


def check_settings(block: Block) -> None:
    """Load the settings, and plan them unless the block is not run. Lines without a grid get one, and a layer."""
    text = block.code
    if "grid" not in tomllib.loads(text):
        text += GRID + LAYER
    path = Path(block.name or "fragment.toml")
    path.write_text(text)
    settings = load(path)
    if not block.reason:
        with raster.environment():
            draft(settings)


def run_shell(block: Block) -> None:
    result = subprocess.run(["bash", "-e", "-c", block.code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{block.page}:{block.line}\n{block.code}{result.stdout}{result.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [name for name in PAGES if name != "docs/monitoring.md"])
@pytest.mark.usefixtures("folder")
def test_the_examples_of_a_page_run(page: str) -> None:
    run_page(page)


def test_the_examples_of_monitoring_run_on_a_recorded_run(
    folder: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOPIPE_MONITORING_DSN", database)
    monkeypatch.setenv("GEOPIPE_MONITORING__ENABLE_DATABASE_LOGGING", "true")
    (folder / "demo.toml").write_text('[run]\nname = "demo"\n' + GRID + LAYER)
    run_shell(Block("a recorded run", 0, "sh", "geopipe run demo.toml", ""))
    run_page("docs/monitoring.md", database)


@pytest.mark.parametrize("page", PAGES)
def test_a_block_that_is_not_run_has_its_reason(page: str) -> None:
    for block in blocks(page):
        assert block.note.startswith("not run:") == bool(block.reason), f"{page}:{block.line}: no reason"
        assert block.language != "console" or block.reason, f"{page}:{block.line}: a transcript without a reason"
        assert block.language, f"{page}:{block.line}: a block without a language"
