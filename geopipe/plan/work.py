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
from geopipe.plan.layers import LayerPlan
from geopipe.plan.options import Options
from geopipe.resample.methods import Decision, Route
from geopipe.resample.predictions import stored_pixels

DECODE = {"": 1.0, "DEFLATE": 10.0, "LZW": 10.0, "ZSTD": 4.0}
"""ns a pixel by GDAL's name of the compression; a file of several compressions in it counts as DEFLATE."""

OTHER_DECODE = 30.0
"""ns a pixel of compressions that are not measured: JPEG 2000, WEBP, LERC and so on take 10 to 100."""

RATES = {
    "nearest": (20, 1.5),
    "bilinear": (30, 8),
    "cubic": (90, 13),
    "cubic_spline": (90, 13),
    "lanczos": (150, 32),
    "mode": (190, 5),
    "med": (150, 32),
    "q1": (150, 32),
    "q3": (150, 32),
    "std": (200, 6),
    "min": (200, 6),
    "max": (200, 6),
}
"""ns a cell and ns a source pixel of a warp, by method."""

AREA = (140, 6)
"""The same for methods that are sums of areas: average, sum, rms, class fractions."""

COPY = (5, 0)
POINT = 1000.0
"""ns a row of a coordinate table: reading, placing, sorting. Not measured: an order of magnitude."""

PARQUET, CSV = 12.0, 250.0
"""ns a value, merging included; CSV with gzip."""

STARTUP = {"local": 1.0, "ray": 10.0}
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
    grid: Grid, plans: Sequence[LayerPlan], options: Options, workers: int, reach: Reach | None
) -> dict[str, Workload]:
    """Predict the work of a run by each engine.

    Args:
        workers: busy processes of a run on Ray.
        reach: of the mask, if there is one; cells outside are neither read nor written.
    """
    share = 1.0 if reach is None else reach.tiles / max(1, _tiles(grid, options))
    alone = _work(grid, [replace(plan, sweeps=False) for plan in plans], options, share, reach)
    shared = _work(grid, plans, options, share, reach)
    return {
        "local": _workload(*alone, STARTUP["local"], 1),
        "ray": _workload(*shared, STARTUP["ray"], max(1, workers)),
    }


def _workload(pixels: float, values: int, nanoseconds: float, start: float, workers: int) -> Workload:
    seconds = nanoseconds / 1e9 / workers
    return Workload(round(pixels), values, start + seconds, (start + LOW * seconds, start + HIGH * seconds))


def _work(
    grid: Grid, plans: Sequence[LayerPlan], options: Options, share: float, reach: Reach | None
) -> tuple[float, int, float]:
    """Pixels to decode, values to write, and nanoseconds of one processor.

    Args:
        share: of the tiles that the mask meets.
    """
    pixels, nanoseconds = 0.0, 0.0
    for plan in plans:
        factor = 1.0 if plan.sweeps else plan.decode_factor
        for decision in plan.decisions:
            bands, stored = _bands(plan, decision), share * stored_pixels(grid, decision)
            cells = min(share * grid.cells, stored / max(1e-9, decision.steps[0] * decision.steps[1]))
            cell, pixel = COPY if decision.route is Route.COPY else RATES.get(decision.method, AREA)
            decoded = stored * factor * bands
            pixels += decoded
            nanoseconds += decoded * DECODE.get(decision.source.first.compression, OTHER_DECODE)
            nanoseconds += bands * (cells * cell + stored * pixel)
        nanoseconds += plan.table.rows * POINT if plan.table else 0
    columns = sum(len(plan.variables) for plan in plans) + 4
    values = columns * (grid.cells if reach is None else reach.cells)
    nanoseconds += values * sum({"parquet": PARQUET, "csv": CSV}[form] for form in options.formats)
    return pixels, values, nanoseconds


def _tiles(grid: Grid, options: Options) -> int:
    rows, cols = grid.tiling(options.window_size)
    return rows * cols


def _bands(plan: LayerPlan, decision: Decision) -> int:
    """Bands to read of a source for a method. Each of several methods reads them again."""
    mine = [v for v in plan.variables if v.requested_method == decision.requested_method]
    return sum(1 + len(v.band.more) for v in mine) or 1


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
