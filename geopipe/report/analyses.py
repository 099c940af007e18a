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
from geopipe.report import images
from geopipe.report.charts import Trace, chart
from geopipe.report.images import Picture
from geopipe.report.sample import Mask, Sample, Values
from geopipe.table.table import Table

MOST_ROWS, MOST_COLUMNS, MOST_MAPS, MOST_CHARTS = 24, 12, 6, 6
"""Rows and columns of a small table, maps, and charts of one kind that the page shows of an analysis."""

PIXELS = 160_000
"""Pixels of the map of an analysis."""

PICTURE_BYTES = 700_000
"""Bytes of all maps of analyses, behind which only the first one of each is shown."""

MOST_CLUSTERS = 64
"""Most different whole numbers that are drawn as classes."""

Json = dict[str, Any]


def drawn(analyses: Sequence[Mapping[str, Any]], sample: Sample, table: Table) -> list[Json]:
    """Each analysis with what the page shows of it."""
    root = Path(table.files.root)
    result, size = list[Json](), 0
    for facts in analyses:
        analysis = results.read(root / facts["folder"])
        tables = {path.stem: pq.read_table(path) for path in sorted(analysis.folder.glob("*.parquet"))}
        maps = list(_maps(analysis, sample, MOST_MAPS if size < PICTURE_BYTES else 1))
        size += sum(one["picture"].bytes for one in maps)
        scalars = {name: value for name, value in facts["values"].items() if not isinstance(value, dict | list)}
        result.append(
            {
                "method": facts["method"],
                "findings": facts["findings"],
                "about": facts["about"],
                "scalars": scalars,
                "charts": [Markup(one) for one in _charts(facts, tables)],
                "pictures": list(_pictures(facts["values"])),
                "maps": maps,
                "tables": [_shown(name, small) for name, small in tables.items() if small.num_rows],
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
    values = facts["values"]
    if shares := values.get("explained_share"):
        places = list(range(1, len(shares) + 1))
        whole = [float(v) for v in np.cumsum(shares)]
        lines = [Trace(places, shares, "one component", "bars"), Trace(places, whole, "together")]
        yield chart(lines, "component", "share of the variance", "Scree plot: the variance of each component")
    if len(silhouettes := values.get("silhouettes") or {}) > 1:
        line = Trace([int(k) for k in silhouettes], list(silhouettes.values()))
        yield chart([line], "clusters", "mean silhouette", "Mean silhouette by number of clusters")
    if errors := values.get("quantisation_error_by_epoch"):
        line = Trace(list(range(1, len(errors) + 1)), errors)
        yield chart([line], "epoch", "quantisation error", "Quantisation error by epoch")
    if "variogram" in tables:
        yield from _variograms(values, tables["variogram"])


def _variograms(values: Mapping[str, Any], table: pa.Table) -> Iterator[str]:
    """The semivariance by distance, a chart for each variable."""
    points = table.to_pylist()
    for name in list(dict.fromkeys(point["variable"] for point in points))[:MOST_CHARTS]:
        own = [p for p in points if p["variable"] == name and p["semivariance"] is not None]
        line = Trace([p["distance"] for p in own], [p["semivariance"] for p in own])
        distance = f"distance in {values.get('unit', 'units of the CRS')}"
        yield chart([line], distance, f"semivariance of {name}", f"Variogram of {name}")


def _pictures(values: Mapping[str, Any]) -> Iterator[Json]:
    """The nodes of a self-organising map as pictures: U-matrix, hits, and a plane for each variable."""
    planes = {"U-matrix": values.get("u_matrix"), "rows of a node": values.get("hits"), **values.get("planes", {})}
    for title, plane in planes.items():
        if plane is not None:
            nodes = np.array(plane, np.float64)
            one, legend = _coloured(nodes, np.isfinite(nodes))
            yield {"title": title, "picture": one, **legend}


def _maps(analysis: results.Analysis, sample: Sample, most: int) -> Iterator[Json]:
    """Maps of the values that an analysis gives to cells, `most` at the most."""
    step = max(1, round((sample.shape[0] * sample.shape[1] / PIXELS) ** 0.5))
    for folder in sorted(path for path in analysis.folder.iterdir() if path.is_dir()):
        paths = analysis.cells(folder.name)
        if not paths:
            continue
        columns = [c for c in pq.read_schema(paths[0]).names if c not in ("row", "col", "x", "y")]
        for column in columns[:most]:
            values, mask = (part[::step, ::step] for part in _picture_of(paths, column, sample))
            one, legend = _coloured(values, mask)
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
            own = values.fill_null(pa.scalar(0).cast(values.type)).to_numpy(zero_copy_only=False)
            picture = np.zeros(sample.shape, own.dtype) if picture is None else picture
            at = rows[places] // n, cols[places] // n
            picture[at], mask[at] = own, values.is_valid().to_numpy(zero_copy_only=False)
    return (np.zeros(sample.shape) if picture is None else picture), mask


def _coloured(values: Values, mask: Mask) -> tuple[Picture, Json]:
    """A picture with its legend: few whole numbers as classes, others by a scale."""
    present = values[mask & np.isfinite(values)] if values.dtype.kind == "f" else values[mask]
    if values.dtype.kind in "iub" and len(kinds := np.unique(present)) <= MOST_CLUSTERS:
        colours, names = images.class_colours(), {0: "no", 1: "yes"} if values.dtype.kind == "b" else {}
        classes = [
            {"value": int(k), "name": names.get(int(k), ""), "colour": images.as_hex(colours[i % len(colours)])}
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
