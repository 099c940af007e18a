"""A table of a small landscape, and training points on it in clusters."""

from __future__ import annotations

from pathlib import Path

import landscape
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from landscape import CELL, HEIGHT, LEFT, TOP, WIDTH

import geopipe as gp


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> gp.Table:
    return landscape.table(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="session")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 points around six places, with a class."""
    rng = np.random.default_rng(8)
    places = rng.uniform(0.1, 0.9, (6, 2))[np.arange(120) % 6] + rng.normal(0, 0.02, (120, 2))
    x, y = LEFT + places[:, 0] * WIDTH * CELL, TOP - places[:, 1] * HEIGHT * CELL
    path = tmp_path_factory.mktemp("points") / "points.parquet"
    pq.write_table(pa.table({"x": x, "y": y, "species": ["oak", "beech", "oak"] * 40}), path)
    return path
