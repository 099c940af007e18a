"""K-means against scikit-learn from the same seeds, its labels on the cells, and tables that have no clusters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_memory import Outcome, outcome, rows_of
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import StandardScaler

import geopipe as gp
from geopipe.analysis.contract import Subject
from geopipe.analysis.drive import analyze
from geopipe.analysis.methods.kmeans import Kmeans
from geopipe.analysis.methods.lloyd import assign, silhouettes
from geopipe.analysis.methods.starts import moved_centres
from geopipe.engine.passes import passes
from geopipe.errors import SettingsError

NUMBERS = ("height", "warmth", "rain")


def blobs(sizes: tuple[int, ...] = (50, 200, 100), spread: float = 0.5) -> dict[str, np.ndarray]:
    """Rows around as many points as there are sizes, in two variables of different units."""
    rng = np.random.default_rng(6)
    places = [(0, 0), (8, 0), (0, 8), (8, 8)]
    parts = [rng.normal(place, spread, (size, 2)) for place, size in zip(places, sizes, strict=False)]
    values = rng.permutation(np.concatenate(parts))
    return {"a": values[:, 0] * 100, "b": values[:, 1] + 7}


def standardised(columns: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(StandardScaler().fit_transform(np.column_stack(list(columns.values()))))


def seeds(answer: Outcome, columns: dict[str, np.ndarray]) -> np.ndarray:
    """The centres from which all rows were taken, standardised."""
    values = np.column_stack(list(columns.values()))
    table = np.array([answer.column("seeds", f"cluster{c + 1}") for c in range(answer.values["k"])])
    return np.asarray((table - values.mean(axis=0)) / values.std(axis=0))


def test_clusters_are_those_of_scikit_learn_from_the_same_seeds() -> None:
    columns = {"a": np.random.default_rng(1).normal(0, 1, 3000)} | blobs((1000, 1500, 500), spread=3)
    answer = outcome(Kmeans(k=5, sample=400, starts=1, tolerance=0), rows_of(columns), cuts=(700, 2100))
    prepared = standardised(columns)
    oracle = KMeans(5, init=seeds(answer, columns), n_init=1, tol=0).fit(prepared)
    assert answer.values["inertia"] == pytest.approx(oracle.inertia_, rel=1e-9)
    assert answer.cells is not None
    labels = answer.cells["cluster"].to_numpy()
    assert len(set(zip(labels.tolist(), oracle.labels_.tolist(), strict=True))) == 5
    assert answer.values["sizes"] == np.bincount(labels)[1:].tolist() == sorted(answer.values["sizes"], reverse=True)
    centre = [columns[name][labels == 2].mean() for name in columns]
    assert answer.column("centres", "cluster2") == pytest.approx(centre)
    assert answer.column("clusters", "rows") == answer.values["sizes"]
    assert answer.values["is_converged"]


def test_the_number_of_clusters_is_that_of_the_largest_silhouette() -> None:
    columns = blobs()
    answer = outcome(Kmeans(k_max=6), rows_of(columns))
    assert answer.values["k"] == 3
    assert list(answer.values["silhouettes"]) == ["2", "3", "4", "5", "6"]
    assert answer.values["sizes"] == [200, 100, 50]
    assert answer.cells is not None
    expected = silhouette_score(standardised(columns), answer.cells["cluster"].to_numpy())
    assert answer.values["silhouettes"]["3"] == pytest.approx(expected, abs=1e-9)
    assert list(outcome(Kmeans(k_max=2), rows_of(columns)).values["silhouettes"]) == ["2"]


def test_silhouettes_count_a_row_alone_as_nothing() -> None:
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(0, 1, (60, 3)), rng.integers(0, 4, (2, 60)).astype(np.uint16)
    labels[1] = np.minimum(labels[1], 2)
    labels[1, 7] = 3
    expected = [silhouette_score(rows, one) for one in labels]
    assert silhouettes(rows, labels, np.array([4, 4])) == pytest.approx(expected, abs=1e-12)


@given(st.integers(1, 700), st.integers(1, 5), st.integers(1, 6), st.integers(0, 99))
def test_each_row_goes_to_its_nearest_centre_and_sums_are_those_of_numpy(n: int, d: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, means, scales = rng.normal(50, 9, (n, d)), rng.normal(50, 1, d), rng.uniform(0.1, 1, d)
    centres, labels = rng.normal(0, 1, (k, d)), np.empty(n, np.uint16)
    sums = assign(values, means, scales, centres, labels)
    rows = (values - means) * scales
    squares = ((rows[:, None] - centres) ** 2).sum(axis=2)
    assert np.allclose(squares[np.arange(n), labels], squares.min(axis=1), rtol=1e-9)
    assert sums[:, 0].tolist() == np.bincount(labels, minlength=k).tolist()
    assert sums[:, 1].sum() == pytest.approx(squares.min(axis=1).sum(), rel=1e-9)
    for c in range(k):
        assert np.allclose(sums[c, 2:], rows[labels == c].sum(axis=0), atol=1e-9)


def test_a_centre_without_rows_goes_to_the_farthest_row_of_the_sample() -> None:
    centres = np.array([[0.0, 0.0], [100.0, 100.0]])
    sample = np.array([[0.0, 1.0], [1.0, 0.0], [9.0, 9.0]])
    sums = np.array([[2.0, 0.5, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    assert moved_centres(sums, centres, sample).tolist() == [[0.5, 0.5], [9.0, 9.0]]


def test_labels_are_on_the_cells_of_the_table_and_null_where_a_value_is_missing(table: gp.Table, folder: Path) -> None:
    with passes("local") as local:
        answer = analyze(Kmeans(k=3), Subject(table, (*NUMBERS, "cover")), local, folder)
    labels, whole = pq.read_table(answer.cells("labels")), table.arrow(["row", "col", "rain"])
    assert labels.select(["row", "col"]).equals(whole.select(["row", "col"]))
    assert labels.schema.field("cluster").type == pa.uint8()
    assert labels["cluster"].is_null().equals(whole["rain"].is_null())
    counts = np.bincount(labels["cluster"].drop_null().to_numpy())
    assert counts.tolist() == [0, *answer.values["sizes"]], "clusters are numbered from 1 on, the largest first"
    assert (
        sum(answer.values["sizes"])
        == answer.values["rows_used"]
        == answer.values["rows"] - labels["cluster"].null_count
    )


def test_the_mean_fills_what_is_missing_where_the_rule_says_so() -> None:
    columns = blobs()
    columns["a"][::7] = np.nan
    answer = outcome(Kmeans(k=3), rows_of(columns), nulls="mean")
    assert answer.cells is not None
    assert answer.cells["cluster"].null_count == 0
    assert answer.values["rows_left_out"] == 0


def test_steps_end_at_the_tolerance_or_after_some_passes() -> None:
    rng = np.random.default_rng(8)
    rows = rows_of({"a": rng.random(2000), "b": rng.random(2000)})
    exact, loose, cut = (
        outcome(Kmeans(k=8, sample=60, starts=1, **options), rows)
        for options in ({"tolerance": 0}, {"tolerance": 0.5}, {"tolerance": 0, "max_iterations": 2})
    )
    assert exact.values["steps"] > loose.values["steps"]
    assert exact.values["is_converged"]
    assert loose.values["is_converged"]
    assert (cut.values["steps"], cut.values["is_converged"]) == (2, False)
    assert "the centres still moved after kmeans_max_iterations = 2 passes" in cut.result.findings
    assert exact.values["inertia"] < cut.values["inertia"]


def test_more_starts_are_not_worse_on_the_sample() -> None:
    rng = np.random.default_rng(9)
    rows = rows_of({"a": rng.random(900), "b": rng.random(900)})
    one, many = (outcome(Kmeans(k=12, starts=n), rows).values["inertia"] for n in (1, 12))
    assert many < one


def test_a_constant_variable_is_left_out_and_named() -> None:
    answer = outcome(Kmeans(k=3), rows_of(blobs() | {"flat": np.full(350, 2.0)}))
    assert answer.values["variables"] == ["a", "b"]
    assert "flat is constant, and left out" in answer.result.findings


@pytest.mark.parametrize(
    ("columns", "k", "message"),
    [
        ({"a": [1.0, 2.0, 3.0]}, 4, "kmeans_k = 4 is more than the 3 different rows in 3 rows with all values"),
        ({"a": [1.0, 1.0, 1.0, 5.0]}, 3, "kmeans_k = 3 is more than the 2 different rows in 4 rows with all values"),
        ({"a": [2.0, 2.0]}, None, "kmeans finds no clusters: no variable varies"),
        ({"a": [1.0, np.nan], "b": [np.nan, 3.0]}, 2, "kmeans finds no clusters: no row has all values"),
        ({"a": [1.0, 2.0], "b": [np.nan, np.nan]}, 2, "no row has all values\n  hint: b has no value in any row"),
        ({"a": np.zeros(0)}, 2, "no row has all values\n  hint: the table has 0 rows"),
    ],
    ids=["fewer rows", "fewer different rows", "constant", "gaps everywhere", "all nulls", "no rows"],
)
def test_tables_without_so_many_clusters_are_refused(
    columns: dict[str, list[float]], k: int | None, message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        outcome(Kmeans(k=k), rows_of(columns))
    assert message in str(caught.value)


def test_many_clusters_have_labels_of_16_bits() -> None:
    answer = outcome(Kmeans(k=300, starts=1), rows_of({"a": np.arange(900.0)}))
    assert answer.cells is not None
    assert answer.cells.schema.field("cluster").type == pa.uint16()
    assert len(set(answer.cells["cluster"].to_pylist())) == 300
