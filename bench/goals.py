"""What is derived from the measurements: medians, margins, ratios, and the figures with their goals."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from results import Results

LAYERS = 8
BILLION = 1e9
TILES = 16
"""Tiles of W3, of which exactextract makes one."""

STAGES = ("read", "resample", "merge", "write")

KERNELS = {
    "average of 2 x 2 pixels": (211.0, 15.0),
    "mode of 2 x 2 pixels": (385.0, 60.0),
    "bilinear": (23.0, 10.0),
    "cubic": (116.0, 40.0),
}
"""Nanoseconds a cell of the older commit, where the goals were set, and the goals."""


class Figures:
    """Medians of what was measured."""

    def __init__(self, results: Results) -> None:
        self.results = results
        sizes = results.values.get("sizes", {"half": 4096, "whole": 8192, "large": 16_384, "scene": 1700})
        self.half, self.whole, self.large, self.scene = (sizes[name] for name in ("half", "whole", "large", "scene"))

    def median(self, prefix: str, value: str) -> float | None:
        """The median of a value over the repetitions below a prefix; None if nothing was measured."""
        values = [one[value] for one in self.results.under(prefix + "/").values() if value in one]
        return statistics.median(values) if values else None

    def margin(self, contender: str, value: str) -> float | None:
        """A value at the larger size minus that at the smaller one."""
        small, large = (self.median(f"margin/{n}/{contender}", value) for n in (self.half, self.whole))
        return None if small is None or large is None else large - small

    def per_billion(self, contender: str) -> float | None:
        """Core-seconds per billion values, at the margin."""
        cpu = self.margin(contender, "cpu")
        return None if cpu is None else cpu / ((self.whole**2 - self.half**2) * LAYERS) * BILLION

    @staticmethod
    def ratio(one: float | None, other: float | None) -> float | None:
        return None if one is None or not other else one / other

    @property
    def analysed(self) -> list[int]:
        """Rows along an edge of the tables that were analysed."""
        return sorted({int(key.partition("/")[0]) for key in self.results.under("analyses/")})

    def analysis_rate(self, case: str, tool: str) -> float | None:
        """Rows a second of an analysis of the largest table that a tool was measured on."""
        walls = [(n, self.median(f"analyses/{n}/{case}/{tool}", "wall")) for n in self.analysed]
        return next((n * n / wall for n, wall in reversed(walls) if wall), None)

    @property
    def nodes(self) -> list[int]:
        """Numbers of nodes that work was scaled to."""
        return sorted({int(key.partition("/")[0]) for key in self.results.under("scaling/aligned/")})

    @property
    def counted(self) -> list[int]:
        """Numbers of tiles after which the driver's memory was measured."""
        return sorted({int(key.partition("/")[0]) for key in self.results.under("scaling/driver/")})

    def efficiency(self, strategy: str, nodes: int) -> float | None:
        """Seconds on one node over those on so many, with as much work for each node."""
        return self.ratio(*(self.median(f"scaling/{strategy}/{n}", "seconds") for n in (1, nodes)))

    def kernel(self, commit: str, case: str) -> float | None:
        """Nanoseconds a cell: the least of the processes."""
        values = [one["ns"][case] for one in self.results.under(f"kernels/{commit}/").values() if case in one["ns"]]
        return min(values) if values else None

    def stages(self, prefix: str) -> dict[str, float]:
        """The medians of all values below a prefix."""
        ones = self.results.under(prefix + "/").values()
        names = {name: None for one in ones for name in one if name != "commit"}
        return {name: statistics.median(one[name] for one in ones) for name in names}


def scene_cpu(figures: Figures, contender: str) -> float | None:
    """CPU seconds of W3; those of exactextract from its start and one tile of TILES."""
    cpu = figures.median(f"scene/{figures.scene}/{contender}", "cpu")
    if contender != "exact_extract" or cpu is None:
        return cpu
    start = figures.median(f"scene/{figures.scene}/exact_extract_start", "cpu") or 0.0
    return start + TILES * (cpu - start)


