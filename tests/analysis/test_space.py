"""Methods that look at space: the same bits from any format, engine and number of workers; keys of their options."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from analysed import analysed, table_of_arrays

import geopipe as gp
from geopipe.analysis.catalogue import method_of
from geopipe.analysis.contract import Method, Subject
from geopipe.analysis.drive import analyze
from geopipe.analysis.methods.autocorrelation import Autocorrelation
from geopipe.analysis.methods.gwpca import Gwpca
from geopipe.analysis.methods.regions import Regions
from geopipe.analysis.methods.som import Som
from geopipe.analysis.results import RESULT
from geopipe.engine.passes import Kind, passes
from geopipe.settings.analysis import AnalysisSettings

METHODS: list[Method] = [
    Som(4, 5, epochs=2),
    Autocorrelation((1, 2), pairs=300),
    Regions(k=3, cells=100),
    Gwpca(bandwidth=50, cells=200),
]


def contents(method: Method, table: gp.Table, folder: Path, kind: Kind, workers: int) -> dict[str, bytes]:
    """The files of a method's results; options and provenance, which differ by table, left out."""
    with passes(kind, workers=workers) as executor:
        result = analyze(method, Subject(table, ("height", "warmth", "rain")), executor, folder)
    files = {path for path in result.folder.rglob("*") if path.is_file() and path.name != RESULT}
    values = repr((result.values, result.findings)).encode()
    return {str(path.relative_to(result.folder)): path.read_bytes() for path in files} | {"values": values}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_bits_do_not_depend_on_format_or_threads(
    method: Method, table: gp.Table, csv_table: gp.Table, tmp_path: Path
) -> None:
    first = contents(method, table, tmp_path / "1", "local", 1)
    assert contents(method, table, tmp_path / "2", "local", 2) == first
    assert contents(method, csv_table, tmp_path / "csv", "local", 2) == first


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_bits_do_not_depend_on_ray(ray_session: None, method: Method, table: gp.Table, tmp_path: Path) -> None:
    first = contents(method, table, tmp_path / "local", "local", 2)
    for workers in (1, 2):
        assert contents(method, table, tmp_path / str(workers), "ray", workers) == first


@pytest.mark.parametrize("method", [*METHODS, Regions("maxp", floor=0.3, cells=20)], ids=lambda method: method.name)
@pytest.mark.parametrize("shape", [(1, 40), (40, 1)])
def test_a_single_row_or_column_of_cells_is_a_table(method: Method, shape: tuple[int, int], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    line = table_of_arrays(tmp_path, {name: rng.normal(size=shape).astype("f4") for name in "ab"})
    method = Gwpca() if isinstance(method, Gwpca) else method
    assert json.loads((analysed(method, line).folder / RESULT).read_bytes(), parse_constant=pytest.fail)["findings"]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_table_without_rows_has_findings_instead_of_figures(method: Method, tmp_path: Path) -> None:
    empty = {"a": np.full((6, 6), np.nan, "f4"), "b": np.full((6, 6), np.nan, "f4")}
    table = table_of_arrays(tmp_path, empty)
    assert table.rows == 0
    assert any("no " in finding for finding in analysed(method, table).findings)


def test_every_option_has_a_key() -> None:
    keys = {
        "som_height": 3, "som_width": 4, "som_epochs": 5, "som_radius_from": 6.0, "som_radius_to": 0.7,
        "som_topology": "hexagonal", "som_start": "sample", "autocorrelation_lags": (3,),
        "autocorrelation_contiguity": "rook", "autocorrelation_weights": "binary", "autocorrelation_pairs": 9,
        "regions_method": "maxp", "regions_k": 5, "regions_floor": 0.3, "regions_cells": 50, "gwpca_bandwidth": 33,
        "gwpca_components": 1, "gwpca_cells": 44,
    }  # fmt: skip
    settings = AnalysisSettings(**keys)
    assert method_of("som", settings) == Som(3, 4, 5, 6.0, 0.7, "hexagonal", "sample")
    assert method_of("autocorrelation", settings) == Autocorrelation((3,), "rook", "binary", 9)
    assert method_of("regions", settings) == Regions("maxp", 5, 0.3, 50)
    assert method_of("gwpca", settings) == Gwpca(33, 1, 44)
    for name, kind in (("som", Som), ("autocorrelation", Autocorrelation), ("regions", Regions), ("gwpca", Gwpca)):
        assert method_of(name, AnalysisSettings()) == kind()
