"""Cells of many pixels: in parts as at once, and in no more memory than the plan says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import surroundings
from areas import block_statistic
from helpers import north_up, plan_of, table_of, write_raster

from geopipe.grid.grid import Grid
from geopipe.layers.layer import Kind, Layer
from geopipe.resample import coverage, large_cells, locate
from geopipe.resample.footprints import Footprints, Lattice
from geopipe.resample.statistics import STATISTICS

UTM = "EPSG:32632"
PICKED = ("min", "max", "med", "q1", "q3", "mode")


def pixels_of(dtype: str, kind: str) -> np.ndarray:
    """300 x 400 pixels, a tenth of the floats missing: classes, or numbers without two that are equal."""
    rng = np.random.default_rng(5)
    if kind == "classes":
        pixels = rng.choice([-7, -1, 0, 2, 250] if dtype[0] != "u" else [1, 7, 250], (300, 400)).astype(dtype)
    elif dtype[0] == "f":
        pixels = rng.normal(0, 1000, (300, 400)).astype(dtype)
    else:
        limits = np.iinfo(dtype)
        pixels = rng.integers(limits.min, limits.max, (300, 400), dtype)
    if dtype[0] == "f":
        pixels[rng.random(pixels.shape) < 0.1] = np.nan
    return pixels


OUTLINES = {  # columns and rows of corners; a window is 300 x 400 pixels from row 1000, column 2000 on
    "inside": ([2010.3, 2390.8], [1005.2, 1290.9]),
    "on the lattice": ([2000, 2400], [1000, 1300]),
    "all around": ([1700.5, 2500.25], [800.1, 1600.7]),
    "across the edge of the longitudes": ([2300.3, 2450.4], [1005.2, 1290.9]),
    "to the left and below": ([1990.2, 2200.7], [1100.4, 1310.6]),
}


@pytest.mark.parametrize("tilt", [0.0, 0.3])
@pytest.mark.parametrize("where", OUTLINES)
@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        ("float32", "noise"),
        pytest.param("float64", "noise", marks=pytest.mark.slow),
        ("int64", "noise"),
        pytest.param("uint64", "noise", marks=pytest.mark.slow),
        pytest.param("float32", "classes", marks=pytest.mark.slow),
    ],
)
def test_a_cell_in_parts_is_the_cell_at_once_to_the_bit(
    monkeypatch: pytest.MonkeyPatch, dtype: str, kind: str, where: str, tilt: float
) -> None:
    pixels = pixels_of(dtype, kind)
    valid = coverage.EVERYWHERE if dtype[0] == "f" else np.random.default_rng(6).random(pixels.shape) < 0.9
    across, down = (np.array(v, "float64") for v in OUTLINES[where])
    cols, rows = np.meshgrid(across, down)
    cols, rows = cols + tilt * (rows - rows.mean()), rows - tilt * (cols - cols.mean())
    wrap = 400 if "longitudes" in where else 0
    footprints = Footprints(Lattice(cols, rows), float(wrap), wrap, (0.0, 3000.0))
    monkeypatch.setattr(large_cells, "PART", 3000)
    monkeypatch.setattr(large_cells, "MOST_CLASSES", 20_000 if kind == "noise" else 2)

    def strips(height: int) -> Iterator[tuple[tuple[int, int], np.ndarray, np.ndarray]]:
        for top in range(0, len(pixels), height):
            part = slice(top, top + height)
            yield (1000 + top, 2000), pixels[part], valid[part] if valid.size else valid

    for name in STATISTICS if dtype[0] == "f" else PICKED:
        once, share = block_statistic(name, footprints, pixels, valid, (1000, 2000))
        assert 0 < share[0, 0] <= 1
        for height in (len(pixels), 71):
            result, covered = large_cells.statistic_of(
                name, *footprints.outline(0, 0), lambda h=height: strips(h), wrap
            )
            assert once.dtype.type(result) == once[0, 0], (name, height)
            assert np.float32(covered) == share[0, 0], (name, height)


@pytest.mark.parametrize("kind", [Kind.CONTINUOUS, Kind.COUNT, Kind.CATEGORICAL, Kind.CIRCULAR])
def test_a_window_of_one_cell_is_read_in_strips_that_change_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    pixels = np.random.default_rng(7).integers(1, 300, (400, 500)).astype("float32")
    path = write_raster(tmp_path / "a.tif", pixels, UTM, north_up(500_000, 5_000_000, 3), nodata=7)
    grid = Grid(UTM, 500_100.5, 4_999_800, 1000, 900, width=1, height=1)
    words = {
        Kind.CONTINUOUS: ("average", "std", "rms", *PICKED),
        Kind.COUNT: ("sum",),
        Kind.CATEGORICAL: ("mode",),
        Kind.CIRCULAR: ("average", "mode"),
    }[kind]
    fractions = (8, 9) if kind is Kind.CATEGORICAL else False
    layer = Layer(
        "a", (str(path),), kind=kind, resampling=words, fractions=fractions, valid_fraction=True, min_valid=0.1
    )
    plan = plan_of(grid, [layer])
    once = table_of(plan)
    monkeypatch.setattr(locate, "WINDOW_PIXELS", 20_000)
    result = [n.strips for n in locate.canonical_blocks(grid, plan.layers[0].decisions[0], plan.spec.tile(0))]
    assert [len(strips) for strips in result] == [11], "300 rows of 334 pixels, 29 of them at a time"
    assert table_of(plan).equals(once)
    assert once.num_rows == 1
    assert once.num_columns >= 6


def case(
    method: str, dtype: str, pixel: float, size: int, ratio: float, crs: str = UTM, files: int = 1
) -> dict[str, object]:
    """Cells of `ratio` pixels to an edge over `size` x `size` pixels, in a mosaic of `files` x `files` files."""
    about = {"method": method, "dtype": dtype, "pixel": pixel, "size": size, "ratio": ratio, "crs": crs}
    return about | {"files": files}


CASES = [
    *(case(m, "float32", 30, 2000, r) for r in (0.01, 0.3, 2.5, 40, 1000, 2000) for m in ("average", "mode")),
    *(case(m, "float64", 30, 4500, 7.9) for m in ("average", "med", "bilinear")),
    *(case("average", d, 30, 3600, 6.9, files=n) for d in ("float32", "float64") for n in (2, 12)),
    # cells of 100 m, 300 m, 1 km and 2 km over pixels of 2 cm
    *(case(m, "float32", 0.02, 1000, r) for r in (5_000, 15_000, 50_000, 100_000) for m in ("std", "mode", "q3")),
    # a degree over pixels of 10 m
    *(
        case(m, dtype, 0.0001, 10_100, 10_000, "EPSG:4326")
        for m, dtype in (("average", "int16"), ("mode", "uint8"), ("med", "float32"), ("max", "float64"))
    ),
]


@pytest.mark.slow
def test_reading_takes_no_more_memory_than_the_plan_says(tmp_path: Path) -> None:
    """From 0.01 to 100,000 pixels to a cell edge, in a process whose peak is measured."""
    script = surroundings.TESTS / "reading_memory.py"
    command = [sys.executable, str(script), str(tmp_path), json.dumps(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(cases) == len(CASES)
    assert [case for case in cases if case["measured"] > case["predicted"]] == []
    large = [case["predicted"] for case in cases if case["ratio"] >= 1000]
    assert max(large) < 400 << 20, "however large the cell"
