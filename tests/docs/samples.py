"""The files that the examples of the documentation read: an invented area of 6 km in UTM zone 12."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import shapely
from helpers import north_up, write_raster
from scipy.io import netcdf_file

UTM = "EPSG:32612"
LEFT, TOP, SIZE = 320_000, 4_126_000, 6_000
"""The upper left corner and the edge of the area in metres of UTM; about 112.99 W, 37.25 N."""
WEST, NORTH = -113.03, 37.27

CLASSES = {41: (28, 95, 44), 42: (104, 171, 95), 52: (204, 184, 121)}


def create(folder: Path) -> None:
    """Write every file that a page names."""
    rng = np.random.default_rng(1)
    pixels = SIZE // 30
    column, row = np.meshgrid(np.arange(pixels), np.arange(pixels))
    height = (1500 + 3 * column + 200 * np.sin(row / 20)).astype("float32")
    classes = np.array(list(CLASSES), "uint8")[(column // 25 + row // 40) % 3]
    degrees = np.degrees(np.arctan2(row - 100, column - 100)) % 360
    lattice = north_up(LEFT, TOP, 30)

    def raster(name: str, array: np.ndarray, crs: str | None = UTM, **profile: object) -> None:
        transform = profile.pop("transform", lattice)
        write_raster(folder / name, array, crs, transform, **profile)

    raster("srtm.tif", height[:130], "EPSG:4326", transform=north_up(WEST, NORTH, 1 / 1800), nodata=-9999)
    raster("nlcd.tif", classes, nodata=0, colormap=CLASSES)
    raster("aspect.tif", degrees.astype("float32"))
    raster("radar.tif", height / 100)
    raster("raw.tif", (height * 3).astype("uint16"), None)
    raster("soil_west.tif", height[:, :120] / 50)
    raster("soil_east.tif", height[:, 80:] / 50, transform=north_up(LEFT + 80 * 30, TOP, 30))
    raster("red_clear.tif", (height * 2).astype("uint16"))
    raster("red_hazy.tif", (height * 4).astype("uint16"))
    raster("part.tif", height)
    _climate(folder / "climate.nc")
    _items(folder / "items.json")
    (folder / "mosaic.vrt").write_text(MOSAIC)
    _tables(folder, rng)


MOSAIC = f"""<VRTDataset rasterXSize="200" rasterYSize="200">
  <SRS>EPSG:32612</SRS>
  <GeoTransform>{LEFT}, 30, 0, {TOP}, 0, -30</GeoTransform>
  <VRTRasterBand dataType="Float32" band="1">
    <SimpleSource>
      <SourceFilename relativeToVRT="1">part.tif</SourceFilename>
      <SourceBand>1</SourceBand>
      <SrcRect xOff="0" yOff="0" xSize="200" ySize="200"/>
      <DstRect xOff="0" yOff="0" xSize="200" ySize="200"/>
    </SimpleSource>
  </VRTRasterBand>
</VRTDataset>
"""


def _climate(path: Path) -> None:
    """Two variables of twelve months on a lattice of 0.05 degrees."""
    axes = {
        "time": (pd.date_range("1999-01-01", periods=12, freq="MS").day_of_year - 1.0, "days since 1999-01-01"),
        "lat": (np.arange(37.40, 37.10, -0.05), "degrees_north"),
        "lon": (np.arange(-113.2, -112.8, 0.05), "degrees_east"),
    }
    with netcdf_file(path, "w") as file:
        for name, (values, units) in axes.items():
            file.createDimension(name, len(values))
            axis = file.createVariable(name, "d", (name,))
            axis[:], axis.units = values, units
        mapping = file.createVariable("crs", "i", ())
        mapping.grid_mapping_name, mapping.semi_major_axis, mapping.inverse_flattening = (
            "latitude_longitude",
            6378137.0,
            298.257223563,
        )
        for name, base in (("tas", 280.0), ("pr", 2.0)):
            variable = file.createVariable(name, "f", tuple(axes))
            variable.grid_mapping = "crs"
            months, lat, lon = variable.shape
            variable[:] = base + np.arange(months)[:, None, None] + np.zeros((lat, lon))


def _items(path: Path) -> None:
    scenes = [("hazy", 60), ("clear", 3)]
    features = [
        {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": name,
            "geometry": None,
            "properties": {"datetime": "2024-06-01T10:00:00Z", "eo:cloud_cover": cloud},
            "links": [],
            "assets": {
                "B04": {"href": f"red_{name}.tif", "type": "image/tiff; application=geotiff", "roles": ["data"]}
            },
        }
        for name, cloud in scenes
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def _tables(folder: Path, rng: np.random.Generator) -> None:
    """Wells in degrees as Parquet and CSV, cells of an older run, and a park."""
    lon, lat = rng.uniform(-113.02, -112.96, 200), rng.uniform(37.21, 37.26, 200)
    wells = pd.DataFrame({"lon": lon, "lat": lat, "depth": rng.uniform(5, 90, 200), "yield": rng.uniform(0, 9, 200)})
    (folder / "wells").mkdir()
    wells.to_parquet(folder / "wells" / "a.parquet")
    wells.to_csv(folder / "wells.csv", index=False)
    x, y = np.meshgrid(90 * np.arange(3557, 3562) + 45, 90 * np.arange(45_830, 45_826, -1) + 45)
    old = pd.DataFrame({"row_idx": 0, "col_idx": 0, "x_coord": x.ravel(), "y_coord": y.ravel(), "value": 1.5})
    old.to_csv(folder / "previous_run.csv", index=False)
    park = shapely.Polygon([(321_000, 4_125_000), (325_000, 4_124_500), (324_000, 4_121_000), (321_500, 4_122_000)])
    geopandas.GeoDataFrame(geometry=[park], crs=UTM).to_file(folder / "park.gpkg")
