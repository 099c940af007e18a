"""A table up to its commit, and committed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from geopipe.engine import local
from geopipe.export.ledger import finisher
from geopipe.export.lock import locked
from geopipe.export.staging import Staging
from geopipe.plan.plan import Plan


def stage(output: Path, plan: Plan, chunk_size: int = 1000, tiles: Sequence[int] | None = None) -> Staging:
    """A run up to its commit; tiles are done in the wrong order, as by workers."""
    staging = Staging(output, plan, "[run]\n")
    staging.begin()
    keys = plan.keys[::-1] if tiles is None else np.array(tiles, np.int64)
    list(local.finish_tiles(plan, keys, finisher(plan, staging.folder, chunk_size)))
    return staging


def finish(output: Path, plan: Plan) -> dict[str, int]:
    with locked(output, "run"):
        return stage(output, plan).commit({"run_id": "run"})
