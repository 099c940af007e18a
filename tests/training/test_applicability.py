"""Dissimilarity and the area of applicability, beside plain loops; nulls, classes, weights, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import landscape
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import reference
from helpers import call, north_up, write_raster
from landscape import RARE

import geopipe as gp
from geopipe.analysis.results import Analysis
from geopipe.errors import SettingsError
from geopipe.training import space

NUMBERS = ["height", "slope", "rain"]


@pytest.fixture(scope="module")
def train(table: gp.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 rows of the upper left quarter, without the rare class, with folds; one of them lacks a value."""
    rows = table.arrow(where=(pc.field("row") < 260) & (pc.field("col") < 270)).to_pandas()
    rows = rows[rows.cover != RARE].dropna().sample(60, random_state=4)
    rows.loc[rows.index[7], "slope"] = np.nan
    path = tmp_path_factory.mktemp("train") / "train.parquet"
    rows.assign(fold=[f"f{i % 4}" for i in range(60)]).to_parquet(path)
    return path


def cells(analysis: Analysis) -> pd.DataFrame:
    return pd.concat(pq.read_table(path).to_pandas() for path in analysis.cells("cells"))


@pytest.mark.parametrize("folds", [None, "fold"])
@pytest.mark.parametrize("weights", [None, {"height": 3.0, "slope": 0.5, "rain": 1.0}])
def test_dissimilarity_is_that_of_plain_loops(
    table: gp.Table, train: Path, folds: str | None, weights: dict[str, float] | None
) -> None:
    analysis = gp.applicability(table.output, train, weights=weights, columns=NUMBERS, folds=folds)
    rows = pd.read_parquet(train).dropna()
    labels = None if folds is None else rows.fold.tolist()
    expected = reference.Dissimilarity(
        rows[NUMBERS].to_numpy(float), list((weights or dict.fromkeys(NUMBERS, 1.0)).values()), labels
    )
    assert analysis.values["mean_distance"] == pytest.approx(expected.mean, rel=1e-9)
    assert analysis.values["threshold"] == pytest.approx(expected.threshold, rel=1e-9)
    every = table.pandas(["row", "col", *NUMBERS]).merge(cells(analysis), on=["row", "col"])
    assert len(every) == table.rows
    assert every.di.isna().equals(every[NUMBERS].isna().any(axis=1))
    assert every.inside.isna().equals(every.di.isna())
    for cell in every.dropna().sample(150, random_state=1).itertuples():
        index = expected.index([cell.height, cell.slope, cell.rain])
        assert cell.di == pytest.approx(index, rel=1e-6, abs=1e-7)
        assert cell.inside == (index <= expected.threshold)
    values = analysis.values
    assert values["nulls"] == every.di.isna().sum()
    assert values["inside"] == every.inside.sum()
    assert values["share_inside"] == pytest.approx(every.inside.dropna().mean())
    assert 0.05 < values["share_inside"] < 0.95


def test_classes_are_dimensions_and_an_unknown_one_is_far_and_counted(table: gp.Table, train: Path) -> None:
    analysis = gp.applicability(table.output, train, columns=["height", "cover"])
    rows = pd.read_parquet(train)
    classes = sorted(rows.cover.unique())
    assert analysis.values["classes"] == {"cover": classes}
    dummies = np.column_stack([rows.height, *[(rows.cover == c).astype(float) for c in classes]])
    expected = reference.Dissimilarity(dummies, [1.0] * (1 + len(classes)), None)
    assert analysis.values["threshold"] == pytest.approx(expected.threshold, rel=1e-9)
    every = table.pandas(["row", "col", "height", "cover"]).merge(cells(analysis), on=["row", "col"])
    assert every.di.isna().equals(every[["height", "cover"]].isna().any(axis=1))
    known = every.dropna()
    for cell in pd.concat([known.sample(60, random_state=1), known[known.cover == RARE].head(5)]).itertuples():
        index = expected.index([cell.height, *[float(cell.cover == c) for c in classes]])
        assert cell.di == pytest.approx(index, rel=1e-6, abs=1e-7)
    assert {"column": "cover", "class": float(RARE), "rows": 30} in analysis.values["unknown_classes"]
    assert any("30 cells have cover = 7, a class that the training data lack" in text for text in analysis.findings)


def test_bits_do_not_depend_on_engine_and_format(
    table: gp.Table, train: Path, tmp_path: Path, ray_session: None
) -> None:
    first = gp.applicability(table.output, train, folds="fold", engine="local")
    files, values = {path.name: path.read_bytes() for path in first.cells("cells")}, first.values
    by_ray = gp.applicability(table.output, train, folds="fold", engine="ray")
    assert {path.name: path.read_bytes() for path in by_ray.cells("cells")} == files
    assert by_ray.values == values
    csv = landscape.table(tmp_path, export={"formats": ["csv"]})
    from_csv = gp.applicability(csv.output, train, folds="fold", engine="local")
    assert {path.name: path.read_bytes() for path in from_csv.cells("cells")} == files