def goals(figures: Figures) -> Iterable[tuple[str, float | None, str, float]]:
    """Name, measured value, format and the most that it shall be."""
    ray, odc = figures.margin("ray", "wall"), figures.margin("odc_dask", "wall")
    yield "margin, wall: Ray / loop", figures.ratio(ray, figures.margin("loop", "wall")), ".2f", 0.7
    yield "margin, wall: Ray / odc-geo + Dask", figures.ratio(ray, odc), ".2f", 0.45
    yield "margin, wall: Ray / tuned loop", figures.ratio(ray, figures.margin("tuned_loop", "wall")), ".2f", 1.0
    local, loop = (figures.median(f"in_process/{figures.half}/{name}", "cpu") for name in ("local", "loop"))
    yield "smaller grid, CPU: one process / loop", figures.ratio(local, loop), ".2f", 0.65
    whole = {name: figures.median(f"margin/{figures.half}/{name}", "wall") for name in ("ray", "loop", "odc_dask")}
    yield "smaller grid, wall: Ray / odc-geo + Dask", figures.ratio(whole["ray"], whole["odc_dask"]), ".2f", 1.0
    yield "smaller grid, wall: Ray - loop, seconds", difference(whole["ray"], whole["loop"]), ".1f", 10.0
    own, gdal, exact = (scene_cpu(figures, name) for name in ("local", "gdal_defaults", "exact_extract"))
    yield "W3, CPU: one process / GDAL", figures.ratio(own, gdal), ".2f", 1.0
    yield "W3, CPU: one process / exactextract", figures.ratio(own, exact), ".2f", 1.0
    counts = {count: figures.kernel("new", f"six tilted bands, {count} of 4 statistics") for count in (1, 3, 4)}
    yield "W3: fourth statistic / first", figures.ratio(difference(counts[4], counts[3]), counts[1]), ".2f", 0.1
    for case, (before, least) in KERNELS.items():
        new, old = figures.kernel("new", case), figures.kernel("old", case)
        yield f"kernel, ns a cell: {case}", new, ".1f", least
        yield f"kernel, now / before: {case}", figures.ratio(new, old), ".2f", least / before
    yield "demo in auto, seconds", figures.median("small/auto", "wall"), ".1f", 5.0
    fixed = difference(figures.median("small/unwatched", "wall"), figures.median("small/trivial", "wall"))
    yield "demo on Ray - trivial Ray Data job, seconds", fixed, ".1f", 2.0
    yield "margin, wall: groupby / aligned", figures.ratio(figures.margin("groupby", "wall"), ray), ".2f", 1.5
    large = figures.median(f"margin/{figures.large}/ray", "wall")
    slope = None if ray is None else ray / (figures.whole**2 - figures.half**2)
    beyond = difference(large, whole["ray"])
    rest = None if beyond is None else beyond / (figures.large**2 - figures.half**2)
    yield "time a cell: to the large grid / at the margin", figures.ratio(rest, slope), ".2f", 1.1
    high, low = (figures.median(f"margin/{n}/ray", "memory") for n in (figures.large, figures.half))
    yield "memory on Ray: large grid / smaller grid", figures.ratio(high, low), ".2f", 1.25
    reported, plain = (figures.median(f"report/{figures.half}/{name}", "wall") for name in ("reported", "local"))
    yield "with its report / without, in one process", figures.ratio(reported, plain), ".3f", 1.03
    yield "watched / not watched, on Ray", figures.median("monitor", "median"), ".3f", 1.02
    for strategy in ("aligned", "groupby"):
        efficiency = figures.efficiency(strategy, 4)
        yield f"time on four nodes / on one, {strategy}", efficiency and 1 / efficiency, ".2f", 1 / 0.85
    yield "plan of W8, seconds", figures.median("plan/local", "wall"), ".2f", 1.0
    for name, title, series, most in (("ray", "Ray", "margin", 2.0), ("local", "one process", "in_process", 0.6)):
        memory = figures.median(f"{series}/{figures.half}/{name}", "memory")
        peak = figures.median(f"plan/{name}", "peak")
        yield f"smaller grid, memory of {title}, GB", memory and memory / 1e9, ".2f", most
        yield f"smaller grid, memory: measured / predicted, {name}", figures.ratio(memory, peak), ".2f", 1.0
        yield f"smaller grid, memory: predicted / measured, {name}", figures.ratio(peak, memory), ".2f", 1.5
    stages, floor = figures.stages(f"stages/{figures.half}"), figures.stages(f"floor/{figures.half}")
    total = sum(stages.get(stage, 0.0) for stage in STAGES)
    yield "smaller grid, CPU: stages / floor", figures.ratio(total or None, sum(floor.values())), ".2f", 2.5
    yield from analysis_goals(figures)
    changed = figures.results.values.get("league/geopipe")
    cells = sum(column["cells"] for column in changed["columns"].values()) if changed else None
    yield "cells that change with the window", cells, ".0f", 0


def analysis_goals(figures: Figures) -> Iterable[tuple[str, float | None, str, float]]:
    """Memory of the analyses, and their time a row beside the peers'."""
    if not (sizes := figures.analysed):
        return
    cases = sorted({key.split("/")[1] for key in figures.results.under("analyses/")})
    for case in cases:
        low, high = (figures.median(f"analyses/{n}/{case}/geopipe", "memory") for n in (sizes[0], sizes[-1]))
        yield f"{case}, GB of memory", high and high / 1e9, ".2f", 3.0
        yield f"{case}, memory: largest / smallest table", figures.ratio(high, low), ".2f", 1.25
        if peer := figures.analysis_rate(case, "peer"):
            yield (
                f"{case}, time a row: geopipe / peer",
                figures.ratio(peer, figures.analysis_rate(case, "geopipe")),
                ".2f",
                1.0,
            )


def difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
