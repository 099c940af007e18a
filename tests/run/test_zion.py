"""The main job on real rasters: seven sources around Zion National Park on a grid of 377 x 471 cells of 90 m."""

from __future__ import annotations

import hashlib
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.dataset as ds
import pytest
import rasterio
from pyproj import Transformer
from zion import LAYERS, write_settings

from geopipe.export.state import BESIDE
from geopipe.run import pipeline
from geopipe.settings import load

BIO = [f"bio_bio{n}" for n in (1, 5, 6, 7, 8, 9, 12, 16, 17)]
COLUMNS = ["row", "col", "x", "y", "elevation", "landcover", "nlcd2011", "tmax", *BIO, "biome", "cropland"]
CATEGORICAL = {"landcover": "zion/nlcd.tif", "nlcd2011": "zion/nlcd2011.tif", "biome": "continental/biome.tif"}


def hashes(output: Path) -> dict[str, str]:
    """Hashes of the files of a table, without those that say when and where it was made."""
    telling = {"_SUCCESS", "settings.toml", *BESIDE}
    return {
        str(p.relative_to(output)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(output.rglob("*"))
        if p.is_file() and p.relative_to(output).parts[0] not in telling
    }


def read(output: Path) -> pa.Table:
    return ds.dataset(output / "parquet").to_table().sort_by([("row", "ascending"), ("col", "ascending")])


@pytest.fixture(scope="module")
def zion(tmp_path_factory: pytest.TempPathFactory, shared_data: Path, ray_session: None) -> Path:
    """The output of the main job on Ray."""
    folder = tmp_path_factory.mktemp("zion")
    summary = pipeline.run(load.load(write_settings(folder, shared_data)))
    assert (summary.rows, summary.files, summary.exit_code) == (177_567, 2, 0)
    return summary.output


def test_every_cell_has_a_row_and_every_variable_a_column(zion: Path) -> None:
    table = read(zion)
    assert table.num_rows == 377 * 471 == 177_567
    assert table.column_names == COLUMNS
    row, col = table["row"].to_numpy(), table["col"].to_numpy()
    assert np.array_equal(row * 377 + col, np.arange(177_567))
    assert np.array_equal(table["x"].to_numpy(), 301980 + (col + 0.5) * 90)
    assert np.array_equal(table["y"].to_numpy(), 4153890 - (row + 0.5) * 90)


def test_values_stay_within_their_sources(zion: Path) -> None:
    table = read(zion)
    elevation = table["elevation"]
    assert elevation.null_count <= 0.01 * table.num_rows
    assert pc.min_max(elevation).as_py()["min"] >= 1049
    assert pc.min_max(elevation).as_py()["max"] <= 2892
    tmax = pc.min_max(table["tmax"]).as_py()
    assert 220 + 0.1 * 507 <= tmax["min"] <= tmax["max"] <= 220 + 0.1 * 622  # kelvin, unpacked
    assert table.schema.field("tmax").metadata[b"unit"] == b"K"


@pytest.mark.parametrize(("column", "file"), CATEGORICAL.items())
def test_classes_are_classes_of_the_source(zion: Path, shared_data: Path, column: str, file: str) -> None:
    with rasterio.open(shared_data / file) as source:
        classes = set(np.unique(source.read(1))) - {source.nodata}
    values = read(zion)[column]
    assert values.type == pa.uint8()
    assert set(values.drop_null().to_pylist()) <= classes


def test_nearest_is_the_pixel_under_the_cell_centre(tmp_path: Path, shared_data: Path) -> None:
    """In every cell and every variable, against a look-up that shares no code with ours."""
    file = write_settings(tmp_path, shared_data, each='resampling = "nearest"')
    table = read(pipeline.run(load.load(file, ("export.formats=parquet", "engine.kind=local"))).output)
    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    columns = iter(table.column_names[4:])
    for path, _ in LAYERS.values():
        with rasterio.open(shared_data / path) as source:
            to_source = Transformer.from_crs("EPSG:32612", source.crs.to_wkt(), always_xy=True)
            px, py = ~source.transform @ to_source.transform(x, y)
            i, j = np.floor(py).astype(int), np.floor(px).astype(int)
            inside = (i >= 0) & (i < source.height) & (j >= 0) & (j < source.width)
            for band in source.indexes:
                raw = source.read(band)[np.clip(i, 0, source.height - 1), np.clip(j, 0, source.width - 1)]
                valid = inside & (raw != source.nodata) & ~np.isnan(raw)
                expected = raw * source.scales[band - 1] + source.offsets[band - 1]
                column = table[next(columns)]
                assert np.array_equal(column.is_valid().to_numpy(), valid)
                got = column.drop_null().to_numpy()
                assert np.array_equal(got, expected[valid].astype(got.dtype))


@pytest.mark.parametrize("flags", [("engine.workers=1",), ("merge.strategy=groupby",), ("engine.kind=local",)], ids=str)
def test_files_do_not_depend_on_workers_strategy_or_engine(
    zion: Path, tmp_path: Path, shared_data: Path, ray_session: None, flags: tuple[str, ...]
) -> None:
    file = write_settings(tmp_path, shared_data)
    summary = pipeline.run(load.load(file, ("engine.kind=ray", *flags)))
    assert hashes(summary.output) == hashes(zion)


@pytest.mark.parametrize("size", [512, 1024])
def test_table_does_not_depend_on_the_window_size(zion: Path, tmp_path: Path, shared_data: Path, size: int) -> None:
    file = write_settings(tmp_path, shared_data)
    flags = (f"resampling.window_size={size}", "export.formats=parquet")
    assert read(pipeline.run(load.load(file, (*flags, "engine.kind=local"))).output).equals(read(zion))


def test_other_readers_agree(zion: Path) -> None:
    """DuckDB, pandas and pyarrow see one schema and the same rows; so does a reader of the CSV."""
    table = read(zion)
    duck = duckdb.sql(f"select * from '{zion}/parquet/*.parquet' order by row, col").to_arrow_table()
    assert duck.column_names == table.column_names
    assert duck.cast(table.schema.remove_metadata()).equals(table)
    frame = pd.read_parquet(zion / "parquet")
    assert list(frame.columns) == table.column_names
    assert frame["elevation"].isna().sum() == table["elevation"].null_count
    types = pacsv.ConvertOptions(column_types=table.schema)
    csv = pa.concat_tables(pacsv.read_csv(p, convert_options=types) for p in sorted((zion / "csv").iterdir()))
    assert csv.sort_by([("row", "ascending"), ("col", "ascending")]).cast(table.schema).equals(table)
