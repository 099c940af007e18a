"""What `geopipe open` prints: the columns of a finished table, and how programs read it."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from geopipe.cli.screen import facts, headline, say, table
from geopipe.grid.crs import crs_of
from geopipe.table.files import unit_of
from geopipe.table.recipes import recipes
from geopipe.table.table import Table
from geopipe.text import count, numbers


def description(out: Console, finished: Table) -> None:
    """Write what a finished table holds, and how programs read it."""
    described, grid = description_json(finished), finished.grid
    headline(out, described["name"], f"  {finished.rows:,} rows in {count(described['files'], 'file')}")
    shape = f"{grid.width:,} columns x {grid.height:,} rows of {grid.dx:g} x {grid.dy:g}"
    facts(
        out,
        {
            "output": finished.output,
            "grid": f"{described['crs']}, {shape}",
            "bounds": numbers(finished.bounds, 10),
            "run": f"{described['run_id']}, plan {described['plan_hash'][:16]}",
            "made by": ", ".join(f"{name} {version}" for name, version in described["versions"].items()),
            "sources": f"{described['sources']:,}",
        },
    )
    rows = [
        (c["name"], c["type"], c["unit"], "" if c["nulls"] is None else f"{c['nulls']:,}", c["method"])
        for c in described["columns"]
    ]
    table(out, ("column", "type", "unit", "nulls", "method"), rows, right=("nulls",))
    for program, code in described["read"].items():
        out.print()
        headline(out, program)
        for line in code.splitlines():
            say(out, f"  {line}" if line else "")


def description_json(finished: Table) -> dict[str, Any]:
    """A finished table as JSON values, with lines that read it."""
    provenance = finished.provenance
    nulls = {name: ends.nulls for name, ends in finished.files.manifest.columns.items()}
    variables = finished.files.facts.variables
    methods = {layer["name"]: _method(layer) for layer in provenance.get("layers", ())}
    columns = [
        {
            "name": column.name,
            "type": str(column.type),
            "unit": unit_of(column),
            "nulls": nulls.get(column.name),
            "method": methods.get(variables[column.name].layer, "") if column.name in variables else "",
        }
        for column in finished.schema
    ]
    return {
        "output": finished.output,
        "name": provenance.get("name", ""),
        "rows": finished.rows,
        **{name: finished.success[name] for name in ("files", "bytes", "formats")},
        "crs": crs_of(finished.grid.crs).name,
        "bounds": finished.bounds,
        "resolution": (finished.grid.dx, finished.grid.dy),
        "size": (finished.grid.width, finished.grid.height),
        **{name: provenance.get(name, "") for name in ("run_id", "plan_hash")},
        "versions": provenance.get("versions", {}),
        "sources": provenance.get("source_count", 0),
        "columns": columns,
        "read": recipes(finished),
    }


def _method(layer: dict[str, Any]) -> str:
    """How the values of a layer were made: its kind and methods."""
    methods = dict.fromkeys("copy" if s["route"] == "copy" else str(s["method"]) for s in layer["sources"])
    return ", ".join([str(layer["kind"]), *methods])
