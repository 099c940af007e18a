"""A piece of work that ends its processes again and again is an error that names it, and soon; a lost node is not."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers import north_up, write_raster
from trials import make_trial, run

from geopipe.engine import ray as engine
from geopipe.engine import steps
from geopipe.engine.contract import never
from geopipe.engine.tries import MOST, Tries
from geopipe.errors import MachineError, SourceError
from geopipe.export.ledger import finisher
from geopipe.export.lock import locked
from geopipe.export.staging import Staging
from geopipe.load import raster
from geopipe.monitoring.options import MonitoringOptions
from geopipe.run import draft
from geopipe.settings import load

TRY = multiprocessing.get_context("fork")


def die_at_work(tries: Tries, layer: str = "", noted: str = "") -> None:
    """Let a process end while it works on tile 7."""

    def work() -> None:
        with tries.at_work("7", "tile 7", layer) as note:
            if note is not None and noted:
                note(noted)
            os._exit(1)

    process = TRY.Process(target=work)
    process.start()
    process.join()


def test_work_that_ends_or_fails_counts_for_nothing(tmp_path: Path) -> None:
    tries = Tries(tmp_path)
    for _ in range(2 * MOST):
        with pytest.raises(ZeroDivisionError), tries.at_work("7", "tile 7"):
            raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_has_lost_its_run_does_not_stop_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes into the folder while that is being removed."""
    remove = shutil.rmtree

    def disturbed(path: Path, **how: Any) -> None:
        remove(path, **how)
        path.mkdir()
        (path / "7@elsewhere@1-1").touch()

    monkeypatch.setattr(shutil, "rmtree", disturbed)
    tries = Tries(tmp_path / "tries")
    tries.clear()
    with tries.at_work("7", "tile 7"):
        pass


def test_the_layer_that_was_read_each_time_is_named(tmp_path: Path) -> None:
    tries = Tries(tmp_path)
    for _ in range(MOST):
        die_at_work(tries, noted="soil")
    with tries.at_work("77", "tile 77") as note:
        assert note is None, "other work has a count of its own"
    (first, *_) = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_size)
    assert first.read_text() == "", "the first time nobody noted a layer"
    with pytest.raises(
        SourceError, match="layer soil: reading it in tile 7 has ended its process 3 times, on "
    ) as caught:
        tries.at_work("7", "tile 7").__enter__()
    assert caught.value.layer == "soil", "on_error = skip leaves it out"


@pytest.mark.parametrize("layers", [("", "", ""), ("soil", "dem", "soil")])
def test_without_one_layer_the_tile_is_named(tmp_path: Path, layers: tuple[str, ...]) -> None:
    tries = Tries(tmp_path)
    for layer in layers:
        die_at_work(tries, layer)
    with pytest.raises(MachineError, match=r"^tile 7 has ended its process 3 times"):
        tries.at_work("7", "tile 7").__enter__()


def test_the_work_of_a_lost_host_is_forgotten_and_a_new_run_begins_to_count(tmp_path: Path) -> None:
    tries = Tries(tmp_path / "tries")
    tries.clear()
    (tmp_path / "tries" / "7@spot-1@12-1").touch()
    die_at_work(tries)
    tries.forget("spot-1")
    assert len(list((tmp_path / "tries").iterdir())) == 1
    tries.clear()
    assert not list((tmp_path / "tries").iterdir())


@pytest.mark.newest_ray
@pytest.mark.parametrize("strategy", ["aligned", "groupby"])
def test_a_raster_that_ends_every_process_ends_the_run_with_its_name(
    tmp_path: Path, ray_session: None, strategy: str
) -> None:
    class Deadly(raster.Readers):
        """Ends its process whenever it reads layer b."""

        def read_window(self, layer: Any, *rest: Any) -> Any:
            if layer.name == "b":
                os._exit(1)
            return super().read_window(layer, *rest)

    file = make_trial(tmp_path)
    pixels = np.zeros((512, 512), "float32")
    for name in ("a", "b"):
        write_raster(tmp_path / f"{name}.tif", pixels, "EPSG:32632", north_up(500_000, 5_000_000, 30))
    plan = draft.draft(load.load(file, (f"merge.strategy={strategy}",)))
    staging = Staging(tmp_path / "out", plan, "[run]\n")
    options = MonitoringOptions("run", database=False)
    with locked(tmp_path / "out", "run"), engine.ray_engine(None, plan.machine, options, Deadly) as cluster:
        keys = staging.begin()
        finish = finisher(plan, staging.folder, 1000)
        with pytest.raises(SourceError, match=r"layer b: reading it in .* has ended its process 3 times") as caught:
            list(cluster.run(plan, keys, finish, never, staging.tries))
    assert caught.value.layer == "b"


def test_a_merge_that_ends_every_process_is_named_by_its_tile_and_layers(tmp_path: Path) -> None:
    plan = draft.draft(load.load(make_trial(tmp_path), ("merge.strategy=groupby",)))
    work = steps.Work(plan, tries=Tries(tmp_path / "tries"))
    work.tries.clear()
    batches = [{"layer": np.array([index]), "part": np.array([0]), "keys": np.array([[5]])} for index in (0, 1)]
    groups = pa.concat_tables(table for batch in batches for table in steps.read_layer(batch, work))
    for number in range(MOST):
        (tmp_path / "tries" / f"5@spot-1@{number}-1").touch()
    with pytest.raises(MachineError, match=r"^merging tile 5 \(layers: a, b\) has ended its process 3 times"):
        list(steps.merge_groups(groups, work))


def test_a_finished_run_leaves_no_file_of_the_count(tmp_path: Path, ray_session: None) -> None:
    summary = run(make_trial(tmp_path), engine="ray")
    assert not list(Path(summary.output).rglob("tries"))
