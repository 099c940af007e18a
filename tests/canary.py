"""Settings with a secret in every address, and where the secret turns up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from helpers import north_up, write_raster

from geopipe.grid.grid import Grid

CANARY = "c4n4ryS3cr3t"
GRID = Grid("EPSG:32612", 500_000, 4_000_000, 30, 30, width=8, height=8)


def fill(folder: Path) -> None:
    """Write the rasters of `secret_settings` into the folder of a web server."""
    pixels = np.arange(64, dtype="uint8").reshape(8, 8)
    for name in ("a", "b", "mask", "like"):
        write_raster(folder / f"{name}.tif", pixels + 1, GRID.crs, north_up(GRID.x0, GRID.y0, 30))


def signed(port: int, name: str, secret: str = CANARY) -> str:
    return f"http://user:{secret}@127.0.0.1:{port}/{name}.tif?X-Amz-Credential={secret}&sig={secret}&token={secret}"


def secret_settings(folder: Path, port: int, *more: str) -> Path:
    """Settings with a secret in a layer, the grid, the mask, the address of a STAC asset and an option of GDAL."""
    asset = {"href": signed(port, "b").replace(f"user:{CANARY}@", ""), "roles": ["data"]}
    item = {"type": "Feature", "id": "i", "properties": {}, "assets": {"b": asset}}
    (folder / "item.json").write_text(json.dumps(item))
    option = f"/vsicurl?cookie=session={CANARY}&url=http://127.0.0.1:{port}/a.tif"
    layers = [("a", signed(port, "a")), ("b", "item.json"), ("c", option)]
    file = folder / "s.toml"
    text = f'[grid]\nlike = "{signed(port, "like")}"\nmask = "{signed(port, "mask")}"\n' + "\n".join(more) + "\n"
    allow = f'allow = ["http://127.0.0.1:{port}/"]'
    file.write_text(text + "".join(f'[[layers]]\nname = "{name}"\npath = "{path}"\n{allow}\n' for name, path in layers))
    return file


def files_with(secret: str, folder: Path) -> list[str]:
    """The files below a folder that have a secret in their name or their bytes."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]
    return [str(p) for p in files if secret in p.name or secret.encode() in p.read_bytes()]
