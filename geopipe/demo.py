"""The demo: small rasters of one invented landscape that agree in nothing, and the settings that merge them.

One terrain (ranges, a valley with a river, a lake, towns) is computed on a lattice in UTM; each raster samples it at
its own pixel centres, so that the layers fit each other once they lie on one grid. Everything is seeded.
"""

from __future__ import annotations

from collections import namedtuple
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import MemoryFile

from geopipe.grid.crs import crs_transform
from geopipe.grid.grid import projected_bounds
from geopipe.settings.model import SECTIONS
from geopipe.settings.reference import full_section

Array = NDArray[Any]

UTM, LON_LAT, EUROPE, WEB = "EPSG:32632", "EPSG:4326", "EPSG:3035", "EPSG:3857"
WEST, SOUTH, EAST, NORTH, CELL = 600_000, 5_130_000, 650_000, 5_170_000, 100
"""The demo's grid, in metres of UTM: 500 x 400 cells."""

LATTICE, COLUMNS, ROWS = Affine(60, 0, 595_020, 0, -60, 5_175_030), 1000, 834
"""The lattice of the landscape, and the pixels of elevation.tif: 60 x 50 km around the grid."""

WATER, FOREST, GRASS, CROPS, BUILT, ROCK, SNOW = range(10, 80, 10)
CLASSES = {
    WATER: ((70, 120, 190), (300, 480, 160)),
    FOREST: ((40, 100, 50), (330, 520, 2500)),
    GRASS: ((150, 190, 90), (720, 930, 3300)),
    CROPS: ((225, 205, 115), (1080, 1120, 2800)),
    BUILT: ((200, 50, 50), (1650, 1500, 1950)),
    ROCK: ((150, 145, 140), (1900, 1780, 2150)),
    SNOW: ((245, 250, 255), (7200, 7400, 6600)),
}
"""Classes of the land cover: colour, and reflectance x 10,000 in red, green, near infrared."""

VALLEYS = (
    ((58, 11), (50, 12.5), (43, 15), (36, 15.5), (29, 18.5), (22, 22), (14, 22.5), (6, 26), (-8, 30)),
    ((58, 47), (40, 49), (25, 48), (8, 51), (-8, 54)),
    ((58, -13), (38, -11), (20, -12), (-8, -8)),
)
"""Main valleys from their mouths upward, in km from the grid's lower left corner; the first has the river."""

TOWNS = (
    (31.2, 17.3, 1.5, 1.0),
    (44.0, 14.6, 1.0, 0.85),
    (21.0, 22.2, 0.9, 0.8),
    (12.5, 22.4, 0.6, 0.65),
    (36.0, 17.0, 0.5, 0.7),
    (26.0, 20.2, 0.5, 0.6),
    (48.6, 12.8, 0.6, 0.6),
    (4.0, 26.8, 0.6, 0.6),
)
"""u, v and radius in km, share built up in the middle."""

TILED = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}


Places = namedtuple("Places", "u v height slope light wet town rough")
"""The landscape at some places, as arrays of one shape: km east and north of the grid's lower left corner, metres,
degrees, sunlight in 0..1, km from the shore (above zero in water), share built up, noise that makes borders ragged."""


def noise(seed: int, x: Array, y: Array) -> Array:
    """Gradient noise of wavelength 1 at x and y: same shape, about -1..1."""
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi, (64, 64))
    gx, gy = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    col, row = np.floor(x), np.floor(y)
    dx, dy = x - col, y - row
    c0, r0 = col.astype(np.int32) & 63, row.astype(np.int32) & 63
    c1, r1 = (c0 + 1) & 63, (r0 + 1) & 63
    sx, sy = (d * d * d * (d * (d * 6 - 15) + 10) for d in (dx, dy))
    upper = (1 - sx) * (gx[r0, c0] * dx + gy[r0, c0] * dy) + sx * (gx[r0, c1] * (dx - 1) + gy[r0, c1] * dy)
    dy = dy - 1
    lower = (1 - sx) * (gx[r1, c0] * dx + gy[r1, c0] * dy) + sx * (gx[r1, c1] * (dx - 1) + gy[r1, c1] * dy)
    return np.asarray(1.5 * (upper + sy * (lower - upper)))


