"""The account of a run, which no reader of its table could make later: phases, memory, warnings, the plan.

It is written beside the table as REPORT/run.json, and the report is made of both.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from affine import Affine

from geopipe.durable import replacing
from geopipe.errors import GeopipeError
from geopipe.events import logs
from geopipe.events.emit import subscribe
from geopipe.events.records import Body, Log
from geopipe.export.state import REPORT
from geopipe.grid.grid import Grid, projected_bounds
from geopipe.plan.layers import LayerPlan
from geopipe.run.attempts import Execution
from geopipe.run.destination import Destination
from geopipe.run.summary import Summary

log = logging.getLogger(__name__)

MOST_WARNINGS = 50
"""Warnings that are kept for the report."""

MOST_EXTENTS = 200
"""Sources of a layer whose extents are looked at."""


@contextmanager
def warnings() -> Iterator[list[str]]:
    """The warnings that this process logs inside."""
    texts: list[str] = []

    def keep(body: Body) -> None:
        if isinstance(body, Log) and body.level == "WARNING" and len(texts) < MOST_WARNINGS:
            texts.append(body.message)

    end = subscribe(keep)
    try:
        yield texts
    finally:
        end()


def report(destination: Destination, account: Callable[[], Mapping[str, Any]] | None = None) -> Path | str | None:
    """Write the report beside the table, and return its page. If that fails it is a warning: the table is whole.

    Args:
        account: makes the account of the run, to be written first; None where it stands already.
    """
    from geopipe.report import facts, write  # loads pandas, for which neither Ray's start nor a tile shall wait

    folder = destination.folder / REPORT
    try:
        with logs.log_stage(log, "report"):
            if account is not None:
                folder.mkdir(exist_ok=True)
                with replacing(folder / facts.RUN, sync=False) as file:
                    file.write(facts.as_json(account()))
            page, _ = write.report(str(destination.folder), name=str(destination.output))
        return page if destination.store is None else f"{page.name} in {destination.store.uri}"
    except Exception as error:
        reason = error.message if isinstance(error, GeopipeError) else f"{type(error).__name__}: {error}"
        log.warning("the table is whole, its report is not: %s; try: geopipe report %s", reason, destination.output)
        return None


def account_of(job: Execution, summary: Summary, texts: list[str]) -> dict[str, Any]:
    """The account as JSON values; secrets in it are hidden when it is written."""
    plan, clock = summary.plan, job.clock
    phases = [
        {"name": name, "wall": round(wall, 3), "cpu": round(clock.cpu[name], 3), "peak_bytes": clock.peaks[name]}
        for name, wall in clock.laps.items()
    ]
    if plan.engine != "local":  # the workers are processes of their own
        for phase in phases:
            if phase["name"] == "run":
                phase["cpu"] = round(float(str(phase["cpu"])) + summary.usage.cpu_seconds, 3)
    return {
        "run_id": summary.run_id,
        "attempt": job.monitoring.attempt,
        "kept_tiles": summary.kept,
        "tiles": len(plan.keys),
        "phases": phases,
        "stages": [asdict(progress) for progress in summary.stages.values()],
        "usage": asdict(summary.usage),
        "warnings": texts,
        "plan": plan.describe(),
        "settings": job.settings.to_toml(),
        "extents": {layer.layer.name: _covered_share(plan.grid, layer) for layer in plan.layers},
    }


def _covered_share(grid: Grid, layer: LayerPlan) -> float | None:
    """Share of the grid's bounds that the bounds of the layer's sources cover together; None if that is unknown."""
    if layer.table is not None or layer.skipped:
        return None
    left, bottom, right, top = grid.bounds
    share = 0.0
    for decision in layer.decisions[:MOST_EXTENTS]:
        source = decision.source
        transform: Affine = source.transform
        bounds = projected_bounds(transform, source.width, source.height, source.crs, grid.crs)
        if bounds is None or not all(map(math.isfinite, bounds)):
            continue
        across = max(0.0, min(right, bounds[2]) - max(left, bounds[0])) / (right - left)
        down = max(0.0, min(top, bounds[3]) - max(bottom, bounds[1])) / (top - bottom)
        share += across * down
    return None if len(layer.decisions) > MOST_EXTENTS else round(min(share, 1.0), 6)
