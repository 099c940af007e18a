"""Settings: every mistake gets one error with place and cure, and every key does something."""

from __future__ import annotations

from pathlib import Path

import pytest

from geopipe import settings
from geopipe.errors import SettingsError
from geopipe.layer import Kind

GOOD = """[run]
name = "trial"
[grid]
crs = "EPSG:32612"
resolution = 90
[[layers]]
name = "a"
path = "a.tif"
"""


def load(folder: Path, text: str, *flags: str) -> settings.Settings:
    file = folder / "s.toml"
    file.write_text(text)
    return settings.load(file, flags)


@pytest.mark.parametrize(
    ("text", "place", "message", "cure"),
    [
        (GOOD + "nodatta = 1\n", "s.toml:9", "unknown key 'layers[0].nodatta'", "did you mean 'nodata'"),
        (GOOD + "[merg]\nhow = 1\n", "s.toml:9", "unknown key 'merg'", "did you mean 'merge'"),
        (GOOD + "[merge]\nhoww = 'grid'\n", "s.toml:10", "unknown key 'merge.howw'", "did you mean 'how'"),
        (GOOD + "[merge]\nhow = 'left'\n", "s.toml:10", "merge.how = 'left'", "correct merge.how"),
        (GOOD + "[grid]\n", "s.toml:9", "twice", "keep one"),
        (GOOD + "path = 'b.tif'\n", "s.toml:9", "twice", "keep one"),
        (GOOD + "[[layers]]\nname = 'a'\npath = 'b.tif'\n", "s.toml:10", "two layers are named 'a'", "rename"),
        (GOOD + "[[layers]]\nname = 'b'\n", "s.toml:9", "layers[1].path is missing", "add path"),
        (GOOD.replace("90", "'ninety'"), "s.toml:5", "grid.resolution = 'ninety'", "correct grid.resolution"),
        (GOOD + "kind = 'class'\n", "s.toml:9", "layers[0].kind = 'class'", "correct layers[0].kind"),
        (GOOD.replace("[run]", "[run]\noutput = 's3://b/t'"), "s.toml:1", "an object store", "add staging ="),
        (GOOD + "scale = 0\n", "s.toml:9", "a scale of 0", "correct layers[0].scale"),
        (GOOD.replace('"a"', '"a b"'), "s.toml:7", "layers[0].name = 'a b'", "correct layers[0].name"),
        (GOOD + "[resampling]\nwindow_size = 1000\n", "s.toml:10", "multiple of 512", "correct"),
        (GOOD + "[resampling]\ntolerance = -1\n", "s.toml:10", "'auto' or 'exact' or", "correct"),
        (GOOD + "[merge\n", "s.toml:9", "no valid TOML", "correct that line"),
        ("[run]\nname = 'x'\n", "s.toml", "there is no [[layers]]", "add at least one"),
    ],
)
def test_a_mistake_gets_one_error_with_line_and_cure(
    tmp_path: Path, text: str, place: str, message: str, cure: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    assert place in str(caught.value)
    assert message in caught.value.message
    assert cure in caught.value.cure
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("merge.how=left", "--set merge.how: merge.how = 'left'"),
        ("merge.howw=grid", "--set merge.howw: unknown key"),
        ("how=grid", "is not section.key=value"),
        ("merge.how", "is not section.key=value"),
        ("layers.a=1", "is not section.key=value"),
    ],
)
def test_a_mistake_in_a_flag_names_the_flag(tmp_path: Path, flag: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, GOOD, flag)
    assert message in caught.value.message


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml cannot be read"):
        settings.load(tmp_path / "absent.toml")


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOPIPE_GRID__RESOLUTION", "30")
    monkeypatch.setenv("GEOPIPE_MERGE__HOW", "inner")
    loaded = load(tmp_path, GOOD, "grid.resolution=[10, 20]")
    assert loaded.grid.resolution == (10, 20)
    assert loaded.merge.how == "inner"
    assert loaded.grid.crs == "EPSG:32612"
    flags = ("grid.resolution=[10, 20]",)
    origins = {key: origin for key, _, origin in settings.origins(loaded, tmp_path / "s.toml", flags)}
    assert origins["grid.resolution"] == "--set"
    assert origins["merge.how"] == "GEOPIPE_MERGE__HOW"
    assert origins["grid.crs"] == f"{tmp_path / 's.toml'}:4"
    assert origins["layers[0].path"] == f"{tmp_path / 's.toml'}:8"
    assert origins["merge.strategy"] == "default"


def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOPIPE_MERGE__HOW", "left")
    with pytest.raises(SettingsError, match=r"GEOPIPE_MERGE__HOW: merge\.how = 'left'"):
        load(tmp_path, GOOD)


def test_relative_paths_start_at_the_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    loaded = load(tmp_path, GOOD.replace("a.tif", "sub/../a.tif"), "grid.like=like.tif", "run.output=out")
    assert loaded.layers[0].path == (str(tmp_path / "a.tif"),)
    assert loaded.grid.like == str(tmp_path / "like.tif")
    assert loaded.run.folder == tmp_path / "out"


@pytest.mark.parametrize("path", ["s3://bucket/a.tif", "/vsizip/a.zip/a.tif", "GTIFF_DIR:2:a.tif", "/abs/a.tif"])
def test_other_paths_stay_as_they_are(tmp_path: Path, path: str) -> None:
    assert load(tmp_path, GOOD.replace("a.tif", path)).layers[0].path == (path,)


def test_effective_settings_give_the_same_settings_again(tmp_path: Path) -> None:
    loaded = load(tmp_path, GOOD + "kind = 'count'\nbands = [1, 'red']\nnodata = -1\n[merge]\nhow = 'inner'\n")
    again = load(tmp_path, loaded.to_toml())
    assert again.model_dump() == loaded.model_dump()
    layer = again.layer_values()[0]
    assert (layer.kind, layer.bands, layer.nodata) == (Kind.COUNT, (1, "red"), -1)
