"""`import geopipe as gp`: what it loads, and that every example in its docstrings is true."""

from __future__ import annotations

import doctest
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from helpers import write_raster
from surroundings import REPOSITORY

import geopipe as gp
from geopipe import api, table_api
from geopipe.errors import SettingsError
from geopipe.table import table

HEAVY = ("ray", "rasterio", "numba", "pyarrow", "psycopg2", "numpy", "pydantic", "rich")
SETTINGS = {"grid": {"like": "dem.tif"}, "layers": [{"name": "elevation", "path": "dem.tif"}]}


def python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Code in a process of its own, started in a folder."""
    command, variables = [sys.executable, "-c", code], os.environ | environment
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with dem.tif, whose value is 40 * row + col."""
    values = np.arange(1200, dtype="float32").reshape(30, 40)
    write_raster(tmp_path / "dem.tif", values, "EPSG:32632", Affine(10, 0, 500000, 0, -10, 5000000))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_import_loads_no_library(tmp_path: Path) -> None:
    code = f"import geopipe, sys; print(geopipe.__version__, [m for m in {HEAVY} if m in sys.modules])"
    done = python(code, tmp_path)
    assert done.stdout == f"{gp.__version__} []\n", done.stderr


def test_the_import_works_where_the_package_is_not_installed(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "geopipe", tmp_path / "geopipe", ignore=shutil.ignore_patterns("__pycache__"))
    code = "import sys; sys.path.insert(0, '.'); import geopipe; print(geopipe.__file__, geopipe.__version__)"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'geopipe' / '__init__.py'} {gp.__version__}\n"


def test_all_names_are_there_and_functions_stay_functions_after_packages_of_their_name_are_imported() -> None:
    for name in ("plan", "run", "merge", "validate"):
        importlib.import_module(f"geopipe.{name}")
    assert all(getattr(gp, name) is getattr(api, name) for name in ("plan", "run", "merge", "validate"))
    assert [name for name in gp.__all__ if not hasattr(gp, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gp.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", [api, table, table_api], ids=["api", "table", "table_api"])
def test_every_example_in_a_docstring_is_true(module: object, folder: Path, ray_session: None) -> None:
    gp.run(SETTINGS, engine="local")
    finder = doctest.DocTestFinder(exclude_empty=True)
    cases = [case for case in finder.find(module, globs={}) if case.examples]
    assert len(cases) >= 3
    for case in cases:
        report: list[str] = []
        failed, _ = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(case, out=report.append)
        assert not failed, "".join(report)


@pytest.mark.slow
def test_a_table_from_two_files_in_an_empty_folder_in_one_line(folder: Path) -> None:
    shutil.copy("dem.tif", "other.tif")
    layers = "[dict(name='a', path='dem.tif'), dict(name='b', path='other.tif')]"
    run = f"print(gp.run(dict(grid=dict(like='dem.tif'), layers={layers})).output)"
    code = f"import geopipe as gp; {run}; print(gp.open('output').xarray())"
    done = python(code, folder)
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[0]) == (0, str(folder / "output")), done.stderr
    assert lines[1].startswith("<xarray.Dataset>")
    assert {"a", "b"} <= {line.split()[0] for line in lines if line.strip()}


def test_a_dict_meets_the_environment_only_if_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOPIPE_RUN__NAME", "from_outside")
    (folder / "s.toml").write_text('[grid]\nlike = "dem.tif"\n[[layers]]\nname = "elevation"\npath = "dem.tif"\n')
    assert [gp.plan(SETTINGS).name, gp.plan(SETTINGS, environment=True).name] == ["run", "from_outside"]
    assert [gp.plan("s.toml").name, gp.plan("s.toml", environment=False).name] == ["from_outside", "run"]


def test_a_path_a_dict_and_settings_give_the_same_plan(folder: Path) -> None:
    text = '[grid]\nlike = "dem.tif"\nresolution = 20\n[[layers]]\nname = "elevation"\npath = "dem.tif"\n'
    (folder / "s.toml").write_text(text)
    values = {"grid": {"like": Path("dem.tif"), "resolution": np.float64(20)}, "layers": SETTINGS["layers"]}
    plans = [gp.plan("s.toml"), gp.plan(folder / "s.toml"), gp.plan(values)]
    plans.append(gp.plan(SETTINGS, {"grid.resolution": 20}))
    plans.append(gp.plan(gp.Settings(**SETTINGS), {"grid.resolution": 20}))
    assert len({plan.hash for plan in plans}) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"grid.resolution": "90 m"}, 'override grid.resolution: grid.resolution = "90 m" must be a number'),
        ({"grid.resolutio": 90}, "override grid.resolutio: unknown key 'grid.resolutio'"),
        ({"resolution": 90}, "override 'resolution' is neither section.key=value"),
        ({"layers.dem.kind": "circular"}, "override layers.dem.kind: there is no layer 'dem'"),
    ],
)
def test_a_mistake_in_an_override_names_it(folder: Path, overrides: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        gp.plan(SETTINGS, overrides)
    assert message in caught.value.message


def test_all_mistakes_of_a_dict_are_one_error_by_section_and_key(folder: Path) -> None:
    layer = {"name": "elevation", "path": "dem.tif", "resampling": "bilinea"}
    with pytest.raises(gp.GeopipeError) as caught:
        gp.plan({"grid": {"resolution": "x"}, "layers": [layer], "exports": {}})
    text = str(caught.value)
    assert text.startswith("3 mistakes in the settings\n")
    assert "settings: grid.resolution = " in text
    assert "settings: layers.elevation.resampling = " in text
    assert "settings: unknown section 'exports'" in text
