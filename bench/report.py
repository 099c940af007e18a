"""Write the tables of measurements into README.md and docs/benchmarks.md, and print the figures with their goals.

    python bench/report.py [--results FILE] [--print]

Each page has a pair of markers; what is between them is made from the one file of results.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from goals import BILLION, LAYERS, STAGES, TILES, Figures, goals, scene_cpu
from results import REPOSITORY, RESULTS, Results

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


def number(value: float | None, form: str = ".1f", unit: str = "") -> str:
    """A number with a unit; a dash for None."""
    return "-" if value is None else f"{value:{form}}{unit}"


# ---------------------------------------------------------------- tables


def machine(figures: Figures) -> str:
    """What the series was measured on."""
    one = figures.results.values.get("machine")
    return f"{one['cores']} cores of {one['cpu']}, Python {one['python']}, commit {one['commit']}.\n" if one else ""


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
    """The name of a contender, marked if its table is not the same: where it was compared, or by its rows."""
    check = figures.results.values.get(f"agreement/{workload}/{contender}")
    rows, own = (figures.median(f"margin/{figures.half}/{name}", "rows") for name in (contender, "ray"))
    is_other = rows is not None and own is not None and abs(rows - own) > own / 1000
    return NAMES[contender] + (" (another table)" if is_other or (check and not check["is_same"]) else "")


def budget(figures: Figures) -> str:
    """CPU seconds per billion values by stage, beside the floor."""
    stages, floor = figures.stages(f"stages/{figures.half}"), figures.stages(f"floor/{figures.half}")
    if not stages or not floor:
        return ""
    scale = BILLION / (figures.half**2 * LAYERS)
    least = {"read": floor["decode"], "write": floor["encode"]}
    table = Table("CPU seconds per 10^9 values", *STAGES, "all", "times the floor")
    total, bottom = sum(stages[stage] for stage in STAGES), sum(floor.values())
    own, lowest = ([number(scaled(of.get(stage), scale)) for stage in STAGES] for of in (stages, least))
    table.add("geopipe in one process", *own, number(total * scale), number(total / bottom))
    table.add("the floor: decode, encode", *lowest, number(bottom * scale), "1")
    return str(table)


def scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def sentence(figures: Figures) -> str:
    """The budget in a sentence, for the README."""
    stages, floor = figures.stages(f"stages/{figures.half}"), figures.stages(f"floor/{figures.half}")
    if not stages or not floor:
        return ""
    scale = BILLION / (figures.half**2 * LAYERS)
    total, bottom = sum(stages[stage] for stage in STAGES), sum(floor.values())
    parts = ", ".join(f"{stage} {stages[stage] * scale:.1f}" for stage in STAGES)
    decode, encode = (floor[name] * scale for name in ("decode", "encode"))
    own, loop = (figures.median(f"in_process/{figures.half}/{name}", "wall") for name in ("local", "loop"))
    alone = f"In one process, without Ray, the smaller one takes {number(own)} s (the loop {number(loop)} s).\n"
    return (alone if own and loop else "") + (
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
            title += f" (from one tile of {TILES})" if is_part else ""
            shown = "-" if is_part else number(wall, unit=" s")
            table.add(title, number(cpu, unit=" s"), shown, number(memory and memory / 1e9, ".2f", " GB"))
    return str(table) if len(table) else ""


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


ANALYSES = {
    "summary": "summary",
    "correlation": "correlation (peer: numpy, pandas)",
    "pca": "pca (peer: scikit-learn)",
    "pca_scores": "pca, with scores",
    "kmeans_step": "kmeans, k = 8, one step (peer: scikit-learn)",
    "kmeans": "kmeans, k = 8, to its end",
    "som": "som, 10 x 10, one epoch (peer: MiniSom)",
    "autocorrelation": "autocorrelation",
    "regions": "regions, 2,000 coarse cells, k = 10",
    "gwpca": "gwpca, 2,000 coarse cells",
}


def analyses(figures: Figures) -> str:
    """Analyses of tables of n x n rows: seconds, processor time and memory, beside scikit-learn."""
    sizes = figures.analysed
    header = [f"{n * n:.0e} rows: {what}".replace("e+0", "e") for n in sizes for what in ("wall", "CPU", "memory")]
    table = Table("8 variables, start included", *header, "rows/s", "peer: rows/s", "peer: memory")
    for case, title in ANALYSES.items():
        cells = list[str]()
        for n in sizes:
            wall, cpu, memory = (figures.median(f"analyses/{n}/{case}/geopipe", of) for of in ("wall", "cpu", "memory"))
            cells += [number(wall, unit=" s"), number(cpu, unit=" s"), number(scaled(memory, 1e-9), ".2f", " GB")]
        own, peer = (figures.analysis_rate(case, tool) for tool in ("geopipe", "peer"))
        memory = max((figures.median(f"analyses/{n}/{case}/peer", "memory") or 0 for n in sizes), default=0)
        if own:
            rates = [number(scaled(rate, 1e-6), ".1f", " M") for rate in (own, peer)]
            table.add(title, *cells, *rates, number(memory / 1e9 or None, ".2f", " GB"))
    return str(table) if len(table) else ""


def scaling(figures: Figures) -> str:
    """Work that sleeps on more nodes, and the rates of the scheduler."""
    nodes = figures.nodes
    if not nodes:
        return ""
    counts = [f"{n} node{'s' * (n > 1)}" for n in nodes]
    efficiencies = [f"efficiency, {count}" for count in counts if count != "1 node"]
    table = Table("as much sleep for each node", "sleep", *counts, *efficiencies)
    for strategy in ("aligned", "groupby"):
        walls = [figures.median(f"scaling/{strategy}/{n}", "seconds") for n in nodes]
        least = figures.median(f"scaling/{strategy}/{nodes[-1]}", "least")
        table.add(
            strategy,
            *(number(wall, unit=" s") for wall in (least, *walls)),
            *(number(figures.efficiency(strategy, n), ".2f") for n in nodes if n > 1),
        )
    rates = Table("1,000 blocks on two nodes", "blocks/s", "tiles/s")
    names = {
        "alone": "Ray Data alone, trivial blocks",
        "idle": "geopipe, eight tiles a block that nobody looks at",
        "tiles": "geopipe, eight tiles of 32 x 32 cells a block",
    }
    for name, title in names.items():
        blocks, tiles = (figures.median(f"scaling/rates/{name}", value) for value in ("blocks", "tiles"))
        if blocks is not None:
            rates.add(title, number(blocks, ".0f"), number(tiles, ",.0f"))
    memory = Table("memory of the driver", "before", "after", "more")
    for tiles in figures.counted:
        before, after = (figures.median(f"scaling/driver/{tiles}", value) for value in ("before", "after"))
        more = None if before is None or after is None else after - before
        memory.add(f"{tiles:,} tiles", *(number(value, ",.0f", " MB") for value in (before, after, more)))
    return "\n".join(str(one) for one in (table, rates, memory) if len(one))


# ---------------------------------------------------------------- pages

README_TABLES: Sequence[Callable[[Figures], str]] = (headline, sentence)
PAGE_TABLES = {
    "machine": machine,
    "speed": speed, "budget": budget, "series": other_series, "scene": scene, "kernels": kernels, "small": small,
    "agreement": agreement, "league": league, "analyses": analyses, "scaling": scaling,
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
