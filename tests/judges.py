"""Judges of a raster on any grid that share no code with geopipe.

`nearest` and `bilinear` are looked up by pyproj, numpy and scipy at the centres of the cells; `average`, `sum`, `min`
and `max` by exactextract under the cells' outlines, which are projected into the source's pixels; a copy is a plain
read by rasterio. Missing pixels are found by GDAL's masks here, by geopipe itself there.

Two PROJ are in the process, rasterio's and pyproj's. Where they differ in the last digits, a centre may fall on the
other side of a pixel's edge, so that cells within EDGE pixels of one are not compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import rasterio
from affine import Affine
from exactextract import exact_extract
from exactextract.feature import JSONFeatureSource
from exactextract.raster import NumPyRasterSource
from helpers import plan_of, table_of
from pyproj import CRS, Transformer
from scipy.ndimage import map_coordinates, maximum_filter

from geopipe.grid.grid import Grid
from geopipe.layers.layer import Kind, Layer
from geopipe.resample.methods import Route

EDGE = 1e-6  # pixels
TOLERANCE = 0.01  # pixels by which geopipe's transformer may be off ("auto"), but for nearest and mode
SINGLE = 1e-6  # float32 values, and kernel weights in float32: a few times 2**-24, relative to the largest value


@dataclass(frozen=True, eq=False)
class File:
    """Band 1 of a file as GDAL gives it; `values` are unpacked, as float64, NaN where missing."""

    uri: str
    crs: CRS
    given_crs: str | None
    transform: Affine
    raw: np.ma.MaskedArray
    values: np.ndarray
    packed: bool
    place: tuple[float, float] | None

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def lonlat(self, col: float, row: float) -> tuple[float, float]:
        to = Transformer.from_crs(self.crs, self.crs.geodetic_crs, always_xy=True)
        return to.transform(*(self.transform @ (col, row)))

    def middle(self, reach: float) -> tuple[float, float]:
        """The pixel under a grid's middle; one that reaches `reach` pixels around sticks out of the file if it can."""
        height, width = self.shape
        if self.place is not None:
            return width * self.place[0], height * self.place[1]
        return min(width / 2, 0.85 * reach), min(height / 2, 0.85 * reach)


@lru_cache(maxsize=1)  # tests go file by file
def load(uri: str, given_crs: str | None = None, place: tuple[float, float] | None = None) -> File:
    """Read band 1.

    Args:
        uri: what GDAL opens.
        given_crs: the CRS of a file that has none.
        place: where grids have their middle, as parts of the width and the height; None where the file decides.
    """
    with rasterio.open(uri) as ds:
        raw, (scale, offset) = ds.read(1, masked=True), (ds.scales[0], ds.offsets[0])
        values = raw.astype("float64").filled(np.nan) * scale + offset
        crs, packed = CRS.from_user_input(given_crs or ds.crs.to_wkt()), (scale, offset) != (1, 0)
        return File(uri, crs, given_crs, ds.transform, raw, values, packed, place)


