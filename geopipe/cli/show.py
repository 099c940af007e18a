"""What the commands print: headers, plans, progress and summaries, for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from geopipe.cli.screen import console as console
from geopipe.cli.screen import headline as headline
from geopipe.errors import SettingsError
from geopipe.export.objects import Stored
from geopipe.export.state import Status
from geopipe.grid.crs import crs_of
from geopipe.grid.grid import projected_bounds
from geopipe.layers.header import Band, Header
from geopipe.layers.layer import Variable
from geopipe.layers.tables import TableHeader, TablePlan
from geopipe.merge import derived
from geopipe.plan.layers import LayerPlan, reaches
from geopipe.plan.plan import Plan
from geopipe.plan.work import span
from geopipe.resample.methods import Route
from geopipe.run.pipeline import Summary
from geopipe.settings.load import Run
from geopipe.text import size as size
from geopipe.validate.output import Report

SHOWN_ROOTS = 5
"""Folders and hosts of a layer that a plan lists."""

HOW = {
    "outer": "the cells that any layer has (how = outer)",
    "inner": "the cells that all layers have (how = inner)",
    "grid": "every cell of the grid (how = grid)",
}


def _numbers(values: Sequence[float], digits: int = 8) -> str:
    return ", ".join(f"{v:.{digits}g}" for v in values)


def _crs(text: str | None) -> str:
    if text is None:
        return "none"
    return text if len(text) < 20 else f"{crs_of(text).name} (custom)"


# ---------------------------------------------------------------- headers


def header_json(header: Header) -> dict[str, Any]:
    """A header as JSON values."""
    return {
        "uri": header.uri,
        "driver": header.driver,
        "crs": header.crs,
        "width": header.width,
        "height": header.height,
        "transform": list(header.transform.to_gdal()),
        "resolution": list(header.resolution),
        "bounds": list(header.bounds),
        "lonlat_bounds": _lonlat(header),
        "bands": [{k: v for k, v in vars(b).items() if k not in ("more", "reduce", "bits")} for b in header.bands],
        "block": list(header.block),
        "overviews": list(header.overviews),
        "compression": header.compression,
        "interleave": header.interleave,
        "subdatasets": list(header.subdatasets),
        "variables": list(header.variables),
        "gcps": header.has_gcps,
        "rpcs": header.has_rpcs,
        "bytes": header.size,
    }


def _lonlat(header: Header) -> list[float] | None:
    if header.crs is None:
        return None
    try:
        bounds = projected_bounds(header.transform, header.width, header.height, header.crs, "OGC:CRS84")
    except SettingsError:  # of another planet
        return None
    return list(bounds) if bounds else None


def headers(out: Console, found: Sequence[Header]) -> None:
    """A table of rasters; all that is known of one where there is only one."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("file", "driver", "CRS", "columns x rows", "pixel", "bands", "nodata"):
        table.add_column(name, overflow="fold")
    for h in found:
        table.add_row(
            h.uri, h.driver, _crs(h.crs), f"{h.width} x {h.height}", _numbers(h.resolution, 6), _types(h), _nodata(h)
        )
    out.print(table)
    if len(found) == 1:
        _header(out, found[0])


def _types(header: Header) -> str:
    types = list(dict.fromkeys(b.dtype for b in header.bands))
    return f"{len(header.bands)} x {', '.join(types)}" if header.bands else "none"


def _nodata(header: Header) -> str:
    return ", ".join(dict.fromkeys("none" if b.nodata is None else f"{b.nodata:g}" for b in header.bands))


