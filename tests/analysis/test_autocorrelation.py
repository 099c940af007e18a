"""Moran's I agrees with esda across tiles and holes; a variogram agrees with one over all pairs."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analysed import analysed, table_of_arrays
from esda import Moran
from hypothesis import given
from hypothesis import strategies as st
from libpysal.weights import W
from scipy.ndimage import gaussian_filter

import geopipe as gp
from geopipe.analysis.methods.autocorrelation import Autocorrelation
from geopipe.analysis.methods.neighbours import STEPS, sums_of_pairs
from geopipe.analysis.methods.variogram import Scale, empirical, fitted
from geopipe.errors import SettingsError

TALL, WIDE = (516, 11), (11, 516)
"""Shapes of two tiles each: one above the other, and side by side."""


def surface(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """A smooth surface with holes."""
    rng = np.random.default_rng(seed)
    values = (gaussian_filter(rng.normal(size=shape), 3) * 10 + 100).astype("f4")
    values[rng.random(shape) < 0.1] = np.nan
    values[508:514, 3:5] = np.nan
    return np.asarray(values)


def morans_by_esda(array: np.ndarray, lag: int, contiguity: str, weights: str) -> Moran:
    """Moran's I of the cells that have a value, from a dictionary of their neighbours."""
    number = np.full(array.shape, -1)
    number[~np.isnan(array)] = np.arange((~np.isnan(array)).sum())
    padded = np.pad(number, lag, constant_values=-1)
    neighbours: dict[int, list[int]] = {}
    for i, j in zip(*np.nonzero(number >= 0), strict=True):
        around = (int(padded[i + lag + down * lag, j + lag + right * lag]) for down, right in STEPS[contiguity])
        neighbours[int(number[i, j])] = [cell for cell in around if cell >= 0]
    values = array[~np.isnan(array)].astype(float)
    return Moran(values, W(neighbours, silence_warnings=True), {"row": "r", "binary": "b"}[weights], permutations=0)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return {"tall": surface(TALL), "wide": surface(WIDE)}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray]) -> dict[str, gp.Table]:
    """Tables with a row for every cell: `b` has no holes."""
    fields = {name: {"a": array, "b": np.ones(array.shape, "f4")} for name, array in arrays.items()}
    return {name: table_of_arrays(tmp_path_factory.mktemp(name), fields[name]) for name in arrays}


@pytest.mark.parametrize("shape", ["tall", "wide"])
@pytest.mark.parametrize("contiguity", ["queen", "rook"])
@pytest.mark.parametrize("weights", ["row", "binary"])
def test_morans_i_is_that_of_esda_across_tiles_and_holes(
    tables: dict[str, gp.Table], arrays: dict[str, np.ndarray], shape: str, contiguity: Any, weights: Any
) -> None:
    result = analysed(Autocorrelation((1, 3), contiguity, weights, pairs=50), tables[shape], columns=("a",))
    for line in result.values["moran"]["a"]:
        peer = morans_by_esda(arrays[shape], line["lag"], contiguity, weights)
        assert line["i"] == pytest.approx(peer.I, rel=1e-6)
        assert line["expected"] == pytest.approx(peer.EI, rel=1e-9)
        assert line["z_normal"] == pytest.approx(peer.z_norm, rel=1e-6)
        assert line["z_random"] == pytest.approx(peer.z_rand, rel=1e-6)
    assert result.values["nulls"] == {"a": np.isnan(arrays[shape]).sum()}


@given(st.integers(1, 3), st.sampled_from(sorted(STEPS)), st.booleans(), st.integers(0, 10**6))
def test_sums_over_neighbours_do_not_depend_on_how_cells_are_cut(
    lag: int, contiguity: str, standardised: bool, seed: int
) -> None:
    rng, margin = np.random.default_rng(seed), 6
    plane = np.full((9 + 2 * margin, 8 + 2 * margin), np.nan)
    plane[margin:-margin, margin:-margin] = np.where(rng.random((9, 8)) < 0.7, rng.normal(size=(9, 8)), np.nan)
    steps = np.array(STEPS[contiguity])
    whole = sums_of_pairs(plane, margin, lag, steps, standardised)
    cut = int(rng.integers(1, 8))
    parts = plane[: 2 * margin + cut], plane[cut:]
    assert sum(sums_of_pairs(part, margin, lag, steps, standardised) for part in parts) == pytest.approx(whole)


def test_a_checkerboard_is_unlike_its_neighbours_and_like_the_next_but_one(tmp_path: Path) -> None:
    board = (np.indices((8, 8)).sum(axis=0) % 2).astype("f4")
    result = analysed(Autocorrelation((1, 2), "rook"), table_of_arrays(tmp_path, {"a": board}))
    assert [line["i"] for line in result.values["moran"]["a"]] == pytest.approx([-1, 1])


def test_the_mean_in_place_of_a_null_is_a_cell_without_deviation(tmp_path: Path) -> None:
    array = surface((12, 12))
    table = table_of_arrays(tmp_path, {"a": array, "b": np.ones((12, 12), "f4")})
    result = analysed(Autocorrelation((1,)), table, nulls="mean")
    peer = morans_by_esda(np.where(np.isnan(array), np.nanmean(array.astype(float)), array), 1, "queen", "row")
    assert result.values["moran"]["a"][0]["i"] == pytest.approx(peer.I, rel=1e-6)
    assert result.values["cells"]["a"] == 144
    assert result.values["nulls"] == {"a": np.isnan(array).sum(), "b": 0}


