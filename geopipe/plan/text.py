"""A plan in words: what the run writes, what it needs, how each layer is read, and what to check before it starts."""

from __future__ import annotations

from geopipe.grid.crs import crs_label, crs_of
from geopipe.layers.layer import Variable
from geopipe.layers.table_plan import TablePlan
from geopipe.merge import derived
from geopipe.plan.layers import LayerPlan, reaches
from geopipe.plan.plan import Plan
from geopipe.plan.work import duration, span
from geopipe.resample.methods import Decision, Route
from geopipe.text import clean, count, listed, numbers, size

SHOWN = 3
"""Sources of a layer that are listed unless the plan is verbose."""

SHOWN_ROOTS = 5
"""Folders and hosts of a layer that are listed."""

HOW = {
    "outer": "the cells that any layer has (how = outer)",
    "inner": "the cells that all layers have (how = inner)",
    "grid": "every cell of the grid (how = grid)",
}

Facts = list[tuple[str, str]]
"""Names with their texts; a text may have several lines."""


def plan_text(plan: Plan, verbose: bool = False) -> str:
    """The plan as text. A line without indent is a heading.

    Args:
        verbose: also the reasons: strategy, tasks, memory of each, how and how exactly each source is read.
    """
    sections = [(f"plan {plan.name}", [*_table(plan), *_needs(plan)])]
    if verbose:
        sections.append(("how it runs", _strategy(plan)))
    sections += [(f"layer {p.layer.name}: {p.kind.value} ({p.kind_why})", _layer(p, verbose)) for p in plan.layers]
    if plan.notes:
        sections.append(("check", [("note", note) for note in plan.notes]))
    lines: list[str] = []
    for heading, facts in sections:
        lines.append(clean(heading))
        for name, text in facts:
            first, *rest = text.splitlines() or [""]
            lines += [f"  {name:<12} {clean(first)}", *(f"{'':<15}{clean(line)}" for line in rest)]
    return "\n".join(lines)


def _table(plan: Plan) -> Facts:
    """What the table has: rows, columns, grid and files."""
    grid, estimate, extra = plan.grid, plan.estimate, ["row", "col", "x", "y"]
    extra += [field.name for field in derived.fields(plan.options.layout.lonlat, plan.options.layout.h3)]
    unit = crs_of(grid.crs).axis_info[0].unit_name if crs_of(grid.crs).axis_info else ""
    shape = f"{count(grid.width, 'column')} x {count(grid.height, 'row')}"
    cells = f"{shape} of {numbers((grid.dx,))} x {numbers((grid.dy,))}"
    facts = [
        ("rows", f"{estimate.rows:,} rows at most: {HOW[plan.spec.how]}"),
        ("columns", f"{', '.join(extra)} and {count(len(plan.spec.variables), 'column')} of values"),
        ("grid", f"{crs_label(grid.crs)}, {cells} {unit}".rstrip()),
        ("bounds", numbers(grid.bounds)),
    ]
    if plan.spec.required:
        columns = [v.name for v in plan.spec.variables if v.name in plan.spec.required]
        facts.append(("dropped", f"cells without a value in {' or '.join(columns)} (merge.drop)"))
    if plan.mask is not None:
        reach, shapes = plan.mask.reach, plan.mask.polygons
        what = count(shapes.count, "polygon") if shapes else "a raster, inside where it is valid and not 0"
        most, share = "" if reach.exact else "at most ", reach.cells / grid.cells
        inside = f"{most}{count(reach.cells, 'cell')} inside ({share:.2%})"
        facts.append(("mask", f"{reach.uri}: {what}\nmeets {reach.tiles:,} of {estimate.tiles:,} tiles; {inside}"))
    return [*facts, ("files", _files(plan))]


def _files(plan: Plan) -> str:
    """Number, formats and layout of the files, and their size."""
    options, layout, tiles = plan.options, plan.options.layout, len(plan.keys)
    one = layout.csv_files == "one"
    parquet = [f"in folders {layout.partition_by}=..."] if layout.partition_by else []
    parquet += ["with points (GeoParquet)"] if layout.geometry else []
    csv = [options.compress] if options.compress != "none" else []
    notes = {"parquet": parquet, "csv": csv}
    parts = []
    for form in options.formats:
        number = count(1 if form == "csv" and one else tiles, f"{form} file")
        parts.append(number + (f" ({', '.join(notes[form])})" if notes[form] else ""))
    return f"at most {' and '.join(parts)}, up to {size(plan.estimate.output_bytes)}"


def _needs(plan: Plan) -> Facts:
    """Time, engine, memory and disk."""
    estimate, machine, work = plan.estimate, plan.machine, plan.work
    decoded = f"{count(work.pixels, 'pixel')} to decode, {count(work.values, 'value')} to write"
    places = {"local": "in this process", "ray": "on Ray"}
    times = {name: f"{place} about {duration(plan.seconds[name])}" for name, place in places.items()}
    return [
        ("time", f"{span(work.seconds)} (a prediction): {decoded}"),
        ("engine", f"{plan.engine} ({plan.engine_why}): {', '.join(times.values())}"),
        *_nodes(plan),
        ("memory", f"{size(estimate.peak_bytes)} at most; the run may use {size(machine.memory)}"),
        ("disk", f"{size(machine.free_disk)} free"),
    ]


