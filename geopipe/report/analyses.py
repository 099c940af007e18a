"""The analyses beside a table, drawn: their findings, charts, small tables, and maps of the values of cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from markupsafe import Markup

from geopipe.analysis import results
from geopipe.export.views import on_lattice
from geopipe.report import charts, images
from geopipe.report.charts import Series
from geopipe.report.images import Picture
from geopipe.report.sample import Mask, Sample, Values
from geopipe.table.table import Table

MOST_ROWS, MOST_COLUMNS, MOST_MAPS = 24, 12, 6
"""Rows and columns of a small table, and maps of an analysis, that the page shows."""

MOST_CLUSTERS = 64
"""Most different whole numbers that are drawn as classes."""

Json = dict[str, Any]


def drawn(analyses: Sequence[Mapping[str, Any]], sample: Sample, table: Table) -> list[Json]:
    """Each analysis with what the page shows of it."""
    root = Path(table.files.root)
    result = []
    for facts in analyses:
        analysis = results.read(root / facts["folder"])
        tables = {path.stem: pq.read_table(path) for path in sorted(analysis.folder.glob("*.parquet"))}
        scalars = {name: value for name, value in facts["values"].items() if not isinstance(value, dict | list)}
        result.append(
            {
                "method": facts["method"],
                "findings": facts["findings"],
                "about": facts["about"],
                "scalars": scalars,
                "charts": [Markup(chart) for chart in _charts(facts, tables)],
                "pictures": list(_pictures(tables)),
                "maps": list(_maps(analysis, sample)),
                "tables": [_shown(name, small) for name, small in tables.items()],
            }
        )
    return result


def _shown(name: str, table: pa.Table) -> Json:
    """The first rows and columns of a small table."""
    columns = table.column_names[:MOST_COLUMNS]
    rows = table.slice(0, MOST_ROWS).select(columns).to_pylist()
    return {
        "name": name,
        "columns": columns,
        "rows": [[row[c] for c in columns] for row in rows],
        "of": table.num_rows,
        "left_out": table.num_columns - len(columns),
    }


def _charts(facts: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> Iterator[str]:
    """The charts of the methods that have one."""
    values, method = facts["values"], facts["method"]
    if method in ("pca", "gwpca") and isinstance(shares := values.get("explained"), list) and shares:
        places = list(range(1, len(shares) + 1))
        whole = [float(v) for v in np.cumsum(shares)]
        lines = [Series(places, shares, "component", "bars"), Series(places, whole, "together")]
        yield charts.chart(lines, "component", "share of the variance", "Scree plot: variance of each component")
    for name, table in tables.items():
        if {"distance", "semivariance"} <= set(table.column_names):
            yield _variogram(name, table)


def _variogram(name: str, table: pa.Table) -> str:
    """The semivariance by distance, of each variable."""
    own = table["variable"].to_pylist() if "variable" in table.column_names else [""] * table.num_rows
    series = []
    for variable in dict.fromkeys(own):
        places = [i for i, other in enumerate(own) if other == variable]
        x, y = ([table[c][i].as_py() for i in places] for c in ("distance", "semivariance"))
        series.append(Series(x, y, str(variable)))
    return charts.chart(series[:3], "distance in units of the grid", "semivariance", f"Variogram: {name}")


def _pictures(tables: Mapping[str, pa.Table]) -> Iterator[Json]:
    """Nodes of a self-organising map as pictures: tables with row and col and few nodes."""
    for name, table in tables.items():
        if not {"row", "col"} <= set(table.column_names) or not table.num_rows:
            continue
        rows, cols = (np.asarray(table[c].to_numpy(), np.int64) for c in ("row", "col"))
        shape = (int(rows.max()) + 1, int(cols.max()) + 1)
        if shape[0] * shape[1] > 4 * table.num_rows:
            continue
        for column in [c for c in table.column_names if c not in ("row", "col")][:MOST_COLUMNS]:
            if not (pa.types.is_floating(table[column].type) or pa.types.is_integer(table[column].type)):
                continue
            values, mask = np.zeros(shape), np.zeros(shape, bool)
            values[rows, cols] = table[column].fill_null(0).to_numpy()
            mask[rows, cols] = table[column].is_valid().to_numpy()
            one, legend = _coloured(values, mask)
            yield {"title": f"{name}: {column}", "picture": one, **legend}


def _maps(analysis: results.Analysis, sample: Sample) -> Iterator[Json]:
    """Maps of the values that an analysis gives to cells."""
    for folder in sorted(path for path in analysis.folder.iterdir() if path.is_dir()):
        paths = analysis.cells(folder.name)
        if not paths:
            continue
        columns = [c for c in pq.read_schema(paths[0]).names if c not in ("row", "col", "x", "y")]
        for column in columns[:MOST_MAPS]:
            one, legend = _coloured(*_picture_of(paths, column, sample))
            yield {"title": f"{folder.name}: {column}" if column != folder.name else column, "picture": one, **legend}


def _picture_of(paths: Sequence[Path], column: str, sample: Sample) -> tuple[Values, Mask]:
    """The values of a column at the places of the sample, read a row group at a time."""
    picture: Values | None = None
    mask = np.zeros(sample.shape, bool)
    n = sample.stride
    for path in paths:
        file = pq.ParquetFile(path)
        for batch in file.iter_batches(columns=["row", "col", column]):
            rows, cols = (batch.column(c).to_numpy() for c in ("row", "col"))
            places = on_lattice(rows, cols, n)
            values = batch.column(column).take(pa.array(places))
            own = values.fill_null(0).to_numpy(zero_copy_only=False)
            picture = np.zeros(sample.shape, own.dtype) if picture is None else picture
            at = rows[places] // n, cols[places] // n
            picture[at], mask[at] = own, values.is_valid().to_numpy(zero_copy_only=False)
    return (np.zeros(sample.shape) if picture is None else picture), mask


def _coloured(values: Values, mask: Mask) -> tuple[Picture, Json]:
    """A picture with its legend: few whole numbers as classes, others by a scale."""
    present = values[mask & np.isfinite(values)] if values.dtype.kind == "f" else values[mask]
    if values.dtype.kind in "iub" and len(kinds := np.unique(present)) <= MOST_CLUSTERS:
        colours = images.class_colours()
        classes = [
            {"value": int(k), "name": "", "colour": images.as_hex(colours[i % len(colours)])}
            for i, k in enumerate(kinds)
        ]
        return images.picture(*images.classified(values.astype(np.int64), mask, classes)), {"classes": classes}
    low, high = (float(v) for v in np.quantile(present, (0.01, 0.99))) if len(present) else (0.0, 1.0)
    diverging = low < 0 < high and max(-low, high) <= 4 * min(-low, high)
    end = max(-low, high)
    low, high = (-end, end) if diverging else (low, high)
    scale = {"low": low, "high": high, "colours": "diverging" if diverging else "sequential"}
    strip = [images.colour_at(scale, low + i / 15 * (high - low)) for i in range(16)]
    return images.picture(*images.scaled(values, mask, scale)), {"scale": scale, "strip": strip}