def _header(out: Console, h: Header) -> None:
    lonlat = _lonlat(h)
    facts = {
        "bounds": _numbers(h.bounds),
        "lon, lat": _numbers(lonlat, 6) if lonlat else "unknown",
        "stored as": f"blocks of {h.block[1]} x {h.block[0]}, {h.compression or 'no compression'}, {size(h.size)}",
        "overviews": ", ".join(f"1/{o}" for o in h.overviews) or "none",
    }
    if h.has_gcps or h.has_rpcs:
        facts["placed by"] = "ground control points" if h.has_gcps else "RPCs"
    if h.subdatasets:
        facts["variables"] = "\n".join(f"{n}  (path = '{u}')" for n, u in zip(h.variables, h.subdatasets, strict=True))
    _facts(out, facts)
    for band in h.bands:
        out.print(f"  band {band.index}: {_band(band)}")


def _band(band: Band) -> str:
    parts = [band.dtype, "nodata " + ("none" if band.nodata is None else f"{band.nodata:g}")]
    others = [f"{number:g}" for number in band.missing if number != band.nodata]
    parts += [f"missing {' '.join(others)}"] if others else []
    ends = ["" if end is None else f"{end:g}" for end in band.limits]
    parts += [f"valid {'..'.join(ends)}"] if any(ends) else []
    if band.scale != 1 or band.offset != 0:
        parts.append(f"scale {band.scale:g}, offset {band.offset:g}")
    parts += [f"unit {band.unit}"] if band.unit else []
    parts += [repr(band.description)] if band.description else []
    parts += [f"{key} {text}" for key, text in band.place.items()]
    parts += ["colour table"] if band.paletted else []
    parts += [f"mask {band.mask}"] if "per_dataset" in band.mask or band.alpha else []
    parts += [f"alpha in band {band.alpha_band}"] if band.alpha_band else []
    return ", ".join(parts)


def _facts(out: Console, facts: dict[str, str]) -> None:
    for name, text in facts.items():
        first, *rest = text.splitlines() or [""]
        out.print(f"  {name:<12} {first}")
        for line in rest:
            out.print(f"  {'':<12} {line}")


def table_json(header: TableHeader) -> dict[str, Any]:
    """The header of a coordinate table as JSON values."""
    return {
        "uri": header.uri,
        "driver": header.driver,
        "crs": header.crs,
        "rows": header.rows,
        "columns": [{"name": c.name, "type": c.told} for c in header.columns],
        "bytes": header.size,
    }