def crs_for(file: File, finer: bool) -> str:
    """Another CRS: 4326, the UTM zone of the file's middle or the next one, or one that is made for continents."""
    height, width = file.shape
    if finer and file.crs.is_projected:
        return "EPSG:4326"
    lons, lats = zip(*(file.lonlat(c * width, r * height) for c in (0.4, 0.6) for r in (0.4, 0.6)), strict=True)
    lon, lat = file.lonlat(*file.middle(np.inf))
    lon = (lon + 180) % 360 - 180
    if np.ptp(lats) > 4 or (np.ptp(lons) > 4 and np.ptp(np.mod(lons, 360)) > 4):
        return "EPSG:6933" if finer else f"+proj=laea +lat_0={lat:.0f} +lon_0={lon - 20:.0f} +datum=WGS84"
    zone = int((lon + 180) // 6) + 1 + (0 if finer else 1 if lon < 174 else -1)
    return f"EPSG:{(32600 if lat > 0 else 32700) + zone}"


def grid_on(file: File, finer: bool) -> Grid:
    """About 150 x 150 cells of 0.4 or 2.6 pixels; fewer where the file ends, or beyond 70 degrees."""
    pixels = 0.4 if finer else 2.6
    col, row = file.middle(1)
    degree = abs(file.lonlat(col, row + 1)[1] - file.lonlat(col, row)[1]) + 1e-9
    count = min(150, round(max(file.shape) / pixels) + 4, max(6, round(70 / degree / pixels)))
    crs = crs_for(file, finer)
    col, row = file.middle(np.inf if finer else pixels * count / 2)
    places = file.transform @ (np.array([col, col + 0.5, col]), np.array([row, row, row + 0.5]))
    x, y = (np.asarray(v) for v in Transformer.from_crs(file.crs, crs, always_xy=True).transform(*places))
    dx, dy = (2 * pixels * float(np.hypot(v[1] - v[0], v[2] - v[0])) for v in (x, y))
    half = count / 2 + 0.123  # or else centres would lie on edges of pixels, line by line
    return Grid(crs, float(x[0]) - dx * half, float(y[0]) + dy * half, dx, dy, count, count)


def pixels_of(file: File, grid: Grid, col: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column and row in the file of places given as column and row of the grid; longitudes go round."""
    back = Transformer.from_crs(grid.crs, file.crs, always_xy=True)
    x, y = back.transform(*(grid.transform @ (col, row)), errcheck=False)
    with np.errstate(invalid="ignore"):
        px, py = ~file.transform @ (np.asarray(x), np.asarray(y))
        return (px % (360 / file.transform.a) if file.crs.is_geographic else px), py


def centres(file: File, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    return pixels_of(file, grid, *np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5))


def run(file: File, grid: Grid, *methods: str) -> list[np.ndarray]:
    """A raster for each method, as float64, in which null is NaN."""
    one = Layer("", (file.uri,), bands=(1,), crs=file.given_crs)
    kinds = {"sum": Kind.COUNT}
    layers = [replace(one, name=m, resampling=m, kind=kinds.get(m, Kind.CONTINUOUS)) for m in methods]
    table = table_of(plan_of(grid, layers, how="grid"))
    result = [table[m].to_numpy(zero_copy_only=False).astype("float64") for m in methods]
    assert [int(np.isnan(f).sum()) for f in result] == [table[m].null_count for m in methods]  # no NaN leaves geopipe
    return [f.reshape(grid.height, grid.width) for f in result]


def close(result: np.ndarray, expected: np.ndarray, tolerance: np.ndarray | float) -> np.ndarray:
    """Both null, or within the tolerance of each other."""
    with np.errstate(invalid="ignore"):
        near = np.abs(result - expected) <= tolerance
    return near | (np.isnan(result) & np.isnan(expected))


def wrong_nearest(file: File, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Cells whose `nearest` is not the pixel under their centre, and what a look-up finds there."""
    (result,) = run(file, grid, "nearest")
    col, row = centres(file, grid)
    inside = (col >= 0) & (col < file.shape[1]) & (row >= 0) & (row < file.shape[0])
    expected = np.full(col.shape, np.nan)
    expected[inside] = file.values[np.floor(row[inside]).astype(int), np.floor(col[inside]).astype(int)]
    on_edge = (np.abs(col - np.rint(col)) < EDGE) | (np.abs(row - np.rint(row)) < EDGE)
    assert on_edge.sum() < 20
    rounding = np.abs(expected) * 2.0**-24 if file.packed else 0  # unpacked values become float32
    return np.argwhere(~close(result, expected, rounding) & ~on_edge), expected


def judge_nearest(file: File, share: float = 0.2) -> None:
    """Nearest is the pixel under the centre, on a finer and a coarser grid; at least `share` of the cells have one."""
    for finer in (True, False):
        wrong, expected = wrong_nearest(file, grid_on(file, finer))
        assert wrong.tolist() == []
        assert np.isfinite(expected).mean() >= share


def judge_bilinear(file: File, share: float = 0.15) -> None:
    """Bilinear is scipy's away from missing pixels.

    A place may be TOLERANCE pixels off: the value by that times the steps to the next pixels, around the place.
    """
    height, width = file.shape
    grid = grid_on(file, finer=True)
    (result,) = run(file, grid, "bilinear")
    col, row = centres(file, grid)
    missing, values = np.isnan(file.values), np.nan_to_num(file.values)
    at = [row - 0.5, col - 0.5]
    inside = (row > 0.5) & (row < height - 0.5) & (col > 0.5) & (col < width - 0.5)
    sound = inside & (map_coordinates(missing.astype(float), at, order=1, mode="nearest") == 0)
    expected = map_coordinates(values, at, order=1, mode="nearest")
    steps = [np.abs(np.diff(values, axis=a, append=np.take(values, [-1], axis=a))) for a in (0, 1)]
    slope = map_coordinates(sum(maximum_filter(s, 3) for s in steps), at, order=0, mode="nearest")
    differ = sound & ~close(result, expected, TOLERANCE * slope + SINGLE * np.abs(values).max())
    assert np.argwhere(differ).tolist() == []
    assert sound.mean() >= share
    # null where the pixel under the centre is missing, as GDAL has it; not so near to its edge that TOLERANCE matters
    under = map_coordinates(missing.astype(float), [np.floor(row), np.floor(col)], order=0, mode="constant", cval=1) > 0
    clear = (np.abs(col - np.rint(col)) > 2 * TOLERANCE) & (np.abs(row - np.rint(row)) > 2 * TOLERANCE)
    assert np.argwhere(clear & under & ~np.isnan(result)).tolist() == []


def zonal(file: File, x: np.ndarray, y: np.ndarray, *operations: str) -> list[np.ndarray]:
    """Statistics by exactextract of the valid pixels under rings of places in the file's pixels, ring by ring."""
    height, width = file.shape
    rings = np.stack([x, height - y], axis=2).tolist()
    shapes = [{"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [r]}} for r in rings]
    rows = exact_extract(NumPyRasterSource(file.values, 0, 0, width, height), JSONFeatureSource(shapes), operations)
    keys = [o.partition("(")[0] for o in operations]
    return list(np.array([[r["properties"][k] for k in keys] for r in rows], dtype="float64").T)


@lru_cache(maxsize=1)
def footprints(file: File, count: int = 1000) -> tuple[Grid, SimpleNamespace]:
    """What lies under `count` cells of the coarser grid, each an outline of 16 places in the file's pixels.

    `slack` is how far an edge may be off, in pixels: TOLERANCE, and the sagitta of a curved edge, because a footprint
    of four corners has straight ones. `low` and `high` are the range of values under the cell when its edges are
    moved out by `slack` and a hair; `sure_low` and `sure_high` that of pixels of which at least a quarter is in it.
    """
    grid = grid_on(file, finer=False)
    cells = np.sort(np.random.default_rng(0).permutation(grid.cells)[:count])
    row, col = np.divmod(cells, grid.width)
    t, one = np.arange(4) / 4, np.ones(4)
    right, down = np.concatenate([t, one, 1 - t, 0 * t, [0]]), np.concatenate([0 * t, t, one, 1 - t, [0]])
    x, y = pixels_of(file, grid, col[:, None] + right, row[:, None] + down)
    whole = np.isfinite(x + y).all(axis=1) & (np.ptp(x, axis=1) < file.shape[1] / 2)  # not torn by an antimeridian
    x, y = x[whole], y[whole]
    slack = TOLERANCE + np.hypot(*(v[:, 2::4] - (v[:, :-1:4] + v[:, 4::4]) / 2 for v in (x, y))).max(axis=1)
    wider = (1 + 2 * (slack + 0.05) / np.minimum(np.ptp(x, axis=1), np.ptp(y, axis=1)))[:, None]
    low, high = zonal(file, *(c + wider * (v - c) for v in (x, y) for c in [v.mean(axis=1)[:, None]]), "min", "max")
    sure = ("min(min_coverage_frac=0.25)", "max(min_coverage_frac=0.25)")
    area, mean, total, sure_low, sure_high = zonal(file, x, y, "count", "mean", "sum", *sure)
    strip = slack * np.hypot(np.diff(x), np.diff(y)).sum(axis=1)
    return grid, SimpleNamespace(
        cells=cells[whole], strip=strip, area=area, mean=mean, total=total,
        low=low, high=high, sure_low=sure_low, sure_high=sure_high,
    )  # fmt: skip


def judge_average_and_sum(file: File) -> None:
    """Average and sum are exactextract's.

    Edges that are off by `slack` add or take pixels with an area of `strip`, whose values are within low..high.
    """
    grid, feet = footprints(file)
    average, total = (f.ravel()[feet.cells] for f in run(file, grid, "average", "sum"))
    single = SINGLE * np.abs(np.nan_to_num(file.values)).max()
    sound = feet.area > feet.strip  # a sliver may have no area at all when its edges are off
    tolerance = feet.strip[sound] / feet.area[sound] * (feet.high - feet.low)[sound] + single
    off = np.abs(average - feet.mean)[sound]
    mass = feet.strip * np.maximum(np.abs(feet.low), np.abs(feet.high)) + single
    wrong = {
        "average": int((~(off <= tolerance)).sum()),
        "sum": int((~close(total, feet.total, mass))[sound].sum()),
        "average of nothing": int((np.isnan(feet.low) & ~np.isnan(average)).sum()),
    }
    worst = {"times the tolerance": np.max(off / tolerance, initial=0), "in values": np.max(off, initial=0)}
    assert wrong == dict.fromkeys(wrong, 0), worst


def judge_min_and_max(file: File) -> None:
    """Min and max are those of the pixels under the cell.

    A pixel of which a quarter lies in the cell counts, one that is more than `slack` away does not.
    """
    grid, feet = footprints(file)
    least, most = (f.ravel()[feet.cells] for f in run(file, grid, "min", "max"))
    single = SINGLE * np.abs(np.nan_to_num(file.values)).max()
    some = ~np.isnan(feet.sure_low)
    wrong = {
        "min leaves out a pixel": some & ~(least <= feet.sure_low + single),
        "min from outside": some & ~(least >= feet.low - single),
        "max leaves out a pixel": some & ~(most >= feet.sure_high - single),
        "max from outside": some & ~(most <= feet.high + single),
    }
    assert {k: int(v.sum()) for k, v in wrong.items()} == dict.fromkeys(wrong, 0), f"of {some.sum()} cells"


def judge_copy(file: File) -> None:
    """A copy is a plain read.

    A window of the file's own lattice that hangs over its lower edge by five rows.
    """
    crs = file.given_crs
    height, width = file.shape
    t, rows, cols = file.transform, min(height, 150), min(width * 2 // 3, 150)
    top, left = height - rows + 5, width // 4
    with rasterio.open(file.uri) as ds:
        grid = Grid(crs or ds.crs.to_wkt(), *(t @ (left, top)), t.a, -t.e, cols, rows)
    plan = plan_of(grid, [Layer("a", (file.uri,), bands=(1,), crs=crs)], how="grid")
    assert plan.layers[0].decisions[0].route is Route.COPY
    column = table_of(plan)["a"].combine_chunks()
    part = file.raw[top:, left : left + cols]
    there = ~np.ma.getmaskarray(part) & ~np.isnan(part.data)
    valid = column.is_valid().to_numpy(zero_copy_only=False).reshape(rows, cols)
    assert np.array_equal(valid[:-5], there)
    assert not valid[-5:].any()
    result = column.drop_null().to_numpy()
    if file.packed:
        assert np.array_equal(result, file.values[top:, left : left + cols][there].astype(result.dtype))
    else:
        assert result.dtype == file.raw.dtype
        assert np.array_equal(result, part.data[there])
