"""What may be asked of a run in each of its states, by a table written by hand."""

from __future__ import annotations

import pytest

from geopipe.errors import PlanError
from geopipe.monitoring import states

ASKED = {  # state: (pause, resume, stop); "" where it may be asked, else the verb that the hint names ("start": anew)
    "pending": ("stop", "stop", ""),
    "running": ("", "pause", ""),
    "paused": ("resume", "", ""),
    "failed": ("resume", "", "resume"),
    "cancelled": ("resume", "", "resume"),
    "completed": ("start", "start", "start"),
}
CASES = [(verb, state, hint) for state, row in ASKED.items() for verb, hint in zip(states.VERBS, row, strict=True)]
DONE = {"pause": "paused", "resume": "resumed", "stop": "cancelled"}


@pytest.mark.parametrize(("verb", "state", "hint"), CASES)
def test_each_verb_is_taken_or_refused_in_each_state(verb: str, state: str, hint: str) -> None:
    if not hint:
        states.check(verb, "soils", state, "an-id")
        return
    with pytest.raises(PlanError) as caught:
        states.check(verb, "soils", state, "an-id")
    assert caught.value.exit_code == 2
    assert caught.value.message == f"run soils is {state}; it cannot be {DONE[verb]}"
    command = "`geopipe jobs start`" if hint == "start" else f"`geopipe jobs {hint} an-id`"
    assert command in caught.value.hint


@pytest.mark.parametrize(("verb", "state", "hint"), [case for case in CASES if case[2] not in ("", "start")])
def test_what_a_cure_names_may_be_asked(verb: str, state: str, hint: str) -> None:
    states.check(hint, "soils", state, "an-id")


def test_the_table_has_every_state_and_leads_nowhere_else() -> None:
    assert set(states.NEXT) == set(states.STATES) == set(ASKED)
    assert {to for after in states.NEXT.values() for to in after} <= set(states.STATES)
    assert set(states.DISPLAYED) - {"stale"} == set(states.STATES)


def test_nothing_becomes_pending_again_and_what_is_complete_stays_so() -> None:
    assert all("pending" not in after for after in states.NEXT.values())
    assert states.NEXT["completed"] == ()
