"""Predict the work of a run: pixels to decode, values to write, and a range of time.

The rates are nanoseconds of one processor, measured by `bench/rates.py` with files in the page cache unless they say
otherwise. Other machines, disks and networks differ, so a time is a range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from geopipe.errors import PlanError
from geopipe.grid.grid import Grid
from geopipe.plan.cells import Reach
from geopipe.plan.estimate import Machine
from geopipe.plan.layers import LayerPlan
from geopipe.plan.options import Options
from geopipe.resample.methods import Route, by_geometry
from geopipe.resample.predictions import stored_pixels

DECODE = {"": 1.0, "DEFLATE": 8.0, "LZW": 10.0, "ZSTD": 4.0}
"""ns a pixel by GDAL's name of the compression; a file of several compressions in it counts as DEFLATE."""

OTHER_DECODE = 30.0
"""ns a pixel of compressions that are not measured: JPEG 2000, WEBP, LERC and so on take 10 to 100."""

RATES: dict[str, tuple[float, float]] = {
    "nearest": (7, 0),
    "bilinear": (13, 8),
    "cubic": (20, 11),
    "cubic_spline": (75, 15),
    "lanczos": (125, 20),
}
"""ns a cell and ns a source pixel of a method that uses the pixels around a cell's centre, for each column."""

UNSCALED = {"bilinear": (6, 1), "cubic": (11, 1)}
"""The same for kernels that are as wide as pixels."""

COVERAGE = {"whole pixels": (0, 0), "rectangles": (40, 3), "polygons": (170, 5)}
"""The same for the areas of the pixels under cells, once for a source, by `Decision.cells`."""

AREA = {"whole pixels": (1, 1), "rectangles": (10, 4), "polygons": (10, 4)}
"""The same for the sums of areas, values and squares and the extremes, for each band."""

STATISTICS = {"std": (10, 5), "med": (50, 35), "q1": (50, 35), "q3": (50, 35), "mode": (20, 6)}
"""The same for a statistic that needs more than these sums, for each column."""

COPY = (1, 0)
POINT = 1000.0
"""ns a row of a coordinate table: reading, placing, sorting. Not measured: an order of magnitude."""

PARQUET, CSV = 7.0, 250.0
"""ns a value, merging included; CSV with gzip."""

STARTUP = {"local": 1.5, "ray": 6.0}
"""Seconds that a run takes beside its work, by engine: imports; on Ray its start, its workers and its end (measured by
bench/start.py)."""

LOW, HIGH = 0.5, 4.0
"""Factors of the range of time: a quicker machine, and a slow or busy disk."""

FASTER = "auto: the faster one by prediction"
"""The reason for an engine that neither the settings nor a cluster decide."""

LONG = 3600
"""Seconds beyond which a plan warns."""


@dataclass(frozen=True)
class Workload:
    """The work of a run by one engine.

    Attributes:
        pixels: to decode in all bands, repeats included.
        values: to write in all columns.
        predicted: seconds of the run by the measured rates, its start included.
        seconds: the range in which they may be on another machine.
    """

    pixels: int
    values: int
    predicted: float
    seconds: tuple[float, float]

    def note(self) -> str:
        """A warning of a long run, or an empty text."""
        if self.predicted <= LONG:
            return ""
        return (
            f"the run: it decodes {self.pixels:,} pixels and should take {span(self.seconds)}; a coarser "
            "grid.resolution, smaller grid.bounds or a mask make it less (engine.max_pixels refuses such a plan)"
        )


def choose_engine(options: Options, cluster: str, seconds: Mapping[str, float]) -> tuple[str, str]:
    """The engine of a run and the reason.

    Args:
        cluster: by what a Ray cluster that exists is named; "" if Ray would have to be started.
        seconds: predicted for each engine.
    """
    if options.whole:
        return "local", "the baseline reads whole rasters, in one process"
    if options.engine != "auto":
        return options.engine, "engine.kind says so"
    if cluster:
        return "ray", f"auto: {cluster} names a cluster"
    return ("ray" if seconds["ray"] < seconds["local"] else "local"), FASTER


