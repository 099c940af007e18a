"""Folds: each row in exactly one, the same whatever engine, tiles and format, and diagnostics that are true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import landscape
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import reference
from helpers import call
from hypothesis import given, settings
from hypothesis import strategies as st
from landscape import CELL, LEFT, RARE, TOP

import geopipe as gp
from geopipe.analysis.results import RESULT, Analysis
from geopipe.errors import GeopipeError, SettingsError
from geopipe.grid.grid import Grid
from geopipe.training.blocks import Blocks, balanced

WAYS: list[dict[str, Any]] = [
    {"method": "block", "size": 700.0, "classes": "cover"},
    {"method": "block", "size": 700.0, "assignment": "systematic", "k": 3},
    {"method": "cluster"},
    {"method": "cluster", "columns": ["height", "slope"], "k": 3},
]


def cells(analysis: Analysis) -> pd.DataFrame:
    """The fold of each cell, by row and col."""
    frame = pd.concat(pq.read_table(path).to_pandas() for path in analysis.cells("folds"))
    return frame.sort_values(["row", "col"], ignore_index=True)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way['method']}-{len(way)}")
def test_every_row_is_in_one_fold_and_counted_there(table: gp.Table, way: dict[str, Any]) -> None:
    analysis = gp.folds(table.output, seed=3, **way)
    folds, rows = cells(analysis), table.pandas(["row", "col"])
    assert folds[["row", "col"]].equals(rows.sort_values(["row", "col"], ignore_index=True))
    k = way.get("k", 5)
    counts = folds.fold.value_counts().sort_index()
    assert counts.index.tolist() == list(range(1, k + 1))
    assert counts.tolist() == [fold["rows"] for fold in analysis.values["folds"]]
    assert sum(analysis.table("folds")["rows"].to_pylist()) == table.rows
    other = cells(gp.folds(table.output, seed=4, **way))
    assert folds.equals(other) == (way.get("assignment") == "systematic")


@pytest.mark.parametrize("way", [WAYS[0], WAYS[3]], ids=["block", "cluster"])
def test_folds_do_not_depend_on_engine_tiles_or_format(
    table: gp.Table, way: dict[str, Any], tmp_path: Path, ray_session: None
) -> None:
    first = gp.folds(table.output, seed=3, engine="local", **way)
    files = {path.name: path.read_bytes() for path in first.cells("folds")}
    small, values = cells(first), first.values
    by_ray = gp.folds(table.output, seed=3, engine="ray", **way)
    assert {path.name: path.read_bytes() for path in by_ray.cells("folds")} == files
    assert by_ray.values == values
    large = landscape.table(tmp_path / "large", resampling={"window_size": 1024})
    csv = landscape.table(tmp_path / "csv", export={"formats": ["csv"]})
    for other in (large, csv):
        analysis = gp.folds(other.output, seed=3, engine="local", **way)
        assert cells(analysis).equals(small)
        assert analysis.values == values


def test_blocks_are_squares_of_one_fold_and_balance_the_classes(table: gp.Table) -> None:
    analysis = gp.folds(table.output, "block", size=700.0, classes="cover", seed=3)
    folds = cells(analysis)
    blocks = folds.groupby([folds.row // 70, folds.col // 70]).fold.nunique()
    assert (blocks == 1).all()
    block = {"size": 700.0, "unit": "m", "origin": "given", "assignment": "random", "blocks": 64}
    assert analysis.values["block"] == block
    balance = analysis.table("folds").to_pandas().pivot_table("rows", "fold", "class")
    every = table.pandas(["row", "col", "cover"]).merge(folds, on=["row", "col"])
    counts = every.groupby(["fold", "cover"]).size()
    assert all(counts.get((fold, c), 0) == balance.loc[fold, c] for fold in range(1, 6) for c in (1, 2, 3, RARE))
    assert "has no row of cover = 7" in " ".join(analysis.findings)


def test_a_checkerboard_has_two_folds_that_change_from_block_to_block(table: gp.Table) -> None:
    folds = cells(gp.folds(table.output, "block", size=700.0, assignment="checkerboard"))
    assert (folds.fold == (folds.row // 70 + folds.col // 70) % 2 + 1).all()


@given(st.integers(2, 40), st.integers(1, 4), st.integers(2, 6), st.integers(0, 99))
@settings(max_examples=30)
def test_balanced_folds_have_the_same_number_of_blocks_but_for_one(
    blocks: int, classes: int, k: int, seed: int
) -> None:
    counts = np.random.default_rng(seed).integers(1, 50, (blocks, classes)).astype(float)
    folds = balanced(counts, k, np.random.default_rng(seed))
    sizes = np.bincount(folds, minlength=k + 1)[1:]
    assert folds.min() >= 1
    assert len(sizes) == k
    assert sizes.max() - sizes.min() <= 1


def test_balance_is_better_than_one_random_assignment() -> None:
    counts = np.random.default_rng(1).exponential(100, (40, 3))
    folds = balanced(counts, 5, np.random.default_rng(2))

    def imbalance(folds: np.ndarray) -> float:
        rows = np.array([counts[folds == fold].sum(axis=0) for fold in range(1, 6)])
        return float(((rows - counts.sum(axis=0) / 5) ** 2 / (counts.sum(axis=0) / 5)).sum())

    randomly = [imbalance(np.random.default_rng(seed).permutation(np.arange(40) % 5 + 1)) for seed in range(20)]
    assert imbalance(folds) < min(randomly)


@given(st.integers(1, 300), st.integers(1, 300), st.floats(1, 500))
@settings(max_examples=50)
def test_every_cell_is_in_a_block_that_there_is(width: int, height: int, size: float) -> None:
    blocks = Blocks(Grid("EPSG:32632", 0.0, 0.0, 1.0, 1.0, width, height), size)
    corners = pa.table({"row": [0, height - 1, 0, height - 1], "col": [0, 0, width - 1, width - 1]})
    numbers = blocks.of(corners)
    assert numbers[0] == 0
    assert numbers.max() < blocks.across * blocks.down


# ---------------------------------------------------------------- points


@pytest.mark.parametrize("way", [{"method": "block", "size": 900.0}, {"method": "cluster"}, {"method": "knndm"}])
def test_points_get_folds_and_distances_are_those_of_plain_loops(
    table: gp.Table, clustered: Path, way: dict[str, Any]
) -> None:
    analysis = gp.folds(table.output, points=clustered, k=4, seed=2, **way)
    points, folds = pd.read_parquet(clustered), analysis.table("points").to_pandas()
    assert (folds.row == (TOP - points.y) // CELL).all()
    assert (folds.col == (points.x - LEFT) // CELL).all()
    assert sorted(folds.fold.unique()) == [1, 2, 3, 4]
    expected = reference.to_other_folds(points[["x", "y"]].to_numpy(), folds.fold.to_numpy())
    assert analysis.values["distances"]["quantiles"]["folds"]["0.5"] == pytest.approx(np.median(expected), rel=1e-9)
    assert analysis.cells("folds") == []
    text = " ".join(analysis.findings)
    assert "Random folds would be too optimistic" in text
    assert analysis.values["distances"]["w"]["folds"] < analysis.values["distances"]["w"]["random"]


def test_the_command_writes_the_points_with_their_fold(
    table: gp.Table, clustered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["folds", table.output, "--method", "knndm", "--k", 4, "--classes", "species", "--points", clustered]
    code, out, _ = call(capsys, *command, "-o", tmp_path / "a" / "folds.parquet")
    assert code == 0
    assert "4 folds of" in out
    written = pq.read_table(tmp_path / "a" / "folds.parquet")
    assert written.drop_columns(["fold"]).equals(pq.read_table(clustered))
    code, out, _ = call(capsys, *command, "-o", tmp_path / "folds.csv", "--json")
    assert code == 0
    result = json.loads(out[: out.rindex("}") + 1])
    balance = written.to_pandas().groupby("fold").size().tolist()
    assert [fold["rows"] for fold in result["values"]["folds"]] == balance
    assert pacsv.read_csv(tmp_path / "folds.csv")["fold"].to_pylist() == written["fold"].to_pylist()
    again = call(capsys, "folds", table.output, "--k", 4, "--size", 500, "--points", tmp_path / "folds.csv")
    assert again[0] == 0


# ---------------------------------------------------------------- the size of blocks


def test_the_size_of_blocks_is_the_range_of_autocorrelation(tmp_path: Path, table: gp.Table) -> None:
    folder = Path(table.output) / "analysis" / "autocorrelation"
    folder.mkdir(parents=True)
    about = {"run_id": table.success["run_id"]}

    def propose(values: dict[str, Any], about: dict[str, Any]) -> None:
        contents = {"method": "autocorrelation", "findings": [], "values": values, "about": about}
        (folder / RESULT).write_text(json.dumps(contents))

    try:
        propose({"block_size": 650.0, "block_size_of": "slope"}, about)
        block = gp.folds(table.output).values["block"]
        assert (block["size"], block["origin"]) == (650.0, "range of autocorrelation of slope")
        propose({"block_size": None}, about)
        with pytest.raises(SettingsError, match="has no range"):
            gp.folds(table.output)
        propose({"block_size": 650.0}, {"run_id": "another"})
        with pytest.raises(SettingsError, match="of an earlier table"):
            gp.folds(table.output)
    finally:
        (folder / RESULT).unlink()
        folder.rmdir()


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({}, "blocks need a size", "--size"),
        ({"size": 4000.0}, "blocks of 4000 are too large: 4 of them have rows, for 5 folds", "smaller blocks"),
        ({"size": 4.0}, "size = 4 is below the cell size", "many cells"),
        ({"method": "blocks"}, "method = 'blocks' is not known", "knndm"),
        ({"method": "knndm"}, "need training points", "--points"),
        ({"k": 1, "size": 700.0}, "k = 1 is no number of folds", "2 or more"),
        ({"size": 700.0, "assignment": "checkerboard", "k": 5}, "a checkerboard has 2 folds", "leave out k"),
        ({"method": "cluster", "size": 700.0}, "are of blocks, not of cluster", "leave them out"),
        ({"method": "cluster", "columns": ["heigth"]}, "no variable 'heigth'", "'height'"),
        ({"size": 700.0, "columns": ["height"]}, "look at places", "clusters"),
        ({"size": 700.0, "classes": "covr"}, "no column 'covr'", "'cover'"),
        ({"size": 700.0, "classes": "height"}, "too many for classes", "a column of classes"),
        ({"size": 700.0, "fold": 5}, "no option 'fold'", "options"),
    ],
)
def test_a_mistake_in_the_options_is_named(table: gp.Table, options: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        gp.folds(table.output, **options)
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("columns", "message", "hint"),
    [
        ({"x": [LEFT + 5.0] * 3, "y": [TOP - 5.0] * 3}, "has 3 points, fewer than 5 folds", "more points"),
        ({"x": [1.0] * 9, "y": [2.0] * 9}, "9 of 9 points lie off the grid, the first at x = 1, y = 2", "UTM zone 32N"),
        ({"lon": [1.0]}, "neither row and col nor x and y", "columns: lon"),
        ({"x": [LEFT + 5.0] * 9, "y": [TOP - 5.0] * 9}, "only 1 of 5 clusters have points", "fewer folds"),
    ],
)
def test_a_mistake_in_the_points_is_named(
    table: gp.Table, tmp_path: Path, columns: dict[str, Any], message: str, hint: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "points.parquet")
    with pytest.raises(GeopipeError) as caught:
        gp.folds(table.output, "cluster", points=tmp_path / "points.parquet")
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_points_that_cannot_be_read_are_named(table: gp.Table, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        gp.folds(table.output, "cluster", points=tmp_path / "nothing.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(SettingsError, match="cannot be read"):
        gp.folds(table.output, "cluster", points=tmp_path / "text.parquet")
