"""Every real raster that can land on Earth, against the oracles of `judges`."""

from __future__ import annotations

import numpy as np
import pytest
from judges import (
    File,
    judge_average_and_sum,
    judge_bilinear,
    judge_copy,
    judge_min_and_max,
    judge_nearest,
    load,
    wrong_nearest,
)
from pyproj import Transformer
from surroundings import OUTSIDE

from geopipe.grid.grid import Grid

DATA = OUTSIDE / "data"

pytestmark = pytest.mark.usefixtures("outside")

EXCLUDED = {
    "odd/au-gcp.tif": "ground control points only: no transform, no CRS of its own",
    "odd/bcsd_obs_1999.nc": "no CRS",
    "odd/cog_hirise_mars.tif": "Mars",
    "odd/corrupt.tif": "damaged tiles: no pixels to compare",
    "odd/float.tif": "no CRS, no transform",
    "odd/test_rpcs.tif": "RPCs only: its CRS and transform mean nothing",
    "odd/test_stageiv_xyt.nc": "curvilinear: longitudes and latitudes are bands",
}
GIVEN_CRS = {"global/etopo60.cdf": "EPSG:4326"}  # has none; kept because its longitudes are 20..380
NOT_NORTH_UP = {"odd/au-3577-rotated.tif", "odd/geomatrix.tif", "odd/inverted_lat.tif"}  # no grid has their lattice
SPARSE = {"odd/inverted_lat.tif": 0, "antimeridian/nz_habitat_anticross_4326_1deg.tif": 0.05}  # valid share if < 0.2

PLACES = {  # where the middle of a file tells little, or its corner lies beyond the Earth: part of its width, height
    "antimeridian/cog_dateline.tif": (0.3, 0.5),
    "antimeridian/nz_habitat_anticross_4326_1deg.tif": (0.97, 0.6),
    "continental/bio.tif": (0.7, 0.5),
    "continental/biome.tif": (0.7, 0.5),
    "global/etopo60.cdf": (0.95, 0.5),
    "global/gfs.t06z.pgrb2.10p0.f010.grib2": (0.5, 0.4),
    "global/openlandmap_cropland_2016_10km.tif": (0.54, 0.28),
    "global/world.byte.tif": (0.53, 0.25),
    "global/world.rgb.tif": (0.53, 0.32),
    "odd/goes.tif": (0.5, 0.4),
    "odd/image_nan.tif": (0.5, 0.5),
    "odd/inverted_lat.tif": (0.5, 0.5),
    "polar/GA4886_VanderfordGlacier_2022_EGM2008_64m-epsg3031.cog": (0.2, 0.45),
}


RASTERS = {  # all of the data set, by folder; named here so that a clone without them knows how much it skips
    "antimeridian": "cog_dateline.tif nz_habitat_anticross_4326_1deg.tif",
    "bahamas": "RGB.byte.tif RGB.nc RGBA.byte.tif rgb1.tif rgb1_fake_nir_epsg3857.tif rgb2.tif rgb3.tif rgb4.tif"
    " rgb_lzw.tif",
    "continental": "bio.tif biome.tif",
    "global": "etopo60.cdf gfs.t06z.pgrb2.10p0.f010.grib2 openlandmap_cropland_2016_10km.tif world.byte.tif"
    " world.rgb.tif",
    "guadeloupe": "image_rgb_mask.tif image_rgba.tif image_webp.tif",
    "korea": "cog_scale.tif cog_scale_epsg4326.tif image_with_offsets.tif",
    "luxembourg": "elev.tif sent2_L2A_2024-08-24.tif",
    "odd": "LisbonElevation.tif au-3577-rotated.tif au-3577.tif au-gcp.tif bcsd_obs_1999.nc cog_hirise_mars.tif"
    " corrupt.tif float.tif geomatrix.tif goes.tif gpm_1d.20240617.tif image_float.tif image_nan.tif inverted_lat.tif"
    " lcc_km.nc no_pixelscale_or_tiepoints.tiff test_rpcs.tif test_stageiv_xyt.nc",
    "olinda": "L7_ETMs.tif olinda_dem_utm25s.tif",
    "polar": "GA4886_VanderfordGlacier_2022_EGM2008_64m-epsg3031.cog",
    "zion": "nlcd.tif nlcd2011.tif srtm.tif tmmx_20190121.nc",
}
NAMES = [f"{folder}/{name}" for folder, files in RASTERS.items() for name in files.split()]
CASES = [name for name in NAMES if name not in EXCLUDED]


