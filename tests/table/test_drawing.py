"""Samples of a table by class, over space and away from points: what they promise, whatever tiles and formats are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import landscape
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from landscape import CELL, LEFT, RARE, TOP
from scipy.spatial import cKDTree

import geopipe as gp
from geopipe.errors import SettingsError

LAYOUTS: dict[str, dict[str, Any]] = {
    "larger tiles": {"resampling": {"window_size": 1024}},
    "in folders by class": {"export": {"partition_by": "cover"}},
    "one csv": {"export": {"formats": ["csv"], "csv_files": "one"}},
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> gp.Table:
    return landscape.table(tmp_path_factory.mktemp("landscape"))


@pytest.fixture(scope="module", params=LAYOUTS)
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> gp.Table:
    return landscape.table(tmp_path_factory.mktemp("other"), **LAYOUTS[request.param])


def in_order(rows: pa.Table) -> pa.Table:
    return rows.sort_by([("row", "ascending"), ("col", "ascending")])


def counts(rows: pa.Table, column: str) -> dict[Any, int]:
    return pd.Series(rows[column].to_pylist()).value_counts().to_dict()


def test_drawn_rows_depend_on_the_seed_alone_and_not_on_tiles_or_formats(table: gp.Table, other: gp.Table) -> None:
    ways = [{"by": "stratified", "classes": "cover"}, {"by": "spatial"}]
    columns = ["row", "col", "height", "cover"]
    for way in ways:
        rows = in_order(table.sample(300, 5, columns, **way))
        assert rows.num_rows == 300
        assert rows.equals(in_order(other.sample(300, 5, columns, **way)))
        assert not rows.equals(in_order(table.sample(300, 6, columns, **way)))
        assert rows.select(["row", "col"]).group_by(["row", "col"]).aggregate([]).num_rows == 300
    presences = {"row": [3, 400], "col": [9, 77]}
    rows = in_order(table.background(200, presences, 500.0, 5, columns))
    assert rows.equals(in_order(other.background(200, presences, 500.0, 5, columns)))


def test_a_stratified_sample_has_as_many_of_each_class_and_all_of_a_rare_one(table: gp.Table) -> None:
    rows = table.sample(400, 1, ["cover"], by="stratified", classes="cover")
    assert counts(rows, "cover") == {RARE: 30, 1: 124, 2: 123, 3: 123}


def test_a_proportional_sample_has_the_shares_of_the_classes(table: gp.Table) -> None:
    every = counts(table.arrow(["cover"]), "cover")
    every.pop(np.nan, None)
    total = sum(n for value, n in every.items() if value == value)
    rows = counts(table.sample(1000, 1, ["cover"], "stratified", "cover", proportional=True), "cover")
    assert sum(rows.values()) == 1000
    assert all(abs(rows.get(value, 0) - 1000 * every[value] / total) < 1 for value in (1, 2, 3, RARE))


def test_a_stratum_gives_each_of_its_rows_the_same_chance(table: gp.Table) -> None:
    """Of the 30 cells of the rare class, 10 each time: each comes in a third of 16 samples."""
    times = np.zeros(30)
    for seed in range(16):
        rows = table.sample(40, seed, ["col", "cover"], by="stratified", classes="cover").to_pandas()
        times[rows.col[rows.cover == RARE] - 30] += 1
    assert times.sum() == 160
    assert (np.abs(times - 16 / 3) < 4 * np.sqrt(16 * 2 / 9)).all()


def test_a_spatial_sample_is_more_even_than_a_random_one_and_has_each_row_with_the_same_chance(
    table: gp.Table,
) -> None:
    def nearest(rows: pa.Table) -> float:
        places = np.column_stack([rows["row"].to_numpy(), rows["col"].to_numpy()])
        return float(np.median(cKDTree(places).query(places, k=2)[0][:, 1]))

    cells, spread = np.zeros((4, 4)), []
    for seed in range(16):
        spatial = table.sample(200, seed, ["row", "col"], by="spatial")
        spread.append((nearest(spatial), nearest(table.sample(200, seed, ["row", "col"]))))
        np.add.at(cells, (spatial["row"].to_numpy() // 130, spatial["col"].to_numpy() // 135), 1)
    evenly, randomly = np.mean(spread, axis=0)
    assert evenly > 1.25 * randomly
    assert cells.sum() == 3200
    assert (np.abs(cells / 16 - 12.5) < 1.7).all()  # of random samples one in 20 is off by more, of each cell


def test_a_sample_of_more_rows_than_there_are_has_all_of_them(table: gp.Table) -> None:
    everything = table.arrow(["row", "col"])
    assert table.sample(10**7, 1, ["row", "col"], by="spatial").equals(everything)
    assert table.background(10**7, {"x": [0.0], "y": [0.0]}, 0.0, 1, ["row", "col"]).equals(everything)
    classes = table.sample(10**7, 1, ["cover"], by="stratified", classes="cover")
    assert classes.num_rows == table.rows - 64


def test_background_is_away_from_every_presence_and_reaches_up_to_the_distance(table: gp.Table) -> None:
    rng = np.random.default_rng(1)
    presences = pd.DataFrame({"x": LEFT + rng.uniform(0, 5400, 9), "y": TOP - rng.uniform(0, 5200, 9)})
    rows = table.background(10**6, presences, distance=403.0, seed=1, columns=["x", "y"]).to_pandas()
    every = table.pandas(["x", "y"])
    away = np.hypot(*(every[axis].to_numpy()[:, None] - presences[axis].to_numpy() for axis in "xy")).min(1)
    assert len(rows) == np.count_nonzero(away >= 403.0)
    assert set(map(tuple, rows.to_numpy())) == set(map(tuple, every[away >= 403.0].to_numpy()))


def test_background_on_a_geographic_grid_counts_metres(tmp_path: Path) -> None:
    table = landscape.table(tmp_path, crs="EPSG:4326")
    x, y = 12.7, 57.4
    rows = table.background(10**6, {"x": [x], "y": [y]}, distance=50_000, columns=["x", "y"]).to_pandas()
    every = table.pandas(["x", "y"])
    one, other = np.radians(every), np.radians([x, y])  # haversines
    half = np.sin((one.y - other[1]) / 2) ** 2 + np.cos(one.y) * np.cos(other[1]) * np.sin((one.x - other[0]) / 2) ** 2
    away = 2 * 6_371_008.8 * np.arcsin(np.sqrt(half))
    assert len(rows) == np.count_nonzero(away >= 50_000)


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ({"by": "clusters"}, "'clusters' is not known", '"spatial"'),
        ({"by": "stratified"}, "does not go with classes = None", "give both"),
        ({"classes": "cover"}, "by = 'random' does not go with", "give both"),
        ({"by": "stratified", "classes": "covr"}, "no column 'covr'", "'cover'"),
        ({"by": "stratified", "classes": "height"}, "more than 10,000 values", "a column of classes"),
        ({"n": -1, "by": "spatial"}, "n = -1 is below 0", "number of rows"),
    ],
)
def test_a_mistake_in_a_sample_is_named(table: gp.Table, arguments: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        table.sample(**({"n": 5} | arguments))
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("presences", "distance", "message"),
    [
        ({"lon": [1.0], "lat": [2.0]}, 5, "neither row and col nor x and y"),
        ({"x": [1.0, np.nan], "y": [2.0, 3.0]}, 5, "column x lacks a number in 1 rows"),
        ({"x": ["a"], "y": [2.0]}, 5, "does not hold numbers"),
        ({"x": [], "y": []}, 5, "has no point"),
        ({"x": [1.0], "y": [2.0, 3.0]}, 5, "has 1 of x and 2 of y"),
        ({"x": [1.0], "y": [2.0]}, -CELL, "not both 0 or more"),
    ],
)
def test_a_mistake_in_presences_is_named(table: gp.Table, presences: Any, distance: float, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        table.background(5, presences, distance)