def tables(out: Console, found: Sequence[TableHeader]) -> None:
    """A table of coordinate tables; the types of the columns of one where there is only one."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("file", "driver", "CRS", "rows", "columns"):
        table.add_column(name, overflow="fold")
    for h in found:
        table.add_row(h.uri, h.driver, _crs(h.crs), f"{h.rows:,}", ", ".join(c.name for c in h.columns))
    out.print(table)
    if len(found) == 1:
        _facts(out, {c.name: c.told for c in found[0].columns})


# ---------------------------------------------------------------- plans


def plan(out: Console, made: Plan, run: Run) -> None:
    """The whole plan: grid, layers, strategy, predictions, and where the table is made and goes to."""
    grid, estimate, machine = made.grid, made.estimate, made.machine
    headline(out, f"plan {made.name}", f"  {made.hash[:16]}")
    _facts(
        out,
        {
            "grid": f"{_crs(grid.crs)}, {grid.width:,} columns x {grid.height:,} rows",
            "cell": f"{_numbers((grid.dx,))} x {_numbers((grid.dy,))}",
            "bounds": _numbers(grid.bounds),
            "tiles": f"{estimate.tiles:,} of at most {made.options.window_size} x {made.options.window_size} cells",
            "rows": HOW[made.spec.how],
            "files": _files_of(made),
        }
        | _chosen(made),
    )
    for layer in made.layers:
        _layer(out, layer)
    headline(out, "run")
    _facts(
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
        _facts(out, {"exchanged": text})
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
    _facts(out, {"columns": ", ".join(columns)})
    if layer.skipped:
        _facts(out, {"skipped": layer.skipped})
    for d in layer.decisions:
        text = f"{d.route.value}, {d.method} ({d.why})"
        if d.route is Route.WARP:
            kernel = f", kernel scale {_numbers(d.scale, 4)}" if d.scale else ""
            exact = "exactly" if d.tolerance == 0 else f"to {d.tolerance:g} pixels"
            text += f"\n{_numbers(d.steps, 4)} pixels to a cell{kernel}, placed {exact}"
        _facts(out, {"from": f"{d.source.name}, {_crs(d.source.crs)}", "way": text})
    if roots := reaches(layer):
        more = f" and {len(roots) - SHOWN_ROOTS:,} more" if len(roots) > SHOWN_ROOTS else ""
        _facts(out, {"reaches": ", ".join(roots[:SHOWN_ROOTS]) + more})
    if layer.table:
        _facts(out, _table_facts(layer, layer.table))
    if layer.decode_factor > 1.005:
        _facts(out, {"reads": f"each stored block is decoded {layer.decode_factor:.2f} times"})


def _table_facts(layer: LayerPlan, table: TablePlan) -> dict[str, str]:
    first, more = table.headers[0], len(table.headers) - 1
    name = f"{first.relation} of {first.uri}" if first.relation else first.uri
    read = f"{name} ({first.driver})" + (f" and {more} more" if more else "")
    columns, by = table.columns, f", by {first.key}" if first.key else ""
    words = ", ".join(dict.fromkeys(v.requested_method for v in layer.variables))
    values = f" of {', '.join(columns.values)}" if any(columns.values) else " of points"
    return {
        "from": f"{read}, {table.rows:,} rows in {len(table.partitions):,} partitions{by}",
        "places": f"{columns.x}, {columns.y}" + (f" in {_crs(table.crs)}" if table.crs else "") + f": {table.why}",
        "aggregate": words + values + (f", weighted by {columns.weight}" if columns.weight else ""),
    }


# ---------------------------------------------------------------- summaries


def summary(out: Console, made: Summary) -> None:
    """What a run has made, and how long each step took."""
    headline(out, f"{made.plan.name} is done", f"  run {made.run_id}")
    wall = sum(made.seconds.values())
    steps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in made.seconds.items())
    work = ", ".join(f"{p.stage} {p.seconds:.1f}" for p in made.stages.values())
    _facts(
        out,
        {
            "rows": f"{made.rows:,} in {made.files:,} files, {size(made.bytes)}",
            "seconds": f"{wall:.1f} ({steps})",
            "of workers": f"{work} seconds",
            "output": str(made.output),
        },
    )
    for name, reason in made.skipped.items():
        headline(out, "  skipped", f"      layer {name}, null in every row: {reason}", "yellow")
    for finding in made.warnings:
        headline(out, "  note", f"         {finding.message}", "yellow")


def status(out: Console, found: Status) -> None:
    """What an output folder holds."""
    done = found.finished
    if done is not None:
        headline(out, f"{done.get('name', 'a run')} is finished", f"  run {done.get('run_id', '')}")
        counts = f"{done['rows']:,} in {done['files']:,} files, {size(done['bytes'])}"
        _facts(out, {"rows": counts, "plan": done["plan_hash"][:16], "output": str(found.output)})
    for run in found.unfinished:
        headline(out, f"{run.name} is {'at work' if found.holder else 'unfinished'}", f"  {found.holder}")
        told = {"tiles": f"{run.done:,} of {run.tiles:,} are done, {size(run.bytes)}", "plan": run.plan_hash[:16]}
        if run.missing:
            told["missing"] = f"tiles {run.missing}"
        if not found.holder:
            told["next"] = "geopipe run SETTINGS --resume"
        _facts(out, told)


def stored(out: Console, found: Stored) -> None:
    """What is under a prefix of an object store."""
    done, told = found.finished, {"output": found.uri}
    if done is None:
        headline(out, "a table is on its way here, or was cut short")
        told["next"] = "geopipe run SETTINGS --resume, if nobody is sending it"
        _facts(out, {"objects": f"{found.objects:,}, and no _SUCCESS"} | told)
        return
    headline(out, f"{done.get('name', 'a run')} is finished", f"  run {done.get('run_id', '')}")
    if found.missing:
        more = f" and {len(found.missing) - SHOWN:,} more" if len(found.missing) > SHOWN else ""
        told["missing"] = f"{', '.join(found.missing[:SHOWN])}{more} (not there, or of another size)"
    counts = f"{done['rows']:,} in {done['files']:,} files, {size(done['bytes'])}"
    _facts(out, {"rows": counts, "plan": done["plan_hash"][:16]} | told)


def status_json(found: Status) -> dict[str, Any]:
    """What an output folder holds, as JSON values."""
    left_out = {"identity"}
    return {
        "output": str(found.output),
        "finished": found.finished,
        "unfinished": [{k: v for k, v in asdict(run).items() if k not in left_out} for run in found.unfinished],
        "holder": found.holder,
    }


def summary_json(made: Summary) -> dict[str, Any]:
    """A summary as JSON values."""
    return {
        "run_id": made.run_id,
        "name": made.plan.name,
        "plan_hash": made.plan.hash,
        "output": str(made.output),
        "rows": made.rows,
        "files": made.files,
        "bytes": made.bytes,
        "seconds": {k: round(v, 3) for k, v in made.seconds.items()},
        "worker_seconds": {p.stage: round(p.seconds, 3) for p in made.stages.values()},
        "skipped": made.skipped,
        "warnings": [{"check": f.check, "message": f.message} for f in made.warnings],
    }


# ---------------------------------------------------------------- validation

SHOWN = 5
"""Findings of one check that are printed; --json has all."""


def report(out: Console, made: Report) -> None:
    """A line for each check with its findings below it, and a table of the variables."""
    colours = {"ok": "green", "warning": "yellow", "error": "red"}
    for check, text in made.numbers.items():
        level = made.level(check)
        headline(out, f"{level:<8}", f" {check:<12} {text}", colours[level])
        found = [f for f in made.findings if f.check == check]
        for finding in found[:SHOWN]:
            out.print(f"  {finding.level}: {finding.message}")
        if len(found) > SHOWN:
            out.print(f"  and {len(found) - SHOWN:,} more (--json shows all)")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("variable", "type", "null", "least", "greatest"):
        table.add_column(name, justify="left" if name in ("variable", "type") else "right")
    for c in made.columns:
        ends = ["" if end is None else f"{end:.7g}" if isinstance(end, float) else str(end) for end in (c.low, c.high)]
        table.add_row(c.name, c.dtype, _share(c.nulls, made.rows), *ends)
    out.print(table)
    if made.exit_code:
        out.print(
            f"{made.output} is not what its run wrote or planned\n"
            f"  hint: copy the files from a backup, or run {made.output}/settings.toml again with --overwrite",
        )


def _share(part: int, whole: int) -> str:
    """A share that is 0 % or 100 % only where it is so."""
    if part in (0, whole):
        return "100%" if part else "0%"
    return f"{min(max(part / whole, 0.0001), 0.9999):.2%}"


def report_json(made: Report) -> dict[str, Any]:
    """A report as JSON values; an infinite number is text."""

    def plain(value: float | None) -> float | str | None:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    return {
        "output": str(made.output),
        "exit_code": made.exit_code,
        "rows": made.rows,
        "checks": {check: {"level": made.level(check), "numbers": text} for check, text in made.numbers.items()},
        "findings": [{"level": f.level, "check": f.check, "message": f.message} for f in made.findings],
        "variables": [
            {
                "name": c.name,
                "type": c.dtype,
                "nulls": c.nulls,
                "null_share": c.nulls / made.rows if made.rows else None,
                "min": plain(c.low),
                "max": plain(c.high),
            }
            for c in made.columns
        ],
    }
