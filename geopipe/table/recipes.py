"""How programs read a finished table: lines to paste, with the paths and columns of this table."""

from __future__ import annotations

import json
import shlex

from geopipe.table.table import Table


def recipes(table: Table) -> dict[str, str]:
    """Code that reads a table, by program. Each block is complete."""
    name = next(iter(table.files.facts.variables))
    return {
        "Python": f"import geopipe as gp\n\ntable = gp.open({table.output!r})\n"
        f"frame = table.pandas(['x', 'y', {name!r}])\nimage = table.xarray([{name!r}])",
        **(_parquet(table, name) if table.files.format == "parquet" else _csv(table)),
    }


def _parquet(table: Table, name: str) -> dict[str, str]:
    folder, layout = f"{_place(table)}/parquet", table.files.facts.layout
    files, hive = folder + ("/*/*.parquet" if layout.partition_by else "/*.parquet"), bool(layout.partition_by)
    column = f'"{name}"'
    lines = {
        "pandas": f"import pandas as pd\n\nframe = pd.read_parquet({folder!r}, columns=['x', 'y', {name!r}])",
        "DuckDB": f"SELECT avg({column}) FROM read_parquet('{_sql(files)}', hive_partitioning = {str(hive).lower()});",
        "polars": f"import polars as pl\n\nframe = pl.scan_parquet({files!r}, hive_partitioning={hive})"
        f".select('x', 'y', {name!r}).collect()",
        "R": f"library(arrow)\nlibrary(dplyr)\n\n"
        f"open_dataset({json.dumps(folder)}) |> select(x, y, {name}) |> collect()",
    }
    return lines | {"QGIS": _qgis(table, layout.geometry is not None, folder, name)}


def _qgis(table: Table, has_points: bool, folder: str, name: str) -> str:
    raster = (
        f"geopipe rasterize {shlex.quote(table.output)} --column {shlex.quote(name)} -o {shlex.quote(name + '.tif')}"
    )
    if has_points:
        return f"Layer > Add Layer > Add Vector Layer: {folder} (GeoParquet). As a raster:\n{raster}"
    return f"{raster}\n\nThen Layer > Add Layer > Add Raster Layer: {name}.tif"


def _csv(table: Table) -> dict[str, str]:
    path = f"{_place(table)}/csv/*{table.files.csv_suffix}"
    note = "  # .zst needs: pip install zstandard" if path.endswith(".zst") else ""
    return {
        "pandas": f"import glob\n\nimport pandas as pd{note}\n\n"
        f"frame = pd.concat(map(pd.read_csv, sorted(glob.glob({path!r}))))",
        "DuckDB": f"SELECT count(*) FROM read_csv('{_sql(path)}');",
    }


def _place(table: Table) -> str:
    """The output without the options of a URI."""
    return table.output.partition("?")[0].rstrip("/")


def _sql(text: str) -> str:
    return text.replace("'", "''")
