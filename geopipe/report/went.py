"""How a run went: its phases, where it waited, and its memory beside what the plan had projected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from geopipe.plan.estimate import DRIVER_BYTES, WORKER_BYTES

Json = dict[str, Any]

BUSY = 0.75
"""Share of the processor time from which a run is called busy."""


def went_of(run: Mapping[str, Any]) -> Json:
    """Phases, stages, stall share with a sentence of advice, and memory, from the account of a run."""
    plan, phases = run["plan"], run["phases"]
    local = plan["engine"]["name"] == "local"
    machine, estimate = plan["machine"], plan["estimate"]
    processors = 1 if local else min(machine["cpus"], max(machine["workers"], 1))
    work = next((phase for phase in phases if phase["name"] == "run"), {"wall": 0.0, "cpu": 0.0})
    stall = None
    if work["wall"] > 0:
        stall = max(0.0, 1 - work["cpu"] / (work["wall"] * processors))
    return {
        "wall": round(sum(phase["wall"] for phase in phases), 3),
        "cpu": round(sum(phase["cpu"] for phase in phases), 3),
        "phases": phases,
        "stages": run["stages"],
        "processors": processors,
        "stall": stall,
        "advice": _advice(run, stall, processors),
        "memory": _memory(run, local, estimate),
        "allowed": machine["memory"],
    }


def _advice(run: Mapping[str, Any], stall: float | None, processors: int) -> str:
    """One sentence on what would make the run faster."""
    plan, walls = run["plan"], {phase["name"]: phase["wall"] for phase in run["phases"]}
    total, work = sum(walls.values()), walls.get("run", 0.0)
    around = walls.get("start", 0.0) + walls.get("stop", 0.0)
    decoded = max((layer["decode_factor"] for layer in plan["layers"]), default=1.0)
    spent = {stage["stage"]: stage["seconds"] for stage in run["stages"]}
    slowest = max(spent, key=lambda name: spent[name], default="")
    if plan["engine"]["name"] != "local" and around > 0.4 * total:
        return (
            f"Ray took {around:.1f} of {total:.1f} s to start and to stop: for work of this size "
            'engine.kind = "local" is faster.'
        )
    if stall is None or work < 1:
        return "The run was too short to find anything to improve."
    if plan["engine"]["name"] == "local" and work > 60 and plan["machine"]["cpus"] > 1:
        count = plan["machine"]["cpus"]
        return f'One process did all the work: engine.kind = "ray" would use {count} processors.'
    if decoded > 1.5 and slowest == "read":
        return (
            f"Stored blocks were decoded up to {decoded:.1f} times: a larger resampling.window_size, or sources in "
            "tiles, would save most of it."
        )
    if stall > 1 - BUSY and slowest == "read":
        return f"Processors waited {stall:.0%} of the time, most of it for reading: move the sources to a faster disk."
    if stall > 1 - BUSY and plan["engine"]["name"] == "local":
        return f"The process waited {stall:.0%} of the time: for the disk, or for other programs on this machine."
    if stall > 1 - BUSY:
        return f"Processors waited {stall:.0%} of the time: more tiles (a smaller resampling.window_size) fill them."
    return f"{processors} of {processors} processors were busy: more of them would make the run faster."


def _memory(run: Mapping[str, Any], local: bool, estimate: Mapping[str, Any]) -> Sequence[Json]:
    """Projected and measured bytes, by process; None where the plan projects nothing."""
    peaks = {phase["name"]: phase["peak_bytes"] for phase in run["phases"]}
    usage = run["usage"]
    planned = peaks.get("plan", 0)
    rows: list[Json] = [{"stage": "plan", "what": "this process", "projected": None, "measured": planned}]
    if local:
        rows.append(
            {
                "stage": "read, merge, write",
                "what": "this process",
                "projected": estimate["peak_bytes"],
                "measured": peaks.get("run"),
            }
        )
        return rows
    worker = WORKER_BYTES + estimate["task_bytes"]
    largest = usage["largest_bytes"] or None
    together = usage["peak_bytes"] + peaks.get("run", 0) if largest else None
    return [
        *rows,
        {"stage": "run", "what": "driver and Ray", "projected": DRIVER_BYTES, "measured": peaks.get("run")},
        {"stage": "read, merge, write", "what": "the largest worker", "projected": worker, "measured": largest},
        {
            "stage": "run",
            "what": f"all, {usage['processes']} workers",
            "projected": estimate["peak_bytes"],
            "measured": together,
        },
    ]
