"""Every odd real file gives right values or one clear error; docs/inputs.md lists which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
import rasterio

from geopipe.errors import SourceError
from geopipe.run import pipeline
from geopipe.settings import load

WORLD = 'crs = "EPSG:4326"\nresolution = 1\nbounds = [-120, -40, -30, 40]'


def run(folder: Path, grid: str, path: Path, more: str = "") -> pipeline.Summary:
    file = folder / "s.toml"
    file.write_text(f'[grid]\n{grid}\n[merge]\nhow = "grid"\n[[layers]]\nname = "a"\npath = "{path}"\n{more}\n')
    return pipeline.run(load.load(file, ("engine.kind=local",)))


def values(summary: pipeline.Summary, column: str = "a") -> np.ndarray:
    """A column as an array of the grid's shape, NaN where null."""
    table = ds.dataset(summary.output / "parquet").to_table().sort_by([("row", "ascending"), ("col", "ascending")])
    grid = summary.plan.grid
    return table[column].to_numpy().astype(float).reshape(grid.height, grid.width)


@pytest.mark.parametrize(
    ("file", "message", "hint"),
    [
        ("odd/cog_hirise_mars.tif", r"is on another body than the grid: its radius is 3,396 km", "same body"),
        ("odd/float.tif", "has no CRS", 'crs = "EPSG:..."'),
        ("odd/au-gcp.tif", "has no geotransform, but ground control points", 'georeference = "gcps"'),
        ("odd/test_rpcs.tif", "has no geotransform, but an RPC model", 'georeference = "rpcs"'),
        ("odd/test_stageiv_xyt.nc", "has no bands of its own|has no geotransform", ""),
        ("odd/bcsd_obs_1999.nc", "its variables: pr, tas", "variable = "),
        ("bahamas/RGB.nc", "its variables: Band1, Band2, Band3", "variable = "),
        ("global/etopo60.cdf", "has no CRS", 'crs = "EPSG:..."'),
    ],
)
def test_what_cannot_be_placed_is_one_error_with_its_cure(
    tmp_path: Path, shared_data: Path, file: str, message: str, hint: str
) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        run(tmp_path, WORLD, shared_data / file)
    assert hint in caught.value.hint
    assert str(shared_data / file) in caught.value.message
    assert not (tmp_path / "output").exists()


