"""The rules of the house that no linter has; `python tests/house.py` lists what breaks them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import house
import pytest
import surroundings


@pytest.mark.parametrize("rule", house.RULES)
def test_nothing_breaks_a_rule_of_the_house(rule: str) -> None:
    assert list(house.RULES[rule]()) == []


@pytest.mark.slow
def test_a_module_that_is_in_no_contract_is_noticed(tmp_path: Path) -> None:
    """The floors are exhaustive: a package or module that nobody placed breaks them."""
    unused = shutil.ignore_patterns("__pycache__")
    shutil.copytree(surroundings.REPOSITORY / "geopipe", tmp_path / "geopipe", ignore=unused)
    shutil.copy(surroundings.REPOSITORY / "pyproject.toml", tmp_path)
    linter = Path(sys.executable).with_name("lint-imports")

    def lint() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(linter), "--no-cache"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    before = lint()
    assert before.returncode == 0, before.stdout
    (tmp_path / "geopipe" / "stray.py").write_text('"""A module that no floor has."""\n')
    after = lint()
    assert after.returncode == 1
    assert "stray" in after.stdout
