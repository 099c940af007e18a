"""Regions hang together, are as many as they should be, and lie on the cells of the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analysed import analysed, cells, table_of_arrays
from scipy.ndimage import label

from geopipe.analysis.methods.regions import Regions
from geopipe.errors import MachineError, SettingsError

SHAPE = (24, 30)
QUADRANTS = np.kron([[1, 2], [3, 4]], np.ones((12, 15)))


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Two variables that tell four quarters apart."""
    noise = np.random.default_rng(1).normal(0, 0.05, (2, *SHAPE))
    return {"a": (QUADRANTS % 2 * 10 + noise[0]).astype("f4"), "b": (QUADRANTS // 3 * 10 + noise[1]).astype("f4")}


def hang_together(regions: np.ndarray) -> bool:
    """Whether the cells of each region touch by their sides."""
    return all(label(regions == number)[1] == 1 for number in np.unique(regions[~np.isnan(regions)]))


def test_skater_finds_the_quarters(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    result = analysed(Regions(k=4, cells=80), table_of_arrays(tmp_path, arrays))
    regions = cells(result, "labels", "region", SHAPE)
    assert regions.tolist() == QUADRANTS.tolist()
    assert result.values["sizes"] == [180] * 4
    assert result.values["explained"] > 0.99
    means = result.table("regions").to_pydict()
    assert means["mean_a"] == pytest.approx([10, 0, 10, 0], abs=0.1)
    assert means["mean_b"] == pytest.approx([0, 0, 10, 10], abs=0.1)


def test_equal_neighbours_are_no_gap(tmp_path: Path) -> None:
    halves = np.repeat([0.0, 1.0], 15)[np.newaxis] * np.ones((24, 1))
    result = analysed(Regions(k=2), table_of_arrays(tmp_path, {"a": halves.astype("f4")}))
    assert cells(result, "labels", "region", SHAPE).tolist() == (halves + 1).tolist()


def test_max_p_makes_regions_with_enough_rows_and_the_same_for_a_seed(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    method, table = Regions("maxp", floor=0.2, cells=60), table_of_arrays(tmp_path, arrays)
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first, again = (analysed(method, table, seed=4) for _ in range(2))
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    assert min(first.values["sizes"]) >= 144
    assert 2 <= first.values["regions"] <= 5
    assert hang_together(cells(first, "labels", "region", SHAPE))
    assert first.values == again.values


def test_a_region_has_its_floor_of_cells_even_beside_an_odd_one(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    arrays["a"][3, 3] = 1000
    table = table_of_arrays(tmp_path, arrays)
    assert sorted(analysed(Regions(k=3, cells=80, floor=0.2), table).values["sizes"]) == [180, 180, 360]
    result = analysed(Regions(k=9, cells=80, floor=0.2), table)
    assert result.values["regions"] < 9
    assert any("no cut is left that keeps regions_floor" in finding for finding in result.findings)


def test_parts_that_do_not_touch_are_regions_of_their_own(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    holes = {name: array.copy() for name, array in arrays.items()}
    for array in holes.values():
        array[:, 9:12] = array[:, 20:22] = np.nan
    table = table_of_arrays(tmp_path, holes | {"c": np.ones(SHAPE, "f4")})
    result = analysed(Regions(k=2, cells=24 * 30), table)
    regions = cells(result, "labels", "region", SHAPE)
    assert np.isnan(regions[:, 9:12]).all()
    assert hang_together(regions)
    assert result.values["regions"] == 3
    assert "3 regions, not 2: the cells are in so many parts that do not touch" in result.findings
    assert "c is constant, and left out" in result.findings
    assert result.values["rows_left_out"] == 24 * 5


def test_an_island_below_the_floor_is_a_region_and_lowers_no_floor(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    for array in arrays.values():
        array[:2, 27] = array[2, 27:] = np.nan
    result = analysed(Regions(k=4, cells=720, floor=0.1), table_of_arrays(tmp_path, arrays))
    assert result.values["regions"] == 4
    assert sorted(result.values["sizes"])[0] == 4
    assert sorted(result.values["sizes"])[1] >= 71
    assert hang_together(cells(result, "labels", "region", SHAPE))


def test_too_few_cells_and_a_missing_package_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of_arrays(tmp_path, arrays)
    with pytest.raises(SettingsError, match="regions_k = 50, but only 20 coarse cells have values"):
        analysed(Regions(k=50, cells=20), table)

    def find_spec(name: str) -> Any:
        return None

    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    with pytest.raises(MachineError, match=r"pip install 'geopipe\[regions\]'"):
        analysed(Regions(), table)


def test_a_table_where_nothing_varies_has_no_regions(tmp_path: Path) -> None:
    result = analysed(Regions(), table_of_arrays(tmp_path, {"a": np.ones((4, 4), "f4")}))
    assert result.findings[0] == "there are no regions: no variable varies"
