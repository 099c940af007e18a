"""Command about a finished table: `geopipe open`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from geopipe.cli.options import json_option, print_json

if TYPE_CHECKING:
    from geopipe.table.table import Table


@click.command("open", epilog="Example: geopipe open output")
@click.argument("output", metavar="OUTPUT")
@json_option
def open_table(output: str, as_json: bool) -> None:
    """Show what a table holds and how to read it.

    OUTPUT is the output folder of a finished run, or the URI of an object store. The lines for Python, pandas, DuckDB,
    polars, R and QGIS have the paths and columns of this table.
    """
    from geopipe import api
    from geopipe.cli.screen import console, facts, headline, say
    from geopipe.cli.screen import table as columns
    from geopipe.table.recipes import recipes
    from geopipe.text import count

    table = api.open(output)
    described, blocks = _describe(table), recipes(table)
    if as_json:
        print_json(described | {"read": blocks})
        return
    out = console()
    grid = table.grid
    headline(out, described["name"], f"  {table.rows:,} rows in {count(described['files'], 'file')}")
    shape = f"{grid.width:,} columns x {grid.height:,} rows of {grid.dx:g} x {grid.dy:g}"
    facts(
        out,
        {
            "output": table.output,
            "grid": f"{described['crs']}, {shape}",
            "bounds": ", ".join(f"{value:.10g}" for value in table.bounds),
            "run": f"{described['run_id']}, plan {described['plan_hash'][:16]}",
            "made by": ", ".join(f"{name} {version}" for name, version in described["versions"].items()),
            "sources": f"{described['sources']:,}",
        },
    )
    rows = [
        (c["name"], c["type"], c["unit"], "" if c["nulls"] is None else f"{c['nulls']:,}", c["method"])
        for c in described["columns"]
    ]
    columns(out, ("column", "type", "unit", "nulls", "method"), rows, right=("nulls",))
    for program, code in blocks.items():
        out.print()
        headline(out, program)
        for line in code.splitlines():
            say(out, f"  {line}" if line else "")


def _describe(table: Table) -> dict[str, Any]:
    """A table as JSON values."""
    from geopipe.grid.crs import crs_of
    from geopipe.table.files import unit_of

    provenance = table.provenance
    nulls = {name: ends.nulls for name, ends in table.files.manifest.columns.items()}
    variables = table.files.facts.variables
    methods = {layer["name"]: _method(layer) for layer in provenance.get("layers", ())}
    columns = [
        {
            "name": column.name,
            "type": str(column.type),
            "unit": unit_of(column),
            "nulls": nulls.get(column.name),
            "method": methods.get(variables[column.name].layer, "") if column.name in variables else "",
        }
        for column in table.schema
    ]
    return {
        "output": table.output,
        "name": provenance.get("name", ""),
        "rows": table.rows,
        **{name: table.success[name] for name in ("files", "bytes", "formats")},
        "crs": crs_of(table.grid.crs).name,
        "bounds": table.bounds,
        "resolution": (table.grid.dx, table.grid.dy),
        "size": (table.grid.width, table.grid.height),
        **{name: provenance.get(name, "") for name in ("run_id", "plan_hash")},
        "versions": provenance.get("versions", {}),
        "sources": provenance.get("source_count", 0),
        "columns": columns,
    }


def _method(layer: dict[str, Any]) -> str:
    """How the values of a layer were made: its kind and methods."""
    methods = dict.fromkeys("copy" if s["route"] == "copy" else str(s["method"]) for s in layer["sources"])
    return ", ".join([str(layer["kind"]), *methods])
