"""Passes over a table: the same bits from any engine, format and number of workers, committed as a whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scores
from hypothesis import given
from hypothesis import strategies as st
from ray import cloudpickle
from scores import NUMBERS, SCORES, Scores

import geopipe as gp
from geopipe.analysis import results
from geopipe.analysis.contract import Pass, Reduce, Result, Subject
from geopipe.analysis.drive import Step, analyze
from geopipe.analysis.methods.moments import Comoments, comoments, merge
from geopipe.analysis.methods.sampling import sample
from geopipe.analysis.rows import CHUNK, chunks, fold
from geopipe.engine.passes import passes
from geopipe.errors import PlanError, RunError


def contents(analysis: results.Analysis) -> dict[str, bytes]:
    files = (path for path in analysis.folder.rglob("*") if path.is_file() and path.name != results.RESULT)
    return {path.relative_to(analysis.folder).as_posix(): path.read_bytes() for path in files}


# ---------------------------------------------------------------- the fixed order


@given(st.lists(st.integers(), max_size=40))
def test_a_fold_merges_neighbours_in_their_order(numbers: list[int]) -> None:
    whole = fold(([n] for n in numbers), lambda left, right: left + right)
    assert whole == (numbers or None)


def test_the_order_of_merges_is_a_balanced_tree() -> None:
    assert fold("abcde", lambda left, right: f"({left}{right})") == "(((ab)(cd))e)"


def test_chunks_of_a_tile_are_the_same_from_parquet_and_csv(table: gp.Table, csv_table: gp.Table) -> None:
    for key in table.files.keys.tolist():
        parts, texts = (list(chunks(t.files, key, ("rain", "cover"))) for t in (table, csv_table))
        assert [len(p) for p in parts] == [len(p) for p in texts]
        assert all(part.equals(text) for part, text in zip(parts, texts, strict=True))
        assert all(len(part) == CHUNK for part in parts[:-1])


# ---------------------------------------------------------------- moments and samples


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 2**31))
def test_merged_moments_are_those_of_all_rows(count: int, cut: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(50, 20, (count, 3))
    parts = [values[: min(cut, count)], values[min(cut, count) :]]
    none = np.zeros(3, np.int64)
    left, right = (Comoments(len(part), len(part), none, *comoments(part)) for part in parts)
    both = merge(left, right)
    centred = values - values.mean(axis=0)
    assert both.count == count
    assert np.allclose(both.means, values.mean(axis=0), rtol=1e-12)
    assert np.allclose(both.products, centred.T @ centred, rtol=1e-9, atol=1e-7)


def test_nulls_are_left_out_or_take_the_mean_and_are_counted(table: gp.Table, folder: Path) -> None:
    frame = table.pandas(list(NUMBERS)).astype(float)
    with passes("local") as local:
        dropped, filled = (
            analyze(Scores(), Subject(table, NUMBERS, nulls), local, folder).values for nulls in ("drop", "mean")
        )
    assert dropped["nulls"] == filled["nulls"] == [0, 0, 60 * 100]
    assert np.allclose(dropped["means"], frame.dropna().mean(), rtol=1e-12)
    assert np.allclose(filled["means"], frame.mean(), rtol=1e-12)
    centred = frame.fillna(frame.mean()) - frame.mean()
    assert np.allclose(filled["products"], centred.T @ centred, rtol=1e-9)


def test_a_sample_has_every_row_with_the_same_chance_and_depends_on_its_seed_alone(table: gp.Table) -> None:
    def rows(n: int, seed: int, workers: int) -> pa.Table:
        step = sample(("rain",), n, seed, lambda rows: Result({"rows": rows}))
        with passes("local", workers=workers) as local:
            states = local.map(partial(_fold, table, step), table.files.keys.tolist())
            result = step.finish(fold(states, step.merge))
        assert isinstance(result, Result)
        sampled: pa.Table = result.values["rows"]
        return sampled

    first = rows(5000, 1, 1)
    assert first.equals(rows(5000, 1, 2))
    assert not first.equals(rows(5000, 2, 1))
    assert first["rain"].null_count == 0
    assert len(first) == 5000
    thirds = np.bincount(first["row"].to_numpy() // 200)
    assert np.all(np.abs(thirds / 5000 - 1 / 3) < 0.03)


def _fold(table: gp.Table, step: Reduce, key: int) -> object:
    return fold((step.map(chunk) for chunk in chunks(table.files, key, step.columns)), step.merge)


# ---------------------------------------------------------------- engines, formats, commits


@pytest.mark.newest_ray
def test_bits_do_not_depend_on_engine_workers_and_format(
    ray_session: None, table: gp.Table, csv_table: gp.Table, tmp_path: Path
) -> None:
    cloudpickle.register_pickle_by_value(scores)  # the workers of Ray do not have the folder of the tests
    runs = []
    for number, (kind, workers, source) in enumerate(
        [("local", 1, table), ("local", 2, csv_table), ("ray", 1, csv_table), ("ray", 2, table)]
    ):
        with passes(kind, workers=workers) as engine:
            analysis = analyze(Scores(), Subject(source, NUMBERS), engine, tmp_path / str(number))
        runs.append((analysis.values, contents(analysis)))
    assert all(one == runs[0] for one in runs)
    assert runs[0][0]["rows"] == table.rows


def test_cells_keep_their_row_and_col(table: gp.Table, folder: Path) -> None:
    with passes("local") as local:
        analysis = analyze(Scores(), Subject(table, NUMBERS), local, folder)
    cells = pa.concat_tables([pq.read_table(path) for path in analysis.cells("cells")])
    assert cells.select(["row", "col"]).equals(table.arrow(["row", "col"]).cast(SCORES.remove(2)))
    assert analysis.table("means")["mean"].to_pylist() == analysis.values["means"]


def test_progress_counts_the_tiles_of_each_pass(table: gp.Table, folder: Path) -> None:
    steps = list[Step]()
    with passes("local") as local:
        analyze(Scores(), Subject(table, NUMBERS), local, folder, steps.append)
    assert [(step.number, step.tile) for step in steps] == [(n, t) for n in (1, 2) for t in (1, 2, 3, 4)]
    assert {step.tiles for step in steps} == {4}


def test_a_method_that_fails_names_the_tile_and_leaves_earlier_results(table: gp.Table, folder: Path) -> None:
    with passes("local") as local:
        before = analyze(Scores(), Subject(table, NUMBERS), local, folder)
        with pytest.raises(RunError, match=r"scores failed in tile 2 .*ZeroDivisionError: division by zero"):
            analyze(Scores(fails=True), Subject(table, NUMBERS), local, folder)
    assert results.read(folder / "scores") == before
    assert [path.name for path in folder.iterdir()] == ["scores"]


def test_results_say_what_they_are_of(table: gp.Table, folder: Path) -> None:
    with passes("local") as local:
        analysis = analyze(Scores(), Subject(table, NUMBERS, "mean", 7), local, folder)
    about = {key: analysis.about[key] for key in ("columns", "nulls", "seed", "options", "run_id")}
    options = {"columns": list(NUMBERS), "nulls": "mean", "seed": 7, "options": {"fails": False}}
    assert about == options | {"run_id": table.success["run_id"]}
    assert results.listed(folder, str(about["run_id"])) == [analysis]
    assert results.listed(folder, "another run") == []


def test_a_number_that_is_none_never_gets_into_a_result(table: gp.Table, folder: Path) -> None:
    class Broken(Scores):
        name = "broken"

        def prepare(self, subject: Subject) -> Pass:
            return Reduce("x", NUMBERS, lambda chunk: 0, lambda left, right: 0, lambda _: Result({"x": float("nan")}))

    with passes("local") as local, pytest.raises(ValueError, match="JSON compliant"):
        analyze(Broken(), Subject(table, NUMBERS), local, folder)
    assert list(folder.iterdir()) == []


def test_damaged_results_are_an_error_that_says_how_to_make_them_again(table: gp.Table, folder: Path) -> None:
    with passes("local") as local:
        analysis = analyze(Scores(), Subject(table, NUMBERS), local, folder)
    with pytest.raises(PlanError, match=r"scores has no table 'medians'\n.*tables: means"):
        analysis.table("medians")
    (analysis.folder / results.RESULT).write_text('{"method": "scores"}')
    with pytest.raises(PlanError, match="damaged"):
        results.read(analysis.folder)


KILLED = """
import sys
from pathlib import Path
import geopipe as gp
from geopipe.analysis.contract import Subject
from geopipe.analysis.drive import analyze
from geopipe.engine.passes import passes
from ray import cloudpickle
from scores import NUMBERS, Scores

def stand_still(step):
    if step.number == 2:
        print("at work", flush=True)
        sys.stdin.read()

with passes("local") as local:
    analyze(Scores(), Subject(gp.open(sys.argv[1]), NUMBERS), local, Path(sys.argv[2]), stand_still)
"""


@pytest.mark.slow
def test_an_analysis_that_is_killed_starts_over_and_leaves_the_table(table: gp.Table, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(table.output).rglob("*")}
    command = [sys.executable, "-c", KILLED, table.output, str(folder)]
    search = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": search}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"at work\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert results.listed(folder) == []
    with passes("local") as local:
        analysis = analyze(Scores(), Subject(table, NUMBERS), local, folder)
    assert [path.name for path in folder.iterdir()] == ["scores"]
    assert analysis.values["rows"] == table.rows
    assert {path: path.stat().st_mtime_ns for path in Path(table.output).rglob("*")} == before
    assert json.loads((analysis.folder / results.RESULT).read_text())["method"] == "scores"
