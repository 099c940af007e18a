"""Principal components against scikit-learn, and of tables that have none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory import outcome, rows_of
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

import geopipe as gp
from geopipe.analysis.contract import Subject
from geopipe.analysis.drive import analyze
from geopipe.analysis.methods.pca import Pca, principal
from geopipe.engine.passes import passes
from geopipe.errors import SettingsError

NUMBERS = ("height", "warmth", "rain")


def mixed(rows: int = 500, seed: int = 1) -> dict[str, np.ndarray]:
    """Four variables of two fields, in different units."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 1, (2, rows))
    noise = rng.normal(0, 0.3, (4, rows))
    return {"a": a, "b": 100 * (b + noise[1]), "c": a - b + noise[2], "d": 5000 + 7 * (a + noise[3])}


@pytest.mark.parametrize("standardize", [True, False])
def test_components_are_those_of_scikit_learn_but_for_the_sign(standardize: bool) -> None:
    columns = mixed()
    answer = outcome(Pca(standardize=standardize, components=4), rows_of(columns), cuts=(90, 333))
    values = np.column_stack(list(columns.values()))
    prepared = StandardScaler().fit_transform(values) if standardize else values
    oracle = PCA().fit(prepared)
    loadings = np.array([answer.column("loadings", f"pc{i}") for i in range(1, 5)])
    signs = np.sign((loadings * oracle.components_).sum(axis=1, keepdims=True))
    assert np.allclose(loadings * signs, oracle.components_, rtol=0, atol=1e-6)
    assert np.allclose(answer.values["explained_share"], oracle.explained_variance_ratio_, atol=1e-9)
    unbiased = 499 / 500 if standardize else 1.0  # of standardised values geopipe has the correlations' own variances
    assert np.allclose(answer.values["explained_variance"], oracle.explained_variance_ * unbiased)
    assert answer.cells is not None
    scores = np.column_stack([answer.cells[f"pc{i}"].to_numpy() for i in range(1, 5)])
    expected = oracle.transform(prepared) * signs.T
    assert np.allclose(scores, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_the_largest_loading_is_positive_and_of_equal_ones_the_first() -> None:
    for scatter in (
        [[1.0, 0.5], [0.5, 1.0]],
        [[1.0, -0.5], [-0.5, 1.0]],
        [[2.0, 1.0, 0], [1.0, 3.0, 0.3], [0, 0.3, 1]],
    ):
        for axis in principal(np.array(scatter)).loadings.T:
            assert axis[int(np.argmax(np.abs(axis) > np.abs(axis).max() - 1e-9))] > 0


def test_scores_are_on_the_cells_of_the_table_and_null_where_a_value_is_missing(table: gp.Table, folder: Path) -> None:
    with passes("local") as local:
        answer = analyze(Pca(), Subject(table, (*NUMBERS, "cover")), local, folder)
    scores = pq.read_table(answer.cells("scores"))
    whole = table.arrow(["row", "col", *NUMBERS])
    assert scores.select(["row", "col"]).equals(whole.select(["row", "col"]))
    assert scores["pc1"].is_null().equals(whole["rain"].is_null())
    assert scores["pc1"].null_count == answer.values["rows_left_out"] > 0
    assert answer.values["variables"] == list(NUMBERS), "classes are no numbers"
    pc1 = scores["pc1"].drop_null().to_numpy().astype(float)
    assert pc1.var() == pytest.approx(answer.values["explained_variance"][0], rel=1e-5)


def test_the_mean_fills_what_is_missing_where_the_rule_says_so() -> None:
    columns = mixed(50)
    columns["c"][::5] = np.nan
    answer = outcome(Pca(), rows_of(columns), nulls="mean")
    values = np.column_stack(list(columns.values()))
    values[::5, 2] = np.nanmean(columns["c"])
    oracle = PCA().fit(StandardScaler().fit_transform(values))
    assert np.allclose(answer.values["explained_share"], oracle.explained_variance_ratio_, atol=1e-9)
    assert answer.cells is not None
    assert answer.cells["pc1"].null_count == 0


@settings(max_examples=25)
@given(st.lists(st.integers(0, 500), max_size=6))
def test_where_rows_are_cut_changes_no_more_than_rounding(cuts: list[int]) -> None:
    whole, parts = (outcome(Pca(scores=False), rows_of(mixed()), cuts=c).values for c in ((), cuts))
    assert np.allclose(parts["explained_variance"], whole["explained_variance"], rtol=1e-12, atol=1e-12)


def test_as_many_scores_as_are_given_or_reach_95_percent() -> None:
    columns = mixed()
    chosen = outcome(Pca(), rows_of(columns))
    shares = np.cumsum(chosen.values["explained_share"])
    kept = chosen.values["components"]
    assert shares[kept - 1] >= 0.95
    assert kept == 1 or shares[kept - 2] < 0.95
    assert chosen.cells is not None
    assert chosen.cells.column_names == ["row", "col", *(f"pc{i + 1}" for i in range(kept))]
    one = outcome(Pca(components=1), rows_of(columns)).cells
    assert one is not None
    assert one.column_names == ["row", "col", "pc1"]
    assert outcome(Pca(scores=False), rows_of(columns)).cells is None
    with pytest.raises(SettingsError, match="pca_components = 5 is more than the 4 variables"):
        outcome(Pca(components=5), rows_of(columns))


def test_a_constant_variable_is_left_out_and_named() -> None:
    answer = outcome(Pca(components=5), rows_of(mixed() | {"flat": np.full(500, 0.1)}))
    assert answer.values["variables"] == ["a", "b", "c", "d"]
    assert answer.values["components"] == 4
    assert "flat is constant, and left out" in answer.result.findings


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"a": [3.0, 3.0]}, "no variable varies"),
        ({"a": [3.0]}, "no variable varies"),
        ({"a": [np.nan, 1.0], "b": [2.0, np.nan]}, "no row has all values"),
        ({"a": np.zeros(0)}, "no row has all values"),
    ],
    ids=["constant", "one row", "rows with gaps alone", "no rows"],
)
def test_tables_without_components_say_so(columns: dict[str, list[float]], reason: str) -> None:
    answer = outcome(Pca(), rows_of(columns))
    assert answer.values["components"] == 0
    assert answer.result.findings[0].startswith(reason)


def test_one_variable_is_its_own_component() -> None:
    assert outcome(Pca(), rows_of({"a": [1.0, 2, 4]})).values["explained_share"] == [1.0]


def test_classes_alone_are_refused() -> None:
    with pytest.raises(SettingsError, match="pca needs numbers"):
        outcome(Pca(), rows_of({"c": [1, 2]}), classes=("c",))