def test_training_rows_beyond_a_number_have_their_mean_distance_from_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(0, 1, (900, 3))
    exact = space.mean_distance(values, 1)
    pairs = [reference.distance(a, b) for i, a in enumerate(values[:60]) for b in values[:i]]
    assert exact == pytest.approx(np.mean([np.linalg.norm(a - b) for i, a in enumerate(values) for b in values[:i]]))
    assert space.mean_distance(values[:60], 1) == pytest.approx(np.mean(pairs), rel=1e-12)
    monkeypatch.setattr(space, "MOST_EXACT", 500)
    assert space.mean_distance(values, 1) == pytest.approx(exact, rel=0.05)
    assert space.mean_distance(values, 1) == space.mean_distance(values, 1) != exact


def test_a_training_row_without_a_fold_is_never_tested_but_trains() -> None:
    values = np.array([[0.0], [1.0], [3.0], [7.0]])
    folds = np.array([0.0, 1.0, np.nan, 1.0])
    assert sorted(space.held_back(values, folds)) == [1.0, 1.0, 4.0]


def test_the_command_reads_weights_from_text_and_file(
    table: gp.Table, train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["applicability", table.output, "--train", train, "--folds", "fold", "--json"]
    code, out, _ = call(capsys, *command, "--weights", "height=2,slope=-0.1,rain=1")
    assert code == 0
    result = json.loads(out)
    assert result["values"]["variables"] == {"height": 2.0, "rain": 1.0}
    assert "Left out, as their weights are 0 or below: slope." in result["findings"]
    (tmp_path / "weights.json").write_text('{"height": 2, "rain": 1}')
    code, out, _ = call(capsys, *command, "--weights", tmp_path / "weights.json")
    assert json.loads(out)["values"]["threshold"] == result["values"]["threshold"]
    code, out, err = call(capsys, *command, "--weights", "height=much")
    assert (code, out) == (2, "")
    assert "--weights height=much are no weights" in err


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"columns": ["heigth"]}, "no variable 'heigth'", "'height'"),
        ({"columns": ["height", "slope"], "weights": {"height": 1}}, "missing: slope", "height, slope"),
        ({"columns": ["height"], "weights": {"height": 1, "slope": 1}}, "not of the model: slope", "height"),
        ({"weights": {"height": 0, "slope": -1}}, "no weight is above 0", "importance"),
        ({"folds": "flod"}, "no column 'flod'", "'fold'"),
        ({"folds": "same"}, "has fewer than 2 folds", "a column of folds"),
        ({"columns": ["constant_here"]}, "no variable", "variables"),
    ],
)
def test_a_mistake_in_the_options_is_named(
    table: gp.Table, train: Path, tmp_path: Path, options: dict[str, Any], message: str, hint: str
) -> None:
    path = tmp_path / "train.parquet"
    pd.read_parquet(train).assign(same=1).to_parquet(path)
    with pytest.raises(SettingsError) as caught:
        gp.applicability(table.output, path, **options)
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("frame", "columns", "message"),
    [
        ({"height": []}, [], "has no rows"),
        ({"depth": [1.0, 2.0]}, [], "has none of the variables"),
        ({"height": [1.0, 2.0]}, ["height", "slope"], "has no column 'slope'"),
        ({"height": [None, None, 4.0]}, [], "have 1 rows with a value in each of height"),
        ({"height": [4.0, 4.0, 4.0]}, [], "have one value only of height"),
        ({"height": ["a", "b"]}, [], "holds string, not numbers"),
    ],
)
def test_a_mistake_in_the_training_data_is_named(
    table: gp.Table, tmp_path: Path, frame: dict[str, Any], columns: list[str], message: str
) -> None:
    pq.write_table(pa.table(frame), tmp_path / "train.parquet")
    with pytest.raises(SettingsError, match=message):
        gp.applicability(table.output, tmp_path / "train.parquet", columns=columns)


def test_a_variable_without_a_value_leaves_nothing_known_and_says_so(tmp_path: Path) -> None:
    grid = north_up(500_000, 5_000_000, 10)
    for name, value in (("level", 3.0), ("empty", np.nan)):
        values = np.full((30, 40), value, "float32") + np.arange(40, dtype="float32")
        write_raster(tmp_path / f"{name}.tif", values, "EPSG:32632", grid)
    layers = [{"name": name, "path": tmp_path / f"{name}.tif"} for name in ("level", "empty")]
    sections = {"run": {"output": tmp_path / "output"}, "grid": {"like": tmp_path / "level.tif"}, "layers": layers}
    output = gp.run(sections, engine="local", progress=False).output
    pq.write_table(pa.table({"level": [1.0, 2.0, 5.0], "empty": [1.0, 4.0, 2.0]}), tmp_path / "train.parquet")
    analysis = gp.applicability(output, tmp_path / "train.parquet")
    assert (analysis.values["nulls"], analysis.values["share_inside"]) == (1200, None)
    assert "No cell has a value in each variable" in analysis.findings[0]
    with pytest.raises(SettingsError, match="has 0 rows with a value in each of empty, too few for 5 folds"):
        gp.folds(output, "cluster", columns=["empty"])
