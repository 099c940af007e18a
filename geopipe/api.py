"""What a Python user calls, and the command line too: plan, run, merge, open, inspect, validate (and `table_api`).

Settings are the path of a TOML file, a dict of its sections, or `Settings`. A file meets the environment
(`GEOPIPE_SECTION__KEY`), as on the command line, and its relative paths start at its folder. A dict does not meet the
environment, and its relative paths start at the working folder. No function starts a database or changes the logging of
the process, unless the settings ask for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from geopipe.errors import SettingsError, SourceError
from geopipe.settings import load
from geopipe.settings.model import Settings

if TYPE_CHECKING:
    import ray.data

    from geopipe.layers.header import Header
    from geopipe.layers.tables import TableHeader
    from geopipe.plan.plan import Plan
    from geopipe.run.options import Watch
    from geopipe.run.summary import Summary
    from geopipe.table.table import Table
    from geopipe.validate.output import Report

SettingsLike = str | os.PathLike[str] | Mapping[str, Any] | Settings
Overrides = Mapping[str, Any]
"""Values by "section.key" or "layers.NAME.key"; they win over the settings."""


def settings_of(
    settings: SettingsLike, overrides: Overrides | None = None, environment: bool | None = None
) -> Settings:
    """Checked settings of a path, a dict or `Settings`.

    Args:
        environment: read GEOPIPE_SECTION__KEY; None: of a file only.

    Raises:
        SettingsError: every mistake, in one error.
    """
    overrides = overrides or {}
    if isinstance(settings, Settings):
        if not overrides and not environment:
            return load.absolute(settings, Path.cwd())
        settings = settings.model_dump(mode="json", exclude_unset=True)
    if isinstance(settings, Mapping):
        return load.parse(settings, overrides, bool(environment))
    return load.load(Path(settings).expanduser(), overrides, environment is not False)


def plan(settings: SettingsLike, overrides: Overrides | None = None, *, environment: bool | None = None) -> Plan:
    """Plan a run, and refuse what cannot fit. Only headers are read, nothing is written.

    The plan is for the nodes of the Ray cluster that the settings, RAY_ADDRESS or the session of this process name,
    else for this machine.

    Args:
        settings: path of a TOML file, a dict of its sections, or `Settings`.
        overrides: values by "section.key" or "layers.NAME.key", for example {"grid.resolution": 30}.
        environment: read GEOPIPE_SECTION__KEY; None: for a file, and not for a dict.

    Returns:
        The plan. Its repr is a text that says what the run would do.

    Raises:
        GeopipeError: a mistake in the settings, a source that cannot be opened, or a run that does not fit.

    Example:
        >>> import geopipe as gp
        >>> settings = {"grid": {"like": "dem.tif"}, "layers": [{"name": "elevation", "path": "dem.tif"}]}
        >>> plan = gp.plan(settings)
        >>> plan.grid.width, plan.grid.height
        (40, 30)
        >>> gp.plan(settings, {"grid.resolution": 20}).grid.width
        20
    """
    from geopipe.run import draft

    return draft.plan_for_cluster(settings_of(settings, overrides, environment))


def run(
    settings: SettingsLike,
    overrides: Overrides | None = None,
    *,
    engine: Literal["auto", "ray", "local"] | None = None,
    resume: bool | None = None,
    overwrite: bool = False,
    progress: bool | Watch = True,
) -> Summary:
    """Run the settings to a finished table, or leave the output as it was.

    The run is in no database, unless the settings have monitoring.enable_database_logging = true.

    Args:
        settings: path of a TOML file, a dict of its sections, or `Settings`.
        overrides: values by "section.key" or "layers.NAME.key".
        engine: "ray" (the session of this process, else engine.address, else a cluster of its own for the run),
            "local" (this process, without Ray), or "auto": Ray where a cluster exists or where it is faster by the
            plan. None: engine.kind of the settings, "auto" by default.
        resume: True continues a run that was cut short, or refuses where the plan has changed. None keeps its tiles
            where the plan is the same. False drops what it has left.
        overwrite: replace a finished table in the output.
        progress: True shows bars in a terminal and in a notebook, nothing elsewhere; or a function that is called with
            a `Snapshot` a few times a second.

    Returns:
        The summary: `output`, `rows`, `files`, `bytes`, `seconds`, `skipped`, `warnings`.

    Raises:
        GeopipeError: the run failed; what was there before is still there.

    Example:
        >>> import geopipe as gp
        >>> settings = {"grid": {"like": "dem.tif"}, "layers": [{"name": "elevation", "path": "dem.tif"}]}
        >>> summary = gp.run(settings, {"run.output": "tables/dem"}, engine="local")
        >>> summary.rows
        1200
    """
    if engine not in (None, "auto", "ray", "local"):
        raise SettingsError(f"engine = {engine!r} is not known", 'give "auto", "ray" or "local"')
    overrides = {**(overrides or {}), **({"engine.kind": engine} if engine else {})}
    options = {"resume": resume is True, "fresh": resume is False, "overwrite": overwrite}
    return execute(_without_database(settings_of(settings, overrides)), progress, **options)


def execute(settings: Settings, progress: bool | Watch | None, **options: Any) -> Summary:
    """Run checked settings as they are; `options` are those of `pipeline.run`."""
    from geopipe.run import pipeline

    with _shown(settings, progress) as watch:
        return pipeline.run(settings, watch=watch, **options)


def _shown(settings: Settings, progress: bool | Watch | None) -> AbstractContextManager[Watch | None]:
    """What shows the progress of a run: bars in a terminal or a notebook, or the caller's function."""
    if not isinstance(progress, bool):
        return nullcontext(progress)
    from rich.console import Console

    from geopipe.run import progress as bars

    out = Console(file=sys.stderr, markup=False, highlight=False, emoji=False)
    if progress and out.is_jupyter:
        return bars.cell(settings.run.name, settings.run.output)
    if progress and out.is_terminal:
        return bars.screen(out, settings.run.name, settings.run.output)
    return nullcontext()


