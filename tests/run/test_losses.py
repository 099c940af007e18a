"""A run whose engine loses workers does what is left, and ends once that has been in vain several times."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from trials import make_trial

from geopipe.engine.contract import Finish, Keys, Stop, never
from geopipe.engine.local import finish_tiles
from geopipe.errors import WorkersLost
from geopipe.export.ledger import finisher
from geopipe.export.lock import locked
from geopipe.export.staging import Staging
from geopipe.plan.plan import Plan
from geopipe.run import attempts, draft
from geopipe.settings import load


class Losing:
    """Finishes so many tiles each time by the plain loop, and then loses its workers while tiles are left."""

    def __init__(self, tiles: int) -> None:
        self.tiles, self.requested = tiles, list[int]()

    def run(self, plan: Plan, keys: Keys, finish: Finish, stop: Stop, tries: Path | None = None) -> Iterator[int]:
        self.requested.append(len(keys))
        yield from finish_tiles(plan, keys[: self.tiles], finish, stop)
        if len(keys) > self.tiles:
            raise WorkersLost("node a is lost")


def finish_all(folder: Path, engine: Losing) -> Staging:
    plan = draft.draft(load.load(make_trial(folder)))
    staging = Staging(folder / "out", plan, "[run]\n")
    with locked(folder / "out", "run"):
        finish = partial(attempts._finish_all, engine, staging, staging.begin())  # type: ignore[arg-type]
        finish(finisher(plan, staging.folder, 1000), never)
    return staging


def test_only_what_is_left_is_done_again(tmp_path: Path) -> None:
    engine = Losing(5)
    staging = finish_all(tmp_path, engine)
    assert engine.requested == [12, 7, 2]
    assert len(staging.left()) == 0


def test_losses_without_a_finished_tile_end_the_run(tmp_path: Path) -> None:
    engine = Losing(0)
    with pytest.raises(WorkersLost, match="node a is lost; so 3 times without finishing a tile") as caught:
        finish_all(tmp_path, engine)
    assert engine.requested == [12, 12, 12]
    assert caught.value.exit_code == 3
