"""Settings: every mistake gets one error with place and hint, and every key does something."""

from __future__ import annotations

import re
import tomllib
import warnings
from pathlib import Path

import pytest
import tomli_w

from geopipe.errors import SettingsError
from geopipe.layers.layer import Kind
from geopipe.settings.load import load as load_file
from geopipe.settings.load import origins as origins_of
from geopipe.settings.model import SECTIONS, Settings

GOOD = """[run]
name = "trial"
[grid]
crs = "EPSG:32612"
resolution = 90
[[layers]]
name = "a"
path = "a.tif"
"""


def load(folder: Path, text: str, *flags: str) -> Settings:
    file = folder / "s.toml"
    file.write_text(text, encoding="utf-8")
    return load_file(file, flags)


PYDANTIC = re.compile(
    r"[Ii]nput|valid (integer|number|string|boolean|tuple|list|dict)|tuple|dictionary|pydantic|match pattern|parse|"
    r"literal|instance|errors\.|Field|Extra",
)
"""What no user should ever read."""


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        # keys
        (GOOD + "nodatta = 1\n", "s.toml:9", "unknown key 'layers.a.nodatta'", "did you mean 'nodata'"),
        (GOOD + "no_data = 1\n", "s.toml:9", "unknown key 'layers.a.no_data'", "did you mean 'nodata'"),
        (GOOD + "resolution = 1\n", "s.toml:9", "unknown key 'layers.a.resolution'", "it belongs in [grid]"),
        (GOOD + "[merg]\nhow = 1\n", "s.toml:9", "unknown section 'merg'", "did you mean [merge]"),
        (GOOD + "[merge]\nhoww = 'grid'\n", "s.toml:10", "unknown key 'merge.howw'", "did you mean 'how'"),
        (GOOD.replace("[[layers]]", "[layers]"), "s.toml:6", "[layers] is one table", "write [[layers]]"),
        (GOOD.replace("[[layers]]", "[layers.a]"), "s.toml:6", "[layers.a] is a table", "write [[layers]]"),
        (GOOD.replace("[[layers]]", "[[layer]]"), "s.toml:6", "unknown section 'layer'", "did you mean [[layers]]"),
        (GOOD.replace("[grid]", "[[grid]]"), "s.toml:3", "grid is a list of tables", "write [grid]"),
        ("crs = 'EPSG:4326'\n" + GOOD, "s.toml:1", "'crs' is no section", "crs in [grid] or [[layers]]"),
        ("grid = 'EPSG:4326'\n" + GOOD[GOOD.index("[[") :], "s.toml:1", "is no section", "write [grid]"),
        ("[run]\nname = 'x'\n", "s.toml", "there is no layer", "add one: [[layers]]"),
        ("layers = ['a.tif']\n", "s.toml:1", 'layers.1 = "a.tif" is no table', "write [[layers]]"),
        (GOOD + "[[layers]]\nname = 'a'\npath = 'b.tif'\n", "s.toml:10", "two layers are named 'a'", "rename"),
        (GOOD + "[[layers]]\nname = 'b'\n", "s.toml:9", "layers.b.path is missing", "add it, for example path = "),
        # values
        (GOOD.replace("90", "'1 km'"), "s.toml:5", 'grid.resolution = "1 km" must be a number', "resolution = 1000?"),
        (GOOD.replace("90", "'ninety'"), "s.toml:5", 'grid.resolution = "ninety"', "for example resolution = 90"),
        (GOOD.replace("90", "0"), "s.toml:5", "a width and a height above zero", "resolution = 90"),
        (GOOD.replace("90", "90\nbounds = [1, 2, 3]"), "s.toml:6", "must be", "xmin, ymin, xmax, ymax"),
        (GOOD.replace("90", "90\nbounds = [4, 5, 1, 2]"), "s.toml:6", "are empty", "did you mean [1, 2, 4, 5]"),
        (GOOD.replace('"EPSG:32612"', "32612"), "s.toml:4", "grid.crs = 32612", 'did you mean crs = "EPSG:32612"'),
        (GOOD.replace("EPSG:32612", "UTM 32"), "s.toml:4", "'UTM 32' is no CRS", "EPSG:32632 (WGS 84 / UTM zone 32N)"),
        (GOOD.replace("EPSG:32612", "EPSG 25832"), "s.toml:4", "is no CRS", "EPSG:25832 (ETRS89 / UTM zone 32N)"),
        (GOOD.replace("EPSG:32612", "Lambert 93"), "s.toml:4", "is no CRS", "EPSG:2154"),
        (GOOD + "crs = 'EPSG:999999'\n", "s.toml:9", "layers.a.crs: 'EPSG:999999' is no CRS", "EPSG:32612"),
        (
            GOOD + "[merge]\nhow = 'left'\n",
            "s.toml:10",
            'merge.how = "left" must be "outer", "inner" or "grid"',
            "outer",
        ),
        (GOOD + "kind = 'classes'\n", "s.toml:9", 'layers.a.kind = "classes"', 'did you mean kind = "categorical"'),
        (GOOD + "resampling = ['linear', 'mode']\n", "s.toml:9", "must be", 'resampling = ["bilinear", "mode"]'),
        (GOOD + "nodata = 'none'\n", "s.toml:9", 'layers.a.nodata = "none" must be a number', "leave it out"),
        (GOOD + "bits = [1]\n", "s.toml:9", "bits = [1] must be the first and the last bit", "bits = [3, 4]"),
        (GOOD + "scale = 0\n", "s.toml:9", "a scale of 0", "leave scale out"),
        (GOOD.replace('"a"', '"a b"'), "s.toml:7", 'name = "a b"', 'did you mean name = "a_b"'),
        (GOOD.replace('"trial"', '"my run"'), "s.toml:2", 'run.name = "my run"', 'did you mean name = "my_run"'),
        (GOOD + "[export]\nformats = ['geotiff']\n", "s.toml:10", "parquet", "a table, not a raster"),
        (GOOD + "[engine]\nmemory = '8 GB'\n", "s.toml:10", "a number of bytes", "memory = 8000000000?"),
        (GOOD + "[monitoring]\nlog_level = 'info'\n", "s.toml:10", '"DEBUG"', 'did you mean log_level = "INFO"'),
        (GOOD + "[resampling]\nwindow_size = 1000\n", "s.toml:10", "a multiple of 512", "window_size = 2048"),
        (GOOD + "[resampling]\ntolerance = -1\n", "s.toml:10", "above 0 and at most 1", "for example"),
        (GOOD.replace("[run]", "[run]\noutput = 's3://b/t'"), "s.toml:1", "an object store", "add staging ="),
        (GOOD.replace("[grid]", "[grid]\nmask_layer = 'x'"), "s.toml:4", "there is no grid.mask", "add mask ="),
        (GOOD + "[resampling]\nwindow_size = 18446744073709551616\n", "s.toml:10", "more than 64 bits", "smaller"),
        (GOOD + "bands = [1, 99999999999999999999]\n", "s.toml:9", "layers.a.bands has more than 64 bits", "smaller"),
        (GOOD + "[resampling]\nwindow_size = 512000000\n", "s.toml:10", "from 512 to 65,536", "2048"),
        # text that is no TOML
        (GOOD + "[grid]\n", "s.toml:9", "twice", "keep one"),
        (GOOD + "path = 'b.tif'\n", "s.toml:9", "twice", "keep one"),
        (GOOD + "[merge\n", "s.toml:9", "no valid TOML", "correct that line"),
        (GOOD + "unit = m\n", "s.toml:9", "text needs quotes", 'write unit = "m"'),
        (GOOD + "unpack = False\n", "s.toml:9", "no TOML", "write unpack = false"),
        (GOOD + "scale = 0,1\n", "s.toml:9", "a number has a point", "write scale = 0.1"),
        (GOOD + "unit: 'm'\n", "s.toml:9", "is YAML", "write unit = 'm'"),
        ("grid:\n  crs: EPSG:4326\n", "s.toml:1", "is YAML", "write [grid]"),
        ('{"grid": {"crs": "EPSG:4326"}}', "s.toml", "that is JSON", "write [section]"),
        (GOOD + "unit = \u201cm\u201d\n", "s.toml:9", "no quote of TOML", '"straight" quotes'),
        (
            GOOD.replace("a.tif", r"C:\data\a.tif"),
            "s.toml:8",
            "a backslash in double quotes",
            r"path = 'C:\data\a.tif'",
        ),
        (GOOD.replace("a.tif", r"C:\temp\a.tif"), "s.toml:8", "a backslash in double quotes", "slashes, or"),
        (GOOD.replace("a.tif", "C:/data/a.tif"), "s.toml:8", "a path of Windows", "/mnt/c/data/a.tif"),
        (GOOD + "x = " + "[" * 5000, "s.toml", "nested too deeply", "two"),
        (GOOD + "scale = " + "9" * 5000, "s.toml", "no valid TOML", "correct"),
    ],
)
def test_a_mistake_gets_one_error_with_line_and_cure(
    tmp_path: Path, text: str, place: str, message: str, hint: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    assert place in str(caught.value)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2
    assert not PYDANTIC.search(str(caught.value))


def test_all_mistakes_are_told_at_once_each_with_its_line(tmp_path: Path) -> None:
    text = GOOD.replace("90", "'1 km'") + "kind = 'classes'\nnodata = 'none'\n"
    text += "[[layers]]\nname = 'a'\npath = 'b.tif'\ncrs = 'UTM 32'\n[merge]\nhoww = 1\n"
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text, "engine.workers=none")
    lines = [line for line in str(caught.value).splitlines()[1:] if not line.startswith("    hint: ")]
    file = tmp_path / "s.toml"
    assert str(caught.value).startswith("7 mistakes in the settings\n")
    places = [file, file, file, file, file, "--set engine.workers", file]
    numbers = [5, 9, 10, 12, 14, None, 16]
    expected = {f"{place}:{n}: " if n else f"{place}: " for place, n in zip(places, numbers, strict=True)}
    assert all(any(line.startswith(f"  {e}") for line in lines) for e in expected), str(caught.value)
    assert len(lines) == 7


