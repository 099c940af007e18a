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

Array = NDArray[Any]

UTM, LON_LAT, EUROPE, WEB = "EPSG:32632", "EPSG:4326", "EPSG:3035", "EPSG:3857"
WEST, SOUTH, EAST, NORTH, CELL = 600_000, 5_130_000, 650_000, 5_170_000, 100
"""The demo's grid, in metres of UTM: 500 x 400 cells."""

LATTICE, COLUMNS, ROWS = Affine(60, 0, 595_020, 0, -60, 5_175_030), 1000, 834
"""Where the landscape is computed, and the pixels of elevation.tif: 60 x 50 km around the grid."""

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


def settings_text(data: str, output: str) -> str:
    """The settings of the demo, with every key that there is. `data` and `output`: folders, relative to the file."""
    return _SETTINGS.format(data=data, output=output)


_SETTINGS = """\
# Settings of a geopipe run: those of the demo, and the reference of every key there is.
# A value is the default unless its comment says otherwise; a key behind "# " is optional and shows an example.
# Relative paths start at the folder of this file. GEOPIPE_SECTION__KEY in the environment wins over this file, and
# --set section.key=value (of a layer, layers.NAME.key=value) over both.

[run]
name = "demo"  # a label: letters, digits, . _ - (default "run")
output = "{output}"  # the folder of the finished table, or the prefix of an object store (see staging)
# staging = "work"  # needed where output is an object store: the folder, which all nodes share, where the run works
# until its table is sent: output = "s3://bucket/prefix" (or gs://, abfs://), options of the store behind it:
# "s3://bucket/prefix?endpoint_override=host:9000&scheme=http&region=us-east-1". Credentials come from the environment.

[grid]  # where all layers are brought to: a cell of the grid is a row of the table
crs = "EPSG:32632"  # authority code, WKT or PROJ text (no default)
resolution = 100  # edge of a cell in units of the CRS: one number, or [width, height] (no default)
bounds = [600000, 5130000, 650000, 5170000]  # xmin, ymin, xmax, ymax; "union" (default) or "intersection" of the layers
# like = "{data}/slope.tif"  # a raster that gives the CRS and cells, and the extent, where the keys above are left out
# allow = ["/data/tiles"]  # what like and mask may refer to, if they are VRTs (see the layers)
# snap = true  # move edges outward to whole multiples of the resolution (left out: only for union and intersection)
# Cells whose centre is outside the mask are no rows: a vector file of polygons (GeoJSON, GeoPackage, Shapefile), or a
# raster (inside is where its nearest pixel is valid and not 0). What is wholly outside is not read.
# mask = "park.gpkg"
# mask_layer = "core_zone"  # of a vector file with several
# mask_crs = "EPSG:4326"  # of a mask that does not say it, or says it wrong

[[layers]]  # one table for each layer, in the order of the columns; this one shows every key
name = "elevation"  # the column; with several bands: name_band
path = "{data}/elevation.tif"  # a file, folder, glob pattern or URI that GDAL can read, or a list of them; or tables
# driver = "SAGA"  # GDAL's driver, where the ending of a name does not tell it; a service on the web needs it: "WMS"
# allow = ["/data/tiles", "https://host/"]  # folders and starts of addresses that a VRT or a STAC item may refer to,
#                                           beside what is in and below its own folder
# asset = "B04"  # where path gives STAC items: which asset of each (left out: its only data asset)
# sort_by = "cloud_cover"  # STAC items from the clearest on; or "datetime" (oldest first); "-datetime" turns it round
# variable = "tas"  # which one of a file with several: NetCDF, HDF5, Zarr, GRIB
# bands = [1]  # numbers, descriptions or words of them (left out: all)
# time = "1999-03"  # bands of a day, month or year, a range "1999-03/1999-05", or a list of such (left out: all)
# level = 850  # bands of a level, a range "1000/500", or a list of such (left out: all)
# reduce = "mean"  # one column of all times instead of one for each: mean, min, max or sum, missing values left out
kind = "continuous"  # or "categorical", "count", "circular" (degrees); left out: categorical with a colour table
# How cells get their values: auto chooses by kind and scale, and the plan says why. Or one of nearest, bilinear,
# cubic, cubic_spline, lanczos, average (mean), mode, max, min, med, q1, q3, sum, rms, std; a list makes a column each.
resampling = "auto"
fractions = false  # true: a column with the share of each class beside; or those of some classes: [10, 20]
valid_fraction = false  # true: a column with the share of the cell that has values
min_valid = 0.0  # cells with a smaller share are left empty
# The next five are for files that do not say it, or say it wrong.
# nodata = -9999  # the number that means: no value here
# crs = "EPSG:32632"
# scale = 0.1  # value = number in the file x scale + offset
# offset = 0.0
# unit = "m"  # goes into the table's schema
# georeference = "gcps"  # place the file by its ground control points, or "rpcs" by its RPC model
unpack = true  # false: leave scale and offset of the file alone
# bits = [3, 4]  # first and last bit of a field in whole numbers, as quality bands have them
overlap = "first"  # where several files cover a cell: first, last, mean, min, max, sum
on_error = "fail"  # or "skip": leave the columns of a broken layer empty, say so, and exit with code 4
# The rest is for tables of points: Parquet, CSV (.csv, .csv.gz), or path = "postgresql://host/database" (or
# "postgresql:", the server then comes from GEOPIPE_POSTGRES_DSN or libpq's variables; so does a password, always).
# Of the keys above they know name, path, kind, nodata, crs, unit and on_error.
# table = "public.wells"  # in Postgres: what is read
# query = "select * from wells where depth > 10"  # or the rows of a query
# key = "id"  # whole numbers by which Postgres is read in ranges (left out: a table's primary key, else in one go)
# x = "lon"  # column names (left out: x and y, else x_coord, y_coord, or lon, lat, or longitude, latitude)
# y = "lat"
# values = ["depth", "yield"]  # a variable each (left out: value, else the only column of numbers that is left)
# weight = "area"  # weighs mean and sum; rows without a weight do not count
aggregate = "auto"  # of the points of a cell: mean, sum, min, max, count, first, mode; a list makes a column each
# cells = "centres"  # each row is a cell: x and y are its centre, its upper left corner ("corners"), or the grid's
#                      column and row ("index")
on_misaligned = "fail"  # cells that are off by more than merge.alignment_tolerance; "aggregate": as if they were points

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
path = ["{data}/soil_west.tif", "{data}/soil_east.tif"]  # or "{data}/soil_*.tif"
scale = 0.1
unit = "g/kg"
overlap = "mean"  # the two surveys differ a little

[resampling]
window_size = 2048  # edge of a tile in cells, a multiple of 512; smaller needs less memory, the table is the same
tolerance = "auto"  # error of positions in source pixels: a number, or "exact" (auto: exact for classes, else 0.01)
skip_data_loading_for_passthrough = true  # copy pixels that are cells already; false: send them through the warp too
enable_memory_aware_processing = true  # false (deprecated): read rasters whole, in one process; for comparison only
use_legacy_resampling = false  # deprecated: true does the same as enable_memory_aware_processing = false
use_legacy_passthrough = false  # deprecated: true does so, too
# window_overlap = 128  # deprecated, without effect: each window is read as far around as its method reaches
allow_ballpark = false  # true: leave out a datum shift that PROJ does not know, instead of refusing the layer

[merge]
how = "outer"  # which cells to keep: outer (any layer has a value), inner (all have one), grid (every cell)
drop = []  # of these drop cells where any of the named columns or layers is null; "any": any column; "all": each one is
strategy = "auto"  # aligned (tile by tile) or groupby (a shuffle of tiles); the table is the same
# wave_tiles = 16  # tiles that are shuffled at a time (left out: what takes a fifth of the object store)
alignment_tolerance = 0.01  # how far, in pixels, a pixel may be off a cell and still be copied to it
enable_validation = true  # check rows, nulls and ranges before the table is published; false: publish it unchecked
# enable_chunked_processing = true  # deprecated, without effect: tables are merged tile by tile (window_size)
# chunk_size = 5000  # deprecated, without effect: see window_size and wave_tiles

[export]
formats = ["parquet", "csv"]  # one or both (default: Parquet alone)
compress = true  # how CSV is compressed: true (gzip), "gzip", "zstd" or false; Parquet always is
enable_streaming = true  # false (deprecated): format a whole tile of CSV at once, whatever chunk_size says
chunk_size = 100000  # rows of CSV to format at a time
csv_files = "tiles"  # a CSV file for each tile, or "one" for all of them: csv/table.csv.gz
# partition_by = "landcover"  # folders of Parquet, landcover=20 and so on, by a variable of classes; or by "tile"
# geometry = "point"  # GeoParquet 1.1: a column geometry with the centre of the cell
encoding = "auto"  # of floats in Parquet: small files; "plain" for readers that fail with "encoding 9" (fastparquet)
lonlat = false  # true: columns lon and lat of the cell's centre, in degrees on WGS 84
# h3 = 9  # a column h3 with the H3 cell of the centre at a resolution of 0 to 15, as a number (pip install geopipe[h3])

[monitoring]
log_level = "WARNING"  # DEBUG, INFO, WARNING, ERROR
log_format = "text"  # or "json": an object a line
progress_interval = 5.0  # seconds between lines of progress
# Records of the run go to Postgres: GEOPIPE_MONITORING_DSN, or the file in GEOPIPE_MONITORING_DSN_FILE, says where;
# else geopipe starts one of its own on this machine. See `geopipe monitor`.
enable_database_logging = true
log_batch_size = 100  # records that a process sends at a time
log_flush_interval = 5.0  # seconds that a log waits at most; progress and events wait for one
enable_metrics = true  # samples of processor, memory, object store, spilled objects and disk on each node
metrics_interval = 10.0  # seconds between them
# prometheus_port = 9490  # where the run answers Prometheus while it is at work (left out: nowhere)
# prometheus_host = "0.0.0.0"  # for others than this machine, too (left out: so on a cluster, else "127.0.0.1")
spool_bytes = 67108864  # of records that wait on disk in each process; beyond it the least important are given up

[engine]  # Ray; each key may be left out
# address = "auto"  # a cluster to join (left out: RAY_ADDRESS, else a Ray of its own on this machine)
# workers = 4  # processes that read and merge (left out: one for each processor)
# memory = 8000000000  # bytes that the run may use; a plan that needs more is refused (left out: 80 % of what is free)
# object_store_memory = 500000000  # bytes of Ray's shared memory, at least 83886080 (left out: at most 640 MiB)
# max_pixels = 100000000000  # source pixels that a run may decode; a plan with more is refused (left out: any number)
"""
