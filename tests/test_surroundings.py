"""Nothing but Python and make decides about `make test`: no shell, no home, no settings, no Ray that is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def suite(tmp_path: Path, *selection: str) -> subprocess.CompletedProcess[str]:
    """A part of this suite in a shell that ignores signals, without a home, with settings and clusters of a user's."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    hostile = {
        "RAY_ADDRESS": "127.0.0.1:1",
        "RAY_TMPDIR": str(tmp_path),
        "GEOPIPE_MERGE__HOW": "inner",
        "GEOPIPE_MONITORING_DSN": "postgresql://nobody@127.0.0.1:1/none",
        "GEOPIPE_TEST_DATA": str(tmp_path / "none"),
        "COLUMNS": "40",
    }
    known = {k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")}
    ignoring = ["sh", "-c", 'trap "" INT HUP TERM; exec "$@"', "sh"]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *(str(HERE / one) for one in selection)]
    return subprocess.run(
        [*ignoring, *command],
        env=known | hostile,
        capture_output=True,
        text=True,
        timeout=500,
        cwd=tmp_path,
        check=False,
    )


@pytest.mark.ray
@pytest.mark.slow
def test_the_shell_the_home_and_a_cluster_that_is_named_decide_nothing(tmp_path: Path) -> None:
    done = suite(
        tmp_path,
        "cli/test_cli.py::test_a_signal_ends_a_run_and_publishes_nothing",
        "cli/test_cli.py::test_plan_says_what_and_why_and_writes_nothing",
        "engine/test_engine.py::test_the_merged_dataset_is_a_plain_ray_dataset_that_wrote_nothing",
        "settings/test_settings.py",
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "skipped" not in done.stdout


@pytest.mark.slow
def test_without_the_outside_data_tests_skip_and_the_last_lines_count_them(tmp_path: Path) -> None:
    done = suite(tmp_path, "oracles/test_oracles.py", "load/test_odd_files.py")
    assert done.returncode == 0, done.stdout[-5000:]
    notice, result = done.stdout.splitlines()[-2:]
    assert re.fullmatch(
        r"\d{3} tests skipped, \d{3} of them oracle cases on real rasters: .*GEOPIPE_TEST_DATA.*", notice
    )
    assert f"{notice.split()[0]} skipped" in result
