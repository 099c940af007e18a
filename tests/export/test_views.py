"""Views: the cells at every n-th row and column, the same whatever tiles and strips they came in."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commits import stage
from helpers import north_up, plan_of, write_raster

from geopipe.engine import local
from geopipe.export.ledger import finisher
from geopipe.export.publish import remove
from geopipe.export.staging import Staging
from geopipe.export.state import REPORT
from geopipe.export.tiles import _Range
from geopipe.export.views import SAMPLE, STRIDE, SUMS, on_lattice, path_of, stride_of
from geopipe.grid.grid import Grid
from geopipe.layers.layer import Layer
from geopipe.plan.plan import Plan

UTM, HEIGHT, WIDTH, MISSING = "EPSG:32612", 1700, 1300, -1


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Random numbers; a third of them, and the lower left corner, is missing."""
    values = np.random.default_rng(3).integers(0, 20_000, (HEIGHT, WIDTH)).astype("int16")
    values[np.random.default_rng(4).random(values.shape) < 0.3] = MISSING
    values[1000:, :700] = MISSING
    return values


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("source")
    return write_raster(folder / "a.tif", pixels, UTM, north_up(0, 17_000, 10), nodata=MISSING, tiled=True)


def plan(source: Path, size: int, how: str = "outer") -> Plan:
    grid = Grid(UTM, 0, 17_000, 10, 10, width=WIDTH, height=HEIGHT)
    return plan_of(grid, [Layer("a", (str(source),))], window_size=size, how=how)


def committed(output: Path, plan: Plan) -> Path:
    """The output folder of a run that takes views."""
    staging = Staging(output, plan, "")
    keys = staging.begin(views=True)
    list(local.finish_tiles(plan, keys[::-1], finisher(plan, staging.folder, 1000)))
    staging.commit({"run_id": "run"})
    return output


@pytest.mark.parametrize(("size", "how"), [(512, "outer"), (2048, "outer"), (1024, "grid")])
def test_the_sample_is_every_nth_cell_whatever_the_tiles(
    source: Path, pixels: np.ndarray, tmp_path: Path, size: int, how: str
) -> None:
    output = committed(tmp_path / "out", plan(source, size, how))
    sample = pq.read_table(output / REPORT / SAMPLE)
    n = stride_of(Grid(UTM, 0, 17_000, 10, 10, width=WIDTH, height=HEIGHT))
    assert n == 3
    picture = np.full(pixels[1::n, 1::n].shape, MISSING, "int16")
    values = sample["a"].fill_null(MISSING).to_numpy()
    picture[sample["row"].to_numpy() // n, sample["col"].to_numpy() // n] = values
    assert np.array_equal(picture, pixels[1::n, 1::n])
    assert sample.num_rows == (picture.size if how == "grid" else int((picture != MISSING).sum()))
    metadata = pq.read_metadata(output / REPORT / SAMPLE).metadata
    assert json.loads(metadata[SUMS]) == {"a": float(pixels[pixels != MISSING].sum(dtype="int64"))}
    assert int(metadata[STRIDE]) == n


def test_views_change_no_byte_of_the_table(source: Path, tmp_path: Path) -> None:
    with_views = committed(tmp_path / "with", plan(source, 1024))
    stage(tmp_path / "without", plan(source, 1024)).commit({"run_id": "run"})
    assert not (tmp_path / "without" / REPORT).exists()
    own, other = ((folder / "manifest.jsonl").read_bytes() for folder in (with_views, tmp_path / "without"))
    assert own == other


def test_a_tile_of_an_earlier_attempt_without_a_view_leaves_the_table_without_a_sample(
    source: Path, tmp_path: Path
) -> None:
    staging = stage(tmp_path / "out", plan(source, 1024), tiles=[0])
    keys = staging.begin(views=True)
    assert 0 not in keys
    list(local.finish_tiles(staging.plan, keys, finisher(staging.plan, staging.folder, 1000)))
    assert path_of(staging.folder, int(keys[0])).exists()
    staging.commit({"run_id": "run"})
    assert (tmp_path / "out" / "_SUCCESS").exists()
    assert not (tmp_path / "out" / REPORT).exists()


def test_a_new_table_and_a_removed_one_leave_no_report_of_the_old_one(source: Path, tmp_path: Path) -> None:
    output = committed(tmp_path / "out", plan(source, 1024))
    (output / "report.html").write_text("old")
    stage(output, plan(source, 512)).commit({"run_id": "other"})
    assert not (output / REPORT).exists()
    assert not (output / "report.html").exists()
    committed(output, plan(source, 1024))
    remove(output)
    assert list(output.iterdir()) == [output / "_staging"]


def test_places_on_the_lattice_are_those_of_a_filter_of_all_cells() -> None:
    rng = np.random.default_rng(1)
    cells = np.flatnonzero(rng.random(90 * 70) < 0.6)
    rows, cols = (part.astype("int32") for part in np.divmod(cells, 70))
    rows, cols = rows + 1000, cols + 333
    for n in (1, 2, 7, 200):
        expected = np.flatnonzero((rows % n == n // 2) & (cols % n == n // 2))
        assert np.array_equal(on_lattice(rows, cols, n), expected)
        rectangle = [part.ravel().astype("int32") for part in np.mgrid[11:60, 5:77]]
        expected = np.flatnonzero((rectangle[0] % n == n // 2) & (rectangle[1] % n == n // 2))
        assert np.array_equal(on_lattice(*rectangle, n), expected)
    assert len(on_lattice(rows[:0], cols[:0], 3)) == 0


def test_a_sum_of_large_whole_numbers_does_not_overflow() -> None:
    values = _Range()
    for _ in range(2):
        values.add(pa.chunked_array([pa.array([2**62, None, 2**62])]), summed=True)
    assert values.total == 4 * 2.0**62
