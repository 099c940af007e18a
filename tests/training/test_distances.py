"""Nearest-neighbour distances and distance matching, beside plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from geopipe.errors import SettingsError
from geopipe.grid.distances import arcs, chord, positions
from geopipe.training.clusters import kmeans
from geopipe.training.distances import Neighbourhood
from geopipe.training.knndm import Clustering, at_random, match

UTM = "EPSG:32632"


def clumps(n: int, seed: int) -> np.ndarray:
    """Points around five places of a square of 100 m."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 100, (5, 2))[rng.integers(5, size=n)] + rng.normal(0, 1.5, (n, 2))


def square(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 100, (n, 2))


@given(st.integers(3, 90), st.integers(2, 6), st.integers(0, 999), st.booleans())
@settings(max_examples=40)
def test_distances_between_folds_are_those_of_plain_loops(n: int, k: int, seed: int, coincide: bool) -> None:
    places = np.round(clumps(n, seed) / 3) * 3 if coincide else clumps(n, seed)  # many points in one place
    folds = at_random(n, min(k, n), np.random.default_rng(seed))
    cells = square(30, seed)
    neighbourhood = Neighbourhood(UTM, places, cells)
    assert np.allclose(neighbourhood.between(folds), reference.to_other_folds(places, folds), rtol=1e-12)
    assert np.allclose(neighbourhood.leave_one_out, reference.to_others(places), rtol=1e-12)
    assert np.allclose(neighbourhood.to_predict, [reference.nearest(cell, places) for cell in cells], rtol=1e-12)
    distances = neighbourhood.between(folds)
    expected = reference.wasserstein(distances.tolist(), neighbourhood.to_predict.tolist())
    assert neighbourhood.mismatch(distances) == pytest.approx(expected, rel=1e-9)


def test_a_fold_larger_than_the_neighbours_that_are_kept_has_its_distances() -> None:
    places = np.concatenate([clumps(150, 1), clumps(20, 2) + 500])
    folds = np.repeat([1, 2], [150, 20])
    distances = Neighbourhood(UTM, places, square(5, 1)).between(folds)
    assert np.allclose(distances, reference.to_other_folds(places, folds), rtol=1e-12)


def test_distances_on_a_sphere_are_great_circles() -> None:
    x, y = np.array([10.0, 10.0, -170.0]), np.array([0.0, 90.0, 0.0])
    places = positions("EPSG:4326", x, y)
    quarter = np.pi / 2 * 6_371_008.8
    chords = np.linalg.norm(places - places[0], axis=1)
    assert np.allclose(arcs("EPSG:4326", chords), [0, quarter, 2 * quarter], rtol=1e-7)
    assert chord("EPSG:4326", quarter) == pytest.approx(chords[1], rel=1e-7)


@pytest.mark.parametrize("clustering", ["hierarchical", "kmeans"])
def test_clustered_points_get_folds_that_are_as_far_apart_as_the_cells(clustering: Clustering) -> None:
    places = Neighbourhood(UTM, clumps(150, 3), square(400, 4))
    matching = match(places, 4, 1, clustering)
    sizes = np.bincount(matching.folds)[1:]
    assert matching.clustering == clustering
    assert matching.clusters is not None
    assert len(sizes) == 4
    assert sizes.min() > 0
    assert sizes.max() <= 75
    randomly = places.between(at_random(150, 4, np.random.default_rng(0)))
    assert places.mismatch(places.between(matching.folds)) < 0.6 * places.mismatch(randomly)
    assert np.array_equal(matching.folds, match(places, 4, 1, clustering).folds)


def test_points_that_are_spread_like_the_cells_get_folds_at_random() -> None:
    matching = match(Neighbourhood(UTM, square(150, 7), square(400, 107)), 5, 1)
    assert (matching.clusters, matching.clustering) == (None, None)
    assert np.bincount(matching.folds)[1:].tolist() == [30] * 5


@pytest.mark.parametrize(
    ("n", "k", "largest", "message"),
    [
        (6, 5, 0.5, "6 points are too few for 5 folds"),
        (50, 2, 0.5, "largest = 0.5 does not fit 2 folds"),
        (50, 5, 0.201, "no clusters of the 50 points give 5 folds"),
    ],
)
def test_what_cannot_be_matched_is_named(n: int, k: int, largest: float, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        match(Neighbourhood(UTM, clumps(n, 3), square(400, 4)), k, 1, largest=largest)


@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 99))
@settings(max_examples=30)
def test_kmeans_ends_where_each_point_is_at_its_nearest_centre_and_each_centre_in_the_middle(
    n: int, k: int, seed: int
) -> None:
    points = np.round(clumps(n, seed))
    run = kmeans(points, k, np.random.default_rng(seed), starts=2)
    squares = ((points[:, None, :] - run.centres) ** 2).sum(axis=2)
    assert len(run.centres) <= k
    assert np.allclose(squares[np.arange(n), run.labels], squares.min(axis=1))
    assert run.inertia == pytest.approx(squares.min(axis=1).sum(), abs=1e-9)
    assert np.allclose(run.centres, [points[run.labels == i].mean(axis=0) for i in range(len(run.centres))])
