"""What `geopipe plan` prints: grid, layers, strategy and predictions."""

from __future__ import annotations

from rich.console import Console

from geopipe.cli.screen import crs_label, facts, headline, numbers
from geopipe.layers.layer import Variable
from geopipe.layers.table_plan import TablePlan
from geopipe.merge import derived
from geopipe.plan.layers import LayerPlan, reaches
from geopipe.plan.plan import Plan
from geopipe.plan.work import span
from geopipe.resample.methods import Route
from geopipe.settings.sections import Run
from geopipe.text import size

SHOWN_ROOTS = 5
"""Folders and hosts of a layer that a plan lists."""

HOW = {
    "outer": "the cells that any layer has (how = outer)",
    "inner": "the cells that all layers have (how = inner)",
    "grid": "every cell of the grid (how = grid)",
}


def plan(out: Console, made: Plan, run: Run) -> None:
    """The whole plan: grid, layers, strategy, predictions, and where the table is made and goes to."""
    grid, estimate, machine = made.grid, made.estimate, made.machine
    headline(out, f"plan {made.name}", f"  {made.hash[:16]}")
    facts(
        out,
        {
            "grid": f"{crs_label(grid.crs)}, {grid.width:,} columns x {grid.height:,} rows",
            "cell": f"{numbers((grid.dx,))} x {numbers((grid.dy,))}",
            "bounds": numbers(grid.bounds),
            "tiles": f"{estimate.tiles:,} of at most {made.options.window_size} x {made.options.window_size} cells",
            "rows": HOW[made.spec.how],
            "files": _files_of(made),
        }
        | _chosen(made),
    )
    for layer in made.layers:
        _layer(out, layer)
    headline(out, "run")
    facts(
        out,
        {
            "strategy": f"{made.strategy}: {made.strategy_why}",
            "tasks": f"{estimate.tasks:,} on {machine.workers} workers, {size(estimate.task_bytes)} each",
            "work": f"{made.work.pixels:,} pixels to decode, {made.work.values:,} values to write",
            "time": f"{span(made.work.seconds)}, a prediction",
            "memory": f"{size(estimate.peak_bytes)} at most; {size(machine.memory)} to use",
            "output": f"{estimate.rows:,} rows at most, about {size(estimate.output_bytes)}; "
            f"{size(machine.free_disk)} free",
        }
        | ({"table": f"made in {run.folder}, then sent to {run.store}"} if run.store else {}),
    )
    if estimate.shuffle_bytes:
        waves = -(-len(made.keys) // estimate.wave_tiles)
        text = f"{size(estimate.shuffle_bytes)} in {waves:,} waves of {estimate.wave_tiles:,} tiles, "
        text += f"{size(estimate.wave_bytes)} each, through {size(machine.object_store)} of object store"
        facts(out, {"exchanged": text})
    for note in made.notes:
        headline(out, "  note", f"         {note}", "yellow")


def places(run: Run) -> dict[str, str | None]:
    """Where the table goes to, and where it is made, as JSON values."""
    return {"output": run.output, "staging": run.staging}


def _chosen(made: Plan) -> dict[str, str]:
    """What else decides which cells are rows: missing values and a mask."""
    told, mask = {}, made.mask
    if made.spec.required:
        columns = [v.name for v in made.spec.variables if v.name in made.spec.required]
        told["dropped"] = f"cells without a value in {' or '.join(columns)} (merge.drop)"
    if mask is not None:
        what = f"{mask.polygons.count:,} polygons" if mask.polygons else "a raster, inside where it is valid and not 0"
        most, share = "" if mask.reach.exact else "at most ", mask.reach.cells / made.grid.cells
        told["mask"] = (
            f"{mask.reach.uri}: {what}\nmeets {mask.reach.tiles:,} of {made.estimate.tiles:,} tiles; "
            f"{most}{mask.reach.cells:,} cells inside ({share:.2%})"
        )
    return told


def _files_of(made: Plan) -> str:
    """The formats, and how the table lies in them."""
    options, layout = made.options, made.options.layout
    parquet = [f"in folders {layout.partition_by}=..."] if layout.partition_by else []
    parquet += ["with points (GeoParquet)"] if layout.geometry else []
    csv = ["one file"] if layout.csv_files == "one" else []
    csv += [options.compress] if options.compress != "none" else []
    notes = {"parquet": parquet, "csv": csv}
    extra = [f.name for f in derived.fields(layout.lonlat, layout.h3)]
    formats = " and ".join(form + (f" ({', '.join(notes[form])})" if notes[form] else "") for form in options.formats)
    return formats + (f", with the columns {', '.join(extra)}" if extra else "")


def _column(v: Variable) -> str:
    steps = f" ({v.band.place['steps']}: {v.band.step or v.band.level})" if v.band.reduce else ""
    return f"{v.name} {v.dtype}" + (f" in {v.unit}" if v.unit else "") + steps


def _layer(out: Console, layer: LayerPlan) -> None:
    headline(out, f"layer {layer.layer.name}", f"  {layer.kind.value} ({layer.kind_why})")
    columns = [_column(v) for v in layer.variables]
    facts(out, {"columns": ", ".join(columns)})
    if layer.skipped:
        facts(out, {"skipped": layer.skipped})
    for d in layer.decisions:
        text = f"{d.route.value}, {d.method} ({d.why})"
        if d.route is Route.WARP:
            kernel = f", kernel scale {numbers(d.scale, 4)}" if d.scale else ""
            exact = "exactly" if d.tolerance == 0 else f"to {d.tolerance:g} pixels"
            text += f"\n{numbers(d.steps, 4)} pixels to a cell{kernel}, placed {exact}"
        facts(out, {"from": f"{d.source.name}, {crs_label(d.source.crs)}", "way": text})
    if roots := reaches(layer):
        more = f" and {len(roots) - SHOWN_ROOTS:,} more" if len(roots) > SHOWN_ROOTS else ""
        facts(out, {"reaches": ", ".join(roots[:SHOWN_ROOTS]) + more})
    if layer.table:
        facts(out, _tablefacts(layer, layer.table))
    if layer.decode_factor > 1.005:
        facts(out, {"reads": f"each stored block is decoded {layer.decode_factor:.2f} times"})


def _tablefacts(layer: LayerPlan, table: TablePlan) -> dict[str, str]:
    first, more = table.headers[0], len(table.headers) - 1
    name = f"{first.relation} of {first.uri}" if first.relation else first.uri
    read = f"{name} ({first.driver})" + (f" and {more} more" if more else "")
    columns, by = table.columns, f", by {first.key}" if first.key else ""
    words = ", ".join(dict.fromkeys(v.requested_method for v in layer.variables))
    values = f" of {', '.join(columns.values)}" if any(columns.values) else " of points"
    return {
        "from": f"{read}, {table.rows:,} rows in {len(table.partitions):,} partitions{by}",
        "places": f"{columns.x}, {columns.y}" + (f" in {crs_label(table.crs)}" if table.crs else "") + f": {table.why}",
        "aggregate": words + values + (f", weighted by {columns.weight}" if columns.weight else ""),
    }