def _without_database(settings: Settings) -> Settings:
    """The settings, without the monitor's database where they do not ask for it by name."""
    monitoring = settings.monitoring
    if "enable_database_logging" in monitoring.model_fields_set:
        return settings
    return settings.model_copy(update={"monitoring": monitoring.model_copy(update={"enable_database_logging": False})})


def merge(plan: Plan) -> ray.data.Dataset:
    """The merged table of a plan as a Ray Dataset: lazy, and written nowhere.

    It uses the Ray session of this process, or starts one. `dataset.write_parquet(folder)`, `dataset.iter_batches()`
    and all other methods of a Ray Dataset work on it.

    Args:
        plan: from `plan`.

    Example:
        >>> import geopipe as gp
        >>> settings = {"grid": {"like": "dem.tif"}, "layers": [{"name": "elevation", "path": "dem.tif"}]}
        >>> dataset = gp.merge(gp.plan(settings))
        >>> dataset.count()
        1200
    """
    from geopipe.engine import ray as engine

    return engine.dataset(plan)


def open(output: str | os.PathLike[str]) -> Table:  # noqa: A001
    """Open a finished table: the output folder of a run, or the URI of an object store.

    Only `_SUCCESS` is read. Rows are read by the methods of the table, as far as they are needed.

    Args:
        output: run.output of the settings, for example "output" or "s3://bucket/prefix".

    Raises:
        PlanError: there is no finished run.
        MachineError: the folder or the store cannot be read.

    Example:
        >>> import geopipe as gp
        >>> table = gp.open("output")
        >>> table.rows, table.columns
        (1200, ('row', 'col', 'x', 'y', 'elevation'))
        >>> table.arrow(["elevation"]).num_rows
        1200
    """
    from geopipe.table.table import open_table

    return open_table(output)


def files_of(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The files of paths, folders and globs, each once.

    Raises:
        SourceError: there is none.
    """
    from geopipe import proposals
    from geopipe.load.raster import expand

    files = list(dict.fromkeys(file for path in paths for file in expand(os.fspath(path))))
    if not files:
        hint = proposals.path(os.path.abspath(paths[0]), "PATH") if paths else "give a file, a folder or a pattern"
        names = ", ".join(os.fspath(path) for path in paths)
        raise SourceError(f"no file matches {names or 'nothing'}", hint)
    return files


def inspect(
    *paths: str | os.PathLike[str],
    allow: tuple[str, ...] = (),
    driver: str | None = None,
    on_error: Callable[[SourceError], None] | None = None,
) -> list[Header | TableHeader]:
    """Read the headers of rasters and tables: CRS, size, bands or columns, types, no-data, layout.

    Args:
        paths: files, folders, globs, or anything that GDAL opens.
        allow: folders, or beginnings of addresses, that the files may refer to.
        driver: GDAL's driver, where the names do not tell it.
        on_error: called with the error of each file that cannot be read; None raises it.

    Raises:
        SourceError: no file matches, or a file cannot be read.

    Example:
        >>> import geopipe as gp
        >>> (header,) = gp.inspect("dem.tif")
        >>> header.crs, header.width, header.bands[0].dtype
        ('EPSG:32632', 40, 'float32')
    """
    from geopipe.layers.access import Access
    from geopipe.layers.tables import is_table
    from geopipe.load import raster, tables

    access, headers = Access(allow, driver), list[Any]()
    for file in files_of(paths):
        try:
            headers.append(tables.header(file) if is_table(file) else raster.inspect(file, access))
        except SourceError as error:
            if on_error is None:
                raise
            on_error(error)
    return headers


def validate(output: str | os.PathLike[str]) -> Report:
    """Check a finished table: its files against the manifest, its rows against the plan. Every file is read.

    Args:
        output: the output folder of a run.

    Returns:
        The report: `exit_code` 0 where all is well, `findings`, `columns`.

    Example:
        >>> import geopipe as gp
        >>> gp.validate("output").findings
        ()
    """
    from geopipe.validate import output as validation

    return validation.validate(Path(output))
