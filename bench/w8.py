"""W8: eight layers on one geographic grid, generated from a seed, the workload of the speed comparison.

    python bench/w8.py FOLDER N          # writes FOLDER/*.tif and FOLDER/settings.toml

The grid is EPSG:4326 over 10..19.216 E and 44..53.216 N with N x N cells. The layers have
five CRS and five resolutions.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from rasterio.transform import from_bounds
from rasterio.warp import transform_bounds
from scenes import Scene

BOUNDS = (10.0, 44.0, 19.216, 53.216)
"""xmin, ymin, xmax, ymax of the grid in degrees."""


@dataclass(frozen=True)
class Spec:
    """A layer of the workload. `pixels` are its pixels per cell edge of the grid."""

    name: str
    crs: str
    dtype: str
    pixels: float
    resampling: str
    classes: int = 0

    def scene(self, n: int) -> Scene:
        """The raster of a grid of n x n cells."""
        size = max(1, round(n * self.pixels))
        grid = "EPSG:4326"
        bounds = BOUNDS if self.crs == grid else transform_bounds(grid, self.crs, *BOUNDS, densify_pts=101)
        return Scene(self.crs, from_bounds(*bounds, size, size), size, self.dtype, classes=self.classes)


LAYERS = (
    Spec("same", "EPSG:4326", "float32", 1, "bilinear"),
    Spec("fine", "EPSG:4326", "float32", 2, "average"),
    Spec("coarse", "EPSG:4326", "float32", 0.25, "bilinear"),
    Spec("landcover", "EPSG:4326", "uint8", 2, "mode", classes=11),
    Spec("utm", "EPSG:32633", "float32", 1, "bilinear"),
    Spec("merc", "EPSG:3857", "int16", 1.5, "bilinear"),
    Spec("laea", "EPSG:3035", "float32", 1, "cubic"),
    Spec("ease", "EPSG:6933", "float32", 0.5, "bilinear"),
)


def generate(folder: Path, n: int) -> Path:
    """Write the rasters and the settings; returns the path of the settings."""
    for seed, spec in enumerate(LAYERS):
        spec.scene(n).write(folder / f"{spec.name}.tif", seed)
    settings = folder / "settings.toml"
    settings.write_text(settings_of(n), encoding="utf-8")
    return settings


def settings_of(n: int) -> str:
    """The settings of a run on n x n cells, as TOML."""
    resolution = (BOUNDS[2] - BOUNDS[0]) / n
    lines = ["[run]", 'name = "w8"', 'output = "output"', "[grid]", 'crs = "EPSG:4326"', f"resolution = {resolution!r}"]
    lines += [f"bounds = {list(BOUNDS)}"]
    for spec in LAYERS:
        kind = "categorical" if spec.classes else "continuous"
        lines += ["[[layers]]", f'name = "{spec.name}"', f'path = "{spec.name}.tif"']
        lines += [f'kind = "{kind}"', f'resampling = "{spec.resampling}"']
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("n", type=int, help="cells along an edge of the grid")
    options = parser.parse_args()
    print(generate(options.folder, options.n))


if __name__ == "__main__":
    main()
