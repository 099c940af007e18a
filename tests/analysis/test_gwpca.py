"""Geographically weighted components agree with a plain loop over places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from analysed import analysed, table_of_arrays

import geopipe as gp
from geopipe.analysis.methods.coarse import Coarse, CoarseGrid
from geopipe.analysis.methods.gwpca import Gwpca, cross_validation, neighbours
from geopipe.errors import SettingsError
from geopipe.grid.grid import Grid

SHAPE = (20, 24)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """On the left a and b go together, on the right b and c."""
    first, second, third, noise = np.random.default_rng(7).normal(size=(4, *SHAPE))
    left = np.arange(SHAPE[1]) < 12
    fields = {"a": first, "b": np.where(left, first, third) + 0.2 * noise, "c": np.where(left, second, third)}
    return {name: array.astype("f4") for name, array in fields.items()}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray]) -> gp.Table:
    return table_of_arrays(tmp_path_factory.mktemp("gwpca"), arrays)


def plain(values: np.ndarray, points: np.ndarray, bandwidth: int, leave_out: bool) -> tuple[list, list]:
    """Eigenvalues and eigenvectors at each place, by numpy alone."""
    eigenvalues, vectors = [], []
    for i, point in enumerate(points):
        distances = np.sqrt(((points - point) ** 2).sum(axis=1))
        reach = np.sort(distances)[bandwidth - 1]
        weights = np.where(distances < reach, (1 - (distances / reach) ** 2) ** 2, 0)
        if leave_out:
            weights[i] = 0
        own, axes = np.linalg.eigh(np.cov(values.T, aweights=weights, ddof=0))
        eigenvalues.append(own[::-1])
        vectors.append(axes[:, ::-1])
    return eigenvalues, vectors


def standardised(arrays: dict[str, np.ndarray], edge: int) -> tuple[np.ndarray, np.ndarray]:
    """Coarse cells in standard deviations, and their centres in cells."""
    height, width = SHAPE[0] // edge, SHAPE[1] // edge
    blocks = [a.astype(float).reshape(height, edge, width, edge).mean(axis=(1, 3)).ravel() for a in arrays.values()]
    values = np.stack(blocks, axis=1)
    points = np.stack(np.divmod(np.arange(height * width), width), axis=1).astype(float)
    return (values - values.mean(axis=0)) / values.std(axis=0), points


@pytest.mark.parametrize("edge", [1, 2])
def test_components_are_those_of_a_plain_loop(table: gp.Table, arrays: dict[str, np.ndarray], edge: int) -> None:
    result = analysed(Gwpca(bandwidth=40, cells=SHAPE[0] * SHAPE[1] // edge**2), table)
    assert result.values["edge"] == edge
    cells = result.table("cells").to_pandas()
    values, points = standardised(arrays, edge)
    assert (cells[["row", "col"]].to_numpy() == points).all()
    eigenvalues, vectors = plain(values, points, 40, leave_out=False)
    shares = np.array(eigenvalues) / np.sum(eigenvalues, axis=1, keepdims=True)
    assert cells["explained_1"].to_numpy() == pytest.approx(shares[:, 0], abs=1e-9)
    assert cells["explained_2"].to_numpy() == pytest.approx(shares[:, 1], abs=1e-9)
    loadings = cells[["pc1_a", "pc1_b", "pc1_c"]].to_numpy()
    clear = shares[:, 0] - shares[:, 1] > 1e-3
    assert np.abs(loadings[clear]) == pytest.approx(np.abs([axes[:, 0] for axes in vectors])[clear], abs=1e-6)
    assert cells["leading"].tolist() == [("a", "b", "c")[i] for i in np.abs(loadings).argmax(axis=1)]


def test_the_bandwidth_has_the_least_cross_validated_error_on_its_way(
    table: gp.Table, arrays: dict[str, np.ndarray]
) -> None:
    result = analysed(Gwpca(components=1), table)
    errors = result.table("bandwidths").to_pandas()
    best = errors.loc[errors["error"].idxmin()]
    assert result.values["bandwidth"] == best["bandwidth"]
    values, points = standardised(arrays, 1)
    _, vectors = plain(values, points, int(best["bandwidth"]), leave_out=True)
    rest = [value - axes[:, :1] @ (axes[:, :1].T @ value) for value, axes in zip(values, vectors, strict=True)]
    assert best["error"] == pytest.approx((np.array(rest) ** 2).sum(), rel=1e-9)


def test_the_leading_components_differ_from_place_to_place(table: gp.Table) -> None:
    cells = analysed(Gwpca(bandwidth=60), table).table("cells").to_pandas()
    left, right = cells[cells["col"] < 8], cells[cells["col"] > 16]
    assert left["pc1_a"].abs().mean() > 2 * left["pc1_c"].abs().mean()
    assert right["pc1_c"].abs().mean() > 2 * right["pc1_a"].abs().mean()


def test_maps_have_a_place_for_each_coarse_cell_and_none_where_there_is_no_value(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    holes = {name: array.copy() for name, array in arrays.items()}
    for array in holes.values():
        array[:4, :6] = np.nan
    result = analysed(Gwpca(bandwidth=30, cells=120), table_of_arrays(tmp_path, holes))
    leading = result.values["maps"]["leading"]
    assert (len(leading), len(leading[0])) == (10, 12)
    assert leading[1][2] is None
    assert leading[2][3] in (0, 1, 2)
    assert sum(result.values["leading_cells"].values()) == 120 - 6


def test_distances_on_a_geographic_grid_shrink_with_the_latitude() -> None:
    grid = Grid("EPSG:4326", 0, 80, 1, 1, 3, 80)
    cells = np.arange(240)
    order = neighbours(Coarse(CoarseGrid(grid, 1), ("a",), cells, np.ones(240), np.ones((240, 1)))).order
    assert set(order[0, :3].tolist()) == {0, 1, 2}, "at 80 degrees a degree of longitude is a sixth of one of latitude"


def test_a_bandwidth_whose_cells_are_all_the_last_has_no_error() -> None:
    grid = Grid("EPSG:32632", 0, 0, 1, 1, 6, 6)
    values = np.random.default_rng(0).normal(size=(36, 3))
    places = neighbours(Coarse(CoarseGrid(grid, 1), ("a",), np.arange(36), np.ones(36), np.ones((36, 1))))
    assert cross_validation(values, places, 5, 1) == np.inf
    assert 0 < cross_validation(values, places, 20, 1) < (values**2).sum()


def test_too_few_cells_or_variables_are_refused_or_a_finding(tmp_path: Path, table: gp.Table) -> None:
    with pytest.raises(SettingsError, match="gwpca needs at least 5 coarse cells for 3 variables, and 4 have values"):
        analysed(Gwpca(cells=4), table)
    with pytest.raises(SettingsError, match="gwpca_bandwidth = 999 is not from 5 to the 480 coarse cells"):
        analysed(Gwpca(bandwidth=999), table)
    assert "fewer than two variables vary" in analysed(Gwpca(), table, columns=("a",)).findings[0]