def valley_tree() -> list[tuple[float, ...]]:
    """Pieces of valley floor: u, v (km) and height (m) of the lower end and of the upper, half its width (km)."""
    rng = np.random.default_rng(20)
    pieces: list[tuple[float, ...]] = []

    def climb(u: float, v: float, z: float, heading: float, length: float, order: int) -> None:
        for _ in range(2 if order == 1 else 1):
            u1, v1 = u + float(np.cos(heading)) * length, v + float(np.sin(heading)) * length
            z1 = z + length * (42 if order == 1 else 125)
            pieces.append((u, v, z, u1, v1, z1, 0.3 if order == 1 else 0.08))
            for side, share in ((-1, 0.3), (-1, 0.8), (1, 0.5), (1, 0.95)) if order == 1 else ():
                f, turn, far = share + rng.uniform(-0.12, 0.12), rng.uniform(0.9, 1.3), rng.uniform(2.5, 5)
                climb(u + (u1 - u) * f, v + (v1 - v) * f, z + (z1 - z) * f, heading + side * turn, far, 2)
            u, v, z, heading = u1, v1, z1, heading + rng.uniform(-0.5, 0.5)

    for valley in VALLEYS:
        z = 300.0
        for (u, v), (u1, v1) in pairwise(valley):
            length = float(np.hypot(u1 - u, v1 - v))
            z1, heading = z + 9 * length, float(np.arctan2(v1 - v, u1 - u))
            pieces.append((u, v, z, u1, v1, z1, 0.95))
            for f in np.arange(rng.uniform(0.5, 2.5), length, 7.0) / length:
                for side in (-1, 1):
                    f = float(np.clip(f + rng.uniform(-0.15, 0.15), 0, 1))
                    turn, far = rng.uniform(1.1, 1.5), rng.uniform(7, 11)
                    climb(u + (u1 - u) * f, v + (v1 - v) * f, z + (z1 - z) * f, heading + side * turn, far, 1)
            z = z1
    return pieces


def landscape() -> Places:
    """The landscape at the centres of the lattice: (rows, columns)."""
    col, row = np.meshgrid(np.arange(COLUMNS, dtype=np.float32), np.arange(ROWS, dtype=np.float32))
    u = (LATTICE.c - WEST + LATTICE.a / 2 + col * LATTICE.a) / np.float32(1000)
    v = (LATTICE.f - SOUTH + LATTICE.e / 2 + row * LATTICE.e) / np.float32(1000)
    # valleys are straight in a warped plane, hence winding in the true one
    wu = u + 0.9 * noise(1, u / 5, v / 5) + 0.25 * noise(2, u / 1.6, v / 1.6)
    wv = v + 0.9 * noise(3, u / 5, v / 5) + 0.25 * noise(4, u / 1.6, v / 1.6)

    height = np.full(u.shape, 3600, np.float32)
    for u0, v0, z0, u1, v1, z1, half in valley_tree():
        # slopes rise from the nearest floor, so that ridges stand where two valleys meet; beyond 7 km none is felt
        cols = slice(*np.searchsorted(u[0], (min(u0, u1) - 7, max(u0, u1) + 7)))
        rows = slice(*np.searchsorted(-v[:, 0], (-max(v0, v1) - 7, -min(v0, v1) + 7)))
        du, dv = wu[rows, cols] - u0, wv[rows, cols] - v0
        along = np.clip((du * (u1 - u0) + dv * (v1 - v0)) / ((u1 - u0) ** 2 + (v1 - v0) ** 2), 0, 1)
        away = np.hypot(du - along * (u1 - u0), dv - along * (v1 - v0))
        floor = z0 + along * (z1 - z0) + 520 * np.maximum(away - half, 0)
        np.minimum(height[rows, cols], floor, out=height[rows, cols])

    axis = np.array(VALLEYS[0][::-1], float)
    off = (wv - np.interp(wu, axis[:, 0], axis[:, 1])).astype(np.float32) * 0.95
    bottom = 300 + 9.4 * (58 - wu)
    above = np.clip((height - bottom) / 1000, 0, 1.5)
    height += 500 * above * np.exp(-(((u - 36 + v / 3) / 20) ** 2) - ((v - 36) / 7) ** 2)  # the high range
    height = np.where(height > 1900, 1900 + 1700 * (1 - np.exp((1900 - height) / 1700)), height)
    for seed, (length, size) in enumerate(((5, 300), (2.2, 220), (1, 110), (0.5, 50), (0.25, 22)), 10):
        height += above * size * ((1 - np.abs(noise(seed, u / length, v / length))) ** 2 - 0.5)

    rough = noise(20, u / 1.3, v / 1.3) * 0.6 + noise(21, u / 0.4, v / 0.4) * 0.4
    lake = 0.85 * (1 - np.hypot((u - 39.5) / 3.4, off / 0.85) + 0.1 * rough)
    level = 300 + 9.4 * (58 - 40.5)
    height = level + (height - level) * np.clip(-lake / 0.5, 0, 1)
    river = 0.07 - np.abs(off - 0.3 * np.sin(2.3 * u) - 0.15 * np.sin(5.1 * u + 1))
    wet = np.maximum(lake, river)

    gy, gx = np.gradient(height, LATTICE.e, LATTICE.a)
    slope = np.degrees(np.arctan(np.hypot(gx, gy)))
    sun, high = np.radians(315), np.radians(42)
    light = np.sin(high) - np.cos(high) * (gx * np.sin(sun) + gy * np.cos(sun))
    light = np.clip(light / np.sqrt(1 + gx * gx + gy * gy), 0, 1)
    town = np.zeros_like(height)
    for tu, tv, radius, density in TOWNS:
        town += density * np.exp(-((u - tu) ** 2 + (v - tv) ** 2) / radius**2)
    town *= np.clip((16 - slope) / 8, 0, 1) * np.clip(-wet / 0.1, 0, 1)
    fields = (u, v, height, slope, light, wet, town, rough)
    return Places(*(field.astype(np.float32, copy=False) for field in fields))


