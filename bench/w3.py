"""W3: a scene of six bands and a class raster in UTM, on a tilted LAEA grid: the workload of exact areas.

    python bench/w3.py FOLDER [N]        # writes FOLDER/*.tif and FOLDER/settings.toml; N is 1700

The scene is uint16 in EPSG:32633 with pixels of 30 m (6144 x 6144 of them for 1700 cells), the grid EPSG:3035 with
N x N cells of 100 m, whose rows run some 4 degrees off those of the scene. Mean, least, greatest and root mean square
of each band, and the most frequent class.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from affine import Affine
from pyproj import Transformer
from scenes import Scene

CRS, GRID_CRS = "EPSG:32633", "EPSG:3035"
PIXEL, CELL = 30, 100
CENTRE = (600_000, 5_330_000)
"""Of the scene, in metres of UTM: near Vienna."""
BANDS = 6
STATISTICS = ("average", "min", "max", "rms")
LARGEST = 1700


def generate(folder: Path, n: int = LARGEST) -> Path:
    """Write the rasters and the settings; returns the path of the settings."""
    size = round(6144 * n / LARGEST)
    transform = Affine(PIXEL, 0, CENTRE[0] - PIXEL * size / 2, 0, -PIXEL, CENTRE[1] + PIXEL * size / 2)
    Scene(CRS, transform, size, "uint16", BANDS, scale=50).write(folder / "scene.tif", 100)
    Scene(CRS, transform, size, "uint8", classes=11).write(folder / "classes.tif", 101)
    settings = folder / "settings.toml"
    settings.write_text(settings_of(n), encoding="utf-8")
    return settings


def settings_of(n: int) -> str:
    """The settings of a run on n x n cells, as TOML."""
    x, y = Transformer.from_crs(CRS, GRID_CRS, always_xy=True).transform(*CENTRE)
    left, bottom = (round(v / CELL) * CELL - CELL * (n // 2) for v in (x, y))
    lines = ["[run]", 'name = "w3"', 'output = "output"', "[grid]", f'crs = "{GRID_CRS}"', f"resolution = {CELL}"]
    lines += [f"bounds = [{left}, {bottom}, {left + CELL * n}, {bottom + CELL * n}]"]
    lines += ["[[layers]]", 'name = "scene"', 'path = "scene.tif"', 'kind = "continuous"']
    lines += [statistics_line(STATISTICS)]
    lines += ["[[layers]]", 'name = "classes"', 'path = "classes.tif"', 'kind = "categorical"', 'resampling = "mode"']
    return "\n".join(lines) + "\n"


def statistics_line(statistics: tuple[str, ...]) -> str:
    """The line of the settings that asks for statistics."""
    return "resampling = [" + ", ".join(f'"{name}"' for name in statistics) + "]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("n", type=int, nargs="?", default=LARGEST, help="cells along an edge of the grid")
    options = parser.parse_args()
    print(generate(options.folder, options.n))


if __name__ == "__main__":
    main()
