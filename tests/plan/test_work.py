"""What a plan says of the work and the time of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from helpers import call, plan_of, write_raster

from geopipe.errors import PlanError
from geopipe.grid.grid import Grid
from geopipe.layers.layer import Layer
from geopipe.plan.work import span

UTM = "EPSG:32632"


def raster(folder: Path, edge: int, size: float, **profile: object) -> Path:
    values = np.zeros((edge, edge), "float32")
    return write_raster(folder / f"r{edge}.tif", values, UTM, Affine(size, 0, 500_000, 0, -size, 6_000_000), **profile)


def test_the_pixels_of_a_plan_are_those_under_the_grid_in_whole_blocks(tmp_path: Path) -> None:
    path = raster(tmp_path, 1024, 10, tiled=True, blockxsize=256, blockysize=256)
    layer = Layer("a", (str(path),))
    whole = plan_of(Grid(UTM, 500_000, 6_000_000, 10, 10, 1024, 1024), [layer])
    assert whole.work.pixels == 1024 * 1024
    assert whole.work.values == 1024 * 1024 * 5  # row, col, x, y, a
    corner = plan_of(Grid(UTM, 500_000, 6_000_000, 10, 10, 300, 100), [layer])
    assert corner.work.pixels == 512 * 256
    coarse = plan_of(Grid(UTM, 500_000, 6_000_000, 100, 100, 102, 102), [layer])
    assert coarse.work.pixels == 1024 * 1024
    assert coarse.work.values == 102 * 102 * 5
    strips = Layer("a", (str(raster(tmp_path, 1023, 10)),))
    tiles = plan_of(Grid(UTM, 500_000, 6_000_000, 10, 10, 1024, 1024), [strips], window_size=512)
    assert tiles.work.pixels == pytest.approx(2 * 1023 * 1023, rel=0.01), "two tiles decode each strip"


def test_more_work_is_predicted_to_take_longer(tmp_path: Path) -> None:
    path = raster(tmp_path, 1024, 10, tiled=True, compress="deflate")
    grid = Grid(UTM, 500_003, 5_999_997, 10, 10, 1000, 1000)

    def high(*methods: str, **options: object) -> float:
        return plan_of(grid, [Layer("a", (str(path),), resampling=methods)], **options).work.seconds[1]

    assert high("nearest") < high("bilinear") < high("lanczos") < high("lanczos", "bilinear")
    assert high("nearest") < high("nearest", formats=("parquet", "csv"))


def test_a_sparse_file_of_four_million_million_pixels_is_warned_of_and_may_be_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edge = 2_000_000
    profile = {"driver": "GTiff", "width": edge, "height": edge, "count": 1, "dtype": "uint8", "crs": UTM}
    tiled = {"tiled": True, "blockxsize": 16384, "blockysize": 16384, "SPARSE_OK": True, "BIGTIFF": "YES"}
    with rasterio.open(tmp_path / "a.tif", "w", **profile, **tiled, transform=Affine(0.1, 0, 5e5, 0, -0.1, 5e6)):
        pass
    assert (tmp_path / "a.tif").stat().st_size < 1 << 20
    file = tmp_path / "s.toml"
    file.write_text(f'[grid]\ncrs = "{UTM}"\nresolution = 1000\n[[layers]]\nname = "a"\npath = "a.tif"\n')
    code, out, _ = call(capsys, "plan", file)
    assert code == 0
    text = " ".join(out.split())
    assert "pixels to decode" in text
    assert "note the run: it decodes 4,0" in text
    assert "engine.max_pixels" in text
    _, out, _ = call(capsys, "plan", file, "--json")
    work = json.loads(out)["work"]
    assert edge**2 <= work["pixels"] < 1.1 * edge**2
    assert 3600 < work["seconds"][0] < work["seconds"][1]
    code, _, err = call(capsys, "run", file, "--local", "--set", "engine.max_pixels=1000000000")
    assert code == PlanError.exit_code
    assert "engine.max_pixels = 1,000,000,000 allows no more" in err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ((12, 50), "12 s to 50 s"),
        ((40, 400), "40 s to 7 min"),
        ((3000, 24000), "50 min to 7 h"),
        ((1e6, 1e9), "12 days to 32 years"),
        ((10.1, 10.4), "about 10 s"),
    ],
)
def test_times_are_few_words(seconds: tuple[float, float], text: str) -> None:
    assert span(seconds) == text