def keys() -> list[tuple[str, str]]:
    return [(section, key) for section, model in SECTIONS.items() for key in model.model_fields]


@pytest.mark.parametrize(("section", "key"), keys(), ids=[".".join(k) for k in keys()])
def test_every_key_tells_in_plain_words_what_may_be_there_with_an_example_that_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str, key: str
) -> None:
    monkeypatch.delenv("GEOPIPE_MONITORING__ENABLE_DATABASE_LOGGING")

    def text(value: str) -> str:
        values = tomllib.loads(GOOD)
        table = values["layers"][0] if section == "layers" else values.setdefault(section, {})
        table[key] = tomllib.loads(f"v = {value}")["v"]
        if (section, key) == ("run", "staging"):
            table["output"] = "s3://bucket/table"
        if key.startswith("mask_"):
            table["mask"] = "park.gpkg"
        return tomli_w.dumps(values)

    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text("{x = [[1]]}"))
    assert f"{key} = a table must be " in caught.value.message
    assert not PYDANTIC.search(str(caught.value))
    example = re.search(rf"for example {key} = (.*)", caught.value.hint)
    assert example, caught.value.hint
    with warnings.catch_warnings(record=True):
        load(tmp_path, text(example[1]))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("merge.how=left", '--set merge.how: merge.how = "left" must be "outer", "inner" or "grid"'),
        ("merge.howw=grid", "--set merge.howw: unknown key"),
        ("layers.a.kind=classes", '--set layers.a.kind: layers.a.kind = "classes" must be'),
        ("layers.b.kind=count", "--set layers.b.kind: there is no layer 'b'"),
        ("how=grid", "is neither section.key=value nor layers.NAME.key=value"),
        ("merge.how", "is neither section.key=value"),
        ("merg.how=inner", "--set merg.how: unknown section 'merg'"),
        ("layers.a=1", "is neither section.key=value"),
    ],
)
def test_a_mistake_in_a_flag_names_the_flag(tmp_path: Path, flag: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, GOOD, flag)
    assert message in caught.value.message