def test_a_variogram_of_a_sample_agrees_with_that_of_all_pairs(tables: dict[str, gp.Table]) -> None:
    rows = tables["tall"].pandas(["row", "col", "a"]).dropna().sample(1500, random_state=0)
    scale = Scale(tables["tall"].grid)
    cells, values = rows[["row", "col"]].to_numpy(), rows["a"].to_numpy(float)
    apart = np.hypot(*np.moveaxis(cells[:, np.newaxis] - cells, 2, 0)) * 10
    squares = (values[:, np.newaxis] - values) ** 2
    variogram = analysed(Autocorrelation(pairs=4000), tables["tall"]).values["variograms"]["a"]
    for low, high in pairwise(scale.edges):
        inside = (apart >= low) & (apart < high)
        at = [i for i, distance in enumerate(variogram["distance"]) if low <= distance < high]
        if at and variogram["pairs"][at[0]] > 500:
            assert variogram["semivariance"][at[0]] == pytest.approx(squares[inside].mean() / 2, rel=0.2)


@given(st.lists(st.tuples(st.floats(0.5, 40), st.floats(0, 9) | st.just(float("nan"))), min_size=1, max_size=30))
def test_classes_of_distance_are_means_of_their_pairs(pairs: list[tuple[float, float]]) -> None:
    edges = np.array([1.0, 2, 4, 8, 16, 32])
    distances, squares = np.array(pairs).T
    means, semivariances, counts = empirical(distances, squares, edges)
    classes = [(distances >= low) & (distances < high) & np.isfinite(squares) for low, high in pairwise(edges)]
    full = [kept for kept in classes if kept.any()]
    assert counts.tolist() == [kept.sum() for kept in full]
    assert means == pytest.approx([distances[kept].mean() for kept in full])
    assert semivariances == pytest.approx([squares[kept].mean() / 2 for kept in full])


@pytest.mark.parametrize("model", ["exponential", "spherical"])
def test_a_model_comes_back_from_its_own_curve(model: str) -> None:
    distances = np.geomspace(10, 3000, 16)
    part = np.minimum(distances / 700, 1)
    curve = 1 - np.exp(-3 * distances / 700) if model == "exponential" else 1.5 * part - 0.5 * part**3
    fit = fitted(distances, 2 + 5 * curve, np.full(16, 100))
    assert (fit["model"], fit["reason"]) == (model, None)
    assert [fit["nugget"], fit["sill"], fit["range"]] == pytest.approx([2, 7, 700], rel=1e-3)


def test_a_variogram_that_is_flat_or_never_ends_has_no_range() -> None:
    distances = np.geomspace(10, 3000, 16)
    wobble = np.random.default_rng(0).normal(0, 0.05, 16)
    assert "does not rise" in fitted(distances, 1 + wobble, np.full(16, 100))["reason"]
    assert "longer than" in fitted(distances, distances, np.full(16, 100))["reason"]


def test_the_longest_range_proposes_blocks_in_the_unit_of_the_grid(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    fields = {name: gaussian_filter(rng.normal(size=(150, 150)), s).astype("f4") for name, s in (("a", 2), ("b", 5))}
    sizes = {}
    for crs in ("EPSG:32632", "EPSG:4326"):
        (tmp_path / crs[5:]).mkdir()
        values = analysed(Autocorrelation(), table_of_arrays(tmp_path / crs[5:], fields, crs)).values
        assert values["block_size_of"] == "b"
        assert values["unit"] == "m"
        assert values["variograms"]["b"]["range"] > values["variograms"]["a"]["range"]
        sizes[crs] = values["block_size"]
    assert 100 < sizes["EPSG:32632"] == values_of_range(tmp_path / "32632", "b") < 500
    assert 0.1 < sizes["EPSG:4326"] < 1, "degrees"


def values_of_range(folder: Path, name: str) -> float:
    result = json.loads((folder / "output/analysis/autocorrelation/result.json").read_bytes())
    return float(result["values"]["variograms"][name]["range"])


def test_a_constant_an_empty_and_a_single_cell_are_findings(tmp_path: Path) -> None:
    arrays = {"same": np.full((5, 5), 0.1, "f4"), "none": np.full((5, 5), np.nan, "f4")}
    result = analysed(Autocorrelation(), table_of_arrays(tmp_path, arrays))
    assert result.values["moran"]["same"][0] == {
        "lag": 1, "i": None, "expected": None, "z_normal": None, "z_random": None
    }  # fmt: skip
    assert "same is constant or has no value: it has no Moran's I" in result.findings
    assert "none is constant or has no value: it has no Moran's I" in result.findings
    assert result.values["block_size"] is None
    (tmp_path / "one").mkdir()
    one = analysed(Autocorrelation(), table_of_arrays(tmp_path / "one", {"a": np.ones((1, 1), "f4")}))
    assert "there is no variogram: the grid is too small, or no variable varies" in one.findings


def test_classes_alone_are_refused(tmp_path: Path) -> None:
    table = table_of_arrays(tmp_path, {"cover": np.ones((4, 4), "u1")})
    with pytest.raises(SettingsError, match="autocorrelation needs numbers, and the columns have none"):
        analysed(Autocorrelation(), table)
