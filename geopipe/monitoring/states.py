"""The states of a run, the stages of its work and the levels of its log: the one place that names them."""

from __future__ import annotations

from geopipe.errors import PlanError

NEXT = {
    "pending": ("running", "failed", "cancelled"),
    "running": ("paused", "completed", "failed", "cancelled"),
    "paused": ("running", "cancelled"),
    "completed": (),
    "failed": ("running",),
    "cancelled": ("running",),
}
"""The states that may follow each state. From paused, failed or cancelled a run is resumed in a new attempt."""

STATES = tuple(NEXT)
ENDED = ("completed", "failed", "cancelled")
STALE = "stale"
"""Displayed instead of a working state when a run has been silent for a minute."""

DISPLAYED = ("pending", "running", STALE, "paused", *ENDED)

STAGES = ("read", "merge", "write")
LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}

VERBS = {"pause": "paused", "resume": "running", "stop": "cancelled"}
"""What a person requests of a run, and the state that it leads to."""


def check(verb: str, run: str, state: str, run_id: str) -> None:
    """Refuse a request that the state of a run does not allow.

    Args:
        verb: of VERBS.
        run: its name, which other runs may have, too.
        state: of the run.
        run_id: for the hint.

    Raises:
        PlanError: the hint names a request that the state allows.
    """
    resumes = verb != "resume" or state in ("paused", "failed", "cancelled")
    if VERBS[verb] in NEXT[state] and resumes:
        return
    others = [v for v, to in VERBS.items() if to in NEXT[state] and v != verb and (v != "resume" or state != "pending")]
    hint = f"`geopipe jobs {others[0]} {run_id}`" if others else "start it anew with `geopipe jobs start`"
    raise PlanError(f"run {run} is {state}; it cannot be {'resumed' if verb == 'resume' else VERBS[verb]}", hint)
