"""The self-organising map: MiniSom is its oracle, from the same start and with the same radii."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from analysed import analysed, cells, table_of_arrays
from hypothesis import given
from hypothesis import strategies as st
from minisom import MiniSom

import geopipe as gp
from geopipe.analysis.methods.som import Som, _Shape
from geopipe.analysis.methods.som_kernels import nearest_two, sums_of_nodes
from geopipe.errors import SettingsError

SHAPE, NODES = (24, 20), (4, 6)
METHOD = Som(*NODES, epochs=8, radius_from=2.0, radius_to=0.5)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """Three variables, of which the last two hang together."""
    rng = np.random.default_rng(3)
    first, second = rng.normal(50, 10, (2, *SHAPE))
    return {"a": first.astype("f4"), "b": second.astype("f4"), "c": (second + rng.normal(0, 5, SHAPE)).astype("f4")}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray]) -> gp.Table:
    return table_of_arrays(tmp_path_factory.mktemp("som"), arrays)


@pytest.fixture(scope="module")
def rows(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Standardised rows of the table, (n, 3)."""
    values = np.stack([array.ravel() for array in arrays.values()], axis=1).astype(float)
    return np.asarray((values - values.mean(axis=0)) / values.std(axis=0))


def minisom(rows: np.ndarray, learning_rate: float, falls_to: float) -> MiniSom:
    """A map of MiniSom that starts on the plane of the first two components, as ours does."""

    def sigma(start: float, epoch: int, epochs: int) -> float:
        return start * (falls_to / start) ** (epoch / max(epochs - 1, 1))

    peer = MiniSom(*NODES, rows.shape[1], sigma=2.0, learning_rate=learning_rate)
    peer._sigma_decay_function, peer._learning_rate_decay_function = sigma, lambda rate, step, steps: rate
    values, axes = np.linalg.eigh(np.corrcoef(rows.T))
    down, across = np.meshgrid(np.linspace(-1, 1, NODES[0]), np.linspace(-1, 1, NODES[1]), indexing="ij")
    first, second = axes[:, -1] * np.sqrt(values[-1]), axes[:, -2] * np.sqrt(values[-2])
    peer._weights = across[..., np.newaxis] * first + down[..., np.newaxis] * second
    return peer


def test_the_map_is_that_of_minisoms_batch_algorithm(table: gp.Table, rows: np.ndarray) -> None:
    result = analysed(METHOD, table)
    peer = minisom(rows, 1.0, 0.5)
    peer.train_batch_offline(rows, METHOD.epochs)
    assert result.values["quantisation_error"] == pytest.approx(peer.quantization_error(rows), rel=1e-4)
    assert result.values["topographic_error"] == pytest.approx(peer.topographic_error(rows), abs=2 / len(rows))
    hits = np.array(result.values["hits"])
    assert sorted(hits.ravel()) == pytest.approx(sorted(peer.activation_response(rows).ravel()), abs=2)
    mirrored = [hits[::down, ::across] for down in (1, -1) for across in (1, -1)]
    apart = [np.abs(one - peer.activation_response(rows)).max() for one in mirrored]
    assert min(apart) <= 2, "the same but for the signs of the components"


def test_the_errors_are_not_worse_than_minisoms_of_single_steps(table: gp.Table, rows: np.ndarray) -> None:
    result = analysed(METHOD, table)
    peer = minisom(rows, 0.5, 0.5)
    peer.train_batch(rows, METHOD.epochs * len(rows))
    assert result.values["quantisation_error"] <= peer.quantization_error(rows)
    assert result.values["topographic_error"] <= peer.topographic_error(rows)


def test_labels_lie_on_the_cells_and_agree_with_the_nodes(
    table: gp.Table, arrays: dict[str, np.ndarray], rows: np.ndarray
) -> None:
    result = analysed(METHOD, table)
    labels, distances = (cells(result, "labels", name, SHAPE) for name in ("node", "distance"))
    nodes = result.table("nodes").to_pandas()
    values = np.stack([array.ravel() for array in arrays.values()], axis=1).astype(float)
    planes = (nodes[["mean_a", "mean_b", "mean_c"]].to_numpy() - values.mean(axis=0)) / values.std(axis=0)
    apart = np.linalg.norm(rows[:, np.newaxis] - planes, axis=2)
    assert distances.ravel() == pytest.approx(apart.min(axis=1), rel=1e-5)
    assert (apart.argmin(axis=1) == labels.ravel()).mean() > 0.99, "ties in float32 alone may differ"
    assert np.bincount(labels.ravel().astype(int), minlength=24).tolist() == nodes["hits"].tolist()
    assert result.values["planes"]["b"] == nodes["mean_b"].to_numpy().reshape(NODES).tolist()


