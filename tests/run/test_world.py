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

    got = memory.measure(memory.world(tmp_path), ["engine.workers=2", "engine.object_store_memory=200000000"])
    assert got.peak < 3 * GB
    assert got.peak <= got.predicted <= 2 * got.peak, f"predicted {got.predicted:,}, measured {got.peak:,}"
    table = ds.dataset(tmp_path / "out" / "parquet")
    assert table.count_rows() == 36_000 * 18_000
    assert sys.modules.pop("memory")
