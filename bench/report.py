"""Write the tables of measurements into README.md and docs/benchmarks.md, and print the figures with their goals.

    python bench/report.py [--results FILE] [--print]

Each page has a pair of markers; what is between them is made from the one file of results.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from results import REPOSITORY, RESULTS, Results

LAYERS = 8
BILLION = 1e9
NAMES = {
    "ray": "geopipe on Ray",
    "local": "geopipe in one process",
    "groupby": "geopipe on Ray, groupby",
    "tuned_loop": "the loop with all our tricks",
    "loop": "the loop of an expert (WarpedVRT, pyarrow)",
    "odc_dask": "odc-geo + Dask",
    "rioxarray_dask": "rioxarray + Dask (loads whole rasters)",
    "xrspatial_dask": "xarray-spatial + Dask",
    "gdal_defaults": "GDAL (WarpedVRT with its defaults)",
    "exact_extract": "exactextract",
}

MAIN = ("ray", "tuned_loop", "loop", "odc_dask")
ALL = (*MAIN, "rioxarray_dask", "xrspatial_dask", "groupby")

STAGES = ("read", "resample", "merge", "write")

KERNELS = {
    "average of 2 x 2 pixels": (211.0, 15.0),
    "mode of 2 x 2 pixels": (385.0, 60.0),
    "bilinear": (23.0, 10.0),
    "cubic": (116.0, 40.0),
}
"""Nanoseconds a cell of the older commit, where the goals were set, and the goals."""


class Table:
    """A table of Markdown."""

    def __init__(self, *header: str) -> None:
        self._rows = [header, tuple("---" if n == 0 else "---:" for n in range(len(header)))]

    def add(self, *cells: str) -> None:
        self._rows.append(cells)

    def __len__(self) -> int:
        return len(self._rows) - 2

    def __str__(self) -> str:
        return "\n".join("| " + " | ".join(row) + " |" for row in self._rows) + "\n"


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

    def ratio(self, one: float | None, other: float | None) -> float | None:
        return None if one is None or not other else one / other

    def kernel(self, commit: str, case: str) -> float | None:
        """Nanoseconds a cell: the least of the processes."""
        values = [one["ns"][case] for one in self.results.under(f"kernels/{commit}/").values() if case in one["ns"]]
        return min(values) if values else None

    def stages(self, prefix: str) -> dict[str, float]:
        """The medians of all values below a prefix."""
        ones = self.results.under(prefix + "/").values()
        names = {name: None for one in ones for name in one if name != "commit"}
        return {name: statistics.median(one[name] for one in ones) for name in names}


def number(value: float | None, form: str = ".1f", unit: str = "") -> str:
    """A number with a unit; a dash for None."""
    return "-" if value is None else f"{value:{form}}{unit}"


# ---------------------------------------------------------------- tables


def headline(figures: Figures) -> str:
    """The table of the README."""
    return speed(figures, MAIN)


def speed(figures: Figures, contenders: Sequence[str] = ALL) -> str:
    """W8 by contender: seconds at two sizes, margin, memory, bytes, core-seconds per billion values."""
    sizes = [f"{n:,} x {n:,}" for n in (figures.half, figures.whole)]
    rest = ("margin", "CPU s at the margin", "memory", "table", "core-s per 10^9 values")
    table = Table("W8, cold, start included", *sizes, *rest)
    for name in contenders:
        walls = [figures.median(f"margin/{n}/{name}", "wall") for n in (figures.half, figures.whole)]
        if walls == [None, None]:
            continue
        memory, size = (figures.median(f"margin/{figures.half}/{name}", value) for value in ("memory", "bytes"))
        table.add(
            label(figures, "w8", name),
            *(number(wall, unit=" s") for wall in (*walls, figures.margin(name, "wall"))),
            number(figures.margin(name, "cpu"), ".0f"),
            number(memory and memory / 1e9, ".2f", " GB"),
            number(size and size / 1e6, ".0f", " MB"),
            number(figures.per_billion(name)),
        )
    return str(table) if len(table) else ""


def label(figures: Figures, workload: str, contender: str) -> str:
    """The name of a contender, marked if its table is not the same."""
    check = figures.results.values.get(f"agreement/{workload}/{contender}")
    return NAMES[contender] + (" (another table)" if check and not check["is_same"] else "")


def budget(figures: Figures) -> str:
    """CPU seconds per billion values by stage, beside the floor."""
    stages, floor = figures.stages(f"stages/{figures.half}"), figures.stages(f"floor/{figures.half}")
    if not stages or not floor:
        return ""
    scale = BILLION / (figures.half**2 * LAYERS)
    least = {"read": floor["decode"], "write": floor["encode"]}
    table = Table("CPU seconds per 10^9 values", *STAGES, "all", "times the floor")
    total, bottom = sum(stages[stage] for stage in STAGES), sum(floor.values())
    own, lowest = ([number(of.get(stage, 0.0) * scale) for stage in STAGES] for of in (stages, least))
    table.add("geopipe in one process", *own, number(total * scale), number(total / bottom))
    table.add("the floor: decode, encode", *lowest, number(bottom * scale), "1")
    return str(table)


def sentence(figures: Figures) -> str:
    """The budget in a sentence, for the README."""
    stages, floor = figures.stages(f"stages/{figures.half}"), figures.stages(f"floor/{figures.half}")
    if not stages or not floor:
        return ""
    scale = BILLION / (figures.half**2 * LAYERS)
    total, bottom = sum(stages[stage] for stage in STAGES), sum(floor.values())
    parts = ", ".join(f"{stage} {stages[stage] * scale:.1f}" for stage in STAGES)
    decode, encode = (floor[name] * scale for name in ("decode", "encode"))
    return (
        f"CPU seconds per 10^9 values in one process: {parts}. These are {total / bottom:.1f} times the floor, to\n"
        f"decode each pixel once ({decode:.1f}) and to encode the table once ({encode:.1f}).\n"
    )


def other_series(figures: Figures) -> str:
    """W8 in one process, and with files in the cache."""
    table = Table(f"W8, {figures.half:,} x {figures.half:,}", "wall", "CPU", "memory")
    for series, title in (("in_process", "cold"), ("warm", "warm")):
        for name in ("local", "ray", "tuned_loop", "loop", "odc_dask"):
            wall, cpu, memory = (
                figures.median(f"{series}/{figures.half}/{name}", value) for value in ("wall", "cpu", "memory")
            )
            if wall is not None:
                table.add(f"{NAMES[name]}, {title}", number(wall, unit=" s"), number(cpu, unit=" s"),
                          number(memory and memory / 1e9, ".2f", " GB"))  # fmt: skip
    return str(table) if len(table) else ""


def scene(figures: Figures) -> str:
    """W3: CPU seconds, for exactextract from its start and one of sixteen tiles."""
    table = Table(f"W3, {figures.scene:,} x {figures.scene:,}", "CPU", "wall", "memory")
    for name in ("local", "gdal_defaults", "exact_extract"):
        wall, memory = (figures.median(f"scene/{figures.scene}/{name}", value) for value in ("wall", "memory"))
        cpu, title = scene_cpu(figures, name), label(figures, "w3", name)
        if cpu is not None:
            is_part = name == "exact_extract"
            title += " (from one tile of 16)" if is_part else ""
            shown = "-" if is_part else number(wall, unit=" s")
            table.add(title, number(cpu, unit=" s"), shown, number(memory and memory / 1e9, ".2f", " GB"))
    return str(table) if len(table) else ""


def scene_cpu(figures: Figures, contender: str) -> float | None:
    """CPU seconds of W3."""
    cpu = figures.median(f"scene/{figures.scene}/{contender}", "cpu")
    if contender != "exact_extract" or cpu is None:
        return cpu
    start = figures.median(f"scene/{figures.scene}/exact_extract_start", "cpu") or 0.0
    return start + 16 * (cpu - start)


def kernels(figures: Figures) -> str:
    """Nanoseconds a cell, old and new."""
    table = Table("one thread, ns a cell", "before routes (dd40c90)", "now", "ratio")
    ones = list(figures.results.under("kernels/new/").values())
    for case in ones[0]["ns"] if ones else ():
        old, new = (figures.kernel(commit, case) for commit in ("old", "new"))
        table.add(case, number(old), number(new), number(figures.ratio(new, old), ".2f"))
    return str(table) if len(table) else ""


def small(figures: Figures) -> str:
    """The demo by engine."""
    names = {
        "auto": "`geopipe run demo/settings.toml`",
        "local": 'the same, `engine.kind = "local"`',
        "ray": 'the same, `engine.kind = "ray"`',
        "unwatched": "the same, without a database of its history",
        "trivial": "a trivial Ray Data job (init, pool, shutdown)",
    }
    table = Table("200,000 rows, warm", "wall", "CPU", "memory")
    for name, title in names.items():
        wall, cpu, memory = (figures.median(f"small/{name}", value) for value in ("wall", "cpu", "memory"))
        if wall is not None:
            table.add(
                title, number(wall, unit=" s"), number(cpu, unit=" s"), number(memory and memory / 1e9, ".2f", " GB")
            )
    return str(table) if len(table) else ""


def agreement(figures: Figures) -> str:
    """How the tables of peers agree with geopipe's, by workload: a row for each column, a column for each peer."""
    tables = []
    for workload, of in (("w8", "W8"), ("w3", "W3")):
        checks = figures.results.under(f"agreement/{workload}/")
        ones = {peer: grouped(check["columns"]) for peer, check in checks.items()}
        table = Table(f"{of}: within 1 % (classes: equal)", *(NAMES[peer] for peer in ones))
        for name in next(iter(ones.values()), {}):
            table.add(name, *(agreement_of(columns[name]) for columns in ones.values()))
        tables += [str(table)] if ones else []
    return "\n".join(tables)


