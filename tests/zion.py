"""The settings of the seven sources around Zion National Park."""

from __future__ import annotations

from pathlib import Path

LAYERS = {
    "elevation": ("zion/srtm.tif", ""),
    "landcover": ("zion/nlcd.tif", 'kind = "categorical"'),
    "nlcd2011": ("zion/nlcd2011.tif", 'kind = "categorical"'),
    "tmax": ("zion/tmmx_20190121.nc", ""),
    "bio": ("continental/bio.tif", ""),
    "biome": ("continental/biome.tif", 'kind = "categorical"'),
    "cropland": ("global/openlandmap_cropland_2016_10km.tif", ""),
}


def write_settings(folder: Path, data: Path, each: str = "") -> Path:
    text = f"""
[run]
name = "zion"
output = "{folder}/output"
[grid]
crs = "EPSG:32612"
resolution = 90
bounds = [301980, 4111500, 335910, 4153890]
[merge]
how = "grid"
[export]
formats = ["parquet", "csv"]
"""
    for name, (path, more) in LAYERS.items():
        text += f'[[layers]]\nname = "{name}"\npath = "{data / path}"\n{more}\n{each}\n'
    file = folder / "zion.toml"
    file.write_text(text)
    return file