def sample(land: Places, transform: Affine, width: int, height: int, crs: str) -> Places:
    """The landscape at the pixel centres of a raster: (height, width), straight between the points of the lattice."""
    # projections bend so little that 65 x 65 exact points and straight lines between them are right to centimetres
    col, row = np.meshgrid(np.linspace(0.5, width - 0.5, 65), np.linspace(0.5, height - 0.5, 65))
    exact = crs_transform(crs, UTM)(transform.c + transform.a * col, transform.f + transform.e * row)
    x, y = (_between(height) @ points @ _between(width).T for points in exact)
    px = np.clip((x - LATTICE.c) / LATTICE.a - 0.5, 0, COLUMNS - 1.001).astype(np.float32)
    py = np.clip((y - LATTICE.f) / LATTICE.e - 0.5, 0, ROWS - 1.001).astype(np.float32)
    at = py.astype(np.int32) * COLUMNS + px.astype(np.int32)
    px, py = px % 1, py % 1

    def place(field: Array) -> Array:
        flat = field.ravel()
        upper, lower = flat[at], flat[at + COLUMNS]
        upper += px * (flat[at + 1] - upper)
        lower += px * (flat[at + COLUMNS + 1] - lower)
        return np.asarray(upper + py * (lower - upper))

    return Places(*map(place, land))


def _between(count: int, points: int = 65) -> Array:
    """Weights (count, points) that draw straight lines between `points` values spread over `count` places."""
    return np.asarray(np.maximum(0, 1 - np.abs(np.linspace(0, points - 1, count)[:, None] - np.arange(points))))