def test_flags_set_keys_of_layers_and_lists_without_brackets(tmp_path: Path) -> None:
    text = GOOD + "[[layers]]\nname = 'b'\npath = 'b.tif'\n"
    flags = ("grid.bounds=1,2,3,4", "grid.resolution=10, 20", "layers.b.kind=categorical", "layers.b.bands=red,2")
    loaded = load(tmp_path, text, *flags, "merge.drop=[a, b]", "layers.a.path=x.tif,y.tif", "layers.a.unit=a,b")
    assert loaded.grid.bounds == (1, 2, 3, 4)
    assert loaded.grid.resolution == (10, 20)
    assert loaded.merge.drop == ("a", "b")
    assert [layer.kind for layer in loaded.layers] == [None, Kind.CATEGORICAL]
    assert loaded.layers[1].bands == ("red", 2)
    assert [Path(p).name for p in loaded.layers[0].path] == ["x.tif", "y.tif"]
    assert loaded.layers[0].unit == "a,b", "text stays text"
    origins = {key: origin for key, _, origin in origins_of(loaded, tmp_path / "s.toml", flags)}
    assert origins["layers.b.kind"] == "--set layers.b.kind"
    assert origins["layers.b.path"] == f"{tmp_path / 's.toml'}:11"


# ---------------------------------------------------------------- files as editors write them