def agreement_of(column: dict[str, Any]) -> str:
    """The share of values that agree, and of cells with a value in one table only."""
    share = number(column["equal" if column["is_class"] else "close"], ".2%")
    return share if column["nulls"] < 5e-6 else f"{share}, {column['nulls']:.3%} null"


def grouped(columns: dict[str, Any]) -> dict[str, Any]:
    """The columns, those of the bands of a scene by method: the least agreement of all bands."""
    groups: dict[str, list[Any]] = {}
    for name, one in columns.items():
        groups.setdefault(re.sub(r"_\d+_", " ", name), []).append(one)
    return {
        name: {value: (max if value in ("nulls", "greatest") else min)(one[value] for one in ones) for value in ones[0]}
        for name, ones in groups.items()
    }


def league(figures: Figures) -> str:
    """The cells that change with the window, by tool."""
    table = Table(
        "tool", "sizes", "values that change", "by more than rounding", "greatest change", "layers that change"
    )
    for name, one in figures.results.under("league/").items():
        columns = one["columns"]
        cells, more = (sum(column[key] for column in columns.values()) for key in ("cells", "more"))
        of = one["n"] ** 2 * len(columns)
        greatest = max(column["greatest"] for column in columns.values())
        changed = [layer for layer, column in columns.items() if column["cells"]]
        table.add(
            name, ", ".join(map(str, one["sizes"])), f"{cells:,} ({cells / of:.1%})", f"{more:,} ({more / of:.1%})",
            f"{greatest:.2g} of the range" if greatest else "0", ", ".join(changed) or "none",
        )  # fmt: skip
    return str(table) if len(table) else ""