def real(name: str) -> File:
    uri = f"netcdf:{DATA / name}:Band1" if name == "bahamas/RGB.nc" else str(DATA / name)
    return load(uri, GIVEN_CRS.get(name), PLACES.get(name))


def test_no_file_is_forgotten() -> None:
    files = {f"{path.parent.name}/{path.name}" for path in DATA.glob("*/*") if not path.name.endswith(".aux.xml")}
    assert set(NAMES) == files
    assert set(EXCLUDED) < files


@pytest.mark.parametrize("name", CASES)
def test_nearest_is_the_pixel_under_the_centre(name: str) -> None:
    judge_nearest(real(name), SPARSE.get(name, 0.2))


WHOLE = [  # a file, and a CRS whose grid is around all of the Earth, or the side of it that is seen
    ("global/world.rgb.tif", "EPSG:4326"),
    ("global/world.rgb.tif", "EPSG:6933"),
    ("global/world.rgb.tif", "EPSG:8857"),
    ("global/world.rgb.tif", "ESRI:54009"),
    ("global/world.rgb.tif", "+proj=robin +lon_0=150 +datum=WGS84"),
    ("global/world.rgb.tif", "+proj=ortho +lat_0=40 +lon_0=-100 +datum=WGS84"),
    ("global/world.rgb.tif", "+proj=laea +lat_0=90 +datum=WGS84"),
    ("global/etopo60.cdf", "ESRI:54009"),
    ("odd/goes.tif", "EPSG:4326"),
]


@pytest.mark.parametrize(("name", "crs"), WHOLE, ids=str)
def test_nearest_up_to_where_a_projection_ends(name: str, crs: str) -> None:
    """The grid sticks out of the Earth by 2, 4.5 and 9 %; a cell there has no place in the file and is null."""
    lon, lat = np.meshgrid(np.linspace(-180, 180, 181), np.linspace(-90, 90, 91))
    places = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat, errcheck=False)
    (x0, x1), (y0, y1) = ((float(v[np.isfinite(v)].min()), float(v[np.isfinite(v)].max())) for v in places)
    lost = {}
    for out in (0.02, 0.045, 0.09):
        dx, dy = (x1 - x0) * (1 + 2 * out) / 180, (y1 - y0) * (1 + 2 * out) / 180
        grid = Grid(crs, x0 - 1.01 * out * (x1 - x0), y1 + 1.02 * out * (y1 - y0), dx, dy, 180, 180)
        wrong, expected = wrong_nearest(real(name), grid)
        lost[out] = len(wrong)
        assert np.isfinite(expected).mean() > 0.2
    assert lost == dict.fromkeys(lost, 0)


@pytest.mark.parametrize("name", CASES)
def test_bilinear_is_scipys_away_from_missing_pixels(name: str) -> None:
    judge_bilinear(real(name), SPARSE.get(name, 0.3) * 0.5)


@pytest.mark.parametrize("name", CASES)
def test_average_and_sum_are_exactextracts(name: str) -> None:
    judge_average_and_sum(real(name))


@pytest.mark.parametrize("name", CASES)
def test_min_and_max_are_those_of_the_pixels_under_the_cell(name: str) -> None:
    judge_min_and_max(real(name))


@pytest.mark.parametrize("name", [n for n in CASES if n not in NOT_NORTH_UP])
def test_a_copy_is_a_plain_read(name: str) -> None:
    judge_copy(real(name))