def test_a_byte_order_mark_and_line_ends_of_windows_are_accepted(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_file(file).grid.resolution == (90, 90)


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        (GOOD.encode("utf-16"), "is UTF-16", "iconv -f utf-16"),
        (GOOD.encode("utf-16-le"), "is UTF-16", "iconv -f utf-16"),
        (
            GOOD.replace("trial", "h\u00f6he").encode("latin-1"),
            's.toml:2: the byte 0xf6 is no UTF-8; as Latin-1 (or Windows-1252) the line is: name = "h\u00f6he"',
            "iconv -f latin1",
        ),
        (GOOD.replace("[grid]", "[grid]\r# a").encode(), "s.toml:3: a carriage return without", "line ends"),
    ],
    ids=["utf-16", "utf-16 without a mark", "latin-1", "lone carriage return"],
)
def test_another_encoding_is_named(tmp_path: Path, data: bytes, message: str, hint: str) -> None:
    file = tmp_path / "s.toml"
    file.write_bytes(data)
    with pytest.raises(SettingsError) as caught:
        load_file(file)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_settings_that_are_not_there_have_near_misses(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(GOOD)
    with pytest.raises(SettingsError) as caught:
        load_file(tmp_path / "setings.toml")
    assert caught.value.hint == f"did you mean {tmp_path}/settings.toml?"


def test_a_raster_or_a_folder_in_place_of_settings_is_named(tmp_path: Path) -> None:
    (tmp_path / "dem.tif").write_bytes(b"II*\0\x08\0\0\0\x12\0\xff\xff" * 20)
    with pytest.raises(SettingsError, match=r"dem\.tif is no text") as caught:
        load_file(tmp_path / "dem.tif")
    assert "geopipe inspect" in caught.value.hint
    (tmp_path / "mine.toml").write_text(GOOD)
    with pytest.raises(SettingsError, match="Is a directory") as caught:
        load_file(tmp_path)
    assert caught.value.hint == f"did you mean {tmp_path}/mine.toml?"


@pytest.mark.parametrize("secret", ["path = 'postgresql://u:geheim@h/d", "path = ['s3://b/x?sig=geheim', 5]"])
def test_no_message_repeats_an_address(tmp_path: Path, secret: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, GOOD.replace('path = "a.tif"', secret))
    assert "geheim" not in str(caught.value)


# ---------------------------------------------------------------- keys of the old system


@pytest.mark.parametrize(
    ("section", "line", "instead"),
    [
        ("resampling", "window_overlap = 128", "as far around as its method reaches"),
        ("merge", "enable_chunked_processing = true", "resampling.window_size"),
        ("merge", "chunk_size = 5000", "merge.wave_tiles"),
        ("export", "enable_streaming = false", "export.chunk_size"),
        ("resampling", "use_legacy_resampling = true", "resampling.window_size"),
    ],
)
def test_keys_of_the_old_system_are_accepted_with_what_replaced_them(
    tmp_path: Path, section: str, line: str, instead: str
) -> None:
    with pytest.warns(DeprecationWarning, match=re.escape(instead)) as caught:
        load(tmp_path, f"{GOOD}[{section}]\n{line}\n")
    assert str(caught[0].message).startswith(f"{section}.{line.partition(' ')[0]}")


def test_the_whole_configuration_of_the_old_system_is_accepted(tmp_path: Path) -> None:
    old = {
        "resampling": {
            "enable_memory_aware_processing": True,
            "window_size": 2048,
            "window_overlap": 128,
            "skip_data_loading_for_passthrough": True,
            "use_legacy_passthrough": False,
            "use_legacy_resampling": False,
        },
        "monitoring": {
            "enable_database_logging": True,
            "log_batch_size": 100,
            "log_flush_interval": 5,
            "enable_metrics": True,
            "metrics_interval": 10,
        },
        "merge": {
            "enable_chunked_processing": True,
            "chunk_size": 5000,
            "enable_validation": True,
            "alignment_tolerance": 0.01,
        },
        "export": {"enable_streaming": True, "chunk_size": 10000, "compress": True},
    }
    with pytest.warns(DeprecationWarning, match="resampling.window_overlap is deprecated"):
        loaded = load(tmp_path, tomli_w.dumps(tomllib.loads(GOOD) | old))
    assert loaded.export.chunk_size == 10000


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml cannot be read"):
        load_file(tmp_path / "absent.toml")


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOPIPE_GRID__RESOLUTION", "30")
    monkeypatch.setenv("GEOPIPE_MERGE__HOW", "inner")
    loaded = load(tmp_path, GOOD, "grid.resolution=[10, 20]")
    assert loaded.grid.resolution == (10, 20)
    assert loaded.merge.how == "inner"
    assert loaded.grid.crs == "EPSG:32612"
    flags = ("grid.resolution=[10, 20]",)
    origins = {key: origin for key, _, origin in origins_of(loaded, tmp_path / "s.toml", flags)}
    assert origins["grid.resolution"] == "--set grid.resolution"
    assert origins["merge.how"] == "GEOPIPE_MERGE__HOW"
    assert origins["grid.crs"] == f"{tmp_path / 's.toml'}:4"
    assert origins["layers.a.path"] == f"{tmp_path / 's.toml'}:8"
    assert origins["merge.strategy"] == "default"


def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOPIPE_MERGE__HOW", "left")
    with pytest.raises(SettingsError, match=r'GEOPIPE_MERGE__HOW: merge\.how = "left"'):
        load(tmp_path, GOOD)
    monkeypatch.delenv("GEOPIPE_MERGE__HOW")
    monkeypatch.setenv("GEOPIPE_MERG__HOW", "inner")
    with pytest.raises(SettingsError, match="GEOPIPE_MERG__HOW: unknown section 'merg'"):
        load(tmp_path, GOOD)


def test_relative_paths_start_at_the_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    loaded = load(tmp_path, GOOD.replace("a.tif", "sub/../a.tif"), "grid.like=like.tif", "run.output=out")
    assert loaded.layers[0].path == (str(tmp_path / "a.tif"),)
    assert loaded.grid.like == str(tmp_path / "like.tif")
    assert loaded.run.folder == tmp_path / "out"


@pytest.mark.parametrize("path", ["s3://bucket/a.tif", "/vsizip/a.zip/a.tif", "/abs/a.tif"])
def test_other_paths_stay_as_they_are(tmp_path: Path, path: str) -> None:
    assert load(tmp_path, GOOD.replace("a.tif", path)).layers[0].path == (path,)


def test_effective_settings_give_the_same_settings_again(tmp_path: Path) -> None:
    loaded = load(tmp_path, GOOD + "kind = 'count'\nbands = [1, 'red']\nnodata = -1\n[merge]\nhow = 'inner'\n")
    again = load(tmp_path, loaded.to_toml())
    assert again.model_dump() == loaded.model_dump()
    layer = again.layer_values()[0]
    assert (layer.kind, layer.bands, layer.nodata) == (Kind.COUNT, (1, "red"), -1)
