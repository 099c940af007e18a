"""A source of 36000 x 18000 pixels onto its own grid, with two others: flat memory, said beforehand."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import surroundings

BENCH = surroundings.REPOSITORY / "bench"
GB = 1 << 30


@pytest.mark.ray
@pytest.mark.slow
def test_a_world_stays_under_three_gigabytes_and_is_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All processes together, Ray's object store included; see bench/memory.py."""
    monkeypatch.syspath_prepend(str(BENCH))
    import memory

    file, flags = memory.world(tmp_path), ["--set=engine.kind=ray", "--set=engine.workers=2"]
    flags.append("--set=engine.object_store_memory=200000000")
    measured, predicted = memory.measured(file, flags).memory, memory.predicted(file, flags)
    assert measured < 3 * GB
    assert measured <= predicted <= 2 * measured, f"predicted {predicted:,}, measured {measured:,}"
    table = ds.dataset(tmp_path / "out" / "parquet")
    assert table.count_rows() == 36_000 * 18_000
    assert sys.modules.pop("memory")
