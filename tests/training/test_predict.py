"""A model over a finished table: a prediction for each row, the same on every engine, and as a whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import rasterio
from helpers import call, north_up, write_raster
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression

import geopipe as gp
from geopipe.errors import GeopipeError, PlanError, RunError, SettingsError

HEIGHT, WIDTH, SIZE = 700, 540, 512

MODULE = '''
import numpy as np

def double(rows):
    """Twice the height; it must not see a null."""
    assert set(rows) == {"height", "cover"} and rows["cover"].dtype == np.uint8
    assert np.isfinite(rows["height"]).all() and (rows["cover"] > 0).all()
    return 2 * rows["height"]

def fails_late(rows):
    if (rows["row"] >= 600).any():
        raise ValueError("singular matrix")
    return rows["row"]

def too_short(rows):
    return rows["height"][:-1]

def changes(rows):
    return {"early" if rows["row"][0] == 0 else "late": rows["row"]}

def turns_to_text(rows):
    return rows["row"] if rows["row"][0] == 0 else rows["row"].astype(str)

def takes_the_row(rows):
    return {"row": rows["row"]}

answer = 42
'''


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> gp.Table:
    """Four tiles of heights with a hole, and of classes; a third variable is null everywhere."""
    folder, rng = tmp_path_factory.mktemp("table"), np.random.default_rng(3)
    height = rng.normal(1000, 200, (HEIGHT, WIDTH)).astype("float32")
    height[0:30, 400:] = np.nan
    cover = rng.choice([0, 1, 2, 7], (HEIGHT, WIDTH)).astype("uint8")
    layers = []
    for name, array, nodata in (
        ("height", height, np.nan),
        ("cover", cover, 0),
        ("void", np.zeros((HEIGHT, WIDTH), "float32"), 0),
    ):
        path = write_raster(
            folder / f"{name}.tif", array, "EPSG:32632", north_up(500_000, 5_000_000, 10), nodata=nodata
        )
        layers.append({"name": name, "path": path} | ({"kind": "categorical"} if name == "cover" else {}))
    settings = {
        "run": {"output": folder / "output"},
        "grid": {"like": layers[0]["path"]},
        "layers": layers,
        "merge": {"how": "grid"},
        "resampling": {"window_size": SIZE},
    }
    return gp.open(gp.run(settings, engine="local", progress=False).output)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a module of models."""
    (tmp_path / "ourmodels.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_in(folder: Path) -> pa.Table:
    """All predictions, by row and col."""
    return ds.dataset(folder, format="parquet").to_table().sort_by([("row", "ascending"), ("col", "ascending")])


def rows_of(table: gp.Table) -> pa.Table:
    return table.arrow().sort_by([("row", "ascending"), ("col", "ascending")])


def test_a_function_predicts_each_row_without_a_null(table: gp.Table, folder: Path) -> None:
    done = gp.predict(table, "ourmodels:double", ["height", "cover"], to="out", engine="local")
    predictions, rows = rows_in(done.path), rows_of(table)
    assert predictions.select(["row", "col"]).equals(rows.select(["row", "col"]))
    gone = rows["height"].is_null().to_numpy() | rows["cover"].is_null().to_numpy()
    np.testing.assert_array_equal(predictions["prediction"].is_null().to_numpy(), gone)
    expected = 2 * rows["height"].to_numpy()[~gone]
    np.testing.assert_array_equal(predictions["prediction"].drop_null().to_numpy(), expected)
    assert (done.rows, done.nulls, done.missing, done.files) == (HEIGHT * WIDTH, gone.sum(), 0, 4)
    success = json.loads((folder / "out" / "_SUCCESS").read_text())
    source = hashlib.sha256((folder / "ourmodels.py").read_bytes()).hexdigest()
    assert success["model"] == {"name": "ourmodels:double", "sha256": source, "proba": False}
    assert (success["grid"], success["columns"]) == (table.grid.projjson(), ["height", "cover"])
    assert (success["nulls"], success["predictions"]) == (done.nulls, {"prediction": "float"})
    assert success["versions"]["geopipe"] == gp.__version__


def test_predictions_have_the_same_bytes_on_ray(table: gp.Table, folder: Path, ray_session: None) -> None:
    for engine in ("local", "ray"):
        gp.predict(table, "ourmodels:double", ["height", "cover"], to=engine, engine=engine)
    files = [sorted((folder / engine).iterdir()) for engine in ("local", "ray")]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_an_estimator_gets_the_columns_of_its_fit_and_its_map_is_one_step_away(
    table: gp.Table, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = table.pandas(["height", "cover"]).dropna().astype({"cover": "uint8"})[:2000]
    forest = RandomForestClassifier(5, max_depth=3, random_state=1).fit(frame, frame.height > 1000)
    joblib.dump(forest, folder / "forest.joblib")
    code, out, error = call(capsys, "predict", table.output, "--model", "forest.joblib", "-o", "out", "--json")
    written = json.loads(out)
    assert (code, written["columns"], written["names"]) == (0, ["height", "cover"], ["prediction"])
    assert "code that runs with your rights" in error
    predictions, rows = rows_in(folder / "out"), rows_of(table).to_pandas()
    whole = rows[["height", "cover"]].notna().all(axis=1)
    expected = forest.predict(rows.loc[whole, ["height", "cover"]].astype({"cover": "uint8"}))
    np.testing.assert_array_equal(predictions["prediction"].drop_null().to_numpy(zero_copy_only=False), expected)
    code, out, _ = call(
        capsys, "predict", table.output, "--model", "forest.joblib", "--columns", "cover,height", "-o", "p", "--proba"
    )
    assert (code, rows_in(folder / "p").column_names[2:]) == (0, ["probability_False", "probability_True"])
    assert "geopipe rasterize p --column probability_False" in out
    code, _, error = call(capsys, "rasterize", "p", "--column", "probability_True", "-o", "p.tif")
    assert code == 0, error
    with rasterio.open("p.tif") as raster:
        assert (raster.shape, raster.crs.to_epsg()) == ((HEIGHT, WIDTH), 32632)
        assert (raster.read_masks(1) > 0).sum() == whole.sum()


def test_an_estimator_without_names_gets_a_matrix_and_nan_is_counted(table: gp.Table, folder: Path) -> None:
    model = LinearRegression().fit(np.array([[0.0, 1], [1, 0], [1, 1]]), [0, 1, 1])
    done = gp.predict(table, model, ["height", "cover"], to="linear", engine="local")
    assert (done.names, done.model, done.sha256) == (("prediction",), "LinearRegression", "")

    def root(rows: dict[str, Any]) -> dict[str, Any]:
        above = rows["height"] - 1000
        return {"root": np.where(above < 0, np.nan, abs(above) ** 0.5)}

    rooted = gp.predict(table, root, ["height"], to="root", engine="local")
    height = rows_of(table)["height"]
    assert rooted.missing == (height.drop_null().to_numpy() < 1000).sum()
    assert rows_in(folder / "root")["root"].null_count == rooted.missing + height.null_count
    pair = gp.predict(table, lambda rows: np.ones((len(rows["row"]), 2)), ["row"], to="pair", engine="local")
    assert pair.names == ("prediction_0", "prediction_1")


@pytest.mark.parametrize(
    ("model", "columns", "message"),
    [
        (
            "fails_late",
            ["row"],
            r"fails_late failed in tile \d, its rows [\d,]+ to [\d,]+ \(cells from row .*: ValueError: singular",
        ),
        ("too_short", ["height"], r"too_short failed in .*has the shape"),
        ("changes", ["row"], "gives late"),
        ("turns_to_text", ["row"], "was int32 at first"),
        ("takes_the_row", ["row"], "gives row"),
        ("double", ["void"], "no row of .* has a value in each of void"),
    ],
)
def test_a_model_that_fails_is_named_with_its_rows_and_leaves_nothing(
    table: gp.Table, folder: Path, model: str, columns: list[str], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        gp.predict(table, f"ourmodels:{model}", columns, to="out", engine="local")
    assert {path.name for path in folder.iterdir()} <= {"ourmodels.py", "__pycache__"}


@pytest.mark.parametrize(
    ("model", "columns", "message"),
    [
        ("nothing.joblib", "height", "there is no file nothing.joblib"),
        ("ourmodels:dubble", "height", "did you mean ourmodels:double"),
        ("ourmodels:answer", "height", "is a int"),
        ("nomodule:f", "height", "nomodule cannot be imported"),
        ("text.joblib", "height", "text.joblib cannot be loaded"),
        ("fitted.joblib", "height", "without cover, but the model was fitted with height, cover"),
        ("matrix.joblib", "height", "fitted with 2 columns, and 1 are named"),
        ("matrix.joblib", "", "no columns are named"),
        ("ourmodels:double", "hight", "no column 'hight'.*'height'"),
    ],
)
def test_a_mistake_is_one_of_ours(
    table: gp.Table, folder: Path, capsys: pytest.CaptureFixture[str], model: str, columns: str, message: str
) -> None:
    frame = table.pandas(["height", "cover"])[:100].dropna()
    joblib.dump(LinearRegression().fit(frame, frame.height), folder / "fitted.joblib")
    joblib.dump(LinearRegression().fit(frame.to_numpy(float), frame.height), folder / "matrix.joblib")
    (folder / "text.joblib").write_text("no pickle")
    arguments = ("--model", model, "--columns", columns, "-o", "out")
    code, _, error = call(capsys, "predict", table.output, *arguments)
    assert code in (2, 3)
    assert re.search(message, error.replace("\n", " ")), error
    assert not (folder / "out").exists()


def test_predictions_are_replaced_on_request_and_nothing_else_is(table: gp.Table, folder: Path) -> None:
    def constant(rows: dict[str, Any]) -> Any:
        return np.zeros(len(rows["row"]))

    gp.predict(table, constant, ["row"], to="out", engine="local")
    with pytest.raises(PlanError, match="out exists"):
        gp.predict(table, constant, ["row"], to="out", engine="local")
    gp.predict(table, lambda rows: {"new": rows["row"]}, ["row"], to="out", engine="local", overwrite=True)
    assert rows_in(folder / "out").column_names == ["row", "col", "new"]
    with pytest.raises(PlanError, match="other contents"):
        gp.predict(table, constant, ["row"], to=table.output, engine="local", overwrite=True)
    with pytest.raises(SettingsError, match="a folder of Parquet files"):
        gp.predict(table, constant, ["row"], to="out.parquet", engine="local")
    with pytest.raises(GeopipeError, match="no finished run"):
        gp.predict(folder / "out", constant, ["row"], to="again")
