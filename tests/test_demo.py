"""The demo: the same bytes each time, rasters that disagree, and settings that show every key."""

import hashlib
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import rasterio

from geopipe import demo
from geopipe.load import raster, tiles
from geopipe.merge.tile import merge_tile
from geopipe.plan.estimate import Machine
from geopipe.plan.plan import Inputs, make_plan
from geopipe.plan.target import GridRequest, resolve_grid
from geopipe.settings.load import load
from geopipe.settings.model import Settings
from geopipe.settings.sections import LayerSettings

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def settings_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.generate(tmp_path_factory.mktemp("demo"))


def schema() -> dict[str, list[str]]:
    """Keys of every section."""
    sections = {name: field.annotation for name, field in Settings.model_fields.items()} | {"layers": LayerSettings}
    return {name: list(model.model_fields) for name, model in sections.items()}


def sections_of(text: str) -> dict[str, str]:
    """The text of each section; that of all layers in one."""
    result: dict[str, str] = {}
    for name, body in re.findall(r"^\[+(\w+)\]+(.*?)(?=^\[|\Z)", text, re.M | re.S):
        result[name] = result.get(name, "") + body
    return result


@pytest.mark.slow
def test_the_same_bytes_each_time(settings_file: Path, tmp_path: Path) -> None:
    def hashes(folder: Path) -> dict[str, str]:
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    first = hashes(settings_file.parent)
    assert len(first) == 9  # eight rasters, no sidecar files, and the settings
    assert first == hashes(demo.generate(tmp_path).parent)


def test_the_rasters_disagree(settings_file: Path) -> None:
    headers = {p.name: raster.inspect(str(p)) for p in (settings_file.parent / "data").iterdir()}
    assert {h.crs for h in headers.values()} == {"EPSG:32632", "EPSG:3035", "EPSG:3857", "EPSG:4326"}
    assert {b.dtype for h in headers.values() for b in h.bands} == {"float32", "uint8", "uint16", "int16"}
    assert {b.nodata for h in headers.values() for b in h.bands} == {-9999, 0, -32768, -1, None}
    assert len({(h.width, h.height) for h in headers.values()}) == len(headers)
    assert len({round(h.resolution[0], 9) for h in headers.values()}) == 7  # both soil files have the same
    assert {h.driver for h in headers.values()} == {"GTiff", "netCDF"}
    assert headers["landcover.tif"].bands[0].paletted
    assert [b.description for b in headers["satellite.tif"].bands] == ["red", "green", "nir"]


def test_the_netcdf_file_is_packed_and_says_so(settings_file: Path) -> None:
    band = raster.inspect(str(settings_file.parent / "data/climate.nc")).bands[0]
    assert (band.dtype, band.nodata, band.scale, band.offset, band.unit) == ("int16", -32768, 0.01, 5.0, "degC")


def test_the_top_level_settings_are_the_demo() -> None:
    assert (ROOT / "settings.toml").read_bytes() == demo.settings_text("demo/data", "demo/output").encode()


@pytest.mark.parametrize("section", schema())
def test_every_key_is_shown_with_a_comment(section: str) -> None:
    text = sections_of(demo.settings_text("data", "output"))[section]
    for key in schema()[section]:
        shown = re.search(rf"((?:^#.*\n)*)^(?:# )?{key} = .*$", text, re.M)
        assert shown, f"{section}.{key} is not in the settings"
        assert "  # " in shown[0] or shown[1].startswith("# "), f"{section}.{key} has no comment"


def test_the_settings_load_and_spell_out_the_defaults(settings_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEOPIPE_MONITORING__ENABLE_DATABASE_LOGGING")
    settings = load(settings_file)
    assert settings.run.name == "demo"
    assert settings.run.folder == settings_file.parent / "output"
    assert settings.merge.how == "outer"
    assert settings.export.formats == ("parquet", "csv")
    for name in ("resampling", "merge", "monitoring", "engine"):
        assert getattr(settings, name) == Settings.model_fields[name].default
    assert all(Path(file).exists() for layer in settings.layers for file in layer.path)


def test_the_examples_behind_comment_signs_are_valid() -> None:
    # staging is for an object store
    text = re.sub(r"^# (?=\w+ = )", "", demo.settings_text("data", "s3://bucket/table"), flags=re.M)
    values = tomllib.loads(text)
    assert {section: set(table) for section, table in values.items() if section != "layers"} == {
        section: set(keys) for section, keys in schema().items() if section != "layers"
    }
    assert set(values["layers"][0]) == set(schema()["layers"])
    Settings(**values)


def test_the_table_has_sensible_values(settings_file: Path) -> None:
    settings = load(settings_file)
    layers = [(layer, [raster.inspect(file) for file in layer.paths]) for layer in settings.layer_values()]
    grid = resolve_grid(GridRequest(settings.grid.crs, settings.grid.resolution, settings.grid.bounds), {}, {})
    machine = Machine(cpus=1, workers=1, memory=2**35, object_store=2**30, free_disk=2**40)
    plan = make_plan(Inputs("demo", grid, layers, {"geopipe": "test"}), settings.options(), machine)
    ways = {p.layer.name: [(d.route.value, d.method) for d in p.decisions] for p in plan.layers}
    assert ways["slope"] == [("copy", "bilinear")]
    assert ways["landcover"] == [("warp", "mode")]
    assert ways["population"] == [("warp", "sum")]

    tile, readers = plan.spec.tile(0), raster.Readers()
    with raster.environment():
        table = merge_tile(plan.spec, tile, [b for p in plan.layers for b in tiles.read_tile(plan, p, tile, readers)])
        readers.close()
    assert table.num_rows == grid.cells == 200_000
    limits = {  # least, most, and the share of cells that have a value
        "elevation": (300, 4000, 0.97, 0.99),
        "landcover": (10, 70, 1, 1),
        "satellite_red": (0, 1, 0.95, 0.97),
        "satellite_green": (0, 1, 0.95, 0.97),
        "satellite_nir": (0, 1, 0.95, 0.97),
        "temperature": (-10, 15, 0.999, 0.99999),
        "population": (0, 60, 0.99, 0.999),
        "slope": (0, 75, 0.9999, 0.99999),
        "soil_carbon": (5, 120, 0.8, 0.95),
    }
    assert table.column_names[4:] == list(limits)
    for name, (least, most, fewest, full) in limits.items():
        column = table[name].drop_null().to_numpy()
        assert least <= column.min() < column.max() <= most, name
        assert fewest <= len(column) / table.num_rows <= full, name

    frame = table.to_pandas()
    assert frame["elevation"].corr(frame["temperature"]) < -0.7
    height = frame.groupby("landcover")["elevation"].mean()
    assert height[demo.WATER] < height[demo.CROPS] < height[demo.FOREST] < height[demo.ROCK] < height[demo.SNOW]
    with rasterio.open(settings_file.parent / "data/population.tif") as ds:
        people = ds.read(1)
    assert 0.95 < frame["population"].sum() / np.maximum(people, 0).sum() < 1.0