def around(crs: str, size: float, margin: int) -> tuple[Affine, int, int]:
    """Transform, width and height of a raster with pixels of `size` that covers the grid and `margin` metres more."""
    corner = Affine(1, 0, WEST - margin, 0, -1, NORTH + margin)
    bounds = projected_bounds(corner, EAST - WEST + 2 * margin, NORTH - SOUTH + 2 * margin, UTM, crs)
    assert bounds is not None
    left, bottom, right, top = (int(edge // size) for edge in bounds)
    return Affine(size, 0, left * size, 0, -size, (top + 1) * size), right + 1 - left, top + 1 - bottom


def land_cover(at: Places) -> Array:
    """The class of each place, uint8."""
    rules: tuple[tuple[Array, int], ...] = (
        (at.wet > 0, WATER),
        (at.town > 0.3 + 0.25 * at.rough, BUILT),
        ((at.height > 2600 + 300 * at.rough + 8 * (at.slope - 30)) & (at.slope < 55), SNOW),
        ((at.height > 2300 + 300 * at.rough) | (at.slope > 48 + 8 * at.rough), ROCK),
        ((at.slope < 8) & (at.height < 900 + 200 * at.rough), CROPS),
        ((at.height < 1850 + 250 * at.rough) & (at.slope > 9 + 14 * at.rough), FOREST),
    )
    conditions, classes = zip(*rules, strict=True)
    return np.asarray(np.select(conditions, classes, GRASS).astype(np.uint8))


def generate(folder: Path) -> Path:
    """Write `folder`/data/* and `folder`/settings.toml, the same bytes each time; returns the path of the settings."""
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    land, rng = landscape(), np.random.default_rng(7)
    _elevation(data / "elevation.tif", land)
    _land_cover(data / "landcover.tif", land)
    _satellite(data / "satellite.tif", land, rng)
    _climate(data / "climate.nc", land)
    _population(data / "population.tif", land, rng)
    _slope(data / "slope.tif", land)
    _soil(data / "soil_west.tif", land, Affine(250, 0, 596_130, 0, -250, 5_172_080), 124, 1.0)
    _soil(data / "soil_east.tif", land, Affine(250, 0, 624_130, 0, -250, 5_172_080), 112, 1.06)
    settings = folder / "settings.toml"
    settings.write_text(settings_text("data", "output"), encoding="utf-8", newline="\n")
    return settings


def _write(path: Path, bands: Array, crs: str, transform: Affine, colours: Any = None, **profile: Any) -> None:
    """Write `bands`, (bands, height, width), as a GeoTIFF."""
    count, height, width = bands.shape
    profile |= {"count": count, "height": height, "width": width, "dtype": bands.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **profile) as ds:
        ds.write(bands)
        if colours:
            ds.write_colormap(1, colours)


def _elevation(path: Path, land: Places) -> None:
    """Metres, with a hole where a cloud was."""
    cloud = np.hypot((land.u - 11) / 4.2, (land.v - 33) / 3.2) + 0.9 * land.rough < 1
    height = np.where(cloud, -9999, land.height.round(1)).astype(np.float32)
    _write(path, height[None], UTM, LATTICE, nodata=-9999, predictor=3, **TILED)


def _land_cover(path: Path, land: Places) -> None:
    """Classes with a colour table; 0 outside the mapped rectangle, which is tilted in this projection."""
    transform, width, height = around(EUROPE, 30, 1000)
    at = sample(land, transform, width, height, EUROPE)
    mapped = (at.u > -1) & (at.u < 51) & (at.v > -1) & (at.v < 41)
    colours = {code: colour for code, (colour, _) in CLASSES.items()}
    _write(path, (land_cover(at) * mapped)[None], EUROPE, transform, colours, nodata=0, photometric="palette", **TILED)


def _satellite(path: Path, land: Places, rng: np.random.Generator) -> None:
    """Reflectance x 10,000 under the sun; 0 beyond the slanted edge of the swath."""
    transform, width, height = around(WEB, 80, 1000)
    at = sample(land, transform, width, height, WEB)
    table = np.zeros((3, 256), np.float32)
    for code, (_, reflectance) in CLASSES.items():
        table[:, code] = reflectance
    bands = table[:, land_cover(at)] * (0.45 + 0.8 * at.light) * (1 + 0.25 * at.rough)
    bands *= 1 + 0.03 * rng.standard_normal(bands.shape, np.float32)
    bands = np.where(at.u - 43 > (40 - at.v) * 0.3, 0, np.clip(bands, 1, 10_000))
    _write(path, bands.round().astype(np.uint16), WEB, transform, nodata=0, predictor=2, **TILED)
    with rasterio.open(path, "r+") as ds:
        ds.descriptions = ("red", "green", "nir")


def _climate(path: Path, land: Places) -> None:
    """Mean temperature in hundredths of a degree above 5 C, packed; two cells in the south-west are missing."""
    transform, width, height = around(LON_LAT, 0.05, 1000)
    celsius = 13.5 - 0.0063 * _means(land, transform, width, height, 16).height
    packed = ((celsius - 5) / 0.01).round().astype(np.int16)
    packed[-2:, 0] = -32768
    profile = {"driver": "GTiff", "count": 1, "width": width, "height": height, "dtype": "int16", "nodata": -32768}
    with MemoryFile() as memory:
        with memory.open(crs=LON_LAT, transform=transform, **profile) as ds:
            ds.write(packed, 1)
            ds.scales, ds.offsets = (0.01,), (5.0,)
            # the driver takes the unit from this tag, and not from the band's unit
            ds.update_tags(1, NETCDF_VARNAME="temperature", units="degC", long_name="mean annual temperature")
        with memory.open() as ds:  # history and version would put the date and GDAL's release into the bytes
            options = {"FORMAT": "NC", "WRITE_GDAL_HISTORY": "NO", "WRITE_GDAL_VERSION": "NO"}
            rasterio.shutil.copy(ds, path, driver="netCDF", **options)


def _population(path: Path, land: Places, rng: np.random.Generator) -> None:
    """People per cell: float32, -1 on the lake."""
    transform, width, height = around(LON_LAT, 1 / 120, 1000)
    at = _means(land, transform, width, height, 8)
    farms = (at.height < 1100) * (at.slope < 20) * rng.gamma(1, 8, at.height.shape)
    people = np.where(at.wet > 0, -1, (2400 * at.town + farms).round(1)).astype(np.float32)
    _write(path, people[None], LON_LAT, transform, nodata=-1)


def _slope(path: Path, land: Places) -> None:
    """Degrees, on the demo's grid itself, with a few undeclared NaN."""
    transform = Affine(CELL, 0, WEST, 0, -CELL, NORTH)
    at = sample(land, transform, (EAST - WEST) // CELL, (NORTH - SOUTH) // CELL, UTM)
    at.slope[[37, 180, 181, 302], [411, 95, 95, 260]] = np.nan
    _write(path, at.slope[None], UTM, transform, compress="lzw")


def _soil(path: Path, land: Places, transform: Affine, width: int, bias: float) -> None:
    """Soil carbon in tenths of g/kg, one of two surveys that overlap and differ; none in water and on rock."""
    at = sample(land, transform, width, 170, UTM)
    cover = land_cover(at)
    carbon = (14 + 0.02 * (at.height - 300) + 24 * (cover == FOREST) + 9 * (cover == GRASS)) * (1 + 0.5 * at.rough)
    none = np.isin(cover, (WATER, ROCK, SNOW, BUILT))
    _write(path, np.where(none, -32768, 10 * bias * carbon).astype(np.int16)[None], UTM, transform, nodata=-32768)


def _means(land: Places, transform: Affine, width: int, height: int, parts: int) -> Places:
    """The landscape averaged over `parts` x `parts` places of each pixel: (height, width)."""
    fine = sample(land, transform @ Affine.scale(1 / parts), width * parts, height * parts, LON_LAT)
    return Places(*(field.reshape(height, parts, width, parts).mean((1, 3)) for field in fine))


HEAD = """\
# Settings of a geopipe run: those of the demo, with every key that exists.
# A value is the default unless its comment says otherwise; a key behind "# " is optional and shows an example.
# Relative paths start at the folder of this file. GEOPIPE_SECTION__KEY in the environment wins over this file, and
# --set section.key=value (for a layer: layers.NAME.key=value) wins over both.
"""

LAYERS = """\
[[layers]]  # classes: 10 water, 20 forest, 30 grass, 40 crops, 50 built-up, 60 rock, 70 snow
name = "landcover"  # no kind: its colour table says categorical, so that a cell gets its most frequent class
path = "{data}/landcover.tif"

[[layers]]  # three bands make the columns satellite_red, satellite_green and satellite_nir
name = "satellite"
path = "{data}/satellite.tif"
bands = ["red", "green", "nir"]
scale = 0.0001  # the file has reflectance x 10,000 and does not say so

[[layers]]  # packed NetCDF: scale, offset and unit are in the file
name = "temperature"
path = "{data}/climate.nc"

[[layers]]  # people per pixel: shared out among the cells, so that their total stays
name = "population"
path = "{data}/population.tif"
kind = "count"
unit = "people"

[[layers]]  # lies on the grid already, so that its pixels are copied as they are
name = "slope"
path = "{data}/slope.tif"
unit = "degree"

[[layers]]  # two files with an overlap
name = "soil_carbon"
path = ["{data}/soil_west.tif", "{data}/soil_east.tif"]
scale = 0.1
unit = "g/kg"
overlap = "mean"  # the two surveys differ a little
"""
"""The layers but the first; `data` is the folder of the rasters."""


def settings_text(data: str, output: str) -> str:
    """The settings of the demo, with every key that exists. `data` and `output`: folders, relative to the file."""
    values: dict[str, dict[str, Any]] = {
        "run": {"name": "demo", "output": output},
        "grid": {"crs": UTM, "resolution": CELL, "bounds": [WEST, SOUTH, EAST, NORTH]},
        "layers": {"name": "elevation", "path": f"{data}/elevation.tif", "kind": "continuous"},
        "export": {"formats": ["parquet", "csv"]},
    }
    parts = [HEAD]
    for section in SECTIONS:
        parts.append("\n".join(full_section(section, values.get(section, {}))) + "\n")
        if section == "layers":
            parts.append(LAYERS.format(data=data))
    return "\n".join(parts)
