"""The summary of a table is what numpy finds in its columns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyproj import Geod

import geopipe as gp
from geopipe.analysis.contract import Subject
from geopipe.analysis.drive import analyze
from geopipe.analysis.methods import summary
from geopipe.analysis.methods.summary import QUANTILES, SummaryMethod
from geopipe.engine.passes import passes
from geopipe.grid.areas import cell_areas
from geopipe.grid.grid import Grid

COLUMNS = ("height", "warmth", "rain", "cover")


@pytest.fixture(scope="module")
def values(table: gp.Table, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with passes("local") as local:
        analysis = analyze(SummaryMethod(bins=20), Subject(table, COLUMNS), local, tmp_path_factory.mktemp("summary"))
    return dict(analysis.values["variables"])


@pytest.mark.parametrize("name", ["height", "warmth", "rain"])
def test_statistics_of_a_variable_are_those_of_its_values(name: str, table: gp.Table, values: dict[str, Any]) -> None:
    column, about = table.pandas([name])[name], values[name]
    there = column.dropna().to_numpy().astype(float)
    assert (about["count"], about["nulls"]) == (len(there), int(column.isna().sum()))
    assert about["mean"] == pytest.approx(there.mean(), rel=1e-12)
    assert about["sd"] == pytest.approx(there.std(), rel=1e-12)
    assert (about["min"], about["max"]) == (there.min(), there.max())


@pytest.mark.parametrize("name", ["height", "warmth", "rain"])
def test_quantiles_of_32_bits_are_exact(name: str, table: gp.Table, values: dict[str, Any]) -> None:
    there = table.pandas([name])[name].dropna()
    exact = np.quantile(there, QUANTILES, method="inverted_cdf")
    assert list(values[name]["quantiles"].values()) == exact.tolist()
    assert values[name]["quantile_error"] == 0


def test_a_histogram_has_every_value_once(table: gp.Table, values: dict[str, Any]) -> None:
    histogram, there = values["rain"]["histogram"], table.pandas(["rain"]).rain.dropna()
    counts, edges = np.histogram(there.astype(float), 20)
    assert np.allclose(histogram["edges"], edges)
    assert sum(histogram["counts"]) == len(there)
    assert np.abs(np.array(histogram["counts"]) - counts).max() <= 2  # a value on an edge may be on either side


def test_classes_have_counts_and_areas(table: gp.Table, values: dict[str, Any]) -> None:
    counts = table.pandas(["cover"]).cover.value_counts().sort_index()
    classes = values["cover"]["classes"]
    assert [(c["value"], c["count"]) for c in classes] == list(counts.items())
    assert [c["area"] for c in classes] == [100.0 * count for count in counts]


@pytest.mark.parametrize("latitude", [0, 47, 89.5])
def test_areas_on_a_grid_in_degrees_are_true(latitude: float) -> None:
    grid = Grid("EPSG:4326", 10, latitude + 0.5, 0.5, 0.5, 1, 1)
    xs = np.linspace(10, 10.5, 5000)  # a parallel is no geodesic
    lons, lats = np.r_[xs, xs[::-1]], np.r_[np.full(5000, latitude), np.full(5000, latitude + 0.5)]
    area, _ = Geod(ellps="WGS84").polygon_area_perimeter(lons, lats)
    assert cell_areas(grid)[0] == pytest.approx(area, rel=1e-8)


def test_areas_on_a_grid_in_feet_are_square_metres() -> None:
    assert cell_areas(Grid("EPSG:2263", 900_000, 200_000, 100, 100, 2, 3)) == pytest.approx([30.48006096**2] * 3)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32"])
@given(data=st.data())
def test_keys_are_in_the_order_of_the_values_and_lead_back_to_them(dtype: str, data: st.DataObject) -> None:
    elements: Any = {"allow_nan": False, "allow_infinity": False} if dtype == "float32" else {}
    values = np.sort(
        data.draw(hnp.arrays(dtype, st.integers(1, 20), elements=hnp.from_dtype(np.dtype(dtype), **elements)))
    )
    keys = summary._keys(values)
    assert np.all(np.diff(keys.astype(float)) >= 0)
    assert np.array_equal(summary._values_of(keys, pa.from_numpy_dtype(values.dtype)), values)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_a_quantile_of_64_bits_is_as_near_as_its_error_says(numbers: list[float]) -> None:
    values = np.sort(np.array(numbers))
    keys = summary._keys(values)
    back = summary._values_of(keys, pa.float64())
    normal = np.abs(values) > np.finfo(float).tiny
    assert np.all(np.diff(keys.astype(float)) >= 0)
    assert np.all(np.abs(back - values)[normal] <= 2.0**-20 * np.abs(values)[normal])


def test_what_has_no_value_or_one_alone_is_a_finding(tmp_path: Path) -> None:
    from helpers import north_up, write_raster

    for name, array in {"flat": np.full((8, 8), 3.5, "float32"), "empty": np.full((8, 8), np.nan, "float32")}.items():
        write_raster(tmp_path / f"{name}.tif", array, "EPSG:32632", north_up(0, 0, 10), nodata=np.nan)
    layers = [{"name": name, "path": str(tmp_path / f"{name}.tif")} for name in ("flat", "empty")]
    settings = {"grid": {"like": str(tmp_path / "flat.tif")}, "layers": layers, "run": {"output": str(tmp_path / "o")}}
    gp.run(settings, engine="local", progress=False)
    (analysis,) = gp.analyze(tmp_path / "o", ["summary"])
    about = analysis.values["variables"]
    assert about["empty"] == {"kind": "number", "count": 0, "nulls": 64}
    assert about["flat"]["sd"] == 0
    assert not any(isinstance(v, float) and math.isnan(v) for v in about["flat"].values())
    assert analysis.findings[1:] == ("flat is 3.5 wherever it has a value", "empty has no value in any row")
