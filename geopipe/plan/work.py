"""How much a run has to do, and how long that should take: pixels that are decoded, cells that are written, time.

The rates are nanoseconds of one processor, as `bench/rates.py` measures them with files in the page cache; those that
were not measured say so. Other machines, disks and networks differ, so a time is a range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from geopipe.errors import PlanError
from geopipe.grid.grid import Grid
from geopipe.plan.cells import Reach
from geopipe.plan.estimate import Machine
from geopipe.plan.layers import LayerPlan
from geopipe.plan.options import Options
from geopipe.resample.locate import stored_pixels
from geopipe.resample.methods import Decision, Route

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
"""ns a cell and ns a source pixel by method, where a source is warped."""

AREA = (140, 6)
"""The same of methods that are sums of areas: average, sum, rms, shares of classes."""

COPY = (5, 0)
POINT = 1000.0
"""ns a row of a coordinate table: reading, placing, sorting. Not measured: an order of magnitude."""

PARQUET, CSV = 12.0, 250.0
"""ns a value, merging included; CSV with gzip."""

STARTUP = 10.0
"""Seconds until the first tile: Ray and its workers."""

LOW, HIGH = 0.5, 4.0
"""The range about the prediction: a quicker machine, and a slow disk or one that has other work."""

LONG = 3600
"""Seconds beyond which a plan warns."""


@dataclass(frozen=True)
class Work:
    """`pixels` are those decoded, of all bands, as often as tiles need them; `values` the cells of all columns.

    `seconds` is the range in which the run should end.
    """

    pixels: int
    values: int
    seconds: tuple[float, float]

    @property
    def predicted(self) -> float:
        """The seconds that the rates say."""
        return (self.seconds[0] - STARTUP) / LOW

    def note(self) -> str:
        """A warning of a run that takes long, or nothing."""
        if self.predicted <= LONG:
            return ""
        return (
            f"the run: it decodes {self.pixels:,} pixels and should take {span(self.seconds)}; a coarser "
            "grid.resolution, smaller grid.bounds or a mask make it less (engine.max_pixels refuses such a plan)"
        )


def work_of(
    grid: Grid, plans: Sequence[LayerPlan], options: Options, machine: Machine, tasks: int, reach: Reach | None
) -> Work:
    """What there is to do.

    Args:
        tasks: of the run, which is how many workers can help.
        reach: of the mask, where there is one: what is outside is neither read nor written.
    """
    share = 1.0 if reach is None else reach.tiles / max(1, _tiles(grid, options))
    pixels, spent = 0.0, 0.0
    for plan in plans:
        again = 1.0 if plan.sweeps else plan.decode_factor
        for decision in plan.decisions:
            bands, stored = _bands(plan, decision), share * stored_pixels(grid, decision)
            cells = min(share * grid.cells, stored / max(1e-9, decision.steps[0] * decision.steps[1]))
            cell, pixel = COPY if decision.route is Route.COPY else RATES.get(decision.method, AREA)
            decoded = stored * again * bands
            pixels += decoded
            spent += decoded * DECODE.get(decision.source.compression, OTHER_DECODE)
            spent += bands * (cells * cell + stored * pixel)
        spent += plan.table.rows * POINT if plan.table else 0
    columns = sum(len(plan.variables) for plan in plans) + 4
    values = columns * (grid.cells if reach is None else reach.cells)
    spent += values * sum({"parquet": PARQUET, "csv": CSV}[form] for form in options.formats)
    seconds = spent / 1e9 / max(1, min(machine.workers, tasks))
    return Work(round(pixels), values, (LOW * seconds + STARTUP, HIGH * seconds + STARTUP))


def _tiles(grid: Grid, options: Options) -> int:
    rows, cols = grid.tiling(options.window_size)
    return rows * cols


def _bands(plan: LayerPlan, decision: Decision) -> int:
    """Bands that are read of a source for a method: of several methods each reads them anew."""
    mine = [v for v in plan.variables if v.requested_method == decision.requested_method]
    return sum(1 + len(v.band.more) for v in mine) or 1


def refuse_work(work: Work, most: int | None) -> None:
    """Raise PlanError where more pixels would be decoded than the settings allow."""
    if most is not None and work.pixels > most:
        raise PlanError(
            f"the run would decode {work.pixels:,} pixels; engine.max_pixels = {most:,} allows no more",
            "a coarser grid.resolution, smaller grid.bounds or a mask make it less; or raise engine.max_pixels",
        )


def span(seconds: tuple[float, float]) -> str:
    """A range of times for people."""
    low, high = map(duration, seconds)
    return f"about {low}" if low == high else f"{low} to {high}"


def duration(seconds: float) -> str:
    """A time in one number and a unit."""
    for unit, length, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48), ("days", 86400, 730)):
        if seconds < most * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400 / 365:,.0f} years"
