"""Damaged inputs are worked on or refused: a part of what `make fuzz` tries, see fuzz.py."""

from __future__ import annotations

import os
from pathlib import Path

import fuzz
import fuzz_inputs
import pytest

COUNT = int(os.environ.get("GEOPIPE_FUZZ", "300"))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "bases"
    fuzz_inputs.make_bases(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", fuzz_inputs.BASES)
def test_what_the_harness_damages_is_valid_before(
    kind: str, bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fuzz_inputs.DAMAGE, kind, [lambda data, rng: data])
    ends = [fuzz.try_input(bases, tmp_path / str(seed), kind, seed) for seed in range(6)]
    assert ends == [(True, None)] * 6


@pytest.mark.slow
def test_damaged_inputs_are_worked_on_or_refused() -> None:
    """`PYTHONPATH=tests python tests/chaos/fuzz.py --case KIND SEED` shows a finding again."""
    findings, inputs = list[str](), 0
    for _, report in fuzz.fuzz(COUNT):
        findings += report.findings
        inputs += report.inputs
    assert inputs == COUNT
    assert findings == []