def test_damaged_tiles_fail_loudly(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "odd/corrupt.tif"
    with pytest.raises(
        SourceError, match=r"layer a: band 1 of .*corrupt\.tif cannot be read at row .*TIFFReadEncodedTile"
    ):
        run(tmp_path, f'like = "{path}"', path)
    assert not (tmp_path / "output").exists()
    skipped = run(tmp_path, f'like = "{path}"', path, 'on_error = "skip"')
    assert skipped.exit_code == 4


def test_longitudes_of_20_to_380_without_a_crs(tmp_path: Path, shared_data: Path) -> None:
    """The relief at a few places: the Andes, the Mariana trench, Tibet, the Atlantic."""
    result = values(
        run(
            tmp_path,
            'crs = "EPSG:4326"\nresolution = 1\nbounds = [-180, -90, 180, 90]',
            shared_data / "global/etopo60.cdf",
            'crs = "EPSG:4326"\nresampling = "nearest"',
        )
    )
    assert not np.isnan(result).any()
    height = {"Bolivia": (-68, -18), "Pacific": (-150, 20), "Tibet": (88, 32), "Atlantic": (-45, 30), "Congo": (22, 0)}
    at = {name: result[int(90 - lat), int(lon + 180)] for name, (lon, lat) in height.items()}
    assert at["Bolivia"] > 3000
    assert at["Tibet"] > 4000
    assert at["Pacific"] < -4000
    assert at["Atlantic"] < -3000
    assert 200 < at["Congo"] < 1000


def test_a_geostationary_disc_has_nulls_beyond_its_limb(tmp_path: Path, shared_data: Path) -> None:
    grid = 'crs = "EPSG:4326"\nresolution = 2\nbounds = [-180, -80, 180, 80]'
    result = values(run(tmp_path, grid, shared_data / "odd/goes.tif", "bands = [1]"))
    valid = ~np.isnan(result)
    middle = valid[:, (np.arange(180) * 2 - 179 > -120) & (np.arange(180) * 2 - 179 < -30)]
    assert middle[20:60].mean() > 0.95
    assert valid[:, np.abs(np.arange(180) * 2 - 179 - 105) < 60].mean() < 0.05  # the far side of the Earth


def test_a_south_up_file_is_read_from_the_right_end(tmp_path: Path, shared_data: Path) -> None:
    """Every pixel of it is nodata, so that every row is null; of another one turned over, no value may change."""
    summary = run(tmp_path, WORLD, shared_data / "odd/inverted_lat.tif")
    assert np.isnan(values(summary)).all()
    with rasterio.open(shared_data / "luxembourg/elev.tif") as ds_:
        pixels, t, profile = ds_.read(1), ds_.transform, ds_.profile
    turned = tmp_path / "turned.tif"
    profile |= {"transform": rasterio.Affine(t.a, 0, t.c, 0, -t.e, t.f + t.e * pixels.shape[0])}
    with rasterio.open(turned, "w", **profile) as out:
        out.write(pixels[::-1], 1)
    grid = 'crs = "EPSG:3035"\nresolution = 1000\nbounds = [4010000, 2930000, 4070000, 3015000]'
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    one = values(run(folders[0], grid, shared_data / "luxembourg/elev.tif", 'resampling = "nearest"'))
    two = values(run(folders[1], grid, turned, 'resampling = "nearest"'))
    assert np.array_equal(one, two, equal_nan=True)
    assert (~np.isnan(one)).mean() > 0.4


def test_a_positive_nodata_of_3_4e38_leaves_no_trace(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "polar/GA4886_VanderfordGlacier_2022_EGM2008_64m-epsg3031.cog"
    grid = 'crs = "EPSG:3031"\nresolution = 500\nbounds = "union"'
    result = values(run(tmp_path, grid, path))
    with rasterio.open(path) as source:
        pixels = source.read(1, masked=True)
    assert pixels.min() <= np.nanmin(result) <= np.nanmax(result) <= pixels.max()


def test_kilometres_are_a_unit_of_a_crs(tmp_path: Path, shared_data: Path) -> None:
    """lcc_km.nc counts in kilometres: on its own lattice it is copied, all of it."""
    path = shared_data / "odd/lcc_km.nc"
    summary = run(tmp_path, f'like = "{path}"', path)
    with rasterio.open(path) as source:
        pixels = source.read(1, masked=True)
    assert summary.plan.layers[0].decisions[0].route == "copy"
    result = values(summary)
    assert np.array_equal(np.isnan(result), np.ma.getmaskarray(pixels))
    assert np.array_equal(result[~np.isnan(result)], pixels.compressed().astype(float))


def test_scale_and_offset_of_a_sinusoidal_file(tmp_path: Path, shared_data: Path) -> None:
    """0.0001 and 1000 need float64; the same place in another CRS, as its makers resampled it, is close."""
    grid = 'crs = "EPSG:4326"\nresolution = 0.005\nbounds = [126.9, 37.0, 127.8, 37.9]'
    (tmp_path / "two").mkdir()
    one = run(tmp_path, grid, shared_data / "korea/cog_scale.tif", 'bands = [1]\nresampling = "nearest"')
    two = run(
        tmp_path / "two", grid, shared_data / "korea/cog_scale_epsg4326.tif", 'bands = [1]\nresampling = "nearest"'
    )
    assert one.plan.spec.variables[0].dtype == "float64"
    a, b = values(one), values(two)
    assert 999.9 < np.nanmin(a) < np.nanmax(a) < 1002
    assert np.nanmedian(np.abs(a - b)) < 0.02
