"""Correlations: by hand, against numpy, scipy and pandas, and of tables that have none."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory import outcome, rows_of

import geopipe as gp
from geopipe.analysis.contract import Subject
from geopipe.analysis.drive import analyze
from geopipe.analysis.methods.correlation import Correlation, vif
from geopipe.analysis.methods.crosses import MOST_CLASSES
from geopipe.engine.passes import passes

NUMBERS = ("height", "warmth", "rain")


def test_a_table_small_enough_to_compute_by_hand() -> None:
    rows = rows_of({"a": [1.0, 2, 3, 4], "b": [1.0, 4, 9, 16], "one": [1, 1, 2, 2], "two": [5, 5, 5, 6]})
    values = outcome(Correlation(), rows, classes=("one", "two")).values
    assert values["pearson"][0][1] == pytest.approx(25 / np.sqrt(5 * 129))
    assert values["spearman"][0][1] == pytest.approx(1)
    assert values["vif"]["a"] == values["vif"]["b"] == pytest.approx(1 / (1 - 625 / 645))
    assert values["cramers_v"] == [{"variable": "one", "other": "two", "v": pytest.approx(np.sqrt(1 / 3)), "rows": 4}]
    ratios = {(row["variable"], row["other"]): row["eta"] for row in values["eta"]}
    assert ratios["one", "a"] == pytest.approx(np.sqrt(4 / 5))
    assert ratios["two", "a"] == pytest.approx(np.sqrt(3 / 5))


def test_a_table_of_tiles_agrees_with_pandas_and_scipy(table: gp.Table, folder: Path) -> None:
    with passes("local") as local:
        answer = analyze(Correlation(sample=5000), Subject(table, (*NUMBERS, "cover")), local, folder)
    whole = table.pandas([*NUMBERS, "cover"]).astype(float)
    frame = whole[list(NUMBERS)].dropna()
    assert np.allclose(answer.values["pearson"], frame.corr(), rtol=0, atol=1e-9)
    assert np.allclose(answer.values["spearman"], frame.corr("spearman"), atol=4 / np.sqrt(5000))
    inverse = np.diagonal(np.linalg.inv(frame.corr()))
    assert np.allclose(list(answer.values["vif"].values()), inverse, rtol=1e-6)
    assert answer.values["rows_left_out"] == len(whole) - len(frame) == answer.values["nulls"]["rain"]
    for row in answer.table("eta").to_pylist():
        groups = [part.dropna().to_numpy() for _, part in whole.groupby("cover")[row["other"]]]
        joined = np.concatenate(groups)
        between = sum(len(part) * (part.mean() - joined.mean()) ** 2 for part in groups)
        assert row["eta"] == pytest.approx(np.sqrt(between / (joined.var() * len(joined))), abs=1e-9)
        assert row["rows"] == len(joined)


def test_classes_agree_with_scipy() -> None:
    rng = np.random.default_rng(4)
    one = rng.integers(0, 5, 3000)
    other = np.where(rng.random(3000) < 0.6, one // 2, rng.integers(0, 3, 3000))
    values = outcome(Correlation(), rows_of({"one": one, "other": other}), ("one", "other"), cuts=(100, 1700)).values
    counts = np.histogram2d(one, other, (5, 3))[0].astype(int)
    expected = scipy.stats.contingency.association(counts, method="cramer")
    assert values["cramers_v"][0]["v"] == pytest.approx(expected, abs=1e-12)


def test_ranks_of_a_sample_that_has_all_rows_are_those_of_scipy() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 9, 500).astype(float), rng.normal(0, 1, 500)
    values = outcome(Correlation(), rows_of({"a": a, "b": b + a}), cuts=(123, 300)).values
    assert values["spearman"][0][1] == pytest.approx(scipy.stats.spearmanr(a, b + a).statistic, abs=1e-12)
    assert values["spearman_rows"] == 500


@settings(max_examples=25)
@given(st.lists(st.integers(0, 400), max_size=6))
def test_where_rows_are_cut_changes_no_more_than_rounding(cuts: list[int]) -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(1000, 3, 400)
    rows = rows_of({"a": a, "b": a + rng.normal(0, 1, 400), "c": rng.integers(0, 4, 400)})
    whole, parts = (outcome(Correlation(), rows, ("c",), cuts=c).values for c in ((), cuts))
    assert np.allclose(parts["pearson"], whole["pearson"], rtol=0, atol=1e-12)
    assert parts["spearman"] == whole["spearman"]
    assert [row["eta"] for row in parts["eta"]] == pytest.approx([row["eta"] for row in whole["eta"]], abs=1e-12)


def test_missing_values_take_the_mean_where_the_rule_says_so() -> None:
    a, b = [1.0, 2, 3, np.nan, 5], [2.0, 1, np.nan, 4, 7]
    dropped, filled = (
        outcome(Correlation(), rows_of({"a": a, "b": b}), nulls=rule).values for rule in ("drop", "mean")
    )
    assert dropped["pearson"][0][1] == pytest.approx(np.corrcoef([1, 2, 5], [2, 1, 7])[0, 1])
    assert filled["pearson"][0][1] == pytest.approx(np.corrcoef([1, 2, 3, 2.75, 5], [2, 1, 3.5, 4, 7])[0, 1])
    assert (dropped["rows_used"], filled["rows_used"]) == (3, 5)
    assert dropped["nulls"] == filled["nulls"] == {"a": 1, "b": 1}


def test_findings_name_pairs_and_variables_above_the_limits() -> None:
    rng = np.random.default_rng(7)
    a, c = rng.normal(0, 1, (2, 900))
    rows = rows_of({"a": a, "near": a + rng.normal(0, 0.1, 900), "c": c})
    findings = outcome(Correlation(), rows).result.findings
    assert findings[0].startswith("a and near: r = 0.99")
    assert re.fullmatch(r"others explain these, with VIF above 10: near \(\d+\.\d\), a \(\d+\.\d\)", findings[1])
    nothing = outcome(Correlation(high=0.999, high_vif=1e6), rows).result.findings
    assert nothing == ("no pair is above 0.999, and no VIF above 1e+06",)
    assert outcome(Correlation(sample=50), rows).values["spearman_rows"] == 50


def test_a_variable_that_is_a_sum_of_others_has_no_vif_and_does_not_spoil_the_rest() -> None:
    rng = np.random.default_rng(3)
    a, b, c = rng.normal(0, 1, (3, 400))
    apart = c + 0.5 * a
    rows = rows_of({"a": a, "b": b, "sum": a + b, "apart": apart})
    answer = outcome(Correlation(), rows)
    assert [answer.values["vif"][name] for name in ("a", "b", "sum")] == [None] * 3
    expected = np.linalg.inv(np.corrcoef([a, b, apart]))[2, 2]
    assert answer.values["vif"]["apart"] == pytest.approx(expected, rel=1e-6)
    assert any("linear combinations" in text and "a, b, sum" in text for text in answer.result.findings)


def test_variance_inflation_is_the_diagonal_of_the_inverse() -> None:
    matrix = np.corrcoef(np.random.default_rng(5).normal(0, 1, (6, 40)))
    assert vif(matrix) == pytest.approx(np.diagonal(np.linalg.inv(matrix)), rel=1e-10)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"a": [1.0, 2, 4], "flat": [3.0, 3, 3]}, "flat is constant"),
        ({"a": [1.0, 2, 4], "empty": [np.nan] * 3}, "empty has no value in any row"),
        ({"a": [np.nan] * 3, "b": [np.nan] * 3}, "b has no value in any row"),
    ],
    ids=["constant", "one without values", "no values at all"],
)
def test_what_has_no_correlation_is_named_and_is_no_number(columns: dict[str, list[float]], expected: str) -> None:
    answer = outcome(Correlation(), rows_of(columns))
    assert answer.values["pearson"][0][1] is None
    assert answer.column("pearson", "r") == [None]
    assert expected in " ".join(answer.result.findings)


def test_one_column_and_no_rows_are_results_without_pairs() -> None:
    alone = outcome(Correlation(), rows_of({"a": [1.0, 2, 4]}))
    assert alone.values["pearson"] == [[1.0]]
    assert len(alone.result.tables["pearson"]) == 0
    nothing = outcome(Correlation(), rows_of({"a": np.zeros(0), "c": np.zeros(0, int)}), classes=("c",))
    assert nothing.values["rows"] == 0
    assert nothing.values["pearson"] == [[None]]


def test_a_column_of_too_many_classes_is_left_out_and_named() -> None:
    rows = rows_of({"c": np.arange(MOST_CLASSES + 1), "d": np.arange(MOST_CLASSES + 1) % 3})
    answer = outcome(Correlation(), rows, classes=("c", "d"), cuts=(600,))
    assert answer.values["cramers_v"] == []
    assert f"c has more than {MOST_CLASSES:,} classes, and is left out" in answer.result.findings
