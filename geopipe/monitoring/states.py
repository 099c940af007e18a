"""What a run may become from what it is: the one table that everything asks that changes a run's state."""

from __future__ import annotations

from geopipe.errors import PlanError

STATES = ("pending", "running", "paused", "completed", "failed", "cancelled")

NEXT = {
    "pending": ("running", "failed", "cancelled"),
    "running": ("paused", "completed", "failed", "cancelled"),
    "paused": ("running", "cancelled"),
    "failed": ("running",),
    "cancelled": ("running",),
    "completed": (),
}
"""A run that goes on from `paused`, `failed` or `cancelled` does so in a new attempt."""

VERBS = {"pause": "paused", "resume": "running", "stop": "cancelled"}
"""What a person asks of a run, and what it is to become."""


def check(verb: str, run: str, state: str, run_id: str) -> None:
    """Refuse what cannot be asked of a run in this state.

    Args:
        run: its name, which later runs may have, too; the hint is for the one with this id.

    Raises:
        PlanError: with what can be asked of it.
    """
    begun = {"resume": ("paused", "failed", "cancelled")}.get(verb)
    if VERBS[verb] in NEXT[state] and (begun is None or state in begun):
        return
    others = [v for v, to in VERBS.items() if to in NEXT[state] and v != verb and (v != "resume" or state != "pending")]
    hint = f"`geopipe jobs {others[0]} {run_id}`" if others else "start it anew with `geopipe jobs start`"
    raise PlanError(f"run {run} is {state}; it cannot be {'resumed' if verb == 'resume' else VERBS[verb]}", hint)