def test_the_u_matrix_is_the_mean_distance_to_the_neighbours(table: gp.Table) -> None:
    result = analysed(Som(2, 3, epochs=3), table)
    planes = np.stack([np.array(result.values["planes"][name]) for name in "abc"], axis=-1)
    counted = result.table("nodes").to_pandas()
    assert result.values["u_matrix"] == counted["u_distance"].to_numpy().reshape(2, 3).tolist()
    deviations = [table.pandas([name])[name].astype(float).std(ddof=0) for name in "abc"]
    corner = planes[0, 0]
    around = [planes[0, 1], planes[1, 0], planes[1, 1]]
    expected = np.mean([np.linalg.norm((node - corner) / deviations) for node in around])
    assert result.values["u_matrix"][0][0] == pytest.approx(expected, rel=1e-5)


def test_inner_nodes_of_a_hexagonal_map_have_six_neighbours() -> None:
    inner = [r * 5 + c for r in (1, 2, 3) for c in (1, 2, 3)]
    assert _Shape(5, 5, "hexagonal").neighbours.sum(axis=1)[inner].tolist() == [6] * 9
    assert _Shape(5, 5, "rectangular").neighbours.sum(axis=1)[inner].tolist() == [8] * 9


@given(st.integers(1, 10**9), st.floats(0.2, 1.0))
def test_the_size_follows_from_rows_and_stays_bounded(count: int, second: float) -> None:
    height, width = Som().size(count, np.array([1.0, second]))
    assert min(height, width) >= 2
    assert height * width <= min(900, max(count, 4))


def test_a_seeded_sample_is_a_start_too(table: gp.Table) -> None:
    first, again, other = (
        analysed(Som(*NODES, epochs=2, start="sample"), table, seed=seed).values["planes"] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_nulls_have_no_node_or_take_the_mean(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    holes = arrays["a"].copy()
    holes[:2, :5] = np.nan
    table = table_of_arrays(tmp_path, arrays | {"a": holes, "same": np.ones(SHAPE, "f4")})
    result = analysed(METHOD, table)
    labels = cells(result, "labels", "node", SHAPE)
    assert np.isnan(labels[:2, :5]).all()
    assert np.isnan(labels).sum() == result.values["rows_left_out"] == 10
    assert result.values["constant"] == ["same"]
    filled = analysed(METHOD, table, nulls="mean")
    assert not np.isnan(cells(filled, "labels", "node", SHAPE)).any()
    assert filled.values["rows_left_out"] == 0


def test_fewer_rows_than_nodes_are_refused(table: gp.Table) -> None:
    with pytest.raises(SettingsError, match="som has 30 x 30 nodes, but only 480 of 480 rows"):
        analysed(Som(30, 30), table)
    with pytest.raises(SettingsError, match="som_width = None are no size"):
        analysed(Som(height=4), table)


def test_a_table_without_a_value_that_varies_has_no_map(tmp_path: Path) -> None:
    table = table_of_arrays(tmp_path, {"a": np.full((4, 4), np.nan, "f4"), "b": np.ones((4, 4), "f4")})
    assert analysed(Som(), table).findings[0] == "there is no map: no row has a value of each variable"
    assert analysed(Som(), table, columns=("b",)).findings[0] == "there is no map: no variable varies"


def test_kernels_agree_with_numpy() -> None:
    rng = np.random.default_rng(0)
    values, nodes = rng.normal(size=(300, 5)), rng.normal(size=(37, 5)).astype("f4")
    scaling = np.stack([rng.normal(size=5), rng.uniform(0.5, 2, 5)])
    laid = np.ascontiguousarray(np.column_stack([nodes, (nodes**2).sum(axis=1) / 2]).T)
    apart = np.linalg.norm(((values - scaling[0]) / scaling[1])[:, np.newaxis] - nodes, axis=2)
    first, second, distances = nearest_two(values, scaling, laid)
    order = apart.argsort(axis=1)
    assert first.tolist() == order[:, 0].tolist()
    assert second.tolist() == order[:, 1].tolist()
    assert distances == pytest.approx(apart.min(axis=1), rel=1e-6)
    sums, distance = sums_of_nodes(values, scaling, laid)
    assert sums[:, -1].tolist() == np.bincount(order[:, 0], minlength=37).tolist()
    assert sums[:, :-1].sum(axis=0) == pytest.approx(((values - scaling[0]) / scaling[1]).sum(axis=0))
    assert distance[0] == pytest.approx(apart.min(axis=1).sum())