# ---------------------------------------------------------------- goals


def goals(figures: Figures) -> Iterable[tuple[str, float | None, str, float]]:
    """Name, measured value, format and the most that it shall be."""
    ray, odc = figures.margin("ray", "wall"), figures.margin("odc_dask", "wall")
    yield "margin, wall: Ray / loop", figures.ratio(ray, figures.margin("loop", "wall")), ".2f", 0.7
    yield "margin, wall: Ray / odc-geo + Dask", figures.ratio(ray, odc), ".2f", 0.45
    yield "margin, wall: Ray / tuned loop", figures.ratio(ray, figures.margin("tuned_loop", "wall")), ".2f", 1.0
    local = figures.median(f"in_process/{figures.half}/local", "cpu")
    yield (
        "smaller grid, CPU: one process / loop",
        figures.ratio(local, figures.median(f"in_process/{figures.half}/loop", "cpu")),
        ".2f",
        0.65,
    )
    whole = {name: figures.median(f"margin/{figures.half}/{name}", "wall") for name in ("ray", "loop", "odc_dask")}
    yield "smaller grid, wall: Ray / odc-geo + Dask", figures.ratio(whole["ray"], whole["odc_dask"]), ".2f", 1.0
    yield "smaller grid, wall: Ray - loop, seconds", difference(whole["ray"], whole["loop"]), ".1f", 10.0
    own, gdal, exact = (scene_cpu(figures, name) for name in ("local", "gdal_defaults", "exact_extract"))
    yield "W3, CPU: one process / GDAL", figures.ratio(own, gdal), ".2f", 1.0
    yield "W3, CPU: one process / exactextract", figures.ratio(own, exact), ".2f", 1.0
    counts = {count: figures.kernel("new", f"layer of six bands, {count} statistics") for count in (1, 3, 4)}
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
    rest = (
        None if large is None or whole["ray"] is None else (large - whole["ray"]) / (figures.large**2 - figures.half**2)
    )
    yield "time a cell: to the large grid / at the margin", figures.ratio(rest, slope), ".2f", 1.1
    yield "plan of W8, seconds", figures.median("plan/local", "wall"), ".2f", 1.0
    for name, series, most in (("ray", "margin", 2.0), ("local", "in_process", 0.6)):
        memory, peak = (
            figures.median(f"{series}/{figures.half}/{name}", "memory"),
            figures.median(f"plan/{name}", "peak"),
        )
        yield f"smaller grid, memory of {NAMES[name]}, GB", memory and memory / 1e9, ".2f", most
        yield f"smaller grid, memory: measured / predicted, {name}", figures.ratio(memory, peak), ".2f", 1.0
        yield f"smaller grid, memory: predicted / measured, {name}", figures.ratio(peak, memory), ".2f", 1.5
    stages, floor = figures.stages(f"stages/{figures.half}"), figures.stages(f"floor/{figures.half}")
    total = sum(stages.get(stage, 0.0) for stage in STAGES)
    yield "smaller grid, CPU: stages / floor", figures.ratio(total or None, sum(floor.values())), ".2f", 2.5
    changed = figures.results.values.get("league/geopipe")
    cells = sum(column["cells"] for column in changed["columns"].values()) if changed else None
    yield "cells that change with the window", cells, ".0f", 0


def difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


# ---------------------------------------------------------------- pages

README_TABLES: Sequence[Callable[[Figures], str]] = (headline, sentence)
PAGE_TABLES = {
    "speed": speed, "budget": budget, "series": other_series, "scene": scene, "kernels": kernels, "small": small,
    "agreement": agreement, "league": league,
}  # fmt: skip
README, PAGE = REPOSITORY / "README.md", REPOSITORY / "docs" / "benchmarks.md"


def filled(text: str, name: str, content: str) -> str:
    """A page with new content between the markers of a name."""
    start, end = f"<!-- bench {name}: made by make bench-fast -->\n", f"<!-- bench {name}: end -->"
    before, _, rest = text.partition(start)
    old, _, after = rest.partition(end)
    if not rest or end not in rest:
        raise SystemExit(f"no markers for {name}")
    return before + start + (content or old) + end + after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--print", action="store_true", help="print the tables instead of writing them to the pages")
    options = parser.parse_args()
    figures = Figures(Results(options.results))
    tables = {name: make(figures) for name, make in PAGE_TABLES.items()}
    if options.print:
        print(*(table for table in tables.values() if table), sep="\n")
    else:
        page = PAGE.read_text(encoding="utf-8")
        for name, table in tables.items():
            page = filled(page, name, table)
        PAGE.write_text(page, encoding="utf-8")
        readme = "\n".join(table for make in README_TABLES if (table := make(figures)))
        README.write_text(filled(README.read_text(encoding="utf-8"), "fast", readme), encoding="utf-8")
    for name, value, form, most in goals(figures):
        state = "" if value is None else "holds" if value <= most else "MISSED"
        print(f"{name:<52} {number(value, form):>10}   at most {most:{form}}   {state}")


if __name__ == "__main__":
    main()