def _nodes(plan: Plan) -> Facts:
    """The nodes of a cluster that exists, and the workers on them."""
    machine, estimate = plan.machine, plan.estimate
    if not machine.nodes or plan.engine != "ray":
        return []
    text = f"{count(len(machine.nodes), 'node')} for work: {count(machine.cpus, 'CPU')}, {size(machine.memory)} of "
    text += f"memory, at least {size(machine.node_store)} of object store on each"
    most = f" ({machine.grown():,} once the cluster has grown)" if machine.grown() > estimate.workers else ""
    return [("nodes", f"{text}\n{count(estimate.workers, 'worker')}{most} of up to {size(estimate.worker_bytes)}")]


def _strategy(plan: Plan) -> Facts:
    """Tiles, tasks and shuffles."""
    estimate, machine, edge = plan.estimate, plan.machine, plan.options.window_size
    tasks = f"{count(estimate.tasks, 'task')} on {count(estimate.workers, 'worker')}, {size(estimate.task_bytes)} each"
    facts = [
        ("hash", plan.hash[:16]),
        ("tiles", f"{estimate.tiles:,} of at most {edge:,} x {edge:,} cells"),
        ("strategy", f"{plan.strategy}: {plan.strategy_why}"),
        ("tasks", tasks),
    ]
    if estimate.shuffle_bytes:
        waves = count(-(-len(plan.keys) // estimate.wave_tiles), "wave")
        text = f"{size(estimate.shuffle_bytes)} in {waves} of {count(estimate.wave_tiles, 'tile')}, "
        text += f"{size(estimate.wave_bytes)} each, through {size(machine.object_store)} of object store"
        facts.append(("shuffle", text))
    return facts


def _column(v: Variable) -> str:
    steps = f" ({v.band.place['steps']}: {v.band.step or v.band.level})" if v.band.reduce else ""
    return f"{v.name} {v.dtype}" + (f" in {v.unit}" if v.unit else "") + steps


def _layer(layer: LayerPlan, verbose: bool) -> Facts:
    """Columns, sources and methods of a layer."""
    facts = [("columns", ", ".join(map(_column, layer.variables)))]
    if layer.skipped:
        facts.append(("skipped", layer.skipped))
    shown = layer.decisions if verbose else layer.decisions[:SHOWN]
    for d in shown:
        facts += [("from", f"{d.source.name}, {crs_label(d.source.crs)}"), ("method", _method(d, verbose))]
        facts += [("cells", CELLS[d.cells])] if d.cells else []
    if len(shown) < len(layer.decisions):
        facts.append(("", f"and {len(layer.decisions) - len(shown):,} more (-v lists all)"))
    roots = reaches(layer)
    if len(roots) > 1 or (roots and verbose):
        facts.append(("reaches", listed(roots, SHOWN_ROOTS)))
    if layer.table:
        facts += _points(layer, layer.table)
    if verbose and layer.decode_factor > 1.005:
        facts.append(("reads", f"tiles share stored blocks: each is decoded {layer.decode_factor:.2f} times"))
    return facts


CELLS = {
    "whole pixels": "whole pixels: they are counted, none is cut",
    "rectangles": "rectangles along the pixels: the share of a pixel is the product of two lengths",
    "polygons": "polygons across the pixels: the share of a pixel is its exact area in the polygon",
}
"""How the pixels under a cell are weighted (`Decision.cells`), and why."""


def _method(decision: Decision, verbose: bool) -> str:
    """The method with its reason, and how pixels come to cells."""
    copied = decision.route is Route.COPY
    text = f"{'copy of the pixels' if copied else decision.method} ({decision.why})"
    if not verbose:
        return text
    text = f"{decision.route.value}: {text}"
    if decision.route is Route.WARP:
        kernel = f", kernel scale {numbers(decision.scale, 4)}" if decision.scale else ""
        near = f"off by at most {decision.tolerance:g} of a source pixel" if decision.tolerance else "exact"
        text += f"\n{numbers(decision.steps, 4)} pixels to a cell edge{kernel}; positions of cells are {near}"
    return text


def _points(layer: LayerPlan, table: TablePlan) -> Facts:
    """Source, coordinates and statistics of a layer of points."""
    first, more = table.headers[0], len(table.headers) - 1
    name = f"{first.relation} of {first.uri}" if first.relation else first.uri
    source = f"{name} ({first.driver})" + (f" and {more} more" if more else "")
    columns, by = table.columns, f", by {first.key}" if first.key else ""
    words = ", ".join(dict.fromkeys(v.requested_method for v in layer.variables))
    values = f" of {', '.join(columns.values)}" if any(columns.values) else " of points"
    crs = f" in {crs_label(table.crs)}" if table.crs else ""
    return [
        ("from", f"{source}, {count(table.rows, 'row')} in {count(len(table.partitions), 'partition')}{by}"),
        ("places", f"{columns.x}, {columns.y}{crs}: {table.why}"),
        ("aggregate", words + values + (f", weighted by {columns.weight}" if columns.weight else "")),
    ]