def work_of(
    grid: Grid, plans: Sequence[LayerPlan], options: Options, machine: Machine, reach: Reach | None
) -> dict[str, Workload]:
    """Predict the work of a run by each engine. In one process a thread reads while another one writes.

    Args:
        machine: its `workers` are the busy processes of a run on Ray.
        reach: of the mask, if there is one; cells outside are neither read nor written.
    """
    share = 1.0 if reach is None else reach.tiles / max(1, _tiles(grid, options))
    pixels, values, reading, writing = _work(grid, [replace(p, sweeps=False) for p in plans], options, share, reach)
    alone = max(reading, writing) if machine.cpus > 1 else reading + writing
    works = {"local": _workload(pixels, values, alone, STARTUP["local"])}
    pixels, values, reading, writing = _work(grid, plans, options, share, reach)
    return works | {"ray": _workload(pixels, values, (reading + writing) / max(1, machine.workers), STARTUP["ray"])}


def _workload(pixels: float, values: int, nanoseconds: float, start: float) -> Workload:
    seconds = nanoseconds / 1e9
    return Workload(round(pixels), values, start + seconds, (start + LOW * seconds, start + HIGH * seconds))


def _work(
    grid: Grid, plans: Sequence[LayerPlan], options: Options, share: float, reach: Reach | None
) -> tuple[float, int, float, float]:
    """Pixels to decode, values to write, and nanoseconds of one processor for reading and for writing.

    Args:
        share: of the tiles that the mask meets.
    """
    pixels, nanoseconds = 0.0, 0.0
    for plan in plans:
        factor = 1.0 if plan.sweeps else plan.decode_factor
        for decisions in by_geometry(plan.decisions):
            decision, methods = decisions[0], {d.requested_method: d.method for d in decisions}
            columns = [v for v in plan.variables if v.requested_method in methods]
            bands = sum(1 + len(v.band.more) for v in {v.index: v for v in columns}.values()) or 1
            stored = share * stored_pixels(grid, decision)
            cells = min(share * grid.cells, stored / max(1e-9, decision.steps[0] * decision.steps[1]))
            pixels += stored * factor * bands
            nanoseconds += stored * factor * bands * DECODE.get(decision.source.first.compression, OTHER_DECODE)
            rates: list[tuple[float, tuple[float, float]]]
            rates = [(1, COVERAGE.get(decision.cells, (0, 0))), (bands, AREA.get(decision.cells, (0, 0)))]
            own = RATES | STATISTICS if decision.route is not Route.COPY else {}
            own |= UNSCALED if decision.scale == (1.0, 1.0) else {}
            own |= {"mode": (1, 0.5)} if decision.cells == "whole pixels" else {}
            rates += [(1, own.get(methods[v.requested_method], COPY)) for v in columns]
            nanoseconds += sum(times * (cells * cell + stored * pixel) for times, (cell, pixel) in rates)
        nanoseconds += plan.table.rows * POINT if plan.table else 0
    values = (sum(len(plan.variables) for plan in plans) + 4) * (grid.cells if reach is None else reach.cells)
    writing = values * sum({"parquet": PARQUET, "csv": CSV}[form] for form in options.formats)
    return pixels, values, nanoseconds, writing


def _tiles(grid: Grid, options: Options) -> int:
    rows, cols = grid.tiling(options.window_size)
    return rows * cols


def refuse_work(work: Workload, most: int | None) -> None:
    """Refuse a run that would decode more pixels than engine.max_pixels."""
    if most is not None and work.pixels > most:
        raise PlanError(
            f"the run would decode {work.pixels:,} pixels; engine.max_pixels = {most:,} allows no more",
            "a coarser grid.resolution, smaller grid.bounds or a mask make it less; or raise engine.max_pixels",
        )


def span(seconds: tuple[float, float]) -> str:
    """A range of times as text."""
    low, high = map(duration, seconds)
    return f"about {low}" if low == high else f"{low} to {high}"


def duration(seconds: float) -> str:
    """A time as one number with a unit."""
    for unit, length, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48), ("days", 86400, 730)):
        if seconds < most * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400 / 365:,.0f} years"
