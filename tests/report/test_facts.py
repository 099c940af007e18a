"""The facts of a report: what is wrong with a table comes first, and the numbers are those of its cells."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import north_up, write_raster

import geopipe as gp
from geopipe.report import write
from geopipe.report.charts import Trace, chart, scale_bar
from geopipe.report.facts import facts_of
from geopipe.report.images import classified, png, scaled
from geopipe.report.page import number, percent
from geopipe.report.relations import correlations
from geopipe.report.sample import sample_of
from geopipe.table.table import open_table

UTM, TOP, SIZE = "EPSG:32632", 5_000_000, 1600
PALETTE = {1: (65, 105, 225, 255), 2: (0, 100, 0, 255)}


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """Pixels of each layer, of (SIZE, SIZE) or a corner of it."""
    rng = np.random.default_rng(2)
    height = rng.normal(500, 100, (SIZE, SIZE)).astype("float32")
    brightness = rng.integers(10, 200, (SIZE, SIZE)).astype("uint8")
    brightness[700, 900] = 255
    return {
        "height": height,
        "feet": (height / 0.3048).astype("float32"),
        "flat": np.full((SIZE, SIZE), 7, "float32"),
        "brightness": brightness,
        "corner": np.ones((160, 160), "float32") * np.arange(160, dtype="float32"),
        "empty": np.zeros((SIZE, SIZE), "int16"),
        "cover": rng.integers(1, 3, (SIZE, SIZE)).astype("uint8"),
    }


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray]) -> Path:
    folder, layers = tmp_path_factory.mktemp("sources"), []
    for name, array in arrays.items():
        extra: dict[str, Any] = {"colormap": PALETTE} if name == "cover" else {}
        extra |= {"nodata": 0} if name in ("cover", "empty") else {}
        path = write_raster(folder / f"{name}.tif", array, UTM, north_up(500_000, TOP, 10), **extra)
        layers.append({"name": name, "path": path})
    settings = {
        "run": {"output": folder / "output"},
        "grid": {"like": folder / "height.tif"},
        "layers": layers,
        "resampling": {"window_size": 1024},
    }
    gp.run(settings, engine="local", progress=False)
    return folder / "output"


@pytest.fixture(scope="module")
def facts(output: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((output / "report/facts.json").read_text())
    return result


def alert(facts: dict[str, Any], name: str) -> dict[str, Any]:
    (result,) = [a for a in facts["alerts"] if name in a["variables"]]
    return dict(result)


@pytest.mark.parametrize(
    ("name", "level", "title"),
    [
        ("flat", "warning", "flat is 7 wherever it has a value"),
        ("corner", "warning", "corner is null in 99.0% of the rows"),
        ("empty", "error", "empty is null in every row"),
        ("brightness", "warning", "brightness has 255, an end of its type"),
        ("feet", "note", "height and feet say nearly the same"),
    ],
)
def test_what_deserves_a_look_is_an_alert(facts: dict[str, Any], name: str, level: str, title: str) -> None:
    own = alert(facts, name)
    assert (own["level"], own["title"]) == (level, title)


def test_alerts_name_tiles_and_layers_that_hardly_meet_the_grid(facts: dict[str, Any]) -> None:
    assert alert(facts, "brightness")["text"].endswith("Tiles: 0.")
    titles = [a["title"] for a in facts["alerts"]]
    assert "Layer corner covers 1.0% of the grid" in titles
    levels = [a["level"] for a in facts["alerts"]]
    assert levels == sorted(levels, key=["error", "warning", "note"].index)


def test_numbers_of_variables_are_those_of_all_cells_and_quantiles_of_the_sample(
    facts: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    (own,) = [v for v in facts["variables"] if v["name"] == "height"]
    pixels, n = arrays["height"].astype("float64"), facts["sample"]["stride"]
    assert n == 3
    assert (own["min"], own["max"], own["nulls"]) == (pixels.min(), pixels.max(), 0)
    assert own["mean"] == pytest.approx(pixels.mean(), rel=1e-12)
    sample = pixels[1::3, 1::3]
    assert own["sample"] == facts["sample"]["cells"] == sample.size
    assert own["quantiles"]["0.5"] == pytest.approx(np.quantile(sample, 0.5), rel=1e-12)
    assert sum(own["histogram"]["counts"]) + own["histogram"]["outside"] == sample.size


def test_classes_have_the_colours_of_their_source(facts: dict[str, Any]) -> None:
    (own,) = [v for v in facts["variables"] if v["name"] == "cover"]
    assert [(c["value"], c["colour"]) for c in own["classes"]] == [(1, "#4169e1"), (2, "#006400")]
    assert sum(c["share"] for c in own["classes"]) == pytest.approx(1)


def test_a_table_without_views_gives_the_same_facts(output: Path, facts: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(output, tmp_path / "old")
    shutil.rmtree(tmp_path / "old/report")
    table = open_table(tmp_path / "old")
    own = facts_of(table, sample_of(table), "old")
    assert own["went"] is None
    for key in ("sample", "relations", "first_rows"):
        assert own[key] == facts[key], key
    for variable, other in zip(own["variables"], facts["variables"], strict=True):
        assert variable["mean"] == pytest.approx(other["mean"], rel=1e-12)
        assert {**variable, "mean": 0} == {**other, "mean": 0}


def test_a_report_of_a_file_of_ones_own_leaves_the_output_alone(output: Path, tmp_path: Path) -> None:
    before = (output / "report.html").read_bytes()
    page, _ = write.report(str(output), tmp_path / "mine.html")
    assert page.read_text().startswith("<!doctype html>")
    assert (output / "report.html").read_bytes() == before


def test_texts_of_a_table_are_no_html(output: Path, tmp_path: Path) -> None:
    shutil.copytree(output, tmp_path / "evil")
    success = json.loads((tmp_path / "evil/_SUCCESS").read_text())
    success["name"] = "<script>alert(1)</script>"
    (tmp_path / "evil/_SUCCESS").write_text(json.dumps(success))
    assert "<script" not in gp.report(tmp_path / "evil").read_text()


# ---------------------------------------------------------------- differences of two tables


def changed(output: Path, folder: Path, array: np.ndarray, **settings: Any) -> Path:
    """The same settings, with other pixels of one layer."""
    path = write_raster(folder / "height.tif", array, UTM, north_up(500_000, TOP, 10))
    overrides = {"layers.height.path": str(path), "run.output": str(folder / "output"), **settings}
    gp.run(output / "settings.toml", overrides, engine="local", progress=False)
    return folder / "output"


def test_two_runs_of_the_same_settings_do_not_differ(output: Path, tmp_path: Path) -> None:
    gp.run(
        output / "settings.toml",
        {"run.output": str(tmp_path / "again"), "resampling.window_size": 512},
        engine="local",
        progress=False,
    )
    _, comparison = write.compare(str(output), str(tmp_path / "again"), tmp_path / "page.html")
    assert comparison["same"]
    assert [v["cells"]["count"] for v in comparison["variables"]] == [0] * 7


def test_a_difference_has_its_variable_tile_and_size(
    output: Path, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    pixels = arrays["height"].copy()
    pixels[1200, 10] += 8
    page, comparison = write.compare(str(output), str(changed(output, tmp_path, pixels)), tmp_path / "page.html")
    assert not comparison["same"]
    assert [v["name"] for v in comparison["variables"] if not v["same"]] == ["height"]
    (own,) = [v for v in comparison["variables"] if v["name"] == "height"]
    assert (own["cells"]["count"], own["cells"]["tiles"]) == (1, [2])
    assert own["cells"]["largest"] == pytest.approx(8, rel=1e-4)
    assert any(cause["kind"] == "sources" for cause in comparison["causes"])
    assert "1 of 2,560,000 cells" in page.read_text()


def test_tables_on_two_grids_are_compared_by_their_distributions(
    output: Path, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    other = changed(output, tmp_path, arrays["height"], **{"grid.resolution": 40})
    _, comparison = write.compare(str(output), str(other), tmp_path / "page.html")
    assert not comparison["same_grid"]
    assert not comparison["same"]
    (own,) = [v for v in comparison["variables"] if v["name"] == "height"]
    assert own["cells"] is None
    assert [row["what"] for row in own["distribution"]][:3] == ["null share", "min", "1%"]


# ---------------------------------------------------------------- pictures and numbers


def test_a_picture_is_a_png_that_others_read(tmp_path: Path) -> None:
    import rasterio

    values, mask = np.array([[0.0, 1.0], [2.0, 9.0]]), np.array([[True, True], [True, False]])
    numbers, colours = scaled(values, mask, {"low": 0.0, "high": 2.0, "colours": "sequential"})
    (tmp_path / "a.png").write_bytes(png(numbers, colours))
    with rasterio.open(tmp_path / "a.png") as ds:
        assert np.array_equal(ds.read(1), [[1, 64], [127, 0]])
        assert ds.colormap(1)[0][3] == 0
        assert ds.colormap(1)[1] == (68, 1, 84, 255)  # the darkest of viridis


def test_a_class_that_the_legend_leaves_out_is_grey() -> None:
    classes = [{"value": 5, "colour": "#ff0000"}, {"value": 3, "colour": "#00ff00"}]
    numbers, colours = classified(np.array([[3, 5, 4]]), np.ones((1, 3), bool), classes)
    assert [tuple(colours[n - 1].tolist()) for n in numbers[0]] == [(0, 255, 0), (255, 0, 0), (140, 140, 140)]


def test_correlations_are_those_of_numpy_over_the_cells_where_both_have_values() -> None:
    rng = np.random.default_rng(0)
    columns = rng.normal(1e6, 1, (500, 3))
    columns[:, 1] += columns[:, 0]
    columns[rng.random((500, 3)) < 0.2] = np.nan
    matrix = correlations(columns.copy())
    for i in range(3):
        for j in range(3):
            both = np.isfinite(columns[:, i]) & np.isfinite(columns[:, j])
            expected = np.corrcoef(columns[both, i], columns[both, j])[0, 1]
            assert matrix[i, j] == pytest.approx(expected, abs=1e-9)


def test_a_chart_has_the_colours_of_the_page_and_ids_of_its_own() -> None:
    charts = [chart([Trace([1, 2], [3, 4], "a")], "x", "y", f"title {i} & more") for i in (1, 2)]
    assert "var(--accent)" in charts[0]
    assert "#0" not in charts[0]
    assert 'aria-label="title 1 &amp; more"' in charts[0]
    ids = [{part.split('"')[0] for part in svg.split(' id="')[1:]} for svg in charts]
    assert ids[0]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize(
    ("metres", "text", "share"), [(50_000, "10 km", 0.2), (900, "200 m", 200 / 900), (8e6, "2,000 km", 0.25)]
)
def test_a_scale_bar_is_a_round_length(metres: float, text: str, share: float) -> None:
    assert scale_bar(metres) == {"text": text, "share": pytest.approx(share)}


def test_numbers_are_short_and_shares_exact_at_their_ends() -> None:
    assert [number(v) for v in (None, 3, 0.0123456, 12345.6, float("inf"))] == ["none", "3", "0.01235", "12,346", "inf"]
    assert [percent(v) for v in (0, 1e-9, 0.5, 0.99999, 1)] == ["0%", "0.01%", "50.0%", "99.99%", "100%"]
