"""A finished table as a Ray Dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

MOST_BLOCKS = 1000
"""Ray keeps statistics of every block; many tiles share a block instead."""


def tiles_dataset(read: Callable[[np.ndarray[Any, Any]], pa.Table], keys: np.ndarray[Any, Any]) -> ray.data.Dataset:
    """The rows of some tiles: lazy, read by the tasks that use them, a tile at a time.

    Args:
        read: reads the rows of the tiles of an array of keys.
        keys: (n,) int64.
    """

    def rows(batch: Any) -> Iterator[pa.Table]:
        for key in batch["tile"]:
            yield read(np.array([key]))

    runs = np.array_split(keys, max(1, min(len(keys), MOST_BLOCKS)))
    return ray.data.from_arrow([pa.table({"tile": run}) for run in runs]).map_batches(rows, batch_size=None)
